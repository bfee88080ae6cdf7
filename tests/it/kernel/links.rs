//! Links without carrier: up, with addresses and routes, and the kernel takes no nexthop on them.

use super::*;

/// A second link of the node into the VPC of others.
fn with_second_link(node: &Node) {
    node.lab.link(
        ("nd", "eth2", &["10.117.0.2/24"]),
        ("peer", "eth2", &["10.117.0.5/24"]),
    );
}

/// What the node's group of the set goes through.
fn gateways_in_use(node: &Node) -> BTreeSet<String> {
    let all = node.lab.json("nd", "nexthop show proto 230");
    let all = all.as_array().unwrap();
    let member = |id: &serde_json::Value| {
        let found = all.iter().find(|n| n["id"] == *id);
        found.and_then(|n| Some(n["gateway"].as_str()?.to_owned()))
    };
    let groups = all.iter().filter_map(|n| n["group"].as_array()).flatten();
    groups.filter_map(|m| member(&m["id"])).collect()
}

#[test]
fn a_link_without_carrier_costs_only_its_own_gateway() {
    let mut node = node();
    with_second_link(&node);
    // The far end goes down: the near one stays up and loses its carrier.
    node.lab.ip("peer", "link set eth2 down");
    let second = "10.117.0.5";
    node.volume.routes(&routes(&[set(
        "a",
        &format!("{G1}, {second}"),
        "198.51.100.0/24",
        "",
    )]));
    let agent = node.agent(&["--resync", "10m"]);
    let own = BTreeSet::from(["198.51.100.0/24".to_owned()]);
    println!("in the kernel after {:?}", node.owns(&own));
    // The status follows the read-back.
    assert!(wait_until(LIMIT, || node.status()["sets"][0]["gateways"]
        [1]["state"]
        == "unusable"));
    let status = node.becomes("Degraded");
    let gateways = &status["sets"][0]["gateways"];
    assert_eq!(
        gateways[1]["reason"],
        "is on-link by eth2, which has no carrier"
    );
    assert_eq!(gateways_in_use(&node), [G1.to_owned()].into());

    node.lab.ip("peer", "link set eth2 up");
    node.becomes("Ready");
    let both = BTreeSet::from([G1.to_owned(), second.to_owned()]);
    assert_eq!(gateways_in_use(&node), both);

    // And the loss of it while it is in use.
    node.lab.ip("peer", "link set eth2 down");
    node.becomes("Degraded");
    assert_eq!(gateways_in_use(&node), [G1.to_owned()].into());
    assert_eq!(node.own(), own, "{}", agent.log());
}

#[test]
fn a_blackholed_set_leaks_no_longer_than_the_notification_takes_when_its_link_loses_the_carrier() {
    // Neither the next probe nor the next resync can be what closes it.
    for check in ["type: none", "type: icmp, interval: 1m"] {
        let mut node = node();
        with_second_link(&node);
        node.volume.routes(&format!(
            "routes:\n- name: a\n  gateways: [10.117.0.5]\n  whenDown: blackhole\n  destinations: [198.51.100.0/24]\n  healthCheck: {{ {check} }}\n"
        ));
        let _agent = node.agent_in_force(&["--resync", "10m"]);
        let way = || node.lab.run("nd", &["ip", "route", "get", "198.51.100.1"]);
        assert!(wait_until(LIMIT, || way().out.contains("10.117.0.5")));
        let mut monitor = node
            .lab
            .spawn("nd", &["ip", "-ts", "monitor", "link", "route"]);
        node.lab.ip("peer", "link set eth2 down");
        let start = Instant::now();
        // From the first moment at which the routes are gone to the blackhole.
        let (mut leaked, mut longest) = (None, Duration::ZERO);
        let closed = wait_until(LIMIT, || {
            let output = way();
            if output.out.contains("eth0") {
                leaked.get_or_insert_with(Instant::now);
            }
            output.code != 0
        });
        if let Some(since) = leaked {
            longest = since.elapsed();
        }
        println!(
            "{check}: blackholed {:?} after the carrier went, leaked for {longest:?}",
            start.elapsed()
        );
        assert!(closed, "{}", monitor.log());
        monitor.kill();
        assert!(
            node.lab
                .ip("nd", "route show 198.51.100.0/24")
                .contains("proto 230")
        );
    }
}
