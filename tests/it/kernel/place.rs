//! `@egress-routes`: who may hold it, who may ask, and whose answer counts.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::stub::{self, NODE, Stub};

/// Makes [`holds_the_place`] hold it; set in the process that does.
const HOLD: &str = "EGRESS_ROUTES_TEST_HOLD";
const NOBODY: [&str; 5] = ["setpriv", "--reuid", "65534", "--clear-groups", "--"];

/// Not a test: what [`a_process_that_is_not_root_keeps_the_agent_waiting_and_is_not_believed`] starts as another user.
#[test]
#[ignore = "run by another test as another user"]
fn holds_the_place() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let name = std::os::unix::net::SocketAddr::from_abstract_name("egress-routes").unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&name).unwrap();
    eprintln!("holding");
    for stream in listener.incoming() {
        let forged = br#"{"node":"nd","status":"Ready"}"#;
        let _ = std::io::Write::write_all(&mut stream.unwrap(), forged);
    }
}

/// Whether this machine lets the test be several users; without root a user namespace has one.
fn several_users() -> bool {
    let root = crate::lab::am_root();
    if !root {
        eprintln!("SKIPPED: needs root, for a second user");
    }
    root
}

/// The test binary, where every user may run it.
fn holder(lab: &Lab, dir: &Path) -> Running {
    let copy = dir.join("holder");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    for path in [dir, &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let test = [
        copy.to_str().unwrap(),
        "--exact",
        "kernel::place::holds_the_place",
        "--ignored",
        "--nocapture",
    ];
    let holder = lab.spawn_with_env(NODE, &[&NOBODY[..], &test].concat(), &[(HOLD, "1")]);
    holder.wait_for("holding", LIMIT);
    holder
}

#[test]
fn a_process_that_is_not_root_keeps_the_agent_waiting_and_is_not_believed() {
    if !several_users() {
        return;
    }
    let (lab, dir) = (Lab::blueprint(), tempfile::tempdir().unwrap());
    stub::credentials(&lab);
    let stub = Stub::start(&lab, "sv", &[]);
    std::fs::create_dir(dir.path().join("config")).unwrap();
    let mut volume = Volume::new(dir.path().join("config"));
    volume.routes(&routes(&[set("a", G1, "203.0.113.0/24", "")]));
    let mut holder = holder(&lab, dir.path());
    let agent = stub::agent(&lab, volume.path(), "198.51.100.200", &[]);
    let words = format!(
        "a process that is not root (pid {}, uid 65534) holds the socket @egress-routes",
        holder.pid()
    );
    agent.wait_for(&words, LIMIT);
    let reported = || {
        stub.annotations()
            .get("status")
            .is_some_and(|s| s == "Degraded")
    };
    assert!(wait_until(LIMIT, reported), "{}", agent.log());
    assert!(stub.annotations()["message"].contains(&words));

    let status = lab.egress_routes(NODE, &["status"]);
    assert_eq!(status.code, 2, "{}", status.out);
    assert!(
        status.err.contains("its answer is not believed"),
        "{}",
        status.err
    );
    assert_eq!(status.out, "", "nothing forged is shown");
    let probe = |what: &str| lab.egress_routes(NODE, &["status", "--probe", what]);
    assert_eq!(probe("live").code, 0, "a restart would not help");
    let ready = probe("ready");
    assert_eq!(ready.code, 1);
    assert!(ready.err.contains(&words), "{}", ready.err);

    holder.kill();
    in_force(&agent, 1);
    assert!(wait_until(LIMIT, || stub
        .annotations()
        .get("status")
        .is_some_and(|s| s == "Ready")));
    assert_eq!(probe("ready").code, 0);
}

#[test]
fn only_root_may_ask_the_agent() {
    if !several_users() {
        return;
    }
    let mut node = node();
    node.volume
        .routes(&routes(&[set("a", G1, "198.51.100.0/24", "")]));
    let _agent = node.agent_in_force(&[]);
    let copy = node.path().join("program");
    std::fs::copy(AGENT, &copy).unwrap();
    for path in [node.path(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let asked = node.lab.run(
        "nd",
        &[&NOBODY[..], &[copy.to_str().unwrap(), "status"]].concat(),
    );
    assert_eq!(asked.code, 2, "{}", asked.out);
    assert!(
        asked.err.contains("the agent answers only to root"),
        "{}",
        asked.err
    );
    assert_eq!(node.status()["status"], "Ready");
}

#[test]
fn the_agent_of_another_container_makes_this_one_neither_ready_nor_dead() {
    let mut node = node();
    node.volume
        .routes(&routes(&[set("a", G1, "198.51.100.0/24", "")]));
    let agent = node.agent_in_force(&[]);
    let probe = |container: &[&str], what: &str| {
        let words = [container, &[AGENT, "status", "--probe", what]].concat();
        node.lab.run("nd", &words)
    };
    assert_eq!(probe(&[], "live").code, 0);
    assert!(wait_until(LIMIT, || probe(&[], "ready").code == 0));
    // Its own processes are all that a container sees.
    let elsewhere = ["unshare", "--pid", "--fork"];
    assert_eq!(probe(&elsewhere, "live").code, 0);
    let ready = probe(&elsewhere, "ready");
    assert_eq!(ready.code, 1);
    assert!(
        ready.err.contains(
            "another agent (uid 0, in another pid namespace) runs in this network namespace"
        ),
        "{}",
        ready.err
    );
    // An agent that has stopped answering is restarted.
    agent.signal("STOP");
    let live = probe(&[], "live");
    assert_eq!(live.code, 1);
    assert!(live.err.contains("did not answer in time"), "{}", live.err);
    agent.signal("CONT");
    assert!(wait_until(LIMIT, || probe(&[], "live").code == 0));
}

#[test]
fn a_foreign_process_on_the_port_leaves_the_agent_alive_and_ready() {
    let mut node = node();
    node.volume
        .routes(&routes(&[set("a", G1, "198.51.100.0/24", "")]));
    let stranger = node.lab.spawn("nd", &["perl", "-MIO::Socket::INET", "-e", "my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 9465, Listen => 5); print STDERR \"holding\\n\"; sleep 600"]);
    stranger.wait_for("holding", LIMIT);
    let agent = node.agent_in_force(&[]);
    agent.wait_for("Listening failed", LIMIT);
    for what in ["live", "ready"] {
        let probe = || {
            node.lab
                .egress_routes("nd", &["status", "--probe", what])
                .code
        };
        assert!(wait_until(LIMIT, || probe() == 0), "{what}");
    }
}

#[test]
fn a_public_address_is_not_listened_on_unless_a_flag_allows_it() {
    let mut node = node();
    node.volume
        .routes(&routes(&[set("a", G1, "198.51.100.0/24", "")]));
    node.lab.ip("nd", "addr add 8.8.8.8/32 dev lo");
    let mut agent = node.agent_in_force(&["--listen", "8.8.8.8:9465"]);
    agent.wait_for("8.8.8.8 is a global address", LIMIT);
    let listening = |on: &str| {
        let sockets = node.lab.must("nd", &["ss", "-Hltn"]);
        sockets.contains(&format!("{on}:9465"))
    };
    assert!(wait_until(LIMIT, || listening("127.0.0.1")) && !listening("8.8.8.8"));
    agent.kill();
    let _agent = node.agent_in_force(&["--listen", "8.8.8.8:9465", "--listen-global"]);
    assert!(wait_until(LIMIT, || listening("8.8.8.8")));
}
