//! The promise of `select` against a real kernel: random tables of others and our selected prefixes in a namespace, and where
//! `ip route get` sends addresses.
//!
//! Others' routes leave by `f0`, each set's by a device of its own, so that the device names the winner. The random worlds
//! and the plain form of the promise are those of the properties beside the code.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::IpAddr;

use egress_routes::net::prefix::{Family, Prefix};
use egress_routes::routing::exclude::{
    Constraints, MOST_PREFIXES, Selected, SetDestinations, select,
};
use egress_routes::routing::protected::{Protected, Protection, Why};
use egress_routes::routing::state::{ForeignRoute, RouteKey};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::lab::Lab;

#[path = "../../src/routing/exclude/tests/world.rs"]
mod world;
use world::{METRIC, Space, Way, World};

/// Sets of a world, each with a device.
const SETS: usize = 4;
/// Worlds a family, each asked for about thirty addresses.
const WORLDS: u32 = 24;
/// As many of PROPTEST_CASES make one world more: a world costs three runs of `ip`, and 100,000 cases are still 100,000 lookups.
const CASES_A_WORLD: u32 = 25;

/// A host with a device for others' routes and one for each set's, and nothing else.
fn node() -> Lab {
    let lab = Lab::new();
    lab.host("nd");
    for device in std::iter::once("f0".to_owned()).chain((0..SETS).map(|i| format!("s{i}"))) {
        // The address is for replies only; a /32 or /128 makes no subnet.
        lab.ip(
            "nd",
            &format!("link add {device} type veth peer name {device}p"),
        );
        lab.ip("nd", &format!("link set {device}p up"));
        lab.ip("nd", &format!("link set {device} addrgenmode none"));
        lab.ip("nd", &format!("link set {device} up"));
    }
    lab.ip("nd", "addr add 240.0.0.1/32 dev lo");
    lab.ip("nd", "addr add fd99::1/128 dev lo nodad");
    lab
}

fn selected(world: &World) -> Vec<(Prefix, usize)> {
    let protections = world
        .protected
        .iter()
        .map(|prefix| Protection {
            prefix: *prefix,
            why: Why::Configured,
        })
        .collect();
    let protected = Protected::of(protections);
    let foreign: Vec<ForeignRoute> = world
        .foreign
        .iter()
        .map(|(prefix, metric)| ForeignRoute {
            key: RouteKey {
                prefix: *prefix,
                metric: *metric,
                table: 254,
                tos: 0,
            },
            protocol: 4,
            dev: Some("f0".into()),
            gatewayed: false,
            gateway: None,
            unicast: true,
        })
        .collect();
    let constraints = Constraints {
        protected: &protected,
        foreign: &foreign,
        table: 254,
        metric: METRIC,
        most: MOST_PREFIXES,
    };
    let set = |set: &'_ world::Set| (set.destinations.clone(), set.except.clone(), set.in_force);
    let sets: Vec<_> = world.sets.iter().map(set).collect();
    let sets: Vec<SetDestinations<'_>> = sets
        .iter()
        .map(|(destinations, except, in_force)| SetDestinations {
            set: "set",
            destinations,
            except,
            in_force: *in_force,
            installed: None,
        })
        .collect();
    let selected = select(&sets, &constraints).expect("worlds have no clashes");
    world.in_force(&selected)
}

/// Where the kernel sends each address: the device, or nothing.
fn asked(lab: &Lab, addresses: &[IpAddr]) -> Vec<Option<String>> {
    let mut lines = String::new();
    for address in addresses {
        let _ = writeln!(lines, "route get {address}");
    }
    // -force goes on after `Network is unreachable`, which it counts by line.
    let output = lab.run_with_input("nd", &["ip", "-o", "-force", "-batch", "-"], &lines);
    let failed: Vec<usize> = output
        .err
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Command failed -:")?
                .parse::<usize>()
                .ok()
        })
        .collect();
    let mut found = output.out.lines();
    let device = |line: &str| {
        line.split_whitespace()
            .skip_while(|word| *word != "dev")
            .nth(1)
            .map(str::to_owned)
    };
    let answers = (1..=addresses.len())
        .map(|line| {
            if failed.contains(&line) {
                None
            } else {
                found.next().and_then(device)
            }
        })
        .collect();
    assert_eq!(
        found.next(),
        None,
        "an answer too many:\n{}{}",
        output.out,
        output.err
    );
    answers
}

/// Addresses that the local table answers, or that `ip route get` takes for something else.
fn ordinary(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => (1..224).contains(&v4.octets()[0]) && !v4.is_loopback(),
        IpAddr::V6(v6) => {
            !v6.is_multicast()
                && !v6.is_loopback()
                && !v6.is_unspecified()
                && !v6.is_unicast_link_local()
        }
    }
}

fn compare(lab: &Lab, world: &World) -> Result<usize, TestCaseError> {
    let six = if world.family == Family::V6 {
        "-6"
    } else {
        "-4"
    };
    lab.ip("nd", &format!("{six} route flush table main"));
    let mut lines = String::new();
    for (prefix, metric) in &world.foreign {
        let _ = writeln!(
            lines,
            "route add {prefix} dev f0 proto static metric {metric}"
        );
    }
    let installed = selected(world);
    for (prefix, set) in &installed {
        // `add`, not `replace`: a key that is taken would fail here.
        let _ = writeln!(
            lines,
            "route add {prefix} dev s{set} proto 230 metric {METRIC}"
        );
    }
    lab.batch("nd", &lines);
    let addresses: Vec<IpAddr> = world.addresses().into_iter().filter(ordinary).collect();
    for (address, device) in addresses.iter().zip(asked(lab, &addresses)) {
        let promised = match world.promised(*address) {
            Way::Foreign(_) => Some("f0".to_owned()),
            Way::Ours(set) => Some(format!("s{set}")),
            Way::Nowhere => None,
        };
        prop_assert_eq!(device, promised, "{} with {:?}", address, installed);
    }
    Ok(addresses.len())
}

fn worlds(family: Family) -> impl Strategy<Value = World> {
    let bits = prop_oneof![3 => 3..=6_u8, 1 => Just(128)];
    let base = match family {
        Family::V4 => 0x0a01_0000_u128,
        Family::V6 => 0x2001_0db8_u128 << 96,
    };
    bits.prop_flat_map(move |bits| {
        Space {
            family,
            bits: bits.min(family.bits()),
            base,
        }
        .world()
    })
}

fn many(family: Family) {
    let cases: u32 = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let cases = WORLDS.max(cases / CASES_A_WORLD);
    let lab = node();
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let asked = Cell::new(0);
    let done = TestRunner::new(config).run(&worlds(family), |world| {
        compare(&lab, &world).map(|count| asked.set(asked.get() + count))
    });
    if let Err(why) = done {
        panic!("{why}");
    }
    assert!(
        asked.get() > 20 * cases as usize,
        "only {} lookups in {cases} worlds prove little",
        asked.get()
    );
    eprintln!("{} lookups in {cases} worlds", asked.get());
}

#[test]
fn the_kernel_sends_every_ipv4_address_where_the_promise_says() {
    many(Family::V4);
}

#[test]
fn the_kernel_sends_every_ipv6_address_where_the_promise_says() {
    many(Family::V6);
}
