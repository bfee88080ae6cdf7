//! What the kernel refuses, in its words: kinds of groups that it does not have, and memory that it lacks.

use super::*;

#[test]
fn a_kernel_without_resilient_groups_gets_plain_ones_at_the_first_try_and_is_not_asked_again() {
    let mut applier = applier();
    applier.table.0.borrow_mut().model.without_resilient = true;
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
    fresh.table.0.borrow_mut().model.without_resilient = false;
    assert!(fresh.pass(&many(5, &[1])).unwrap().left.is_empty());
}

#[test]
fn a_shortage_of_memory_makes_a_plain_group_and_is_no_reason_to_make_others_plain() {
    let mut applier = applier();
    applier.pass(&many(5, &[1])).unwrap();
    let two = wanted(&[(11, &[1]), (12, &[1])], &[(0, 11), (7, 12)], &[]);
    // The first line that is refused is the group's.
    applier.table.fail_at(2, Fault::RefusesHalf);
    assert!(applier.pass(&two).unwrap().left.is_empty());
    let resilient = |applier: &Applier<Table>, id| match &applier.table.kernel().nexthops[&id].kind
    {
        NexthopKind::Group { resilient, .. } => resilient.is_some(),
        other => panic!("{other:?}"),
    };
    assert!(
        !resilient(&applier, 12),
        "its routes did not wait for memory"
    );
    let three = wanted(&[(11, &[1]), (13, &[1])], &[(0, 11), (7, 13)], &[]);
    applier.pass(&three).unwrap();
    assert!(resilient(&applier, 13));
}

#[test]
fn what_the_kernel_refuses_is_reported_in_its_words_and_costs_the_others_nothing() {
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
