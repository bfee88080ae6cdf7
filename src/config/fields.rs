//! Reads values of the right kind out of the tree, and reports what is wrong with the others.
//!
//! Pure. Every function answers `None` after it has reported why, so that a caller goes on with
//! the next value and all problems come at once. A YAML null is never taken for "absent": a
//! template that lost its value must not mean "every node" or "no destinations".

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr as _;
use std::time::Duration;

use super::advice;
use super::problem::{Found, Path, Source, quoted};
use super::spelling::{listed, listed_or, nearest};
use super::yaml::{At, Node, Value};
use crate::config::duration;
use crate::net::prefix::{Prefix, parse_address};

/// Why a link-local address is refused, with or without a zone.
pub(crate) const LINK_LOCAL: &str =
    "is link-local, which means nothing without a device; give a global or unique local address";

/// One YAML file and what was found wrong with it.
#[derive(Debug)]
pub(crate) struct Reader<'t> {
    pub(crate) source: Source<'t>,
    pub(crate) found: Found,
}

/// The entries of a mapping whose keys are all known.
#[derive(Debug)]
pub(crate) struct Fields<'n, 'a> {
    /// Where the mapping starts.
    pub(crate) at: At,
    entries: Vec<(&'n str, &'n Node<'a>)>,
}

impl<'n, 'a> Fields<'n, 'a> {
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node<'a>> {
        self.entries
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, node)| *node)
    }
}

/// What a mapping may hold, and the message for a key that belongs elsewhere.
pub(crate) struct Keys {
    pub(crate) known: &'static [&'static str],
    /// The message for an unknown key, beyond the nearest known one.
    pub(crate) hint: fn(&str) -> Option<&'static str>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(source: Source<'t>) -> Self {
        Self {
            source,
            found: Found::default(),
        }
    }

    pub(crate) fn problem(&mut self, at: At, path: &Path<'_>, message: impl Into<String>) {
        self.found.add(self.source, at, Some(path), message);
    }

    /// The value as it was written, for a message.
    fn raw(&self, node: &Node<'_>) -> String {
        quoted(node.at.raw(self.source.text))
    }

    pub(crate) fn wrong_kind(&mut self, node: &Node<'_>, path: &Path<'_>, wanted: &str) {
        // What templates leave behind is often YAML of another kind.
        let from = node.at.raw_from(self.source.text);
        let message = match &node.value {
            Value::Map(_) if from.starts_with("{{") => {
                "is a template that was not filled in; render it first, and check the result"
                    .to_owned()
            }
            Value::Text(text) if let Some(what) = advice::template(text) => {
                format!("{} {what}", quoted(text))
            }
            Value::Text(text) if let Some(right) = missing_blank(text) => {
                format!("{} lacks a blank: write `{right}`", quoted(text))
            }
            Value::Null => format!("has no value; give {wanted}, or take it out"),
            Value::Bool(_) => format!("{} is a boolean; expected {wanted}", self.raw(node)),
            Value::Number => format!("{} is a number; expected {wanted}", self.raw(node)),
            Value::Text(text) => format!("{} is text; expected {wanted}", quoted(text)),
            Value::List(_) => format!("is a list; expected {wanted}"),
            Value::Map(_) => format!("is a mapping; expected {wanted}"),
        };
        self.problem(node.at, path, message);
    }

    pub(crate) fn list<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        path: &Path<'_>,
        wanted: &str,
    ) -> Option<&'n [Node<'a>]> {
        if let Value::List(nodes) = &node.value {
            return Some(nodes);
        }
        self.wrong_kind(node, path, wanted);
        None
    }

    /// A mapping; unknown and repeated keys are reported, the known ones come back.
    pub(crate) fn fields<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        path: &Path<'_>,
        keys: &Keys,
    ) -> Option<Fields<'n, 'a>> {
        let entries = self.mapping(
            node,
            path,
            &format!("a mapping with {}", listed(keys.known)),
        )?;
        let mut fields = Fields {
            at: node.at,
            entries: Vec::with_capacity(entries.len()),
        };
        for (at, key, value) in entries {
            if keys.known.contains(&key) {
                fields.entries.push((key, value));
            } else {
                self.problem(at, path, unknown_key(key, keys));
            }
        }
        Some(fields)
    }

    /// A mapping with any text keys; repeated ones are reported, and the first of them counts.
    pub(crate) fn mapping<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        path: &Path<'_>,
        wanted: &str,
    ) -> Option<Vec<(At, &'n str, &'n Node<'a>)>> {
        let Value::Map(entries) = &node.value else {
            self.wrong_kind(node, path, wanted);
            return None;
        };
        let mut seen = std::collections::BTreeMap::new();
        let mut kept = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Value::Text(text) = &key.value else {
                let message = match key.value {
                    Value::List(_) | Value::Map(_) => {
                        "a key is text, not a list or mapping; was a template not filled in?"
                            .to_owned()
                    }
                    _ => format!("the key {} is not text; write it in quotes", self.raw(key)),
                };
                self.problem(key.at, path, message);
                continue;
            };
            if let Some(first) = seen.insert(text.as_ref(), key.at.line) {
                seen.insert(text, first);
                let first = self.source.line(first);
                self.problem(
                    key.at,
                    path,
                    format!(
                        "{} is given twice, first on {first}; keep one",
                        quoted(text)
                    ),
                );
            } else {
                kept.push((key.at, text.as_ref(), value));
            }
        }
        Some(kept)
    }

    /// Text that is not left to YAML's guesses: an unquoted number or boolean is refused.
    pub(crate) fn text<'n>(
        &mut self,
        node: &'n Node<'_>,
        path: &Path<'_>,
        wanted: &str,
    ) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => return Some(text),
            Value::Bool(_) | Value::Number => {
                let raw = node.at.raw(self.source.text);
                let kind = if matches!(node.value, Value::Number) {
                    "number"
                } else {
                    "boolean"
                };
                self.problem(
                    node.at,
                    path,
                    format!(
                        "{} is a {kind}; to use it as {wanted}, quote it: `\"{}\"`",
                        quoted(raw),
                        cut(raw)
                    ),
                );
            }
            _ => self.wrong_kind(node, path, wanted),
        }
        None
    }

    pub(crate) fn boolean(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<bool> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.wrong_kind(node, path, "`true` or `false`, without quotes");
        None
    }

    pub(crate) fn one_of<T: Copy>(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let text = self.text(node, path, &listed_or(&names))?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let message = if let Some(what) = advice::template(text) {
            format!("{} {what}", quoted(text))
        } else if let Some(right) = nearest(text, &names) {
            format!("{} is not known; did you mean `{right}`?", quoted(text))
        } else {
            let names = listed_or(&names);
            format!("{} is not known; expected {names}", quoted(text))
        };
        self.problem(node.at, path, message);
        None
    }

    /// A whole number in decimal digits, without leading zeros, which some programs read as octal.
    pub(crate) fn number(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        if !matches!(node.value, Value::Number) {
            if let Value::Text(text) = &node.value
                && text.parse::<u32>().is_ok_and(|n| range.contains(&n))
            {
                self.problem(
                    node.at,
                    path,
                    format!("{} is text; write the number without quotes", quoted(text)),
                );
            } else {
                self.wrong_kind(node, path, &wanted);
            }
            return None;
        }
        let raw = node.at.raw(self.source.text);
        let plain = raw.bytes().all(|b| b.is_ascii_digit());
        match raw.parse::<u32>() {
            Ok(n) if plain && raw.len() > 1 && raw.starts_with('0') => {
                self.problem(
                    node.at,
                    path,
                    format!(
                        "{} has a leading zero, which some programs read as octal; write `{n}`",
                        quoted(raw)
                    ),
                );
                None
            }
            Ok(n) if plain && range.contains(&n) => Some(n),
            _ => {
                self.problem(node.at, path, format!("{} is not {wanted}", quoted(raw)));
                None
            }
        }
    }

    /// A duration as in Kubernetes.
    pub(crate) fn duration(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let wanted = "a duration like `500ms`, `1s` or `2m`";
        let text = match &node.value {
            Value::Text(text) => text.as_ref(),
            Value::Number => node.at.raw(self.source.text),
            _ => {
                self.wrong_kind(node, path, wanted);
                return None;
            }
        };
        match duration::parse(text) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(duration) => {
                let bound = if duration < *range.start() {
                    ("at least", range.start())
                } else {
                    ("at most", range.end())
                };
                self.problem(
                    node.at,
                    path,
                    format!(
                        "{} is out of range; {} {:?} is allowed",
                        quoted(text),
                        bound.0,
                        bound.1
                    ),
                );
                None
            }
            Err(why) => {
                self.problem(
                    node.at,
                    path,
                    format!("{} {why}; expected {wanted}", quoted(text)),
                );
                None
            }
        }
    }

    /// A CIDR or bare address.
    pub(crate) fn prefix(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<Prefix> {
        let text = self.address_text(node, path, "a CIDR or an address")?;
        match text.parse() {
            Ok(prefix) => Some(prefix),
            Err(_) if self.found.is_full() => {
                self.found.count_one();
                None
            }
            Err(error) => {
                let message = advice::about_prefix(text, &error);
                self.problem(node.at, path, message);
                None
            }
        }
    }

    /// One address; `what` is what it is for, like "a gateway".
    pub(crate) fn address(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        what: &str,
    ) -> Option<IpAddr> {
        let text = self.address_text(node, path, &format!("the address of {what}"))?;
        match parse_address(text) {
            Ok(address) => Some(address),
            Err(why) => {
                let bare = text
                    .split_once('/')
                    .and_then(|(bare, _)| IpAddr::from_str(bare).ok());
                let zoned = text
                    .split_once('%')
                    .and_then(|(bare, _)| Ipv6Addr::from_str(bare).ok());
                let message = match (bare, zoned) {
                    (Some(bare), _) => format!(
                        "{} is a CIDR; {what} is one address: write `{bare}`",
                        quoted(text)
                    ),
                    (_, Some(v6)) if v6.is_unicast_link_local() => {
                        format!("{} {LINK_LOCAL}", quoted(text))
                    }
                    _ if let Some(answer) = advice::about_address(text) => {
                        format!("{} {answer}", quoted(text))
                    }
                    _ if why.starts_with("is not an IP address or CIDR") => {
                        format!(
                            "{} is not an IP address; expected one like `10.116.0.5` or `fd00:116::5`",
                            quoted(text)
                        )
                    }
                    _ => format!("{} {why}", quoted(text)),
                };
                self.problem(node.at, path, message);
                None
            }
        }
    }

    /// Text, or what YAML took for a number, which the caller finds fault with in better words.
    fn address_text<'r>(
        &mut self,
        node: &'r Node<'_>,
        path: &Path<'_>,
        wanted: &str,
    ) -> Option<&'r str>
    where
        't: 'r,
    {
        match &node.value {
            Value::Text(text) => return Some(text),
            Value::Number => return Some(node.at.raw(self.source.text)),
            Value::Map(entries) => {
                if let [
                    (
                        Node {
                            value: Value::Text(key),
                            ..
                        },
                        Node {
                            value: Value::Null, ..
                        },
                    ),
                ] = entries.as_slice()
                    && key.contains(':')
                {
                    let message = format!(
                        "YAML takes `{}:` for a key because of its last colon; quote it: `\"{0}:\"`",
                        cut(key)
                    );
                    self.problem(node.at, path, message);
                    return None;
                }
            }
            _ => {}
        }
        self.wrong_kind(node, path, wanted);
        None
    }
}

/// `name:a` for `name: a`, and `-a` for `- a`, which are text to YAML.
pub(crate) fn missing_blank(text: &str) -> Option<String> {
    let first = text.split_whitespace().next()?;
    let item = first.strip_prefix('-').unwrap_or_default();
    // `---` and `-1` are something else.
    if item.contains(['.', ':']) && !item.starts_with('-') {
        return Some(format!("- {item}"));
    }
    let (key, value) = text.split_once(':')?;
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphabetic());
    (plain && !value.is_empty() && !value.starts_with([' ', '/']))
        .then(|| format!("{key}: {value}"))
}

fn unknown_key(key: &str, keys: &Keys) -> String {
    let quoted = quoted(key);
    if key == "<<" {
        return "merge keys are not supported; write the keys out".to_owned();
    }
    if let Some(what) = advice::odd_blank(key) {
        return format!("{quoted} {what}; type it again with plain blanks");
    }
    if let Some(what) = advice::template(key) {
        return format!("{quoted} {what}");
    }
    if let Some(hint) = (keys.hint)(key) {
        return format!("{quoted} is not known here; {hint}");
    }
    match nearest(key, keys.known) {
        Some(right) => format!("{quoted} is not known here; did you mean `{right}`?"),
        None => format!(
            "{quoted} is not known here; expected {}",
            listed_or(keys.known)
        ),
    }
}

/// For use inside a sentence that brings its own quotes.
fn cut(text: &str) -> String {
    quoted(text).trim_matches('`').to_owned()
}
