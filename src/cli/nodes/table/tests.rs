use super::*;

const NEWEST: &str = "0123456789ab";

fn node(name: &str, said: &[(&str, &str)]) -> PartialObjectMeta<Node> {
    let annotations: BTreeMap<_, _> = said
        .iter()
        .map(|(key, value)| (format!("{PREFIX}{key}"), *value))
        .collect();
    let object = serde_json::json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "annotations": annotations, "creationTimestamp": "2026-11-20T10:00:00Z"}
    });
    serde_json::from_value(object).unwrap()
}

fn ready_node(name: &str) -> PartialObjectMeta<Node> {
    node(
        name,
        &[
            ("status", "Ready"),
            ("revision", NEWEST),
            ("routes", "2050/2050"),
            ("gateways", "10.116.0.5=up"),
        ],
    )
}

fn pod(node: &str, ready: bool) -> Pod {
    let status = if ready { "True" } else { "False" };
    serde_json::from_value(serde_json::json!({
        "spec": {"nodeName": node, "containers": []}, "status": {"conditions": [{"type": "Ready", "status": status}]}
    }))
    .unwrap()
}

fn look(nodes: &[PartialObjectMeta<Node>], pods: Option<&[Pod]>, desired: Desired) -> Cluster {
    Cluster::new(
        &Newest {
            revision: NEWEST.into(),
            refused: None,
        },
        nodes,
        pods,
        desired,
        Vec::new(),
    )
}

fn words(cluster: &Cluster) -> Vec<&str> {
    cluster
        .nodes
        .iter()
        .map(|row| row.status.as_str())
        .collect()
}

#[test]
fn where_the_daemonset_may_not_be_read_a_node_that_has_reported_and_has_no_pod_is_missed() {
    let cluster = look(
        &[ready_node("node1"), ready_node("node2"), node("node3", &[])],
        Some(&[pod("node1", true)]),
        Desired::Unknown,
    );
    assert_eq!(words(&cluster), ["Ready", "NotRunning", "NoAgent"]);
    assert!(!cluster.all_ready());
    let uninstalled = look(&[ready_node("node1")], Some(&[]), Desired::NotInstalled);
    assert_eq!(
        words(&uninstalled),
        ["NoAgent"],
        "what is written there is left from earlier"
    );
    assert!(!uninstalled.all_ready());
}

#[test]
fn the_table_is_what_kubectl_users_know() {
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
    ];
    let cluster = look(
        &nodes,
        Some(&[pod("node1", true), pod("node2", true), pod("node3", true)]),
        Desired::Pods(3),
    );
    insta::assert_snapshot!(cluster.table("2026-11-22T12:00:00Z".parse().unwrap()), @r"
    NODE      STATUS     REVISION       ROUTES      GATEWAYS                        AGE    MESSAGE
    node1     Ready      0123456789ab   2050/2050   10.116.0.5=up                   2d2h
    node2     Degraded   0123456789ab   2048/2050   10.116.0.5=up,10.116.0.6=down   2d2h   Set `clouds`: 2 of 2050 prefixes are not in the kernel
    node3     Outdated   ba9876543210   3/3         <none>                          2d2h
    windows   NoAgent    <none>         <none>      <none>                          2d2h
    ");
    assert_eq!(
        cluster.progress(),
        "2/3 nodes have 0123456789ab, waiting for node3"
    );
    assert!(!cluster.applied_everywhere());
}

#[test]
fn a_node_without_the_agent_does_not_count() {
    let cluster = look(
        &[ready_node("node1"), node("windows", &[])],
        Some(&[pod("node1", true)]),
        Desired::Pods(1),
    );
    assert_eq!(words(&cluster), ["Ready", "NoAgent"]);
    assert!(cluster.all_ready());
}

#[test]
fn what_an_agent_left_behind_is_not_taken_for_an_agent() {
    let cluster = look(
        &[ready_node("node1"), ready_node("node2")],
        Some(&[pod("node1", true)]),
        Desired::Pods(1),
    );
    assert_eq!(words(&cluster), ["Ready", "NoAgent"]);
    let nobody = look(&[ready_node("node1")], Some(&[]), Desired::NotInstalled);
    assert!(
        !nobody.all_ready() && !nobody.applied_everywhere(),
        "no node is not every node"
    );
}

#[test]
fn pods_that_are_still_to_be_created_are_waited_for() {
    let cluster = look(
        &[ready_node("node1"), node("node2", &[])],
        Some(&[pod("node1", true)]),
        Desired::Pods(2),
    );
    assert!(!cluster.applied_everywhere());
    assert_eq!(
        cluster.progress(),
        "1/2 nodes have 0123456789ab, 1 pods are still to be created"
    );
}

#[test]
fn an_agent_that_has_not_reported_is_pending_also_before_its_pod_is_bound() {
    let unbound: Pod = serde_json::from_value(
        serde_json::json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node2"]}]}
            ]}
        }}}}),
    )
    .unwrap();
    let cluster = look(
        &[node("node1", &[]), node("node2", &[])],
        Some(&[pod("node1", false), unbound]),
        Desired::Pods(2),
    );
    assert_eq!(words(&cluster), ["Pending", "Pending"]);
    assert!(!cluster.applied_everywhere());
}

#[test]
fn an_agent_that_is_not_ready_may_have_reported_long_ago() {
    let cluster = look(
        &[ready_node("node1")],
        Some(&[pod("node1", false)]),
        Desired::Pods(1),
    );
    assert_eq!(words(&cluster), ["NotRunning"]);
    assert!(!cluster.applied_everywhere());
}

#[test]
fn a_degraded_node_has_applied_but_is_not_ready_and_a_refusing_one_has_not_applied() {
    let said = |word| node("node1", &[("status", word), ("revision", NEWEST)]);
    let degraded = look(
        &[said("Degraded")],
        Some(&[pod("node1", true)]),
        Desired::Pods(1),
    );
    assert!(degraded.applied_everywhere() && !degraded.all_ready());
    for word in ["Invalid", "RolledBack"] {
        let cluster = look(&[said(word)], Some(&[pod("node1", true)]), Desired::Pods(1));
        assert_eq!(words(&cluster), [word]);
        assert!(!cluster.applied_everywhere());
    }
}

#[test]
fn without_the_right_to_list_pods_every_node_counts() {
    let cluster = look(
        &[ready_node("node1"), node("node2", &[])],
        None,
        Desired::Unknown,
    );
    assert_eq!(words(&cluster), ["Ready", "NoAgent"]);
    assert!(!cluster.applied_everywhere());
    assert!(look(&[ready_node("node1")], None, Desired::Unknown).all_ready());
}

#[test]
fn many_nodes_are_named_by_example() {
    let nodes: Vec<_> = (1..=9).map(|n| node(&format!("node{n}"), &[])).collect();
    let pods: Vec<_> = (1..=9).map(|n| pod(&format!("node{n}"), true)).collect();
    assert_eq!(
        look(&nodes, Some(&pods), Desired::Unknown).progress(),
        "0/9 nodes have 0123456789ab, waiting for node1, node2, node3 and 6 more"
    );
}

#[test]
fn an_annotation_cannot_write_to_the_terminal() {
    let cluster = look(
        &[node(
            "node1",
            &[("status", "Ready\x1b[2J\n"), ("revision", NEWEST)],
        )],
        Some(&[pod("node1", true)]),
        Desired::Unknown,
    );
    assert_eq!(words(&cluster), ["Ready [2J"]);
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

#[test]
fn the_json_says_all_of_it() {
    let cluster = look(
        &[ready_node("node1")],
        Some(&[pod("node1", true)]),
        Desired::Pods(1),
    );
    insta::assert_snapshot!(cluster.json(), @r#"{"nodes":[{"created":"2026-11-20T10:00:00Z","expected":true,"gateways":"10.116.0.5=up","message":null,"node":"node1","revision":"0123456789ab","routes":"2050/2050","status":"Ready"}],"ready":true,"refused":null,"revision":"0123456789ab"}"#);
}
