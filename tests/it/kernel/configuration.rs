//! How edits arrive, and what arrives instead of them.

use super::*;
use crate::guard::http_get;

fn one(name: &str, destination: &str) -> String {
    routes(&[set(name, G1, destination, "")])
}

#[test]
fn three_swaps_in_a_row_are_all_seen() {
    let mut node = node();
    node.volume.routes(&one("a", "198.51.100.0/24"));
    let agent = node.agent_in_force(&[]);
    for round in 1..=3 {
        let start = Instant::now();
        node.volume
            .routes(&one("a", &format!("198.51.10{round}.0/24")));
        node.owns(&[format!("198.51.10{round}.0/24")].into());
        println!("swap {round}: in the kernel after {:?}", start.elapsed());
    }
    assert!(!agent.log().contains("WARN"), "{}", agent.log());
}

#[test]
fn a_storm_of_swaps_costs_few_applies_and_never_mixes_keys_of_two_versions() {
    let mut node = node();
    let version = |n: u32| {
        let keys = "    destinationFiles: [list.txt]\n";
        [
            (
                "routes.yaml",
                routes(&[set("a", G1, &format!("20.{n}.0.0/16"), keys)]),
            ),
            ("list.txt", format!("30.{n}.0.0/16\n")),
        ]
    };
    node.volume.write(&version(0));
    let ip = WrappedIp::new("cat");
    let agent = node.agent_behind(&ip, &[]);
    in_force(&agent, 1);
    let start = Instant::now();
    for n in 1..=100 {
        node.volume.write(&version(n));
        std::thread::sleep(Duration::from_millis(30)); // the pace of the storm
    }
    let storm = start.elapsed();
    node.owns(&["20.100.0.0/16".to_owned(), "30.100.0.0/16".to_owned()].into());
    let applied = agent.log().matches("Configuration in force").count() - 1;
    println!("100 swaps in {storm:?}: {applied} applies");
    // One in half a second, and one or two after the end.
    let most = usize::try_from(storm.as_millis() / 500).unwrap() + 3;
    assert!(
        (1..=most).contains(&applied),
        "{applied} applies in {storm:?}:\n{}",
        agent.log()
    );
    let version_of = |line: &str| line.split('.').nth(1).unwrap().to_owned();
    for batch in ip.batches() {
        let written: BTreeSet<String> = batch
            .lines()
            .filter(|line| line.starts_with("route replace"))
            .map(version_of)
            .collect();
        assert!(written.len() <= 1, "two versions in one:\n{batch}");
    }
    assert!(!agent.log().contains("refused"), "{}", agent.log());
}

#[test]
fn whatever_is_refused_missing_empty_or_unreadable_changes_nothing_and_is_reported() {
    let mut node = node();
    node.volume.routes(&one("a", "198.51.100.0/24"));
    let agent = node.agent_in_force(&[]);
    let good = node.everything();
    let invalid = |node: &Node, words: &str| {
        assert!(
            wait_until(LIMIT, || node.status()["message"]
                .as_str()
                .is_some_and(|m| m.contains(words))),
            "{words}: {:#}",
            node.status()
        );
        let status = node.status();
        assert_eq!(
            (&status["status"], &status["sets"][0]["installed"]),
            (&"Invalid".into(), &1.into()),
            "{words}"
        );
        assert_eq!(node.everything(), good, "{words}");
    };
    node.volume.routes(&one("a", "198.51.100.1/24"));
    invalid(
        &node,
        "routes.yaml:5:20: routes[0].destinations[0]: `198.51.100.1/24` has host bits set; did you mean `198.51.100.0/24`?",
    );
    node.volume.routes("");
    invalid(&node, "routes.yaml");
    node.volume.routes("routes:\n");
    invalid(&node, "routes.yaml");
    node.volume.write(&[("aws.txt", "198.51.100.0/24\n")]);
    invalid(
        &node,
        "is not there; the ConfigMap needs a key `routes.yaml`, and it has aws.txt",
    );
    node.volume.write(&[(
        "routes.yaml",
        routes(&[set("a", G1, "", "    destinationFiles: [gone.txt]\n")]),
    )]);
    invalid(&node, "gone.txt");
    node.volume.write::<&str>(&[]);
    invalid(&node, "it is empty");
    node.volume.routes(&one("a", "198.51.100.0/24"));
    node.becomes("Ready");

    // A directory where the file should be, and then no directory at all.
    let aside = node.path().join("aside");
    std::fs::rename(node.volume.path(), &aside).unwrap();
    invalid(&node, "is not there; mount the ConfigMap there");
    std::fs::create_dir_all(node.volume.path().join("routes.yaml")).unwrap();
    invalid(&node, "is a directory; expected a file");
    std::fs::remove_dir_all(node.volume.path()).unwrap();
    std::fs::rename(&aside, node.volume.path()).unwrap();
    node.becomes("Ready");
    assert_eq!(node.everything(), good);
    let output = agent.log();
    assert!(
        output.contains("Configuration refused, the last good one stays"),
        "{output}"
    );
    assert!(
        !output.contains("Routes changed") || output.matches("Routes changed").count() == 1,
        "{output}"
    );

    // Only this empties.
    node.volume.routes("routes: []\n");
    node.owns(&BTreeSet::new());
    assert_eq!(node.becomes("Ready")["sets"], serde_json::json!([]));
}

#[test]
fn without_a_first_good_configuration_the_kernel_stays_as_an_earlier_agent_left_it() {
    let mut node = node();
    node.volume.routes(&one("a", "198.51.100.0/24"));
    node.agent_in_force(&[]).kill();
    let before = node.everything();
    node.volume.routes("routes: [oops]\n");
    let agent = node.agent(&[]);
    agent.wait_for("Configuration refused, the last good one stays", LIMIT);
    node.becomes("Invalid");
    assert_eq!(node.everything(), before);
    node.volume.routes(&one("a", "198.51.101.0/24"));
    node.owns(&["198.51.101.0/24".to_owned()].into());
}

#[test]
fn plain_files_work_and_the_log_says_what_they_cannot_do() {
    let node = node();
    let routes_yaml = node.volume.path().join("routes.yaml");
    std::fs::write(&routes_yaml, one("a", "198.51.100.0/24")).unwrap();
    let agent = node.agent_in_force(&[]);
    agent.wait_for(
        "The configuration is a directory of plain files and not a ConfigMap volume: a read may fall between the writes of two files",
        LIMIT,
    );
    std::fs::write(&routes_yaml, one("a", "198.51.101.0/24")).unwrap();
    node.owns(&["198.51.101.0/24".to_owned()].into());
    // As editors do it.
    std::fs::write(
        node.volume.path().join("routes.yaml.new"),
        one("a", "198.51.102.0/24"),
    )
    .unwrap();
    std::fs::rename(node.volume.path().join("routes.yaml.new"), &routes_yaml).unwrap();
    node.owns(&["198.51.102.0/24".to_owned()].into());
    assert_eq!(agent.log().matches("plain files").count(), 1);
}

#[test]
fn a_sub_path_mount_works_and_the_log_says_that_edits_never_arrive() {
    let node = node();
    let source = node.file("routes.yaml", &one("a", "198.51.100.0/24"));
    let target = node.volume.path().join("routes.yaml");
    std::fs::write(&target, "").unwrap();
    node.lab.must(
        "nd",
        &["mount", "--bind", &source, target.to_str().unwrap()],
    );
    let agent = node.agent_in_force(&[]);
    agent.wait_for(
        "routes.yaml is a mount of its own (subPath?): the kubelet never updates it",
        LIMIT,
    );
    node.owns(&["198.51.100.0/24".to_owned()].into());
}

fn has_a_status(node: &Node) {
    assert!(wait_until(LIMIT, || http_get(&node.lab, "nd", "/status")
        .contains("200 OK")));
}

/// What `kubectl apply -f deploy/` leaves, and what it leaves after the key was once applied.
const EXAMPLE_ONLY: [(&str, &str); 1] = [("routes.yaml.example", "routes: []\n")];

#[test]
fn without_routes_yaml_a_bare_node_is_ready_and_says_that_it_is_not_configured() {
    let mut node = node();
    node.volume.write(&EXAMPLE_ONLY);
    let agent = node.agent(&[]);
    has_a_status(&node);
    let message = node.becomes("Ready")["message"].to_string();
    for words in [
        "not configured",
        "needs a key `routes.yaml`, and it has routes.yaml.example",
        "kubectl edit configmap",
    ] {
        assert!(message.contains(words), "{message}");
    }
    let ready = || http_get(&node.lab, "nd", "/readyz").ends_with("ok\n");
    assert!(wait_until(LIMIT, ready), "a rollout would wait for it");
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
    node.volume.routes(&one("a", "198.51.100.0/24"));
    node.owns(&["198.51.100.0/24".to_owned()].into());
    assert_eq!(node.becomes("Ready")["message"], serde_json::Value::Null);
}

#[test]
fn a_routes_yaml_that_vanished_changes_no_route_also_over_a_restart() {
    let mut node = node();
    node.volume.routes(&one("a", "198.51.100.0/24"));
    let mut agent = node.agent_in_force(&[]);
    let good = node.everything();
    node.volume.write(&EXAMPLE_ONLY);
    let puts_back = |status: &serde_json::Value| {
        let message = status["message"].to_string();
        assert!(
            message.contains("add the key with `kubectl edit configmap` or from your own copy"),
            "{message}"
        );
    };
    puts_back(&node.becomes("Invalid"));
    assert_eq!(node.everything(), good);
    agent.kill();
    let agent = node.agent(&[]);
    has_a_status(&node);
    puts_back(&node.becomes("Invalid"));
    assert_eq!(node.everything(), good);

    // The key is back, and then an edit asks for no routes explicitly.
    node.volume.routes(&one("a", "198.51.100.0/24"));
    node.becomes("Ready");
    assert_eq!(node.everything(), good);
    node.volume.routes("routes: []\n");
    node.owns(&BTreeSet::new());
    agent.wait_for("has no route for this node: all 1 were removed", LIMIT);
}
