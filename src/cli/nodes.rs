//! `nodes`: the cluster from a kubeconfig, a line per node; and the waiting that other commands share with it.
//!
//! Reads what the agents' annotations report, and compares it with the `ConfigMap`.

use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::cli::args::{NodesArgs, NodesOutput, ShowArgs, WaitArgs};

mod agents;
mod fleet;
mod observer;
mod sync_request;
mod table;

pub use fleet::{Fleet, Goal};
pub use observer::{Observer, Which, keys};
pub use sync_request::SyncRequest;

/// The default time-out.
const TIMEOUT: Duration = Duration::from_mins(2);
/// From one look at the cluster to the next, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The exit status when the time is over.
const TIMED_OUT: u8 = 3;

/// `nodes`: 0 all Ready, 1 not, 3 timed out.
pub async fn command(args: &NodesArgs) -> anyhow::Result<u8> {
    let which = Which {
        names: args.names.clone(),
        selector: args.selector.clone(),
    };
    let observer = Observer::connect(&args.cluster, which).await?;
    if args.wait {
        return wait(&observer, args.waiting, args.show, Goal::Applied, None).await;
    }
    let fleet = observer.look().await?;
    show(&fleet, args.show, args.waiting.allow_missing)
}

/// Waits until every node that can has reached the goal, then shows the cluster. With a request to sync, the kubelets of the nodes that are behind are asked again.
pub async fn wait(
    observer: &Observer,
    waiting: WaitArgs,
    how: ShowArgs,
    goal: Goal,
    mut sync: Option<SyncRequest>,
) -> anyhow::Result<u8> {
    let started = Instant::now();
    let timeout = waiting.timeout.unwrap_or(TIMEOUT);
    let deadline = started + timeout;
    let mut progress = Progress {
        started,
        terminal: std::io::stderr().is_terminal(),
    };
    let mut answered = false;
    loop {
        let asked = Instant::now();
        let over = asked >= deadline;
        match observer.look().await {
            Ok(mut fleet) if over || fleet.is_final(goal) => {
                progress.clear();
                let timed_out = !fleet.is_final(goal);
                if timed_out {
                    let far = fleet.progress(goal);
                    fleet
                        .hints
                        .push(format!("timed out after {timeout:?}: {far}"));
                }
                let shown = show(&fleet, how, waiting.allow_missing)?;
                return Ok(if timed_out { TIMED_OUT } else { shown });
            }
            Ok(fleet) => {
                answered = true;
                progress.show(&fleet.progress(goal));
                if let Some(sync) = &mut sync {
                    sync.again(observer, &fleet, Instant::now()).await;
                }
            }
            // Once it has answered, a short absence of the API is a reason to wait on.
            Err(error) if answered && !over => progress.show(&format!("{error:#}")),
            Err(error) => return Err(error),
        }
        // In a large cluster a look is some MB: it is not to be the API server's main occupation.
        let pause = (asked.elapsed() * 5).max(LOOK_EVERY);
        sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// The exit status follows from what is shown.
fn show(fleet: &Fleet, how: ShowArgs, allow_missing: bool) -> anyhow::Result<u8> {
    let ready = fleet.all_ready(allow_missing);
    let mut out = std::io::stdout().lock();
    let text = match how.output {
        NodesOutput::Table | NodesOutput::Wide => table::table(fleet, look(how)),
        NodesOutput::Json => format!("{:#}\n", table::value(fleet, ready)),
        NodesOutput::Yaml => serde_yaml::to_string(&table::value(fleet, ready))
            .context("writing the cluster as YAML")?,
    };
    out.write_all(text.as_bytes())
        .context("writing the output")?;
    for hint in &fleet.hints {
        say(hint);
    }
    Ok(u8::from(!ready))
}

fn look(how: ShowArgs) -> table::Look {
    let wide = how.output == NodesOutput::Wide;
    let columns = terminal_size::terminal_size_of(std::io::stdout());
    table::Look {
        wide,
        heading: !how.no_headers,
        width: columns
            .filter(|_| !wide)
            .map(|(columns, _)| columns.0.into()),
        now: crate::cluster::annotations::wall_clock(),
    }
}

/// To stderr; a closed one is no reason to fail.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One line that is written over again and again, on a terminal only.
struct Progress {
    started: Instant,
    terminal: bool,
}

impl Progress {
    fn show(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(
                std::io::stderr(),
                "\r\x1b[K{text}  {}s",
                self.started.elapsed().as_secs()
            );
        }
    }

    fn clear(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
