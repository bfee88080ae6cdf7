//! What must hold, whatever happens: checked after each step of a history, and once all is quiet.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::super::rollout::{Clock, Newest};
use super::super::target::{Footprint, Source, Target};
use super::super::transitions::Stage;
use super::boot::Boot;
use super::clock::CONFIRM;
use super::history::Action;
use super::node::{
    API_ADDRESSES, Directory, OURS, cuts_off, facts, is_harmful, made_of, read, revision_of,
};
use super::world::World;
use crate::net::nexthop_id;
use crate::routing::diff::Wanted;
use crate::routing::node_facts::Facts;
use crate::routing::node_selector;
use crate::routing::state::{Kernel, OwnRoute};

/// How long after `--confirm` a change that cut off the API server may be in force: questions, passes and their pauses.
pub(super) const BOUND: Duration = Duration::from_secs(8);
/// What each failure of `ip` may add: its time limit, and the longest pause before the next try.
const PER_FAILURE: Duration = Duration::from_secs(45);
/// A server that is away for less than this before a change counts as there: one request that failed is no excuse.
const BLIP: Duration = Duration::from_millis(900);
/// How soon labels follow where an edit goes back to what is in force: an answer, and a pass.
const FOLLOWS: Duration = Duration::from_secs(1);

pub(super) type Verdict = Result<(), String>;

/// What the rules remember.
#[derive(Default)]
pub(super) struct Rules {
    /// Since when the server is away, or its way.
    away_since: Option<Clock>,
    /// It was away, or a failure of its way may be taken for a change's, since it was last reachable with nothing undecided.
    pub(super) excused: bool,
    /// What cuts it off and was put in force while it was away: nothing answered before that change, so it has no guard, and its
    /// routes may come back with a link (`design.md`) as long as they count as confirmed.
    in_force_unguarded: Option<Footprint>,
    /// The agent has heard the server since it started. A change that was made before that is tried once more.
    pub(super) heard: bool,
    /// All labels that the node had so far.
    had: BTreeSet<u8>,
    /// The configuration that the guarded sets are those of.
    promised: Option<Directory>,
    /// The newest configuration may have been rejected although it is harmless now.
    pub(super) blameable: bool,
    /// Those of which that was so at any time. A rejection holds until another configuration is read, and an agent may be killed
    /// before it has recorded that there was one.
    blamed: HashSet<String>,
    /// The edit went back to what is confirmed, and nothing has happened since that could bring other routes: it needs no verdict.
    returned: bool,
    /// Since when a route of ours takes its packets, and how many failures there had been.
    blocked: Option<(Clock, usize)>,
    /// What was there when the edit was read cut off the API server, and not all of the edit has been in the kernel since: taken back
    /// before that, it is tried once more, because nobody knows which of both it was.
    is_mixed: bool,
    /// The revision that was taken back; it is not tried again until another one is read.
    rejected: Option<String>,
    /// What the last pass made of a change that is not confirmed.
    made: Option<Footprint>,
    /// What it took back, until an answer shows that this was the cause.
    on_trial: Option<Footprint>,
    /// What this agent made and took back under the newest configuration.
    taken_back: Vec<Footprint>,
    /// The revision that was confirmed last.
    pub(super) in_force: Option<String>,
    /// The labels since the last edit.
    labels: BTreeSet<u8>,
    /// The edit is decided with its labels in the sight of the API server; from when on they show.
    fresh: Option<Clock>,
    /// When the last pass began.
    began: Clock,
    pub(super) boot: Option<Boot>,
    /// Gateways that carry nothing since a restart, by their place and id.
    pub(super) taken_out: Vec<(usize, u32)>,
    pub(super) actions: usize,
}

impl World {
    /// Before it happens.
    pub(super) fn expect(&mut self, action: Action) {
        let now = self.now();
        self.rules.actions += 1;
        if !matches!(
            action,
            Action::Wait(_) | Action::Slow(_) | Action::Gateway(..)
        ) {
            self.rules.boot = None;
        }
        self.expect_of_verdicts(action);
        match action {
            Action::Wait(_) | Action::Api(_) | Action::Slow(_) | Action::Gateway(..) => {}
            Action::Edit(new) if new == self.directory => {}
            Action::Edit(new) => self.expect_edit(new, now),
            Action::Kill | Action::Start | Action::Fault(_) | Action::Full(_) => {
                self.rules.blocked = None;
            }
            Action::Uninstall if self.running().is_some() => {
                let rules = &mut self.rules;
                (rules.rejected, rules.in_force, rules.returned) = (None, None, false);
                rules.blocked = None;
                self.state.borrow_mut().guard(Vec::new());
            }
            Action::Labels(labels) => {
                self.rules.labels.insert(labels);
                self.rules.had.insert(labels);
                // A revision that was rejected stays so until it changes, whatever the labels are then (the contract).
                self.rules.blameable |= is_harmful(self.directory, labels);
                self.routes_may_change();
            }
            _ => self.routes_may_change(),
        }
    }

    fn expect_edit(&mut self, new: Directory, now: Clock) {
        let revision = revision_of(new);
        let rollout = self.agent.as_ref().map(|agent| &agent.engine.rollout);
        // What is being decided, or was rejected, and was gone for a moment only.
        let known = rollout.and_then(|r| r.change_revision()).map(str::to_owned);
        let confirmed = rollout.and_then(|rollout| rollout.confirmed_target());
        // Routes that other labels bring than those that it was confirmed with need a verdict.
        let brings_nothing = confirmed.is_none_or(|target| {
            let made = |facts: &Facts| made_of(new, facts).map(|wanted| Footprint::of(&wanted));
            let (before, now) = (made(&target.facts), made(&facts(self.labels)));
            before.is_some_and(|before| now.is_some_and(|now| !now.exceeds(&before)))
        });
        let (cut_off, is_blocked) = (!self.is_reachable(), self.is_blocked());
        let rules = &mut self.rules;
        rules.is_mixed = is_blocked;
        rules.returned = revision.is_some() && revision == rules.in_force && brings_nothing;
        // An agent that is cut off decides with labels from before.
        let mut had = rules.had.iter().chain([&0]).filter(|_| cut_off);
        rules.blameable = is_harmful(new, self.labels)
            || had.any(|labels| is_harmful(new, *labels))
            || rules.excused && !rules.returned
            || revision == known && revision.iter().any(|r| rules.blamed.contains(r));
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
        rules.on_trial = None;
        rules.taken_back.clear();
        rules.blocked = None;
    }

    /// The agent reads the kernel before it takes up an edit, and a run of `ip` may hang.
    pub(super) fn is_read_late(&mut self) {
        let now = self.now();
        let fresh = self.rules.fresh.as_mut();
        let is_late = |from: &&mut Clock| **from < now;
        fresh
            .into_iter()
            .filter(is_late)
            .for_each(|from| *from = now + FOLLOWS);
    }

    /// An answer that comes while a run of `ip` hangs waits for its end.
    pub(super) fn hung_since(&mut self, began: Clock) {
        let now = self.now();
        let was_to_come = self.rules.fresh.iter_mut().filter(|from| **from > began);
        was_to_come.for_each(|from| *from = now + FOLLOWS);
    }

    /// Something happens after which the target may make other routes.
    pub(super) fn routes_may_change(&mut self) {
        self.rules.boot = None;
        self.rules.taken_out.clear();
        self.rules.returned = false;
    }

    pub(super) fn expect_start(&mut self) {
        self.expect_boot();
        self.expect_verdicts();
        self.rules.fresh = None;
        self.rules.returned = false;
        self.rules.taken_back.clear();
        (self.rules.made, self.rules.on_trial) = (None, None);
        // An earlier agent may have ended before it could record what it had confirmed.
        let records = self.state.borrow().model.dump(&OURS).records(&OURS);
        if let Some(revision) = revision_of(self.directory) {
            let is_rejected = records.contains(&nexthop_id::rejected(&revision));
            self.rules.blameable |= is_rejected && self.rules.blamed.contains(&revision);
        }
        let of = nexthop_id::applied_revision(&records);
        self.rules.in_force = self
            .rules
            .in_force
            .take()
            .filter(|r| of.as_ref() == Some(r));
    }

    // --- after each step ---

    pub(super) fn check(&mut self) -> Verdict {
        self.observe_api();
        if let Some(leak) = self.seen().leak {
            return Err(leak);
        }
        self.check_boot()?;
        self.check_verdicts()?;
        self.check_api()
    }

    fn observe_api(&mut self) {
        let now = self.now();
        let (has_way, blocked) = (self.has_own_way(), self.is_blocked());
        let rollout = self.agent.as_ref().map(|agent| &agent.engine.rollout);
        let settled = rollout.is_some_and(|rollout| rollout.stage() == Stage::Settled);
        let harm = if settled && blocked {
            self.harm()
        } else {
            Footprint::default()
        };
        let rules = &mut self.rules;
        // Looked at also when it comes back: between two steps it may have been away for longer than the last one saw.
        let since = rules.away_since.take().or((!has_way).then_some(now));
        if since.is_some_and(|since| now >= since + BLIP) {
            rules.excused = true;
            // A change that it was taken back for may not have been the cause, and is made after all.
            rules.rejected = rules.rejected.take().filter(|_| settled);
            rules.on_trial = rules.on_trial.take().filter(|_| settled);
        }
        rules.away_since = since.filter(|_| !has_way);
        if settled {
            rules.taken_back.extend(rules.on_trial.take());
            if blocked && rules.excused {
                rules.in_force_unguarded = Some(harm);
            } else if has_way && !blocked {
                let counts = |harm: &Footprint| rollout.is_some_and(|r| r.has_confirmed(harm));
                if !rules.in_force_unguarded.as_ref().is_some_and(counts) {
                    rules.in_force_unguarded = None;
                    rules.excused = false;
                }
            }
        }
        rules.fresh = rules.fresh.filter(|_| has_way && !blocked);
        rules.blameable |= rules.excused && !rules.returned;
        if rules.blameable {
            rules.blamed.extend(revision_of(self.directory));
        }
        if rules.excused {
            // What is being decided may be gone from the directory.
            let decided = rollout.filter(|rollout| rollout.is_undecided());
            let revision = decided.and_then(|rollout| rollout.change_revision());
            rules.blamed.extend(revision.map(str::to_owned));
        }
    }

    /// Our routes that take its packets.
    fn harm(&self) -> Footprint {
        let own = super::table::own(&self.state.borrow().model);
        let takes = |route: &OwnRoute| {
            let mut addresses = API_ADDRESSES.into_iter();
            addresses.any(|address| route.key.prefix.contains(address))
        };
        let kernel = Kernel {
            own: own.into_iter().filter(takes).collect(),
            ..Kernel::default()
        };
        Footprint::found(&kernel, &OURS)
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
        Ok(())
    }

    /// Before a pass: an agent that does not know what was confirmed takes out all of ours, guards too (`design.md`).
    pub(super) fn before_pass(&mut self) {
        self.rules.began = self.now();
        self.narrow_to_what_is_known();
        let Some(agent) = &self.agent else { return };
        let rollout = &agent.engine.rollout;
        let target = rollout.target();
        // The edit that came meanwhile is nothing that could take its place.
        if rollout.stage() == Stage::Changing
            && rollout.confirmed_target().is_none()
            && !self.is_reachable()
            && self.wanted_by_agent().is_none()
        {
            self.state.borrow_mut().guard(Vec::new());
        }
        // Sets that labels choose stay where their groups are (`design.md`), also of what was never confirmed.
        let is_newest = |t: &Target| t.revision() == revision_of(self.directory).as_deref();
        let by_guess = target.filter(|t| is_newest(t) && matches!(t.facts, Facts::NotYet { .. }));
        if by_guess.is_some() && self.wanted_by_agent().is_some_and(|w| cuts_off(&w)) {
            self.rules.blameable = true;
        }
        if rollout.stage() != Stage::RollingBack {
            return;
        }
        if let Some(Source::Adopted(found)) = target.map(|target| &target.source)
            && found.is_empty()
        {
            self.state.borrow_mut().guard(Vec::new());
        }
        if self.rules.excused || !self.rules.heard || !self.is_blocked() {
            return;
        }
        // What it made, all of it, cut off the API server.
        self.rules.on_trial = self.rules.made.take().or(self.rules.on_trial.take());
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
    pub(super) fn wanted_by_agent(&self) -> Option<Wanted> {
        let engine = &self.agent.as_ref()?.engine;
        let kernel = self.state.borrow().model.dump(&OURS);
        engine.wanted_of(&kernel)
    }

    // --- promises ---

    /// After a pass that confirms the newest configuration, what is guarded stays so.
    pub(super) fn promise(&mut self, failed: bool) -> Verdict {
        let now = self.now();
        if failed {
            self.hung_since(self.rules.began);
        }
        let Some(agent) = &self.agent else {
            return Ok(());
        };
        let engine = &agent.engine;
        let is_made = engine.last.complete && !failed;
        if engine.rollout.stage() == Stage::Confirming {
            let made = self.wanted_by_agent().filter(|_| is_made);
            let made = made.as_ref().map(Footprint::of);
            let is_known = made
                .as_ref()
                .is_some_and(|m| self.rules.taken_back.contains(m));
            if is_known && self.is_blocked() && !self.rules.excused {
                return Err("routes that were taken back cut off the API server again".to_owned());
            }
            self.rules.is_mixed &= made.is_none();
            self.rules.made = made;
        }
        // Once its routes are out and nothing failed meanwhile, a revision that was taken back is recorded as that.
        let is_out = engine.rollout.stage() == Stage::RolledBack
            && !failed
            && !self.rules.excused
            && self.rules.heard
            && !self.rules.is_mixed
            && !self.is_blocked()
            // Of several nobody knows which was in the kernel; the newest is tried once more (`design.md`).
            && self.count_of_unconfirmed() < 2;
        // What could not be recorded is tried again soon; until then a kill leaves it unknown.
        let is_to_record = failed && engine.causes.due().is_some();
        let is_decided = engine.rollout.stage() == Stage::Settled && !is_to_record;
        if (is_out || is_decided)
            && let Some(revision) = engine.rollout.rejected_revision()
            && engine.rollout.refused().is_none()
        {
            self.rules.rejected = Some(revision);
        }
        let Some(target) = engine.rollout.target() else {
            return Ok(());
        };
        // Also while the newest configuration is refused, or a gateway of it is not there.
        if engine.rollout.stage() == Stage::Settled {
            self.rules.in_force = target.revision().map(str::to_owned);
        }
        if !engine.last.complete || !engine.rollout.is_at_newest() {
            return Ok(());
        }
        let known: Vec<Facts> = self.rules.labels.iter().map(|l| facts(*l)).collect();
        let fresh = self.rules.fresh.is_some_and(|from| now >= from);
        if fresh && !known.contains(&target.facts) {
            return Err("an edit is in force with labels from before it".to_owned());
        }
        if engine.last.ended == Some(engine.now()) && !failed && target.facts == facts(self.labels)
        {
            self.rules.promised = Some(self.directory);
            let guarded = Self::guarded(self.directory, &facts(self.labels));
            self.state.borrow_mut().guard(guarded);
        }
        Ok(())
    }

    fn count_of_unconfirmed(&self) -> usize {
        let records = self.state.borrow().model.dump(&OURS).records(&OURS);
        let of_changes = |id: &&u32| nexthop_id::is_unconfirmed(**id);
        records.iter().filter(of_changes).count()
    }

    /// What changes is promised no more.
    pub(super) fn narrow(&mut self) {
        let newest = Some(self.directory).filter(|d| matches!(read(*d), Newest::Good(_)));
        for directory in self.rules.promised.into_iter().chain(newest) {
            self.keep_guarded(&Self::guarded(directory, &facts(self.labels)));
        }
    }

    /// What is decided while the server cannot be reached is decided with labels that may be old, because no request shows others: only
    /// what applies with them too is kept. That its way is given back in time is `check_api`'s.
    fn narrow_to_what_is_known(&self) {
        let rollout = self.agent.as_ref().map(|agent| &agent.engine.rollout);
        let target = rollout.and_then(|rollout| rollout.target());
        let known = target
            .map(|target| &target.facts)
            .filter(|known| matches!(known, Facts::Known(_)) && **known != facts(self.labels));
        if let (Some(known), Newest::Good(_), false) =
            (known, read(self.directory), self.is_reachable())
        {
            self.keep_guarded(&Self::guarded(self.directory, known));
        }
    }

    fn keep_guarded(&self, now: &[(IpAddr, u8)]) {
        let mut state = self.state.borrow_mut();
        let kept = state.guarded().iter().filter(|a| now.contains(a));
        let kept = kept.copied().collect();
        state.guard(kept);
    }

    /// An address of each destination of the guarded sets that apply with what is known of the node.
    fn guarded(directory: Directory, facts: &Facts) -> Vec<(IpAddr, u8)> {
        let (Newest::Good(loaded), Facts::Known(known)) = (read(directory), facts) else {
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
}
