use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::routing::protected::{Protection, Why};

mod world;
use world::{METRIC, Space, Way, World};

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
    ForeignRoute {
        key: RouteKey {
            prefix,
            metric,
            table: 254,
            tos: 0,
        },
        protocol: 4,
        dev: Some("eth0".into()),
        gatewayed: true,
        gateway: Some("192.0.2.1".parse().unwrap()),
        unicast: true,
    }
}

/// A node with `protected` and `foreign`, ready to carve claims.
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

    fn ground(&self) -> Constraints<'_> {
        Constraints {
            protected: &self.protected,
            foreign: &self.foreign,
            table: 254,
            metric: METRIC,
            most: MOST_PREFIXES,
        }
    }

    fn carve(&self, claims: &[Claim<'_>]) -> Vec<Carved> {
        carve(claims, &self.ground()).unwrap()
    }

    fn one(&self, destinations: &[&str], except: &[&str]) -> Carved {
        self.carve(&[claim("one", &ps(destinations), &ps(except))])
            .remove(0)
    }
}

fn claim<'a>(set: &'a str, destinations: &'a [Prefix], except: &'a [Prefix]) -> Claim<'a> {
    Claim {
        set,
        destinations,
        except,
        in_force: true,
        standing: None,
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
    let carved = Node::new(&["127.0.0.0/8"], &[("10.1.2.0/24", 0), ("0.0.0.0/0", 0)])
        .one(&written, &["192.0.2.0/24"]);
    assert_eq!(texts(&carved.install), written);
    assert_eq!((carved.skipped.total, carved.shadowed.total), (0, 0));
}

#[test]
fn a_destination_that_covers_a_protected_range_is_installed_without_it() {
    let carved =
        Node::new(&["203.0.113.5/32"], &[]).one(&["203.0.113.0/29", "198.51.100.0/24"], &[]);
    assert_eq!(
        texts(&carved.install),
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
    let carved = node.one(
        &[
            "10.0.0.0/24",
            "10.0.0.7",
            "10.0.2.0/23",
            "10.0.5.0/24",
            "10.0.6.0/24",
        ],
        &["10.0.3.0/24", "10.0.4.0/23"],
    );
    assert_eq!(texts(&carved.install), ["10.0.6.0/24"]);
    assert_eq!(
        notes(&carved.skipped),
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
    let carved = carve(
        &[
            claim("clouds", &shared, &except),
            claim("partner", &shared, &[]),
        ],
        &node.ground(),
    )
    .unwrap();
    assert_eq!(
        notes(&carved[0].skipped),
        ["52.94.0.0/22: taken out by the set's `except`"]
    );
    assert_eq!(
        (carved[0].install.len(), texts(&carved[1].install)),
        (0, vec!["52.94.0.0/22".to_owned()])
    );

    // What comes after the pair, and has to be cut, is as if there were no pair.
    let node = Node::new(&["60.1.0.0/16"], &[]);
    let [clouds, everything] = [ps(&["52.94.0.0/22", "60.0.0.0/8"]), ps(&["::/0"])];
    let claims = [
        claim("clouds", &clouds, &except),
        claim("partner", &shared, &[]),
        claim("everything", &everything, &[]),
    ];
    let carved = carve(&claims, &node.ground()).unwrap();
    assert_eq!(carved[0].install, node.one(&["60.0.0.0/8"], &[]).install);
    assert_eq!(texts(&carved[2].install), ["::/1", "8000::/1"]);
    // Three that take it out, and nobody has it.
    let carved = carve(
        &["a", "b", "c"].map(|set| claim(set, &shared, &except)),
        &node.ground(),
    )
    .unwrap();
    assert_eq!(
        carved
            .iter()
            .map(|carved| carved.skipped.total)
            .collect::<Vec<_>>(),
        [1, 1, 1]
    );
    assert!(
        carve(
            &[
                claim("clouds", &shared, &[]),
                claim("partner", &shared, &[])
            ],
            &node.ground()
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
    let carved = Node::new(&["224.0.0.0/3"], &[("0.0.0.0/0", METRIC)]).one(&["0.0.0.0/0"], &[]);
    assert_eq!(
        texts(&carved.install),
        ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"]
    );
    assert_eq!(carved.shadowed.total, 0);
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
    let carved = node.one(&["10.0.0.0/28"], &[]);
    // 10.0.0.0/30 and the rest of 10.0.0.4/30 are the node's; 10.0.0.10 wins inside 10.0.0.8/29 by being longer.
    assert_eq!(texts(&carved.install), ["10.0.0.8/29"]);
}

#[test]
fn a_cut_destination_that_a_route_of_the_node_wins_against_is_not_installed_at_all() {
    let carved = Node::new(&["10.0.0.5/32"], &[("10.0.0.0/24", 100)]).one(&["10.0.0.0/24"], &[]);
    assert_eq!(carved.install, []);
    assert_eq!(
        notes(&carved.shadowed),
        [
            "10.0.0.0/24: shadowed by the route 10.0.0.0/24 via 192.0.2.1 dev eth0 proto static metric 100, whose metric is not higher"
        ]
    );
    let carved = Node::new(&["10.0.0.5/32"], &[("10.0.0.0/24", 5000)]).one(&["10.0.0.0/24"], &[]);
    assert_eq!((carved.install.len(), carved.shadowed.total), (8, 0));
    let carved = Node::new(
        &["10.0.0.5/32"],
        &[("10.0.0.0/25", 0), ("10.0.0.128/25", 0)],
    )
    .one(&["10.0.0.0/24"], &[]);
    assert_eq!(
        notes(&carved.shadowed),
        ["10.0.0.0/24: shadowed by more specific routes of the node in all that is left of it"]
    );
}

#[test]
fn a_whole_destination_is_installed_beside_a_route_with_a_lower_metric_and_reported() {
    let carved =
        Node::new(&[], &[("10.0.0.0/24", 5000), ("10.0.0.0/24", 100)]).one(&["10.0.0.0/24"], &[]);
    assert_eq!(texts(&carved.install), ["10.0.0.0/24"]);
    assert_eq!(
        notes(&carved.shadowed),
        [
            "10.0.0.0/24: shadowed by the route 10.0.0.0/24 via 192.0.2.1 dev eth0 proto static metric 100, whose metric is lower"
        ]
    );
}

#[test]
fn a_route_of_the_node_with_our_key_is_never_replaced() {
    let carved = Node::new(&[], &[("10.0.0.0/24", METRIC), ("10.0.0.0/24", 100)])
        .one(&["10.0.0.0/24", "10.0.1.0/24"], &[]);
    assert_eq!(texts(&carved.install), ["10.0.1.0/24"]);
    assert_eq!(
        notes(&carved.shadowed),
        [
            "10.0.0.0/24: the node has the route 10.0.0.0/24 via 192.0.2.1 dev eth0 proto static metric 4242 with our metric, which is left as it is"
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
    let carved = node.carve(&[claim("outer", &outer, &[]), claim("inner", &inner, &except)]);
    // The outer one has the other half, and the inner one's exception.
    assert_eq!(texts(&carved[0].install), ["10.0.0.64/26", "10.0.0.128/25"]);
    assert_eq!(
        carved[1].install,
        crate::net::prefix_set::subtract(p("10.0.0.0/26"), &Ranges::of(ps(&["10.0.0.1/32"])))
    );
    // Without the inner one in force, the outer one has all.
    let carved = node.carve(&[
        claim("outer", &outer, &[]),
        Claim {
            in_force: false,
            ..claim("inner", &inner, &except)
        },
    ]);
    assert_eq!(
        carved[0].install,
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
    let clashes = carve(&[claim("a", &a, &[]), claim("b", &b, &[])], &node.ground()).unwrap_err();
    assert_eq!(clashes.len(), 1);
    assert_eq!(
        clashes[0].to_string(),
        "10.0.1.0/24 is a destination of both `a` and `b`, which both apply to this node; keep it in one"
    );
}

#[test]
fn until_the_api_answers_a_cut_destination_keeps_the_pieces_that_the_kernel_has() {
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
    let carved = node.carve(&[Claim {
        standing: Some(&stands),
        ..claim("one", &destination, &[])
    }]);
    assert_eq!(
        texts(&carved[0].install),
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
    assert_eq!(carved[0].held, 1);
    // Once it answers, what it tells decides.
    let carved = node.carve(&[claim("one", &destination, &[])]);
    assert!(
        carved[0]
            .install
            .iter()
            .any(|piece| piece.contains("203.0.113.5".parse().unwrap()))
    );
    assert_eq!(carved[0].held, 0);
}

#[test]
fn a_destination_that_stands_whole_is_not_held_to_what_is_inside_it() {
    let (destinations, stands) = (
        ps(&["10.0.0.0/24", "10.1.0.0/16", "10.1.2.0/24"]),
        ps(&["10.0.0.0/24", "10.0.0.0/25", "10.1.2.0/24"]),
    );
    let carved = Node::default().carve(&[Claim {
        standing: Some(&stands),
        ..claim("one", &destinations, &[])
    }]);
    // A standing inner destination is itself, not a piece of the outer one.
    assert_eq!(
        (texts(&carved[0].install), carved[0].held),
        (texts(&destinations), 0)
    );
}

#[test]
fn what_does_not_fit_is_reported_and_the_widest_cut_destination_gives_way_first() {
    let node = Node::new(&["10.0.0.5/32"], &[]);
    let destinations = ps(&["0.0.0.0/0", "10.0.0.0/28", "192.0.2.0/24"]);
    let carved = carve(
        &[claim("one", &destinations, &[])],
        &Constraints {
            most: 5,
            ..node.ground()
        },
    )
    .unwrap()
    .remove(0);
    assert_eq!(
        texts(&carved.install),
        [
            "10.0.0.0/30",
            "10.0.0.4/32",
            "10.0.0.6/31",
            "10.0.0.8/29",
            "192.0.2.0/24"
        ]
    );
    assert_eq!(
        notes(&carved.skipped),
        ["0.0.0.0/0: with it there would be more than 5 routes on this node"]
    );
}

#[test]
fn a_long_list_of_skipped_destinations_is_counted_in_full_and_shown_in_part() {
    let destinations: Vec<Prefix> = (0..5_000_u128)
        .map(|i| Prefix::host(Family::V4.address(0x0a00_0000 + i)))
        .collect();
    let node = Node::new(&["10.0.0.0/8"], &[]);
    let carved = node.carve(&[claim("one", &destinations, &[])]).remove(0);
    assert_eq!(
        (carved.skipped.total, carved.skipped.shown.len()),
        (5_000, SKIPPED_SHOWN)
    );
}

/// Spread over the address space, always the same.
fn scattered(count: u32, len: u8, seed: u32) -> Vec<Prefix> {
    let value = |i: u32| u128::from((i ^ seed).wrapping_mul(2_654_435_761) ^ seed.rotate_left(13));
    let mut prefixes: Vec<Prefix> = (0..count)
        .map(|i| Prefix::masked(Family::V4.address(value(i)), len))
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

#[test]
fn fifty_thousand_destinations_in_five_sets_take_a_moment_however_many_routes_the_node_has() {
    let mut destinations: Vec<Vec<Prefix>> = (0..5_u8)
        .map(|i| scattered(10_000, 20 + i, u32::from(i) + 1))
        .collect();
    destinations[0].insert(0, Family::V4.everything());
    let except = scattered(1_000, 30, 77);
    for routes in [10_000, 100_000] {
        let node = Node {
            protected: protected(scattered(1_000, 28, 99)),
            foreign: scattered(routes, 26, 7)
                .into_iter()
                .map(|r| foreign(r, 0))
                .collect(),
        };
        let claims: Vec<Claim<'_>> = destinations
            .iter()
            .map(|d| claim("set", d, &except))
            .collect();
        let begin = std::time::Instant::now();
        let carved = node.carve(&claims);
        let took = begin.elapsed();
        let (install, skipped): (usize, usize) = (
            carved.iter().map(|c| c.install.len()).sum(),
            carved.iter().map(|c| c.skipped.total).sum(),
        );
        println!("{routes} foreign routes: {install} prefixes, {skipped} skipped, in {took:?}");
        assert!(
            install > 49_000 && took.as_millis() < 5_000,
            "took {took:?}"
        );
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let bits = prop_oneof![3 => 3..=6_u8, 1 => Just(128)];
    // At the bottom, somewhere and at the top of the address space.
    let base = prop_oneof![Just(0_u128), Just(10 << 24), Just(u128::MAX)];
    (family, bits, base).prop_flat_map(|(family, bits, base)| {
        Space {
            family,
            bits: bits.min(family.bits()),
            base,
        }
        .world()
    })
}

fn carved(world: &World) -> Vec<Carved> {
    let node = Node {
        protected: protected(world.protected.iter().copied()),
        foreign: world
            .foreign
            .iter()
            .map(|(prefix, metric)| foreign(*prefix, *metric))
            .collect(),
    };
    let of = |set: &'_ world::Set| (set.destinations.clone(), set.except.clone(), set.in_force);
    let owned: Vec<_> = world.sets.iter().map(of).collect();
    let claims: Vec<Claim<'_>> = owned
        .iter()
        .map(|(d, e, in_force)| Claim {
            in_force: *in_force,
            ..claim("set", d, e)
        })
        .collect();
    node.carve(&claims)
}

fn installed(world: &World, carved: &[Carved]) -> Vec<(Prefix, usize)> {
    let in_force = carved
        .iter()
        .enumerate()
        .filter(|(index, _)| world.sets[*index].in_force);
    in_force
        .flat_map(|(index, c)| c.install.iter().map(move |prefix| (*prefix, index)))
        .collect()
}

proptest! {
    #[test]
    fn the_longest_match_over_all_routes_is_what_is_promised(world in worlds()) {
        let installed = installed(&world, &carved(&world));
        for address in world.addresses() {
            prop_assert_eq!(world.looked_up(&installed, address), world.promised(address), "{} with {:?}", address, installed);
        }
    }

    #[test]
    fn no_key_is_installed_twice_none_is_the_nodes_and_none_is_a_default(world in worlds()) {
        let mut installed = installed(&world, &carved(&world));
        for (prefix, _) in &installed {
            prop_assert!(!prefix.is_everything());
            prop_assert!(!world.foreign.contains(&(*prefix, METRIC)), "{prefix} would replace a route of the node");
        }
        let all = installed.len();
        installed.sort_unstable();
        installed.dedup_by_key(|(prefix, _)| *prefix);
        prop_assert_eq!(installed.len(), all);
    }

    #[test]
    fn every_destination_of_which_nothing_is_installed_is_accounted_for(world in worlds()) {
        for (set, carved) in world.sets.iter().zip(carved(&world)) {
            let noted = |d: &Prefix| carved.skipped.shown.iter().chain(&carved.shadowed.shown).any(|n| n.destination == d.to_string());
            for destination in set.destinations.iter().filter(|d| !noted(d)) {
                // Something of it is in force, or all of it goes by longer routes and destinations.
                let inside = carved.install.iter().any(|piece| destination.covers(*piece));
                let longer = world.sets.iter().any(|s| s.in_force && s.destinations.iter().any(|d| d != destination && destination.covers(*d)));
                prop_assert!(inside || longer, "{destination} vanished");
            }
        }
    }

    #[test]
    fn what_stands_is_never_widened_before_the_api_answers((world, gone) in (worlds(), any::<prop::sample::Index>())) {
        // A restart: what was protected then and is not known now must stay free.
        prop_assume!(!world.protected.is_empty());
        let before = installed(&world, &carved(&world));
        let mut after = world.clone();
        let forgotten = after.protected.remove(gone.index(world.protected.len()));
        let node = Node {
            protected: protected(after.protected.iter().copied()),
            foreign: after.foreign.iter().map(|(prefix, metric)| foreign(*prefix, *metric)).collect(),
        };
        let stands: Vec<Vec<Prefix>> = (0..after.sets.len()).map(|i| before.iter().filter(|b| b.1 == i).map(|b| b.0).collect()).collect();
        let claims: Vec<Claim<'_>> = after.sets.iter().zip(&stands)
            .map(|(set, stands)| Claim { in_force: set.in_force, standing: Some(stands), ..claim("set", &set.destinations, &set.except) })
            .collect();
        let now = node.carve(&claims);
        for (index, set) in after.sets.iter().enumerate().filter(|(_, set)| set.in_force) {
            for destination in &set.destinations {
                let stood = |prefix: &&Prefix| destination.covers(**prefix) && **prefix != *destination;
                if stands[index].iter().any(|s| stood(&s)) && !set.destinations.iter().any(|d| d != destination && (d.covers(*destination) || destination.covers(*d))) {
                    for piece in now[index].install.iter().filter(|piece| destination.covers(**piece)) {
                        prop_assert!(!forgotten.covers(*piece) && !piece.covers(forgotten), "{piece} fills {forgotten}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_reference_itself_prefers_the_longest_then_the_lowest_metric_and_ours_only_against_a_default()
{
    let set = world::Set {
        destinations: ps(&["10.0.0.0/8", "0.0.0.0/0"]),
        except: ps(&["10.9.0.0/16"]),
        in_force: true,
    };
    let foreign = vec![
        (p("0.0.0.0/0"), 0),
        (p("10.0.0.0/8"), 100),
        (p("10.0.0.0/8"), 5000),
        (p("10.1.0.0/16"), 9999),
    ];
    let world = World {
        family: Family::V4,
        protected: ps(&["192.0.2.0/24"]),
        foreign,
        sets: vec![set],
        more: vec![],
    };
    let way = |address: &str| world.promised(address.parse::<IpAddr>().unwrap());
    assert_eq!(
        [
            way("10.2.0.1"),
            way("10.1.0.1"),
            way("8.8.8.8"),
            way("192.0.2.1")
        ],
        [
            Way::Foreign(1),
            Way::Foreign(3),
            Way::Ours(0),
            Way::Foreign(0)
        ]
    );
}

#[test]
fn addresses_of_the_node_are_skipped_as_destinations_and_make_no_hole_in_wider_ones() {
    let own = |n: u32| Protection {
        prefix: Prefix::host(std::net::Ipv4Addr::from_bits(0x0a60_0000 + n * 7).into()),
        why: Why::OwnAddress("kube-ipvs0".into()),
    };
    let carved = |services: u32| {
        let node = Node {
            protected: Protected::of((0..services).map(own).collect()),
            foreign: Vec::new(),
        };
        node.one(&["0.0.0.0/0", "10.96.0.7/32"], &[])
    };
    let three_thousand = carved(3000);
    assert_eq!(three_thousand.install.len(), 2, "the two halves");
    assert_eq!(
        notes(&three_thousand.skipped),
        ["10.96.0.7/32: is the node's own address 10.96.0.7 (kube-ipvs0)"]
    );
    assert_eq!(
        carved(3001),
        three_thousand,
        "another Service changes nothing"
    );
}
