//! The sequences that once ended in a loss or a lie, one test each; the clock and all events are the test's.

use std::collections::BTreeMap;

use super::*;
use crate::config::Config;
use crate::routing::batch::Ownership;
use crate::routing::diff::{Wanted, WantedNexthop};
use crate::routing::node_facts::NodeFacts;
use crate::routing::state::{Kernel, OwnRoute, Target as RouteTarget};

const OURS: Ownership = Ownership {
    protocol: 230,
    metric: 4242,
    table: 254,
};
const CONFIRM: Duration = Duration::from_secs(20);
const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";
const C: &str = "cccccccccccc";

fn good(revision: &str) -> Newest {
    Newest::Good(Arc::new(Loaded {
        revision: revision.to_owned(),
        config: Config::default(),
    }))
}

fn refused() -> Newest {
    Newest::Refused {
        revision: Some(C.to_owned()),
        why: "no".to_owned(),
        absent: false,
    }
}

fn facts(label: &str) -> Facts {
    Facts::Known(NodeFacts {
        labels: BTreeMap::from([("pool".to_owned(), label.to_owned())]),
        ..NodeFacts::default()
    })
}

const fn not_yet() -> Facts {
    Facts::NotYet {
        api_servers: Vec::new(),
    }
}

fn prints(prefixes: &[&str]) -> Footprint {
    let routes = prefixes.iter().map(|prefix| OwnRoute {
        key: OURS.key(prefix.parse().unwrap()),
        target: RouteTarget::Nexthop(200),
    });
    let gateway = WantedNexthop::Via("10.116.0.5".parse().unwrap(), "eth1".into());
    Footprint::of(&Wanted {
        nexthops: BTreeMap::from([(100, gateway)]),
        routes: routes.collect(),
        ..Wanted::default()
    })
}

fn adopted() -> Arc<Adopted> {
    let route = OwnRoute {
        key: OURS.key("203.0.113.0/24".parse().unwrap()),
        target: RouteTarget::Nexthop(200),
    };
    let mut kernel = Kernel {
        own: vec![route],
        ..Kernel::default()
    };
    kernel.set_records(&nexthop_id::applied(A).into_iter().collect(), &OURS);
    Arc::new(Adopted::from(&kernel, &OURS, None, false))
}

/// A rollout with a clock. `tick` goes on to the next deadline.
struct Scene {
    rollout: Rollout,
    now: Clock,
    effects: Vec<Effect>,
    /// What the last pass had to write, and whether something of it is left.
    last: (&'static [&'static str], bool),
}

impl Scene {
    fn new(facts: Facts) -> Self {
        Self {
            rollout: Rollout::new(CONFIRM, facts),
            now: Duration::ZERO,
            effects: Vec::new(),
            last: (&[], false),
        }
    }

    fn step(&mut self, event: Event) -> &mut Self {
        self.now += Duration::from_millis(1);
        self.effects = self.rollout.step(event, self.now);
        self
    }

    fn read(&mut self, newest: Newest) -> &mut Self {
        self.step(Event::Read(newest))
    }

    fn found(&mut self, records: &[u32], adopted: Option<Arc<Adopted>>) -> &mut Self {
        let records: BTreeSet<u32> = records.iter().copied().collect();
        let adopted = adopted.filter(|_| self.rollout.needs_adoption(&records));
        self.step(Event::Found {
            records,
            footprint: None,
            adopted,
        })
    }

    /// A pass that writes all that it may of `planned`.
    fn pass(&mut self, planned: &'static [&'static str]) -> &mut Self {
        self.written(planned, true, false)
    }

    fn written(
        &mut self,
        planned: &'static [&'static str],
        changed: bool,
        left: bool,
    ) -> &mut Self {
        if self.rollout.target().is_none() {
            return self;
        }
        self.last = (planned, left);
        let planned = prints(planned);
        let (limit, effects) = self.rollout.admit(&planned, self.now);
        let installed = limit.clone().unwrap_or_else(|| planned.clone());
        let changed = changed && limit.is_none();
        self.step(Event::Written {
            planned,
            installed,
            changed,
            left,
        });
        self.effects.splice(0..0, effects);
        self
    }

    /// The API server answers, and the pass after it changes nothing.
    fn answered(&mut self) -> &mut Self {
        let is_confirming = self.stage() == Stage::Confirming;
        self.step(Event::Answered);
        if is_confirming {
            let effects = std::mem::take(&mut self.effects);
            let (planned, left) = self.last;
            self.written(planned, false, left);
            self.effects = effects;
        }
        self
    }

    /// Nobody answers until the deadline.
    fn silence(&mut self) -> &mut Self {
        self.now = self.rollout.deadline().expect("something is waited for");
        self.effects = self.rollout.step(Event::Tick, self.now);
        self
    }

    fn revision(&self) -> &str {
        self.rollout
            .target()
            .and_then(Target::revision)
            .unwrap_or("none")
    }

    fn stage(&self) -> Stage {
        self.rollout.stage()
    }

    /// What a pass may write of `planned`, without making one.
    fn is_held_back(&mut self, planned: &[&str]) -> bool {
        self.rollout.admit(&prints(planned), self.now).0.is_some()
    }
}

const ONE: &[&str] = &["203.0.113.0/24"];
const TWO: &[&str] = &["203.0.113.0/24", "203.0.114.0/24"];

/// Revision A with one route, confirmed.
fn settled() -> Scene {
    let mut scene = Scene::new(facts("web"));
    scene
        .read(good(A))
        .found(&[], None)
        .answered()
        .pass(ONE)
        .answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, A));
    assert!(scene.rollout.is_at_newest());
    scene
}

/// Revision B on top of it, written and not confirmed.
fn confirming() -> Scene {
    let mut scene = settled();
    scene.read(good(B));
    assert_eq!(scene.effects, [Effect::AskForNode]);
    scene.answered().pass(TWO);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, B));
    assert_eq!(scene.effects, [Effect::Ask]);
    scene
}

#[test]
fn an_answer_confirms_an_edit() {
    let mut scene = confirming();
    scene.answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, B));
    assert_eq!(
        scene.rollout.records(),
        nexthop_id::applied(B).into_iter().collect()
    );
}

#[test]
fn an_answer_confirms_only_what_the_next_read_still_shows() {
    let mut scene = confirming();
    scene.step(Event::Answered).written(TWO, true, false);
    assert_eq!(scene.stage(), Stage::Confirming, "it had vanished");
    scene.silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
}

#[test]
fn more_of_a_change_that_nobody_has_answered_after_is_no_reason_to_wait_longer() {
    let mut scene = confirming();
    let deadline = scene.rollout.deadline();
    scene.pass(TWO);
    assert_eq!(scene.rollout.deadline(), deadline);
    let planned = prints(TWO);
    scene.step(Event::WriteUnknown { planned });
    assert_eq!(scene.rollout.deadline(), deadline);
}

#[test]
fn what_an_earlier_agent_had_not_brought_when_it_ended_is_guarded() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).step(Event::Found {
        records: nexthop_id::applied(A).into_iter().collect(),
        footprint: Some(prints(ONE)),
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
fn an_edit_that_has_vanished_before_it_was_decided_takes_back_what_may_have_silenced_the_server() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).found(&[], None).answered().pass(ONE);
    scene.read(good(B)).read(refused()).silence();
    assert_eq!(scene.revision(), "none", "nothing was ever confirmed");
    scene.pass(&[]).answered();
    assert_eq!(scene.stage(), Stage::Settled);
    let mut first = Scene::new(facts("web"));
    first.read(good(A)).found(&[], None);
    first.read(refused()).silence();
    assert_eq!(first.stage(), Stage::Settled, "nothing is undecided");
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
fn silence_takes_an_edit_back_and_an_answer_then_rejects_it_until_another_comes() {
    let mut scene = confirming();
    scene.silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
    scene.answered();
    assert_eq!(
        scene.stage(),
        Stage::RollingBack,
        "nothing counts before the earlier routes are back"
    );
    scene.pass(ONE);
    assert_eq!(scene.stage(), Stage::RolledBack);
    scene.answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, A));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
    scene.read(refused()).read(good(B)).pass(ONE);
    assert_eq!(
        (scene.stage(), scene.revision()),
        (Stage::Settled, A),
        "not tried again"
    );
    scene.read(good(C)).answered();
    assert_eq!(scene.revision(), C);
    assert_eq!(scene.rollout.rejected_revision(), None);
}

#[test]
fn silence_without_the_edit_too_shows_that_it_was_not_the_cause() {
    let mut scene = confirming();
    scene.silence().pass(ONE).silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Changing, B));
    scene.pass(TWO);
    assert_eq!(
        (scene.stage(), scene.rollout.deadline()),
        (Stage::Settled, None)
    );
}

#[test]
fn without_an_answer_before_an_edit_it_is_applied_and_silence_changes_nothing() {
    let mut scene = settled();
    scene.read(good(B)).silence().pass(TWO);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, B));
    assert_eq!(scene.rollout.deadline(), None);
}

#[test]
fn a_guard_that_is_off_asks_for_labels_and_for_nothing_else() {
    let mut scene = Scene::new(facts("web"));
    scene.rollout = Rollout::new(Duration::ZERO, facts("web"));
    scene.read(good(A)).found(&[], None).answered().pass(ONE);
    assert_eq!(
        (scene.stage(), scene.rollout.deadline()),
        (Stage::Settled, None)
    );
    let mut alone = Scene::new(Facts::NoCluster);
    alone.read(good(A)).found(&[], None).pass(ONE);
    assert_eq!((alone.stage(), alone.revision()), (Stage::Settled, A));
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
fn newest_configuration_clashes_after_a_restart_and_what_the_kernel_holds_is_kept_up() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).found(&nexthop_id::applied(A), None);
    scene.step(Event::Clash {
        why: "both".to_owned(),
        found: adopted(),
    });
    assert!(matches!(
        scene.rollout.target().unwrap().source,
        Source::Adopted(_)
    ));
    assert_eq!(scene.rollout.refused().unwrap().1, "both");
    scene.step(Event::Facts(facts("db")));
    assert_eq!(scene.revision(), A, "other labels may fit");
}

#[test]
fn labels_that_make_the_configuration_in_force_clash_leave_it_in_force_with_the_earlier_ones() {
    let mut scene = settled();
    scene.step(Event::Facts(facts("db")));
    assert_eq!(scene.rollout.target().unwrap().facts, facts("db"));
    scene.step(Event::Clash {
        why: "both".to_owned(),
        found: adopted(),
    });
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
    scene.step(Event::Clash {
        why: "both".to_owned(),
        found: adopted(),
    });
    assert_eq!((scene.revision(), scene.stage()), (A, Stage::Settled));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
    scene.step(Event::Facts(facts("db")));
    assert_eq!(
        (scene.revision(), scene.stage()),
        (B, Stage::Changing),
        "labels changed: tried again, guarded"
    );
    scene.pass(TWO);
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

#[test]
fn a_change_that_was_written_in_part_is_not_confirmed_by_an_answer_to_that_part() {
    let mut scene = settled();
    scene
        .read(good(B))
        .answered()
        .written(TWO, true, true)
        .answered();
    assert_eq!(scene.stage(), Stage::Confirming);
    scene.pass(TWO);
    assert_eq!(scene.effects, [Effect::Ask], "the rest is asked about too");
    scene.silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
}

#[test]
fn what_the_kernel_never_takes_does_not_keep_the_rest_from_being_confirmed() {
    let mut scene = settled();
    scene
        .read(good(B))
        .answered()
        .written(TWO, true, true)
        .answered();
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
fn labels_that_bring_routes_are_guarded_also_while_the_newest_configuration_is_refused_or_rejected()
{
    for rejected in [false, true] {
        let mut scene = if rejected {
            let mut scene = confirming();
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
fn an_edit_that_is_taken_back_by_hand_needs_no_verdict() {
    let mut scene = confirming();
    scene.read(good(A));
    assert_eq!((scene.revision(), scene.stage()), (A, Stage::Changing));
    scene.pass(ONE);
    assert_eq!(
        (scene.stage(), scene.rollout.deadline()),
        (Stage::Settled, None)
    );
    assert_eq!(scene.rollout.rejected_revision(), None);
    assert!(scene.rollout.is_at_newest());
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
        (Stage::Changing, B),
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
fn an_edit_of_an_unconfirmed_change_is_guarded_although_nobody_answers_before_it() {
    let mut scene = confirming();
    scene.read(good(C)).silence().pass(ONE);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, C));
    scene.silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
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
fn a_broken_edit_does_not_save_the_one_before_from_being_taken_back() {
    let mut scene = confirming();
    scene.read(refused()).silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
    scene.pass(ONE).answered().read(good(B));
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
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
