//! What runs out: file descriptors, inotify, the netlink socket's buffer. And clocks, which jump.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::guard::http_get;

use super::{Duration, Lab, NODE, Numbered, SOON, fs, wait_until};

/// Leaves a process as many descriptors more than it has.
fn leave_files(pid: u32, more: usize) {
    let open: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    // The limit is on the number that a descriptor gets, which is the lowest free one.
    let limit = (0..).filter(|fd| !open.contains(fd)).nth(more).unwrap();
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn an_agent_out_of_file_descriptors_changes_no_route_and_goes_on_when_there_are_some() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    let routes = node.routes();
    // Enough to be asked how it is, too few for the pipes of an `ip`.
    leave_files(agent.pid(), 2);
    node.reports("Degraded", "Too many open files", &agent);
    node.edit();
    assert!(wait_until(SOON, || agent
        .log()
        .contains("Configuration refused")
        || agent.log().contains("Too many open files")));
    assert_eq!(node.routes(), routes);
    leave_files(agent.pid(), 1000);
    node.is_well(&agent);
    node.lives();
    // The watch too.
    node.edit();
    node.is_well(&agent);
}

#[test]
fn without_inotify_the_configuration_is_polled_and_the_watch_is_taken_up_when_there_is_room() {
    let mut node = Numbered::new(Lab::unprivileged());
    let instances = |count: &str| {
        node.lab.must(
            NODE,
            &[
                "sh",
                "-ec",
                &format!("echo {count} > /proc/sys/user/max_inotify_instances"),
            ],
        )
    };
    instances("0");
    let agent = node.agent(&["--resync", "1s"]);
    agent.wait_for("Cannot watch the configuration directory", SOON);
    node.is_well(&agent);
    instances("100");
    node.edit();
    node.is_well(&agent);
    // By now it is watched: an edit is in force well before a poll is due.
    let edited = Instant::now();
    node.edit();
    node.is_well(&agent);
    assert!(
        edited.elapsed() < Duration::from_secs(5),
        "after {:?}: {}",
        edited.elapsed(),
        agent.log()
    );
}

/// The `Drops` of a process's netlink sockets: "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode".
fn lost_notifications(pid: u32) -> u64 {
    let table = fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap();
    table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok())
        .sum()
}

#[test]
fn a_flood_of_other_routes_overruns_the_socket_and_a_loss_in_it_is_repaired_all_the_same() {
    let node = Numbered::new(Lab::new());
    // No resync within this test: what is repaired is repaired because of the notifications, or of their loss.
    let agent = node.agent(&["--resync", "10m"]);
    node.is_well(&agent);
    let mut flood = String::new();
    for n in 0..20_000 {
        let _ = writeln!(
            flood,
            "route add blackhole 100.{}.{}.{}/32 proto 99",
            64 + n / 65536,
            n / 256 % 256,
            n % 256
        );
    }
    // Stopped, it cannot drain the socket, whose buffer holds some hundreds of messages: what comes last is lost.
    agent.signal("STOP");
    node.lab.batch(NODE, &flood);
    node.lab.ip(NODE, "route del 203.0.113.0/24 proto 230");
    assert!(
        lost_notifications(agent.pid()) > 0,
        "the buffer held all of it"
    );
    agent.signal("CONT");
    node.is_well(&agent);
    assert!(!agent.log().contains("Cannot listen"), "{}", agent.log());
    // A loss behind the flood is noticed at once again.
    node.lab.ip(NODE, "route del 203.0.113.0/24 proto 230");
    node.is_well(&agent);
    assert!(
        agent.memory_kib().1 < 200 * 1024,
        "{} KiB",
        agent.memory_kib().1
    );
}

#[test]
fn an_agent_that_was_stopped_for_a_while_goes_on_where_it_was() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    agent.signal("STOP");
    node.edit();
    node.lab.ip(NODE, "route del 203.0.113.0/24 proto 230");
    std::thread::sleep(Duration::from_secs(3));
    agent.signal("CONT");
    node.is_well(&agent);
}

/// A thousand connections to the HTTP port, each with a few words and then open for as long as the scan.
fn scan(node: &Numbered, words: &str) {
    let script = format!(
        "trap '' PIPE; exec 2>/dev/null\n\
         for ((n = 0; n < 1000; n++)); do exec {{fd}}<>/dev/tcp/127.0.0.1/9465 && printf '{words}' >&$fd; done\n\
         exec 3<>/dev/tcp/127.0.0.1/9465; printf 'GET /livez HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    let output = node.lab.run(NODE, &["bash", "-c", &script]);
    assert!(
        output.out.ends_with("\nok\n"),
        "the scanner's own probe was not answered: {} {}",
        output.code,
        output.out
    );
}

#[test]
fn a_scan_of_the_http_port_takes_no_memory_and_no_probe_goes_unanswered() {
    let node = Numbered::new(Lab::new());
    let agent = node.agent(&[]);
    node.is_well(&agent);
    let oversized = format!(
        "GET /livez HTTP/1.1\\r\\nX: {}\\r\\n\\r\\n",
        "a".repeat(100_000)
    );
    let scans = [
        "",                                                            // silent
        "GET /livez HTTP/1.1\\r\\nX-Slow: ",                           // slowloris
        "GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",              // asks and does not read
        "POST /status HTTP/1.1\\r\\nContent-Length: 9999999999\\r\\n", // a method that is not there, and a body that never comes
        &oversized,
    ];
    let all = || scans.iter().for_each(|words| scan(&node, words));
    all();
    let once = agent.memory_kib().1;
    all();
    let (now, most) = agent.memory_kib();
    println!(
        "memory: {once} KiB at most after 5,000 connections, {most} KiB after 10,000, {now} KiB now"
    );
    assert!(
        most < once + 2048,
        "{most} KiB after 10,000 connections, {once} KiB after 5,000"
    );
    node.lives();
    assert!(node.status()["status"] == "Ready", "{}", node.status());
}

#[test]
fn slow_readers_of_a_large_status_share_one_copy_of_it() {
    let mut node = Numbered::new(Lab::new());
    let mut routes = String::from("routes:\n");
    for set in 0..50 {
        // Loopback: each is skipped, and the status lists it with a reason.
        let _ = write!(
            routes,
            "- name: s{set}\n  gateways: [10.116.0.5]\n  destinations: ["
        );
        for n in 0..1000 {
            let _ = write!(routes, "127.{set}.{}.{}, ", n / 250, n % 250);
        }
        routes += "]\n";
    }
    node.node.volume.routes(&routes);
    let agent = node.agent(&[]);
    agent.wait_for("Configuration in force", SOON);
    let size = http_get(&node.lab, NODE, "/status").len() as u64;
    let (before, _) = agent.memory_kib();
    let readers = "for ((n = 0; n < 64; n++)); do exec {fd}<>/dev/tcp/127.0.0.1/9465; fds+=($fd); done\n\
         for fd in ${fds[@]}; do printf 'GET /status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&$fd; done\n\
         for fd in ${fds[@]}; do read -r -N 1 -u $fd; done\n\
         echo all read; exec sleep 60";
    let readers = node.lab.spawn(NODE, &["bash", "-c", readers]);
    readers.wait_for("all read", SOON);
    let (with, _) = agent.memory_kib();
    println!("{size} bytes; memory: {before} KiB, {with} KiB with 64 readers");
    assert!(
        with < before + 4 * size / 1024 + 2048,
        "{before} KiB, {with} KiB with 64 readers of {size} bytes"
    );
    node.lives();
}

/// A jump of the wall clock cannot be made in a namespace; but it can be shown that nobody but reports looks at it.
#[test]
fn the_wall_clock_is_read_for_reports_alone() {
    let clippy =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("clippy.toml")).unwrap();
    for clock in [
        "std::time::SystemTime::now",
        "k8s_openapi::jiff::Timestamp::now",
    ] {
        assert!(clippy.contains(clock), "clippy.toml should forbid {clock}");
    }
}
