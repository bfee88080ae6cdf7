//! The agent: the one loop in which everything meets. A trigger reports that something may have changed; each
//! pass starts again from the whole state: configuration, kernel, node facts and health.
//!
//! I/O only. Decisions live in `rollout`, `resolve`, `diff`, `repair_limit` and `transitions`; results go through channels, so that slow
//! readers never delay routing.

mod changed;
mod engine;
mod gateways;
mod load;
mod lookups;
mod memory;
mod pass;
mod reading;
mod records;
pub mod repair_limit;
mod report;
mod rim;
pub mod rollout;
mod settled;
pub mod target;
pub mod transitions;
mod triggers;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::cli::args::RunArgs;
use crate::cluster::annotations::{self, Reported};
use crate::cluster::events;
use crate::cluster::uninstall::{self, OnExit};
use crate::health::probe::Probes;
use crate::kernel::apply::Applier;
use crate::kernel::ip::Ip;
use crate::kernel::monitor::Notification;
use crate::report::metrics::Metrics;
use crate::routing::node_facts::Facts;
use crate::serve::http::{self, Pages};
use crate::serve::page::StatusPage;
use crate::serve::socket::{self, AgentSocket};
use engine::{Engine, Outside as _, Question};
use load::Loader;
use lookups::Lookups;
use pass::LastPass;
use repair_limit::RepairLimit;
use rim::{Cluster, Rim, answer, no_facts};
use rollout::{Event, Rollout};
use transitions::Report;
use triggers::{Causes, Triggers};

/// How long the first pass waits for the API's facts about this node: with them it protects more.
const FIRST_FACTS: Duration = Duration::from_secs(3);
/// How long the annotations may take to be removed at an uninstall: what is left of a pod's 30 s, with the verdict before it.
const LAST_PATCH: Duration = Duration::from_secs(8);
/// The loop beats at least this often when it is well, and counts as stuck after [`STUCK`].
const BEAT: Duration = Duration::from_secs(5);
const STUCK: Duration = Duration::from_mins(2);

struct Agent {
    args: RunArgs,
    engine: Engine<Rim>,
    facts: watch::Receiver<Facts>,
    loader: Loader,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    memory::give_back_what_is_freed();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut end = std::pin::pin!(async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    });
    let socket = tokio::select! {
        socket = waiting::for_the_place(&args) => socket?,
        () = &mut end => return Ok(()),
    };
    let agent = Agent::start(args);
    Box::pin(agent.live(socket, end)).await;
    Ok(())
}

impl Agent {
    fn start(args: RunArgs) -> Self {
        let ownership = args.node.kernel.ownership();
        let metrics = Metrics::new();
        let (status, _) = watch::channel(None);
        let (events, _) = broadcast::channel(events::EVENTS_KEPT);
        let cluster = Cluster::connect(&args, &metrics, &status, &events);
        let facts = match &cluster {
            Some(cluster) => cluster.watching.facts.clone(),
            None => no_facts(),
        };
        let probes = Probes::new(Arc::new(Ip::new(ownership)));
        let health = probes.subscribe();
        let rim = Rim {
            started: Instant::now(),
            cluster,
            probes,
            links: Arc::default(),
        };
        let engine = Engine {
            outside: rim,
            applier: Applier {
                table: Ip::new(ownership),
                ownership,
                resilient: true,
            },
            node: socket::node_name(args.node.node_name.as_deref()),
            resync: args.resync,
            metrics,
            health,
            status,
            events,
            rollout: Rollout::new(args.confirm, facts.borrow().clone()),
            repair_limit: RepairLimit::default(),
            causes: Causes::default(),
            ahead: None,
            last: LastPass::default(),
            lookups: Lookups::default(),
            report: Report::default(),
        };
        Self {
            loader: Loader::new(args.node.config.clone()),
            args,
            engine,
            facts,
        }
    }

    async fn live(mut self, socket: AgentSocket, mut end: impl Future<Output = ()> + Unpin) {
        let beat = Arc::new(AtomicU64::new(0));
        self.serve(socket, beat.clone());
        if let Err(error) = self.engine.applier.table.check_version().await {
            tracing::error!("{error:#}");
        }
        let mut triggers = Triggers::start(&self.args, self.engine.outside.links.clone());
        tokio::select! {
            () = self.first_facts() => {}
            () = &mut end => return self.end().await,
        }
        self.load().await;
        self.engine.causes.again(self.engine.now());
        let mut beating = tokio::time::interval(BEAT);
        let started = self.engine.outside.started;
        loop {
            let now = self.engine.now();
            beat.store(now.as_secs(), Ordering::Relaxed);
            let due = self.engine.causes.due().map(|at| started + at);
            let deadline = self.engine.rollout.deadline().map(|at| started + at);
            let engine = &mut self.engine;
            // Only waiting is given up at the end: what runs in a branch runs to its own time limit, so that no batch is cut midway.
            tokio::select! {
                () = &mut end => return self.end().await,
                Some(()) = triggers.directory.recv() => self.load().await,
                Some(()) = triggers.link.recv() => engine.notified(Notification::Link),
                Some(()) = triggers.rules.recv() => engine.notified(Notification::Rule),
                Some(()) = triggers.ours.recv() => engine.notified(Notification::Ours),
                Some(()) = triggers.foreign.recv() => engine.notified(Notification::Foreign),
                Ok(()) = engine.health.changed() => engine.health_changed().await,
                Ok(()) = self.facts.changed() => self.learn(),
                _ = triggers.resync.tick() => engine.resync_is_due(),
                _ = beating.tick() => engine.refresh(),
                Some(()) = answer(&mut engine.outside.cluster) => self.answered(),
                () = until(deadline) => engine.step(Event::Tick),
                () = until(due) => engine.pass().await,
            }
        }
    }

    /// Known facts protect more; but routes do not depend on the API.
    async fn first_facts(&mut self) {
        if self.cluster().is_some() {
            let known = self
                .facts
                .wait_for(|facts| matches!(facts, Facts::Known(_)));
            drop(timeout(FIRST_FACTS, known).await);
        }
        self.learn();
        let seen = self
            .cluster()
            .and_then(|cluster| cluster.watching.seen.borrow().clone());
        if let Some(seen) = seen {
            self.engine.report = Report::of_annotations(Reported::by(&seen.annotations));
        }
    }

    const fn cluster(&self) -> Option<&Cluster> {
        self.engine.outside.cluster.as_ref()
    }

    fn learn(&mut self) {
        let facts = self.facts.borrow_and_update().clone();
        self.engine.step(Event::Facts(facts));
    }

    /// The labels that were read with the answer count for what follows from it.
    fn answered(&mut self) {
        self.learn();
        self.engine.step(Event::Answered);
    }

    async fn load(&mut self) {
        // A pass will follow, and the check of a long list takes about as long as half of a read.
        let ahead = Box::pin(self.engine.read_ahead());
        let Some(newest) = self.loader.load(ahead).await else {
            return;
        };
        if let Some(cluster) = self.cluster() {
            // Where the API servers were half an hour ago is not enough to protect them from an edit.
            cluster.watching.refresh();
        }
        self.engine.step(Event::Read(newest));
    }

    fn serve(&self, socket: AgentSocket, beat: Arc<AtomicU64>) {
        let started = self.engine.outside.started;
        let alive =
            move || started.elapsed() < Duration::from_secs(beat.load(Ordering::Relaxed)) + STUCK;
        let pages = Pages {
            metrics: self.engine.metrics.clone(),
            status: StatusPage::new(self.engine.status.subscribe()),
            alive: Arc::new(alive),
        };
        tokio::spawn(socket.answer(pages.status.clone(), pages.alive.clone()));
        let listen = self.args.listen.address(self.args.listen_global);
        let listen = listen.unwrap_or_else(|fallback| {
            tracing::warn!("{fallback}");
            fallback.at
        });
        tokio::spawn(http::serve(listen, pages));
    }

    async fn end(mut self) {
        self.engine.outside.ask(Question::None);
        let why = match self.leave().await {
            uninstall::Verdict::Keep(why) => {
                return tracing::info!(why, "Stopping; the routes stay");
            }
            uninstall::Verdict::Cleanup(why) => why,
        };
        match self.engine.applier.remove_all().await {
            Ok(outcome) if outcome.is_settled() => {
                let routes = outcome.changed.deleted;
                tracing::info!(why, routes, "Stopping; routes and nexthops removed");
            }
            Ok(outcome) => {
                let left = outcome.left.delete.len();
                tracing::error!(left, "Stopping; not everything could be removed");
            }
            Err(error) => tracing::error!("Stopping; removing the routes failed: {error:#}"),
        }
        if let Some(cluster) = self.cluster() {
            cluster.annotating.abort();
            if let Err(error) = annotations::clear_annotations(&cluster.api, LAST_PATCH).await {
                tracing::warn!("The annotations of this node stay: {error:#}");
            }
        }
    }

    async fn leave(&self) -> uninstall::Verdict {
        match (self.args.on_exit, self.cluster()) {
            (OnExit::Keep, _) => uninstall::Verdict::Keep("--on-exit keep"),
            (OnExit::Cleanup, _) => uninstall::Verdict::Cleanup("--on-exit cleanup"),
            (OnExit::Auto, None) => {
                uninstall::Verdict::Keep("without a cluster an uninstall cannot be detected")
            }
            (OnExit::Auto, Some(cluster)) => {
                cluster.installation.verdict(socket::successor_waits).await
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod simulation;
