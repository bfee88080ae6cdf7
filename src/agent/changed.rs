//! What a pass changed: counted, logged, and limited where something keeps undoing it.
//!
//! I/O only to metrics and the log. How often a loss is repaired is `repair_limit`'s.

use std::time::Duration;

use super::engine::{Engine, Outside};
use super::repair_limit::RepairState;
use super::target::Target;
use super::triggers::Causes;
use crate::kernel::apply::{Counts, Outcome};
use crate::report::metrics::Change;

impl<O: Outside> Engine<O> {
    /// Logs, counts and reports what a pass did.
    pub(super) fn account(
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
        self.account_for_repairs(outcome, vanished, causes, &examples);
    }

    /// What was restored, or taken from another program.
    fn account_for_repairs(
        &mut self,
        outcome: &Outcome,
        vanished: (usize, usize),
        causes: Causes,
        examples: &str,
    ) {
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
                deleted = outcome.changed.deleted,
                examples,
                "Removed routes with the agent's protocol number that another program had added"
            );
            self.repaired();
        } else if outcome.is_undone() && !causes.link {
            self.repaired();
        }
    }

    /// Something removed our routes, or undoes what is written, and nothing explains it.
    pub(super) fn repaired(&mut self) {
        if self.repair_limit.repaired(self.now()) == RepairState::Started {
            tracing::error!(
                "Something keeps removing or changing the agent's routes. Likely: systemd-networkd (set ManageForeignRoutes=no and ManageForeignNextHops=no in \
                 networkd.conf), NetworkManager, or another agent with this route protocol. They are restored less often from now on"
            );
        }
    }

    /// While something keeps removing our routes, only what was asked for, an explained loss, and the periodic read go on at once.
    pub(super) fn wait_for_repair_limit(&mut self) -> bool {
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
}
