//! `sync`: makes the kubelets bring the `ConfigMap` now, then waits as `nodes --wait`.

use crate::cli::args::SyncArgs;
use crate::cli::nodes::{Goal, Observer, SyncRequest, Which, wait};

/// `sync`: as `nodes --wait`.
pub async fn command(args: &SyncArgs) -> anyhow::Result<u8> {
    let observer = Observer::connect(&args.cluster, Which::default()).await?;
    run(&observer, args, Goal::Applied).await
}

/// Asks all kubelets to sync, then waits for the goal.
pub async fn run(observer: &Observer, args: &SyncArgs, goal: Goal) -> anyhow::Result<u8> {
    let request = SyncRequest::all(observer).await?;
    wait(observer, args.waiting, args.show, goal, Some(request)).await
}
