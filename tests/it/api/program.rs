//! The whole program as a pod of a cluster: on a node of the laboratory, with a real API server and the rights of `deploy/`.

use std::fmt::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::SOON;
use super::server::{Audited, Server, assets};
use crate::guard::{http_get, watched};
use crate::lab::{G1, G2, Lab, Running, Volume, wait_until};
use crate::stub::{self, NODE};

/// Where the API server is; on the node's own subnet.
const API: &str = "192.0.2.1";
const NAMESPACE: &str = "program";
const PREFIXES: usize = 10_000;
/// Reads are a minute apart, give or take what a busy machine adds.
const BETWEEN_READS: Duration = Duration::from_secs(59);

/// A node in a cluster.
struct World {
    server: Server,
    volume: Volume,
    _dir: tempfile::TempDir,
}

impl World {
    /// `spec` is what the cluster has of [`NODE`].
    fn new(assets: &Path, spec: &Value) -> Self {
        let server = Server::start_in(assets, Lab::blueprint(), "sv", API);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"pool": "web"}}, "spec": spec});
        server.kubectl_with_input(&["create", "-f", "-"], &node.to_string());
        server.install(NAMESPACE).credentials();
        let dir = tempfile::tempdir().unwrap();
        Self {
            server,
            volume: Volume::new(dir.path()),
            _dir: dir,
        }
    }

    fn agent(&self, flags: &[&str]) -> Running {
        stub::agent(
            self.server.lab(),
            self.volume.path(),
            API,
            &[&["--namespace", NAMESPACE], flags].concat(),
        )
    }

    fn annotation(&self, key: &str) -> Value {
        self.server.get_node(NODE)["metadata"]["annotations"][format!("egress-routes.dev/{key}")]
            .clone()
    }

    /// Requests of the agent's that are no reads.
    fn writes(&self) -> Vec<Audited> {
        self.server
            .audited(NAMESPACE)
            .into_iter()
            .filter(|request| request.verb != "get")
            .collect()
    }

    /// Waits until nothing was written for longer than anything is spread over.
    fn falls_silent(&self) {
        let mut last = self.writes().len();
        let silent = wait_until(SOON, || {
            sleep(Duration::from_secs(7));
            std::mem::replace(&mut last, self.writes().len()) == last
        });
        assert!(silent, "{:?}", self.writes());
    }
}

/// Runs an agent with 10,000 routes and lets nothing happen for `span`.
fn idle(span: Duration) {
    let assets = assets();
    let mut world = World::new(&assets, &json!({}));
    let mut list = String::new();
    for n in 0..PREFIXES {
        let _ = writeln!(list, "20.{}.{}.0/24", n / 256, n % 256);
    }
    let routes = format!(
        "routes:\n  - name: many\n    gateways: [{G1}]\n    destinationFiles: [list.txt]\n    nodeSelector: {{matchLabels: {{pool: web}}}}\n"
    );
    world
        .volume
        .write(&[("routes.yaml", routes), ("list.txt", list)]);
    let agent = world.agent(&[]);
    agent.wait_for("Change confirmed: the API server answers", SOON);
    let reported = || world.annotation("routes") == format!("{PREFIXES}/{PREFIXES}").as_str();
    // One patch, one Event that the routes are applied.
    assert!(
        wait_until(SOON, || reported() && world.writes().len() >= 2),
        "{}",
        agent.log()
    );
    world.falls_silent();
    assert_eq!(world.writes().len(), 2, "{:?}", world.writes());

    let server = &world.server;
    let (requests, node, output) = (
        server.audited(NAMESPACE).len(),
        server.get_node(NODE),
        agent.log(),
    );
    let happened = watched(server.lab(), || sleep(span)); // the span that is measured
    assert_eq!(happened, "", "writes to the kernel");
    let requests = server.audited(NAMESPACE).split_off(requests);
    let reads: Vec<&Audited> = requests
        .iter()
        .filter(|request| request.verb == "get")
        .collect();
    println!(
        "{} s, {PREFIXES} routes: {} reads, {} writes",
        span.as_secs(),
        reads.len(),
        requests.len() - reads.len()
    );
    println!(
        "memory: {} KiB now, {} KiB at most",
        agent.memory_kib().0,
        agent.memory_kib().1
    );
    assert_eq!(
        reads.len(),
        requests.len(),
        "writes to the API: {requests:?}"
    );
    assert_eq!(
        server.get_node(NODE)["metadata"]["resourceVersion"],
        node["metadata"]["resourceVersion"]
    );
    assert!(!reads.is_empty(), "labels are looked at once a minute");
    // From the API server's cache: etcd has nothing to do for it.
    assert!(
        reads
            .iter()
            .all(|read| read.query.trim_start_matches('&') == "resourceVersion=0"),
        "{reads:?}"
    );
    for pair in reads.windows(2) {
        let apart = pair[1].received.duration_since(pair[0].received);
        assert!(
            Duration::try_from(apart).unwrap() >= BETWEEN_READS,
            "{requests:?}"
        );
    }
    assert_eq!(agent.log(), output, "and there was nothing to say");
}

#[test]
fn a_minute_in_which_nothing_happens_is_one_small_read_and_no_write_at_all() {
    idle(Duration::from_secs(65));
}

#[test]
#[ignore = "takes ten minutes"]
fn ten_minutes_in_which_nothing_happens_are_ten_small_reads_and_no_write_at_all() {
    idle(Duration::from_mins(10));
}

#[test]
fn a_node_loses_its_startup_taint_when_its_routes_are_there_and_a_restart_tells_nothing_twice() {
    const TAINT: &str = "egress-routes.dev/not-ready";
    let assets = assets();
    let taints = json!([{"key": TAINT, "effect": "NoSchedule"}]);
    let mut world = World::new(&assets, &json!({"taints": taints}));
    // One gateway that is beyond the node's subnets for now, and dead behind that.
    world.volume.routes(
        "routes:\n  - {name: early, gateways: [10.117.0.5], destinations: [203.0.113.0/24]}\n",
    );
    let flags = ["--startup-taint", TAINT, "--resync", "1s"];
    let mut agent = world.agent(&flags);
    assert!(
        wait_until(SOON, || world.annotation("routes") == "0/1"),
        "{}",
        agent.log()
    );
    sleep(Duration::from_secs(3)); // some resyncs, for what must not happen
    let taints_now = || world.server.get_node(NODE)["spec"]["taints"].clone();
    let lab = world.server.lab();
    assert!(
        taints_now().to_string().contains(TAINT),
        "no route, and yet pods may come: {}",
        taints_now()
    );
    assert!(!http_get(lab, NODE, "/readyz").ends_with("ok\n"));
    lab.ip(NODE, "addr add 10.117.0.2/24 dev eth1");
    assert!(
        wait_until(SOON, || !taints_now().to_string().contains(TAINT)),
        "{}",
        agent.log()
    );
    assert!(http_get(lab, NODE, "/readyz").ends_with("ok\n"));
    assert!(
        wait_until(SOON, || world.annotation("gateways") == "10.117.0.5=down"),
        "{}",
        agent.log()
    );
    world.falls_silent();

    let before = world.writes().len();
    agent.kill();
    let agent = world.agent(&flags);
    agent.wait_for(
        "Gateway down, as before the agent started: 10.117.0.5",
        SOON,
    );
    world.falls_silent();
    assert_eq!(
        format!("{:?}", &world.writes()[before..]),
        "[]",
        "{}",
        agent.log()
    );
}

#[test]
fn a_gateway_that_carries_nothing_any_more_is_an_event_of_its_node_once() {
    let assets = assets();
    let mut world = World::new(&assets, &json!({}));
    let routes = |drain| {
        format!(
            "routes:\n- name: a\n  drainTimeout: 20s\n  gateways: [{G1}, {{ address: {G2}, drain: {drain} }}]\n  destinations: [203.0.113.0/24]\n"
        )
    };
    world.volume.routes(&routes(false));
    let agent = world.agent(&[]);
    let gateways = |world: &World, states: &str| {
        let reported = wait_until(Duration::from_mins(1), || {
            world.annotation("gateways") == states
        });
        assert!(reported, "not {states}: {}", agent.log());
    };
    gateways(&world, &format!("{G1}=up,{G2}=up"));
    world.volume.routes(&routes(true));
    gateways(&world, &format!("{G1}=up,{G2}=drained"));
    world.falls_silent();
    let fields = "--field-selector=reason=GatewayDrained,involvedObject.kind=Node";
    let events = world
        .server
        .kubectl(&["get", "events", fields, "-o", "json"]);
    let events: Value = serde_json::from_str(&events).unwrap();
    let [event] = &events["items"].as_array().unwrap()[..] else {
        panic!("{events}")
    };
    assert_eq!(event["involvedObject"]["name"], NODE);
    assert_eq!(event["type"], "Normal");
    assert_eq!(
        event["message"],
        format!("Gateway {G2} is drained: this node has no flow on it any more")
    );
}
