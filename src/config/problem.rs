//! What is wrong with a configuration, with the place and the fix.
//!
//! Pure. A problem is one line for logs, Events and annotations, and a picture with a caret for
//! terminals. How many are kept is bounded; how many there were is not forgotten.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use super::given::Given;
use super::yaml::At;

/// Most problems that are kept of one version of the directory; the rest is a number.
const MAX_KEPT: usize = 100;
/// Longest value that a message repeats, in characters.
const MAX_VALUE: usize = 64;
/// How much of a long line a picture shows on each side of the column, in characters.
const AROUND: usize = 60;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was given, else the key of the `ConfigMap`, like `routes.yaml` or `aws.txt`.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// The value's path, like `routes[1].destinations[3]`; list files have none.
    pub path: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The line, or the part of a long one around the column.
    pub source_line: String,
    /// Where in `source_line` the value starts, in characters from 0, and how many it has.
    span: (usize, usize),
}

impl fmt::Display for Problem {
    /// One line, whatever was in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: ",
            printable(&self.file),
            self.line,
            self.column
        )?;
        if let Some(path) = &self.path {
            write!(f, "{}: ", printable(path))?;
        }
        f.write_str(&printable(&self.message))
    }
}

impl Problem {
    pub(crate) fn new(
        source: Source<'_>,
        at: At,
        path: Option<&Path<'_>>,
        message: impl Into<String>,
    ) -> Self {
        let (mut source_line, mut span) = excerpt(source.text, at);
        let indent = source.given.map_or(0, Given::indent);
        if indent > 0 && indent < AROUND && at.column as usize <= AROUND {
            source_line.insert_str(0, &" ".repeat(indent));
            span.0 += indent;
        }
        let (line, column) = source.given_place(at);
        Self {
            file: source.shown().to_owned(),
            line,
            column,
            path: path
                .map(ToString::to_string)
                .filter(|path| !path.is_empty()),
            message: message.into(),
            source_line,
            span,
        }
    }

    /// The line of [`Display`](fmt::Display), then the offending line with carets under the value.
    /// Ends without a line break; `color` adds ANSI colours.
    pub fn picture(&self, color: bool) -> String {
        if self.source_line.trim().is_empty() {
            return self.to_string();
        }
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let (start, width) = self.span;
        let carets = "^".repeat(width.max(1));
        let (red, plain) = if color {
            ("\u{1b}[31m", "\u{1b}[0m")
        } else {
            ("", "")
        };
        let line: String = self
            .source_line
            .chars()
            .map(|c| if is_printable(c) { c } else { ' ' })
            .collect();
        format!(
            "{self}\n{margin} |\n{number} | {line}\n{margin} | {}{red}{carets}{plain}",
            " ".repeat(start)
        )
    }
}

/// All that is wrong with one version of the directory; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The first hundred, in the order of files and lines.
    pub kept: Vec<Problem>,
    /// How many more there were.
    pub more: usize,
    /// The revision that is refused, over the files that could be read.
    pub revision: super::Revision,
}

impl Problems {
    /// How many there are, kept or not.
    pub fn count(&self) -> usize {
        self.kept.len() + self.more
    }

    /// One line for a log, an annotation or an Event: the first five problems, and how many more.
    pub fn summary(&self) -> String {
        let shown: Vec<String> = self.kept.iter().take(5).map(ToString::to_string).collect();
        let more = self.count() - shown.len();
        let shown = shown.join("; ");
        if more > 0 {
            format!("{shown} (and {more} more)")
        } else {
            shown
        }
    }
}

impl fmt::Display for Problems {
    /// A line each, and a last one for those that were not kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.kept.iter().enumerate() {
            if i > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)
        } else {
            Ok(())
        }
    }
}

impl std::error::Error for Problems {}

/// A file's name and text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'t> {
    /// The key of the `ConfigMap`.
    pub(crate) name: &'t str,
    pub(crate) text: &'t str,
    /// Where the text was given, when not as a file of that name.
    pub(crate) given: Option<&'t Given>,
}

impl<'t> Source<'t> {
    pub(crate) fn of(files: &'t super::Files, name: &'t str, text: &'t str) -> Self {
        let given = files.given.get(name);
        Self { name, text, given }
    }

    /// `FILE:LINE:COLUMN` as given.
    pub(crate) fn place(&self, at: At) -> String {
        let (line, column) = self.given_place(at);
        format!("{}:{line}:{column}", self.shown())
    }

    /// The line as given, in words.
    pub(crate) fn line(&self, line: u32) -> String {
        match self.given {
            Some(given) if given.is_vague() => format!("line {line} of `{}`", self.name),
            Some(given) => format!("line {}", given.place(line, 1).0),
            None => format!("line {line}"),
        }
    }

    fn shown(&self) -> &'t str {
        self.given.map_or(self.name, |given| given.name.as_str())
    }

    fn given_place(&self, at: At) -> (u32, u32) {
        self.given.map_or((at.line, at.column), |given| {
            given.place(at.line, at.column)
        })
    }
}

/// The path to a value, built on the stack and printed only when something is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    pub(crate) fn key<'p>(&'p self, key: &'p str) -> Path<'p> {
        Path::Key(self, key)
    }

    pub(crate) const fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(&short(key)),
            Self::Key(parent, key) => write!(f, "{parent}.{}", short(key)),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Collects problems.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// With the place in the key's own text, by which they are sorted.
    kept: Vec<((bool, String, u32, u32), Problem)>,
    more: usize,
}

impl Found {
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether another problem would only be counted, so that its sentence need not be made.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= MAX_KEPT
    }

    pub(crate) fn count(&self) -> usize {
        self.kept.len() + self.more
    }

    /// Counts one that is not worth a sentence any more.
    pub(crate) fn count_one(&mut self) {
        self.more += 1;
    }

    pub(crate) fn add(
        &mut self,
        source: Source<'_>,
        at: At,
        path: Option<&Path<'_>>,
        message: impl Into<String>,
    ) {
        if self.is_full() {
            return self.count_one();
        }
        let is_list = source.name != super::ROUTES_YAML;
        let order = (is_list, source.name.to_owned(), at.line, at.column);
        self.kept
            .push((order, Problem::new(source, at, path, message)));
    }

    pub(crate) fn into_problems(mut self, revision: super::Revision) -> Problems {
        self.kept.sort_by(|(a, _), (b, _)| a.cmp(b));
        Problems {
            kept: self.kept.into_iter().map(|(_, problem)| problem).collect(),
            more: self.more,
            revision,
        }
    }
}

/// A value in backticks, cut when absurdly long.
pub(crate) fn quoted(value: &str) -> String {
    format!("`{}`", short(value))
}

fn short(value: &str) -> Cow<'_, str> {
    match value.char_indices().nth(MAX_VALUE) {
        None => Cow::Borrowed(value),
        Some((end, _)) => Cow::Owned(format!("{}…", &value[..end])),
    }
}

/// Whether a character shows as itself and moves the cursor one place: no controls, no marks that reorder the line.
fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
}

/// The text with everything that is not printable escaped.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| {
        if is_printable(c) {
            c.to_string()
        } else {
            c.escape_default().to_string()
        }
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// The part of the line to show, and where in it the value is, in characters.
fn excerpt(text: &str, at: At) -> (String, (usize, usize)) {
    let line = line_of(text, at.line);
    let column = (at.column as usize).saturating_sub(1);
    let skipped = column.saturating_sub(AROUND);
    let shown: String = line.chars().skip(skipped).take(2 * AROUND).collect();
    let rest = shown.chars().count().saturating_sub(column - skipped);
    let width = at
        .raw(text)
        .chars()
        .take_while(|c| !matches!(c, '\n' | '\r'))
        .take(rest)
        .count();
    (shown, (column - skipped, width))
}

fn line_of(text: &str, number: u32) -> &str {
    lines(text)
        .nth(number.saturating_sub(1) as usize)
        .map_or("", |(_, line)| line)
}

/// The lines and where each starts, in bytes. Lines end as in YAML, with LF, CR LF or CR; a byte order mark is no part of them.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let rest = &text[start..];
        let at = start;
        let Some(end) = rest.find(['\n', '\r']) else {
            done = true;
            return Some((at, rest));
        };
        start += end
            + if rest[end..].starts_with("\r\n") {
                2
            } else {
                1
            };
        Some((at, &rest[..end]))
    })
}
