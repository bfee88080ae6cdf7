//! `explain ADDRESS`: which path packets to it take on this node, and why, by the kernel's own lookup.
//!
//! I/O: gathers what there is and asks the kernel. `explanation` decides what it means, `echo` asks the far side.

mod echo;
mod explanation;

use std::io::{Write as _, stdout};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use crate::cli::args::{ExplainArgs, Output};
use crate::cli::node;
use crate::config::{self, Checked, Files};
use crate::kernel::ip::{Ip, RouteTable as _};
use crate::kernel::lookup::Lookup as _;
use crate::report::status::Status;
use crate::routing::batch::Ownership;
use crate::routing::lookup::{Answer, RulesOfBoth};
use crate::routing::node_facts::Facts;
use crate::routing::origins::Origins;
use crate::routing::rule::Packet;
use crate::routing::state::Kernel;
use crate::serve::socket;
use crate::source;

/// All that an explanation is made from.
struct Here {
    files: Files,
    checked: Checked,
    facts: Facts,
    kernel: Kernel,
    rules: RulesOfBoth,
    ownership: Ownership,
    /// What the agent reports; absent without one.
    agent: Option<Status>,
}

/// 0: by a gateway of its set; 1: not, or the far side saw something else; 2: error.
pub async fn command(args: ExplainArgs) -> anyhow::Result<u8> {
    let ip = Ip::new(args.node.kernel.ownership());
    ip.check_version().await?;
    let here = gather(&args, &ip).await?;
    let packet = packet(&args, &here.kernel)?;
    let answers = ip
        .look_up(std::slice::from_ref(&packet))
        .await
        .context("looking up the address")?;
    let answer: Answer = answers
        .into_iter()
        .next()
        .context("`ip route get` answered nothing")?;
    let mut explanation = explanation::explain(&here, &packet, &answer);
    if let Some(url) = &args.echo {
        let seen = echo::fetch(url, &packet).await?;
        explanation.compare(url, seen, &here.kernel);
    }
    let mut out = stdout().lock();
    match args.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, &explanation).context("writing the output")?;
            writeln!(out)
        }
        Output::Table => write!(out, "{explanation}"),
    }
    .context("writing the output")?;
    Ok(explanation.exit_status())
}

async fn gather(args: &ExplainArgs, ip: &Ip) -> anyhow::Result<Here> {
    let (files, checked) = configuration(&args.node.config)?;
    let kernel = ip.read().await?;
    let rules = ip.read_rules().await.context("reading the policy rules")?;
    // An agent that cannot be asked is none for what is explained here; `status` has the reason.
    let agent = socket::ask().await.unwrap_or(None);
    Ok(Here {
        files,
        checked,
        facts: node::facts(args.node.node_name.as_deref()).await,
        kernel,
        rules,
        ownership: ip.ownership,
        agent,
    })
}

fn configuration(directory: &Path) -> anyhow::Result<(Files, Checked)> {
    let files = source::read(directory)?.files;
    match config::parse(&files) {
        Ok(checked) => Ok((files, checked)),
        Err(problems) => Err(anyhow!(
            "the configuration is refused: {}",
            problems.summary()
        )),
    }
}

/// The packet to look up: one of the node itself, or one that comes in where its source is.
fn packet(args: &ExplainArgs, kernel: &Kernel) -> anyhow::Result<Packet> {
    let mut packet = Packet {
        mark: args.mark,
        ..Packet::to(args.address)
    };
    let Some(from) = args.from else {
        return Ok(packet);
    };
    if from.is_ipv4() != args.address.is_ipv4() {
        bail!("{from} and {} are of different families", args.address);
    }
    packet.from = Some(from);
    let origins = Origins::new(kernel, &[]);
    if !origins.is_own(from) {
        let incoming = origins.incoming(from);
        packet.iif = Some(incoming.with_context(|| no_way_back(from))?);
    }
    Ok(packet)
}

fn no_way_back(from: IpAddr) -> String {
    format!(
        "{from} is not one of the node's addresses, and no interface leads to it, so no packet from it arrives here"
    )
}
