//! Finds configurations in a stream of Kubernetes manifests.
//!
//! Pure. A stream is split at its `---` lines first, so that each document is decoded and judged by itself. JSON is YAML.
//! What is wrong with a document that has nothing to do with routes is a warning: other tools will refuse it.

use std::collections::BTreeMap;

use crate::config::problem::{Problem, Source, quoted};
use crate::config::yaml::{At, Node, Value, decode_large};
use crate::config::{Files, Given, ListUnread, ROUTES_YAML, Warning, WarningKind, foreign};

/// Most lists within lists.
const MAX_NESTED: usize = 4;
/// Most bytes of all values of a `ConfigMap`; the API server refuses more.
pub const MAX_CONFIG_MAP: usize = 1 << 20;
/// Most bytes of an object's annotations, one of which is the object as `kubectl apply` wrote it.
pub const MAX_APPLIED: usize = 262_144;
/// What the agents of an unchanged installation mount.
const NAME: &str = "egress-routes";
const NAMESPACE: &str = "kube-system";

/// A `ConfigMap` that holds a `routes.yaml`.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// `namespace/name`, as far as the manifest has them.
    pub name: String,
    /// Its keys, or why they are none.
    pub files: Result<Files, Vec<Problem>>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Warning>,
}

/// What a stream of manifests holds for us.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Manifests {
    /// The configurations.
    pub found: Vec<Found>,
    /// What should have been one, like a `ConfigMap` with a key `routes.yml`.
    pub problems: Vec<Problem>,
    /// What is wrong with other documents.
    pub warnings: Vec<Warning>,
}

/// What a stream turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Stream {
    /// Manifests; possibly none with a `routes.yaml`.
    Manifests(Manifests),
    /// No manifests: a `routes.yaml` itself, right or wrong.
    Other,
}

/// Looks through a stream; `name` is the file it comes from.
pub fn search(name: &str, text: &str) -> Stream {
    let mut search = Search {
        name,
        text,
        out: Manifests::default(),
        lists: BTreeMap::new(),
        others: Vec::new(),
    };
    let mut manifests = false;
    let documents = documents(text);
    let many = documents.len() > 1;
    for document in documents {
        if !document.text.contains("kind") {
            continue;
        }
        match decode_large(document.text) {
            Ok(root) => {
                manifests = manifests || is_manifest(&root);
                search.collect(&root, document, MAX_NESTED);
            }
            Err(error) if is_manifest_text(document.text) => {
                manifests = true;
                search.undecodable(document, error.at, &error.message, many);
            }
            Err(_) => {}
        }
    }
    if !manifests {
        return Stream::Other;
    }
    search.share_lists();
    let others = std::mem::take(&mut search.others);
    if search.out.found.is_empty() {
        search.out.problems.extend(others);
    } else {
        let message = |problem: Problem| warning(WarningKind::Manifest, problem.to_string());
        search.out.warnings.extend(others.into_iter().map(message));
    }
    Stream::Manifests(search.out)
}

/// A document, and how many lines precede it.
#[derive(Clone, Copy)]
pub(crate) struct Document<'t> {
    pub(crate) before: u32,
    pub(crate) text: &'t str,
}

/// The documents of a stream.
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut before, mut start, mut offset) = (0, 0, 0);
    for (number, line) in (0u32..).zip(text.split_inclusive('\n')) {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            let text = &text[start..offset];
            documents.push(Document { before, text });
            (before, start) = (number, offset + 3); // a document may begin on the line of its `---`
        }
        offset += line.len();
    }
    let text = &text[start..];
    documents.push(Document { before, text });
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
    let kind = root.entry("kind").and_then(Node::text);
    kind.is_some_and(|kind| kind.ends_with("List") || root.entry("apiVersion").is_some())
}

fn warning(kind: WarningKind, message: String) -> Warning {
    Warning {
        kind,
        set: None,
        message,
    }
}

struct Search<'t> {
    name: &'t str,
    text: &'t str,
    out: Manifests,
    /// Values of `ConfigMap`s without a `routes.yaml`, which a projected volume may bring beside it.
    lists: BTreeMap<String, (String, Vec<u8>, Given)>,
    /// Routes and policies of other programs.
    others: Vec<Problem>,
}

impl Search<'_> {
    fn problem(&self, document: Document<'_>, at: At, message: impl Into<String>) -> Problem {
        let given = Given::after(self.name, document.before);
        let source = Source {
            name: self.name,
            text: document.text,
            given: Some(&given),
        };
        Problem::new(source, at, None, message)
    }

    /// `kubectl` refuses the whole stream; only what holds routes is ours to refuse.
    fn undecodable(&mut self, document: Document<'_>, at: At, message: &str, many: bool) {
        let problem = self.problem(document, at, message);
        if document.text.contains(ROUTES_YAML) || !many {
            self.out.problems.push(problem);
        } else {
            let message = format!("another document of the stream cannot be decoded: {problem}");
            self.out
                .warnings
                .push(warning(WarningKind::Manifest, message));
        }
    }

    fn collect(&mut self, node: &Node<'_>, document: Document<'_>, depth: usize) {
        let kind = node.entry("kind").and_then(Node::text).unwrap_or_default();
        if kind == "List" || kind == "ConfigMapList" || kind == "SecretList" {
            if depth > 0 {
                for item in node.entry("items").map(Node::items).unwrap_or_default() {
                    self.collect(item, document, depth - 1);
                }
            }
            return;
        }
        // Items of a ConfigMapList need no `kind`.
        if kind == "ConfigMap" || (kind.is_empty() && depth < MAX_NESTED) {
            self.config_map(node, document);
        } else if let Some(what) = foreign::other_kind(node) {
            let at = node.entry("kind").map_or(node.at, |kind| kind.at);
            let problem = self.problem(document, at, what);
            self.others.push(problem);
        } else if kind == "Secret" && has_key(node, ROUTES_YAML) {
            let at = node.entry("kind").map_or(node.at, |kind| kind.at);
            let message = "is a Secret with a key `routes.yaml`; agents read a ConfigMap, and nothing in it is secret";
            let problem = self.problem(document, at, message);
            self.out.problems.push(problem);
        }
    }

    fn config_map(&mut self, node: &Node<'_>, document: Document<'_>) {
        if !has_key(node, ROUTES_YAML) {
            self.other_config_map(node, document);
            return;
        }
        let metadata = |key: &str| {
            node.entry("metadata")
                .and_then(|m| m.entry(key))
                .and_then(Node::text)
        };
        let (own, namespace) = (metadata("name"), metadata("namespace"));
        let name = own.unwrap_or("without a name");
        let name = namespace.map_or_else(
            || name.to_owned(),
            |namespace| format!("{namespace}/{name}"),
        );
        let mut warnings = Vec::new();
        warnings.extend(self.misnamed(own, namespace));
        if node
            .entry("immutable")
            .is_some_and(|node| matches!(node.value, Value::Bool(true)))
        {
            let message = format!(
                "ConfigMap {}: `immutable: true` means that it cannot be edited; take it out, or every change needs a new ConfigMap and new pods",
                quoted(&name)
            );
            warnings.push(warning(WarningKind::Manifest, message));
        }
        let files = self.files(node, document);
        if files.is_ok() {
            warnings.extend(too_large_to_apply(&name, node));
        }
        self.out.found.push(Found {
            name,
            files,
            warnings,
        });
    }

    /// Whether the agents of an unchanged installation read another `ConfigMap`.
    fn misnamed(&self, own: Option<&str>, namespace: Option<&str>) -> Option<Warning> {
        let name = own.filter(|name| *name != NAME);
        let namespace = namespace.filter(|namespace| *namespace != NAMESPACE);
        // A stream that brings its own agent mounts what it likes.
        if name.is_none() && namespace.is_none() || self.text.contains("kind: DaemonSet") {
            return None;
        }
        let message = match (name, namespace) {
            (Some(name), None) => format!(
                "the ConfigMap is named {}; agents mount `{NAME}`, unless their DaemonSet is changed too",
                quoted(name)
            ),
            (None, Some(namespace)) => format!(
                "the ConfigMap is in namespace {}; agents mount the one in their own, which is `{NAMESPACE}` unless it is changed too",
                quoted(namespace)
            ),
            _ => format!(
                "the ConfigMap is {}; agents mount `{NAMESPACE}/{NAME}`, unless their DaemonSet is changed too",
                quoted(&format!("{}/{}", namespace?, name?))
            ),
        };
        Some(warning(WarningKind::Manifest, message))
    }

    /// One without a `routes.yaml`: its keys may be list files, or a slip of the pen.
    fn other_config_map(&mut self, node: &Node<'_>, document: Document<'_>) {
        let owner = node
            .entry("metadata")
            .and_then(|m| m.entry("name"))
            .and_then(Node::text)
            .unwrap_or_default();
        for (key, value, binary) in keys(node) {
            let Some(name) = key.text() else { continue };
            let folded = name.to_lowercase().replace('_', ".");
            if folded == "routes.yml"
                || folded == ROUTES_YAML
                || folded == "routes" && owner == NAME
            {
                let message = format!("the key is `{name}`; agents read `{ROUTES_YAML}`");
                let problem = self.problem(document, key.at, message);
                self.out.problems.push(problem);
            } else if let (Value::Text(text), false) = (&value.value, binary) {
                let given = Given::value(self.name, document.before, document.text, value);
                let bytes = text.as_bytes().to_vec();
                self.lists
                    .insert(name.to_owned(), (owner.to_owned(), bytes, given));
            }
        }
    }

    fn files(&self, node: &Node<'_>, document: Document<'_>) -> Result<Files, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut given = BTreeMap::new();
        for (key, value, binary) in keys(node) {
            let Some(name) = key.text() else {
                problems.push(self.problem(
                    document,
                    key.at,
                    "the key is not text; put it in quotes",
                ));
                continue;
            };
            match bytes(name, value, binary) {
                Ok(bytes) => {
                    all.insert(name.to_owned(), bytes);
                    if !binary {
                        let place = Given::value(self.name, document.before, document.text, value);
                        given.insert(name.to_owned(), place);
                    }
                }
                Err(why) => problems.push(self.problem(document, value.at, why)),
            }
        }
        let total: usize = all.values().map(Vec::len).sum();
        if total > MAX_CONFIG_MAP {
            let at = node.entry("data").map_or(node.at, |data| data.at);
            let message = format!(
                "holds {total} bytes; a ConfigMap has at most {MAX_CONFIG_MAP}: give lists ConfigMaps of their own, in one projected volume"
            );
            problems.push(self.problem(
                document,
                At::new(at.line, at.column as usize, 0, 0),
                message,
            ));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut files = Files::from_keys(&all).unwrap_or_default();
        files.given = given;
        Ok(files)
    }

    /// A list that is in another `ConfigMap` of the stream is found there, as a projected volume has it.
    fn share_lists(&mut self) {
        for found in &mut self.out.found {
            let Ok(files) = &mut found.files else {
                continue;
            };
            for (name, bytes) in &mut files.lists {
                if *bytes != Err(ListUnread::Missing) {
                    continue;
                }
                let Some((owner, text, given)) = self.lists.get(name) else {
                    continue;
                };
                *bytes = Ok(text.clone());
                files.given.insert(name.clone(), given.clone());
                let message = format!(
                    "{} is in the ConfigMap {}; agents find it only where one projected volume holds both",
                    quoted(name),
                    quoted(owner)
                );
                found.warnings.push(warning(WarningKind::Manifest, message));
            }
        }
    }
}

/// The keys of `data` and `binaryData`, and whether they are binary.
fn keys<'n, 'a>(node: &'n Node<'a>) -> impl Iterator<Item = (&'n Node<'a>, &'n Node<'a>, bool)> {
    [("data", false), ("binaryData", true)]
        .into_iter()
        .filter_map(|(part, binary)| Some((node.entry(part)?, binary)))
        .flat_map(|(data, binary)| {
            let entries = match &data.value {
                Value::Map(entries) => entries.as_slice(),
                _ => &[],
            };
            entries.iter().map(move |(key, value)| (key, value, binary))
        })
}

fn has_key(node: &Node<'_>, name: &str) -> bool {
    keys(node).any(|(key, _, _)| key.text() == Some(name))
        || node
            .entry("stringData")
            .is_some_and(|data| data.entry(name).is_some())
}

fn bytes(name: &str, node: &Node<'_>, binary: bool) -> Result<Vec<u8>, String> {
    let name = quoted(name);
    match (&node.value, binary) {
        (Value::Text(text), false) => Ok(text.as_bytes().to_vec()),
        (Value::Text(text), true) => from_base64(text)
            .map_err(|()| format!("{name} is not base64, which `binaryData` holds")),
        (Value::Map(_) | Value::List(_), _) => Err(format!(
            "{name} is a structure; a ConfigMap holds text: write `{}: |`",
            name.trim_matches('`')
        )),
        _ => Err(format!(
            "{name} is not text, and the API server takes nothing else; put it in quotes"
        )),
    }
}

/// `kubectl apply` keeps the object in an annotation, which has a limit of its own.
fn too_large_to_apply(name: &str, node: &Node<'_>) -> Option<Warning> {
    let escaped = |text: &str| -> usize {
        text.chars()
            .map(|c| match c {
                '\n' | '\r' | '\t' | '"' | '\\' => 2,
                '<' | '>' | '&' | '\0'..='\u{1f}' => 6,
                c => c.len_utf8(),
            })
            .sum()
    };
    let values = keys(node).map(|(key, value, _)| {
        escaped(key.text().unwrap_or_default()) + escaped(value.text().unwrap_or_default()) + 6
    });
    let total: usize = values.sum::<usize>() + name.len() + 128;
    (total > MAX_APPLIED).then(|| {
        let message = format!(
            "ConfigMap {} is too large for a plain `kubectl apply`, which keeps a copy of it in an annotation of at most {MAX_APPLIED} bytes; use `kubectl apply --server-side`, or `kubectl create` and `kubectl replace`",
            quoted(name)
        );
        warning(WarningKind::TooLarge, message)
    })
}

/// By the decoder that the API client uses for `binaryData`.
fn from_base64(text: &str) -> Result<Vec<u8>, ()> {
    let joined: String = text.split_whitespace().collect();
    serde_json::from_value::<k8s_openapi::ByteString>(serde_json::Value::String(joined))
        .map(|bytes| bytes.0)
        .map_err(|_| ())
}

#[cfg(test)]
mod tests;
