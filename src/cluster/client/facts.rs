//! Keeps the API's facts of this node: one small read a minute.
//!
//! A round reads the node's metadata: labels for selectors, our annotations for `report`. Once per start the whole node
//! is read, for its pod CIDRs. The addresses behind the `kubernetes` Service are read at the start, after any trouble with
//! the API, when asked to (a new configuration), and with the metadata once in [`ENDPOINTS_EVERY`] rounds.
//! Without an answer the last one stays.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::reads::{Freshness, Reads, Seen};
use super::{Api, Backoff, code, explain, phase};
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
/// After so many failures in a row, some seconds, what is known is passed on although the addresses of the API servers are missing.
const PATIENCE: u32 = 4;
/// At most this often is the list of API servers read on request.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// What [`watch`] keeps up to date.
#[derive(Clone, Debug)]
pub struct Watching {
    /// What routing needs.
    pub facts: watch::Receiver<Facts>,
    /// What reporting needs; `None` before the first answer.
    pub seen: watch::Receiver<Option<Seen>>,
    asked: Arc<Notify>,
    reads: Arc<Reads>,
}

/// What [`Watching::read_node`] found.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeRead {
    /// The node as it is now.
    Read(NodeFacts),
    /// The server answers, but not with the node: why.
    Refused(String),
    /// No answer within the limit, over an old connection and over a new one.
    Silent,
}

impl NodeRead {
    /// Whether the API server answered.
    pub const fn answered(&self) -> bool {
        !matches!(self, Self::Silent)
    }
}

impl Watching {
    /// Reads the API servers' addresses soon, whatever the time since the last read: a change that could cut them off is coming.
    pub fn refresh(&self) {
        self.asked.notify_one();
    }

    /// Reads the node now: the question that precedes a guarded change, and fresh labels for it. Publishes what it read.
    ///
    /// The first half of `limit` goes to a connection that is open already, which is all it costs a healthy server. One that died
    /// unnoticed is no evidence about the server, so the second half goes to a new one.
    pub async fn read_node(&self, limit: Duration) -> NodeRead {
        let begun = Instant::now();
        let (half, end) = (begun + limit / 2, begun + limit);
        let (pooled, fresh) = (Some(self.reads.api.client()), self.reads.api.fresh_client());
        for (client, until) in [(pooled, half), (fresh, end)] {
            let Some(client) = client else { continue };
            match timeout_at(until, self.reads.node(client, Freshness::Exact)).await {
                Ok(Ok(_)) => {
                    self.reads.publish_if_known();
                    return NodeRead::Read(self.reads.known().facts(&self.reads.api));
                }
                Ok(Err(error @ (kube::Error::Api(_) | kube::Error::SerdeError(_)))) => {
                    return NodeRead::Refused(explain(&error));
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        NodeRead::Silent
    }
}

/// Starts to watch this node. Ends when every receiver is gone.
pub fn watch(api: Api) -> Watching {
    let (facts, facts_seen) = watch::channel(Facts::NotYet {
        api_servers: api.known_addresses(),
    });
    let (seen, seen_seen) = watch::channel(None);
    let asked = Arc::new(Notify::new());
    let reads = Arc::new(Reads {
        api,
        facts,
        seen,
        known: Mutex::default(),
    });
    tokio::spawn(Keeper::new(reads.clone()).run(asked.clone()));
    Watching {
        facts: facts_seen,
        seen: seen_seen,
        asked,
        reads,
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
    reads: Arc<Reads>,
    source: Source,
    endpoints_due: bool,
    endpoints_at: Option<Instant>,
    freshness: Freshness,
    round: u32,
    backoff: Backoff,
}

impl Keeper {
    fn new(reads: Arc<Reads>) -> Self {
        Self {
            reads,
            source: Source::Slice,
            endpoints_due: true,
            endpoints_at: None,
            freshness: Freshness::Exact,
            round: 0,
            backoff: Backoff::new(FIRST_PAUSE, EVERY),
        }
    }

    async fn run(mut self, asked: Arc<Notify>) {
        let started = Instant::now();
        while !(self.reads.facts.is_closed() && self.reads.seen.is_closed()) {
            let result = self.round().await;
            let now = Instant::now();
            let next = match result {
                Ok(()) => {
                    if self.backoff.failures() > 0 {
                        tracing::info!("The Kubernetes API answers again");
                    }
                    self.backoff = Backoff::new(LATER_PAUSE, EVERY);
                    slot(started + phase(self.reads.api.node(), EVERY), now)
                }
                Err(error) => now + self.pause(&error),
            };
            while self.asked_before(&asked, next).await {
                self.only_endpoints().await;
            }
        }
    }

    /// Whether something asks for the API servers before `next`. Several edits in a row are one question.
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
                "Cannot read this Node; keeping the last known labels, pod CIDRs and API servers"
            );
        } else {
            tracing::debug!(
                error,
                failures = self.backoff.failures(),
                "Cannot read this Node, still"
            );
        }
        self.endpoints_due = true;
        self.backoff.failed().max(self.reads.api.hold())
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
        if endpoints.is_ok() || self.backoff.failures() >= PATIENCE {
            self.reads.publish();
        } else {
            self.reads.publish_if_known();
        }
        endpoints
    }

    async fn only_endpoints(&mut self) {
        match self.read_endpoints().await {
            Ok(()) => self.reads.publish(),
            Err(error) => tracing::debug!(
                error = explain(&error),
                "Reading the API servers' addresses failed"
            ),
        }
    }

    /// The first read is exact, the minutely ones are cached; after a failure, or where the cache is behind, the next is exact again.
    async fn read_node(&mut self) -> Result<(), kube::Error> {
        let freshness = std::mem::replace(&mut self.freshness, Freshness::Exact);
        let lacks_cidrs = self.reads.known().node.pod_cidrs.is_empty();
        let client = self.reads.api.client();
        // Asked for less and less often.
        let is_news = if lacks_cidrs && self.round.is_power_of_two() {
            self.reads.whole_node(client, freshness).await?
        } else {
            self.reads.node(client, freshness).await?
        };
        if is_news {
            self.freshness = Freshness::Cached;
        }
        Ok(())
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
                let behind = &mut self.reads.known().behind;
                behind.extend(found.into_iter().map(|address| (address, now)));
                behind.retain(|_, seen| now - *seen < ENDPOINT_KEPT);
            }
            Err(error) if matches!(code(&error), Some(403 | 404)) => {
                tracing::warn!(
                    error = explain(&error),
                    "The addresses behind the `kubernetes` Service are unknown; only the Service's own address is protected"
                );
            }
            Err(error) => return Err(error),
        }
        self.endpoints_due = false;
        self.endpoints_at = Some(Instant::now());
        Ok(())
    }

    async fn read_slice(&self) -> Result<BTreeSet<IpAddr>, kube::Error> {
        let slices: kube::Api<EndpointSlice> =
            kube::Api::namespaced(self.reads.api.client(), "default");
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
        let endpoints: kube::Api<Endpoints> =
            kube::Api::namespaced(self.reads.api.client(), "default");
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
