//! Which gateways carry which routes: strategies, `whenDown`, leak guards, selectors, and what a restarted agent takes over.

use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, any, prop_assert_eq, proptest};
use proptest::strategy::Strategy as _;

use super::*;
use crate::config::{self, Files};
use crate::health::Health;
use crate::kernel::apply::fake::FakeTable;
use crate::routing::batch::Line;
use crate::routing::diff::diff;
use crate::routing::node_facts::NodeFacts;
use crate::routing::state::{ForeignRoute, Link};

const OURS: Ownership = Ownership {
    protocol: 230,
    metric: 4242,
    table: 254,
};

/// What [`Case::apply`] writes is of this one.
const REVISION: &str = "0123456789ab";

/// A node whose `eth1` is `10.116.0.2/24` and `fd00:116::2/64`; a gateway of 10.117.0.0/24 is off-link.
fn node() -> Kernel {
    let foreign = |prefix: &str, protocol, dev: &str, gatewayed| ForeignRoute {
        key: crate::routing::state::RouteKey {
            prefix: prefix.parse().unwrap(),
            metric: 0,
            table: 254,
            tos: 0,
        },
        protocol,
        dev: Some(dev.into()),
        gatewayed,
        gateway: None,
        unicast: true,
    };
    let addresses = vec![
        ("10.116.0.2".parse().unwrap(), 24),
        ("fd00:116::2".parse().unwrap(), 64),
    ];
    Kernel {
        links: vec![Link {
            name: "eth1".into(),
            index: 3,
            up: true,
            carrier: true,
            loopback: false,
            addresses,
            broadcasts: Vec::new(),
        }],
        foreign: vec![
            foreign("0.0.0.0/0", 3, "eth0", true),
            foreign("10.116.0.0/24", 2, "eth1", false),
            foreign("fd00:116::/64", 2, "eth1", false),
        ],
        ..Kernel::default()
    }
}

fn config(yaml: &str) -> Config {
    let files = Files {
        routes_yaml: yaml.as_bytes().to_vec(),
        ..Files::default()
    };
    config::parse(&files)
        .unwrap_or_else(|why| panic!("{}", why.summary()))
        .config
}

/// One set `a` with 203.0.113.0/24 and further keys.
fn set(gateways: &str, keys: &str) -> Config {
    config(&format!(
        "routes:\n- {{name: a, gateways: [{gateways}], destinations: [203.0.113.0/24], {keys}}}\n"
    ))
}

/// What is known of a gateway in a test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Up,
    Down,
    NeverAnswered,
}

struct Case {
    config: Config,
    kernel: Kernel,
    facts: Facts,
    health: HealthView,
}

impl Case {
    fn new(config: Config) -> Self {
        Self {
            config,
            kernel: node(),
            facts: Facts::NoCluster,
            health: HealthView::new(),
        }
    }

    fn health(mut self, of: &[(&str, Is)]) -> Self {
        for set in &self.config.sets {
            for (gateway, is) in of {
                let key = ProbeKey {
                    gateway: gateway.parse().unwrap(),
                    check: set.health_check.clone(),
                };
                let state = if *is == Is::Up {
                    State::Up
                } else {
                    State::Down
                };
                let reason = (*is != Is::Up).then(|| "no answer".to_owned());
                let rtt = (*is == Is::Up).then_some(Duration::from_millis(2));
                self.health.insert(
                    key,
                    Health {
                        state,
                        ever_up: *is != Is::NeverAnswered,
                        rtt,
                        reason,
                    },
                );
            }
        }
        self
    }

    fn facts(mut self, facts: Facts) -> Self {
        self.facts = facts;
        self
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            config: &self.config,
            kernel: &self.kernel,
            facts: &self.facts,
            health: &self.health,
            ownership: &OURS,
        }
    }

    fn resolve(&self) -> Resolution {
        resolve(&self.inputs()).unwrap()
    }

    /// Writes what is wanted into the case's kernel.
    fn apply(mut self) -> Self {
        let table = FakeTable::new(OURS);
        let wanted = self.resolve().wanted;
        let mut lines = String::new();
        diff(&wanted, &Kernel::default(), &OURS, true)
            .writes()
            .for_each(|line| line.render(&OURS, &mut lines));
        for id in nexthop_id::applied(REVISION) {
            Line::BlackholeNexthop { id }.render(&OURS, &mut lines);
        }
        table.prepare(&lines);
        let kernel = table.kernel();
        (self.kernel.own, self.kernel.nexthops) = (kernel.own, kernel.nexthops);
        self
    }

    /// The gateways in the IPv4 group of set `a`, in words; and whether there are routes.
    fn carried(&self) -> (String, usize) {
        let wanted = self.resolve().wanted;
        let metric = |r: &&OwnRoute| r.key.metric == OURS.metric;
        (
            wanted.in_words(&Target::Nexthop(nexthop_id::group("a", Family::V4))),
            wanted.routes.iter().filter(metric).count(),
        )
    }

    fn down(&self) -> String {
        self.resolve()
            .sets
            .iter()
            .flat_map(|s| s.down.values().cloned().collect::<Vec<_>>())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

const A: &str = "10.116.0.5";
const B: &str = "10.116.0.6";
const C: &str = "10.116.0.7";
const BOTH: &str = "10.116.0.5, 10.116.0.6";
const ALL: &str = "10.116.0.5, 10.116.0.6, 10.116.0.7";

fn routed(gateways: &str) -> (String, usize) {
    (format!("via {gateways}"), 1)
}

// --- strategies --------------------------------------------------------------------------------

#[test]
fn balance_keeps_exactly_the_gateways_that_are_not_down() {
    let case = |health: &[(&str, Is)]| {
        Case::new(set(ALL, "strategy: balance"))
            .health(health)
            .carried()
    };
    assert_eq!(
        case(&[]),
        routed(ALL),
        "without a verdict a gateway counts as healthy"
    );
    assert_eq!(
        case(&[(A, Is::Up), (B, Is::Down), (C, Is::Up)]),
        routed("10.116.0.5, 10.116.0.7")
    );
    assert_eq!(
        case(&[(B, Is::NeverAnswered)]),
        routed("10.116.0.5, 10.116.0.7"),
        "others are healthy, so it is not the probe"
    );
}

#[test]
fn failover_takes_the_first_healthy_gateway_in_listed_order() {
    let listed = format!("{C}, {A}, {B}");
    let case = |health: &[(&str, Is)]| {
        Case::new(set(&listed, "strategy: failover"))
            .health(health)
            .carried()
    };
    assert_eq!(case(&[]), routed(C));
    assert_eq!(case(&[(C, Is::Down)]), routed(A));
    assert_eq!(case(&[(C, Is::Down), (A, Is::Down)]), routed(B));
}

#[test]
fn failback_returns_to_an_earlier_gateway_and_without_it_the_one_in_the_kernel_stays() {
    for (failback, after) in [(true, A), (false, B)] {
        let case = Case::new(set(
            BOTH,
            &format!("strategy: failover, failback: {failback}"),
        ))
        .health(&[(A, Is::Down)])
        .apply();
        assert_eq!(case.carried(), routed(B));
        // A restarted agent knows no health yet; the kernel knows which gateway was in use.
        let restarted = Case {
            health: HealthView::new(),
            ..case
        };
        assert_eq!(
            restarted.carried(),
            routed(after),
            "failback: {failback}, no verdict yet"
        );
        let case = restarted.health(&[(A, Is::Up), (B, Is::Up)]);
        assert_eq!(case.carried(), routed(after), "failback: {failback}");
        let case = case.health(&[(A, Is::Up), (B, Is::Down)]);
        assert_eq!(
            case.carried(),
            routed(A),
            "failback: {failback}, and the one in use fails"
        );
    }
}

#[test]
fn the_gateway_that_carries_is_active_in_the_report_and_the_others_are_not() {
    let case = Case::new(set(ALL, "strategy: failover")).health(&[(A, Is::Down), (B, Is::Up)]);
    let report: Vec<_> = case.resolve().sets[0]
        .gateways
        .iter()
        .map(|g| (g.state, g.active, g.rtt_ms, g.reason.clone()))
        .collect();
    assert_eq!(
        report,
        [
            (
                GatewayState::Down,
                false,
                None,
                Some("no answer".to_owned())
            ),
            (GatewayState::Up, true, Some(2.0), None),
            (GatewayState::Unknown, false, None, None)
        ]
    );
    let unchecked = Case::new(set(A, "healthCheck: {type: none}")).resolve();
    assert_eq!(unchecked.sets[0].gateways[0].state, GatewayState::Up);
}

#[test]
fn every_usable_gateway_has_its_object_whether_in_use_or_not() {
    let wanted = Case::new(set(&format!("{BOTH}, 10.117.0.9"), "strategy: failover"))
        .resolve()
        .wanted;
    assert_eq!(
        wanted.nexthops.len(),
        4,
        "and a duplicate: a switch is then one line, and the kernel would refuse what is off-link"
    );
}

// --- whenDown ----------------------------------------------------------------------------------

#[test]
fn when_all_gateways_are_down_routes_are_held_withdrawn_or_blackholed_as_the_set_says() {
    let case = |when: &str| {
        Case::new(set(BOTH, &format!("whenDown: {when}"))).health(&[(A, Is::Down), (B, Is::Down)])
    };
    assert_eq!(case("hold").carried(), routed(BOTH));
    assert_eq!(case("withdraw").carried().1, 0);
    assert_eq!(case("blackhole").carried(), ("blackhole".to_owned(), 1));
    assert!(case("withdraw").resolve().wanted.groups.is_empty());
    insta::assert_snapshot!(["hold", "withdraw", "blackhole"].map(|when| case(when).down()).join("\n"), @r"
    set `a` (IPv4): no gateway is healthy: 10.116.0.5 no answer; 10.116.0.6 no answer; its routes are held
    set `a` (IPv4): no gateway is healthy: 10.116.0.5 no answer; 10.116.0.6 no answer; its routes are withdrawn
    set `a` (IPv4): no gateway is healthy: 10.116.0.5 no answer; 10.116.0.6 no answer; its destinations are blackholed
    ");
}

#[test]
fn when_no_gateway_ever_answered_the_probe_is_the_likelier_fault_and_routes_are_held_whatever_the_set_says()
 {
    for when in ["hold", "withdraw", "blackhole"] {
        let case = Case::new(set(BOTH, &format!("whenDown: {when}")))
            .health(&[(A, Is::NeverAnswered), (B, Is::NeverAnswered)]);
        assert_eq!(case.carried(), routed(BOTH), "{when}");
        assert_eq!(
            case.down(),
            "set `a` (IPv4): no gateway has answered a probe since the agent started, so the probe is probably blocked or wrong (`healthCheck`), and its routes are held"
        );
        let case = case.health(&[(B, Is::Down)]);
        assert_ne!(
            (when, case.carried()),
            ("withdraw", routed(BOTH)),
            "one answered before"
        );
    }
}

#[test]
fn when_all_gateways_are_off_link_there_is_nothing_to_hold_on_to_but_what_the_kernel_has() {
    let off_link = |when: &str| {
        let mut case = Case::new(set(BOTH, &format!("whenDown: {when}")));
        case.kernel.foreign.retain(|r| r.protocol != 2);
        case
    };
    let mut held = off_link("hold");
    assert_eq!(held.carried().1, 0, "nothing was there");
    held.kernel = Case::new(held.config.clone()).apply().kernel;
    held.kernel.foreign.retain(|r| r.protocol != 2);
    assert_eq!(held.carried(), routed(BOTH));
    let wanted = held.resolve().wanted;
    assert!(
        diff(&wanted, &held.kernel, &OURS, true).is_empty(),
        "and it is left as it is"
    );
    assert_eq!(off_link("withdraw").carried().1, 0);
    assert_eq!(off_link("blackhole").carried(), ("blackhole".to_owned(), 1));
    assert_eq!(
        [
            held,
            off_link("hold"),
            off_link("withdraw"),
            off_link("blackhole")
        ]
        .map(|case| case.down()),
        [
            "set `a` (IPv4): none of its gateways is on-link here; the routes that are there are held",
            "set `a` (IPv4): none of its gateways is on-link here; no route can be installed",
            "set `a` (IPv4): none of its gateways is on-link here; its routes are withdrawn",
            "set `a` (IPv4): none of its gateways is on-link here; its destinations are blackholed",
        ]
    );
}

#[test]
fn one_gateway_that_cannot_be_used_never_costs_the_others() {
    let case = Case::new(set("10.117.0.9, 10.116.0.2, 10.116.0.255, 10.116.0.5", ""));
    assert_eq!(case.carried(), routed(A));
    let resolution = case.resolve();
    let texts: Vec<&str> = resolution.sets[0]
        .problems
        .iter()
        .map(|problem| problem.text.as_str())
        .collect();
    insta::assert_snapshot!(texts.join("\n"), @r"
    gateway 10.116.0.2 of set `a` is left out: it is one of the node's own addresses (eth1)
    gateway 10.116.0.255 of set `a` is left out: it is the broadcast address of 10.116.0.0/24 (eth1)
    gateway 10.117.0.9 of set `a` is left out: it is not on-link: only the node's default route leads to it
    ");
    assert_eq!(
        resolution.sets[0]
            .gateways
            .iter()
            .filter(|g| g.state == GatewayState::Unusable)
            .count(),
        3
    );
}

#[test]
fn each_family_has_its_own_gateways_and_its_own_fate() {
    let yaml = "routes:\n- {name: a, gateways: [10.116.0.5, 'fd00:116::5'], destinations: [203.0.113.0/24, '2001:db8:1::/48'], whenDown: blackhole}\n";
    let case = Case::new(config(yaml)).health(&[("fd00:116::5", Is::Down)]);
    let resolution = case.resolve();
    let words = |family| {
        resolution
            .wanted
            .in_words(&Target::Nexthop(nexthop_id::group("a", family)))
    };
    assert_eq!(
        (words(Family::V4), words(Family::V6)),
        ("via 10.116.0.5".to_owned(), "blackhole".to_owned())
    );
    assert_eq!(
        resolution.wanted.nexthops[&nexthop_id::blackhole(Family::V6)],
        WantedNexthop::Blackhole(Family::V6)
    );
    assert_eq!(
        case.down(),
        "set `a` (IPv6): no gateway is healthy: fd00:116::5 no answer; its destinations are blackholed"
    );
}

// --- leak guard --------------------------------------------------------------------------------

#[test]
fn a_leak_guard_is_a_blackhole_twin_of_every_route_and_stays_when_the_routes_are_withdrawn() {
    let twin = OwnRoute {
        key: OURS.leak_guard_key("203.0.113.0/24".parse().unwrap()),
        target: Target::Blackhole,
    };
    for (health, routes) in [(vec![], 2), (vec![(A, Is::Down)], 1)] {
        let case = Case::new(set(A, "leakGuard: true, whenDown: withdraw")).health(&health);
        let wanted = case.resolve().wanted;
        assert_eq!(wanted.routes.len(), routes);
        assert_eq!(wanted.routes.last(), Some(&twin));
    }
    let mut off_link = Case::new(set(A, "leakGuard: true"));
    off_link.kernel.foreign.clear();
    assert_eq!(off_link.resolve().wanted.routes, [twin]);
}

// --- selectors ---------------------------------------------------------------------------------

const SELECTED: &str = "nodeSelector: {matchLabels: {pool: web}}";

fn known(label: Option<(&str, &str)>) -> Facts {
    let labels = label
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    Facts::Known(NodeFacts {
        labels,
        ..NodeFacts::default()
    })
}

#[test]
fn a_set_with_a_selector_applies_to_nodes_with_its_labels_and_nowhere_without_a_cluster() {
    let case = |facts| Case::new(set(A, SELECTED)).facts(facts).resolve();
    assert_eq!(case(known(Some(("pool", "web")))).wanted.routes.len(), 1);
    assert_eq!(case(known(Some(("pool", "db")))).wanted, Wanted::default());
    assert_eq!(case(known(None)).sets.len(), 0);
    let alone = case(Facts::NoCluster);
    assert_eq!(alone.wanted, Wanted::default());
    assert_eq!(
        alone.notes,
        [
            "set `a` is skipped: without a cluster there are no labels to compare with its nodeSelector"
        ]
    );
}

#[test]
fn until_the_api_answers_a_set_with_a_selector_stays_as_an_earlier_agent_left_it() {
    let not_yet = || Facts::NotYet {
        api_servers: Vec::new(),
    };
    let fresh = Case::new(set(A, SELECTED)).facts(not_yet());
    assert_eq!(
        fresh.resolve().wanted,
        Wanted::default(),
        "an unknown node gets nothing"
    );
    let applied = Case::new(set(A, SELECTED))
        .facts(known(Some(("pool", "web"))))
        .apply()
        .facts(not_yet());
    assert_eq!(
        applied.resolve().wanted.routes.len(),
        1,
        "one that had it keeps it"
    );
    let plan = diff(&applied.resolve().wanted, &applied.kernel, &OURS, true);
    assert!(
        plan.is_empty() && plan.unused == nexthop_id::applied(REVISION),
        "{plan:?}"
    );
}

#[test]
fn a_prefix_of_two_sets_is_refused_only_where_both_apply() {
    let two = |selector: &str| {
        let set = |name: &str, value: &str| {
            format!(
                "- {{name: {name}, gateways: [{A}], destinations: [203.0.113.0/24], nodeSelector: {{{selector}: {value}}}}}\n"
            )
        };
        config(&format!(
            "routes:\n{}{}",
            set("a", "{x: '1'}"),
            set("b", "{y: '1'}")
        ))
    };
    let case = Case::new(two("matchLabels")).facts(known(Some(("x", "1"))));
    assert_eq!(case.resolve().sets.len(), 1);
    let both = Facts::Known(NodeFacts {
        labels: [("x", "1"), ("y", "1")]
            .map(|(k, v)| (k.into(), v.into()))
            .into(),
        ..NodeFacts::default()
    });
    let case = Case::new(two("matchLabels")).facts(both);
    let clashes = resolve(&case.inputs()).unwrap_err();
    assert_eq!(
        clashes[0].to_string(),
        "203.0.113.0/24 is a destination of both `a` and `b`, which both apply to this node; keep it in one"
    );
}

// --- a change of health, and a restart ---------------------------------------------------------

#[test]
fn regrouping_wants_the_same_groups_as_a_whole_resolution() {
    for strategy in ["balance", "failover"] {
        for when in ["hold", "blackhole"] {
            let case = Case::new(set(ALL, &format!("strategy: {strategy}, whenDown: {when}")))
                .health(&[(A, Is::Up)])
                .apply();
            for health in [
                vec![(A, Is::Down)],
                vec![(A, Is::Down), (B, Is::Down), (C, Is::Down)],
                vec![],
            ] {
                let case = Case {
                    config: case.config.clone(),
                    kernel: case.kernel.clone(),
                    ..Case::new(case.config.clone())
                }
                .health(&health);
                let (whole, groups) = (case.resolve().wanted, regroup(&case.inputs()));
                assert_eq!(
                    (&groups.groups, &groups.nexthops),
                    (&whole.groups, &whole.nexthops),
                    "{strategy} {when} {health:?}"
                );
                assert!(groups.routes.is_empty());
            }
        }
    }
}

#[test]
fn what_an_earlier_agent_had_taken_out_is_seen_in_the_kernel_and_nothing_else_is() {
    #[allow(clippy::type_complexity)] // a table
    let cases: [(&str, &[(&str, Is)], &[&str]); 8] = [
        ("strategy: balance", &[], &[]),
        ("strategy: balance", &[(B, Is::Down)], &[B]),
        (
            "strategy: balance, whenDown: blackhole",
            &[(A, Is::Down), (B, Is::Down)],
            &[A, B],
        ),
        (
            "strategy: balance, whenDown: withdraw",
            &[(A, Is::Down), (B, Is::Down)],
            &[A, B],
        ),
        ("strategy: failover", &[], &[]),
        ("strategy: failover", &[(A, Is::Down)], &[A]),
        // It may have stayed with the second because it must, or because it may.
        ("strategy: failover, failback: false", &[(A, Is::Down)], &[]),
        (
            "strategy: balance, whenDown: hold",
            &[(A, Is::Down), (B, Is::Down)],
            &[],
        ),
    ];
    for (keys, health, out) in cases {
        let before = Case::new(set(BOTH, keys)).health(health).apply();
        let restarted = Case {
            health: HealthView::new(),
            ..before
        };
        let found: Vec<String> = taken_out_before(&restarted.inputs(), REVISION)
            .into_iter()
            .map(|key| key.gateway.to_string())
            .collect();
        assert_eq!(found, out, "{keys} {health:?}");
        assert!(
            taken_out_before(&restarted.inputs(), "ba9876543210").is_empty(),
            "another revision may have another reason"
        );
    }
    let fresh = Case::new(set(BOTH, "whenDown: withdraw"));
    assert!(
        taken_out_before(&fresh.inputs(), REVISION).is_empty(),
        "a first start finds nothing"
    );
}

#[test]
fn a_gateway_that_one_set_uses_was_not_taken_out_of_another_that_has_no_route() {
    // All that `b` wants is on-link, and it has IPv6 gateways without IPv6 destinations: no group, although nothing is down.
    let yaml = "routes:\n\
                - {name: a, gateways: [10.116.0.5], destinations: [203.0.113.0/24]}\n\
                - {name: b, gateways: [10.116.0.5, 'fd00:116::5'], destinations: [10.116.0.9], whenDown: withdraw}\n";
    let restarted = Case {
        health: HealthView::new(),
        ..Case::new(config(yaml)).apply()
    };
    assert_eq!(
        taken_out_before(&restarted.inputs(), REVISION),
        BTreeSet::new()
    );
}

#[test]
fn a_restart_wants_nothing_else_than_what_is_there() {
    for keys in [
        "strategy: balance",
        "strategy: failover",
        "whenDown: withdraw",
        "whenDown: blackhole, leakGuard: true",
    ] {
        for health in [
            vec![],
            vec![(A, Is::Down)],
            vec![(A, Is::Down), (B, Is::Down)],
        ] {
            let before = Case::new(set(BOTH, keys)).health(&health).apply();
            let mut restarted = Case {
                health: HealthView::new(),
                ..before
            };
            for key in taken_out_before(&restarted.inputs(), REVISION) {
                restarted.health.insert(
                    key,
                    Health {
                        state: State::Down,
                        ever_up: true,
                        rtt: None,
                        reason: None,
                    },
                );
            }
            let plan = diff(&restarted.resolve().wanted, &restarted.kernel, &OURS, true);
            assert!(plan.is_empty(), "{keys} {health:?}: {plan:?}");
        }
    }
}

// --- order -------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_sets_gateways_destinations_and_foreign_routes_does_not_matter(
        order in Just((0..24).collect::<Vec<u32>>()).prop_shuffle(),
        gateways in Just(vec![A, B, C]).prop_shuffle(),
        sets in Just(vec![0_u32, 1, 2]).prop_shuffle(),
        turn in any::<bool>(),
    ) {
        let yaml = |order: &[u32], gateways: &[&str], sets: &[u32]| {
            let set = |n: &u32| {
                let destinations: Vec<String> = order.iter().filter(|i| *i % 3 == *n).map(|i| format!("198.18.{i}.0/24")).collect();
                format!("- {{name: s{n}, gateways: [{}], destinations: [{}]}}\n", gateways.join(", "), destinations.join(", "))
            };
            format!("routes:\n{}", sets.iter().map(set).collect::<String>())
        };
        let sorted = Case::new(config(&yaml(&(0..24).collect::<Vec<_>>(), &[A, B, C], &[0, 1, 2])));
        let mut shuffled = Case::new(config(&yaml(&order, &gateways, &sets)));
        if turn {
            shuffled.kernel.foreign.reverse();
        }
        prop_assert_eq!(shuffled.resolve().wanted, sorted.resolve().wanted);
    }
}
