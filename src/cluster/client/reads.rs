//! What was read of this node, shared by the minutely reads and the one before a guarded change.
//!
//! An answer is taken over unless it is older than what is known. When to read is `facts`' business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::GetParams;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Api, PREFIX};
use crate::net::prefix::Prefix;
use crate::routing::node_facts::{Facts, NodeFacts};

/// Our annotations as the API had them.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Those under `egress-routes.dev/`.
    pub annotations: BTreeMap<String, String>,
    /// When they were asked for; what was written later may not be in them.
    pub asked_at: Instant,
    /// The node's resource version: another one means that anything of the node may have changed.
    pub version: String,
}

/// How new an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Freshness {
    /// As etcd has it.
    Exact,
    /// As the API server's cache has it (`resourceVersion=0`), which costs etcd nothing and is mostly milliseconds behind.
    Cached,
}

impl Freshness {
    fn params(self) -> GetParams {
        match self {
            Self::Exact => GetParams::default(),
            Self::Cached => GetParams::any(),
        }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) node: NodeFacts,
    pub(super) node_read: bool,
    /// The node's resource version, where it is a number, as every API server's is.
    version: Option<u64>,
    asked_at: Option<Instant>,
    /// Addresses of API servers, and when each was last seen.
    pub(super) behind: BTreeMap<IpAddr, Instant>,
}

impl Known {
    pub(super) fn facts(&self, api: &Api) -> NodeFacts {
        let mut servers: BTreeSet<IpAddr> = self.behind.keys().copied().collect();
        servers.extend(api.known_addresses());
        NodeFacts {
            api_servers: servers.into_iter().collect(),
            ..self.node.clone()
        }
    }

    /// Whether an answer is older than what is known: a cache may be behind, and one read may overtake another.
    fn outdates(&self, version: Option<u64>, freshness: Freshness, asked_at: Instant) -> bool {
        match (freshness, self.version, version) {
            (Freshness::Cached, Some(known), Some(answered)) => answered < known,
            _ => self.asked_at.is_some_and(|known| known > asked_at),
        }
    }
}

/// What the minutely reads and [`Watching::read_node`] share.
pub(super) struct Reads {
    pub(super) api: Api,
    pub(super) facts: watch::Sender<Facts>,
    pub(super) seen: watch::Sender<Option<Seen>>,
    pub(super) known: Mutex<Known>,
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}

impl Reads {
    /// The values are plain and written whole: a panic elsewhere cannot have left them half-written.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the node's metadata, or all of it as long as nothing of it is known. Returns whether that was news.
    pub(super) async fn node(
        &self,
        client: kube::Client,
        freshness: Freshness,
    ) -> Result<bool, kube::Error> {
        if !self.known().node_read {
            return self.whole_node(client, Freshness::Exact).await;
        }
        let nodes: kube::Api<Node> = kube::Api::all(client);
        let asked_at = Instant::now();
        let found = nodes
            .get_metadata_with(self.api.node(), &freshness.params())
            .await?;
        Ok(self.see(found.metadata, freshness, asked_at))
    }

    /// With its pod CIDRs, which never change once they are there, and come late or never with some networks.
    pub(super) async fn whole_node(
        &self,
        client: kube::Client,
        freshness: Freshness,
    ) -> Result<bool, kube::Error> {
        let nodes: kube::Api<Node> = kube::Api::all(client);
        let asked_at = Instant::now();
        let node = nodes.get_with(self.api.node(), &freshness.params()).await?;
        self.known().node.pod_cidrs = pod_cidrs(&node);
        Ok(self.see(node.metadata, freshness, asked_at))
    }

    /// Takes an answer over unless it is older than what is known. Returns whether it was.
    fn see(&self, metadata: ObjectMeta, freshness: Freshness, asked_at: Instant) -> bool {
        let text = metadata.resource_version.unwrap_or_default();
        let version = text.parse().ok();
        let mut known = self.known();
        if known.outdates(version, freshness, asked_at) {
            return false;
        }
        known.node.labels = metadata.labels.unwrap_or_default();
        (known.node_read, known.version, known.asked_at) = (true, version, Some(asked_at));
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.retain(|key, _| key.starts_with(PREFIX));
        self.seen.send_replace(Some(Seen {
            annotations,
            asked_at,
            version: text,
        }));
        true
    }

    pub(super) fn publish(&self) {
        let known = self.known();
        if !known.node_read {
            return;
        }
        let facts = Facts::Known(known.facts(&self.api));
        self.facts.send_if_modified(|current| {
            let changed = *current != facts;
            *current = facts;
            changed
        });
    }

    /// The first facts wait for the API servers' addresses, which the keeper reads.
    pub(super) fn publish_if_known(&self) {
        if matches!(*self.facts.borrow(), Facts::Known(_)) {
            self.publish();
        }
    }
}

/// Both families; what cannot be read is left out and logged.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_older_than_what_is_known_is_left_alone() {
        let config = kube::Config::new("https://192.0.2.1".parse().unwrap());
        let api = Api::new(config, "node1", &crate::report::metrics::Metrics::new()).unwrap();
        let reads = Reads {
            api,
            facts: watch::channel(Facts::NoCluster).0,
            seen: watch::channel(None).0,
            known: Mutex::default(),
        };
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let see = |version: &str, pool: &str, freshness, asked_at| {
            let metadata = ObjectMeta {
                resource_version: Some(version.into()),
                labels: Some(BTreeMap::from([("pool".into(), pool.into())])),
                ..ObjectMeta::default()
            };
            let taken = reads.see(metadata, freshness, asked_at);
            (taken, reads.known().node.labels["pool"].clone())
        };
        let (exact, cached) = (Freshness::Exact, Freshness::Cached);
        assert_eq!(see("10", "b", exact, now), (true, "b".into()));
        assert_eq!(
            see("9", "a", cached, now + second),
            (false, "b".into()),
            "the cache is behind"
        );
        assert_eq!(
            see("8", "a", exact, now - second),
            (false, "b".into()),
            "overtaken by another read"
        );
        assert_eq!(see("11", "c", cached, now + second), (true, "c".into()));
        assert_eq!(
            see("5", "restored", exact, now + 2 * second),
            (true, "restored".into()),
            "etcd was restored from a backup"
        );
    }

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
}
