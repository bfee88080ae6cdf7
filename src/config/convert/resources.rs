//! `StaticRoute` of two operators, and `Route` of the DOKS routing agent.
//!
//! Pure.

use super::{Draft, Set};
use crate::config::manifests::documents;
use crate::config::problem::quoted;
use crate::config::yaml::{Node, decode_large};
use crate::config::{Operator, Requirement};
use crate::net::prefix::Prefix;

/// Most lists within lists.
const MAX_NESTED: usize = 4;
/// The label that holds a node's host name.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Reads all resources of a stream; false when there is no manifest in it.
pub(super) fn read(text: &str, draft: &mut Draft) -> bool {
    let mut any = false;
    for document in documents(text) {
        match decode_large(document.text) {
            Ok(root) if root.entry("kind").is_some() => {
                any = true;
                resource(&root, MAX_NESTED, draft);
            }
            Err(error) if document.text.contains("kind:") => {
                any = true;
                draft.left(format!(
                    "the document that begins on line {}: {}",
                    document.before + 1,
                    error.message
                ));
            }
            _ => {}
        }
    }
    any
}

fn resource(node: &Node<'_>, depth: usize, draft: &mut Draft) {
    let text = |key: &str| node.entry(key).and_then(Node::text).unwrap_or_default();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if kind.ends_with("List") {
        if depth > 0 {
            for item in node.entry("items").map(Node::items).unwrap_or_default() {
                resource(item, depth - 1, draft);
            }
        }
        return;
    }
    let name = node
        .entry("metadata")
        .and_then(|m| m.entry("name"))
        .and_then(Node::text)
        .unwrap_or("routes");
    let owner = format!("{kind} {}", quoted(name));
    let Some(spec) = node.entry("spec") else {
        draft.left(format!("{owner}: it has no `spec`"));
        return;
    };
    let group = version.split('/').next().unwrap_or_default();
    match (kind, group) {
        ("StaticRoute", "networking.digitalocean.com") => digitalocean(name, &owner, spec, draft),
        ("StaticRoute", group) if group.ends_with("ibm.com") => ibm(name, &owner, spec, draft),
        ("Route", "networking.doks.digitalocean.com") => doks(name, &owner, spec, draft),
        _ => draft.left(format!(
            "{owner} of {}: not a kind that routes nodes; `convert` reads StaticRoute, Route of the DOKS routing agent, and `ip route` lines",
            quoted(version)
        )),
    }
}

/// A text or a list of texts.
fn texts<'n>(node: Option<&'n Node<'_>>) -> Vec<&'n str> {
    let Some(node) = node else { return Vec::new() };
    match node.text() {
        Some(text) => vec![text],
        None => node.items().iter().filter_map(Node::text).collect(),
    }
}

fn destinations(texts: &[&str], owner: &str, draft: &mut Draft) -> Vec<Prefix> {
    if texts.is_empty() {
        draft.left(format!("{owner}: it has no destination"));
    }
    let read = |text: &&str| draft.destination(text, owner);
    texts.iter().filter_map(read).collect()
}

/// What a spec has beyond what is carried over.
fn unknown(spec: &Node<'_>, known: &[&str], owner: &str, draft: &mut Draft) {
    if let crate::config::yaml::Value::Map(entries) = &spec.value {
        for key in entries.iter().filter_map(|(key, _)| key.text()) {
            if !known.contains(&key) {
                draft.left(format!("{owner}: {} is not carried over", quoted(key)));
            }
        }
    }
}

fn digitalocean(name: &str, owner: &str, spec: &Node<'_>, draft: &mut Draft) {
    // Early versions had `destination`, as one text or as a list, and `nodeName`.
    let known = ["destinations", "destination", "gateway", "nodeName"];
    unknown(spec, &known, owner, draft);
    let mut wanted = texts(spec.entry("destinations"));
    wanted.extend(texts(spec.entry("destination")));
    let destinations = destinations(&wanted, owner, draft);
    let gateway = spec
        .entry("gateway")
        .and_then(Node::text)
        .unwrap_or_default();
    let gateways = draft.gateway(gateway, owner);
    let node_name = spec.entry("nodeName").and_then(Node::text);
    let selector: Vec<Requirement> = node_name
        .map(|node| by_name(vec![node.to_owned()], owner, draft))
        .into_iter()
        .collect();
    draft.add(Set {
        name: name.to_owned(),
        gateways: gateways.into_iter().collect(),
        destinations,
        selector,
    });
}

fn ibm(name: &str, owner: &str, spec: &Node<'_>, draft: &mut Draft) {
    unknown(
        spec,
        &["subnet", "gateway", "table", "selectors"],
        owner,
        draft,
    );
    let destinations = destinations(&texts(spec.entry("subnet")), owner, draft);
    let Some(gateway) = spec.entry("gateway").and_then(Node::text) else {
        draft.left(format!(
            "{owner}: it has no gateway, which keeps its traffic on the node's default route; add the subnet to `protected` if another set covers it"
        ));
        return;
    };
    let table = spec.entry("table");
    if table.is_some() {
        draft.left(format!(
            "{owner}: `table` is not carried over; routes are in the main table unless agents run with `--table`"
        ));
    }
    let gateways = draft.gateway(gateway, owner);
    let selectors = spec.entry("selectors").map(Node::items).unwrap_or_default();
    let selector = requirements(selectors, owner, draft);
    draft.add(Set {
        name: name.to_owned(),
        gateways: gateways.into_iter().collect(),
        destinations,
        selector: selector.unwrap_or_default(),
    });
}

fn doks(name: &str, owner: &str, spec: &Node<'_>, draft: &mut Draft) {
    unknown(
        spec,
        &["destinations", "gateways", "nodeSelector"],
        owner,
        draft,
    );
    let destinations = destinations(&texts(spec.entry("destinations")), owner, draft);
    let mut gateways = Vec::new();
    for text in texts(spec.entry("gateways")) {
        gateways.extend(draft.gateway(text, owner));
    }
    let terms = spec
        .entry("nodeSelector")
        .and_then(|selector| selector.entry("nodeSelectorTerms"))
        .map(Node::items)
        .unwrap_or_default();
    let mut alternatives: Vec<Vec<Requirement>> = Vec::new();
    for term in terms {
        let expressions = term.entry("matchExpressions").map(Node::items);
        let fields = term.entry("matchFields").map(Node::items);
        let Some(mut all) = requirements(expressions.unwrap_or_default(), owner, draft) else {
            return;
        };
        for field in requirements(fields.unwrap_or_default(), owner, draft).unwrap_or_default() {
            match (field.key.as_str(), field.operator) {
                ("metadata.name", Operator::In(names)) => all.push(by_name(names, owner, draft)),
                (key, _) => draft.left(format!(
                    "{owner}: the field {} cannot be selected by",
                    quoted(key)
                )),
            }
        }
        alternatives.push(all);
    }
    let alternatives = merged(alternatives);
    if alternatives.len() > 1 {
        draft.note(format!(
            "{owner}: its node selector has alternatives, which are sets of their own; a node that two of them select will refuse both, so make them exclude each other"
        ));
    }
    let sets = if alternatives.is_empty() {
        vec![Vec::new()]
    } else {
        alternatives
    };
    for selector in sets {
        let destinations = destinations.clone();
        draft.add(Set {
            name: name.to_owned(),
            gateways: gateways.clone(),
            destinations,
            selector,
        });
    }
}

/// Alternatives that are one `In` of the same label are one `In`.
fn merged(alternatives: Vec<Vec<Requirement>>) -> Vec<Vec<Requirement>> {
    let mut all: Vec<String> = Vec::new();
    let mut label: Option<String> = None;
    for term in &alternatives {
        let [
            Requirement {
                key,
                operator: Operator::In(values),
            },
        ] = term.as_slice()
        else {
            return alternatives;
        };
        if *label.get_or_insert_with(|| key.clone()) != *key {
            return alternatives;
        }
        all.extend(
            values
                .iter()
                .filter(|value| !all.contains(value))
                .cloned()
                .collect::<Vec<_>>(),
        );
    }
    match label {
        Some(key) => vec![vec![Requirement {
            key,
            operator: Operator::In(all),
        }]],
        None => alternatives,
    }
}

/// The requirements, or nothing when one of them cannot be carried over: fewer would select more nodes.
fn requirements(nodes: &[Node<'_>], owner: &str, draft: &mut Draft) -> Option<Vec<Requirement>> {
    let mut all = Vec::new();
    for node in nodes {
        let key = node.entry("key").and_then(Node::text).unwrap_or_default();
        let word = node
            .entry("operator")
            .and_then(Node::text)
            .unwrap_or_default();
        let values: Vec<String> = texts(node.entry("values"))
            .into_iter()
            .map(str::to_owned)
            .collect();
        let operator = match word {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                draft.left(format!(
                    "{owner}: the operator {} has no counterpart, so that the whole is left out",
                    quoted(other)
                ));
                return None;
            }
        };
        all.push(Requirement {
            key: key.to_owned(),
            operator,
        });
    }
    Some(all)
}

fn by_name(names: Vec<String>, owner: &str, draft: &mut Draft) -> Requirement {
    draft.note(format!(
        "{owner}: nodes are selected by name, which becomes the label `{HOSTNAME}`; make sure that it holds the node's name"
    ));
    Requirement {
        key: HOSTNAME.to_owned(),
        operator: Operator::In(names),
    }
}
