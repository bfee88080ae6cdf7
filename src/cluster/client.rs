//! The Kubernetes API as the agent uses it: one client that limits, counts and remembers every request.
//!
//! No other module talks to the API but through [`Api`]. What is asked for and what follows from an answer is the
//! callers' business; that nothing waits for ever, that no answer fills the memory and that every request is counted
//! is settled here. "No cluster" is a normal mode: [`Api::in_cluster`] returns why there is none.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use hyper::Request;
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, sleep, timeout};

use crate::report::metrics::Metrics;

mod facts;
mod pace;
mod reads;
mod request;

pub use facts::{NodeRead, Watching, watch};
pub use pace::{Backoff, phase};
pub use reads::Seen;
use request::{Memory, Renewable, lock, watched};

/// How long a connection may take to come up, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The longest pause between two questions whether the server is there.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

const VERSION: &str = "/version";
/// Every annotation of ours starts with this.
pub const PREFIX: &str = "egress-routes.dev/";

/// The API, for one node's agent. Clones share connections and memory of what was answered.
#[derive(Clone)]
pub struct Api {
    client: Client,
    config: Arc<kube::Config>,
    node: Arc<str>,
    metrics: Metrics,
    memory: Arc<Mutex<Memory>>,
}

/// Why there is no cluster to talk to; for a log line.
#[derive(Debug)]
pub struct NoCluster(String);

impl fmt::Display for NoCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoCluster {}

/// Whether the API server answered when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAnswer {
    /// Any HTTP response is an answer, be it 403, 429 or 500; a refused or timed out connection is none.
    pub ok: bool,
    /// When the answer came, or was given up on.
    pub at: Instant,
}

impl Api {
    /// The API of the cluster that this process is a pod of. `node` is the node's name, from `NODE_NAME`.
    pub fn in_cluster(node: Option<&str>, metrics: &Metrics) -> Result<Self, NoCluster> {
        let Some(node) = node.filter(|name| !name.is_empty()) else {
            return Err(NoCluster(
                "no node name: neither --node-name nor NODE_NAME is set".into(),
            ));
        };
        let config = kube::Config::incluster_env()
            .map_err(|error| NoCluster(format!("no API credentials: {}", chain(&error))))?;
        Self::new(config, node, metrics)
            .map_err(|error| NoCluster(format!("no API client: {error:#}")))
    }

    /// The API at `config`. Must be called within a tokio runtime.
    pub fn new(mut config: kube::Config, node: &str, metrics: &Metrics) -> anyhow::Result<Self> {
        // kube repeats a refused request up to 15 times by itself: callers here know better what to ask next, and when.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_LIMIT);
        let config = Arc::new(config);
        let raw = Renewable::new(config.clone()).context("building the API client")?;
        let memory = Arc::<Mutex<Memory>>::default();
        let client = watched(raw, metrics.clone(), memory.clone());
        Ok(Self {
            client,
            config,
            node: node.into(),
            metrics: metrics.clone(),
            memory,
        })
    }

    /// A client whose every request is limited in time and size, counted, and remembered.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client without a pooled connection, whose route could have been cached before a change.
    fn fresh_client(&self) -> Option<Client> {
        let raw = Renewable::new(self.config.clone())
            .inspect_err(|error| {
                tracing::warn!(error = explain(error), "Building an API client failed");
            })
            .ok()?;
        Some(watched(raw, self.metrics.clone(), self.memory.clone()))
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The namespace of the pod's service account.
    pub fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// The API server's address as far as it is known without asking: `KUBERNETES_SERVICE_HOST`, if that is an address.
    pub fn known_addresses(&self) -> Vec<IpAddr> {
        let host = self.config.cluster_url.host().unwrap_or_default();
        host.trim_matches(['[', ']']).parse().into_iter().collect()
    }

    /// Whether the server answered when it was last asked; `None` before the first request is over.
    pub fn last_answer(&self) -> Option<LastAnswer> {
        self.memory().last
    }

    /// When a request for which a right is needed was last granted (2xx).
    pub fn last_granted(&self) -> Option<Instant> {
        self.memory().last_granted
    }

    /// When the first request was refused (401, 403) after the last one that was granted.
    pub fn refused_since(&self) -> Option<Instant> {
        self.memory().refused_since
    }

    /// For how long the server still wants to be left alone (Retry-After), up to five minutes.
    pub fn hold(&self) -> Duration {
        self.memory()
            .hold_until
            .map(|until| until.saturating_duration_since(Instant::now()))
            .unwrap_or_default()
    }

    /// Asks for `/version` over a new connection, name resolution and TLS included. Any HTTP response is an answer.
    pub async fn answers(&self, limit: Duration) -> bool {
        let asking = async {
            let Some(fresh) = self.fresh_client() else {
                return false;
            };
            let Ok(request) = Request::get(VERSION).body(Body::empty()) else {
                return false;
            };
            fresh.send(request).await.is_ok()
        };
        timeout(limit, asking).await.unwrap_or(false)
    }

    /// Whether the server answers before a change. Asked as it will be asked after it, unless it is known from just now: neither does an
    /// edit wait for a server to be silent again, nor does a whole cluster open two connections each for one edit.
    pub async fn answers_now(&self, limit: Duration) -> bool {
        match self.last_answer() {
            Some(last) if last.at.elapsed() > limit => self.answers(limit).await,
            last => last.is_some_and(|last| last.ok),
        }
    }

    /// Asks, each time over a new connection, until there is an answer. `limit` is for the first question; the next ones get more and
    /// more time, and pauses: a server that is slow because a whole cluster asks at once must not be asked more for it.
    pub async fn until_it_answers(&self, limit: Duration) {
        let mut backoff = Backoff::new(Duration::from_millis(500), LONGEST_PAUSE);
        while !self.answers(limit * (1 << backoff.failures().min(3))).await {
            sleep(backoff.failed()).await;
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

/// The HTTP status code of a refusal; `None` when no answer came or it could not be understood.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether to ask again. A token that has expired (401) is replaced, a server that has just started does not know its own roles (403),
/// "too many requests" (429) ends, and so does what is no answer or the server's own trouble; what else it does not like will stay so.
pub fn may_get_better(error: &kube::Error) -> bool {
    code(error).is_none_or(|code| !(400..500).contains(&code) || matches!(code, 401 | 403 | 429))
}

/// An API error as one line for a person: what kube displays holds every cause twice.
pub fn explain(error: &kube::Error) -> String {
    /// Room for the longest sensible refusal; a proxy's error page is cut.
    const LENGTH: usize = 300;
    let text = match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.message.trim()),
        kube::Error::SerdeError(error) => {
            format!("unexpected answer: {error}")
        }
        kube::Error::Service(error) => chain(error.as_ref()),
        other => chain(other),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line[..line.floor_char_boundary(LENGTH)].to_owned()
}

/// An error with its causes, leaving out what a cause repeats.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_one_line_of_bounded_length() {
        let page = "<html>\n<body>\n".to_owned() + &"x".repeat(1000);
        let error = kube::Error::Api(
            kube::core::Status::failure(&page, "")
                .with_code(502)
                .boxed(),
        );
        let text = explain(&error);
        assert!(text.starts_with("502 <html> <body> xxx"), "{text}");
        assert_eq!(text.len(), 300);
    }

    #[test]
    fn without_a_node_name_there_is_no_cluster() {
        for name in [None, Some("")] {
            let why = Api::in_cluster(name, &Metrics::new())
                .err()
                .unwrap()
                .to_string();
            assert_eq!(
                why,
                "no node name: neither --node-name nor NODE_NAME is set"
            );
        }
    }

    #[tokio::test]
    async fn the_service_address_is_known_without_asking() {
        for (url, known) in [
            ("https://10.96.0.1", "10.96.0.1"),
            ("https://[fd00::1]:6443", "fd00::1"),
            ("https://api.example:6443", ""),
        ] {
            let api = Api::new(
                kube::Config::new(url.parse().unwrap()),
                "node1",
                &Metrics::new(),
            )
            .unwrap();
            let addresses: Vec<_> = api
                .known_addresses()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(addresses.join(","), known);
        }
    }
}
