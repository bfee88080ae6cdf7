//! What is worth a log line or an Event: the difference of two reports.
//!
//! Pure. A report is made by `report`; whatever is the same in both was reported already, also by an earlier agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::annotations::Reported;
use crate::health::{ADOPTED, HealthView, State};
use crate::net::prefix::Family;
use crate::report::status::{GatewayState, NodeEvent, Problem, ProblemKind, Reason};

#[cfg(test)]
mod tests;

/// Everything that transitions are made of.
#[derive(Debug, Default)]
pub struct Report {
    /// Gateways, by address.
    pub gateways: BTreeMap<IpAddr, Gateway>,
    /// Sets and families without a healthy gateway: in words, and the gateways.
    pub down: BTreeMap<(String, Family), (String, Vec<IpAddr>)>,
    /// The newest configuration was refused: its revision, and why.
    pub refused: Option<(Option<String>, String)>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Worth a line although nothing is wrong on this node.
    pub notes: Vec<String>,
    /// What takes traffic past the routes, each once, and all of it in a sentence.
    pub bypassed: (Vec<String>, Option<String>),
    /// Policy rules that no lookup can evaluate.
    pub not_evaluated: Vec<String>,
    /// More specific routes of others inside destinations, in words; whether the set has leak guards.
    pub overridden: Vec<(String, bool)>,
    /// Where the rollout is.
    pub stage: Stage,
    /// The revision that a change would bring, or brought.
    pub change: Option<String>,
    /// The change is another revision, not only other routes of the one in force.
    pub is_edit: bool,
    /// What is in force, complete.
    pub in_force: Option<InForce>,
    /// Routes and nexthop objects that had vanished and were restored, since the start.
    pub restored: (usize, usize),
    /// What an earlier agent reported.
    pub earlier: Reported,
}

/// One gateway, in all sets that use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Down where any check of it is, up where all are.
    pub state: State,
    /// Why it is down.
    pub reason: String,
}

/// Where the rollout is, as far as it is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The kernel has not been read yet.
    #[default]
    Starting,
    /// Nothing is undecided.
    Settled,
    /// A change is being made.
    Changing,
    /// A change is being made that nothing guards; after a rollback the one that was not the cause.
    Reapplying,
    /// A change waits for an answer of the API server.
    Confirming,
    /// A change is being reverted.
    RollingBack,
    /// A change was reverted, and the API server is asked whether that helped.
    RolledBack,
    /// An earlier agent left an unconfirmed change.
    Inherited,
}

/// A configuration that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its revision.
    pub revision: String,
    /// Its routes on this node.
    pub routes: usize,
    /// Its sets that have routes on this node.
    pub sets: usize,
    /// Something had to be written for it.
    pub written: bool,
}

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something changed.
    Info,
    /// Something is degraded, or tried again.
    Warn,
    /// A person has to act.
    Error,
}

/// One log line, and the Event that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// How loud.
    pub level: Level,
    /// The line.
    pub line: String,
    /// The Event, where a cluster wants to know.
    pub event: Option<NodeEvent>,
}

impl Report {
    /// What an earlier agent reported, by the node's annotations: what has not changed since is no transition.
    pub fn of_annotations(earlier: Reported) -> Self {
        Self {
            earlier,
            ..Self::default()
        }
    }

    /// The gateways of a view. One that has no verdict now is what it was `before`.
    pub fn gateways_of(
        health: &HealthView,
        before: &BTreeMap<IpAddr, Gateway>,
    ) -> BTreeMap<IpAddr, Gateway> {
        let mut gateways: BTreeMap<IpAddr, Gateway> = BTreeMap::new();
        for (key, now) in health {
            let reason = now.reason.clone().unwrap_or_else(|| "no answer".to_owned());
            let entry = gateways.entry(key.gateway).or_insert_with(|| Gateway {
                state: now.state,
                reason: reason.clone(),
            });
            match (entry.state, now.state) {
                (State::Down, _) => {}
                (_, State::Down) => {
                    *entry = Gateway {
                        state: State::Down,
                        reason,
                    }
                }
                (State::Up, State::Unknown) => entry.state = State::Unknown,
                _ => {}
            }
        }
        for (address, gateway) in &mut gateways {
            if let (State::Unknown, Some(before)) = (gateway.state, before.get(address)) {
                gateway.clone_from(before);
            }
        }
        gateways
    }
}

/// The lines and Events between two reports, the older first.
pub fn transitions(before: &Report, after: &Report) -> Vec<Transition> {
    let mut all = Vec::new();
    of_gateways(before, after, &mut all);
    of_sets(before, after, &mut all);
    of_configuration(before, after, &mut all);
    of_rollout(before, after, &mut all);
    of_problems(before, after, &mut all);
    of_lookups(before, after, &mut all);
    of_repairs(before, after, &mut all);
    all
}

fn line(level: Level, line: String) -> Transition {
    Transition {
        level,
        line,
        event: None,
    }
}

fn with_event(level: Level, reason: Reason, note: String) -> Transition {
    Transition {
        level,
        line: note.clone(),
        event: Some(NodeEvent { reason, note }),
    }
}

fn of_gateways(before: &Report, after: &Report, all: &mut Vec<Transition>) {
    let (mut down, mut up, mut still) = (Vec::new(), Vec::new(), Vec::new());
    for (address, now) in &after.gateways {
        let was = before
            .gateways
            .get(address)
            .map_or(State::Unknown, |g| g.state);
        let known_down = before.earlier.is_down(*address) || now.reason == ADOPTED;
        match (was, now.state) {
            (State::Down, State::Up) => up.push(address.to_string()),
            (State::Unknown, State::Up) if before.earlier.is_down(*address) => {
                up.push(address.to_string());
            }
            (State::Unknown, State::Down) if known_down => still.push(address.to_string()),
            (State::Up | State::Unknown, State::Down) => {
                down.push(format!("{address} ({})", now.reason));
            }
            _ => {}
        }
    }
    if !still.is_empty() {
        let still = still.join(", ");
        all.push(line(
            Level::Warn,
            format!("Gateway down, as before the agent started: {still}"),
        ));
    }
    if !down.is_empty() {
        let note = format!("Gateway down: {}", down.join(", "));
        all.push(with_event(Level::Warn, Reason::GatewayDown, note));
    }
    if !up.is_empty() {
        let note = format!("Gateway up again: {}", up.join(", "));
        all.push(with_event(Level::Info, Reason::GatewayUp, note));
    }
}

/// One line and Event for each family: IPv6 that fails an hour after IPv4 is another failure.
fn of_sets(before: &Report, after: &Report, all: &mut Vec<Transition>) {
    for family in [Family::V4, Family::V6] {
        let new = after
            .down
            .iter()
            .filter(|(key, _)| key.1 == family && !before.down.contains_key(key));
        let (known, news): (Vec<_>, Vec<_>) = new
            .map(|(_, down)| down)
            .partition(|(_, gateways)| gateways.iter().all(|g| before.earlier.is_down(*g)));
        for (list, is_known) in [(known, true), (news, false)] {
            let words: Vec<_> = list.iter().map(|(words, _)| words.as_str()).collect();
            if words.is_empty() {
                continue;
            }
            let note = words.join("; ");
            all.push(Transition {
                level: Level::Error,
                line: format!("No healthy gateway: {note}"),
                event: (!is_known).then_some(NodeEvent {
                    reason: Reason::NoHealthyGateway,
                    note,
                }),
            });
        }
    }
}

fn of_configuration(before: &Report, after: &Report, all: &mut Vec<Transition>) {
    let was_refused = before.refused.as_ref();
    if let Some((revision, why)) = after
        .refused
        .as_ref()
        .filter(|now| was_refused != Some(now))
    {
        let revision = revision.as_deref().unwrap_or("unknown");
        let known = before.earlier.is_refused(why);
        let event = NodeEvent {
            reason: Reason::ConfigRejected,
            note: format!("Configuration refused (revision {revision}): {why}"),
        };
        all.push(Transition {
            level: Level::Error,
            line: format!("Configuration refused, the last good one stays: {why}"),
            event: (!known).then_some(event),
        });
    }
    let was = before.in_force.as_ref();
    if let Some(now) = &after.in_force
        && was.is_none_or(|was| was.revision != now.revision)
    {
        all.push(of_revision(was.map_or(0, |was| was.routes), now));
    }
}

/// Another revision is in force; `gone` is how many routes the one before had.
fn of_revision(gone: usize, now: &InForce) -> Transition {
    let InForce {
        revision,
        routes,
        sets,
        written,
    } = now;
    if *written && *routes == 0 && gone > 0 {
        let note =
            format!("Revision {revision} has no route for this node: all {gone} were removed");
        return with_event(Level::Warn, Reason::AllRoutesRemoved, note);
    }
    let (route_s, set_s) = (plural(*routes, "route"), plural(*sets, "set"));
    let event = NodeEvent {
        reason: Reason::RoutesApplied,
        note: format!("Revision {revision} applied: {routes} {route_s} of {sets} {set_s}"),
    };
    Transition {
        level: Level::Info,
        line: format!(
            "Configuration in force: revision {revision}, {routes} {route_s} of {sets} {set_s}"
        ),
        event: written.then_some(event),
    }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

fn of_rollout(before: &Report, after: &Report, all: &mut Vec<Transition>) {
    if before.stage == after.stage {
        return;
    }
    let revision = after
        .change
        .as_deref()
        .or(before.change.as_deref())
        .unwrap_or("unknown");
    let back = match &after.in_force {
        Some(in_force) if after.is_edit && in_force.revision != revision => {
            format!("revision {}", in_force.revision)
        }
        _ => "what was there before".to_owned(),
    };
    match (before.stage, after.stage) {
        (Stage::Starting, Stage::Inherited) => all.push(line(
            Level::Warn,
            "An earlier agent ended before its change was confirmed; asking the API server before writing".to_owned(),
        )),
        (Stage::Inherited, Stage::RollingBack) => all.push(with_event(
            Level::Error,
            Reason::RolledBack,
            "The API server does not answer: all of the agent's routes are removed, because only the agent that ended knew the previous state".to_owned(),
        )),
        (_, Stage::RollingBack) if after.is_edit => all.push(with_event(
            Level::Error,
            Reason::RolledBack,
            format!("Revision {revision} reverted: the API server did not answer after it was applied; {back} is in force until the configuration changes"),
        )),
        (_, Stage::RollingBack) => all.push(with_event(
            Level::Error,
            Reason::RolledBack,
            format!("New routes of revision {revision} reverted: the API server did not answer after they were applied; the earlier ones are in force until labels, links or configuration change"),
        )),
        (Stage::Confirming, Stage::Settled) => all.push(line(
            Level::Info,
            format!("Change confirmed: the API server answers (revision {revision})"),
        )),
        (Stage::RolledBack, Stage::Reapplying) => all.push(line(
            Level::Warn,
            "The API server is still unreachable after the rollback, so the change is not the cause; re-applying it".to_owned(),
        )),
        (Stage::RolledBack, Stage::Settled) if !before.is_edit => all.push(line(
            Level::Error,
            format!("The API server answers again: new routes of revision {revision} are confirmed as the cause and are not tried again"),
        )),
        (Stage::RolledBack, Stage::Settled) => all.push(line(
            Level::Error,
            format!("The API server answers again: revision {revision} is confirmed as the cause and is not tried again"),
        )),
        (Stage::Starting, Stage::Settled) if after.change.is_some() => all.push(line(
            Level::Warn,
            format!("Revision {revision} was reverted before the agent started; the routes in the kernel stay until the configuration changes"),
        )),
        _ => {}
    }
}

/// Kinds that have a line of their own above, or come and go with a change.
const fn has_own_line(kind: ProblemKind) -> bool {
    matches!(
        kind,
        ProblemKind::ConfigRefused
            | ProblemKind::RolledBack
            | ProblemKind::NoHealthyGateway
            | ProblemKind::Bypassed
            | ProblemKind::Unconfirmed
            | ProblemKind::Undecided
    )
}

fn of_problems(before: &Report, after: &Report, all: &mut Vec<Transition>) {
    let key = |problem: &Problem| (problem.kind, problem.set.clone());
    let known: BTreeSet<_> = before.problems.iter().map(key).collect();
    let now: BTreeSet<_> = after.problems.iter().map(key).collect();
    for problem in after
        .problems
        .iter()
        .filter(|p| !has_own_line(p.kind) && !known.contains(&key(p)))
    {
        let level = if problem.kind == ProblemKind::KernelFailed {
            Level::Error
        } else {
            Level::Warn
        };
        all.push(line(level, problem.text.clone()));
    }
    for problem in before
        .problems
        .iter()
        .filter(|p| p.kind == ProblemKind::NotInstalled && !now.contains(&key(p)))
    {
        all.push(line(Level::Info, format!("No longer: {}", problem.text)));
    }
    if !after.notes.is_empty() && after.notes != before.notes {
        all.push(line(Level::Warn, after.notes.join("; ")));
    }
}

fn of_lookups(before: &Report, after: &Report, all: &mut Vec<Transition>) {
    let five = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    let (by, words) = &after.bypassed;
    let was = !before.bypassed.0.is_empty();
    match words {
        Some(words) if *by != before.bypassed.0 => all.push(Transition {
            level: Level::Warn,
            line: format!("Traffic bypasses the routes: {}", five(by)),
            event: (!was).then(|| NodeEvent {
                reason: Reason::TrafficBypassed,
                note: words.clone(),
            }),
        }),
        None if was => all.push(line(
            Level::Info,
            "Traffic no longer bypasses the routes".to_owned(),
        )),
        _ => {}
    }
    if !after.not_evaluated.is_empty() && after.not_evaluated != before.not_evaluated {
        let rules = five(&after.not_evaluated);
        all.push(line(
            Level::Info,
            format!("Policy rules that no lookup can evaluate: {rules}"),
        ));
    }
    for (words, guarded) in after
        .overridden
        .iter()
        .filter(|now| !before.overridden.contains(now))
    {
        all.push(match guarded {
            true => line(Level::Warn, format!("{words}, despite its leak guard")),
            false => line(Level::Info, words.clone()),
        });
    }
}

fn of_repairs(before: &Report, after: &Report, all: &mut Vec<Transition>) {
    let (routes, nexthops) = (
        after.restored.0 - before.restored.0,
        after.restored.1 - before.restored.1,
    );
    if routes + nexthops > 0 {
        let note = format!(
            "{routes} {} and {nexthops} {} had vanished and were restored",
            plural(routes, "route"),
            plural(nexthops, "nexthop")
        );
        all.push(Transition {
            level: Level::Warn,
            line: format!("Routes restored: {note}"),
            event: Some(NodeEvent {
                reason: Reason::RoutesRestored,
                note,
            }),
        });
    }
}

/// What an earlier agent reported still holds until every gateway has a verdict: whatever comes next is news.
pub fn outlives(after: &Report, states: impl Iterator<Item = GatewayState>) -> bool {
    after.in_force.is_none()
        || states
            .into_iter()
            .any(|state| state == GatewayState::Unknown)
}
