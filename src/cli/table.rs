//! The table of `status`, for people.
//!
//! Pure.

use std::fmt::Write as _;

use crate::report::status::{SetStatus, Status};

/// The whole report.
pub(super) fn of(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{}: {:?}, revision {}",
        status.node,
        status.status,
        if status.revision.is_empty() {
            "none"
        } else {
            &status.revision
        }
    );
    if let Some(message) = &status.message {
        let _ = writeln!(out, "  {message}");
    }
    if let Some(rejected) = &status.rejected_revision {
        let _ = writeln!(out, "  rejected revision: {rejected}");
    }
    for set in &status.sets {
        of_set(set, &mut out);
    }
    out
}

fn of_set(set: &SetStatus, out: &mut String) {
    let _ = writeln!(
        out,
        "\n{} ({}, when down {}): {}/{} routes",
        set.name, set.strategy, set.when_down, set.installed, set.wanted
    );
    for gateway in &set.gateways {
        let state = gateway.state.as_str();
        let mut line = format!(
            "  {:<24} {state:<9}{}",
            gateway.address.to_string(),
            if gateway.active { "active" } else { "" }
        );
        if let Some(rtt) = gateway.rtt_ms {
            let _ = write!(line, "  {rtt:.3} ms");
        }
        if let Some(reason) = &gateway.reason {
            let _ = write!(line, "  {reason}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for skipped in set.skipped.iter().take(SHOWN) {
        let _ = writeln!(
            out,
            "  not as written: {} ({})",
            skipped.destination, skipped.reason
        );
    }
    if set.skipped.len() > SHOWN {
        let _ = writeln!(
            out,
            "  not as written: {} more; `-o json` lists them",
            set.skipped.len() - SHOWN
        );
    }
}

/// How many skipped destinations of a set are listed for people.
const SHOWN: usize = 10;
