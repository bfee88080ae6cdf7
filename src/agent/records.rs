//! The records of revisions in the kernel, and nexthop objects that nothing uses.
//!
//! I/O through the applier. Which records are true is `rollout`'s.

use std::collections::BTreeSet;

use super::engine::{Engine, Outside};
use crate::net::nexthop_id;
use crate::routing::diff::records_to;
use crate::routing::state::Kernel;

impl<O: Outside> Engine<O> {
    /// What the kernel has to record.
    pub(super) fn records(&self, kernel: &Kernel) -> BTreeSet<u32> {
        self.rollout
            .records_beside(kernel.records(&self.ownership()))
    }

    /// Makes the records equal to what is true once nothing is undecided, or a change is out of the kernel again.
    pub(super) async fn settle_records(&mut self) {
        if self.rollout.is_undecided() && !self.rollout.is_rolled_back() {
            return;
        }
        let records = self.records(&self.last.kernel);
        let lines = records_to(&records, &self.last.kernel, &self.ownership());
        if lines.is_empty() {
            self.last.is_unrecorded = false;
            return;
        }
        let written = self.applier.write_few(&lines).await;
        self.last.is_unrecorded = !matches!(written, Ok(true));
        if self.last.is_unrecorded {
            // After a restart without them, what was taken back would be tried again.
            tracing::debug!("Not all records were written: {written:?}");
            self.retry_later();
        } else {
            self.last.kernel.set_records(&records, &self.ownership());
        }
    }

    /// Nexthop objects that nothing uses go at the periodic read only: until then a change can be reverted in one step.
    pub(super) async fn sweep(&mut self, resync: bool) {
        let unused: Vec<u32> = self
            .last
            .unused
            .iter()
            .copied()
            .filter(|id| !nexthop_id::is_revision(*id))
            .filter(|id| self.last.kernel.nexthops.contains_key(id))
            .collect();
        if !resync || unused.is_empty() || self.rollout.is_undecided() {
            return;
        }
        match self.applier.sweep(&unused).await {
            // Where one is left after all, the next periodic read finds it as it was.
            Ok(()) => tracing::debug!(count = unused.len(), "Unused nexthop objects removed"),
            // Tried again at the next periodic read.
            Err(error) => tracing::debug!("Unused nexthop objects could not be removed: {error:#}"),
        }
    }
}
