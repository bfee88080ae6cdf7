//! Faults of the program `ip`.

use super::{Duration, Lab, NODE, Numbered, Running, SOON, fs, http_get, wait_until};

/// What `ip` does, and what the report has about it.
type Fault = (&'static str, &'static str);

const READS: [Fault; 9] = [
    ("echo 'Segmentation fault <html>'; exit 0", "parsing"),
    ("kill -9 $$", "signal: 9"),
    ("exit 255", "exit status: 255"),
    (
        "echo 'ip: unrecognized option: j' >&2; exit 1",
        "unrecognized option: j",
    ),
    (
        "echo 'Option \"-N\" is unknown, try \"ip -help\".' >&2; exit 255",
        "Option \"-N\" is unknown",
    ),
    (
        "case \"$*\" in *route*) ;; *) exit 0;; esac",
        "not even `lo`",
    ),
    (
        "case \"$*\" in *route*) exit 0;; esac",
        "this is not what `ip route save` prints",
    ),
    // Messages are aligned, so this is in the middle of one.
    (
        "case \"$*\" in *route*) $real \"$@\" | /usr/bin/head -c 101; exit 0;; esac",
        "in the middle of a route",
    ),
    (
        "echo 'Dump was interrupted and may be inconsistent.' >&2",
        "interrupted the dump",
    ),
];

/// What happens to batches alone.
const WRITES: [Fault; 3] = [
    ("case \"$*\" in *batch*) kill -9 $$;; esac", "signal: 9"),
    (
        "case \"$*\" in *batch*) exit 255;; esac",
        "exit status: 255",
    ),
    (
        "case \"$*\" in *batch*) echo 'Error: garbage' >&2; exit 1;; esac",
        "garbage",
    ),
];

/// The routes stay through a fault and an edit during it; it is reported; the edit is in force once it is over.
fn is_survived(node: &mut Numbered, agent: &Running, (script, words): Fault) {
    let routes = node.routes();
    let failures = node.metric("egress_routes_ip_failures_total");
    node.ip_does(script);
    node.edit();
    node.reports("Degraded", words, agent);
    assert!(
        node.metric("egress_routes_ip_failures_total") > failures,
        "{script}"
    );
    assert!(
        agent.log().contains(words),
        "no word of `{words}` in the log"
    );
    assert_eq!(node.routes(), routes, "{script}: {}", agent.log());
    node.lives();
    node.ip_behaves();
    node.is_well(agent);
}

#[test]
fn an_ip_that_talks_rubbish_dies_or_is_another_program_changes_no_route_and_is_reported_until_it_is_well_again()
 {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    for fault in READS {
        is_survived(&mut node, &agent, fault);
    }
}

#[test]
fn a_batch_that_is_killed_or_fails_is_reported_and_tried_again_until_all_is_in() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    for fault in WRITES {
        is_survived(&mut node, &agent, fault);
    }
}

#[test]
fn an_ip_that_hangs_is_killed_after_ten_seconds_and_leaves_no_process_behind() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    is_survived(
        &mut node,
        &agent,
        ("exec /bin/sleep 1000", "did not end within 10 s"),
    );
    let children =
        || fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid())).unwrap();
    assert!(wait_until(SOON, || children().is_empty()), "{}", children());
}

#[test]
fn a_missing_ip_changes_no_route_and_an_endless_answer_does_not_fill_the_memory() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    let routes = node.routes();
    let (here, away) = (node.ip_program(), node.dir.path().join("bin/away"));
    fs::rename(&here, &away).unwrap();
    node.edit();
    node.reports("Degraded", "`ip` is not on the PATH", &agent);
    assert_eq!(node.routes(), routes);
    fs::rename(&away, &here).unwrap();
    node.is_well(&agent);
    is_survived(
        &mut node,
        &agent,
        (
            "case \"$*\" in *addr*) exec /usr/bin/yes;; esac",
            "more than",
        ),
    );
    assert!(
        agent.memory_kib().1 < 400 * 1024,
        "{} KiB",
        agent.memory_kib().1
    );
}

#[test]
fn an_ip_that_runs_out_of_memory_changes_no_route() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    // Too little for the loader to map its libraries: as the kernel's own refusal, it ends before main.
    is_survived(&mut node, &agent, ("ulimit -v 3000", "it ended with"));
}

#[test]
fn an_agent_that_starts_with_a_broken_ip_says_so_and_begins_its_work_when_ip_is_well() {
    let node = Numbered::new(Lab::new());
    for (script, words) in [
        (
            "case \"$*\" in -V) echo 'ip utility, iproute2-ss180129'; exit 0;; esac; exit 255",
            "ss180129 is too old",
        ),
        (
            "case \"$*\" in -V) echo 'ip utility, iproute2-5.4.0'; exit 0;; esac; exit 255",
            "5.4.0 is too old",
        ),
        (
            "case \"$*\" in -V) echo 'BusyBox v1.36.1 multi-call binary.'; exit 0;; esac; exit 1",
            "BusyBox v1.36.1",
        ),
    ] {
        node.ip_does(script);
        let agent = node.agent(&["--resync", "1s"]);
        agent.wait_for(words, SOON);
        node.reports("Degraded", words, &agent);
        node.lives();
        assert!(!http_get(&node.lab, NODE, "/readyz").ends_with("ok\n"));
        assert!(
            agent.log().matches("ERROR").count() < 5,
            "one line for one fault: {}",
            agent.log()
        );
        node.ip_behaves();
        node.is_well(&agent);
        drop(agent);
        node.lab.egress_routes(NODE, &["cleanup"]);
    }
}

#[test]
fn two_agents_take_turns_and_nothing_changes_when_the_second_takes_over() {
    let node = Numbered::new(Lab::new());
    let mut first = node.agent(&["--resync", "1s"]);
    node.is_well(&first);
    let mut second = node.agent(&["--resync", "1s"]);
    second.wait_for(
        "runs in this network namespace (@egress-routes); waiting",
        SOON,
    );
    let happened = crate::guard::watched(&node.lab, || {
        first.kill();
        second.wait_for("Configuration in force", SOON);
        node.is_well(&second);
        std::thread::sleep(Duration::from_secs(2));
    });
    assert_eq!(happened, "", "{}", second.log());
    assert!(second.runs());
}

#[test]
fn a_resync_reads_no_routes_by_ip_until_something_is_another() {
    let node = Numbered::new(Lab::new());
    let lines = "nexthop add id 7 via 10.116.0.5 dev eth1\n\
                 route add 203.0.113.128/25 nhid 7 proto static\n\
                 route add 192.0.2.0/24 via 10.116.0.5 table 100\nroute add blackhole 192.0.2.0/25\n\
                 route add 2001:db8:7::/48 via fd00:116::5 proto static\nroute add unreachable 2001:db8:8::/48 table 101\n";
    node.lab.batch(NODE, lines);
    let log = node.dir.path().join("calls");
    let count = |words: &str| {
        let calls = fs::read_to_string(&log).unwrap_or_default();
        calls.lines().filter(|call| call.contains(words)).count()
    };
    node.ip_does(&format!("echo \"$*\" >>{}", log.display()));
    let agent = node.agent(&["--resync", "500ms"]);
    node.is_well(&agent);
    let overridden = || node.status()["sets"][0]["overridden"].clone();
    assert!(wait_until(SOON, || overridden()[0]["by"].is_string()));
    // Each resync looks up the rules. The first few may meet addresses and routes that the kernel has yet to announce.
    let without_routes_by_ip = || {
        let (saves, resyncs) = (count("route save"), count("-4 rule show"));
        wait_until(SOON, || count("-4 rule show") >= resyncs + 5) && count("route save") == saves
    };
    assert!(wait_until(SOON, without_routes_by_ip), "{}", agent.log());
    let before = count("route save");
    // The kernel announces neither: the object is another program's, and its IPv4 routes go in silence.
    node.lab.ip(NODE, "nexthop del id 7");
    let gone = || overridden().as_array().is_some_and(Vec::is_empty);
    assert!(wait_until(SOON, gone), "{}", node.status());
    assert!(count("route save") > before);
}

#[test]
fn a_route_that_is_lost_while_the_kernel_is_read_for_an_edit_comes_back_without_a_resync() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "10m"]);
    node.is_well(&agent);
    // `ip` has read the routes, and the agent waits for its end.
    let (read, go) = (node.dir.path().join("read"), node.dir.path().join("go"));
    node.ip_does(&format!(
        "case \"$*\" in *'-4 route save'*) $real \"$@\"; : >{}; while [ ! -e {} ]; do /bin/sleep 0.02; done; exit 0;; esac",
        read.display(),
        go.display()
    ));
    node.edit();
    assert!(wait_until(SOON, || read.exists()), "{}", agent.log());
    node.lab.ip(NODE, "route del 203.0.113.0/24 proto 230");
    fs::write(go, "").unwrap();
    node.is_well(&agent);
}
