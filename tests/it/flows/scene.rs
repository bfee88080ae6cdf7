//! A blueprint whose node runs the agent, and what is asked of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{AGENT, Lab, Running, Volume, wait_until};

/// What has not happened after this long does not happen.
pub const LIMIT: Duration = Duration::from_secs(40);
/// Quick to find a loss, and yet slow enough that a busy machine is not taken for one.
pub const CHECK: &str = "healthCheck: {interval: 200ms, timeout: 800ms, failures: 3, successes: 2}";
/// A port of the echo host for datagrams to many addresses.
const WATCHED_PORT: &str = "7008";

/// The blueprint and the node's configuration volume.
pub struct Scene {
    pub lab: Lab,
    pub volume: Volume,
    _dir: TempDir,
}

impl Scene {
    pub fn new(routes_yaml: &str) -> Self {
        Self::with_files(&[("routes.yaml", routes_yaml)])
    }

    pub fn with_files(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut volume = Volume::new(dir.path());
        volume.write(files);
        Self {
            lab: Lab::blueprint(),
            volume,
            _dir: dir,
        }
    }

    /// Starts the agent and waits until the configuration is in force.
    pub fn agent(&self) -> Running {
        self.agent_behind(None)
    }

    /// The same, with a wrapper around its `ip`.
    pub fn agent_behind(&self, wrapper: Option<&IpWrapper>) -> Running {
        let agent = self.start_agent(wrapper);
        agent.wait_for("Configuration in force", LIMIT);
        agent
    }

    /// Starts the agent.
    pub fn start_agent(&self, wrapper: Option<&IpWrapper>) -> Running {
        let path = wrapper.map(IpWrapper::path);
        let env: Vec<(&str, &str)> = path.iter().map(|path| ("PATH", path.as_str())).collect();
        self.start_agent_with(&env)
    }

    /// The same with these variables.
    pub fn start_agent_with(&self, env: &[(&str, &str)]) -> Running {
        let config = self.volume.path().to_str().unwrap();
        self.lab.spawn_with_env(
            "nd",
            &[agent_program().as_str(), "run", "--config", config],
            env,
        )
    }

    /// What the node reports.
    pub fn status(&self) -> Value {
        let ask = || self.lab.egress_routes("nd", &["status", "-o", "json"]);
        let mut said = ask();
        // One that has just started reports that.
        assert!(
            wait_until(LIMIT, || said.code != 2 || {
                said = ask();
                said.code != 2
            }),
            "{said:?}"
        );
        serde_json::from_str(&said.out).unwrap_or_else(|why| panic!("{why}: {said:?}"))
    }

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

/// The agent under test; figures for the documentation are taken with another build of it.
fn agent_program() -> String {
    std::env::var("EGRESS_ROUTES_TEST_AGENT").unwrap_or_else(|_| AGENT.to_owned())
}

/// Packets counted by nftables.
pub struct Counter<'a> {
    lab: &'a Lab,
    table: String,
}

impl Counter<'_> {
    pub fn packets(&self) -> u64 {
        let said = self.lab.must(
            "nd",
            &["nft", "list", "counter", "inet", &self.table, "seen"],
        );
        let words: Vec<&str> = said.split_whitespace().collect();
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

/// An `ip` that writes down each batch before the real one gets it, and may change it. Two batches at a time stay apart.
pub struct IpWrapper {
    dir: TempDir,
}

impl IpWrapper {
    /// `sed` is applied to each batch, after it was written down.
    pub fn new(sed: &str) -> Self {
        Self::with(sed, "")
    }

    /// Reading routes takes so many seconds.
    pub fn slow_to_read(seconds: u32) -> Self {
        Self::with(
            "",
            &format!("case \"$*\" in *\"route save\"*) sleep {seconds} ;; esac\n"),
        )
    }

    /// Reading routes fails from [`IpWrapper::fail`] on.
    pub fn unable_to_read() -> Self {
        Self::with(
            "",
            "case \"$*\" in *\"route save\"*) [ ! -e \"$0.fails\" ] || exit 1 ;; esac\n",
        )
    }

    /// Whether reading routes fails.
    pub fn fail(&self, fails: bool) {
        let flag = self.dir.path().join("ip.fails");
        if fails {
            fs::write(flag, "").unwrap();
        } else {
            fs::remove_file(flag).unwrap();
        }
    }

    fn with(sed: &str, first: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let said = Command::new("sh")
            .args(["-c", "command -v ip"])
            .output()
            .unwrap();
        let real = String::from_utf8(said.stdout).unwrap();
        let (log, real) = (dir.path().join("log"), real.trim());
        let log = log.display();
        let script = format!(
            "#!/bin/sh\n{first}case \"$*\" in *-batch*) ;; *) exec {real} \"$@\" ;; esac\n\
             batch={log}.$$\ncat >$batch\n{{ flock 9; echo \"# $*\"; cat $batch; }} 9>{log}.lock >>{log}\n\
             sed '{sed}' $batch | {real} \"$@\"\n"
        );
        let program = dir.path().join("ip");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn path(&self) -> String {
        format!(
            "{}:{}",
            self.dir.path().display(),
            std::env::var("PATH").unwrap()
        )
    }

    /// The lines of each batch so far.
    pub fn batches(&self) -> Vec<Vec<String>> {
        let mut batches: Vec<Vec<String>> = Vec::new();
        for line in fs::read_to_string(self.log()).unwrap_or_default().lines() {
            if line.starts_with('#') {
                batches.push(Vec::new());
            } else if let Some(batch) = batches.last_mut() {
                batch.push(line.to_owned());
            }
        }
        // One that only looks up is none that writes.
        batches.retain(|batch| !batch.iter().all(|line| line.starts_with("route get ")));
        batches
    }

    /// Forgets the batches so far.
    pub fn forget(&self) {
        fs::write(self.log(), "").unwrap();
    }
}
