//! A pass for which nothing changed since the last one left nothing to do.
//!
//! I/O around a comparison: the same would be decided as then.

use super::engine::{Engine, Outside};
use super::target::{Footprint, Target};
use super::triggers::Causes;
use crate::health::{Health, HealthView, ProbeKey};
use crate::kernel::ip::RouteTable as _;
use crate::report::status::ProblemKind;
use crate::routing::diff::Wanted;
use crate::routing::state::Kernel;

/// What a pass that left nothing to do was decided with. The same would lead to the same.
pub(super) struct Settled {
    pub(super) target: Target,
    pub(super) health: HealthView,
    /// Without its routes: they are what the kernel has.
    pub(super) wanted: Wanted,
}

impl<O: Outside> Engine<O> {
    /// Whether all that a pass decides on is as it was when the last one left nothing to do.
    pub(super) fn is_as_it_was(
        &mut self,
        settled: &Settled,
        kernel: &Kernel,
        found: &Footprint,
    ) -> bool {
        let last = &self.last;
        !self.rollout.is_undecided()
            && self.rollout.target() == Some(&settled.target)
            && *found == last.footprint
            && kernel.is_same_but_for_own(&last.kernel)
            && same_verdicts(&settled.health, &self.health.borrow_and_update())
    }

    /// Whether a read that is cheaper than that of `ip`, and never decided on, shows everything as it was; then it is left so.
    pub(super) async fn stays_by_comparison(&mut self, causes: Causes) -> anyhow::Result<bool> {
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
    pub(super) async fn stay(&mut self, mut settled: Settled, mut kernel: Kernel, causes: Causes) {
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
