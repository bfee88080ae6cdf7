//! Gateways that the kernel would refuse or that lead nowhere: left out, reported, and examined again.

use super::traffic::{CHECK, LIMIT};
use crate::lab::Node;
use crate::lab::{G1_PUBLIC, G2_PUBLIC, wait_until};

#[test]
fn gateways_that_cannot_be_next_hops_cost_the_others_nothing_and_are_looked_at_again_when_addresses_or_links_change()
 {
    let bad = [
        "10.116.0.0",
        "10.116.0.2",
        "10.116.0.255",
        "10.117.0.6",
        "192.0.2.2",
        "198.51.100.1",
    ];
    let node = Node::new(&format!(
        "routes:\n- name: a\n  gateways: [10.116.0.5, {}]\n  destinations: [203.0.113.0/24]\n  {CHECK}\n\
         - name: b\n  strategy: failover\n  gateways: [{}, 10.116.0.5]\n  destinations: [203.0.114.0/24]\n  {CHECK}\n",
        bad.join(", "),
        bad.join(", ")
    ));
    let agent = node.agent_in_force(&[]);
    let left_out = [
        "unusable", "unusable", "unusable", "up*", "unusable", "unusable", "unusable",
    ];
    // In the order of their addresses as text: 10.116.0.0, .2, .255, .5, 10.117.0.6, 192.0.2.2, 198.51.100.1.
    node.wait_for_gateways("a", &left_out);
    node.wait_for_gateways("b", &left_out);
    for to in ["203.0.113.9", "203.0.114.9"] {
        assert_eq!(node.lab.source("nd", to), G1_PUBLIC);
    }
    let status = node.status();
    let message = status["message"].as_str().unwrap();
    for words in [
        "10.116.0.0 of set `a` is left out: it is the network address of 10.116.0.0/24 (eth1)",
        "10.116.0.2 of set `a` is left out: it is one of the node's own addresses (eth1)",
        "10.116.0.255 of set `a` is left out: it is the broadcast address of 10.116.0.0/24 (eth1)",
        "10.117.0.6 of set `a` is left out: it is not on-link: only the node's default route leads to it",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(status["status"], "Degraded");

    // The second one's network arrives.
    node.lab.ip("g2", "addr add 10.117.0.6/24 dev eth1");
    node.lab.ip("nd", "addr add 10.117.0.2/24 dev eth1");
    node.wait_for_gateways(
        "a",
        &[
            "unusable", "unusable", "unusable", "up*", "up*", "unusable", "unusable",
        ],
    );
    node.wait_for_gateways(
        "b",
        &[
            "unusable", "unusable", "unusable", "up", "up*", "unusable", "unusable",
        ],
    );
    assert_eq!(node.lab.source("nd", "203.0.114.9"), G2_PUBLIC);

    // The node takes an address that was a gateway: it is the node's own now.
    node.lab.ip("nd", "addr add 10.116.0.5/32 dev lo");
    node.wait_for_gateways(
        "a",
        &[
            "unusable", "unusable", "unusable", "unusable", "up*", "unusable", "unusable",
        ],
    );
    node.lab.ip("nd", "addr del 10.116.0.5/32 dev lo");
    node.wait_for_gateways(
        "a",
        &[
            "unusable", "unusable", "unusable", "up*", "up*", "unusable", "unusable",
        ],
    );

    // And leaves again, as its whole link does later.
    node.lab.ip("nd", "addr del 10.117.0.2/24 dev eth1");
    node.wait_for_gateways("b", &left_out);
    node.wait_for_source("203.0.114.9", G1_PUBLIC);
    node.lab.ip("nd", "link set eth1 down");
    assert!(
        wait_until(LIMIT, || node.gateways("a")["10.116.0.5"] == "unusable"),
        "{}",
        agent.log()
    );
    node.lab.ip("nd", "link set eth1 up");
    node.wait_for_gateways("a", &left_out);
    for to in ["203.0.113.9", "203.0.114.9"] {
        node.wait_for_source(to, G1_PUBLIC);
    }
}
