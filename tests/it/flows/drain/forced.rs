//! What ends a drain by force, what cannot drain, and how unequal weights and many gateways share.

use super::{addresses, agent, on_it, pod, report, start};
use crate::flows::talk::{CONNECTIONS, Talk};
use crate::flows::traffic::{CHECK, LIMIT};
use crate::lab::{G1, G1_PUBLIC, G2, G2_PUBLIC, wait_until};
use crate::lab::{Node, WrappedIp};

fn routes(gateways: &str, keys: &str) -> String {
    format!(
        "routes:\n- name: a\n  gateways: [{gateways}]\n  destinations: [198.18.0.0/15]\n  {keys}\n  {CHECK}\n"
    )
}

fn drained(gateway: &str) -> String {
    format!("{{address: {gateway}, drain: true}}")
}

#[test]
fn drain_timeout_moves_busy_flows_by_force() {
    let limit = "strategy: failover\n  drainTimeout: 12s";
    let (mut node, agent) = start(&routes(&format!("{G1}, {G2}"), limit));
    let all = addresses("198.18");
    let mut busy = Talk::to(&node, "pod", &all[..100]);
    let after = format!("{}, {G2}", drained(G1));
    node.volume.routes(&routes(&after, limit));
    let mut counts = Vec::new();
    busy.until(|| {
        counts.extend(report(&node, G1).1);
        counts.last() == Some(&0)
    });
    assert!(counts.iter().any(|n| *n >= 90), "all were busy: {counts:?}");
    assert_eq!(busy.broken().len(), 100, "the gateway was left by force");
    agent.wait_for(&format!("Gateway {G1} is drained"), LIMIT);
    assert_eq!(on_it(&node, &all, G2_PUBLIC).len(), CONNECTIONS);
}

#[test]
fn the_only_healthy_gateway_goes_on_and_drains_as_soon_as_another_one_is_healthy() {
    let limit = "strategy: failover\n  drainTimeout: 80s";
    let node = Node::new(&routes(&format!("{}, {G2}", drained(G1)), limit));
    pod(&node);
    node.deaf("g2", true);
    let agent = node.agent(&["--resync", "1s"]);
    node.wait_for_gateways("a", &["up*", "down"]);
    let problems = node.status()["problems"].to_string();
    assert!(problems.contains("notDrained"), "{problems}");
    let mut busy = Talk::to(&node, "pod", &addresses("198.18")[..100]);
    node.deaf("g2", false);
    busy.until(|| report(&node, G1).0 == "draining");
    (0..5).for_each(|_| busy.round());
    assert_eq!(busy.broken().len(), 0, "{}", agent.log());
    assert!(report(&node, G1).1.is_some_and(|n| n >= 90));
}

#[test]
fn without_resilient_groups_a_drained_gateway_is_left_at_once_and_a_warning_names_it() {
    let without = WrappedIp::new("sed 's/ group .* type resilient .*/ group 1/'");
    let mut node = Node::new(&routes(&format!("{G1}, {G2}"), ""));
    let agent = node.agent_in_force_behind(&without);
    node.wait_for_gateways("a", &["up*", "up*"]);
    node.volume
        .routes(&routes(&format!("{}, {G2}", drained(G1)), ""));
    agent.wait_for(
        &format!("{G1} is drained at once and its connections break"),
        LIMIT,
    );
    assert_eq!(node.gateways("a")[G1], "draining");
    assert_eq!(node.lab.source("nd", "198.18.0.1"), G2_PUBLIC);
}

#[test]
fn new_flows_share_by_weight() {
    let weighted = format!("{G1}, {{address: {G2}, weight: 3}}");
    let (node, _agent) = start(&routes(&weighted, ""));
    let all = addresses("198.18");
    let (first, second) = (
        on_it(&node, &all, G1_PUBLIC).len(),
        on_it(&node, &all, G2_PUBLIC).len(),
    );
    println!("  of {CONNECTIONS} flows at weights 1 and 3: {first} and {second}");
    assert_eq!(first + second, CONNECTIONS);
    // A quarter is 75; four standard deviations are 30.
    assert!((45..=105).contains(&first), "{first}");
}

#[test]
fn of_sixteen_gateways_fifteen_drain_at_once_and_one_takes_all() {
    let node = Node::new("routes: []\n");
    let hosts: Vec<String> = (5..=20).map(|n| format!("10.116.0.{n}")).collect();
    for address in &hosts[3..] {
        node.lab
            .ip("g2", &format!("addr add {address}/24 dev eth1"));
    }
    let mut node = node;
    pod(&node);
    node.volume
        .routes(&routes(&hosts.join(", "), "drainTimeout: 20s"));
    let agent = agent(&node);
    node.wait_for_gateways("a", &["up*"; 16]);
    let all = addresses("198.18");
    let mut busy = Talk::to(&node, "pod", &all[..100]);
    let leaving: Vec<String> = hosts[1..].iter().map(|host| drained(host)).collect();
    let gateways = format!("{G1}, {}", leaving.join(", "));
    // The limit counts from when they are seen leaving.
    node.volume.routes(&routes(&gateways, "drainTimeout: 80s"));
    busy.until(|| {
        hosts[1..]
            .iter()
            .all(|host| report(&node, host).0 == "draining")
    });
    (0..5).for_each(|_| busy.round());
    assert_eq!(busy.broken().len(), 0, "{}", agent.log());
    drop(busy);
    let done = || {
        hosts[1..]
            .iter()
            .all(|host| report(&node, host).1 == Some(0))
    };
    assert!(wait_until(LIMIT, done), "{:#}", node.status());
    assert_eq!(on_it(&node, &all, G1_PUBLIC).len(), CONNECTIONS);
}
