//! `routes` and `protected`: from the tree to checked route sets.
//!
//! Pure. What concerns one set is decided here; what two sets may not share is `clash`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::fields::{Fields, Keys, Reader, listed};
use super::problem::{Path, Source, quoted};
use super::yaml::{At, Node, Value};
use super::{Files, ListUnread, MAX_DESTINATIONS, MAX_SETS, ROUTES_YAML, RouteSet, WhenDown};
use super::{foreign, gateways, health_check, lists, selector};
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};

/// Longest set name: it is a DNS label.
const MAX_NAME: usize = 63;
/// Most list files of one set.
const MAX_LISTS: usize = 64;
/// Most entries of `expectedRules`.
const MAX_RULES: usize = 1_000;
const EMPTIES: &str = "`routes: []` is how to say that there are none";

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

/// What the tree says, before sets are compared with each other.
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
        files,
        lists: BTreeMap::new(),
        prefixes: 0,
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
        sets.decoded.protected = sets.inline(reader, node, &Path::Root.key("protected"));
        sort(&mut sets.decoded.protected);
    }
    if let Some(node) = fields.get("expectedRules") {
        sets.decoded.expected_rules =
            expected_rules(reader, node, &Path::Root.key("expectedRules"));
    }
    sets.decoded
}

struct Sets<'f> {
    files: &'f Files,
    /// What each list file holds, in the order of the file; read once, however many sets name it.
    lists: BTreeMap<&'f str, Vec<Prefix>>,
    /// How many prefixes were read so far.
    prefixes: usize,
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
        let destinations = self.destinations(reader, &fields, path);
        let mut except = fields
            .get("except")
            .map(|node| self.inline(reader, node, &path.key("except")))
            .unwrap_or_default();
        sort(&mut except);
        self.check_families(reader, &fields, path, &gateways, &destinations, &except);
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
                    "{} happens to get the nexthop group of {}; rename one of the two",
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

    /// Inline ones and those of list files; sorted and distinct.
    fn destinations(
        &mut self,
        reader: &mut Reader<'_>,
        fields: &Fields<'_, '_>,
        path: &Path<'_>,
    ) -> Vec<Prefix> {
        let mut all = Vec::new();
        let (inline, files) = (fields.get("destinations"), fields.get("destinationFiles"));
        let empty = |node: Option<&Node<'_>>| {
            node.is_none_or(|n| matches!(&n.value, Value::List(list) if list.is_empty()))
        };
        if empty(inline) && empty(files) {
            let at = inline.or(files).map_or(fields.at, |node| node.at);
            reader.problem(at, path, "has no destinations; give some in `destinations` or `destinationFiles`, or take the set out");
        }
        if let Some(node) = inline {
            all = self.inline(reader, node, &path.key("destinations"));
        }
        if let Some(node) = files {
            let path = path.key("destinationFiles");
            let mut named: Vec<&str> = Vec::new();
            let nodes = reader
                .list(node, &path, "a list of file names")
                .unwrap_or_default();
            if nodes.len() > MAX_LISTS {
                reader.problem(
                    node.at,
                    &path,
                    format!(
                        "names {} files; at most {MAX_LISTS} are allowed",
                        nodes.len()
                    ),
                );
            }
            for (i, node) in nodes.iter().take(MAX_LISTS).enumerate() {
                let path = path.index(i);
                let Some(name) = reader.text(node, &path, "a file name") else {
                    continue;
                };
                if named.contains(&name) {
                    reader.problem(
                        node.at,
                        &path,
                        format!("{} is named twice; keep one", quoted(name)),
                    );
                    continue;
                }
                named.push(name);
                all.extend(self.list(reader, name, node.at, &path));
            }
        }
        sort(&mut all);
        all
    }

    /// A list of CIDRs in `routes.yaml`, in its order.
    fn inline(&mut self, reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Vec<Prefix> {
        let nodes = reader
            .list(node, path, "a list of CIDRs")
            .unwrap_or_default();
        if self.too_many(reader, nodes.len(), node.at, path) {
            return Vec::new();
        }
        nodes
            .iter()
            .enumerate()
            .filter_map(|(i, node)| reader.prefix(node, &path.index(i)))
            .collect()
    }

    /// The prefixes of one list file, read when it is named first.
    fn list(
        &mut self,
        reader: &mut Reader<'_>,
        name: &str,
        at: At,
        path: &Path<'_>,
    ) -> Vec<Prefix> {
        if let Err(why) = check_file_name(name) {
            reader.problem(at, path, format!("{} {why}", quoted(name)));
            return Vec::new();
        }
        let files = self.files;
        let (key, bytes) = match files.lists.get_key_value(name) {
            Some((key, Ok(bytes))) => (key, bytes),
            Some((_, Err(ListUnread::Other(why)))) => {
                reader.problem(at, path, format!("{} {why}", quoted(name)));
                return Vec::new();
            }
            Some((_, Err(ListUnread::Missing))) | None => {
                reader.problem(at, path, missing(name, &files.others));
                return Vec::new();
            }
        };
        if !self.lists.contains_key(key.as_str()) {
            let prefixes = read_list(reader, files, key, bytes);
            self.lists.insert(key, prefixes);
        }
        let count = self.lists.get(key.as_str()).map_or(0, Vec::len);
        if self.too_many(reader, count, at, path) {
            return Vec::new();
        }
        self.lists.get(key.as_str()).cloned().unwrap_or_default()
    }

    /// Counts prefixes, and says so once when there are too many.
    fn too_many(&mut self, reader: &mut Reader<'_>, more: usize, at: At, path: &Path<'_>) -> bool {
        let before = self.prefixes;
        self.prefixes = before.saturating_add(more);
        if before <= MAX_DESTINATIONS && self.prefixes > MAX_DESTINATIONS {
            reader.problem(at, path, format!("with these, there are more than {MAX_DESTINATIONS} CIDRs in all, which is the limit"));
        }
        self.prefixes > MAX_DESTINATIONS
    }

    /// Every destination needs a gateway of its family, unless `except` takes the whole family out.
    fn check_families(
        &self,
        reader: &mut Reader<'_>,
        fields: &Fields<'_, '_>,
        path: &Path<'_>,
        gateways: &[IpAddr],
        destinations: &[Prefix],
        except: &[Prefix],
    ) {
        if gateways.is_empty() {
            return; // reported, and then every destination would be
        }
        for family in Family::BOTH {
            if gateways
                .iter()
                .any(|gateway| Family::of(*gateway) == family)
            {
                continue;
            }
            let without =
                |p: &&Prefix| p.family() == family && nearest_cover(except, **p).is_none();
            let count = destinations.iter().filter(without).count();
            let Some(first) = destinations.iter().find(without) else {
                continue;
            };
            let more = if count > 1 {
                format!(", like {} more", count - 1)
            } else {
                String::new()
            };
            let message = format!(
                "`{first}` is {family}{more}, but the set has no {family} gateway; add one to `gateways`, or take it out (`except: [\"{}\"]` takes all of them)",
                family.everything()
            );
            self.report_destination(reader, fields, path, *first, &message);
        }
    }

    /// Reports a destination of a set at the place where it is written first.
    fn report_destination(
        &self,
        reader: &mut Reader<'_>,
        fields: &Fields<'_, '_>,
        path: &Path<'_>,
        prefix: Prefix,
        message: &str,
    ) {
        match locate(
            self.files,
            fields.get("destinations"),
            fields.get("destinationFiles"),
            prefix,
        ) {
            Some(Place::Inline(i, at)) => {
                reader.problem(at, &path.key("destinations").index(i), message);
            }
            Some(Place::List(source, at)) => reader.found.add(source, at, None, message),
            None => reader.problem(fields.at, path, message),
        }
    }
}

/// Where a destination is written.
#[derive(Debug)]
pub(crate) enum Place<'f> {
    /// The index in `destinations`.
    Inline(usize, At),
    List(Source<'f>, At),
}

/// Finds where a set names a prefix first. Slow on purpose: it is asked only when something is wrong,
/// so that nothing need be remembered of fifty thousand destinations that are right.
pub(crate) fn locate<'f>(
    files: &'f Files,
    inline: Option<&Node<'_>>,
    lists: Option<&Node<'_>>,
    prefix: Prefix,
) -> Option<Place<'f>> {
    let is_it = |node: &Node<'_>| node.text().is_some_and(|text| text.parse() == Ok(prefix));
    let inline = inline.map(Node::items).unwrap_or_default();
    if let Some(index) = inline.iter().position(is_it) {
        return Some(Place::Inline(index, inline[index].at));
    }
    lists
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .filter_map(Node::text)
        .find_map(|name| {
            let (name, bytes) = files.lists.get_key_value(name)?;
            let text = std::str::from_utf8(bytes.as_ref().ok()?).ok()?;
            Some(Place::List(
                Source::of(files, name, text),
                lists::find(text, prefix)?,
            ))
        })
}

/// The names of all list files in a tree, as far as they can name a file; sorted, distinct.
pub(crate) fn list_names(root: &Node<'_>) -> Vec<String> {
    let sets = root
        .entry("routes")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .take(MAX_SETS);
    let files = sets
        .filter_map(|set| set.entry("destinationFiles"))
        .flat_map(|files| files.items().iter().take(MAX_LISTS));
    let mut names: Vec<String> = files
        .filter_map(Node::text)
        .filter(|name| check_file_name(name).is_ok())
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn read_list(reader: &mut Reader<'_>, files: &Files, name: &str, bytes: &[u8]) -> Vec<Prefix> {
    let text = match super::text_of(bytes) {
        Ok(text) => text,
        Err((at, message)) => {
            // What is no text is not printed either.
            reader
                .found
                .add(Source::of(files, name, ""), at, None, message);
            return Vec::new();
        }
    };
    if let Some(what) = foreign::list(name, text) {
        // What is no list is not printed: it may be anything.
        let unseen = Source::of(files, name, "");
        reader.found.add(unseen, At::START, None, what);
        return Vec::new();
    }
    let source = Source::of(files, name, text);
    let before = reader.found.count();
    let prefixes = lists::read(source, &mut reader.found);
    if prefixes.is_empty() && reader.found.count() == before {
        reader.found.add(
            source,
            At::START,
            None,
            "holds no CIDR; if that is meant, take the file out of `destinationFiles`",
        );
    }
    prefixes
}

fn missing(name: &str, others: &[String]) -> String {
    let quoted = quoted(name);
    let there: Vec<&String> = others
        .iter()
        .filter(|other| *other != ROUTES_YAML)
        .take(5)
        .collect();
    if there.is_empty() {
        return format!(
            "{quoted} is not there; beside {ROUTES_YAML} there are no files: add a key of that name to the ConfigMap"
        );
    }
    let more = if others.len() > there.len() + 1 {
        ", and more"
    } else {
        ""
    };
    format!(
        "{quoted} is not there; the files that are there: {}{more}",
        listed(&there)
    )
}

/// A key of a `ConfigMap`, so that no path leads out of the directory.
fn check_file_name(name: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name == ROUTES_YAML {
        Err("is this file itself; a list file holds one CIDR a line")
    } else if name.is_empty()
        || name.len() > 253
        || name.starts_with("..")
        || name == "."
        || !name.bytes().all(plain)
    {
        Err(
            "is not a key of a ConfigMap; expected a plain file name like `aws.txt`, without directories",
        )
    } else {
        Ok(())
    }
}

/// The name that was probably meant.
fn as_name(name: &str) -> Option<String> {
    let plain = |c: char| match c.to_ascii_lowercase() {
        '_' | '.' | ' ' | '/' => '-',
        other => other,
    };
    let right: String = name.chars().map(plain).collect();
    let right = right.trim_matches('-');
    (right.len() <= MAX_NAME && is_name(right)).then(|| right.to_owned())
}

/// Whether a text has the characters of a name.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(plain)
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!(
            "has {} characters; a name has at most {MAX_NAME}",
            name.chars().count()
        ));
    }
    if !is_name(name) {
        let expected = "lower case letters, digits and `-`, with a letter or digit at both ends";
        return Err(match as_name(name) {
            Some(right) => format!("is not a name; a name has {expected}: write `{right}`"),
            None => format!("is not a name; expected {expected}"),
        });
    }
    Ok(())
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

fn sort(prefixes: &mut Vec<Prefix>) {
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes.shrink_to_fit();
}

/// The longest of `sorted` that is equal to `prefix` or covers it.
pub(crate) fn nearest_cover(sorted: &[Prefix], prefix: Prefix) -> Option<Prefix> {
    if sorted.is_empty() {
        return None;
    }
    (0..=prefix.len())
        .rev()
        .map(|len| Prefix::masked(prefix.address(), len))
        .find(|cover| sorted.binary_search(cover).is_ok())
}
