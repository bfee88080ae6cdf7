//! Applying against a kernel in memory: properties over random states, and every failure at every call.

use futures::FutureExt as _;
use proptest::prelude::*;

use super::fake::{Entry, FakeTable, Fault};
use super::*;
use crate::net::prefix::Prefix;
use crate::routing::diff::{Conflict, WantedGroup, WantedNexthop};
use crate::routing::state::{Member, Nexthop, OwnRoute};

const OURS: Ownership = Ownership {
    protocol: 230,
    metric: 4242,
    table: 254,
};

/// The fake never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the kernel in memory waited")
}

fn applier() -> Applier<FakeTable> {
    Applier {
        table: FakeTable::new(OURS),
        ownership: OURS,
        resilient: true,
    }
}

impl Applier<FakeTable> {
    /// As a pass does it: read, apply; and the sweep of what nothing uses.
    fn pass(&mut self, wanted: &Wanted) -> anyhow::Result<Outcome> {
        let found = now(self.table.read())?;
        let outcome = now(self.apply(wanted, found, &[]))?;
        now(self.sweep(&outcome.left.unused))?;
        Ok(outcome)
    }

    fn own(&self) -> Vec<OwnRoute> {
        self.table.kernel().own
    }
}

fn prefix(n: u32) -> Prefix {
    Prefix::masked(
        std::net::Ipv4Addr::from_bits(0xc612_0000 + (n << 8)).into(),
        24,
    )
}

fn gateway(id: u32) -> WantedNexthop {
    WantedNexthop::Via(
        std::net::Ipv4Addr::from_bits(0x0a74_0000 + id).into(),
        "eth1".into(),
    )
}

/// Groups of gateways; the routes of each group, and the twins.
fn wanted(groups: &[(u32, &[u32])], routes: &[(u32, u32)], twins: &[u32]) -> Wanted {
    let mut wanted = Wanted::default();
    for (id, members) in groups {
        wanted
            .groups
            .insert(*id, WantedGroup::equal(members.to_vec()));
        wanted
            .nexthops
            .extend(members.iter().map(|id| (*id, gateway(*id))));
    }
    wanted.routes.extend(routes.iter().map(|(n, id)| OwnRoute {
        key: OURS.key(prefix(*n)),
        target: Target::Nexthop(*id),
    }));
    wanted.routes.extend(twins.iter().map(|n| OwnRoute {
        key: OURS.leak_guard_key(prefix(*n)),
        target: Target::Blackhole,
    }));
    wanted
        .routes
        .sort_unstable_by(|a, b| (a.key, &a.target).cmp(&(b.key, &b.target)));
    wanted
}

/// `count` prefixes through group 11.
fn many(count: u32, members: &[u32]) -> Wanted {
    let routes: Vec<(u32, u32)> = (0..count).map(|n| (n, 11)).collect();
    wanted(&[(11, members)], &routes, &[])
}

// --- properties --------------------------------------------------------------------------------

/// Ids: 1 to 4 gateways, 5 blackhole, 11 to 13 groups of ours; 21 and 22 of others, who also take ours at times.
fn some_line() -> impl Strategy<Value = String> {
    let single = 1..=5_u32;
    let group = 11..=13_u32;
    let verb = prop_oneof![3 => Just("replace"), 1 => Just("append")];
    let metric = prop_oneof![4 => Just(4242_u32), 1 => Just(0), 1 => Just(100), 1 => Just(LEAK_GUARD_METRIC)];
    let table = prop_oneof![5 => Just(254), 1 => Just(100)];
    let by = prop_oneof![
        4 => prop_oneof![Just(1), 11..=13_u32].prop_map(|id| format!("nhid {id}")),
        1 => Just("via 10.116.0.9 dev eth1".to_owned()),
        1 => Just("dev eth2".to_owned()),
        // Several next hops, which a deletion cannot name.
        1 => Just(String::new()),
    ];
    let theirs = prop_oneof![
        2 => Just("via 192.0.2.1 dev eth0".to_owned()),
        1 => prop_oneof![Just(1), Just(21), Just(22), 11..=13_u32].prop_map(|id| format!("nhid {id}")),
    ];
    let tos = prop_oneof![9 => Just(""), 1 => Just(" tos 0x10")];
    let (verb_, metric_, table_) = (verb.clone(), metric.clone(), table.clone());
    prop_oneof![
        4 => (single.clone(), 1..=9_u32, 0..3_u8).prop_map(|(id, host, dev)| match id {
            5 => "nexthop replace id 5 blackhole proto 230".to_owned(),
            _ => format!("nexthop replace id {id} via 10.116.0.{} dev eth{} proto 230", if host > 6 { host } else { id }, 1 + dev / 2),
        }),
        4 => (group.clone(), prop::collection::btree_set(single, 1..4), any::<bool>()).prop_map(|(id, members, resilient)| {
            let members: Vec<String> = members.into_iter().map(|id| id.to_string()).collect();
            let kind = if resilient { " type resilient buckets 512" } else { "" };
            format!("nexthop replace id {id} group {}{kind} proto 230", members.join("/"))
        }),
        // A group's id with a gateway behind it.
        1 => group.clone().prop_map(|id| format!("nexthop replace id {id} via 10.116.0.1 dev eth1 proto 230")),
        9 => (verb, 0..6_u32, by, metric, table, tos)
            .prop_map(|(verb, n, by, metric, table, tos)| format!("route {verb} {} {by}{tos} proto 230 metric {metric} table {table}", prefix(n))),
        2 => (0..6_u32, prop_oneof![Just(4242), Just(LEAK_GUARD_METRIC)])
            .prop_map(|(n, metric)| format!("route replace blackhole {} proto 230 metric {metric} table 254", prefix(n))),
        4 => (verb_, 0..6_u32, theirs, metric_, table_)
            .prop_map(|(verb, n, by, metric, table)| format!("route {verb} {} {by} proto 4 metric {metric} table {table}", prefix(n))),
        1 => Just("nexthop replace id 21 via 192.0.2.1 dev eth0 proto 16".to_owned()),
        1 => Just("nexthop replace id 22 group 1/21 proto 16".to_owned()),
        1 => prop_oneof![Just(1), Just(2)].prop_map(|id| format!("nexthop replace id {id} via 192.0.2.7 dev eth0 proto 16")),
        1 => group.prop_map(|id| format!("nexthop replace id {id} group 21 proto 16")),
        1 => prop_oneof![1..=5_u32, 11..=13_u32].prop_map(|id| format!("nexthop del id {id}")),
    ]
}

/// What a resolution may want: members exist, a blackhole is alone, routes go through wanted groups.
fn some_wanted() -> impl Strategy<Value = Wanted> {
    let members =
        prop_oneof![6 => prop::collection::btree_set(1..=4_u32, 1..4), 1 => Just([5].into())];
    let groups = prop::collection::btree_map(11..=13_u32, members, 0..=3);
    let route = (any::<prop::sample::Index>(), any::<bool>());
    let routes = prop::collection::btree_map(0..6_u32, route, 0..=6);
    (groups, routes, 0..5_u32).prop_map(|(groups, routes, drained)| {
        let ids: Vec<u32> = groups.keys().copied().collect();
        let groups: Vec<(u32, Vec<u32>)> = groups
            .into_iter()
            .map(|(id, members)| (id, members.into_iter().collect()))
            .collect();
        let groups: Vec<(u32, &[u32])> = groups
            .iter()
            .map(|(id, members)| (*id, members.as_slice()))
            .collect();
        let through = routes
            .iter()
            .filter(|_| !ids.is_empty())
            .map(|(n, (at, _))| (*n, ids[at.index(ids.len())]));
        let twins: Vec<u32> = routes
            .iter()
            .filter(|(_, (_, twin))| *twin)
            .map(|(n, _)| *n)
            .collect();
        let mut wanted = wanted(&groups, &through.collect::<Vec<_>>(), &twins);
        if let Some(blackhole) = wanted.nexthops.get_mut(&5) {
            *blackhole = WantedNexthop::Blackhole(Family::V4);
        }
        for group in wanted.groups.values_mut() {
            let drains = group.members.len() > 1 && group.members.iter().any(|m| m.id == drained);
            for member in group
                .members
                .iter_mut()
                .filter(|m| drains && m.id != drained)
            {
                member.weight = 256;
            }
            group.members.sort_unstable();
        }
        wanted
    })
}

/// What must hold when the kernel was brought to what is wanted.
fn is_in_force(
    wanted: &Wanted,
    kernel: &Kernel,
    conflicts: &[Conflict],
    theirs: &[Entry],
) -> Result<(), TestCaseError> {
    let taken = |id: &u32| {
        conflicts
            .iter()
            .any(|c| matches!(c, Conflict::Nexthop(taken, _) if taken == id))
    };
    for route in &kernel.own {
        prop_assert!(
            wanted.routes.contains(route),
            "{route:?} is there and not wanted"
        );
    }
    for route in &wanted.routes {
        let blocked = match route.target {
            Target::Nexthop(id) => {
                taken(&id) || wanted.groups[&id].members.iter().all(|m| taken(&m.id))
            }
            _ => false,
        };
        let in_the_way = theirs.iter().any(|t| t.key == route.key);
        prop_assert!(
            blocked || in_the_way || kernel.own.contains(route),
            "{route:?} is not there"
        );
    }
    for (id, group) in wanted
        .groups
        .iter()
        .filter(|(id, group)| !taken(id) && !group.members.iter().all(|m| taken(&m.id)))
    {
        let members = group.members.iter().copied();
        let members: Vec<Member> = members.filter(|m| !taken(&m.id)).collect();
        let there = kernel.nexthops.get(id).map(|n| &n.kind);
        prop_assert!(
            matches!(there, Some(NexthopKind::Group { members: m, .. }) if *m == members),
            "group {id} is {there:?}"
        );
    }
    for (id, what) in wanted.nexthops.iter().filter(|(id, _)| !taken(id)) {
        let right = match (kernel.nexthops.get(id).map(|n| &n.kind), what) {
            (Some(NexthopKind::Via { gateway, dev }), WantedNexthop::Via(g, d)) => {
                gateway == g && dev == d
            }
            (Some(NexthopKind::Blackhole), WantedNexthop::Blackhole(_)) => true,
            _ => false,
        };
        prop_assert!(right, "nexthop {id} is {:?}", kernel.nexthops.get(id));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_becomes_the_wanted_one_nothing_foreign_is_touched_and_a_second_time_nothing_is_written(
        lines in prop::collection::vec(some_line(), 0..40),
        wanted in some_wanted(),
    ) {
        let mut applier = applier();
        applier.table.try_lines(lines.iter().map(String::as_str));
        let before = applier.table.foreign();
        let outcome = applier.pass(&wanted).unwrap();
        prop_assert!(outcome.left.is_empty(), "left: {:?}", outcome.left);
        is_in_force(&wanted, &applier.table.kernel(), &outcome.left.conflicts, &before.0)?;
        prop_assert_eq!(&applier.table.foreign(), &before);
        applier.table.take_lines();
        let again = applier.pass(&wanted).unwrap();
        prop_assert!(!again.changed.any());
        prop_assert_eq!(applier.table.take_lines(), Vec::<String>::new());
        // And from any wanted state back to nothing of ours.
        now(applier.remove_all()).unwrap();
        prop_assert_eq!(&applier.table.foreign(), &before);
        prop_assert_eq!(applier.own(), Vec::new());
        let lent = |id: &u32, n: &Nexthop| n.protocol != 230 || applier.table.kernel().lent.contains(id) || *id <= 5;
        let left = applier.table.kernel().nexthops;
        prop_assert!(left.iter().all(|(id, n)| lent(id, n)), "{left:?}");
    }

    #[test]
    fn one_wanted_state_after_the_other_ends_in_the_last(states in prop::collection::vec(some_wanted(), 1..6)) {
        let mut applier = applier();
        for wanted in &states {
            applier.pass(wanted).unwrap();
            is_in_force(wanted, &applier.table.kernel(), &[], &[])?;
        }
    }

    #[test]
    fn whatever_fails_at_whatever_call_the_next_pass_mends_it(
        lines in prop::collection::vec(some_line(), 0..20),
        wanted in some_wanted(),
        call in 1..8_usize,
        fault in prop::sample::select(&Fault::ALL),
    ) {
        let mut applier = applier();
        applier.table.try_lines(lines.iter().map(String::as_str));
        let before = applier.table.foreign();
        applier.table.fail_at(call, fault);
        let _ = applier.pass(&wanted);
        if fault != Fault::LinkFlaps {
            // A link takes along what others have through it too.
            prop_assert_eq!(&applier.table.foreign(), &before);
        }
        let before = applier.table.foreign();
        applier.table.fail_no_more();
        let outcome = applier.pass(&wanted).unwrap();
        prop_assert!(outcome.left.is_empty(), "left: {:?}", outcome.left);
        is_in_force(&wanted, &applier.table.kernel(), &outcome.left.conflicts, &before.0)?;
        prop_assert_eq!(&applier.table.foreign(), &before);
    }
}

// --- every failure at every call of typical changes --------------------------------------------

/// A state, and what is wanted next.
fn scenarios() -> Vec<(&'static str, Wanted, Wanted)> {
    let two = wanted(
        &[(11, &[1, 2]), (12, &[2])],
        &[(0, 11), (1, 11), (2, 12), (3, 12)],
        &[],
    );
    vec![
        ("first install", Wanted::default(), two.clone()),
        (
            "install of more than a chunk",
            Wanted::default(),
            many(1100, &[1, 2]),
        ),
        ("another gateway", many(50, &[1]), many(50, &[2])),
        ("one gateway less", many(50, &[1, 2, 3]), many(50, &[1, 3])),
        (
            "a set goes",
            two.clone(),
            wanted(&[(11, &[1, 2])], &[(0, 11), (1, 11)], &[]),
        ),
        (
            "destinations move to another set",
            two.clone(),
            wanted(
                &[(11, &[1]), (12, &[2])],
                &[(0, 12), (1, 12), (2, 11), (3, 11)],
                &[],
            ),
        ),
        (
            "leak guards come",
            two.clone(),
            wanted(
                &[(11, &[1, 2]), (12, &[2])],
                &[(0, 11), (1, 11), (2, 12), (3, 12)],
                &[0, 1, 2, 3],
            ),
        ),
        (
            "half of the destinations go",
            many(2100, &[1]),
            many(1000, &[1]),
        ),
        ("everything goes", two, Wanted::default()),
    ]
}

fn texts(problems: &[crate::report::status::Problem]) -> Vec<&str> {
    problems
        .iter()
        .map(|problem| problem.text.as_str())
        .collect()
}

#[test]
fn every_failure_at_every_call_of_every_change_is_mended_by_the_next_pass() {
    let mut cases = 0;
    for (name, first, then) in scenarios() {
        let prepared = || {
            let mut applier = applier();
            applier.table.prepare(
                "route replace 203.0.113.0/24 via 192.0.2.1 dev eth0 proto 4 metric 100 table 254",
            );
            applier.pass(&first).unwrap();
            applier
        };
        let mut undisturbed = prepared();
        let start = undisturbed.table.calls();
        undisturbed.pass(&then).unwrap();
        let calls = undisturbed.table.calls() - start;
        assert!(calls >= 3, "{name}: only {calls} calls");
        for fault in Fault::ALL {
            for call in 1..=calls + 2 {
                let mut applier = prepared();
                let before = applier.table.foreign();
                applier.table.fail_at(call, fault);
                let first_try = applier.pass(&then);
                applier.table.fail_no_more();
                let second = applier
                    .pass(&then)
                    .unwrap_or_else(|why| panic!("{name}, {fault:?} at call {call}: {why}"));
                assert!(
                    second.left.is_empty(),
                    "{name}, {fault:?} at call {call}: {first_try:?}, then left: {:?}",
                    second.left
                );
                assert_eq!(
                    applier.own(),
                    then.routes,
                    "{name}, {fault:?} at call {call}"
                );
                assert_eq!(
                    applier.table.foreign(),
                    before,
                    "{name}, {fault:?} at call {call}"
                );
                cases += 1;
            }
        }
    }
    assert!(cases > 200, "{cases}");
}

// --- single cases ------------------------------------------------------------------------------

#[test]
fn a_change_of_gateways_is_nexthop_commands_only_however_many_routes_there_are() {
    let mut applier = applier();
    applier.pass(&many(3000, &[1, 2])).unwrap();
    applier.table.take_lines();
    applier.pass(&many(3000, &[2, 3])).unwrap();
    insta::assert_snapshot!(applier.table.take_lines().join("\n"), @r"
    nexthop replace id 3 via 10.116.0.3 dev eth1 proto 230
    nexthop replace id 11 group 2/3 type resilient buckets 2048 idle_timer 300 proto 230
    nexthop del id 1
    ");
}

#[test]
fn a_set_that_goes_takes_one_command_and_a_destination_that_goes_takes_one() {
    let mut applier = applier();
    applier.pass(&many(3000, &[1])).unwrap();
    applier.table.take_lines();
    applier.pass(&many(2999, &[1])).unwrap();
    let one = applier.table.take_lines();
    assert_eq!(
        one,
        [format!(
            "route del {} nhid 11 proto 230 metric 4242 table 254",
            prefix(2999)
        )]
    );
    let outcome = applier.pass(&Wanted::default()).unwrap();
    assert_eq!(
        applier.table.take_lines(),
        ["nexthop del id 11", "nexthop del id 1"]
    );
    assert_eq!((outcome.changed.deleted, applier.own().len()), (2999, 0));
}

#[test]
fn leak_guards_come_before_what_they_guard_and_go_after_it() {
    let mut applier = applier();
    applier
        .pass(&wanted(&[(11, &[1])], &[(0, 11), (1, 11)], &[0, 1]))
        .unwrap();
    let metrics = |lines: Vec<String>| -> Vec<String> {
        let routes = lines.iter().filter(|l| l.starts_with("route"));
        routes
            .map(|l| {
                l.split("metric ")
                    .nth(1)
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(
        metrics(applier.table.take_lines()),
        ["4294967294", "4294967294", "4242", "4242"]
    );
    applier
        .pass(&wanted(&[(11, &[1])], &[(0, 11)], &[0]))
        .unwrap();
    assert_eq!(metrics(applier.table.take_lines()), ["4242", "4294967294"]);
}

#[test]
fn a_kernel_without_resilient_groups_gets_plain_ones_at_the_first_try_and_is_not_asked_again() {
    let mut applier = applier();
    applier.table.state.borrow_mut().without_resilient = true;
    let outcome = applier.pass(&many(5, &[1, 2])).unwrap();
    assert!(
        outcome.left.is_empty() && outcome.complaints.is_empty() && outcome.words.is_empty(),
        "{outcome:?}"
    );
    assert_eq!(applier.own().len(), 5);
    assert!(!applier.resilient);
    applier.table.take_lines();
    applier
        .pass(&wanted(&[(11, &[1, 2]), (12, &[2])], &[(7, 12)], &[]))
        .unwrap();
    let lines = applier.table.take_lines();
    assert!(
        lines.iter().all(|line| !line.contains("resilient")),
        "{lines:?}"
    );
    // A plain group that is there stays plain, or the kernel would refuse.
    let mut fresh = Applier {
        resilient: true,
        table: applier.table,
        ..applier
    };
    fresh.table.state.borrow_mut().without_resilient = false;
    assert!(fresh.pass(&many(5, &[1])).unwrap().left.is_empty());
}

#[test]
fn a_route_of_somebody_else_with_our_very_key_stays_and_is_reported() {
    let mut applier = applier();
    applier.table.prepare(&format!(
        "route replace {} via 192.0.2.1 dev eth0 proto 4 metric 4242 table 254",
        prefix(1)
    ));
    let before = applier.table.foreign();
    let outcome = applier.pass(&many(3, &[1])).unwrap();
    assert_eq!((applier.own().len(), applier.table.foreign()), (2, before));
    assert_eq!(
        texts(&outcome.problems()),
        [
            "198.18.1.0/24 metric 4242 belongs to route protocol 4, and two routes cannot have one prefix and metric"
        ]
    );
}

#[test]
fn a_nexthop_of_somebody_else_with_our_id_stays_carries_nothing_of_ours_and_is_reported() {
    let mut applier = applier();
    applier.table.prepare("nexthop replace id 1 via 192.0.2.9 dev eth0 proto 16\nnexthop replace id 12 via 192.0.2.9 dev eth0 proto 16");
    let before = applier.table.foreign();
    let outcome = applier
        .pass(&wanted(
            &[(11, &[1, 2]), (12, &[2]), (13, &[1])],
            &[(0, 11), (1, 12), (2, 13)],
            &[],
        ))
        .unwrap();
    assert_eq!(applier.table.foreign(), before);
    assert_eq!(
        applier.own().len(),
        1,
        "only the set with another gateway is in"
    );
    let group = &applier.table.kernel().nexthops[&11].kind;
    assert!(
        matches!(group, NexthopKind::Group { members, .. } if *members == [Member::equal(2)]),
        "{group:?}"
    );
    assert_eq!(
        texts(&outcome.problems()),
        [
            "nexthop id 1 belongs to route protocol 16",
            "nexthop id 12 belongs to route protocol 16"
        ]
    );
}

#[test]
fn an_object_of_ours_that_somebody_elses_route_uses_outlives_our_routes() {
    let mut applier = applier();
    applier.pass(&many(3, &[1])).unwrap();
    applier
        .table
        .prepare("route replace 203.0.113.0/24 nhid 11 proto 4 metric 100 table 254");
    let before = applier.table.foreign();
    let outcome = now(applier.remove_all()).unwrap();
    assert!(outcome.left.is_empty());
    assert_eq!(
        (applier.own(), applier.table.foreign()),
        (Vec::new(), before)
    );
}

#[test]
fn a_sibling_that_somebody_appended_goes_and_the_right_route_stays() {
    let mut applier = applier();
    applier.pass(&many(1, &[1])).unwrap();
    applier.table.prepare(&format!(
        "route append {} dev eth2 proto 230 metric 4242 table 254",
        prefix(0)
    ));
    applier.table.take_lines();
    applier.pass(&many(1, &[1])).unwrap();
    assert_eq!(
        applier.table.take_lines(),
        ["route del 198.18.0.0/24 dev eth2 proto 230 metric 4242 table 254"]
    );
    assert_eq!(applier.own().len(), 1);
}

#[test]
fn what_the_kernel_refuses_is_told_in_its_words_and_costs_the_others_nothing() {
    let mut applier = applier();
    // Two members, one of them a blackhole: the kernel refuses such a group.
    let mut wanted = wanted(&[(11, &[1, 5]), (12, &[2])], &[(0, 11), (1, 12)], &[]);
    wanted
        .nexthops
        .insert(5, WantedNexthop::Blackhole(Family::V4));
    let outcome = applier.pass(&wanted).unwrap();
    assert_eq!(applier.own().len(), 1);
    insta::assert_snapshot!(texts(&outcome.problems()).join("\n"), @r"
    the kernel refused a nexthop group: Blackhole nexthop can not be used in a group with more than 1 path
    the kernel refused 1 route(s), among them 198.18.0.0/24: Nexthop id does not exist
    ");
    assert!(applier.resilient, "that was not about resilience");
}

#[test]
fn what_changed_is_what_a_read_back_shows() {
    let mut applier = applier();
    applier.table.fail_at(2, Fault::StopsSilently);
    let outcome = applier.pass(&many(4, &[1])).unwrap();
    assert_eq!(
        outcome.changed,
        Counts {
            replaced: 4,
            deleted: 0,
            nexthops: 2
        }
    );
    applier.table.fail_at(2, Fault::Killed);
    assert!(
        applier.pass(&many(8, &[1])).is_err(),
        "an `ip` that was killed may have done anything"
    );
    assert_eq!(applier.table.kernel().own.len(), 6);
}

#[test]
fn nothing_is_deleted_while_a_write_before_it_did_not_run() {
    let halves = |n: u32| {
        let (address, len) = (prefix(n).address(), prefix(n).len() + 1);
        let upper = std::net::Ipv4Addr::from_bits(0xc612_0080 + (n << 8));
        [
            Prefix::masked(address, len),
            Prefix::masked(upper.into(), len),
        ]
    };
    let mut cut = many(1500, &[1]);
    let route = |prefix| OwnRoute {
        key: OURS.key(prefix),
        target: Target::Nexthop(11),
    };
    cut.routes = (0..1500).flat_map(halves).map(route).collect();
    cut.routes
        .sort_unstable_by(|a, b| (a.key, &a.target).cmp(&(b.key, &b.target)));
    for fault in [Fault::Stops, Fault::RefusesHalf] {
        for call in 2..=4 {
            let mut applier = applier();
            applier.pass(&many(1500, &[1])).unwrap();
            applier.table.take_lines();
            applier.table.fail_at(call, fault);
            let outcome = applier.pass(&cut).unwrap();
            assert!(outcome.left.is_empty(), "{fault:?} at call {call}");
            let lines = applier.table.take_lines();
            let last = lines.iter().rposition(|line| line.starts_with("route add"));
            let first = lines.iter().position(|line| line.starts_with("route del"));
            assert!(
                last.unwrap() < first.unwrap(),
                "{fault:?} at call {call}: a deletion before the last of what replaces it"
            );
        }
    }
}

#[test]
fn a_route_that_somebody_else_adds_between_the_read_and_the_write_stays_and_is_reported() {
    let mut applier = applier();
    let found = now(applier.table.read()).unwrap();
    applier.table.prepare(&format!(
        "route replace {} via 192.0.2.1 dev eth0 proto 4 metric 4242 table 254",
        prefix(1)
    ));
    let before = applier.table.foreign();
    let outcome = now(applier.apply(&many(3, &[1]), found, &[])).unwrap();
    assert_eq!((applier.own().len(), applier.table.foreign()), (2, before));
    let conflict = Conflict::Route(OURS.key(prefix(1)), 4);
    assert_eq!(outcome.left.conflicts, [conflict]);
    assert_eq!(
        outcome.words,
        BTreeMap::new(),
        "the conflict is the better word"
    );
}

/// 300 IPv6 prefixes and 10 of IPv4, through group 11.
fn both_families() -> Wanted {
    let mut wanted = many(10, &[1, 2]);
    wanted.routes.extend((0..300).map(|n| OwnRoute {
        key: OURS.key(Prefix::masked(
            std::net::Ipv6Addr::from_bits((0x2a00_u128 << 112) + (n << 80)).into(),
            48,
        )),
        target: Target::Nexthop(11),
    }));
    wanted.routes.sort_unstable_by_key(|r| r.key);
    wanted
}

#[test]
fn while_other_routes_change_a_pass_deletes_nothing_that_the_reads_may_have_got_wrong_and_rewrites_nothing()
 {
    let mut applier = applier();
    let wanted = both_families();
    applier.pass(&wanted).unwrap();
    applier.table.state.borrow_mut().churn = true;
    for _ in 0..5 {
        let outcome = applier.pass(&wanted).unwrap();
        assert!(outcome.kernel.uncertain_v6 && outcome.left.is_empty());
        assert_eq!(outcome.changed, Counts::default());
        assert_eq!(outcome.installed(&wanted)[&11], 310);
        assert!(outcome.problems().is_empty());
        assert!(outcome.left.is_done() && !outcome.is_settled());
    }
    // What comes is added, what goes waits; IPv4 goes on as ever.
    let mut other = wanted.clone();
    other.routes.retain(|r| r.key.prefix.len() == 24);
    let gone = other.routes.remove(0);
    other.routes.push(OwnRoute {
        key: OURS.key("2001:db8::/32".parse().unwrap()),
        target: Target::Nexthop(11),
    });
    let outcome = applier.pass(&other).unwrap();
    assert_eq!((outcome.changed.replaced, outcome.changed.deleted), (1, 1));
    assert!(outcome.left.postponed >= 200);
    assert!(outcome.left.is_empty() && !outcome.left.is_done());
    let problems = outcome.problems();
    assert!(
        problems.len() == 1 && problems[0].text.contains("wait to be removed: churn"),
        "{problems:?}"
    );
    applier.table.state.borrow_mut().churn = false;
    let own = applier.own();
    assert_eq!(own.len(), 310);
    assert!(!own.contains(&gone));
    let outcome = applier.pass(&other).unwrap();
    assert_eq!(
        (outcome.changed.deleted, applier.own()),
        (300, other.routes)
    );
}

#[test]
fn everything_can_be_removed_as_soon_as_the_others_are_quiet_and_nothing_else_before() {
    let mut applier = applier();
    applier.pass(&both_families()).unwrap();
    applier.table.prepare(
        "route replace 2001:db8::/32 nhid 11 proto 4 metric 100 table 254\nroute replace 203.0.113.0/24 via 192.0.2.1 dev eth0 proto 4 metric 100 table 254",
    );
    let before = applier.table.foreign();
    applier.table.state.borrow_mut().churn = true;
    let outcome = now(applier.remove_all()).unwrap();
    assert_eq!(texts(&outcome.problems()), [CHURN]);
    assert_eq!(applier.table.foreign(), before);
    applier.table.state.borrow_mut().churn = false;
    let outcome = now(applier.remove_all()).unwrap();
    assert!(outcome.left.is_empty() && outcome.problems().is_empty());
    assert_eq!(
        (applier.own(), applier.table.foreign()),
        (Vec::new(), before)
    );
}

#[test]
fn a_gateway_that_the_kernel_refuses_costs_its_group_no_other_member() {
    let mut applier = applier();
    let mut wanted = many(5, &[1, 2]);
    *wanted.nexthops.get_mut(&2).unwrap() =
        WantedNexthop::Via("10.117.0.2".parse().unwrap(), "eth2".into());
    applier.table.state.borrow_mut().without_carrier = Some("eth2");
    let members = |applier: &Applier<FakeTable>| match &applier.table.kernel().nexthops[&11].kind {
        NexthopKind::Group { members, .. } => members.iter().map(|m| m.id).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        let outcome = applier.pass(&wanted).unwrap();
        assert_eq!((applier.own().len(), members(&applier)), (5, vec![1]));
        assert!(!outcome.left.is_empty(), "it is tried again");
        assert_eq!(
            texts(&outcome.problems())[0],
            "the kernel refused gateway 10.117.0.2 on eth2: Carrier for nexthop device is down"
        );
        assert!(applier.resilient, "that was not about resilience");
    }
    // A switch to another gateway is not refused with it.
    let mut three = wanted.clone();
    three.nexthops.insert(3, gateway(3));
    three.groups.get_mut(&11).unwrap().members = vec![Member::equal(2), Member::equal(3)];
    now(applier.repoint(&Kernel::default(), |_| three)).unwrap();
    assert_eq!(members(&applier), [3]);
    applier.table.state.borrow_mut().without_carrier = None;
    assert!(applier.pass(&wanted).unwrap().left.is_empty());
    assert_eq!(members(&applier), [1, 2]);
}

#[test]
fn re_pointing_reads_no_routes_and_leaves_new_groups_to_a_whole_pass() {
    let mut applier = applier();
    applier.pass(&many(10, &[1, 2])).unwrap();
    applier.table.take_lines();
    let mut only_two = wanted(&[(11, &[2]), (12, &[2])], &[], &[]);
    only_two.nexthops.insert(1, gateway(1));
    let (changed, _) = now(applier.repoint(&Kernel::default(), |_| only_two.clone())).unwrap();
    assert_eq!(
        applier.table.take_lines(),
        ["nexthop replace id 11 group 2 type resilient buckets 2048 idle_timer 300 proto 230"]
    );
    assert_eq!((changed.nexthops, applier.own().len()), (1, 10));
    assert!(
        !now(applier.repoint(&Kernel::default(), |_| only_two.clone()))
            .unwrap()
            .0
            .any()
    );
}

#[test]
fn re_pointing_is_decided_on_what_the_kernel_has_now_and_not_on_the_last_pass() {
    let mut applier = applier();
    let last = applier.pass(&many(10, &[1])).unwrap().kernel;
    // A switch that no whole pass has seen.
    let switch = |_: &Kernel| wanted(&[(11, &[2])], &[], &[]);
    assert!(now(applier.repoint(&last, switch)).unwrap().0.any());
    applier.table.take_lines();
    let stays = |kernel: &Kernel| {
        let NexthopKind::Group { members, .. } = &kernel.nexthops[&11].kind else {
            panic!("no group");
        };
        let ids: Vec<u32> = members.iter().map(|m| m.id).collect();
        wanted(&[(11, &ids)], &[], &[])
    };
    assert!(!now(applier.repoint(&last, stays)).unwrap().0.any());
    assert_eq!(applier.table.take_lines(), Vec::<String>::new());
}

#[test]
fn the_mark_of_an_unconfirmed_change_is_written_before_the_change() {
    let mut applier = applier();
    let found = now(applier.table.read()).unwrap();
    now(applier.apply(
        &many(1, &[1]),
        found,
        &[Line::BlackholeNexthop { id: 0x4000_0001 }],
    ))
    .unwrap();
    assert_eq!(
        applier.table.take_lines()[0],
        "nexthop replace id 1073741825 blackhole proto 230"
    );
}
