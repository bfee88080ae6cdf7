//! The agent against a real kernel: what an operator's edit, a link, another program or a `kill -9` does to the routes.

mod busy;
mod churn;
mod command_line;
mod commands;
mod configuration;
mod died;
mod explain;
mod killed;
mod links;
mod lists;
mod place;
mod restart;
mod rules;
mod staying;
mod taken;
mod vrf_device;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::{
    AGENT, G1, G1_V6, G2, Lab, NODE_PUBLIC, Node, ONE, Running, TWO, Volume, WrappedIp, wait_until,
};
use crate::stub::{self, Stub};

/// What takes longer than this does not come; generous because tests share a busy machine. Times that matter are printed.
const LIMIT: Duration = Duration::from_secs(30);
/// A node's routes that are nobody's business: of a person, of a daemon, of our metric, and a nexthop object.
const FOREIGN: &str = "route add default via 192.0.2.1 dev eth0
    route add 203.0.113.0/24 via 192.0.2.1 proto static metric 100
    route add 203.0.114.0/24 via 10.116.0.9 proto bird metric 4242
    route add blackhole 203.0.115.0/24 proto 231 metric 4294967294
    nexthop add id 77 via 10.116.0.9 dev eth1 proto bird
    route add 203.0.116.0/24 nhid 77 proto bird
    route add 2001:db8:bad::/48 via fd00:116::9 proto static metric 4242\n";

/// A node with the internet behind `eth0` and a VPC behind `eth1`.
fn node() -> Node {
    let lab = Lab::new();
    lab.host("nd").host("peer");
    lab.link(
        ("nd", "eth0", &["192.0.2.2/24"]),
        ("peer", "eth0", &["192.0.2.1/24"]),
    );
    lab.link(
        ("nd", "eth1", &["10.116.0.2/24", "fd00:116::2/64"]),
        ("peer", "eth1", &["10.116.0.5/24", "fd00:116::5/64"]),
    );
    lab.batch("nd", FOREIGN);
    // Link-local addresses settle after a second, and with them the table.
    assert!(wait_until(LIMIT, || !lab
        .ip("nd", "-6 addr show")
        .contains("tentative")));
    Node::of(lab)
}

impl Node {
    /// The agent as a pod of a cluster whose API server is on the peer.
    fn agent_in_a_cluster(&self, flags: &[&str]) -> (Stub, Running) {
        const API: &str = "10.96.0.1";
        self.lab.ip("peer", &format!("addr add {API}/32 dev lo"));
        let api = Stub::start(&self.lab, "peer", &[API]);
        stub::credentials(&self.lab);
        let agent = stub::agent(&self.lab, self.volume.path(), API, flags);
        (api, agent)
    }

    /// Waits until the agent logs this; fails with what it logged instead.
    fn becomes(&self, status: &str) -> serde_json::Value {
        let mut last = serde_json::Value::Null;
        let done = wait_until(LIMIT, || {
            last = self.status();
            last["status"] == status
        });
        assert!(done, "not {status} but {last:#}");
        last
    }

    fn own(&self) -> BTreeSet<String> {
        self.routes().into_iter().collect()
    }

    /// Everything in the kernel, in words.
    fn everything(&self) -> String {
        let all = [
            "-4 route show table all",
            "-6 route show table all",
            "nexthop show",
        ]
        .map(|what| self.lab.ip("nd", &format!("-o -N {what}")));
        let mut lines: Vec<&str> = all
            .iter()
            .flat_map(|output| output.lines())
            .map(str::trim)
            .collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// The part of it that is not ours.
    fn foreign(&self) -> String {
        self.everything()
            .lines()
            .filter(|line| !format!("{line} ").contains(" proto 230 "))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Waits until exactly these are ours; how long that took.
    fn owns(&self, wanted: &BTreeSet<String>) -> Duration {
        let start = Instant::now();
        let mut last = BTreeSet::new();
        let done = wait_until(LIMIT, || {
            last = self.own();
            last == *wanted
        });
        let took = start.elapsed();
        let (missing, surplus) = (
            wanted.difference(&last).count(),
            last.difference(wanted).count(),
        );
        assert!(
            done,
            "{missing} missing, {surplus} too many, such as {:?}",
            last.symmetric_difference(wanted).next()
        );
        took
    }

    /// A file beside the volume.
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Waits for the `times`-th configuration in force.
fn in_force(agent: &Running, times: usize) {
    let done = wait_until(LIMIT, || {
        agent.log().matches("Configuration in force").count() >= times
    });
    assert!(
        done,
        "no {times}. configuration in force; it output:\n{}",
        agent.log()
    );
}

/// A route set without health checks; `more` is further keys, each line indented by four.
fn set(name: &str, gateways: &str, destinations: &str, more: &str) -> String {
    let mut set = format!(
        "  - name: {name}\n    gateways: [{gateways}]\n    healthCheck: {{ type: none }}\n"
    );
    if !destinations.is_empty() {
        let _ = writeln!(set, "    destinations: [{destinations}]");
    }
    set + more
}

fn routes(sets: &[String]) -> String {
    format!("routes:\n{}", sets.concat())
}

/// `count` prefixes as `ip` writes them: /24 from 20.0.0.0, or /48 from 2a00::.
fn prefixes(count: u32) -> BTreeSet<String> {
    (0..count)
        .map(|n| format!("20.{}.{}.0/24", n >> 8, n & 255))
        .collect()
}

fn prefixes6(count: u32) -> BTreeSet<String> {
    (1..=count).map(|n| format!("2a00:{n:x}::/48")).collect()
}

fn listed(prefixes: &BTreeSet<String>) -> String {
    prefixes
        .iter()
        .map(|prefix| format!("{prefix}\n"))
        .collect()
}

/// A number from 0 up to `below`; each test run has its own sequence.
fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        % below
}

#[test]
fn what_two_sets_send_through_one_gateway_comes_with_its_address_and_everything_else_with_the_nodes_own()
 {
    let mut node = Node::of(Lab::blueprint());
    let set = |name: &str, to: &str| {
        format!("- name: {name}\n  gateways: [{G1}]\n  destinations: [{to}]\n")
    };
    node.volume.routes(&format!(
        "routes:\n{}{}",
        set("ip-echo", ONE),
        set("ip-lookup", TWO)
    ));
    let start = Instant::now();
    let _agent = node.agent_in_force(&[]);
    println!("from start to in force: {:?}", start.elapsed());
    let public = crate::lab::G1_PUBLIC;
    for (to, source) in [
        (ONE, public),
        (TWO, public),
        ("34.160.111.144", NODE_PUBLIC),
        ("198.51.100.1", NODE_PUBLIC),
    ] {
        assert_eq!(node.lab.source("nd", to), source, "to {to}");
    }
    assert!(
        wait_until(LIMIT, || node.status()["sets"][1]["gateways"][0]["state"]
            == "up"),
        "{:#}",
        node.status()
    );
    let status = node.status();
    assert_eq!(
        (&status["status"], &status["message"]),
        (&"Ready".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        (
            &status["sets"][0]["wanted"],
            &status["sets"][0]["installed"]
        ),
        (&1.into(), &1.into())
    );
}
