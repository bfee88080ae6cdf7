//! A run of `ip` that dies in the middle of a batch: what it did not write is written before anything is deleted.

use super::*;

/// How many lines each of the runs that die still takes.
const LINES: usize = 200;
/// How many runs die.
const DEATHS: usize = 4;

/// An `ip` of which a run that writes routes dies after some lines, as by the kernel's out-of-memory killer, for each file in
/// `deaths`. Two runs at a time never die of the same one.
fn dying(node: &Node) -> WrappedIp {
    let dir = node.path().display().to_string();
    // `$$` is the wrapper, whose end the agent sees.
    WrappedIp::new(&format!(
        "{{ batch={dir}/batch.$$; cat >$batch; if grep -qE '^route (add|replace) ' $batch; then for death in {dir}/deaths/*; do \
             if rm \"$death\" 2>/dev/null; then head -n {LINES} $batch | ip \"$@\"; kill -9 $$; fi; done; fi; cat $batch; }}"
    ))
}

/// The halves of a prefix /24, as `ip` writes them.
fn halves(prefix: &str) -> [String; 2] {
    let address = prefix.strip_suffix(".0/24").unwrap();
    [0, 128].map(|last| format!("{address}.{last}/25"))
}

/// Destinations that for a moment no route of ours had, by the kernel's notifications in order.
fn uncovered(output: &str, before: &BTreeSet<String>) -> Vec<String> {
    let (mut there, mut uncovered) = (before.clone(), Vec::new());
    for line in output.lines().filter(|line| line.contains(" proto 230 ")) {
        let Some(gone) = line.strip_prefix("Deleted ") else {
            there.extend(line.split_whitespace().next().map(str::to_owned));
            continue;
        };
        let prefix = gone.split_whitespace().next().unwrap();
        there.remove(prefix);
        let whole = prefix.strip_suffix(".0/24").is_some();
        if whole && !halves(prefix).iter().all(|half| there.contains(half)) {
            uncovered.push(prefix.to_owned());
        }
    }
    uncovered
}

#[test]
fn while_prefixes_are_replaced_by_their_halves_no_destination_is_without_a_route_however_often_ip_dies()
 {
    let mut node = node();
    let whole = prefixes(600);
    let in_halves: BTreeSet<String> = whole.iter().flat_map(|prefix| halves(prefix)).collect();
    let version = |node: &mut Node, list: &BTreeSet<String>| {
        let yaml = routes(&[set("a", G1, "", "    destinationFiles: [list.txt]\n")]);
        node.volume
            .write(&[("routes.yaml", yaml), ("list.txt", listed(list))]);
    };
    version(&mut node, &whole);
    let ip = dying(&node);
    let agent = node.agent_behind(&ip, &["--resync", "10m"]);
    in_force(&agent, 1);
    node.owns(&whole);
    let foreign = node.foreign();
    let monitor = node
        .lab
        .spawn("nd", &["ip", "-4", "-N", "monitor", "route"]);
    let listens = || {
        node.lab.ip("nd", "route replace 198.18.0.0/24 dev eth0");
        node.lab.ip("nd", "route del 198.18.0.0/24 dev eth0");
        monitor.log().contains("198.18.0.0/24")
    };
    assert!(wait_until(LIMIT, listens));
    let deaths = node.path().join("deaths");
    std::fs::create_dir(&deaths).unwrap();
    for death in 0..DEATHS {
        std::fs::write(deaths.join(death.to_string()), "").unwrap();
    }
    version(&mut node, &in_halves);
    let took = node.owns(&in_halves);
    let output = || monitor.log();
    let all_gone = || output().matches("Deleted 20.").count() >= whole.len();
    assert!(wait_until(LIMIT, all_gone), "{}", output());
    let left = std::fs::read_dir(&deaths).unwrap().count();
    assert_eq!(left, 0, "each death was died");
    println!("{DEATHS} deaths after {LINES} lines each: all there after {took:?}");
    assert!(
        !output().contains("receive error"),
        "the kernel reported more than was read"
    );
    let uncovered = uncovered(&output(), &whole);
    assert!(
        uncovered.is_empty(),
        "{} destinations had no route for a while, such as {}:\n{}",
        uncovered.len(),
        uncovered[0],
        agent.log()
    );
    assert_eq!(node.foreign(), foreign);
    in_force(&agent, 2);
    node.becomes("Ready");
}
