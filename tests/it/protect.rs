//! What `protect` reads out of a real kernel: which gateways are next hops there, and what of the node is protected.

use std::net::IpAddr;

use egress_routes::config::Config;
use egress_routes::routing::batch::Ownership;
use egress_routes::routing::node_facts::Facts;
use egress_routes::routing::protected::{Protected, next_hop};
use egress_routes::routing::state::Kernel;

use crate::lab::Lab;

fn node() -> Lab {
    let lab = Lab::new();
    lab.host("nd").host("peer");
    lab.link(
        ("nd", "eth0", &["203.0.113.20/24", "2001:db8:5::20/64"]),
        ("peer", "eth0", &[]),
    );
    lab.link(
        ("nd", "eth1", &["10.116.0.20/24", "fd00:116::20/64"]),
        ("peer", "eth1", &[]),
    );
    lab.link(
        ("nd", "p31", &["10.70.0.0/31", "fd00:70::/127"]),
        ("peer", "p31", &[]),
    );
    lab.link(
        ("nd", "p32", &["10.71.0.1 peer 10.71.0.2"]),
        ("peer", "p32", &[]),
    );
    lab.link(("nd", "zero", &["10.50.0.1/0"]), ("peer", "zero", &[]));
    lab.link(
        ("nd", "eth9", &["10.72.0.1/24", "fd00:72::1/64"]),
        ("peer", "eth9", &[]),
    );
    lab.ip("nd", "link set eth9 down");
    lab.ip("nd", "addr add 10.9.9.9/32 dev lo");
    lab.batch(
        "nd",
        "route add default via 203.0.113.1\nroute add default via 2001:db8:5::1\nroute add 10.244.7.0/24 via 10.116.0.7\n\
         route add 10.116.0.66/32 via 203.0.113.1\nroute add blackhole 10.61.0.0/16\nroute add 10.60.0.0/16 dev p32\n",
    );
    lab
}

fn kernel(lab: &Lab) -> Kernel {
    let ownership = Ownership::DEFAULT;
    lab.kernel("nd", &ownership)
}

#[test]
fn the_kernel_takes_every_gateway_that_is_called_a_next_hop_and_by_the_same_device() {
    let lab = node();
    let kernel = kernel(&lab);
    let answer = |gateway: &str| next_hop(gateway.parse::<IpAddr>().unwrap(), &kernel);
    for (gateway, dev) in [
        ("10.116.0.5", "eth1"),
        ("203.0.113.1", "eth0"),
        ("fd00:116::5", "eth1"),
        ("10.70.0.1", "p31"),
        ("fd00:70::1", "p31"),
        ("10.71.0.2", "p32"),
        ("10.60.0.9", "p32"),
    ] {
        assert_eq!(answer(gateway).as_deref(), Ok(dev), "{gateway}");
        lab.ip(
            "nd",
            &format!("nexthop replace id 7 via {gateway} dev {dev}"),
        );
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        assert_eq!(
            lab.json("nd", &format!("{family} route get {gateway}"))[0]["dev"],
            dev
        );
    }
    for gateway in [
        "10.116.0.20",
        "10.9.9.9",
        "10.116.0.0",
        "10.116.0.255",
        "fd00:116::",
        "198.51.100.1",
        "10.244.7.1",
        "10.116.0.66",
        "10.61.0.1",
        "2001:db9::1",
        "10.72.0.5",
        "fd00:72::5",
        "10.71.0.1",
        "10.50.0.1",
        "10.50.0.2",
        "127.0.0.9",
    ] {
        assert!(
            answer(gateway).is_err(),
            "{gateway} by {:?}",
            answer(gateway)
        );
    }
    // IPv6 addresses go with their link, so nothing is left to show what it was.
    assert_eq!(
        answer("10.72.0.5").unwrap_err(),
        "is on-link by eth9, which is down"
    );
    assert_eq!(
        answer("fd00:72::5").unwrap_err(),
        "is not on-link: only the node's default route leads to it"
    );
}

#[test]
fn a_nodes_own_subnets_peers_and_addresses_are_protected_and_its_other_routes_are_not() {
    let protected = Protected::gather(
        &kernel(&node()),
        &Facts::NoCluster,
        &Config {
            sets: vec![],
            expected_rules: Vec::new(),
            protected: vec![],
        },
    );
    let of_node: Vec<String> = protected
        .iter()
        .map(ToString::to_string)
        .filter(|output| output.starts_with("the node's"))
        .collect();
    insta::assert_snapshot!(of_node.join("\n"), @r"
    the node's own address 10.9.9.9 (lo)
    the node's own address 10.50.0.1 (zero)
    the node's on-link subnet 10.70.0.0/31 (p31)
    the node's own address 10.70.0.0 (p31)
    the node's own address 10.71.0.1 (p32)
    the node's on-link subnet 10.71.0.2/32 (p32)
    the node's on-link subnet 10.72.0.0/24 (eth9)
    the node's own address 10.72.0.1 (eth9)
    the node's on-link subnet 10.116.0.0/24 (eth1)
    the node's own address 10.116.0.20 (eth1)
    the node's on-link subnet 203.0.113.0/24 (eth0)
    the node's own address 203.0.113.20 (eth0)
    the node's on-link subnet 2001:db8:5::/64 (eth0)
    the node's own address 2001:db8:5::20 (eth0)
    the node's on-link subnet fd00:70::/127 (p31)
    the node's own address fd00:70:: (p31)
    the node's on-link subnet fd00:116::/64 (eth1)
    the node's own address fd00:116::20 (eth1)
    ");
}
