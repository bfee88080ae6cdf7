//! `docs/reference.md` and `docs/configuration.md` against the program: commands, statuses, annotations, Events, metrics,
//! HTTP, schemas and keys. Its numbers are compared in `values`.
//!
//! The commands are generated: `UPDATE_DOCS=1 cargo test --test it docs::reference` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory as _};
use egress_routes::cli::args::Cli;
use egress_routes::report::metrics::Metrics;
use egress_routes::report::status::Status;
use serde_json::{Value, json};

use super::{prose, read, root};

pub(super) const REFERENCE: &str = "docs/reference.md";
const CONFIGURATION: &str = "docs/configuration.md";

/// The heading of a table of flags.
const COLUMNS: &str = "| flag | default | environment | meaning |\n| --- | --- | --- | --- |\n";

/// The rows of the table of `page` whose heading row begins with `first`, by their first cell without backticks.
pub(super) fn table(page: &str, section: &str, first: &str) -> BTreeMap<String, Vec<String>> {
    let text = read(page);
    let mut rows = BTreeMap::new();
    let mut lines = prose(&text)
        .skip_while(|line| !line.starts_with(&format!("{section} ")) && *line != section);
    assert!(lines.next().is_some(), "{page} has no {section}");
    let in_table = lines
        .skip_while(|line| !line.starts_with(&format!("| {first} |")))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for line in in_table {
        let cells: Vec<String> = line
            .replace("\\|", "\u{1}")
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('\u{1}', "|"))
            .collect();
        let key = cells[0].trim_matches('`').to_owned();
        assert!(
            rows.insert(key, cells).is_none(),
            "{page}, {section}: twice: {line}"
        );
    }
    assert!(!rows.is_empty(), "{page}, {section}: no table of {first}");
    rows
}

pub(super) fn keys(rows: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    rows.keys().cloned().collect()
}

/// Every source file that is not a test.
pub(super) fn sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                && path.file_stem().unwrap() != "tests"
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let relative = path.strip_prefix(root().join("src")).unwrap();
                sources.push((relative.to_owned(), code.to_owned()));
            }
        }
    }
    sources
}

/// The variants of an enum of `src/report/status.rs`.
fn variants(name: &str) -> BTreeSet<String> {
    let text = read("src/report/status.rs");
    let start = text.find(&format!("pub enum {name} {{")).unwrap();
    text[start..]
        .lines()
        .skip(1)
        .take_while(|line| *line != "}")
        .filter(|line| !line.trim_start().starts_with(['/', '#']))
        .map(|line| line.trim().trim_end_matches(',').to_owned())
        .collect()
}

fn camel_case(variant: &str) -> String {
    variant[..1].to_lowercase() + &variant[1..]
}

#[test]
fn commands_and_flags_are_those_of_the_program() {
    let mut wanted = String::new();
    let mut cli = Cli::command();
    cli.build();
    let _ = write!(wanted, "\n### Flags of every command\n\n{COLUMNS}");
    for arg in cli.get_arguments().filter(|arg| arg.is_global_set()) {
        wanted.push_str(&row(arg));
    }
    let commands = || cli.get_subcommands().filter(|c| c.get_name() != "help");
    let mut all: Vec<(String, usize)> = Vec::new();
    // `--output` differs between commands.
    let differs = |arg: &Arg| arg.get_id() == "output";
    for (_, row) in commands().flat_map(rows).filter(|(arg, _)| !differs(arg)) {
        match all.iter_mut().find(|(known, _)| *known == row) {
            Some((_, times)) => *times += 1,
            None => all.push((row, 1)),
        }
    }
    let shared: Vec<String> = all
        .into_iter()
        .filter_map(|(row, times)| (times > 2).then_some(row))
        .collect();
    let _ = write!(
        wanted,
        "\n### Flags of several commands\n\n{COLUMNS}{}",
        shared.concat()
    );
    for command in commands() {
        section(&mut wanted, command, &shared);
    }
    wanted.push('\n');
    let page = read(REFERENCE);
    let (before, rest) = page.split_once("<!-- generated: commands -->\n").unwrap();
    let (found, after) = rest.split_once("<!-- end -->").unwrap();
    if found == wanted {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let text = format!("{before}<!-- generated: commands -->\n{wanted}<!-- end -->{after}");
        return fs::write(root().join(REFERENCE), text).unwrap();
    }
    let stale = found.lines().zip(wanted.lines()).find(|(is, be)| is != be);
    panic!(
        "{REFERENCE} is not what the program has ({stale:?}); run UPDATE_DOCS=1 cargo test --test it docs::reference"
    );
}

/// The flags and operands of a command alone, each with its row.
fn rows(command: &Command) -> Vec<(&Arg, String)> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !arg.is_global_set())
        .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        .map(|arg| (arg, row(arg)))
        .collect()
}

/// One command, in Markdown; of the shared flags the names.
fn section(text: &mut String, command: &Command, shared: &[String]) {
    let path = format!("egress-routes {}", command.get_name());
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let operands: String = command
        .get_positionals()
        .map(|arg| format!(" {}", operand(arg)))
        .collect();
    let _ = writeln!(
        text,
        "\n### `{path}`\n\n{about}.\n\n```text\n{path} [FLAGS]{operands}\n```\n"
    );
    if let Some(after) = command.get_after_help() {
        for line in after.to_string().lines() {
            let _ = writeln!(text, "{line}\n");
        }
    }
    let (also, own): (Vec<_>, Vec<_>) = rows(command)
        .into_iter()
        .partition(|(_, row)| shared.contains(row));
    if !own.is_empty() {
        text.push_str(COLUMNS);
    }
    for (_, row) in &own {
        text.push_str(row);
    }
    let also: Vec<String> = also
        .iter()
        .filter_map(|(arg, _)| arg.get_long().map(|long| format!("`--{long}`")))
        .collect();
    if !also.is_empty() {
        let between = if own.is_empty() { "" } else { "\n" };
        let names = also.join(", ");
        let _ = writeln!(
            text,
            "{between}[Shared flags](#flags-of-several-commands): {names}"
        );
    }
}

fn operand(arg: &Arg) -> String {
    let name = arg.get_value_names().unwrap()[0].to_string().to_uppercase();
    let many = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    match (arg.is_required_set(), many) {
        (true, _) => name,
        (false, true) => format!("[{name}…]"),
        (false, false) => format!("[{name}]"),
    }
}

fn row(arg: &Arg) -> String {
    let value = match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => format!(" {}", names[0]),
        _ => String::new(),
    };
    let short = arg
        .get_short()
        .map(|c| format!("`-{c}`, "))
        .unwrap_or_default();
    let name = arg
        .get_long()
        .map_or_else(|| operand(arg), |long| format!("--{long}{value}"));
    let defaults = arg.get_default_values().iter();
    let default = match defaults.map(|v| v.to_string_lossy()).next() {
        Some(value) if !arg.is_hide_default_value_set() && arg.get_action().takes_values() => {
            format!(" `{value}`")
        }
        _ => String::new(),
    };
    let variable = arg
        .get_env()
        .map(|name| format!(" `{}`", name.to_string_lossy()))
        .unwrap_or_default();
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() && arg.get_action().takes_values() && !arg.is_hide_possible_values_set() {
        let _ = write!(help, ": {}", values.join(", "));
    }
    let help = help.replace('|', "\\|");
    format!("| {short}`{name}` |{default} |{variable} | {help} |\n")
}

#[test]
fn statuses_gateway_states_and_problems_are_those_of_the_program() {
    let statuses = keys(&table(REFERENCE, "## Status", "status"));
    assert_eq!(statuses, variants("Overall"));
    let states = keys(&table(REFERENCE, "## Status", "gateway"));
    let wanted: BTreeSet<String> = variants("GatewayState")
        .iter()
        .map(|variant| variant.to_lowercase())
        .collect();
    assert_eq!(states, wanted);
    let problems = keys(&table(REFERENCE, "## Status", "problem"));
    let wanted: BTreeSet<String> = variants("ProblemKind")
        .iter()
        .map(|variant| camel_case(variant))
        .collect();
    assert_eq!(problems, wanted);
    let remedies = keys(&table("docs/troubleshooting.md", "## Degraded", "kind"));
    assert!(remedies.is_subset(&wanted), "{remedies:?}");
}

#[test]
fn annotations_are_those_that_the_program_names() {
    let mut wanted = BTreeSet::new();
    for (_, code) in sources() {
        for rest in code.split("\"egress-routes.dev/").skip(1) {
            let name = rest.split('"').next().unwrap();
            if !name.is_empty() {
                wanted.insert(format!("egress-routes.dev/{name}"));
            }
        }
    }
    let text = read(REFERENCE);
    let listed: BTreeSet<String> = prose(&text)
        .filter_map(|line| line.strip_prefix("| `egress-routes.dev/"))
        .map(|rest| format!("egress-routes.dev/{}", rest.split('`').next().unwrap()))
        .collect();
    assert_eq!(listed, wanted);
}

#[test]
fn events_are_those_that_the_program_writes() {
    let source = read("src/report/status.rs");
    let (_, normal) = source.split_once("fn is_warning").unwrap();
    let (normal, _) = normal.split_once("\n    }").unwrap();
    let kind = |reason: &String| {
        let is_normal = normal.contains(&format!("Self::{reason}"));
        if is_normal { "Normal" } else { "Warning" }.to_owned()
    };
    let wanted: BTreeMap<String, String> = variants("Reason")
        .into_iter()
        .map(|reason| (reason.clone(), kind(&reason)))
        .collect();
    let listed: BTreeMap<String, String> = table(REFERENCE, "## Events", "reason")
        .into_iter()
        .map(|(reason, cells)| (reason, cells[1].clone()))
        .collect();
    assert_eq!(listed, wanted);
}

/// A status with a set and a gateway, so that every family has a member.
fn status() -> Status {
    serde_json::from_value(json!({
        "node": "node1", "agent": "running", "status": "Ready", "revision": "0123456789ab", "message": null, "problems": [],
        "sets": [{"name": "clouds", "strategy": "balance", "whenDown": "hold", "wanted": 1, "installed": 1, "skipped": [], "overridden": [], "bypassed": [],
            "gateways": [{"address": "10.116.0.5", "state": "up", "active": true, "weight": 1, "buckets": 1024, "rttMs": 0.5, "reason": null}]}],
        "rejectedRevision": null, "lastAppliedAt": "2026-11-22T12:00:00Z",
    }))
    .unwrap()
}

#[test]
fn metrics_are_those_that_the_program_exports() {
    let metrics = Metrics::new();
    metrics.observe(&status());
    metrics.asked_api("get", "200");
    let text = metrics.render().unwrap();
    let mut wanted = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let total = if kind == "counter" { "_total" } else { "" };
            let labels = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}{total}{{")))
                .map(|rest| rest.split('}').next().unwrap())
                .unwrap_or_default()
                .split(',')
                .filter_map(|label| label.split_once('=').map(|(name, _)| format!("`{name}`")))
                .collect::<Vec<_>>()
                .join(", ");
            wanted.insert(format!("{name}{total}"), (kind.to_owned(), labels));
        }
    }
    let listed: BTreeMap<String, (String, String)> = table(REFERENCE, "## Metrics", "metric")
        .into_iter()
        .map(|(name, cells)| {
            let (begin, _) = cells[1].split_once(". ").unwrap();
            let (kind, labels) = begin.split_once(" by ").unwrap_or((begin, ""));
            (name, (kind.to_owned(), labels.to_owned()))
        })
        .collect();
    assert_eq!(listed, wanted);
}

/// Against the one `match` that answers: its paths, and the codes in the arms of each.
#[test]
fn http_paths_and_codes_are_those_that_the_program_answers() {
    let source = read("src/serve/http.rs");
    let answers = source.split("\n        _ => ").next().unwrap();
    let mut wanted: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for arm in answers.split("\n        \"").skip(1) {
        let codes = arm.split("StatusCode::").skip(1).map(|rest| {
            match rest.split([',', ')']).next().unwrap() {
                "OK" => "200",
                "INTERNAL_SERVER_ERROR" => "500",
                "SERVICE_UNAVAILABLE" => "503",
                other => panic!("which code is {other}?"),
            }
        });
        let path = arm.split('"').next().unwrap().to_owned();
        wanted.entry(path).or_default().extend(codes);
    }
    let rows = table(REFERENCE, "## HTTP", "path on `--listen`");
    let listed: BTreeMap<String, BTreeSet<&str>> = rows
        .iter()
        .map(|(path, cells)| (path.clone(), cells[1].split(", ").collect()))
        .collect();
    assert_eq!(listed, wanted);
}

#[test]
fn every_schema_is_listed() {
    let wanted: BTreeSet<String> = fs::read_dir(root().join("docs/schema"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let listed: BTreeSet<String> = table(REFERENCE, "## JSON", "schema")
        .into_keys()
        .map(|cell| cell[1..].split(']').next().unwrap().to_owned())
        .collect();
    assert_eq!(listed, wanted);
}

/// Against the schema, which another test holds to the parser.
#[test]
fn the_configuration_page_lists_every_key_with_its_default() {
    let schema: Value = serde_json::from_str(&read("docs/schema/routes.schema.json")).unwrap();
    for (section, part) in [
        ("## `routes`:", "set"),
        ("### `gateways`:", "gateway"),
        ("## `healthCheck`", "healthCheck"),
    ] {
        let properties = schema["$defs"][part]["properties"].as_object().unwrap();
        let listed = table(CONFIGURATION, section, "key");
        let wanted: BTreeSet<String> = properties.keys().cloned().collect();
        assert_eq!(keys(&listed), wanted, "{section}");
        for (key, value) in properties {
            let default = match &value["default"] {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let cell = &listed[key][1];
            assert!(cell.contains(&default), "{key}: {cell}, not {default}");
            for choice in value["enum"].as_array().into_iter().flatten() {
                let choice = choice
                    .as_str()
                    .map_or_else(|| choice.to_string(), str::to_owned);
                let meaning = &listed[key][2];
                assert!(
                    meaning.contains(&format!("`{choice}`")),
                    "{key}: {meaning} lacks {choice}"
                );
            }
        }
    }
    let text = read(CONFIGURATION);
    for key in schema["properties"].as_object().unwrap().keys() {
        assert!(
            text.contains(&format!("\n## `{key}`: ")),
            "no section for {key}"
        );
    }
}
