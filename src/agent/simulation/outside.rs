//! What the engine reaches in the simulation: the model clock, questions to the model API server, and probes of model gateways.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::engine::{Outside, ProbePaths, Question};
use super::super::rollout::Clock;
use super::table::{State, Table};
use crate::config::Probe;
use crate::health::{HealthView, Initial, Machine, ProbeKey};
use crate::routing::state::Kernel;

/// How soon a question is asked again that was refused, and how soon the packets of one that nobody answered are sent again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(200);
pub(super) const SILENT_AGAIN: Duration = Duration::from_secs(1);

/// A question that has no answer yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub(super) question: Question,
    pub(super) at: Clock,
    /// It was asked before, and nobody answered.
    pub(super) again: bool,
    /// How often its packets were lost.
    pub(super) lost: u8,
}

/// The agent's part of the world: it ends with the agent.
pub(super) struct ModelOutside {
    state: Rc<RefCell<State>>,
    started: Duration,
    pub(super) asking: Option<Asking>,
    machines: BTreeMap<ProbeKey, (Machine, bool)>,
    view: watch::Sender<HealthView>,
}

impl Outside for ModelOutside {
    type Table = Table;

    fn now(&self) -> Clock {
        self.state.borrow().now.saturating_sub(self.started)
    }

    fn ask(&mut self, question: Question) {
        let at = self.now() + self.state.borrow().latency;
        self.asking = (question != Question::None).then_some(Asking {
            question,
            at,
            again: false,
            lost: 0,
        });
    }

    fn probe(&mut self, paths: &ProbePaths, adopted_down: &BTreeSet<ProbeKey>, _: &Kernel) {
        let before = self.view.borrow().clone();
        self.machines.retain(|key, _| paths.contains_key(key));
        for (key, path) in paths.iter().filter(|(k, _)| k.check.probe != Probe::None) {
            let is_on_link = path.is_some();
            let new = || {
                let initial = Initial::of(key, &before, |k| paths.contains_key(k), adopted_down);
                (Machine::new(&key.check, initial), is_on_link)
            };
            self.machines.entry(key.clone()).or_insert_with(new).1 = is_on_link;
        }
        // Keys that are new or gone wake nobody up who has not asked for them.
        let known = self.health();
        if known.keys().ne(before.keys()) {
            self.view.send_replace(known);
        }
    }

    fn is_verified(&mut self) {}
}

impl ModelOutside {
    pub(super) fn new(state: Rc<RefCell<State>>) -> Self {
        let started = state.borrow().now;
        Self {
            state,
            started,
            asking: None,
            machines: BTreeMap::new(),
            view: watch::Sender::new(HealthView::new()),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<HealthView> {
        self.view.subscribe()
    }

    fn health(&self) -> HealthView {
        self.machines
            .iter()
            .map(|(key, (machine, _))| (key.clone(), machine.health()))
            .collect()
    }

    /// One round of probes; `answers` is whether a gateway does.
    pub(super) fn probe_all(&mut self, answers: impl Fn(IpAddr) -> bool) {
        let now = self.now();
        for (key, (machine, is_on_link)) in &mut self.machines {
            if !*is_on_link {
                machine.no_verdict("not on-link".to_owned());
            } else if answers(key.gateway) && !matches!(key.check.probe, Probe::Tcp(_)) {
                machine.feed(now, Ok(Duration::from_millis(1)));
            } else {
                machine.feed(now, Err("no answer".to_owned()));
            }
        }
        let machines = &self.machines;
        self.view.send_if_modified(|view| {
            let mut turned = false;
            for (key, health) in view.iter_mut() {
                if let Some((machine, _)) = machines.get(key) {
                    let before = (health.state, health.ever_up);
                    *health = machine.health();
                    turned |= before != (health.state, health.ever_up);
                }
            }
            turned
        });
    }
}
