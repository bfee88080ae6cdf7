//! What is accepted, what is refused, and in which words.
#![allow(
    clippy::format_collect,
    reason = "a test may be slow where it is plain"
)]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::net::prefix::Family;

mod clashes;
mod refused;
mod warnings;

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

pub(super) const LISTED: &str =
    "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [aws.txt]\n";

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

fn reported(files: &Files) -> String {
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
fn a_timeout_that_is_not_given_is_a_second_or_the_shorter_interval() {
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

/// As insta does: writes the actual text beside the expected one, to be reviewed and moved.
pub(super) fn settle(table: &str, wrong: &[String], right: &str) {
    if !wrong.is_empty() {
        let path = format!(
            "{}/src/config/tests/{table}.new",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::write(&path, right).unwrap();
        panic!("{} cases; see {path}\n{}", wrong.len(), wrong.join("\n"));
    }
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
            "set `a`: every IPv4 gateway is drained, so they still carry new flows; keep one without `drain`"
        ]
    );
}
