//! From routes of other operators, and from `ip route` lines, to a `routes.yaml`.
//!
//! Pure. What cannot be carried over is reported, never guessed: the caller prints it beside the result.

mod lines;
mod resources;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::problem::quoted;
use super::{Operator, Requirement};
use crate::net::prefix::{Prefix, PrefixError};

/// A `routes.yaml`, and what is not in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// The text of the file.
    pub yaml: String,
    /// What could not be carried over, a sentence each.
    pub left: Vec<String>,
    /// What is worth knowing, a sentence each.
    pub notes: Vec<String>,
}

/// Converts a stream of manifests or lines; `None` when nothing in it is a route.
pub fn convert(text: &str) -> Option<Converted> {
    let mut draft = Draft::default();
    let found = resources::read(text, &mut draft) || lines::read(text, &mut draft);
    found.then(|| draft.finish())
}

/// One set to be.
#[derive(Debug, Default)]
struct Set {
    name: String,
    gateways: Vec<IpAddr>,
    destinations: Vec<Prefix>,
    selector: Vec<Requirement>,
}

#[derive(Debug, Default)]
struct Draft {
    sets: Vec<Set>,
    left: Vec<String>,
    notes: Vec<String>,
}

impl Draft {
    fn left(&mut self, what: impl Into<String>) {
        self.left.push(what.into());
    }

    /// Once, however often it is true.
    fn note(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.notes.contains(&what) {
            self.notes.push(what);
        }
    }

    /// A destination as others write it: host bits are dropped, as their kernel did.
    fn destination(&mut self, text: &str, owner: &str) -> Option<Prefix> {
        match text.trim().parse::<Prefix>() {
            Ok(prefix) => Some(prefix),
            Err(PrefixError::HostBits(right)) => {
                self.note(format!(
                    "{owner}: {} has host bits set; it is carried over as `{right}`",
                    quoted(text)
                ));
                Some(right)
            }
            Err(error) => {
                self.left(format!("{owner}: {} {error}", quoted(text)));
                None
            }
        }
    }

    fn gateway(&mut self, text: &str, owner: &str) -> Option<IpAddr> {
        let gateway = text.trim().parse().ok();
        if gateway.is_none() {
            self.left(format!(
                "{owner}: the gateway {} is not an IP address",
                quoted(text)
            ));
        }
        gateway
    }

    /// Adds a set under a name of its own, without what an earlier one has.
    fn add(&mut self, mut set: Set) {
        if set.gateways.is_empty() || set.destinations.is_empty() {
            return;
        }
        let taken: BTreeMap<Prefix, &str> = self
            .sets
            .iter()
            .filter(|other| {
                other.selector == set.selector
                    || other.selector.is_empty()
                    || set.selector.is_empty()
            })
            .flat_map(|other| other.destinations.iter().map(|p| (*p, other.name.as_str())))
            .collect();
        set.destinations.sort_unstable();
        set.destinations.dedup();
        let mut twice = Vec::new();
        set.destinations.retain(|prefix| match taken.get(prefix) {
            Some(other) => {
                twice.push(format!(
                    "`{prefix}` of `{}` is in `{other}` too, and one node has one route for it; it stays there",
                    set.name
                ));
                false
            }
            None => true,
        });
        self.left.extend(twice);
        if set.destinations.is_empty() {
            return;
        }
        set.name = self.free_name(&set.name);
        self.sets.push(set);
    }

    fn free_name(&self, wanted: &str) -> String {
        let plain = |c: char| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '-',
        };
        let name: String = wanted.chars().map(plain).take(58).collect();
        let name = match name.trim_matches('-') {
            "" => "routes",
            name => name,
        };
        let is_free = |name: &str| self.sets.iter().all(|set| set.name != name);
        if is_free(name) {
            return name.to_owned();
        }
        // One of so many is free.
        (2..self.sets.len() + 3)
            .map(|n| format!("{name}-{n}"))
            .find(|name| is_free(name))
            .unwrap_or_default()
    }

    fn finish(self) -> Converted {
        let mut yaml = String::from("routes:");
        if self.sets.is_empty() {
            yaml.push_str(" []");
        }
        yaml.push('\n');
        for set in &self.sets {
            write_set(set, &mut yaml);
        }
        Converted {
            yaml,
            left: self.left,
            notes: self.notes,
        }
    }
}

fn write_set(set: &Set, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  - name: {}\n    gateways:", set.name);
    for gateway in &set.gateways {
        let _ = writeln!(out, "      - {}", scalar(&gateway.to_string()));
    }
    let _ = writeln!(out, "    destinations:");
    for prefix in &set.destinations {
        let _ = writeln!(out, "      - {}", scalar(&prefix.to_string()));
    }
    if set.selector.is_empty() {
        return;
    }
    let _ = writeln!(out, "    nodeSelector:\n      matchExpressions:");
    for Requirement { key, operator } in &set.selector {
        let (word, values) = match operator {
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        let _ = write!(out, "        - {{ key: {}, operator: {word}", text(key));
        if let Some(values) = values {
            let values: Vec<String> = values.iter().map(|value| text(value)).collect();
            let _ = write!(out, ", values: [{}]", values.join(", "));
        }
        let _ = writeln!(out, " }}");
    }
}

/// An address or CIDR, quoted where a colon could be taken for YAML's.
fn scalar(text: &str) -> String {
    if text.contains(':') {
        format!("\"{text}\"")
    } else {
        text.to_owned()
    }
}

/// Any text; JSON's strings are YAML's.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
