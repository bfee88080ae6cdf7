//! Durations as Kubernetes writes them: `500ms`, `1s`, `1h30m`.
//!
//! Pure. kube's parser is given only what it is sure to take: it may panic on numbers that are too large.

use std::time::Duration;

/// Longest text of a duration, and of a number in it: kube's parser panics when its arithmetic overflows.
const MAX_DURATION_TEXT: usize = 24;
const MAX_DURATION_NUMBER: usize = 10;

/// The grammar of Go's `time.ParseDuration` without signs and exponents, then kube's own parser for the value. An error is a
/// predicate for a person, to be read after the text.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    if text.starts_with('-') {
        return Err("is negative");
    }
    if text.is_empty() || text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err("has no unit");
    }
    let plain = |c: char| {
        c.is_ascii_digit() || c == '.' || matches!(c, 'n' | 'u' | 'µ' | 'μ' | 'm' | 's' | 'h')
    };
    let long = text.len() > MAX_DURATION_TEXT
        || text
            .split(char::is_alphabetic)
            .any(|number| number.len() > MAX_DURATION_NUMBER);
    if long || !text.chars().all(plain) {
        return Err("is not a duration");
    }
    text.parse::<kube::core::Duration>()
        .map(Duration::from)
        .map_err(|_| "is not a duration")
}
