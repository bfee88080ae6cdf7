//! What an edit changes, in words of routes.
//!
//! Pure.

use std::collections::BTreeSet;
use std::fmt::Display;

use crate::config::{Config, RouteSet};

/// Examples of a list.
const SHOWN: usize = 5;

/// A line per set that is added (`+`), removed (`-`) or changed (`~`); none when only comments and layout differ.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<String> {
    let find = |config: &'_ Config, name: &str| {
        let mut sets = config.sets.iter();
        sets.find(|set| set.name == name).cloned()
    };
    let mut lines = Vec::new();
    for set in &old.sets {
        match find(new, &set.name) {
            Some(after) => lines.extend(changed(set, &after)),
            None => lines.push(format!("- set `{}`: {}", set.name, contents(set))),
        }
    }
    let added = new.sets.iter().filter(|set| find(old, &set.name).is_none());
    lines.extend(added.map(|set| format!("+ set `{}`: {}", set.name, contents(set))));
    let protected = difference("ranges", &old.protected, &new.protected);
    if !protected.is_empty() {
        lines.push(format!("~ protected: {}", protected.join(", ")));
    }
    if old.expected_rules != new.expected_rules {
        lines.push(format!(
            "~ expectedRules: {}",
            arrow(&old.expected_rules, &new.expected_rules)
        ));
    }
    if new.sets.is_empty() && !old.sets.is_empty() {
        lines.push("No set is left: all routes will be removed from every node.".into());
    }
    lines
}

fn contents(set: &RouteSet) -> String {
    let count = set.destinations.len();
    let plural = if count == 1 { "" } else { "s" };
    format!(
        "{count} destination{plural} through {}",
        list(&set.gateways)
    )
}

fn changed(old: &RouteSet, new: &RouteSet) -> Option<String> {
    let mut parts = difference("destinations", &old.destinations, &new.destinations);
    parts.extend(difference("exceptions", &old.except, &new.except));
    if old.gateways != new.gateways {
        parts.push(format!("gateways {}", arrow(&old.gateways, &new.gateways)));
    }
    parts.extend(gateways(old, new));
    let settings = [
        ("strategy", old.strategy != new.strategy),
        ("whenDown", old.when_down != new.when_down),
        ("leakGuard", old.leak_guard != new.leak_guard),
        ("healthCheck", old.health_check != new.health_check),
        ("nodeSelector", old.node_selector != new.node_selector),
        ("drainTimeout", old.drain_timeout != new.drain_timeout),
    ];
    let other = settings.iter().filter(|(_, differs)| *differs);
    parts.extend(other.map(|(name, _)| format!("another {name}")));
    if parts.is_empty() && old != new {
        parts.push("other settings".into());
    }
    (!parts.is_empty()).then(|| format!("~ set `{}`: {}", new.name, parts.join(", ")))
}

/// What is asked of single gateways that stay.
fn gateways(old: &RouteSet, new: &RouteSet) -> Vec<String> {
    let mut parts = Vec::new();
    for gateway in new.gateways.iter().filter(|it| old.gateways.contains(it)) {
        let share = |set: &RouteSet| set.shares.get(gateway).copied().unwrap_or_default();
        let (before, after) = (share(old), share(new));
        match (before.drain, after.drain) {
            (false, true) => parts.push(format!("{gateway} is drained")),
            (true, false) => parts.push(format!("{gateway} is no longer drained")),
            _ => {}
        }
        if before.weight != after.weight {
            parts.push(format!(
                "{gateway} has weight {} → {}",
                before.weight, after.weight
            ));
        }
    }
    parts
}

fn difference<T: Ord + Display>(what: &str, old: &[T], new: &[T]) -> Vec<String> {
    let (old, new): (BTreeSet<&T>, BTreeSet<&T>) = (old.iter().collect(), new.iter().collect());
    let part = |sign, items: Vec<&T>| {
        (!items.is_empty()).then(|| format!("{sign}{} {what} ({})", items.len(), list(&items)))
    };
    let more = part('+', new.difference(&old).copied().collect());
    let less = part('-', old.difference(&new).copied().collect());
    more.into_iter().chain(less).collect()
}

fn arrow<T: Display>(old: &[T], new: &[T]) -> String {
    format!("{} → {}", list(old), list(new))
}

fn list<T: Display>(items: &[T]) -> String {
    let mut shown: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    if items.len() > SHOWN {
        shown.push(format!("and {} more", items.len() - SHOWN));
    }
    if shown.is_empty() {
        "none".into()
    } else {
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Files, parse};

    fn config(text: &str) -> Config {
        let files = Files {
            routes_yaml: text.into(),
            ..Files::default()
        };
        parse(&files).unwrap().config
    }

    const BEFORE: &str = "routes:
  - {name: a, gateways: [10.116.0.5], destinations: [203.0.113.0/24]}
  - {name: b, gateways: [10.116.0.5, 10.116.0.6], destinations: [198.51.100.0/25, 198.51.100.128/26]}
";

    #[test]
    fn each_set_that_differs_is_a_line() {
        let after = "routes:
  - {name: b, gateways: [10.116.0.6], destinations: [198.51.100.0/25, 192.0.2.7], strategy: failover}
  - {name: c, gateways: [10.116.0.5], destinations: [203.0.113.9]}
protected: [64.225.0.0/16]
";
        insta::assert_snapshot!(changes(&config(BEFORE), &config(after)).join("\n"), @r"
        - set `a`: 1 destination through 10.116.0.5
        ~ set `b`: +1 destinations (192.0.2.7/32), -1 destinations (198.51.100.128/26), gateways 10.116.0.5, 10.116.0.6 → 10.116.0.6, another strategy
        + set `c`: 1 destination through 10.116.0.5
        ~ protected: +1 ranges (64.225.0.0/16)
        ");
    }

    #[test]
    fn a_drain_and_a_weight_are_reported_of_the_gateway() {
        let after = BEFORE.replace(
            "10.116.0.5, 10.116.0.6",
            "{ address: 10.116.0.5, drain: true }, { address: 10.116.0.6, weight: 2 }",
        );
        assert_eq!(
            changes(&config(BEFORE), &config(&after)),
            ["~ set `b`: 10.116.0.5 is drained, 10.116.0.6 has weight 1 → 2"]
        );
    }

    #[test]
    fn comments_and_order_are_no_change_and_no_set_at_all_is_a_warning() {
        let same = BEFORE.replace("routes:", "# ours\nroutes:");
        assert!(changes(&config(BEFORE), &config(&same)).is_empty());
        let none = changes(&config(BEFORE), &config("routes: []\n"));
        assert_eq!(
            none.last().unwrap(),
            "No set is left: all routes will be removed from every node."
        );
    }

    #[test]
    fn long_lists_are_shown_by_example() {
        let all: Vec<String> = (1..=9).map(|n| format!("203.0.113.{n}")).collect();
        let after = BEFORE.replace("203.0.113.0/24", &all.join(", "));
        let lines = changes(&config(BEFORE), &config(&after));
        assert!(lines[0].contains("+9 destinations (") && lines[0].contains("and 4 more"));
    }
}
