//! What `nodes` makes of nodes, agents and the newest revision: a word per node, and whether that is what is waited for.
//!
//! Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use serde::Serialize;

use super::agents::{AgentState, Agents};
use crate::cluster::annotations::DRAINED;
use crate::cluster::client::PREFIX;

/// What a `ConfigMap` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// By the rule of docs/configuration.md; empty without `routes.yaml`.
    pub revision: String,
    /// Why agents will refuse it, if they will.
    pub refused: Option<String>,
}

/// A node as the API has it.
#[derive(Clone, Debug)]
pub struct NodeSeen {
    /// With labels and annotations.
    pub metadata: ObjectMeta,
    /// The node's own state as kubectl prints it, like `Ready,SchedulingDisabled`.
    pub state: String,
}

/// The cluster at one look.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// The `ConfigMap`'s.
    pub revision: String,
    /// Why agents refuse it, if they do.
    pub refused: Option<String>,
    /// By name.
    pub nodes: Vec<Row>,
    /// For stderr.
    #[serde(skip)]
    pub hints: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its name.
    pub node: String,
    /// The agent's own word; or `Outdated` (an older revision is in force), `Pending` (an agent that has not reported yet),
    /// `NotRunning` (its pod is not ready or not there, what it reported may be old), `NodeNotReady` (the node itself is not Ready),
    /// `Unmanaged` (it should have no agent, and what one reported is still there), `NoAgent` (it should have none).
    pub status: String,
    /// Whether it has an agent.
    pub agent: AgentState,
    /// The agent's pod.
    pub pod: Option<String>,
    /// The node's own state, like `Ready`.
    pub node_state: String,
    /// In force on the node.
    pub revision: Option<String>,
    /// In the kernel, and wanted there.
    pub routes: Option<Routes>,
    /// Their state by address.
    pub gateways: BTreeMap<IpAddr, String>,
    /// The node's.
    pub created: Option<Timestamp>,
    /// What is wrong.
    pub message: Option<String>,
}

/// Counts of prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Routes {
    /// On this node.
    pub wanted: usize,
    /// Of these, in the kernel.
    pub installed: usize,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The newest revision is in force.
    Applied,
    /// It is, and this gateway carries no flow.
    Drained(IpAddr),
}

impl Fleet {
    /// From one look.
    pub fn new(newest: &Newest, nodes: &[NodeSeen], agents: &Agents, hints: Vec<String>) -> Self {
        let mut rows: Vec<Row> = nodes
            .iter()
            .map(|node| Row::new(node, &newest.revision, agents))
            .collect();
        rows.sort_by(|one, other| one.node.cmp(&other.node));
        Self {
            revision: newest.revision.clone(),
            refused: newest.refused.clone(),
            nodes: rows,
            hints,
        }
    }

    /// The nodes that can have what is waited for.
    fn awaited(&self) -> impl Iterator<Item = &Row> {
        self.nodes.iter().filter(|row| row.is_awaited())
    }

    /// The nodes that do not have it yet.
    pub fn behind(&self, goal: Goal) -> impl Iterator<Item = &Row> {
        self.awaited().filter(move |row| !row.has(goal))
    }

    /// Whether every node that can has it. No node at all is not every node.
    pub fn reached(&self, goal: Goal) -> bool {
        self.awaited().next().is_some() && self.behind(goal).next().is_none()
    }

    /// Whether waiting is of no use: agents refuse the `ConfigMap` as it is, or it is reached.
    pub fn is_final(&self, goal: Goal) -> bool {
        self.refused.is_some() || self.reached(goal) || self.lacks_routes(goal)
    }

    /// Whether the `ConfigMap` has no `routes.yaml` and every node that had one reports so.
    fn lacks_routes(&self, goal: Goal) -> bool {
        self.revision.is_empty()
            && self.awaited().next().is_some()
            && self.behind(goal).all(|row| row.status == "Invalid")
    }

    /// Whether all is well on every node; `allow_missing` leaves out those that are not Ready themselves.
    pub fn all_ready(&self, allow_missing: bool) -> bool {
        self.refused.is_none()
            && self.awaited().next().is_some()
            && self.nodes.iter().all(|row| match row.status.as_str() {
                NODE_NOT_READY => allow_missing,
                UNMANAGED => false,
                READY => true,
                _ => !row.is_awaited(),
            })
    }

    /// A hint about nodes without an agent that still have routes.
    pub fn hint_at_unmanaged(&mut self) {
        let unmanaged = self.nodes.iter().filter(|row| row.status == UNMANAGED);
        if let Some(row) = unmanaged.clone().next() {
            self.hints.push(format!(
                "hint: the DaemonSet does not select {} of the nodes, like {}, and an agent's report and maybe its routes are still there; docs/install.md has the command that cleans up a node",
                unmanaged.count(),
                row.node
            ));
        }
    }

    /// One line on how far it is: `12/15 nodes have 0123456789ab, waiting for a, b, c and 2 more`.
    pub fn progress(&self, goal: Goal) -> String {
        const NAMED: usize = 3;
        let behind: Vec<&str> = self.behind(goal).map(|row| row.node.as_str()).collect();
        let all = self.awaited().count();
        let done = all - behind.len();
        let mut text = match goal {
            Goal::Applied if self.revision.is_empty() => {
                format!("{done}/{all} nodes have nothing in force")
            }
            Goal::Applied => format!("{done}/{all} nodes have {}", self.revision),
            Goal::Drained(gateway) => {
                format!("{gateway} carries no flow on {done}/{all} nodes")
            }
        };
        if !behind.is_empty() {
            let named = behind[..behind.len().min(NAMED)].join(", ");
            let _ = write!(text, ", waiting for {named}");
        }
        if behind.len() > NAMED {
            let _ = write!(text, " and {} more", behind.len() - NAMED);
        }
        text
    }
}

const READY: &str = "Ready";
const NODE_NOT_READY: &str = "NodeNotReady";
const UNMANAGED: &str = "Unmanaged";

impl Row {
    fn new(node: &NodeSeen, newest: &str, agents: &Agents) -> Self {
        let metadata = &node.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let reported = |key: &str| {
            let annotations = metadata.annotations.as_ref()?;
            let value = annotations.get(&format!("{PREFIX}{key}"))?;
            Some(clean(value)).filter(|text| !text.is_empty())
        };
        let none = BTreeMap::new();
        let labels = metadata.labels.as_ref().unwrap_or(&none);
        let (status, revision) = (reported("status"), reported("revision"));
        let agent = agents.state(&name, labels, status.is_some());
        let node_ready = node.state.split(',').any(|word| word == READY);
        let is_newest = revision.as_deref().unwrap_or_default() == newest;
        Self {
            status: word(agent, status, node_ready, is_newest),
            agent,
            pod: agents.pod(&name).map(|pod| pod.name.clone()),
            node: name,
            node_state: node.state.clone(),
            revision,
            routes: reported("routes").and_then(|text| routes(&text)),
            gateways: gateways(&reported("gateways").unwrap_or_default()),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            message: reported("message"),
        }
    }

    fn is_awaited(&self) -> bool {
        self.agent.expected() && self.status != NODE_NOT_READY
    }

    fn has(&self, goal: Goal) -> bool {
        let applied = matches!(self.status.as_str(), READY | "Degraded");
        match goal {
            Goal::Applied => applied,
            // A set that is not for this node is not reported: the gateway is not there either. One that is down is out of every group.
            Goal::Drained(gateway) => {
                let state = self.gateways.get(&gateway).map(String::as_str);
                applied && matches!(state, None | Some(DRAINED | "down" | "unusable"))
            }
        }
    }
}

fn word(agent: AgentState, status: Option<String>, node_ready: bool, is_newest: bool) -> String {
    let word = match (agent, status) {
        (AgentState::Absent, _) => "NoAgent",
        (AgentState::Unmanaged, _) => UNMANAGED,
        (AgentState::Running | AgentState::NotReady, Some(word))
            if matches!(word.as_str(), "Invalid" | "RolledBack") =>
        {
            return word;
        }
        (AgentState::Running, Some(word)) if is_newest => return word,
        _ if !node_ready => NODE_NOT_READY,
        (_, None) => "Pending",
        (AgentState::Running, Some(_)) => "Outdated",
        (_, Some(_)) => "NotRunning",
    };
    word.to_owned()
}

/// `2048/2050`: installed, wanted.
fn routes(text: &str) -> Option<Routes> {
    let (installed, wanted) = text.split_once('/')?;
    Some(Routes {
        wanted: wanted.parse().ok()?,
        installed: installed.parse().ok()?,
    })
}

/// `10.116.0.5=up,10.116.0.6=down`; what else is there counts for nothing.
fn gateways(text: &str) -> BTreeMap<IpAddr, String> {
    let entry = |entry: &str| {
        let (address, state) = entry.split_once('=')?;
        Some((address.parse().ok()?, state.to_owned()))
    };
    text.split(',').filter_map(entry).collect()
}

/// Anybody who may patch a node can write its annotations: no line breaks and no terminal control from there.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
pub(super) mod tests;
