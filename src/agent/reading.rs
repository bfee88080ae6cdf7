//! Reading the kernel, for a pass or ahead of one.
//!
//! I/O through the engine's table. What a read is worth is decided where it is used.

use std::time::Duration;

use super::engine::{Engine, Outside};
use super::rollout::{Clock, QUESTION};
use crate::kernel::ip::RouteTable as _;
use crate::routing::state::Kernel;

/// For how long a read ahead is good: an edit waits for an answer of the API server that long.
const FRESH: Duration = QUESTION;

/// From so many routes on a read takes long enough to be worth the memory of both at once. The simulation has few.
const WORTH_IT: usize = if cfg!(test) { 1 } else { 20_000 };

/// A read that was made before the pass that it is for was due.
pub(super) struct Ahead {
    kernel: Kernel,
    /// When it was begun.
    begun: Clock,
    took: Duration,
}

impl<O: Outside> Engine<O> {
    /// Reads a long table for the pass that an edit will cause. A notification that is taken up before that pass discards the read; one
    /// that is taken up later causes another pass, as if it had come during a read of the pass itself.
    pub(super) async fn read_ahead(&mut self) {
        self.ahead = None;
        if self.last.installed.values().sum::<usize>() < WORTH_IT {
            return;
        }
        let begun = self.now();
        // Where it fails, the pass will read, and report what is wrong.
        if let Ok(kernel) = self.read().await {
            let took = self.now().saturating_sub(begun);
            self.ahead = Some(Ahead {
                kernel,
                begun,
                took,
            });
        }
    }

    /// The kernel as it was read ahead, where nothing was noticed since, or as it is read now.
    pub(super) async fn kernel_for_pass(&mut self) -> anyhow::Result<Kernel> {
        let begun = self.now();
        if let Some(ahead) = self.ahead.take()
            && begun.saturating_sub(ahead.begun) <= FRESH
        {
            self.last.reading = ahead.took;
            return Ok(ahead.kernel);
        }
        let kernel = self.read().await?;
        self.last.reading = self.now().saturating_sub(begun);
        Ok(kernel)
    }

    async fn read(&mut self) -> anyhow::Result<Kernel> {
        let table = self.applier.table.clone();
        let (mut kernel, switched) = self.while_switching(table.read()).await?;
        if switched {
            // The read may have seen the groups as they were before.
            kernel.nexthops = table.read_nexthops().await?.nexthops;
        }
        Ok(kernel)
    }

    /// Waits for a read. What health demands meanwhile is done at once, and whether it was is returned: a switch takes as long with
    /// many routes as with few.
    pub(super) async fn while_switching<T>(
        &mut self,
        reading: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, bool)> {
        let mut reading = std::pin::pin!(reading);
        let mut switched = false;
        loop {
            tokio::select! {
                biased;
                read = &mut reading => return Ok((read?, switched)),
                Ok(()) = self.health.changed() => {
                    self.health_changed().await;
                    switched = true;
                }
            }
        }
    }
}
