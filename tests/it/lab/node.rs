//! The node `nd` of a laboratory with its mounted `ConfigMap`: the agent on it, and what the agent and the kernel report.
//!
//! Each room of the tests adds its own questions with an `impl Node`.

use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{AGENT, CommandOutput, Lab, Running, Volume, WrappedIp, wait_until};

/// What takes longer than this does not come; generous because tests share a busy machine. Times that matter are printed.
const LIMIT: Duration = Duration::from_secs(40);
const NAME: &str = "nd";

pub struct Node {
    pub lab: Lab,
    pub volume: Volume,
    pub dir: TempDir,
}

impl Node {
    /// The node of a laboratory, with an empty volume.
    pub fn of(lab: Lab) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = dir.path().join("config");
        std::fs::create_dir(&mounted).unwrap();
        Self {
            lab,
            volume: Volume::new(mounted),
            dir,
        }
    }

    /// The node of the blueprint with this `routes.yaml`.
    pub fn new(routes_yaml: &str) -> Self {
        Self::with_files(&[("routes.yaml", routes_yaml)])
    }

    /// The same with all files of the volume.
    pub fn with_files(files: &[(&str, &str)]) -> Self {
        let mut node = Self::of(Lab::blueprint());
        node.volume.write(files);
        node
    }

    /// Starts the agent with further flags.
    pub fn agent(&self, flags: &[&str]) -> Running {
        self.start(&[], flags)
    }

    /// The same, in force.
    pub fn agent_in_force(&self, flags: &[&str]) -> Running {
        in_force(self.agent(flags))
    }

    /// Starts the agent with an `ip` that writes down what it was asked.
    pub fn agent_behind(&self, ip: &WrappedIp, flags: &[&str]) -> Running {
        self.start(&[("PATH", &ip.path())], flags)
    }

    /// The same, in force.
    pub fn agent_in_force_behind(&self, ip: &WrappedIp) -> Running {
        in_force(self.agent_behind(ip, &[]))
    }

    fn start(&self, env: &[(&str, &str)], flags: &[&str]) -> Running {
        // Figures for the documentation are taken with another build of it.
        let program =
            std::env::var("EGRESS_ROUTES_TEST_AGENT").unwrap_or_else(|_| AGENT.to_owned());
        let config = self.volume.path().to_str().unwrap();
        let words = [&[program.as_str(), "run", "--config", config], flags].concat();
        self.lab.spawn_with_env(NAME, &words, env)
    }

    /// A command of the program on the volume, with further arguments.
    pub fn command(&self, command: &[&str]) -> CommandOutput {
        let config = self.volume.path().to_str().unwrap();
        self.lab
            .egress_routes(NAME, &[command, &["--config", config]].concat())
    }

    /// What the agent reports; nothing while it has no status yet.
    pub fn status_if_any(&self) -> Option<Value> {
        serde_json::from_str(&self.command(&["status", "-o", "json"]).out).ok()
    }

    /// The same, as soon as there is something.
    pub fn status(&self) -> Value {
        let mut status = None;
        let reported = wait_until(LIMIT, || {
            status = self.status_if_any();
            status.is_some()
        });
        assert!(reported, "{:?}", self.command(&["status"]));
        status.unwrap()
    }

    /// Our routes of the main table but leak guards, as `ip` writes their destinations.
    pub fn routes(&self) -> Vec<String> {
        let both = ["-4", "-6"].map(|family| {
            self.lab
                .json(NAME, &format!("{family} route show proto 230"))
        });
        let all = both.iter().flat_map(|routes| routes.as_array().unwrap());
        let ours = all.filter(|route| route["metric"] == 4242);
        let mut routes: Vec<String> = ours
            .map(|route| route["dst"].as_str().unwrap().to_owned())
            .collect();
        routes.sort();
        routes.dedup();
        routes
    }
}

fn in_force(agent: Running) -> Running {
    agent.wait_for("Configuration in force", LIMIT);
    agent
}
