//! The agent: the one loop in which everything meets. A trigger reports that something may have changed; each
//! pass starts again from the whole state: configuration, kernel, node facts and health.
//!
//! I/O only. Decisions live in `rollout`, `resolve`, `diff`, `repair_limit` and `transitions`; results go through channels, so that slow
//! readers never delay routing.

mod load;
mod lookups;
mod pass;
pub mod repair_limit;
mod report;
pub mod rollout;
pub mod target;
pub mod transitions;
mod triggers;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cli::args::RunArgs;
use crate::cluster::annotations::{self, Reported};
use crate::cluster::client::{self, Api, Watching};
use crate::cluster::events;
use crate::cluster::taint;
use crate::cluster::uninstall::{self, Installation, OnExit};
use crate::health::HealthView;
use crate::health::probe::Probes;
use crate::kernel::apply::Applier;
use crate::kernel::ip::Ip;
use crate::kernel::monitor::{GatewayLinks, Notice};
use crate::report::metrics::Metrics;
use crate::report::status::Status;
use crate::routing::batch::Ownership;
use crate::routing::node_facts::Facts;
use crate::serve::http::{self, Pages};
use crate::serve::page::StatusPage;
use crate::serve::socket::{self, AgentSocket};
use load::Loader;
use lookups::Lookups;
use pass::LastPass;
use repair_limit::RepairLimit;
use rollout::{Effect, Event, QUESTION, Rollout};
use transitions::Report;
use triggers::{Causes, Triggers};

/// How long the first pass waits for the API's facts about this node: with them it protects more.
const FIRST_FACTS: Duration = Duration::from_secs(3);
/// How long the annotations may take to be removed at an uninstall: what is left of a pod's 30 s, with the verdict before it.
const LAST_PATCH: Duration = Duration::from_secs(8);
/// The pause between two tries of a question that was refused at once.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// The loop beats at least this often when it is well, and counts as stuck after [`STUCK`].
const BEAT: Duration = Duration::from_secs(5);
const STUCK: Duration = Duration::from_mins(2);

struct Agent {
    args: RunArgs,
    node: String,
    started: Instant,
    applier: Applier<Ip>,
    metrics: Metrics,
    cluster: Option<Cluster>,
    facts: watch::Receiver<Facts>,
    probes: Probes,
    health: watch::Receiver<HealthView>,
    status: watch::Sender<Option<Status>>,
    events: broadcast::Sender<events::Dated>,
    loader: Loader,
    /// The links of gateways, for the monitor.
    links: Arc<GatewayLinks>,
    rollout: Rollout,
    repair_limit: RepairLimit,
    causes: Causes,
    last: LastPass,
    lookups: Lookups,
    /// What was reported last.
    report: Report,
    taint_removed: bool,
}

/// What there is only with a Kubernetes API.
struct Cluster {
    api: Api,
    installation: Installation,
    watching: Watching,
    /// The task that keeps the annotations.
    annotating: AbortHandle,
    /// The question that is being asked, and its answers.
    asking: Option<AbortHandle>,
    answers: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
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
        let rollout = Rollout::new(args.confirm, facts.borrow().clone());
        Self {
            node: socket::node_name(args.node.node_name.as_deref()),
            started: Instant::now(),
            applier: Applier {
                table: Ip::new(ownership),
                ownership,
                resilient: true,
            },
            links: Arc::default(),
            loader: Loader::new(args.node.config.clone()),
            args,
            metrics,
            cluster,
            facts,
            probes,
            health,
            status,
            events,
            rollout,
            repair_limit: RepairLimit::default(),
            causes: Causes::default(),
            last: LastPass::default(),
            lookups: Lookups::default(),
            report: Report::default(),
            taint_removed: false,
        }
    }

    async fn live(mut self, socket: AgentSocket, mut end: impl Future<Output = ()> + Unpin) {
        let beat = Arc::new(AtomicU64::new(0));
        self.serve(socket, beat.clone());
        if let Err(error) = self.applier.table.check_version().await {
            tracing::error!("{error:#}");
        }
        let mut triggers = Triggers::start(&self.args, self.links.clone());
        tokio::select! {
            () = self.first_facts() => {}
            () = &mut end => return self.end().await,
        }
        self.load().await;
        self.causes.again(Instant::now());
        let mut beating = tokio::time::interval(BEAT);
        loop {
            beat.store(self.started.elapsed().as_secs(), Ordering::Relaxed);
            let due = self.causes.due();
            let deadline = self.rollout.deadline().map(|at| self.started + at);
            // Only waiting is given up at the end: what runs in a branch runs to its own time limit, so that no batch is cut midway.
            tokio::select! {
                () = &mut end => return self.end().await,
                Some(()) = triggers.directory.recv() => self.load().await,
                Some(()) = triggers.link.recv() => self.notice(Notice::Link),
                Some(()) = triggers.rules.recv() => self.notice(Notice::Rule),
                Some(()) = triggers.ours.recv() => self.notice(Notice::Ours),
                Some(()) = triggers.foreign.recv() => self.notice(Notice::Foreign),
                Ok(()) = self.health.changed() => self.health_changed().await,
                Ok(()) = self.facts.changed() => self.learn(),
                _ = triggers.resync.tick() => self.causes.resync_is_due(),
                _ = beating.tick() => self.refresh(),
                Some(()) = answer(&mut self.cluster) => self.answered(),
                () = until(deadline) => self.step(Event::Tick),
                () = until(due) => self.pass().await,
            }
        }
    }

    /// Known facts protect more; but routes do not depend on the API.
    async fn first_facts(&mut self) {
        if self.cluster.is_some() {
            let known = self
                .facts
                .wait_for(|facts| matches!(facts, Facts::Known(_)));
            drop(timeout(FIRST_FACTS, known).await);
        }
        self.learn();
        if let Some(cluster) = &self.cluster
            && let Some(seen) = cluster.watching.seen.borrow().clone()
        {
            self.report = Report::of_annotations(Reported::by(&seen.annotations));
        }
    }

    /// The API reports something else about this node: labels, pod CIDRs, API servers.
    fn learn(&mut self) {
        let facts = self.facts.borrow_and_update().clone();
        self.step(Event::Facts(facts));
    }

    /// The labels that were read with the answer count for what follows from it.
    fn answered(&mut self) {
        self.learn();
        self.step(Event::Answered);
    }

    async fn load(&mut self) {
        let Some(newest) = self.loader.load().await else {
            return;
        };
        if let Some(cluster) = &self.cluster {
            // Where the API servers were half an hour ago is not enough to protect them from an edit.
            cluster.watching.refresh();
        }
        self.step(Event::Read(newest));
    }

    /// Feeds the rollout, does what it answers, and reports.
    fn step(&mut self, event: Event) {
        let effects = self.rollout.step(event, self.started.elapsed());
        self.perform(effects);
        self.publish();
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match (effect, &mut self.cluster) {
                (Effect::Pass, _) => self.causes.target_changed(),
                (Effect::AskForNode, Some(cluster)) => cluster.ask_for_node(),
                (Effect::Ask, Some(cluster)) => cluster.ask(),
                (Effect::StopAsking, Some(cluster)) => cluster.stop_asking(),
                (_, None) => {}
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.causes
            .notice(notice, self.last.reading, self.last.ended);
    }

    fn serve(&self, socket: AgentSocket, beat: Arc<AtomicU64>) {
        let started = self.started;
        let alive =
            move || started.elapsed() < Duration::from_secs(beat.load(Ordering::Relaxed)) + STUCK;
        let pages = Pages {
            metrics: self.metrics.clone(),
            status: StatusPage::new(self.status.subscribe()),
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
        if let Some(cluster) = &mut self.cluster {
            cluster.stop_asking();
        }
        let why = match self.leave().await {
            uninstall::Verdict::Keep(why) => {
                return tracing::info!(why, "Ending; the routes stay");
            }
            uninstall::Verdict::Cleanup(why) => why,
        };
        match self.applier.remove_all().await {
            Ok(outcome) if outcome.left.is_empty() => {
                let routes = outcome.changed.deleted;
                tracing::info!(why, routes, "Ending; routes and nexthops removed");
            }
            Ok(outcome) => {
                let left = outcome.left.delete.len();
                tracing::error!(left, "Ending; not everything could be removed");
            }
            Err(error) => tracing::error!("Ending; removing the routes failed: {error:#}"),
        }
        if let Some(cluster) = &self.cluster {
            cluster.annotating.abort();
            if let Err(error) = annotations::clear_annotations(&cluster.api, LAST_PATCH).await {
                tracing::warn!("The annotations of this node stay: {error:#}");
            }
        }
    }

    async fn leave(&self) -> uninstall::Verdict {
        match (self.args.on_exit, &self.cluster) {
            (OnExit::Keep, _) => uninstall::Verdict::Keep("--on-exit keep"),
            (OnExit::Cleanup, _) => uninstall::Verdict::Cleanup("--on-exit cleanup"),
            (OnExit::Auto, None) => uninstall::Verdict::Keep(
                "without a cluster nobody reports that the agent is uninstalled",
            ),
            (OnExit::Auto, Some(cluster)) => {
                cluster.installation.verdict(socket::successor_waits).await
            }
        }
    }

    fn ownership(&self) -> Ownership {
        self.applier.ownership
    }

    /// Once, after the first verified apply of a configuration that is confirmed and that is known to be all that applies here.
    fn remove_startup_taint(&mut self) {
        let done = self.last.complete && self.rollout.is_at_newest();
        if let (Some(key), Some(cluster), true, false) = (
            &self.args.startup_taint,
            &self.cluster,
            done,
            self.taint_removed,
        ) {
            self.taint_removed = true;
            let (api, key) = (cluster.api.clone(), key.clone());
            tokio::spawn(async move { taint::remove(&api, &key).await });
        }
    }
}

impl Cluster {
    fn connect(
        args: &RunArgs,
        metrics: &Metrics,
        status: &watch::Sender<Option<Status>>,
        events: &broadcast::Sender<events::Dated>,
    ) -> Option<Self> {
        let api = Api::in_cluster(args.node.node_name.as_deref(), metrics)
            .inspect_err(|why| {
                tracing::info!(%why, "No cluster: no annotations, Events, nodeSelector or guarded apply");
            })
            .ok()?;
        let watching = client::watch(api.clone());
        tokio::spawn(events::publish_events(api.clone(), events.subscribe()));
        let annotating = tokio::spawn(annotations::keep_annotations(
            api.clone(),
            status.subscribe(),
            watching.seen.clone(),
        ));
        let installation = Installation::new(api.clone(), &args.namespace, args.daemonset());
        let recognising = installation.clone();
        tokio::spawn(async move { recognising.recognise().await });
        Some(Self {
            api,
            installation,
            watching,
            annotating: annotating.abort_handle(),
            asking: None,
            answers: mpsc::channel(1),
        })
    }

    /// Reads the node until there is an answer: what precedes a change, so that its labels are fresh.
    fn ask_for_node(&mut self) {
        let watching = self.watching.clone();
        self.ask_with(async move {
            while !watching.read_node(QUESTION).await.answered() {
                sleep(ASK_AGAIN).await;
            }
        });
    }

    /// Asks over new connections until there is an answer: an old one may outlive the route that it took.
    fn ask(&mut self) {
        let api = self.api.clone();
        self.ask_with(async move { api.until_it_answers(QUESTION).await });
    }

    fn ask_with(&mut self, question: impl Future<Output = ()> + Send + 'static) {
        self.stop_asking();
        let answers = self.answers.0.clone();
        let asking = tokio::spawn(async move {
            question.await;
            let _ = answers.send(()).await;
        });
        self.asking = Some(asking.abort_handle());
    }

    fn stop_asking(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        // An answer to an older question is no answer to a newer one.
        while self.answers.1.try_recv().is_ok() {}
    }
}

async fn answer(cluster: &mut Option<Cluster>) -> Option<()> {
    match cluster {
        Some(cluster) => cluster.answers.1.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The facts of a node without a cluster. The sender lives on, so that nobody waits on a closed channel.
fn no_facts() -> watch::Receiver<Facts> {
    let (sender, facts) = watch::channel(Facts::NoCluster);
    tokio::spawn(async move { sender.closed().await });
    facts
}
