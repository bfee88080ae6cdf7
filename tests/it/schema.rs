//! The JSON schemas in `docs/schema`: that of `routes.yaml` against the parser, the others against what commands print.
//!
//! A small validator: it knows the keywords that our schemas use, and fails on any other.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use egress_routes::config::{Files, parse};
use serde_json::{Value, json};

use crate::lab::AGENT;

fn schema(name: &str) -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schema/{name}.schema.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What is wrong with a value, by its path.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, value, "$", &mut found);
    found
}

/// Fails unless a command's output fits its schema.
pub fn must_be(name: &str, output: &str) {
    let value: Value = serde_json::from_str(output).unwrap_or_else(|why| panic!("{why}: {output}"));
    let found = violations(&schema(name), &value);
    assert!(found.is_empty(), "{name}: {found:#?}\n{value:#}");
}

fn check(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    for (keyword, wanted) in schema.as_object().unwrap() {
        let fine = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "default" | "examples" => true,
            "$ref" => {
                let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                check(root, root.pointer(pointer).unwrap(), value, path, found);
                true
            }
            "type" => is_type(wanted, value),
            "enum" => wanted.as_array().unwrap().contains(value),
            "anyOf" => wanted.as_array().unwrap().iter().any(|option| {
                let mut found = Vec::new();
                check(root, option, value, path, &mut found);
                found.is_empty()
            }),
            "required" => value.as_object().is_none_or(|object| {
                wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|key| object.contains_key(key.as_str().unwrap()))
            }),
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = wanted.get(key) {
                        check(root, schema, inner, &format!("{path}.{key}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let others = value.as_object().into_iter().flatten();
                let mut others =
                    others.filter(|(key, _)| known.is_none_or(|k| !k.contains_key(*key)));
                match wanted {
                    Value::Bool(false) => others.next().is_none(),
                    schema => {
                        for (key, inner) in others {
                            check(root, schema, inner, &format!("{path}.{key}"), found);
                        }
                        true
                    }
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{path}[{i}]"), found);
                }
                true
            }
            "uniqueItems" => value.as_array().is_none_or(|items| {
                items
                    .iter()
                    .map(Value::to_string)
                    .collect::<BTreeSet<_>>()
                    .len()
                    == items.len()
            }),
            "minItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.len() as u64 >= wanted.as_u64().unwrap()),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.len() as u64 <= wanted.as_u64().unwrap()),
            "minimum" => value.as_f64().is_none_or(|n| n >= wanted.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= wanted.as_f64().unwrap()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| matches(wanted.as_str().unwrap(), text)),
            other => panic!("the validator does not know `{other}`"),
        };
        if !fine {
            found.push(format!("{path}: {keyword} {wanted}"));
        }
    }
}

fn is_type(wanted: &Value, value: &Value) -> bool {
    let is = |word: &str| match word {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("a type {other}"),
    };
    match wanted {
        Value::Array(words) => words.iter().any(|word| is(word.as_str().unwrap())),
        word => is(word.as_str().unwrap()),
    }
}

/// The patterns of our schemas.
fn matches(pattern: &str, text: &str) -> bool {
    let name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match pattern {
        "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" => {
            !text.is_empty()
                && text.bytes().all(name)
                && !text.starts_with('-')
                && !text.ends_with('-')
        }
        "^[-._a-zA-Z0-9]+$" => {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        }
        "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$" => {
            text.starts_with(|c: char| c.is_ascii_digit())
                && text.ends_with(['s', 'm', 'h'])
                && text
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b".msh".contains(&b))
        }
        "^([0-9a-f]{12})?$" => {
            text.is_empty() || (text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        other => panic!("the validator does not know the pattern {other}"),
    }
}

/// What the parser answers for a value; JSON is YAML.
fn refused(value: &Value) -> Option<String> {
    let keys = [
        ("routes.yaml".to_owned(), value.to_string().into_bytes()),
        ("a.txt".to_owned(), b"198.51.100.9\n".to_vec()),
    ];
    let files = Files::from_keys(&keys.into()).unwrap();
    parse(&files).err().map(|problems| problems.to_string())
}

/// A configuration that uses every key.
fn full() -> Value {
    json!({
        "routes": [{
            "name": "a", "gateways": [{"address": "10.116.0.5", "weight": 1, "drain": false}, "fd00::5"], "drainTimeout": "5m", "destinations": ["198.51.100.0/24", "2001:db8::/32"],
            "destinationFiles": ["a.txt"], "except": ["198.51.100.7"], "strategy": "failover", "failback": false,
            "whenDown": "withdraw", "leakGuard": true,
            "healthCheck": {"type": "tcp", "port": 443, "interval": "1s", "timeout": "500ms", "failures": 1, "successes": 100, "target": "192.0.2.1"},
            "nodeSelector": {"matchLabels": {"pool": "web"}, "matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
        }],
        "protected": ["64.225.0.0/16"],
        "expectedRules": [1536]
    })
}

/// Where each mapping of the schema is in a configuration.
const MAPPINGS: [(&str, &str); 6] = [
    ("", ""),
    ("/$defs/gateway", "/routes/0/gateways/0"),
    ("/$defs/set", "/routes/0"),
    ("/$defs/healthCheck", "/routes/0/healthCheck"),
    ("/$defs/nodeSelector", "/routes/0/nodeSelector"),
    (
        "/$defs/nodeSelector/properties/matchExpressions/items",
        "/routes/0/nodeSelector/matchExpressions/0",
    ),
];

#[test]
fn the_schema_of_routes_yaml_knows_the_keys_of_the_parser_and_no_others() {
    let schema = schema("routes");
    for (definition, place) in MAPPINGS {
        let mut value = full();
        // A name that is near to none, so that the parser lists those it knows.
        value.pointer_mut(place).unwrap()["qqqqqqqqqqqqqqqq"] = json!(1);
        let output = refused(&value).unwrap();
        let line = output
            .lines()
            .find(|line| line.contains("`qqqqqqqqqqqqqqqq` is not known here"))
            .unwrap();
        let known: BTreeSet<&str> = match line.split_once("expected ") {
            Some((_, list)) => list.split('`').skip(1).step_by(2).collect(),
            // There labels are expected, and the parser names them.
            None => ["matchLabels", "matchExpressions"].into(),
        };
        let properties = schema.pointer(definition).unwrap()["properties"]
            .as_object()
            .unwrap();
        assert_eq!(
            properties
                .keys()
                .map(String::as_str)
                .collect::<BTreeSet<_>>(),
            known,
            "{place}"
        );
    }
}

#[test]
fn the_schema_of_routes_yaml_and_the_parser_agree() {
    let schema = schema("routes");
    assert_eq!(
        (violations(&schema, &full()), refused(&full())),
        (vec![], None)
    );
    let minimal = json!({"routes": [{"name": "a", "gateways": ["10.116.0.5"], "destinations": ["198.51.100.7"]}]});
    assert_eq!(
        (violations(&schema, &minimal), refused(&minimal)),
        (vec![], None)
    );
    let empty = json!({"routes": []});
    assert_eq!(
        (violations(&schema, &empty), refused(&empty)),
        (vec![], None)
    );
    let set = "/routes/0";
    let wrong = [
        ("", "routes", json!(null)),
        ("", "routes", json!({})),
        ("", "protected", json!("10.0.0.0/8")),
        ("", "expectedRules", json!([0])),
        ("", "expectedRules", json!([1, 1])),
        ("", "expectedRules", json!(["1"])),
        ("", "other", json!(1)),
        (set, "name", json!("A")),
        (set, "name", json!(1)),
        (set, "name", json!("a".repeat(64))),
        (set, "gateways", json!([])),
        (set, "gateways", json!("10.116.0.5")),
        (set, "gateways", json!([1])),
        (set, "destinations", json!("198.51.100.7")),
        (set, "destinations", json!([null])),
        (set, "destinationFiles", json!(["../a"])),
        (set, "destinationFiles", json!([1])),
        (set, "except", json!({})),
        (set, "strategy", json!("Failover")),
        (set, "failback", json!("no")),
        (set, "whenDown", json!("drop")),
        (set, "leakGuard", json!(1)),
        (set, "healthCheck", json!([])),
        (set, "nodeSelector", json!("web")),
        (set, "other", json!(1)),
        ("/routes/0/healthCheck", "type", json!("http")),
        ("/routes/0/healthCheck", "port", json!(0)),
        ("/routes/0/healthCheck", "port", json!("443")),
        ("/routes/0/healthCheck", "interval", json!("1")),
        ("/routes/0/healthCheck", "interval", json!(1)),
        ("/routes/0/healthCheck", "failures", json!(101)),
        ("/routes/0/healthCheck", "successes", json!(0)),
        ("/routes/0/healthCheck", "other", json!(1)),
        ("/routes/0/nodeSelector", "matchLabels", json!({"pool": 1})),
        ("/routes/0/nodeSelector", "other", json!(1)),
        (
            "/routes/0/nodeSelector/matchExpressions/0",
            "operator",
            json!("in"),
        ),
        (
            "/routes/0/nodeSelector/matchExpressions/0",
            "values",
            json!([1]),
        ),
    ];
    for (place, key, bad) in wrong {
        let mut value = full();
        value.pointer_mut(place).unwrap()[key] = bad.clone();
        assert!(
            !violations(&schema, &value).is_empty(),
            "the schema takes {place}/{key}: {bad}"
        );
        assert!(
            refused(&value).is_some(),
            "the parser takes {place}/{key}: {bad}"
        );
    }
    for key in ["name", "gateways"] {
        let mut value = full();
        value
            .pointer_mut(set)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(key);
        assert!(
            !violations(&schema, &value).is_empty() && refused(&value).is_some(),
            "{key}"
        );
    }
}

#[test]
fn check_prints_what_its_schema_says() {
    let ask = |input: &str| {
        let mut child = Command::new(AGENT)
            .args(["check", "-", "-o", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    let full = full().to_string().replace("\"a.txt\"", "");
    for input in [
        full.as_str(),
        "routes: []\n",
        "routes:\n- name: a\n  gateways: [x]\n",
        "kind: Service\napiVersion: v1\n",
        "kind: ConfigMap\napiVersion: v1\nimmutable: true\ndata: {routes.yaml: 'routes: []'}\n",
        "<html>",
    ] {
        must_be("check", &ask(input));
    }
}
