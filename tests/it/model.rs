//! The kernel in memory against the real one: the same random batches and events in both must give equal dumps.
//!
//! The simulation is worth as much as its kernel. Where the two differ, the model is wrong.

use std::fmt::Write as _;
use std::net::IpAddr;

use egress_routes::kernel::dump::read_batch_errors;
use egress_routes::net::prefix::Family;
use egress_routes::routing::batch::Ownership;
use egress_routes::routing::state::{ForeignRoute, Kernel};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::lab::Lab;

#[path = "../../src/kernel/model/mod.rs"]
mod kernel;
use kernel::Model;

const OURS: Ownership = Ownership::DEFAULT;
const LINKS: [&str; 2] = ["eth1", "eth2"];
/// Histories; PROPTEST_CASES makes it more.
const HISTORIES: u32 = 40;

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Batch(Option<Family>, Vec<String>),
    Up(usize, bool),
    Carrier(usize, bool),
    AddAddress(usize, usize),
    RemoveAddress(usize, usize),
}

/// Addresses of a link: of two subnets, and of IPv6. A second address of one subnet, which goes with the first, is not modelled.
fn address(link: usize, n: usize) -> (IpAddr, u8) {
    let text = match n {
        0 => format!("10.{}.0.2", 116 + link),
        1 => format!("10.{}.1.2", 116 + link),
        _ => format!("fd00:{}::2", 116 + link),
    };
    (text.parse().unwrap(), if n == 2 { 64 } else { 24 })
}

// --- random lines ---

fn pick(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(of)
}

fn nexthop_line(family: Family) -> BoxedStrategy<String> {
    let (gateways, base): (&'static [&'static str], u32) = match family {
        Family::V4 => (
            &[
                "10.116.0.5",
                "10.116.0.6",
                "10.117.0.5",
                "10.116.1.7",
                "192.0.2.1",
                "10.116.0.2",
            ],
            0,
        ),
        Family::V6 => (
            &["fd00:116::5", "fd00:116::6", "fd00:117::5", "2001:db8:f::1"],
            50,
        ),
    };
    let protocol = || prop_oneof![5 => Just(230), 1 => Just(4)];
    let verb = || prop_oneof![4 => Just("replace"), 1 => Just("add")];
    let via = (verb(), 1..=4_u32, pick(gateways), pick(&LINKS), protocol()).prop_map(
        move |(verb, id, gateway, dev, protocol)| {
            format!(
                "nexthop {verb} id {} via {gateway} dev {dev} proto {protocol}",
                base + id
            )
        },
    );
    let blackhole = (verb(), 3..=5_u32)
        .prop_map(move |(verb, id)| format!("nexthop {verb} id {} blackhole proto 230", base + id));
    let members =
        prop::collection::btree_map(1..=5_u32, prop_oneof![4 => Just(1), 1 => 2..=9_u32], 1..4);
    let group = (
        verb(),
        10..=13_u32,
        members,
        0..3,
        any::<bool>(),
        protocol(),
    )
        .prop_map(move |(verb, id, members, kind, turned, protocol)| {
            let mut members: Vec<String> = members
                .into_iter()
                .map(|(id, weight)| match weight {
                    1 => format!("{}", base + id),
                    _ => format!("{},{weight}", base + id),
                })
                .collect();
            if turned {
                members.reverse();
            }
            let kind = match kind {
                0 => "",
                1 => " type resilient buckets 32 idle_timer 300",
                _ if id == 13 => " type resilient buckets 64 idle_timer 300",
                _ => " type resilient buckets 32 idle_timer 300",
            };
            format!(
                "nexthop {verb} id {} group {}{kind} proto {protocol}",
                base + id,
                members.join("/")
            )
        });
    let gone = move || {
        prop_oneof![1..=5_u32, 10..=13_u32]
            .prop_map(move |id| format!("nexthop del id {}", base + id))
    };
    let mix = (10..=11_u32)
        .prop_map(move |id| format!("nexthop replace id {} blackhole proto 230", base + id));
    // A line that makes a blackhole makes one of IPv4.
    let blackhole = match family {
        Family::V4 => prop_oneof![blackhole, mix].boxed(),
        Family::V6 => gone().boxed(),
    };
    prop_oneof![5 => via, 2 => blackhole, 5 => group, 2 => gone()].boxed()
}

fn route_line(family: Family) -> BoxedStrategy<String> {
    let (prefixes, routers, base): (&'static [&'static str], &'static [&'static str], u32) =
        match family {
            Family::V4 => (
                &[
                    "198.18.0.0/24",
                    "198.18.0.0/16",
                    "198.19.0.7/32",
                    "10.116.0.0/24",
                    "0.0.0.0/0",
                ],
                &[
                    "dev eth1",
                    "dev eth2",
                    "via 10.116.0.5 dev eth1",
                    "via 10.117.0.9 dev eth2",
                    "via 192.0.2.1 dev eth1",
                    "nexthop via 10.116.0.5 dev eth1 nexthop via 10.116.0.6 dev eth1",
                    "nexthop via 10.116.0.5 dev eth1 nexthop via 10.116.1.7 dev eth1",
                ],
                0,
            ),
            Family::V6 => (
                &[
                    "2001:db8:1::/48",
                    "2001:db8::/32",
                    "2001:db8:2::7/128",
                    "fd00:116::/64",
                    "::/0",
                ],
                &[
                    "dev eth1",
                    "dev eth2",
                    "via fd00:116::5 dev eth1",
                    "via fd00:117::9 dev eth2",
                    "via 2001:db8:f::1 dev eth1",
                ],
                50,
            ),
        };
    let to = prop_oneof![
        5 => prop_oneof![1..=5_u32, 10..=13_u32].prop_map(move |id| format!("nhid {}", base + id)),
        2 => pick(routers).prop_map(str::to_owned),
        2 => Just("blackhole".to_owned()),
        1 => Just(String::new()),
    ];
    let verb =
        prop_oneof![5 => Just("replace"), 2 => Just("add"), 2 => Just("append"), 4 => Just("del")];
    let metric =
        prop_oneof![4 => Just(4242_u32), 1 => Just(100), 1 => Just(0), 2 => Just(4_294_967_294)];
    let table = prop_oneof![6 => Just(254), 1 => Just(100)];
    let tos = prop_oneof![9 => Just(""), 1 => Just(" tos 0x10")];
    let protocol = prop_oneof![5 => Just(230), 2 => Just(4)];
    (verb, pick(prefixes), to, metric, table, tos, protocol)
        .prop_filter_map("a route goes somewhere", move |(verb, prefix, to, metric, table, tos, protocol)| {
            if to.is_empty() && verb != "del" {
                return None;
            }
            let tos = if family == Family::V6 { "" } else { tos };
            let (kind, to) = if to == "blackhole" { ("blackhole ", String::new()) } else { ("", to) };
            // Several next hops end a line.
            Some(format!("route {verb} {kind}{prefix}{tos} proto {protocol} metric {metric} table {table} {to}"))
        })
        .boxed()
}

fn event() -> impl Strategy<Value = Event> {
    let of_family = prop_oneof![Just(Family::V4), Just(Family::V6)].prop_flat_map(|family| {
        let line = prop_oneof![3 => nexthop_line(family), 4 => route_line(family)];
        prop::collection::vec(line, 1..12).prop_map(|lines| Event::Batch(None, lines))
    });
    // A line of `ip -batch` does not name a blackhole's family, and `ip -6` takes no groups.
    let blackholes = prop::collection::vec(
        (53..=55_u32).prop_map(|id| format!("nexthop replace id {id} blackhole proto 230")),
        1..3,
    )
    .prop_map(|lines| Event::Batch(Some(Family::V6), lines));
    let batch = prop_oneof![8 => of_family, 1 => blackholes];
    let link = 0..LINKS.len();
    prop_oneof![
        12 => batch,
        1 => (link.clone(), any::<bool>()).prop_map(|(link, up)| Event::Up(link, up)),
        1 => (link.clone(), any::<bool>()).prop_map(|(link, up)| Event::Carrier(link, up)),
        2 => (link.clone(), 0..3_usize).prop_map(|(link, n)| Event::AddAddress(link, n)),
        1 => (link, 0..3_usize).prop_map(|(link, n)| Event::RemoveAddress(link, n)),
    ]
}

// --- both kernels ---

fn start(lab: &Lab) -> Model {
    let mut lines = String::new();
    for link in LINKS {
        let _ = writeln!(lines, "link del {link}");
    }
    lab.run_with_input("nd", &["ip", "-force", "-batch", "-"], &lines);
    lab.ip("nd", "nexthop flush");
    lab.ip("nd", "-4 route flush table all proto 230");
    lab.ip("nd", "-4 route flush table all proto 4");
    lab.ip("nd", "-6 route flush table all proto 230");
    lab.ip("nd", "-6 route flush table all proto 4");
    let mut lines = String::new();
    let mut model = Model::default();
    for (n, link) in LINKS.iter().enumerate() {
        let _ = writeln!(lines, "link add {link} type veth peer name {link}p");
        let _ = writeln!(lines, "link set {link} addrgenmode none");
        let _ = writeln!(lines, "link set {link}p addrgenmode none");
        let _ = writeln!(lines, "link set {link}p up");
        let _ = writeln!(lines, "link set {link} up");
        model.add_link(link);
        for a in [0, 2] {
            let (address, len) = address(n, a);
            let nodad = if a == 2 { " nodad" } else { "" };
            let _ = writeln!(lines, "addr add {address}/{len} dev {link}{nodad}");
            model.add_address(link, address, len);
        }
    }
    lab.batch("nd", &lines);
    settle(lab, &model);
    model
}

/// Carrier changes take their time in the kernel.
fn settle(lab: &Lab, model: &Model) {
    for link in LINKS {
        let of = model.link(link).unwrap();
        let state = match (of.up, of.carrier) {
            (false, _) => "DOWN",
            (true, true) => "UP",
            (true, false) => "LOWERLAYERDOWN",
        };
        let script = format!(
            "for i in $(seq 1000); do ip link show {link} | grep -q 'state {state} ' && exit 0; sleep 0.01; done; ip link show {link}; exit 1"
        );
        lab.must("nd", &["sh", "-c", &script]);
    }
}

/// Runs an event in both; the lines that each refused.
fn happen(lab: &Lab, model: &mut Model, event: &Event) -> [String; 2] {
    let lines = match event {
        Event::Batch(family, lines) => {
            let text = lines.join("\n") + "\n";
            let flag: &[&str] = if family.is_some() { &["-6"] } else { &[] };
            let command = [&["ip"], flag, &["-force", "-batch", "-"]].concat();
            let output = lab.run_with_input("nd", &command, &text);
            let real = read_batch_errors(&output.err);
            let ours = model.batch(*family, &text);
            let shown = |errors: &egress_routes::kernel::dump::BatchErrors| {
                let refused = errors.refused.iter().map(|(n, _)| lines[n - 1].clone());
                refused
                    .chain(errors.stopped.is_some().then(|| "stopped".to_owned()))
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            return [format!("{}\n", shown(&real)), format!("{}\n", shown(&ours))];
        }
        Event::Up(link, up) => {
            model.set_up(LINKS[*link], *up);
            format!(
                "link set {} {}",
                LINKS[*link],
                if *up { "up" } else { "down" }
            )
        }
        Event::Carrier(link, up) => {
            model.set_carrier(LINKS[*link], *up);
            format!(
                "link set {}p {}",
                LINKS[*link],
                if *up { "up" } else { "down" }
            )
        }
        Event::AddAddress(link, n) => {
            let (address, len) = address(*link, *n);
            model.add_address(LINKS[*link], address, len);
            let nodad = if *n == 2 { " nodad" } else { "" };
            format!("addr add {address}/{len} dev {}{nodad}", LINKS[*link])
        }
        Event::RemoveAddress(link, n) => {
            let (address, len) = address(*link, *n);
            model.remove_address(LINKS[*link], address, len);
            format!("addr del {address}/{len} dev {}", LINKS[*link])
        }
    };
    lab.run_with_input("nd", &["ip", "-force", "-batch", "-"], &lines);
    if matches!(event, Event::Up(..) | Event::Carrier(..)) {
        settle(lab, model);
    }
    [String::new(), String::new()]
}

/// What the real kernel has, as the agent reads it.
fn real(lab: &Lab) -> Kernel {
    let mut kernel = lab.kernel("nd", &OURS);
    kernel
        .links
        .retain(|link| link.loopback || LINKS.contains(&&*link.name));
    kernel
}

/// Without what is chance: the order of foreign routes, and indexes.
fn plain(mut kernel: Kernel) -> Kernel {
    kernel.own.sort_unstable();
    kernel.elsewhere.sort_unstable();
    let rank = |r: &ForeignRoute| (r.key, r.protocol, r.dev.clone(), r.gatewayed);
    kernel.foreign.sort_unstable_by_key(rank);
    kernel
        .links
        .sort_by(|a, b| (!a.loopback, &a.name).cmp(&(!b.loopback, &b.name)));
    kernel.links.iter_mut().for_each(|link| link.index = 0);
    kernel
}

fn compare(lab: &Lab, events: &[Event]) -> Result<(), TestCaseError> {
    let mut model = start(lab);
    for (n, event) in events.iter().enumerate() {
        let [refused, by_model] = happen(lab, &mut model, event);
        let (real, ours) = (plain(real(lab)), plain(model.dump(&OURS)));
        prop_assert!(
            refused == by_model,
            "event {n} {event:#?}\nthe kernel refused:\n{refused}the model:\n{by_model}"
        );
        prop_assert!(
            real == ours,
            "after event {n} {event:?}\nthe kernel, then the model:\nown {:?}\nown {:?}\nforeign {:?}\nforeign {:?}\nnexthops {:?}\nnexthops {:?}\nlinks {:?}\nlinks {:?}\nelsewhere {:?}\nelsewhere {:?}\n",
            real.own,
            ours.own,
            real.foreign,
            ours.foreign,
            real.nexthops,
            ours.nexthops,
            real.links,
            ours.links,
            real.elsewhere,
            ours.elsewhere
        );
    }
    Ok(())
}

#[test]
fn the_kernel_in_memory_does_what_the_real_one_does() {
    let more: Option<u32> = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    let lab = Lab::new();
    lab.host("nd");
    let config = Config {
        cases: HISTORIES.max(more.unwrap_or(0) / 100),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    // What is asked for is new histories, what is not is the same ones every time.
    let mut runner = match more {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let histories = prop::collection::vec(event(), 1..10);
    if let Err(why) = runner.run(&histories, |events| compare(&lab, &events)) {
        panic!("{why}");
    }
}
