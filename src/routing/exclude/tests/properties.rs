//! The promise of `exclude` held against random nodes, and against the reference in `world`.

use proptest::prelude::*;

use super::world::{self, METRIC, Space, Way, World};
use super::*;

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

fn selected(world: &World) -> Vec<Selected> {
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
    let sets: Vec<SetDestinations<'_>> = owned
        .iter()
        .map(|(d, e, in_force)| SetDestinations {
            in_force: *in_force,
            ..of_set("set", d, e)
        })
        .collect();
    node.select(&sets)
}

proptest! {
    #[test]
    fn the_longest_match_over_all_routes_is_what_is_promised(world in worlds()) {
        let installed = world.in_force(&selected(&world));
        for address in world.addresses() {
            prop_assert_eq!(world.looked_up(&installed, address), world.promised(address), "{} with {:?}", address, installed);
        }
    }

    #[test]
    fn no_key_is_installed_twice_none_is_the_nodes_and_none_is_a_default(world in worlds()) {
        let mut installed = world.in_force(&selected(&world));
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
        for (set, selected) in world.sets.iter().zip(selected(&world)) {
            let noted = |d: &Prefix| selected.skipped.shown.iter().chain(&selected.shadowed.shown).any(|n| n.destination == d.to_string());
            for destination in set.destinations.iter().filter(|d| !noted(d)) {
                // Something of it is in force, or all of it goes by longer routes and destinations.
                let inside = selected.install.iter().any(|piece| destination.covers(*piece));
                let longer = world.sets.iter().any(|s| s.in_force && s.destinations.iter().any(|d| d != destination && destination.covers(*d)));
                prop_assert!(inside || longer, "{destination} vanished");
            }
        }
    }

    #[test]
    fn what_is_installed_is_never_widened_before_the_api_answers((world, gone) in (worlds(), any::<prop::sample::Index>())) {
        // A restart: what was protected then and is not known now must stay free.
        prop_assume!(!world.protected.is_empty());
        let before = world.in_force(&selected(&world));
        let mut after = world.clone();
        let forgotten = after.protected.remove(gone.index(world.protected.len()));
        let node = Node {
            protected: protected(after.protected.iter().copied()),
            foreign: after.foreign.iter().map(|(prefix, metric)| foreign(*prefix, *metric)).collect(),
        };
        let kept: Vec<Vec<Prefix>> = (0..after.sets.len()).map(|i| before.iter().filter(|b| b.1 == i).map(|b| b.0).collect()).collect();
        let sets: Vec<SetDestinations<'_>> = after.sets.iter().zip(&kept)
            .map(|(set, kept)| SetDestinations { in_force: set.in_force, installed: Some(kept), ..of_set("set", &set.destinations, &set.except) })
            .collect();
        let now = node.select(&sets);
        for (index, set) in after.sets.iter().enumerate().filter(|(_, set)| set.in_force) {
            for destination in &set.destinations {
                let was_piece = |prefix: &&Prefix| destination.covers(**prefix) && **prefix != *destination;
                if kept[index].iter().any(|s| was_piece(&s)) && !set.destinations.iter().any(|d| d != destination && (d.covers(*destination) || destination.covers(*d))) {
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
