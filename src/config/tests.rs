//! What is accepted, what is refused, and in which words.
#![allow(
    clippy::format_collect,
    reason = "a test may be slow where it is plain"
)]

use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::net::prefix::Family;

/// The example of the public contract, to the letter.
pub(super) const CONTRACT: &str = "\
routes:                                # each entry is a *route set*
  - name: partner-api                  # unique, [a-z0-9]([-a-z0-9]*[a-z0-9])?, up to 63 characters
    gateways: [10.116.0.5]             # next hops, 1 to 16 addresses that are on-link for the node
    destinations:                      # CIDRs or bare addresses
      - 203.0.113.0/24
      - 198.51.100.7
  - name: clouds
    gateways: [10.116.0.5, 10.116.0.6, fd00:116::5]
    strategy: balance                  # balance (default)
    failback: true                     # failover: return to an earlier gateway when it is healthy again (default)
    destinationFiles: [aws.txt]        # other keys of the same ConfigMap
    except: [52.94.0.0/22]             # taken out of this set's destinations
    whenDown: hold                     # no gateway healthy
    leakGuard: false
    healthCheck:                       # these are the defaults
      type: icmp                       # icmp | tcp (needs `port`) | none
      interval: 1s
      timeout: 1s
      failures: 3                      # in a row, then the gateway is down
      successes: 5                     # in a row, then it is up again
      # target: 192.0.2.1              # probe this address *through* the gateway
    nodeSelector:                      # a Kubernetes LabelSelector; absent: every node
      matchLabels: { pool: web }
protected: [64.225.0.0/16]             # never routed through a gateway by any set
expectedRules: [1536]                  # priorities of policy rules that may take traffic past the routes, on purpose
";

pub(super) fn files(routes_yaml: impl AsRef<[u8]>, lists: &[(&str, &[u8])]) -> Files {
    let lists = lists
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), Ok(bytes.to_vec())))
        .collect();
    Files {
        routes_yaml: routes_yaml.as_ref().to_vec(),
        lists,
        others: Vec::new(),
        given: BTreeMap::new(),
    }
}

pub(super) fn accepted(routes_yaml: &str) -> Checked {
    parse(&files(routes_yaml, &[])).unwrap_or_else(|problems| panic!("{problems}\n{routes_yaml}"))
}

fn said(files: &Files) -> String {
    parse(files).map_or_else(|problems| problems.to_string(), |_| "accepted".to_owned())
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A set with a few lines of its own.
fn set(name: &str, more: &str) -> String {
    format!("- name: {name}\n  gateways: [10.116.0.5]\n{more}")
}

fn messages(checked: &Checked) -> Vec<String> {
    checked.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_of_the_contract_is_accepted_as_it_stands() {
    let checked = parse(&files(
        CONTRACT,
        &[("aws.txt", b"52.94.0.0/20 # us-east\n2600:1f00::/24\n")],
    ))
    .unwrap();
    let [partner, clouds] = checked.config.sets.as_slice() else {
        panic!("two sets")
    };
    assert_eq!(
        (partner.name.as_str(), partner.destinations.as_slice()),
        ("partner-api", &[p("198.51.100.7"), p("203.0.113.0/24")][..])
    );
    assert_eq!(partner.health_check, HealthCheck::default());
    assert_eq!(
        (partner.strategy, partner.when_down, partner.leak_guard),
        (Strategy::Balance, WhenDown::Hold, false)
    );
    assert_eq!(
        clouds.health_check, partner.health_check,
        "what the example writes out are the defaults"
    );
    assert_eq!(
        clouds
            .gateways
            .iter()
            .map(|g| Family::of(*g))
            .filter(|f| *f == Family::V6)
            .count(),
        1
    );
    assert_eq!(
        (clouds.destinations.as_slice(), clouds.except.as_slice()),
        (
            &[p("52.94.0.0/20"), p("2600:1f00::/24")][..],
            &[p("52.94.0.0/22")][..]
        )
    );
    assert_eq!(
        clouds
            .node_selector
            .as_ref()
            .unwrap()
            .match_labels
            .get("pool")
            .map(String::as_str),
        Some("web")
    );
    assert_eq!(checked.config.protected, [p("64.225.0.0/16")]);
    assert_eq!(checked.config.expected_rules, [1536]);
    assert_eq!(messages(&checked), [""; 0]);
}

#[test]
fn a_timeout_that_is_not_said_is_a_second_or_the_shorter_interval() {
    let timeout = |check: &str| {
        let yaml = format!(
            "routes:\n{}  healthCheck: {{{check}}}\n",
            set("a", "  destinations: [192.0.2.0/24]\n")
        );
        accepted(&yaml).config.sets[0].health_check.timeout
    };
    assert_eq!(timeout("interval: 200ms"), Duration::from_millis(200));
    assert_eq!(timeout("interval: 10s"), Duration::from_secs(1));
    assert_eq!(
        timeout("interval: 200ms, timeout: 700ms"),
        Duration::from_millis(700)
    );
}

#[test]
fn every_key_has_its_effect() {
    let checked = accepted(
        "routes:\n- name: a\n  gateways: [10.116.0.6, 10.116.0.5]\n  destinations: [0.0.0.0/0]\n  strategy: failover\n  failback: false\n  \
         except: [192.0.2.0/24]\n  whenDown: blackhole\n  leakGuard: true\n  healthCheck: {type: tcp, port: 443, interval: 1m30s, timeout: 500ms, \
         failures: 1, successes: 100, target: 192.0.2.1}\n  nodeSelector:\n    matchExpressions:\n    - {key: pool, operator: NotIn, values: [b, a]}\n    \
         - {key: example.com/x, operator: DoesNotExist}\nprotected: []\n",
    );
    let set = &checked.config.sets[0];
    assert_eq!(
        set.gateways,
        ["10.116.0.6", "10.116.0.5"].map(|g| g.parse::<IpAddr>().unwrap()),
        "gateways keep their order"
    );
    assert_eq!(
        (set.strategy, set.when_down, set.leak_guard),
        (
            Strategy::Failover {
                failback: Failback::Never
            },
            WhenDown::Blackhole,
            true
        )
    );
    let check = &set.health_check;
    assert_eq!(
        (check.probe, check.interval, check.timeout),
        (
            Probe::Tcp(443),
            Duration::from_secs(90),
            Duration::from_millis(500)
        )
    );
    assert_eq!(
        (check.failures, check.successes, check.target),
        (1, 100, Some("192.0.2.1".parse().unwrap()))
    );
    let terms = &set.node_selector.as_ref().unwrap().match_expressions;
    assert_eq!(
        terms[0].operator,
        Operator::NotIn(vec!["b".to_owned(), "a".to_owned()])
    );
    assert_eq!(
        (terms[1].key.as_str(), &terms[1].operator),
        ("example.com/x", &Operator::DoesNotExist)
    );
}

#[test]
fn an_empty_list_of_sets_is_a_configuration() {
    for text in [
        "routes: []\n",
        "routes: []",
        "{\"routes\": []}",
        "---\nroutes: []\n...\n",
        "routes: []\n---\n",
        "# one\n---\nroutes: []\n--- \n# the end\n",
        "\u{feff}routes: []\r\n",
        "# none\nroutes: [] # yet\n",
    ] {
        assert_eq!(
            accepted(text).config,
            Config {
                sets: Vec::new(),
                expected_rules: Vec::new(),
                protected: Vec::new()
            },
            "{text:?}"
        );
    }
}

#[test]
fn yaml_that_means_the_same_is_the_same_configuration() {
    let expected =
        accepted("routes:\n- name: a\n  gateways: [fd00::1]\n  destinations: [\"2001:db8::/32\", \"::/0\", \"fd00::\"]\n").config;
    for text in [
        "routes:\n- name: a\n  gateways: [fd00::1]\n  destinations: [2001:db8::/32, ::/0, 'fd00::']\n",
        "routes:\r\n  - name: 'a'\r\n    gateways:\r\n      - fd00::1\r\n    destinations:\r\n      - ::/0\r\n      - fd00::/128\r\n      - 2001:db8::/32\r\n",
        "{\"routes\": [{\"name\": \"a\", \"gateways\": [\"fd00:0:0::1\"], \"destinations\": [\"2001:DB8::/32\", \"::/0\", \"fd00::/128\", \"::/0\"]}]}",
        "\u{feff}%YAML 1.2\n---\nroutes:\n- gateways: &g [fd00::1]\n  name: a\n  destinations:\n  - !!str ::/0\n  - |-\n    2001:db8::/32\n  - >-\n    fd00::\n",
    ] {
        assert_eq!(accepted(text).config, expected, "{text}");
    }
}

#[test]
fn an_alias_stands_for_the_value_it_names_and_its_faults_are_reported_where_they_are_written() {
    let text = |interval: &str| {
        format!(
            "routes:\n{}{}",
            set(
                "a",
                &format!(
                    "  destinations: [192.0.2.0/24]\n  healthCheck: &check {{interval: {interval}}}\n"
                )
            ),
            set(
                "b",
                "  destinations: [198.51.100.0/24]\n  healthCheck: *check\n"
            )
        )
    };
    assert_eq!(
        accepted(&text("2s")).config.sets[1].health_check.interval,
        Duration::from_secs(2)
    );
    let problems = parse(&files(text("2"), &[])).unwrap_err();
    let places: Vec<(u32, Option<&str>)> = problems
        .kept
        .iter()
        .map(|p| (p.line, p.path.as_deref()))
        .collect();
    assert_eq!(
        places,
        [
            (5, Some("routes[0].healthCheck.interval")),
            (5, Some("routes[1].healthCheck.interval"))
        ]
    );
}

/// As insta does: what was said lies beside what was expected, to be looked at and moved.
pub(super) fn settle(table: &str, wrong: &[String], right: &str) {
    if !wrong.is_empty() {
        let path = format!("{}/src/config/{table}.new", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(&path, right).unwrap();
        panic!("{} cases; see {path}\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn each_refused_configuration_is_refused_in_these_words() {
    let (mut cases, mut wrong, mut right) = (0, Vec::new(), String::new());
    let head = include_str!("refused.txt").split("\n=== ").next().unwrap();
    right.push_str(head);
    for case in include_str!("refused.txt").split("\n=== ").skip(1) {
        let (what, body) = case.split_once('\n').unwrap();
        let (mut parts, mut others, mut expected) =
            (vec![(ROUTES_YAML, String::new())], Vec::new(), Vec::new());
        for line in body.trim_end_matches('\n').split('\n') {
            if let Some(problem) = line.strip_prefix(">>> ") {
                expected.push(problem);
            } else if let Some(names) = line.strip_prefix("... ") {
                others = names.split(' ').map(str::to_owned).collect();
            } else if let Some(name) = line.strip_prefix("--- ") {
                parts.push((name, String::new()));
            } else {
                let text = &mut parts.last_mut().unwrap().1;
                text.push_str(line);
                text.push('\n');
            }
        }
        let lists: Vec<(&str, &[u8])> = parts[1..]
            .iter()
            .map(|(name, text)| (*name, text.as_bytes()))
            .collect();
        let files = Files {
            others,
            ..files(&parts[0].1, &lists)
        };
        let (said, expected) = (said(&files), expected.join("\n"));
        let kept: String = body
            .trim_end_matches('\n')
            .split('\n')
            .filter(|line| !line.starts_with(">>> "))
            .map(|line| format!("{line}\n"))
            .collect();
        let answer: String = said.lines().map(|line| format!(">>> {line}\n")).collect();
        write!(right, "\n=== {what}\n{kept}{answer}").unwrap();
        if said != expected {
            wrong.push(format!(
                "{what}\n  said:     {said}\n  expected: {expected}"
            ));
        }
        cases += 1;
    }
    settle("refused.txt", &wrong, &right);
    assert!(cases > 140, "only {cases} cases were found in the file");
}

pub(super) const LISTED: &str =
    "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [aws.txt]\n";

#[test]
fn bytes_that_are_no_text_are_refused_in_these_words() {
    let routes: &[(&[u8], &str)] = &[
        (
            b"",
            "routes.yaml:1:1: the file is empty; `routes: []` is how to say that there are none",
        ),
        (
            b"---\n",
            "routes.yaml:1:4: the file is empty; `routes: []` is how to say that there are none",
        ),
        (
            b"routes:\n\t- name: a\n",
            "routes.yaml:2:2: a tab; YAML is indented with spaces",
        ),
        (
            b"routes:\n- name: a\n  healthCheck: {type: icmp, inter",
            "routes.yaml:3:16: unclosed bracket '{'",
        ),
        (
            b"routes: []\n---\nroutes: []\n",
            "routes.yaml:3:1: a second YAML document starts here; the file holds one: take the `---` out",
        ),
        (
            b"routes: []\n---\nroutes: []\n",
            "routes.yaml:3:1: a second YAML document starts here; the file holds one: take the `---` out",
        ),
        (
            b"routes: []\n# caf\xe9\n",
            "routes.yaml:2:6: the byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            b"\xff\xfer\0o\0",
            "routes.yaml:1:1: is UTF-16; save it as UTF-8",
        ),
        (
            b"routes: []\n# a\0b\n",
            "routes.yaml:2:4: there is a zero byte; the file holds text only",
        ),
        (
            b"routes:\r\n- a\r\n",
            "routes.yaml:2:3: routes[0]: `a` is text; expected a mapping with `name`, `gateways`, `drainTimeout`, `strategy`, `failback`, `destinations`, `destinationFiles`, `except`, `whenDown`, `leakGuard`, `healthCheck` and `nodeSelector`",
        ),
        (
            b"routes: 1\rprotected: 2\r",
            "routes.yaml:1:9: routes: `1` is a number; expected a list of route sets\nroutes.yaml:2:12: protected: `2` is a number; expected a list of CIDRs",
        ),
    ];
    for (bytes, expected) in routes {
        assert_eq!(said(&files(bytes, &[])), *expected);
    }
    let foo = "`1.2.3` is not an IP address or CIDR; expected one like `203.0.113.0/24`, `198.51.100.7` or `2001:db8::/32`";
    let lists: &[(&[u8], &str)] = &[
        (
            b"",
            "aws.txt:1:1: holds no CIDR; if that is meant, take the file out of `destinationFiles`",
        ),
        (
            b"192.0.2.0/24\n\xe9\n",
            "aws.txt:2:1: the byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            b"192.0.2.0/24\n\0\n",
            "aws.txt:2:1: there is a zero byte; the file holds text only",
        ),
        (b"192.0.2.0/24\r\n1.2.3\r\n", &format!("aws.txt:2:1: {foo}")),
        (b"192.0.2.0/24\r1.2.3", &format!("aws.txt:2:1: {foo}")),
        ("\u{feff}1.2.3".as_bytes(), &format!("aws.txt:1:1: {foo}")),
        (b"\t 1.2.3", &format!("aws.txt:1:3: {foo}")),
    ];
    for (bytes, expected) in lists {
        assert_eq!(said(&files(LISTED, &[("aws.txt", bytes)])), *expected);
    }
}

#[test]
fn a_list_file_may_have_comments_blank_lines_and_any_line_ending() {
    let expected = [p("192.0.2.0/24"), p("198.51.100.7")];
    for text in [
        "192.0.2.0/24\n198.51.100.7",
        "# x\n\n  192.0.2.0/24   # y\n\t198.51.100.7/32#z\n",
        "192.0.2.0/24\r\n198.51.100.7\r\n\r\n",
        "\u{feff}198.51.100.7\n192.0.2.0/24\n192.0.2.0/24\n",
    ] {
        assert_eq!(
            parse(&files(LISTED, &[("aws.txt", text.as_bytes())]))
                .unwrap()
                .config
                .sets[0]
                .destinations,
            expected,
            "{text:?}"
        );
    }
}

#[test]
fn an_unreadable_list_file_is_a_problem_where_it_is_named() {
    let mut files = files(LISTED, &[]);
    files.lists.insert(
        "aws.txt".to_owned(),
        Err(ListUnread::Other(
            "is a directory; expected a file".to_owned(),
        )),
    );
    assert_eq!(
        said(&files),
        "routes.yaml:4:22: routes[0].destinationFiles[0]: `aws.txt` is a directory; expected a file"
    );
}

#[test]
fn sizes_beyond_the_limits_are_refused() {
    let mut large = b"routes: []\n#".to_vec();
    large.resize(MAX_FILE, b' ');
    assert_eq!(said(&files(&large, &[])), "accepted");
    large.push(b' ');
    assert_eq!(
        said(&files(&large, &[])),
        "routes.yaml:1:1: is larger than 4 MiB, which is the limit for a file"
    );
    assert_eq!(
        said(&files(LISTED, &[("aws.txt", &large)])),
        "aws.txt:1:1: is larger than 4 MiB, which is the limit for a file"
    );
    large.pop();
    let three: Vec<(&str, &[u8])> = ["a", "b", "c"]
        .map(|name| (name, large.as_slice()))
        .to_vec();
    assert_eq!(
        said(&files(LISTED, &three)),
        "routes.yaml:1:1: is larger than 8 MiB with its list files, which is the limit"
    );
    let sets: String = (0..=MAX_SETS)
        .map(|i| {
            format!(
                "- {{name: s{i}, gateways: [10.116.0.5], destinations: [{}]}}\n",
                Prefix::host(Family::V4.address(i as u128 + (1 << 30)))
            )
        })
        .collect();
    assert_eq!(
        said(&files(format!("routes:\n{sets}"), &[])),
        "routes.yaml:2:3: routes: has 1001 route sets; at most 1000 are allowed"
    );
    let list: String = (0..=MAX_DESTINATIONS)
        .map(|i| format!("{}\n", Family::V4.address(i as u128)))
        .collect();
    assert_eq!(
        said(&files(LISTED, &[("aws.txt", list.as_bytes())])),
        "routes.yaml:4:22: routes[0].destinationFiles[0]: with these, there are more than 250000 CIDRs in all, which is the limit"
    );
}

#[test]
fn a_flood_of_problems_is_counted_but_not_kept() {
    let list = "10.1.2.3/8\n".repeat(50_000);
    let problems = parse(&files(LISTED, &[("aws.txt", list.as_bytes())])).unwrap_err();
    assert_eq!((problems.kept.len(), problems.count()), (100, 50_000));
    assert!(problems.to_string().ends_with("\nand 49900 more"));
    assert!(problems.summary().ends_with(" (and 49995 more)"));
    let many = "- 10.1.2.3/8\n".repeat(500);
    let problems = parse(&files(
        format!(
            "routes:\n- name: a\n  gateways: [10.0.0.1]\n  destinations:\n  {}",
            many.replace('\n', "\n  ")
        ),
        &[],
    ))
    .unwrap_err();
    assert_eq!(problems.count(), 500);
}

#[test]
fn a_picture_shows_the_line_and_carets_under_the_value() {
    let text = "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinations: [203.0.113.0/24, 10.1.2.3/8]\n";
    let problems = parse(&files(text, &[])).unwrap_err();
    insta::assert_snapshot!(problems.kept[0].picture(false), @r"
    routes.yaml:4:34: routes[0].destinations[1]: `10.1.2.3/8` has host bits set; did you mean `10.0.0.0/8`?
      |
    4 |   destinations: [203.0.113.0/24, 10.1.2.3/8]
      |                                  ^^^^^^^^^^
    ");
    assert!(
        problems.kept[0]
            .picture(true)
            .ends_with("\u{1b}[31m^^^^^^^^^^\u{1b}[0m")
    );
    let long = format!(
        "routes: [{}{{name: A}}]",
        "{name: a, gateways: [10.0.0.1], destinations: [192.0.2.7]}, ".repeat(50)
    );
    let problems = parse(&files(long, &[])).unwrap_err();
    assert!(
        problems
            .kept
            .iter()
            .all(|problem| problem.source_line.chars().count() <= 120)
    );
    for problem in &problems.kept {
        let picture = problem.picture(false);
        let lines: Vec<&str> = picture.lines().collect();
        assert!(
            lines[3].chars().count() <= lines[2].chars().count() + 1,
            "the caret is under the line:\n{picture}"
        );
    }
}

#[test]
fn a_problem_is_one_line_whatever_is_in_the_file() {
    let problems = parse(&files("routes: []\n\"a\\nb\\e[31m\\u202e\": 1\n", &[])).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "routes.yaml:2:1: `a\\nb\\u{1b}[31m\\u{202e}` is not known here; expected `routes`, `protected` or `expectedRules`"
    );
}

#[test]
fn the_revision_is_what_sha256sum_says() {
    // printf 'routes.yaml\00011\000routes: []\n' | sha256sum
    assert_eq!(
        accepted("routes: []\n").revision.to_string(),
        "1b9a41b8dea5"
    );
    // (printf 'routes.yaml\00078\000'; cat routes.yaml; printf 'a.txt\00013\000'; cat a.txt; printf 'b.txt\00013\000'; cat b.txt) | sha256sum
    let text = "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [b.txt, a.txt]\n";
    let both: &[(&str, &[u8])] = &[("b.txt", b"192.0.2.0/24\n"), ("a.txt", b"198.51.100.7\n")];
    assert_eq!(
        parse(&files(text, both)).unwrap().revision.to_string(),
        "a64aa3e6a413"
    );
}

#[test]
fn a_refused_configuration_has_the_revision_of_its_bytes() {
    let refused = files(LISTED, &[("aws.txt", b"x\n")]);
    let problems = parse(&refused).unwrap_err();
    assert_eq!(problems.revision, refused.revision());
    assert_ne!(
        problems.revision,
        files(LISTED, &[("aws.txt", b"y\n")]).revision()
    );
    assert_eq!(
        parse(&files(b"\xff", &[])).unwrap_err().revision,
        files(b"\xff", &[]).revision()
    );
}

#[test]
fn only_the_list_files_that_are_named_are_taken_from_a_configmap() {
    let key = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let keys = BTreeMap::from([
        key(ROUTES_YAML, LISTED),
        key("aws.txt", "192.0.2.0/24\n"),
        key("other.txt", "nonsense"),
    ]);
    let files = Files::from_keys(&keys).unwrap();
    assert_eq!(files.lists.keys().collect::<Vec<_>>(), ["aws.txt"]);
    assert!(parse(&files).is_ok());
    assert_eq!(Files::from_keys(&BTreeMap::new()), None);
    assert_eq!(list_names(b"destinationFiles: ["), [""; 0]);
    assert_eq!(
        list_names(b"routes: [{destinationFiles: [b, ../x, a, b, 1, '']}, {destinationFiles: c}]"),
        ["a", "b"]
    );
}

#[test]
fn two_selected_sets_may_share_a_prefix_unless_one_selector_implies_the_other() {
    let shared = |a: &str, b: &str| {
        let set = |name: &str, selector: &str| {
            set(
                name,
                &format!("  destinations: [192.0.2.0/24]\n  nodeSelector: {selector}\n"),
            )
        };
        match parse(&files(
            format!("routes:\n{}{}", set("a", a), set("b", b)),
            &[],
        )) {
            Err(_) => "refused",
            Ok(checked) if checked.warnings.is_empty() => "accepted",
            Ok(checked) => {
                assert_eq!(
                    messages(&checked),
                    [
                        "sets `a` and `b` share 1 destination, which a node that both select will refuse: `192.0.2.0/24`"
                    ]
                );
                "warned"
            }
        }
    };
    let label = |text: &str| format!("{{matchLabels: {{{text}}}}}");
    let term = |text: &str| format!("{{matchExpressions: [{{{text}}}]}}");
    assert_eq!(shared(&label("pool: web"), &label("pool: db")), "accepted");
    assert_eq!(shared(&label("pool: web"), &label("pool: web")), "refused");
    assert_eq!(shared(&label("pool: web"), "{}"), "refused");
    assert_eq!(
        shared(&label("pool: web"), &label("pool: web, zone: a")),
        "refused"
    );
    assert_eq!(shared(&label("pool: web"), &label("zone: a")), "warned");
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: In, values: [web]")
        ),
        "refused"
    );
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: In, values: [db, web]")
        ),
        "warned"
    );
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: NotIn, values: [web]")
        ),
        "accepted"
    );
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: DoesNotExist")
        ),
        "accepted"
    );
    assert_eq!(
        shared(
            &term("key: pool, operator: NotIn, values: [web]"),
            &term("key: pool, operator: NotIn, values: [db]")
        ),
        "warned"
    );
}

#[test]
fn a_prefix_that_a_set_takes_out_again_does_not_clash() {
    let text = format!(
        "routes:\n{}{}",
        set(
            "a",
            "  destinations: [192.0.2.0/24, 198.51.100.0/24]\n  except: [192.0.2.0/23]\n"
        )
        .replace("192.0.2.0/23", "192.0.2.0/24"),
        set("b", "  destinations: [192.0.2.0/24]\n")
    );
    assert_eq!(accepted(&text).config.sets.len(), 2);
}

#[test]
fn a_node_asks_for_the_clashes_of_the_sets_that_apply_to_it() {
    let sets = accepted(&format!(
        "routes:\n{}{}{}",
        set("a", "  destinations: [192.0.2.0/24, 198.51.100.0/24]\n  nodeSelector: {matchLabels: {x: '1'}}\n"),
        set("b", "  destinations: [192.0.2.0/24]\n  nodeSelector: {matchLabels: {x: '2'}}\n"),
        set("c", "  destinations: [192.0.2.0/24]\n  nodeSelector: {matchLabels: {x: '3'}}\n")
    ))
    .config
    .sets;
    let clash = |first, second| Clash {
        prefix: p("192.0.2.0/24"),
        first,
        second,
    };
    assert_eq!(
        clashes(&[&sets[0], &sets[1], &sets[2]]),
        [clash(0, 1), clash(0, 2)]
    );
    assert_eq!(clashes(&[&sets[0]]), []);
}

#[test]
fn two_names_with_one_nexthop_group_are_refused() {
    let mut names = BTreeMap::new();
    let (a, b) = (0u32..)
        .find_map(|n| {
            let name = format!("s{n}");
            Family::BOTH
                .iter()
                .find_map(|f| names.insert(crate::net::nexthop_id::group(&name, *f), name.clone()))
                .map(|other| (other, name.clone()))
        })
        .unwrap();
    let text = format!(
        "routes:\n{}{}",
        set(&a, "  destinations: [192.0.2.0/24]\n"),
        set(&b, "  destinations: [198.51.100.0/24]\n")
    );
    assert_eq!(
        said(&files(text, &[])),
        format!(
            "routes.yaml:5:9: routes[1].name: `{b}` happens to get the nexthop group of `{a}`; rename one of the two"
        )
    );
}

#[test]
fn a_family_without_a_gateway_may_be_taken_out_as_a_whole() {
    let text = set(
        "a",
        "  destinations: [192.0.2.0/24, '2001:db8::/32']\n  except: ['::/0']\n",
    );
    assert_eq!(
        accepted(&format!("routes:\n{text}")).config.sets[0]
            .destinations
            .len(),
        2
    );
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let warned = |text: &str| messages(&accepted(text));
    let one = |more: &str| format!("routes:\n{}", set("a", more));
    assert_eq!(warned(&one("  destinations: [192.0.2.0/24]\n")), [""; 0]);
    assert_eq!(
        warned(&one("  destinations: [0.0.0.0/1, 128.0.0.0/2]\n")),
        [
            "more than half of all IPv4 addresses are routed through gateways, and no IPv4 range is `protected`; add first the address by which kubelets reach the API server (`kubectl cluster-info` prints it; on managed clouds it is often a public one that no Service shows), then registries and other networks that nodes need when gateways are down",
            "set `a`: 1 gateway inside its own destinations; each is left out of them on every node: `10.116.0.5` in `0.0.0.0/1`",
        ]
    );
    assert_eq!(
        warned(&one("  destinations: [128.0.0.0/1]\n")),
        [""; 0],
        "half is not more than half"
    );
    assert_eq!(
        warned(&format!(
            "{}protected: [64.225.0.0/16]\n",
            one("  destinations: [128.0.0.0/1, 64.0.0.0/2]\n")
        )),
        [""; 0]
    );
    assert_eq!(
        warned(&one(
            "  destinations: [10.9.0.0/16, 172.16.0.0/12, 192.168.1.1, 100.64.0.0/24, 10.10.0.0/16, 10.11.0.0/16, 172.32.0.0/12]\n"
        )),
        [
            "set `a`: 6 destinations with private addresses; make sure that no pod, Service or VPC network is among them: `10.9.0.0/16`, `10.10.0.0/16`, `10.11.0.0/16`, `100.64.0.0/24`, `172.16.0.0/12`, …"
        ]
    );
    assert_eq!(
        warned(&one(
            "  destinations: [192.0.2.0/24, 198.51.100.0/28]\n  except: [192.0.2.9, 198.51.100.0/24, 203.0.113.0/24, 203.0.114.0/24]\n"
        )),
        [
            "set `a`: 2 entries of `except` that overlap no destination: `203.0.113.0/24`, `203.0.114.0/24`"
        ]
    );
    assert_eq!(
        warned(&format!(
            "{}{}",
            one("  destinations: [192.0.2.0/24]\n"),
            set("b", "  destinations: [192.0.2.128/25, 192.0.2.7]\n")
        )),
        [
            "set `b`: 2 destinations inside those of set `a`; the longer prefix wins: `192.0.2.7/32` in `192.0.2.0/24`, `192.0.2.128/25` in `192.0.2.0/24`"
        ]
    );
    assert_eq!(
        warned(&one(
            "  destinations: [192.0.2.0/24]\n  failback: false\n  whenDown: withdraw\n  healthCheck: {type: none}\n"
        )),
        [
            "set `a`: `whenDown` has no effect with `healthCheck.type: none`, because no gateway ever counts as down",
            "set `a`: `failback` has no effect with `strategy: balance`",
        ]
    );
}

#[test]
fn a_gateway_may_have_a_weight_and_may_be_drained() {
    let checked = accepted(
        "routes:\n- name: a\n  gateways:\n  - 10.116.0.5\n  - { address: 10.116.0.6, weight: 100 }\n  - { address: 10.116.0.7, drain: true }\n  \
         - { address: 10.116.0.8, weight: 1, drain: false }\n  destinations: [203.0.113.0/24]\n  drainTimeout: 10m\n",
    );
    let set = &checked.config.sets[0];
    let shares: Vec<(u32, bool)> = set
        .gateways
        .iter()
        .map(|g| (set.share(*g).weight, set.share(*g).drain))
        .collect();
    assert_eq!(shares, [(1, false), (100, false), (1, true), (1, false)]);
    assert_eq!(set.drain_timeout, Duration::from_mins(10));
    assert_eq!(set.strategy, Strategy::Balance);
    let failback = |word: &str| {
        let more =
            format!("  destinations: [192.0.2.0/24]\n  strategy: failover\n  failback: {word}\n");
        accepted(&format!("routes:\n{}", super::tests::set("a", &more)))
            .config
            .sets[0]
            .strategy
    };
    for (word, failback_) in [
        ("true", Failback::AtOnce),
        ("false", Failback::Never),
        ("drain", Failback::Drain),
        ("\"drain\"", Failback::Drain),
    ] {
        assert_eq!(
            failback(word),
            Strategy::Failover {
                failback: failback_
            }
        );
    }
    let idle = "routes:\n- name: a\n  gateways: [{ address: 10.116.0.5, weight: 2 }]\n  destinations: [192.0.2.0/24]\n  strategy: failover\n";
    assert_eq!(
        messages(&accepted(idle)),
        ["set `a`: `weight` has no effect with `strategy: failover`"]
    );
    let all = "routes:\n- name: a\n  gateways: [{ address: 10.116.0.5, drain: true }]\n  destinations: [192.0.2.0/24]\n";
    assert_eq!(
        messages(&accepted(all)),
        [
            "set `a`: every IPv4 gateway is drained, so they go on carrying new flows; keep one without `drain`"
        ]
    );
}

#[test]
fn a_set_that_misses_its_aim_is_warned_of() {
    let warned = |text: &str| messages(&accepted(text));
    let one = |more: &str| format!("routes:\n{}", set("a", more));
    assert_eq!(
        warned(&one(
            "  destinations: [192.0.2.0/24, 127.0.0.0/8, 169.254.169.254, 224.0.0.0/8, 240.0.0.1]\n"
        )),
        [
            "set `a`: 4 destinations that every node skips: `127.0.0.0/8` (the loopback range), `169.254.169.254/32` (the link-local and metadata range), `224.0.0.0/8` (the multicast range), `240.0.0.1/32` (the reserved range)"
        ]
    );
    assert_eq!(
        warned(&one("  destinations: [192.0.2.0/24, 0.0.0.0]\n")),
        [
            "set `a`: `0.0.0.0` in `destinations` is one address, which nobody has; for all IPv4 addresses write `0.0.0.0/0`"
        ]
    );
    assert_eq!(
        warned(&format!(
            "{}protected: ['::']\n",
            one("  destinations: [192.0.2.0/24]\n")
        )),
        [
            "`::` in `protected` is one address, which nobody has; for all IPv6 addresses write `::/0`"
        ]
    );
    let empty = |except: &str, protected: &str| {
        warned(&format!(
            "{}protected: [{protected}]\n",
            one(&format!(
                "  destinations: [192.0.2.0/24, 198.51.100.7]\n  except: [{except}]\n"
            ))
        ))
    };
    assert_eq!(
        empty("192.0.2.0/24, 198.51.100.0/24", "")[0],
        "set `a`: `except` takes out all of its destinations, so that it routes nothing"
    );
    assert_eq!(
        empty("", "192.0.2.0/25, 192.0.2.128/25, 198.51.100.0/24")[0],
        "set `a`: `protected` covers all of its destinations, so that it routes nothing"
    );
    assert_eq!(
        empty("192.0.2.0/25", "192.0.2.128/25, 198.51.100.7")[0],
        "set `a`: `except` and `protected` cover all of its destinations, so that it routes nothing"
    );
    assert_eq!(empty("192.0.2.0/25", "198.51.100.7"), [""; 0]);
}

#[test]
fn a_gateway_that_is_probably_none_is_warned_of() {
    let warned = |gateways: &str| {
        messages(&accepted(&format!(
            "routes:\n- name: a\n  gateways: [{gateways}]\n  destinations: [198.51.100.0/24]\n"
        )))
    };
    assert_eq!(warned("10.116.0.5, 100.64.0.1, 172.16.0.1"), [""; 0]);
    assert_eq!(
        warned("203.0.113.7, 169.254.1.1, 'fd00::1'"),
        [
            "set `a`: gateway `203.0.113.7` has a public address; a next hop is a neighbour in the nodes' own subnet, usually with a private one, not the address that partners see",
            "set `a`: gateway `169.254.1.1` is link-local; that works only where every node has that neighbour",
            "set `a`: 1 gateway of a family without destinations: `fd00::1`",
        ]
    );
}

#[test]
fn lists_that_no_set_names_and_a_withdrawal_that_a_leak_guard_undoes_are_warned_of() {
    let text = format!(
        "routes:\n{}",
        set(
            "a",
            "  destinationFiles: [a.txt]\n  whenDown: withdraw\n  leakGuard: true\n"
        )
    );
    let keys = [
        ("routes.yaml", text.as_str()),
        ("a.txt", "192.0.2.0/24\n"),
        ("b.txt", "x"),
        ("c.list", ""),
        ("example", "routes: []"),
    ];
    let keys = keys.map(|(key, text)| (key.to_owned(), text.as_bytes().to_vec()));
    let checked = parse(&Files::from_keys(&keys.into()).unwrap()).unwrap();
    assert_eq!(
        messages(&checked),
        [
            "set `a`: with `leakGuard: true` withdrawn traffic is dropped, as with `whenDown: blackhole`; take one of the two out if it should leave by another way",
            "2 list files that no set names under `destinationFiles`: `b.txt`, `c.list`",
        ]
    );
}

#[test]
fn everything_in_ipv6_counts_as_more_than_half_and_overflows_nothing() {
    for all in ["::/0", "::/1', '8000::/1", "2000::/3"] {
        let text =
            format!("routes:\n- name: a\n  gateways: ['fd00::1']\n  destinations: ['{all}']\n");
        let kinds: Vec<WarningKind> = accepted(&text)
            .warnings
            .iter()
            .map(|warning| warning.kind)
            .collect();
        assert!(kinds.contains(&WarningKind::Unprotected), "{all}");
    }
}

#[test]
fn warnings_are_bounded() {
    let sets: String = (0..300)
        .map(|i| {
            format!(
                "- {{name: s{i}, gateways: [192.0.2.1], destinations: [10.{}.{}.0/24]}}\n",
                i / 200,
                i % 200
            )
        })
        .collect();
    let warnings = accepted(&format!("routes:\n{sets}")).warnings;
    assert_eq!(warnings.len(), 101);
    assert_eq!(warnings[100].to_string(), "there are 500 more warnings");
}
