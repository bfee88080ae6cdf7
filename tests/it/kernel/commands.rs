//! The commands as scripts use them: exit codes, what goes to stdout, and the log's formats.

use super::*;

fn with(yaml: &str) -> Node {
    let mut node = node();
    node.volume.routes(yaml);
    node
}

fn good() -> String {
    routes(&[set("a", G1, "198.51.100.0/24, 198.51.101.7", "")])
}

const BAD: &str =
    "routes:\n  - name: a\n    gateways: [10.116.0.5]\n    destinations: [10.1.2.3/8]\n";

#[test]
fn check_is_0_for_what_is_valid_1_for_what_is_refused_and_2_for_what_cannot_be_read() {
    let mut node = with(&good());
    let check =
        |node: &Node, path: &str| node.lab.run_with_input("nd", &[AGENT, "check", path], BAD);
    let path = node.volume.path().to_str().unwrap().to_owned();
    let valid = check(&node, &path);
    assert_eq!((valid.code, valid.err.as_str()), (0, ""), "{valid:?}");
    node.volume.routes(BAD);
    let refused = check(&node, &path);
    assert_eq!(refused.code, 1);
    let words = "routes.yaml:4:20: routes[0].destinations[0]: `10.1.2.3/8` has host bits set; did you mean `10.0.0.0/8`?";
    assert!(refused.err.contains(words), "{}", refused.err);
    assert_eq!(check(&node, "-").code, 1);
    assert_eq!(check(&node, "/nowhere").code, 2);
}

#[test]
fn diff_apply_status_and_cleanup_say_by_their_exit_code_how_it_stands() {
    let mut node = with(&good());
    let codes = |node: &Node| ["diff", "status"].map(|command| node.command(&[command]).code);
    let diff = node.command(&["diff"]);
    assert_eq!(
        (diff.code, diff.out.as_str()),
        (
            1,
            "+ 198.51.100.0/24 via 10.116.0.5\n+ 198.51.101.7/32 via 10.116.0.5\n2 to add\n"
        )
    );
    assert_eq!(codes(&node), [1, 1]);
    assert_eq!(node.own().len(), 0, "looking changes nothing");
    let apply = node.command(&["apply"]);
    assert_eq!(apply.code, 0, "{apply:?}");
    assert!(
        apply.out.ends_with(
            ": 2/2 routes in the kernel (2 written, 0 removed, 3 nexthop objects written)\n"
        ),
        "{}",
        apply.out
    );
    assert_eq!(codes(&node), [0, 1], "without an agent no node is Ready");

    node.volume.routes(&good().replace(G1, G2));
    let diff = node.command(&["diff"]);
    let lines = "~ 198.51.100.0/24 via 10.116.0.6 (was via 10.116.0.5)\n~ 198.51.101.7/32 via 10.116.0.6 (was via 10.116.0.5)\n2 to change\n";
    assert_eq!((diff.code, diff.out.as_str()), (1, lines));
    assert_eq!(node.command(&["apply"]).code, 0);

    // A foreign route with our prefix and metric keeps one of them out.
    node.lab.batch("nd", "route del 198.51.101.7 proto 230\nroute add 198.51.101.7 via 192.0.2.1 proto static metric 4242\n");
    let apply = node.command(&["apply"]);
    assert_eq!(apply.code, 1, "{apply:?}");
    assert!(apply.err.contains("198.51.101.7"), "{}", apply.err);
    assert_eq!(node.command(&["status"]).code, 1);
    node.lab.ip("nd", "route del 198.51.101.7 proto static");

    node.volume.routes(BAD);
    assert_eq!(
        ["diff", "apply", "status"].map(|command| node.command(&[command]).code),
        [2, 1, 1]
    );
    assert_eq!(node.own().len(), 1, "refused: nothing was changed");
    let cleanup = node.lab.egress_routes("nd", &["cleanup"]);
    assert_eq!(
        (cleanup.code, cleanup.out.as_str()),
        (0, "1 route removed\n"),
        "{}",
        cleanup.err
    );
    let cleanup = node.lab.egress_routes("nd", &["cleanup"]);
    assert_eq!(
        (cleanup.code, cleanup.out.as_str()),
        (0, "0 routes removed\n")
    );

    std::fs::remove_dir_all(node.volume.path()).unwrap();
    assert_eq!(
        ["diff", "apply", "status"].map(|command| node.command(&[command]).code),
        [2, 2, 2]
    );
}

#[test]
fn an_edit_between_two_runs_takes_no_gateway_for_one_that_an_agent_took_out() {
    let two = format!("{G1}, {G2}");
    let partner = |gateways: &str, more: &str| set("partner", gateways, "198.51.100.0/24", more);
    let probed = |set: String| set.replace("    healthCheck: { type: none }\n", "");
    let mut node = with(&routes(&[probed(partner(
        &two,
        "    strategy: failover\n",
    ))]));
    assert_eq!(node.command(&["apply"]).code, 0);
    let via = |node: &Node| node.command(&["diff"]).out;
    let edits = [
        (
            partner(&two, "    strategy: balance\n"),
            "~ 198.51.100.0/24 via 10.116.0.5, 10.116.0.6 (was via 10.116.0.5)\n1 to change\n",
        ),
        (
            partner(G1, "    whenDown: blackhole\n"),
            "~ 198.51.100.0/24 via 10.116.0.5 (was via 10.116.0.5, 10.116.0.6)\n1 to change\n",
        ),
        (
            partner(G2, "    whenDown: blackhole\n"),
            "~ 198.51.100.0/24 via 10.116.0.6 (was via 10.116.0.5)\n1 to change\n",
        ),
        (
            partner(&format!("{G1}, {G2}"), "    strategy: failover\n"),
            "~ 198.51.100.0/24 via 10.116.0.5 (was via 10.116.0.6)\n1 to change\n",
        ),
        (
            partner(&format!("{G2}, {G1}"), "    strategy: failover\n"),
            "~ 198.51.100.0/24 via 10.116.0.6 (was via 10.116.0.5)\n1 to change\n",
        ),
    ];
    for (set, words) in edits {
        node.volume.routes(&routes(&[probed(set)]));
        assert_eq!(via(&node), words);
        let apply = node.command(&["apply"]);
        assert_eq!((apply.code, apply.err.as_str()), (0, ""));
        assert_eq!(
            (via(&node).as_str(), node.command(&["diff"]).code),
            ("nothing to change\n", 0)
        );
        let before = node.lab.ip("nd", "nexthop show");
        assert_eq!(node.command(&["apply"]).code, 0);
        assert_eq!(
            node.lab.ip("nd", "nexthop show"),
            before,
            "a second run has nothing to do"
        );
    }
}

#[test]
fn without_iproute2_every_command_that_needs_it_is_an_error_that_says_so() {
    let node = with(&good());
    let empty = node.path().join("bin");
    std::fs::create_dir(&empty).unwrap();
    for program in ["nsenter", "setpriv", "timeout"] {
        let real = std::env::split_paths(&std::env::var("PATH").unwrap())
            .map(|dir| dir.join(program))
            .find(|path| path.exists());
        std::os::unix::fs::symlink(real.unwrap(), empty.join(program)).unwrap();
    }
    let config = node.volume.path().to_str().unwrap();
    for args in [
        vec!["diff", "--config", config],
        vec!["apply", "--config", config],
        vec!["cleanup"],
    ] {
        let args: Vec<&str> = [AGENT].into_iter().chain(args).collect();
        let output = node
            .lab
            .run_with_env("nd", &args, &[("PATH", empty.to_str().unwrap())]);
        assert_eq!(output.code, 2, "{args:?} {output:?}");
        assert!(
            output
                .err
                .contains("`ip` is not on the PATH; egress-routes needs iproute2"),
            "{}",
            output.err
        );
    }
}

#[test]
fn a_json_log_is_json_on_every_line_and_a_text_log_has_no_colours_where_it_is_not_a_terminal() {
    let node = with(&good());
    for format in ["json", "text"] {
        let mut agent = node.agent_in_force(&["--log-format", format]);
        agent.signal("TERM");
        assert_eq!(agent.ends(LIMIT), Some(0));
        let output = agent.log();
        assert!(!output.contains('\u{1b}'), "{output}");
        for line in output.lines().filter(|_| format == "json") {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
            assert!(
                line["level"].is_string()
                    && line["message"].is_string()
                    && line["timestamp"].is_string(),
                "{line}"
            );
        }
        node.lab.egress_routes("nd", &["cleanup"]);
    }
}

#[test]
fn no_color_is_honoured_on_a_terminal() {
    let node = with(BAD);
    let command = format!("{AGENT} check {}", node.volume.path().display());
    // `script` gives the command a terminal.
    let output = |no_color: &str| {
        let output = node.lab.run_with_env(
            "nd",
            &["script", "-qec", &command, "/dev/null"],
            &[("NO_COLOR", no_color), ("TERM", "xterm")],
        );
        assert_eq!(output.code, 1, "{output:?}");
        output.out
    };
    assert!(output("").contains("\u{1b}["));
    let plain = output("1");
    assert!(
        plain.contains("host bits") && !plain.contains('\u{1b}'),
        "{plain:?}"
    );
}
