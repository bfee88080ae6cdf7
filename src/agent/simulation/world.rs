//! The world around the agent: what happens, on a clock that jumps from one thing that is due to the next. What must hold is `rules`'s.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::super::engine::Engine;
use super::super::lookups::Lookups;
use super::super::pass::LastPass;
use super::super::repair_limit::RepairLimit;
use super::super::rollout::{Clock, Event, Rollout};
use super::super::transitions::Report;
use super::super::triggers::Causes;
use super::clock::{BEAT, CONFIRM, FACTS_AGAIN, PROBES, RESYNC, at_once};
use super::history::{Action, FOR_EVER};
use super::node::{
    Directory, FOREIGN, GATEWAYS, LINKS, OURS, add_default_routes, no_facts_yet, node, read,
};
use super::outside::ModelOutside;
use super::rules::{Rules, Verdict};
use super::table::{ANSWER, Seen, State, Table};
use crate::cluster::events::{Dated, EVENTS_KEPT};
use crate::kernel::apply::Applier;
use crate::kernel::model::Model;
use crate::kernel::monitor::Notification;
use crate::report::metrics::Metrics;

/// How long an agent waits for the first facts.
const FIRST_FACTS: Duration = Duration::from_secs(3);

/// What comes back by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    Link(u8),
    Carrier(u8),
    Address(u8, u8),
    Gateway(u8),
    Api,
    Memory,
}

/// An agent that runs.
pub(super) struct Agent {
    pub(super) engine: Engine<ModelOutside>,
    pub(super) started: Clock,
    pub(super) events: broadcast::Receiver<Dated>,
    /// Until then it waits for the first facts.
    pub(super) starting: Option<Clock>,
    pub(super) resync_at: Clock,
    pub(super) probe_at: Clock,
    pub(super) facts_at: Clock,
    pub(super) beat_at: Clock,
}

pub(super) struct World {
    pub(super) state: Rc<RefCell<State>>,
    pub(super) agent: Option<Agent>,
    metrics: Metrics,
    pub(super) directory: Directory,
    pub(super) labels: u8,
    pub(super) away: bool,
    pub(super) alive: [bool; GATEWAYS.len()],
    addresses: BTreeSet<(u8, u8)>,
    pub(super) scheduled: Vec<(Clock, Back)>,
    pub(super) requests: usize,
    pub(super) reported: usize,
    pub(super) rules: Rules,
}

/// All addresses, by the place of their link and their own.
fn addresses() -> impl Iterator<Item = (u8, u8)> {
    let links = (0..).zip(LINKS);
    links.flat_map(|(n, (_, all))| (0..).take(all.len()).map(move |a| (n, a)))
}

impl World {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            state: Rc::new(RefCell::new(State::new(node()))),
            agent: None,
            metrics: metrics.clone(),
            directory: Directory::Absent,
            labels: 0,
            away: false,
            alive: [true; GATEWAYS.len()],
            addresses: addresses().collect(),
            scheduled: Vec::new(),
            requests: 0,
            reported: 0,
            rules: Rules::default(),
        }
    }

    /// Runs a history to its quiet end.
    pub(super) fn run(&mut self, history: &[Action]) -> Verdict {
        for action in history {
            self.act(*action)?;
        }
        self.heal()?;
        self.check_end()
    }

    /// The same, and prints what happens.
    pub(super) fn run_aloud(&mut self, history: &[Action]) -> Verdict {
        for action in history {
            eprintln!("{:?} {action}", self.now());
            self.act(*action)?;
        }
        eprintln!("{:?} everything works again", self.now());
        self.heal()?;
        self.check_end()
    }

    pub(super) fn act(&mut self, action: Action) -> Verdict {
        self.happen(action)?;
        self.check()
    }

    pub(super) fn now(&self) -> Clock {
        self.state.borrow().now
    }

    // --- what happens ---

    fn happen(&mut self, action: Action) -> Verdict {
        self.expect(action);
        match action {
            Action::Wait(ms) => return self.wait(Duration::from_millis(ms.into())),
            Action::Edit(directory) => return self.edit(directory),
            Action::Labels(labels) => {
                self.narrow();
                self.labels = labels;
                self.narrow();
            }
            Action::Gateway(n, ms) => {
                self.alive[usize::from(n)] = false;
                self.later(ms, Back::Gateway(n));
            }
            Action::Api(ms) => {
                self.away = true;
                self.later(ms, Back::Api);
            }
            Action::Slow(ms) => {
                self.state.borrow_mut().latency = Duration::from_millis(ms.into());
            }
            Action::Full(ms) => {
                self.state.borrow_mut().is_full = true;
                self.later(ms, Back::Memory);
            }
            Action::Fault(fault) => self.state.borrow_mut().faults.push(fault),
            Action::Kill => self.agent = None,
            Action::Start => self.start(),
            Action::Uninstall => return self.uninstall(),
            Action::Link(..)
            | Action::Carrier(..)
            | Action::Address(..)
            | Action::Foreign(..)
            | Action::Vanish(_)
            | Action::VanishObject(_) => self.happen_to_the_kernel(action),
        }
        Ok(())
    }

    fn edit(&mut self, directory: Directory) -> Verdict {
        self.directory = directory;
        self.narrow();
        if let Some(agent) = self.running() {
            at_once(agent.engine.read_ahead());
            self.is_read_late();
        }
        if let Some(agent) = self.running() {
            agent.engine.step(Event::Read(read(directory)));
            self.returned()?;
        }
        Ok(())
    }

    /// Others change links, addresses and routes.
    fn happen_to_the_kernel(&mut self, action: Action) {
        match action {
            Action::Link(n, ms) => {
                self.model(|model| model.set_up(LINKS[usize::from(n)].0, false));
                self.notified(Notification::Link);
                self.later(ms, Back::Link(n));
            }
            Action::Carrier(n, ms) => {
                self.model(|model| model.set_carrier(LINKS[usize::from(n)].0, false));
                self.notified(Notification::Link);
                self.later(ms, Back::Carrier(n));
            }
            Action::Address(n, a, ms) => {
                self.addresses.remove(&(n, a));
                let (link, all) = LINKS[usize::from(n)];
                let (address, len) = all[usize::from(a)];
                self.model(|model| model.remove_address(link, address, len));
                self.notified(Notification::Link);
                self.later(ms, Back::Address(n, a));
            }
            Action::Foreign(n, there) => {
                let verb = if there { "add" } else { "del" };
                let line = format!("route {verb} {}", FOREIGN[usize::from(n)]);
                // Fails where it cannot be.
                self.model(|model| _ = model.run(None, &line));
                self.notified(Notification::Foreign);
            }
            Action::Vanish(n) => self.vanish(n),
            Action::VanishObject(n) => self.vanish_object(n),
            _ => {}
        }
    }

    fn later(&mut self, ms: u32, back: Back) {
        self.scheduled.retain(|(_, other)| *other != back);
        if ms != FOR_EVER {
            let at = self.now() + Duration::from_millis(ms.into());
            self.scheduled.push((at, back));
        }
    }

    pub(super) fn comes_back(&mut self, back: Back) {
        if !matches!(back, Back::Gateway(_) | Back::Api) {
            self.routes_may_change();
        }
        match back {
            Back::Link(n) => {
                self.model(|model| model.set_up(LINKS[usize::from(n)].0, true));
                self.configure(n);
                self.notified(Notification::Link);
            }
            Back::Carrier(n) => {
                self.model(|model| model.set_carrier(LINKS[usize::from(n)].0, true));
                self.notified(Notification::Link);
            }
            Back::Address(n, a) => {
                self.addresses.insert((n, a));
                self.configure(n);
                self.notified(Notification::Link);
            }
            Back::Gateway(n) => self.alive[usize::from(n)] = true,
            Back::Api => self.away = false,
            Back::Memory => self.state.borrow_mut().is_full = false,
        }
    }

    pub(super) fn model<T>(&self, with: impl FnOnce(&mut Model) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let result = with(&mut state.model);
        state.remember_foreign();
        result
    }

    /// The network manager of the node.
    fn configure(&self, n: u8) {
        let (link, all) = LINKS[usize::from(n)];
        self.model(|model| {
            for (_, a) in self.addresses.iter().filter(|(of, _)| *of == n) {
                let (address, len) = all[usize::from(*a)];
                model.add_address(link, address, len);
            }
            add_default_routes(model);
        });
    }

    /// An agent that is past its start.
    pub(super) fn running(&mut self) -> Option<&mut Agent> {
        self.agent.as_mut().filter(|agent| agent.starting.is_none())
    }

    pub(super) fn notified(&mut self, notification: Notification) {
        if let Some(agent) = self.running() {
            agent.engine.notified(notification);
        }
    }

    fn vanish(&mut self, n: u8) {
        let own = super::table::own(&self.state.borrow().model);
        if own.is_empty() {
            return;
        }
        let key = own[usize::from(n) % own.len()].key;
        self.model(|model| _ = model.routes.remove(&key));
        self.state.borrow_mut().guard(Vec::new());
        self.notified(Notification::Ours);
    }

    fn vanish_object(&mut self, n: u8) {
        let ids: Vec<u32> = self
            .state
            .borrow()
            .model
            .objects
            .iter()
            .filter(|(_, object)| object.protocol == OURS.protocol)
            .map(|(id, _)| *id)
            .filter(|id| !crate::net::nexthop_id::is_revision(*id))
            .collect();
        if ids.is_empty() {
            return;
        }
        let line = format!("nexthop del id {}", ids[usize::from(n) % ids.len()]);
        self.model(|model| _ = model.run(None, &line));
        self.state.borrow_mut().guard(Vec::new());
        self.notified(Notification::Ours);
    }

    /// SIGTERM where the DaemonSet is gone.
    fn uninstall(&mut self) -> Verdict {
        let Some(agent) = self.running() else {
            return Ok(());
        };
        let result = at_once(agent.engine.applier.remove_all());
        self.returned()?;
        self.agent = None;
        self.state.borrow_mut().deleted.clear();
        let ours = self.model(|model| model.dump(&OURS));
        let is_clean = ours.own.is_empty() && ours.records(&OURS).is_empty();
        match result {
            Ok(outcome) if outcome.is_settled() && !is_clean => {
                Err("something of ours is left after an uninstall".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn start(&mut self) {
        if self.agent.is_some() {
            return;
        }
        self.state.borrow_mut().dead = false;
        let now = self.now();
        let known = self.is_reachable();
        let outside = ModelOutside::new(self.state.clone());
        let health = outside.subscribe();
        let (events, received) = broadcast::channel(EVENTS_KEPT);
        let engine = Engine {
            outside,
            applier: Applier {
                table: Table(self.state.clone()),
                ownership: OURS,
                resilient: true,
            },
            node: "node".to_owned(),
            resync: RESYNC,
            metrics: self.metrics.clone(),
            health,
            status: watch::Sender::new(None),
            events,
            rollout: Rollout::new(CONFIRM, no_facts_yet()),
            repair_limit: RepairLimit::default(),
            causes: Causes::default(),
            ahead: None,
            last: LastPass::default(),
            lookups: Lookups::default(),
            report: Report::default(),
        };
        self.agent = Some(Agent {
            engine,
            started: now,
            events: received,
            starting: Some(now + if known { Duration::ZERO } else { FIRST_FACTS }),
            resync_at: now + RESYNC,
            probe_at: now + PROBES / 2,
            facts_at: now + FACTS_AGAIN,
            beat_at: now + BEAT,
        });
        self.expect_start();
    }

    // --- the API server ---

    /// What there is to see of the kernel now.
    pub(super) fn seen(&self) -> Seen {
        self.state.borrow_mut().seen()
    }

    /// By the node's own default route, whatever else there is.
    pub(super) fn has_own_way(&self) -> bool {
        !self.away && self.seen().has_way
    }

    /// A route of ours takes its packets.
    pub(super) fn is_blocked(&self) -> bool {
        self.seen().is_blocked
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.has_own_way() && !self.is_blocked()
    }

    // --- the end ---

    /// Everything works again.
    fn heal(&mut self) -> Verdict {
        {
            let mut state = self.state.borrow_mut();
            state.faults.clear();
            state.is_full = false;
            state.latency = ANSWER;
        }
        self.scheduled.clear();
        self.away = false;
        self.alive = [true; GATEWAYS.len()];
        self.addresses.extend(addresses());
        for (n, (link, _)) in (0_u8..).zip(LINKS) {
            self.model(|model| {
                model.set_up(link, true);
                model.set_carrier(link, true);
            });
            self.configure(n);
        }
        for foreign in FOREIGN {
            self.model(|model| _ = model.run(None, &format!("route del {foreign}")));
        }
        self.notified(Notification::Link);
        self.start();
        let now = self.now();
        if let Some(agent) = &mut self.agent {
            agent.facts_at = now;
        }
        self.check()
    }

    /// Whether there is nothing left to do, as far as one can see.
    pub(super) fn is_quiet(&self) -> bool {
        let Some(agent) = &self.agent else {
            return false;
        };
        let engine = &agent.engine;
        let up = |key: &crate::health::ProbeKey, health: &crate::health::Health| {
            health.state == crate::health::State::Up
                || matches!(key.check.probe, crate::config::Probe::Tcp(_))
        };
        // After a failure the node's facts are read again within that time.
        let is_informed = agent.facts_at > self.now() + FACTS_AGAIN;
        agent.starting.is_none()
            && (is_informed || !self.is_reachable())
            && !engine.rollout.is_undecided()
            // What cuts it off may be in force, with an excuse; then the labels are asked for in vain.
            && (engine.outside.asking.is_none() || !self.is_reachable())
            && engine.health.borrow().iter().all(|(k, h)| up(k, h))
            && engine.causes.due().is_none()
            && !engine.health.has_changed().unwrap_or(false)
    }
}
