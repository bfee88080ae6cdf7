//! What is put in force, when it counts as good, and when it is taken back.
//!
//! Pure: fed with events and times, answers with effects. Reading the kernel and writing routes is `pass`'s, asking the API server
//! `mod`'s. A change is whatever brings routes that were not there at the last confirmation, whether an edit, a label or a link
//! brought it. Its life:
//!
//! ```text
//! Settled --edit, new routes--> Asking --answer or 2 s--> Writing --written--> Confirming --answer--> Settled
//!                                                                                 | no answer for --confirm
//!                  Settled (rejected) <--answer-- RolledBack <--written-- RollingBack
//!                                                     | no answer for --confirm: the change was not the cause
//!                                                     +--> Writing, not guarded
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::target::{Footprint, Loaded, Source, Target};
use super::transitions::Stage;
use crate::net::nexthop_id;
use crate::routing::adopt::Adopted;
use crate::routing::node_facts::Facts;

#[cfg(test)]
mod tests;

/// Time since the agent started; monotonic.
pub type Clock = Duration;

/// How long the question that precedes a change may go unanswered.
pub const QUESTION: Duration = Duration::from_secs(2);

/// How many fingerprints of routes that cut off the API server are kept.
const CUT_OFF_KEPT: usize = 64;

/// What the directory holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Newest {
    /// Not looked yet.
    #[default]
    Unknown,
    /// A good configuration.
    Good(Arc<Loaded>),
    /// One that was refused, or could not be read: why, and its revision where it has one.
    Refused {
        /// The revision, unless it could not be read.
        revision: Option<String>,
        /// One line.
        why: String,
        /// There is no `routes.yaml`, and nothing else is wrong.
        absent: bool,
    },
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The directory was read.
    Read(Newest),
    /// The API server reported this node's facts.
    Facts(Facts),
    /// The kernel was read for the first time: the revision records in it, and what it holds where [`Rollout::needs_adoption`] asked for it.
    Found {
        /// Ids of our records.
        records: BTreeSet<u32>,
        /// What of ours it has; `None` where the read was uncertain.
        footprint: Option<Footprint>,
        /// What the kernel holds of ours.
        adopted: Option<Arc<Adopted>>,
    },
    /// Two sets of the target want one prefix; `found` is what the kernel holds.
    Clash {
        /// One line.
        why: String,
        /// What the kernel holds of ours.
        found: Arc<Adopted>,
    },
    /// A pass wrote, and read back what came of it.
    Written {
        /// What was to be written.
        planned: Footprint,
        /// Of that, what is in the kernel.
        installed: Footprint,
        /// Something in the kernel changed.
        changed: bool,
        /// Something is left to write.
        left: bool,
    },
    /// A pass wrote, and nobody knows what came of it.
    WriteUnknown {
        /// What was to be written.
        planned: Footprint,
    },
    /// The API server answered the question that was asked last.
    Answered,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a pass now.
    Pass,
    /// Read this node from the API server until it answers or something else is asked: the question before a change, and fresh labels for it.
    AskForNode,
    /// Ask the API server over a new connection until it answers or something else is asked.
    Ask,
    /// Stop asking.
    StopAsking,
}

/// What is known of the API server before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Baseline {
    /// It answered.
    Answered,
    /// It did not, and an earlier change that nobody confirmed may be why.
    Unsettled,
    /// Nothing: it has never answered since the agent started and nothing of ours was in the kernel, or an earlier agent left more than
    /// one change unconfirmed. A change that is taken back is tried once more.
    Unknown,
}

/// A change that is being decided.
#[derive(Clone, Debug)]
struct Change {
    target: Target,
    footprint: Footprint,
    baseline: Baseline,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The kernel has not been read yet; nothing is written.
    Starting,
    /// Nothing is undecided.
    Settled,
    /// A change waits for the question that precedes it.
    Asking { until: Clock, edit: bool },
    /// The next pass may write the change; `None`: without a guard.
    Writing { guarded: Option<Baseline> },
    /// Written; waits for an answer.
    Confirming {
        change: Change,
        until: Clock,
        installed: Footprint,
        left: bool,
        answered: bool,
    },
    /// The next pass puts back what was confirmed.
    RollingBack { change: Change },
    /// It is back; an answer shows that the change was the cause.
    RolledBack {
        change: Change,
        until: Clock,
        /// Nothing of it is left in the kernel. Before that, a restart has to take it out still.
        whole: bool,
    },
    /// An earlier agent ended before a change was confirmed; nothing is written before the API server was asked.
    Inherited {
        until: Clock,
        found: Arc<Adopted>,
        /// There is one such change; of several nobody knows which is in the kernel.
        alone: bool,
    },
}

#[derive(Clone, Debug)]
struct Confirmed {
    target: Target,
    /// `None`: whatever this target makes counts as confirmed, because nobody knows what of it was there.
    footprint: Option<Footprint>,
}

/// What is not tried again.
#[derive(Clone, Debug, PartialEq)]
enum Rejected {
    /// This revision, until another one comes.
    Revision(String),
    /// Routes of the revision in force that these facts, links and gateways make, until something else would be made.
    Routes { facts: Facts },
}

/// A target that two sets clash in.
#[derive(Clone, Debug)]
struct Misfit {
    target: Target,
    why: String,
}

/// See the module.
#[derive(Debug)]
pub struct Rollout {
    /// How long an answer may take after a change; zero is off.
    confirm: Duration,
    /// There is an API server to ask.
    has_api: bool,
    newest: Newest,
    facts: Facts,
    target: Option<Target>,
    confirmed: Option<Confirmed>,
    rejected: Option<Rejected>,
    /// Fingerprints of all that the source in force has made and that cut off the API server, the last ones: two must not be tried in turn.
    cut_off: Vec<u64>,
    /// With these facts: the newest, and what is in force; at most two.
    misfits: Vec<Misfit>,
    phase: Phase,
    /// Something was written that no verdict was reached on: silence before the next change is no excuse.
    unsettled: bool,
}

impl Rollout {
    /// A rollout that waits `confirm` for an answer after each change; zero is off.
    pub fn new(confirm: Duration, facts: Facts) -> Self {
        Self {
            confirm,
            has_api: facts != Facts::NoCluster,
            newest: Newest::Unknown,
            facts,
            target: None,
            confirmed: None,
            rejected: None,
            cut_off: Vec::new(),
            misfits: Vec::new(),
            phase: Phase::Starting,
            unsettled: false,
        }
    }

    /// Takes an event; the effects are in the order in which they are to be done.
    pub fn step(&mut self, event: Event, now: Clock) -> Vec<Effect> {
        match event {
            Event::Read(newest) => self.read(newest, now),
            Event::Facts(facts) => self.learned(facts),
            Event::Found {
                records,
                footprint,
                adopted,
            } => self.found(&records, footprint, adopted, now),
            Event::Clash { why, found } => self.clashed(why, found),
            Event::Written {
                planned,
                installed,
                changed,
                left,
            } => self.written(planned, installed, changed, left, now),
            Event::WriteUnknown { planned } => self.write_unknown(planned, now),
            Event::Answered => self.answered(now),
            Event::Tick => self.tick(now),
        }
    }

    // --- what a pass asks ---

    /// Whether the kernel has still to be read for the first time.
    pub const fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting)
    }

    /// Whether what the kernel holds has to be adopted, because the newest configuration did not make it.
    pub fn needs_adoption(&self, records: &BTreeSet<u32>) -> bool {
        !self.is_made_from_newest(records)
    }

    /// What to make the kernel equal to; `None`: leave it alone.
    pub const fn target(&self) -> Option<&Target> {
        match self.phase {
            Phase::Starting | Phase::Inherited { .. } | Phase::Asking { edit: true, .. } => None,
            _ => self.target.as_ref(),
        }
    }

    /// A target that was not followed so far; [`reviewed`](Self::reviewed) takes what it would make.
    pub fn to_review(&self) -> Option<Target> {
        let Some(Rejected::Routes { facts }) = &self.rejected else {
            return None;
        };
        let candidate = self.candidate()?;
        let settled = matches!(self.phase, Phase::Settled);
        (settled && self.facts != *facts && Some(&candidate) != self.target.as_ref())
            .then_some(candidate)
    }

    /// What the target of [`to_review`](Self::to_review) would make: the same routes are still rejected, others are tried.
    pub fn reviewed(&mut self, planned: &Footprint) {
        if self.cut_off.contains(&planned.fingerprint()) {
            let facts = self.facts.clone();
            self.rejected = Some(Rejected::Routes { facts });
        } else {
            self.review_failed();
        }
    }

    /// The target of [`to_review`](Self::to_review) clashes: it is followed, so that the clash is reported.
    pub fn review_failed(&mut self) {
        self.rejected = None;
        self.target = self.candidate();
    }

    /// Before a pass writes `planned`: what it may write at the most (`None`: all of it), and what is to be done.
    pub fn admit(&mut self, planned: &Footprint, now: Clock) -> (Option<Footprint>, Vec<Effect>) {
        let limit = self
            .confirmed
            .as_ref()
            .and_then(|confirmed| confirmed.footprint.clone());
        let exceeded = limit.as_ref().is_some_and(|limit| planned.exceeds(limit));
        match self.phase {
            Phase::RollingBack { .. } | Phase::RolledBack { .. } | Phase::Asking { .. } => {
                (limit.filter(|_| exceeded), Vec::new())
            }
            Phase::Settled if exceeded && self.is_guarded() => {
                let holds = matches!(self.rejected, Some(Rejected::Routes { .. }));
                if self.cut_off.contains(&planned.fingerprint()) {
                    if !holds {
                        let facts = self.facts.clone();
                        self.rejected = Some(Rejected::Routes { facts });
                    }
                    return (limit, Vec::new());
                }
                if holds {
                    self.rejected = None;
                }
                self.phase = Phase::Asking {
                    until: now + QUESTION,
                    edit: false,
                };
                (limit, vec![Effect::AskForNode])
            }
            _ => (None, Vec::new()),
        }
    }

    /// The records that the kernel should hold before anything else of the next pass is written.
    pub fn records(&self) -> BTreeSet<u32> {
        let mut records = BTreeSet::new();
        let in_force = match &self.phase {
            Phase::Starting | Phase::Inherited { .. } => return records,
            Phase::Confirming { .. }
            | Phase::Writing {
                guarded: Some(_), ..
            } => self.confirmed.as_ref().map(|c| &c.target),
            _ => self.target.as_ref(),
        };
        if let Some(revision) = in_force.and_then(Target::revision) {
            records.extend(nexthop_id::applied(revision));
        }
        let of = |target: &Target, record: fn(&str) -> u32| target.revision().map(record);
        match &self.phase {
            Phase::Writing { guarded: Some(_) } | Phase::Confirming { .. } => {
                records.extend(
                    self.target
                        .as_ref()
                        .and_then(|t| of(t, nexthop_id::unconfirmed)),
                );
            }
            Phase::RollingBack { change } | Phase::RolledBack { change, .. }
                if self.is_edit(change) =>
            {
                records.extend(of(&change.target, nexthop_id::unconfirmed));
                if matches!(self.phase, Phase::RolledBack { whole: true, .. }) {
                    records.extend(of(&change.target, nexthop_id::rejected));
                }
            }
            _ => {}
        }
        if let Some(Rejected::Revision(revision)) = &self.rejected {
            records.insert(nexthop_id::rejected(revision));
        }
        records
    }

    /// Whether [`records`](Self::records) are all that the kernel should hold, also before the next batch.
    pub const fn records_are_final(&self) -> bool {
        matches!(
            self.phase,
            Phase::Settled | Phase::Writing { guarded: None }
        )
    }

    /// When the next [`Event::Tick`] has something to decide.
    pub const fn deadline(&self) -> Option<Clock> {
        match &self.phase {
            Phase::Asking { until, .. }
            | Phase::Confirming { until, .. }
            | Phase::RolledBack { until, .. }
            | Phase::Inherited { until, .. } => Some(*until),
            Phase::Starting
            | Phase::Settled
            | Phase::Writing { .. }
            | Phase::RollingBack { .. } => None,
        }
    }

    /// Whether a change is out of the kernel again and waits for its verdict: a restart has to know.
    pub const fn is_rolled_back(&self) -> bool {
        matches!(self.phase, Phase::RolledBack { .. })
    }

    /// Whether a change waits for its verdict: until then what it replaced is still needed.
    pub const fn is_undecided(&self) -> bool {
        !matches!(self.phase, Phase::Settled)
    }

    /// Whether health may re-point groups: they are the target's, and nothing holds them back.
    pub const fn may_repoint(&self) -> bool {
        !matches!(self.phase, Phase::Starting | Phase::Inherited { .. })
    }

    // --- what is reported ---

    /// The newest configuration, if it is good.
    pub fn newest_config(&self) -> Option<Arc<Loaded>> {
        match &self.newest {
            Newest::Good(loaded) => Some(loaded.clone()),
            Newest::Unknown | Newest::Refused { .. } => None,
        }
    }

    /// What the directory holds.
    pub const fn newest(&self) -> &Newest {
        &self.newest
    }

    /// The newest configuration was refused, or clashes on this node: its revision, and why.
    pub fn refused(&self) -> Option<(Option<String>, String)> {
        if let Newest::Refused { revision, why, .. } = &self.newest {
            return Some((revision.clone(), why.clone()));
        }
        let in_force = self.confirmed.as_ref().map(|c| &c.target.source);
        let misfit = self
            .misfits
            .iter()
            .find(|misfit| Some(&misfit.target.source) != in_force)?;
        Some((
            misfit.target.revision().map(str::to_owned),
            misfit.why.clone(),
        ))
    }

    /// What is in force clashes with the newest facts: why.
    pub fn clash(&self) -> Option<&str> {
        let in_force = self.confirmed.as_ref().map(|c| &c.target.source);
        self.misfits
            .iter()
            .find(|misfit| Some(&misfit.target.source) == in_force)
            .map(|misfit| misfit.why.as_str())
    }

    /// The newest revision, where it was refused or taken back.
    pub fn rejected_revision(&self) -> Option<String> {
        if let Some((revision, _)) = self.refused() {
            return revision;
        }
        match (&self.phase, &self.rejected) {
            (Phase::RollingBack { change } | Phase::RolledBack { change, .. }, _)
                if self.is_edit(change) =>
            {
                change.target.revision().map(str::to_owned)
            }
            (_, Some(Rejected::Revision(revision))) => Some(revision.clone()),
            _ => None,
        }
    }

    /// Whether routes of the revision in force are held back, because they cut off the API server.
    pub fn holds_routes(&self) -> bool {
        match &self.phase {
            Phase::RollingBack { change } | Phase::RolledBack { change, .. } => {
                !self.is_edit(change)
            }
            _ => matches!(self.rejected, Some(Rejected::Routes { .. })),
        }
    }

    /// The revision of the change that is being decided, or that was rejected.
    pub fn change_revision(&self) -> Option<&str> {
        match (&self.phase, &self.rejected) {
            (
                Phase::Confirming { change, .. }
                | Phase::RollingBack { change }
                | Phase::RolledBack { change, .. },
                _,
            ) => change.target.revision(),
            (_, Some(Rejected::Revision(revision))) => Some(revision),
            _ => None,
        }
    }

    /// Whether the change that is being decided is another revision.
    pub fn change_is_edit(&self) -> bool {
        match &self.phase {
            Phase::RollingBack { change } | Phase::RolledBack { change, .. } => {
                self.is_edit(change)
            }
            _ => !matches!(self.rejected, Some(Rejected::Routes { .. })),
        }
    }

    /// Where it is.
    pub const fn stage(&self) -> Stage {
        match self.phase {
            Phase::Starting => Stage::Starting,
            Phase::Settled => Stage::Settled,
            Phase::Asking { .. } | Phase::Writing { .. } => Stage::Changing,
            Phase::Confirming { .. } => Stage::Confirming,
            Phase::RollingBack { .. } => Stage::RollingBack,
            Phase::RolledBack { .. } => Stage::RolledBack,
            Phase::Inherited { .. } => Stage::Inherited,
        }
    }

    /// Whether the newest configuration is in force and confirmed.
    pub fn is_at_newest(&self) -> bool {
        let Newest::Good(loaded) = &self.newest else {
            return false;
        };
        let in_force = self.confirmed.as_ref().and_then(|c| c.target.revision());
        matches!(self.phase, Phase::Settled)
            && in_force == Some(loaded.revision.as_str())
            && !self.holds_routes()
    }

    // --- events ---

    fn read(&mut self, newest: Newest, now: Clock) -> Vec<Effect> {
        if self.newest == newest {
            return Vec::new();
        }
        self.newest = newest;
        self.misfits.clear();
        if matches!(self.phase, Phase::Starting | Phase::Inherited { .. }) {
            return Vec::new();
        }
        let Newest::Good(loaded) = &self.newest else {
            return Vec::new();
        };
        let revision = loaded.revision.as_str();
        // It was gone for a while; what is known of it still holds.
        let known = match &self.phase {
            Phase::RollingBack { change } | Phase::RolledBack { change, .. } => {
                change.target.revision() == Some(revision) && self.is_edit(change)
            }
            Phase::Confirming { change, .. } => change.target.revision() == Some(revision),
            _ => false,
        };
        let in_force = self.confirmed.as_ref().and_then(|c| c.target.revision()) == Some(revision);
        if known || self.is_rejected(revision) || (in_force && matches!(self.phase, Phase::Settled))
        {
            if !known && in_force {
                self.rejected = self
                    .rejected
                    .take()
                    .filter(|r| matches!(r, Rejected::Routes { .. }));
                self.follow_source();
            }
            return vec![Effect::Pass];
        }
        self.rejected = None;
        self.cut_off.clear();
        if in_force {
            return self.return_to_confirmed();
        }
        self.unsettled |= self.may_be_cause();
        self.begin_edit(now)
    }

    /// The edit was taken back by hand: what was confirmed before needs no new verdict.
    fn return_to_confirmed(&mut self) -> Vec<Effect> {
        self.target = self
            .confirmed
            .as_ref()
            .map(|confirmed| confirmed.target.clone());
        self.follow_source();
        self.unsettled = false;
        self.phase = Phase::Writing { guarded: None };
        vec![Effect::StopAsking, Effect::Pass]
    }

    /// An adopted target whose configuration has come to be known is that configuration.
    fn follow_source(&mut self) {
        let Newest::Good(loaded) = &self.newest else {
            return;
        };
        let targets = self
            .target
            .iter_mut()
            .chain(self.confirmed.as_mut().map(|c| &mut c.target));
        for target in targets.filter(|t| t.revision() == Some(&loaded.revision)) {
            target.source = Source::Config(loaded.clone());
        }
    }

    fn begin_edit(&mut self, now: Clock) -> Vec<Effect> {
        if self.has_api {
            self.phase = Phase::Asking {
                until: now + QUESTION,
                edit: true,
            };
            return vec![Effect::AskForNode];
        }
        self.target = self.candidate();
        self.phase = Phase::Writing { guarded: None };
        vec![Effect::Pass]
    }

    /// The question before a change is over. An edit that has vanished meanwhile leaves what is there, unless that may be what silences
    /// the API server.
    fn begin_writing(&mut self, edit: bool, guarded: Option<Baseline>) {
        if edit {
            self.target = match self.candidate() {
                None if guarded == Some(Baseline::Unsettled) => Some(self.before()),
                None => self.target.take(),
                candidate => candidate,
            };
        }
        self.phase = match self.target {
            Some(_) => Phase::Writing { guarded },
            None => Phase::Settled,
        };
    }

    fn learned(&mut self, facts: Facts) -> Vec<Effect> {
        if self.facts == facts {
            return Vec::new();
        }
        self.facts = facts;
        self.misfits.clear();
        let joins = match &self.phase {
            Phase::Settled => !matches!(self.rejected, Some(Rejected::Routes { .. })),
            Phase::Asking { edit, .. } => !edit,
            Phase::Writing { .. } | Phase::Confirming { .. } => true,
            Phase::Starting
            | Phase::RollingBack { .. }
            | Phase::RolledBack { .. }
            | Phase::Inherited { .. } => return Vec::new(),
        };
        if joins {
            self.target = match &self.phase {
                Phase::Settled => self.candidate(),
                _ => self.target.take().map(|target| Target {
                    facts: self.facts.clone(),
                    ..target
                }),
            };
            if matches!(self.phase, Phase::Settled) && self.is_new_source() {
                // What clashed by the old labels fits now.
                self.phase = Phase::Writing {
                    guarded: self.is_guarded().then_some(Baseline::Answered),
                };
            }
        }
        vec![Effect::Pass]
    }

    fn found(
        &mut self,
        records: &BTreeSet<u32>,
        footprint: Option<Footprint>,
        adopted: Option<Arc<Adopted>>,
        now: Clock,
    ) -> Vec<Effect> {
        let made_from_newest = self.is_made_from_newest(records);
        let found = adopted.unwrap_or_default();
        let newest = match &self.newest {
            Newest::Good(loaded) => Some(loaded.clone()),
            Newest::Unknown | Newest::Refused { .. } => None,
        };
        if let Some(loaded) = newest
            .as_ref()
            .filter(|_| made_from_newest || !self.is_guarded())
        {
            let target = Target {
                source: Source::Config(loaded.clone()),
                facts: self.facts.clone(),
            };
            self.target = Some(target.clone());
            if made_from_newest {
                // What it had not brought yet when the earlier agent ended is a change.
                self.confirmed = Some(Confirmed { target, footprint });
                self.phase = Phase::Settled;
            } else {
                self.confirm_adopted(found);
                return self.begin_edit(now);
            }
            return vec![Effect::Pass];
        }
        let has = |id: u32| records.contains(&id);
        let revision = newest.as_ref().map(|loaded| loaded.revision.clone());
        let unconfirmed = records.iter().any(|id| nexthop_id::is_unconfirmed(*id));
        let rejected = revision
            .as_deref()
            .is_some_and(|r| has(nexthop_id::rejected(r)));
        let of_newest = revision
            .as_deref()
            .is_some_and(|r| has(nexthop_id::unconfirmed(r)));
        if rejected && self.is_guarded() {
            self.confirm_adopted(found);
            self.target = self.confirmed.as_ref().map(|c| c.target.clone());
            if of_newest {
                // It was taken back, and the earlier agent ended before the API server was heard.
                if let Some(loaded) = newest {
                    let target = Target {
                        source: Source::Config(loaded),
                        facts: self.facts.clone(),
                    };
                    let change = Change {
                        target,
                        footprint: Footprint::default(),
                        baseline: Baseline::Answered,
                    };
                    self.phase = Phase::RolledBack {
                        change,
                        until: now + self.confirm,
                        whole: true,
                    };
                    return vec![Effect::Ask, Effect::Pass];
                }
            }
            self.rejected = revision.map(Rejected::Revision);
            self.phase = Phase::Settled;
            return vec![Effect::Pass];
        }
        if unconfirmed && self.is_guarded() && (of_newest || newest.is_none()) {
            let count = records.iter().filter(|id| nexthop_id::is_unconfirmed(**id));
            self.phase = Phase::Inherited {
                until: now + self.confirm,
                found,
                alone: count.count() == 1,
            };
            return vec![Effect::Ask];
        }
        if unconfirmed && self.is_guarded() {
            // Edited meanwhile; but what is in the kernel may be what silences the API server, and is nothing to go back to.
            self.unsettled = true;
        } else if !found.is_empty() {
            self.confirm_adopted(found);
        }
        self.target = self.confirmed.as_ref().map(|c| c.target.clone());
        if newest.is_some() {
            return self.begin_edit(now);
        }
        self.phase = Phase::Settled;
        vec![Effect::Pass]
    }

    fn confirm_adopted(&mut self, found: Arc<Adopted>) {
        let target = Target {
            source: Source::Adopted(found),
            facts: self.facts.clone(),
        };
        self.confirmed = Some(Confirmed {
            target,
            footprint: None,
        });
    }

    fn clashed(&mut self, why: String, found: Arc<Adopted>) -> Vec<Effect> {
        let Some(target) = self.target.take() else {
            return Vec::new();
        };
        if self.confirmed.as_ref().is_none_or(|c| c.target == target) {
            self.confirm_adopted(found);
        }
        self.misfits.push(Misfit { target, why });
        self.target = match &self.phase {
            Phase::Confirming { change, .. } => Some(change.target.clone()),
            _ => self.candidate(),
        };
        if matches!(self.phase, Phase::Writing { .. } | Phase::Asking { .. }) {
            self.phase = Phase::Settled;
        }
        vec![Effect::Pass]
    }

    fn written(
        &mut self,
        planned: Footprint,
        installed: Footprint,
        changed: bool,
        left: bool,
        now: Clock,
    ) -> Vec<Effect> {
        let Some(target) = self.target.clone() else {
            return Vec::new();
        };
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Settled => {
                if let Some(confirmed) = &mut self.confirmed {
                    let is_new = confirmed.target != target || confirmed.footprint.is_none();
                    if is_new && !left {
                        *confirmed = Confirmed {
                            target,
                            footprint: Some(planned),
                        };
                    }
                } else if !left {
                    self.confirmed = Some(Confirmed {
                        target,
                        footprint: Some(planned),
                    });
                }
                Vec::new()
            }
            Phase::Writing { guarded: None } => {
                self.accept(target, planned);
                Vec::new()
            }
            Phase::Writing {
                guarded: Some(baseline),
            } => {
                if !changed && !left && baseline != Baseline::Unsettled {
                    self.accept(target, planned);
                    return vec![Effect::StopAsking];
                }
                let change = Change {
                    target,
                    footprint: planned,
                    baseline,
                };
                self.phase = Phase::Confirming {
                    change,
                    until: now + self.confirm,
                    installed,
                    left,
                    answered: false,
                };
                vec![Effect::Ask]
            }
            Phase::Confirming {
                mut change,
                until,
                answered,
                ..
            } => {
                (change.target, change.footprint) = (target, planned);
                if answered && !changed && !left {
                    self.accept(change.target, change.footprint);
                    return vec![Effect::StopAsking];
                }
                // Where nothing was heard since the change began, more of it is no reason to wait longer.
                let until = if changed && answered {
                    now + self.confirm
                } else {
                    until
                };
                self.phase = Phase::Confirming {
                    change,
                    until,
                    installed,
                    left,
                    answered: answered && !changed,
                };
                if changed {
                    vec![Effect::Ask]
                } else {
                    Vec::new()
                }
            }
            Phase::RollingBack { change } => {
                self.phase = Phase::RolledBack {
                    change,
                    until: now + self.confirm,
                    whole: !left,
                };
                vec![Effect::Ask]
            }
            Phase::RolledBack {
                change,
                until,
                whole,
            } => {
                self.phase = Phase::RolledBack {
                    change,
                    until,
                    whole: whole || !left,
                };
                Vec::new()
            }
            other @ (Phase::Starting | Phase::Asking { .. } | Phase::Inherited { .. }) => {
                self.phase = other;
                Vec::new()
            }
        }
    }

    /// Part of it may be in the kernel, and may be what silences the API server.
    fn write_unknown(&mut self, planned: Footprint, now: Clock) -> Vec<Effect> {
        let Some(target) = self.target.clone() else {
            return Vec::new();
        };
        let later = now + self.confirm;
        let (baseline, until) = match &self.phase {
            Phase::Writing {
                guarded: Some(baseline),
            } => (*baseline, later),
            Phase::Confirming {
                change,
                until,
                answered,
                ..
            } => (change.baseline, if *answered { later } else { *until }),
            _ => return Vec::new(),
        };
        let change = Change {
            target,
            footprint: planned,
            baseline,
        };
        self.phase = Phase::Confirming {
            change,
            until,
            installed: Footprint::default(),
            left: true,
            answered: false,
        };
        vec![Effect::Ask]
    }

    fn accept(&mut self, target: Target, footprint: Footprint) {
        self.confirmed = Some(Confirmed {
            target,
            footprint: Some(footprint),
        });
        self.phase = Phase::Settled;
        self.unsettled = false;
    }

    fn answered(&mut self, now: Clock) -> Vec<Effect> {
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Asking { edit, .. } => {
                self.begin_writing(edit, self.is_guarded().then_some(Baseline::Answered));
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::Confirming {
                change,
                until,
                installed,
                left,
                ..
            } => {
                // What it confirms is what the next read still shows.
                self.phase = Phase::Confirming {
                    change,
                    until,
                    installed,
                    left,
                    answered: true,
                };
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::RolledBack { change, .. } if change.baseline == Baseline::Unknown => {
                // It may have come up by itself meanwhile: tried once more, now that it is known to answer.
                self.target = Some(Target {
                    facts: self.facts.clone(),
                    ..change.target
                });
                self.phase = Phase::Writing {
                    guarded: Some(Baseline::Answered),
                };
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::RolledBack { change, .. } => {
                self.reject(&change);
                self.unsettled = false;
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::Inherited { found, .. } => self.inherit(found, now),
            other => {
                self.phase = other;
                Vec::new()
            }
        }
    }

    /// The API server answers with what an earlier agent left: it is good as far as it is there.
    fn inherit(&mut self, found: Arc<Adopted>, _now: Clock) -> Vec<Effect> {
        if let Newest::Good(loaded) = &self.newest {
            self.target = Some(Target {
                source: Source::Config(loaded.clone()),
                facts: self.facts.clone(),
            });
            self.phase = Phase::Writing {
                guarded: Some(Baseline::Answered),
            };
        } else {
            self.confirm_adopted(found);
            self.target = self.confirmed.as_ref().map(|c| c.target.clone());
        }
        vec![Effect::StopAsking, Effect::Pass]
    }

    fn reject(&mut self, change: &Change) {
        if self.is_edit(change) {
            let revision = change.target.revision();
            self.rejected = revision.map(|revision| Rejected::Revision(revision.to_owned()));
            return;
        }
        let facts = change.target.facts.clone();
        self.rejected = Some(Rejected::Routes { facts });
        if self.cut_off.len() == CUT_OFF_KEPT {
            self.cut_off.remove(0);
        }
        self.cut_off.push(change.footprint.fingerprint());
    }

    fn tick(&mut self, now: Clock) -> Vec<Effect> {
        if self.deadline().is_none_or(|until| until > now) {
            return Vec::new();
        }
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Asking { edit, .. } => self.begin_writing(edit, self.silent_baseline()),
            Phase::Confirming {
                change,
                installed,
                answered: true,
                ..
            } => self.accept(change.target, installed),
            Phase::Confirming { change, .. } => {
                self.target = Some(self.before());
                self.phase = Phase::RollingBack { change };
            }
            Phase::RolledBack { change, .. } => {
                self.unsettled = false;
                self.target = Some(Target {
                    facts: self.facts.clone(),
                    ..change.target
                });
                self.phase = Phase::Writing { guarded: None };
            }
            Phase::Inherited { found, alone, .. } => {
                let source = match &self.newest {
                    Newest::Good(loaded) => Source::Config(loaded.clone()),
                    Newest::Unknown | Newest::Refused { .. } => Source::Adopted(found),
                };
                let target = Target {
                    source,
                    facts: self.facts.clone(),
                };
                let change = Change {
                    target,
                    footprint: Footprint::default(),
                    baseline: if alone {
                        Baseline::Answered
                    } else {
                        Baseline::Unknown
                    },
                };
                self.target = Some(self.before());
                self.phase = Phase::RollingBack { change };
            }
            other => self.phase = other,
        }
        vec![Effect::StopAsking, Effect::Pass]
    }

    /// What silence before a change means.
    fn silent_baseline(&self) -> Option<Baseline> {
        let never = self.confirmed.is_none() && matches!(self.facts, Facts::NotYet { .. });
        let baseline = if self.unsettled {
            Some(Baseline::Unsettled)
        } else {
            never.then_some(Baseline::Unknown)
        };
        baseline.filter(|_| self.is_guarded())
    }

    // --- questions about what is known ---

    const fn is_guarded(&self) -> bool {
        self.has_api && !self.confirm.is_zero()
    }

    /// What was confirmed last; without it, nothing at all.
    fn before(&self) -> Target {
        match &self.confirmed {
            Some(confirmed) => confirmed.target.clone(),
            None => Target {
                source: Source::Adopted(Arc::default()),
                facts: self.facts.clone(),
            },
        }
    }

    /// Whether silence of the API server may come from what is in the kernel.
    const fn may_be_cause(&self) -> bool {
        matches!(
            self.phase,
            Phase::Confirming { .. } | Phase::RollingBack { .. } | Phase::RolledBack { .. }
        )
    }

    fn is_edit(&self, change: &Change) -> bool {
        self.confirmed
            .as_ref()
            .is_none_or(|confirmed| confirmed.target.source != change.target.source)
    }

    fn is_rejected(&self, revision: &str) -> bool {
        matches!(&self.rejected, Some(Rejected::Revision(rejected)) if rejected == revision)
    }

    fn is_new_source(&self) -> bool {
        let confirmed = self.confirmed.as_ref().map(|c| &c.target.source);
        self.target.as_ref().map(|t| &t.source) != confirmed
    }

    fn is_made_from_newest(&self, records: &BTreeSet<u32>) -> bool {
        let Newest::Good(loaded) = &self.newest else {
            return false;
        };
        nexthop_id::applied(&loaded.revision)
            .iter()
            .all(|id| records.contains(id))
            && !records.contains(&nexthop_id::rejected(&loaded.revision))
            && !records.iter().any(|id| nexthop_id::is_unconfirmed(*id))
    }

    /// The newest that may be followed: the newest good configuration, unless it is rejected or clashes; with the newest facts,
    /// unless what is in force clashes with them.
    fn candidate(&self) -> Option<Target> {
        let newest = match &self.newest {
            Newest::Good(loaded) if !self.is_rejected(&loaded.revision) => {
                Some(Source::Config(loaded.clone()))
            }
            _ => None,
        };
        let with_facts = |source| Target {
            source,
            facts: self.facts.clone(),
        };
        let fits = |target: &Target| !self.misfits.iter().any(|misfit| misfit.target == *target);
        let in_force = self.confirmed.as_ref().map(|c| &c.target);
        newest
            .map(with_facts)
            .filter(fits)
            .or_else(|| in_force.map(|t| with_facts(t.source.clone())).filter(fits))
            .or_else(|| in_force.cloned())
    }
}
