//! What is asked of gateways, as far as the kernel shows it.

use super::*;
use crate::health::HealthView;
use crate::routing::node_facts::Facts;
use crate::routing::state::{Member, Nexthop, Resilient};

const OURS: Ownership = Ownership::DEFAULT;
const A: u32 = 0x1000_0005;
const B: u32 = 0x1000_0006;
const C: u32 = 0x1000_0007;
const GROUP: u32 = 0x2000_0001;

fn address(id: u32) -> IpAddr {
    IpAddr::from([10, 116, 0, id.to_be_bytes()[3]])
}

fn via(gateway: u32) -> NexthopKind {
    NexthopKind::Via {
        gateway: address(gateway),
        dev: "eth1".into(),
    }
}

/// A group of these members and weights, and all gateways' objects.
fn kernel(members: &[(u32, u32)]) -> Kernel {
    let mut kernel = Kernel::default();
    let mut add = |id, kind| {
        let protocol = OURS.protocol;
        kernel.nexthops.insert(id, Nexthop { kind, protocol });
    };
    for gateway in [A, B, C] {
        add(gateway, via(gateway));
        add(nexthop_id::duplicate(gateway, 1), via(gateway));
    }
    let members = members.iter().map(|(id, weight)| Member {
        weight: *weight,
        id: *id,
    });
    let group = NexthopKind::Group {
        members: members.collect(),
        resilient: Some(Resilient {
            buckets: 2048,
            idle: 300,
        }),
    };
    add(GROUP, group);
    kernel.own.push(OwnRoute {
        key: OURS.key("203.0.113.0/24".parse().unwrap()),
        target: Target::Nexthop(GROUP),
    });
    kernel
}

/// Strategy, and weight and drain of each gateway.
fn adopted(kernel: &Kernel) -> (Strategy, Vec<(u32, bool)>) {
    let adopted = Adopted::from(kernel, &OURS, None, false);
    let [set] = adopted.config.sets.as_slice() else {
        panic!("{:?}", adopted.config);
    };
    let mut gateways = set.gateways.clone();
    gateways.sort_unstable();
    assert_eq!(gateways, [A, B, C].map(address));
    let share = |gateway: &IpAddr| (set.share(*gateway).weight, set.share(*gateway).drain);
    (set.strategy, gateways.iter().map(share).collect())
}

const STAYS: Strategy = Strategy::Failover {
    failback: Failback::Never,
};

#[test]
fn weights_are_those_of_the_group() {
    let kernel = kernel(&[(A, 1), (B, 3), (C, 2)]);
    let shares = vec![(1, false), (3, false), (2, false)];
    assert_eq!(adopted(&kernel), (Strategy::Balance, shares));
}

#[test]
fn a_gateway_that_leaves_goes_on_leaving() {
    let b = [B, nexthop_id::duplicate(B, 1)];
    let kernel = kernel(&[(A, 1), (b[0], 256), (b[1], 256), (C, 256), (C + 99, 256)]);
    let shares = vec![(1, true), (2, false), (1, false)];
    assert_eq!(adopted(&kernel), (Strategy::Balance, shares));
    let kernel = self::kernel(&[(A, 1), (b[0], 256), (b[1], 256)]);
    let shares = vec![(1, true), (1, false), (1, false)];
    assert_eq!(adopted(&kernel), (STAYS, shares), "of `failover`");
}

#[test]
fn a_drained_gateway_that_has_left_does_not_come_back() {
    let mut kernel = kernel(&[(A, 1), (B, 1)]);
    let (_, shares) = adopted(&kernel);
    assert!(!shares[2].1, "it was only down");
    let record = Nexthop {
        kind: via(C),
        protocol: OURS.protocol,
    };
    kernel.nexthops.insert(nexthop_id::drained(C), record);
    let shares = vec![(1, false), (1, false), (1, true)];
    assert_eq!(adopted(&kernel), (Strategy::Balance, shares));
}

#[test]
fn an_ipv6_route_that_an_uncertain_read_left_out_stays_when_the_next_one_shows_it() {
    let guard = |prefix: &str| OwnRoute {
        key: OURS.leak_guard_key(prefix.parse().unwrap()),
        target: Target::Blackhole,
    };
    let (seen, unseen) = (guard("2001:db8:5::/48"), guard("2001:db8:6::/48"));
    let read = |uncertain_v6| Kernel {
        own: vec![seen.clone()],
        uncertain_v6,
        ..Kernel::default()
    };
    let later = Kernel {
        own: vec![seen.clone(), unseen.clone()],
        ..Kernel::default()
    };
    let kept = |first: &Kernel| {
        let adopted = Adopted::from(first, &OURS, None, false);
        let inputs = Inputs {
            config: &adopted.config,
            kernel: &later,
            facts: &Facts::NoCluster,
            health: &HealthView::new(),
            ownership: &OURS,
        };
        adopted.resolve(&inputs).wanted.routes
    };
    assert_eq!(kept(&read(true)), later.own);
    assert_eq!(kept(&read(false)), read(false).own, "it came later");
}

#[test]
fn an_uncertain_read_without_an_object_of_ours_shows_a_node_that_has_nothing_of_ours() {
    let read = |records: &[u32]| {
        let mut kernel = Kernel {
            uncertain_v6: true,
            ..Kernel::default()
        };
        kernel.set_records(&records.iter().copied().collect(), &OURS);
        Adopted::from(&kernel, &OURS, None, false)
    };
    assert!(read(&[]).is_empty());
    let records = nexthop_id::applied("aaaaaaaaaaaa");
    assert!(!read(&records).is_empty(), "its routes may be left out");
}

#[test]
fn a_revision_that_was_taken_back_after_it_was_confirmed_is_not_in_force() {
    let revision = |rejected: &str| {
        let mut records: BTreeSet<u32> = nexthop_id::applied("aaaaaaaaaaaa").into_iter().collect();
        records.insert(nexthop_id::rejected(rejected));
        let mut kernel = Kernel::default();
        kernel.set_records(&records, &OURS);
        Adopted::from(&kernel, &OURS, None, false).revision
    };
    assert_eq!(revision("aaaaaaaaaaaa"), None);
    assert_eq!(revision("bbbbbbbbbbbb").as_deref(), Some("aaaaaaaaaaaa"));
}
