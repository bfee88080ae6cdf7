//! `check`: whether a configuration is right, before a cluster sees it.
//!
//! Needs no privileges and no cluster. A summary goes to `out`, problems with the offending lines and warnings to `err`;
//! as JSON all of it goes to `out`.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::args::{CheckArgs, Output};
use crate::cli::input::{self, Input, Inputs};
use crate::cli::logs;
use crate::config::{
    self, Checked, Failback, HealthCheck, NodeSelector, Probe, Problem, RouteSet, Strategy,
    Warning, WarningKind, WhenDown,
};
use crate::net::prefix::{Family, Prefix};
use crate::report::status::ProblemKind;

/// Where the `DaemonSet` mounts the `ConfigMap`.
pub const DEFAULT_PATH: &str = "/etc/egress-routes";

/// What `check` found out; its number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Every configuration is valid.
    Valid = 0,
    /// At least one would be refused, or there are warnings and they count.
    Refused = 1,
    /// At least one could not be read, or there was none.
    Unread = 2,
}

/// How `check` is to judge and to print.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether warnings fail.
    pub strict: bool,
    /// For people or for programs.
    pub output: Output,
    /// Whether `err` shows colours.
    pub colours: bool,
}

/// `check` of the command line.
pub fn command(args: &CheckArgs) -> anyhow::Result<u8> {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let options = Options {
        strict: args.strict,
        output: args.output,
        colours: logs::colours(),
    };
    let path = args.path.as_deref().unwrap_or(DEFAULT_PATH);
    let verdict = run(path, &mut io::stdin().lock(), options, &mut out, &mut err)
        .context("writing the output")?;
    Ok(verdict as u8)
}

/// Checks what is at `path` (`-` is `input`); fails only when `out` or `err` cannot be written.
pub fn run(
    path: &str,
    input: &mut dyn Read,
    options: Options,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Verdict> {
    let report = match input::read(path, input) {
        Ok(inputs) => judge(inputs),
        Err(why) => Report::unread(why),
    };
    let verdict = report.verdict(options.strict);
    match options.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        }
        Output::Table => print(&report, options, out, err)?,
    }
    Ok(verdict)
}

/// All of it, as `-o json` prints it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    valid: bool,
    /// Why nothing could be read.
    error: Option<String>,
    configurations: Vec<Entry>,
    /// About other documents beside the configurations.
    warnings: Vec<WarningEntry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    source: String,
    config_map: Option<String>,
    valid: bool,
    revision: Option<String>,
    sets: Vec<SetEntry>,
    protected: usize,
    problems: Vec<ProblemEntry>,
    /// How many more there were than are listed.
    more_problems: usize,
    warnings: Vec<WarningEntry>,
    #[serde(skip)]
    pictures: Vec<Problem>,
    #[serde(skip)]
    lines: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SetEntry {
    name: String,
    strategy: &'static str,
    when_down: &'static str,
    leak_guard: bool,
    gateways: Vec<String>,
    destinations: usize,
    except: usize,
}

/// A problem with its place, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct ProblemEntry {
    kind: ProblemKind,
    set: Option<String>,
    text: String,
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
    path: Option<String>,
}

impl ProblemEntry {
    /// One that has no place in a file.
    pub(super) fn of_node(text: &str) -> Self {
        Self {
            kind: ProblemKind::ConfigRefused,
            set: None,
            text: text.to_owned(),
            file: None,
            line: None,
            column: None,
            path: None,
        }
    }
}

/// Problems with the names of the sets that they are in; `sets` are those of the file, in its order.
pub(super) fn entries(problems: &[Problem], sets: &[String]) -> Vec<ProblemEntry> {
    let entry = |problem| problem_entry(problem, sets);
    problems.iter().map(entry).collect()
}

#[derive(Debug, Serialize)]
struct WarningEntry {
    kind: WarningKind,
    set: Option<String>,
    text: String,
}

impl From<Warning> for WarningEntry {
    fn from(warning: Warning) -> Self {
        Self {
            text: warning.to_string(),
            kind: warning.kind,
            set: warning.set,
        }
    }
}

impl Report {
    fn unread(why: String) -> Self {
        Self {
            error: Some(why),
            ..Self::default()
        }
    }

    fn verdict(&self, strict: bool) -> Verdict {
        match self {
            Self { error: Some(_), .. } => Verdict::Unread,
            Self { valid: false, .. } => Verdict::Refused,
            _ if strict && self.warning_count() > 0 => Verdict::Refused,
            _ => Verdict::Valid,
        }
    }

    fn warning_count(&self) -> usize {
        let of_entries = self.configurations.iter().map(|entry| entry.warnings.len());
        self.warnings.len() + of_entries.sum::<usize>()
    }
}

fn judge(inputs: Inputs) -> Report {
    let configurations: Vec<Entry> = inputs.found.into_iter().map(entry).collect();
    Report {
        valid: configurations.iter().all(|entry| entry.valid),
        error: None,
        configurations,
        warnings: inputs.warnings.into_iter().map(Into::into).collect(),
    }
}

fn entry(input: Input) -> Entry {
    let mut entry = Entry {
        source: input.label,
        config_map: input.config_map,
        valid: false,
        revision: None,
        sets: Vec::new(),
        protected: 0,
        problems: Vec::new(),
        more_problems: 0,
        warnings: input.warnings.into_iter().map(Into::into).collect(),
        pictures: Vec::new(),
        lines: Vec::new(),
    };
    let files = match input.files {
        Ok(files) => files,
        Err(problems) => {
            entry.problems = entries(&problems, &[]);
            entry.pictures = problems;
            return entry;
        }
    };
    match config::parse(&files) {
        Ok(checked) => accept(&mut entry, checked),
        Err(problems) => {
            entry.revision = Some(problems.revision.to_string());
            entry.more_problems = problems.more;
            let sets = config::set_names(&files.routes_yaml);
            entry.problems = entries(&problems.kept, &sets);
            entry.pictures = problems.kept;
        }
    }
    entry
}

fn problem_entry(problem: &Problem, sets: &[String]) -> ProblemEntry {
    let index = problem.path.as_deref().and_then(|path| {
        path.strip_prefix("routes[")?
            .split(']')
            .next()?
            .parse()
            .ok()
    });
    ProblemEntry {
        kind: ProblemKind::ConfigRefused,
        set: index
            .and_then(|index: usize| sets.get(index).cloned())
            .filter(|name| !name.is_empty()),
        text: problem.message.clone(),
        file: Some(problem.file.clone()),
        line: Some(problem.line),
        column: Some(problem.column),
        path: problem.path.clone(),
    }
}

fn accept(entry: &mut Entry, checked: Checked) {
    entry.valid = true;
    entry.revision = Some(checked.revision.to_string());
    entry.protected = checked.config.protected.len();
    for set in &checked.config.sets {
        entry.lines.push(describe(set));
        entry.sets.push(SetEntry {
            name: set.name.clone(),
            strategy: match set.strategy {
                Strategy::Balance => "balance",
                Strategy::Failover { .. } => "failover",
            },
            when_down: when_down(set.when_down),
            leak_guard: set.leak_guard,
            gateways: set.gateways.iter().map(ToString::to_string).collect(),
            destinations: set.destinations.len(),
            except: set.except.len(),
        });
    }
    let warnings = checked.warnings.into_iter().map(Into::into);
    entry.warnings.extend(warnings);
}

fn print(
    report: &Report,
    options: Options,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    if let Some(why) = &report.error {
        return writeln!(err, "{}", config::printable(why));
    }
    let (yellow, plain) = if options.colours {
        ("\u{1b}[33m", "\u{1b}[0m")
    } else {
        ("", "")
    };
    for entry in &report.configurations {
        if entry.valid {
            print_summary(entry, out)?;
        } else {
            print_problems(entry, options.colours, err)?;
        }
        for warning in &entry.warnings {
            writeln!(err, "{yellow}warning{plain}: {}", warning.text)?;
        }
    }
    for warning in &report.warnings {
        writeln!(err, "{yellow}warning{plain}: {}", warning.text)?;
    }
    if options.strict && report.valid && report.warning_count() > 0 {
        let count = counted(report.warning_count(), "warning");
        writeln!(err, "{count}, which `--strict` refuses")?;
    }
    Ok(())
}

fn print_problems(entry: &Entry, colours: bool, err: &mut dyn Write) -> io::Result<()> {
    for problem in &entry.pictures {
        writeln!(err, "{}", problem.picture(colours))?;
    }
    if entry.more_problems > 0 {
        writeln!(err, "and {} more", entry.more_problems)?;
    }
    let count = counted(entry.pictures.len() + entry.more_problems, "problem");
    let revision = match &entry.revision {
        Some(revision) => format!(" (revision {revision})"),
        None => String::new(),
    };
    writeln!(err, "{}: refused, {count}{revision}", entry.source)
}

fn print_summary(entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let sets = match entry.sets.len() {
        0 => "no route sets: all routes will be removed".to_owned(),
        n => counted(n, "route set"),
    };
    let protected = match entry.protected {
        0 => String::new(),
        n => format!(", {n} protected"),
    };
    let revision = entry.revision.as_deref().unwrap_or_default();
    writeln!(
        out,
        "{}: valid, revision {revision}, {sets}{protected}",
        entry.source
    )?;
    for line in &entry.lines {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

/// `1 problem`, `2 problems`.
fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

const fn when_down(when_down: WhenDown) -> &'static str {
    match when_down {
        WhenDown::Hold => "hold",
        WhenDown::Withdraw => "withdraw",
        WhenDown::Blackhole => "blackhole",
    }
}

/// A gateway and what is asked of it.
fn with_weight(set: &RouteSet, gateway: IpAddr) -> String {
    let share = set.share(gateway);
    let weight = match share.weight {
        1 => String::new(),
        weight => format!(" weight {weight}"),
    };
    let drained = if share.drain { " (drained)" } else { "" };
    format!("{gateway}{weight}{drained}")
}

/// One line about a set.
fn describe(set: &RouteSet) -> String {
    let gateways: Vec<String> = set.gateways.iter().map(|g| with_weight(set, *g)).collect();
    let strategy = match set.strategy {
        Strategy::Balance => "balance",
        Strategy::Failover {
            failback: Failback::AtOnce,
        } => "failover",
        Strategy::Failover {
            failback: Failback::Drain,
        } => "failover with gentle failback",
        Strategy::Failover {
            failback: Failback::Never,
        } => "failover without failback",
    };
    let per_family = |prefixes: &[Prefix]| {
        let count = |family| prefixes.iter().filter(|p| p.family() == family).count();
        let parts: Vec<String> = Family::BOTH
            .iter()
            .map(|f| (count(*f), f))
            .filter(|(n, _)| *n > 0)
            .map(|(n, f)| format!("{n} {f}"))
            .collect();
        if parts.is_empty() {
            "0".to_owned()
        } else {
            parts.join(" + ")
        }
    };
    let except = if set.except.is_empty() {
        String::new()
    } else {
        format!(", except {}", per_family(&set.except))
    };
    let plural = if set.destinations.len() == 1 { "" } else { "s" };
    let guard = if set.leak_guard { ", leak guard" } else { "" };
    format!(
        "{}: {strategy} via {}; {} destination{plural}{except}; {}; when down {}{guard}; {}",
        set.name,
        gateways.join(", "),
        per_family(&set.destinations),
        describe_check(&set.health_check),
        when_down(set.when_down),
        describe_selector(set.node_selector.as_ref()),
    )
}

fn describe_check(check: &HealthCheck) -> String {
    let probe = match check.probe {
        Probe::None => return "no health check".to_owned(),
        Probe::Icmp => "icmp".to_owned(),
        Probe::Tcp(port) => format!("tcp port {port}"),
    };
    let target = check
        .target
        .map(|target| format!(" to {target}"))
        .unwrap_or_default();
    format!(
        "{probe}{target} every {:?}, down after {}, up after {}",
        check.interval, check.failures, check.successes
    )
}

fn describe_selector(selector: Option<&NodeSelector>) -> String {
    let Some(selector) = selector else {
        return "every node".to_owned();
    };
    let labels = selector
        .match_labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().map(|requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            config::Operator::In(values) => format!("{key} in ({})", values.join(", ")),
            config::Operator::NotIn(values) => format!("{key} not in ({})", values.join(", ")),
            config::Operator::Exists => key.clone(),
            config::Operator::DoesNotExist => format!("!{key}"),
        }
    });
    let terms: Vec<String> = labels.chain(expressions).collect();
    if terms.is_empty() {
        "every node".to_owned()
    } else {
        format!("nodes with {}", terms.join(", "))
    }
}

#[cfg(test)]
mod tests;
