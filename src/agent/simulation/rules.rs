//! What must hold, whatever happens: checked after each step of a history, and once all is quiet.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::rollout::{Clock, Newest};
use super::super::target::Loaded;
use super::super::transitions::Stage;
use super::history::Action;
use super::node::{API_ADDRESSES, Directory, OURS, facts, read};
use super::outside::ModelOutside;
use super::world::{CONFIRM, World};
use crate::agent::engine::Engine;
use crate::report::status::{GatewayState, Overall, Status};
use crate::routing::diff::{Wanted, diff};
use crate::routing::node_facts::Facts;
use crate::routing::node_selector;
use crate::routing::resolve::{Inputs, Resolution, resolve};
use crate::routing::state::{OwnRoute, Target as RouteTarget};
use crate::serve::page::readiness;

/// How long after `--confirm` a change that cut off the API server may be in force: questions, passes and their pauses.
const BOUND: Duration = Duration::from_secs(8);
/// What each failure of `ip` may add: its time limit, and the longest pause before the next try.
const PER_FAILURE: Duration = Duration::from_secs(45);
/// A server that is away for less than this before a change counts as there: one request that failed is no excuse.
const BLIP: Duration = Duration::from_millis(900);
/// How long the end of a history may take to become quiet: a gateway that flapped has to answer for five minutes.
const QUIET: Duration = Duration::from_mins(20);
/// What is watched once it is quiet: the first for what is swept, the second for writes.
const STILL: Duration = Duration::from_secs(65);
/// Requests, batches and reported events for each thing that happens, and in each minute.
const MOST_EACH: usize = 60;

pub(super) type Verdict = Result<(), String>;

/// What the rules remember.
#[derive(Default)]
pub(super) struct Rules {
    /// Since when the server is away, or its way.
    away_since: Option<Clock>,
    /// It was away, or a failure of its way may be taken for a change's, since it was last reachable with nothing undecided.
    excused: bool,
    /// The newest configuration may have been rejected although it is harmless.
    blameable: bool,
    /// Since when a route of ours takes its packets, and how many failures there had been.
    blocked: Option<(Clock, usize)>,
    /// The revision that was taken back, and nothing has happened since that it could be tried again for.
    rejected: Option<String>,
    /// The revision that was confirmed last.
    in_force: Option<String>,
    /// The labels since the last edit.
    labels: BTreeSet<u8>,
    /// The edit was decided on in the sight of the API server so far.
    fresh: bool,
    actions: usize,
}

impl Rules {
    /// Before it happens.
    pub(super) fn happens(&mut self, action: Action, directory: Directory) {
        self.actions += 1;
        match action {
            Action::Wait(_) => {}
            Action::Edit(new) if new == directory => {}
            Action::Edit(_) => {
                self.blameable = self.excused;
                self.rejected = None;
                self.blocked = None;
                self.labels.clear();
                self.fresh = true;
            }
            Action::Kill | Action::Start | Action::Fault(_) => self.blocked = None,
            _ => {
                self.blocked = None;
                // Routes that were held back may be others now.
                self.rejected = self.rejected.take().filter(|r| !r.is_empty());
            }
        }
    }

    pub(super) fn starts(&mut self) {
        self.fresh = false;
    }
}

impl World {
    // --- after each step ---

    pub(super) fn check(&mut self) -> Verdict {
        self.observe_api();
        if let Some(leak) = self.seen().leak {
            return Err(leak);
        }
        self.check_api()
    }

    fn observe_api(&mut self) {
        let now = self.now();
        let (has_way, blocked) = (self.has_own_way(), self.is_blocked());
        let settled = self
            .agent
            .as_ref()
            .is_some_and(|agent| agent.engine.rollout.stage() == Stage::Settled);
        let rules = &mut self.rules;
        if has_way {
            rules.away_since = None;
            if settled && !blocked {
                rules.excused = false;
            }
        } else {
            let since = *rules.away_since.get_or_insert(now);
            if now >= since + BLIP {
                rules.excused = true;
            }
        }
        rules.fresh &= has_way && !blocked;
        rules.blameable |= rules.excused;
    }

    /// A change that cuts off the API server is taken back in time, and not tried again.
    fn check_api(&mut self) -> Verdict {
        let (now, failed) = (self.now(), self.state.borrow().failed);
        let pending = !self.state.borrow().faults.is_empty();
        if self.rules.excused || self.agent.is_none() || !self.is_blocked() {
            self.rules.blocked = None;
            return Ok(());
        }
        if let Some(revision) = &self.rules.rejected {
            return Err(format!(
                "revision {revision} was taken back, and its routes cut off the API server again"
            ));
        }
        let (since, before) = *self.rules.blocked.get_or_insert((now, failed));
        let failures = failed - before + usize::from(pending);
        let more = PER_FAILURE * u32::try_from(failures).unwrap_or(u32::MAX);
        if now > since + CONFIRM + BOUND + more {
            return Err(format!(
                "the API server is cut off by a route since {since:?}, and it is {now:?}"
            ));
        }
        Ok(())
    }

    /// No route that is wanted was deleted by the pass.
    pub(super) fn check_deleted(&mut self) -> Verdict {
        let deleted = std::mem::take(&mut self.state.borrow_mut().deleted);
        if deleted.is_empty() {
            return Ok(());
        }
        let Some(wanted) = self.wanted_by_agent() else {
            return Ok(());
        };
        match deleted.iter().find(|route| wanted.routes.contains(route)) {
            Some(route) => Err(format!(
                "a wanted route was deleted: {} to {:?}",
                route.key.prefix, route.target
            )),
            None => Ok(()),
        }
    }

    /// What the agent's own target makes of the kernel as it is.
    fn wanted_by_agent(&self) -> Option<Wanted> {
        let engine = &self.agent.as_ref()?.engine;
        let kernel = self.state.borrow().model.dump(&OURS);
        engine.wanted_of(&kernel)
    }

    // --- promises ---

    /// After a pass that confirms the newest configuration, what is guarded stays so.
    pub(super) fn promise(&mut self) -> Verdict {
        let Some(agent) = &self.agent else {
            return Ok(());
        };
        let engine = &agent.engine;
        self.rules.labels.insert(self.labels);
        if engine.rollout.stage() == Stage::Settled
            && let Some(revision) = engine.rollout.rejected_revision()
            && engine.rollout.refused().is_none()
        {
            self.rules.rejected = Some(revision);
        }
        let Some(target) = engine.rollout.target() else {
            return Ok(());
        };
        if !engine.last.complete || !engine.rollout.is_at_newest() {
            return Ok(());
        }
        self.rules.in_force = target.revision().map(str::to_owned);
        let known: Vec<Facts> = self.rules.labels.iter().map(|l| facts(*l)).collect();
        if self.rules.fresh && !known.contains(&target.facts) {
            return Err("an edit is in force with labels from before it".to_owned());
        }
        if target.facts == facts(self.labels) {
            let guarded = self.guarded();
            self.state.borrow_mut().guard(guarded);
        }
        Ok(())
    }

    /// What changes is promised no more.
    pub(super) fn narrow(&mut self) {
        if let Newest::Good(_) = read(self.directory) {
            let now = self.guarded();
            let mut state = self.state.borrow_mut();
            let kept = state.guarded().iter().filter(|a| now.contains(a));
            let kept = kept.copied().collect();
            state.guard(kept);
        }
    }

    /// An address of each destination of the guarded sets that apply with the node's labels.
    fn guarded(&self) -> Vec<(IpAddr, u8)> {
        let (Newest::Good(loaded), Facts::Known(known)) =
            (read(self.directory), facts(self.labels))
        else {
            return Vec::new();
        };
        let applies = |set: &&crate::config::RouteSet| {
            let fits = |selector| node_selector::matches(selector, &known.labels);
            set.leak_guard && set.node_selector.as_ref().is_none_or(fits)
        };
        let sets = loaded.config.sets.iter().filter(applies);
        sets.flat_map(|set| &set.destinations)
            .map(|prefix| {
                let (first, last) = prefix.range();
                // In `0.0.0.0/0` an address that nothing protects.
                let at = if prefix.len() == 0 { 9 << 24 } else { first };
                let address = prefix.family().address((at + 9).min(last));
                (address, prefix.len().max(1))
            })
            .collect()
    }

    // --- once all is quiet ---

    pub(super) fn check_end(&mut self) -> Verdict {
        let deadline = self.now() + QUIET;
        while !self.is_quiet() {
            if self.now() > deadline {
                return Err("it does not become quiet".to_owned());
            }
            self.wait(Duration::from_secs(5))?;
        }
        self.wait(STILL)?;
        self.check_truth()?;
        self.check_still()?;
        self.check_bounds()
    }

    /// The kernel is what the newest configuration makes of this node, or what is in force where that one is refused, and the report is
    /// true.
    fn check_truth(&self) -> Verdict {
        let Some(agent) = &self.agent else {
            return Err("there is no agent".to_owned());
        };
        let engine = &agent.engine;
        let kernel = self.state.borrow().model.dump(&OURS);
        let Some(status) = engine.status.borrow().clone() else {
            return Err("there is no status".to_owned());
        };
        let newest = read(self.directory);
        let expected = match &newest {
            Newest::Good(loaded) => Some(self.truth(engine, loaded)),
            Newest::Refused { .. } | Newest::Unknown => None,
        };
        let words = || status.message.clone().unwrap_or_default();
        match (&newest, expected) {
            (Newest::Good(loaded), Some(Ok(resolution))) => {
                let harmful = cuts_off(&resolution.wanted);
                let in_force = engine.rollout.is_at_newest();
                if in_force && harmful && !self.rules.excused {
                    return Err("what cuts off the API server is in force".to_owned());
                }
                if !in_force && !harmful && !self.rules.blameable {
                    return Err(format!("what is harmless is not in force: {}", words()));
                }
                // An agent that is cut off, with an excuse, does not know the labels.
                if in_force && self.is_reachable() {
                    self.check_kernel(&resolution.wanted)?;
                    if status.status != Overall::Ready && !is_untested(&status) {
                        return Err(format!("all is in force, and not Ready: {}", words()));
                    }
                    if status.revision != loaded.revision {
                        return Err("another revision than the newest is reported".to_owned());
                    }
                } else if !in_force && status.status != Overall::RolledBack {
                    return Err(format!(
                        "not in force, and {:?}: {}",
                        status.status,
                        words()
                    ));
                }
            }
            (Newest::Good(_), Some(Err(clash))) => {
                if status.status == Overall::Ready {
                    return Err(format!("{clash}, and the status is Ready"));
                }
            }
            _ => {
                let nothing = kernel.own.is_empty();
                let absent = matches!(newest, Newest::Refused { absent: true, .. });
                let right = if nothing && absent && status.revision.is_empty() {
                    Overall::Ready
                } else {
                    Overall::Invalid
                };
                if status.status != right {
                    return Err(format!("refused, and {:?}: {}", status.status, words()));
                }
            }
        }
        if let Some(wanted) = self.wanted_by_agent() {
            self.check_kernel(&wanted)?;
        }
        self.check_report(&status)
    }

    /// What the newest configuration makes of this node.
    fn truth(
        &self,
        engine: &Engine<ModelOutside>,
        loaded: &Arc<Loaded>,
    ) -> Result<Resolution, String> {
        let kernel = self.state.borrow().model.dump(&OURS);
        let inputs = Inputs {
            config: &loaded.config,
            kernel: &kernel,
            facts: &facts(self.labels),
            health: &engine.health.borrow().clone(),
            ownership: &OURS,
        };
        resolve(&inputs).map_err(|clashes| clashes[0].to_string())
    }

    fn check_kernel(&self, wanted: &Wanted) -> Verdict {
        let kernel = self.state.borrow().model.dump(&OURS);
        let plan = diff(wanted, &kernel, &OURS, true);
        if !plan.is_empty() {
            let words: Vec<String> = plan.describe(wanted, &kernel).take(3).collect();
            return Err(format!(
                "the kernel is not the target: {}",
                words.join("; ")
            ));
        }
        let unused = plan.unused.iter();
        let unused: Vec<&u32> = unused
            .filter(|id| !crate::net::nexthop_id::is_revision(**id))
            .collect();
        if !unused.is_empty() {
            return Err(format!("nexthop objects are left over: {unused:?}"));
        }
        Ok(())
    }

    fn check_report(&self, status: &Status) -> Verdict {
        let kernel = self.state.borrow().model.dump(&OURS);
        let through = |route: &&OwnRoute| matches!(route.target, RouteTarget::Nexthop(_));
        let there = kernel.own.iter().filter(through).count();
        let installed: usize = status.sets.iter().map(|set| set.installed).sum();
        if there != installed {
            return Err(format!(
                "{installed} routes are reported, and there are {there}"
            ));
        }
        if there > 0 && self.rules.in_force.is_some() && status.revision.is_empty() {
            return Err("routes are in force, and no revision is reported".to_owned());
        }
        let gateways = status.sets.iter().flat_map(|set| &set.gateways);
        for gateway in gateways.filter(|g| g.state == GatewayState::Down) {
            if !status.sets.iter().any(|set| set.name == "wrong") {
                return Err(format!("{} is reported down", gateway.address));
            }
        }
        if let Err(why) = readiness(Some(status))
            && there > 0
        {
            return Err(format!("not ready: {why}"));
        }
        Ok(())
    }

    /// Nothing to do: nothing is written and nothing is reported.
    fn check_still(&mut self) -> Verdict {
        let before = (self.state.borrow().batches, self.reported);
        let (requests, lines) = (self.requests, super::lines());
        self.wait(STILL)?;
        let after = (self.state.borrow().batches, self.reported);
        if after != before {
            return Err("with nothing to do something was written or reported".to_owned());
        }
        let most = if self.is_reachable() { 2 } else { 100 };
        if self.requests > requests + most || super::lines() > lines {
            return Err("with nothing to do the server was asked or something logged".to_owned());
        }
        Ok(())
    }

    fn check_bounds(&self) -> Verdict {
        let minutes = usize::try_from(self.now().as_secs() / 60).unwrap_or(usize::MAX);
        let most = MOST_EACH * (self.rules.actions + minutes + 5);
        let batches = self.state.borrow().batches;
        for (what, count) in [
            ("batches", batches),
            ("requests", self.requests / 5),
            ("Events", self.reported),
            ("log lines", super::lines()),
        ] {
            if count > most {
                return Err(format!("{count} {what} for {} events", self.rules.actions));
            }
        }
        Ok(())
    }
}

/// A set whose only check can never be answered is not Ready, nor is one that has nowhere to drain to.
fn is_untested(status: &Status) -> bool {
    let mut sets = status.sets.iter();
    sets.any(|set| set.name == "wrong" || set.name == "drained")
}

/// Whether routes take the packets of the API server.
fn cuts_off(wanted: &Wanted) -> bool {
    let covers = |address| {
        let mut routes = wanted.routes.iter();
        routes.any(|route| route.key.prefix.contains(address))
    };
    API_ADDRESSES.into_iter().any(covers)
}
