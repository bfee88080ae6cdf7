//! Applying against a kernel in memory: what is written, in which order, and every failure at every call. Random states are
//! `any_state`'s, other programs' routes `others`'s.

mod any_state;
mod others;
mod refused;
mod table;

use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::net::nexthop_id;
use crate::net::prefix::Prefix;
use crate::routing::batch::LEAK_GUARD_METRIC;
use crate::routing::diff::{Conflict, WantedGroup, WantedNexthop};
use crate::routing::state::{Member, Nexthop, OwnRoute};
use table::{Fault, Table};

const OURS: Ownership = Ownership::DEFAULT;

/// The kernel in memory never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the kernel in memory waited")
}

fn applier() -> Applier<Table> {
    Applier {
        table: Table::new(),
        ownership: OURS,
        resilient: true,
    }
}

impl Applier<Table> {
    /// As a pass does it: read, apply; and the sweep of what nothing uses.
    fn pass(&mut self, wanted: &Wanted) -> anyhow::Result<Outcome> {
        let found = now(self.table.read())?;
        let outcome = now(self.apply(wanted, found, None))?;
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

/// Groups of gateways; the routes of each group, and the guards.
fn wanted(groups: &[(u32, &[u32])], routes: &[(u32, u32)], guards: &[u32]) -> Wanted {
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
    wanted.routes.extend(guards.iter().map(|n| OwnRoute {
        key: OURS.leak_guard_key(prefix(*n)),
        target: Target::Blackhole,
    }));
    wanted.routes.sort_unstable();
    wanted
}

/// `count` prefixes through group 11.
fn many(count: u32, members: &[u32]) -> Wanted {
    let routes: Vec<(u32, u32)> = (0..count).map(|n| (n, 11)).collect();
    wanted(&[(11, members)], &routes, &[])
}

// --- properties --------------------------------------------------------------------------------

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
fn records_that_a_batch_did_not_reach_are_written_by_the_second_try() {
    let mut applier = applier();
    let revisions = ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"];
    let ids: BTreeSet<u32> = revisions
        .into_iter()
        .flat_map(nexthop_id::applied)
        .collect();
    let found = applier.table.kernel();
    applier.table.fail_at(1, Fault::StopsSilently);
    now(applier.apply(&many(1, &[1]), found, Some(&ids))).unwrap();
    assert_eq!(applier.table.kernel().records(&OURS), ids);
}

#[test]
fn a_change_is_not_made_while_the_kernel_refuses_its_record() {
    for fault in [Fault::RefusesHalf, Fault::Stops] {
        let mut applier = applier();
        let ids = ["a", "b"].map(nexthop_id::unconfirmed).into();
        let found = applier.table.kernel();
        applier.table.fail_at(1, fault);
        now(applier.apply(&many(1, &[1]), found, Some(&ids))).unwrap();
        let lines = applier.table.take_lines();
        assert!(lines[..2].contains(&lines[2]), "before anything else");
        assert_eq!(applier.table.kernel().records(&OURS), ids);
        assert_eq!(applier.own().len(), 1);
    }
}

#[test]
fn a_removal_that_dies_goes_on_and_records_go_last() {
    let mut applier = applier();
    let ids = BTreeSet::from([nexthop_id::unconfirmed("aaaaaaaaaaaa")]);
    let found = applier.table.kernel();
    now(applier.apply(&many(4, &[1]), found, Some(&ids))).unwrap();
    // A read, the deletions, a read back, and the second try.
    applier.table.fail_at(4, Fault::Stops);
    now(applier.remove_all()).unwrap();
    let kernel = applier.table.kernel();
    assert!(kernel.own.is_empty() && kernel.records(&OURS).is_empty());
    let lines = applier.table.take_lines();
    let last_route = lines.iter().rposition(|line| line.starts_with("route"));
    let is_record = |line: &String| ids.iter().any(|id| *line == format!("nexthop del id {id}"));
    assert!(last_route < lines.iter().position(is_record), "{lines:?}");
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
    cut.routes.sort_unstable();
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
fn a_gateway_that_the_kernel_refuses_costs_its_group_no_other_member() {
    let mut applier = applier();
    let mut wanted = many(5, &[1, 2]);
    *wanted.nexthops.get_mut(&2).unwrap() =
        WantedNexthop::Via("10.117.0.2".parse().unwrap(), "eth2".into());
    applier
        .table
        .0
        .borrow_mut()
        .model
        .set_carrier("eth2", false);
    let members = |applier: &Applier<Table>| match &applier.table.kernel().nexthops[&11].kind {
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
    applier.table.0.borrow_mut().model.set_carrier("eth2", true);
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
fn the_record_of_an_unconfirmed_change_is_written_before_the_change() {
    let mut applier = applier();
    let found = now(applier.table.read()).unwrap();
    now(applier.apply(&many(1, &[1]), found, Some(&BTreeSet::from([0x4000_0001])))).unwrap();
    assert_eq!(
        applier.table.take_lines()[0],
        "nexthop replace id 1073741825 blackhole proto 230"
    );
}
