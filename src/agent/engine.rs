//! The agent without its rim: what it knows, and what it does about what happens. A pass is `pass`'s, the report `report`'s.
//!
//! It reaches the kernel, the API server, the probes and the clock through [`Outside`] only: `rim` has the real ones, the simulation has
//! its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::lookups::Lookups;
use super::pass::LastPass;
use super::reading::Ahead;
use super::repair_limit::RepairLimit;
use super::rollout::{Clock, Effect, Event, Rollout};
use super::transitions::Report;
use super::triggers::Causes;
use crate::cluster::events;
use crate::health::probe::ProbePath;
use crate::health::{HealthView, ProbeKey};
use crate::kernel::apply::Applier;
use crate::kernel::ip::RouteTable;
use crate::kernel::lookup::Lookup;
use crate::kernel::monitor::Notification;
use crate::report::metrics::Metrics;
use crate::report::status::Status;
use crate::routing::batch::Ownership;
use crate::routing::state::Kernel;

/// Gateways to probe, each with the path to it; `None` while there is none.
pub(super) type ProbePaths = BTreeMap<ProbeKey, Option<ProbePath>>;

/// All that is not the agent.
pub(super) trait Outside {
    /// Reads and writes the kernel.
    type Table: RouteTable + Lookup + Clone;

    /// The time since the agent started.
    fn now(&self) -> Clock;
    /// Asks the API server, or stops asking.
    fn ask(&mut self, question: Question);
    /// Probes these gateways and no others, of which an earlier agent had taken some out; their links are watched.
    fn probe(&mut self, paths: &ProbePaths, adopted_down: &BTreeSet<ProbeKey>, kernel: &Kernel);
    /// All that applies here is in the kernel and confirmed; called after each pass that finds it so.
    fn is_verified(&mut self);
}

/// What to ask the API server. Each replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// This node, until there is an answer.
    Node,
    /// Anything over a new connection, until there is an answer.
    Alive,
    /// Nothing.
    None,
}

/// See the module.
pub(super) struct Engine<O: Outside> {
    pub(super) outside: O,
    pub(super) applier: Applier<O::Table>,
    pub(super) node: String,
    pub(super) resync: Duration,
    pub(super) metrics: Metrics,
    pub(super) health: watch::Receiver<HealthView>,
    pub(super) status: watch::Sender<Option<Status>>,
    pub(super) events: broadcast::Sender<events::Dated>,
    pub(super) rollout: Rollout,
    pub(super) repair_limit: RepairLimit,
    pub(super) causes: Causes,
    /// The kernel as it was read before the next pass was due.
    pub(super) ahead: Option<Ahead>,
    pub(super) last: LastPass,
    pub(super) lookups: Lookups,
    /// What was reported last.
    pub(super) report: Report,
}

impl<O: Outside> Engine<O> {
    pub(super) fn now(&self) -> Clock {
        self.outside.now()
    }

    pub(super) fn ownership(&self) -> Ownership {
        self.applier.ownership
    }

    /// Feeds the rollout, does what it answers, and reports.
    pub(super) fn step(&mut self, event: Event) {
        self.advance(event);
        self.publish();
    }

    /// Feeds the rollout, and does what it answers.
    pub(super) fn advance(&mut self, event: Event) {
        let effects = self.rollout.step(event, self.now());
        self.perform(effects);
    }

    pub(super) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Pass => self.causes.target_changed(self.outside.now()),
                Effect::AskForNode => self.outside.ask(Question::Node),
                Effect::Ask => self.outside.ask(Question::Alive),
                Effect::StopAsking => self.outside.ask(Question::None),
            }
        }
    }

    /// The kernel reported a change.
    pub(super) fn notified(&mut self, notification: Notification) {
        // What was read before it may be another by now.
        self.ahead = None;
        let now = self.now();
        self.causes
            .notified(notification, now, self.last.reading, self.last.ended);
    }

    /// It is time to read the kernel although it reported nothing.
    pub(super) fn resync_is_due(&mut self) {
        self.causes.resync_is_due(self.outside.now());
    }

    /// After a verified apply of a configuration that is confirmed and that is known to be all that applies here.
    pub(super) fn report_verified(&mut self) {
        if self.last.complete && self.rollout.is_at_newest() {
            self.outside.is_verified();
        }
    }
}
