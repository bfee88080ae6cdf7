//! The same prefix in two route sets.
//!
//! Pure. Two sets that both apply to a node may not share a prefix. Without knowing the nodes,
//! that is certain when one of the two has no selector, or when one selector implies the other:
//! those are refused for the whole cluster. Two selectors that exclude each other may share what
//! they like. Only a node can decide the rest: it asks [`clashes`] about the sets that apply to
//! it, and `check` warns.

use std::cell::RefCell;

use super::RouteSet;
use super::destinations::nearest_cover;
use super::selector::{Overlap, Terms};
use crate::net::prefix::Prefix;

/// A prefix that two sets have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The prefix.
    pub prefix: Prefix,
    /// Index of the set that comes first.
    pub first: usize,
    /// Index of the other one.
    pub second: usize,
}

/// The clashes of sets that all apply to one node; selectors are not looked at. One per prefix and later set,
/// in the order of prefixes. Destinations that a set's own `except` takes out do not count.
pub fn clashes(sets: &[&RouteSet]) -> Vec<Clash> {
    shared(sets, |_, _| true)
}

/// Clashes of a configuration: the certain ones, and those that depend on the nodes.
pub(crate) fn sort_out(sets: &[RouteSet], relations: &Relations) -> (Vec<Clash>, Vec<Clash>) {
    let all: Vec<&RouteSet> = sets.iter().collect();
    let certain = shared(&all, |a, b| relations.of(a, b) == Overlap::Always);
    let possible = shared(&all, |a, b| relations.of(a, b) == Overlap::Perhaps);
    (certain, possible)
}

fn shared(sets: &[&RouteSet], relevant: impl Fn(usize, usize) -> bool) -> Vec<Clash> {
    if sets.len() < 2 {
        return Vec::new();
    }
    let mut all: Vec<(Prefix, u32)> =
        Vec::with_capacity(sets.iter().map(|set| set.destinations.len()).sum());
    for (index, set) in (0u32..).zip(sets) {
        all.extend(set.destinations.iter().map(|prefix| (*prefix, index)));
    }
    all.sort_unstable();
    let mut clashes = Vec::new();
    for run in all.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() > 1) {
        let prefix = run[0].0;
        let run: Vec<usize> = run
            .iter()
            .map(|(_, i)| *i as usize)
            .filter(|i| nearest_cover(&sets[*i].except, prefix).is_none())
            .collect();
        for (n, second) in run.iter().enumerate() {
            if let Some(first) = run[..n].iter().find(|first| relevant(**first, *second)) {
                clashes.push(Clash {
                    prefix,
                    first: *first,
                    second: *second,
                });
            }
        }
    }
    clashes
}

/// How the nodes of every two sets relate; worked out when asked, and remembered.
pub(crate) struct Relations {
    terms: Vec<Terms>,
    known: RefCell<Vec<Option<Overlap>>>,
}

impl Relations {
    pub(crate) fn new(sets: &[RouteSet]) -> Self {
        let terms = sets
            .iter()
            .map(|set| Terms::of(set.node_selector.as_ref()))
            .collect();
        Self {
            terms,
            known: RefCell::default(),
        }
    }

    pub(crate) fn of(&self, a: usize, b: usize) -> Overlap {
        let (Some(x), Some(y)) = (self.terms.get(a), self.terms.get(b)) else {
            return Overlap::Always;
        };
        let mut known = self.known.borrow_mut();
        known.resize(self.terms.len() * self.terms.len(), None);
        match known.get_mut(a * self.terms.len() + b) {
            Some(slot) => *slot.get_or_insert_with(|| x.overlap(y)),
            None => x.overlap(y),
        }
    }
}
