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
use crate::routing::adopt::Adopted;
use crate::routing::node_facts::Facts;

mod decide;
mod reported;
mod start;
#[cfg(test)]
mod tests;
mod write;

/// Time since the agent started; monotonic.
pub type Clock = Duration;

/// How long the question that precedes a change may go unanswered.
pub const QUESTION: Duration = Duration::from_secs(2);

/// How many fingerprints of routes that cut off the API server are kept, two of each change.
const CUT_OFF_KEPT: usize = 128;

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

/// What a pass wrote, and what a read after it shows.
#[derive(Debug)]
pub struct Written {
    /// What was to be written.
    pub planned: Footprint,
    /// Of that, what is in the kernel.
    pub installed: Footprint,
    /// Something in the kernel changed.
    pub changed: bool,
    /// Something is left to write.
    pub left: bool,
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
        /// What of ours it has.
        footprint: Footprint,
        /// What the kernel holds of ours.
        adopted: Option<Arc<Adopted>>,
    },
    /// Two sets of the target want one prefix; `found` is what the kernel holds.
    Clash {
        /// One line.
        why: String,
        /// What the kernel holds of ours.
        found: Arc<Adopted>,
        /// The same.
        footprint: Footprint,
    },
    /// A pass wrote, and read back what came of it.
    Written(Written),
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
    /// It did not, and an earlier change that nobody confirmed may be why. Until all of this one is written, what that change left
    /// may also be why it does not answer afterwards: one that is taken back before that is tried once more.
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
        /// What of it the kernel has; `None` while nobody has read that since the answer.
        installed: Option<Footprint>,
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
    footprint: Footprint,
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
    within: Duration,
    /// There is an API server to ask.
    has_api: bool,
    newest: Newest,
    facts: Facts,
    target: Option<Target>,
    confirmed: Option<Confirmed>,
    /// A revision that is not tried again, until another one comes.
    rejected: Option<String>,
    /// Routes of the revision in force that these facts, links and gateways make are held back, until something else would be made.
    held: Option<Facts>,
    /// Fingerprints of what cut off the API server since the newest configuration was read, the last ones: two must not be tried in turn.
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
            within: confirm,
            has_api: facts != Facts::NoCluster,
            newest: Newest::Unknown,
            facts,
            target: None,
            confirmed: None,
            rejected: None,
            held: None,
            cut_off: Vec::new(),
            misfits: Vec::new(),
            phase: Phase::Starting,
            unsettled: false,
        }
    }

    /// Takes an event; the effects are in the order in which they are to be done.
    pub fn step(&mut self, event: Event, now: Clock) -> Vec<Effect> {
        let mut effects = match event {
            Event::Read(newest) => self.read(newest, now),
            Event::Facts(facts) => self.learned(facts),
            Event::Found {
                records,
                footprint,
                adopted,
            } => self.found(&records, footprint, adopted, now),
            Event::Clash {
                why,
                found,
                footprint,
            } => self.clashed(why, found, footprint),
            Event::Written(written) => self.written(written, now),
            Event::WriteUnknown { planned } => self.write_unknown(planned, now),
            Event::Answered => self.answered(),
            Event::Tick => self.tick(now),
        };
        effects.extend(self.follow(now));
        effects
    }

    /// With nothing undecided, follows what was learned meanwhile: other facts, or that what clashed by the old ones fits now.
    fn follow(&mut self, now: Clock) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Settled) || self.held.is_some() {
            return Vec::new();
        }
        let candidate = self.candidate();
        // With nothing to follow, what is left of a change that was taken back has to go still.
        if candidate.is_none() || candidate == self.target {
            return Vec::new();
        }
        self.target = candidate;
        if self.is_new_source() {
            return self.begin_edit(now);
        }
        vec![Effect::Pass]
    }

    /// Whether the kernel has still to be read for the first time.
    pub const fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting)
    }

    /// What to make the kernel equal to; `None`: leave it alone.
    pub const fn target(&self) -> Option<&Target> {
        match self.phase {
            Phase::Starting | Phase::Inherited { .. } | Phase::Asking { edit: true, .. } => None,
            _ => self.target.as_ref(),
        }
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

    /// Whether a change waits for its verdict: until then what it replaced is still needed.
    pub const fn is_undecided(&self) -> bool {
        !matches!(self.phase, Phase::Settled)
    }

    /// Whether a change is out of the kernel again and waits for its verdict: a restart has to know.
    pub const fn is_rolled_back(&self) -> bool {
        matches!(self.phase, Phase::RolledBack { .. })
    }

    const fn is_guarded(&self) -> bool {
        self.has_api && !self.within.is_zero()
    }

    pub(super) fn confirmed_target(&self) -> Option<&Target> {
        self.confirmed.as_ref().map(|confirmed| &confirmed.target)
    }

    fn confirmed_footprint(&self) -> Option<&Footprint> {
        self.confirmed
            .as_ref()
            .map(|confirmed| &confirmed.footprint)
    }

    /// What was confirmed last, without going back to facts that were not known yet; nothing at all where nothing was confirmed.
    fn before(&self) -> Target {
        match self.confirmed_target() {
            Some(target) if matches!(target.facts, Facts::NotYet { .. }) => {
                self.here(target.source.clone())
            }
            Some(target) => target.clone(),
            None => self.here(Source::Adopted(Arc::default())),
        }
    }

    /// The newest configuration, if it is good and not rejected.
    fn newest_to_follow(&self) -> Option<Source> {
        let loaded = self.newest_config()?;
        (!self.is_rejected(&loaded.revision)).then_some(Source::Config(loaded))
    }

    /// This source, with what is known of the node now.
    fn here(&self, source: Source) -> Target {
        Target {
            source,
            facts: self.facts.clone(),
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
        self.is_other_source(&change.target)
    }

    fn is_rejected(&self, revision: &str) -> bool {
        self.rejected.as_deref() == Some(revision)
    }

    fn is_new_source(&self) -> bool {
        self.target
            .as_ref()
            .is_some_and(|target| self.is_other_source(target))
    }

    /// Whether it is another than what is confirmed. What was adopted is the configuration of its revision.
    fn is_other_source(&self, target: &Target) -> bool {
        self.confirmed_target().is_none_or(|confirmed| {
            let revision = confirmed.revision();
            confirmed.source != target.source
                && (revision.is_none() || revision != target.revision())
        })
    }

    /// The newest that may be followed: the newest good configuration, unless it is rejected or clashes; with the newest facts,
    /// unless what is in force clashes with them.
    fn candidate(&self) -> Option<Target> {
        let fits = |target: &Target| !self.misfits.iter().any(|misfit| misfit.target == *target);
        let in_force = self.confirmed_target();
        self.newest_to_follow()
            .map(|source| self.here(source))
            .filter(fits)
            .or_else(|| in_force.map(|t| self.here(t.source.clone())).filter(fits))
            .or_else(|| in_force.cloned())
    }
}
