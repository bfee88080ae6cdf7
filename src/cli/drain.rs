//! `drain` and `undrain`: one gateway of every set, by the same careful write as `edit`; then waits until it carries nothing.
//!
//! What a drain is, is the agent's business.

use std::time::Duration;

use anyhow::anyhow;

use crate::cli::args::DrainArgs;
use crate::cli::edit::{Refusal, Stored, Written};
use crate::cli::nodes::{Goal, Observer, Which, say};
use crate::cli::sync;
use crate::config::{ROUTES_YAML, drain_edit};

/// Flows last: the wait for them is longer than that for an edit.
const TIMEOUT: Duration = Duration::from_mins(30);
/// How often an edit is repeated because somebody else edited at the same time.
const TRIES: usize = 5;

/// `drain` (`drain` is true) and `undrain`: as `nodes --wait`.
pub async fn command(args: &DrainArgs, drain: bool) -> anyhow::Result<u8> {
    let observer = Observer::connect(&args.sync.cluster, Which::default()).await?;
    edit(&observer, args, drain).await?;
    let mut sync = args.sync.clone();
    let goal = if drain {
        sync.waiting.timeout = sync.waiting.timeout.or(Some(TIMEOUT));
        Goal::Drained(args.address)
    } else {
        Goal::Applied
    };
    sync::run(&observer, &sync, goal).await
}

async fn edit(observer: &Observer, args: &DrainArgs, drain: bool) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        let stored = Stored::read(observer, ROUTES_YAML).await?;
        let edited = drain_edit::edit(stored.text(), args.address, drain)
            .map_err(|why| anyhow!(why).context(ROUTES_YAML))?;
        let Some(text) = edited else {
            let state = if drain { "drained" } else { "not drained" };
            say(&format!("{} is already {state} in every set", args.address));
            return Ok(());
        };
        match stored.check(&text) {
            Ok(checked) => stored.announce(&checked),
            Err(Refusal::Problems(problems)) => return Err(anyhow!(problems.summary())),
            Err(Refusal::NoRoutes) => {
                return Err(anyhow!("the ConfigMap has no key `{ROUTES_YAML}`"));
            }
        }
        if stored.write(observer, &text).await? == Written::Yes {
            return Ok(());
        }
    }
    Err(anyhow!(
        "`{ROUTES_YAML}` changed {TRIES} times in a row while it was edited"
    ))
}
