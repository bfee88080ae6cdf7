//! What is allowed but probably not meant.
//!
//! Pure. A warning is one sentence about a whole set with a count and up to five examples, never
//! a line per destination; how many warnings there are is bounded too. Everything works on sorted
//! prefixes in one sweep, so that fifty thousand destinations cost milliseconds.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::clash::{Clash, Relations};
use super::destinations::nearest_cover;
use super::problem::quoted;
use super::{Config, Files, Probe, ROUTES_YAML, RouteSet, Strategy, WhenDown};
use crate::net::prefix::{Family, Prefix};

mod no_effect;
mod overlap;

/// Most examples in one sentence.
const EXAMPLES: usize = 5;
/// Most warnings of one configuration.
const MAX_WARNINGS: usize = 100;

/// Something that is allowed but probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// The route set that it concerns, where it is one.
    pub set: Option<String>,
    /// One sentence that names the set.
    pub message: String,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WarningKind {
    /// Two sets share a prefix, and whether a node matches both depends on its labels.
    PossibleClash,
    /// More than half of the address space is routed, and nothing is protected.
    Unprotected,
    /// A gateway lies inside its own set's destinations.
    GatewayInside,
    /// Private addresses as destinations.
    Private,
    /// A destination inside another set's.
    Nested,
    /// An `except` that takes nothing out.
    IdleExcept,
    /// A setting that has no effect.
    NoEffect,
    /// Destinations that every node skips.
    Skipped,
    /// A set of which `except` and `protected` leave nothing.
    NothingLeft,
    /// An address that was probably meant as a whole range.
    BareZero,
    /// A gateway that is probably none.
    OddGateway,
    /// Gateways of a family without destinations.
    IdleGateway,
    /// A list file that no set names.
    UnusedList,
    /// Something about the manifest that holds the configuration.
    Manifest,
    /// More than can be stored, or applied by a plain `kubectl apply`.
    TooLarge,
    /// There were more warnings than are kept.
    More,
}

impl Warning {
    fn of_set(kind: WarningKind, set: &RouteSet, message: &str) -> Self {
        Self {
            kind,
            set: Some(set.name.clone()),
            message: format!("set {}: {message}", quoted(&set.name)),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::printable(&self.message))
    }
}

/// All warnings, most serious kind first.
pub(crate) fn of(
    config: &Config,
    files: &Files,
    possible: &[Clash],
    relations: &Relations,
) -> Vec<Warning> {
    let mut warnings = overlap::possible_clashes(config, possible);
    warnings.extend(unprotected(config));
    let unaimed: Vec<Warning> = config
        .sets
        .iter()
        .flat_map(|set| no_effect::of_set(set, &config.protected))
        .collect();
    warnings.extend(unaimed);
    warnings.extend(no_effect::zeros("protected", None, &config.protected));
    warnings.extend(config.sets.iter().filter_map(gateways_inside));
    warnings.extend(config.sets.iter().filter_map(private));
    warnings.extend(overlap::nested(config, relations));
    warnings.extend(config.sets.iter().filter_map(overlap::idle_except));
    warnings.extend(config.sets.iter().filter_map(idle_when_down));
    warnings.extend(config.sets.iter().flat_map(all_drained));
    warnings.extend(config.sets.iter().filter_map(idle_withdraw));
    warnings.extend(unused_lists(files));
    if warnings.len() > MAX_WARNINGS {
        let more = warnings.len() - MAX_WARNINGS;
        warnings.truncate(MAX_WARNINGS);
        warnings.push(Warning {
            kind: WarningKind::More,
            set: None,
            message: format!("there are {more} more warnings"),
        });
    }
    warnings
}

/// Families of which every gateway is drained: then none of them is.
fn all_drained(set: &RouteSet) -> Vec<Warning> {
    let is_all = |family: &Family| {
        let mut of_family = set
            .gateways
            .iter()
            .filter(|g| Family::of(**g) == *family)
            .peekable();
        of_family.peek().is_some() && of_family.all(|g| set.share(*g).drain)
    };
    let warning = |family| Warning {
        kind: WarningKind::NoEffect,
        set: Some(set.name.clone()),
        message: format!(
            "set {}: every {family} gateway is drained, so they still carry new flows; keep one without `drain`",
            quoted(&set.name)
        ),
    };
    Family::BOTH
        .into_iter()
        .filter(is_all)
        .map(warning)
        .collect()
}

/// A key that only the other strategy has an effect for.
pub(crate) fn idle_key(set: &str, key: &str) -> Warning {
    let strategy = if key == "weight" {
        "failover"
    } else {
        "balance"
    };
    let message = format!(
        "set {}: `{key}` has no effect with `strategy: {strategy}`",
        quoted(set)
    );
    Warning {
        kind: WarningKind::NoEffect,
        set: Some(set.to_owned()),
        message,
    }
}

/// A count and the first few of what was counted.
#[derive(Default)]
struct Tally {
    count: usize,
    examples: Vec<String>,
}

impl Tally {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }

    /// `2 destinations`, or `1 destination`.
    fn counted(&self, thing: &str) -> String {
        format!(
            "{} {thing}{}",
            self.count,
            if self.count == 1 { "" } else { "s" }
        )
    }

    fn list(&self) -> String {
        let more = if self.count > self.examples.len() {
            ", …"
        } else {
            ""
        };
        format!("{}{more}", self.examples.join(", "))
    }

    /// The warning that there are such things in a set, if there are any.
    fn warning(
        &self,
        kind: WarningKind,
        set: &RouteSet,
        what: &str,
        about: &str,
    ) -> Option<Warning> {
        let message = || format!("{} {about}: {}", self.counted(what), self.list());
        (self.count > 0).then(|| Warning::of_set(kind, set, &message()))
    }
}

fn of_all<T>(items: impl IntoIterator<Item = T>, show: impl Fn(&T) -> String) -> Tally {
    let mut tally = Tally::default();
    for item in items {
        tally.add(|| show(&item));
    }
    tally
}

/// Everything there is to route to: all of IPv4, and the global unicast part of IPv6.
fn space(family: Family) -> Prefix {
    match family {
        Family::V4 => family.everything(),
        Family::V6 => Prefix::masked(family.address(0x2000 << 112), 3),
    }
}

fn unprotected(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for family in Family::BOTH {
        if config
            .protected
            .iter()
            .any(|prefix| prefix.family() == family)
        {
            continue;
        }
        let (first, last) = space(family).range();
        let mut ranges: Vec<(u128, u128)> = config
            .sets
            .iter()
            .flat_map(|set| &set.destinations)
            .filter(|prefix| prefix.family() == family)
            .map(|prefix| prefix.range())
            .filter(|(a, b)| *a <= last && *b >= first)
            .map(|(a, b)| (a.max(first), b.min(last)))
            .collect();
        ranges.sort_unstable();
        let (mut covered, mut next) = (0u128, first);
        for (a, b) in ranges {
            if b >= next {
                covered = covered.saturating_add(b - a.max(next) + 1);
                next = b.saturating_add(1);
            }
        }
        if covered > (last - first) / 2 + 1 {
            let message = format!(
                "more than half of all {family} addresses are routed through gateways, and no {family} range is `protected`; \
                 add first the address by which kubelets reach the API server (`kubectl cluster-info` prints it; on managed clouds it is often a public one that no Service shows), \
                 then registries and other networks that nodes need when gateways are down"
            );
            warnings.push(Warning {
                kind: WarningKind::Unprotected,
                set: None,
                message,
            });
        }
    }
    warnings
}

fn gateways_inside(set: &RouteSet) -> Option<Warning> {
    let cover = |gateway: &IpAddr| nearest_cover(&set.destinations, Prefix::host(*gateway));
    let not_excepted =
        |gateway: &&IpAddr| nearest_cover(&set.except, Prefix::host(**gateway)).is_none();
    let inside = set
        .gateways
        .iter()
        .filter(not_excepted)
        .filter_map(|gateway| Some((gateway, cover(gateway)?)));
    let tally = of_all(inside, |(gateway, cover)| {
        format!("`{gateway}` in `{cover}`")
    });
    tally.warning(
        WarningKind::GatewayInside,
        set,
        "gateway",
        "inside its own destinations; each is left out of them on every node",
    )
}

/// RFC 1918, shared address space of carriers, and unique local IPv6.
fn private_ranges() -> [Prefix; 5] {
    let v4 = |a, b, len| Prefix::masked(IpAddr::from([a, b, 0, 0]), len);
    [
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(192, 168, 16),
        v4(100, 64, 10),
        Prefix::masked(Family::V6.address(0xfc00 << 112), 7),
    ]
}

fn private(set: &RouteSet) -> Option<Warning> {
    let ranges = private_ranges();
    let inside = set
        .destinations
        .iter()
        .filter(|prefix| ranges.iter().any(|range| range.covers(**prefix)));
    let tally = of_all(inside, |prefix| format!("`{prefix}`"));
    tally.warning(
        WarningKind::Private,
        set,
        "destination",
        "with private addresses; make sure that no pod, Service or VPC network is among them",
    )
}

/// The guard's blackhole routes outlive what is withdrawn.
fn idle_withdraw(set: &RouteSet) -> Option<Warning> {
    (set.leak_guard && set.when_down == WhenDown::Withdraw).then(|| {
        let message = "with `leakGuard: true` withdrawn traffic is dropped, as with `whenDown: blackhole`; remove one of the two if it should leave by another path";
        Warning::of_set(WarningKind::NoEffect, set, message)
    })
}

/// Keys beside `routes.yaml` that look like lists by their names.
fn unused_lists(files: &Files) -> Option<Warning> {
    let unused = files.others.iter().filter(|name| {
        let list = [".txt", ".list", ".cidr", ".cidrs"];
        *name != ROUTES_YAML
            && list.iter().any(|end| name.ends_with(end))
            && !files.lists.contains_key(*name)
    });
    let tally = of_all(unused, |name| quoted(name));
    (tally.count > 0).then(|| Warning {
        kind: WarningKind::UnusedList,
        set: None,
        message: format!(
            "{} that no set names under `destinationFiles`: {}",
            tally.counted("list file"),
            tally.list()
        ),
    })
}

/// Without probes no gateway is ever down.
fn idle_when_down(set: &RouteSet) -> Option<Warning> {
    if set.health_check.probe != Probe::None {
        return None;
    }
    let idle = match (set.when_down, set.strategy) {
        (WhenDown::Hold, Strategy::Balance) => return None,
        (WhenDown::Hold, Strategy::Failover { .. }) => "`strategy: failover` never fails over",
        _ => "`whenDown` has no effect",
    };
    let message =
        format!("{idle} with `healthCheck.type: none`, because no gateway ever counts as down");
    Some(Warning::of_set(WarningKind::NoEffect, set, &message))
}
