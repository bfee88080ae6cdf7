//! Which gateways carry which routes: strategies, `whenDown`, leak guards, selectors, and what a restarted agent takes over.

mod restart;
mod selected;
mod when_down;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, any, prop_assert_eq, proptest};
use proptest::strategy::Strategy as _;

use super::*;
use crate::config::{self, Files};
use crate::health::{Health, ProbeKey, State};
use crate::kernel::model::Model;
use crate::report::status::GatewayState;
use crate::routing::batch::Line;
use crate::routing::diff::diff;
use crate::routing::node_facts::NodeFacts;
use crate::routing::state::{ForeignRoute, Link};

const OURS: Ownership = Ownership::DEFAULT;

/// What [`Case::apply`] writes is of this one.
const REVISION: &str = "0123456789ab";

/// A node whose `eth1` is `10.116.0.2/24` and `fd00:116::2/64`; a gateway of 10.117.0.0/24 is off-link.
fn node() -> Kernel {
    let default = ForeignRoute::via("0.0.0.0/0".parse().unwrap(), 0, "192.0.2.1", "eth0");
    let subnet = |prefix: &str| ForeignRoute::to_link(prefix.parse().unwrap(), "eth1");
    Kernel {
        links: vec![Link::with(
            "eth1",
            &[("10.116.0.2", 24), ("fd00:116::2", 64)],
        )],
        foreign: vec![default, subnet("10.116.0.0/24"), subnet("fd00:116::/64")],
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
        let mut model = Model::node();
        let wanted = self.resolve().wanted;
        let mut lines = String::new();
        diff(&wanted, &Kernel::default(), &OURS, true)
            .writes()
            .for_each(|line| line.render(&OURS, &mut lines));
        for id in nexthop_id::applied(REVISION) {
            Line::BlackholeNexthop { id }.render(&OURS, &mut lines);
        }
        model.prepare(&lines);
        let kernel = model.dump(&OURS);
        (self.kernel.own, self.kernel.nexthops) = (kernel.own, kernel.nexthops);
        self
    }

    /// The gateways in the IPv4 group of set `a`, in words; and whether there are routes.
    fn carried(&self) -> (String, usize) {
        let wanted = self.resolve().wanted;
        let metric = |r: &&OwnRoute| r.key.metric == OURS.metric;
        (
            wanted.describe(&Target::Nexthop(nexthop_id::group("a", Family::V4))),
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
