//! One pass: read the kernel, decide, write, read back, and remember what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::{Agent, Causes, Held, QUESTION};
use crate::agent::course::{Basis, Newest};
use crate::agent::repair_limit::RepairState;
use crate::cluster::annotations;
use crate::health::ProbeKey;
use crate::health::probe::ProbePath;
use crate::kernel::apply::{Counts, Outcome};
use crate::kernel::ip::{Hung, RouteTable as _, Unfit};
use crate::kernel::lookup;
use crate::net::nexthop_id;
use crate::report::metrics::Change;
use crate::report::status::{Problem, ProblemKind, Reason};
use crate::routing::batch::Line;
use crate::routing::diff::{Wanted, marks_to};
use crate::routing::lookup::View;
use crate::routing::node_facts::Facts;
use crate::routing::resolve::{self, Inputs, Resolution, SetView, resolve};
use crate::routing::state::Kernel;

/// The first pause after a pass that left something undone; doubles up to `--resync`.
const FIRST_RETRY: Duration = Duration::from_secs(1);

impl Agent {
    /// Makes the kernel equal to what is wanted.
    pub(super) async fn pass(&mut self) {
        if self.wait_out_a_fight() {
            return;
        }
        let causes = std::mem::take(&mut self.causes);
        if let Err(error) = self.try_pass(causes).await {
            self.metrics.ip_failed();
            let mut words = format!("the kernel's routes could not be read or written: {error:#}");
            // Each of several calls may fail first; the cause is what is new or not.
            if self.once("ip", &error.root_cause().to_string()) {
                if let Some(unfit) = self.unfit(&error).await {
                    words = format!("{unfit}; {words}");
                }
                tracing::error!("{words}");
                self.memory.problems = vec![Problem::of_node(ProblemKind::KernelFailed, words)];
            }
            // What was asked for is still to do.
            self.causes.take_up(causes);
            self.retry_later();
        } else {
            self.memory.said.remove("ip");
        }
        self.memory.ended = Some(Instant::now());
        self.publish();
    }

    /// An `ip` that is too old, or another program of that name, explains more than what became of a call.
    async fn unfit(&self, error: &anyhow::Error) -> Option<Unfit> {
        if error.is::<Hung>() {
            return None;
        }
        self.applier
            .table
            .check_version()
            .await
            .err()?
            .downcast()
            .ok()
    }

    async fn try_pass(&mut self, causes: Causes) -> anyhow::Result<()> {
        let started = Instant::now();
        let Some(basis) = self.course.in_force().cloned() else {
            return Ok(());
        };
        let kernel = self.read().await?;
        self.memory.reading = started.elapsed();
        let facts = self.facts_for(&basis, &kernel);
        let mut resolution = match &basis {
            Basis::AsFound(wanted) => Resolution {
                wanted: (**wanted).clone(),
                ..Resolution::default()
            },
            Basis::Config(loaded) => {
                self.watch_gateways(&loaded.config, &kernel, &facts);
                let health = self.health.borrow_and_update().clone();
                self.tell_health(&health);
                let ownership = self.ownership();
                let inputs = Inputs {
                    config: &loaded.config,
                    kernel: &kernel,
                    facts: &facts,
                    health: &health,
                    ownership: &ownership,
                };
                match resolve(&inputs) {
                    Ok(resolution) => resolution,
                    Err(clashes) => {
                        self.clash(&clashes);
                        return Ok(());
                    }
                }
            }
        };
        let edited = self.memory.applied.as_deref() != Some(self.course.revision())
            || self.guard.is_taking_back();
        let routes = fingerprint(&resolution.wanted.routes);
        let fresh = edited || self.is_relabelled(&facts, routes);
        let mark = if fresh {
            self.prepare_guard(&kernel).await
        } else {
            None
        };
        let marks = match mark {
            Some(id) => vec![Line::BlackholeNexthop { id }],
            None if fresh && !self.guard.is_taking_back() => {
                marks_to(self.settled_mark(), &kernel, &self.ownership())
            }
            None => Vec::new(),
        };
        if fresh && mark.is_none() {
            self.memory.relabelled = None;
        }
        let outcome = match self.applier.apply(&resolution.wanted, kernel, &marks).await {
            Ok(outcome) => outcome,
            Err(error) => {
                if mark.is_some() {
                    // Part of it may be in the kernel, and may be what silences the API server.
                    self.guard.left_unsettled();
                }
                return Err(error);
            }
        };
        self.memory.decided = Some((facts, routes));
        let took = started.elapsed();
        let of_node = self
            .look_up(&basis, &mut resolution, &outcome, causes)
            .await;
        self.account(&outcome, &resolution, causes, took);
        if fresh {
            self.after_a_change(&outcome, mark).await;
        }
        let settled = self
            .settled_mark()
            .filter(|_| !self.guard.is_undecided() && !self.guard.is_unsettled());
        if settled.is_some() && !marks_to(settled, &outcome.kernel, &self.ownership()).is_empty() {
            self.settle_marks().await;
        }
        self.remember(resolution, outcome);
        self.memory.problems.extend(of_node);
        self.sweep(causes.resync).await;
        Ok(())
    }

    /// What the API tells, or what it told before that where the change was taken back.
    fn facts_for(&mut self, basis: &Basis, kernel: &Kernel) -> Facts {
        let newest = self.facts.borrow().clone();
        let (Some(held), Basis::Config(loaded)) = (self.memory.held.clone(), basis) else {
            return newest;
        };
        if held.instead_of == newest {
            return held.with;
        }
        let (health, ownership) = (self.health.borrow().clone(), self.ownership());
        let inputs = Inputs {
            config: &loaded.config,
            kernel,
            facts: &newest,
            health: &health,
            ownership: &ownership,
        };
        if resolve(&inputs)
            .is_ok_and(|resolution| fingerprint(&resolution.wanted.routes) == held.routes)
        {
            // Another label, and the same routes.
            let with = held.with.clone();
            self.memory.held = Some(Held {
                instead_of: newest,
                ..held
            });
            return with;
        }
        self.memory.held = None;
        self.memory.relabelled = Some(Held {
            instead_of: newest.clone(),
            ..held
        });
        if self.is_held() {
            self.guard.superseded();
            self.stop_asking();
        }
        newest
    }

    /// Whether what was taken back is a change of what the API tells: the revision that is rejected is the one in force.
    pub(super) fn is_held(&self) -> bool {
        self.guard.rejected() == Some(self.course.revision())
    }

    /// The revision that is rejected as an edit.
    pub(super) fn rejected_edit(&self) -> Option<&str> {
        self.guard.rejected().filter(|_| !self.is_held())
    }

    /// Whether what the API tells makes other routes of the same configuration: a label can cut a node off as an edit can.
    fn is_relabelled(&mut self, facts: &Facts, routes: u64) -> bool {
        let Some((with, before)) = self.memory.decided.clone() else {
            return false;
        };
        if with == *facts || before == routes || self.guard.is_taking_back() {
            return false;
        }
        if self.guard.is_undecided() {
            // It joins what waits for its verdict, and is taken back with it.
            self.guard.superseded();
            self.stop_asking();
        }
        let instead_of = facts.clone();
        match &mut self.memory.relabelled {
            // One after the other: back is before the first.
            Some(waiting) => (waiting.instead_of, waiting.routes) = (instead_of, routes),
            None if self.guard.is_unsettled() => {}
            none => {
                *none = Some(Held {
                    with,
                    instead_of,
                    routes,
                });
            }
        }
        true
    }

    /// Reads the kernel. What health demands meanwhile is done at once: a switch takes as long with many routes as with few.
    async fn read(&mut self) -> anyhow::Result<Kernel> {
        let table = self.applier.table;
        let mut reading = std::pin::pin!(table.read());
        let mut switched = false;
        let mut kernel = loop {
            tokio::select! {
                kernel = &mut reading => break kernel?,
                Ok(()) = self.health.changed() => {
                    self.health_changed().await;
                    switched = true;
                }
            }
        };
        if switched {
            // The read may have seen the groups as they were before.
            kernel.nexthops = table.read_nexthops().await?.nexthops;
        }
        Ok(kernel)
    }

    /// Two sets that apply to this node want one prefix: this configuration is not for this node.
    fn clash(&mut self, clashes: &[crate::routing::exclude::Clash]) {
        let why = clashes
            .iter()
            .take(3)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        let fresh = self.memory.applied.as_deref() != Some(self.course.revision());
        if fresh {
            if self.once("clash", &why) {
                let note = format!(
                    "Configuration refused on this node (revision {}): {why}",
                    self.course.revision()
                );
                tracing::error!("{note}");
                if !self.memory.reported.is_refused(&why) {
                    self.emit(Reason::ConfigRejected, note);
                }
            }
            self.course.refuse(why);
            self.memory.announce = false;
            self.causes.configuration_changed();
        } else {
            if self.once("clash", &why) {
                tracing::error!(
                    "Since the labels of this node changed, {why}; the routes stay as they are"
                );
            }
            self.memory.problems = vec![Problem::of_node(ProblemKind::ConfigRefused, why)];
        }
    }

    /// A change of the configuration is about to be written. Returns the mark to write with it when it is guarded.
    async fn prepare_guard(&mut self, kernel: &Kernel) -> Option<u32> {
        let is_newest = matches!((self.course.newest(), self.course.config()), (Newest::Good(newest), Some(here)) if newest.revision == here.revision);
        if !self.guard.is_on() || !is_newest || self.guard.rejected().is_some() {
            return None;
        }
        let unsettled = self.guard.is_unsettled();
        let Some(api) = &self.api else { return None };
        if !unsettled && !api.answers_now(QUESTION).await {
            return None;
        }
        let ownership = self.ownership();
        // What an unsettled change left is nothing to go back to.
        self.course.remember(|| {
            if unsettled {
                Wanted::default()
            } else {
                Wanted::as_found(kernel, &ownership)
            }
        });
        Some(nexthop_id::unconfirmed(self.course.revision()))
    }

    async fn after_a_change(&mut self, outcome: &Outcome, mark: Option<u32>) {
        match mark {
            Some(mark) if outcome.changed.any() || self.guard.is_unsettled() => {
                if !outcome.changed.any() {
                    self.write_mark(Some(mark)).await;
                }
                let revision = self.course.revision().to_owned();
                self.guard.applied(self.started.elapsed(), &revision);
                self.ask();
            }
            _ if self.guard.is_taking_back() => {
                // The question is whether that brings the API server back.
                self.guard.taken_back(self.started.elapsed());
                self.ask();
            }
            _ => {
                self.course.confirm();
            }
        }
        self.memory.applied = Some(self.course.revision().to_owned());
    }

    /// Logs, counts and reports what a pass did.
    fn account(
        &mut self,
        outcome: &Outcome,
        resolution: &Resolution,
        causes: Causes,
        took: Duration,
    ) {
        let fingerprint = fingerprint(&resolution.wanted);
        // After a link or address change what was wanted while it was away may have been less.
        let repair = !causes.configuration
            && !causes.circumstances
            && (self.memory.wanted == Some(fingerprint) || causes.link)
            && outcome.changed.restores();
        self.memory.wanted = Some(fingerprint);
        let Counts {
            replaced,
            deleted,
            nexthops,
        } = outcome.changed;
        (0..outcome.stopped).for_each(|_| self.metrics.ip_failed());
        self.metrics.changed(Change::Replace, replaced);
        self.metrics.changed(Change::Delete, deleted);
        self.metrics.changed(Change::Nexthop, nexthops);
        let notes = resolution.notes.join("; ");
        if self.once("notes", &notes) && !notes.is_empty() {
            tracing::warn!("{notes}");
        }
        let revision = self.course.revision().to_owned();
        let examples = outcome.examples.join("; ");
        let took_ms = took.as_millis();
        if outcome.changed.any() {
            self.metrics.applied(took);
            if repair {
                tracing::warn!(
                    revision,
                    replaced,
                    deleted,
                    nexthops,
                    took_ms,
                    examples,
                    "Routes restored: they had vanished or changed"
                );
                self.metrics.restored(replaced.max(nexthops));
                self.emit(
                    Reason::RoutesRestored,
                    format!("{replaced} route(s) and {nexthops} nexthop(s) had vanished and were put back"),
                );
                if !causes.link {
                    self.repaired();
                }
            } else if outcome.strays > 0 {
                tracing::warn!(
                    deleted,
                    examples,
                    "Routes with our protocol number that somebody else had added are removed"
                );
                self.repaired();
            } else {
                tracing::info!(
                    revision,
                    replaced,
                    deleted,
                    nexthops,
                    took_ms,
                    examples,
                    "Routes changed"
                );
            }
        }
        self.memory.written_since_announced |= outcome.changed.any();
        if self.memory.announce && outcome.left.is_empty() && self.course.config().is_some() {
            self.memory.announce = false;
            self.memory.said.remove("clash");
            let written = std::mem::take(&mut self.memory.written_since_announced);
            let (routes, sets) = (
                resolution.wanted.routes.len(),
                resolution.sets.iter().filter(|set| set.wanted > 0).count(),
            );
            tracing::info!(revision, routes, sets, "Configuration in force");
            if written && routes == 0 && deleted > 0 {
                let note = format!(
                    "Revision {revision} has no route for this node: all {deleted} were removed"
                );
                tracing::warn!("{note}");
                self.emit(Reason::AllRoutesRemoved, note);
            } else if written {
                self.emit(
                    Reason::RoutesApplied,
                    format!("Revision {revision} applied: {routes} route(s) of {sets} set(s)"),
                );
            }
        }
    }

    /// Something removed our routes and nothing explains it.
    fn repaired(&mut self) {
        if self.fight.repaired(self.started.elapsed()) == RepairState::Started {
            tracing::error!(
                "Something keeps removing or changing our routes. Likely: systemd-networkd (set ManageForeignRoutes=no and ManageForeignNextHops=no in \
                 networkd.conf), NetworkManager, or another agent with this route protocol. They are put back less often from now on"
            );
        }
    }

    /// In a fight only what was asked for, an explained loss, and the periodic read go on at once.
    fn wait_out_a_fight(&mut self) -> bool {
        let Causes {
            configuration,
            circumstances,
            link,
            rules,
            resync,
            ..
        } = self.causes;
        if configuration || circumstances || link || rules || resync {
            return false;
        }
        match self.fight.wait_until(self.started.elapsed()) {
            Some(at) => {
                self.causes = Causes::default();
                self.causes.again(self.started + at);
                true
            }
            None => false,
        }
    }

    fn remember(&mut self, resolution: Resolution, mut outcome: Outcome) {
        let left = !outcome.left.is_empty() || !outcome.left.conflicts.is_empty();
        self.memory.installed = outcome.installed(&resolution.wanted);
        let installed: usize = self.memory.installed.values().sum();
        let wanted = resolution.sets.iter().map(|set| set.wanted).sum();
        self.memory.complete = outcome.left.is_empty()
            && installed >= wanted
            && !resolution.sets.iter().any(|set| set.undecided);
        if self.memory.complete
            && (outcome.changed.any() || self.memory.last_applied.is_none())
            && self.course.config().is_some()
        {
            self.memory.last_applied = Some(annotations::wall_clock());
        }
        self.memory.problems = if left { outcome.problems() } else { Vec::new() };
        self.memory.sets = resolution.sets;
        self.memory.unused = std::mem::take(&mut outcome.left.unused);
        self.memory.kernel = outcome.kernel;
        self.memory.kernel.own = Vec::new();
        self.log_shadowed();
        if left {
            let words = Problem::join(&self.memory.problems);
            if self.once("left", &words) {
                tracing::warn!(
                    missing = outcome.left.replace.len(),
                    surplus = outcome.left.delete.len(),
                    "Not everything is in the kernel; will be tried again: {words}"
                );
            }
            self.retry_later();
        } else {
            self.memory.said.remove("left");
            self.memory.failures = 0;
            self.remove_startup_taint();
        }
    }

    /// Asks the kernel which way packets take, and writes what it finds into the sets; returns what is of no set.
    async fn look_up(
        &mut self,
        basis: &Basis,
        resolution: &mut Resolution,
        outcome: &Outcome,
        causes: Causes,
    ) -> Vec<Problem> {
        let Basis::Config(loaded) = basis else {
            return Vec::new();
        };
        if !self.memory.looked_up || causes.call_for_lookups() || outcome.changed.any() {
            let facts = self.facts.borrow().clone();
            let pod_cidrs = match &facts {
                Facts::Known(known) => &known.pod_cidrs[..],
                _ => &[],
            };
            let ownership = self.ownership();
            let view = View {
                wanted: &resolution.wanted,
                sets: &resolution.sets,
                kernel: &outcome.kernel,
                pod_cidrs,
                expected: &loaded.config.expected_rules,
                ownership: &ownership,
            };
            let table = self.applier.table;
            match lookup::check(&table, view, &mut self.memory.rotation).await {
                Ok(findings) => {
                    self.memory.looked_up = true;
                    self.memory.said.remove("lookups");
                    self.memory.findings = findings;
                }
                Err(error) => {
                    if self.once("lookups", &error.root_cause().to_string()) {
                        tracing::warn!("Which way packets take could not be looked up: {error:#}");
                    }
                }
            }
            self.log_findings(&resolution.sets);
        }
        self.memory.findings.report(&mut resolution.sets)
    }

    fn log_findings(&mut self, sets: &[SetView]) {
        let findings = &self.memory.findings;
        let by = findings
            .by
            .iter()
            .take(5)
            .cloned()
            .collect::<Vec<_>>()
            .join("; ");
        let (count, words) = (findings.by.len(), findings.words());
        let not_evaluated = findings
            .not_evaluated
            .iter()
            .take(5)
            .cloned()
            .collect::<Vec<_>>()
            .join("; ");
        let was = self
            .memory
            .said
            .get("bypassed")
            .is_some_and(|said| !said.is_empty());
        if self.once("bypassed", &by) {
            match words {
                Some(words) => {
                    tracing::warn!(count, "Traffic is taken past the routes: {by}");
                    if !was {
                        self.emit(Reason::TrafficBypassed, words);
                    }
                }
                None if was => tracing::info!("No traffic is taken past the routes any more"),
                None => {}
            }
        }
        if self.once("not evaluated", &not_evaluated) && !not_evaluated.is_empty() {
            tracing::info!("Policy rules that no lookup can show: {not_evaluated}");
        }
        self.log_overridden(sets);
    }

    /// More specific routes of others go on winning; where a set has leak guards that is worth a warning.
    fn log_overridden(&mut self, sets: &[SetView]) {
        let of = |guarded: bool| {
            let sets = sets
                .iter()
                .filter(|set| set.leak_guard == guarded && set.overridden.total > 0);
            let words = sets.map(|set| {
                let examples: Vec<String> = set.overridden.shown.iter().take(5).map(|t| format!("{} by {}", t.destination, t.by)).collect();
                format!("set `{}`: {} more specific route(s) of others win inside its destinations, among them {}", set.name, set.overridden.total, examples.join(", "))
            });
            words.collect::<Vec<_>>().join("; ")
        };
        let (guarded, others) = (of(true), of(false));
        if self.once("overridden", &others) && !others.is_empty() {
            tracing::info!("{others}");
        }
        if self.once("overridden in spite of a leak guard", &guarded) && !guarded.is_empty() {
            tracing::warn!("{guarded}, in spite of its leak guard");
        }
    }

    /// A destination that a route of somebody else takes: the node is degraded, and the log says why.
    fn log_shadowed(&mut self) {
        let of_sets = self.memory.sets.iter().flat_map(|set| &set.problems);
        let shadowed: Vec<&str> = of_sets
            .filter(|problem| problem.kind == ProblemKind::Shadowed)
            .map(|problem| problem.text.as_str())
            .collect();
        let words = shadowed.join("; ");
        if self.once("shadowed", &words) && !words.is_empty() {
            tracing::warn!("{words}");
        }
    }

    fn retry_later(&mut self) {
        let pause = FIRST_RETRY
            .saturating_mul(1 << self.memory.failures.min(10))
            .min(self.args.resync);
        self.memory.failures = self.memory.failures.saturating_add(1);
        self.causes.again(Instant::now() + pause);
    }

    // --- gateways ---

    /// One probe task for each gateway and check of the sets that apply.
    fn watch_gateways(&mut self, config: &crate::config::Config, kernel: &Kernel, facts: &Facts) {
        let ownership = self.ownership();
        let health = self.health.borrow().clone();
        let inputs = Inputs {
            config,
            kernel,
            facts,
            health: &health,
            ownership: &ownership,
        };
        // Later the kernel shows this agent's own verdicts.
        let adopted = if self.memory.adopted {
            BTreeSet::new()
        } else {
            resolve::taken_out_before(&inputs, self.course.revision())
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
        }
        let gateways = wanted.keys().map(|key| key.gateway);
        self.links.update(gateways, kernel);
        self.probes.set(&wanted, &adopted);
        self.memory.adopted = true;
    }

    /// Re-points groups at once; the whole pass that verifies it follows.
    pub(super) async fn health_changed(&mut self) {
        let health = self.health.borrow_and_update().clone();
        self.tell_health(&health);
        self.causes.health_changed();
        let Some(loaded) = self.course.config().cloned() else {
            return;
        };
        if self.memory.applied.as_deref() != Some(loaded.revision.as_str()) {
            return;
        }
        // Of what the API tells since, the next pass takes account.
        let Some((facts, _)) = self.memory.decided.clone() else {
            return;
        };
        let ownership = self.ownership();
        // Which gateway is in use is what the kernel has, not what the last pass that worked read.
        let decide = |kernel: &Kernel| {
            resolve::regroup(&Inputs {
                config: &loaded.config,
                kernel,
                facts: &facts,
                health: &health,
                ownership: &ownership,
            })
        };
        match self.applier.repoint(&self.memory.kernel, decide).await {
            Ok((changed, took)) if changed.any() => {
                self.metrics.changed(Change::Nexthop, changed.nexthops);
                tracing::info!(
                    groups = changed.nexthops,
                    took_ms = took.as_millis(),
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

    // --- marks ---

    /// Takes up what an earlier agent left unfinished, as far as the kernel shows it.
    pub(super) async fn resume(&mut self) {
        let Ok(kernel) = self.applier.table.read().await else {
            return;
        };
        let ownership = self.ownership();
        let found = Wanted::as_found(&kernel, &ownership);
        self.memory.bare = found.routes.is_empty() && found.nexthops.is_empty();
        let Newest::Good(newest) = self.course.newest() else {
            return self.publish();
        };
        let revision = newest.revision.clone();
        let ours = |id: u32| {
            kernel
                .nexthops
                .get(&id)
                .is_some_and(|n| n.protocol == ownership.protocol)
        };
        if ours(nexthop_id::rejected(&revision)) && self.guard.is_on() {
            tracing::warn!(
                revision,
                "This revision was taken back before the agent started; what is in the kernel stays until the configuration changes"
            );
            self.guard.was_rejected(&revision);
            self.course
                .remember(|| Wanted::as_found(&kernel, &ownership));
            self.course.take_back();
        } else if ours(nexthop_id::unconfirmed(&revision)) && self.guard.is_on() {
            tracing::warn!(
                revision,
                "An earlier agent ended before this revision was confirmed; asking the API server before anything else"
            );
            self.course.pause();
            self.guard.applied(self.started.elapsed(), &revision);
            self.ask();
        } else if kernel
            .nexthops
            .iter()
            .any(|(id, n)| nexthop_id::is_unconfirmed(*id) && n.protocol == ownership.protocol)
        {
            // Edited meanwhile; but what is in the kernel may be what silences the API server.
            self.guard.left_unsettled();
        }
    }

    /// The one mark that is true when nothing is undecided: of the rejected revision, or of the one that was applied.
    fn settled_mark(&self) -> Option<u32> {
        let applied = || {
            self.course
                .config()
                .map(|loaded| nexthop_id::applied(&loaded.revision))
        };
        self.rejected_edit()
            .map(nexthop_id::rejected)
            .or_else(applied)
    }

    pub(super) async fn settle_marks(&mut self) {
        self.write_mark(self.settled_mark()).await;
    }

    /// Writes a mark and removes all others.
    pub(super) async fn write_mark(&mut self, mark: Option<u32>) {
        let Ok(kernel) = self.applier.table.read_nexthops().await else {
            return;
        }; // the next change does it
        let lines = marks_to(mark, &kernel, &self.ownership());
        if let Err(error) = self.applier.write_few(&lines).await {
            tracing::debug!("The mark could not be written: {error:#}");
        }
    }

    /// Nexthop objects that nothing uses go at the periodic read only: until then a change can still be taken back in one step.
    async fn sweep(&mut self, resync: bool) {
        let unused: Vec<u32> = self
            .memory
            .unused
            .iter()
            .copied()
            .filter(|id| !nexthop_id::is_revision(*id))
            .collect();
        if !resync || unused.is_empty() || self.guard.is_undecided() {
            return;
        }
        match self.applier.sweep(&unused).await {
            Ok(()) => tracing::debug!(count = unused.len(), "Unused nexthop objects removed"),
            Err(error) => tracing::debug!("Unused nexthop objects could not be removed: {error:#}"),
        }
        self.memory.unused.clear();
    }
}

/// How a gateway is reached now; `None` while it is not.
fn path(gateway: std::net::IpAddr, kernel: &Kernel) -> Option<ProbePath> {
    let dev = crate::routing::protected::next_hop(gateway, kernel).ok()?;
    let link = kernel.links.iter().find(|link| link.name == dev)?;
    // The address whose subnet the gateway is in, as the kernel would choose.
    let near = link
        .addresses
        .iter()
        .find(|(a, len)| crate::net::prefix::Prefix::masked(*a, *len).contains(gateway))
        .map(|(a, _)| *a);
    let source = near.or_else(|| link.source(crate::net::prefix::Family::of(gateway)))?;
    Some(ProbePath {
        dev,
        index: link.index,
        source,
    })
}

fn fingerprint(wanted: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    hasher.finish()
}
