//! The table of `status`, for people.
//!
//! Pure.

use std::fmt::Write as _;

use crate::report::status::{GatewayState, GatewayStatus, Overall, SetStatus, Status};

/// How many skipped destinations of a set are listed for people.
const SHOWN: usize = 10;

/// Colours of a terminal.
struct Colours(bool);

impl Colours {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The whole report.
pub(super) fn of(status: &Status, colours: bool) -> String {
    let colours = Colours(colours);
    let mut out = String::new();
    let word = format!("{:?}", status.status);
    let word = match status.status {
        Overall::Ready => colours.paint("32", &word),
        Overall::Degraded => colours.paint("33", &word),
        Overall::Invalid | Overall::RolledBack => colours.paint("31", &word),
    };
    let revision = match status.revision.as_str() {
        "" => "none",
        revision => revision,
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}: {word}, revision {revision}", status.node);
    if status.problems.is_empty() {
        let message = status.message.as_deref().unwrap_or_default();
        if !message.is_empty() {
            let _ = writeln!(out, "  {message}");
        }
    }
    for problem in &status.problems {
        let _ = writeln!(out, "  {}", problem.text);
    }
    if let Some(rejected) = &status.rejected_revision {
        let _ = writeln!(out, "  rejected revision: {rejected}");
    }
    for set in &status.sets {
        of_set(set, &colours, &mut out);
    }
    out
}

fn of_set(set: &SetStatus, colours: &Colours, out: &mut String) {
    let _ = writeln!(
        out,
        "\n{} ({}, when down {}): {}/{} routes",
        set.name, set.strategy, set.when_down, set.installed, set.wanted
    );
    let addresses: Vec<String> = set.gateways.iter().map(|g| g.address.to_string()).collect();
    let width = addresses.iter().map(String::len).max().unwrap_or_default();
    let weighted = set.gateways.iter().any(|gateway| gateway.weight != 1);
    for (gateway, address) in set.gateways.iter().zip(&addresses) {
        let mut line = format!(
            "  {address:<width$}  {}  {:<6}  {:>10}",
            state(gateway.state, colours),
            if gateway.active { "active" } else { "" },
            round_trip(gateway),
        );
        if weighted {
            let _ = write!(line, "  weight {}", gateway.weight);
        }
        if let Some(buckets) = gateway.buckets {
            let plural = if buckets == 1 { "" } else { "s" };
            let _ = write!(line, "  {buckets} bucket{plural}");
        }
        if let Some(reason) = &gateway.reason {
            let _ = write!(line, "  {reason}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let skipped = set.skipped.iter().map(|s| (&s.destination, &s.reason));
    list("not as written", skipped, out);
    let overridden = set.overridden.iter().map(|t| (&t.destination, &t.by));
    list("overridden in part", overridden, out);
    let bypassed = set.bypassed.iter().map(|t| (&t.destination, &t.by));
    list("bypassed", bypassed, out);
}

fn state(state: GatewayState, colours: &Colours) -> String {
    let padded = format!("{:<8}", state.as_str());
    match state {
        GatewayState::Up => colours.paint("32", &padded),
        GatewayState::Down | GatewayState::Unusable => colours.paint("31", &padded),
        GatewayState::Unknown | GatewayState::Draining => colours.paint("33", &padded),
    }
}

/// Of a gateway that is down it would be that of a probe long ago.
fn round_trip(gateway: &GatewayStatus) -> String {
    let answers = matches!(gateway.state, GatewayState::Up | GatewayState::Draining);
    match gateway.rtt_ms.filter(|_| answers) {
        Some(ms) => format!("{ms:.3} ms"),
        None => String::new(),
    }
}

fn list<'a>(
    what: &str,
    items: impl ExactSizeIterator<Item = (&'a String, &'a String)>,
    out: &mut String,
) {
    let more = items.len().saturating_sub(SHOWN);
    for (destination, why) in items.take(SHOWN) {
        let _ = writeln!(out, "  {what}: {destination} ({why})");
    }
    if more > 0 {
        let _ = writeln!(out, "  {what}: {more} more; `-o json` lists them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::tests::{example, set};

    #[test]
    fn columns_are_aligned_and_a_gateway_that_is_down_has_no_round_trip_time() {
        let mut status = example();
        let mut other = set(
            "partner-api",
            &[
                ("10.116.0.5", GatewayState::Up),
                ("fd00:116:0:1::1005", GatewayState::Draining),
            ],
        );
        other.gateways[1].buckets = Some(1);
        other.gateways[1].rtt_ms = Some(12.0);
        status.sets.push(other);
        status.sets[0].gateways[0].rtt_ms = Some(0.4);
        insta::assert_snapshot!(of(&status, false), @r"
        node1: Degraded, revision 0123456789ab
          Set `clouds`: 2 of 2050 prefixes are not in the kernel

        clouds (balance, when down hold): 2048/2050 routes
          10.116.0.6  down                          no answer
          10.116.0.5  up        active    0.500 ms

        partner-api (balance, when down hold): 2048/2050 routes
          10.116.0.5          up        active    0.500 ms
          fd00:116:0:1::1005  draining           12.000 ms  1 bucket
        ");
        let coloured = of(&status, true);
        assert!(
            coloured.contains("\u{1b}[31mdown    \u{1b}[0m"),
            "{coloured}"
        );
    }
}
