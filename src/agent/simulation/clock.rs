//! The clock: what is due, and what happens then.

use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt as _;

use super::super::engine::Question;
use super::super::rollout::{Clock, Event};
use super::node::{GATEWAYS, facts, no_facts_yet, read};
use super::outside::{ASK_AGAIN, SILENT_AGAIN};
use super::rules::Verdict;
use super::table::Call;
use super::world::World;
use crate::kernel::monitor::Notification;
use crate::net::prefix::Family;

pub(super) const CONFIRM: Duration = Duration::from_secs(20);
pub(super) const RESYNC: Duration = Duration::from_secs(30);
pub(super) const PROBES: Duration = Duration::from_secs(1);
pub(super) const BEAT: Duration = Duration::from_secs(20);
/// How often the node's facts are read, and again after a failure.
const FACTS: Duration = Duration::from_mins(1);
pub(super) const FACTS_AGAIN: Duration = Duration::from_secs(10);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
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
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the model never waits")
}

impl World {
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
        match due {
            Due::Back(n) => {
                let (_, back) = self.scheduled.swap_remove(n);
                self.comes_back(back);
                return Ok(());
            }
            Due::Pass => return self.pass(),
            Due::Start => self.first_facts(),
            Due::Answer => self.answer(),
            Due::Facts => self.facts_are_due(),
            Due::Probes => self.probe(),
            Due::Health => self.health_changed(),
            Due::Deadline | Due::Resync | Due::Beat => self.of_the_engine(due),
        }
        self.returned()
    }

    /// Groups are re-pointed at once, and the run of `ip` for that may hang.
    fn health_changed(&mut self) {
        let (began, failed) = (self.now(), self.state.borrow().failed);
        if let Some(agent) = &mut self.agent {
            at_once(agent.engine.health_changed());
        }
        if self.state.borrow().failed > failed {
            self.hung_since(began);
        }
    }

    fn of_the_engine(&mut self, due: Due) {
        let now = self.now();
        let Some(agent) = &mut self.agent else { return };
        let engine = &mut agent.engine;
        match due {
            Due::Deadline => engine.step(Event::Tick),
            Due::Resync => {
                agent.resync_at = now + RESYNC;
                engine.resync_is_due();
            }
            _ => {
                agent.beat_at = now + BEAT;
                engine.refresh();
            }
        }
    }

    /// The agent has waited for its first facts.
    fn first_facts(&mut self) {
        let (reachable, now) = (self.is_reachable(), self.now());
        let Some(agent) = &mut self.agent else { return };
        agent.starting = None;
        self.rules.heard = reachable;
        agent.facts_at = now + if reachable { FACTS } else { FACTS_AGAIN };
        let facts = if reachable {
            facts(self.labels)
        } else {
            no_facts_yet()
        };
        let engine = &mut agent.engine;
        engine.step(Event::Facts(facts));
        engine.step(Event::Read(read(self.directory)));
        engine.causes.again(engine.now());
    }

    /// The API server answers a question, or does not.
    fn answer(&mut self) {
        self.requests += 1;
        let (reachable, has_own_way) = (self.is_reachable(), self.has_own_way());
        let Some(agent) = &mut self.agent else { return };
        let engine = &mut agent.engine;
        let Some(mut asking) = engine.outside.asking.take() else {
            return;
        };
        if !asking.again && self.state.borrow_mut().fault(Call::Question).is_some() {
            self.agent = None;
            return;
        }
        asking.again = true;
        self.rules.heard |= reachable;
        if reachable {
            if asking.question == Question::Node {
                engine.step(Event::Facts(facts(self.labels)));
            }
            engine.step(Event::Answered);
        } else {
            // A server that is away refuses at once; packets that a route takes elsewhere are waited for.
            asking.at = engine.now() + if self.away { ASK_AGAIN } else { SILENT_AGAIN };
            asking.lost += u8::from(!has_own_way && !self.away);
            // A change is decided after two.
            self.rules.excused |= asking.lost >= 2;
            engine.outside.asking = Some(asking);
        }
    }

    fn facts_are_due(&mut self) {
        self.requests += 1;
        let (reachable, now) = (self.is_reachable(), self.now());
        let Some(agent) = &mut self.agent else { return };
        self.rules.heard |= reachable;
        agent.facts_at = now + if reachable { FACTS } else { FACTS_AGAIN };
        if reachable {
            agent.engine.step(Event::Facts(facts(self.labels)));
        }
    }

    fn probe(&mut self) {
        let (answering, now) = (self.answering(), self.now());
        let Some(agent) = &mut self.agent else { return };
        agent.probe_at = now + PROBES;
        let gateways = GATEWAYS.iter().zip(answering);
        let outside = &mut agent.engine.outside;
        outside.probe_all(|of| gateways.clone().any(|((g, _), up)| up && *g == of));
    }

    /// A call to the engine is over.
    pub(super) fn returned(&mut self) -> Verdict {
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
}
