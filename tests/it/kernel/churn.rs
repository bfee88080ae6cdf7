//! IPv6 routes of others that come and go all the time: the kernel's dumps then double and omit entries.

use super::*;

/// A hundred IPv6 routes of somebody else, added and removed with this pause in seconds, until the guard is dropped.
fn churn(node: &Node, pause: &str) -> Running {
    let lines = |verb: &str| -> String {
        let line =
            |n| format!("route {verb} 2a0f:{n:x}::/48 via fd00:116::9 dev eth1 proto bird\n");
        (1..=100).map(line).collect()
    };
    let (add, del) = (
        node.file("churn.add", &lines("add")),
        node.file("churn.del", &lines("del")),
    );
    let forever = format!(
        "while :; do ip -6 -batch {add}; sleep {pause}; ip -6 -batch {del}; sleep {pause}; done"
    );
    node.lab.spawn("nd", &["sh", "-c", &forever])
}

#[test]
fn while_other_ipv6_routes_come_and_go_no_route_of_ours_is_deleted_or_written_and_nothing_is_said_of_repairs()
 {
    let seconds: u64 = std::env::var("EGRESS_ROUTES_TEST_CHURN_SECONDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(6);
    let mut node = node();
    let wanted = prefixes6(2000);
    let yaml =
        |gateways: &str| routes(&[set("a", gateways, "", "    destinationFiles: [list.txt]\n")]);
    let version = |node: &mut Node, list: &BTreeSet<String>| {
        let yaml = yaml(&format!("'{G1_V6}'"));
        node.volume
            .write(&[("routes.yaml", yaml), ("list.txt", listed(list))]);
    };
    version(&mut node, &wanted);
    let (api, agent) = node.agent_in_a_cluster(&["--resync", "1s"]);
    in_force(&agent, 1);
    node.owns(&wanted);
    assert!(wait_until(LIMIT, || api.events() == ["RoutesApplied"]));
    let before = agent.log();
    let monitor = node
        .lab
        .spawn("nd", &["ip", "-6", "-N", "monitor", "route"]);
    let listens = || {
        node.lab.ip("nd", "-6 route replace 2a0e::/48 dev eth0");
        node.lab.ip("nd", "-6 route del 2a0e::/48 dev eth0");
        monitor.log().contains("2a0e::/48")
    };
    assert!(wait_until(LIMIT, listens));
    for pause in ["0.05", "0"] {
        let _others = churn(&node, pause);
        std::thread::sleep(Duration::from_secs(seconds)); // how long it goes on is the test
    }
    let others = churn(&node, "0.05");
    let output = monitor.log();
    let (all, ours): (usize, Vec<&str>) = (
        output.lines().count(),
        output.lines().filter(|l| l.contains("proto 230")).collect(),
    );
    println!(
        "{seconds} s: {all} changes of others, {} of ours",
        ours.len()
    );
    assert!(all > 200, "that was no churn: {all}");
    assert_eq!(ours, Vec::<&str>::new(), "{}", agent.log());
    let since = agent.log()[before.len()..].to_owned();
    println!("the agent's log meanwhile:\n{since}");
    assert!(!since.contains("Routes"), "{since}");
    assert_eq!(api.events(), ["RoutesApplied"], "no other Event");
    assert_eq!(node.becomes("Ready")["sets"][0]["installed"], 2000);

    // An edit goes in all the same, and what it removes goes at the latest when the others are quiet.
    let mut edited = prefixes6(2010);
    edited.remove("2a00:1::/48");
    version(&mut node, &edited);
    let added = |node: &Node| {
        node.lab
            .ip("nd", "-6 route show 2a00:7da::/48")
            .contains("proto 230")
    };
    assert!(wait_until(LIMIT, || added(&node)), "{}", agent.log());
    drop(others);
    node.owns(&edited);
}

#[test]
fn a_removal_that_waits_for_quiet_is_reported_as_not_done_and_comes_soon_after_without_a_notification()
 {
    let mut node = node();
    let mut wanted = prefixes6(300);
    let version = |node: &mut Node, list: &BTreeSet<String>| {
        let gateways = format!("'{G1_V6}'");
        let yaml = routes(&[set(
            "a",
            &gateways,
            "",
            "    destinationFiles: [list.txt]\n",
        )]);
        node.volume
            .write(&[("routes.yaml", yaml), ("list.txt", listed(list))]);
    };
    version(&mut node, &wanted);
    // While the file is there, another route changes during each read, in a table whose changes nobody is notified of.
    let noise = node.path().join("noise");
    let ip = WrappedIp::that(&format!(
        "case \" $* \" in *' -6 route save '*) [ ! -e {} ] || ip -6 route change 2a0e::/48 dev eth0 table 100 ;; esac",
        noise.display()
    ));
    node.lab
        .ip("nd", "-6 route add 2a0e::/48 dev eth0 table 100");
    let agent = node.agent_behind(&ip, &["--resync", "10m"]);
    in_force(&agent, 1);
    node.owns(&wanted);
    std::fs::write(&noise, "").unwrap();
    wanted.remove("2a00:1::/48");
    version(&mut node, &wanted);
    let waits = "1 IPv6 route(s) wait to be removed: churn";
    let mut status = serde_json::Value::Null;
    let waiting = wait_until(LIMIT, || {
        status = node.status();
        status["message"]
            .as_str()
            .is_some_and(|m| m.contains(waits))
    });
    assert!(waiting, "{status:#}\n{}", agent.log());
    assert_eq!(status["status"], "Degraded");
    assert!(node.own().contains("2a00:1::/48"));
    assert_eq!(agent.log().matches("Configuration in force").count(), 1);
    std::fs::remove_file(&noise).unwrap();
    node.owns(&wanted);
    in_force(&agent, 2);
    node.becomes("Ready");
}

#[test]
fn one_shot_commands_are_as_careful() {
    let mut node = node();
    let wanted = prefixes6(2000);
    let yaml = routes(&[set(
        "a",
        &format!("'{G1_V6}'"),
        "",
        "    destinationFiles: [list.txt]\n",
    )]);
    node.volume
        .write(&[("routes.yaml", yaml), ("list.txt", listed(&wanted))]);
    let output = node.command(&["apply"]);
    assert_eq!(output.code, 0, "{output:?}");
    node.owns(&wanted);
    let others = churn(&node, "0");
    for _ in 0..5 {
        let output = node.command(&["diff"]);
        let removed = output
            .out
            .lines()
            .filter(|line| line.starts_with('-'))
            .count();
        assert_eq!(removed, 0, "{output:?}");
        let output = node.command(&["apply"]);
        assert_eq!(output.code, 0, "{output:?}");
        assert!(!output.out.contains("2a00:"), "{output:?}");
    }
    drop(others);
    node.owns(&wanted);
    let output = node.lab.egress_routes("nd", &["cleanup"]);
    assert_eq!(output.code, 0, "{output:?}");
    node.owns(&BTreeSet::new());
}
