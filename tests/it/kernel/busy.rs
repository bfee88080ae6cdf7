//! What comes and goes all the time on a node and is none of our business: it starts no pass, or only so many.

use super::*;

/// A node whose agent reads the kernel only when it has a reason; how often it did is written down.
fn watched(yaml: &str) -> (Node, WrappedIp, Running) {
    let mut node = node();
    node.volume.routes(yaml);
    let ip = WrappedIp::new("cat");
    let agent = node.agent_behind(&ip, &["--resync", "10m"]);
    in_force(&agent, 1);
    (node, ip, agent)
}

impl Node {
    /// Waits until the agent has repaired the loss of this route: then it has also seen what was announced before.
    fn loses_and_regains(&self, prefix: &str) {
        let there = || {
            let shown = self.lab.ip("nd", &format!("route show {prefix}"));
            shown.contains("proto 230")
        };
        assert!(wait_until(LIMIT, there));
        self.lab.ip("nd", &format!("route del {prefix} proto 230"));
        assert!(wait_until(LIMIT, there), "{prefix} does not come back");
    }
}

/// A repair reads the kernel and reads it back; a notification that comes meanwhile may cause one more pass.
const OF_A_REPAIR: usize = 3;

#[test]
fn a_probe_that_is_refused_and_sent_by_turns_starts_no_pass_and_no_line() {
    let (node, ip, agent) = watched(&format!(
        "routes:\n- name: a\n  gateways: [{G1}]\n  destinations: [198.51.100.0/24]\n  healthCheck: {{ interval: 100ms }}\n"
    ));
    let state = || node.status()["sets"][0]["gateways"][0].clone();
    assert!(wait_until(LIMIT, || state()["state"] == "up"));
    // As a full conntrack table does it: "Operation not permitted" for two of three probes.
    node.lab.nft(
        "nd",
        "table inet full {\ncounter refused { }\nchain out { type filter hook output priority 0\n\
         icmp type echo-request numgen inc mod 3 < 2 counter name refused drop\n}\n}",
    );
    let refused = || {
        let output = node
            .lab
            .must("nd", &["nft", "list", "counter", "inet", "full", "refused"]);
        let words: Vec<&str> = output.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").unwrap();
        words[at + 1].parse::<u32>().unwrap()
    };
    let reason = |words: &str| state()["reason"].as_str().unwrap_or("").contains(words);
    assert!(
        wait_until(LIMIT, || reason("Operation not permitted")),
        "{:#}",
        state()
    );
    let (reads, lines) = (ip.reads(), agent.log().lines().count());
    let first = refused();
    assert!(wait_until(LIMIT, || refused() >= first + 30));
    assert_eq!(state()["state"], "up");
    assert_eq!(ip.reads(), reads, "{}", agent.log());
    assert_eq!(agent.log().lines().count(), lines, "{}", agent.log());
}

#[test]
fn nexthop_objects_of_others_start_no_pass() {
    let (node, ip, agent) = watched(&routes(&[set("a", G1, "198.51.100.0/24", "")]));
    let lines: String = (0..500)
        .map(|n| {
            format!(
                "nexthop add id {} via 10.116.0.9 dev eth1 proto bird\nnexthop del id {0}\n",
                9000 + n
            )
        })
        .collect();
    node.loses_and_regains("198.51.100.0/24");
    let reads = ip.reads();
    // One after the other, so that a pass for each would have its time.
    for part in lines.lines().collect::<Vec<_>>().chunks(100) {
        node.lab.batch("nd", &(part.join("\n") + "\n"));
        std::thread::sleep(Duration::from_millis(200)); // longer than a notification is gathered
    }
    node.loses_and_regains("198.51.100.0/24");
    let reads = ip.reads() - reads;
    assert!(reads <= OF_A_REPAIR, "{reads} reads:\n{}", agent.log());
}

#[test]
fn a_stray_that_somebody_adds_again_and_again_is_removed_only_so_often_and_the_reason_is_named_once()
 {
    // At some pace, and so fast that it is there again before a removal is read back.
    for pause in ["0.1", "0"] {
        let (node, ip, agent) = watched(&routes(&[set("a", G1, "198.51.100.0/24", "")]));
        let stray = "20.9.9.0/24 via 10.116.0.9 proto 230 metric 17";
        let lines = node.file("lines", &format!("route replace {stray}\n").repeat(100));
        let forever = match pause {
            "0" => format!("while :; do ip -batch {lines}; done"),
            _ => format!("while :; do ip route add {stray} 2>/dev/null; sleep {pause}; done"),
        };
        ip.forget();
        let others = node.lab.spawn("nd", &["sh", "-c", &forever]);
        agent.wait_for(
            "Something keeps removing or changing the agent's routes",
            LIMIT,
        );
        std::thread::sleep(Duration::from_secs(4)); // in which many more come
        drop(others);
        let removal = |batch: &&String| batch.contains("route del 20.9.9.0/24");
        let removals = ip.batches().iter().filter(removal).count();
        let output = agent.log();
        println!("{removals} removals against an addition every {pause} s");
        // Two tries a pass.
        assert!(
            (3..=14).contains(&removals),
            "{removals} removals:\n{output}"
        );
        let lines = output.matches("somebody else had added").count();
        assert!(lines <= 7, "{output}");
        assert_eq!(
            output.matches("Something keeps removing").count(),
            1,
            "{output}"
        );
    }
}

#[test]
fn a_first_install_after_a_link_event_and_a_new_cut_are_not_called_a_repair_and_a_repair_is() {
    let mut node = node();
    node.volume
        .routes(&routes(&[set("a", "10.118.0.5", "20.0.0.0/8", "")]));
    let (api, agent) = node.agent_in_a_cluster(&["--resync", "10m", "--confirm", "0s"]);
    let state = |status: &serde_json::Value| status["sets"][0]["gateways"][0]["state"].clone();
    let unusable = || {
        node.status_if_any()
            .is_some_and(|status| state(&status) == "unusable")
    };
    assert!(wait_until(LIMIT, unusable), "{}", agent.log());
    // The gateway's subnet comes.
    node.lab.ip("nd", "addr add 10.118.0.2/24 dev eth1");
    node.owns(&["20.0.0.0/8".to_owned()].into());
    in_force(&agent, 1);
    // An address of the node inside the destination: the same in other pieces.
    node.lab.ip("nd", "addr add 20.1.2.3/24 dev eth0");
    let pieces = |node: &Node| {
        let own = node.own();
        own.len() == 16 && !own.contains("20.0.0.0/8")
    };
    assert!(wait_until(LIMIT, || pieces(&node)), "{:?}", node.own());
    node.lab.ip("nd", "addr del 20.1.2.3/24 dev eth0");
    node.owns(&["20.0.0.0/8".to_owned()].into());
    assert!(wait_until(LIMIT, || api
        .events()
        .contains(&"RoutesApplied".to_owned())));
    let restored = |api: &Stub| api.events().contains(&"RoutesRestored".to_owned());
    assert!(
        !agent.log().contains("Routes restored") && !restored(&api),
        "{}",
        agent.log()
    );
    // The event of a real loss comes after those that were wrong.
    node.loses_and_regains("20.0.0.0/8");
    assert!(wait_until(LIMIT, || restored(&api)), "{:?}", api.events());
    let output = agent.log();
    assert_eq!(output.matches("Routes restored").count(), 1, "{output}");
    assert!(
        output.contains("egress_routes") || output.contains("Routes restored"),
        "{output}"
    );
}

#[test]
fn addresses_of_services_need_no_hole_in_a_wide_destination_and_their_coming_writes_nothing() {
    const SERVICES: u32 = 3000;
    let mut node = node();
    // As kube-proxy has them in its IPVS mode, on an interface of their own.
    node.lab
        .ip("nd", "link add kube-ipvs0 type veth peer name unused");
    let address = |n: u32| format!("10.{}.{}.{}/32", 96 + (n >> 16), (n >> 8) & 255, n & 255);
    let lines: String = (1..=SERVICES)
        .map(|n| format!("addr add {} dev kube-ipvs0\n", address(n)))
        .collect();
    node.volume
        .routes(&routes(&[set("a", G1, "198.51.100.0/24, 0.0.0.0/0", "")]));
    let ip = WrappedIp::new("cat");
    let agent = node.agent_behind(&ip, &["--resync", "10m"]);
    in_force(&agent, 1);
    let before = node.own();
    ip.forget();
    node.lab.batch("nd", &lines);
    node.loses_and_regains("198.51.100.0/24");
    node.lab.ip("nd", "addr add 10.95.0.1/32 dev kube-ipvs0");
    node.loses_and_regains("198.51.100.0/24");
    assert_eq!(node.own(), before);
    println!(
        "{} routes with and without {SERVICES} addresses",
        before.len()
    );
    let written: Vec<String> = ip.batches();
    let other = |line: &&str| !line.contains("198.51.100.0/24");
    let others: Vec<&str> = written
        .iter()
        .flat_map(|b| b.lines())
        .filter(other)
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(!agent.log().contains("holes"), "{}", agent.log());
}
