//! What the agent reports of itself between and after passes: the status, and what changed since the last report.
//!
//! What is worth a line or an Event is decided by `transitions`.

use super::engine::{Engine, Outside};
use super::rollout::{Newest, Rollout};
use super::transitions::{InForce, Level, Report, Stage, outlives, transitions};
use crate::cluster::events;
use crate::health::ProbeKey;
use crate::net::prefix::Family;
use crate::report::drained::drained;
use crate::report::status::{
    self, GatewayState, NodeEvent, Overall, Problem, ProblemKind, Reason, Status,
};
use crate::routing::resolve::{SetView, milliseconds, problems, set_status};

/// The longest message, in bytes; the contract of the annotations.
const LONGEST: usize = 1024;

/// For routes that were reverted while the revision stayed.
const ROUTES_HELD: &str = "new routes of the revision in force cut off the API server and were reverted; the earlier ones stay until labels, links or configuration change";

impl<O: Outside> Engine<O> {
    /// Publishes the status if it differs, and reports what changed.
    pub(super) fn publish(&mut self) {
        let status = self.status_now();
        self.metrics.observe(&status);
        self.report_drained(&status);
        let mut report = self.report_now(&status);
        for transition in transitions(&self.report, &report) {
            let revision = status.revision.as_str();
            match transition.level {
                Level::Info => tracing::info!(revision, "{}", transition.line),
                Level::Warn => tracing::warn!(revision, "{}", transition.line),
                Level::Error => tracing::error!(revision, "{}", transition.line),
            }
            if let Some(event) = transition.event {
                // Without a cluster there is no receiver.
                let _ = self.events.send(events::Dated::now(event));
            }
        }
        if report.stage == Stage::RollingBack && self.report.stage != Stage::RollingBack {
            self.metrics.rolled_back();
        }
        let states = status
            .sets
            .iter()
            .flat_map(|set| &set.gateways)
            .map(|gateway| gateway.state);
        if outlives(&report, states) {
            report.earlier = std::mem::take(&mut self.report.earlier);
            for (address, gateway) in &report.gateways {
                if gateway.state == crate::health::State::Up {
                    report.earlier.forget(*address);
                }
            }
        }
        self.report = report;
        self.status.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&status);
            *old = Some(status);
            changed
        });
    }

    /// A line and an Event for the gateways that have come to carry nothing.
    fn report_drained(&self, now: &Status) {
        let before = self.status.borrow().clone();
        for gateway in before.map_or_else(Vec::new, |before| drained(&before, now)) {
            let note =
                format!("Gateway {gateway} is drained: this node has no flow on it any more");
            tracing::info!("{note}");
            let reason = Reason::GatewayDrained;
            // Without a cluster there is no receiver.
            let _ = self
                .events
                .send(events::Dated::now(NodeEvent { reason, note }));
        }
    }

    fn report_now(&self, status: &Status) -> Report {
        let down = self.last.sets.iter().flat_map(|set| {
            set.down.iter().map(|(family, words)| {
                let gateways = set
                    .gateways
                    .iter()
                    .map(|g| g.address)
                    .filter(|a| Family::of(*a) == *family)
                    .collect();
                ((set.name.clone(), *family), (words.clone(), gateways))
            })
        });
        let findings = &self.lookups.findings;
        let overridden = self.last.sets.iter().filter_map(|set| {
            let words = set.describe_overridden()?;
            Some((words, set.leak_guard))
        });
        let not_configured = status
            .message
            .clone()
            .filter(|_| status.status == Overall::Ready);
        Report {
            gateways: Report::gateways_of(&self.health.borrow(), &self.report.gateways),
            down: down.collect(),
            refused: self.rollout.refused().filter(|_| not_configured.is_none()),
            problems: status.problems.clone(),
            notes: self
                .last
                .notes
                .iter()
                .cloned()
                .chain(not_configured)
                .collect(),
            bypassed: (findings.by.clone(), findings.words()),
            not_evaluated: findings.not_evaluated.clone(),
            overridden: overridden.collect(),
            stage: self.rollout.stage(),
            change: self.rollout.change_revision().map(str::to_owned),
            is_edit: self.rollout.change_is_edit(),
            in_force: self.in_force(),
            restored: self.last.restored,
            ..Report::default()
        }
    }

    /// Once complete, a revision stays in force while its routes come and go.
    fn in_force(&self) -> Option<InForce> {
        let revision = self
            .last
            .revision
            .clone()
            .filter(|revision| !revision.is_empty())?;
        let before = self.report.in_force.as_ref();
        if let Some(before) =
            before.filter(|before| before.revision == revision || !self.last.complete)
        {
            return Some(before.clone());
        }
        self.last.complete.then(|| InForce {
            revision,
            routes: self.last.sets.iter().map(|set| set.wanted).sum(),
            sets: self.last.sets.iter().filter(|set| set.wanted > 0).count(),
            written: self.last.written,
        })
    }

    /// Between passes: the round-trip times, and reasons that change no verdict.
    pub(super) fn refresh(&mut self) {
        let health = self.health.borrow().clone();
        if let Some(config) = self.rollout.target().map(super::pass::config_of) {
            for view in &mut self.last.sets {
                let Some(set) = config.sets.iter().find(|s| s.name == view.name) else {
                    continue;
                };
                for gateway in &mut view.gateways {
                    let check = set.health_check.clone();
                    let key = ProbeKey {
                        gateway: gateway.address,
                        check,
                    };
                    if let Some(known) = health.get(&key) {
                        gateway.rtt_ms = known.rtt.map(milliseconds);
                        if gateway.state != GatewayState::Unusable {
                            gateway.reason.clone_from(&known.reason);
                        }
                    }
                }
            }
        }
        self.publish();
    }

    fn status_now(&self) -> Status {
        let problems = problems(&self.last.sets, &self.last.problems);
        let (status, message) = verdict(
            &self.rollout,
            self.last.revision.as_deref(),
            self.last.has_routes,
            &problems,
        );
        let installed = |set: &SetView| {
            set.groups
                .values()
                .filter_map(|id| self.last.installed.get(id))
                .sum()
        };
        Status {
            node: self.node.clone(),
            agent: status::Agent::Running,
            problems: with_verdict(status, message.as_deref(), problems),
            status,
            revision: self.last.revision.clone().unwrap_or_default(),
            message: message.map(|text| text[..text.floor_char_boundary(LONGEST)].to_owned()),
            sets: self
                .last
                .sets
                .iter()
                .map(|set| set_status(set, installed(set)))
                .collect(),
            rejected_revision: self.rollout.rejected_revision(),
            last_applied_at: self.last.applied_at,
        }
    }
}

/// The reason for the status comes first if it is not one of the problems.
fn with_verdict(
    status: Overall,
    message: Option<&str>,
    mut problems: Vec<Problem>,
) -> Vec<Problem> {
    let kind = match status {
        Overall::Invalid => ProblemKind::ConfigRefused,
        Overall::RolledBack => ProblemKind::RolledBack,
        Overall::Degraded if problems.is_empty() => ProblemKind::Unconfirmed,
        Overall::Ready | Overall::Degraded => return problems,
    };
    problems.insert(0, Problem::of_node(kind, message.unwrap_or_default()));
    problems
}

/// One word for all of it, and a sentence when it is not `Ready`, or when nothing is configured.
fn verdict(
    rollout: &Rollout,
    revision: Option<&str>,
    has_routes: bool,
    problems: &[Problem],
) -> (Overall, Option<String>) {
    let stays = match revision {
        None | Some("") if has_routes => "the routes that are there stay in force".to_owned(),
        None | Some("") => "nothing is in force".to_owned(),
        Some(revision) => format!("revision {revision} stays in force"),
    };
    if let Newest::Refused {
        why, absent: true, ..
    } = rollout.newest()
        && !has_routes
        && revision.is_none_or(str::is_empty)
    {
        return (Overall::Ready, Some(format!("not configured: {why}")));
    }
    if let Some((_, why)) = rollout.refused() {
        return (
            Overall::Invalid,
            Some(format!("configuration refused, {stays}: {why}")),
        );
    }
    if rollout.holds_routes() {
        return (Overall::RolledBack, Some(ROUTES_HELD.to_owned()));
    }
    if let Some(rejected) = rollout.rejected_revision() {
        let message = format!(
            "revision {rejected} cut off the API server and was reverted; {stays} until the configuration changes"
        );
        return (Overall::RolledBack, Some(message));
    }
    let waiting = match rollout.stage() {
        Stage::Starting if problems.is_empty() => {
            "the configuration and the kernel have not been read yet"
        }
        Stage::Inherited => {
            "an earlier agent's change was never confirmed by an answer of the API server; asking the server now, and nothing changes until it answers"
        }
        _ => {
            return match problems {
                [] => (Overall::Ready, None),
                _ => (Overall::Degraded, Some(Problem::join(problems))),
            };
        }
    };
    (Overall::Degraded, Some(waiting.to_owned()))
}
