//! Sets that are valid and have no effect, or not the one that was meant: destinations that no node routes, and gateways that are none.
//!
//! Pure.

use std::net::IpAddr;

use super::{Warning, WarningKind, of_all, private_ranges};
use crate::config::RouteSet;
use crate::config::problem::quoted;
use crate::net::prefix::{Family, Prefix};
use crate::net::prefix_set::Ranges;
use crate::net::reserved;

/// What a set misses by itself and by what is protected everywhere.
pub(super) fn of_set(set: &RouteSet, protected: &[Prefix]) -> Vec<Warning> {
    let mut warnings = zeros("destinations", Some(set), &set.destinations);
    warnings.extend(zeros("except", Some(set), &set.except));
    match nothing_left(set, protected) {
        Some(warning) => warnings.push(warning),
        None => warnings.extend(skipped(set)),
    }
    warnings.extend(odd_gateways(set));
    warnings.extend(idle_gateways(set));
    warnings
}

/// `0.0.0.0` for `0.0.0.0/0`.
pub(super) fn zeros(key: &str, set: Option<&RouteSet>, prefixes: &[Prefix]) -> Vec<Warning> {
    let bare = |family: &Family| prefixes.contains(&Prefix::host(family.address(0)));
    let found = Family::BOTH.into_iter().filter(bare).map(|family| {
        let of = set.map_or_else(String::new, |set| format!("set {}: ", quoted(&set.name)));
        let address = family.address(0);
        Warning {
            kind: WarningKind::BareZero,
            set: set.map(|set| set.name.clone()),
            message: format!(
                "{of}`{address}` in `{key}` is a single address that no machine has; for all {family} addresses write `{address}/0`"
            ),
        }
    });
    found.collect()
}

fn nothing_left(set: &RouteSet, protected: &[Prefix]) -> Option<Warning> {
    let gone = |by: &[&[Prefix]]| {
        let ranges = Ranges::of(by.iter().flat_map(|prefixes| prefixes.iter().copied()));
        !set.destinations.is_empty() && set.destinations.iter().all(|prefix| ranges.covers(*prefix))
    };
    let by = if gone(&[&set.except]) {
        "`except` takes out"
    } else if gone(&[protected]) {
        "`protected` covers"
    } else if gone(&[&set.except, protected]) {
        "`except` and `protected` cover"
    } else {
        return None;
    };
    let message = format!("{by} all of its destinations, so that it routes nothing");
    Some(Warning::of_set(WarningKind::NothingLeft, set, &message))
}

fn skipped(set: &RouteSet) -> Option<Warning> {
    let ranges: Vec<(Prefix, &str)> = reserved::ranges().collect();
    let of = |prefix: &Prefix| ranges.iter().find(|(range, _)| range.covers(*prefix));
    let is_zero = |prefix: &Prefix| *prefix == Prefix::host(prefix.family().address(0));
    let inside = set
        .destinations
        .iter()
        .filter(|prefix| !is_zero(prefix))
        .filter_map(|prefix| Some((prefix, of(prefix)?.1)));
    let tally = of_all(inside, |(prefix, what)| format!("`{prefix}` ({what})"));
    tally.warning(
        WarningKind::Skipped,
        set,
        "destination",
        "that every node skips",
    )
}

/// Next hops are neighbours: nearly always private, and never the link-local address of a cloud's metadata service.
fn odd_gateways(set: &RouteSet) -> Vec<Warning> {
    let private = private_ranges();
    let odd = |gateway: &&IpAddr| -> Option<&'static str> {
        match gateway {
            IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
            _ if private.iter().any(|range| range.contains(**gateway)) => None,
            _ => Some("public"),
        }
    };
    let found = set.gateways.iter().filter_map(|gateway| {
        let message = match odd(&gateway)? {
            "public" => format!(
                "gateway `{gateway}` has a public address; a next hop is a neighbour in the nodes' own subnet, usually with a private one, not the address that partners see"
            ),
            _ => format!(
                "gateway `{gateway}` is link-local; that works only where every node has that neighbour"
            ),
        };
        Some(Warning::of_set(WarningKind::OddGateway, set, &message))
    });
    found.collect()
}

fn idle_gateways(set: &RouteSet) -> Option<Warning> {
    let has = |family: Family| set.destinations.iter().any(|p| p.family() == family);
    let idle = set
        .gateways
        .iter()
        .filter(|gateway| !has(Family::of(**gateway)));
    let tally = of_all(idle, |gateway| format!("`{gateway}`"));
    let warning = tally.warning(
        WarningKind::IdleGateway,
        set,
        "gateway",
        "of a family without destinations",
    );
    warning.filter(|_| !set.destinations.is_empty())
}
