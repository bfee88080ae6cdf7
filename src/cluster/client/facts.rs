//! Keeps what the API tells about this node: one small read a minute.
//!
//! A round reads the node's metadata: labels for selectors, our annotations for `report`. Once per start the whole node
//! is read, for its pod CIDRs. The addresses behind the `kubernetes` Service are read at the start, after any trouble with
//! the API, when asked to (a new configuration), and with the metadata once in [`ENDPOINTS_EVERY`] rounds.
//! Without an answer the last one stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::PREFIX;
use super::{Api, Backoff, code, explain, phase};
use crate::net::prefix::Prefix;
use crate::routing::node_facts::{Facts, NodeFacts};

/// "Label changes are noticed within a minute at no more than one small request a minute per node."
const EVERY: Duration = Duration::from_mins(1);
/// The first pause after a failure at the start of a node, when the API is seldom away for long and more depends on it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The first pause after a failure later on: a server that has too much to do gets no more of it.
const LATER_PAUSE: Duration = Duration::from_secs(10);
/// In rounds. API servers come and go rarely, and mostly with a broken connection, which is noticed at once.
const ENDPOINTS_EVERY: u32 = 30;
/// For how long an address stays protected that was behind the Service: a server that restarts is back in a moment.
const ENDPOINT_KEPT: Duration = Duration::from_hours(1);
/// After so many failures in a row, some seconds, what is known is told although the addresses of the API servers are not.
const PATIENCE: u32 = 4;
/// At most this often is the list of API servers read on request.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// Our annotations as the API had them.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Those under `egress-routes.dev/`.
    pub annotations: BTreeMap<String, String>,
    /// When they were asked for; what was written later may not be in them.
    pub asked_at: Instant,
}

/// What [`watch`] keeps up to date.
#[derive(Clone, Debug)]
pub struct Watching {
    /// What routing needs.
    pub facts: watch::Receiver<Facts>,
    /// What reporting needs; `None` before the first answer.
    pub seen: watch::Receiver<Option<Seen>>,
    asked: Arc<Notify>,
}

impl Watching {
    /// Reads the API servers' addresses soon, whatever the time since the last read: a change that could cut them off is coming.
    pub fn refresh(&self) {
        self.asked.notify_one();
    }
}

/// Starts to watch this node. Ends when every receiver is gone.
pub fn watch(api: Api) -> Watching {
    let (facts, facts_seen) = watch::channel(Facts::NotYet {
        api_servers: api.known_addresses(),
    });
    let (seen, seen_seen) = watch::channel(None);
    let asked = Arc::new(Notify::new());
    let keeper = Keeper::new(api, facts, seen);
    tokio::spawn(keeper.run(asked.clone()));
    Watching {
        facts: facts_seen,
        seen: seen_seen,
        asked,
    }
}

/// Where the addresses of API servers come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Slice,
    /// Servers before 1.21.
    Endpoints,
}

struct Keeper {
    api: Api,
    facts: watch::Sender<Facts>,
    seen: watch::Sender<Option<Seen>>,
    known: NodeFacts,
    /// When each was last seen.
    behind: BTreeMap<IpAddr, Instant>,
    source: Source,
    endpoints_due: bool,
    endpoints_at: Option<Instant>,
    node_read: bool,
    round: u32,
    backoff: Backoff,
}

impl Keeper {
    fn new(api: Api, facts: watch::Sender<Facts>, seen: watch::Sender<Option<Seen>>) -> Self {
        Self {
            api,
            facts,
            seen,
            known: NodeFacts::default(),
            behind: BTreeMap::new(),
            source: Source::Slice,
            endpoints_due: true,
            endpoints_at: None,
            node_read: false,
            round: 0,
            backoff: Backoff::new(FIRST_PAUSE, EVERY),
        }
    }

    async fn run(mut self, asked: Arc<Notify>) {
        let started = Instant::now();
        while !(self.facts.is_closed() && self.seen.is_closed()) {
            let result = self.round().await;
            let now = Instant::now();
            let next = match result {
                Ok(()) => {
                    if self.backoff.failures() > 0 {
                        tracing::info!("The Kubernetes API answers again");
                    }
                    self.backoff = Backoff::new(LATER_PAUSE, EVERY);
                    slot(started + phase(self.api.node(), EVERY), now)
                }
                Err(error) => now + self.pause(&error),
            };
            while self.asked_before(&asked, next).await {
                self.only_endpoints().await;
            }
        }
    }

    /// Whether somebody wants to know the API servers before `next`. Several edits in a row are one question.
    async fn asked_before(&self, asked: &Notify, next: Instant) -> bool {
        loop {
            tokio::select! {
                () = sleep_until(next) => return false,
                () = asked.notified() => if self.endpoints_at.is_none_or(|at| at.elapsed() >= ASKED_EVERY) { return true },
            }
        }
    }

    /// The first failure in a row is worth a line, the next ones are not.
    fn pause(&mut self, error: &kube::Error) -> Duration {
        let error = explain(error);
        if self.backoff.failures() == 0 {
            tracing::warn!(
                error,
                "The Kubernetes API did not tell about this node; what is known stays"
            );
        } else {
            tracing::debug!(
                error,
                failures = self.backoff.failures(),
                "The Kubernetes API still does not tell about this node"
            );
        }
        self.endpoints_due = true;
        self.backoff.failed().max(self.api.hold())
    }

    /// One read; two or three at the start and after trouble.
    async fn round(&mut self) -> Result<(), kube::Error> {
        self.round = self.round.saturating_add(1);
        self.read_node().await?;
        let endpoints = if self.endpoints_due || self.round.is_multiple_of(ENDPOINTS_EVERY) {
            self.read_endpoints().await
        } else {
            Ok(())
        };
        let told = matches!(*self.facts.borrow(), Facts::Known(_));
        if endpoints.is_ok() || told || self.backoff.failures() >= PATIENCE {
            self.publish();
        }
        endpoints
    }

    async fn only_endpoints(&mut self) {
        match self.read_endpoints().await {
            Ok(()) => self.publish(),
            Err(error) => tracing::debug!(
                error = explain(&error),
                "Reading the API servers' addresses failed"
            ),
        }
    }

    fn publish(&mut self) {
        if !self.node_read {
            return;
        }
        let mut servers: BTreeSet<IpAddr> = self.behind.keys().copied().collect();
        servers.extend(self.api.known_addresses());
        self.known.api_servers = servers.into_iter().collect();
        let facts = Facts::Known(self.known.clone());
        self.facts.send_if_modified(|current| {
            let changed = *current != facts;
            *current = facts;
            changed
        });
    }

    /// Pod CIDRs never change once they are there, and come late or never with some networks: asked for less and less often.
    async fn read_node(&mut self) -> Result<(), kube::Error> {
        let nodes: kube::Api<Node> = kube::Api::all(self.api.client());
        let asked_at = Instant::now();
        let whole =
            !self.node_read || (self.known.pod_cidrs.is_empty() && self.round.is_power_of_two());
        let metadata = if whole {
            let node = nodes.get(self.api.node()).await?;
            self.known.pod_cidrs = pod_cidrs(&node);
            node.metadata
        } else {
            nodes.get_metadata(self.api.node()).await?.metadata
        };
        self.node_read = true;
        self.see(metadata, asked_at);
        Ok(())
    }

    fn see(&mut self, metadata: ObjectMeta, asked_at: Instant) {
        self.known.labels = metadata.labels.unwrap_or_default();
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.retain(|key, _| key.starts_with(PREFIX));
        self.seen.send_replace(Some(Seen {
            annotations,
            asked_at,
        }));
    }

    /// A refusal (403), or that there are none (404), is an answer: what is known without asking must do.
    async fn read_endpoints(&mut self) -> Result<(), kube::Error> {
        let result = match self.source {
            Source::Slice => match self.read_slice().await {
                Err(error) if code(&error) == Some(404) => {
                    let found = self.read_old_endpoints().await;
                    if found.is_ok() {
                        self.source = Source::Endpoints;
                    }
                    found
                }
                other => other,
            },
            Source::Endpoints => match self.read_old_endpoints().await {
                // The control plane was upgraded to a version that has only slices.
                Err(error) if code(&error) == Some(404) => {
                    self.source = Source::Slice;
                    self.read_slice().await
                }
                other => other,
            },
        };
        match result {
            Ok(found) => {
                let now = Instant::now();
                self.behind
                    .extend(found.into_iter().map(|address| (address, now)));
                self.behind.retain(|_, seen| now - *seen < ENDPOINT_KEPT);
            }
            Err(error) if matches!(code(&error), Some(403 | 404)) => {
                tracing::warn!(
                    error = explain(&error),
                    "The addresses behind the `kubernetes` Service are not told; only its own address is protected"
                );
            }
            Err(error) => return Err(error),
        }
        self.endpoints_due = false;
        self.endpoints_at = Some(Instant::now());
        Ok(())
    }

    async fn read_slice(&self) -> Result<BTreeSet<IpAddr>, kube::Error> {
        let slices: kube::Api<EndpointSlice> = kube::Api::namespaced(self.api.client(), "default");
        let slice = slices.get("kubernetes").await?;
        Ok(slice
            .endpoints
            .unwrap_or_default()
            .iter()
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|text| text.parse().ok())
            .collect())
    }

    async fn read_old_endpoints(&self) -> Result<BTreeSet<IpAddr>, kube::Error> {
        let endpoints: kube::Api<Endpoints> = kube::Api::namespaced(self.api.client(), "default");
        let subsets = endpoints
            .get("kubernetes")
            .await?
            .subsets
            .unwrap_or_default();
        let addresses = subsets
            .into_iter()
            .flat_map(|subset| [subset.addresses, subset.not_ready_addresses])
            .flatten()
            .flatten();
        Ok(addresses
            .filter_map(|address| address.ip.parse().ok())
            .collect())
    }
}

/// Both families; what cannot be read is left out and said.
fn pod_cidrs(node: &Node) -> Vec<Prefix> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let texts: BTreeSet<&String> = spec
        .pod_cidrs
        .iter()
        .flatten()
        .chain(&spec.pod_cidr)
        .collect();
    let parse = |text: &String| {
        text.parse::<Prefix>().inspect_err(|error| tracing::warn!(cidr = text, %error, "A pod CIDR of this node cannot be read")).ok()
    };
    texts.into_iter().filter_map(parse).collect()
}

/// The first of the moments `start`, `start + EVERY`, … after `now`.
fn slot(start: Instant, now: Instant) -> Instant {
    let passed = now.saturating_duration_since(start).as_secs() / EVERY.as_secs();
    let begun = if now < start { start } else { start + EVERY };
    begun + EVERY * u32::try_from(passed).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_cidrs_of_both_families_are_read_once_each_and_a_broken_one_is_left_out() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64", "rubbish"]}
        }))
        .unwrap();
        let texts: Vec<_> = pod_cidrs(&node).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert!(pod_cidrs(&Node::default()).is_empty());
    }

    #[test]
    fn the_next_read_is_at_the_nodes_own_point_of_each_minute() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let point = start + 17 * second;
        for (passed, expected) in [(0, 17), (16, 17), (17, 77), (76, 77), (77, 137), (617, 677)] {
            assert_eq!(
                slot(point, start + passed * second) - start,
                expected * second,
                "after {passed} s"
            );
        }
    }
}
