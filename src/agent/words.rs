//! What the agent says of itself between and after passes: the status, and transitions of gateways.

use super::Agent;
use crate::course::{Course, Newest};
use crate::health::{HealthView, State};
use crate::resolve::{SetView, problems, set_status};
use crate::status::{Overall, Reason, Status};

/// The longest message; contract section 6.
const LONGEST: usize = 1024;

impl Agent {
    /// Publishes the status if it differs.
    pub(super) fn publish(&mut self) {
        let status = self.status_now();
        self.metrics.observe(&status);
        let no_healthy = self.memory.sets.iter().flat_map(|s| s.down.iter()).cloned().collect::<Vec<_>>().join("; ");
        if no_healthy.is_empty() {
            self.memory.said.remove("down");
        } else if self.once("down", &no_healthy) {
            tracing::error!("No healthy gateway: {no_healthy}");
            self.happens(Reason::NoHealthyGateway, no_healthy);
        }
        self.status.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&status);
            *old = Some(status);
            changed
        });
    }

    /// Between passes: the round-trip times.
    pub(super) fn refresh(&mut self) {
        let health = self.health.borrow().clone();
        if let Some(loaded) = self.course.config() {
            for view in &mut self.memory.sets {
                let Some(set) = loaded.config.sets.iter().find(|s| s.name == view.name) else { continue };
                for gateway in &mut view.gateways {
                    let key = crate::health::ProbeKey { gateway: gateway.address, check: set.health_check.clone() };
                    if let Some(known) = health.get(&key) {
                        gateway.rtt_ms = known.rtt.map(crate::resolve::milliseconds);
                    }
                }
            }
        }
        self.publish();
    }

    fn status_now(&self) -> Status {
        let problems = problems(&self.memory.sets, &self.memory.problems);
        let (status, message) = verdict(&self.course, self.guard.rejected(), &problems);
        let rejected = match (self.course.newest(), self.guard.rejected()) {
            (Newest::Refused { revision: Some(revision), .. }, _) => Some(revision.clone()),
            (_, rejected) => rejected.map(str::to_owned),
        };
        let installed = |set: &SetView| set.groups.values().filter_map(|id| self.memory.installed.get(id)).sum();
        Status {
            node: self.node.clone(),
            status,
            revision: self.memory.applied.clone().unwrap_or_default(),
            message,
            sets: self.memory.sets.iter().map(|set| set_status(set, installed(set))).collect(),
            rejected_revision: rejected,
            last_applied_at: self.memory.last_applied,
        }
    }

    /// A log line and an Event for each gateway that changed; one for all that changed together.
    pub(super) fn tell_health(&mut self, health: &HealthView) {
        let was = |key| self.memory.health.get(key).map_or(State::Unknown, |h| h.state);
        let mut down: Vec<String> = Vec::new();
        let mut up: Vec<String> = Vec::new();
        for (key, now) in health {
            match (was(key), now.state) {
                (State::Down, State::Up) => up.push(key.gateway.to_string()),
                (State::Up | State::Unknown, State::Down) => {
                    down.push(format!("{} ({})", key.gateway, now.reason.as_deref().unwrap_or("no answer")));
                }
                _ => {}
            }
        }
        down.sort();
        down.dedup();
        up.sort();
        up.dedup();
        if !down.is_empty() {
            let note = format!("Gateway down: {}", down.join(", "));
            tracing::warn!("{note}");
            self.happens(Reason::GatewayDown, note);
        }
        if !up.is_empty() {
            let note = format!("Gateway up again: {}", up.join(", "));
            tracing::info!("{note}");
            self.happens(Reason::GatewayUp, note);
        }
        self.memory.health.clone_from(health);
    }
}

/// One word for all of it, and a sentence when it is not `Ready`.
fn verdict(course: &Course, rejected: Option<&str>, problems: &[String]) -> (Overall, Option<String>) {
    let stays = match course.revision() {
        "" => "the routes that are there stay".to_owned(),
        revision => format!("revision {revision} stays in force"),
    };
    let (overall, message) = match (course.newest(), rejected) {
        (Newest::Refused { why, .. }, _) => (Overall::Invalid, format!("configuration refused, {stays}: {why}")),
        (_, Some(revision)) => (
            Overall::RolledBack,
            format!("revision {revision} cut off the API server and was taken back; {stays} until the configuration changes"),
        ),
        (Newest::Unknown, None) => (Overall::Degraded, "the configuration has not been read yet".to_owned()),
        (Newest::Good(_), None) if problems.is_empty() => return (Overall::Ready, None),
        (Newest::Good(_), None) => (Overall::Degraded, problems.join("; ")),
    };
    (overall, Some(crate::api::cut(&message, LONGEST).to_owned()))
}
