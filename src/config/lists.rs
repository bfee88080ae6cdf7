//! List files: one CIDR or address a line, blank lines and `#` comments.
//!
//! Pure. The same text always means the same prefixes, whatever its line endings.

use super::advice;
use super::problem::{Found, Source, lines, quoted};
use super::yaml::At;
use crate::net::prefix::{Prefix, PrefixError};

/// Reads every line; what is no prefix goes to `found`. In the order of the file, duplicates and all.
pub(crate) fn read(source: Source<'_>, found: &mut Found) -> Vec<Prefix> {
    let mut prefixes = Vec::new();
    for (at, value) in values(source.text) {
        match value.parse() {
            Ok(prefix) => prefixes.push(prefix),
            Err(_) if found.is_full() => found.count_one(),
            Err(error) => found.add(source, at, None, explain(value, &error)),
        }
    }
    prefixes
}

/// Where the prefix is written first.
pub(crate) fn find(text: &str, prefix: Prefix) -> Option<At> {
    values(text)
        .find(|(_, value)| value.parse() == Ok(prefix))
        .map(|(at, _)| at)
}

fn explain(value: &str, error: &PrefixError) -> String {
    let quoted = quoted(value);
    let mut parts = value
        .split([' ', '\t', ',', ';'])
        .filter(|part| !part.is_empty());
    let (first, more) = (parts.next(), parts.next().is_some());
    let is_prefix = |text: &str| text.parse::<Prefix>().is_ok();
    if more && first.is_some_and(is_prefix) {
        return format!(
            "{quoted} is more than a CIDR; a list file holds one CIDR a line, with comments after `#`"
        );
    }
    advice::about_prefix(value, error)
}

/// The text of each line without comments and blanks, and its position.
fn values(text: &str) -> impl Iterator<Item = (At, &str)> {
    lines(text)
        .zip(1u32..)
        .filter_map(|((start, line), number)| {
            let content = line.split('#').next().unwrap_or_default();
            let value = content.trim();
            if value.is_empty() {
                return None;
            }
            let before = content.len() - content.trim_start().len();
            let column = content[..before].chars().count() + 1;
            Some((At::new(number, column, start + before, value.len()), value))
        })
}
