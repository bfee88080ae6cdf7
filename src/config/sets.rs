//! `routes` and `protected`: from the tree to checked route sets.
//!
//! Pure. What concerns one set is decided here; what two sets may not share is `clash`'s.

use std::collections::BTreeMap;

use super::destinations::{PrefixReader, sort};
use super::fields::{Fields, Keys, Reader};
use super::names::check_name;
use super::problem::{Path, quoted};
use super::yaml::{Node, Value};
use super::{Files, MAX_SETS, RouteSet, WhenDown};
use super::{gateways, health_check, selector};
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};

/// Most entries of `expectedRules`.
const MAX_RULES: usize = 1_000;
const EMPTIES: &str = "`routes: []` means that there are none";

const TOP: Keys = Keys {
    known: &["routes", "protected", "expectedRules"],
    hint: |key| match key {
        "name" | "gateways" | "destinations" => Some("route sets are entries of the list `routes`"),
        _ => None,
    },
};

const SET: Keys = Keys {
    known: &[
        "name",
        "gateways",
        "drainTimeout",
        "strategy",
        "failback",
        "destinations",
        "destinationFiles",
        "except",
        "whenDown",
        "leakGuard",
        "healthCheck",
        "nodeSelector",
    ],
    hint: |key| match key {
        "type" | "port" | "interval" | "timeout" | "failures" | "successes" | "target" => {
            Some("it goes under `healthCheck`")
        }
        "matchLabels" | "matchExpressions" => Some("it goes under `nodeSelector`"),
        "protected" => Some("it goes to the top level, beside `routes`"),
        "gateway" => Some("did you mean `gateways`, a list?"),
        "podSelector" | "namespaceSelector" | "pods" | "namespaces" | "namespace"
        | "serviceAccount" | "serviceAccountName" => Some(
            "pods cannot be selected, because a route is for the whole node; `nodeSelector` selects nodes",
        ),
        "ports" | "protocol" | "protocols" => Some("routes have no ports and no protocols"),
        "domain" | "domains" | "host" | "hosts" | "hostnames" | "fqdn" | "fqdns" | "toFQDNs" => {
            Some("names are not resolved; list CIDRs in `destinations`")
        }
        "destination" | "cidr" | "cidrs" | "destinationCIDRs" | "subnet" | "subnets" | "to" => {
            Some("did you mean `destinations`, a list?")
        }
        "file" | "files" | "lists" => Some("did you mean `destinationFiles`, a list?"),
        "exclude" | "excludes" | "excludedCIDRs" | "exceptions" => {
            Some("did you mean `except`, a list?")
        }
        "interface" | "dev" | "device" => {
            Some("the device is the one whose subnet holds the gateway; take it out")
        }
        "metric" | "table" => Some("it is a flag of the agent, the same for every set"),
        "egressIP" | "snat" | "source" | "sourceIP" => {
            Some("the gateway chooses the source address; set it there")
        }
        "enabled" | "disabled" => Some("to switch a set off, take it out"),
        "selector" => Some("did you mean `nodeSelector`?"),
        _ => None,
    },
};

/// What the tree holds, before sets are compared with each other.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) sets: Vec<RouteSet>,
    pub(crate) protected: Vec<Prefix>,
    pub(crate) expected_rules: Vec<u32>,
    /// `failback` beside `balance`, `weight` beside `failover`: the set's name and the key.
    pub(crate) idle_keys: Vec<(String, &'static str)>,
}

/// Reads a whole `routes.yaml` and the list files it names.
pub(crate) fn read(reader: &mut Reader<'_>, root: &Node<'_>, files: &Files) -> Decoded {
    let mut sets = Sets {
        prefixes: PrefixReader::new(files),
        names: BTreeMap::new(),
        groups: BTreeMap::new(),
        decoded: Decoded::default(),
    };
    if matches!(root.value, Value::Null) {
        reader.problem(
            root.at,
            &Path::Root,
            format!("the file is empty; {EMPTIES}"),
        );
        return sets.decoded;
    }
    let Some(fields) = reader.fields(root, &Path::Root, &TOP) else {
        return sets.decoded;
    };
    let path = Path::Root.key("routes");
    match fields.get("routes") {
        None => reader.problem(
            root.at,
            &Path::Root,
            format!("there is no `routes`; {EMPTIES}"),
        ),
        Some(Node {
            value: Value::Null,
            at,
        }) => reader.problem(*at, &path, format!("has no value; {EMPTIES}")),
        Some(node) => {
            let nodes = reader
                .list(node, &path, "a list of route sets")
                .unwrap_or_default();
            if nodes.len() > MAX_SETS {
                reader.problem(
                    node.at,
                    &path,
                    format!(
                        "has {} route sets; at most {MAX_SETS} are allowed",
                        nodes.len()
                    ),
                );
            }
            for (i, node) in nodes.iter().take(MAX_SETS).enumerate() {
                sets.set(reader, node, &path.index(i));
            }
        }
    }
    if let Some(node) = fields.get("protected") {
        sets.decoded.protected = sets
            .prefixes
            .inline(reader, node, &Path::Root.key("protected"));
        sort(&mut sets.decoded.protected);
    }
    if let Some(node) = fields.get("expectedRules") {
        sets.decoded.expected_rules =
            expected_rules(reader, node, &Path::Root.key("expectedRules"));
    }
    sets.decoded
}

struct Sets<'f> {
    prefixes: PrefixReader<'f>,
    /// The line on which each name was used first.
    names: BTreeMap<String, u32>,
    /// The name that took each nexthop group id.
    groups: BTreeMap<u32, String>,
    decoded: Decoded,
}

impl Sets<'_> {
    fn set(&mut self, reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) {
        let Some(fields) = reader.fields(node, path, &SET) else {
            return;
        };
        let name = self.name(reader, &fields, path);
        let gateways::Gateways {
            addresses: gateways,
            shares,
            strategy,
            drain_timeout,
            idle_key,
        } = gateways::read(reader, &fields, path);
        let destinations = self.prefixes.destinations(reader, &fields, path);
        let mut except = fields
            .get("except")
            .map(|node| self.prefixes.inline(reader, node, &path.key("except")))
            .unwrap_or_default();
        sort(&mut except);
        self.prefixes
            .check_families(reader, &fields, path, &gateways, &destinations, &except);
        let when_down = fields.get("whenDown").and_then(|node| {
            let choices = [
                ("hold", WhenDown::Hold),
                ("withdraw", WhenDown::Withdraw),
                ("blackhole", WhenDown::Blackhole),
            ];
            reader.one_of(node, &path.key("whenDown"), &choices)
        });
        let leak_guard = fields
            .get("leakGuard")
            .and_then(|node| reader.boolean(node, &path.key("leakGuard")));
        let health_check = fields
            .get("healthCheck")
            .and_then(|node| health_check::read(reader, node, &path.key("healthCheck"), &gateways))
            .unwrap_or_default();
        let node_selector = fields
            .get("nodeSelector")
            .and_then(|node| selector::read(reader, node, &path.key("nodeSelector")));
        let Some(name) = name else { return };
        let idle = idle_key.map(|key| (name.clone(), key));
        self.decoded.idle_keys.extend(idle);
        self.decoded.sets.push(RouteSet {
            name,
            gateways,
            shares,
            drain_timeout,
            destinations,
            except,
            strategy,
            when_down: when_down.unwrap_or(WhenDown::Hold),
            leak_guard: leak_guard.unwrap_or(false),
            health_check,
            node_selector,
        });
    }

    fn name(
        &mut self,
        reader: &mut Reader<'_>,
        fields: &Fields<'_, '_>,
        path: &Path<'_>,
    ) -> Option<String> {
        let Some(node) = fields.get("name") else {
            reader.problem(
                fields.at,
                path,
                "has no `name`; one is needed, like `name: partner-api`",
            );
            return None;
        };
        let path = path.key("name");
        let name = reader.text(node, &path, "a name")?;
        if let Err(why) = check_name(name) {
            reader.problem(node.at, &path, format!("{} {why}", quoted(name)));
            return None;
        }
        if let Some(line) = self.names.get(name) {
            reader.problem(
                node.at,
                &path,
                format!(
                    "{} is taken by the set on {}; names are unique",
                    quoted(name),
                    reader.source.line(*line)
                ),
            );
            return None;
        }
        for id in Family::BOTH.map(|family| nexthop_id::group(name, family)) {
            // One in a hundred for a thousand sets, and then routes of one set would follow the other's gateways.
            if let Some(other) = self.groups.insert(id, name.to_owned()) {
                let message = format!(
                    "{} hashes to the same nexthop group ID as {}; rename one of the two",
                    quoted(name),
                    quoted(&other)
                );
                reader.problem(node.at, &path, message);
                return None;
            }
        }
        self.names.insert(name.to_owned(), node.at.line);
        Some(name.to_owned())
    }
}

/// Priorities as `ip rule` shows them; sorted.
fn expected_rules(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Vec<u32> {
    let nodes = reader
        .list(node, path, "a list of rule priorities, like `[1536]`")
        .unwrap_or_default();
    if nodes.len() > MAX_RULES {
        let count = nodes.len();
        let message = format!("has {count} priorities; at most {MAX_RULES} are allowed");
        reader.problem(node.at, path, message);
    }
    let mut rules = Vec::new();
    for (i, node) in nodes.iter().take(MAX_RULES).enumerate() {
        let path = path.index(i);
        let Some(rule) = reader.number(node, &path, 1..=u32::MAX) else {
            continue;
        };
        if rules.contains(&rule) {
            reader.problem(
                node.at,
                &path,
                format!("`{rule}` is listed twice; keep one"),
            );
        } else {
            rules.push(rule);
        }
    }
    rules.sort_unstable();
    rules
}
