//! What the agent says of itself between and after passes: the status, and transitions of gateways.

use super::Agent;
use crate::agent::course::{Course, Newest};
use crate::cluster::annotations::Reported;
use crate::health::{HealthView, ProbeKey, State};
use crate::net::prefix::Family;
use crate::report::status::{self, GatewayState, Overall, Problem, ProblemKind, Reason, Status};
use crate::routing::resolve::{SetView, problems, set_status};

/// The longest message; contract section 6.
const LONGEST: usize = 1024;

/// For a change of labels that was taken back.
const LABELS_HELD: &str = "the newest labels of this node cut off the API server and are not followed; the earlier ones are in force until labels or configuration change";

impl Agent {
    /// Publishes the status if it differs.
    pub(super) fn publish(&mut self) {
        let status = self.status_now();
        self.metrics.observe(&status);
        self.tell_down();
        // From now on what happens is told, whatever the annotations said at the start.
        if self.course.config().is_some()
            && status
                .sets
                .iter()
                .flat_map(|set| &set.gateways)
                .all(|gateway| gateway.state != GatewayState::Unknown)
        {
            self.memory.reported = Reported::default();
        }
        self.status.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&status);
            *old = Some(status);
            changed
        });
    }

    /// A log line and an Event for the sets that have come to be without a healthy gateway.
    fn tell_down(&mut self) {
        let before = std::mem::take(&mut self.memory.down);
        let (mut lines, mut events) = (Vec::new(), Vec::new());
        for set in &self.memory.sets {
            for (family, words) in &set.down {
                let key = (set.name.clone(), *family);
                if !before.contains(&key) {
                    lines.push(words.clone());
                    let mut gateways = set
                        .gateways
                        .iter()
                        .filter(|gateway| Family::of(gateway.address) == *family);
                    if !gateways.all(|gateway| self.memory.reported.is_down(gateway.address)) {
                        events.push(words.clone());
                    }
                }
                self.memory.down.insert(key);
            }
        }
        if !lines.is_empty() {
            tracing::error!("No healthy gateway: {}", lines.join("; "));
        }
        if !events.is_empty() {
            self.emit(Reason::NoHealthyGateway, events.join("; "));
        }
    }

    /// Between passes: the round-trip times, and reasons that change no verdict.
    pub(super) fn refresh(&mut self) {
        let health = self.health.borrow().clone();
        if let Some(loaded) = self.course.config() {
            for view in &mut self.memory.sets {
                let Some(set) = loaded.config.sets.iter().find(|s| s.name == view.name) else {
                    continue;
                };
                for gateway in &mut view.gateways {
                    let key = crate::health::ProbeKey {
                        gateway: gateway.address,
                        check: set.health_check.clone(),
                    };
                    if let Some(known) = health.get(&key) {
                        gateway.rtt_ms = known.rtt.map(crate::routing::resolve::milliseconds);
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
        let problems = problems(&self.memory.sets, &self.memory.problems);
        let rejected = self.rejected_edit();
        let (status, message) = match self.course.newest() {
            Newest::Good(_) if self.is_held() => {
                (Overall::RolledBack, Some(LABELS_HELD.to_owned()))
            }
            Newest::Refused {
                absent: true, why, ..
            } if self.memory.bare && self.course.in_force().is_none() => {
                (Overall::Ready, Some(format!("not configured: {why}")))
            }
            _ => verdict(&self.course, rejected, &problems),
        };
        let rejected = match (self.course.newest(), rejected) {
            (
                Newest::Refused {
                    revision: Some(revision),
                    ..
                },
                _,
            ) => Some(revision.clone()),
            (_, rejected) => rejected.map(str::to_owned),
        };
        let installed = |set: &SetView| {
            set.groups
                .values()
                .filter_map(|id| self.memory.installed.get(id))
                .sum()
        };
        Status {
            node: self.node.clone(),
            agent: status::Agent::Running,
            problems: with_verdict(status, message.as_deref(), problems),
            status,
            revision: self.memory.applied.clone().unwrap_or_default(),
            message,
            sets: self
                .memory
                .sets
                .iter()
                .map(|set| set_status(set, installed(set)))
                .collect(),
            rejected_revision: rejected,
            last_applied_at: self.memory.last_applied,
        }
    }

    /// A log line and an Event for each gateway that changed; one for all that changed together.
    pub(super) fn tell_health(&mut self, health: &HealthView) {
        // No machine starts as down, but by what the kernel shows of an earlier one.
        let adopted = health
            .iter()
            .filter(|(key, now)| now.state == State::Down && !self.memory.health.contains_key(key));
        for (key, _) in adopted {
            self.memory.reported.add_down(key.gateway);
        }
        let was = |key: &ProbeKey| match self
            .memory
            .health
            .get(key)
            .map_or(State::Unknown, |h| h.state)
        {
            State::Unknown if self.memory.reported.is_down(key.gateway) => State::Down,
            state => state,
        };
        // The annotations know addresses alone; another check of the same one may be what was down.
        let all_up = |key: &ProbeKey| {
            let seen = self
                .memory
                .health
                .get(key)
                .is_some_and(|h| h.state == State::Down);
            seen || health
                .iter()
                .all(|(other, now)| other.gateway != key.gateway || now.state == State::Up)
        };
        let (mut down, mut up, mut still) = (Vec::new(), Vec::new(), Vec::new());
        for (key, now) in health {
            match (was(key), now.state) {
                (State::Down, State::Up) if all_up(key) => up.push(key.gateway.to_string()),
                (State::Down, State::Down)
                    if self
                        .memory
                        .health
                        .get(key)
                        .is_none_or(|h| h.state != State::Down) =>
                {
                    still.push(key.gateway.to_string());
                }
                (State::Up | State::Unknown, State::Down) => {
                    down.push(format!(
                        "{} ({})",
                        key.gateway,
                        now.reason.as_deref().unwrap_or("no answer")
                    ));
                }
                _ => {}
            }
        }
        for list in [&mut down, &mut up, &mut still] {
            list.sort();
            list.dedup();
        }
        if !still.is_empty() {
            tracing::warn!(
                "Gateway down, as before the agent started: {}",
                still.join(", ")
            );
        }
        if !down.is_empty() {
            let note = format!("Gateway down: {}", down.join(", "));
            tracing::warn!("{note}");
            self.emit(Reason::GatewayDown, note);
        }
        if !up.is_empty() {
            let note = format!("Gateway up again: {}", up.join(", "));
            tracing::info!("{note}");
            self.emit(Reason::GatewayUp, note);
        }
        for (key, _) in health.iter().filter(|(_, now)| now.state == State::Up) {
            self.memory.reported.forget(key.gateway);
        }
        self.memory.health.clone_from(health);
    }
}

/// What the word stands for comes first, where it is none of the problems itself.
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

/// One word for all of it, and a sentence when it is not `Ready`.
fn verdict(
    course: &Course,
    rejected: Option<&str>,
    problems: &[Problem],
) -> (Overall, Option<String>) {
    let stays = match course.revision() {
        "" => "the routes that are there stay".to_owned(),
        revision => format!("revision {revision} stays in force"),
    };
    let (overall, message) = match (course.newest(), rejected) {
        (Newest::Refused { why, .. }, _) => (
            Overall::Invalid,
            format!("configuration refused, {stays}: {why}"),
        ),
        (_, Some(revision)) => (
            Overall::RolledBack,
            format!(
                "revision {revision} cut off the API server and was taken back; {stays} until the configuration changes"
            ),
        ),
        (Newest::Unknown, None) => (
            Overall::Degraded,
            "the configuration has not been read yet".to_owned(),
        ),
        (Newest::Good(newest), None) if course.in_force().is_none() => (
            Overall::Degraded,
            format!(
                "revision {} was never confirmed by an answer of the API server; it is asked now, and until then nothing is changed",
                newest.revision
            ),
        ),
        (Newest::Good(_), None) if problems.is_empty() => return (Overall::Ready, None),
        (Newest::Good(_), None) => (Overall::Degraded, Problem::join(problems)),
    };
    (
        overall,
        Some(message[..message.floor_char_boundary(LONGEST)].to_owned()),
    )
}
