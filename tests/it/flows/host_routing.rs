//! A datapath that passes the node's IP stack by, as Cilium's eBPF host routing does: it asks the kernel's FIB for each packet, so that it
//! follows the routes, their groups and every change. `hack/test` leaves this out where programs cannot be compiled or loaded.

use std::collections::BTreeSet;
use std::process::Command;

use super::traffic::{CHECK, LIMIT};
use crate::lab::Node;
use crate::lab::{FABRIC, G1_PUBLIC, G2_PUBLIC, G3_PUBLIC, NODE_PUBLIC, wait_until};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/flows/host_routing.c");
const POD: &str = "10.244.1.5";

fn routes(strategy: &str, gateways: &str) -> String {
    format!(
        "routes:\n- name: a\n  strategy: {strategy}\n  gateways: [{gateways}]\n  destinations: [198.51.100.0/24]\n  {CHECK}\n"
    )
}

/// A pod behind the node, whose packets the program takes. The IP stack forwards none of them: netfilter drops what comes by it.
fn pod(node: &Node) {
    let object = node.volume.path().with_file_name(format!(
        "{}.o",
        node.volume.path().file_name().unwrap().to_str().unwrap()
    ));
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let output = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", &include])
        .args(["-c", SOURCE, "-o"])
        .arg(&object)
        .output()
        .expect("clang is needed for this test");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lab = &node.lab;
    lab.host("pod");
    lab.link(
        ("pod", "eth0", &["10.244.1.5/32"]),
        ("nd", "lxc0", &["10.244.1.1/32"]),
    );
    lab.batch(
        "pod",
        "route add 10.244.1.1 dev eth0\nroute add default via 10.244.1.1\n",
    );
    lab.ip("nd", &format!("route add {POD} dev lxc0"));
    lab.sysctl("nd", "net.ipv4.ip_forward", "1");
    for gateway in ["g1", "g2", "g3"] {
        lab.ip(gateway, &format!("route add {POD} via 10.116.0.2"));
    }
    lab.ip("sv", &format!("route add {POD} via {NODE_PUBLIC}"));
    lab.nft("nd", "table inet stack {\nchain forward { type filter hook forward priority 0\niifname lxc0 drop\n}\n}");
    assert_eq!(lab.source("pod", "203.0.113.9"), "-", "the stack drops");
    lab.must("nd", &["tc", "qdisc", "add", "dev", "lxc0", "clsact"]);
    let object = object.to_str().unwrap();
    lab.must(
        "nd",
        &[
            "tc",
            "filter",
            "add",
            "dev",
            "lxc0",
            "ingress",
            "bpf",
            "direct-action",
            "obj",
            object,
            "sec",
            "tc",
        ],
    );
    std::fs::remove_file(object).unwrap();
    assert_eq!(
        lab.source("pod", "203.0.113.9"),
        POD,
        "the program forwards"
    );
}

#[test]
fn an_ebpf_datapath_follows_balance_failover_and_a_change_of_gateway() {
    let mut node = Node::new(&routes("balance", "10.116.0.5, 10.116.0.6"));
    pod(&node);
    let _agent = node.agent_in_force(&[]);
    node.wait_for_gateways("a", &["up*", "up*"]);
    let seen = |node: &Node| -> BTreeSet<String> {
        (1..=24)
            .map(|n| node.lab.source("pod", &format!("198.51.100.{n}")))
            .collect()
    };
    let only = |node: &Node, source: &str| {
        assert!(
            wait_until(LIMIT, || seen(node) == BTreeSet::from([source.to_owned()])),
            "{:?} is not {source} alone",
            seen(node)
        );
    };
    assert_eq!(
        seen(&node),
        BTreeSet::from([G1_PUBLIC, G2_PUBLIC].map(str::to_owned))
    );
    // A gateway of the group dies: the other takes all.
    node.lab.ip(FABRIC, "link set g1-eth1 down");
    only(&node, G2_PUBLIC);
    node.lab.ip(FABRIC, "link set g1-eth1 up");
    node.wait_for_gateways("a", &["up*", "up*"]);

    node.volume
        .routes(&routes("failover", "10.116.0.5, 10.116.0.6"));
    only(&node, G1_PUBLIC);
    node.lab.ip(FABRIC, "link set g1-eth1 down");
    only(&node, G2_PUBLIC);

    node.volume.routes(&routes("failover", "10.116.0.7"));
    only(&node, G3_PUBLIC);
    assert_eq!(node.lab.source("pod", "203.0.113.9"), POD);
}
