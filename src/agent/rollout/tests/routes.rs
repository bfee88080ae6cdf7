//! Labels, clashes, and routes that come without an edit.

use super::*;

#[test]
fn routes_that_were_taken_back_are_not_tried_again_in_turn_with_others() {
    const THREE: &[&str] = &["203.0.113.0/24", "203.0.114.0/24", "203.0.115.0/24"];
    let mut scene = settled();
    scene.pass(TWO).answered().pass(TWO);
    scene.silence().pass(ONE).answered();
    assert!(scene.rollout.holds_routes(), "a link came up");
    scene.step(Event::Facts(facts("db")));
    assert!(scene.rollout.to_review().is_some());
    scene.rollout.reviewed(&prints(THREE));
    scene.pass(THREE).answered().pass(THREE);
    scene.silence().pass(ONE).answered();
    scene.pass(TWO);
    assert_eq!(
        (scene.stage(), &scene.effects[..]),
        (Stage::Settled, &[][..])
    );
    assert!(scene.rollout.holds_routes());
}

#[test]
fn newest_configuration_clashes_after_a_restart_and_what_the_kernel_holds_is_kept_up() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).found(&nexthop_id::applied(A), None);
    scene.clash(adopted());
    assert!(matches!(
        scene.rollout.target().unwrap().source,
        Source::Adopted(_)
    ));
    assert_eq!(scene.rollout.refused().unwrap().1, "both");
    assert!(!scene.rollout.is_at_newest(), "it is not in force");
    scene.step(Event::Facts(facts("db"))).answered();
    let target = scene.rollout.target().unwrap();
    assert!(target.config().is_some(), "other labels may fit");
}

#[test]
fn labels_that_end_a_clash_bring_routes_of_the_revision_in_force_which_is_no_edit() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).found(&nexthop_id::applied(A), None);
    scene.clash(adopted());
    scene.pass(ONE).step(Event::Facts(facts("db"))).pass(TWO);
    scene
        .answered()
        .pass(TWO)
        .silence()
        .pass(ONE)
        .answered()
        .pass(TWO);
    assert!(scene.is_held_back(TWO) && scene.rollout.holds_routes());
    assert_eq!(scene.rollout.rejected_revision(), None);
    assert!(!scene.rollout.is_at_newest());
}

#[test]
fn labels_that_make_the_configuration_in_force_clash_leave_it_in_force_with_the_earlier_ones() {
    let mut scene = settled();
    scene.step(Event::Facts(facts("db")));
    assert_eq!(scene.rollout.target().unwrap().facts, facts("db"));
    scene.clash(adopted());
    let target = scene.rollout.target().unwrap();
    assert_eq!((target.revision(), &target.facts), (Some(A), &facts("web")));
    assert_eq!(
        (scene.rollout.refused(), scene.rollout.clash()),
        (None, Some("both"))
    );
    scene.step(Event::Facts(facts("other")));
    assert_eq!(scene.rollout.target().unwrap().facts, facts("other"));
    assert_eq!(scene.rollout.clash(), None);
}

#[test]
fn an_edit_that_clashes_leaves_the_revision_before_it_in_force_with_the_newest_labels() {
    let mut scene = settled();
    scene.read(good(B)).answered();
    scene.clash(adopted());
    assert_eq!((scene.revision(), scene.stage()), (A, Stage::Settled));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
    scene.step(Event::Facts(facts("db")));
    assert_eq!(
        scene.effects,
        [Effect::Pass, Effect::AskForNode],
        "other labels may fit"
    );
    scene.answered().pass(TWO);
    assert_eq!(scene.revision(), B);
    assert_eq!(scene.stage(), Stage::Confirming);
}

#[test]
fn routes_that_come_in_later_are_guarded_and_taken_back_although_nothing_was_edited() {
    let mut scene = settled();
    assert!(scene.is_held_back(TWO), "new routes wait for the question");
    assert_eq!(scene.stage(), Stage::Changing);
    scene.answered().pass(TWO);
    assert_eq!(scene.stage(), Stage::Confirming);
    scene.silence();
    assert!(scene.is_held_back(TWO), "taken back");
    scene.pass(TWO).answered();
    assert!(scene.rollout.holds_routes() && scene.is_held_back(TWO));
    assert_eq!(scene.stage(), Stage::Settled);
    let three = ["203.0.113.0/24", "203.0.114.0/24", "203.0.115.0/24"];
    assert!(scene.is_held_back(&three));
    assert_eq!(
        scene.stage(),
        Stage::Changing,
        "other routes are tried, guarded"
    );
}

#[test]
fn routes_that_vanished_and_come_back_wait_for_nobody() {
    let mut scene = settled();
    scene.written(&[], true, false).pass(ONE);
    assert_eq!((scene.stage(), scene.effects.len()), (Stage::Settled, 0));
}

/// Revision A, confirmed; of B a part was written, and the API server has answered since.
fn written_in_part() -> Scene {
    let mut scene = settled();
    scene
        .read(good(B))
        .answered()
        .written(TWO, true, true)
        .answered();
    scene
}

#[test]
fn a_change_that_was_written_in_part_is_not_confirmed_by_an_answer_to_that_part() {
    let mut scene = written_in_part();
    assert_eq!(scene.stage(), Stage::Confirming);
    scene.pass(TWO);
    assert_eq!(scene.effects, [Effect::Ask], "the rest is asked about too");
    scene.silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
}

#[test]
fn what_the_kernel_never_takes_does_not_keep_the_rest_from_being_confirmed() {
    let mut scene = written_in_part();
    scene.written(TWO, false, true).silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, B));
}

#[test]
fn a_write_of_unknown_outcome_is_guarded_as_if_it_had_been_made() {
    let mut scene = settled();
    scene.read(good(B)).answered();
    scene.step(Event::WriteUnknown {
        planned: prints(TWO),
    });
    assert_eq!(scene.effects, [Effect::Ask]);
    scene.silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
}

#[test]
fn an_edit_of_which_not_all_was_written_is_not_blamed_for_what_the_one_before_left() {
    let taken_back = |is_written: bool| {
        let mut scene = confirming();
        scene.read(good(C)).silence();
        if is_written {
            scene.pass(THREE);
        } else {
            let planned = prints(THREE);
            scene.step(Event::WriteUnknown { planned });
        }
        scene.silence().pass(ONE);
        let records = scene.rollout.records();
        assert_eq!(records.contains(&nexthop_id::rejected(C)), is_written);
        scene.answered();
        scene
    };
    let mut in_part = taken_back(false);
    assert_eq!((in_part.stage(), in_part.revision()), (Stage::Changing, C));
    in_part.pass(THREE).silence().pass(ONE).answered();
    let whole = taken_back(true);
    for scene in [in_part, whole] {
        assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, A));
        assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(C));
    }
}

#[test]
fn labels_that_bring_routes_are_guarded_also_while_the_newest_configuration_is_refused_or_rejected()
{
    for rejected in [false, true] {
        let mut scene = if rejected {
            let mut scene = settled();
            scene.read(good(B)).answered().pass(THREE);
            scene.silence().pass(ONE).answered();
            scene
        } else {
            let mut scene = settled();
            scene.read(refused());
            scene
        };
        scene.step(Event::Facts(facts("db")));
        assert!(scene.is_held_back(TWO), "rejected: {rejected}");
        scene.answered().pass(TWO);
        assert_eq!(scene.stage(), Stage::Confirming);
        scene.silence().pass(ONE).answered();
        let target = scene.rollout.target().unwrap();
        assert_eq!((target.revision(), &target.facts), (Some(A), &facts("web")));
        assert!(scene.rollout.holds_routes());
        assert_eq!(scene.rollout.to_review(), None, "the same labels");
        scene.step(Event::Facts(facts("other")));
        assert!(scene.rollout.to_review().is_some());
        scene.rollout.reviewed(&prints(TWO));
        assert_eq!(
            scene.rollout.target().unwrap().facts,
            facts("web"),
            "another label, the same routes"
        );
        scene.step(Event::Facts(facts("third")));
        scene.rollout.reviewed(&prints(ONE));
        assert_eq!(scene.rollout.target().unwrap().facts, facts("third"));
    }
}

#[test]
fn labels_that_arrive_with_the_answer_count_for_the_edit_that_it_precedes() {
    let mut scene = settled();
    scene
        .read(good(B))
        .step(Event::Facts(facts("db")))
        .answered();
    let target = scene.rollout.target().unwrap();
    assert_eq!((target.revision(), &target.facts), (Some(B), &facts("db")));
}

#[test]
fn labels_that_come_during_a_roll_back_are_followed_after_it() {
    let mut scene = confirming();
    scene.silence().pass(ONE);
    scene.step(Event::Facts(facts("db"))).answered();
    let target = scene.rollout.target().unwrap();
    assert_eq!((target.revision(), &target.facts), (Some(A), &facts("db")));
}

#[test]
fn an_edit_that_clashes_does_not_keep_an_undecided_one_in_the_kernel() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).found(&[], None).answered().pass(ONE);
    scene.read(good(B)).silence();
    scene.clash(adopted());
    assert_eq!(scene.revision(), "none", "nothing was ever confirmed");
    scene.pass(&[]);
    assert_eq!(scene.stage(), Stage::Settled);
}

#[test]
fn what_is_left_of_a_change_without_a_guard_is_guarded_when_it_comes() {
    let mut scene = settled();
    scene.read(good(B)).silence();
    let (planned, installed) = (prints(TWO), prints(ONE));
    scene.step(Event::Written(Written {
        planned,
        installed,
        changed: true,
        left: true,
    }));
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, B));
    assert!(scene.is_held_back(TWO));
}

#[test]
fn routes_that_are_held_back_are_not_taken_for_confirmed_with_the_next_labels() {
    const OTHER: &[&str] = &["203.0.115.0/24"];
    let mut scene = settled();
    scene.step(Event::Facts(facts("db")));
    scene.pass(TWO).answered().pass(TWO).silence();
    scene.pass(ONE).answered();
    assert!(scene.rollout.holds_routes());
    // A link brings a route of the earlier labels, which is confirmed; then the newest are followed again.
    scene.pass(OTHER).answered().pass(OTHER).answered();
    assert_eq!(scene.rollout.target().unwrap().facts, facts("db"));
    scene.pass(TWO).pass(TWO);
    assert!(scene.is_held_back(TWO) && scene.rollout.holds_routes());
}

#[test]
fn a_link_that_flaps_does_not_bring_back_what_was_taken_back() {
    const OTHER: &[&str] = &["203.0.115.0/24", "203.0.113.0/24"];
    let mut scene = settled();
    scene.pass(TWO).answered().pass(TWO);
    scene.silence().pass(ONE).answered();
    scene.pass(OTHER).answered();
    assert!(scene.is_held_back(TWO), "it has made the old ones of them");
    assert!(scene.rollout.holds_routes());
    scene.pass(OTHER).answered().pass(OTHER);
    assert!(scene.is_held_back(TWO) && scene.stage() == Stage::Confirming);
    scene.pass(TWO).silence();
    scene.pass(ONE).answered();
    assert!(
        scene.is_held_back(OTHER),
        "what was tried last is known too"
    );
    assert_eq!(scene.stage(), Stage::Settled);
}

#[test]
fn what_a_link_brings_with_a_return_to_what_is_in_force_is_guarded() {
    let mut scene = settled();
    scene.read(good(B)).read(good(A));
    assert!(scene.is_held_back(TWO));
}

#[test]
fn a_change_that_looks_like_a_clash_once_it_is_written_is_confirmed_as_it_is_there() {
    let mut scene = Scene::new(not_yet());
    scene.read(good(A)).found(&[], None).answered().pass(ONE);
    assert_eq!(scene.stage(), Stage::Confirming);
    scene.clash(adopted());
    assert_eq!(scene.stage(), Stage::Confirming, "nobody has answered");
    let source = &scene.rollout.target().unwrap().source;
    assert!(matches!(source, Source::Adopted(_)));
    let mut harmful = scene;
    harmful.silence();
    assert_eq!(
        (harmful.stage(), harmful.revision()),
        (Stage::RollingBack, "none")
    );
}

#[test]
fn what_was_confirmed_before_the_facts_were_known_is_put_back_with_them() {
    let mut scene = Scene::new(not_yet());
    scene
        .read(good(A))
        .found(&nexthop_id::applied(A), None)
        .pass(ONE);
    scene.step(Event::Facts(facts("web")));
    scene.pass(TWO).answered().pass(TWO).silence();
    assert_eq!(scene.stage(), Stage::RollingBack);
    assert_eq!(scene.rollout.target().unwrap().facts, facts("web"));
    assert!(scene.is_held_back(TWO), "what was there is all that may be");
}

#[test]
fn what_was_taken_back_is_not_tried_again_beside_other_confirmed_routes() {
    let mut scene = settled();
    scene.pass(TWO).answered().pass(TWO);
    // The gateway of what was confirmed goes off-link, then all is taken back.
    let bad: &[&str] = &["203.0.114.0/24"];
    scene.pass(bad).silence().pass(&[]).answered().pass(&[]);
    assert!(scene.rollout.holds_routes());
    scene.pass(TWO);
    assert_eq!(
        (scene.stage(), &scene.effects[..]),
        (Stage::Settled, &[][..])
    );
    assert!(scene.is_held_back(TWO), "the gateway is back");
    scene.pass(THREE);
    assert_eq!(scene.effects, [Effect::AskForNode], "others are tried");
}

#[test]
fn an_edit_back_to_what_is_in_force_is_not_reported_as_rejected_while_its_new_routes_are_decided() {
    let mut scene = confirming();
    scene.silence().pass(ONE).answered();
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
    scene.step(Event::Facts(facts("db")));
    assert!(scene.is_held_back(THREE));
    scene.answered().pass(THREE);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, A));
    scene.read(good(A));
    assert_eq!(scene.rollout.rejected_revision(), None);
}

#[test]
fn a_change_of_which_only_what_was_taken_back_is_left_is_taken_back_at_once() {
    let mut scene = settled();
    scene.pass(TWO).answered().pass(TWO);
    scene.silence().pass(ONE).answered();
    scene.pass(THREE).answered().pass(THREE);
    assert_eq!(scene.stage(), Stage::Confirming, "an address went");
    assert!(scene.is_held_back(TWO), "it is there again");
    assert_eq!(scene.stage(), Stage::RollingBack);
    scene.pass(ONE).answered().pass(THREE);
    assert_eq!(scene.stage(), Stage::Settled);
    assert!(
        scene.rollout.holds_routes(),
        "nor are the others tried again"
    );
}

#[test]
fn an_edit_that_brings_nothing_is_not_blamed_for_silence_from_before_it() {
    let mut scene = confirming();
    scene.read(good(C)).silence().pass(ONE);
    scene.silence().pass(ONE).answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Changing, C));
    scene.pass(ONE).answered();
    assert!(scene.rollout.is_at_newest(), "now with an answer before it");
    let mut brings = confirming();
    brings.read(good(C)).silence().pass(THREE);
    brings.silence().pass(ONE).answered();
    assert_eq!(brings.rollout.rejected_revision().as_deref(), Some(C));
}
