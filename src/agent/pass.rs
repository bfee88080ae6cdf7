//! One pass: read the kernel, decide, write, read back, and remember what came of it.
//!
//! I/O around the rollout: `read → resolve(target) → admit → apply → step`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, Outside};
use super::rollout::{Clock, Event, Written};
use super::settled::Settled;
use super::target::{Footprint, Source, Target};
use super::triggers::Causes;
use crate::cluster::annotations;
use crate::config::Config;
use crate::health::HealthView;
use crate::kernel::apply::Outcome;
use crate::kernel::ip::{Hung, RouteTable as _, Unfit};
use crate::net::nexthop_id;
use crate::report::status::{Problem, ProblemKind};
use crate::routing::adopt::Adopted;
use crate::routing::exclude::Clash;
use crate::routing::resolve::{Inputs, Resolution, SetView, resolve};
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
    pub(super) target: Option<(Target, Option<Footprint>)>,
    /// The revision that was written last; empty where it is not known.
    pub(super) revision: Option<String>,
    /// Something was written for it.
    pub(super) written: bool,
    /// What of ours the last verified read had.
    pub(super) footprint: Footprint,
    pub(super) settled: Option<Settled>,
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
    pub(super) unused: Vec<u32>,
    /// Passes in a row that left something undone.
    failures: u32,
    /// Records among it.
    pub(super) is_unrecorded: bool,
    /// Sets whose gateways' verdicts of an earlier agent have been taken over.
    pub(super) adopted: BTreeSet<String>,
    /// How long the last read took: what decides how often a busy table is read.
    pub(super) reading: Duration,
    /// When it ended.
    pub(super) ended: Option<Clock>,
}

/// What a target makes here.
struct Decided {
    target: Target,
    health: HealthView,
    resolution: Resolution,
}

/// A decision, as far as the rollout lets it be written.
struct Admitted {
    decided: Decided,
    /// What of ours the kernel had.
    before: Footprint,
    /// All of the decision.
    planned: Footprint,
    /// What it may not exceed.
    limit: Option<Footprint>,
    /// What of it may be written.
    allowed: Footprint,
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
        let kernel = self.kernel_for_pass().await?;
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
        let Some(decided) = self.decide(&kernel, &before) else {
            self.last.kernel = without_routes(kernel);
            // A change that was taken back may leave nothing in force; its record and objects go all the same.
            self.settle_records().await;
            self.sweep(causes.resync).await;
            return Ok(());
        };
        let admitted = self.admit(decided, before, kernel.uncertain_v6);
        self.carry_out(admitted, kernel, causes, started).await
    }

    /// What of a decision may be written now.
    fn admit(&mut self, decided: Decided, before: Footprint, uncertain_v6: bool) -> Admitted {
        let Decided {
            target,
            health,
            mut resolution,
        } = decided;
        let mut planned = Footprint::of(&resolution.wanted).shared_with(&before);
        // What was adopted is what is there, and that is more than what was seen.
        if uncertain_v6 && target.config().is_none() {
            planned = planned.or_any_v6();
        }
        let now = self.now();
        let (limit, effects) = self.rollout.admit(&planned, now);
        self.perform(effects);
        let allowed = match &limit {
            Some(limit) => {
                limit.restrict(&mut resolution.wanted);
                Footprint::of(&resolution.wanted)
            }
            None => planned.clone(),
        };
        Admitted {
            decided: Decided {
                target,
                health,
                resolution,
            },
            before,
            planned,
            limit,
            allowed,
        }
    }

    async fn carry_out(
        &mut self,
        admitted: Admitted,
        kernel: Kernel,
        causes: Causes,
        started: Clock,
    ) -> anyhow::Result<()> {
        let Admitted {
            mut decided,
            before,
            planned,
            limit,
            allowed,
        } = admitted;
        let vanished = self.last.footprint.missing_in(&before, &allowed);
        // In the kernel before the batch changes anything.
        let records = self.records(&kernel);
        let wanted = &decided.resolution.wanted;
        let outcome = match self.applier.apply(wanted, kernel, Some(&records)).await {
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
        let Resolution { wanted, sets, .. } = &mut decided.resolution;
        let of_node = self
            .look_up(&decided.target, wanted, sets, &outcome.kernel, needed)
            .await;
        self.last.footprint = if outcome.wrote {
            Footprint::found(&outcome.kernel, &self.ownership()).shared_with(&allowed)
        } else {
            before
        };
        let event = Event::Written(Written {
            installed: allowed.without(outcome.left.replace.iter().map(|write| &write.route)),
            // What a limit holds back is not written yet, and not lost either.
            planned: if limit.is_some() { planned } else { allowed },
            changed: outcome.changed.any(),
            left: !outcome.left.is_done(),
        });
        let settled = self.remember(decided, limit, outcome);
        self.last.problems.extend(of_node);
        self.advance(event);
        // A clash is over when the labels are as they were, and then its problem has to go.
        let clear = !self.rollout.is_undecided() && self.rollout.clash().is_none();
        self.last.settled = settled.filter(|_| clear);
        self.conclude(causes).await;
        Ok(())
    }

    pub(super) async fn conclude(&mut self, causes: Causes) {
        self.settle_records().await;
        self.sweep(causes.resync).await;
        self.report_verified();
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
            footprint: before.clone().of_read(kernel),
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
    fn decide(&mut self, kernel: &Kernel, before: &Footprint) -> Option<Decided> {
        for _ in 0..TARGETS {
            let target = self.rollout.target()?.clone();
            self.watch_gateways(&target, kernel);
            let health = self.health.borrow_and_update().clone();
            match self.resolve(&target, kernel, &health) {
                Ok(resolution) => {
                    return Some(Decided {
                        target,
                        health,
                        resolution,
                    });
                }
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
                        footprint: before.clone().of_read(kernel),
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
        let of_last = || self.last.target.as_ref()?.1.as_ref();
        if let Some(limit) = self.rollout.limit().or_else(of_last) {
            limit.restrict(&mut wanted);
        }
        Some(wanted)
    }

    fn remember(
        &mut self,
        decided: Decided,
        limit: Option<Footprint>,
        mut outcome: Outcome,
    ) -> Option<Settled> {
        let Decided {
            target,
            health,
            mut resolution,
        } = decided;
        let settled = outcome.is_settled();
        let unlimited = limit.is_none();
        let wrote = outcome.wrote;
        let problems = self.problems(&outcome);
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
        // Routes that cut off the API server and were taken back are not waited for: the earlier ones are in force.
        let earlier_are_in_force = self.rollout.holds_routes() && outcome.left.is_done();
        if (last.complete || earlier_are_in_force)
            && (outcome.changed.any() || last.applied_at.is_none())
        {
            last.applied_at = Some(annotations::wall_clock());
        }
        last.problems = problems;
        last.notes = resolution.notes;
        last.sets = resolution.sets;
        last.unused = std::mem::take(&mut outcome.left.unused);
        last.kernel = without_routes(outcome.kernel);
        if !settled {
            self.retry_later();
            return None;
        }
        if !self.last.is_unrecorded {
            self.last.failures = 0;
        }
        resolution.wanted.routes = Vec::new();
        // What came between the read and the write was not decided on, and what an uncertain read left out may be found by the next.
        let decided_on = !wrote && !self.last.kernel.uncertain_v6;
        (unlimited && decided_on).then_some(Settled {
            target,
            health,
            wanted: resolution.wanted,
        })
    }

    /// What could not be written, and why what is in force clashes.
    fn problems(&self, outcome: &Outcome) -> Vec<Problem> {
        let mut problems = if outcome.is_settled() {
            Vec::new()
        } else {
            outcome.problems()
        };
        problems.extend(self.rollout.clash().map(|why| {
            let text =
                format!("since this node's labels changed, {why}; the routes stay as they are");
            Problem::of_node(ProblemKind::ConfigRefused, text)
        }));
        problems
    }

    pub(super) fn retry_later(&mut self) {
        let pause = FIRST_RETRY
            .saturating_mul(1 << self.last.failures.min(10))
            .min(self.resync);
        self.last.failures = self.last.failures.saturating_add(1);
        self.causes.again(self.now() + pause);
    }
}

/// The sets of a target, or those that stand for the groups of an adopted one.
pub(super) fn config_of(target: &Target) -> &Config {
    match &target.source {
        Source::Config(loaded) => &loaded.config,
        Source::Adopted(adopted) => &adopted.config,
    }
}

fn without_routes(kernel: Kernel) -> Kernel {
    Kernel {
        own: Vec::new(),
        ..kernel
    }
}
