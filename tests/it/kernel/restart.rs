//! Restarts: nothing is written when nothing changed, and whatever was interrupted is completed.

use super::*;

#[test]
fn a_restart_with_an_unchanged_configuration_writes_nothing() {
    let mut node = node();
    let list = listed(&prefixes(300)) + &listed(&prefixes6(20));
    let keys = "    leakGuard: true\n    destinationFiles: [list.txt]\n";
    let yaml = routes(&[
        set("a", &format!("{G1}, {G2}, '{G1_V6}'"), "", keys),
        set("b", G2, "198.51.100.7", "    strategy: failover\n"),
    ]);
    node.volume
        .write(&[("routes.yaml", yaml), ("list.txt", list)]);
    let mut first = node.agent_in_force(&[]);
    let before = node.everything();
    first.signal("TERM");
    assert_eq!(first.ends(LIMIT), Some(0), "{}", first.log());
    assert_eq!(
        node.everything(),
        before,
        "routes stay when the agent is replaced"
    );

    let monitor = node.lab.spawn("nd", &["ip", "monitor", "route", "nexthop"]);
    let ip = WrappedIp::new("cat");
    let second = node.agent_behind(&ip, &["--resync", "500ms"]);
    in_force(&second, 1);
    let reads = ip.reads();
    assert!(
        wait_until(LIMIT, || ip.reads() > reads + 2),
        "{}",
        second.log()
    );
    assert_eq!(ip.batches(), Vec::<String>::new());
    assert_eq!(monitor.log(), "");
    assert_eq!(node.everything(), before);
    // The monitor would have printed it.
    node.lab.ip("nd", "route add 203.0.113.9/32 dev eth0");
    monitor.wait_for("203.0.113.9", LIMIT);
}

#[test]
fn killed_at_random_moments_of_an_apply_each_restart_ends_in_exactly_the_wanted_table() {
    let rounds: u32 = std::env::var("EGRESS_ROUTES_TEST_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20);
    let mut node = node();
    let foreign = node.foreign();
    // One of three tables after the other: shared prefixes, other gateways, other sets.
    let all: Vec<String> = prefixes(4500).into_iter().collect();
    let tables = [
        (&all[..2500], G1, "a"),
        (&all[1500..4000], G2, "a"),
        (&all[1000..3500], G1, "b"),
    ];
    let write = |node: &mut Node, round: usize| -> BTreeSet<String> {
        let (list, gateway, name) = tables[round % tables.len()];
        let list: BTreeSet<String> = list.iter().cloned().collect();
        let yaml = routes(&[set(
            name,
            gateway,
            "",
            "    leakGuard: true\n    destinationFiles: [list.txt]\n",
        )]);
        node.volume
            .write(&[("routes.yaml", yaml), ("list.txt", listed(&list))]);
        list
    };
    let start = Instant::now();
    let wanted = write(&mut node, 0);
    let mut undisturbed = node.agent_in_force(&[]);
    let span = u64::try_from(start.elapsed().as_millis()).unwrap();
    undisturbed.kill();
    node.owns(&wanted);
    let mut half_done = 0;
    for round in 1..=rounds {
        let wanted = write(&mut node, round as usize);
        let mut killed = node.agent(&[]);
        std::thread::sleep(Duration::from_millis(random(span))); // the random moment
        killed.kill();
        half_done += u32::from(node.own() != wanted);
        let mut next = node.agent_in_force(&[]);
        assert_eq!(
            node.own(),
            wanted,
            "round {round}; first:\n{}\nthen:\n{}",
            killed.log(),
            next.log()
        );
        let twins = node
            .lab
            .ip("nd", "route show proto 230 type blackhole")
            .lines()
            .count();
        assert_eq!(twins, wanted.len(), "round {round}");
        // The killed one's last `ip` may still be writing, and a dump under it is not whole.
        assert!(
            wait_until(LIMIT, || node.foreign() == foreign),
            "round {round}: {}",
            node.foreign()
        );
        next.kill();
    }
    println!(
        "{rounds} kills within {span} ms of a start, {half_done} of them before the table was complete"
    );
    assert!(half_done > 0, "the kills came too late to prove anything");
}

#[test]
fn a_second_agent_waits_for_the_first_and_takes_over_when_that_is_killed() {
    let mut node = node();
    node.volume
        .routes(&routes(&[set("a", G1, "198.51.100.0/24", "")]));
    let mut first = node.agent_in_force(&[]);
    let mut second = node.agent(&[]);
    second.wait_for(
        &format!(
            "another agent (pid {}, uid 0) runs in this network namespace (@egress-routes); waiting for its end",
            first.pid()
        ),
        LIMIT,
    );
    assert_eq!(node.status()["status"], "Ready", "the first answers");
    node.volume
        .routes(&routes(&[set("a", G1, "198.51.101.0/24", "")]));
    in_force(&first, 2);
    assert!(second.runs() && !second.log().contains("Configuration in force"));
    first.kill();
    let start = Instant::now();
    in_force(&second, 1);
    println!("taken over after {:?}", start.elapsed());
    node.owns(&["198.51.101.0/24".to_owned()].into());
}
