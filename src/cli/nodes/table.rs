//! A cluster as a table, as kubectl prints them, and as a value for programs.
//!
//! Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::fleet::{Fleet, Row};

/// What a table shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Also the agent's pod and the node's own state.
    pub(super) wide: bool,
    /// Whether there is a heading.
    pub(super) heading: bool,
    /// Columns of the terminal, where there is one.
    pub(super) width: Option<usize>,
    /// For ages.
    pub(super) now: Timestamp,
}

/// The least that is left of a message, in characters.
const LEAST: usize = 20;
const GAP: &str = "   ";
const NOTHING: &str = "<none>";

/// Three spaces between columns, none at the end; the last column is cut to the terminal.
pub(super) fn table(fleet: &Fleet, look: Look) -> String {
    if fleet.nodes.is_empty() {
        return "No nodes found\n".into();
    }
    let mut lines = Vec::with_capacity(fleet.nodes.len() + 1);
    if look.heading {
        lines.push(heading(look.wide));
    }
    lines.extend(fleet.nodes.iter().map(|row| cells(row, look)));
    let columns = lines.first().map_or(0, Vec::len);
    let width_of = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.saturating_sub(1)).map(width_of).collect();
    let before: usize = widths.iter().map(|width| width + GAP.len()).sum();
    let room = look
        .width
        .map(|width| width.saturating_sub(before).max(LEAST));
    let mut text = String::new();
    for line in &lines {
        let mut cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let last = line.last().map(String::as_str).unwrap_or_default();
        cells.push(room.map_or_else(|| last.to_owned(), |room| cut(last, room)));
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

fn heading(wide: bool) -> Vec<String> {
    let mut names = vec!["NODE", "STATUS", "REVISION", "ROUTES", "GATEWAYS", "AGE"];
    if wide {
        names.extend(["POD", "NODE-STATE"]);
    }
    names.push("MESSAGE");
    names.into_iter().map(str::to_owned).collect()
}

fn cells(row: &Row, look: Look) -> Vec<String> {
    let or_none = |cell: &Option<String>| cell.clone().unwrap_or_else(|| NOTHING.into());
    let routes = row
        .routes
        .map(|routes| format!("{}/{}", routes.installed, routes.wanted));
    let gateways: Vec<String> = row
        .gateways
        .iter()
        .map(|(address, state)| format!("{address}={state}"))
        .collect();
    let gateways = Some(gateways.join(",")).filter(|text| !text.is_empty());
    let age = row.created.map_or_else(
        || "<unknown>".into(),
        |created| age(look.now.duration_since(created).as_secs()),
    );
    let mut cells = vec![
        row.node.clone(),
        row.status.clone(),
        or_none(&row.revision),
        or_none(&routes),
        or_none(&gateways),
        age,
    ];
    if look.wide {
        cells.extend([or_none(&row.pod), row.node_state.clone()]);
    }
    cells.push(row.message.clone().unwrap_or_default());
    cells
}

/// With `…` for what is left out.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room - 1).collect();
    format!("{}…", kept.trim_end())
}

/// As kubectl writes ages.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ ..120 => format!("{s}s"),
        s @ ..600 if s % 60 > 0 => format!("{}m{}s", s / 60, s % 60),
        s @ ..10_800 => format!("{}m", s / 60),
        s @ ..28_800 if s / 60 % 60 > 0 => format!("{}h{}m", s / 3600, s / 60 % 60),
        s @ ..172_800 => format!("{}h", s / 3600),
        s @ ..691_200 if s / 3600 % 24 > 0 => format!("{}d{}h", s / 86_400, s / 3600 % 24),
        s @ ..63_072_000 => format!("{}d", s / 86_400),
        s => format!("{}y{}d", s / 31_536_000, s / 86_400 % 365),
    }
}

/// What `-o json` and `-o yaml` print; docs/schema/nodes.schema.json describes it.
pub(super) fn value(fleet: &Fleet, ready: bool) -> Value {
    json!({"revision": fleet.revision, "refused": fleet.refused, "ready": ready, "nodes": fleet.nodes})
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::{example, look_at, ready_node};
    use super::*;

    fn look(wide: bool, width: Option<usize>) -> Look {
        Look {
            wide,
            heading: true,
            width,
            now: "2026-11-22T12:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn the_table_is_what_kubectl_users_know() {
        insta::assert_snapshot!(table(&example(), look(false, None)), @r"
    NODE       STATUS         REVISION       ROUTES      GATEWAYS                        AGE    MESSAGE
    narrowed   Unmanaged      0123456789ab   2050/2050   10.116.0.5=up                   2d2h
    node1      Ready          0123456789ab   2050/2050   10.116.0.5=up                   2d2h
    node2      Degraded       0123456789ab   2048/2050   10.116.0.5=up,10.116.0.6=down   2d2h   Set `clouds`: 2 of 2050 prefixes are not in the kernel
    node3      Outdated       ba9876543210   3/3         <none>                          2d2h
    off        NodeNotReady   <none>         <none>      <none>                          2d2h
    windows    NoAgent        <none>         <none>      <none>                          2d2h
    ");
    }

    #[test]
    fn wide_adds_the_agents_pod_and_the_nodes_own_state() {
        insta::assert_snapshot!(table(&example(), look(true, None)), @r"
    NODE       STATUS         REVISION       ROUTES      GATEWAYS                        AGE    POD           NODE-STATE   MESSAGE
    narrowed   Unmanaged      0123456789ab   2050/2050   10.116.0.5=up                   2d2h   <none>        Ready
    node1      Ready          0123456789ab   2050/2050   10.116.0.5=up                   2d2h   agent-node1   Ready
    node2      Degraded       0123456789ab   2048/2050   10.116.0.5=up,10.116.0.6=down   2d2h   agent-node2   Ready        Set `clouds`: 2 of 2050 prefixes are not in the kernel
    node3      Outdated       ba9876543210   3/3         <none>                          2d2h   agent-node3   Ready
    off        NodeNotReady   <none>         <none>      <none>                          2d2h   agent-off     NotReady
    windows    NoAgent        <none>         <none>      <none>                          2d2h   <none>        Ready
    ");
    }

    #[test]
    fn on_a_terminal_the_message_is_cut_to_its_width_and_a_heading_can_be_left_out() {
        let mut narrow = look(false, Some(110));
        insta::assert_snapshot!(table(&example(), narrow), @r"
    NODE       STATUS         REVISION       ROUTES      GATEWAYS                        AGE    MESSAGE
    narrowed   Unmanaged      0123456789ab   2050/2050   10.116.0.5=up                   2d2h
    node1      Ready          0123456789ab   2050/2050   10.116.0.5=up                   2d2h
    node2      Degraded       0123456789ab   2048/2050   10.116.0.5=up,10.116.0.6=down   2d2h   Set `clouds`: 2 of…
    node3      Outdated       ba9876543210   3/3         <none>                          2d2h
    off        NodeNotReady   <none>         <none>      <none>                          2d2h
    windows    NoAgent        <none>         <none>      <none>                          2d2h
    ");
        narrow.heading = false;
        assert!(table(&example(), narrow).starts_with("narrowed   Unmanaged"));
        // However narrow it is, some of the message is left.
        narrow.width = Some(1);
        assert!(table(&example(), narrow).contains("2d2h   Set `clouds`: 2 of…"));
    }

    #[test]
    fn the_value_has_types() {
        let fleet = look_at(&[ready_node("node1")]);
        insta::assert_snapshot!(value(&fleet, true), @r#"{"nodes":[{"agent":"running","created":"2026-11-20T10:00:00Z","gateways":{"10.116.0.5":"up"},"message":null,"node":"node1","nodeState":"Ready","pod":"agent-node1","revision":"0123456789ab","routes":{"installed":2050,"wanted":2050},"status":"Ready"}],"ready":true,"refused":null,"revision":"0123456789ab"}"#);
    }

    #[test]
    fn the_schema_names_every_field_and_no_other() {
        let schema: Value =
            serde_json::from_str(include_str!("../../../docs/schema/nodes.schema.json")).unwrap();
        let keys = |value: &Value| -> Vec<String> {
            let object = value.as_object().unwrap();
            object.keys().cloned().collect()
        };
        let value = value(&example(), false);
        let node = &schema["properties"]["nodes"]["items"]["properties"];
        assert_eq!(keys(&schema["properties"]), keys(&value));
        for row in value["nodes"].as_array().unwrap() {
            assert_eq!(keys(node), keys(row));
            let agents = node["agent"]["enum"].as_array().unwrap();
            assert!(agents.contains(&row["agent"]), "{row}");
        }
        let routes = &value["nodes"][1]["routes"];
        assert_eq!(keys(&node["routes"]["properties"]), keys(routes));
    }

    #[test]
    fn ages_are_written_as_kubectl_does() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3600, "60m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y0d"),
        ] {
            assert_eq!(age(seconds), text, "{seconds} s");
        }
    }
}
