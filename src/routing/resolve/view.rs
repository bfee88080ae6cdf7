//! A set on this node, as reports show it.
//!
//! Pure values.

use std::collections::BTreeMap;

use crate::config::{RouteSet, Strategy, WhenDown};
use crate::net::prefix::Family;
use crate::report::status::{
    GatewayStatus, Problem, ProblemKind, SKIPPED_SHOWN, SetStatus, Skipped, Taken,
};
use crate::routing::overridden::Overridden;

/// One set on this node.
#[derive(Clone, Debug)]
pub struct SetView {
    /// Its name.
    pub name: String,
    /// How its gateways share.
    pub strategy: Strategy,
    /// What happens when none is healthy.
    pub when_down: WhenDown,
    /// In listed order.
    pub gateways: Vec<GatewayStatus>,
    /// Its group per family that has routes.
    pub groups: BTreeMap<Family, u32>,
    /// Prefixes wanted on this node.
    pub wanted: usize,
    /// Destinations that are not routed as written; the first of them.
    pub skipped: Vec<Skipped>,
    /// How many there are.
    pub skipped_total: usize,
    /// Routes of others inside its destinations.
    pub overridden: Overridden,
    /// Whether a leak guard is behind each destination.
    pub leak_guard: bool,
    /// Destinations whose packets go elsewhere, as lookups show.
    pub bypassed: Vec<Taken>,
    /// Families without a healthy gateway, each with what is done about it.
    pub down: BTreeMap<Family, String>,
    /// What is not in force although wanted.
    pub problems: Vec<Problem>,
    /// Whether it applies is not known yet.
    pub undecided: bool,
}

impl SetView {
    pub(super) fn empty(set: &RouteSet) -> Self {
        Self {
            name: set.name.clone(),
            strategy: set.strategy,
            when_down: set.when_down,
            gateways: Vec::new(),
            groups: BTreeMap::new(),
            wanted: 0,
            skipped: Vec::new(),
            skipped_total: 0,
            overridden: Overridden::default(),
            leak_guard: set.leak_guard,
            bypassed: Vec::new(),
            down: BTreeMap::new(),
            problems: Vec::new(),
            undecided: false,
        }
    }

    /// More specific routes of others that win inside its destinations: how many, and up to five of them.
    pub fn describe_overridden(&self) -> Option<String> {
        let total = Some(self.overridden.total).filter(|total| *total > 0)?;
        let shown = self.overridden.shown.iter().take(5);
        let examples: Vec<String> = shown
            .map(|t| format!("{} by {}", t.destination, t.by))
            .collect();
        Some(format!(
            "set `{}`: {total} more specific route(s) of others win inside its destinations, among them {}",
            self.name,
            examples.join(", ")
        ))
    }

    /// A set for which it is unknown whether it applies.
    pub(super) fn skipped(set: &RouteSet, reason: &str) -> Self {
        let shown = set.destinations.iter().take(SKIPPED_SHOWN);
        let skipped = shown
            .map(|prefix| Skipped {
                destination: prefix.to_string(),
                reason: reason.to_owned(),
            })
            .collect();
        Self {
            skipped,
            skipped_total: set.destinations.len(),
            ..Self::empty(set)
        }
    }
}

/// For reports: milliseconds, to the microsecond.
pub fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// All that is not in force although wanted.
pub fn problems(sets: &[SetView], others: &[Problem]) -> Vec<Problem> {
    let of_set = |set: &SetView| -> Vec<Problem> {
        let down = |text: &String| Problem::of_set(ProblemKind::NoHealthyGateway, &set.name, text);
        let down = set.down.values().map(down);
        down.chain(set.problems.iter().cloned()).collect()
    };
    let of_sets = sets.iter().flat_map(of_set);
    of_sets.chain(others.iter().cloned()).collect()
}

/// A set for a report.
pub fn set_status(set: &SetView, installed: usize) -> SetStatus {
    SetStatus {
        name: set.name.clone(),
        strategy: strategy_word(set.strategy).to_owned(),
        when_down: when_down_word(set.when_down).to_owned(),
        gateways: set.gateways.clone(),
        wanted: set.wanted,
        installed,
        skipped: set.skipped.iter().take(SKIPPED_SHOWN).cloned().collect(),
        overridden: set.overridden.shown.clone(),
        bypassed: set.bypassed.clone(),
    }
}

const fn strategy_word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Balance => "balance",
        Strategy::Failover { .. } => "failover",
    }
}

const fn when_down_word(when_down: WhenDown) -> &'static str {
    match when_down {
        WhenDown::Hold => "hold",
        WhenDown::Withdraw => "withdraw",
        WhenDown::Blackhole => "blackhole",
    }
}
