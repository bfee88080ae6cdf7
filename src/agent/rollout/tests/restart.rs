//! What an agent makes of what an earlier one left.

use super::*;

#[test]
fn what_an_earlier_agent_had_not_brought_when_it_ended_is_guarded() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).step(Event::Found {
        records: nexthop_id::applied(A).into_iter().collect(),
        footprint: prints(ONE),
        adopted: None,
    });
    scene.pass(ONE);
    assert_eq!(scene.effects, [], "it was there");
    scene.pass(TWO);
    assert_eq!(scene.effects, [Effect::AskForNode], "a link came up");
    scene.answered().pass(TWO).silence().pass(ONE).answered();
    assert!(scene.rollout.holds_routes());
}

#[test]
fn a_first_read_that_may_leave_ipv6_routes_out_still_shows_which_of_ipv4_are_a_change() {
    let start = || {
        let mut scene = Scene::new(facts("web"));
        scene.read(good(A)).step(Event::Found {
            records: nexthop_id::applied(A).into_iter().collect(),
            footprint: prints(ONE).or_any_v6(),
            adopted: None,
        });
        scene
    };
    let mut scene = start();
    scene.pass(TWO);
    assert_eq!(scene.effects, [Effect::AskForNode]);
    scene.answered().pass(TWO).silence().pass(ONE).answered();
    assert!(scene.rollout.holds_routes());
    let mut unseen = start();
    unseen.pass(&["203.0.113.0/24", "2001:db8:5::/48"]);
    assert_eq!(unseen.effects, [], "it may have been there");
    unseen.pass(&["203.0.113.0/24", "2001:db8:5::/48", "2001:db8:6::/48"]);
    assert_eq!(
        unseen.effects,
        [Effect::AskForNode],
        "known since the first pass"
    );
}

#[test]
fn what_clashes_while_a_change_is_taken_back_does_not_make_the_change_confirmed() {
    let rolling_back = || {
        let mut scene = Scene::new(not_yet());
        scene.read(good(A)).found(&[], None).silence();
        scene
            .written(&[], false, false)
            .step(Event::Facts(facts("web")));
        scene.pass(ONE).answered().pass(ONE).silence();
        assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
        scene.clash(adopted());
        scene
    };
    let mut scene = rolling_back();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
    assert!(scene.is_held_back(ONE), "nothing of it was confirmed");
    scene.pass(ONE).answered();
    assert!(scene.rollout.holds_routes() && scene.rollout.clash().is_none());
    scene.pass(ONE);
    assert_eq!(
        (scene.stage(), scene.is_held_back(ONE)),
        (Stage::Settled, true)
    );
    let mut again = rolling_back();
    again.clash(adopted());
    assert_eq!(
        (again.stage(), again.revision()),
        (Stage::RollingBack, "none")
    );
    again.pass(&[]).answered();
    assert_eq!(again.rollout.rejected_revision().as_deref(), Some(A));
}

#[test]
fn of_two_changes_that_an_earlier_agent_left_neither_is_blamed() {
    let mut scene = Scene::new(facts("web"));
    let records = [nexthop_id::unconfirmed(A), nexthop_id::unconfirmed(B)];
    scene.read(good(B)).found(&records, Some(adopted()));
    assert_eq!(scene.stage(), Stage::Inherited);
    scene.silence().pass(&[]).answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Changing, B));
    assert_eq!(scene.rollout.rejected_revision(), None);
}

#[test]
fn an_agent_that_starts_while_the_newest_configuration_is_refused_keeps_up_what_the_kernel_holds() {
    let mut scene = Scene::new(facts("web"));
    scene
        .read(refused())
        .found(&nexthop_id::applied(A), Some(adopted()));
    assert_eq!(scene.stage(), Stage::Settled);
    assert!(matches!(
        scene.rollout.target().unwrap().source,
        Source::Adopted(_)
    ));
    scene.written(ONE, false, false);
    assert_eq!(scene.rollout.refused().unwrap().1, "no");
    assert!(
        !scene.is_held_back(ONE),
        "what comes back after a link flap is written at once"
    );
}

#[test]
fn an_agent_that_starts_after_a_rollback_keeps_up_what_the_kernel_holds_and_does_not_try_again() {
    let mut scene = Scene::new(facts("web"));
    let mut records = nexthop_id::applied(A);
    records.push(nexthop_id::rejected(B));
    scene.read(good(B)).found(&records, Some(adopted()));
    assert!(matches!(
        scene.rollout.target().unwrap().source,
        Source::Adopted(_)
    ));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
    scene.written(ONE, false, false);
    assert_eq!(scene.stage(), Stage::Settled);
    scene.read(good(C)).answered();
    assert_eq!(scene.revision(), C);
}

#[test]
fn going_back_to_a_revision_without_routes_after_a_restart_is_no_edit() {
    let edited = |facts: Facts| {
        let records: BTreeSet<u32> = nexthop_id::applied(A).into_iter().collect();
        let mut kernel = Kernel::default();
        kernel.set_records(&records, &OURS);
        let mut scene = Scene::new(facts);
        scene.read(good(B)).step(Event::Found {
            records,
            footprint: Footprint::default(),
            adopted: Some(Arc::new(Adopted::from(&kernel, &OURS, None, false))),
        });
        assert_eq!(scene.effects, [Effect::AskForNode]);
        scene
    };
    let mut back = edited(facts("web"));
    back.answered().pass(ONE).read(good(A));
    assert_eq!(
        (back.rollout.deadline(), back.revision()),
        (None, A),
        "nothing waits for a verdict"
    );
    back.pass(ONE);
    assert_eq!(back.effects, [Effect::AskForNode], "it had made no routes");
    let mut silent = edited(not_yet());
    silent.silence().pass(ONE);
    assert_eq!(silent.stage(), Stage::Confirming, "guarded as after a boot");
}

#[test]
fn what_a_restarted_agent_finds_is_confirmed_and_what_its_revision_makes_beyond_that_is_a_change() {
    let mut scene = Scene::new(not_yet());
    scene
        .read(good(B))
        .found(&nexthop_id::applied(A), Some(adopted()));
    scene.read(good(A)).step(Event::Facts(facts("web")));
    assert!(scene.is_held_back(TWO));
    assert_eq!(scene.stage(), Stage::Changing, "it asks first");
}

#[test]
fn a_restart_with_the_revision_that_the_kernel_was_made_from_asks_nothing() {
    let mut scene = Scene::new(not_yet());
    scene
        .read(good(A))
        .found(&nexthop_id::applied(A), Some(adopted()));
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, A));
    scene.pass(ONE);
    assert_eq!(scene.effects, []);
}

#[test]
fn records_are_honoured_although_the_first_reads_after_a_start_fail() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(B));
    for _ in 0..3 {
        assert_eq!(
            scene.rollout.target(),
            None,
            "nothing is written before the kernel was read"
        );
        scene.now += Duration::from_secs(2);
        scene.step(Event::Tick).step(Event::Facts(facts("db")));
    }
    let mut records = nexthop_id::applied(A);
    records.push(nexthop_id::rejected(B));
    scene.found(&records, Some(adopted()));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
    assert_eq!(scene.revision(), A, "by its record");
}

#[test]
fn a_node_that_boots_before_the_api_answers_gets_its_first_routes_guarded() {
    let mut scene = Scene::new(not_yet());
    scene.read(good(A)).found(&[], None).silence().pass(ONE);
    assert_eq!(scene.stage(), Stage::Confirming);
    scene.silence().pass(&[]);
    assert_eq!(scene.stage(), Stage::RolledBack);
    // It answers: perhaps because the routes are gone, perhaps because it has come up.
    scene.answered().pass(ONE);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, A));
    let mut up = scene;
    up.answered();
    assert_eq!(up.stage(), Stage::Settled);
    let mut harmful = Scene::new(not_yet());
    harmful
        .read(good(A))
        .found(&[], None)
        .silence()
        .pass(ONE)
        .silence()
        .pass(&[])
        .answered()
        .pass(ONE);
    harmful.silence().pass(&[]).answered();
    assert_eq!(harmful.rollout.rejected_revision().as_deref(), Some(A));
}

#[test]
fn an_agent_killed_while_a_change_is_unconfirmed_asks_before_it_writes_and_removes_all_when_nobody_answers()
 {
    let mut records = nexthop_id::applied(A);
    records.push(nexthop_id::unconfirmed(B));
    let mut scene = Scene::new(not_yet());
    scene.read(good(B)).found(&records, Some(adopted()));
    assert_eq!(
        (scene.rollout.target(), scene.effects.as_slice()),
        (None, &[Effect::Ask][..])
    );
    scene.silence();
    assert_eq!(
        (scene.stage(), scene.revision()),
        (Stage::RollingBack, "none")
    );
    scene.pass(&[]).answered();
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
    let mut good_edit = Scene::new(not_yet());
    good_edit
        .read(good(B))
        .found(&records, Some(adopted()))
        .answered()
        .written(TWO, false, false);
    assert_eq!(
        (good_edit.stage(), good_edit.revision()),
        (Stage::Settled, B)
    );
}

#[test]
fn an_agent_killed_between_rolling_back_and_the_answer_does_not_try_the_change_again() {
    let mut scene = confirming();
    scene.silence().pass(ONE);
    let records: Vec<u32> = scene.rollout.records().into_iter().collect();
    let mut restarted = Scene::new(not_yet());
    restarted.read(good(B)).found(&records, Some(adopted()));
    assert_eq!(
        (restarted.stage(), restarted.revision()),
        (Stage::RolledBack, A)
    );
    restarted.answered();
    assert_eq!(restarted.rollout.rejected_revision().as_deref(), Some(B));
    let mut alone = Scene::new(not_yet());
    alone
        .read(good(B))
        .found(&records, Some(adopted()))
        .silence();
    assert_eq!(
        (alone.stage(), alone.revision()),
        (Stage::Reapplying, B),
        "still silent: not the cause"
    );
}

#[test]
fn an_agent_killed_while_it_rolls_back_does_not_take_what_is_left_for_good() {
    let mut scene = confirming();
    scene.silence().written(ONE, true, true);
    let records: Vec<u32> = scene.rollout.records().into_iter().collect();
    let mut restarted = Scene::new(not_yet());
    restarted
        .read(good(B))
        .found(&records, Some(adopted()))
        .silence();
    assert_eq!(
        (restarted.stage(), restarted.revision()),
        (Stage::RollingBack, "none")
    );
    restarted.pass(&[]).answered();
    assert_eq!(restarted.rollout.rejected_revision().as_deref(), Some(B));
}

#[test]
fn an_edit_made_while_the_agent_was_dead_does_not_hide_that_the_one_before_was_never_confirmed() {
    let mut records = nexthop_id::applied(A);
    records.push(nexthop_id::unconfirmed(B));
    let mut scene = Scene::new(not_yet());
    scene
        .read(good(C))
        .found(&records, Some(adopted()))
        .silence()
        .pass(ONE);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, C));
}

#[test]
fn an_edit_is_not_blamed_for_what_an_earlier_agent_left() {
    let mut scene = Scene::new(facts("web"));
    scene
        .read(good(B))
        .found(&[nexthop_id::unconfirmed(B)], Some(adopted()))
        .read(good(C));
    assert_eq!(scene.effects, [Effect::AskForNode]);
    scene.silence().pass(&[]);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, C));
    scene.answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, C));
}

#[test]
fn an_unconfirmed_change_of_the_revision_before_a_rejected_one_is_neither_kept_nor_blamed_on_it() {
    let mut scene = Scene::new(facts("web"));
    let records = [
        nexthop_id::rejected(B),
        nexthop_id::unconfirmed(B),
        nexthop_id::unconfirmed(A),
    ];
    scene.read(good(B)).found(&records, Some(adopted()));
    assert_eq!(scene.stage(), Stage::Inherited);
    scene.silence().pass(&[]).answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, "none"));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
}

#[test]
fn what_an_earlier_agent_left_unconfirmed_and_has_vanished_is_guarded_when_it_comes_back() {
    let inherited = || {
        let mut scene = Scene::new(facts("web"));
        scene
            .read(refused())
            .found(&[nexthop_id::unconfirmed(B)], Some(adopted()));
        scene.step(Event::Answered);
        scene
    };
    let mut vanished = inherited();
    vanished.written(&[], false, false).pass(ONE);
    assert_eq!(vanished.effects, [Effect::AskForNode]);
    let mut repaired = inherited();
    repaired.pass(ONE);
    assert_eq!(repaired.stage(), Stage::Confirming);
    let mut there = inherited();
    there.written(ONE, false, false);
    assert_eq!(there.stage(), Stage::Settled);
}

#[test]
fn that_a_revision_was_once_rejected_is_forgotten_before_it_is_written_again() {
    let mut scene = confirming();
    scene.silence().pass(ONE).answered();
    let kept = scene.rollout.records();
    assert!(kept.contains(&nexthop_id::rejected(B)));
    scene.read(good(C)).read(good(B));
    let still = scene.rollout.records_beside(kept.clone());
    assert!(still.contains(&nexthop_id::rejected(B)), "not written yet");
    scene.answered();
    let records = scene.rollout.records_beside(kept);
    assert!(!records.contains(&nexthop_id::rejected(B)));
    let records: Vec<u32> = records.into_iter().collect();
    let mut restarted = Scene::new(not_yet());
    restarted.read(good(B)).found(&records, Some(adopted()));
    assert_eq!(restarted.stage(), Stage::Inherited, "it may be the cause");
}

#[test]
fn a_revision_that_was_taken_back_is_not_in_force_by_the_record_of_the_time_before() {
    let mut records = nexthop_id::applied(A);
    records.extend([
        nexthop_id::unconfirmed(B),
        nexthop_id::unconfirmed(A),
        nexthop_id::rejected(A),
    ]);
    let mut scene = Scene::new(facts("web"));
    let found = adopted_beside(&records);
    scene.read(good(A)).found(&records, Some(found));
    assert_eq!(scene.stage(), Stage::Inherited);
    scene.answered().written(ONE, false, false);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, "none"));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(A));
    assert!(!scene.rollout.is_at_newest());
}

#[test]
fn once_all_that_an_earlier_agent_left_is_out_no_record_shows_a_revision_in_force() {
    let mut records = nexthop_id::applied(A);
    records.push(nexthop_id::unconfirmed(B));
    let there: BTreeSet<u32> = records.iter().copied().collect();
    let mut scene = Scene::new(not_yet());
    scene.read(good(B)).found(&records, Some(adopted()));
    scene.silence();
    let kept = scene.rollout.records_beside(there.clone());
    assert_eq!(kept, there, "its routes are there still");
    scene.pass(&[]);
    let of_change = [nexthop_id::unconfirmed(B), nexthop_id::rejected(B)];
    assert_eq!(
        scene.rollout.records_beside(there),
        BTreeSet::from(of_change)
    );
}
