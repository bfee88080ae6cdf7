//! What holds for any input: no panic, no dependence on order, and a bounded price.
#![allow(
    clippy::format_collect,
    reason = "a test may be slow where it is plain"
)]

use proptest::prelude::{Strategy as _, any, prop_assert_eq, proptest};
use std::net::IpAddr;

use super::tests::{CONTRACT, LISTED, accepted, files};
use super::*;

fn prefixes() -> impl proptest::strategy::Strategy<Value = Vec<Prefix>> {
    proptest::collection::vec(
        (any::<u32>(), 0u8..=32)
            .prop_map(|(a, len)| Prefix::masked(IpAddr::from(a.to_be_bytes()), len)),
        1..40,
    )
}

proptest! {
    #[test]
    fn no_bytes_whatever_make_it_panic(routes in proptest::collection::vec(any::<u8>(), 0..200), list in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_any_bytes(&routes, &list);
        check_any_bytes(LISTED.as_bytes(), &list);
    }

    #[test]
    fn no_yaml_that_is_nearly_right_makes_it_panic(cut in 0..CONTRACT.len(), len in 0usize..40, with in "[-\\[\\]{}:,&*#'\"a-z0-9 \n\t.|>é/]{0,12}") {
        let mut bytes = CONTRACT.as_bytes().to_vec();
        let end = (cut + len).min(bytes.len());
        bytes.splice(cut..end, with.bytes());
        check_any_bytes(&bytes, b"192.0.2.0/24\n");
    }

    #[test]
    fn the_order_of_destinations_does_not_matter(mut list in prefixes(), seed in any::<u64>()) {
        let text = |list: &[Prefix]| list.iter().map(|prefix| format!("{prefix}\n")).collect::<String>();
        let inline = |list: &[Prefix]| format!("routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinations:\n{}", list.iter().map(|p| format!("  - {p}\n")).collect::<String>());
        let before = accepted(&inline(&list)).config;
        let turn = usize::try_from(seed % list.len() as u64).unwrap();
        list.rotate_left(turn);
        list.reverse();
        prop_assert_eq!(&accepted(&inline(&list)).config, &before);
        let listed = parse(&files(LISTED, &[("aws.txt", text(&list).as_bytes())])).unwrap().config;
        prop_assert_eq!(&listed, &before, "a list file says the same as the list in the YAML");
        let printed = text(&listed.sets[0].destinations);
        let again = parse(&files(LISTED, &[("aws.txt", printed.as_bytes())])).unwrap().config;
        prop_assert_eq!(again, listed, "what is printed is read back");
    }
}
