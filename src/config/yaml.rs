//! YAML as a tree of values that know where they were written.
//!
//! Pure. Decoding stops at nothing but syntax: what a value should have been is asked of the tree
//! afterwards, so that every problem of a file is reported at once and at its own line. Limits on
//! size, depth and aliases are set here and nowhere else.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{
    DefaultMessageFormatter, DuplicateKeyPolicy, Localizer, MergeKeyPolicy, MessageFormatter,
    NonFiniteFloatPolicy, Options, Spanned,
};

/// Deepest nesting; the schema needs 7.
const MAX_DEPTH: usize = 24;
/// Most scalars, lists and maps: all the destinations that may be, and room for the rest.
const MAX_NODES: usize = 320_000;
/// The same for manifests: nothing but a bound, for JSON of a whole cluster in one line too.
const MAX_MANIFEST_DEPTH: usize = 96;
const MAX_MANIFEST_NODES: usize = 5_000_000;
/// Most values that aliases may add: an alias saves writing a health check twice, not a list of thousands.
const MAX_REPLAYED: usize = 50_000;

/// Where a value starts, and which bytes of the file it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
    start: u32,
    len: u32,
}

impl At {
    /// The first character of a file.
    pub(crate) const START: Self = Self {
        line: 1,
        column: 1,
        start: 0,
        len: 0,
    };

    /// A place that no decoder found; `start` and `len` in bytes.
    pub(crate) fn new(line: u32, column: usize, start: usize, len: usize) -> Self {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line,
            column: small(column),
            start: small(start),
            len: small(len),
        }
    }

    /// As it was written, quotes included; empty when that is not known.
    pub(crate) fn raw<'t>(&self, text: &'t str) -> &'t str {
        let start = self.start as usize;
        text.get(start..start + self.len as usize)
            .unwrap_or_default()
    }

    /// The text from there on; the length of a list or mapping is not always known.
    pub(crate) fn raw_from<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.start as usize..).unwrap_or_default()
    }

    /// Which bytes of the file it is.
    pub(crate) fn bytes(&self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }

    fn of(location: serde_yaml::Location) -> Self {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let span = location.span();
        Self {
            line: small(location.line()).max(1),
            column: small(location.column()).max(1),
            start: span.byte_offset().map_or(0, small),
            len: span.byte_len().map_or(0, small),
        }
    }
}

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) at: At,
    pub(crate) value: Value<'a>,
}

/// What a value is, by the rules of YAML 1.2.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// Its text is [`At::raw`].
    Number,
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    /// In the order of the file, duplicate keys and all.
    Map(Vec<(Node<'a>, Node<'a>)>),
}

impl Node<'_> {
    /// The value of a key, for those who need not report what is wrong.
    pub(crate) fn entry(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(k, _)| k.text() == Some(key))
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The items of a list; of anything else none.
    pub(crate) fn items(&self) -> &[Self] {
        if let Value::List(nodes) = &self.value {
            nodes
        } else {
            &[]
        }
    }

    /// The text, if it is text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value {
            Some(text)
        } else {
            None
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Node<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value<'a>>::deserialize(deserializer)?;
        Ok(Self {
            at: At::of(spanned.defined),
            value: spanned.value,
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue(std::marker::PhantomData))
    }
}

struct AnyValue<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for AnyValue<'a> {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Value::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Value::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text)))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        nodes.shrink_to_fit();
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

/// Why a text is no YAML; the sentence does not name the place.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) at: At,
    pub(crate) message: String,
}

/// Decodes one document of a `routes.yaml`.
pub(crate) fn decode(text: &str) -> Result<Node<'_>, SyntaxError> {
    serde_yaml::from_str_with_options(first_document(text), options(MAX_DEPTH, MAX_NODES))
        .map_err(|error| explain(&error))
}

/// Without a last `---` that nothing follows.
fn first_document(text: &str) -> &str {
    let blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    };
    match text.rfind("\n---") {
        // What precedes it must be a document, or it would be the first one's start.
        Some(end) if text[end + 4..].lines().all(blank) && !text[..end].lines().all(blank) => {
            &text[..=end]
        }
        _ => text,
    }
}

/// Decodes one document of manifests, which may hold more than a `ConfigMap`.
pub(crate) fn decode_large(text: &str) -> Result<Node<'_>, SyntaxError> {
    serde_yaml::from_str_with_options(text, options(MAX_MANIFEST_DEPTH, MAX_MANIFEST_NODES))
        .map_err(|error| explain(&error))
}

fn options(depth: usize, nodes: usize) -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: depth,
            flow_nesting_limit: depth,
            max_nodes: nodes,
            max_events: 2 * nodes,
            max_recorded_anchor_events: MAX_REPLAYED,
            max_inclusion_depth: 0,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_replay_stack_depth: 8,
        },
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn explain(error: &serde_yaml::Error) -> SyntaxError {
    let at = error.location().map_or(At::START, At::of);
    let options = serde_yaml::render_options! { formatter: &Sentences, snippets: serde_yaml::SnippetMode::Off };
    SyntaxError {
        at,
        message: error.render_with_options(options),
    }
}

/// The decoder's sentences, but ours where it names its own functions and limits.
struct Sentences;

impl MessageFormatter for Sentences {
    fn localizer(&self) -> &dyn Localizer {
        &NoPlaces
    }

    fn format_message<'e>(&self, error: &'e serde_yaml::Error) -> Cow<'e, str> {
        use serde_yaml::Error as E;
        match error {
            E::MultipleDocuments { .. } => {
                "a second YAML document starts here; the file holds one: take the `---` out".into()
            }
            E::Budget { .. }
            | E::AliasReplayLimitExceeded { .. }
            | E::AliasExpansionLimitExceeded { .. } => {
                "too large: there are too many values, or aliases make them too many".into()
            }
            E::RecursiveReferencesRequireWeakTypes { .. } => {
                "an alias refers to the value that it is part of".into()
            }
            other => {
                let sentence = DefaultMessageFormatter.format_message(other);
                match HINTS.iter().find(|(part, _)| sentence.contains(part)) {
                    Some((_, ours)) => Cow::Borrowed(*ours),
                    None => sentence,
                }
            }
        }
    }
}

/// The decoder's messages for the commonest slips, with a fix.
const HINTS: [(&str, &str); 7] = [
    (
        "recursion limit",
        "nested too deep; the configuration needs no more than 7 levels",
    ),
    ("tabs disallowed", "a tab; YAML is indented with spaces"),
    (
        "mapping values are not allowed",
        "`:` is not expected here; check the indentation, and quote a value that holds `: `",
    ),
    (
        "invalid indentation in multiline quoted scalar",
        "a quote is not closed, or its text continues without indentation",
    ),
    (
        "unknown anchor",
        "an alias without an anchor; quote a value that starts with `*`",
    ),
    (
        "did not find expected '-' indicator",
        "an item of the list should start here with `- `; check the indentation",
    ),
    (
        "did not find expected key",
        "a key should start here; check the indentation",
    ),
];

/// The place comes before the sentence, not after it.
struct NoPlaces;

impl Localizer for NoPlaces {
    fn attach_location<'s>(&self, base: Cow<'s, str>, _: serde_yaml::Location) -> Cow<'s, str> {
        base
    }

    fn alias_defined_at(&self, _: serde_yaml::Location) -> String {
        String::new()
    }

    fn alias_used_at(&self, _: serde_yaml::Location) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_values_is_refused_at_the_limit() {
        let decode = |values: usize| {
            let text = format!("[{}]", "a,".repeat(values));
            let decoded: Result<Node<'_>, _> =
                serde_yaml::from_str_with_options(&text, options(MAX_DEPTH, 1_000));
            decoded.map_or_else(
                |error| explain(&error).message,
                |root| root.items().len().to_string(),
            )
        };
        assert_eq!(decode(900), "900");
        assert_eq!(
            decode(1_001),
            "too large: there are too many values, or aliases make them too many"
        );
    }

    #[test]
    fn a_place_is_the_value_and_its_quotes() {
        let text = "a: 'x y' # c\nb: [1.50, \u{e9}]\n";
        let root = decode(text).unwrap();
        let raw = |key: &str| root.entry(key).unwrap().at.raw(text);
        assert_eq!(raw("a"), "'x y'");
        let items = root.entry("b").unwrap().items();
        assert_eq!(
            (
                items[0].at.raw(text),
                items[1].at.raw(text),
                items[1].at.column
            ),
            ("1.50", "\u{e9}", 11)
        );
    }
}
