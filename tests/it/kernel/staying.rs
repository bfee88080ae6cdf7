//! What removes or changes routes, and how soon they are back.

use super::*;

/// A node with an agent that keeps 2,000 routes of both families.
fn kept() -> (Node, Running, BTreeSet<String>) {
    let mut node = node();
    let wanted: BTreeSet<String> = prefixes(1500).into_iter().chain(prefixes6(500)).collect();
    let yaml = routes(&[set(
        "a",
        &format!("{G1}, {G2}, '{G1_V6}'"),
        "",
        "    destinationFiles: [list.txt]\n",
    )]);
    node.volume
        .write(&[("routes.yaml", yaml), ("list.txt", listed(&wanted))]);
    // So that only a notification can bring them back.
    let agent = node.agent_in_force(&["--resync", "10m"]);
    node.owns(&wanted);
    (node, agent, wanted)
}

#[test]
fn routes_that_were_lost_or_removed_are_back_at_once() {
    let (node, agent, wanted) = kept();
    // As on a node that keeps its IPv6 addresses over a link loss.
    node.lab
        .sysctl("nd", "net.ipv6.conf.eth1.keep_addr_on_down", "1");
    let deletions: String = wanted
        .iter()
        .map(|prefix| format!("route del {prefix} proto 230\n"))
        .collect();
    let deletions = node.file("deletions", &deletions);
    let foreign = node.foreign();
    let lost = |what: &str, took: Duration| {
        println!("{what}: all {} routes back after {took:?}", wanted.len());
    };
    let ip = |args: &str| node.lab.ip("nd", args);

    ip("link set eth1 down");
    assert!(node.own().is_empty());
    ip("link set eth1 up");
    lost("link down and up", node.owns(&wanted));

    ip("addr del 10.116.0.2/24 dev eth1");
    ip("addr add 10.116.0.2/24 dev eth1");
    lost("last address removed and added", node.owns(&wanted));

    ip(&format!("-batch {deletions}"));
    lost("all deleted, one by one", node.owns(&wanted));

    ip("nexthop flush proto 230");
    lost("nexthops flushed", node.owns(&wanted));

    let group = node.lab.json("nd", "nexthop show proto 230");
    let group = group
        .as_array()
        .unwrap()
        .iter()
        .find(|n| n["group"].as_array().is_some_and(|g| g.len() == 2))
        .unwrap()["id"]
        .clone();
    ip(&format!("nexthop del id {group}"));
    lost("the group deleted", node.owns(&wanted));

    ip("route del 20.0.7.0/24 proto 230");
    lost("one deleted", node.owns(&wanted));

    // The person's routes over eth1 went with the link, as they do.
    let back = foreign
        .lines()
        .filter(|line| line.contains("192.0.2.1"))
        .all(|line| node.foreign().contains(line));
    assert!(back, "{}", node.foreign());
    assert!(agent.log().contains("Routes restored"), "{}", agent.log());
}

#[test]
fn a_stray_of_our_protocol_is_removed_and_the_right_route_stays() {
    let (node, agent, wanted) = kept();
    let shown = || node.lab.ip("nd", "route show 20.0.7.0/24");
    let right = shown();
    for stray in [
        "route append 20.0.7.0/24 via 10.116.0.9 proto 230 metric 4242",
        "route prepend 20.0.7.0/24 via 10.116.0.9 proto 230 metric 4242",
        "route replace 20.0.7.0/24 via 10.116.0.9 proto 230 metric 4242",
        "route add 20.0.7.0/24 via 10.116.0.9 proto 230 metric 17",
    ] {
        node.lab.ip("nd", stray);
        let start = Instant::now();
        assert!(
            wait_until(LIMIT, || shown() == right),
            "after `{stray}`:\n{}\n{}",
            shown(),
            agent.log()
        );
        println!("{stray}: undone after {:?}", start.elapsed());
    }
    node.lab.ip(
        "nd",
        "-6 route add 2001:db8:77::/64 from 2001:db8:9::/64 via fd00:116::9 dev eth1 proto 230",
    );
    node.owns(&wanted);
}

#[test]
fn what_comes_between_the_read_and_the_write_is_decided_on_in_the_next_pass() {
    let mut node = node();
    node.volume.routes(&routes(&[
        set("a", G1, "20.0.0.0/24", ""),
        set("b", "10.118.0.5", "20.0.1.0/24", ""),
    ]));
    // The subnet of `b`'s gateway comes with the first batch: the read before it has no such subnet, the read after it has.
    let ip = WrappedIp::that(
        "case \"$*\" in *-batch*) ip addr add 10.118.0.2/24 dev eth1 2>/dev/null ;; esac",
    );
    let agent = node.agent_behind(&ip, &["--resync", "10m"]);
    node.owns(&["20.0.0.0/24".to_owned(), "20.0.1.0/24".to_owned()].into());
    in_force(&agent, 1);
}

#[test]
fn a_foreign_route_in_our_place_is_reported_never_touched_and_ours_is_back_when_it_is_gone() {
    let (node, _agent, wanted) = kept();
    // With our very prefix and metric, over ours; and before the agent could have had it.
    node.lab.ip(
        "nd",
        "route replace 20.0.7.0/24 via 10.116.0.9 proto static metric 4242",
    );
    let status = node.becomes("Degraded");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("20.0.7.0/24"), "{message}");
    assert_eq!(status["sets"][0]["installed"], 1999);
    assert_eq!(
        node.lab.json("nd", "route show 20.0.7.0/24")[0]["protocol"],
        "4"
    );
    node.lab.ip("nd", "route del 20.0.7.0/24 proto static");
    println!(
        "the foreign route gone: ours back after {:?}",
        node.owns(&wanted)
    );
    node.becomes("Ready");
}

#[test]
fn a_foreign_route_with_a_lower_metric_is_reported_as_shadowing() {
    let (node, agent, wanted) = kept();
    node.lab.ip(
        "nd",
        "route add 20.0.7.0/24 via 192.0.2.1 proto static metric 50",
    );
    let status = node.becomes("Degraded");
    assert_eq!(
        status["message"],
        "1 destination(s) of set `a` are shadowed, among them 20.0.7.0/24 (shadowed by the route 20.0.7.0/24 via 192.0.2.1 dev eth0 proto static metric 50, whose metric is lower)"
    );
    assert!(
        agent.log().contains(status["message"].as_str().unwrap()),
        "the log has what status has:\n{}",
        agent.log()
    );
    let skipped = &status["sets"][0]["skipped"][0];
    assert_eq!(skipped["destination"], "20.0.7.0/24");
    assert_eq!(
        node.own(),
        wanted,
        "ours is beside it and takes over when it goes"
    );
    node.lab.ip("nd", "route del 20.0.7.0/24 metric 50");
    node.becomes("Ready");
}

#[test]
fn a_fight_over_our_routes_is_bounded_and_named_once() {
    let (node, agent, wanted) = kept();
    let deletions: String = wanted
        .iter()
        .map(|prefix| format!("route del {prefix} proto 230\n"))
        .collect();
    let deletions = node.file("deletions", &deletions);
    let fight = format!("while :; do ip -force -batch {deletions} 2>/dev/null; sleep 0.2; done");
    let fight = node.lab.spawn("nd", &["sh", "-c", &fight]);
    agent.wait_for(
        "Something keeps removing or changing the agent's routes",
        LIMIT,
    );
    std::thread::sleep(Duration::from_secs(4)); // in which up to twenty more removals happen
    let output = agent.log();
    let restored = output.matches("Routes restored").count();
    println!("{restored} repairs against a removal every 200 ms");
    assert!((3..=7).contains(&restored), "{restored} repairs:\n{output}");
    assert_eq!(output.matches("Something keeps removing").count(), 1);
    assert!(
        output.contains("systemd-networkd (set ManageForeignRoutes=no"),
        "the likely cause is not named:\n{output}"
    );
    drop(fight);
}

#[test]
fn a_kernel_without_resilient_groups_gets_plain_ones_and_one_warning() {
    let mut node = node();
    node.volume.routes(&routes(&[set(
        "a",
        &format!("{G1}, {G2}"),
        "198.51.100.0/24",
        "",
    )]));
    // A group of a nexthop that does not exist: the kernel refuses the line, as an old one would.
    let ip = WrappedIp::new("sed 's#group [0-9/]* type resilient.*#group 999999999 proto 230#'");
    let agent = node.agent_behind(&ip, &[]);
    in_force(&agent, 1);
    node.volume.routes(&routes(&[
        set("a", &format!("{G1}, {G2}"), "198.51.100.0/24", ""),
        set("b", &format!("{G1}, {G2}"), "198.51.101.0/24", ""),
    ]));
    in_force(&agent, 2);
    node.owns(&["198.51.100.0/24".to_owned(), "198.51.101.0/24".to_owned()].into());
    let output = agent.log();
    assert_eq!(
        output
            .matches("This kernel has no resilient nexthop groups")
            .count(),
        1,
        "{output}"
    );
    let groups = node.lab.ip("nd", "nexthop show groups");
    assert!(
        groups.lines().count() == 2 && !groups.contains("resilient"),
        "{groups}"
    );
    assert_eq!(node.becomes("Ready")["status"], "Ready");
}
