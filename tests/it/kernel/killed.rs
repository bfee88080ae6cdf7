//! `kill -9` while a batch is being written: what `ip` makes of what is left must be whole lines.

use std::collections::BTreeMap;
use std::fs;

use super::*;

/// Every route and nexthop of the node in every table, with every attribute.
fn every_line(node: &Node) -> BTreeSet<String> {
    let all = [
        "-4 route show table all",
        "-6 route show table all",
        "nexthop show",
    ]
    .map(|what| node.lab.ip("nd", &format!("-d -o -N {what}")));
    let lines = all.iter().flat_map(|output| output.lines().map(str::trim));
    lines
        .filter(|line| !is_of_a_link_local_address(line))
        .map(str::to_owned)
        .collect()
}

/// Whether the kernel made this line by itself for the link-local address of an interface (type local or anycast, table `local`,
/// protocol `kernel`): that address may come at any time, and no part of a line of ours names such a destination.
fn is_of_a_link_local_address(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, address, "dev", _, "table", "255", "proto", "2", ..] = words.as_slice() else {
        return false;
    };
    let link_local = address
        .parse()
        .is_ok_and(|a: std::net::Ipv6Addr| a.is_unicast_link_local());
    matches!(*kind, "2" | "4") && link_local
}

/// Whether a line is one that the agent writes, with all that belongs to it.
fn is_whole(line: &str, list: &BTreeSet<String>) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let has = |pair: [&str; 2]| words.windows(2).any(|two| two == pair);
    // A nexthop, or what `-d` shows of a route's.
    if matches!(words.first(), Some(&"id" | &"nh_info")) {
        return has(["proto", "230"]);
    }
    let is_ours = |prefix: &str, metric| {
        list.contains(prefix)
            && has(["proto", "230"])
            && has(["table", "254"])
            && has(["metric", metric])
    };
    match words.as_slice() {
        // unicast
        ["1", prefix, "nhid", ..] => is_ours(prefix, "4242"),
        // blackhole
        ["6", prefix, ..] => is_ours(prefix, "4294967294"),
        _ => false,
    }
}

/// An `ip` that is slow to read its batch, first in the `PATH`: a program that feeds it through a pipe can be killed in the middle.
fn slow_ip(node: &Node) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = node.path().join("slow");
    fs::create_dir(&dir).unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let script = format!(
        "#!/bin/sh\nPATH='{path}'\ncase \" $* \" in *' -batch '*) sleep 0.02 ;; esac\nexec ip \"$@\"\n"
    );
    fs::write(dir.join("ip"), script).unwrap();
    fs::set_permissions(dir.join("ip"), fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{path}", dir.display())
}

/// The pids of the children of `agent` that run a batch, whichever of its threads started them.
fn batches_of(agent: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{agent}/task"))
        .into_iter()
        .flatten();
    let children =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let children: String = children.collect();
    let is_batch = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"-batch")
    };
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    pids.filter(is_batch).collect()
}

#[test]
fn killed_while_it_writes_it_leaves_whole_lines_and_nothing_that_is_not_ours() {
    let kills: u32 = std::env::var("EGRESS_ROUTES_TEST_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(40);
    let mut node = node();
    let before = every_line(&node);
    let path = slow_ip(&node);
    let config = node.volume.path().to_str().unwrap().to_owned();
    let both: BTreeSet<String> = prefixes(1200).into_iter().chain(prefixes6(300)).collect();
    let gateways = |four: &str| format!("{four}, '{G1_V6}'");
    let yaml = |name: &str, four: &str| {
        routes(&[set(
            name,
            &gateways(four),
            "",
            "    leakGuard: true\n    destinationFiles: [list.txt]\n",
        )])
    };
    let mut hits: BTreeMap<usize, u32> = BTreeMap::new();
    let mut wanted = both.clone();
    let (mut done, mut round) = (0, 0_usize);
    while done < kills {
        round += 1;
        assert!(
            round < kills as usize * 3,
            "only {done} kills of {round} hit a write"
        );
        // Another set each time, and another part of the list: every start has a thousand lines or more to write, and a cut
        // at a fixed length is at another place.
        let step = 3 + round % 7;
        let kept = |n: usize| !(n + round * 7).is_multiple_of(step);
        let parts = both.iter().enumerate().filter(|(n, _)| kept(*n));
        wanted = parts.map(|(_, prefix)| prefix.clone()).collect();
        node.volume.write(&[
            (
                "routes.yaml",
                yaml(if round % 2 == 0 { "a" } else { "b" }, G1),
            ),
            ("list.txt", listed(&wanted)),
        ]);
        let mut agent = node.lab.spawn_with_env(
            "nd",
            &[AGENT, "run", "--config", &config],
            &[("PATH", &path)],
        );
        let begun = Instant::now();
        while batches_of(agent.pid()).is_empty() && begun.elapsed() < LIMIT && agent.runs() {}
        // From before `ip` reads its first line to somewhere behind its last.
        let later = Instant::now() + Duration::from_micros(random(30_000));
        while Instant::now() < later {
            std::hint::spin_loop();
        }
        let hit = batches_of(agent.pid());
        agent.kill();
        if hit.is_empty() {
            continue;
        }
        done += 1;
        // What it had started runs to its end without it.
        let there = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        assert!(wait_until(LIMIT, || !hit.iter().any(there)));
        let lines = every_line(&node);
        let wrong: Vec<&String> = lines
            .difference(&before)
            .filter(|line| !is_whole(line, &both))
            .collect();
        assert!(wrong.is_empty(), "kill {done}: not ours: {wrong:?}");
        assert!(
            before.is_subset(&lines),
            "kill {done}: lost: {:?}",
            before.difference(&lines)
        );
        *hits.entry(lines.len() / 100).or_default() += 1;
    }
    let _last = node.agent_in_force(&[]);
    assert_eq!(node.own(), wanted);
    println!(
        "{done} kills during a write in {round} starts; hundreds of lines in the kernel after them: {hits:?}"
    );
}
