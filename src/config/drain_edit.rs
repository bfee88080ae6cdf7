//! Drains a gateway, or ends that, in the text of a `routes.yaml`: comments and layout stay.
//!
//! Pure. Only the gateway's own entries are rewritten. The result is decoded and compared with what was meant, so that a notation
//! that this file does not know is an error and never another configuration.

use std::net::IpAddr;
use std::ops::Range;

use serde_json::{Map, Value as Json, json};

use super::yaml::{self, Node, Value};

/// The text with the gateway drained, or not drained, in every set; `None` when it is so already.
pub fn edit(text: &str, gateway: IpAddr, drain: bool) -> Result<Option<String>, String> {
    let root =
        yaml::decode(text).map_err(|error| format!("{}: {}", error.at.line, error.message))?;
    let sets = root.entry("routes").map(Node::items).unwrap_or_default();
    let entries = || {
        let gateways = sets.iter().filter_map(|set| set.entry("gateways"));
        gateways.flat_map(Node::items)
    };
    let ours: Vec<&Node<'_>> = entries()
        .filter(|entry| address(entry) == Some(gateway))
        .collect();
    if ours.is_empty() {
        let known: Vec<String> = entries()
            .filter_map(address)
            .map(|address| address.to_string())
            .collect();
        return Err(format!(
            "no set has the gateway {gateway}; there are: {}",
            distinct(known)
        ));
    }
    let mut changes: Vec<Change> = ours
        .iter()
        .filter(|entry| is_drained(entry) != drain)
        .filter_map(|entry| change(text, entry, drain))
        .collect();
    if ours.iter().all(|entry| is_drained(entry) == drain) {
        return Ok(None);
    }
    // An alias is the entry of another place: written once, changed once.
    changes.sort_by_key(|change| change.at.start);
    changes.dedup_by_key(|change| change.at.start);
    let mut edited = text.to_owned();
    for change in changes.into_iter().rev() {
        edited.replace_range(change.at, &change.by);
    }
    let after = yaml::decode(&edited).map_err(|_| unknown(gateway))?;
    let mut wanted = plain(&root, text);
    set_drain(&mut wanted, gateway, drain);
    let mut found = plain(&after, &edited);
    let is_now = drain_of(&found, gateway).unwrap_or(!drain);
    set_drain(&mut found, gateway, is_now);
    if wanted == found {
        Ok(Some(edited))
    } else {
        Err(unknown(gateway))
    }
}

fn unknown(gateway: IpAddr) -> String {
    format!(
        "the entries of {gateway} have a notation that cannot be changed here; use `egress-routes edit`"
    )
}

fn distinct(mut words: Vec<String>) -> String {
    words.sort_unstable();
    words.dedup();
    if words.is_empty() {
        "none".into()
    } else {
        words.join(", ")
    }
}

fn address(entry: &Node<'_>) -> Option<IpAddr> {
    let scalar = entry.entry("address").unwrap_or(entry);
    scalar.text()?.parse().ok()
}

fn is_drained(entry: &Node<'_>) -> bool {
    let drain = entry.entry("drain").map(|node| &node.value);
    matches!(drain, Some(Value::Bool(true)))
}

/// What replaces which bytes.
struct Change {
    at: Range<usize>,
    by: String,
}

impl Change {
    fn new(at: Range<usize>, by: impl Into<String>) -> Self {
        Self { at, by: by.into() }
    }
}

/// `None`: not known how.
fn change(text: &str, entry: &Node<'_>, drain: bool) -> Option<Change> {
    let Value::Map(keys) = &entry.value else {
        let raw = entry.at.raw(text);
        let object = format!("{{ address: {raw}, drain: true }}");
        return Some(Change::new(entry.at.bytes(), object));
    };
    let find = |name: &str| keys.iter().find(|(key, _)| key.text() == Some(name));
    let (key, address) = find("address")?;
    let flow = text.as_bytes().get(entry.at.bytes().start) == Some(&b'{');
    match (drain, find("drain")) {
        (true, Some((_, drained))) => Some(Change::new(drained.at.bytes(), "true")),
        (true, None) if flow => {
            let end = address.at.bytes().end;
            Some(Change::new(end..end, ", drain: true"))
        }
        (true, None) => {
            let end = line_end(text, address.at.bytes().end);
            let indent = " ".repeat((key.at.column as usize).saturating_sub(1));
            let carriage_return = if text[..end].ends_with('\r') {
                "\r"
            } else {
                ""
            };
            let line = format!("\n{indent}drain: true{carriage_return}");
            Some(Change::new(end..end, line))
        }
        (false, Some(_)) if flow && keys.len() == 2 => {
            let last = keys.iter().map(|(_, value)| value.at.bytes().end).max()?;
            let end = last + text[last..].find('}')? + 1;
            let whole = entry.at.bytes().start..end;
            Some(Change::new(whole, address.at.raw(text)))
        }
        (false, Some((key, drained))) => {
            let whole = key.at.bytes().start..drained.at.bytes().end;
            if flow {
                without(text, whole)
            } else {
                Some(without_line(text, whole))
            }
        }
        (false, None) => None,
    }
}

/// An entry of a flow map and the comma before it, or after it when it is the first.
fn without(text: &str, entry: Range<usize>) -> Option<Change> {
    let before = text[..entry.start].trim_end();
    if let Some(before) = before.strip_suffix(',') {
        return Some(Change::new(before.len()..entry.end, ""));
    }
    let after = &text[entry.end..];
    let rest = after.trim_start().strip_prefix(',')?.trim_start();
    Some(Change::new(entry.start..text.len() - rest.len(), ""))
}

/// An entry of a block map with its line; the first of a list's item, which shares its line with the dash, has `false` instead.
fn without_line(text: &str, entry: Range<usize>) -> Change {
    let start = text[..entry.start].rfind('\n').map_or(0, |at| at + 1);
    if text[start..entry.start].trim().is_empty() {
        let end = (line_end(text, entry.end) + 1).min(text.len());
        return Change::new(start..end, "");
    }
    Change::new(entry, "drain: false")
}

/// Where a line ends, without its line feed.
fn line_end(text: &str, from: usize) -> usize {
    text[from..].find('\n').map_or(text.len(), |at| from + at)
}

/// The values of a tree, without places.
fn plain(node: &Node<'_>, text: &str) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Number => json!({"number": node.at.raw(text)}),
        Value::Text(value) => json!(value),
        Value::List(items) => items.iter().map(|item| plain(item, text)).collect(),
        // Keys in their order, doubled ones too.
        Value::Map(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| json!([plain(key, text), plain(value, text)]));
            json!({"map": entries.collect::<Vec<_>>()})
        }
    }
}

/// All entries of a gateway in one notation, with this `drain`.
fn set_drain(tree: &mut Json, gateway: IpAddr, drain: bool) {
    each_gateway(tree, &mut |entry| {
        let mut keys = keys_of(entry);
        let address = keys.get("address").and_then(Json::as_str);
        if address.and_then(|text| text.parse().ok()) == Some(gateway) {
            keys.insert("drain".into(), json!(drain));
            *entry = Json::Object(keys);
        }
    });
}

/// `drain` of a gateway, when all of its entries agree.
fn drain_of(tree: &Json, gateway: IpAddr) -> Option<bool> {
    let (mut tree, mut found) = (tree.clone(), Vec::new());
    each_gateway(&mut tree, &mut |entry| {
        let keys = keys_of(entry);
        let address = keys.get("address").and_then(Json::as_str);
        if address.and_then(|text| text.parse().ok()) == Some(gateway) {
            found.push(keys.get("drain") == Some(&json!(true)));
        }
    });
    let first = *found.first()?;
    found.iter().all(|drain| *drain == first).then_some(first)
}

fn keys_of(entry: &Json) -> Map<String, Json> {
    let pairs = entry["map"].as_array();
    let Some(pairs) = pairs else {
        return Map::from_iter([("address".to_owned(), entry.clone())]);
    };
    let pair = |pair: &Json| Some((pair[0].as_str()?.to_owned(), pair[1].clone()));
    pairs.iter().filter_map(pair).collect()
}

fn each_gateway(tree: &mut Json, with: &mut dyn FnMut(&mut Json)) {
    for set in value_of(tree, "routes")
        .and_then(Json::as_array_mut)
        .into_iter()
        .flatten()
    {
        let gateways = value_of(set, "gateways").and_then(Json::as_array_mut);
        gateways.into_iter().flatten().for_each(&mut *with);
    }
}

fn value_of<'j>(tree: &'j mut Json, key: &str) -> Option<&'j mut Json> {
    let pairs = tree.get_mut("map")?.as_array_mut()?;
    let pair = pairs.iter_mut().find(|pair| pair[0] == key)?;
    pair.get_mut(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(text: &str) -> Result<Option<String>, String> {
        edit(text, "10.116.0.7".parse().unwrap(), true)
    }

    fn undrained(text: &str) -> Result<Option<String>, String> {
        edit(text, "10.116.0.7".parse().unwrap(), false)
    }

    /// Two notations of one set's gateways; the second is the drained one.
    const WAYS: [(&str, &str); 9] = [
        (
            "[10.116.0.5, 10.116.0.7]",
            "[10.116.0.5, { address: 10.116.0.7, drain: true }]",
        ),
        (
            "\n      - 10.116.0.7 # old\n      - 10.116.0.5",
            "\n      - { address: 10.116.0.7, drain: true } # old\n      - 10.116.0.5",
        ),
        (
            "[\"10.116.0.7\"]",
            "[{ address: \"10.116.0.7\", drain: true }]",
        ),
        (
            "[{ address: 10.116.0.7, weight: 2 }]",
            "[{ address: 10.116.0.7, drain: true, weight: 2 }]",
        ),
        (
            "[{weight: 2, address: 10.116.0.7}]",
            "[{weight: 2, address: 10.116.0.7, drain: true}]",
        ),
        (
            "\n      - address: 10.116.0.7 # rack 2\n        weight: 2",
            "\n      - address: 10.116.0.7 # rack 2\n        drain: true\n        weight: 2",
        ),
        (
            "\n    - weight: 2\n      address: 10.116.0.7",
            "\n    - weight: 2\n      address: 10.116.0.7\n      drain: true",
        ),
        (
            "\n    - address: '10.116.0.7'",
            "\n    - address: '10.116.0.7'\n      drain: true",
        ),
        (
            "[\n      10.116.0.7,   # first\n      10.116.0.5,\n    ]",
            "[\n      { address: 10.116.0.7, drain: true },   # first\n      10.116.0.5,\n    ]",
        ),
    ];

    fn file(gateways: &str) -> String {
        format!(
            "# Who reads this: ops\nroutes:\n  - name: a   # partners\n    gateways: {gateways}\n    destinations: [203.0.113.0/24]\n\nprotected: [64.225.0.0/16]\n"
        )
    }

    #[test]
    fn only_the_entry_changes_however_it_is_written_and_undrain_gives_the_old_text_back() {
        for (before, after) in WAYS {
            let (before, after) = (file(before), file(after));
            assert_eq!(drained(&before).unwrap().as_deref(), Some(&*after));
            assert_eq!(undrained(&after).unwrap().as_deref(), Some(&*before));
            assert_eq!(drained(&after), Ok(None), "{after}");
            assert_eq!(undrained(&before), Ok(None), "{before}");
            let windows = before.replace('\n', "\r\n");
            assert_eq!(
                drained(&windows).unwrap(),
                Some(after.replace('\n', "\r\n"))
            );
        }
    }

    #[test]
    fn every_set_with_the_gateway_is_edited_and_no_other_address() {
        let text = "routes:\n- {name: a, gateways: [10.116.0.7, 10.116.0.70], destinations: [10.116.0.7]}\n- {name: b, gateways: [10.116.0.7], destinations: [203.0.113.7]}\n";
        let after = drained(text).unwrap().unwrap();
        assert_eq!(
            after,
            "routes:\n- {name: a, gateways: [{ address: 10.116.0.7, drain: true }, 10.116.0.70], destinations: [10.116.0.7]}\n- {name: b, gateways: [{ address: 10.116.0.7, drain: true }], destinations: [203.0.113.7]}\n"
        );
    }

    #[test]
    fn a_set_that_is_drained_already_stays_as_it_is_written() {
        let text = "routes:\n- {name: a, gateways: [{drain: true, address: 10.116.0.7}]}\n- {name: b, gateways: [{address: 10.116.0.7, drain: false}]}\n";
        assert_eq!(
            drained(text).unwrap().unwrap(),
            text.replace("drain: false", "drain: true")
        );
        let first =
            "routes:\n- {name: a, gateways: [{drain: true, address: 10.116.0.7, weight: 2}]}\n";
        assert_eq!(
            undrained(first).unwrap().unwrap(),
            first.replace("drain: true, ", "")
        );
        let dash = "routes:\n- name: a\n  gateways:\n  - drain: true\n    address: 10.116.0.7\n";
        assert_eq!(
            undrained(dash).unwrap().unwrap(),
            dash.replace("true", "false")
        );
    }

    #[test]
    fn ipv6_and_lists_that_sets_share_by_an_alias_are_edited_too() {
        let text = "routes:\n- name: a\n  gateways: &both [10.116.0.5, fd00:116::5]\n- name: b\n  gateways: *both\n";
        let edited = edit(text, "fd00:116:0::5".parse().unwrap(), true).unwrap();
        let wanted = text.replace("fd00:116::5", "{ address: fd00:116::5, drain: true }");
        assert_eq!(edited, Some(wanted));
    }

    #[test]
    fn a_gateway_that_nobody_has_is_an_error_that_names_those_that_there_are() {
        assert_eq!(
            drained(&file("[10.116.0.5, fd00:116::5, 10.116.0.5]")).unwrap_err(),
            "no set has the gateway 10.116.0.7; there are: 10.116.0.5, fd00:116::5"
        );
        assert_eq!(
            drained("routes: []\n").unwrap_err(),
            "no set has the gateway 10.116.0.7; there are: none"
        );
        assert!(drained("routes: [\n").is_err());
    }
}
