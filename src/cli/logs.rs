//! Logs, to stderr: set up once, and the last word of a command that fails.

use std::io::{IsTerminal, Write as _, stderr};

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
    colours_on(&stderr())
}

/// The same for any stream.
pub fn colours_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An error that ends a command: its chain in one line.
pub fn complain(error: &anyhow::Error) {
    // A closed stderr is no reason to do more than the exit status says.
    let _ = writeln!(stderr(), "error: {}", chain(error));
}

/// An error and its causes in one line; a cause that the sentence before it contains already is left out.
pub fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(text.trim()) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

/// Whether an error is that nobody reads the output any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}
