//! Whether a node has an agent, and whether it should: the one decision on it.
//!
//! Pure. Follows the `DaemonSet` controller: a pod that is being deleted, or has failed, is none.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};
use serde::Serialize;

/// A node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentState {
    /// Its pod is ready, or pods may not be listed and it has reported.
    Running,
    /// Its pod is not ready: what it reported may be old.
    NotReady,
    /// It should have one.
    Missing,
    /// It should have none, and what an agent reported is still there: its routes may be, too.
    Unmanaged,
    /// It should have none.
    Absent,
}

impl AgentState {
    /// Whether an agent is, or should be, on the node.
    pub fn expected(self) -> bool {
        matches!(self, Self::Running | Self::NotReady | Self::Missing)
    }
}

/// What is known of the `DaemonSet`.
#[derive(Clone, Debug, PartialEq)]
pub enum Installed {
    /// It is there.
    As(Box<DaemonSet>),
    /// It is not there.
    Not,
    /// It may not be read.
    Unknown,
}

/// The pod of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Its name.
    pub name: String,
    /// Whether the kubelet calls it ready.
    pub ready: bool,
}

/// All agents.
#[derive(Clone, Debug)]
pub struct Agents {
    /// By node; `None` when pods may not be listed.
    pods: Option<BTreeMap<String, AgentPod>>,
    installed: Installed,
}

impl Agents {
    /// From what could be read.
    pub fn new(pods: Option<&[Pod]>, installed: Installed) -> Self {
        Self {
            pods: pods.map(by_node),
            installed,
        }
    }

    /// The agent's pod on a node.
    pub fn pod(&self, node: &str) -> Option<&AgentPod> {
        self.pods.as_ref()?.get(node)
    }

    /// `reported`: the node has annotations of an agent.
    pub fn state(
        &self,
        node: &str,
        labels: &BTreeMap<String, String>,
        reported: bool,
    ) -> AgentState {
        let wanted = self.selects(node, labels);
        match self.pod(node) {
            Some(pod) if pod.ready => return AgentState::Running,
            Some(_) => return AgentState::NotReady,
            // Whether there is a pod is unknown: the report counts.
            None if self.pods.is_none() && reported && wanted != Some(false) => {
                return AgentState::Running;
            }
            None => {}
        }
        match wanted {
            Some(true) if self.lacks_pods() => AgentState::Missing,
            Some(_) if reported => AgentState::Unmanaged,
            // Whether there should be a pod is unknown: nodes that have reported need one; if no pods are visible, all do.
            None if self.pods.is_none() || reported => AgentState::Missing,
            Some(_) | None => AgentState::Absent,
        }
    }

    /// Whether the `DaemonSet` is for the node; `None` when that cannot be known.
    fn selects(&self, node: &str, labels: &BTreeMap<String, String>) -> Option<bool> {
        match &self.installed {
            Installed::Unknown => None,
            Installed::Not => Some(false),
            Installed::As(set) => {
                let spec = set.spec.template.spec.as_ref()?;
                Some(selects(spec, node, labels))
            }
        }
    }

    /// Whether pods are still to be created. Where none are, a taint keeps the agent from a node that the selectors fit.
    fn lacks_pods(&self) -> bool {
        let Installed::As(set) = &self.installed else {
            return false;
        };
        let Some(status) = &set.status else {
            return true;
        };
        let count = |n: i32| usize::try_from(n).unwrap_or(0);
        let there = self
            .pods
            .as_ref()
            .map_or_else(|| count(status.current_number_scheduled), BTreeMap::len);
        status.observed_generation < set.metadata.generation
            || there < count(status.desired_number_scheduled)
    }
}

/// As the scheduler reads a pod's `nodeSelector` and required node affinity.
fn selects(spec: &PodSpec, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let mut pairs = spec.node_selector.iter().flatten();
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    pairs.all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| {
            let mut terms = required.node_selector_terms.iter();
            terms.any(|term| fits(term, node, labels))
        })
}

/// A term without requirements fits no node.
fn fits(term: &NodeSelectorTerm, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |r: &NodeSelectorRequirement| holds(r, labels.get(&r.key).map(String::as_str));
    let field = |r: &NodeSelectorRequirement| holds(r, (r.key == "metadata.name").then_some(node));
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(label)
        && fields.iter().all(field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value| values.iter().any(|listed| listed == value);
    let compared = |wanted: std::cmp::Ordering| {
        let number = |text: &str| text.parse::<i64>().ok();
        let limit = values.first().and_then(|text| number(text));
        match (value.and_then(number), limit) {
            (Some(value), Some(limit)) => value.cmp(&limit) == wanted,
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        _ => false,
    }
}

fn by_node(pods: &[Pod]) -> BTreeMap<String, AgentPod> {
    let mut found = BTreeMap::<String, AgentPod>::new();
    for pod in pods.iter().filter(|pod| is_there(pod)) {
        for node in node_names(pod) {
            let agent = AgentPod {
                name: pod.metadata.name.clone().unwrap_or_default(),
                ready: is_ready(pod),
            };
            let known = found.entry(node).or_insert_with(|| agent.clone());
            if agent.ready {
                *known = agent;
            }
        }
    }
    found
}

fn is_there(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A pod that is not bound yet names its node in an affinity that the `DaemonSet` controller gave it.
fn node_names(pod: &Pod) -> BTreeSet<String> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    if let Some(node) = &spec.node_name {
        return BTreeSet::from([node.clone()]);
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let fields = required
        .iter()
        .flat_map(|required| &required.node_selector_terms)
        .flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == "metadata.name")
        .flat_map(|field| field.values.iter().flatten())
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn running(node: &str) -> Pod {
        pod(
            json!({"metadata": {"name": format!("agent-{node}")}, "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        )
    }

    /// A `DaemonSet` with a pod specification, whose controller has seen it and wants so many pods.
    fn installed(spec: serde_json::Value, desired: i32) -> Installed {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let set = json!({"metadata": {"generation": 2}, "spec": {"selector": {}, "template": {"spec": spec}},
            "status": {"observedGeneration": 2, "desiredNumberScheduled": desired, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}});
        Installed::As(serde_json::from_value(set).unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn web() -> serde_json::Value {
        json!({"nodeSelector": {"pool": "web"}})
    }

    #[test]
    fn a_node_of_a_narrowed_daemonset_that_has_reported_is_unmanaged() {
        let agents = Agents::new(Some(&[running("node1")]), installed(web(), 1));
        let batch = labels(&[("pool", "batch")]);
        assert_eq!(agents.state("node2", &batch, true), AgentState::Unmanaged);
        assert_eq!(agents.state("node2", &batch, false), AgentState::Absent);
        let web = labels(&[("pool", "web")]);
        assert_eq!(agents.state("node1", &web, true), AgentState::Running);
        let uninstalled = Agents::new(Some(&[]), Installed::Not);
        assert_eq!(
            uninstalled.state("node1", &web, true),
            AgentState::Unmanaged
        );
        assert_eq!(uninstalled.state("node1", &web, false), AgentState::Absent);
    }

    #[test]
    fn a_node_that_the_daemonset_wants_is_missed_until_its_pod_is_there() {
        let web_node = labels(&[("pool", "web")]);
        let rolling = Agents::new(Some(&[running("node1")]), installed(web(), 2));
        for reported in [true, false] {
            assert_eq!(
                rolling.state("node2", &web_node, reported),
                AgentState::Missing
            );
        }
        // All that it wants are there: a taint keeps it from this node.
        let complete = Agents::new(Some(&[running("node1")]), installed(web(), 1));
        assert_eq!(
            complete.state("node2", &web_node, false),
            AgentState::Absent
        );
    }

    #[test]
    fn counts_of_an_older_generation_say_nothing() {
        let Installed::As(mut set) = installed(web(), 1) else {
            panic!("not installed")
        };
        set.metadata.generation = Some(3);
        let agents = Agents::new(Some(&[running("node1")]), Installed::As(set));
        assert_eq!(
            agents.state("node2", &labels(&[("pool", "web")]), false),
            AgentState::Missing
        );
    }

    #[test]
    fn a_pod_that_is_being_deleted_or_was_evicted_is_none() {
        let ending = pod(
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-11-20T10:00:00Z"},
            "spec": {"nodeName": "node1", "containers": []}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        let evicted = pod(
            json!({"spec": {"nodeName": "node1", "containers": []}, "status": {"phase": "Failed"}}),
        );
        for pod in [ending, evicted] {
            let agents = Agents::new(Some(&[pod]), installed(web(), 1));
            assert_eq!(
                agents.state("node1", &labels(&[("pool", "web")]), true),
                AgentState::Missing
            );
        }
    }

    #[test]
    fn who_may_read_little_takes_reports_for_agents() {
        let none = labels(&[]);
        let no_daemonset = Agents::new(Some(&[running("node1")]), Installed::Unknown);
        assert_eq!(
            no_daemonset.state("node2", &none, true),
            AgentState::Missing
        );
        assert_eq!(
            no_daemonset.state("node2", &none, false),
            AgentState::Absent
        );
        let nothing = Agents::new(None, Installed::Unknown);
        assert_eq!(nothing.state("node1", &none, true), AgentState::Running);
        assert_eq!(nothing.state("node1", &none, false), AgentState::Missing);
        let no_pods = Agents::new(None, installed(web(), 1));
        assert_eq!(no_pods.state("node1", &none, true), AgentState::Unmanaged);
        let web_node = labels(&[("pool", "web")]);
        assert_eq!(no_pods.state("node1", &web_node, true), AgentState::Running);
    }

    #[test]
    fn a_pod_that_is_not_bound_yet_is_on_the_node_of_its_affinity() {
        let unbound = pod(
            json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node2"]}]}
                ]}
            }}}}),
        );
        let agents = Agents::new(Some(&[unbound]), installed(json!({}), 1));
        assert_eq!(
            agents.state("node2", &labels(&[]), false),
            AgentState::NotReady
        );
    }

    #[test]
    fn selectors_hold_as_the_scheduler_reads_them() {
        let spec = |expressions: serde_json::Value| -> PodSpec {
            serde_json::from_value(json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
            }}}))
            .unwrap()
        };
        let node = labels(&[("type", "worker"), ("cores", "8")]);
        for (expressions, selected) in [
            (
                json!([{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]),
                true,
            ),
            (
                json!([{"key": "type", "operator": "In", "values": ["virtual-kubelet"]}]),
                false,
            ),
            (
                json!([{"key": "fargate", "operator": "NotIn", "values": ["fargate"]}]),
                true,
            ),
            (json!([{"key": "fargate", "operator": "Exists"}]), false),
            (
                json!([{"key": "fargate", "operator": "DoesNotExist"}]),
                true,
            ),
            (
                json!([{"key": "cores", "operator": "Gt", "values": ["4"]}]),
                true,
            ),
            (
                json!([{"key": "cores", "operator": "Lt", "values": ["8"]}]),
                false,
            ),
            (
                json!([{"key": "type", "operator": "Gt", "values": ["4"]}]),
                false,
            ),
            (
                json!([{"key": "type", "operator": "Exists"}, {"key": "x", "operator": "Exists"}]),
                false,
            ),
            (json!([]), false),
        ] {
            assert_eq!(
                selects(&spec(expressions.clone()), "node1", &node),
                selected,
                "{expressions}"
            );
        }
    }
}
