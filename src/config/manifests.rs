//! Finds configurations in a stream of Kubernetes manifests.
//!
//! Pure. A stream is split at its `---` lines first, so that only documents that can hold a
//! `routes.yaml` are decoded: what is wrong with others is other tools' business. JSON is YAML.

use std::collections::BTreeMap;

use crate::config::yaml::{Node, SyntaxError, Value, decode_large};
use crate::config::{Files, ROUTES_YAML, list_names};

/// Most lists within lists.
const MAX_NESTED: usize = 4;

/// A `ConfigMap` that holds a `routes.yaml`.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// `namespace/name`, as far as it says.
    pub name: String,
    /// Its keys, or why they are none: `LINE:COLUMN: sentence`.
    pub files: Result<Files, String>,
}

/// What a stream turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Stream {
    /// Manifests; possibly none with a `routes.yaml`.
    Manifests(Vec<Found>),
    /// No manifests: a `routes.yaml` itself, right or wrong.
    Other,
}

/// Looks through a stream.
pub fn search(text: &str) -> Stream {
    let mut found = Vec::new();
    let mut manifests = false;
    for (first_line, document) in documents(text) {
        if !document.contains("kind") {
            continue;
        }
        if !document.contains(ROUTES_YAML) {
            manifests = manifests || is_manifest_text(document);
            continue;
        }
        match decode_large(document) {
            Ok(root) => {
                manifests = manifests || is_manifest(&root);
                collect(&root, first_line, MAX_NESTED, &mut found);
            }
            Err(error) if is_manifest_text(document) => {
                manifests = true;
                found.push(Found {
                    name: "a document that cannot be decoded".to_owned(),
                    files: Err(place(&error, first_line)),
                });
            }
            Err(_) => {}
        }
    }
    if manifests {
        Stream::Manifests(found)
    } else {
        Stream::Other
    }
}

fn place(error: &SyntaxError, first_line: u32) -> String {
    format!(
        "{}:{}: {}",
        error.at.line + first_line,
        error.at.column,
        error.message
    )
}

/// The documents, and how many lines precede each.
fn documents(text: &str) -> Vec<(u32, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut first_line, mut start, mut offset) = (0, 0, 0);
    for (number, line) in (0u32..).zip(text.split_inclusive('\n')) {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            documents.push((first_line, &text[start..offset]));
            (first_line, start) = (number, offset + 3); // a document may begin on the line of its `---`
        }
        offset += line.len();
    }
    documents.push((first_line, &text[start..]));
    documents
}

/// Whether a document looks like a manifest without being decoded.
fn is_manifest_text(document: &str) -> bool {
    let has = |key: &str| {
        document.lines().map(str::trim_start).any(|line| {
            let line = line
                .strip_prefix(['{', '"'])
                .unwrap_or(line)
                .trim_start_matches(['{', '"', ' ']);
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches(['"', ' ']).starts_with(':'))
        })
    };
    has("kind") && has("apiVersion")
        || document.trim_start().starts_with('{') && document.contains("\"kind\"")
}

fn is_manifest(root: &Node<'_>) -> bool {
    root.entry("kind").is_some() && root.entry("apiVersion").is_some()
}

fn collect(node: &Node<'_>, first_line: u32, depth: usize, found: &mut Vec<Found>) {
    let kind = node.entry("kind").and_then(Node::text).unwrap_or_default();
    if kind == "List" || kind == "ConfigMapList" {
        if depth > 0 {
            for item in node.entry("items").map(Node::items).unwrap_or_default() {
                collect(item, first_line, depth - 1, found);
            }
        }
        return;
    }
    // Items of a ConfigMapList need not say their kind.
    if kind == "ConfigMap" || (kind.is_empty() && depth < MAX_NESTED) {
        found.extend(config_map(node, first_line));
    }
}

fn config_map(node: &Node<'_>, first_line: u32) -> Option<Found> {
    let has = |part: &str| {
        node.entry(part)
            .is_some_and(|data| data.entry(ROUTES_YAML).is_some())
    };
    if !has("data") && !has("binaryData") {
        return None;
    }
    let metadata = |key: &str| {
        node.entry("metadata")
            .and_then(|m| m.entry(key))
            .and_then(Node::text)
    };
    let name = metadata("name").unwrap_or("without a name");
    let name = metadata("namespace").map_or_else(
        || name.to_owned(),
        |namespace| format!("{namespace}/{name}"),
    );
    Some(Found {
        name,
        files: files(node, first_line),
    })
}

fn files(node: &Node<'_>, first_line: u32) -> Result<Files, String> {
    let mut keys: BTreeMap<&str, &Node<'_>> = BTreeMap::new();
    let mut binary: BTreeMap<&str, &Node<'_>> = BTreeMap::new();
    for (part, keys) in [("data", &mut keys), ("binaryData", &mut binary)] {
        if let Some(Node {
            value: Value::Map(entries),
            ..
        }) = node.entry(part)
        {
            keys.extend(
                entries
                    .iter()
                    .filter_map(|(key, value)| Some((key.text()?, value))),
            );
        }
    }
    let bytes = |name: &str| -> Option<Result<Vec<u8>, String>> {
        let (node, is_binary) = keys
            .get(name)
            .map(|node| (*node, false))
            .or_else(|| Some((*binary.get(name)?, true)))?;
        let at = |message: &str| {
            format!(
                "{}:{}: `{name}` {message}",
                node.at.line + first_line,
                node.at.column
            )
        };
        Some(match (&node.value, is_binary) {
            (Value::Text(text), false) => Ok(text.as_bytes().to_vec()),
            (Value::Text(text), true) => {
                from_base64(text).map_err(|()| at("is not base64, which `binaryData` holds"))
            }
            (Value::Map(_) | Value::List(_), _) => Err(at(&format!(
                "is a structure; a ConfigMap holds text: write `{name}: |`"
            ))),
            _ => Err(at("is not text; put it in quotes")),
        })
    };
    let routes_yaml = bytes(ROUTES_YAML).unwrap_or_else(|| Ok(Vec::new()))?;
    let mut all = BTreeMap::new();
    for name in list_names(&routes_yaml) {
        if let Some(bytes) = bytes(&name) {
            all.insert(name, bytes?);
        }
    }
    for name in keys.keys().chain(binary.keys()) {
        all.entry((*name).to_owned()).or_default(); // for the hint when a named one is missing
    }
    all.insert(ROUTES_YAML.to_owned(), routes_yaml);
    Files::from_keys(&all).ok_or_else(|| format!("there is no `{ROUTES_YAML}`"))
}

/// By the decoder that the API client uses for `binaryData`.
fn from_base64(text: &str) -> Result<Vec<u8>, ()> {
    let joined: String = text.split_whitespace().collect();
    serde_json::from_value::<k8s_openapi::ByteString>(serde_json::Value::String(joined))
        .map(|bytes| bytes.0)
        .map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: egress-routes, namespace: kube-system}\ndata:\n  routes.yaml: |\n    \
                       routes: []\n  aws.txt: |\n    192.0.2.0/24\n";

    fn found(text: &str) -> Vec<Found> {
        match search(text) {
            Stream::Manifests(found) => found,
            Stream::Other => panic!("not taken for manifests: {text}"),
        }
    }

    fn names(text: &str) -> Vec<String> {
        found(text).into_iter().map(|found| found.name).collect()
    }

    #[test]
    fn a_configmap_is_found_among_other_documents_right_or_wrong() {
        let service = "apiVersion: v1\nkind: Service\nspec: {a: 1, a: 2, [\n";
        for text in [
            MAP.to_owned(),
            format!("---\n{MAP}---\n"),
            format!("{service}---\n{MAP}"),
            format!("# kustomize\n---\n{service}--- # next\n{MAP}...\n---\n{service}"),
            format!("\u{feff}{}", MAP.replace('\n', "\r\n")),
        ] {
            let found = found(&text);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].name, "kube-system/egress-routes");
            assert_eq!(
                found[0].files.as_ref().unwrap().routes_yaml,
                b"routes: []\n"
            );
        }
    }

    #[test]
    fn lists_of_objects_and_json_are_looked_through() {
        let list = format!(
            "kind: List\napiVersion: v1\nitems:\n- {}",
            MAP.replace('\n', "\n  ")
        );
        assert_eq!(names(&list), ["kube-system/egress-routes"]);
        let json = r#"{"apiVersion":"v1","kind":"ConfigMapList","items":[{"metadata":{"name":"a"},"data":{"routes.yaml":"routes: []\n"}},
            {"metadata":{"name":"b"},"data":{"x":"y"}},{"apiVersion":"v1","kind":"ConfigMap","binaryData":{"routes.yaml":"cm91dGVzOiBbXQ=="}}]}"#;
        assert_eq!(names(json), ["a", "without a name"]);
        let files: Vec<Files> = found(json)
            .into_iter()
            .map(|found| found.files.unwrap())
            .collect();
        assert!(files.iter().all(|files| parse(files).is_ok()));
    }

    #[test]
    fn list_files_come_from_the_same_configmap() {
        let text = MAP.replace(
            "routes: []",
            "routes: [{name: a, gateways: [10.116.0.5], destinationFiles: [aws.txt, b.txt]}]",
        ) + "binaryData:\n  b.txt: MTk4LjUxLjEwMC43Cg==\n";
        let files = found(&text).remove(0).files.unwrap();
        assert_eq!(parse(&files).unwrap().config.sets[0].destinations.len(), 2);
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_line_in_the_stream() {
        let why = |text: &str| {
            found(&format!("kind: Pod\napiVersion: v1\n---\n{text}"))
                .remove(0)
                .files
                .unwrap_err()
        };
        assert_eq!(
            why("kind: ConfigMap\napiVersion: v1\ndata:\n  routes.yaml:\n    routes: []\n"),
            "8:5: `routes.yaml` is a structure; a ConfigMap holds text: write `routes.yaml: |`"
        );
        assert_eq!(
            why("kind: ConfigMap\napiVersion: v1\ndata:\n  routes.yaml: 1\n"),
            "7:16: `routes.yaml` is not text; put it in quotes"
        );
        assert_eq!(
            why("kind: ConfigMap\napiVersion: v1\nbinaryData:\n  routes.yaml: '%'\n"),
            "7:16: `routes.yaml` is not base64, which `binaryData` holds"
        );
        assert_eq!(
            why("kind: ConfigMap\napiVersion: v1\ndata: {\n  routes.yaml: a\n"),
            "6:7: unclosed bracket '{'"
        );
    }

    #[test]
    fn a_configuration_itself_is_no_manifest_and_a_stream_without_one_is_empty() {
        for text in [
            "",
            "routes: []\n",
            "routes: [\n",
            "# kind: see routes.yaml\nroutes: []\n",
            "routes: []\n---\nroutes: []\n",
            "- kind\n",
        ] {
            assert_eq!(search(text), Stream::Other, "{text}");
        }
        for text in [
            "kind: Service\napiVersion: v1\n",
            "{\"kind\": \"List\", \"items\": []}",
            "# see routes.yaml\nkind: ConfigMap\napiVersion: v1\ndata: {}\n",
        ] {
            assert_eq!(search(text), Stream::Manifests(Vec::new()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_stream_whatever_makes_it_panic(text in "(---|kind: |ConfigMap|List|items:|apiVersion: v1|data:|routes.yaml: |[-:{}\\[\\]\n \"a|]){0,30}") {
            let _ = search(&text);
        }
    }
}
