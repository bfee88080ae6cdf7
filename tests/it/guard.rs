//! Guarded apply with the real program: an edit that cuts the API server off does not stay.
//!
//! The API server is at an address that nothing names, so that nothing protects it: behind a Service address that the node translates,
//! or behind a name. The gateway `g3` is healthy and drops what is sent to the server's range.

mod killed;
mod labels;

use std::fs;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{FABRIC, Lab, Node, Running, Volume, wait_until};
use crate::stub::{self, NODE, Stub};

/// Where the API server is; the agent does not know it.
const HIDDEN: &str = "198.51.100.200";
pub const SERVICE: &str = "10.96.0.1";
const NAME: &str = "api.lab.test";
/// What the bad edit takes.
pub const CUT: &str = "198.51.100.0/24";
pub const FLAGS: [&str; 4] = ["--confirm", "2s", "--resync", "1s"];
pub const CONFIRM: Duration = Duration::from_secs(2);
/// "Back within `--confirm` plus 2 s".
pub const SLACK: Duration = Duration::from_secs(2);
/// For what has no promised time; generous, because machines are busy.
pub const SOON: Duration = Duration::from_secs(30);

pub fn set(name: &str, gateway: &str, destinations: &[&str]) -> String {
    let destinations = destinations.join(", ");
    format!(
        "  - name: {name}\n    gateways: [{gateway}]\n    destinations: [{destinations}]\n    healthCheck: {{type: none}}\n"
    )
}

pub fn good() -> String {
    format!(
        "routes:\n{}",
        set("good", "10.116.0.5", &["203.0.113.0/24"])
    )
}

pub fn another_good() -> String {
    format!(
        "routes:\n{}",
        set("good", "10.116.0.5", &["203.0.113.0/24", "203.0.114.0/24"])
    )
}

pub fn bad() -> String {
    format!("{}{}", good(), set("bad", "10.116.0.7", &[CUT]))
}

fn another_bad() -> String {
    format!("{}{}", another_good(), set("bad", "10.116.0.7", &[CUT]))
}

/// A node in a cluster, with a configuration volume.
pub struct World {
    node: Node,
    api: &'static str,
}

impl Deref for World {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

impl World {
    pub fn new(api: &'static str) -> Self {
        let node = Node::new(&good());
        let lab = &node.lab;
        stub::credentials(lab);
        lab.ip("g3", &format!("route add blackhole {CUT}"));
        if api == SERVICE {
            lab.nft(
                NODE,
                &format!("table ip services {{\n chain output {{\n type nat hook output priority -100\n ip daddr {SERVICE} dnat to {HIDDEN}\n }}\n }}\n"),
            );
        } else {
            let hosts = node.dir.path().join("hosts");
            fs::write(&hosts, format!("127.0.0.1 localhost\n{HIDDEN} {NAME}\n")).unwrap();
            // Seen by this laboratory alone.
            lab.must(
                FABRIC,
                &["mount", "--bind", hosts.to_str().unwrap(), "/etc/hosts"],
            );
        }
        Self { node, api }
    }

    pub fn stub(&self) -> Stub {
        Stub::start(&self.lab, "sv", &[])
    }

    pub fn agent(&self, flags: &[&str]) -> Running {
        stub::agent(&self.lab, self.volume.path(), self.api, flags)
    }

    /// An agent whose first configuration is confirmed.
    pub fn settled_agent(&self, flags: &[&str]) -> Running {
        let agent = self.agent(flags);
        agent.wait_for("Configuration in force", SOON);
        assert!(
            wait_until(SOON, || self.marks().is_empty()
                && self.routes() == ["203.0.113.0/24"]),
            "{}",
            agent.log()
        );
        agent
    }

    pub fn cuts(&self) -> bool {
        self.routes().iter().any(|route| route == CUT)
    }

    /// Nexthop objects of ours that mark a revision as unconfirmed or rejected; see `nexthop_id`.
    pub fn marks(&self) -> Vec<u64> {
        let nexthops = self.lab.json(NODE, "nexthop show");
        let ids = nexthops
            .as_array()
            .unwrap()
            .iter()
            .map(|nexthop| nexthop["id"].as_u64().unwrap());
        ids.filter(|id| (0x4000_0000..0x6000_0000).contains(id))
            .collect()
    }

    /// And nothing else is.
    fn is_marked_rejected(&self) -> bool {
        matches!(self.marks()[..], [id] if id >= 0x5000_0000)
    }

    pub fn status(&self) -> Value {
        self.status_if_any().unwrap_or_default()
    }

    pub fn has_status(&self, word: &str) -> bool {
        wait_until(SOON, || self.status()["status"] == word)
    }

    pub fn rollbacks(&self) -> String {
        metric(&self.lab, NODE, "egress_routes_rollbacks_total")
    }

    /// [`watched`] in this world.
    fn watched(&self, during: impl FnOnce()) -> String {
        watched(&self.lab, during)
    }
}

/// Runs `during` and returns what happened to our routes and nexthops meanwhile.
pub fn watched(lab: &Lab, during: impl FnOnce()) -> String {
    let monitor = lab.spawn(NODE, &["ip", "-N", "monitor", "route", "nexthop"]);
    // A change of somebody else's shows that the monitor listens.
    assert!(wait_until(SOON, || {
        lab.run(
            NODE,
            &[
                "ip",
                "route",
                "add",
                "blackhole",
                "192.0.2.222/32",
                "proto",
                "99",
            ],
        );
        lab.run(
            NODE,
            &[
                "ip",
                "route",
                "del",
                "blackhole",
                "192.0.2.222/32",
                "proto",
                "99",
            ],
        );
        monitor.log().contains("192.0.2.222")
    }));
    during();
    let output = monitor.log();
    output
        .lines()
        .filter(|line| line.contains("proto 230"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The value of a metric without labels.
pub fn metric(lab: &Lab, host: &str, name: &str) -> String {
    let page = http_get(lab, host, "/metrics");
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {name} in\n{page}"))
        .to_owned()
}

/// A page of the agent's.
pub fn http_get(lab: &Lab, host: &str, page: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/9465; printf 'GET {page} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    lab.run(host, &["bash", "-c", &script]).out
}

/// Lets the agent look at everything a few times over, for what must not happen.
fn a_few_resyncs() {
    std::thread::sleep(Duration::from_secs(3));
}

/// Writes the bad edit and returns when it is in the kernel.
pub fn cut_off(world: &mut World, agent: &Running, edit: &str) -> Instant {
    world.volume.routes(edit);
    assert!(wait_until(SOON, || world.cuts()), "{}", agent.log());
    Instant::now()
}

fn is_taken_back(api: &'static str) {
    let mut world = World::new(api);
    let stub = world.stub();
    let agent = world.settled_agent(&FLAGS);
    assert_eq!(world.rollbacks(), "0");
    let confirmed = world.status()["revision"].clone();
    let since = cut_off(&mut world, &agent, &bad());
    assert!(
        wait_until(CONFIRM + SLACK, || !world.cuts()),
        "still there after {:?}: {}",
        since.elapsed(),
        agent.log()
    );
    assert_eq!(
        world.routes(),
        ["203.0.113.0/24"],
        "the previous set, whole"
    );
    assert!(world.has_status("RolledBack"), "{}", world.status());
    let status = world.status();
    let rejected = status["rejectedRevision"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(status["revision"], confirmed);
    assert_eq!(rejected, egress_routes_revision(&world.volume));
    assert!(
        status["message"].as_str().unwrap().contains(&rejected),
        "{status}"
    );
    assert_eq!(world.rollbacks(), "1");
    assert!(
        wait_until(SOON, || stub
            .annotations()
            .get("status")
            .is_some_and(|word| word == "RolledBack")),
        "{:?}",
        stub.annotations()
    );
    assert_eq!(stub.annotations()["revision"], confirmed.as_str().unwrap());
    assert!(
        wait_until(SOON, || stub
            .events()
            .iter()
            .any(|reason| reason == "RolledBack")),
        "{:?}",
        stub.events()
    );
    assert!(wait_until(SOON, || world.is_marked_rejected()));

    let Node { lab, volume, .. } = &mut world.node;
    let happened = watched(lab, || {
        // The kubelet may write the same content again.
        volume.routes(&bad());
        a_few_resyncs();
    });
    assert_eq!(happened, "", "a rejected revision is not tried again");
    assert_eq!(world.rollbacks(), "1");

    world.volume.routes(&another_good());
    assert!(
        wait_until(SOON, || world.routes()
            == ["203.0.113.0/24", "203.0.114.0/24"]),
        "{}",
        agent.log()
    );
    assert!(world.has_status("Ready"), "{}", world.status());
    assert_eq!(world.status()["rejectedRevision"], Value::Null);
    assert!(
        wait_until(SOON, || world.marks().is_empty()),
        "no mark outlives its revision: {:x?}",
        world.marks()
    );
}

/// The revision of what the volume holds, as `check` prints it.
fn egress_routes_revision(volume: &Volume) -> String {
    let snapshot = egress_routes::source::read(volume.path()).unwrap();
    snapshot.files.revision().to_string()
}

#[test]
fn an_edit_that_cuts_off_an_api_server_behind_a_service_address_is_taken_back_in_time_and_not_tried_again()
 {
    is_taken_back(SERVICE);
}

#[test]
fn an_edit_that_cuts_off_an_api_server_behind_a_name_is_taken_back_in_time_and_not_tried_again() {
    is_taken_back(NAME);
}

#[test]
fn neither_a_second_bad_edit_nor_a_broken_one_saves_the_first_from_being_taken_back() {
    for (edit, word) in [
        (another_bad(), "RolledBack"),
        ("routes: [".to_owned(), "Invalid"),
    ] {
        let mut world = World::new(SERVICE);
        let _stub = world.stub();
        let agent = world.settled_agent(&FLAGS);
        cut_off(&mut world, &agent, &bad());
        world.volume.routes(&edit);
        assert!(
            wait_until(SOON, || world.routes() == ["203.0.113.0/24"]),
            "{}",
            agent.log()
        );
        assert!(world.has_status(word), "{}", world.status());
        if word == "Invalid" {
            // Back to what is rejected: still rejected.
            world.volume.routes(&bad());
            assert!(world.has_status("RolledBack"), "{}", world.status());
            assert!(!world.cuts());
        }
    }
}

#[test]
fn an_api_server_that_goes_for_another_reason_delays_a_good_edit_and_does_not_prevent_it() {
    let mut world = World::new(SERVICE);
    let mut stub = world.stub();
    let agent = world.settled_agent(&FLAGS);
    let edited = |world: &World| world.routes() == ["203.0.113.0/24", "203.0.114.0/24"];
    assert!(
        wait_until(SOON, || agent.log().contains("Change confirmed")),
        "{}",
        agent.log()
    );
    world.volume.routes(&another_good());
    assert!(wait_until(SOON, || edited(&world)), "{}", agent.log());
    stub.0.kill();
    let taken_back = wait_until(CONFIRM + SLACK, || !edited(&world));
    // The answer may have come before the kill: then nothing is to be taken back.
    assert!(
        taken_back || agent.log().matches("Change confirmed").count() == 2,
        "{}",
        agent.log()
    );
    assert!(wait_until(SOON, || edited(&world)), "{}", agent.log());
    if taken_back {
        agent.wait_for("re-applying it", SOON);
    }
    a_few_resyncs();
    assert!(edited(&world), "{}", agent.log());
    let _stub = world.stub();
    assert!(world.has_status("Ready"), "{}", world.status());
    assert!(
        wait_until(SOON, || world.marks().is_empty()),
        "{:x?}",
        world.marks()
    );
}

#[test]
fn without_an_api_server_before_the_edit_it_is_applied_at_once_and_its_absence_alone_changes_nothing()
 {
    let mut world = World::new(SERVICE);
    let mut stub = world.stub();
    let agent = world.settled_agent(&FLAGS);
    stub.0.kill();
    let happened = world.watched(a_few_resyncs);
    assert_eq!(happened, "", "nothing was edited: {}", agent.log());
    let edited = Instant::now();
    world.volume.routes(&bad());
    assert!(wait_until(SOON, || world.cuts()), "{}", agent.log());
    assert!(
        edited.elapsed() < Duration::from_secs(5),
        "after {:?}",
        edited.elapsed()
    );
    let happened = world.watched(a_few_resyncs);
    assert_eq!(happened, "", "{}", agent.log());
    assert_eq!(world.rollbacks(), "0");
}

#[test]
fn a_guard_that_is_off_leaves_a_bad_edit_in_force() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let agent = world.settled_agent(&["--confirm", "0", "--resync", "1s"]);
    cut_off(&mut world, &agent, &bad());
    let happened = world.watched(a_few_resyncs);
    assert_eq!(happened, "");
    assert_eq!((world.rollbacks().as_str(), world.marks().len()), ("0", 0));
}

#[test]
fn cleanup_removes_marks_too() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let mut agent = world.settled_agent(&FLAGS);
    cut_off(&mut world, &agent, &bad());
    agent.kill();
    assert!(!world.marks().is_empty());
    // A child that the agent was just starting has the agent's socket until it is `ip`.
    let mut output = world.lab.egress_routes(NODE, &["cleanup"]);
    let ended = wait_until(SOON, || {
        let ended = !output.err.contains("an agent runs here");
        if !ended {
            output = world.lab.egress_routes(NODE, &["cleanup"]);
        }
        ended
    });
    assert!(ended && output.code == 0, "{}{}", output.out, output.err);
    assert_eq!(
        (
            world.routes().len(),
            world.lab.ip(NODE, "nexthop show proto 230")
        ),
        (0, String::new())
    );
}

#[test]
fn an_edit_makes_the_agent_look_where_the_api_servers_are_now() {
    let mut world = World::new(SERVICE);
    let mut stub = world.stub();
    let agent = world.settled_agent(&FLAGS);
    stub.0.tell("203.0.113.77");
    let mut edits = 0;
    let is_cut = wait_until(SOON, || {
        edits += 1;
        world.volume.routes(&format!("{}# {edits}\n", good()));
        std::thread::sleep(Duration::from_secs(1));
        let routes = world.routes();
        routes.len() == 8
            && routes.contains(&"203.0.113.76".to_owned())
            && !routes.contains(&"203.0.113.77".to_owned())
    });
    assert!(is_cut, "{:?}: {}", world.routes(), agent.log());
}
