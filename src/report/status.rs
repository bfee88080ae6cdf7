//! The agent's report of itself: the value behind `status -o json`, `/status`, annotations, Events and gauges.
//!
//! Pure. Built by `agent` from a `resolve` result and a read-back; published by `report`, `http` and `metrics`.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The JSON of contract section 6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node's name; the host name without a cluster.
    pub node: String,
    /// Whether an agent made this report; without one nothing is probed or kept up.
    pub agent: Agent,
    /// One word.
    pub status: Overall,
    /// The revision in force; empty before the first.
    pub revision: String,
    /// One sentence for a person; absent when Ready.
    pub message: Option<String>,
    /// All that is wrong, one by one; empty when Ready.
    pub problems: Vec<Problem>,
    /// The sets that apply to this node, in the order of the file.
    pub sets: Vec<SetStatus>,
    /// The newest revision, when it was refused or rolled back.
    pub rejected_revision: Option<String>,
    /// When the last change was verified in the kernel.
    pub last_applied_at: Option<Timestamp>,
}

/// Who made a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// The agent of this network namespace.
    Running,
    /// No agent runs here: a command compared configuration and kernel itself.
    Absent,
}

/// One thing that is wrong on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, for a program.
    pub kind: ProblemKind,
    /// The route set that it concerns; absent when it concerns the node.
    pub set: Option<String>,
    /// What is wrong, for a person.
    pub text: String,
}

impl Problem {
    /// A problem of the whole node.
    pub fn of_node(kind: ProblemKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            set: None,
            text: text.into(),
        }
    }

    /// A problem of one route set.
    pub fn of_set(kind: ProblemKind, set: &str, text: impl Into<String>) -> Self {
        Self {
            kind,
            set: Some(set.to_owned()),
            text: text.into(),
        }
    }

    /// The texts in one line, for a message.
    pub fn join(problems: &[Self]) -> String {
        let texts: Vec<&str> = problems.iter().map(|p| p.text.as_str()).collect();
        texts.join("; ")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProblemKind {
    /// The newest configuration was refused.
    ConfigRefused,
    /// A change was reverted because the API server did not answer after it.
    RolledBack,
    /// A change waits for an answer of the API server.
    Unconfirmed,
    /// Something that the decision needs is not known yet, like the node's labels.
    Undecided,
    /// No agent runs here.
    NoAgent,
    /// The kernel's routes could not be read or written.
    KernelFailed,
    /// Wanted routes are not in the kernel.
    NotInstalled,
    /// A foreign route of the same prefix has a lower metric.
    Shadowed,
    /// A foreign route inside a destination takes part of its traffic.
    Overridden,
    /// A policy rule or another route takes a destination's traffic past its gateway.
    Bypassed,
    /// A gateway is not on-link, the node's own, or a network or broadcast address.
    GatewayUnusable,
    /// No gateway of the set is healthy.
    NoHealthyGateway,
    /// A gateway cannot drain, because no other one is healthy.
    NotDrained,
}

/// One word for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overall {
    /// All that is wanted is in force.
    Ready,
    /// Something wanted is not in force, or a set has no healthy gateway.
    Degraded,
    /// The newest configuration was refused.
    Invalid,
    /// The newest configuration cut off the API server and was reverted.
    RolledBack,
}

/// One route set on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetStatus {
    /// Its name.
    pub name: String,
    /// `balance` or `failover`.
    pub strategy: String,
    /// `hold`, `withdraw` or `blackhole`.
    pub when_down: String,
    /// In listed order.
    pub gateways: Vec<GatewayStatus>,
    /// Prefixes wanted on this node.
    pub wanted: usize,
    /// Of these, in the kernel.
    pub installed: usize,
    /// Destinations that are not routed as written, with the reason; the first [`SKIPPED_SHOWN`].
    pub skipped: Vec<Skipped>,
    /// Destinations of which a foreign, more specific route takes a part; the first [`SKIPPED_SHOWN`].
    pub overridden: Vec<Taken>,
    /// Destinations whose traffic does not take the set's gateways; the first [`SKIPPED_SHOWN`].
    pub bypassed: Vec<Taken>,
}

/// How many skipped destinations a report lists per set.
pub const SKIPPED_SHOWN: usize = 1000;

/// One gateway of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Its address.
    pub address: IpAddr,
    /// What is known of it.
    pub state: GatewayState,
    /// Whether the set's routes go through it now.
    pub active: bool,
    /// Its share of a balanced set's flows, relative to the others.
    pub weight: u32,
    /// How many buckets of a resilient group lead to it; absent where the kernel does not count them.
    pub buckets: Option<u32>,
    /// Round-trip time of the last successful probe, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Why it is not up; for a person.
    pub reason: Option<String>,
}

/// What is known of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayState {
    /// Answers its probe, or is not probed.
    Up,
    /// Does not.
    Down,
    /// No verdict yet.
    Unknown,
    /// Not on-link, the node's own, or a network or broadcast address.
    Unusable,
    /// Keeps the flows it has until they are idle, and gets no other.
    Draining,
}

impl GatewayState {
    /// As it is printed everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::Unusable => "unusable",
            Self::Draining => "draining",
        }
    }
}

/// A destination whose traffic something else takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// As a CIDR.
    pub destination: String,
    /// The rule or route that takes it, for a person.
    pub by: String,
}

/// A destination that is not routed as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// As a CIDR.
    pub destination: String,
    /// For a person.
    pub reason: String,
}

/// A transition worth one log line and one Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Which.
    pub reason: Reason,
    /// One sentence, counts and up to five examples.
    pub note: String,
}

/// The closed set of Event reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A new configuration is in the kernel.
    RoutesApplied,
    /// The newest configuration was refused.
    ConfigRejected,
    /// A gateway went down.
    GatewayDown,
    /// A gateway came up again.
    GatewayUp,
    /// A set has no healthy gateway.
    NoHealthyGateway,
    /// What vanished from the kernel was restored.
    RoutesRestored,
    /// A change cut off the API server and was reverted.
    RolledBack,
    /// An edit left this node without a route set: all of the agent's routes were removed.
    AllRoutesRemoved,
    /// A policy rule or another table takes traffic past the routes.
    TrafficBypassed,
    /// A drained gateway carries no flow any more.
    GatewayDrained,
}

impl Reason {
    /// Whether the Event is a `Warning`; others are `Normal`.
    pub const fn is_warning(self) -> bool {
        !matches!(
            self,
            Self::RoutesApplied | Self::GatewayUp | Self::GatewayDrained
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A set of 2,050 wanted and 2,048 installed prefixes.
    pub(crate) fn set(name: &str, gateways: &[(&str, GatewayState)]) -> SetStatus {
        let gateway = |&(address, state): &(&str, GatewayState)| GatewayStatus {
            address: address.parse().unwrap(),
            state,
            active: state == GatewayState::Up,
            weight: 1,
            buckets: None,
            rtt_ms: (state == GatewayState::Up).then_some(0.5),
            reason: (state == GatewayState::Down).then(|| "no answer".to_owned()),
        };
        SetStatus {
            name: name.into(),
            strategy: "balance".into(),
            when_down: "hold".into(),
            gateways: gateways.iter().map(gateway).collect(),
            wanted: 2050,
            installed: 2048,
            skipped: Vec::new(),
            overridden: Vec::new(),
            bypassed: Vec::new(),
        }
    }

    /// One set, one gateway up and one down, two prefixes missing.
    pub(crate) fn example() -> Status {
        Status {
            node: "node1".into(),
            agent: Agent::Running,
            status: Overall::Degraded,
            revision: "0123456789ab".into(),
            message: Some("Set `clouds`: 2 of 2050 prefixes are not in the kernel".into()),
            problems: vec![Problem::of_set(
                ProblemKind::NotInstalled,
                "clouds",
                "Set `clouds`: 2 of 2050 prefixes are not in the kernel",
            )],
            sets: vec![set(
                "clouds",
                &[
                    ("10.116.0.6", GatewayState::Down),
                    ("10.116.0.5", GatewayState::Up),
                ],
            )],
            rejected_revision: None,
            last_applied_at: Some(Timestamp::from_second(1_800_000_000).unwrap()),
        }
    }
}
