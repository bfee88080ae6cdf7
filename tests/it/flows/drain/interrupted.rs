//! A drain that outlives its agent, one in a group of an earlier version, and one of IPv6.

use super::{Case, FAILOVER, addresses, agent, on_it, pod, report, start};
use crate::flows::talk::Talk;
use crate::flows::traffic::{CHECK, LIMIT};
use crate::lab::Node;
use crate::lab::{G1, G1_PUBLIC, G1_V6, G2_PUBLIC, G2_V6, wait_until};

/// Drains while all talk, kills the agent in the middle, and lets another one finish.
fn drains_over_a_kill(case: &Case, before: impl FnOnce(&Node)) {
    let mut node = Node::new(&case.routes(case.before));
    pod(&node);
    before(&node);
    let mut first = agent(&node);
    let mut busy = Talk::to(&node, "pod", &addresses("198.18")[..100]);
    node.volume.routes(&case.routes(case.drained));
    busy.until(|| report(&node, G1).0 == "draining");
    first.kill();
    busy.round();
    let second = agent(&node);
    let (mut counts, mut rounds) = (Vec::new(), 0);
    busy.until(|| {
        rounds += 1;
        counts.extend(report(&node, G1).1);
        rounds > 20
    });
    assert_eq!(busy.broken().len(), 0, "{}", second.log());
    assert!(counts.iter().any(|n| *n >= 90), "{counts:?}");
    drop(busy);
    let done = || report(&node, G1) == ("draining".to_owned(), Some(0));
    assert!(wait_until(LIMIT, done), "{:#}", node.status());
    assert_eq!(on_it(&node, &addresses("198.19"), G1_PUBLIC).len(), 0);
}

#[test]
fn a_drain_goes_on_when_the_agent_is_killed_in_the_middle_of_it() {
    drains_over_a_kill(&FAILOVER, |_| {});
}

#[test]
fn a_group_of_an_earlier_version_keeps_its_512_buckets_and_drains_all_the_same() {
    // As that version made it: one member, 512 buckets, a group of its set's name.
    const GROUP: u32 = 0x2515_72b7;
    assert_eq!(
        GROUP,
        egress_routes::net::nexthop_id::group("a", egress_routes::net::prefix::Family::V4)
    );
    let buckets = |node: &Node| {
        let groups = node.lab.json("nd", &format!("nexthop show id {GROUP}"));
        groups[0]["resilient_args"]["buckets"].as_u64()
    };
    drains_over_a_kill(&FAILOVER, |node| {
        node.lab.batch(
            "nd",
            &format!(
                "nexthop add id 536870900 via {G1} dev eth1 proto 230\n\
                 nexthop add id {GROUP} group 536870900 type resilient buckets 512 idle_timer 300 proto 230\n\
                 route add 198.18.0.0/15 nhid {GROUP} proto 230 metric 4242\n"
            ),
        );
        assert_eq!(buckets(node), Some(512));
    });
}

#[test]
fn a_refused_configuration_and_a_new_agent_do_not_bring_a_drained_gateway_back() {
    let (mut node, mut first) = start(&FAILOVER.routes("10.116.0.6, 10.116.0.7, 10.116.0.5"));
    let balance = |first: &str| {
        FAILOVER
            .routes(&format!("{first}, 10.116.0.6, 10.116.0.7"))
            .replace("strategy: failover", "strategy: balance")
    };
    node.volume
        .routes(&balance("{address: 10.116.0.5, drain: true}"));
    let left = || report(&node, G1) == ("draining".to_owned(), Some(0));
    assert!(wait_until(LIMIT, left), "{:#}", node.status());
    first.wait_for("Configuration in force", LIMIT);
    node.volume.routes("routes: [\n");
    first.wait_for("refused", LIMIT);
    first.kill();
    let second = node.agent(&["--resync", "1s"]);
    assert!(
        wait_until(LIMIT, || node.status()["sets"][0]["installed"] == 1),
        "{:#}\n{}",
        node.status(),
        second.log()
    );
    for _ in 0..5 {
        let all = addresses("198.18");
        assert_eq!(on_it(&node, &all, G1_PUBLIC).len(), 0, "{}", second.log());
    }
    assert!(!on_it(&node, &addresses("198.18"), G2_PUBLIC).is_empty());
}

#[test]
fn connections_of_ipv6_stay_as_well() {
    let routes = |first: &str| {
        format!(
            "routes:\n- name: a\n  strategy: failover\n  gateways: [{first}, '{G2_V6}']\n  drainTimeout: 80s\n  \
             destinations: ['2001:db8:18::/48']\n  {CHECK}\n"
        )
    };
    let (mut node, agent) = start(&routes(&format!("'{G1_V6}'")));
    let all: Vec<String> = (1..=50).map(|n| format!("2001:db8:18::{n:x}")).collect();
    let mut busy = Talk::to(&node, "pod", &all);
    let drained = format!("{{address: '{G1_V6}', drain: true}}");
    node.volume.routes(&routes(&drained));
    busy.until(|| report(&node, G1_V6).0 == "draining");
    (0..5).for_each(|_| busy.round());
    assert_eq!(busy.broken().len(), 0, "{}", agent.log());
    assert!(report(&node, G1_V6).1.is_some_and(|n| n >= 40));
    drop(busy);
    let done = || report(&node, G1_V6).1 == Some(0);
    assert!(wait_until(LIMIT, done), "{:#}", node.status());
}
