use super::*;
use crate::config::{HealthCheck, Probe, RouteSet, Strategy, WhenDown};
use crate::routing::node_facts::NodeFacts;
use crate::routing::state::{Link, Nexthop, NexthopKind};

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `via` in `how` makes it gatewayed, a type word in place of a device makes it drop.
fn route(prefix: &str, how: &str, protocol: u8) -> ForeignRoute {
    let (unicast, dev) = match how.trim_start_matches("via ") {
        "blackhole" | "unreachable" | "prohibit" | "throw" => (false, None),
        dev => (true, Some(dev.into())),
    };
    ForeignRoute {
        protocol,
        dev,
        gatewayed: how.starts_with("via "),
        unicast,
        ..ForeignRoute::to_link(p(prefix), "")
    }
}

fn node() -> Kernel {
    let mut kernel = Kernel {
        links: vec![
            Link::with("lo", &[("127.0.0.1", 8), ("::1", 128), ("10.9.9.9", 32)]),
            Link::with("eth0", &[("203.0.113.20", 24), ("2001:db8:5::20", 64)]),
            Link::with(
                "eth1",
                &[
                    ("10.116.0.20", 24),
                    ("fd00:116::20", 64),
                    ("fe80::1:20", 64),
                ],
            ),
        ],
        foreign: vec![
            route("0.0.0.0/0", "via eth0", 16),
            route("203.0.113.0/24", "eth0", 2),
            route("10.116.0.0/24", "eth1", 2),
            route("fd00:116::/64", "eth1", 2),
            route("fe80::/64", "eth1", 2),
            route("10.244.7.0/24", "via eth1", 4),
        ],
        ..Kernel::default()
    };
    kernel.links[2].broadcasts = vec![ip("10.116.0.255")];
    kernel
}

fn config(gateways: &[&str], protected: &[&str]) -> Config {
    let second = std::time::Duration::from_secs(1);
    let health_check = HealthCheck {
        probe: Probe::Icmp,
        interval: second,
        timeout: second,
        failures: 3,
        successes: 5,
        target: None,
    };
    let set = RouteSet {
        shares: std::collections::BTreeMap::new(),
        drain_timeout: std::time::Duration::ZERO,
        name: "clouds".into(),
        gateways: gateways.iter().map(|g| ip(g)).collect(),
        destinations: vec![],
        except: vec![],
        strategy: Strategy::Balance,
        when_down: WhenDown::Hold,
        leak_guard: false,
        health_check,
        node_selector: None,
    };
    Config {
        sets: vec![set],
        expected_rules: Vec::new(),
        protected: protected.iter().map(|t| p(t)).collect(),
    }
}

fn forbidden(kernel: &Kernel, facts: &Facts, config: &Config, destination: &str) -> String {
    Protected::gather(kernel, facts, config)
        .forbids(p(destination))
        .unwrap_or_default()
}

#[test]
fn every_protection_of_the_contract_is_there_and_says_what_it_is() {
    let facts = Facts::Known(NodeFacts {
        pod_cidrs: vec![p("10.244.3.0/24")],
        api_servers: vec![ip("198.51.100.6"), ip("10.96.0.1")],
        ..NodeFacts::default()
    });
    let config = config(&["10.117.0.5"], &["64.225.0.0/16"]);
    let why = |destination: &str| forbidden(&node(), &facts, &config, destination);
    insta::assert_snapshot!(
        [
            "127.0.0.53", "169.254.169.254", "224.0.0.0/4", "255.255.255.255", "0.0.0.0/8", "::1", "fe80::5", "ff02::1", "::",
            "10.116.0.0/24", "10.116.0.128/25", "10.116.0.20", "10.9.9.9", "2001:db8:5::/80", "10.117.0.5", "10.244.3.7", "198.51.100.6",
            "10.96.0.1", "64.225.0.0/16", "64.225.9.0/24", "224.0.0.0/3",
        ]
        .map(|d| format!("{d}: {}", why(d)))
        .join("\n"),
        @r"
        127.0.0.53: inside the loopback range 127.0.0.0/8
        169.254.169.254: inside the link-local and metadata range 169.254.0.0/16
        224.0.0.0/4: is the multicast range 224.0.0.0/4
        255.255.255.255: inside the reserved range 240.0.0.0/4
        0.0.0.0/8: is the unspecified range 0.0.0.0/8
        ::1: is the loopback address ::1
        fe80::5: inside the link-local range fe80::/10
        ff02::1: inside the multicast range ff00::/8
        ::: is the unspecified address ::
        10.116.0.0/24: is the node's on-link subnet 10.116.0.0/24 (eth1)
        10.116.0.128/25: inside the node's on-link subnet 10.116.0.0/24 (eth1)
        10.116.0.20: is the node's own address 10.116.0.20 (eth1)
        10.9.9.9: is the node's own address 10.9.9.9 (lo)
        2001:db8:5::/80: inside the node's on-link subnet 2001:db8:5::/64 (eth0)
        10.117.0.5: is the gateway 10.117.0.5
        10.244.3.7: inside the node's pod range 10.244.3.0/24
        198.51.100.6: is the API server 198.51.100.6
        10.96.0.1: is the API server 10.96.0.1
        64.225.0.0/16: is the `protected` entry 64.225.0.0/16
        64.225.9.0/24: inside the `protected` entry 64.225.0.0/16
        224.0.0.0/3: made up of protected ranges, the first is the multicast range 224.0.0.0/4
        "
    );
    for free in [
        "192.0.2.0/24",
        "198.51.100.0/24",
        "0.0.0.0/0",
        "::/0",
        "10.116.0.0/23",
        "10.9.9.8",
        "2001:db8::/32",
        "128.0.0.0/1",
    ] {
        assert_eq!(why(free), "", "{free}");
    }
}

#[test]
fn api_servers_known_without_asking_are_protected_before_the_first_answer() {
    let facts = Facts::NotYet {
        api_servers: vec![ip("198.51.100.6")],
    };
    assert_eq!(
        forbidden(&node(), &facts, &config(&[], &[]), "198.51.100.6"),
        "is the API server 198.51.100.6"
    );
}

#[test]
fn what_is_taken_out_of_everything_is_exactly_the_union() {
    let protected = Protected::gather(&node(), &Facts::NoCluster, &config(&[], &[]));
    for (address, inside) in [
        ("10.116.0.0", true),
        ("10.115.255.255", false),
        ("10.116.1.0", false),
        ("fe80::1", true),
        ("8.8.8.8", false),
    ] {
        assert_eq!(
            protected.ranges().contains(ip(address)),
            inside,
            "{address}"
        );
    }
}

#[test]
fn an_address_with_length_zero_protects_only_itself() {
    let mut kernel = node();
    kernel
        .links
        .push(Link::with("tun0", &[("10.50.0.1", 0), ("fd00:50::1", 0)]));
    let why = |d: &str| forbidden(&kernel, &Facts::NoCluster, &config(&[], &[]), d);
    assert_eq!(
        why("10.50.0.1"),
        "is the node's own address 10.50.0.1 (tun0)"
    );
    assert_eq!(
        (why("10.50.0.2"), why("fd00:50::2")),
        (String::new(), String::new())
    );
}

#[test]
fn the_peer_of_a_point_to_point_link_is_on_link() {
    let mut kernel = node();
    kernel.links.push(Link::with("ppp0", &[("10.51.0.1", 32)]));
    kernel.foreign.push(route("10.51.0.2/32", "ppp0", 2));
    let why = |d: &str| forbidden(&kernel, &Facts::NoCluster, &config(&[], &[]), d);
    assert_eq!(
        why("10.51.0.2"),
        "is the node's on-link subnet 10.51.0.2/32 (ppp0)"
    );
    assert_eq!(
        why("10.51.0.1"),
        "is the node's own address 10.51.0.1 (ppp0)"
    );
}

#[test]
fn an_on_link_prefix_that_an_advertisement_or_dhcp_gave_is_a_subnet() {
    let mut kernel = node();
    kernel.foreign.extend([
        route("2001:db8:7::/64", "eth0", 9),
        route("172.31.1.1/32", "eth0", 16),
    ]);
    let why = |d: &str| forbidden(&kernel, &Facts::NoCluster, &config(&[], &[]), d);
    assert_eq!(
        why("2001:db8:7::/80"),
        "inside the node's on-link subnet 2001:db8:7::/64 (eth0)"
    );
    assert_eq!(
        why("172.31.1.1"),
        "is the node's on-link subnet 172.31.1.1/32 (eth0)"
    );
}

#[test]
fn routes_to_a_device_that_somebody_made_protect_nothing() {
    let mut kernel = node();
    kernel.foreign.extend([
        route("0.0.0.0/0", "ppp0", 3),
        route("0.0.0.0/0", "ppp0", 2),
        route("128.0.0.0/1", "wg0", 3),
        route("10.60.0.0/16", "wg0", 4),
        route("10.244.7.0/24", "via eth1", 2),
        route("10.61.0.0/16", "blackhole", 2),
    ]);
    let why = |d: &str| forbidden(&kernel, &Facts::NoCluster, &config(&[], &[]), d);
    for free in [
        "8.8.8.8",
        "200.0.0.0/8",
        "10.60.3.0/24",
        "10.244.7.0/24",
        "10.61.0.0/16",
    ] {
        assert_eq!(why(free), "", "{free}");
    }
}

#[test]
fn the_most_specific_protection_gives_the_reason_and_equal_ones_the_best_name() {
    let facts = Facts::Known(NodeFacts {
        api_servers: vec![ip("10.116.0.5")],
        ..NodeFacts::default()
    });
    let config = config(&["10.116.0.5", "10.116.0.6"], &["10.116.0.0/24"]);
    let why = |d: &str| forbidden(&node(), &facts, &config, d);
    assert_eq!(why("10.116.0.5"), "is the API server 10.116.0.5");
    assert_eq!(why("10.116.0.6"), "is the gateway 10.116.0.6");
    assert_eq!(
        why("10.116.0.0/24"),
        "is the node's on-link subnet 10.116.0.0/24 (eth1)"
    );
}

#[test]
fn a_gateway_in_a_subnet_of_a_link_that_is_up_is_usable() {
    for gateway in ["10.116.0.5", "fd00:116::5", "fe80::5"] {
        assert_eq!(
            next_hop(ip(gateway), &node()).as_deref(),
            Ok("eth1"),
            "{gateway}"
        );
    }
    assert_eq!(next_hop(ip("203.0.113.1"), &node()).as_deref(), Ok("eth0"));
}

#[test]
fn a_gateway_that_cannot_be_one_is_refused_with_the_reason() {
    let why = |gateway: &str| next_hop(ip(gateway), &node()).unwrap_err();
    insta::assert_snapshot!(
        [
            "10.116.0.20", "10.9.9.9", "127.0.0.2", "10.116.0.0", "10.116.0.255", "fd00:116::", "198.51.100.1", "10.244.7.1", "2001:db9::1", "224.0.0.1",
            "0.0.0.0", "255.255.255.255",
        ]
        .map(|g| format!("{g} {}", why(g)))
        .join("\n"),
        @r"
        10.116.0.20 is one of the node's own addresses (eth1)
        10.9.9.9 is one of the node's own addresses (lo)
        127.0.0.2 is not an address that a next hop can have
        10.116.0.0 is the network address of 10.116.0.0/24 (eth1)
        10.116.0.255 is the broadcast address of 10.116.0.0/24 (eth1)
        fd00:116:: is the network address of fd00:116::/64 (eth1)
        198.51.100.1 is not on-link: only the node's default route leads to it
        10.244.7.1 is not on-link: the node's route 10.244.7.0/24 leads to it through another router
        2001:db9::1 is not on-link: the node has no route to it
        224.0.0.1 is not an address that a next hop can have
        0.0.0.0 is not an address that a next hop can have
        255.255.255.255 is not an address that a next hop can have
        "
    );
}

#[test]
fn a_gateway_on_a_link_without_carrier_is_no_next_hop() {
    let mut node = node();
    let link = node.links.iter_mut().find(|l| *l.name == *"eth1").unwrap();
    link.carrier = false;
    assert_eq!(
        next_hop(ip("10.116.0.5"), &node).unwrap_err(),
        "is on-link by eth1, which has no carrier"
    );
}

#[test]
fn a_route_to_a_gateway_that_an_uncertain_read_left_out_does_not_make_it_off_link() {
    let mut node = node();
    let gateway = ip("fd00:116::5");
    node.foreign.retain(|r| r.key.prefix != p("fd00:116::/64"));
    let via = NexthopKind::Via {
        gateway,
        dev: "eth1".into(),
    };
    let nexthop = Nexthop {
        kind: via,
        protocol: 230,
    };
    node.nexthops.insert(7, nexthop);
    assert!(next_hop(gateway, &node).is_err());
    node.uncertain_v6 = true;
    assert_eq!(&*next_hop(gateway, &node).unwrap(), "eth1");
    node.links.iter_mut().for_each(|link| link.carrier = false);
    assert!(next_hop(gateway, &node).is_err());
}

#[test]
fn a_link_that_is_down_is_the_reason_even_after_its_routes_vanished() {
    let mut kernel = node();
    kernel.links[2].up = false;
    assert_eq!(
        next_hop(ip("10.116.0.5"), &kernel).unwrap_err(),
        "is on-link by eth1, which is down"
    );
    kernel.foreign.retain(|r| r.dev.as_deref() != Some("eth1"));
    assert_eq!(
        next_hop(ip("10.116.0.5"), &kernel).unwrap_err(),
        "is on-link by eth1, which is down"
    );
    kernel.links.remove(2);
    assert_eq!(
        next_hop(ip("10.116.0.5"), &kernel).unwrap_err(),
        "is not on-link: only the node's default route leads to it"
    );
}

#[test]
fn links_of_two_or_one_addresses_have_no_network_or_broadcast_address() {
    let mut kernel = node();
    kernel.links.extend([
        Link::with("p31", &[("10.70.0.0", 31), ("fd00:70::", 127)]),
        Link::with("p32", &[("10.71.0.1", 32)]),
    ]);
    kernel.foreign.extend([
        route("10.70.0.0/31", "p31", 2),
        route("fd00:70::/127", "p31", 2),
        route("10.71.0.255/32", "p32", 2),
    ]);
    assert_eq!(next_hop(ip("10.70.0.1"), &kernel).as_deref(), Ok("p31"));
    assert_eq!(next_hop(ip("fd00:70::1"), &kernel).as_deref(), Ok("p31"));
    assert_eq!(next_hop(ip("10.71.0.255"), &kernel).as_deref(), Ok("p32"));
}

#[test]
fn the_longest_match_decides_and_only_in_the_main_table() {
    let mut kernel = node();
    // A host route through another router beats the subnet.
    kernel.foreign.push(route("10.116.0.5/32", "via eth0", 4));
    assert_eq!(
        next_hop(ip("10.116.0.5"), &kernel).unwrap_err(),
        "is not on-link: the node's route 10.116.0.5/32 leads to it through another router"
    );
    kernel.foreign.push(route("10.116.0.6/32", "blackhole", 4));
    assert_eq!(
        next_hop(ip("10.116.0.6"), &kernel).unwrap_err(),
        "is not on-link: the node's route 10.116.0.6/32 drops what is sent to it"
    );
    let mut elsewhere = route("10.116.0.7/32", "via eth0", 4);
    elsewhere.key.table = 100;
    kernel.foreign.push(elsewhere);
    assert_eq!(next_hop(ip("10.116.0.7"), &kernel).as_deref(), Ok("eth1"));
    // The same subnet on two links: the lower metric.
    let mut second = route("10.116.0.0/24", "eth0", 2);
    second.key.metric = 100;
    kernel.foreign.insert(0, second);
    assert_eq!(next_hop(ip("10.116.0.8"), &kernel).as_deref(), Ok("eth1"));
}

#[test]
fn a_link_local_gateway_on_several_links_is_refused() {
    let mut kernel = node();
    kernel.foreign.push(route("fe80::/64", "eth0", 2));
    assert_eq!(
        next_hop(ip("fe80::5"), &kernel).unwrap_err(),
        "is link-local, and on-link by several links (eth1, eth0); use an address that is only on one"
    );
}

#[test]
fn a_device_whose_name_would_break_a_batch_is_refused() {
    for name in ["a b", "a#b", "a\"b", "a'b", "a\\b", "a\u{fffd}"] {
        let mut kernel = node();
        kernel.links.push(Link::with(name, &[("10.80.0.1", 24)]));
        kernel.foreign.push(route("10.80.0.0/24", name, 2));
        let why = next_hop(ip("10.80.0.5"), &kernel).unwrap_err();
        assert!(
            why.ends_with("a device name that cannot be written into a batch of `ip`"),
            "{why}"
        );
    }
}
