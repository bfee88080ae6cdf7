//! The agent's dealings with Kubernetes, against a real API server with the rights of `deploy/` and no others.
//!
//! They fail without `KUBEBUILDER_ASSETS` (see [`server`]); `hack/test` leaves them out then and counts them as skipped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use egress_routes::cluster::annotations;
use egress_routes::cluster::client::{self, Api};
use egress_routes::cluster::events::{self, Dated, EVENTS_KEPT};
use egress_routes::report::metrics::Metrics;
use egress_routes::report::status::{
    Agent, GatewayState, GatewayStatus, NodeEvent, Overall, Reason, SetStatus, Status,
};
use egress_routes::routing::node_facts::Facts;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::{broadcast, watch};

mod broken;
mod cluster;
mod edit;
mod fresh;
mod leaving;
mod program;
mod rights;
mod scale;
mod server;
mod sync;

use server::{ADVERTISED, eventually, shared};

/// Longer than any pause of the agent's that is not meant to be a minute.
const SOON: Duration = Duration::from_secs(30);

/// A node with one set of `wanted` prefixes and one gateway.
pub fn status(revision: &str, installed: usize, gateway: GatewayState) -> Status {
    let overall = if installed == 10 && gateway == GatewayState::Up {
        Overall::Ready
    } else {
        Overall::Degraded
    };
    let gateway = GatewayStatus {
        address: IpAddr::from([10, 116, 0, 5]),
        state: gateway,
        active: true,
        weight: 1,
        buckets: None,
        rtt_ms: Some(0.4),
        reason: None,
    };
    let set = SetStatus {
        name: "clouds".into(),
        strategy: "balance".into(),
        when_down: "hold".into(),
        gateways: vec![gateway],
        wanted: 10,
        installed,
        skipped: Vec::new(),
        overridden: Vec::new(),
        bypassed: Vec::new(),
    };
    Status {
        node: "node".into(),
        agent: Agent::Running,
        problems: Vec::new(),
        status: overall,
        revision: revision.into(),
        message: (overall != Overall::Ready).then(|| "something is wrong".into()),
        sets: vec![set],
        rejected_revision: None,
        last_applied_at: None,
    }
}

/// The reporting half of an agent, as `agent` wires it.
pub struct Reporting {
    pub status: watch::Sender<Option<Status>>,
    events: broadcast::Sender<Dated>,
    pub watching: client::Watching,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Reporting {
    pub fn start(api: &Api) -> Self {
        let watching = client::watch(api.clone());
        let (status, statuses) = watch::channel(None);
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let tasks = [
            tokio::spawn(annotations::keep_annotations(
                api.clone(),
                statuses,
                watching.seen.clone(),
            )),
            tokio::spawn(events::publish_events(api.clone(), events.subscribe())),
        ];
        Self {
            status,
            events,
            watching,
            tasks,
        }
    }

    pub fn say(&self, status: Status) {
        self.status.send_replace(Some(status));
    }

    pub fn emit(&self, reason: Reason, note: &str) {
        assert!(
            self.events
                .send(Dated::now(NodeEvent {
                    reason,
                    note: note.into()
                }))
                .is_ok()
        );
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Our annotations of a node, without the prefix.
pub async fn annotations(admin: &kube::Client, node: &str) -> BTreeMap<String, String> {
    let nodes: kube::Api<Node> = kube::Api::all(admin.clone());
    let all = nodes
        .get_metadata(node)
        .await
        .unwrap()
        .metadata
        .annotations
        .unwrap_or_default();
    all.into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(client::PREFIX)?.to_owned(), value)))
        .collect()
}

/// Waits for an annotation to have a value; fails the test with what is there.
pub async fn wait_for(
    admin: &kube::Client,
    node: &str,
    key: &str,
    value: Option<&str>,
    limit: Duration,
) {
    let there = eventually(limit, async || {
        annotations(admin, node).await.get(key).map(String::as_str) == value
    })
    .await;
    assert!(
        there,
        "{key} of {node} is not {value:?} after {limit:?}: {:?}",
        annotations(admin, node).await
    );
}

#[tokio::test]
async fn one_change_is_one_patch_and_a_restart_without_a_change_is_none() {
    let server = shared();
    server.node("patched");
    server.kubectl(&["annotate", "node", "patched", "example.com/foreign=stays"]);
    let installed = server.install("patches");
    let (metrics, admin) = (Metrics::new(), server.admin().await);
    let api = installed.agent("patched", &metrics).await;
    let reporting = Reporting::start(&api);
    reporting.say(status("0123456789ab", 9, GatewayState::Down));
    wait_for(&admin, "patched", "status", Some("Degraded"), SOON).await;
    let expected = [
        ("gateways", "10.116.0.5=down"),
        ("message", "something is wrong"),
        ("revision", "0123456789ab"),
        ("routes", "9/10"),
        ("status", "Degraded"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(
        annotations(&admin, "patched").await,
        BTreeMap::from(expected)
    );

    reporting.say(status("0123456789ab", 10, GatewayState::Up));
    wait_for(&admin, "patched", "message", None, SOON).await;
    wait_for(&admin, "patched", "status", Some("Ready"), SOON).await;
    assert_eq!(metrics.api_requests("patch", "200"), 2);
    assert_eq!(
        server.get_node("patched")["metadata"]["annotations"]["example.com/foreign"],
        "stays"
    );

    // An edit whose gateway is new: its first probes are answered a moment later.
    let before_verdict = |revision| {
        reporting.say(status(revision, 10, GatewayState::Unknown));
        tokio::time::sleep(Duration::from_secs(1))
    };
    before_verdict("ba9876543210").await;
    reporting.say(status("ba9876543210", 10, GatewayState::Up));
    wait_for(&admin, "patched", "revision", Some("ba9876543210"), SOON).await;
    assert_eq!(
        annotations(&admin, "patched").await["gateways"],
        "10.116.0.5=up"
    );
    assert_eq!(metrics.api_requests("patch", "200"), 3);
    drop(reporting);

    let (metrics, before) = (
        Metrics::new(),
        server.get_node("patched")["metadata"]["resourceVersion"].clone(),
    );
    let restarted = Reporting::start(&installed.agent("patched", &metrics).await);
    restarted.say(status("ba9876543210", 10, GatewayState::Unknown));
    tokio::time::sleep(Duration::from_secs(1)).await;
    restarted.say(status("ba9876543210", 10, GatewayState::Up));
    // Longer than any first patch is spread over.
    assert!(
        !eventually(Duration::from_secs(7), async || metrics
            .api_requests("patch", "200")
            > 0)
        .await
    );
    assert_eq!(
        server.get_node("patched")["metadata"]["resourceVersion"],
        before,
        "nothing was written"
    );
}

#[tokio::test]
async fn fifty_flaps_of_a_gateway_are_a_handful_of_patches_and_the_last_word_is_the_right_one() {
    let server = shared();
    server.node("flapping");
    let installed = server.install("flaps");
    let (metrics, admin) = (Metrics::new(), server.admin().await);
    let reporting = Reporting::start(&installed.agent("flapping", &metrics).await);
    let mut next = tokio::time::interval(Duration::from_millis(400));
    for flap in 0..50 {
        next.tick().await;
        let gateway = if flap % 2 == 0 {
            GatewayState::Down
        } else {
            GatewayState::Up
        };
        reporting.say(status("0123456789ab", 10, gateway));
    }
    wait_for(&admin, "flapping", "gateways", Some("10.116.0.5=up"), SOON).await;
    let patches = metrics.api_requests("patch", "200");
    assert!(
        (1..=6).contains(&patches),
        "{patches} patches for 50 flaps in 20 s; one in 5 s is the limit"
    );
}

#[tokio::test]
async fn events_are_on_the_node_where_kubectl_describe_shows_them() {
    let server = shared();
    server.node("described");
    let installed = server.install("events");
    let metrics = Metrics::new();
    let reporting = Reporting::start(&installed.agent("described", &metrics).await);
    reporting.emit(Reason::GatewayDown, "Gateway down: 10.116.0.5 (no answer)");
    reporting.emit(Reason::GatewayDown, "Gateway down: 10.116.0.6 (no answer)");
    reporting.emit(Reason::GatewayUp, "Gateway up again: 10.116.0.5");
    reporting.emit(Reason::GatewayDown, "Gateway down: 10.116.0.5 (no answer)");
    reporting.emit(Reason::ConfigRejected, &"long ".repeat(1000));
    let written = async || {
        metrics.api_requests("create", "201") == 4 && metrics.api_requests("patch", "200") == 1
    };
    assert!(
        eventually(SOON, written).await,
        "{}",
        metrics.render().unwrap()
    );
    // What `kubectl events --for node/described` asks for, which kubectl 1.20 does not have.
    let selector =
        "involvedObject.apiVersion=v1,involvedObject.kind=Node,involvedObject.name=described";
    let found = server.kubectl(&["get", "events", "--field-selector", selector, "-o", "name"]);
    assert_eq!(found.lines().count(), 4, "{found}");
    let described = server.kubectl(&["describe", "node", "described"]);
    for words in [
        "10.116.0.5 (no answer)",
        "10.116.0.6 (no answer)",
        "GatewayUp",
        "ConfigRejected",
        "egress-routes",
        "(x2 over",
    ] {
        assert!(
            described.contains(words),
            "`{words}` is not in what kubectl describes:\n{described}"
        );
    }
}

#[tokio::test]
async fn a_label_is_noticed_within_a_minute_by_one_small_read() {
    let server = shared();
    server.node("labelled");
    let installed = server.install("labels");
    let metrics = Metrics::new();
    let reporting = Reporting::start(&installed.agent("labelled", &metrics).await);
    let mut facts = reporting.watching.facts.clone();
    let limit = Duration::from_secs(62);
    let known = tokio::time::timeout(
        SOON,
        facts.wait_for(|facts| matches!(facts, Facts::Known(_))),
    )
    .await
    .unwrap()
    .unwrap()
    .clone();
    let Facts::Known(known) = known else {
        panic!("not known")
    };
    assert!(
        known.api_servers.contains(&ADVERTISED.parse().unwrap()),
        "{:?}",
        known.api_servers
    );
    assert_eq!(
        known
            .pod_cidrs
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["10.244.7.0/24"]
    );
    let reads = metrics.api_requests("get", "200");
    server.kubectl(&["label", "node", "labelled", "pool=web"]);
    let with_label = |facts: &Facts| matches!(facts, Facts::Known(known) if known.labels.get("pool").is_some_and(|pool| pool == "web"));
    tokio::time::timeout(limit, facts.wait_for(with_label))
        .await
        .expect("the label within a minute")
        .unwrap();
    assert_eq!(metrics.api_requests("get", "200") - reads, 1);
}
