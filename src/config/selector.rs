//! `nodeSelector`: a Kubernetes `LabelSelector`, checked by the API server's own rules.
//!
//! Pure. Matching a node's labels is `resolve`'s; here selectors are read, and compared with each
//! other as far as that is possible without knowing the nodes.

use std::collections::BTreeMap;

use super::fields::{Keys, Reader};
use super::problem::{Path, quoted};
use super::yaml::{At, Node};
use super::{NodeSelector, Operator, Requirement};

/// Most terms of one selector.
const MAX_TERMS: usize = 64;
/// Most values of one term.
const MAX_VALUES: usize = 1_000;
/// Longest name and value of a label, and longest prefix of a key.
const MAX_NAME: usize = 63;
const MAX_PREFIX: usize = 253;

const SELECTOR: Keys = Keys {
    known: &["matchLabels", "matchExpressions"],
    hint: |_| Some("labels go under `matchLabels`"),
};
const REQUIREMENT: Keys = Keys {
    known: &["key", "operator", "values"],
    hint: |_| None,
};

#[derive(Clone, Copy, PartialEq)]
enum Op {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

pub(crate) fn read(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<NodeSelector> {
    let fields = reader.fields(node, path, &SELECTOR)?;
    let mut selector = NodeSelector::default();
    if let Some(labels) = fields.get("matchLabels") {
        let path = path.key("matchLabels");
        for (at, key, value) in reader
            .mapping(labels, &path, "a mapping of labels to values")
            .unwrap_or_default()
        {
            let path = path.key(key);
            if let Err(why) = check_key(key) {
                reader.problem(at, &path, format!("{} {why}", quoted(key)));
            }
            if let Some(value) = label_value(reader, value, &path) {
                selector.match_labels.insert(key.to_owned(), value);
            }
        }
    }
    if let Some(expressions) = fields.get("matchExpressions") {
        let path = path.key("matchExpressions");
        for (i, node) in reader
            .list(expressions, &path, "a list of requirements")
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            selector
                .match_expressions
                .extend(requirement(reader, node, &path.index(i)));
        }
    }
    if selector.match_labels.len() + selector.match_expressions.len() > MAX_TERMS {
        reader.problem(node.at, path, format!("has more than {MAX_TERMS} terms"));
    }
    Some(selector)
}

fn requirement(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Requirement> {
    let fields = reader.fields(node, path, &REQUIREMENT)?;
    let key = fields.get("key").and_then(|node| {
        let path = path.key("key");
        let key = reader.text(node, &path, "a label")?;
        check_key(key)
            .map_err(|why| reader.problem(node.at, &path, format!("{} {why}", quoted(key))))
            .ok()?;
        Some(key.to_owned())
    });
    let choices = [
        ("In", Op::In),
        ("NotIn", Op::NotIn),
        ("Exists", Op::Exists),
        ("DoesNotExist", Op::DoesNotExist),
    ];
    let op = fields
        .get("operator")
        .and_then(|node| reader.one_of(node, &path.key("operator"), &choices));
    for name in ["key", "operator"] {
        if fields.get(name).is_none() {
            reader.problem(fields.at, path, format!("has no `{name}`"));
        }
    }
    let values = fields
        .get("values")
        .map(|node| (node, values(reader, node, &path.key("values"))));
    let op = op?;
    let given = values.as_ref().map(|(node, read)| (*node, read.as_deref()));
    check_values(reader, op, given, fields.at, path);
    let values = values.and_then(|(_, values)| values).unwrap_or_default();
    let operator = match op {
        Op::In => Operator::In(values),
        Op::NotIn => Operator::NotIn(values),
        Op::Exists => Operator::Exists,
        Op::DoesNotExist => Operator::DoesNotExist,
    };
    Some(Requirement {
        key: key?,
        operator,
    })
}

/// Reports values that an operator needs and does not have, or has and must not.
fn check_values(
    reader: &mut Reader<'_>,
    op: Op,
    values: Option<(&Node<'_>, Option<&[String]>)>,
    at: At,
    path: &Path<'_>,
) {
    match (op, values) {
        (Op::In | Op::NotIn, None) => {
            reader.problem(at, path, "has no `values`, which `In` and `NotIn` need");
        }
        (Op::In | Op::NotIn, Some((node, Some([])))) => {
            reader.problem(
                node.at,
                &path.key("values"),
                "is empty; `In` and `NotIn` need at least one value",
            );
        }
        (Op::Exists | Op::DoesNotExist, Some((node, _))) => {
            reader.problem(
                node.at,
                &path.key("values"),
                "is not allowed with `Exists` and `DoesNotExist`",
            );
        }
        _ => {}
    }
}

fn values(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Vec<String>> {
    let nodes = reader.list(node, path, "a list of label values")?;
    if nodes.len() > MAX_VALUES {
        reader.problem(node.at, path, format!("has more than {MAX_VALUES} values"));
        return None;
    }
    let mut values = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        values.extend(label_value(reader, node, &path.index(i)));
    }
    Some(values)
}

fn label_value(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<String> {
    let value = reader.text(node, path, "a label value")?;
    if !value.is_empty()
        && let Err(why) = check_name(value)
    {
        reader.problem(
            node.at,
            path,
            format!("{} is not a label value; it {why}", quoted(value)),
        );
        return None;
    }
    Some(value.to_owned())
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    check_name(name).map_err(|why| format!("is not a label; its name {why}"))?;
    let label = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    match prefix {
        Some(prefix) if prefix.len() > MAX_PREFIX || !prefix.split('.').all(label) => {
            Err("is not a label; the part before the slash is a DNS name".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let fine = name.len() <= MAX_NAME
        && name.bytes().all(plain)
        && ends(name.bytes().next())
        && ends(name.bytes().last());
    if fine {
        return Ok(());
    }
    Err(format!(
        "has 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`, and starts and ends with a letter or digit"
    ))
}

/// How two selectors relate, for any cluster whatever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// No node can match both.
    Never,
    /// It depends on the nodes.
    Perhaps,
    /// Every node that matches one of them matches the other.
    Always,
}

/// A selector in one form: `matchLabels` as `In`, values sorted. `None` selects every node.
pub(crate) struct Terms(Option<Vec<Requirement>>);

impl Terms {
    pub(crate) fn of(selector: Option<&NodeSelector>) -> Self {
        Self(selector.map(|selector| {
            let labels: &BTreeMap<String, String> = &selector.match_labels;
            let equal = labels.iter().map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.clone()]),
            });
            let mut terms: Vec<Requirement> = equal
                .chain(selector.match_expressions.iter().cloned())
                .collect();
            for term in &mut terms {
                if let Operator::In(values) | Operator::NotIn(values) = &mut term.operator {
                    values.sort_unstable();
                    values.dedup();
                }
            }
            terms
        }))
    }

    /// How the nodes of two sets relate.
    pub(crate) fn overlap(&self, other: &Self) -> Overlap {
        let (Some(a), Some(b)) = (&self.0, &other.0) else {
            return Overlap::Always;
        };
        if a.iter().any(|x| b.iter().any(|y| exclude(x, y))) {
            return Overlap::Never;
        }
        let implies =
            |x: &[Requirement], y: &[Requirement]| y.iter().all(|wanted| x.contains(wanted));
        if implies(a, b) || implies(b, a) {
            Overlap::Always
        } else {
            Overlap::Perhaps
        }
    }
}

/// Whether no node can satisfy both terms; values are sorted.
fn exclude(a: &Requirement, b: &Requirement) -> bool {
    use Operator::{DoesNotExist, Exists, In, NotIn};
    if a.key != b.key {
        return false;
    }
    match (&a.operator, &b.operator) {
        (In(x), In(y)) => !x.iter().any(|value| y.binary_search(value).is_ok()),
        (In(x), NotIn(y)) | (NotIn(y), In(x)) => {
            x.iter().all(|value| y.binary_search(value).is_ok())
        }
        (In(_) | Exists, DoesNotExist) | (DoesNotExist, In(_) | Exists) => true,
        _ => false,
    }
}
