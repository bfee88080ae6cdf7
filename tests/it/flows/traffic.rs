//! What the tests of flows ask of the node: its gateways as reported, sources as seen, packets as counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, Node, Running, wait_until};

/// What has not happened after this long does not happen.
pub const LIMIT: Duration = Duration::from_secs(40);
/// Quick to find a loss, and yet slow enough that a busy machine is not taken for one.
pub const CHECK: &str = "healthCheck: {interval: 200ms, timeout: 800ms, failures: 3, successes: 2}";
/// A port of the echo host for datagrams to many addresses.
const WATCHED_PORT: &str = "7008";

impl Node {
    /// The state of each gateway of a set, a `*` behind those that carry its routes.
    pub fn gateways(&self, set: &str) -> BTreeMap<String, String> {
        let status = self.status();
        let set = status["sets"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["name"] == set);
        let gateways = set
            .and_then(|set| set["gateways"].as_array())
            .cloned()
            .unwrap_or_default();
        let words = |g: &Value| {
            format!(
                "{}{}",
                g["state"].as_str().unwrap(),
                if g["active"] == true { "*" } else { "" }
            )
        };
        gateways
            .iter()
            .map(|g| (g["address"].as_str().unwrap().to_owned(), words(g)))
            .collect()
    }

    /// Waits until the gateways of a set are in these states, in the order of their addresses.
    pub fn wait_for_gateways(&self, set: &str, states: &[&str]) {
        let states_now = || self.gateways(set).into_values().collect::<Vec<_>>();
        assert!(
            wait_until(LIMIT, || states_now() == states),
            "not {states:?} but {:?}: {:#}",
            self.gateways(set),
            self.status()
        );
    }

    /// Waits until the echo host sees a connection from the node to `to` come from `source` (`-`: sees nothing).
    pub fn wait_for_source(&self, to: &str, source: &str) {
        assert!(
            wait_until(LIMIT, || self.lab.source("nd", to) == source),
            "{to}: {:#}",
            self.status()
        );
    }

    /// From now on the node sends a datagram to each of the addresses every `ms`; see `echo watch`.
    pub fn watch(&self, ms: u32, to: &[&str]) -> Running {
        for address in to.iter().filter(|address| address.contains(':')) {
            // What takes every address for its own still does not let an IPv6 one be bound.
            self.lab
                .ip("sv", &format!("addr add {address}/128 dev lo nodad"));
        }
        let server = self
            .lab
            .echo("sv", &[&["serve", WATCHED_PORT], to].concat());
        server.wait_for("echo: ready", LIMIT);
        self.lab.keep(server);
        self.lab.echo(
            "nd",
            &[&["watch", &ms.to_string(), WATCHED_PORT], to].concat(),
        )
    }

    /// Counts packets to these destinations that leave the node by this interface, whatever source they have.
    pub fn count(&self, interface: &str, v4: &[&str], v6: &[&str]) -> Counter<'_> {
        let mut rules = String::new();
        for (family, to) in [("ip", v4), ("ip6", v6)]
            .into_iter()
            .filter(|(_, to)| !to.is_empty())
        {
            let _ = writeln!(
                rules,
                "oifname \"{interface}\" {family} daddr {{ {} }} counter name seen",
                to.join(", ")
            );
        }
        let table = format!("count_{interface}");
        let hook = "type filter hook postrouting priority 300";
        self.lab.nft(
            "nd",
            &format!(
                "table inet {table} {{\ncounter seen {{ }}\nchain out {{ {hook}\n{rules} }}\n}}"
            ),
        );
        Counter {
            lab: &self.lab,
            table,
        }
    }

    /// A gateway that looks dead to ICMP probes and forwards as ever; or is whole again.
    pub fn deaf(&self, gateway: &str, deaf: bool) {
        let rule = if deaf {
            "icmp type echo-request drop\nicmpv6 type echo-request drop"
        } else {
            ""
        };
        let fresh = "table inet deaf\ndelete table inet deaf\n";
        self.lab.nft(gateway, &format!("{fresh}table inet deaf {{\nchain in {{ type filter hook input priority 0\n{rule}\n}}\n}}"));
    }
}

/// A list file of as many /24 as asked for, the first of them around [`ONE`](crate::lab::ONE).
pub fn list(count: usize) -> String {
    let mut list = String::from("34.160.111.0/24\n");
    for n in 1..count {
        let _ = writeln!(list, "20.{}.{}.0/24", n / 256, n % 256);
    }
    list
}

/// Packets counted by nftables.
pub struct Counter<'a> {
    lab: &'a Lab,
    table: String,
}

impl Counter<'_> {
    pub fn packets(&self) -> u64 {
        let output = self.lab.must(
            "nd",
            &["nft", "list", "counter", "inet", &self.table, "seen"],
        );
        let words: Vec<&str> = output.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").unwrap();
        words[at + 1].parse().unwrap()
    }

    pub fn reset(&self) {
        self.lab.must(
            "nd",
            &["nft", "reset", "counter", "inet", &self.table, "seen"],
        );
    }
}
