//! What watching gateways costs, and what one that flaps does.

use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{FABRIC, Running};
use crate::lab::{Node, WrappedIp};

/// Processor time of the agent and of every `ip` that it ran.
fn cpu_time(agent: &Running) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    // utime, stime, cutime, cstime: fields 14 to 17, in hundredths of a second.
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn sixteen_gateways_in_fifty_sets_are_sixteen_probes_a_second_and_hardly_any_work() {
    const GATEWAYS: u8 = 16;
    const SETS: u8 = 50;
    const SPAN: Duration = Duration::from_secs(20);
    let gateways: Vec<String> = (0..GATEWAYS)
        .map(|n| format!("10.116.0.{}", 50 + n))
        .collect();
    let mut routes = String::from("routes:\n");
    for set in 0..SETS {
        let _ = writeln!(
            routes,
            "- name: set-{set}\n  gateways: [{}]\n  destinations: [203.0.113.{set}]",
            gateways.join(", ")
        );
    }
    let node = Node::new(&routes);
    for gateway in &gateways {
        node.lab
            .ip("g1", &format!("addr add {gateway}/24 dev eth1"));
    }
    let agent = node.agent_in_force(&[]);
    node.wait_for_gateways("set-49", &["up*"; GATEWAYS as usize]);
    let probes = node.count("eth1", &["10.116.0.50-10.116.0.65"], &[]);
    let (start, cpu) = (Instant::now(), cpu_time(&agent));
    probes.reset();
    sleep(SPAN); // the span that is measured
    let (probes, spent, span) = (
        probes.packets(),
        cpu_time(&agent).saturating_sub(cpu),
        start.elapsed(),
    );
    let share = spent.as_secs_f64() / span.as_secs_f64() * 100.0;
    println!(
        "{GATEWAYS} gateways, {SETS} sets, interval 1 s: {:.2} probes a second, {share:.2} % of a core with all `ip`s",
        f64::from(u32::try_from(probes).unwrap()) / span.as_secs_f64(),
    );
    let expected = u64::from(GATEWAYS) * SPAN.as_secs();
    assert!(
        probes.abs_diff(expected) <= expected / 10,
        "{probes} probes instead of {expected}"
    );
    assert!(
        share < if cfg!(debug_assertions) { 5.0 } else { 1.0 },
        "{share} %"
    );
}

/// One of two gateways comes and goes; asserts that this costs few changes and few lines of log.
fn flap(interval: Duration, half: Duration, flaps: u32) -> String {
    let node = Node::new(&format!(
        "routes:\n- name: a\n  gateways: [10.116.0.5, 10.116.0.6]\n  destinations: [203.0.113.0/24]\n  \
         healthCheck: {{interval: {0}ms, failures: 3}}\n",
        interval.as_millis()
    ));
    let wrapper = WrappedIp::new("cat");
    let agent = node.agent_in_force_behind(&wrapper);
    node.wait_for_gateways("a", &["up*", "up*"]);
    wrapper.forget();
    let lines = || agent.log().lines().count();
    let before = lines();
    for _ in 0..flaps {
        for state in ["down", "up"] {
            node.lab.ip(FABRIC, &format!("link set g1-eth1 {state}"));
            sleep(half); // a flapping gateway is one that does this
        }
    }
    let (batches, lines) = (wrapper.batches().len(), lines() - before);
    // Five, ten and twenty successes are asked for; more than half a period has.
    assert!((1..=8).contains(&batches), "{batches}\n{}", agent.log());
    assert!(lines <= 3 * batches, "{lines}\n{}", agent.log());
    format!(
        "interval {interval:?}, {flaps} times {half:?} down and {half:?} up: {batches} membership changes, {lines} lines of log"
    )
}

#[test]
fn a_gateway_that_flaps_is_left_out_after_a_few_times() {
    println!(
        "{}",
        flap(Duration::from_millis(100), Duration::from_secs(1), 8)
    );
}

#[test]
#[ignore = "takes more than a minute"]
fn a_gateway_that_flaps_for_a_minute_costs_a_few_changes() {
    println!(
        "{}",
        flap(Duration::from_millis(200), Duration::from_secs(2), 15)
    );
}
