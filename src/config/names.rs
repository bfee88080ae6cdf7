//! Names of route sets and of list files: what is one, and what was probably meant.
//!
//! Pure.

use super::ROUTES_YAML;
use super::problem::quoted;
use super::spelling::listed;

/// Longest set name: it is a DNS label.
const MAX_NAME: usize = 63;

/// Why a list file that a set names was not found, with the files that are there.
pub(super) fn missing(name: &str, others: &[String]) -> String {
    let quoted = quoted(name);
    let there: Vec<&String> = others
        .iter()
        .filter(|other| *other != ROUTES_YAML)
        .take(5)
        .collect();
    if there.is_empty() {
        return format!(
            "{quoted} is not there; beside {ROUTES_YAML} there are no files: add a key of that name to the ConfigMap"
        );
    }
    let more = if others.len() > there.len() + 1 {
        ", and more"
    } else {
        ""
    };
    format!(
        "{quoted} is not there; the files that are there: {}{more}",
        listed(&there)
    )
}

/// A key of a `ConfigMap`, so that no path leads out of the directory.
pub(super) fn check_file_name(name: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name == ROUTES_YAML {
        Err("is this file itself; a list file holds one CIDR a line")
    } else if name.is_empty()
        || name.len() > 253
        || name.starts_with("..")
        || name == "."
        || !name.bytes().all(plain)
    {
        Err(
            "is not a key of a ConfigMap; expected a plain file name like `aws.txt`, without directories",
        )
    } else {
        Ok(())
    }
}

/// The name that was probably meant.
fn as_name(name: &str) -> Option<String> {
    let plain = |c: char| match c.to_ascii_lowercase() {
        '_' | '.' | ' ' | '/' => '-',
        other => other,
    };
    let right: String = name.chars().map(plain).collect();
    let right = right.trim_matches('-');
    (right.len() <= MAX_NAME && is_name(right)).then(|| right.to_owned())
}

/// Whether a text has the characters of a name.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(plain)
}

/// Whether a text is the name of a route set, or why not.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!(
            "has {} characters; a name has at most {MAX_NAME}",
            name.chars().count()
        ));
    }
    if !is_name(name) {
        let expected = "lower case letters, digits and `-`, with a letter or digit at both ends";
        return Err(match as_name(name) {
            Some(right) => format!("is not a name; a name has {expected}: write `{right}`"),
            None => format!("is not a name; expected {expected}"),
        });
    }
    Ok(())
}
