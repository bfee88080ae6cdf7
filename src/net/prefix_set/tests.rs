use proptest::prelude::*;

use super::*;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ranges(texts: &[&str]) -> Ranges {
    Ranges::of(texts.iter().map(|t| p(t)))
}

fn texts(prefixes: &[Prefix]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_taken_out_leaves_the_prefix_itself() {
    for text in [
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/8",
        "255.255.255.255/32",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    ] {
        assert_eq!(texts(&subtract(p(text), &Ranges::default())), [text]);
    }
}

#[test]
fn the_whole_taken_out_leaves_nothing() {
    for family in Family::BOTH {
        let all = family.everything();
        assert_eq!(subtract(all, &Ranges::of([all])), []);
        let host = Prefix::host(family.address(u128::MAX));
        assert_eq!(subtract(host, &Ranges::of([all])), []);
    }
}

#[test]
fn one_host_out_of_everything_leaves_one_prefix_a_bit() {
    let last = p("255.255.255.255");
    let left = subtract(Family::V4.everything(), &Ranges::of([last]));
    assert_eq!(left.len(), 32);
    assert_eq!(
        (left[0], left[31]),
        (p("0.0.0.0/1"), p("255.255.255.254/32"))
    );
    for host in [
        "::",
        "2001:db8::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ] {
        assert_eq!(
            subtract(Family::V6.everything(), &ranges(&[host])).len(),
            128
        );
    }
}

#[test]
fn a_hole_in_the_middle_leaves_what_is_around_it() {
    let left = subtract(
        p("10.0.0.0/8"),
        &ranges(&["10.64.0.0/10", "10.200.0.0/16", "172.16.0.0/12", "::/0"]),
    );
    assert_eq!(
        texts(&left),
        [
            "10.0.0.0/10",
            "10.128.0.0/10",
            "10.192.0.0/13",
            "10.201.0.0/16",
            "10.202.0.0/15",
            "10.204.0.0/14",
            "10.208.0.0/12",
            "10.224.0.0/11"
        ]
    );
}

#[test]
fn ranges_that_touch_are_one_and_come_back_as_the_fewest_prefixes() {
    let halves = ranges(&[
        "10.1.0.0/16",
        "10.0.0.0/16",
        "10.0.5.0/24",
        "8000::/1",
        "::/1",
    ]);
    assert_eq!(
        texts(&halves.prefixes().collect::<Vec<_>>()),
        ["10.0.0.0/15", "::/0"]
    );
    assert!(
        halves.covers(p("10.0.0.0/15"))
            && !halves.covers(p("10.0.0.0/14"))
            && halves.touches(p("10.0.0.0/14"))
    );
    assert!(
        halves.contains("10.1.255.255".parse().unwrap())
            && !halves.contains("10.2.0.0".parse().unwrap())
    );
}

#[test]
fn a_nest_names_what_covers_a_prefix_longest_first() {
    let nest = Nest::of(
        [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.2.0.0/16",
            "::/0",
        ]
        .map(p),
    );
    let covering = |text: &str| -> Vec<String> {
        nest.covering(p(text))
            .map(|i| nest.get(i).unwrap().to_string())
            .collect()
    };
    assert_eq!(
        covering("10.1.3.0/24"),
        ["10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]
    );
    assert_eq!(
        covering("10.2.0.0/16"),
        ["10.2.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]
    );
    assert_eq!(covering("2001:db8::/32"), ["::/0"]);
    assert_eq!(
        Nest::of([p("10.0.0.0/8")]).covering(p("0.0.0.0/0")).count(),
        0
    );
}

#[test]
fn a_thousand_holes_are_taken_out_of_fifty_thousand_destinations() {
    let destinations: Vec<Prefix> = (0..50_000_u32)
        .map(|i| {
            Prefix::masked(
                Family::V4.address(u128::from(i.wrapping_mul(2_654_435_761))),
                24,
            )
        })
        .collect();
    let holes = Ranges::of(
        (0..1_000_u32)
            .map(|i| Prefix::host(Family::V4.address(u128::from(i.wrapping_mul(40_503 * 7919))))),
    );
    let count: usize = destinations
        .iter()
        .map(|d| subtract(*d, &holes).len())
        .sum();
    assert!(count >= 49_000, "{count} pieces");
}

/// A family, and how many of the low bits of an address vary: small spaces meet every edge, wide ones every width.
#[derive(Clone, Copy, Debug)]
struct Space {
    family: Family,
    bits: u8,
}

fn space() -> impl Strategy<Value = Space> {
    (any::<bool>(), prop_oneof![3 => 4..=7_u8, 1 => Just(0)]).prop_map(|(six, bits)| {
        let family = if six { Family::V6 } else { Family::V4 };
        Space {
            family,
            bits: if bits == 0 { family.bits() } else { bits },
        }
    })
}

fn prefix_in(space: Space) -> impl Strategy<Value = Prefix> {
    // At the top of the address space, where arithmetic overflows.
    let top = space.bits < space.family.bits();
    (any::<u128>(), 0..=space.bits, any::<bool>()).prop_map(move |(value, host_bits, high)| {
        let low = if top {
            value & ((1 << space.bits) - 1)
        } else {
            value
        };
        let value = if top && high {
            low | !((1_u128 << space.bits) - 1)
        } else {
            low
        };
        Prefix::masked(space.family.address(value), space.family.bits() - host_bits)
    })
}

fn tables() -> impl Strategy<Value = (Prefix, Vec<Prefix>, Vec<u128>)> {
    space().prop_flat_map(|s| {
        let whole = prop_oneof![4 => prefix_in(s), 1 => Just(s.family.everything())];
        (
            whole,
            prop::collection::vec(prefix_in(s), 0..8),
            prop::collection::vec(any::<u128>(), 4),
        )
    })
}

/// Addresses where something can change: the ends of everything and their neighbours.
fn edges(prefixes: &[Prefix], more: &[u128], family: Family) -> Vec<IpAddr> {
    let mut values: Vec<u128> = more.to_vec();
    for prefix in prefixes {
        let (first, last) = prefix.range();
        values.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
    }
    values.into_iter().map(|v| family.address(v)).collect()
}

proptest! {
    #[test]
    fn pieces_are_disjoint_sorted_exact_and_the_fewest((whole, holes, more) in tables()) {
        let left = subtract(whole, &Ranges::of(holes.iter().copied()));
        for pair in left.windows(2) {
            prop_assert!(pair[0].range().1 < pair[1].range().0, "{pair:?} overlap or are out of order");
            // Two prefixes can only become one when they are the halves of the next wider one.
            let wider = Prefix::masked(pair[0].address(), pair[0].len().saturating_sub(1));
            prop_assert!(!(pair[0].len() == pair[1].len() && wider.covers(pair[1])), "{pair:?} should be {wider}");
        }
        let mut known = holes.clone();
        known.push(whole);
        known.extend(&left);
        for address in edges(&known, &more, whole.family()) {
            let wanted = whole.contains(address) && !holes.iter().any(|h| h.contains(address));
            prop_assert_eq!(left.iter().any(|l| l.contains(address)), wanted, "{}", address);
        }
    }

    #[test]
    fn set_algebra_agrees_with_asking_each_prefix(
        (s, ours, theirs, more) in space().prop_flat_map(|s| {
            let some = || prop::collection::vec(prefix_in(s), 0..8);
            (Just(s), some(), some(), prop::collection::vec(any::<u128>(), 4))
        }),
        probe in any::<prop::sample::Index>(),
    ) {
        let (a, b) = (Ranges::of(ours.iter().copied()), Ranges::of(theirs.iter().copied()));
        let (minus, both) = (a.subtract(&b), a.intersect(&b));
        let all: Vec<Prefix> = ours.iter().chain(&theirs).copied().collect();
        for address in edges(&all, &more, s.family) {
            let of = |set: &[Prefix]| set.iter().any(|p| p.contains(address));
            prop_assert_eq!(minus.contains(address), of(&ours) && !of(&theirs));
            prop_assert_eq!(both.contains(address), of(&ours) && of(&theirs));
        }
        for set in [&minus, &both] {
            prop_assert_eq!(&Ranges::of(set.prefixes()), set);
            for spans in set.spans(s.family).windows(2) {
                prop_assert!(spans[0].1.checked_add(1).is_some_and(|after| after < spans[1].0), "{spans:?} touch");
            }
        }
        if !all.is_empty() {
            let prefix = all[probe.index(all.len())];
            prop_assert_eq!(a.covers(prefix), subtract(prefix, &a).is_empty());
            prop_assert_eq!(a.touches(prefix), !a.intersect(&Ranges::of([prefix])).is_empty());
        }
    }

    #[test]
    fn a_nest_finds_the_same_covering_prefixes_as_asking_each(
        (all, asked) in space().prop_flat_map(|s| (prop::collection::vec(prefix_in(s), 0..12), prefix_in(s))),
    ) {
        let nest = Nest::of(all.iter().copied());
        let mut naive: Vec<Prefix> = all.iter().copied().filter(|p| p.covers(asked)).collect();
        naive.sort_by_key(|p| std::cmp::Reverse(p.len()));
        naive.dedup();
        prop_assert_eq!(nest.covering(asked).filter_map(|i| nest.get(i)).collect::<Vec<_>>(), naive);
    }
}
