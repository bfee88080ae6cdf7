//! One pass: read the kernel, decide, write, read back, and remember what came of it.
//!
//! I/O around the rollout: `read → resolve(target) → admit → apply → step`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, Outside};
use super::repair_limit::RepairState;
use super::rollout::{Clock, Event};
use super::target::{Footprint, Source, Target};
use super::triggers::Causes;
use crate::cluster::annotations;
use crate::config::Config;
use crate::health::probe::ProbePath;
use crate::health::{Health, HealthView, ProbeKey};
use crate::kernel::apply::{Counts, Outcome};
use crate::kernel::ip::{Hung, RouteTable as _, Unfit};
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};
use crate::report::metrics::Change;
use crate::report::status::{Problem, ProblemKind};
use crate::routing::adopt::Adopted;
use crate::routing::diff::{Wanted, records_to};
use crate::routing::exclude::Clash;
use crate::routing::protected;
use crate::routing::resolve::{self, Inputs, Resolution, SetView, resolve};
use crate::routing::state::Kernel;

/// The first pause after a pass that left something undone; doubles up to `--resync`.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A target may clash, and so may what is in force with the newest facts; a third is what the kernel holds.
const TARGETS: usize = 3;

/// What the last pass left.
#[derive(Default)]
pub(super) struct LastPass {
    /// The kernel as read last, without our routes.
    pub(super) kernel: Kernel,
    /// What the groups in the kernel were decided with, and what they may not exceed.
    target: Option<(Target, Option<Footprint>)>,
    /// The revision that was written last; empty where it is not known.
    pub(super) revision: Option<String>,
    /// Something was written for it.
    pub(super) written: bool,
    /// What of ours the last verified read had.
    footprint: Footprint,
    settled: Option<Settled>,
    /// Some of it are routes.
    pub(super) has_routes: bool,
    /// All that is wanted is in the kernel, and all that applies is known.
    pub(super) complete: bool,
    pub(super) sets: Vec<SetView>,
    pub(super) notes: Vec<String>,
    /// Wanted routes in the kernel, by group.
    pub(super) installed: BTreeMap<u32, usize>,
    pub(super) problems: Vec<Problem>,
    pub(super) applied_at: Option<k8s_openapi::jiff::Timestamp>,
    /// Routes and nexthops that were restored, since the start.
    pub(super) restored: (usize, usize),
    /// Objects of ours that the last verified read showed to be unused.
    unused: Vec<u32>,
    /// Passes in a row that left something undone.
    failures: u32,
    /// Sets whose gateways' verdicts of an earlier agent have been taken over.
    adopted: BTreeSet<String>,
    /// How long the last read took: what decides how often a busy table is read.
    pub(super) reading: Duration,
    /// When it ended.
    pub(super) ended: Option<Clock>,
}

/// What a pass that left nothing to do was decided with. The same would lead to the same.
struct Settled {
    target: Target,
    health: HealthView,
    /// Without its routes: they are what the kernel has.
    wanted: Wanted,
}

impl<O: Outside> Engine<O> {
    /// Makes the kernel equal to what is wanted.
    pub(super) async fn pass(&mut self) {
        if self.wait_for_repair_limit() {
            return;
        }
        let causes = std::mem::take(&mut self.causes);
        if let Err(error) = self.try_pass(causes).await {
            self.metrics.ip_failed();
            let mut words = format!("the kernel's routes could not be read or written: {error:#}");
            if let Some(unfit) = self.unfit(&error).await {
                words = format!("{unfit}; {words}");
            }
            self.last.problems = vec![Problem::of_node(ProblemKind::KernelFailed, words)];
            // The next pass has to clear that.
            self.last.settled = None;
            // What was asked for is still to do.
            self.causes.take_up(causes);
            self.retry_later();
        }
        self.last.ended = Some(self.now());
        self.publish();
    }

    /// An `ip` that is too old, or another program of that name, explains more than what became of a call.
    async fn unfit(&self, error: &anyhow::Error) -> Option<Unfit> {
        if error.is::<Hung>() {
            return None;
        }
        self.applier.table.unfit().await
    }

    async fn try_pass(&mut self, causes: Causes) -> anyhow::Result<()> {
        if causes.only_resync() && self.stays_by_comparison(causes).await? {
            return Ok(());
        }
        let started = self.now();
        let kernel = self.read().await?;
        self.last.reading = self.now().saturating_sub(started);
        let before = Footprint::found(&kernel, &self.ownership()).shared_with(&self.last.footprint);
        self.last.has_routes = !kernel.own.is_empty();
        if self.rollout.is_starting() {
            self.start_rollout(&kernel, &before);
        }
        self.review(&kernel);
        if let Some(settled) = self.last.settled.take()
            && self.is_as_it_was(&settled, &kernel, &before)
        {
            self.stay(settled, kernel, causes).await;
            return Ok(());
        }
        let Some((target, health, mut resolution)) = self.decide(&kernel) else {
            self.last.kernel = without_routes(kernel);
            // A change that was taken back may leave nothing in force; its record and objects go all the same.
            self.settle_records().await;
            self.sweep(causes.resync).await;
            return Ok(());
        };
        let planned = Footprint::of(&resolution.wanted).shared_with(&before);
        let now = self.now();
        let (limit, effects) = self.rollout.admit(&planned, now);
        self.perform(effects);
        if let Some(limit) = &limit {
            limit.restrict(&mut resolution.wanted);
        }
        let allowed = if limit.is_some() {
            Footprint::of(&resolution.wanted)
        } else {
            planned.clone()
        };
        let vanished = self.last.footprint.missing_in(&before, &allowed);
        // In the kernel before the batch changes anything.
        let records = records_to(&self.records(&kernel), &kernel, &self.ownership());
        let outcome = match self
            .applier
            .apply(&resolution.wanted, kernel, &records)
            .await
        {
            Ok(outcome) => outcome,
            Err(error) => {
                let event = Event::WriteUnknown { planned: allowed };
                self.advance(event);
                return Err(error);
            }
        };
        let took = self.now().saturating_sub(started);
        self.account(&outcome, vanished, causes, took);
        let needed = causes.call_for_lookups() || outcome.changed.any();
        let Resolution { wanted, sets, .. } = &mut resolution;
        let of_node = self
            .look_up(&target, wanted, sets, &outcome.kernel, needed)
            .await;
        self.last.footprint = if outcome.wrote {
            Footprint::found(&outcome.kernel, &self.ownership()).shared_with(&allowed)
        } else {
            before
        };
        let left = !outcome.left.is_done();
        let installed = allowed.without(outcome.left.replace.iter().map(|write| &write.route));
        let changed = outcome.changed.any();
        // What a limit holds back is not written yet, and not lost either.
        let planned = if limit.is_some() { planned } else { allowed };
        let settled = self.remember(&target, limit, health, resolution, outcome);
        self.last.problems.extend(of_node);
        let event = Event::Written {
            planned,
            installed,
            changed,
            left,
        };
        self.advance(event);
        // A clash is over when the labels are as they were, and then its problem has to go.
        let clear = !self.rollout.is_undecided() && self.rollout.clash().is_none();
        self.last.settled = settled.filter(|_| clear);
        self.conclude(causes).await;
        Ok(())
    }

    async fn conclude(&mut self, causes: Causes) {
        self.settle_records().await;
        self.sweep(causes.resync).await;
        self.report_verified();
    }

    /// Whether all that a pass decides on is as it was when the last one left nothing to do.
    fn is_as_it_was(&mut self, settled: &Settled, kernel: &Kernel, found: &Footprint) -> bool {
        let last = &self.last;
        !self.rollout.is_undecided()
            && self.rollout.target() == Some(&settled.target)
            && *found == last.footprint
            && kernel.is_same_but_for_own(&last.kernel)
            && same_verdicts(&settled.health, &self.health.borrow_and_update())
    }

    /// Whether a read that is cheaper than that of `ip`, and never decided on, shows everything as it was; then it is left so.
    async fn stays_by_comparison(&mut self, causes: Causes) -> anyhow::Result<bool> {
        if self.last.settled.is_none() || self.rollout.to_review().is_some() {
            return Ok(false);
        }
        let table = self.applier.table.clone();
        let (read, switched) = self.while_switching(table.read_to_compare()).await?;
        if let (Some(kernel), false) = (read, switched)
            && let found = Footprint::found(&kernel, &self.ownership())
            && let Some(settled) = self.last.settled.take()
        {
            if self.is_as_it_was(&settled, &kernel, &found) {
                self.stay(settled, kernel, causes).await;
                return Ok(true);
            }
            self.last.settled = Some(settled);
        }
        Ok(false)
    }

    /// Leaves everything as it is; only which way packets take may have changed.
    async fn stay(&mut self, mut settled: Settled, mut kernel: Kernel, causes: Causes) {
        settled.wanted.routes = std::mem::take(&mut kernel.own);
        let mut sets = std::mem::take(&mut self.last.sets);
        let needed = causes.call_for_lookups();
        let of_node = self
            .look_up(&settled.target, &settled.wanted, &mut sets, &kernel, needed)
            .await;
        settled.wanted.routes = Vec::new();
        self.last.sets = sets;
        self.last
            .problems
            .retain(|problem| problem.kind != ProblemKind::Bypassed);
        self.last.problems.extend(of_node);
        self.last.settled = Some(settled);
        self.conclude(causes).await;
    }

    /// Takes up what an earlier agent left, as far as the kernel shows it; before anything is written.
    fn start_rollout(&mut self, kernel: &Kernel, before: &Footprint) {
        let records = kernel.records(&self.ownership());
        let adopted = self
            .rollout
            .needs_adoption(&records)
            .then(|| self.adopt(kernel));
        let event = Event::Found {
            records,
            footprint: (!kernel.uncertain_v6).then(|| before.clone()),
            adopted,
        };
        self.advance(event);
    }

    fn adopt(&self, kernel: &Kernel) -> Arc<Adopted> {
        let newest = self.rollout.newest_config();
        let made_from_it = newest.as_ref().is_some_and(|loaded| {
            nexthop_id::applied_revision(&kernel.records(&self.ownership())).as_deref()
                == Some(&loaded.revision)
        });
        let newest = newest.as_ref().map(|loaded| &loaded.config);
        Arc::new(Adopted::from(
            kernel,
            &self.ownership(),
            newest,
            made_from_it,
        ))
    }

    /// Facts that were not followed, because their routes cut off the API server: would they make others now?
    fn review(&mut self, kernel: &Kernel) {
        if let Some(target) = self.rollout.to_review() {
            let health = self.health.borrow().clone();
            match self.resolve(&target, kernel, &health) {
                Ok(resolution) => self.rollout.reviewed(&Footprint::of(&resolution.wanted)),
                Err(_) => self.rollout.review_failed(),
            }
        }
    }

    /// The target, and what it makes here. One that clashes gives way to what is in force.
    fn decide(&mut self, kernel: &Kernel) -> Option<(Target, HealthView, Resolution)> {
        for _ in 0..TARGETS {
            let target = self.rollout.target()?.clone();
            self.watch_gateways(&target, kernel);
            let health = self.health.borrow_and_update().clone();
            match self.resolve(&target, kernel, &health) {
                Ok(resolution) => return Some((target, health, resolution)),
                Err(clashes) => {
                    let why = clashes
                        .iter()
                        .take(3)
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join("; ");
                    let event = Event::Clash {
                        why,
                        found: self.adopt(kernel),
                    };
                    self.advance(event);
                }
            }
        }
        None
    }

    fn resolve(
        &self,
        target: &Target,
        kernel: &Kernel,
        health: &HealthView,
    ) -> Result<Resolution, Vec<Clash>> {
        let ownership = self.ownership();
        let inputs = Inputs {
            config: config_of(target),
            kernel,
            facts: &target.facts,
            health,
            ownership: &ownership,
        };
        match &target.source {
            Source::Config(_) => resolve(&inputs),
            Source::Adopted(adopted) => Ok(adopted.resolve(&inputs)),
        }
    }

    /// What the target makes of a kernel, for the simulation to compare.
    #[cfg(test)]
    pub(super) fn wanted_of(&self, kernel: &Kernel) -> Option<crate::routing::diff::Wanted> {
        let target = self.rollout.target()?;
        let health = self.health.borrow().clone();
        let mut wanted = self.resolve(target, kernel, &health).ok()?.wanted;
        if let Some((_, Some(limit))) = &self.last.target {
            limit.restrict(&mut wanted);
        }
        Some(wanted)
    }

    async fn read(&mut self) -> anyhow::Result<Kernel> {
        let table = self.applier.table.clone();
        let (mut kernel, switched) = self.while_switching(table.read()).await?;
        if switched {
            // The read may have seen the groups as they were before.
            kernel.nexthops = table.read_nexthops().await?.nexthops;
        }
        Ok(kernel)
    }

    /// Waits for a read. What health demands meanwhile is done at once, and whether it was is returned: a switch takes as long with
    /// many routes as with few.
    async fn while_switching<T>(
        &mut self,
        reading: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, bool)> {
        let mut reading = std::pin::pin!(reading);
        let mut switched = false;
        loop {
            tokio::select! {
                biased;
                read = &mut reading => return Ok((read?, switched)),
                Ok(()) = self.health.changed() => {
                    self.health_changed().await;
                    switched = true;
                }
            }
        }
    }

    /// Logs, counts and reports what a pass did.
    fn account(
        &mut self,
        outcome: &Outcome,
        vanished: (usize, usize),
        causes: Causes,
        took: Duration,
    ) {
        let Counts {
            replaced,
            deleted,
            nexthops,
        } = outcome.changed;
        (0..outcome.stopped).for_each(|_| self.metrics.ip_failed());
        self.metrics.changed(Change::Replace, replaced);
        self.metrics.changed(Change::Delete, deleted);
        self.metrics.changed(Change::Nexthop, nexthops);
        if !outcome.changed.any() {
            if outcome.is_undone() && !causes.link {
                self.repaired();
            }
            return;
        }
        self.metrics.applied(took);
        let revision = self
            .rollout
            .target()
            .and_then(Target::revision)
            .unwrap_or_default();
        if outcome.examples.is_empty() && replaced + deleted == 0 {
            // A group that is written again while a gateway leaves it.
            return;
        }
        let examples = outcome.examples.join("; ");
        let took_ms = took.as_millis();
        tracing::info!(
            revision,
            replaced,
            deleted,
            nexthops,
            took_ms,
            examples,
            "Routes changed"
        );
        let (routes, objects) = vanished;
        if routes + objects > 0 && outcome.changed.restores() {
            self.metrics.restored(routes.max(objects));
            self.last.restored.0 += routes;
            self.last.restored.1 += objects;
            if !causes.link {
                self.repaired();
            }
        } else if outcome.strays > 0 {
            tracing::warn!(
                deleted,
                examples,
                "Removed routes with the agent's protocol number that another program had added"
            );
            self.repaired();
        } else if outcome.is_undone() && !causes.link {
            self.repaired();
        }
    }

    /// Something removed our routes, or undoes what is written, and nothing explains it.
    fn repaired(&mut self) {
        if self.repair_limit.repaired(self.now()) == RepairState::Started {
            tracing::error!(
                "Something keeps removing or changing the agent's routes. Likely: systemd-networkd (set ManageForeignRoutes=no and ManageForeignNextHops=no in \
                 networkd.conf), NetworkManager, or another agent with this route protocol. They are restored less often from now on"
            );
        }
    }

    /// While something keeps removing our routes, only what was asked for, an explained loss, and the periodic read go on at once.
    fn wait_for_repair_limit(&mut self) -> bool {
        if self.causes.call_for_lookups() {
            return false;
        }
        match self.repair_limit.wait_until(self.now()) {
            Some(at) => {
                self.causes = Causes::default();
                self.causes.again(at);
                true
            }
            None => false,
        }
    }

    fn remember(
        &mut self,
        target: &Target,
        limit: Option<Footprint>,
        health: HealthView,
        mut resolution: Resolution,
        mut outcome: Outcome,
    ) -> Option<Settled> {
        let settled = outcome.is_settled();
        let unlimited = limit.is_none();
        let wrote = outcome.wrote;
        let last = &mut self.last;
        let revision = target.revision().unwrap_or_default();
        if last.revision.as_deref() != Some(revision) {
            last.revision = Some(revision.to_owned());
            last.written = false;
        }
        last.written |= outcome.changed.any();
        last.target = Some((target.clone(), limit));
        last.installed = outcome.installed(&resolution.wanted);
        last.has_routes = !outcome.kernel.own.is_empty();
        let installed: usize = last.installed.values().sum();
        let wanted = resolution.sets.iter().map(|set| set.wanted).sum();
        last.complete = outcome.left.is_done()
            && installed >= wanted
            && !resolution.sets.iter().any(|set| set.undecided);
        if last.complete && (outcome.changed.any() || last.applied_at.is_none()) {
            last.applied_at = Some(annotations::wall_clock());
        }
        last.problems = if settled {
            Vec::new()
        } else {
            outcome.problems()
        };
        if let Some(why) = self.rollout.clash() {
            let text =
                format!("since this node's labels changed, {why}; the routes stay as they are");
            last.problems
                .push(Problem::of_node(ProblemKind::ConfigRefused, text));
        }
        last.notes = resolution.notes;
        last.sets = resolution.sets;
        last.unused = std::mem::take(&mut outcome.left.unused);
        last.kernel = without_routes(outcome.kernel);
        if !settled {
            self.retry_later();
            return None;
        }
        self.last.failures = 0;
        resolution.wanted.routes = Vec::new();
        // What came between the read and the write was not decided on, and what an uncertain read left out may be found by the next.
        let decided_on = !wrote && !self.last.kernel.uncertain_v6;
        (unlimited && decided_on).then(|| Settled {
            target: target.clone(),
            health,
            wanted: resolution.wanted,
        })
    }

    fn retry_later(&mut self) {
        let pause = FIRST_RETRY
            .saturating_mul(1 << self.last.failures.min(10))
            .min(self.resync);
        self.last.failures = self.last.failures.saturating_add(1);
        self.causes.again(self.now() + pause);
    }

    // --- gateways ---

    /// One probe task for each gateway and check of the sets that apply.
    fn watch_gateways(&mut self, target: &Target, kernel: &Kernel) {
        let ownership = self.ownership();
        let health = self.health.borrow().clone();
        let config = config_of(target);
        let inputs = Inputs {
            config,
            kernel,
            facts: &target.facts,
            health: &health,
            ownership: &ownership,
        };
        // Later the kernel shows this agent's own verdicts.
        let new = inputs
            .applicable()
            .any(|set| !self.last.adopted.contains(&set.name));
        let adopted = match (new, &target.source) {
            (false, _) => BTreeSet::new(),
            (true, Source::Config(loaded)) => resolve::taken_out_before(&inputs, &loaded.revision),
            (true, Source::Adopted(_)) => resolve::taken_out(&inputs),
        };
        let mut wanted = BTreeMap::new();
        for set in inputs.applicable() {
            for gateway in &set.gateways {
                let key = ProbeKey {
                    gateway: *gateway,
                    check: set.health_check.clone(),
                };
                wanted.entry(key).or_insert_with(|| path(*gateway, kernel));
            }
            self.last.adopted.insert(set.name.clone());
        }
        self.outside.probe(&wanted, &adopted, kernel);
    }

    /// Re-points groups at once; the whole pass that verifies it follows.
    pub(super) async fn health_changed(&mut self) {
        let health = self.health.borrow_and_update().clone();
        self.causes.health_changed(self.outside.now());
        if let Some((target, limit)) = self
            .last
            .target
            .clone()
            .filter(|_| self.rollout.may_repoint())
        {
            let ownership = self.ownership();
            // Which gateway is in use is what the kernel has, not what the last pass that worked read.
            let decide = |kernel: &Kernel| {
                let mut wanted = resolve::regroup(&Inputs {
                    config: config_of(&target),
                    kernel,
                    facts: &target.facts,
                    health: &health,
                    ownership: &ownership,
                });
                if let Some(limit) = &limit {
                    limit.restrict(&mut wanted);
                }
                wanted
            };
            match self.applier.repoint(&self.last.kernel, decide).await {
                Ok((changed, took)) if changed.any() => {
                    self.metrics.changed(Change::Nexthop, changed.nexthops);
                    let took_ms = took.as_millis();
                    tracing::info!(
                        groups = changed.nexthops,
                        took_ms,
                        "Nexthop groups re-pointed"
                    );
                }
                Ok(_) => {}
                Err(error) => {
                    self.metrics.ip_failed();
                    tracing::warn!("Nexthop groups could not be re-pointed: {error:#}");
                }
            }
        }
        self.publish();
    }

    // --- records of revisions ---

    /// What the kernel has to record. While a change is undecided, no record goes.
    fn records(&self, kernel: &Kernel) -> BTreeSet<u32> {
        let mut records = self.rollout.records();
        if !self.rollout.records_are_final() {
            records.extend(kernel.records(&self.ownership()));
        }
        records
    }

    /// Makes the records equal to what is true once nothing is undecided, or a change is out of the kernel again.
    async fn settle_records(&mut self) {
        if self.rollout.is_undecided() && !self.rollout.is_rolled_back() {
            return;
        }
        let records = self.records(&self.last.kernel);
        let lines = records_to(&records, &self.last.kernel, &self.ownership());
        if lines.is_empty() {
            return;
        }
        match self.applier.write_few(&lines).await {
            // Seen again at the next read; a record that is missing costs a question to the API server after a restart.
            Ok(()) => self.last.kernel.set_records(&records, &self.ownership()),
            Err(error) => tracing::debug!("The records could not be written: {error:#}"),
        }
    }

    /// Nexthop objects that nothing uses go at the periodic read only: until then a change can be reverted in one step.
    async fn sweep(&mut self, resync: bool) {
        let unused: Vec<u32> = self
            .last
            .unused
            .iter()
            .copied()
            .filter(|id| !nexthop_id::is_revision(*id))
            .collect();
        if !resync || unused.is_empty() || self.rollout.is_undecided() {
            return;
        }
        match self.applier.sweep(&unused).await {
            Ok(()) => {
                tracing::debug!(count = unused.len(), "Unused nexthop objects removed");
                self.last.unused.clear();
            }
            // Tried again at the next periodic read.
            Err(error) => tracing::debug!("Unused nexthop objects could not be removed: {error:#}"),
        }
    }
}

/// The sets of a target, or those that stand for the groups of an adopted one.
pub(super) fn config_of(target: &Target) -> &Config {
    match &target.source {
        Source::Config(loaded) => &loaded.config,
        Source::Adopted(adopted) => &adopted.config,
    }
}

/// Whether routes would be decided alike; round-trip times are for reports.
fn same_verdicts(one: &HealthView, other: &HealthView) -> bool {
    let verdict = |(key, health): (&ProbeKey, &Health)| {
        (
            key.clone(),
            health.state,
            health.ever_up,
            health.reason.clone(),
        )
    };
    one.iter().map(verdict).eq(other.iter().map(verdict))
}

fn without_routes(kernel: Kernel) -> Kernel {
    Kernel {
        own: Vec::new(),
        ..kernel
    }
}

/// How a gateway is reached now; `None` while it is not.
fn path(gateway: std::net::IpAddr, kernel: &Kernel) -> Option<ProbePath> {
    let dev = protected::next_hop(gateway, kernel).ok()?;
    let link = kernel.links.iter().find(|link| link.name == dev)?;
    // The address whose subnet the gateway is in, as the kernel would choose.
    let near = link
        .addresses
        .iter()
        .find(|(a, len)| Prefix::masked(*a, *len).contains(gateway))
        .map(|(a, _)| *a);
    let source = near.or_else(|| link.source(Family::of(gateway)))?;
    Some(ProbePath {
        dev,
        index: link.index,
        source,
    })
}
