//! Properties over random states: any becomes the wanted one, and nothing foreign is touched.

use super::*;
use crate::kernel::model::{Entry, run_lines};

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
        1 => Just("nexthop via 10.116.0.8 dev eth1 nexthop via 10.116.0.9 dev eth1".to_owned()),
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
            .prop_map(|(verb, n, by, metric, table, tos)| format!("route {verb} {}{tos} proto 230 metric {metric} table {table} {by}", prefix(n))),
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
        let guards: Vec<u32> = routes
            .iter()
            .filter(|(_, (_, guard))| *guard)
            .map(|(n, _)| *n)
            .collect();
        let mut wanted = wanted(&groups, &through.collect::<Vec<_>>(), &guards);
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
    theirs: &[(RouteKey, Entry)],
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
        let in_the_way = theirs.iter().any(|(key, _)| *key == route.key);
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
        let there = kernel.kind(*id);
        let found = there.and_then(|kind| WantedNexthop::as_found(*id, kind));
        prop_assert!(found.as_ref() == Some(what), "nexthop {id} is {there:?}");
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
        run_lines(lines.iter().map(String::as_str), |_, line| applier.table.0.borrow_mut().model.run(None, line));
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
        run_lines(lines.iter().map(String::as_str), |_, line| applier.table.0.borrow_mut().model.run(None, line));
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
