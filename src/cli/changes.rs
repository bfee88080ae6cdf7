//! What `diff` prints: the changes a line each, folded where thousands are alike, and a summary.
//!
//! Pure.

use serde::Serialize;

/// Lines alike that are shown before the rest is a number, on a terminal.
const SHOWN: usize = 5;
/// Fewer lines alike than these are all shown.
const FOLD_FROM: usize = 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which kind.
    pub op: Op,
    /// The prefix, or `gateway` with its address.
    pub what: String,
    /// Where it goes, and where it went.
    pub text: String,
}

/// Which kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// `+`
    Add,
    /// `-`
    Remove,
    /// `~`
    Change,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// To add.
    pub add: usize,
    /// To change.
    pub change: usize,
    /// To remove.
    pub remove: usize,
}

impl Change {
    /// From a line of a plan, like `+ 203.0.113.0/24 via 10.116.0.5`.
    pub fn of_line(line: &str) -> Option<Self> {
        let (mark, rest) = line.split_once(' ')?;
        let op = match mark {
            "+" => Op::Add,
            "-" => Op::Remove,
            "~" => Op::Change,
            _ => return None,
        };
        let words = if rest.starts_with("gateway ") { 2 } else { 1 };
        let end = rest
            .match_indices(' ')
            .nth(words - 1)
            .map_or(rest.len(), |(at, _)| at);
        let (what, text) = rest.split_at(end);
        Some(Self {
            op,
            what: what.to_owned(),
            text: text.trim_start().to_owned(),
        })
    }

    const fn mark(&self) -> char {
        match self.op {
            Op::Add => '+',
            Op::Remove => '-',
            Op::Change => '~',
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = format!("{} {} {}", self.mark(), self.what, self.text);
        f.write_str(line.trim_end())
    }
}

impl Summary {
    /// Counts them.
    pub fn of(changes: &[Change]) -> Self {
        let count = |op: Op| changes.iter().filter(|change| change.op == op).count();
        Self {
            add: count(Op::Add),
            change: count(Op::Change),
            remove: count(Op::Remove),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.add, "to add"),
            (self.change, "to change"),
            (self.remove, "to remove"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if parts.is_empty() {
            f.write_str("nothing to change")
        } else {
            f.write_str(&parts.join(", "))
        }
    }
}

/// The lines; where more than a few in a row are alike, the rest of them is one line.
pub fn folded(changes: &[Change]) -> Vec<String> {
    let mut lines = Vec::new();
    for run in changes.chunk_by(|a, b| a.op == b.op && a.text == b.text) {
        if run.len() < FOLD_FROM {
            lines.extend(run.iter().map(ToString::to_string));
            continue;
        }
        lines.extend(run.iter().take(SHOWN).map(ToString::to_string));
        if let Some(first) = run.first() {
            let more = run.len() - SHOWN;
            let line = format!("{} … {more} more {}", first.mark(), first.text);
            lines.push(line.trim_end().to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(line: &str) -> Change {
        Change::of_line(line).unwrap()
    }

    #[test]
    fn a_line_is_read_and_written_alike() {
        for line in [
            "+ 203.0.113.0/24 via 10.116.0.5",
            "~ 203.0.113.0/24 via 10.116.0.6 (was via 10.116.0.5)",
            "- 2001:db8::/32 blackhole (leak guard)",
            "+ gateway 10.116.0.7 dev eth1, which carries nothing for now",
        ] {
            assert_eq!(change(line).to_string(), line);
        }
        assert_eq!(
            change("+ gateway 10.116.0.7 dev eth1").what,
            "gateway 10.116.0.7"
        );
        assert_eq!(Change::of_line("anything else"), None);
    }

    #[test]
    fn thousands_that_go_the_same_way_are_one_line_and_the_summary_counts_them() {
        let mut changes: Vec<Change> = (0..3_000u32)
            .map(|i| change(&format!("+ 10.{}.{}.0/24 via 10.116.0.5", i / 200, i % 200)))
            .collect();
        changes.push(change("- 192.0.2.0/24 via 10.116.0.5"));
        let lines = folded(&changes);
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[5], "+ … 2995 more via 10.116.0.5");
        assert_eq!(
            Summary::of(&changes).to_string(),
            "3000 to add, 1 to remove"
        );
        assert_eq!(Summary::default().to_string(), "nothing to change");
    }
}
