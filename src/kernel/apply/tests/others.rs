//! Routes and nexthop objects of other programs: blocking ours, in use, or changing all the time.

use std::collections::BTreeMap;

use super::*;

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
fn a_route_that_somebody_else_adds_between_the_read_and_the_write_stays_and_is_reported() {
    let mut applier = applier();
    let found = now(applier.table.read()).unwrap();
    applier.table.prepare(&format!(
        "route replace {} via 192.0.2.1 dev eth0 proto 4 metric 4242 table 254",
        prefix(1)
    ));
    let before = applier.table.foreign();
    let outcome = now(applier.apply(&many(3, &[1]), found, None)).unwrap();
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
    applier.table.0.borrow_mut().churn = true;
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
    applier.table.0.borrow_mut().churn = false;
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
    applier.table.0.borrow_mut().churn = true;
    let outcome = now(applier.remove_all()).unwrap();
    assert_eq!(texts(&outcome.problems()), [CHURN]);
    assert_eq!(applier.table.foreign(), before);
    applier.table.0.borrow_mut().churn = false;
    let outcome = now(applier.remove_all()).unwrap();
    assert!(outcome.left.is_empty() && outcome.problems().is_empty());
    assert_eq!(
        (applier.own(), applier.table.foreign()),
        (Vec::new(), before)
    );
}
