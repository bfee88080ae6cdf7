//! No gateway is healthy: what `whenDown` makes of it, as the echo host and the node's interfaces see it.

use super::traffic::{CHECK, LIMIT};
use crate::lab::Node;
use crate::lab::{ECHO_PORT, G1_PUBLIC, NODE_PUBLIC, wait_until};

const HELD: &str = "203.0.113.1";
const WITHDRAWN: &str = "203.0.113.2";
const BLACKHOLED: &str = "203.0.113.3";

fn three_sets() -> Node {
    let sets = [("hold", HELD), ("withdraw", WITHDRAWN), ("blackhole", BLACKHOLED)]
        .map(|(when, to)| format!("- name: {when}\n  whenDown: {when}\n  gateways: [10.116.0.5]\n  destinations: [{to}]\n  {CHECK}\n"));
    Node::new(&format!("routes:\n{}", sets.concat()))
}

fn all(node: &Node, states: &[&str; 3]) {
    for (set, state) in ["hold", "withdraw", "blackhole"].iter().zip(states) {
        node.wait_for_gateways(set, &[state]);
    }
}

/// The error of a connection, and after how long at most it comes: a blackhole answers the node's own processes at once.
fn is_refused_by_the_node(node: &Node, to: &str) {
    let output = node.lab.run("nd", &["ip", "route", "get", to]);
    assert!(
        output.code == 2 && output.err.contains("Invalid argument"),
        "{output:?}"
    );
}

#[test]
fn all_gateways_dead_holds_withdraws_or_blackholes() {
    let node = three_sets();
    let agent = node.agent_in_force(&[]);
    all(&node, &["up*", "up*", "up*"]);
    for _ in 0..2 {
        for to in [HELD, WITHDRAWN, BLACKHOLED] {
            node.wait_for_source(to, G1_PUBLIC);
        }
        node.deaf("g1", true);
        all(&node, &["down*", "down", "down"]);
        assert_eq!(
            node.lab.source("nd", HELD),
            G1_PUBLIC,
            "it still forwards, and the check may be what is wrong"
        );
        assert_eq!(node.lab.source("nd", WITHDRAWN), NODE_PUBLIC);
        let (public, private) = (
            node.count("eth0", &[BLACKHOLED], &[]),
            node.count("eth1", &[BLACKHOLED], &[]),
        );
        assert_eq!(node.lab.source("nd", BLACKHOLED), "-");
        is_refused_by_the_node(&node, BLACKHOLED);
        assert_eq!((public.packets(), private.packets()), (0, 0));
        node.lab.must("nd", &["nft", "flush", "ruleset"]);
        let status = node.status();
        assert_eq!(status["status"], "Degraded");
        let message = status["message"].as_str().unwrap();
        for words in [
            "its routes are held",
            "its routes are withdrawn",
            "its destinations are blackholed",
            "no answer within 800ms",
        ] {
            assert!(message.contains(words), "{message}");
        }
        node.deaf("g1", false);
        all(&node, &["up*", "up*", "up*"]);
        assert_eq!(node.status()["status"], "Ready");
    }
    let output = agent.log();
    assert_eq!(
        (
            output.matches("Gateway down").count(),
            output.matches("Gateway up again").count()
        ),
        (2, 2),
        "{output}"
    );
    assert_eq!(output.matches("No healthy gateway").count(), 2, "{output}");
}

#[test]
fn gateways_that_are_no_longer_on_link_hold_withdraw_or_blackhole_as_dead_ones_do() {
    let node = three_sets();
    let _agent = node.agent_in_force(&[]);
    all(&node, &["up*", "up*", "up*"]);
    // Another network on the same link, so that the kernel has no reason to drop routes by itself.
    node.lab.ip("nd", "addr add 10.117.0.2/24 dev eth1");
    node.lab.ip("nd", "addr del 10.116.0.2/24 dev eth1");
    all(&node, &["unusable", "unusable", "unusable"]);
    assert_eq!(node.lab.source("nd", WITHDRAWN), NODE_PUBLIC);
    is_refused_by_the_node(&node, BLACKHOLED);
    let (public, private) = (
        node.count("eth0", &[HELD], &[]),
        node.count("eth1", &[HELD], &[]),
    );
    assert_eq!(
        node.lab.source("nd", HELD),
        "-",
        "the gateway does not take packets from there"
    );
    assert_eq!(public.packets(), 0);
    assert!(private.packets() > 0, "{:#}", node.status());
    let message = node.status()["message"].to_string();
    assert!(
        message
            .contains("none of its gateways is on-link here; the routes that are there are held"),
        "{message}"
    );

    node.lab.ip("nd", "addr add 10.116.0.2/24 dev eth1");
    node.lab.ip("nd", "addr del 10.117.0.2/24 dev eth1");
    for to in [HELD, WITHDRAWN, BLACKHOLED] {
        node.wait_for_source(to, G1_PUBLIC);
    }
}

#[test]
fn a_probe_that_was_never_answered_is_the_likelier_fault_so_the_routes_stay_and_the_report_says_why()
 {
    let node = three_sets();
    node.deaf("g1", true);
    let mut agent = node.agent_in_force(&[]);
    all(&node, &["down*", "down*", "down*"]);
    let routes_stay = || {
        for to in [HELD, WITHDRAWN, BLACKHOLED] {
            assert_eq!(node.lab.source("nd", to), G1_PUBLIC);
        }
        let status = node.status();
        assert_eq!(status["status"], "Degraded");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("no gateway has answered a probe since the agent started, so the probe is probably blocked"), "{message}");
    };
    routes_stay();
    assert!(
        agent.log().contains("the probe is probably blocked"),
        "{}",
        agent.log()
    );
    agent.kill();
    let _agent = node.agent_in_force(&[]);
    all(&node, &["down*", "down*", "down*"]);
    routes_stay();
    // One success, and a failure is the gateway's.
    node.deaf("g1", false);
    all(&node, &["up*", "up*", "up*"]);
    node.deaf("g1", true);
    all(&node, &["down*", "down", "down"]);
    assert_eq!(node.lab.source("nd", WITHDRAWN), NODE_PUBLIC);
}

#[test]
fn a_set_that_was_withdrawn_or_blackholed_stays_so_over_a_restart_of_the_agent() {
    let node = three_sets();
    let mut agent = node.agent_in_force(&[]);
    all(&node, &["up*", "up*", "up*"]);
    node.deaf("g1", true);
    all(&node, &["down*", "down", "down"]);
    agent.kill();
    let public = node.count("eth0", &[BLACKHOLED], &[]);
    let private = node.count("eth1", &[WITHDRAWN, BLACKHOLED], &[]);
    let watch = node.watch(5, &[WITHDRAWN, BLACKHOLED]);
    let agent = node.agent_in_force(&[]);
    all(&node, &["down*", "down", "down"]);
    watch.wait_for(&format!("{WITHDRAWN} {NODE_PUBLIC} after"), LIMIT);
    // Three failures later it still has not mistaken the loss for a blocked probe.
    assert!(
        wait_until(LIMIT, || node.status()["sets"][1]["gateways"][0]["reason"]
            == "no answer within 800ms"),
        "{:#}",
        node.status()
    );
    all(&node, &["down*", "down", "down"]);
    assert_eq!(
        (public.packets(), private.packets()),
        (0, 0),
        "{}",
        agent.log()
    );
}

#[test]
fn correcting_the_port_of_a_check_that_never_answered_takes_no_working_route_away() {
    let routes = |port: u16| {
        format!(
            "routes:\n- name: withdraw\n  whenDown: withdraw\n  gateways: [10.116.0.5]\n  destinations: [{WITHDRAWN}]\n  \
             healthCheck: {{type: tcp, port: {port}, interval: 200ms, timeout: 800ms, failures: 3, successes: 5}}\n"
        )
    };
    let mut node = Node::new(&routes(ECHO_PORT + 90));
    let listening = node.lab.echo_server("g1", &[]);
    let agent = node.agent_in_force(&[]);
    node.wait_for_gateways("withdraw", &["down*"]);
    let watch = node.watch(5, &[WITHDRAWN]);
    watch.wait_for(&format!("{WITHDRAWN} {G1_PUBLIC}"), LIMIT);
    node.volume.routes(&routes(ECHO_PORT));
    node.wait_for_gateways("withdraw", &["up*"]);
    assert!(
        !watch.log().contains(NODE_PUBLIC),
        "packets left by the node's own address:\n{}\n{}",
        watch.log(),
        agent.log()
    );
    // From now on the check counts.
    drop(listening);
    node.wait_for_gateways("withdraw", &["down"]);
    assert_eq!(node.lab.source("nd", WITHDRAWN), NODE_PUBLIC);
}
