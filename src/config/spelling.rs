//! The known name that was probably meant, and names listed in a sentence.
//!
//! Pure.

use std::fmt::Display;

use super::problem::printable;

/// The known name that was probably meant: the same but for case, `_` and `-`, or a few letters off.
pub(super) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    if key.len() > 64 {
        return None;
    }
    let folded = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let wanted = folded(key);
    let distance = |name: &str| strsim::damerau_levenshtein(&wanted, &folded(name));
    let (least, name) = known.iter().map(|name| (distance(name), *name)).min()?;
    (least <= name.len().min(wanted.len()) / 3).then_some(name)
}

/// `a`, `b` and `c`, in backticks.
pub(crate) fn listed(names: &[impl Display]) -> String {
    joined(names, "and")
}

/// `a`, `b` or `c`, in backticks.
pub(crate) fn listed_or(names: &[impl Display]) -> String {
    joined(names, "or")
}

fn joined(names: &[impl Display], word: &str) -> String {
    let quoted: Vec<String> = names
        .iter()
        .map(|name| format!("`{}`", printable(&name.to_string())))
        .collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} {word} {last}", others.join(", ")),
    }
}
