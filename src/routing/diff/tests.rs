//! Plans in words, as `diff` prints them, and the order of what is written. What plans do to a kernel is tested in `apply`.

use std::collections::BTreeMap;

use super::*;
use crate::kernel::model::Model;
use crate::net::prefix::Prefix;
use crate::routing::state::Target;

const OURS: Ownership = Ownership::DEFAULT;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn gateways(ids: &[u32]) -> BTreeMap<u32, WantedNexthop> {
    ids.iter()
        .map(|id| {
            (
                *id,
                WantedNexthop::Via(format!("10.116.0.{id}").parse().unwrap(), "eth1".into()),
            )
        })
        .collect()
}

fn kernel(lines: &str) -> Kernel {
    let mut model = Model::node();
    model.prepare(lines);
    model.dump(&OURS)
}

fn words(wanted: &Wanted, kernel: &Kernel) -> String {
    diff(wanted, kernel, &OURS, true)
        .describe(wanted, kernel)
        .collect::<Vec<_>>()
        .join("\n")
}

const INSTALLED: &str = "
    nexthop replace id 5 via 10.116.0.5 dev eth1 proto 230
    nexthop replace id 6 via 10.116.0.6 dev eth1 proto 230
    nexthop replace id 11 group 5 type resilient idle_timer 300 proto 230
    nexthop replace id 12 group 6 type resilient idle_timer 300 proto 230
    route replace 203.0.113.0/24 nhid 11 proto 230 metric 4242 table 254
    route replace 198.51.100.7/32 nhid 11 proto 230 metric 4242 table 254
    route replace 192.0.2.0/24 nhid 12 proto 230 metric 4242 table 254";

/// What the kernel has of ours, as something to want.
fn as_found(kernel: &Kernel, ownership: &Ownership) -> Wanted {
    let mut wanted = Wanted {
        routes: kernel.own.clone(),
        ..Wanted::default()
    };
    let ours = kernel
        .nexthops
        .iter()
        .filter(|(_, n)| n.protocol == ownership.protocol);
    for (id, nexthop) in ours {
        let object = WantedNexthop::as_found(*id, &nexthop.kind);
        wanted.nexthops.extend(object.map(|object| (*id, object)));
        let group = WantedGroup::as_found(&nexthop.kind);
        wanted.groups.extend(group.map(|group| (*id, group)));
    }
    wanted
}

#[test]
fn a_diff_says_what_comes_goes_and_goes_another_way() {
    let kernel = kernel(INSTALLED);
    let route = |text: &str, id| OwnRoute {
        key: OURS.key(prefix(text)),
        target: Target::Nexthop(id),
    };
    let wanted = Wanted {
        nexthops: gateways(&[5, 6]),
        groups: BTreeMap::from([
            (11, WantedGroup::equal(vec![5, 6])),
            (12, WantedGroup::equal(vec![6])),
        ]),
        routes: vec![
            route("8.8.8.0/24", 12),
            route("192.0.2.0/24", 11),
            OwnRoute {
                key: OURS.leak_guard_key(prefix("192.0.2.0/24")),
                target: Target::Blackhole,
            },
            route("203.0.113.0/24", 11),
        ],
    };
    insta::assert_snapshot!(words(&wanted, &kernel), @r"
    + 192.0.2.0/24 blackhole (leak guard)
    + 8.8.8.0/24 via 10.116.0.6
    ~ 192.0.2.0/24 via 10.116.0.5, 10.116.0.6
    ~ 203.0.113.0/24 via 10.116.0.5, 10.116.0.6 (was via 10.116.0.5)
    - 198.51.100.7/32 via 10.116.0.5
    ");
    assert_eq!(words(&as_found(&kernel, &OURS), &kernel), "");
}

#[test]
fn a_gateway_that_only_stands_by_is_a_line_and_a_route_that_changes_its_set_is_one() {
    let kernel = kernel(INSTALLED);
    let mut wanted = as_found(&kernel, &OURS);
    wanted.nexthops.extend(gateways(&[7]));
    assert_eq!(
        words(&wanted, &kernel),
        "+ gateway 10.116.0.7 dev eth1, which carries nothing for now"
    );
    // Both groups change, and the route goes from one to the other.
    wanted.groups = BTreeMap::from([
        (11, WantedGroup::equal(vec![6])),
        (12, WantedGroup::equal(vec![7])),
    ]);
    wanted
        .routes
        .iter_mut()
        .find(|r| r.key.prefix == prefix("192.0.2.0/24"))
        .unwrap()
        .target = Target::Nexthop(11);
    insta::assert_snapshot!(words(&wanted, &kernel), @r"
    ~ 192.0.2.0/24 via 10.116.0.6
    ~ 198.51.100.7/32 via 10.116.0.6 (was via 10.116.0.5)
    ~ 203.0.113.0/24 via 10.116.0.6 (was via 10.116.0.5)
    ");
}

#[test]
fn a_gateway_that_moved_to_another_device_changes_the_routes_through_it() {
    let kernel = kernel(INSTALLED);
    let mut wanted = as_found(&kernel, &OURS);
    wanted.nexthops.insert(
        6,
        WantedNexthop::Via("10.116.0.6".parse().unwrap(), "eth2".into()),
    );
    assert_eq!(
        words(&wanted, &kernel),
        "~ 192.0.2.0/24 via 10.116.0.6 (was via 10.116.0.6)"
    );
}

#[test]
fn what_nothing_uses_is_listed_apart_groups_before_their_members_and_is_no_difference() {
    let kernel = kernel(&format!(
        "{INSTALLED}\nnexthop replace id 7 via 10.116.0.7 dev eth1 proto 230\nnexthop replace id 13 group 5/7 proto 230"
    ));
    let mut wanted = as_found(&kernel, &OURS);
    wanted.groups.remove(&13);
    wanted.nexthops.remove(&7);
    let plan = diff(&wanted, &kernel, &OURS, true);
    assert!(plan.is_empty());
    assert_eq!(plan.unused, [13, 7]);
}

#[test]
fn a_set_of_another_protocol_number_or_table_is_not_ours() {
    let kernel = kernel(INSTALLED);
    let others = Ownership {
        protocol: 231,
        ..OURS
    };
    let plan = diff(
        &Wanted::default(),
        &Kernel {
            own: Vec::new(),
            ..kernel
        },
        &others,
        true,
    );
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_metric_or_table_of_another_run_is_cleaned_up() {
    let kernel = kernel(INSTALLED);
    let other = Ownership {
        metric: 50,
        table: 100,
        ..OURS
    };
    let mut wanted = as_found(&kernel, &OURS);
    for route in &mut wanted.routes {
        route.key = other.key(route.key.prefix);
    }
    let plan = diff(&wanted, &kernel, &other, true);
    assert_eq!(
        (
            plan.replace.len(),
            plan.delete.len(),
            plan.delete_groups.len()
        ),
        (3, 3, 0)
    );
    let order: Vec<bool> = plan
        .writes()
        .chain(plan.deletions())
        .map(|line| matches!(line, Line::Route { .. }))
        .collect();
    assert_eq!(
        order,
        [true, true, true, false, false, false],
        "the new ones come before the old ones go"
    );
}

#[test]
fn of_several_strays_the_one_with_most_words_goes_first_and_nothing_is_written_through_what_is_cleared_away()
 {
    let kernel = kernel(
        "route replace 198.18.3.0/24 via 10.116.0.9 dev eth1 proto 230 metric 4242 table 254
        route append 198.18.3.0/24 proto 230 metric 4242 table 254 nexthop via 10.116.0.8 dev eth1 nexthop via 10.116.0.9 dev eth1
        nexthop replace id 12 via 10.116.0.1 dev eth1 proto 230
        nexthop replace id 2 via 192.0.2.7 dev eth0 proto 16",
    );
    let wanted = Wanted {
        nexthops: gateways(&[2]),
        groups: BTreeMap::from([(12, WantedGroup::equal(vec![2]))]),
        routes: vec![OwnRoute {
            key: OURS.key(prefix("198.18.0.0/24")),
            target: Target::Nexthop(12),
        }],
    };
    let plan = diff(&wanted, &kernel, &OURS, true);
    assert_eq!((&plan.clear, &plan.replace), (&vec![12], &vec![]));
    let targets: Vec<&Target> = plan.delete.iter().map(|r| &r.target).collect();
    let stray = |words: &str| Target::Stray(Box::new(words.to_owned()));
    assert_eq!(targets, [&stray(" via 10.116.0.9 dev eth1"), &stray("")]);
}

#[test]
fn no_record_is_written_over_an_object_of_somebody_else() {
    let (ours, theirs) = (nexthop_id::unconfirmed("b"), nexthop_id::rejected("a"));
    let there = |protocol| Nexthop {
        kind: NexthopKind::Blackhole,
        protocol,
    };
    let kernel = Kernel {
        nexthops: [(theirs, there(186))].into(),
        ..Kernel::default()
    };
    let lines = records_to(&[ours, theirs].into(), &kernel, &OURS);
    assert!(
        matches!(lines[..], [Line::BlackholeNexthop { id }] if id == ours),
        "{lines:?}"
    );
    assert!(records_to(&[theirs].into(), &kernel, &OURS).is_empty());
}
