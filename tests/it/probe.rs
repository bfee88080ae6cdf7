//! Probes as real packets: from a node, to and through real gateways, in namespaces.
//!
//! What is under test is the library's [`Probes`] with the real `ip`; the test binary itself plays the
//! node's agent (see [`prober`]), which only probes and prints what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress_routes::config::{HealthCheck, Probe};
use egress_routes::health::probe::{ProbePath, Probes};
use egress_routes::health::{ProbeKey, State};
use egress_routes::kernel::ip::{Ip, RouteTable as _};
use egress_routes::net::prefix::Family;
use egress_routes::routing::batch::Ownership;

use crate::lab::{ECHO_PORT, FABRIC, G1, G1_V6, G2, Lab, Running, wait_until};

/// What the test binary probes instead of testing: a check a line, `icmp|tcp GATEWAY [TARGET]`.
const CHECKS: &str = "EGRESS_ROUTES_TEST_CHECKS";
/// A check's interval and timeout in milliseconds.
const INTERVAL: &str = "EGRESS_ROUTES_TEST_INTERVAL";
/// Somewhere on the internet.
const TARGET: &str = "198.51.100.7";
const TARGET_V6: &str = "2001:db8:7::7";
/// A verdict that takes longer than this does not come.
const LIMIT: Duration = Duration::from_secs(15);

/// The program: prints `CHECK is STATE: REASON` for each change, for ever.
#[allow(
    clippy::print_stdout,
    reason = "what this process says is read by the test that started it"
)]
fn prober(checks: &str) {
    let interval = Duration::from_millis(std::env::var(INTERVAL).unwrap().parse().unwrap());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let ip = Ip::new(Ownership {
                table: 254,
                protocol: 230,
                metric: 4242,
            });
            let kernel = ip.read_nexthops().await.unwrap();
            let link = kernel
                .links
                .iter()
                .find(|link| &*link.name == "eth1")
                .unwrap();
            let names: BTreeMap<ProbeKey, &str> = checks
                .lines()
                .map(|line| (key(line, interval), line))
                .collect();
            let path = |key: &ProbeKey| {
                let source = link.source(Family::of(key.gateway)).unwrap();
                Some(ProbePath {
                    dev: link.name.clone(),
                    index: link.index,
                    source,
                })
            };
            let mut probes = Probes::new(Arc::new(ip));
            probes.set(
                &names.keys().map(|key| (key.clone(), path(key))).collect(),
                &BTreeSet::new(),
            );
            let mut view = probes.subscribe();
            let mut output = BTreeMap::new();
            println!("prober: ready");
            loop {
                for (key, health) in view.borrow_and_update().iter() {
                    let text = format!(
                        "{} is {:?}: {}",
                        names[key],
                        health.state,
                        health.reason.as_deref().unwrap_or("-")
                    );
                    if output.insert(key.clone(), text.clone()).as_ref() != Some(&text) {
                        println!("{text}");
                    }
                }
                // What changes no verdict wakes nobody.
                let look_again = Duration::from_millis(50);
                let _ = tokio::time::timeout(look_again, view.changed()).await;
            }
        });
}

fn key(line: &str, interval: Duration) -> ProbeKey {
    let words: Vec<&str> = line.split(' ').collect();
    let probe = if words[0] == "tcp" {
        Probe::Tcp(ECHO_PORT)
    } else {
        Probe::Icmp
    };
    let target = words.get(2).map(|target| target.parse().unwrap());
    let check = HealthCheck {
        probe,
        interval,
        timeout: interval,
        failures: 3,
        successes: 2,
        target,
    };
    ProbeKey {
        gateway: words[1].parse().unwrap(),
        check,
    }
}

/// Starts the prober on the node, behind a command that may take something away from it.
fn probe_as(lab: &Lab, behind: &[&str], checks: &[&str], interval: u32) -> Running {
    let me = std::env::current_exe().unwrap();
    let test = "probe::a_gateway_is_down_within_a_second_of_its_loss_and_up_again_after_its_return";
    let command: Vec<&str> = behind
        .iter()
        .copied()
        .chain([me.to_str().unwrap(), "--exact", test, "--nocapture"])
        .collect();
    let prober = lab.spawn_with_env(
        "nd",
        &command,
        &[
            (CHECKS, &checks.join("\n")),
            (INTERVAL, &interval.to_string()),
        ],
    );
    prober.wait_for("prober: ready", LIMIT);
    prober
}

fn probe(lab: &Lab, checks: &[&str]) -> Running {
    probe_as(lab, &[], checks, 200)
}

/// The last line that the prober printed for a check.
fn last(prober: &Running, check: &str) -> String {
    let output = prober.log();
    let start = format!("{check} is ");
    output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(&start))
        .unwrap_or("nothing")
        .to_owned()
}

/// Waits until each check is in that state; how long that took.
fn become_(prober: &Running, checks: &[&str], state: State) -> Duration {
    let start = Instant::now();
    let wanted = format!("{state:?}: ");
    for check in checks {
        assert!(
            wait_until(LIMIT, || last(prober, check).starts_with(&wanted)),
            "{check} is not {state:?}; it output:\n{}",
            prober.log()
        );
    }
    start.elapsed()
}

/// One packet rule on one hook.
fn rule(hook: &str, rule: &str) -> String {
    format!(
        "table ip fault {{\nchain {hook} {{\ntype filter hook {hook} priority 0\n{rule}\n}}\n}}"
    )
}

#[test]
fn a_gateway_is_down_within_a_second_of_its_loss_and_up_again_after_its_return() {
    if let Ok(checks) = std::env::var(CHECKS) {
        return prober(&checks);
    }
    let lab = Lab::blueprint();
    let _listening = lab.echo_server("g1", &[]);
    let checks = [
        format!("icmp {G1}"),
        format!("tcp {G1}"),
        format!("icmp {G1_V6}"),
        format!("tcp {G1_V6}"),
    ];
    let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    let prober = probe(&lab, &checks);
    become_(&prober, &checks, State::Up);
    lab.ip(FABRIC, "link set g1-eth1 down");
    let took = become_(&prober, &checks, State::Down);
    println!(
        "interval 200 ms, failures 3: all four kinds of probe reported down {took:?} after the cut"
    );
    // 0.8 s is what the configuration means; the rest is for a busy machine.
    assert!(took < Duration::from_millis(1200), "{took:?}");
    assert_eq!(
        last(&prober, checks[0]),
        "Down: no answer within 200ms",
        "the kernel's own error comes after 3 s"
    );
    lab.ip(FABRIC, "link set g1-eth1 up");
    become_(&prober, &checks, State::Up);
}

#[test]
fn a_gateway_that_answers_but_does_not_forward_is_down_where_there_is_a_target_and_up_where_there_is_none()
 {
    let lab = Lab::blueprint();
    let through = [
        format!("icmp {G1} {TARGET}"),
        format!("tcp {G1} {TARGET}"),
        format!("icmp {G1_V6} {TARGET_V6}"),
        format!("tcp {G1_V6} {TARGET_V6}"),
    ];
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    // A target of the other family is none.
    let direct = [format!("icmp {G1}"), format!("icmp {G1_V6} {TARGET}")];
    let direct: Vec<&str> = direct.iter().map(String::as_str).collect();
    let prober = probe(&lab, &[through.as_slice(), direct.as_slice()].concat());
    let all_up = || {
        become_(&prober, &through, State::Up);
        become_(&prober, &direct, State::Up);
    };
    all_up();
    for (family, target) in [
        ("ipv4.ip_forward", TARGET),
        ("ipv6.conf.all.forwarding", TARGET_V6),
    ] {
        lab.sysctl("g1", &format!("net.{family}"), "0");
        let of_family: Vec<&str> = through
            .iter()
            .copied()
            .filter(|check| check.ends_with(target))
            .collect();
        become_(&prober, &of_family, State::Down);
        assert_eq!(
            last(&prober, of_family[0]),
            format!("Down: no answer from {target} through it within 200ms")
        );
    }
    for check in &direct {
        assert_eq!(last(&prober, check), "Up: -");
    }
    lab.sysctl("g1", "net.ipv4.ip_forward", "1");
    lab.sysctl("g1", "net.ipv6.conf.all.forwarding", "1");
    all_up();
    // Forwards, but no longer translates: the answers do not find back.
    lab.must("g1", &["nft", "flush", "ruleset"]);
    become_(&prober, &through, State::Down);
    assert_eq!(last(&prober, direct[0]), "Up: -");
}

#[test]
fn gateways_that_share_a_target_are_told_apart() {
    let lab = Lab::blueprint();
    let checks = [
        format!("icmp {G1} {TARGET}"),
        format!("tcp {G1} {TARGET}"),
        format!("icmp {G2} {TARGET}"),
        format!("tcp {G2} {TARGET}"),
    ];
    let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    let prober = probe(&lab, &checks);
    become_(&prober, &checks, State::Up);
    lab.nft("g2", &rule("forward", "drop"));
    become_(&prober, &checks[2..], State::Down);
    become_(&prober, &checks[..2], State::Up);
    assert_eq!(prober.log().matches("Down").count(), 2, "{}", prober.log());
}

#[test]
fn a_target_that_refuses_is_a_failure() {
    let lab = Lab::blueprint();
    let check = format!("tcp {G1} {TARGET}");
    // A gateway that rejects what it should forward forges a reset by the target.
    lab.nft(
        "g1",
        &rule("forward", "meta l4proto tcp reject with tcp reset"),
    );
    let prober = probe(&lab, &[&check]);
    become_(&prober, &[&check], State::Down);
    assert_eq!(
        last(&prober, &check),
        format!("Down: TCP port {ECHO_PORT} of {TARGET}: connection refused")
    );
}

#[test]
fn probes_through_a_gateway_leave_nothing_behind_and_pass_a_firewall_that_drops_what_it_does_not_know()
 {
    let lab = Lab::blueprint();
    // Whatever the kernel itself would send to the target is counted, also resets of connections it knows nothing of.
    let rules = format!(
        "table inet watch {{
            counter own {{ }}
            chain in {{ type filter hook input priority 0; ct state invalid drop
            }}
            chain out {{ type filter hook output priority 0; ip daddr {TARGET} counter name own
            ip6 daddr {TARGET_V6} counter name own
            }}
        }}"
    );
    let state = || {
        [
            "rule show",
            "-6 rule show",
            "route show table all",
            "-6 route show table all",
            "addr show",
        ]
        .map(|what| lab.ip("nd", what))
    };
    // The laboratory's link-local addresses take a second to settle.
    assert!(wait_until(LIMIT, || !state()
        .concat()
        .contains("tentative")));
    let before = state();
    let checks = [
        format!("icmp {G1} {TARGET}"),
        format!("tcp {G1} {TARGET}"),
        format!("tcp {G1_V6} {TARGET_V6}"),
    ];
    let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    for firewall in [rules.clone(), rules.replace("ct state invalid drop", "")] {
        lab.nft(
            "nd",
            &format!("table inet watch\ndelete table inet watch\n{firewall}"),
        );
        let mut prober = probe(&lab, &checks);
        become_(&prober, &checks, State::Up);
        assert!(prober.runs());
        let counter = lab.must("nd", &["nft", "list", "counter", "inet", "watch", "own"]);
        assert!(counter.contains("packets 0"), "{counter}");
        let during = state();
        assert_eq!(during, before);
    }
    assert_eq!(
        lab.must("sv", &["ss", "-Htan", "state", "syn-recv"]),
        "",
        "the target keeps nothing half open"
    );
    assert_eq!(
        lab.must("nd", &["ss", "-Htan", &format!("dst {TARGET}")]),
        ""
    );
}

#[test]
fn a_gateway_that_blocks_ping_was_never_up_and_a_node_that_does_is_not_the_gateways_fault() {
    let lab = Lab::blueprint();
    let (g1, g2) = (format!("icmp {G1}"), format!("icmp {G2}"));
    lab.nft("g1", &rule("input", "ip protocol icmp drop"));
    let prober = probe(&lab, &[&g1, &g2]);
    become_(&prober, &[&g1], State::Down);
    become_(&prober, &[&g2], State::Up);
    lab.nft("nd", &rule("output", "ip protocol icmp drop"));
    assert!(
        wait_until(LIMIT, || last(&prober, &g2).contains("not probed")),
        "{}",
        prober.log()
    );
    std::thread::sleep(Duration::from_secs(1)); // five intervals, in which nothing may happen
    assert_eq!(
        last(&prober, &g2),
        "Up: not probed: ICMP echo: Operation not permitted (os error 1)"
    );
}

#[test]
fn without_net_raw_ping_works_where_the_kernel_allows_it_and_elsewhere_says_what_is_missing() {
    let lab = Lab::blueprint();
    let checks = [
        format!("icmp {G1}"),
        format!("icmp {G1_V6}"),
        format!("icmp {G1} {TARGET}"),
    ];
    let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    let without = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"];
    lab.sysctl("nd", "net.ipv4.ping_group_range", "1 0");
    let prober = probe_as(&lab, &without, &checks, 200);
    for check in &checks[..2] {
        let missing = "Unknown: not probed: no permission for ICMP: needs NET_RAW or net.ipv4.ping_group_range";
        assert!(
            wait_until(LIMIT, || last(&prober, check) == missing),
            "{}",
            prober.log()
        );
    }
    let missing =
        "Unknown: not probed: no permission for packet sockets: healthCheck.target needs NET_RAW";
    assert!(
        wait_until(LIMIT, || last(&prober, checks[2]) == missing),
        "{}",
        prober.log()
    );
    lab.sysctl("nd", "net.ipv4.ping_group_range", "0 0");
    become_(&prober, &checks[..2], State::Up);
}

#[test]
fn a_gateway_replaced_by_a_machine_with_another_link_layer_address_is_found_again() {
    let lab = Lab::blueprint();
    // The kernel doubts what it knows of a neighbour after half a minute; that much of a hurry is the test's.
    for (what, value) in [
        ("base_reachable_time_ms", "500"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "200"),
    ] {
        lab.sysctl("nd", &format!("net.ipv4.neigh.eth1.{what}"), value);
    }
    let check = format!("icmp {G1} {TARGET}");
    let prober = probe(&lab, &[&check]);
    become_(&prober, &[&check], State::Up);
    lab.ip("g1", "link set eth1 address 02:00:00:00:00:99");
    become_(&prober, &[&check], State::Down);
    let took = become_(&prober, &[&check], State::Up);
    println!("found at its new link-layer address {took:?} after its verdict");
}

#[test]
fn sixteen_gateways_cost_less_than_a_hundredth_of_a_core() {
    let lab = Lab::blueprint();
    let addresses: Vec<IpAddr> = (50..66)
        .map(|last| IpAddr::from([10, 116, 0, last]))
        .collect();
    for address in &addresses {
        lab.ip("g1", &format!("addr add {address}/24 dev eth1"));
    }
    let checks: Vec<String> = addresses
        .iter()
        .enumerate()
        .map(|(n, address)| match n % 2 {
            0 => format!("icmp {address}"),
            _ => format!("icmp {address} {TARGET}"),
        })
        .collect();
    let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    let prober = probe_as(&lab, &[], &checks, 1000);
    become_(&prober, &checks, State::Up);
    let received = || {
        let output = lab.must("g1", &["cat", "/proc/net/snmp"]);
        let mut icmp = output
            .lines()
            .filter(|line| line.starts_with("Icmp:"))
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let (names, values) = (icmp.next().unwrap(), icmp.next().unwrap());
        let at = names.iter().position(|name| *name == "InEchos").unwrap();
        values[at].parse::<u32>().unwrap()
    };
    let (start, echoes, cpu) = (Instant::now(), received(), cpu_time(prober.pid()));
    std::thread::sleep(Duration::from_secs(10)); // the span that is measured
    let (echoes, spent, span) = (
        received() - echoes,
        cpu_time(prober.pid()).saturating_sub(cpu),
        start.elapsed(),
    );
    let share = spent.as_secs_f64() / span.as_secs_f64() * 100.0;
    println!(
        "16 gateways a second, half of them through it: {share:.2} % of a core (this build), {echoes} direct probes in {span:?}"
    );
    // An unoptimised build spends about twice as much.
    assert!(
        share < if cfg!(debug_assertions) { 2.0 } else { 1.0 },
        "{share} %"
    );
    assert!(
        (72..=88).contains(&echoes),
        "8 gateways for 10 s at 1 s: {echoes} probes"
    );
}

/// What all threads of a process have run.
fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let times = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
        })
        .sum()
}
