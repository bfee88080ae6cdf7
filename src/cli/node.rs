//! `diff`, `apply` and `cleanup`: one node, now. What `status` does without an agent begins here too.
//!
//! The same decisions as the agent's, made once. Health is what the kernel shows of an earlier agent's
//! verdicts; nothing is probed.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::time::timeout;

use crate::cli::args::{ApplyArgs, CleanupArgs, NodeArgs, OneShotArgs, Output};
use crate::cli::changes::{Change, Summary, folded};
use crate::cli::check::{ProblemEntry, entries};
use crate::cli::{input, logs};
use crate::cluster::annotations;
use crate::cluster::client::{self, Api};
use crate::config;
use crate::health::{Health, HealthView, State};
use crate::kernel::apply::{Applier, CHURN};
use crate::kernel::ip::{Ip, RouteTable as _};
use crate::net::nexthop_id;
use crate::report::metrics::Metrics;
use crate::report::status::{Problem, ProblemKind};
use crate::routing::batch::Ownership;
use crate::routing::diff::{diff, records_to};
use crate::routing::exclude::Clash;
use crate::routing::leftovers;
use crate::routing::node_facts::Facts;
use crate::routing::resolve::{Inputs, Resolution, problems, resolve, taken_out_before};
use crate::routing::state::Kernel;
use crate::serve::socket;

/// How long the API may take to answer about this node.
const FACTS: Duration = Duration::from_secs(5);
/// The bit of `CAP_NET_ADMIN` in a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;
/// Most warnings of one kind.
const SHOWN: usize = 20;

/// All that a decision needs.
pub(super) struct Here {
    pub(super) revision: String,
    pub(super) resolution: Resolution,
    pub(super) kernel: Kernel,
    pub(super) applier: Applier<Ip>,
}

/// The configuration was refused.
pub(super) struct Refused {
    pub(super) revision: String,
    /// The first of it, in one line.
    pub(super) why: String,
    /// All that is wrong with it, with pictures for people.
    pictures: Vec<String>,
    entries: Vec<ProblemEntry>,
}

impl Refused {
    /// To stderr, or as JSON to stdout.
    fn report(&self, output: Output) -> anyhow::Result<()> {
        if output == Output::Json {
            return print_json(&RefusedReport {
                revision: &self.revision,
                problems: &self.entries,
            });
        }
        let mut err = stderr().lock();
        for picture in &self.pictures {
            let _ = writeln!(err, "{picture}");
        }
        let _ = writeln!(err, "refused: nothing is changed");
        Ok(())
    }
}

#[derive(Serialize)]
struct RefusedReport<'a> {
    revision: &'a str,
    problems: &'a [ProblemEntry],
}

#[derive(Serialize)]
struct DiffReport {
    revision: String,
    changes: Vec<Change>,
    summary: Summary,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct ApplyReport {
    revision: String,
    wanted: usize,
    installed: usize,
    written: usize,
    removed: usize,
    nexthops: usize,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct CleanupReport {
    removed: usize,
    left: usize,
    problems: Vec<Problem>,
}

/// `diff`: 0 nothing to change, 1 changes; a refused configuration is an error.
pub async fn diff_command(args: OneShotArgs) -> anyhow::Result<u8> {
    let here = match look(&args.node, args.path.as_deref()).await? {
        Ok(here) => here,
        Err(refused) => return refused.report(args.output).map(|()| 2),
    };
    let ownership = here.applier.ownership;
    let wanted = &here.resolution.wanted;
    let plan = diff(wanted, &here.kernel, &ownership, true);
    let changes: Vec<Change> = plan
        .describe(wanted, &here.kernel)
        .filter_map(|line| Change::of_line(&line))
        .collect();
    let summary = Summary::of(&changes);
    let conflicts = plan.conflicts.iter().take(SHOWN);
    let conflicts = conflicts.map(|c| Problem::of_node(ProblemKind::Shadowed, c.to_string()));
    let mut all: Vec<Problem> = conflicts.collect();
    all.extend(left_by_others(&here));
    let problems = problems(&here.resolution.sets, &all);
    if args.output == Output::Json {
        print_json(&DiffReport {
            revision: here.revision,
            changes,
            summary,
            problems,
        })?;
    } else {
        print_changes(&changes, summary)?;
        warn_all(&here.resolution, &problems);
    }
    Ok(u8::from(!plan.is_empty()))
}

/// A pipe gets each line, a terminal what a person can read.
fn print_changes(changes: &[Change], summary: Summary) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(stdout().lock());
    let print = |out: &mut std::io::BufWriter<std::io::StdoutLock<'_>>| {
        if stdout().is_terminal() {
            for line in folded(changes) {
                writeln!(out, "{line}")?;
            }
        } else {
            for change in changes {
                writeln!(out, "{change}")?;
            }
        }
        writeln!(out, "{summary}")?;
        out.flush()
    };
    print(&mut out).context("writing the output")
}

/// `apply`: 0 all in, 1 something refused or failed.
pub async fn apply(args: ApplyArgs) -> anyhow::Result<u8> {
    let ApplyArgs {
        one_shot: args,
        force,
    } = args;
    require_net_admin()?;
    alone_or_forced(force, "its own configuration would be back in seconds").await?;
    let Here {
        revision,
        resolution,
        kernel,
        mut applier,
    } = match look(&args.node, args.path.as_deref()).await? {
        Ok(here) => here,
        Err(refused) => return refused.report(args.output).map(|()| 1),
    };
    let records = nexthop_id::applied(&revision).into_iter().collect();
    let outcome = applier
        .apply(&resolution.wanted, kernel, Some(&records))
        .await?;
    let lines = records_to(&records, &outcome.kernel, &applier.ownership);
    applier.write_few(&lines).await?;
    let unused: Vec<u32> = outcome
        .left
        .unused
        .iter()
        .copied()
        .filter(|id| !records.contains(id))
        .collect();
    applier.sweep(&unused).await?;
    let installed: usize = outcome.installed(&resolution.wanted).values().sum();
    let wanted: usize = resolution.sets.iter().map(|set| set.wanted).sum();
    let changed = outcome.changed;
    let problems = problems(&resolution.sets, &outcome.problems());
    let complete = outcome.left.is_empty() && problems.is_empty() && installed >= wanted;
    if args.output == Output::Json {
        print_json(&ApplyReport {
            revision,
            wanted,
            installed,
            written: changed.replaced,
            removed: changed.deleted,
            nexthops: changed.nexthops,
            problems,
        })?;
    } else {
        writeln!(
            stdout(),
            "revision {revision}: {installed}/{wanted} routes in the kernel ({} written, {} removed, {} nexthop objects written)",
            changed.replaced,
            changed.deleted,
            changed.nexthops
        )
        .context("writing the output")?;
        warn_all(&resolution, &problems);
    }
    Ok(u8::from(!complete))
}

/// `status --probe`: 0 or 1.
pub async fn probe(probe: socket::Probe) -> anyhow::Result<u8> {
    match socket::probe(probe).await {
        Ok(()) => Ok(0),
        Err(why) => {
            warn(&format!("{why:#}"));
            Ok(1)
        }
    }
}

/// `cleanup`: 0 removed; an error when anything is left.
pub async fn cleanup(args: CleanupArgs) -> anyhow::Result<u8> {
    require_net_admin()?;
    alone_or_forced(args.force, "it would put its routes back").await?;
    let mut applier = applier(args.kernel.ownership());
    let outcome = applier.remove_all().await?;
    let left = outcome.left.delete.len() + outcome.left.dropped.len() + outcome.left.unused.len();
    let gone = left == 0 && !outcome.kernel.uncertain_v6;
    let problems = outcome.problems();
    if args.output == Output::Json {
        let removed = outcome.changed.deleted;
        print_json(&CleanupReport {
            removed,
            left,
            problems,
        })?;
        if !gone {
            return Ok(2);
        }
    } else {
        let why = match Problem::join(&problems) {
            none if none.is_empty() => String::new(),
            why => format!(": {why}"),
        };
        anyhow::ensure!(gone, "{left} routes or nexthops could not be removed{why}");
        let plural = if outcome.changed.deleted == 1 {
            ""
        } else {
            "s"
        };
        writeln!(
            stdout(),
            "{} route{plural} removed",
            outcome.changed.deleted
        )
        .context("writing the output")?;
    }
    if let Ok(api) = Api::in_cluster(args.node_name.as_deref(), &Metrics::new())
        && let Err(error) = annotations::clear_annotations(&api, FACTS).await
    {
        warn(&format!("the annotations stay: {}", logs::chain(&error)));
    }
    Ok(0)
}

/// Beside an agent, what a command writes does not last.
async fn alone_or_forced(force: bool, why: &str) -> anyhow::Result<()> {
    // One that does not answer holds the socket all the same.
    if matches!(socket::ask().await, Ok(None)) {
        return Ok(());
    }
    if force {
        warn(&format!("an agent runs here: {why}"));
        return Ok(());
    }
    bail!("an agent runs here: {why}; end it first, or use --force")
}

/// Every write would fail one by one, and `ip` does not always print why.
fn require_net_admin() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    match effective {
        Some(bits) if bits & NET_ADMIN == 0 => {
            bail!("changing routes needs root or the capability NET_ADMIN")
        }
        _ => Ok(()),
    }
}

fn applier(ownership: Ownership) -> Applier<Ip> {
    Applier {
        table: Ip::new(ownership),
        ownership,
        resilient: true,
    }
}

/// Reads everything and decides.
pub(super) async fn look(
    args: &NodeArgs,
    path: Option<&str>,
) -> anyhow::Result<Result<Here, Refused>> {
    let default = args.config.to_string_lossy();
    let path = path.unwrap_or(&default);
    let (input, warnings) =
        input::read_one(path, &mut std::io::stdin().lock()).map_err(anyhow::Error::msg)?;
    for warning in input.warnings.iter().chain(&warnings) {
        warn(&warning.to_string());
    }
    let checked = match input.files {
        Err(problems) => return Ok(Err(refused(String::new(), &problems, 0, &[]))),
        Ok(files) => match config::parse(&files) {
            Ok(checked) => checked,
            Err(problems) => {
                let sets = config::set_names(&files.routes_yaml);
                let revision = problems.revision.to_string();
                return Ok(Err(refused(revision, &problems.kept, problems.more, &sets)));
            }
        },
    };
    let applier = applier(args.kernel.ownership());
    applier.table.check_version().await?;
    let kernel = applier.table.read().await?;
    if kernel.uncertain_v6 {
        warn(&format!("{CHURN}; IPv6 removals wait for another run"));
    }
    let facts = facts(args.node_name.as_deref()).await;
    let (ownership, config) = (applier.ownership, &checked.config);
    let before = Inputs {
        config,
        kernel: &kernel,
        facts: &facts,
        health: &HealthView::new(),
        ownership: &ownership,
    };
    let revision = checked.revision.to_string();
    let down = taken_out_before(&before, &revision).into_iter();
    let health = down.map(|key| (key, taken_out())).collect();
    match resolve(&Inputs {
        health: &health,
        ..before
    }) {
        Ok(resolution) => Ok(Ok(Here {
            revision,
            resolution,
            kernel,
            applier,
        })),
        Err(clashes) => Ok(Err(of_clashes(revision, &clashes))),
    }
}

fn of_clashes(revision: String, clashes: &[Clash]) -> Refused {
    let lines = clashes.iter().take(SHOWN).map(ToString::to_string);
    let lines: Vec<String> = lines.collect();
    Refused {
        revision,
        why: lines.first().cloned().unwrap_or_default(),
        entries: lines
            .iter()
            .map(|line| ProblemEntry::of_node(line))
            .collect(),
        pictures: lines,
    }
}

fn refused(
    revision: String,
    problems: &[config::Problem],
    more: usize,
    sets: &[String],
) -> Refused {
    let colour = logs::colours();
    let mut pictures: Vec<String> = problems.iter().map(|p| p.picture(colour)).collect();
    if more > 0 {
        pictures.push(format!("and {more} more"));
    }
    let first: Vec<String> = problems.iter().take(5).map(ToString::to_string).collect();
    Refused {
        revision,
        why: first.join("; "),
        pictures,
        entries: entries(problems, sets),
    }
}

fn taken_out() -> Health {
    Health {
        state: State::Down,
        ever_up: true,
        rtt: None,
        reason: Some("was taken out of service by an agent".to_owned()),
    }
}

pub(super) async fn facts(node: Option<&str>) -> Facts {
    let Ok(api) = Api::in_cluster(node, &Metrics::new()) else {
        return Facts::NoCluster;
    };
    let mut facts = client::watch(api).facts;
    // Without an answer the kernel's state replaces what is not known.
    let _ = timeout(FACTS, facts.wait_for(|f| matches!(f, Facts::Known(_)))).await;
    facts.borrow().clone()
}

/// Routes of another program that win, which only a person may delete.
fn left_by_others(here: &Here) -> Vec<Problem> {
    let routes = leftovers::of(
        &here.resolution.wanted,
        &here.kernel,
        &here.applier.ownership,
    );
    let mut left: Vec<Problem> = routes
        .iter()
        .take(SHOWN)
        .map(|route| {
            let text = format!(
                "the route {route} of another program wins against the agent's; if nothing needs it any more: {}",
                leftovers::delete_command(route)
            );
            Problem::of_node(ProblemKind::Shadowed, text)
        })
        .collect();
    if routes.len() > SHOWN {
        let text = format!(
            "{} more such routes of other programs win against the agent's",
            routes.len() - SHOWN
        );
        left.push(Problem::of_node(ProblemKind::Shadowed, text));
    }
    left
}

fn warn_all(resolution: &Resolution, problems: &[Problem]) {
    resolution.notes.iter().for_each(|note| warn(note));
    problems.iter().for_each(|problem| warn(&problem.text));
    for set in resolution.sets.iter().filter(|s| s.skipped_total > 0) {
        let examples = set
            .skipped
            .iter()
            .take(5)
            .map(|s| format!("{} ({})", s.destination, s.reason))
            .collect::<Vec<_>>()
            .join("; ");
        let plural = if set.skipped_total == 1 {
            " is"
        } else {
            "s are"
        };
        warn(&format!(
            "set `{}`: {} destination{plural} not routed as written: {examples}",
            set.name, set.skipped_total
        ));
    }
}

/// A report for programs.
pub(super) fn print_json(report: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(stdout().lock());
    serde_json::to_writer_pretty(&mut out, report).context("writing the output")?;
    writeln!(out)
        .and_then(|()| out.flush())
        .context("writing the output")
}

/// To stderr; a closed one is no reason to fail.
pub(super) fn warn(line: &str) {
    let _ = writeln!(stderr(), "warning: {line}");
}
