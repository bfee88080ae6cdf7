//! The checked configuration: what `routes.yaml` and its list files mean.
//!
//! Pure: no file system, no clock, no kernel. Reading the directory is `source`'s, deciding what
//! of it applies to this node is `resolve`'s. Outside this module only checked values exist:
//! [`parse`] answers with a [`Config`], or with every problem there is, never with a part.
//!
//! ```text
//! bytes -> yaml (tree with places) -> sets (fields, health_check, selector, lists) -> clash -> Config + warnings
//!                  |                        |                                          |
//!                  +------------------------+------- problem (file:line:column) -------+
//! ```

mod advice;
mod clash;
pub mod convert;
mod destinations;
pub mod drain_edit;
pub mod duration;
mod fields;
mod foreign;
mod gateways;
mod given;
mod health_check;
mod lists;
pub mod manifests;
mod model;
mod names;
mod problem;
mod revision;
mod selector;
mod sets;
mod spelling;
mod warnings;
pub(crate) mod yaml;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::clash::Relations;
pub use self::clash::{Clash, clashes};
use self::destinations::Place;
use self::fields::Reader;
pub use self::given::Given;
pub use self::model::{
    Config, Failback, HealthCheck, NodeSelector, Operator, Probe, Requirement, RouteSet, Share,
    Strategy, WhenDown,
};
pub(crate) use self::problem::printable;
use self::problem::{Path, Source, quoted};
pub use self::problem::{Problem, Problems};
pub use self::revision::Revision;
pub use self::warnings::{Warning, WarningKind};
use self::yaml::{At, Node};
use crate::net::prefix::Prefix;

/// The file that is always read.
pub const ROUTES_YAML: &str = "routes.yaml";
/// Largest file, in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Largest version of the directory: `routes.yaml` and the list files it names, in bytes.
pub const MAX_TOTAL: usize = 8 << 20;
/// Most route sets.
pub const MAX_SETS: usize = 1_000;
/// Most CIDRs, before duplicates are dropped.
pub const MAX_DESTINATIONS: usize = 250_000;

/// One version of the directory, unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The bytes of `routes.yaml`.
    pub routes_yaml: Vec<u8>,
    /// The list files that it names, as [`list_names`] has it.
    pub lists: BTreeMap<String, Result<Vec<u8>, ListUnread>>,
    /// Names of files that are there, for a hint when one that is named is not.
    pub others: Vec<String>,
    /// Where the texts were given, by name; what is absent is a file of that name.
    pub given: BTreeMap<String, Given>,
}

/// Why the bytes of a list file are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListUnread {
    /// There is no such file.
    Missing,
    /// Half a sentence: what is wrong and what would be right, like "is a directory; expected a file".
    Other(String),
}

impl Files {
    /// From the keys of a `ConfigMap`; `None` when `routes.yaml` is not among them.
    pub fn from_keys(keys: &BTreeMap<String, Vec<u8>>) -> Option<Self> {
        let routes_yaml = keys.get(ROUTES_YAML)?.clone();
        let list = |name: String| {
            let bytes = keys.get(&name).cloned().ok_or(ListUnread::Missing);
            (name, bytes)
        };
        let lists = list_names(&routes_yaml).into_iter().map(list).collect();
        Some(Self {
            routes_yaml,
            lists,
            others: keys.keys().cloned().collect(),
            given: BTreeMap::new(),
        })
    }

    /// The revision over what could be read. When all of it could, this is the revision of the contract.
    pub fn revision(&self) -> Revision {
        let lists = self
            .lists
            .iter()
            .filter_map(|(name, bytes)| Some((name.as_str(), bytes.as_deref().ok()?)));
        Revision::of(&self.routes_yaml, lists)
    }
}

/// What a good version of the directory means.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// Its name.
    pub revision: Revision,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Warning>,
}

/// The list files that a `routes.yaml` names; sorted, distinct. None when it is no YAML: [`parse`] reports that.
pub fn list_names(routes_yaml: &[u8]) -> Vec<String> {
    let key = b"destinationFiles";
    if routes_yaml.len() > MAX_FILE || !routes_yaml.windows(key.len()).any(|window| window == key) {
        return Vec::new(); // spares most configurations a second decoding
    }
    let Ok(text) = text_of(routes_yaml) else {
        return Vec::new();
    };
    yaml::decode(text).map_or_else(|_| Vec::new(), |root| destinations::list_names(&root))
}

/// The names of the sets of a `routes.yaml`, right or wrong, in its order; empty where there is none.
pub fn set_names(routes_yaml: &[u8]) -> Vec<String> {
    let root = text_of(routes_yaml).ok().map(yaml::decode);
    let Some(Ok(root)) = root else {
        return Vec::new();
    };
    let sets = root.entry("routes").map(Node::items).unwrap_or_default();
    let name = |set: &Node<'_>| {
        let name = set.entry("name").and_then(Node::text).unwrap_or_default();
        printable(name).into_owned()
    };
    sets.iter().take(MAX_SETS).map(name).collect()
}

/// Checks one version of the directory.
pub fn parse(files: &Files) -> Result<Checked, Problems> {
    let revision = files.revision();
    let refuse = |name: &str, message: String| {
        let mut reader = Reader::new(Source::of(files, name, ""));
        reader.problem(At::START, &Path::Root, message);
        Err(reader.found.into_problems(revision))
    };
    let sizes = std::iter::once((ROUTES_YAML, files.routes_yaml.len())).chain(
        files
            .lists
            .iter()
            .filter_map(|(name, bytes)| Some((name.as_str(), bytes.as_ref().ok()?.len()))),
    );
    if let Some((name, _)) = sizes.clone().find(|(_, size)| *size > MAX_FILE) {
        return refuse(
            name,
            format!(
                "is larger than {} MiB, which is the limit for a file",
                MAX_FILE >> 20
            ),
        );
    }
    if sizes.map(|(_, size)| size).sum::<usize>() > MAX_TOTAL {
        return refuse(
            ROUTES_YAML,
            format!(
                "is larger than {} MiB with its list files, which is the limit",
                MAX_TOTAL >> 20
            ),
        );
    }
    match text_of(&files.routes_yaml) {
        Ok(text) => check(files, text, revision),
        Err((at, message)) => {
            let lossy = String::from_utf8_lossy(&files.routes_yaml);
            let mut reader = Reader::new(Source::of(files, ROUTES_YAML, &lossy));
            reader.problem(at, &Path::Root, message);
            Err(reader.found.into_problems(revision))
        }
    }
}

/// Parses bytes as `routes.yaml` and as the list file `aws.txt`, for fuzzers: it must neither panic nor take long,
/// and its text of a problem must be one line.
pub fn check_any_bytes(routes_yaml: &[u8], list: &[u8]) {
    let keys = BTreeMap::from([
        (ROUTES_YAML.to_owned(), routes_yaml.to_vec()),
        ("aws.txt".to_owned(), list.to_vec()),
    ]);
    let Some(files) = Files::from_keys(&keys) else {
        return;
    };
    if let Err(problems) = parse(&files) {
        debug_assert!(!problems.kept.is_empty(), "refused without a reason");
        for problem in &problems.kept {
            debug_assert!(
                !problem.to_string().contains(char::is_control),
                "{problem:?}"
            );
            let _ = problem.picture(true);
        }
    }
}

fn check(files: &Files, text: &str, revision: Revision) -> Result<Checked, Problems> {
    let mut reader = Reader::new(Source::of(files, ROUTES_YAML, text));
    let decoded_root = match foreign::document_text(text) {
        Some(what) => Err((At::START, what)),
        None => decode(text),
    };
    let root = match decoded_root {
        Ok(root) => root,
        Err((at, message)) => {
            reader.problem(at, &Path::Root, message);
            return Err(reader.found.into_problems(revision));
        }
    };
    let decoded = sets::read(&mut reader, &root, files);
    let relations = Relations::new(&decoded.sets);
    let (certain, possible) = clash::sort_out(&decoded.sets, &relations);
    for clash in &certain {
        refuse_clash(&mut reader, &root, files, &decoded.sets, *clash);
    }
    if !reader.found.is_empty() {
        return Err(reader.found.into_problems(revision));
    }
    drop(root);
    let config = Config {
        sets: decoded.sets,
        protected: decoded.protected,
        expected_rules: decoded.expected_rules,
    };
    let mut warnings = warnings::of(&config, files, &possible, &relations);
    warnings.extend(
        decoded
            .idle_keys
            .iter()
            .map(|(set, key)| warnings::idle_key(set, key)),
    );
    Ok(Checked {
        config,
        revision,
        warnings,
    })
}

/// The tree of a `routes.yaml`, or why it is none, with the commonest causes in words of our own.
fn decode(text: &str) -> Result<Node<'_>, (At, String)> {
    let root = yaml::decode(text).map_err(|error| {
        let line = |back: u32| {
            let number = error.at.line.checked_sub(1 + back)?;
            let (start, line) = problem::lines(text).nth(number as usize)?;
            Some((number + 1, start, line))
        };
        if let Some(what) = line(0).and_then(|(_, _, line)| advice::template(line)) {
            return (error.at, format!("the line {what}"));
        }
        // YAML notices a missing blank on the line or on one of the next.
        let slip = (0..3).filter_map(line).find_map(|(number, start, line)| {
            let bare = line.trim_start();
            let item = bare.strip_prefix("- ").unwrap_or(bare).trim();
            let right = fields::missing_blank(item).filter(|_| !item.contains(": "))?;
            let before = line.len() - bare.len() + bare.find(item)?;
            let at = At::new(number, before + 1, start + before, item.len());
            Some((
                at,
                format!("{} lacks a blank: write `{right}`", problem::quoted(item)),
            ))
        });
        slip.unwrap_or((error.at, error.message))
    })?;
    match foreign::document(&root) {
        Some(what) => Err((At::START, what)),
        None => Ok(root),
    }
}

/// Reports a prefix of two sets at its place in the later one, and names its place in the other.
fn refuse_clash(
    reader: &mut Reader<'_>,
    root: &Node<'_>,
    files: &Files,
    sets: &[RouteSet],
    clash: Clash,
) {
    if reader.found.is_full() {
        return reader.found.count_one();
    }
    let (Some(first), Some(second)) = (sets.get(clash.first), sets.get(clash.second)) else {
        return;
    };
    let prefix = clash.prefix;
    let other = match place(root, files, &first.name, prefix) {
        Some((_, Place::Inline(_, at))) => reader.source.place(at),
        Some((_, Place::List(source, at))) => source.place(at),
        None => ROUTES_YAML.to_owned(),
    };
    let message = format!(
        "`{prefix}` is in set {} and in set {} ({other}), and both apply to the same nodes; take it out of one of them",
        quoted(&second.name),
        quoted(&first.name),
    );
    match place(root, files, &second.name, prefix) {
        Some((set, Place::Inline(i, at))) => {
            reader.problem(
                at,
                &Path::Root
                    .key("routes")
                    .index(set)
                    .key("destinations")
                    .index(i),
                message,
            );
        }
        Some((_, Place::List(source, at))) => reader.found.add(source, at, None, message),
        None => reader.problem(At::START, &Path::Root, message),
    }
}

/// Where a set names a prefix first: `FILE:LINE:COLUMN`, as given.
pub fn where_is(files: &Files, set: &str, prefix: Prefix) -> Option<String> {
    let text = text_of(&files.routes_yaml).ok()?;
    let root = yaml::decode(text).ok()?;
    Some(match place(&root, files, set, prefix)?.1 {
        Place::Inline(_, at) => Source::of(files, ROUTES_YAML, text).place(at),
        Place::List(source, at) => source.place(at),
    })
}

/// The index in `routes` of the set, and where it names the prefix first.
fn place<'f>(
    root: &Node<'_>,
    files: &'f Files,
    set: &str,
    prefix: Prefix,
) -> Option<(usize, Place<'f>)> {
    let sets = root.entry("routes")?.items();
    let index = sets
        .iter()
        .position(|node| node.entry("name").and_then(Node::text) == Some(set))?;
    let node = sets.get(index)?;
    Some((
        index,
        destinations::locate(
            files,
            node.entry("destinations"),
            node.entry("destinationFiles"),
            prefix,
        )?,
    ))
}

/// The bytes as text, or where and why they are none.
fn text_of(bytes: &[u8]) -> Result<&str, (At, String)> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err((At::START, "is UTF-16; save it as UTF-8".to_owned()));
    }
    let at = |valid: &str| {
        let (number, line) = (1u32..)
            .zip(problem::lines(valid))
            .last()
            .map_or((1, ""), |(n, (_, line))| (n, line));
        At::new(number, line.chars().count() + 1, valid.len(), 1)
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        (
            at(valid),
            format!("the byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"),
        )
    })?;
    match text.find('\0') {
        Some(zero) => Err((
            at(&text[..zero]),
            "there is a zero byte; the file holds text only".to_owned(),
        )),
        None => Ok(text),
    }
}
