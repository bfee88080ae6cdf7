//! Prefixes of one set that meet those of another, or an `except` that meets none.
//!
//! Pure.

use std::collections::BTreeMap;

use super::{Tally, Warning, WarningKind, of_all};
use crate::config::clash::{Clash, Relations};
use crate::config::destinations::nearest_cover;
use crate::config::problem::quoted;
use crate::config::selector::Overlap;
use crate::config::{Config, RouteSet};
use crate::net::prefix::Prefix;

pub(super) fn possible_clashes(config: &Config, possible: &[Clash]) -> Vec<Warning> {
    let mut pairs: BTreeMap<(usize, usize), Tally> = BTreeMap::new();
    for clash in possible {
        pairs
            .entry((clash.first, clash.second))
            .or_default()
            .add(|| format!("`{}`", clash.prefix));
    }
    let warning = |((a, b), tally): (&(usize, usize), &Tally)| {
        let (a, b) = (
            quoted(&config.sets.get(*a)?.name),
            quoted(&config.sets.get(*b)?.name),
        );
        let message = format!(
            "sets {a} and {b} share {}, which a node that both select will refuse: {}",
            tally.counted("destination"),
            tally.list()
        );
        Some(Warning {
            kind: WarningKind::PossibleClash,
            set: None,
            message,
        })
    };
    pairs.iter().filter_map(warning).collect()
}

/// Visits prefixes in order, each with those that cover it, outermost first.
fn sweep<T: Copy + Ord>(
    mut items: Vec<(Prefix, T)>,
    mut visit: impl FnMut(&[(Prefix, T)], (Prefix, T)),
) {
    items.sort_unstable();
    let mut covers: Vec<(Prefix, T)> = Vec::new();
    for item in items {
        while covers
            .last()
            .is_some_and(|(cover, _)| !cover.covers(item.0))
        {
            covers.pop();
        }
        visit(&covers, item);
        covers.push(item);
    }
}

pub(super) fn nested(config: &Config, relations: &Relations) -> Vec<Warning> {
    if config.sets.len() < 2 {
        return Vec::new();
    }
    let mut pairs: BTreeMap<(usize, usize), Tally> = BTreeMap::new();
    let all = config
        .sets
        .iter()
        .enumerate()
        .flat_map(|(i, set)| set.destinations.iter().map(move |prefix| (*prefix, i)));
    sweep(all.collect(), |covers, (prefix, inner)| {
        let other = |(cover, outer): &&(Prefix, usize)| {
            *outer != inner && *cover != prefix && relations.of(*outer, inner) != Overlap::Never
        };
        if let Some((cover, outer)) = covers.iter().rev().find(other) {
            let excepted = config
                .sets
                .get(*outer)
                .is_some_and(|set| nearest_cover(&set.except, prefix).is_some());
            if !excepted {
                pairs
                    .entry((inner, *outer))
                    .or_default()
                    .add(|| format!("`{prefix}` in `{cover}`"));
            }
        }
    });
    let warning = |((inner_index, outer), tally): (&(usize, usize), &Tally)| {
        let (inner, outer) = (
            quoted(&config.sets.get(*inner_index)?.name),
            quoted(&config.sets.get(*outer)?.name),
        );
        let message = format!(
            "set {inner}: {} inside those of set {outer}; the longer prefix wins: {}",
            tally.counted("destination"),
            tally.list()
        );
        Some(Warning {
            kind: WarningKind::Nested,
            set: config.sets.get(*inner_index).map(|set| set.name.clone()),
            message,
        })
    };
    pairs.iter().filter_map(warning).collect()
}

pub(super) fn idle_except(set: &RouteSet) -> Option<Warning> {
    if set.except.is_empty() {
        return None;
    }
    // Destinations are tagged 0, the n-th `except` n + 1.
    let destinations = set.destinations.iter().map(|prefix| (*prefix, 0));
    let excepts = set
        .except
        .iter()
        .zip(1usize..)
        .map(|(prefix, tag)| (*prefix, tag));
    let mut used = vec![false; set.except.len() + 1];
    sweep(destinations.chain(excepts).collect(), |covers, (_, tag)| {
        if tag == 0 {
            for (_, tag) in covers {
                used[*tag] = true;
            }
        } else if covers.iter().any(|(_, tag)| *tag == 0) {
            used[tag] = true;
        }
    });
    let idle = set
        .except
        .iter()
        .zip(used.iter().skip(1))
        .filter(|(_, used)| !**used);
    let tally = of_all(idle, |(prefix, _)| format!("`{prefix}`"));
    let (what, verb) = match tally.count {
        1 => ("entry", "overlaps"),
        _ => ("entrie", "overlap"), // `counted` appends an s
    };
    let about = format!("of `except` that {verb} no destination");
    tally.warning(WarningKind::IdleExcept, set, what, &about)
}
