//! Long lists, and what does not fit.

use super::*;

/// Spread over the address space, always the same.
pub(super) fn scattered(count: u32, len: u8, seed: u32) -> Vec<Prefix> {
    let value = |i: u32| u128::from((i ^ seed).wrapping_mul(2_654_435_761) ^ seed.rotate_left(13));
    let mut prefixes: Vec<Prefix> = (0..count)
        .map(|i| Prefix::masked(Family::V4.address(value(i)), len))
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

#[test]
fn what_does_not_fit_is_reported_and_the_widest_split_destination_gives_way_first() {
    let node = Node::new(&["10.0.0.5/32"], &[]);
    let destinations = ps(&["0.0.0.0/0", "10.0.0.0/28", "192.0.2.0/24"]);
    let selected = select(
        &[of_set("one", &destinations, &[])],
        &Constraints {
            most: 5,
            ..node.constraints()
        },
    )
    .unwrap()
    .remove(0);
    assert_eq!(
        texts(&selected.install),
        [
            "10.0.0.0/30",
            "10.0.0.4/32",
            "10.0.0.6/31",
            "10.0.0.8/29",
            "192.0.2.0/24"
        ]
    );
    assert_eq!(
        notes(&selected.skipped),
        ["0.0.0.0/0: with it there would be more than 5 routes on this node"]
    );
}

#[test]
fn a_long_list_of_skipped_destinations_is_counted_in_full_and_shown_in_part() {
    let destinations: Vec<Prefix> = (0..5_000_u128)
        .map(|i| Prefix::host(Family::V4.address(0x0a00_0000 + i)))
        .collect();
    let node = Node::new(&["10.0.0.0/8"], &[]);
    let selected = node.select(&[of_set("one", &destinations, &[])]).remove(0);
    assert_eq!(
        (selected.skipped.total, selected.skipped.shown.len()),
        (5_000, SKIPPED_SHOWN)
    );
}

#[test]
fn fifty_thousand_destinations_in_five_sets_are_selected_beside_a_hundred_thousand_routes() {
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
        let sets: Vec<SetDestinations<'_>> = destinations
            .iter()
            .map(|d| of_set("set", d, &except))
            .collect();
        let install: usize = node.select(&sets).iter().map(|s| s.install.len()).sum();
        assert!(
            install > 49_000,
            "{install} prefixes beside {routes} foreign routes"
        );
    }
}
