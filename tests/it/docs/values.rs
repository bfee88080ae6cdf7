//! The numbers of `docs/reference.md` against the code: the kernel footprint and the limits.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;
use egress_routes::cli::args::Cli;
use egress_routes::routing::batch::LEAK_GUARD_METRIC;

use super::read;
use super::reference::{REFERENCE, keys, sources, table};

#[test]
fn the_kernel_footprint_is_that_of_the_program() {
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let mut wanted: BTreeSet<(String, String)> = ["protocol", "metric", "table"]
        .iter()
        .map(|name| {
            let arg = run.get_arguments().find(|arg| arg.get_id() == name);
            let default = arg.unwrap().get_default_values()[0].to_string_lossy();
            (format!("`--{name}`"), default.into_owned())
        })
        .collect();
    wanted.insert((String::new(), LEAK_GUARD_METRIC.to_string()));
    let socket = read("src/serve/socket.rs");
    let name = socket.split("const NAME: &str = \"").nth(1).unwrap();
    let name = name.split('"').next().unwrap();
    wanted.insert((String::new(), format!("@{name}")));
    let listed: BTreeSet<(String, String)> = table(REFERENCE, "## The kernel", "what")
        .into_values()
        .map(|cells| (cells[2].clone(), cells[1].trim_matches('`').to_owned()))
        .collect();
    assert_eq!(listed, wanted);
}

/// The constants of `src/net/nexthop_id.rs` that begin a space of ids.
const IDS: [(&str, &str); 8] = [
    ("a gateway", "GATEWAYS"),
    ("the group of a route set", "GROUPS"),
    ("the blackhole member of a group", "BLACKHOLES"),
    ("a record: a change is not confirmed", "UNCONFIRMED"),
    ("a record: a revision was rejected", "REJECTED"),
    (
        "a record: the revision in force, first half",
        "APPLIED_HIGH",
    ),
    (
        "a record: the revision in force, second half",
        "APPLIED_LOW",
    ),
    (
        "a gateway once more, or the record that it has drained",
        "DUPLICATE",
    ),
];

#[test]
fn nexthop_ids_begin_where_the_page_has_it() {
    let listed = table(REFERENCE, "## The kernel", "nexthop");
    let source = read("src/net/nexthop_id.rs");
    let found: BTreeMap<String, u64> = listed
        .iter()
        .map(|(what, cells)| (what.clone(), number(&cells[1])))
        .collect();
    let wanted = IDS.map(|(what, constant)| {
        let from = format!("const {constant}: u32 = ");
        let value = source.split(&from).nth(1).unwrap();
        (what.to_owned(), number(value.split(';').next().unwrap()))
    });
    assert_eq!(found, BTreeMap::from(wanted));
}

/// What the limits are called in the code, below which room.
const LIMITS: [(&str, &str, &str); 20] = [
    ("bytes of one file", "config", "MAX_FILE"),
    ("bytes of a configuration", "config", "MAX_TOTAL"),
    ("route sets", "config", "MAX_SETS"),
    ("gateways of a set", "config", "MAX_GATEWAYS"),
    ("list files of a set", "config", "MAX_LISTS"),
    (
        "destinations of a configuration",
        "config",
        "MAX_DESTINATIONS",
    ),
    (
        "prefixes that remain of wide destinations",
        "routing",
        "MOST_PREFIXES",
    ),
    ("characters of a set's name", "config", "MAX_NAME"),
    ("entries of `expectedRules`", "config", "MAX_RULES"),
    ("bytes of a ConfigMap", "config", "MAX_CONFIG_MAP"),
    (
        "bytes of a ConfigMap for a plain `kubectl apply`",
        "config",
        "MAX_APPLIED",
    ),
    ("problems that a refusal lists", "config", "MAX_KEPT"),
    (
        "destinations that a report lists per set as skipped, overridden or bypassed",
        "report",
        "SKIPPED_SHOWN",
    ),
    ("destinations looked up in a pass", "routing", "SAMPLE"),
    (
        "look-ups for policy rules in a pass",
        "routing",
        "RULE_LOOKUPS",
    ),
    ("commands in one batch of `ip`", "kernel", "CHUNK"),
    ("seconds for one run of `ip`", "kernel", "TIME_LIMIT"),
    ("HTTP connections at a time", "serve", "CONNECTIONS"),
    (
        "bytes of the annotation `message`",
        "cluster",
        "MESSAGE_LENGTH",
    ),
    (
        "bytes of the annotation `gateways`",
        "cluster",
        "GATEWAYS_LENGTH",
    ),
];

#[test]
fn limits_are_those_of_the_code() {
    let listed = table(REFERENCE, "## Limits", "limit");
    let named: BTreeSet<String> = LIMITS
        .iter()
        .map(|(row, _, _)| row.trim_end_matches('`').to_owned())
        .collect();
    assert_eq!(keys(&listed), named);
    let sources = sources();
    for (name, room, constant) in LIMITS {
        let mut values = sources
            .iter()
            .filter(|(path, _)| path.starts_with(room))
            .flat_map(|(_, code)| code.lines())
            .filter_map(|line| line.split_once(&format!("const {constant}: ")))
            .filter_map(|(_, rest)| rest.split_once(" = "))
            .map(|(_, value)| number(value))
            .peekable();
        assert!(values.peek().is_some(), "{room} has no {constant}");
        let cell = number(&listed[name.trim_end_matches('`')][1]);
        assert!(
            values.all(|value| value == cell),
            "{name}: the page has {cell}"
        );
    }
}

/// `250_000`, `4 << 20`, `0x1000_0000`, `Duration::from_secs(10)` and `1,024` as numbers.
fn number(text: &str) -> u64 {
    let text: String = text
        .trim_end_matches(';')
        .replace("Duration::from_secs(", "")
        .chars()
        .filter(|c| !matches!(c, '_' | ',' | ')'))
        .collect();
    let parse = |part: &str| {
        let part = part.trim();
        let parsed = match part.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => part.parse(),
        };
        parsed.unwrap_or_else(|_| panic!("`{text}` is no number"))
    };
    match text.split_once("<<") {
        Some((base, shift)) => parse(base) << parse(shift),
        None => parse(&text),
    }
}
