use serde_json::json;

use super::*;
use crate::cli::nodes::agents::Installed;

const NEWEST: &str = "0123456789ab";

fn node_in(state: &str, name: &str, reported: &[(&str, &str)]) -> NodeSeen {
    let annotations: BTreeMap<_, _> = reported
        .iter()
        .map(|(key, value)| (format!("{PREFIX}{key}"), *value))
        .collect();
    let metadata = json!({"name": name, "annotations": annotations, "creationTimestamp": "2026-11-20T10:00:00Z"});
    NodeSeen {
        metadata: serde_json::from_value(metadata).unwrap(),
        state: state.into(),
    }
}

fn node(name: &str, reported: &[(&str, &str)]) -> NodeSeen {
    node_in("Ready", name, reported)
}

fn reports(name: &str, status: &str, revision: &str, gateways: &str) -> NodeSeen {
    let reported = [
        ("status", status),
        ("revision", revision),
        ("routes", "2050/2050"),
        ("gateways", gateways),
    ];
    node(name, &reported)
}

/// All is well on it.
pub(in super::super) fn ready_node(name: &str) -> NodeSeen {
    reports(name, "Ready", NEWEST, "10.116.0.5=up")
}

fn pod(node: &str, ready: bool) -> k8s_openapi::api::core::v1::Pod {
    let status = if ready { "True" } else { "False" };
    serde_json::from_value(json!({
        "metadata": {"name": format!("agent-{node}")}, "spec": {"nodeName": node, "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": status}]}
    }))
    .unwrap()
}

/// A `DaemonSet` for every node, that wants so many pods.
fn wants(desired: i32) -> Installed {
    let set = json!({"spec": {"selector": {}, "template": {"spec": {"containers": []}}},
        "status": {"desiredNumberScheduled": desired, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}});
    Installed::As(serde_json::from_value(set).unwrap())
}

fn fleet(nodes: &[NodeSeen], agents: &Agents) -> Fleet {
    let newest = Newest {
        revision: NEWEST.into(),
        refused: None,
    };
    Fleet::new(&newest, nodes, agents, Vec::new())
}

/// Each of the nodes has a pod that is ready.
pub(in super::super) fn look_at(nodes: &[NodeSeen]) -> Fleet {
    let pods: Vec<_> = nodes
        .iter()
        .map(|node| pod(node.metadata.name.as_deref().unwrap(), true))
        .collect();
    fleet(nodes, &Agents::new(Some(&pods), Installed::Unknown))
}

/// One of many kinds.
pub(in super::super) fn example() -> Fleet {
    let nodes = [
        node(
            "node2",
            &[
                ("status", "Degraded"),
                ("revision", NEWEST),
                ("routes", "2048/2050"),
                ("gateways", "10.116.0.5=up,10.116.0.6=down"),
                (
                    "message",
                    "Set `clouds`: 2 of 2050 prefixes are not in the kernel",
                ),
            ],
        ),
        ready_node("node1"),
        node(
            "node3",
            &[
                ("status", "Ready"),
                ("revision", "ba9876543210"),
                ("routes", "3/3"),
                ("gateways", ""),
            ],
        ),
        node("windows", &[]),
        reports("narrowed", "Ready", NEWEST, "10.116.0.5=up"),
        node_in("NotReady", "off", &[]),
    ];
    let pods = ["node1", "node2", "node3"].map(|name| pod(name, true));
    let off = pod("off", false);
    let pods: Vec<_> = pods.into_iter().chain([off]).collect();
    fleet(&nodes, &Agents::new(Some(&pods), wants(4)))
}

fn words(fleet: &Fleet) -> Vec<&str> {
    fleet.nodes.iter().map(|row| row.status.as_str()).collect()
}

#[test]
fn progress_names_who_is_waited_for() {
    let fleet = example();
    assert_eq!(
        fleet.progress(Goal::Applied),
        "2/3 nodes have 0123456789ab, waiting for node3"
    );
    assert!(!fleet.reached(Goal::Applied));
    let many: Vec<_> = (1..=9).map(|n| node(&format!("node{n}"), &[])).collect();
    assert_eq!(
        look_at(&many).progress(Goal::Applied),
        "0/9 nodes have 0123456789ab, waiting for node1, node2, node3 and 6 more"
    );
    let unconfigured = Fleet {
        revision: String::new(),
        ..example()
    };
    let progress = unconfigured.progress(Goal::Applied);
    assert!(
        progress.contains("nodes have nothing in force"),
        "{progress}"
    );
}

#[test]
fn nobody_waits_for_a_configmap_without_routes_once_every_node_has_refused_it() {
    let see = |status: &str| {
        let nodes = [
            reports("node1", "Ready", "", ""),
            reports("node2", status, NEWEST, "10.116.0.5=up"),
        ];
        let pods = [pod("node1", true), pod("node2", true)];
        let newest = Newest {
            revision: String::new(),
            refused: None,
        };
        let agents = Agents::new(Some(&pods), wants(2));
        Fleet::new(&newest, &nodes, &agents, Vec::new())
    };
    assert!(
        !see("Ready").is_final(Goal::Applied),
        "it has not seen it yet"
    );
    let refused = see("Invalid");
    assert!(refused.is_final(Goal::Applied) && !refused.all_ready(false));
    assert_eq!(
        refused.progress(Goal::Applied),
        "1/2 nodes have nothing in force, waiting for node2"
    );
}

#[test]
fn a_node_that_should_have_no_agent_does_not_count() {
    let nodes = [ready_node("node1"), node("windows", &[])];
    let agents = Agents::new(Some(&[pod("node1", true)]), wants(1));
    let fleet = fleet(&nodes, &agents);
    assert_eq!(words(&fleet), ["Ready", "NoAgent"]);
    assert!(fleet.reached(Goal::Applied) && fleet.all_ready(false));
}

#[test]
fn a_node_with_what_an_agent_left_is_waited_for_by_nobody_and_all_is_not_well() {
    let nodes = [ready_node("node1"), ready_node("node2")];
    let agents = Agents::new(Some(&[pod("node1", true)]), wants(1));
    let narrowed = fleet(&nodes, &agents);
    assert_eq!(words(&narrowed), ["Ready", "Unmanaged"]);
    assert!(narrowed.reached(Goal::Applied));
    assert!(!narrowed.all_ready(false) && !narrowed.all_ready(true));
    let nobody = fleet(&nodes, &Agents::new(Some(&[]), Installed::Not));
    assert_eq!(words(&nobody), ["Unmanaged", "Unmanaged"]);
    assert!(!nobody.reached(Goal::Applied), "no node is not every node");
}

#[test]
fn a_node_whose_pod_is_still_to_be_created_is_waited_for_by_name() {
    let nodes = [ready_node("node1"), node("node2", &[])];
    let agents = Agents::new(Some(&[pod("node1", true)]), wants(2));
    let fleet = fleet(&nodes, &agents);
    assert_eq!(words(&fleet), ["Ready", "Pending"]);
    assert_eq!(
        fleet.progress(Goal::Applied),
        "1/2 nodes have 0123456789ab, waiting for node2"
    );
}

#[test]
fn a_node_that_is_not_ready_itself_is_not_waited_for_and_counts_unless_it_may_miss() {
    let nodes = [
        ready_node("node1"),
        node_in(
            "NotReady",
            "node2",
            &[("status", "Ready"), ("revision", NEWEST)],
        ),
        node_in("NotReady,SchedulingDisabled", "node3", &[]),
    ];
    let pods = [pod("node1", true), pod("node2", false), pod("node3", false)];
    let fleet = fleet(&nodes, &Agents::new(Some(&pods), wants(3)));
    assert_eq!(words(&fleet), ["Ready", "NodeNotReady", "NodeNotReady"]);
    assert!(fleet.reached(Goal::Applied));
    assert!(!fleet.all_ready(false));
    assert!(fleet.all_ready(true));
}

#[test]
fn an_agent_that_is_not_ready_may_have_reported_long_ago() {
    let agents = Agents::new(Some(&[pod("node1", false)]), wants(1));
    let fleet = fleet(&[ready_node("node1")], &agents);
    assert_eq!(words(&fleet), ["NotRunning"]);
    assert!(!fleet.reached(Goal::Applied));
}

#[test]
fn a_degraded_node_has_applied_but_is_not_ready_and_a_refusing_one_has_not_applied() {
    let degraded = look_at(&[reports("node1", "Degraded", NEWEST, "")]);
    assert!(degraded.reached(Goal::Applied) && !degraded.all_ready(true));
    for word in ["Invalid", "RolledBack"] {
        let fleet = look_at(&[reports("node1", word, NEWEST, "")]);
        assert_eq!(words(&fleet), [word]);
        assert!(!fleet.reached(Goal::Applied));
    }
}

#[test]
fn without_the_right_to_list_pods_every_node_counts() {
    let nobody_says = Agents::new(None, Installed::Unknown);
    let nodes = [ready_node("node1"), node("node2", &[])];
    let seen = fleet(&nodes, &nobody_says);
    assert_eq!(words(&seen), ["Ready", "Pending"]);
    assert!(!seen.reached(Goal::Applied));
    assert!(fleet(&nodes[..1], &nobody_says).all_ready(false));
}

#[test]
fn a_gateway_is_drained_when_no_node_with_the_newest_revision_says_otherwise() {
    let gateway = "10.116.0.7".parse().unwrap();
    let drained = Goal::Drained(gateway);
    for (gateways, reached) in [
        ("10.116.0.5=up,10.116.0.7=draining", false),
        ("10.116.0.5=up,10.116.0.7=up", false),
        ("10.116.0.7=unknown", false),
        ("10.116.0.5=up,10.116.0.7=drained", true),
        ("10.116.0.7=down", true),
        ("10.116.0.5=up", true),
        ("", true),
    ] {
        let fleet = look_at(&[
            ready_node("node1"),
            reports("node2", "Ready", NEWEST, gateways),
        ]);
        assert_eq!(fleet.reached(drained), reached, "{gateways}");
    }
    let outdated = look_at(&[reports("node1", "Ready", "ba9876543210", "")]);
    assert!(!outdated.reached(drained));
    assert_eq!(
        outdated.progress(drained),
        "10.116.0.7 carries no flow on 0/1 nodes, waiting for node1"
    );
}

#[test]
fn an_annotation_cannot_write_to_the_terminal() {
    let fleet = look_at(&[reports("node1", "Ready\x1b[2J\n", NEWEST, "x\x1b[2J=up")]);
    assert_eq!(words(&fleet), ["Ready [2J"]);
    assert_eq!(fleet.nodes[0].gateways, BTreeMap::new());
}

#[test]
fn without_routes_yaml_a_node_that_has_nothing_is_ready_and_one_that_has_something_is_not() {
    let newest = Newest {
        revision: String::new(),
        refused: None,
    };
    let nodes = [
        reports("node1", "Ready", "", ""),
        reports("node2", "Invalid", NEWEST, "10.116.0.5=up"),
    ];
    let pods = ["node1", "node2"].map(|name| pod(name, true));
    let agents = Agents::new(Some(&pods), wants(2));
    let fleet = Fleet::new(&newest, &nodes, &agents, Vec::new());
    assert_eq!(words(&fleet), ["Ready", "Invalid"]);
    assert!(!fleet.all_ready(false));
    assert!(Fleet::new(&newest, &nodes[..1], &agents, Vec::new()).all_ready(false));
}
