//! Which path packets take, by the kernel's own lookups, after an apply and at each resync.
//!
//! I/O around `routing::lookup`, which decides what to ask and what an answer means.

use super::engine::{Engine, Outside};
use super::target::{Source, Target};
use crate::kernel::lookup;
use crate::report::status::Problem;
use crate::routing::diff::Wanted;
use crate::routing::lookup::{Findings, Rotation, View};
use crate::routing::node_facts::Facts;
use crate::routing::resolve::SetView;
use crate::routing::state::Kernel;

/// What lookups found, and where the next sample begins.
#[derive(Default)]
pub(super) struct Lookups {
    pub(super) findings: Findings,
    rotation: Rotation,
    done: bool,
    failed: Option<String>,
}

impl<O: Outside> Engine<O> {
    /// Asks the kernel, if a pass made for these causes has to, and writes what it finds into the sets; returns what is of no set.
    pub(super) async fn look_up(
        &mut self,
        target: &Target,
        wanted: &Wanted,
        sets: &mut [SetView],
        kernel: &Kernel,
        needed: bool,
    ) -> Vec<Problem> {
        // The purpose of a group is unknown if its set is not known.
        let Source::Config(loaded) = &target.source else {
            self.lookups = Lookups::default();
            return Vec::new();
        };
        if !self.lookups.done || needed {
            let pod_cidrs = match &target.facts {
                Facts::Known(known) => &known.pod_cidrs[..],
                Facts::NotYet { .. } | Facts::NoCluster => &[],
            };
            let ownership = self.ownership();
            let view = View {
                wanted,
                sets,
                kernel,
                pod_cidrs,
                expected: &loaded.config.expected_rules,
                ownership: &ownership,
                now: self.now(),
            };
            let table = self.applier.table.clone();
            match lookup::check(&table, view, &mut self.lookups.rotation).await {
                Ok(findings) => {
                    self.lookups.done = true;
                    self.lookups.failed = None;
                    self.lookups.findings = findings;
                }
                Err(error) => {
                    let cause = error.root_cause().to_string();
                    if self.lookups.failed.as_ref() != Some(&cause) {
                        tracing::warn!("Looking up the path of packets failed: {error:#}");
                    }
                    self.lookups.failed = Some(cause);
                }
            }
        }
        self.lookups.findings.report(sets)
    }
}
