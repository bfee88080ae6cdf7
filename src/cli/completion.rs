//! `completion`, `man` and `version`: what the command line knows of itself.

use std::io::{Write as _, stdout};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::args::Cli;

/// A script that completes commands and flags.
pub fn completion(shell: Shell) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "egress-routes", &mut script);
    print(&script)
}

/// One page for all commands.
pub fn man() -> anyhow::Result<u8> {
    let mut cli = Cli::command();
    cli.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(cli.clone())
        .render(&mut page)
        .context("making the page")?;
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        let man = clap_mangen::Man::new(command.clone());
        writeln!(page, ".SH {}", command.get_name().to_uppercase())
            .and_then(|()| man.render_description_section(&mut page))
            .and_then(|()| man.render_options_section(&mut page))
            .context("making the page")?;
    }
    print(&page)
}

/// The version.
pub fn version() -> anyhow::Result<u8> {
    print(concat!("egress-routes ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())
}

fn print(bytes: &[u8]) -> anyhow::Result<u8> {
    let mut out = stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .context("writing the output")?;
    Ok(0)
}
