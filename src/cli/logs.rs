//! Logs, to stderr: set up once, and the last word of a command that fails.

use std::io::{IsTerminal as _, Write as _, stderr};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::args::LogFormat;

/// Libraries that say what we say better ourselves: kube logs each connection failure, and bodies whole.
const QUIET: [&str; 3] = ["kube_client=off", "hyper=off", "tower=off"];

/// Starts logging. `level` is a level, or directives as `tracing` knows them.
pub fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let mut filter = match level.parse::<LevelFilter>() {
        Ok(level) => EnvFilter::new(format!("egress_routes={level},warn")),
        Err(_) => EnvFilter::try_new(level).with_context(|| {
            format!("--log-level `{level}` is neither a level like `info` nor directives")
        })?,
    };
    if level.parse::<LevelFilter>().is_ok() {
        for directive in QUIET {
            filter = filter.add_directive(directive.parse().context("a built-in log directive")?);
        }
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(colours()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Whether stderr wants colours; `NO_COLOR` is honoured when it is not empty.
pub fn colours() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An error that ends a command: its chain in one line.
pub fn complain(error: &anyhow::Error) {
    // A closed stderr is no reason to do more than the exit status says.
    let _ = writeln!(stderr(), "error: {error:#}");
}
