//! `diff`, `apply`, `status` and `cleanup`: one node, now.
//!
//! The same decisions as the agent's, made once. Health is what the kernel shows of an earlier agent's
//! verdicts; nothing is probed.

use std::io::{Write as _, stderr, stdout};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;

use crate::cli::args::{KernelArgs, NodeArgs, OneShotArgs, Output};
use crate::cli::logs;
use crate::cluster::annotations;
use crate::cluster::client::{self, Api};
use crate::config;
use crate::health::{Health, HealthView, State};
use crate::kernel::apply::{Applier, CHURN};
use crate::kernel::ip::{Ip, RouteTable as _};
use crate::net::nexthop_id;
use crate::report::metrics::Metrics;
use crate::report::status::{Agent, Overall, Problem, ProblemKind, Status};
use crate::routing::batch::Ownership;
use crate::routing::diff::{diff, marks_to};
use crate::routing::node_facts::Facts;
use crate::routing::resolve::{
    Inputs, Resolution, problems, resolve, set_status, taken_out_before,
};
use crate::routing::state::Kernel;
use crate::serve::socket;
use crate::source;

/// How long the API may take to say what it knows of this node.
const FACTS: Duration = Duration::from_secs(5);

/// What a report without an agent begins with.
const NO_AGENT: &str = "no agent runs here: gateways are not probed, and routes are not kept up";

/// All that a decision needs.
struct Here {
    revision: String,
    resolution: Resolution,
    kernel: Kernel,
    applier: Applier<Ip>,
}

/// The configuration was refused; all that is wrong with it has been printed.
struct Refused {
    revision: String,
    /// The first of it, in one line.
    why: String,
}

/// `diff`: 0 nothing to change, 1 changes; a refused configuration is an error.
pub async fn diff_command(args: OneShotArgs) -> anyhow::Result<u8> {
    let Ok(here) = look(&args.node, args.path.as_deref()).await? else {
        return Ok(2);
    };
    let plan = diff(
        &here.resolution.wanted,
        &here.kernel,
        &here.applier.ownership,
        true,
    );
    let mut out = std::io::BufWriter::new(stdout().lock());
    for line in plan.in_words(&here.resolution.wanted, &here.kernel) {
        writeln!(out, "{line}").context("writing the output")?;
    }
    out.flush().context("writing the output")?;
    for conflict in plan.conflicts.iter().take(20) {
        warn(&conflict.to_string());
    }
    tell_problems(&here.resolution);
    Ok(u8::from(!plan.is_empty()))
}

/// `apply`: 0 all in, 1 something refused or failed.
pub async fn apply(args: OneShotArgs) -> anyhow::Result<u8> {
    if socket::ask().await.is_ok_and(|agent| agent.is_some()) {
        warn("an agent runs here and goes on with its own configuration");
    }
    let Ok(here) = look(&args.node, args.path.as_deref()).await? else {
        return Ok(1);
    };
    let Here {
        revision,
        resolution,
        kernel,
        mut applier,
    } = here;
    let mark = nexthop_id::applied(&revision);
    let marks = marks_to(Some(mark), &kernel, &applier.ownership);
    let outcome = applier.apply(&resolution.wanted, kernel, &marks).await?;
    if !outcome.changed.any() {
        applier.write_few(&marks).await?;
    }
    let unused: Vec<u32> = outcome
        .left
        .unused
        .iter()
        .copied()
        .filter(|id| *id != mark)
        .collect();
    applier.sweep(&unused).await?;
    let installed: usize = outcome.installed(&resolution.wanted).values().sum();
    let wanted: usize = resolution.sets.iter().map(|set| set.wanted).sum();
    let changed = outcome.changed;
    writeln!(
        stdout(),
        "revision {revision}: {installed}/{wanted} routes in the kernel ({} written, {} removed, {} nexthop objects written)",
        changed.replaced,
        changed.deleted,
        changed.nexthops
    )
    .context("writing the output")?;
    tell_problems(&resolution);
    let problems = outcome.problems();
    problems.iter().for_each(|problem| warn(&problem.text));
    let left = !outcome.left.is_empty()
        || !crate::routing::resolve::problems(&resolution.sets, &problems).is_empty()
        || installed < wanted;
    Ok(u8::from(left))
}

/// `status`: 0 Ready, 1 not.
pub async fn status(args: NodeArgs, output: Output) -> anyhow::Result<u8> {
    let (status, note) = match socket::ask().await? {
        Some(status) => (status, None),
        None => (
            look_without_agent(&args).await?,
            Some("no agent runs here; gateways are not probed"),
        ),
    };
    let mut out = std::io::BufWriter::new(stdout().lock());
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, &status).context("writing the output")?;
            writeln!(out)
        }
        Output::Table => write!(out, "{}", super::table::of(&status)),
    }
    .and_then(|()| out.flush())
    .context("writing the output")?;
    note.map(warn);
    Ok(u8::from(status.status != Overall::Ready))
}

/// `cleanup`: 0 removed; an error when anything is left.
pub async fn cleanup(kernel: KernelArgs, node: Option<String>) -> anyhow::Result<u8> {
    if socket::ask().await.is_ok_and(|agent| agent.is_some()) {
        warn("an agent runs here and will put its routes back; end it first");
    }
    let mut applier = applier(kernel.ownership());
    let outcome = applier.remove_all().await?;
    let left = outcome.left.delete.len() + outcome.left.dropped.len() + outcome.left.unused.len();
    anyhow::ensure!(
        left == 0 && !outcome.kernel.uncertain_v6,
        "{left} routes or nexthops could not be removed: {}",
        Problem::join(&outcome.problems())
    );
    writeln!(stdout(), "{} routes removed", outcome.changed.deleted)
        .context("writing the output")?;
    if let Ok(api) = Api::in_cluster(node.as_deref(), &Metrics::new())
        && let Err(error) = annotations::clear_annotations(&api, FACTS).await
    {
        warn(&format!("the annotations stay: {error:#}"));
    }
    Ok(0)
}

fn applier(ownership: Ownership) -> Applier<Ip> {
    Applier {
        table: Ip { ownership },
        ownership,
        resilient: true,
    }
}

/// Reads everything and decides.
async fn look(args: &NodeArgs, path: Option<&Path>) -> anyhow::Result<Result<Here, Refused>> {
    let path = path.unwrap_or(&args.config);
    let snapshot = source::read(path)?;
    let checked = match config::parse(&snapshot.files) {
        Ok(checked) => checked,
        Err(problems) => {
            print_problems(&problems);
            return Ok(Err(Refused {
                revision: problems.revision.to_string(),
                why: problems.summary(),
            }));
        }
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
    let health = taken_out_before(&before, &checked.revision.to_string())
        .into_iter()
        .map(|key| (key, taken_out()))
        .collect();
    match resolve(&Inputs {
        health: &health,
        ..before
    }) {
        Ok(resolution) => Ok(Ok(Here {
            revision: checked.revision.to_string(),
            resolution,
            kernel,
            applier,
        })),
        Err(clashes) => {
            clashes
                .iter()
                .take(20)
                .for_each(|clash| warn(&clash.to_string()));
            let why = clashes.first().map(ToString::to_string).unwrap_or_default();
            Ok(Err(Refused {
                revision: checked.revision.to_string(),
                why,
            }))
        }
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
    // Without an answer the kernel's state stands in for what is not known.
    let _ = timeout(FACTS, facts.wait_for(|f| matches!(f, Facts::Known(_)))).await;
    facts.borrow().clone()
}

async fn look_without_agent(args: &NodeArgs) -> anyhow::Result<Status> {
    let here = match look(args, None).await? {
        Ok(here) => here,
        Err(Refused { revision, why }) => {
            return Ok(Status {
                node: socket::node_name(args.node_name.as_deref()),
                agent: Agent::Absent,
                problems: vec![
                    Problem::of_node(ProblemKind::NoAgent, NO_AGENT),
                    Problem::of_node(ProblemKind::ConfigRefused, &why),
                ],
                status: Overall::Invalid,
                revision: String::new(),
                message: Some(format!("configuration refused: {why}")),
                sets: Vec::new(),
                rejected_revision: Some(revision),
                last_applied_at: None,
            });
        }
    };
    let Here {
        revision,
        resolution,
        kernel,
        applier,
    } = here;
    let left = diff(&resolution.wanted, &kernel, &applier.ownership, true);
    let outcome = crate::kernel::apply::Outcome {
        kernel,
        left,
        ..Default::default()
    };
    let installed = outcome.installed(&resolution.wanted);
    let mut others = vec![Problem::of_node(ProblemKind::NoAgent, NO_AGENT)];
    let conflicts = outcome.left.conflicts.iter();
    others.extend(conflicts.map(|c| Problem::of_node(ProblemKind::Shadowed, c.to_string())));
    if !outcome.left.is_empty() {
        let text = format!(
            "{} route(s) are not in the kernel; `egress-routes diff` lists them",
            outcome.left.replace.len()
        );
        others.push(Problem::of_node(ProblemKind::NotInstalled, text));
    }
    let problems = problems(&resolution.sets, &others);
    let count = |set: &crate::routing::resolve::SetView| {
        set.groups.values().filter_map(|id| installed.get(id)).sum()
    };
    Ok(Status {
        node: socket::node_name(args.node_name.as_deref()),
        agent: Agent::Absent,
        status: Overall::Degraded,
        revision,
        message: Some(Problem::join(&problems)),
        problems,
        sets: resolution
            .sets
            .iter()
            .map(|set| set_status(set, count(set)))
            .collect(),
        rejected_revision: None,
        last_applied_at: None,
    })
}

fn print_problems(problems: &config::Problems) {
    let colour = logs::colours();
    let mut err = stderr().lock();
    for problem in &problems.kept {
        let _ = writeln!(err, "{}", problem.picture(colour));
    }
    if problems.more > 0 {
        let _ = writeln!(err, "and {} more", problems.more);
    }
}

fn tell_problems(resolution: &Resolution) {
    resolution.notes.iter().for_each(|note| warn(note));
    problems(&resolution.sets, &[])
        .iter()
        .for_each(|problem| warn(&problem.text));
    for set in resolution.sets.iter().filter(|s| s.skipped_total > 0) {
        let examples = set
            .skipped
            .iter()
            .take(5)
            .map(|s| format!("{} ({})", s.destination, s.reason))
            .collect::<Vec<_>>()
            .join("; ");
        warn(&format!(
            "set `{}`: {} destination(s) are not routed as written: {examples}",
            set.name, set.skipped_total
        ));
    }
}

/// To stderr; a closed one is no reason to fail.
fn warn(line: &str) {
    let _ = writeln!(stderr(), "warning: {line}");
}
