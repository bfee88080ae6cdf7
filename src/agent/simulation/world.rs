//! The world around the agent: what happens, on a clock that jumps from one thing that is due to the next. What must hold is `rules`'s.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{broadcast, watch};

use super::super::engine::{Engine, Question};
use super::super::lookups::Lookups;
use super::super::pass::LastPass;
use super::super::repair_limit::RepairLimit;
use super::super::rollout::{Clock, Event, Rollout};
use super::super::transitions::Report;
use super::super::triggers::Causes;
use super::history::{Action, FOR_EVER};
use super::node::{
    Directory, FOREIGN, GATEWAYS, LINKS, OURS, add_default_routes, facts, no_facts_yet, node, read,
};
use super::outside::{ASK_AGAIN, ModelOutside, SILENT_AGAIN};
use super::rules::{Rules, Verdict};
use super::table::{Seen, State, Table};
use crate::cluster::events::{Dated, EVENTS_KEPT};
use crate::kernel::apply::Applier;
use crate::kernel::model::Model;
use crate::kernel::monitor::Notification;
use crate::net::prefix::Family;
use crate::report::metrics::Metrics;

pub(super) const CONFIRM: Duration = Duration::from_secs(20);
pub(super) const RESYNC: Duration = Duration::from_secs(30);
const PROBES: Duration = Duration::from_secs(1);
const BEAT: Duration = Duration::from_secs(20);
/// How often the node's facts are read, and again after a failure.
const FACTS: Duration = Duration::from_mins(1);
const FACTS_AGAIN: Duration = Duration::from_secs(10);
/// How long an agent waits for the first facts.
const FIRST_FACTS: Duration = Duration::from_secs(3);

/// What comes back by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
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
    events: broadcast::Receiver<Dated>,
    /// Until then it waits for the first facts.
    starting: Option<Clock>,
    resync_at: Clock,
    probe_at: Clock,
    facts_at: Clock,
    beat_at: Clock,
}

pub(super) struct World {
    pub(super) state: Rc<RefCell<State>>,
    pub(super) agent: Option<Agent>,
    metrics: Metrics,
    pub(super) directory: Directory,
    pub(super) labels: u8,
    pub(super) away: bool,
    alive: [bool; GATEWAYS.len()],
    addresses: BTreeSet<(u8, u8)>,
    scheduled: Vec<(Clock, Back)>,
    pub(super) requests: usize,
    pub(super) reported: usize,
    pub(super) rules: Rules,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Back(usize),
    Start,
    Health,
    Answer,
    Deadline,
    Probes,
    Facts,
    Resync,
    Pass,
    Beat,
}

/// The result of a future that never waits, because nothing in the model does.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the model never waits")
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
            Action::Edit(directory) => {
                self.directory = directory;
                self.narrow();
                if let Some(agent) = self.running() {
                    agent.engine.step(Event::Read(read(directory)));
                }
            }
            Action::Labels(labels) => {
                self.narrow();
                self.labels = labels;
                self.narrow();
            }
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
            Action::Gateway(n, ms) => {
                self.alive[usize::from(n)] = false;
                self.later(ms, Back::Gateway(n));
            }
            Action::Api(ms) => {
                self.away = true;
                self.later(ms, Back::Api);
            }
            Action::Full(ms) => {
                self.state.borrow_mut().is_full = true;
                self.later(ms, Back::Memory);
            }
            Action::Fault(fault) => self.state.borrow_mut().faults.push(fault),
            Action::Kill => self.agent = None,
            Action::Start => self.start(),
        }
        Ok(())
    }

    fn later(&mut self, ms: u32, back: Back) {
        self.scheduled.retain(|(_, other)| *other != back);
        if ms != FOR_EVER {
            let at = self.now() + Duration::from_millis(ms.into());
            self.scheduled.push((at, back));
        }
    }

    fn comes_back(&mut self, back: Back) {
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
    fn running(&mut self) -> Option<&mut Agent> {
        self.agent.as_mut().filter(|agent| agent.starting.is_none())
    }

    fn notified(&mut self, notification: Notification) {
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

    fn start(&mut self) {
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

    // --- time ---

    pub(super) fn wait(&mut self, time: Duration) -> Verdict {
        let end = self.now() + time;
        let mut quick = 0;
        while let Some((at, due)) = self.next().filter(|(at, _)| *at <= end) {
            quick = if at > self.now() { 0 } else { quick + 1 };
            if quick > 100 {
                return Err("the agent turns in a circle".to_owned());
            }
            let now = self.now().max(at);
            self.state.borrow_mut().now = now;
            self.one_thing(due)?;
            self.check()?;
        }
        let now = self.now().max(end);
        self.state.borrow_mut().now = now;
        Ok(())
    }

    /// What is due first.
    fn next(&self) -> Option<(Clock, Due)> {
        let back = self
            .scheduled
            .iter()
            .enumerate()
            .map(|(n, (at, _))| (*at, Due::Back(n)))
            .min_by_key(|(at, _)| *at);
        let Some(agent) = &self.agent else {
            return back;
        };
        if let Some(at) = agent.starting {
            return back
                .into_iter()
                .chain([(at, Due::Start)])
                .min_by_key(|(at, _)| *at);
        }
        let engine = &agent.engine;
        let of = |at: Option<Clock>, due| at.map(|at| (agent.started + at, due));
        let changed = engine.health.has_changed().unwrap_or(false);
        let all = [
            back,
            changed.then(|| (self.now(), Due::Health)),
            of(engine.outside.asking.map(|asking| asking.at), Due::Answer),
            of(engine.rollout.deadline(), Due::Deadline),
            Some((agent.probe_at, Due::Probes)),
            Some((agent.facts_at, Due::Facts)),
            Some((agent.resync_at, Due::Resync)),
            of(engine.causes.due(), Due::Pass),
            Some((agent.beat_at, Due::Beat)),
        ];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Does what is due.
    fn one_thing(&mut self, due: Due) -> Verdict {
        if let Due::Back(n) = due {
            let (_, back) = self.scheduled.swap_remove(n);
            self.comes_back(back);
            return Ok(());
        }
        let reachable = self.is_reachable();
        let now = self.now();
        let (directory, labels) = (self.directory, self.labels);
        let answering = if due == Due::Probes {
            self.answering()
        } else {
            self.alive
        };
        let Some(agent) = &mut self.agent else {
            return Ok(());
        };
        let engine = &mut agent.engine;
        match due {
            Due::Back(_) => {}
            Due::Start => {
                agent.starting = None;
                agent.facts_at = now + if reachable { FACTS } else { FACTS_AGAIN };
                let facts = if reachable {
                    facts(labels)
                } else {
                    no_facts_yet()
                };
                engine.step(Event::Facts(facts));
                engine.step(Event::Read(read(directory)));
                engine.causes.again(engine.now());
            }
            Due::Health => at_once(engine.health_changed()),
            Due::Answer => {
                self.requests += 1;
                let Some(mut asking) = engine.outside.asking.take() else {
                    return Ok(());
                };
                if reachable {
                    if asking.question == Question::Node {
                        engine.step(Event::Facts(facts(labels)));
                    }
                    engine.step(Event::Answered);
                } else {
                    // A server that is away refuses at once; packets that a route takes elsewhere are waited for.
                    asking.at = engine.now() + if self.away { ASK_AGAIN } else { SILENT_AGAIN };
                    engine.outside.asking = Some(asking);
                }
            }
            Due::Deadline => engine.step(Event::Tick),
            Due::Probes => {
                agent.probe_at = now + PROBES;
                let gateways = GATEWAYS.iter().zip(answering);
                engine
                    .outside
                    .probe_all(|of| gateways.clone().any(|((g, _), up)| up && *g == of));
            }
            Due::Facts => {
                self.requests += 1;
                agent.facts_at = now + if reachable { FACTS } else { FACTS_AGAIN };
                if reachable {
                    engine.step(Event::Facts(facts(labels)));
                }
            }
            Due::Resync => {
                agent.resync_at = now + RESYNC;
                engine.resync_is_due();
            }
            Due::Pass => return self.pass(),
            Due::Beat => {
                agent.beat_at = now + BEAT;
                engine.refresh();
            }
        }
        self.returned()
    }

    /// A call to the engine is over.
    fn returned(&mut self) -> Verdict {
        let mut state = self.state.borrow_mut();
        if let Some(broken) = state.broken.take() {
            return Err(broken);
        }
        if state.dead {
            self.agent = None;
        }
        let flapped = std::mem::take(&mut state.flapped);
        drop(state);
        if flapped {
            self.notified(Notification::Link);
        }
        if let Some(agent) = &mut self.agent {
            while agent.events.try_recv().is_ok() {
                self.reported += 1;
            }
        }
        Ok(())
    }

    fn pass(&mut self) -> Verdict {
        self.before_pass();
        let failed = self.state.borrow().failed;
        if let Some(agent) = &mut self.agent {
            at_once(agent.engine.pass());
        }
        self.returned()?;
        self.check_deleted()?;
        let failed = self.state.borrow().failed > failed;
        self.promise(failed)
    }

    /// Whether each gateway answers a probe.
    fn answering(&self) -> [bool; GATEWAYS.len()] {
        let state = self.state.borrow();
        let mut all = self.alive;
        for (answers, (gateway, name)) in all.iter_mut().zip(GATEWAYS) {
            *answers &= state.model.link(name).is_some_and(|link| {
                let same = |(a, _): &(IpAddr, u8)| Family::of(*a) == Family::of(gateway);
                link.up && link.carrier && link.addresses.iter().any(same)
            });
        }
        all
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
        self.state.borrow_mut().faults.clear();
        self.state.borrow_mut().is_full = false;
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
        agent.starting.is_none()
            && !engine.rollout.is_undecided()
            && engine.outside.asking.is_none()
            && engine.health.borrow().iter().all(|(k, h)| up(k, h))
            && engine.causes.due().is_none()
            && !engine.health.has_changed().unwrap_or(false)
    }
}
