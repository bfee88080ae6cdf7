//! Virtual routing and forwarding by a device. Not every kernel has them: `hack/test` leaves these tests out, and counts them, where
//! this one has none. The form that needs no device is in `rules`.

use super::*;

#[test]
fn a_vrf_is_an_alarm_when_pods_are_in_it_and_none_when_another_interface_is() {
    let mut node = rules::with_pods();
    node.lab.host("mgmt");
    node.lab.link(
        ("nd", "eth9", &["172.31.0.2/24"]),
        ("mgmt", "eth0", &["172.31.0.1/24"]),
    );
    // The range that the API server reports for this node, behind the interface of its pods.
    node.lab.ip("nd", "addr add 10.244.1.1/24 dev cni0");
    node.lab.batch(
        "nd",
        "link add red up type vrf table 10
        link set eth9 master red
        route add default via 172.31.0.1 dev eth9 table 10\n",
    );
    node.volume
        .routes(&routes(&[set("a", G1, "203.0.113.0/24", "")]));
    let (_api, agent) = node.agent_in_a_cluster(&["--resync", "1s"]);
    in_force(&agent, 1);
    node.becomes("Ready");
    node.lab.ip("nd", "link set cni0 master red");
    let status = node.becomes("Degraded");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("lookup [l3mdev-table]"), "{message}");
    node.lab.ip("nd", "link set cni0 nomaster");
    node.becomes("Ready");
}
