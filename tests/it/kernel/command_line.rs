//! The commands as people use them: beside an agent, from a stream, into a pipe, as an ordinary user.

use super::*;

/// A configuration of one set.
fn one() -> String {
    routes(&[set("a", G1, "198.51.100.0/24, 198.51.101.7", "")])
}

fn with(yaml: &str) -> Node {
    let mut node = node();
    node.volume.routes(yaml);
    node
}

#[test]
fn what_an_agent_would_undo_is_refused_unless_it_is_forced() {
    let node = with(&one());
    let _agent = node.agent_in_force(&[]);
    let path = node.volume.path().to_str().unwrap().to_owned();
    for (arguments, why) in [
        (
            &["cleanup"][..],
            "error: an agent runs here: it would put its routes back; end it first, or use --force\n",
        ),
        (
            &["apply", "--config", &path],
            "error: an agent runs here: its own configuration would be back in seconds; end it first, or use --force\n",
        ),
    ] {
        let output = node.lab.egress_routes("nd", arguments);
        assert_eq!((output.code, output.err.as_str()), (2, why));
    }
    assert_eq!(node.own().len(), 2);
    let status = node.lab.egress_routes("nd", &["status", "-o", "json"]);
    crate::schema::must_be("status", &status.out);
    let forced = node.lab.egress_routes("nd", &["cleanup", "--force"]);
    assert_eq!(
        (forced.code, forced.out.as_str()),
        (0, "2 routes removed\n"),
        "{}",
        forced.err
    );
    assert!(
        forced.err.contains("warning: an agent runs here"),
        "{}",
        forced.err
    );
}

#[test]
fn diff_and_apply_read_manifests_from_standard_input_with_places_of_the_manifest() {
    let node = with(&one());
    let manifest = |routes: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: egress-routes\n  namespace: kube-system\ndata:\n  routes.yaml: |\n    {}\n",
            routes.trim_end().replace('\n', "\n    ")
        )
    };
    let run =
        |command: &str, input: &str| node.lab.run_with_input("nd", &[AGENT, command, "-"], input);
    let diff = run("diff", &manifest(&one()));
    assert_eq!(
        (diff.code, diff.out.as_str()),
        (
            1,
            "+ 198.51.100.0/24 via 10.116.0.5\n+ 198.51.101.7/32 via 10.116.0.5\n2 to add\n"
        ),
        "{}",
        diff.err
    );
    assert_eq!(run("apply", &manifest(&one())).code, 0);
    let bad = manifest(&one().replace("198.51.100.0/24", "198.51.100.1/24"));
    for (command, code) in [("diff", 2), ("apply", 1)] {
        let output = run(command, &bad);
        assert_eq!(output.code, code);
        assert!(
            output
                .err
                .starts_with("<stdin>:12:24: routes[0].destinations[0]: ")
                && output.err.ends_with("refused: nothing is changed\n"),
            "{}",
            output.err
        );
    }
    let json = node.lab.run_with_input(
        "nd",
        &[AGENT, "diff", "-", "-o", "json"],
        &manifest("routes: []"),
    );
    crate::schema::must_be("diff", &json.out);
    let refused = node
        .lab
        .run_with_input("nd", &[AGENT, "diff", "-", "-o", "json"], "routes: x\n");
    assert_eq!(refused.code, 2);
    crate::schema::must_be("diff", &refused.out);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(
        json["changes"][0],
        serde_json::json!({"op": "remove", "what": "198.51.100.0/24", "text": "via 10.116.0.5"})
    );
    assert_eq!(json["summary"]["remove"], 2);
}

#[test]
fn a_route_that_another_operator_left_is_named_with_the_command_that_deletes_it() {
    let node = with(&one());
    node.lab.ip(
        "nd",
        "route add 198.51.100.0/24 via 10.116.0.6 proto static",
    );
    let diff = node.command(&["diff"]);
    let command = "ip route del 198.51.100.0/24 via 10.116.0.6 dev eth1 proto static metric 0";
    assert!(diff.err.contains(command), "{}", diff.err);
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    node.lab.ip("nd", &arguments.join(" "));
    assert!(!node.command(&["diff"]).err.contains("ip route del"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let list: String = (0..3_000)
        .map(|i| format!("198.18.{}.{}/32, ", i / 200, i % 200))
        .collect();
    let node = with(&routes(&[set("a", G1, list.trim_end_matches(", "), "")]));
    let path = node.volume.path().display();
    for command in [
        format!("{AGENT} diff {path}"),
        format!("{AGENT} diff {path} -o json"),
        format!("{AGENT} check {path} -o json"),
        format!("{AGENT} status --config {path} -o json"),
    ] {
        let output = node
            .lab
            .run("nd", &["sh", "-c", &format!("{command} | head -n 1")]);
        assert!(
            !output.err.contains("error") && !output.err.contains("roken pipe"),
            "{command}: {}",
            output.err
        );
        assert!(!output.out.is_empty(), "{command}");
    }
}

#[test]
fn an_ordinary_user_is_told_which_right_is_missing() {
    let node = with(&one());
    let path = node.volume.path();
    let open = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(path);
    let as_nobody = |arguments: &[&str]| {
        let mut all = vec![
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            AGENT,
        ];
        all.extend(arguments);
        node.lab.run("nd", &all)
    };
    let path = path.to_str().unwrap();
    let missing = "error: changing routes needs root or the capability NET_ADMIN\n";
    for arguments in [&["apply", path][..], &["cleanup"]] {
        let output = as_nobody(arguments);
        assert_eq!(
            (output.code, output.err.as_str()),
            (2, missing),
            "{arguments:?}"
        );
    }
    let diff = as_nobody(&["diff", path]);
    assert_eq!(
        (diff.code, diff.err.as_str()),
        (1, ""),
        "looking needs no right"
    );
    assert_eq!(as_nobody(&["check", path]).code, 0);
    assert_eq!(as_nobody(&["status", "--config", path]).code, 1);
}

#[test]
fn without_an_agent_status_shows_the_kernels_gateways_and_that_nobody_keeps_them_up() {
    let mut node = with(&one());
    assert_eq!(node.command(&["apply"]).code, 0);
    node.volume.routes(&one().replace(G1, G2));
    let path = node.volume.path().to_str().unwrap().to_owned();
    let output = node
        .lab
        .egress_routes("nd", &["status", "--config", &path, "-o", "json"]);
    assert_eq!(output.code, 1);
    crate::schema::must_be("status", &output.out);
    let status: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(
        (&status["agent"], &status["problems"][0]["kind"]),
        (&"absent".into(), &"noAgent".into())
    );
    let gateways: Vec<(&str, bool)> = status["sets"][0]["gateways"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| {
            (
                g["address"].as_str().unwrap(),
                g["active"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(gateways, [("10.116.0.6", false), ("10.116.0.5", true)]);
    for command in ["apply", "cleanup"] {
        let flags = if command == "apply" {
            vec!["apply", "--config", &path, "-o", "json"]
        } else {
            vec!["cleanup", "-o", "json"]
        };
        let output = node.lab.egress_routes("nd", &flags);
        assert_eq!(output.code, 0, "{}", output.err);
        crate::schema::must_be(command, &output.out);
    }
    let table = node.lab.egress_routes("nd", &["status", "--config", &path]);
    assert!(
        table.out.contains("no agent runs here") && !table.out.contains('\u{1b}'),
        "{}",
        table.out
    );
}
