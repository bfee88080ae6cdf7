//! `failover`: how soon the backup carries the traffic, by what commands, and when the first one gets it back.

use super::traffic::{CHECK, LIMIT, list};
use crate::lab::{FABRIC, G1_PUBLIC, G2_PUBLIC, ONE, Running, wait_until};
use crate::lab::{Node, WrappedIp};

/// How many milliseconds [`ONE`] was silent before it answered by this source. Where nothing was lost, the last answers
/// of the other source may come a little later than the first of this one: those are no change.
fn silences(watch: &Running, source: &str) -> Vec<u64> {
    let output = watch.log();
    let start = format!("echo: {ONE} {source} after ");
    output
        .lines()
        .filter_map(|line| line.strip_prefix(&start)?.strip_suffix(" ms")?.parse().ok())
        .filter(|ms| *ms >= 100)
        .collect()
}

/// The `took_ms` of every switch that the agent logged.
fn switches(agent: &Running) -> Vec<u64> {
    let output = agent.log();
    let lines = output
        .lines()
        .filter(|line| line.contains("Nexthop groups re-pointed"));
    lines
        .filter_map(|line| {
            line.split("took_ms=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect()
}

#[test]
fn the_backup_carries_the_traffic_soon_however_many_destinations_there_are() {
    const CUTS: usize = 3;
    let routes = "routes:\n- name: a\n  strategy: failover\n  gateways: [10.116.0.5, 10.116.0.6]\n  destinationFiles: [list.txt]\n  \
                  healthCheck: {interval: 200ms, failures: 3, successes: 2}\n";
    println!("failover, interval 200 ms, failures 3; {CUTS} cuts each, in ms");
    println!(
        "  destinations   cut to the first packet through the backup   of these, the nexthop commands"
    );
    for count in [10, 10_000, 45_000] {
        let node = Node::with_files(&[("routes.yaml", routes), ("list.txt", &list(count))]);
        let agent = node.agent_in_force(&[]);
        node.wait_for_gateways("a", &["up*", "up"]);
        let leaked = node.count("eth0", &["34.160.111.0/24"], &[]);
        let watch = node.watch(5, &[ONE]);
        watch.wait_for(G1_PUBLIC, LIMIT);
        for cut in 1..=CUTS {
            node.lab.ip(FABRIC, "link set g1-eth1 down");
            assert!(
                wait_until(LIMIT, || silences(&watch, G2_PUBLIC).len() == cut),
                "{}{}",
                agent.log(),
                watch.log()
            );
            // The report follows a little later than the traffic.
            node.wait_for_gateways("a", &["down", "up*"]);
            node.lab.ip(FABRIC, "link set g1-eth1 up");
            node.wait_for_gateways("a", &["up*", "up"]);
        }
        let there = silences(&watch, G2_PUBLIC);
        println!(
            "  {count:>12}   {:>44}   {:>32}",
            format!("{there:?}"),
            format!("{:?}", switches(&agent))
        );
        assert!(
            there.iter().all(|ms| *ms < 5000),
            "{there:?}\n{}",
            agent.log()
        );
        assert_eq!(leaked.packets(), 0, "there was a moment without a route");
    }
}

#[test]
fn a_switch_does_not_wait_for_a_long_table_to_be_read() {
    const READING: u32 = 6;
    let routes = format!(
        "routes:\n- name: a\n  strategy: failover\n  gateways: [10.116.0.5, 10.116.0.6]\n  destinations: [{ONE}]\n  {CHECK}\n"
    );
    let node = Node::new(&routes);
    let wrapper = WrappedIp::that(&format!(
        "case \"$*\" in *'route save'*) sleep {READING} ;; esac"
    ));
    let agent = node.agent_in_force_behind(&wrapper);
    node.wait_for_gateways("a", &["up*", "up"]);
    let watch = node.watch(5, &[ONE]);
    watch.wait_for(G1_PUBLIC, LIMIT);
    // An address is a reason to read; the verdict comes in the middle of that.
    node.lab.ip("nd", "addr add 10.118.0.1/32 dev lo");
    node.lab.ip(FABRIC, "link set g1-eth1 down");
    watch.wait_for(G2_PUBLIC, LIMIT);
    let silence = silences(&watch, G2_PUBLIC)[0];
    println!("while a read of {READING} s was under way: {silence} ms");
    assert!(
        silence < u64::from(READING) * 1000 - 1000,
        "{silence}\n{}",
        agent.log()
    );
}

#[test]
fn a_switch_is_one_batch_of_nexthop_commands_and_never_a_route_command() {
    let list = list(1500);
    let routes = format!(
        "routes:\n- name: a\n  strategy: failover\n  gateways: [10.116.0.5, 10.116.0.6]\n  destinationFiles: [l]\n  {CHECK}\n"
    );
    let node = Node::with_files(&[("routes.yaml", &routes), ("l", &list)]);
    let wrapper = WrappedIp::new("cat");
    let agent = node.agent_in_force_behind(&wrapper);
    node.wait_for_gateways("a", &["up*", "up"]);
    assert!(
        wrapper
            .lines()
            .iter()
            .any(|line| line.starts_with("route add")),
        "the wrapper sees what is written"
    );
    for (link, states) in [("down", ["down", "up*"]), ("up", ["up*", "up"])] {
        wrapper.forget();
        node.lab.ip(FABRIC, &format!("link set g1-eth1 {link}"));
        node.wait_for_gateways("a", &states);
        let batches = wrapper.batches();
        assert_eq!(batches.len(), 1, "{batches:?}\n{}", agent.log());
        assert!(
            batches[0].lines().count() == 1 && batches[0].starts_with("nexthop replace id "),
            "{batches:?}"
        );
    }
}

#[test]
fn without_failback_the_backup_stays_until_it_fails_itself_whatever_happens_to_the_agent() {
    let node = Node::new(&format!(
        "routes:\n- name: a\n  strategy: failover\n  failback: false\n  gateways: [10.116.0.5, 10.116.0.6, 10.116.0.7]\n  \
         destinations: [{ONE}]\n  {CHECK}\n"
    ));
    let wrapper = WrappedIp::new("cat");
    let mut agent = node.agent_in_force_behind(&wrapper);
    node.wait_for_gateways("a", &["up*", "up", "up"]);
    node.lab.ip(FABRIC, "link set g1-eth1 down");
    node.wait_for_gateways("a", &["down", "up*", "up"]);
    wrapper.forget();
    // An agent that starts while the first one is down, and one that finds it well again.
    agent.kill();
    let mut agent = node.agent_in_force_behind(&wrapper);
    node.wait_for_gateways("a", &["down", "up*", "up"]);
    node.lab.ip(FABRIC, "link set g1-eth1 up");
    node.wait_for_gateways("a", &["up", "up*", "up"]);
    agent.signal("TERM");
    assert_eq!(agent.ends(LIMIT), Some(0));
    let _agent = node.agent_in_force_behind(&wrapper);
    node.wait_for_gateways("a", &["up", "up*", "up"]);
    assert_eq!(wrapper.lines(), [""; 0]);
    assert_eq!(node.lab.source("nd", ONE), G2_PUBLIC);

    node.lab.ip(FABRIC, "link set g2-eth1 down");
    node.wait_for_gateways("a", &["up*", "down", "up"]);
    node.lab.ip(FABRIC, "link set g2-eth1 up");
    node.wait_for_gateways("a", &["up*", "up", "up"]);
    assert_eq!(node.lab.source("nd", ONE), G1_PUBLIC);
}

#[test]
fn without_failback_the_backup_stays_also_while_the_kernel_cannot_be_read() {
    let node = Node::new(&format!(
        "routes:\n- name: a\n  strategy: failover\n  failback: false\n  gateways: [10.116.0.5, 10.116.0.6]\n  \
         destinations: [{ONE}]\n  {CHECK}\n"
    ));
    let wrapper = WrappedIp::unable_to_read();
    let agent = node.agent_in_force_behind(&wrapper);
    node.wait_for_gateways("a", &["up*", "up"]);
    assert_eq!(node.lab.source("nd", ONE), G1_PUBLIC);
    wrapper.fail(true);
    node.lab.ip(FABRIC, "link set g1-eth1 down");
    agent.wait_for("Gateway down", LIMIT);
    node.wait_for_source(ONE, G2_PUBLIC);
    agent.wait_for("could not be read or written", LIMIT);
    node.lab.ip(FABRIC, "link set g1-eth1 up");
    // Groups are re-pointed before this is logged.
    agent.wait_for("Gateway up again", LIMIT);
    assert_eq!(node.lab.source("nd", ONE), G2_PUBLIC, "{}", agent.log());
    wrapper.fail(false);
    node.wait_for_gateways("a", &["up", "up*"]);
    assert_eq!(node.lab.source("nd", ONE), G2_PUBLIC);
    let switches = wrapper.lines();
    let switches: Vec<&String> = switches
        .iter()
        .filter(|line| line.contains(" group "))
        .collect();
    assert_eq!(switches.len(), 2, "made, and switched once: {switches:?}");
}
