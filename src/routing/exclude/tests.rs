use std::net::IpAddr;

use super::*;
use crate::routing::protected::{Protection, Why};

mod limits;
mod properties;
mod world;

use limits::scattered;
use world::METRIC;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ps(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|t| p(t)).collect()
}

fn protected(prefixes: impl IntoIterator<Item = Prefix>) -> Protected {
    Protected::of(
        prefixes
            .into_iter()
            .map(|prefix| Protection {
                prefix,
                why: Why::Configured,
            })
            .collect(),
    )
}

fn foreign(prefix: Prefix, metric: u32) -> ForeignRoute {
    ForeignRoute::via(prefix, metric, "192.0.2.1", "eth0")
}

/// A node with `protected` and `foreign`, ready to select sets.
#[derive(Default)]
struct Node {
    protected: Protected,
    foreign: Vec<ForeignRoute>,
}

impl Node {
    fn new(protect: &[&str], routes: &[(&str, u32)]) -> Self {
        Self {
            protected: protected(ps(protect)),
            foreign: routes
                .iter()
                .map(|(prefix, metric)| foreign(p(prefix), *metric))
                .collect(),
        }
    }

    fn constraints(&self) -> Constraints<'_> {
        Constraints {
            protected: &self.protected,
            foreign: &self.foreign,
            table: 254,
            metric: METRIC,
            most: MOST_PREFIXES,
        }
    }

    fn select(&self, sets: &[SetDestinations<'_>]) -> Vec<Selected> {
        select(sets, &self.constraints()).unwrap()
    }

    fn one(&self, destinations: &[&str], except: &[&str]) -> Selected {
        self.select(&[of_set("one", &ps(destinations), &ps(except))])
            .remove(0)
    }
}

fn of_set<'a>(
    set: &'a str,
    destinations: &'a [Prefix],
    except: &'a [Prefix],
) -> SetDestinations<'a> {
    SetDestinations {
        set,
        destinations,
        except,
        in_force: true,
        installed: None,
    }
}

fn texts(prefixes: &[Prefix]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

fn notes(notes: &Notes) -> Vec<String> {
    notes
        .shown
        .iter()
        .map(|n| format!("{}: {}", n.destination, n.reason))
        .collect()
}

#[test]
fn destinations_that_nothing_is_taken_out_of_are_installed_as_they_are_even_inside_each_other() {
    let written = [
        "10.0.0.0/8",
        "10.0.0.0/9",
        "10.1.0.0/16",
        "10.128.0.0/9",
        "2001:db8::/32",
    ];
    let selected = Node::new(&["127.0.0.0/8"], &[("10.1.2.0/24", 0), ("0.0.0.0/0", 0)])
        .one(&written, &["192.0.2.0/24"]);
    assert_eq!(texts(&selected.install), written);
    assert_eq!((selected.skipped.total, selected.shadowed.total), (0, 0));
}

#[test]
fn a_destination_that_covers_a_protected_range_is_installed_without_it() {
    let selected =
        Node::new(&["203.0.113.5/32"], &[]).one(&["203.0.113.0/29", "198.51.100.0/24"], &[]);
    assert_eq!(
        texts(&selected.install),
        [
            "198.51.100.0/24",
            "203.0.113.0/30",
            "203.0.113.4/32",
            "203.0.113.6/31"
        ]
    );
}

#[test]
fn what_is_equal_to_or_inside_a_protected_range_or_taken_out_is_skipped_with_the_reason() {
    let node = Node::new(&["10.0.0.0/24", "10.0.2.0/24"], &[]);
    let selected = node.one(
        &[
            "10.0.0.0/24",
            "10.0.0.7",
            "10.0.2.0/23",
            "10.0.5.0/24",
            "10.0.6.0/24",
        ],
        &["10.0.3.0/24", "10.0.4.0/23"],
    );
    assert_eq!(texts(&selected.install), ["10.0.6.0/24"]);
    assert_eq!(
        notes(&selected.skipped),
        [
            "10.0.0.0/24: is the `protected` entry 10.0.0.0/24",
            "10.0.0.7/32: inside the `protected` entry 10.0.0.0/24",
            "10.0.5.0/24: taken out by the set's `except`",
            "10.0.2.0/23: nothing is left of it without `except` and what is protected",
        ]
    );
}

#[test]
fn what_a_sets_own_except_takes_out_is_another_sets_to_have() {
    let node = Node::new(&[], &[]);
    let (shared, except) = ([p("52.94.0.0/22")], [p("52.94.0.0/22")]);
    let selected = select(
        &[
            of_set("clouds", &shared, &except),
            of_set("partner", &shared, &[]),
        ],
        &node.constraints(),
    )
    .unwrap();
    assert_eq!(
        notes(&selected[0].skipped),
        ["52.94.0.0/22: taken out by the set's `except`"]
    );
    assert_eq!(
        (selected[0].install.len(), texts(&selected[1].install)),
        (0, vec!["52.94.0.0/22".to_owned()])
    );

    // What comes after the pair, and has to be split, is as if there were no pair.
    let node = Node::new(&["60.1.0.0/16"], &[]);
    let [clouds, everything] = [ps(&["52.94.0.0/22", "60.0.0.0/8"]), ps(&["::/0"])];
    let sets = [
        of_set("clouds", &clouds, &except),
        of_set("partner", &shared, &[]),
        of_set("everything", &everything, &[]),
    ];
    let selected = select(&sets, &node.constraints()).unwrap();
    assert_eq!(selected[0].install, node.one(&["60.0.0.0/8"], &[]).install);
    assert_eq!(texts(&selected[2].install), ["::/1", "8000::/1"]);
    // Three that take it out, and nobody has it.
    let selected = select(
        &["a", "b", "c"].map(|set| of_set(set, &shared, &except)),
        &node.constraints(),
    )
    .unwrap();
    assert_eq!(
        selected
            .iter()
            .map(|selected| selected.skipped.total)
            .collect::<Vec<_>>(),
        [1, 1, 1]
    );
    assert!(
        select(
            &[
                of_set("clouds", &shared, &[]),
                of_set("partner", &shared, &[])
            ],
            &node.constraints()
        )
        .is_err()
    );
}

#[test]
fn everything_is_never_installed_as_itself_and_wins_against_the_nodes_default() {
    assert_eq!(
        texts(
            &Node::new(&[], &[("0.0.0.0/0", 0), ("::/0", 1024)])
                .one(&["0.0.0.0/0", "::/0"], &[])
                .install
        ),
        ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]
    );
    // Even a default with our own metric: the pieces have other keys.
    let selected = Node::new(&["224.0.0.0/3"], &[("0.0.0.0/0", METRIC)]).one(&["0.0.0.0/0"], &[]);
    assert_eq!(
        texts(&selected.install),
        ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"]
    );
    assert_eq!(selected.shadowed.total, 0);
}

#[test]
fn no_piece_lies_inside_a_more_specific_route_of_the_node_and_one_around_it_stays() {
    let node = Node::new(
        &["10.0.0.5/32"],
        &[
            ("10.0.0.0/30", 0),
            ("10.0.0.4/30", 9999),
            ("10.0.0.10/32", 0),
        ],
    );
    let selected = node.one(&["10.0.0.0/28"], &[]);
    // 10.0.0.0/30 and the rest of 10.0.0.4/30 are the node's; 10.0.0.10 wins inside 10.0.0.8/29 by being longer.
    assert_eq!(texts(&selected.install), ["10.0.0.8/29"]);
}

#[test]
fn a_split_destination_that_a_route_of_the_node_wins_against_is_not_installed_at_all() {
    let selected = Node::new(&["10.0.0.5/32"], &[("10.0.0.0/24", 100)]).one(&["10.0.0.0/24"], &[]);
    assert_eq!(selected.install, []);
    assert_eq!(
        notes(&selected.shadowed),
        [
            "10.0.0.0/24: shadowed by the route 10.0.0.0/24 via 192.0.2.1 dev eth0 proto static metric 100, whose metric is not higher"
        ]
    );
    let selected = Node::new(&["10.0.0.5/32"], &[("10.0.0.0/24", 5000)]).one(&["10.0.0.0/24"], &[]);
    assert_eq!((selected.install.len(), selected.shadowed.total), (8, 0));
    let selected = Node::new(
        &["10.0.0.5/32"],
        &[("10.0.0.0/25", 0), ("10.0.0.128/25", 0)],
    )
    .one(&["10.0.0.0/24"], &[]);
    assert_eq!(
        notes(&selected.shadowed),
        ["10.0.0.0/24: shadowed by more specific routes of the node in all that is left of it"]
    );
}

#[test]
fn a_whole_destination_is_installed_beside_a_route_with_a_lower_metric_and_reported() {
    let selected =
        Node::new(&[], &[("10.0.0.0/24", 5000), ("10.0.0.0/24", 100)]).one(&["10.0.0.0/24"], &[]);
    assert_eq!(texts(&selected.install), ["10.0.0.0/24"]);
    assert_eq!(
        notes(&selected.shadowed),
        [
            "10.0.0.0/24: shadowed by the route 10.0.0.0/24 via 192.0.2.1 dev eth0 proto static metric 100, whose metric is lower"
        ]
    );
}

#[test]
fn a_route_of_the_node_with_our_key_is_never_replaced() {
    let selected = Node::new(&[], &[("10.0.0.0/24", METRIC), ("10.0.0.0/24", 100)])
        .one(&["10.0.0.0/24", "10.0.1.0/24"], &[]);
    assert_eq!(texts(&selected.install), ["10.0.1.0/24"]);
    assert_eq!(
        notes(&selected.shadowed),
        [
            "10.0.0.0/24: the node has the route 10.0.0.0/24 via 192.0.2.1 dev eth0 proto static metric 4242 with the agent's metric, which is left as it is"
        ]
    );
}

#[test]
fn routes_in_other_tables_or_for_a_type_of_service_are_not_looked_at() {
    let mut node = Node::new(&["10.0.0.5/32"], &[("10.0.0.0/24", 0), ("10.0.0.0/24", 1)]);
    node.foreign[0].key.table = 100;
    node.foreign[1].key.tos = 16;
    assert_eq!(node.one(&["10.0.0.0/24"], &[]).install.len(), 8);
}

#[test]
fn an_inner_destination_of_another_set_keeps_its_region_and_the_outer_one_gets_the_exception() {
    let (outer, inner, except) = (
        ps(&["10.0.0.0/24"]),
        ps(&["10.0.0.0/25"]),
        ps(&["10.0.0.64/26"]),
    );
    let node = Node::new(&["10.0.0.1/32"], &[]);
    let selected = node.select(&[
        of_set("outer", &outer, &[]),
        of_set("inner", &inner, &except),
    ]);
    // The outer one has the other half, and the inner one's exception.
    assert_eq!(
        texts(&selected[0].install),
        ["10.0.0.64/26", "10.0.0.128/25"]
    );
    assert_eq!(
        selected[1].install,
        crate::net::prefix_set::subtract(p("10.0.0.0/26"), &Ranges::of(ps(&["10.0.0.1/32"])))
    );
    // Without the inner one in force, the outer one has all.
    let selected = node.select(&[
        of_set("outer", &outer, &[]),
        SetDestinations {
            in_force: false,
            ..of_set("inner", &inner, &except)
        },
    ]);
    assert_eq!(
        selected[0].install,
        crate::net::prefix_set::subtract(p("10.0.0.0/24"), &Ranges::of(ps(&["10.0.0.1/32"])))
    );
}

#[test]
fn a_pods_route_that_comes_or_goes_does_not_change_the_prefixes_of_everything() {
    let none = Node {
        protected: crate::routing::protected::everywhere(),
        foreign: vec![],
    };
    let pods = scattered(500, 32, 5).into_iter();
    let many = Node {
        protected: crate::routing::protected::everywhere(),
        foreign: pods.map(|pod| foreign(pod, 0)).collect(),
    };
    let everything = ["0.0.0.0/0", "::/0"];
    assert_eq!(none.one(&everything, &[]), many.one(&everything, &[]));
    // Cheap enough for every node: most of it is around ::ffff:0:0/96 and ::1.
    assert_eq!(none.one(&everything, &[]).install.len(), 175);
}

#[test]
fn the_same_prefix_in_two_sets_is_a_clash_that_names_both() {
    let (a, b) = (
        ps(&["10.0.0.0/24", "10.0.1.0/24"]),
        ps(&["10.0.1.0/24", "10.0.2.0/24"]),
    );
    let node = Node::default();
    let clashes = select(
        &[of_set("a", &a, &[]), of_set("b", &b, &[])],
        &node.constraints(),
    )
    .unwrap_err();
    assert_eq!(clashes.len(), 1);
    assert_eq!(
        clashes[0].to_string(),
        "10.0.1.0/24 is a destination of both `a` and `b`, which both apply to this node; keep it in one"
    );
}

#[test]
fn until_the_api_answers_a_split_destination_keeps_the_pieces_that_the_kernel_has() {
    // The hole at .5 is an API server that nothing knows of after a restart; .9 is known.
    let destination = ps(&["203.0.113.0/28", "203.0.113.64/28", "198.51.100.0/24"]);
    let stands = ps(&[
        "203.0.113.0/30",
        "203.0.113.4/32",
        "203.0.113.6/31",
        "203.0.113.8/29",
        "198.51.100.0/24",
        "192.0.2.0/24",
    ]);
    let node = Node::new(&["203.0.113.9/32"], &[]);
    let selected = node.select(&[SetDestinations {
        installed: Some(&stands),
        ..of_set("one", &destination, &[])
    }]);
    assert_eq!(
        texts(&selected[0].install),
        [
            "198.51.100.0/24",
            "203.0.113.0/30",
            "203.0.113.4/32",
            "203.0.113.6/31",
            "203.0.113.8/32",
            "203.0.113.10/31",
            "203.0.113.12/30",
            "203.0.113.64/28"
        ]
    );
    // Once it answers, its facts decide.
    let selected = node.select(&[of_set("one", &destination, &[])]);
    assert!(
        selected[0]
            .install
            .iter()
            .any(|piece| piece.contains("203.0.113.5".parse().unwrap()))
    );
}

#[test]
fn a_destination_that_is_installed_whole_is_not_limited_to_what_is_inside_it() {
    let (destinations, stands) = (
        ps(&["10.0.0.0/24", "10.1.0.0/16", "10.1.2.0/24"]),
        ps(&["10.0.0.0/24", "10.0.0.0/25", "10.1.2.0/24"]),
    );
    let selected = Node::default().select(&[SetDestinations {
        installed: Some(&stands),
        ..of_set("one", &destinations, &[])
    }]);
    // An inner destination that is installed is itself, not a piece of the outer one.
    assert_eq!(texts(&selected[0].install), texts(&destinations));
}

#[test]
fn addresses_of_the_node_are_skipped_as_destinations_and_make_no_hole_in_wider_ones() {
    let own = |n: u32| Protection {
        prefix: Prefix::host(std::net::Ipv4Addr::from_bits(0x0a60_0000 + n * 7).into()),
        why: Why::OwnAddress("kube-ipvs0".into()),
    };
    let selected = |services: u32| {
        let node = Node {
            protected: Protected::of((0..services).map(own).collect()),
            foreign: Vec::new(),
        };
        node.one(&["0.0.0.0/0", "10.96.0.7/32"], &[])
    };
    let three_thousand = selected(3000);
    assert_eq!(three_thousand.install.len(), 2, "the two halves");
    assert_eq!(
        notes(&three_thousand.skipped),
        ["10.96.0.7/32: is the node's own address 10.96.0.7 (kube-ipvs0)"]
    );
    assert_eq!(
        selected(3001),
        three_thousand,
        "another Service changes nothing"
    );
}
