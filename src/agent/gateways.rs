//! The gateways of the target: which are probed, by which path, and what their health changes at once.
//!
//! I/O through the engine. What a verdict means for a group is `routing::resolve`'s.

use std::collections::{BTreeMap, BTreeSet};

use super::engine::{Engine, Outside};
use super::pass::config_of;
use super::target::{Source, Target};
use crate::health::ProbeKey;
use crate::health::probe::ProbePath;
use crate::net::prefix::{Family, Prefix};
use crate::report::metrics::Change;
use crate::routing::protected;
use crate::routing::resolve::{self, Inputs};
use crate::routing::state::Kernel;

impl<O: Outside> Engine<O> {
    /// One probe task for each gateway and check of the sets that apply.
    pub(super) fn watch_gateways(&mut self, target: &Target, kernel: &Kernel) {
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
        // It may write.
        self.ahead = None;
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
