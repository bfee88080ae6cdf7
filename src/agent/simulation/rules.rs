//! What must hold, whatever happens: checked after each step of a history, and once all is quiet.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::rollout::{Clock, Newest};
use super::super::target::{Footprint, Loaded, Source, Target};
use super::super::transitions::Stage;
use super::history::Action;
use super::node::{API_ADDRESSES, Directory, OURS, facts, node, read};
use super::outside::ModelOutside;
use super::world::{CONFIRM, World};
use crate::agent::engine::Engine;
use crate::health::HealthView;
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
/// How soon labels follow where an edit goes back to what is in force: an answer, and a pass.
const FOLLOWS: Duration = Duration::from_secs(1);
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
    /// What cuts it off and was put in force while it was away: nothing answered before that change, so it has no guard, and its
    /// routes may come back with a link (`design.md`). Another target, even the same revision with other labels, is guarded.
    in_force_unguarded: Option<Target>,
    /// The newest configuration may have been rejected although it is harmless now.
    blameable: bool,
    /// The edit went back to what is confirmed, and nothing has happened since that could bring other routes: it needs no verdict.
    returned: bool,
    /// Since when a route of ours takes its packets, and how many failures there had been.
    blocked: Option<(Clock, usize)>,
    /// The revision that was taken back; it is not tried again until another one is read.
    rejected: Option<String>,
    /// Our routes and gateways, as this agent took them back under the newest configuration.
    taken_back: Vec<Footprint>,
    /// The revision that was confirmed last.
    in_force: Option<String>,
    /// The labels since the last edit.
    labels: BTreeSet<u8>,
    /// The edit is decided with its labels in the sight of the API server; from when on they show.
    fresh: Option<Clock>,
    actions: usize,
}

impl World {
    /// Before it happens.
    pub(super) fn expect(&mut self, action: Action) {
        let now = self.now();
        self.rules.actions += 1;
        match action {
            Action::Wait(_) | Action::Api(_) | Action::Gateway(..) => {}
            Action::Edit(new) if new == self.directory => {}
            Action::Edit(new) => self.expect_edit(new, now),
            Action::Kill | Action::Start | Action::Fault(_) | Action::Full(_) => {
                self.rules.blocked = None;
            }
            Action::Labels(labels) => {
                self.rules.labels.insert(labels);
                // A revision that was rejected stays so until it changes, whatever the labels are then (the contract).
                self.rules.blameable |= is_harmful(self.directory, labels);
                self.routes_may_change();
            }
            _ => self.routes_may_change(),
        }
    }

    fn expect_edit(&mut self, new: Directory, now: Clock) {
        let revision = match read(new) {
            Newest::Good(loaded) => Some(loaded.revision.clone()),
            Newest::Refused { .. } | Newest::Unknown => None,
        };
        let rollout = self.agent.as_ref().map(|agent| &agent.engine.rollout);
        // What is being decided, or was rejected, and was gone for a moment only.
        let known = rollout.and_then(|r| r.change_revision()).map(str::to_owned);
        let target = rollout.and_then(|rollout| rollout.target());
        let has_labels = target.is_none_or(|target| target.facts == facts(self.labels));
        let rules = &mut self.rules;
        rules.returned = revision.is_some() && revision == rules.in_force && has_labels;
        rules.blameable = is_harmful(new, self.labels) || rules.excused && !rules.returned;
        rules.labels = BTreeSet::from([self.labels]);
        rules.fresh = if revision.is_none() || revision == known {
            None
        } else if revision == rules.in_force {
            // Nothing is decided: what was confirmed goes back at once, and the labels follow with the next answer.
            Some(now + FOLLOWS)
        } else {
            Some(now)
        };
        rules.rejected = None;
        rules.taken_back.clear();
        rules.blocked = None;
    }

    /// Something happens after which the target may make other routes.
    pub(super) fn routes_may_change(&mut self) {
        self.rules.blocked = None;
        self.rules.returned = false;
    }

    pub(super) fn expect_start(&mut self) {
        self.rules.fresh = None;
        self.rules.returned = false;
        self.rules.taken_back.clear();
    }

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
        let rollout = self.agent.as_ref().map(|agent| &agent.engine.rollout);
        let settled = rollout
            .filter(|rollout| rollout.stage() == Stage::Settled)
            .and_then(|rollout| rollout.target())
            .cloned();
        let rules = &mut self.rules;
        if has_way {
            rules.away_since = None;
        } else {
            let since = *rules.away_since.get_or_insert(now);
            if now >= since + BLIP {
                rules.excused = true;
                // A change that it was taken back for may not have been the cause, and is made after all.
                rules.rejected = rules.rejected.take().filter(|_| settled.is_some());
            }
        }
        if let Some(target) = settled {
            if blocked && rules.excused {
                rules.in_force_unguarded = Some(target);
            } else if has_way && !blocked {
                // The first facts do not take out what was confirmed without them.
                let same = |other: &mut Target| {
                    if matches!(other.facts, Facts::NotYet { .. }) {
                        other.facts = target.facts.clone();
                    }
                    *other == target
                };
                if !rules.in_force_unguarded.as_mut().is_some_and(same) {
                    rules.in_force_unguarded = None;
                    rules.excused = false;
                }
            }
        }
        rules.fresh = rules.fresh.filter(|_| has_way && !blocked);
        rules.blameable |= rules.excused && !rules.returned;
    }

    /// A change that cuts off the API server is taken back in time, and not tried again.
    fn check_api(&mut self) -> Verdict {
        let (now, failed) = (self.now(), self.state.borrow().failed);
        let pending = !self.state.borrow().faults.is_empty();
        if self.rules.excused || self.agent.is_none() || !self.is_blocked() {
            self.rules.blocked = None;
            return Ok(());
        }
        self.check_tried_again()?;
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

    /// A change that was taken back is not made again.
    fn check_tried_again(&self) -> Verdict {
        let Some(engine) = self.agent.as_ref().map(|agent| &agent.engine) else {
            return Ok(());
        };
        let revision = engine.rollout.target().and_then(Target::revision);
        if revision.is_some() && revision == self.rules.rejected.as_deref() {
            return Err(format!(
                "revision {revision:?} was taken back, and its routes cut off the API server again"
            ));
        }
        let is_going = matches!(
            engine.rollout.stage(),
            Stage::RollingBack | Stage::RolledBack
        );
        if is_going || self.rules.taken_back.is_empty() {
            return Ok(());
        }
        let there = Footprint::found(&self.state.borrow().model.dump(&OURS), &OURS);
        if self.rules.taken_back.contains(&there) {
            return Err("routes that were taken back cut off the API server again".to_owned());
        }
        Ok(())
    }

    /// Before a pass: an agent that does not know what was confirmed takes out all of ours, guards too (`design.md`).
    pub(super) fn before_pass(&mut self) {
        let Some(agent) = &self.agent else { return };
        let rollout = &agent.engine.rollout;
        if rollout.stage() != Stage::RollingBack {
            return;
        }
        if let Some(Source::Adopted(found)) = rollout.target().map(|target| &target.source)
            && found.is_empty()
        {
            self.state.borrow_mut().guard(Vec::new());
        }
        if self.rules.excused || !self.is_blocked() {
            return;
        }
        // What it made, all of it, cut off the API server.
        if agent.engine.last.complete {
            let there = Footprint::found(&self.state.borrow().model.dump(&OURS), &OURS);
            self.rules.taken_back.push(there);
        }
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
    pub(super) fn promise(&mut self, failed: bool) -> Verdict {
        let Some(agent) = &self.agent else {
            return Ok(());
        };
        let engine = &agent.engine;
        // Once its routes are out and nothing failed meanwhile, a revision that was taken back is recorded as that.
        let is_out = engine.rollout.stage() == Stage::RolledBack
            && !failed
            && !self.rules.excused
            && !self.is_blocked()
            // Of several nobody knows which was in the kernel; the newest is tried once more (`design.md`).
            && self.count_of_unconfirmed() < 2;
        if (is_out || engine.rollout.stage() == Stage::Settled)
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
        let fresh = self.rules.fresh.is_some_and(|from| self.now() >= from);
        if fresh && !known.contains(&target.facts) {
            return Err("an edit is in force with labels from before it".to_owned());
        }
        if engine.last.ended == Some(engine.now()) && !failed && target.facts == facts(self.labels)
        {
            let guarded = self.guarded();
            self.state.borrow_mut().guard(guarded);
        }
        Ok(())
    }

    fn count_of_unconfirmed(&self) -> usize {
        let records = self.state.borrow().model.dump(&OURS).records(&OURS);
        let of_changes = |id: &&u32| crate::net::nexthop_id::is_unconfirmed(**id);
        records.iter().filter(of_changes).count()
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
        let rollout = &engine.rollout;
        let follows = !rollout.holds_routes() && rollout.clash().is_none() && self.is_reachable();
        if follows
            && rollout
                .target()
                .is_some_and(|t| t.facts != facts(self.labels))
        {
            return Err("what is in force does not follow the node's labels".to_owned());
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

thread_local! {
    static HARMFUL: RefCell<HashMap<(Directory, u8), bool>> = RefCell::default();
}

/// Whether a configuration with these labels cuts off the API server, on a node on which everything works.
fn is_harmful(directory: Directory, labels: u8) -> bool {
    let Newest::Good(loaded) = read(directory) else {
        return false;
    };
    let decide = || {
        let inputs = Inputs {
            config: &loaded.config,
            kernel: &node().dump(&OURS),
            facts: &facts(labels),
            health: &HealthView::new(),
            ownership: &OURS,
        };
        resolve(&inputs).is_ok_and(|resolution| cuts_off(&resolution.wanted))
    };
    HARMFUL.with_borrow_mut(|known| *known.entry((directory, labels)).or_insert_with(decide))
}

/// Whether routes take the packets of the API server.
fn cuts_off(wanted: &Wanted) -> bool {
    let covers = |address| {
        let mut routes = wanted.routes.iter();
        routes.any(|route| route.key.prefix.contains(address))
    };
    API_ADDRESSES.into_iter().any(covers)
}
