//! Where a text was in the file that a person gave: the same place, a few lines into a manifest, or inside a JSON string.
//!
//! Pure. Problems are found in the text of a `ConfigMap` key; they are reported at the place that a person can open.

use super::yaml::Node;

/// Which file a text came from, and where in it the text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The file as it was named, like `x/two.yaml`.
    pub name: String,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The text begins after so many lines, and each of its lines after so many blanks.
    Block { lines: u32, indent: u32 },
    /// The text is a double-quoted scalar on one line; holds what was written, quotes included, and where it starts.
    Quoted { raw: String, line: u32, column: u32 },
    /// The text starts there; its lines cannot be distinguished from those of the file.
    Inside { line: u32, column: u32 },
}

impl Given {
    /// The text is the whole file.
    pub fn file(name: impl Into<String>) -> Self {
        Self::after(name, 0)
    }

    /// The text begins after so many lines of the file.
    pub(crate) fn after(name: impl Into<String>, lines: u32) -> Self {
        let place = Place::Block { lines, indent: 0 };
        Self {
            name: name.into(),
            place,
        }
    }

    /// The text is the value of a node in a document, which itself begins after so many lines of the file.
    pub(crate) fn value(name: &str, before: u32, document: &str, node: &Node<'_>) -> Self {
        let (line, column) = (node.at.line + before, node.at.column);
        let raw = node.at.raw(document);
        let text = node.text().unwrap_or_default();
        let place = if is_block(document, node, text) {
            Place::Block {
                lines: line - 1,
                indent: column - 1,
            }
        } else if raw.starts_with('"') && !raw.contains(['\n', '\r']) {
            let raw = raw.to_owned();
            Place::Quoted { raw, line, column }
        } else {
            Place::Inside { line, column }
        };
        Self {
            name: name.to_owned(),
            place,
        }
    }

    /// Line and column in the file of a line and column in the text.
    pub(crate) fn place(&self, line: u32, column: u32) -> (u32, u32) {
        match &self.place {
            Place::Block { lines, indent } => (line + lines, column + indent),
            Place::Quoted {
                raw,
                line: first,
                column: start,
            } => (*first, start + offset(raw, line, column)),
            Place::Inside { line, column } => (*line, *column),
        }
    }

    /// How many blanks the file has in front of each line of the text.
    pub(crate) const fn indent(&self) -> usize {
        match self.place {
            Place::Block { indent, .. } => indent as usize,
            _ => 0,
        }
    }

    /// Whether the place alone does not identify the line of the text.
    pub(crate) const fn is_vague(&self) -> bool {
        !matches!(self.place, Place::Block { .. })
    }
}

/// Whether the document has the text line by line, indented as its first one is.
fn is_block(document: &str, node: &Node<'_>, text: &str) -> bool {
    let indent = node.at.column.saturating_sub(1) as usize;
    let mut lines = document
        .lines()
        .skip(node.at.line.saturating_sub(1) as usize);
    // Of a block scalar's trailing blank lines the document may have more or fewer.
    !text.is_empty()
        && text.trim_end().lines().all(|expected| {
            lines.next().is_some_and(|line| {
                let blank = line.trim().is_empty() && expected.trim().is_empty();
                blank || line.get(indent..) == Some(expected)
            })
        })
        && document
            .lines()
            .nth(node.at.line.saturating_sub(1) as usize)
            .and_then(|line| line.get(..indent))
            .is_some_and(|before| before.trim().is_empty())
}

/// How many characters of a double-quoted scalar precede that line and column of its text.
fn offset(raw: &str, line: u32, column: u32) -> u32 {
    let mut chars = raw.chars().skip(1).peekable();
    let (mut at_line, mut at_column, mut passed) = (1, 1, 1);
    while at_line < line || (at_line == line && at_column < column) {
        let Some(c) = chars.next() else { break };
        passed += 1;
        let mut is_break = false;
        if c == '\\' {
            let Some(escaped) = chars.next() else { break };
            passed += 1;
            is_break = escaped == 'n';
            let digits = match escaped {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            for _ in chars.by_ref().take(digits) {
                passed += 1;
            }
        } else if c == '"' && chars.peek().is_none() {
            return passed - 1;
        }
        (at_line, at_column) = if is_break {
            (at_line + 1, 1)
        } else {
            (at_line, at_column + 1)
        };
    }
    passed
}
