//! The sequences that once ended in a loss or a lie, one test each; the clock and all events are the test's. Here those of edits.

use std::collections::BTreeMap;

use super::super::transitions::Stage;
use super::*;
use crate::config::Config;
use crate::net::nexthop_id;
use crate::routing::batch::Ownership;
use crate::routing::diff::{Wanted, WantedNexthop};
use crate::routing::node_facts::NodeFacts;
use crate::routing::state::{Kernel, OwnRoute, Target as RouteTarget};

mod restart;
mod routes;

const OURS: Ownership = Ownership::DEFAULT;
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
    adopted_beside(&nexthop_id::applied(A))
}

/// A route, beside these records.
fn adopted_beside(records: &[u32]) -> Arc<Adopted> {
    let route = OwnRoute {
        key: OURS.key("203.0.113.0/24".parse().unwrap()),
        target: RouteTarget::Nexthop(200),
    };
    let mut kernel = Kernel {
        own: vec![route],
        ..Kernel::default()
    };
    kernel.set_records(&records.iter().copied().collect(), &OURS);
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
            footprint: prints(ONE),
            adopted,
        })
    }

    fn clash(&mut self, found: Arc<Adopted>) -> &mut Self {
        self.step(Event::Clash {
            why: "both".to_owned(),
            found,
            footprint: prints(ONE),
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
        self.step(Event::Written(Written {
            planned,
            installed,
            changed,
            left,
        }));
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
const THREE: &[&str] = &["203.0.113.0/24", "203.0.114.0/24", "203.0.115.0/24"];

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
fn what_a_run_of_ip_that_hung_left_little_time_for_is_asked_all_the_same() {
    let mut scene = confirming();
    scene.now = scene.rollout.deadline().unwrap();
    let planned = prints(TWO);
    scene.step(Event::WriteUnknown { planned });
    assert_eq!(scene.rollout.deadline(), Some(scene.now + QUESTION));
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
    assert_eq!((scene.stage(), scene.revision()), (Stage::Reapplying, B));
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
fn an_edit_of_an_unconfirmed_change_is_guarded_although_nobody_answers_before_it() {
    let mut scene = confirming();
    scene.read(good(C)).silence().pass(ONE);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, C));
    scene.silence();
    assert_eq!((scene.stage(), scene.revision()), (Stage::RollingBack, A));
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
fn returning_to_what_is_in_force_asks_for_the_labels_that_may_have_changed_with_it() {
    let mut scene = confirming();
    scene.read(good(A));
    assert_eq!(scene.effects, [Effect::AskForNode, Effect::Pass]);
    let mut refused_between = settled();
    refused_between.read(refused()).read(good(A));
    assert_eq!(refused_between.effects, [Effect::AskForNode, Effect::Pass]);
}

#[test]
fn an_answer_that_no_read_has_followed_confirms_nothing() {
    let mut scene = confirming();
    scene.step(Event::Answered).silence();
    assert_eq!(scene.stage(), Stage::Confirming, "the read failed");
    scene.written(TWO, true, false).silence();
    assert_eq!(scene.stage(), Stage::RollingBack, "it had vanished");
}

#[test]
fn labels_that_are_followed_are_in_force_once_a_pass_has_written_them() {
    let mut scene = settled();
    scene.step(Event::Facts(facts("db")));
    assert_eq!(scene.stage(), Stage::Settled);
    assert!(!scene.rollout.is_at_newest());
    scene.pass(ONE);
    assert!(scene.rollout.is_at_newest());
}

#[test]
fn a_revision_stays_rejected_when_other_routes_are_taken_back_after_it() {
    let mut scene = confirming();
    scene.silence().pass(ONE).answered();
    scene.pass(TWO);
    assert!(scene.rollout.holds_routes(), "the same routes");
    scene.pass(THREE).answered().pass(THREE);
    assert_eq!((scene.stage(), scene.revision()), (Stage::Confirming, A));
    scene.silence().pass(ONE).answered();
    assert!(scene.rollout.holds_routes());
    scene.step(Event::Facts(facts("db")));
    scene.rollout.reviewed(&prints(ONE));
    assert_eq!(scene.revision(), A);
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(B));
}

#[test]
fn what_is_left_of_a_first_change_that_was_taken_back_goes_after_the_answer_too() {
    let mut scene = Scene::new(facts("web"));
    scene.read(good(A)).found(&[], None).answered().pass(ONE);
    scene.silence().written(&[], true, true).answered();
    assert_eq!((scene.stage(), scene.revision()), (Stage::Settled, "none"));
    assert!(scene.rollout.target().is_some(), "nothing of ours");
    assert_eq!(scene.rollout.rejected_revision().as_deref(), Some(A));
}

#[test]
fn what_is_being_taken_back_is_limited_to_what_is_confirmed_whatever_became_of_the_last_write() {
    let mut scene = confirming();
    assert_eq!(scene.rollout.limit(), None);
    scene.silence();
    assert_eq!(scene.rollout.limit(), Some(&prints(ONE)));
}
