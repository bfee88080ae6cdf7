//! Logs, to stderr: set up once, and the last word of a command that fails.

use std::io::{IsTerminal, Write as _, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::args::LogFormat;

/// Libraries whose logs are replaced by our own: kube logs each connection failure, and whole bodies.
const QUIET: [&str; 3] = ["kube_client=off", "hyper=off", "tower=off"];

/// Starts logging. `level` is a level, or directives as `tracing` knows them. Anything else is reported and logs at `info`:
/// a wrong word must not silence an agent, nor keep it from starting.
pub fn start(level: &str, format: LogFormat) {
    let (filter, wrong) = match filter(level) {
        Some(filter) => (filter, false),
        None => (own_level(LevelFilter::INFO), true),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(colours()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    if wrong {
        tracing::warn!(
            "--log-level `{}` is not known; expected error, warn, info, debug, trace or off, or directives like `egress_routes=debug,info`; logging at info",
            crate::config::printable(level)
        );
    }
}

/// Ours at this level, others' warnings.
fn own_level(level: LevelFilter) -> EnvFilter {
    let quiet = QUIET.join(",");
    EnvFilter::new(format!("egress_routes={level},warn,{quiet}"))
}

fn filter(text: &str) -> Option<EnvFilter> {
    let text = text.trim();
    if let Some(level) = level(text) {
        return Some(own_level(level));
    }
    // `warning` alone would be the name of a target, and silence everything else.
    let known = |directive: &str| match directive.rsplit_once('=') {
        Some((target, word)) => !target.is_empty() && level(word).is_some(),
        None => level(directive).is_some(),
    };
    (!text.is_empty() && text.split(',').all(|directive| known(directive.trim())))
        .then(|| EnvFilter::try_new(text).ok())
        .flatten()
}

fn level(word: &str) -> Option<LevelFilter> {
    match word.to_ascii_lowercase().as_str() {
        "warning" => Some(LevelFilter::WARN),
        "off" | "none" => Some(LevelFilter::OFF),
        word @ ("error" | "warn" | "info" | "debug" | "trace") => word.parse().ok(),
        _ => None,
    }
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
    // With a closed stderr the exit status is all that is left.
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

/// Whether an error is a closed output (EPIPE).
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

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn no_word_silences_but_off() {
        for (text, expected) in [
            ("info", Some("egress_routes=info")),
            ("WARNING", Some("egress_routes=warn")),
            ("egress_routes=debug,info", Some("egress_routes=debug")),
            ("off", Some("egress_routes=off")),
            ("verbose", None),
            ("", None),
            ("2", None),
            ("warning,egress", None),
            ("egress_routes=loud", None),
        ] {
            let filter = filter(text).map(|filter| filter.to_string());
            match (filter, expected) {
                (Some(filter), Some(part)) => assert!(filter.contains(part), "{text}: {filter}"),
                (filter, expected) => assert_eq!(filter.as_deref(), expected, "{text}"),
            }
        }
    }

    #[test]
    fn a_cause_is_named_once() {
        let error = anyhow!("no such file")
            .context("reading `x`: no such file")
            .context("starting");
        assert_eq!(chain(&error), "starting: reading `x`: no such file");
    }
}
