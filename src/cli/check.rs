//! `check`: whether a configuration is right, before a cluster sees it.
//!
//! Reads a directory, a `routes.yaml` or Kubernetes manifests; needs no privileges and no cluster.
//! A summary and warnings go to `out`, problems with the offending lines to `err`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::logs;
use crate::config::manifests::{self, Stream};
use crate::config::{
    self, Checked, Files, HealthCheck, ListUnread, NodeSelector, Probe, Problems, ROUTES_YAML,
    RouteSet, Strategy, WhenDown,
};
use crate::net::prefix::Family;
use crate::source::{self, SourceError};

/// Where the `DaemonSet` mounts the `ConfigMap`.
pub const DEFAULT_PATH: &str = "/etc/egress-routes";
/// Most bytes of a stream of manifests.
const MAX_STREAM: usize = 64 << 20;
/// Most files of a directory of manifests.
const MAX_MANIFESTS: usize = 500;

/// What `check` found out; its number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Every configuration is valid.
    Valid = 0,
    /// At least one would be refused.
    Refused = 1,
    /// At least one could not be read, or there was none.
    Unread = 2,
}

/// `check` of the command line.
pub fn command(path: Option<&str>) -> anyhow::Result<u8> {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let verdict = run(
        path,
        &mut io::stdin().lock(),
        logs::colours(),
        &mut out,
        &mut err,
    )
    .context("writing the output")?;
    Ok(verdict as u8)
}

/// Checks what is at `path` (`-` is `input`); problems are shown with the offending line, in colours if asked; fails only when `out` or `err` cannot be written.
pub fn run(
    path: Option<&str>,
    input: &mut dyn Read,
    colours: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Verdict> {
    let mut check = Check {
        colours,
        out,
        err,
        worst: Verdict::Valid,
    };
    match path.unwrap_or(DEFAULT_PATH) {
        "-" => {
            let mut bytes = Vec::new();
            match input.take(MAX_STREAM as u64 + 1).read_to_end(&mut bytes) {
                Ok(_) => check.stream("standard input", ROUTES_YAML, &bytes, None)?,
                Err(error) => {
                    check.unread(&format!("standard input: could not be read: {error}"))?;
                }
            }
        }
        path => check.path(Path::new(path))?,
    }
    Ok(check.worst)
}

struct Check<'w> {
    colours: bool,
    out: &'w mut dyn Write,
    err: &'w mut dyn Write,
    worst: Verdict,
}

impl Check<'_> {
    fn path(&mut self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return match source::read(path) {
                Ok(snapshot) => self.files(&shown(path), ROUTES_YAML, &snapshot.files),
                Err(error) => self.directory_of_manifests(path, &error),
            };
        }
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        match source::read_whole(path, MAX_STREAM) {
            Ok(bytes) => self.stream(&shown(path), &name, &bytes, Some(path)),
            Err(ListUnread::Missing) => self.unread(&format!("{}: is not there", shown(path))),
            Err(ListUnread::Other(why)) => self.unread(&format!("{}: {why}", shown(path))),
        }
    }

    /// A directory without `routes.yaml` may hold manifests, as `deploy/` does.
    fn directory_of_manifests(&mut self, directory: &Path, error: &SourceError) -> io::Result<()> {
        let entries = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_MANIFESTS);
        let is_manifest = |path: &PathBuf| {
            path.extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(is_manifest)
            .collect();
        paths.sort_unstable();
        let mut any = false;
        for path in paths {
            let Ok(bytes) = source::read_whole(&path, MAX_STREAM) else {
                continue;
            };
            let Ok(text) = std::str::from_utf8(&bytes) else {
                continue;
            };
            if let Stream::Manifests(found) = manifests::search(text)
                && !found.is_empty()
            {
                any = true;
                self.manifests(&shown(&path), found)?;
            }
        }
        if any {
            Ok(())
        } else {
            self.unread(&error.to_string())
        }
    }

    /// Manifests, or a `routes.yaml` with its list files beside it.
    fn stream(
        &mut self,
        label: &str,
        name: &str,
        bytes: &[u8],
        path: Option<&Path>,
    ) -> io::Result<()> {
        if bytes.len() > MAX_STREAM {
            return self.unread(&format!("{label}: is larger than {} MiB", MAX_STREAM >> 20));
        }
        let stream = std::str::from_utf8(bytes).map_or(Stream::Other, manifests::search);
        match (stream, path) {
            (Stream::Manifests(found), _) if found.is_empty() => self.unread(&format!(
                "{label}: there is no ConfigMap with a key `{ROUTES_YAML}` in it"
            )),
            (Stream::Manifests(found), _) => self.manifests(label, found),
            (Stream::Other, Some(path)) => match source::read(path) {
                Ok(snapshot) => self.files(label, name, &snapshot.files),
                Err(error) => self.unread(&error.to_string()),
            },
            (Stream::Other, None) => {
                let keys = BTreeMap::from([(ROUTES_YAML.to_owned(), bytes.to_vec())]);
                self.files(label, name, &Files::from_keys(&keys).unwrap_or_default())
            }
        }
    }

    fn manifests(&mut self, label: &str, found: Vec<manifests::Found>) -> io::Result<()> {
        for found in found {
            let label = format!("{label}: ConfigMap {}", found.name);
            match found.files {
                Ok(files) => self.files(&label, ROUTES_YAML, &files)?,
                Err(why) => {
                    self.worst = self.worst.max(Verdict::Refused);
                    writeln!(self.err, "{label}: {}", config::printable(&why))?;
                }
            }
        }
        Ok(())
    }

    fn files(&mut self, label: &str, name: &str, files: &Files) -> io::Result<()> {
        match config::parse(files) {
            Ok(checked) => self.summary(label, &checked),
            Err(problems) => self.problems(label, name, problems),
        }
    }

    fn problems(&mut self, label: &str, name: &str, mut problems: Problems) -> io::Result<()> {
        self.worst = self.worst.max(Verdict::Refused);
        let count = problems.count();
        for problem in &mut problems.kept {
            if problem.file == ROUTES_YAML {
                name.clone_into(&mut problem.file);
            }
            let said = problem.picture(self.colours);
            writeln!(self.err, "{said}")?;
        }
        if problems.more > 0 {
            writeln!(self.err, "and {} more", problems.more)?;
        }
        let plural = if count == 1 { "problem" } else { "problems" };
        writeln!(
            self.err,
            "{label}: refused, {count} {plural} (revision {})",
            problems.revision
        )
    }

    fn unread(&mut self, why: &str) -> io::Result<()> {
        self.worst = Verdict::Unread;
        writeln!(self.err, "{}", config::printable(why))
    }

    fn summary(&mut self, label: &str, checked: &Checked) -> io::Result<()> {
        let config = &checked.config;
        let sets = match config.sets.len() {
            0 => "no route sets, so that every route is taken away".to_owned(),
            1 => "1 route set".to_owned(),
            n => format!("{n} route sets"),
        };
        write!(
            self.out,
            "{label}: valid, revision {}, {sets}",
            checked.revision
        )?;
        match config.protected.len() {
            0 => writeln!(self.out)?,
            n => writeln!(self.out, ", {n} protected")?,
        }
        for set in &config.sets {
            writeln!(self.out, "  {}", describe(set))?;
        }
        for warning in &checked.warnings {
            writeln!(self.out, "warning: {warning}")?;
        }
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    config::printable(&path.to_string_lossy()).into_owned()
}

/// One line about a set.
fn describe(set: &RouteSet) -> String {
    let gateways: Vec<String> = set.gateways.iter().map(ToString::to_string).collect();
    let strategy = match set.strategy {
        Strategy::Balance => "balance",
        Strategy::Failover { failback: true } => "failover",
        Strategy::Failover { failback: false } => "failover without failback",
    };
    let per_family = |prefixes: &[crate::net::prefix::Prefix]| {
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
    let when_down = match set.when_down {
        WhenDown::Hold => "hold",
        WhenDown::Withdraw => "withdraw",
        WhenDown::Blackhole => "blackhole",
    };
    let guard = if set.leak_guard { ", leak guard" } else { "" };
    format!(
        "{}: {strategy} via {}; {} destinations{except}; {}; when down {when_down}{guard}; {}",
        set.name,
        gateways.join(", "),
        per_family(&set.destinations),
        describe_check(&set.health_check),
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
