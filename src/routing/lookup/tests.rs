use std::collections::BTreeSet;

use super::*;
use crate::config::{Strategy, WhenDown};
use crate::routing::diff::WantedGroup;
use crate::routing::overridden::Overridden;
use crate::routing::rule::Selector;
use crate::routing::state::{Elsewhere, Link, OwnRoute, Target};

const OURS: Ownership = Ownership::DEFAULT;

/// A link without a name.
fn view(name: &str, group: u32) -> SetView {
    SetView {
        name: name.into(),
        strategy: Strategy::Balance,
        when_down: WhenDown::Hold,
        gateways: Vec::new(),
        groups: BTreeMap::from([(Family::V4, group)]),
        wanted: 0,
        skipped: Vec::new(),
        skipped_total: 0,
        overridden: Overridden::default(),
        leak_guard: false,
        bypassed: Vec::new(),
        down: BTreeMap::new(),
        problems: Vec::new(),
        undecided: false,
    }
}

struct Scene {
    wanted: Wanted,
    sets: Vec<SetView>,
    kernel: Kernel,
    rules: RulesOfBoth,
    expected: Vec<u32>,
    ownership: Ownership,
    now: Duration,
}

impl Scene {
    /// One set of so many /24 from 20.0.0.0, and one of a single address.
    fn new(count: u32) -> Self {
        let route = |prefix: Prefix, group| OwnRoute {
            key: OURS.key(prefix),
            target: Target::Nexthop(group),
        };
        let mut wanted = Wanted::default();
        wanted.groups.insert(1, WantedGroup::equal(vec![10]));
        wanted.groups.insert(2, WantedGroup::equal(vec![10]));
        wanted.nexthops.insert(
            10,
            WantedNexthop::Via("10.116.0.5".parse().unwrap(), "eth1".into()),
        );
        wanted.routes = (0..count)
            .map(|n| {
                route(
                    Prefix::masked(Family::V4.address(u128::from((20 << 24) + (n << 8))), 24),
                    1,
                )
            })
            .chain([route("198.51.100.7/32".parse().unwrap(), 2)])
            .collect();
        let main = Rule {
            priority: 32766,
            action: Action::Table(254),
            ..Rule::default()
        };
        Self {
            wanted,
            sets: vec![view("a", 1), view("b", 2)],
            kernel: Kernel {
                links: vec![Link::with("x", &[])],
                ..Kernel::default()
            },
            rules: RulesOfBoth {
                v4: Rules(vec![main]),
                v6: Rules::default(),
            },
            expected: Vec::new(),
            ownership: OURS,
            now: Duration::ZERO,
        }
    }

    fn rule(&mut self, rule: Rule) -> &mut Self {
        self.rules.v4.0.insert(0, rule);
        self
    }

    /// One round, answered by `answer`.
    fn round(
        &self,
        rotation: &mut Rotation,
        answer: impl Fn(&Question) -> Answer,
    ) -> (Vec<Question>, Findings) {
        let view = View {
            wanted: &self.wanted,
            sets: &self.sets,
            kernel: &self.kernel,
            pod_cidrs: &[],
            expected: &self.expected,
            ownership: &self.ownership,
            now: self.now,
        };
        let mut check = Check::new(view, &self.rules);
        let questions = check.questions(rotation);
        let answers: Vec<Answer> = questions.iter().map(answer).collect();
        let findings = check.judge(&questions, &answers, rotation);
        (questions, findings)
    }
}

fn by_gateway(_: &Question) -> Answer {
    Answer::Route(Match {
        table: Some(254),
        nhid: Some(1),
        ..Match::default()
    })
}

fn by_table(table: u32) -> Answer {
    Answer::Route(Match {
        table: Some(table),
        gateway: Some("192.0.2.1".parse().unwrap()),
        ..Match::default()
    })
}

fn by_mark(n: u32) -> Rule {
    Rule {
        priority: 100,
        selector: Selector {
            mark: Some((n, u32::MAX)),
            ..Selector::default()
        },
        action: Action::Table(1000 + n),
        ..Rule::default()
    }
}

#[test]
fn a_set_that_a_gateway_has_joined_is_hardly_looked_up_until_idle_buckets_have_moved() {
    let mut scene = Scene::new(100);
    let mut rotation = Rotation::default();
    let ask = |scene: &Scene, rotation: &mut Rotation| {
        let (questions, _) = scene.round(rotation, by_gateway);
        questions.iter().filter(|q| q.set == Some(0)).count()
    };
    let all = ask(&scene, &mut rotation);
    assert!(all >= 100, "{all}");
    let second = WantedNexthop::Via("10.116.0.6".parse().unwrap(), "eth1".into());
    scene.wanted.nexthops.insert(11, second);
    scene
        .wanted
        .groups
        .insert(1, WantedGroup::equal(vec![10, 11]));
    let few = ask(&scene, &mut rotation);
    assert!((1..=SAMPLE_WHILE_JOINED).contains(&few), "{few}");
    scene.now = JOINED * 9 / 10;
    assert_eq!(ask(&scene, &mut rotation), few);
    scene.now = JOINED;
    assert_eq!(ask(&scene, &mut rotation), all);
    // A gateway that leaves takes nothing.
    scene.wanted.groups.insert(1, WantedGroup::equal(vec![11]));
    assert_eq!(ask(&scene, &mut rotation), all);
}

#[test]
fn every_destination_has_its_turn_and_small_sets_have_it_each_time() {
    let scene = Scene::new(50_000);
    let mut rotation = Rotation::default();
    let mut seen = BTreeSet::new();
    for round in 0..50_000_usize.div_ceil(SAMPLE / 2) {
        let (questions, findings) = scene.round(&mut rotation, by_gateway);
        assert!(
            questions.len() <= SAMPLE,
            "{} in round {round}",
            questions.len()
        );
        assert!(
            questions.iter().any(|q| q.set == Some(1)),
            "the small set in round {round}"
        );
        assert_eq!(findings.bypassed, BTreeMap::new());
        seen.extend(questions.into_iter().map(|q| q.prefix));
    }
    assert_eq!(seen.len(), 50_001);
}

#[test]
fn more_sets_than_lookups_take_turns() {
    let mut scene = Scene::new(0);
    scene.wanted.routes.clear();
    for n in 0..1000 {
        scene
            .wanted
            .groups
            .insert(100 + n, WantedGroup::equal(vec![10]));
        scene.sets.push(view(&format!("s{n}"), 100 + n));
        let prefix = Prefix::masked(Family::V4.address(u128::from((30 << 24) + (n << 8))), 24);
        scene.wanted.routes.push(OwnRoute {
            key: OURS.key(prefix),
            target: Target::Nexthop(100 + n),
        });
    }
    let mut rotation = Rotation::default();
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let (questions, _) = scene.round(&mut rotation, by_gateway);
        assert!(questions.len() <= SAMPLE, "{}", questions.len());
        seen.extend(questions.into_iter().map(|q| q.prefix));
    }
    assert_eq!(seen.len(), 1000);
}

#[test]
fn what_rules_cost_is_bounded_and_each_has_its_turn() {
    for rules in [200, 5_000] {
        let mut scene = Scene::new(50_000);
        for n in 0..rules {
            scene.rule(by_mark(n + 1));
        }
        let mut rotation = Rotation::default();
        let mut marks = BTreeSet::new();
        for _ in 0..5 {
            let (questions, _) = scene.round(&mut rotation, by_gateway);
            assert!(
                questions.len() <= SAMPLE + RULE_LOOKUPS,
                "{}",
                questions.len()
            );
            marks.extend(
                questions
                    .iter()
                    .map(|q| q.packet.mark)
                    .filter(|mark| *mark != 0),
            );
        }
        assert_eq!(marks.len(), rules as usize);
    }
}

#[test]
fn what_was_found_is_asked_again_until_it_is_gone() {
    let mut scene = Scene::new(50_000);
    scene.rule(Rule {
        priority: 52,
        action: Action::Table(52),
        ..Rule::default()
    });
    let mut rotation = Rotation::default();
    let (first, _) = scene.round(&mut rotation, by_gateway);
    let bad = first.last().unwrap().prefix;
    let taken = |q: &Question| {
        if q.prefix == bad {
            by_table(52)
        } else {
            by_gateway(q)
        }
    };
    rotation = Rotation::default();
    for round in 0..5 {
        let (_, findings) = scene.round(&mut rotation, taken);
        assert_eq!(
            findings.by,
            ["policy rule 52 (from all lookup 52): a route via 192.0.2.1"],
            "round {round}"
        );
    }
    let (_, findings) = scene.round(&mut rotation, by_gateway);
    assert!(findings.by.is_empty());
}

#[test]
fn an_expected_rule_is_no_finding_and_a_drop_where_nothing_else_is_wanted_is_none_either() {
    let mut scene = Scene::new(3);
    scene.rule(by_mark(7));
    let marked = |q: &Question| {
        if q.packet.mark == 7 {
            by_table(1007)
        } else {
            by_gateway(q)
        }
    };
    let (_, findings) = scene.round(&mut Rotation::default(), marked);
    assert_eq!(
        findings.bypassed["a"][0].by,
        "policy rule 100 (from all fwmark 0x7 lookup 1007): a route via 192.0.2.1"
    );
    scene.expected = vec![100];
    assert_eq!(
        scene.round(&mut Rotation::default(), marked).1.by,
        Vec::<String>::new()
    );
    scene
        .wanted
        .nexthops
        .insert(10, WantedNexthop::Blackhole(Family::V4));
    let refused = |_: &Question| Answer::Refused("Invalid argument".into());
    assert!(
        scene
            .round(&mut Rotation::default(), refused)
            .1
            .by
            .is_empty()
    );
}

#[test]
fn a_refusal_is_a_finding_where_a_rule_leads_to_a_route_of_another_table_that_drops() {
    let mut scene = Scene::new(3);
    scene.rule(Rule {
        priority: 900,
        action: Action::Table(100),
        ..Rule::default()
    });
    let refused = |_: &Question| Answer::Refused("Permission denied".into());
    let by = |scene: &Scene| scene.round(&mut Rotation::default(), refused).1.by;
    // By whom, nobody knows: a packet of a pod may be refused for its source.
    assert_eq!(by(&scene), Vec::<String>::new());
    let route = |prefix: &str, drops| Elsewhere {
        table: 100,
        prefix: prefix.parse().unwrap(),
        drops,
    };
    scene.kernel.elsewhere = vec![
        route("0.0.0.0/0", Some("blackhole")),
        route("20.0.0.0/16", Some("prohibit")),
        route("20.0.1.0/24", None),
    ];
    assert_eq!(
        by(&scene),
        [
            "policy rule 900 (from all lookup 100): prohibit 20.0.0.0/16",
            "policy rule 900 (from all lookup 100): blackhole 0.0.0.0/0",
        ],
        "20.0.1.0/24 is forwarded there"
    );
    // A rule before it that leads to our table settles it.
    scene.rule(Rule {
        priority: 800,
        action: Action::Table(254),
        ..Rule::default()
    });
    assert_eq!(by(&scene), Vec::<String>::new());
    scene.rules.v4.0.remove(0);
    scene.expected = vec![900];
    assert_eq!(by(&scene), Vec::<String>::new());
}

#[test]
fn routes_in_a_table_that_no_rule_leads_to_are_a_problem_of_the_node() {
    let mut scene = Scene::new(3);
    scene.ownership.table = 100;
    let (questions, findings) = scene.round(&mut Rotation::default(), by_gateway);
    assert!(questions.is_empty());
    assert_eq!(
        findings.by,
        ["no IPv4 policy rule leads to table 100, where the routes are"]
    );
    let mut sets = scene.sets.clone();
    assert_eq!(findings.report(&mut sets).len(), 1);
    // A rule that leads to it decides for whom the routes are.
    scene.rule(Rule {
        action: Action::Table(100),
        ..by_mark(9)
    });
    let (questions, findings) = scene.round(&mut Rotation::default(), |_| by_table(100));
    assert!(
        findings.by.is_empty()
            && questions.iter().all(|q| q.packet.mark == 9)
            && !questions.is_empty()
    );
}

#[test]
fn a_set_that_a_gateway_leaves_is_asked_only_for_what_was_found_before() {
    use crate::routing::state::Member;
    let mut scene = Scene::new(3);
    let other = WantedNexthop::Via("10.116.0.6".parse().unwrap(), "eth1".into());
    scene.wanted.nexthops.insert(11, other);
    let leaving = vec![
        Member::equal(10),
        Member {
            weight: 256,
            id: 11,
        },
    ];
    let mut drain = scene.wanted.groups[&2].clone();
    drain.members = leaving;
    let single: Prefix = "198.51.100.7/32".parse().unwrap();
    let asks = |questions: &[Question]| questions.iter().filter(|q| q.prefix == single).count();

    let mut rotation = Rotation::default();
    let (before, findings) = scene.round(&mut rotation, |_| by_table(100));
    assert!(asks(&before) > 0 && !findings.by.is_empty());
    scene.wanted.groups.insert(2, drain);
    let (found, _) = scene.round(&mut rotation, by_gateway);
    assert_eq!(asks(&found), asks(&before));
    let (after, _) = scene.round(&mut rotation, by_gateway);
    assert_eq!(asks(&after), 0);
    assert!(!after.is_empty(), "the other set goes on");
}
