//! `0.0.0.0/0` and `::/0` through a gateway: everything general leaves by it, and what a node needs to stay a node keeps its path.
//!
//! The internet host answers for every address and reports whom it sees: the gateway or the node itself. A second node `n2` on the VPC
//! answers for what is routed to it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use crate::lab::{
    G1, G1_PUBLIC, G1_PUBLIC6, G1_V6, Lab, NODE_PUBLIC, NODE_PUBLIC6, Volume, wait_until,
};
use crate::stub::{self, NODE, Stub};

const SOON: Duration = Duration::from_secs(30);
/// Addresses of no special kind, all over both families.
const GENERAL: [&str; 14] = [
    "1.1.1.1",
    "8.8.8.8",
    "34.160.111.145",
    "66.255.255.255",
    "67.207.67.1",
    "67.207.67.4",
    "128.0.0.1",
    "172.15.255.1",
    "198.51.100.199",
    "198.51.100.201",
    "223.255.255.1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1112",
    "2a00:1450:4001::1",
];
/// What still leaves with the node's own address, and why.
const PROTECTED: [(&str, &str); 6] = [
    ("198.51.100.200", "the API server, by the EndpointSlice"),
    ("2001:db8:a::200", "the API server, by the EndpointSlice"),
    ("169.254.169.254", "the metadata service"),
    ("67.207.67.2", "a DNS server, by `protected`"),
    ("67.207.67.3", "a DNS server, by `protected`"),
    ("2606:4700:4700::1111", "a DNS server, by `protected`"),
];
/// Pods of the other node, by routes of the network's.
const PODS: [(&str, &str); 2] = [
    ("10.244.2.7", "10.116.0.2"),
    ("fd00:10:244:2::7", "fd00:116::2"),
];

fn world() -> Lab {
    let lab = Lab::blueprint();
    lab.host("n2")
        .plug("n2", "eth1", "vpc", &["10.116.0.9/24", "fd00:116::9/64"]);
    for range in [
        "10.244.2.0/24",
        "10.244.3.0/24",
        "67.207.64.0/20",
        "fd00:10:244:2::/64",
    ] {
        lab.ip("n2", &format!("route add local {range} dev lo"));
    }
    let server = lab.echo_server("n2", &[]);
    lab.keep(server);
    lab.batch(NODE, "route add 10.244.2.0/24 via 10.116.0.9 proto 17\nroute add fd00:10:244:2::/64 via fd00:116::9 proto 17\n");
    stub::credentials(&lab);
    lab
}

/// Everybody's routes but ours, as `ip` prints them.
fn foreign(lab: &Lab) -> Vec<String> {
    let both =
        ["-4", "-6"].map(|family| lab.ip(NODE, &format!("-o -N {family} route show table main")));
    let mut lines: Vec<String> = both
        .iter()
        .flat_map(|output| output.lines())
        .filter(|line| !line.contains("proto 230"))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

fn defaults(lab: &Lab) -> String {
    lab.ip(NODE, "-4 route show default") + &lab.ip(NODE, "-6 route show default")
}

/// The addresses that do not leave with the source that they should have, each with what was seen.
fn astray(lab: &Lab, expected: &BTreeMap<&str, &str>) -> Vec<String> {
    let addresses: Vec<&str> = expected.keys().copied().collect();
    let seen = lab.sources(NODE, &addresses);
    let of = |address: &str| {
        seen.get(&address.parse::<IpAddr>().unwrap())
            .copied()
            .flatten()
    };
    let wrong = expected
        .iter()
        .filter(|(address, source)| of(address) != source.parse().ok());
    wrong
        .map(|(address, source)| format!("{address} left as {:?}, not as {source}", of(address)))
        .collect()
}

fn own(address: &str) -> &'static str {
    if address.contains(':') {
        NODE_PUBLIC6
    } else {
        NODE_PUBLIC
    }
}

fn by_the_gateway() -> BTreeMap<&'static str, &'static str> {
    let general = GENERAL.map(|address| {
        (
            address,
            if address.contains(':') {
                G1_PUBLIC6
            } else {
                G1_PUBLIC
            },
        )
    });
    let protected = PROTECTED.map(|(address, _)| (address, own(address)));
    general.into_iter().chain(protected).chain(PODS).collect()
}

fn as_found() -> BTreeMap<&'static str, &'static str> {
    let all = GENERAL
        .into_iter()
        .chain(PROTECTED.map(|(address, _)| address));
    all.map(|address| (address, own(address)))
        .chain(PODS)
        .collect()
}

#[test]
fn everything_leaves_by_the_gateway_but_what_the_node_needs_and_its_default_routes_are_never_touched()
 {
    let lab = world();
    let _stub = Stub::start(&lab, "sv", &["198.51.100.200", "2001:db8:a::200"]);
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::new(dir.path());
    volume.routes(&format!(
        "routes:\n  - name: everything\n    gateways: [{G1}, '{G1_V6}']\n    destinations: [0.0.0.0/0, '::/0']\n    healthCheck: {{type: none}}\n\
         protected: [67.207.67.2/31, '2606:4700:4700::1111']\n"
    ));
    assert_eq!(astray(&lab, &as_found()), [""; 0], "before");
    let (defaults_before, foreign_before) = (defaults(&lab), foreign(&lab));
    assert_eq!(defaults_before.lines().count(), 2);

    let mut agent = stub::agent(&lab, volume.path(), "198.51.100.200", &["--resync", "1s"]);
    agent.wait_for("Configuration in force", SOON);
    agent.wait_for("Change confirmed: the API server answers", SOON);
    assert_eq!(
        astray(&lab, &by_the_gateway()),
        [""; 0],
        "in force: {}",
        agent.log()
    );
    assert_eq!(
        (defaults(&lab), foreign(&lab)),
        (defaults_before.clone(), foreign_before.clone())
    );

    // A new node's pods, and a route around a hole: the pieces beside the hole are longer than it, and must not win.
    lab.batch(NODE, "route add 10.244.3.0/24 via 10.116.0.9 proto 17\nroute add 67.207.64.0/20 via 10.116.0.9 proto 17\n");
    let mut expected = by_the_gateway();
    expected.extend([
        ("10.244.3.1", "10.116.0.2"),
        ("67.207.67.1", "10.116.0.2"),
        ("67.207.67.4", "10.116.0.2"),
        ("67.207.79.9", "10.116.0.2"),
    ]);
    // The hole is the other route's now.
    expected.extend([("67.207.67.2", "10.116.0.2"), ("67.207.67.3", "10.116.0.2")]);
    assert!(
        wait_until(SOON, || astray(&lab, &expected).is_empty()),
        "{:?}",
        astray(&lab, &expected)
    );
    lab.batch(
        NODE,
        "route del 10.244.3.0/24 proto 17\nroute del 67.207.64.0/20 proto 17\n",
    );
    assert!(
        wait_until(SOON, || astray(&lab, &by_the_gateway()).is_empty()),
        "{:?}",
        astray(&lab, &by_the_gateway())
    );

    agent.kill();
    assert_eq!(
        (defaults(&lab), foreign(&lab)),
        (defaults_before.clone(), foreign_before.clone()),
        "after kill -9"
    );
    assert_eq!(astray(&lab, &by_the_gateway()), [""; 0], "the routes stay");

    let output = lab.egress_routes(NODE, &["cleanup"]);
    assert_eq!(output.code, 0, "{}{}", output.out, output.err);
    assert_eq!(
        (defaults(&lab), foreign(&lab)),
        (defaults_before, foreign_before),
        "after cleanup"
    );
    assert_eq!(astray(&lab, &as_found()), [""; 0], "after cleanup");
}

#[test]
fn without_a_cluster_too_no_default_route_is_replaced_whatever_its_metric() {
    for metric in ["0", "100", "4242"] {
        let lab = Lab::blueprint();
        lab.batch(NODE, &format!("route del default\nroute add default via 192.0.2.1 metric {metric}\nroute del ::/0\nroute add ::/0 via 2001:db8:f::1 metric {metric}\n"));
        let before = (defaults(&lab), foreign(&lab));
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("routes.yaml"),
            format!("routes:\n  - name: everything\n    gateways: [{G1}, '{G1_V6}']\n    destinations: [0.0.0.0/0, '::/0']\n    healthCheck: {{type: none}}\n"),
        )
        .unwrap();
        let path = dir.path().to_str().unwrap();
        let output = lab.egress_routes(NODE, &["apply", path]);
        assert_eq!(
            output.code, 0,
            "metric {metric}: {}{}",
            output.out, output.err
        );
        assert_eq!(
            (
                lab.source(NODE, "8.8.8.8"),
                lab.source(NODE, "2001:4860:4860::8888")
            ),
            (G1_PUBLIC.into(), G1_PUBLIC6.into())
        );
        assert_eq!(lab.source(NODE, "169.254.169.254"), NODE_PUBLIC);
        assert_eq!((defaults(&lab), foreign(&lab)), before, "metric {metric}");
        let output = lab.egress_routes(NODE, &["cleanup"]);
        assert_eq!(
            output.code, 0,
            "metric {metric}: {}{}",
            output.out, output.err
        );
        assert_eq!(
            (defaults(&lab), foreign(&lab)),
            before,
            "metric {metric}, after cleanup"
        );
        assert_eq!(lab.source(NODE, "8.8.8.8"), NODE_PUBLIC);
    }
}
