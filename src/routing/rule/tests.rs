use super::*;
use crate::routing::state::{ForeignRoute, Kernel, Link};

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn a(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with pods behind `cni0`, one of them with a route of its own as Calico and AWS make them.
fn node() -> Kernel {
    Kernel {
        links: vec![
            Link::with("eth0", &[("192.0.2.2", 24)]),
            Link::with("cni0", &[("10.244.0.1", 24)]),
            Link::with("cali7", &[("169.254.1.1", 32)]),
        ],
        foreign: vec![
            ForeignRoute::to_link(p("0.0.0.0/0"), "eth0"),
            ForeignRoute::to_link(p("192.0.2.0/24"), "eth0"),
            ForeignRoute::to_link(p("10.244.0.0/24"), "cni0"),
            ForeignRoute::to_link(p("10.244.0.7/32"), "cali7"),
        ],
        ..Kernel::default()
    }
}

fn made(rule: &Rule, pods: &[&str]) -> Vec<String> {
    let kernel = node();
    let pods: Vec<Prefix> = pods.iter().map(|pod| p(pod)).collect();
    let packets = rule.packets(a("203.0.113.1"), &Origins::new(&kernel, &pods));
    packets
        .iter()
        .map(|packet| packet.to_string().trim().to_owned())
        .collect()
}

fn rule(selector: Selector, not: bool) -> Rule {
    Rule {
        priority: 1000,
        not,
        selector,
        action: Action::Table(100),
    }
}

#[test]
fn a_packet_is_made_as_the_rule_wants_it_and_comes_in_where_its_sender_is() {
    let all = Selector::default;
    let from = |text: &str| Selector {
        from: Some(p(text)),
        ..all()
    };
    assert_eq!(
        made(&rule(from("10.244.0.7/32"), false), &[]),
        ["from 10.244.0.7 iif cali7"]
    );
    assert_eq!(
        made(&rule(from("10.244.0.9/32"), false), &[]),
        ["from 10.244.0.9 iif cni0"]
    );
    assert_eq!(
        made(&rule(from("172.16.0.0/12"), false), &[]),
        ["from 172.16.0.1 iif eth0"]
    );
    assert_eq!(
        made(&rule(from("192.0.2.2/32"), false), &[]),
        ["from 192.0.2.2"],
        "the node's own"
    );
    let marked = Selector {
        mark: Some((0x1ff, 0xff)),
        dports: Some((53, 60)),
        ..all()
    };
    assert_eq!(
        made(&rule(marked, false), &[]),
        ["mark 0xff ipproto tcp dport 53"]
    );
    let users = Selector {
        uids: Some((1000, 1999)),
        ..all()
    };
    assert_eq!(
        made(&rule(users, false), &["10.244.0.0/24"]),
        ["uid 1000"],
        "no pod's packet has one"
    );
    let incoming = |iif: &str| Selector {
        iif: Some(iif.into()),
        ..all()
    };
    assert_eq!(
        made(&rule(incoming("cni0"), false), &[]),
        ["from 10.244.0.2 iif cni0"]
    );
    assert_eq!(made(&rule(incoming("lo"), false), &["10.244.0.0/24"]), [""]);
    assert!(made(&rule(incoming("gone0"), false), &[]).is_empty());
    assert_eq!(
        made(&rule(from("192.0.2.2/32"), true), &["10.244.0.0/24"]),
        ["", "from 10.244.0.7 iif cali7"],
        "what it does not select"
    );
    assert!(made(&rule(from("2001:db8::/32"), false), &[]).is_empty());
}

#[test]
fn the_first_rule_that_takes_a_packet_is_named_also_past_a_goto() {
    let to = |priority, action| Rule {
        priority,
        action,
        ..Rule::default()
    };
    let pod = Rule {
        selector: Selector {
            from: Some(p("10.244.0.7/32")),
            ..Selector::default()
        },
        ..to(100, Action::Table(7))
    };
    let rules = Rules(vec![
        to(0, Action::Table(255)),
        pod,
        to(200, Action::Goto(400)),
        to(300, Action::Table(8)),
        to(400, Action::Table(9)),
        to(32766, Action::Table(254)),
    ]);
    let first = |packet: &Packet| {
        let found = rules.first(packet, |action| matches!(action, Action::Table(7..=9)));
        found.map(|rule| rule.priority)
    };
    let node = Packet::to(a("203.0.113.1"));
    assert_eq!(first(&node), Some(400));
    assert_eq!(
        first(&Packet {
            from: Some(a("10.244.0.7")),
            iif: Some("cni0".into()),
            ..node
        }),
        Some(100)
    );
    assert!(rules.lead_all_to(254) && rules.before(254).len() == 5 && !rules.lead_all_to(10));
}
