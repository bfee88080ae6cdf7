//! `ip route add …` commands, and what `ip route show` prints.
//!
//! Pure. Routes of the same gateways become one set.

use std::iter::Peekable;
use std::net::IpAddr;
use std::str::SplitWhitespace;

use super::{Draft, Set};
use crate::config::problem::quoted;
use crate::net::prefix::{Family, Prefix};

/// Route protocols of what the host has by itself.
const OF_THE_HOST: [&str; 5] = ["kernel", "dhcp", "ra", "redirect", "bird"];
/// Types of routes that go nowhere.
const NOWHERE: [&str; 4] = ["blackhole", "unreachable", "prohibit", "throw"];

/// Reads all lines; false when none of them is a route.
pub(super) fn read(text: &str, draft: &mut Draft) -> bool {
    let mut any = false;
    let mut groups: Vec<(Vec<IpAddr>, Vec<Prefix>)> = Vec::new();
    for (number, line) in joined(text) {
        let owner = format!("line {number}");
        let Some(route) = Route::of(&line) else {
            if looks_like_a_route(&line) {
                any = true;
                draft.left(format!("{owner}: {} is not understood", quoted(&line)));
            }
            continue;
        };
        any = true;
        let Some((gateways, prefix)) = route.judge(&owner, draft) else {
            continue;
        };
        match groups.iter_mut().find(|(known, _)| *known == gateways) {
            Some((_, prefixes)) => prefixes.push(prefix),
            None => groups.push((gateways, vec![prefix])),
        }
    }
    for (gateways, destinations) in groups {
        let first = gateways.first().map(IpAddr::to_string);
        draft.add(Set {
            name: format!("via-{}", first.unwrap_or_default()),
            gateways,
            destinations,
            selector: Vec::new(),
        });
    }
    any
}

/// Lines with those that continue them, as next hops do in `ip route show`, and without comments.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split('#').next().unwrap_or_default();
        let content = content.trim_end().trim_end_matches('\\');
        if content.trim().is_empty() {
            continue;
        }
        let continues =
            content.trim_start().starts_with("nexthop ") && content.starts_with([' ', '\t']);
        match lines.last_mut().filter(|_| continues) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(content.trim());
            }
            None => lines.push((number, content.trim().to_owned())),
        }
    }
    lines
}

fn looks_like_a_route(line: &str) -> bool {
    line.contains(" via ")
        || line.contains("route ")
        || line.contains(" dev ")
        || line.contains(" gw ")
}

/// A line, taken apart.
struct Route<'l> {
    /// The word in front, like `add` or `del`; empty in `ip route show`.
    verb: &'l str,
    destination: &'l str,
    v6: bool,
    gateways: Vec<(&'l str, u32)>,
    protocol: Option<&'l str>,
    table: Option<&'l str>,
    nowhere: Option<&'l str>,
    /// Options that change what the route does.
    others: Vec<&'l str>,
}

impl<'l> Route<'l> {
    fn of(line: &'l str) -> Option<Self> {
        let line = line.split(['|', ';', '&', '>']).next()?.trim();
        let mut words = line.split_whitespace().peekable();
        let mut route = Route {
            verb: "",
            destination: "",
            v6: false,
            gateways: Vec::new(),
            protocol: None,
            table: None,
            nowhere: None,
            others: Vec::new(),
        };
        while let Some(word) = words.next_if(|word| {
            matches!(
                *word,
                "sudo"
                    | "ip"
                    | "/sbin/ip"
                    | "/usr/sbin/ip"
                    | "route"
                    | "r"
                    | "ro"
                    | "-4"
                    | "-6"
                    | "-A"
                    | "inet6"
            )
        }) {
            route.v6 |= word == "-6" || word == "inet6";
        }
        let verbs = ["add", "a", "replace", "append", "change", "del", "delete"];
        route.verb = words.next_if(|word| verbs.contains(word)).unwrap_or("");
        while words
            .next_if(|word| matches!(*word, "-net" | "-host" | "unicast" | "to"))
            .is_some()
        {}
        route.nowhere = words.next_if(|word| NOWHERE.contains(word));
        route.destination = words.next()?;
        let is_destination = route.destination == "default"
            || route.destination.starts_with('$')
            || route.destination.parse::<Prefix>().is_ok()
            || route.destination.contains('/');
        if !is_destination {
            return None;
        }
        route.options(words)?;
        Some(route)
    }

    /// What comes after the destination; nothing where it is cut short.
    fn options(&mut self, mut words: Peekable<SplitWhitespace<'l>>) -> Option<()> {
        while let Some(word) = words.next() {
            match word {
                "via" => {
                    words.next_if(|word| *word == "inet6" || *word == "inet");
                    self.gateways.push((words.next()?, 1));
                }
                "gw" => self.gateways.push((words.next()?, 1)),
                "weight" => {
                    let weight = words.next()?.parse().ok()?;
                    self.gateways.last_mut()?.1 = weight;
                }
                "proto" | "protocol" => self.protocol = words.next(),
                "table" => self.table = words.next(),
                "dev" | "metric" | "pref" | "nhid" | "scope" | "preference" | "expires" => {
                    words.next();
                }
                "nexthop" | "onlink" | "linkdown" | "dead" | "rt_trap" | "offload" => {}
                other if other.starts_with("nexthop") => {}
                other => {
                    self.others.push(other);
                    words.next();
                }
            }
        }
        Some(())
    }

    /// Gateways and destination, or nothing with the reason in the draft.
    fn judge(&self, owner: &str, draft: &mut Draft) -> Option<(Vec<IpAddr>, Prefix)> {
        let shown = self.destination;
        if matches!(self.verb, "del" | "delete") {
            draft.left(format!(
                "{owner}: `{}` removes a route; nothing is made of it",
                self.verb
            ));
            return None;
        }
        if self.verb.is_empty() && self.protocol.is_some_and(|p| OF_THE_HOST.contains(&p)) {
            draft.note("routes that the host has by itself (proto kernel, dhcp, ra) are left out");
            return None;
        }
        if let Some(nowhere) = self.nowhere {
            draft.left(format!(
                "{owner}: {} is a {nowhere} route; `whenDown: blackhole` and `leakGuard` drop only the traffic of a set",
                quoted(shown)
            ));
            return None;
        }
        if self.gateways.is_empty() {
            draft.left(format!("{owner}: {} has no gateway", quoted(shown)));
            return None;
        }
        if let Some(table) = self.table.filter(|table| !matches!(*table, "main" | "254")) {
            draft.left(format!(
                "{owner}: {} is in table {table}; agents use one table, which is main unless they run with `--table`",
                quoted(shown)
            ));
            return None;
        }
        for option in &self.others {
            draft.left(format!(
                "{owner}: the option {} of {} is not carried over",
                quoted(option),
                quoted(shown)
            ));
        }
        let mut gateways = Vec::new();
        for (text, weight) in &self.gateways {
            gateways.push((draft.gateway(text, owner)?, *weight));
        }
        let everything = self.v6 || gateways.iter().any(|(gateway, _)| gateway.is_ipv6());
        let prefix = match (shown, everything) {
            ("default", false) => Family::V4.everything(),
            ("default", true) => Family::V6.everything(),
            _ => draft.destination(shown, owner)?,
        };
        // A share is relative: equal weights are none.
        if gateways.iter().any(|(_, weight)| *weight != gateways[0].1) {
            draft.left(format!(
                "{owner}: the weights of the gateways of {} are not carried over",
                quoted(shown)
            ));
        }
        let gateways = gateways.into_iter().map(|(gateway, _)| gateway).collect();
        Some((gateways, prefix))
    }
}
