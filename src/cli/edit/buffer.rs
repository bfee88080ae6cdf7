//! The text in the editor: problems are added at the top as comments, and removed again.
//!
//! Pure.

use std::fmt::Write as _;

use crate::config::Problems;

/// How a line on top begins.
const MARK: &str = "#~ ";
/// Problems that are shown.
const SHOWN: usize = 20;

/// The text below what is wrong with it. Line numbers are those of the editor.
pub(super) fn with_problems(text: &str, key: &str, problems: &Problems) -> String {
    let shown = &problems.kept[..problems.kept.len().min(SHOWN)];
    let more = problems.count() - shown.len();
    let above = 2 + shown.len() + usize::from(more > 0);
    let mut out = format!(
        "{MARK}Refused, and not written. Correct it, or close the editor without a change to give up.\n{MARK}These lines are removed automatically.\n"
    );
    for problem in shown {
        let mut problem = problem.clone();
        if problem.file == key {
            problem.line += u32::try_from(above).unwrap_or(0);
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{MARK}{problem}");
    }
    if more > 0 {
        let _ = writeln!(out, "{MARK}and {more} more");
    }
    out + text
}

/// The text alone.
pub(super) fn without_problems(edited: &str) -> &str {
    let mut rest = edited;
    while rest.starts_with(MARK.trim_end()) {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Files, parse};

    #[test]
    fn line_numbers_are_those_of_the_editor_and_the_text_comes_back_whole() {
        let text = "# ours\nroutes:\n  - name: a\n    gateways: [10.116.0]\n    destinations: [203.0.113.0/24]\n";
        let files = Files {
            routes_yaml: text.into(),
            ..Files::default()
        };
        let problems = parse(&files).unwrap_err();
        let shown = with_problems(text, "routes.yaml", &problems);
        let named: usize = shown
            .lines()
            .find_map(|line| {
                line.strip_prefix("#~ routes.yaml:")?
                    .split(':')
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap();
        assert_eq!(
            shown.lines().nth(named - 1).unwrap(),
            "    gateways: [10.116.0]"
        );
        assert_eq!(without_problems(&shown), text);
        assert_eq!(without_problems(text), text);
        assert_eq!(without_problems("#~"), "");
    }
}
