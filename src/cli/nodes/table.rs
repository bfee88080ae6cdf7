//! What `nodes` makes of nodes, pods and the newest revision: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use serde::Serialize;

use super::Newest;
use crate::cluster::client::PREFIX;

/// The cluster at one look.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// The `ConfigMap`'s.
    pub revision: String,
    /// Why agents refuse it, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// By name.
    pub nodes: Vec<Row>,
    /// Pods that the `DaemonSet` wants beyond those that are there.
    #[serde(skip)]
    missing_pods: usize,
    /// For stderr.
    #[serde(skip)]
    pub hints: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its name.
    pub node: String,
    /// The agent's own word; or `Outdated` (runs an older revision), `Pending` (has an agent that has not reported yet),
    /// `NotRunning` (the agent's pod is not ready, what it reported may be old), `NoAgent` (there is none).
    pub status: String,
    /// In force on the node.
    pub revision: Option<String>,
    /// Installed and wanted.
    pub routes: Option<String>,
    /// With their state.
    pub gateways: Option<String>,
    /// The node's.
    pub created: Option<Timestamp>,
    /// What is wrong.
    pub message: Option<String>,
    /// Whether the agent should run there.
    pub expected: bool,
}

/// What the `DaemonSet` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// It wants so many pods.
    Pods(usize),
    /// It is not there.
    NotInstalled,
    /// It may not be read.
    Unknown,
}

/// An agent's pod.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Agent {
    ready: bool,
}

impl Cluster {
    /// `pods` is `None` when they may not be listed.
    pub fn new(
        newest: &Newest,
        nodes: &[PartialObjectMeta<Node>],
        pods: Option<&[Pod]>,
        desired: Desired,
        hints: Vec<String>,
    ) -> Self {
        let agents = pods.map(agents);
        let row = |node| Row::new(node, &newest.revision, agents.as_ref(), desired);
        let mut rows: Vec<Row> = nodes.iter().map(row).collect();
        rows.sort_by(|one, other| one.node.cmp(&other.node));
        let expected = rows.iter().filter(|row| row.expected).count();
        Self {
            revision: newest.revision.clone(),
            refused: newest.refused.clone(),
            nodes: rows,
            missing_pods: match (pods, desired) {
                (Some(_), Desired::Pods(desired)) => desired.saturating_sub(expected),
                _ => 0,
            },
            hints,
        }
    }

    fn expected(&self) -> impl Iterator<Item = &Row> {
        self.nodes.iter().filter(|row| row.expected)
    }

    fn applied(&self, row: &Row) -> bool {
        row.revision.as_deref() == Some(&self.revision)
            && matches!(row.status.as_str(), "Ready" | "Degraded")
    }

    /// Whether every node that should run the agent has the newest revision in force. No node at all is not every node.
    pub fn applied_everywhere(&self) -> bool {
        self.missing_pods == 0
            && self.expected().next().is_some()
            && self.expected().all(|row| self.applied(row))
    }

    /// Whether all is well on every such node.
    pub fn all_ready(&self) -> bool {
        self.refused.is_none()
            && self.applied_everywhere()
            && self.expected().all(|row| row.status == "Ready")
    }

    /// One line on how far it is: `12/15 nodes have 0123456789ab, waiting for a, b, c and 2 more`.
    pub fn progress(&self) -> String {
        const NAMED: usize = 3;
        let waiting: Vec<&str> = self
            .expected()
            .filter(|row| !self.applied(row))
            .map(|row| row.node.as_str())
            .collect();
        let all = self.expected().count() + self.missing_pods;
        let mut text = format!(
            "{}/{all} nodes have {}",
            all - self.missing_pods - waiting.len(),
            self.revision
        );
        if !waiting.is_empty() {
            let _ = write!(
                text,
                ", waiting for {}",
                waiting[..waiting.len().min(NAMED)].join(", ")
            );
        }
        if waiting.len() > NAMED {
            let _ = write!(text, " and {} more", waiting.len() - NAMED);
        }
        if self.missing_pods > 0 {
            let _ = write!(text, ", {} pods are still to be created", self.missing_pods);
        }
        text
    }

    /// What `-o json` prints.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({"revision": self.revision, "refused": self.refused, "ready": self.all_ready(), "nodes": self.nodes})
    }

    /// As kubectl prints tables: three spaces between columns, none at the end.
    pub fn table(&self, now: Timestamp) -> String {
        if self.nodes.is_empty() {
            return "No nodes found\n".into();
        }
        let heading = [
            "NODE", "STATUS", "REVISION", "ROUTES", "GATEWAYS", "AGE", "MESSAGE",
        ]
        .map(str::to_owned);
        let lines: Vec<[String; 7]> = std::iter::once(heading)
            .chain(self.nodes.iter().map(|row| row.cells(now)))
            .collect();
        let mut widths = [0; 7];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for line in &lines {
            let padded: Vec<String> = line
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            text.push_str(padded.join("   ").trim_end());
            text.push('\n');
        }
        text
    }
}

impl Row {
    fn new(
        node: &PartialObjectMeta<Node>,
        newest: &str,
        agents: Option<&BTreeMap<String, Agent>>,
        desired: Desired,
    ) -> Self {
        let name = node.metadata.name.clone().unwrap_or_default();
        let said = |key: &str| {
            let value = node
                .metadata
                .annotations
                .as_ref()?
                .get(&format!("{PREFIX}{key}"))?;
            Some(clean(value)).filter(|text| !text.is_empty())
        };
        let agent = agents.map(|agents| agents.get(&name).copied());
        let (status, revision) = (said("status"), said("revision"));
        // Nobody says that there should be no pod on a node that has reported.
        let lost = matches!(agent, Some(None)) && status.is_some() && desired == Desired::Unknown;
        let word = match (agent, status) {
            _ if lost => "NotRunning".into(),
            // No pod, though pods can be seen: what is written there is left from earlier.
            (Some(None), _) | (None, None) => "NoAgent".into(),
            (Some(Some(_)), None) => "Pending".into(),
            (_, Some(word)) if matches!(word.as_str(), "Invalid" | "RolledBack") => word,
            (Some(Some(Agent { ready: false })), Some(_)) => "NotRunning".into(),
            (_, Some(_)) if revision.as_deref() != Some(newest) => "Outdated".into(),
            (_, Some(word)) => word,
        };
        Self {
            node: name,
            status: word,
            revision,
            routes: said("routes"),
            gateways: said("gateways"),
            created: node.metadata.creation_timestamp.as_ref().map(|time| time.0),
            message: said("message"),
            expected: lost || agent.is_none_or(|agent| agent.is_some()),
        }
    }

    fn cells(&self, now: Timestamp) -> [String; 7] {
        let or_none = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "<none>".into());
        [
            self.node.clone(),
            self.status.clone(),
            or_none(&self.revision),
            or_none(&self.routes),
            or_none(&self.gateways),
            self.created.map_or_else(
                || "<unknown>".into(),
                |created| age(now.duration_since(created).as_secs()),
            ),
            self.message.clone().unwrap_or_default(),
        ]
    }
}

/// Anybody who may patch a node can write its annotations: no line breaks and no terminal control from there.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
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

/// By node. A pod that is not bound yet names its node in an affinity that the `DaemonSet` controller gave it.
fn agents(pods: &[Pod]) -> BTreeMap<String, Agent> {
    let mut found = BTreeMap::new();
    for pod in pods {
        let ready = ready(pod);
        for node in node_names(pod) {
            let agent = found.entry(node).or_insert(Agent { ready });
            agent.ready |= ready;
        }
    }
    found
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_names(pod: &Pod) -> BTreeSet<String> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    if let Some(node) = &spec.node_name {
        return BTreeSet::from([node.clone()]);
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|node| {
        node.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let fields = required
        .iter()
        .flat_map(|required| &required.node_selector_terms)
        .flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == "metadata.name")
        .flat_map(|field| field.values.iter().flatten())
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
