//! What must hold at the end of a history, once everything works again and all is quiet.

use std::sync::Arc;
use std::time::Duration;

use super::super::rollout::Newest;
use super::super::target::Loaded;
use super::node::{OURS, cuts_off, facts, read};
use super::outside::ModelOutside;
use super::rules::Verdict;
use super::world::World;
use crate::agent::engine::Engine;
use crate::report::status::{GatewayState, Overall, Status};
use crate::routing::diff::{Wanted, diff};
use crate::routing::resolve::{Inputs, Resolution, resolve};
use crate::routing::state::{OwnRoute, Target as RouteTarget};
use crate::serve::page::readiness;

/// How long the end of a history may take to become quiet: a gateway that flapped has to answer for five minutes.
const QUIET: Duration = Duration::from_mins(20);
/// What is watched once it is quiet: the first for what is swept, the second for writes.
const STILL: Duration = Duration::from_secs(65);
/// Requests, batches and reported events for each thing that happens, and in each minute.
const MOST_EACH: usize = 60;

impl World {
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
            // An agent that is cut off, with an excuse, does not know the labels: what they would make is no truth that it could report.
            (Newest::Good(_), _) if !self.is_reachable() => {
                if !self.rules.excused {
                    return Err("the API server is cut off for good".to_owned());
                }
            }
            (Newest::Good(loaded), Some(Ok(resolution))) => {
                self.check_newest(loaded, &resolution.wanted, &status)?;
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

    /// It is in force, with what it makes of the node; or it may be taken back, and that is reported.
    fn check_newest(&self, loaded: &Loaded, wanted: &Wanted, status: &Status) -> Verdict {
        let words = || status.message.clone().unwrap_or_default();
        let agent = self.agent.as_ref();
        let in_force = agent.is_some_and(|agent| agent.engine.rollout.is_at_newest());
        let harmful = cuts_off(wanted);
        if in_force && harmful && !self.rules.excused {
            return Err("what cuts off the API server is in force".to_owned());
        }
        if !in_force && !harmful && !self.rules.blameable {
            return Err(format!("what is harmless is not in force: {}", words()));
        }
        if !in_force {
            return match status.status {
                Overall::RolledBack => Ok(()),
                other => Err(format!("not in force, and {other:?}: {}", words())),
            };
        }
        self.check_kernel(wanted)?;
        if status.status != Overall::Ready && !is_untested(status) {
            return Err(format!("all is in force, and not Ready: {}", words()));
        }
        if status.revision != loaded.revision {
            return Err("another revision than the newest is reported".to_owned());
        }
        Ok(())
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
