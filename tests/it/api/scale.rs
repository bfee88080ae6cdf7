//! A cluster of thousands of nodes: what the agents' reports cost a real API server. A load program rather than a test: `make scale`.
//!
//! Each node has the reporting half of an agent with a client, connections and rights of its own, exactly as `agent` wires it; what
//! is reported is what the server's audit log has. The server, its etcd and all agents share this machine. `docs/scale.md` has the figures.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use egress_routes::cluster::client::{Api, PREFIX};
use egress_routes::report::metrics::Metrics;
use egress_routes::report::status::{GatewayState, Reason};
use futures::stream::{self, StreamExt as _};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::server::{Audited, Server, assets, eventually};
use super::{Reporting, status};

/// For everything to settle, whatever the machine.
const SETTLED: Duration = Duration::from_mins(5);
/// Kubelets look at their ConfigMaps within about this time.
const KUBELETS: Duration = Duration::from_mins(1);
/// The first question whether the API server still answers after a change, and `--confirm`; see `agent`.
const QUESTION: Duration = Duration::from_secs(2);
/// Reading the kernel takes about so long.
const READING: Duration = Duration::from_millis(100);
const CONFIRM: Duration = Duration::from_secs(20);

struct Cluster<'a> {
    server: &'a Server,
    nodes: Vec<(Api, Reporting)>,
    admin: kube::Api<Node>,
    /// All agents count here.
    metrics: Metrics,
    /// Requests before the scenario at hand.
    before: usize,
}

/// A node of the size that a kubelet makes it: some ten KiB, most of it images.
fn node(name: &str) -> Node {
    let image = |n: usize| {
        let digest = format!("{n:064x}");
        json!({"names": [format!("registry.example.com/team/image-{n}@sha256:{digest}"), format!("registry.example.com/team/image-{n}:v1")], "sizeBytes": 1})
    };
    let images: Vec<_> = (0..50).map(image).collect();
    let labels = json!({"kubernetes.io/hostname": name, "pool": "web"});
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels}, "spec": {"podCIDR": "10.244.7.0/24"}, "status": {"images": images},
    }))
    .unwrap()
}

impl<'a> Cluster<'a> {
    /// Registers the nodes and starts their agents within a minute.
    async fn start(server: &'a Server, count: usize) -> Self {
        let admin: kube::Api<Node> = kube::Api::all(server.admin().await);
        let names: Vec<String> = (0..count).map(|n| format!("pool-web-{n:05}")).collect();
        let register = |name: String| {
            let admin = &admin;
            async move {
                drop(
                    admin
                        .create(&PostParams::default(), &node(&name))
                        .await
                        .unwrap(),
                );
            }
        };
        stream::iter(names.clone())
            .for_each_concurrent(16, register)
            .await;
        let installed = server.install("scale");
        let mut cluster = Self {
            server,
            nodes: Vec::new(),
            admin,
            metrics: Metrics::new(),
            before: 0,
        };
        let mut next = tokio::time::interval(KUBELETS / u32::try_from(count).unwrap());
        for name in &names {
            next.tick().await;
            let api = installed.agent(name, &cluster.metrics).await;
            let reporting = Reporting::start(&api);
            reporting.say(status("000000000000", 10, GatewayState::Up));
            cluster.nodes.push((api, reporting));
        }
        cluster
            .told("start, within a minute", ("revision", "000000000000"), 0)
            .await;
        cluster
    }

    /// An edit on one node, as its agent acts on it: the API servers' addresses, the question whether the API server is there, the
    /// routes, what is reported, and the question whether the API server is still there.
    async fn edit(
        (api, reporting): &(Api, Reporting),
        revision: &str,
        confirmed: &Mutex<Vec<Duration>>,
    ) {
        reporting.watching.refresh();
        sleep(READING).await;
        let guarded = api.answers_now(QUESTION).await;
        reporting.emit(
            Reason::RoutesApplied,
            &format!("Configuration in force: revision {revision}, 10 routes"),
        );
        reporting.say(status(revision, 10, GatewayState::Up));
        let asked = Instant::now();
        if guarded {
            api.until_it_answers(QUESTION).await;
            confirmed.lock().unwrap().push(asked.elapsed());
        }
    }

    /// Runs `act` on each node, spread over `time`.
    async fn each(&self, time: Duration, act: impl AsyncFn(&(Api, Reporting))) {
        let apart = time / u32::try_from(self.nodes.len()).unwrap();
        let one = async |(n, node)| {
            sleep(apart * u32::try_from(n).unwrap()).await;
            act(node).await;
        };
        futures::future::join_all(self.nodes.iter().enumerate().map(one)).await;
    }

    /// Requests without an answer, as the agents count them.
    fn unanswered(&self) -> u64 {
        let pairs = ["error", "timeout"].into_iter().flat_map(|code| {
            ["get", "create", "patch"].map(|verb| self.metrics.api_requests(verb, code))
        });
        pairs.sum()
    }

    /// How many nodes have an annotation.
    async fn with(&self, (key, value): (&str, &str)) -> usize {
        let (mut found, mut page) = (0, ListParams::default().limit(500));
        loop {
            let list = self.admin.list_metadata(&page).await.unwrap();
            let has = |annotations: &BTreeMap<String, String>| {
                annotations
                    .get(&format!("{PREFIX}{key}"))
                    .is_some_and(|there| there == value)
            };
            found += list
                .items
                .iter()
                .filter(|node| node.metadata.annotations.as_ref().is_some_and(has))
                .count();
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return found,
            }
        }
    }

    /// Runs a scenario on each node, spread over `time`, that ends when each has an annotation; prints what the server saw.
    async fn scenario(
        &mut self,
        what: &str,
        end: (&str, &str),
        time: Duration,
        act: impl AsyncFn(&(Api, Reporting)),
    ) {
        let unanswered = self.unanswered();
        self.each(time, act).await;
        self.told(what, end, unanswered).await;
    }

    async fn told(&mut self, what: &str, end: (&str, &str), unanswered: u64) {
        let complete = eventually(SETTLED, async || {
            sleep(Duration::from_secs(5)).await;
            self.with(end).await == self.nodes.len()
        });
        let complete = complete.await;
        // What comes after the last expected write is one too many.
        sleep(Duration::from_secs(15)).await;
        let requests = self.server.audited("scale").split_off(self.before);
        self.before += requests.len();
        print(what, &requests);
        println!(
            "  {:>6} without an answer, as the agents count them",
            self.unanswered() - unanswered
        );
        assert!(
            complete,
            "{what}: only {} nodes have {end:?} after {SETTLED:?}",
            self.with(end).await
        );
        let mut per_node = BTreeMap::<&str, usize>::new();
        for request in requests
            .iter()
            .filter(|request| request.verb == "patch" && request.code < 300)
        {
            *per_node.entry(&request.name).or_default() += 1;
        }
        println!(
            "  {:>6} nodes were patched more than once, because an answer was late",
            per_node.values().filter(|times| **times > 1).count()
        );
    }
}

/// One line per kind of request: how many, over which time, the fullest second, the server's time for one, what failed.
fn print(what: &str, requests: &[Audited]) {
    println!("{what}");
    let kind = |request: &Audited| {
        format!(
            "{} {}",
            request.verb,
            request.resource.split('?').next().unwrap_or_default()
        )
    };
    let mut kinds = BTreeMap::<String, Vec<&Audited>>::new();
    for request in requests {
        kinds.entry(kind(request)).or_default().push(request);
    }
    for (kind, requests) in kinds {
        let mut took: Vec<Duration> = requests.iter().map(|request| request.took).collect();
        took.sort();
        let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        let mut received: Vec<Timestamp> =
            requests.iter().map(|request| request.received).collect();
        received.sort();
        let over = received[received.len() - 1]
            .duration_since(received[0])
            .as_secs_f64();
        let mut seconds = BTreeMap::<i64, usize>::new();
        received
            .iter()
            .for_each(|at| *seconds.entry(at.as_second()).or_default() += 1);
        let mut failed = BTreeMap::<u64, usize>::new();
        requests
            .iter()
            .filter(|request| request.code >= 400)
            .for_each(|request| *failed.entry(request.code).or_default() += 1);
        println!(
            "  {:>6} {kind:<24} over {over:>6.1} s, at most {:>4} in a second; took {:>6.1} ms (median), {:>7.1} (99 %), {:>7.1} (worst); failed: {failed:?}",
            requests.len(),
            seconds.values().max().unwrap(),
            at(50),
            at(99),
            at(100),
        );
    }
}

/// `NODES=500 make scale` for a smaller machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes, gigabytes and every core: `make scale`"]
async fn thousands_of_nodes_report_an_edit_a_gateway_and_a_restart_of_the_server() {
    let count = std::env::var("NODES").map_or(5000, |text| text.parse().unwrap());
    let assets = assets();
    let server = Server::start(&assets);
    let started = Instant::now();
    let mut cluster = Cluster::start(&server, count).await;
    println!(
        "{count} nodes after {:.0} s",
        started.elapsed().as_secs_f64()
    );

    let wait = async |_: &_| sleep(KUBELETS).await;
    cluster
        .scenario(
            "a minute in which nothing happens",
            ("revision", "000000000000"),
            Duration::ZERO,
            wait,
        )
        .await;

    let confirmed = Mutex::default();
    let edit = async |node: &_| Cluster::edit(node, "111111111111", &confirmed).await;
    cluster
        .scenario(
            "an edit, as kubelets bring it: over a minute",
            ("revision", "111111111111"),
            KUBELETS,
            edit,
        )
        .await;
    let mut confirmed = confirmed.into_inner().unwrap();
    confirmed.sort();
    let at = |share: usize| {
        confirmed
            .get(confirmed.len().saturating_sub(1) * share / 100)
            .map_or(0.0, Duration::as_secs_f64)
    };
    println!(
        "  {:>6} were guarded, and confirmed after {:.2} s (median), {:.2} (99 %), {:.2} (worst)",
        confirmed.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(
        confirmed.last().is_none_or(|took| *took < CONFIRM),
        "a good edit would have been taken back"
    );

    let gateway = async |(_, reporting): &(Api, Reporting), state, reason, note: &str| {
        reporting.emit(reason, note);
        reporting.say(status("111111111111", 10, state));
    };
    let fails = async |node: &_| {
        gateway(
            node,
            GatewayState::Down,
            Reason::GatewayDown,
            "Gateway down: 10.116.0.5 (no answer)",
        )
        .await;
    };
    cluster
        .scenario(
            "a gateway fails, for every node in the same instant",
            ("gateways", "10.116.0.5=down"),
            Duration::ZERO,
            fails,
        )
        .await;

    let unanswered = cluster.unanswered();
    server.stop();
    let returns = async |node: &_| {
        gateway(
            node,
            GatewayState::Up,
            Reason::GatewayUp,
            "Gateway up again: 10.116.0.5",
        )
        .await;
    };
    cluster.each(Duration::ZERO, returns).await;
    sleep(KUBELETS).await;
    server.start_again();
    cluster
        .told(
            "the server was away for a minute, in which the gateway came back",
            ("gateways", "10.116.0.5=up"),
            unanswered,
        )
        .await;
}
