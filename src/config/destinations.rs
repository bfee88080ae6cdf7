//! The prefixes of a route set: inline, from list files, and where each is written.
//!
//! Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::fields::{Fields, Reader};
use super::names::{check_file_name, missing};
use super::problem::{Path, Source, quoted};
use super::yaml::{At, Node, Value};
use super::{Files, ListUnread, MAX_DESTINATIONS, MAX_SETS};
use super::{foreign, lists};
use crate::net::prefix::{Family, Prefix};

/// Most list files of one set.
const MAX_LISTS: usize = 64;

/// Reads the prefixes of all sets, counts them, and reads each list file once.
pub(super) struct PrefixReader<'f> {
    files: &'f Files,
    /// What each list file holds, in the order of the file.
    lists: BTreeMap<&'f str, Vec<Prefix>>,
    /// How many prefixes were read so far.
    count: usize,
}

impl<'f> PrefixReader<'f> {
    pub(super) fn new(files: &'f Files) -> Self {
        Self {
            files,
            lists: BTreeMap::new(),
            count: 0,
        }
    }

    /// Inline ones and those of list files; sorted and distinct.
    pub(super) fn destinations(
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
    pub(super) fn inline(
        &mut self,
        reader: &mut Reader<'_>,
        node: &Node<'_>,
        path: &Path<'_>,
    ) -> Vec<Prefix> {
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

    /// Counts prefixes, and reports once when there are too many.
    fn too_many(&mut self, reader: &mut Reader<'_>, more: usize, at: At, path: &Path<'_>) -> bool {
        let before = self.count;
        self.count = before.saturating_add(more);
        if before <= MAX_DESTINATIONS && self.count > MAX_DESTINATIONS {
            reader.problem(at, path, format!("with these, there are more than {MAX_DESTINATIONS} CIDRs in all, which is the limit"));
        }
        self.count > MAX_DESTINATIONS
    }

    /// Every destination needs a gateway of its family, unless `except` takes the whole family out.
    pub(super) fn check_families(
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
            "holds no CIDR; if that is intended, remove the file from `destinationFiles`",
        );
    }
    prefixes
}

/// Sorted and distinct.
pub(super) fn sort(prefixes: &mut Vec<Prefix>) {
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
