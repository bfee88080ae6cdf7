//! Hostile or broken surroundings, with the real program: routes stay, the report names what is wrong, and the agent recovers without a
//! restart. `docs/reliability.md` lists every fault with its outcome and the test that proves it.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::guard::{http_get, metric};
use crate::lab::{AGENT, G1, G1_V6, Lab, Node, Running, wait_until};

mod configuration;
mod program;
mod resources;

const SOON: Duration = Duration::from_secs(40);
const NODE: &str = "nd";
/// What every configuration here has; `198.51.100.N/32` identifies it.
const ALWAYS: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/48"];

/// The configuration number `n`.
fn numbered(n: u8) -> String {
    format!(
        "routes:\n  - name: numbered\n    gateways: [{G1}, '{G1_V6}']\n    destinations: [203.0.113.0/24, '2001:db8:113::/48', 198.51.100.{n}]\n    \
         healthCheck: {{type: none}}\n"
    )
}

/// A node with a configuration, and an `ip` that can be made to misbehave.
struct Numbered {
    node: Node,
    number: u8,
}

impl Deref for Numbered {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Numbered {
    fn new(lab: Lab) -> Self {
        lab.host(NODE).host("peer");
        lab.link(
            (NODE, "eth1", &["10.116.0.2/24", "fd00:116::2/64"]),
            ("peer", "eth1", &["10.116.0.5/24", "fd00:116::5/64"]),
        );
        lab.batch(NODE, "route add 10.244.2.0/24 via 10.116.0.5 proto 17\n");
        let node = Node::of(lab);
        let dir = node.dir.path();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.join("bin")).unwrap();
        let mut node = Self { node, number: 0 };
        node.edit();
        let real = node.lab.must(NODE, &["sh", "-c", "command -v ip"]);
        let script = format!(
            "#!/bin/sh\nreal={}\n. {}\nexec $real \"$@\"\n",
            real.trim(),
            node.misbehaviour().display()
        );
        let wrapper = node.ip_program();
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        node.ip_behaves();
        node
    }

    fn ip_program(&self) -> PathBuf {
        self.dir.path().join("bin/ip")
    }

    fn misbehaviour(&self) -> PathBuf {
        self.dir.path().join("misbehaviour")
    }

    /// From now on the agent's `ip` does this first; a line of shell, in which `$real` is the real one.
    fn ip_does(&self, script: &str) {
        let fresh = self.dir.path().join("fresh");
        fs::write(&fresh, script.to_owned() + "\n").unwrap();
        fs::rename(fresh, self.misbehaviour()).unwrap();
    }

    fn ip_behaves(&self) {
        self.ip_does("");
    }

    /// The next configuration.
    fn edit(&mut self) {
        self.number += 1;
        self.node.volume.routes(&numbered(self.number));
    }

    /// The agent with the switchable `ip` and nothing else on its PATH.
    fn agent(&self, flags: &[&str]) -> Running {
        self.agent_by(&[], flags)
    }

    /// The same, started by another program such as `prlimit`.
    fn agent_by(&self, starter: &[&str], flags: &[&str]) -> Running {
        let config = self.volume.path().to_str().unwrap();
        let path = format!("PATH={}", self.dir.path().join("bin").display());
        let words = [
            starter,
            &["env", &path, AGENT, "run", "--config", config],
            flags,
        ]
        .concat();
        self.lab.spawn(NODE, &words)
    }

    /// What the kernel has while configuration `n` is in force.
    fn routes_of(n: u8) -> Vec<String> {
        let mut routes: Vec<String> = ALWAYS.map(str::to_owned).into();
        routes.push(format!("198.51.100.{n}"));
        routes.sort();
        routes
    }

    fn status(&self) -> Value {
        self.status_if_any().unwrap_or_default()
    }

    fn message(&self) -> String {
        self.status()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until the newest configuration is in the kernel and reported.
    fn is_well(&self, agent: &Running) {
        let routes = Self::routes_of(self.number);
        assert!(
            wait_until(SOON, || self.routes() == routes),
            "{:?} is not {routes:?}: {}",
            self.routes(),
            agent.log()
        );
        assert!(
            wait_until(SOON, || self.status()["status"] == "Ready"),
            "{}: {}",
            self.status(),
            agent.log()
        );
    }

    /// Waits until the status is `word` and its message contains `words`.
    fn reports(&self, word: &str, words: &str, agent: &Running) {
        let reported = wait_until(SOON, || {
            self.status()["status"] == word && self.message().contains(words)
        });
        assert!(
            reported,
            "no {word} with `{words}` in {}: {}",
            self.status(),
            agent.log()
        );
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&self.lab, NODE, name).parse().unwrap()
    }

    fn lives(&self) {
        assert!(http_get(&self.lab, NODE, "/livez").ends_with("ok\n"));
    }
}

/// All sources below a directory.
fn everything_in(dir: &Path) -> String {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.extension() {
            None if path.is_dir() => everything_in(&path),
            Some(end) if end == "rs" => fs::read_to_string(&path).unwrap(),
            _ => String::new(),
        })
        .collect()
}

#[test]
fn the_page_on_reliability_names_every_test_of_surroundings_and_no_test_that_is_not_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let source = |file: &str| fs::read_to_string(root.join("tests/it").join(file)).unwrap();
    let ours = [
        "surroundings/program.rs",
        "surroundings/configuration.rs",
        "surroundings/resources.rs",
        "guard.rs",
        "guard/killed.rs",
        "guard/labels.rs",
    ]
    .map(source)
    .concat();
    let all =
        everything_in(&root.join("tests/it")) + &everything_in(&root.join("src/kernel/apply"));
    let named: Vec<&str> = page
        .split('`')
        .filter(|word| word.matches('_').count() > 3 && !word.starts_with("egress_"))
        .collect();
    assert!(named.len() > 20);
    for name in &named {
        assert!(
            all.contains(&format!("fn {name}()")),
            "no test is called {name}"
        );
    }
    for name in ours
        .split("#[test]\nfn ")
        .skip(1)
        .map(|test| test.split('(').next().unwrap())
    {
        assert!(
            named.contains(&name) || name == "cleanup_removes_marks_too",
            "{name} is not on the page"
        );
    }
}
