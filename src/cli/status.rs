//! `status`: what the agent of this node reports, or what its absence leaves.

use std::collections::BTreeMap;
use std::io::{Write as _, stdout};
use std::net::IpAddr;

use anyhow::Context as _;

use crate::cli::args::{NodeArgs, Output};
use crate::cli::node::{Here, Refused, look, print_json};
use crate::cli::{logs, table};
use crate::kernel::apply::Outcome;
use crate::net::prefix::Family;
use crate::report::status::{
    Agent, GatewayState, GatewayStatus, Overall, Problem, ProblemKind, SetStatus, Status,
};
use crate::routing::diff::diff;
use crate::routing::resolve::{SetView, problems, set_status};
use crate::routing::state::Kernel;
use crate::serve::socket;

/// What a report without an agent begins with.
const NO_AGENT: &str =
    "no agent runs here: gateways are not probed, and lost routes are not restored";

/// `status`: 0 Ready, 1 not.
pub async fn command(args: NodeArgs, output: Output) -> anyhow::Result<u8> {
    let status = match socket::ask().await? {
        Some(status) => status,
        None => without_agent(&args).await?,
    };
    match output {
        Output::Json => print_json(&status)?,
        Output::Table => {
            let colours = logs::colours_on(&stdout());
            let mut out = std::io::BufWriter::new(stdout().lock());
            write!(out, "{}", table::of(&status, colours))
                .and_then(|()| out.flush())
                .context("writing the output")?;
        }
    }
    Ok(u8::from(
        status.status != Overall::Ready || status.agent == Agent::Absent,
    ))
}

async fn without_agent(args: &NodeArgs) -> anyhow::Result<Status> {
    let node = socket::node_name(args.node_name.as_deref());
    let here = match look(args, None).await? {
        Ok(here) => here,
        Err(refused) => return Ok(of_refused(node, refused)),
    };
    let Here {
        revision,
        resolution,
        kernel,
        applier,
    } = here;
    let left = diff(&resolution.wanted, &kernel, &applier.ownership, true);
    let outcome = Outcome {
        kernel,
        left,
        ..Default::default()
    };
    let installed = outcome.installed(&resolution.wanted);
    let mut others = vec![Problem::of_node(ProblemKind::NoAgent, NO_AGENT)];
    let conflicts = outcome.left.conflicts.iter();
    others.extend(conflicts.map(|c| Problem::of_node(ProblemKind::Shadowed, c.to_string())));
    if !outcome.left.is_empty() {
        let text = "the kernel does not have what the configuration wants; `egress-routes diff` lists the difference";
        others.push(Problem::of_node(ProblemKind::NotInstalled, text));
    }
    let problems = problems(&resolution.sets, &others);
    let count = |set: &SetView| set.groups.values().filter_map(|id| installed.get(id)).sum();
    let of_set = |view: &SetView| {
        let mut set = set_status(view, count(view));
        as_found(&mut set, &view.groups, &outcome.kernel);
        set
    };
    Ok(Status {
        node,
        agent: Agent::Absent,
        status: Overall::Degraded,
        revision,
        message: Some(Problem::join(&problems)),
        sets: resolution.sets.iter().map(of_set).collect(),
        problems,
        rejected_revision: None,
        last_applied_at: None,
    })
}

fn of_refused(node: String, refused: Refused) -> Status {
    let Refused { revision, why, .. } = refused;
    Status {
        node,
        agent: Agent::Absent,
        problems: vec![
            Problem::of_node(ProblemKind::NoAgent, NO_AGENT),
            Problem::of_node(ProblemKind::ConfigRefused, &why),
        ],
        status: Overall::Invalid,
        revision: String::new(),
        message: Some(format!("configuration refused: {why}")),
        sets: Vec::new(),
        rejected_revision: Some(revision).filter(|revision| !revision.is_empty()),
        last_applied_at: None,
    }
}

/// Which gateways carry a set's routes is what the kernel has, not what the configuration would make of it.
fn as_found(set: &mut SetStatus, groups: &BTreeMap<Family, u32>, kernel: &Kernel) {
    let active: Vec<IpAddr> = groups
        .values()
        .flat_map(|id| gateways(kernel, *id))
        .collect();
    for gateway in &mut set.gateways {
        gateway.active = active.contains(&gateway.address);
    }
    for address in active {
        if set
            .gateways
            .iter()
            .all(|gateway| gateway.address != address)
        {
            set.gateways.push(GatewayStatus {
                address,
                state: GatewayState::Unknown,
                active: true,
                weight: 1,
                buckets: None,
                rtt_ms: None,
                reason: Some("in the kernel but not in the configuration".to_owned()),
            });
        }
    }
}

/// The gateways of a group.
fn gateways(kernel: &Kernel, group: u32) -> Vec<IpAddr> {
    let members = kernel.members(group).iter();
    members.filter_map(|m| kernel.gateway(m.id)).collect()
}
