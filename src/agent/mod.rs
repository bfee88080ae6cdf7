//! The agent: the one loop in which everything meets. Triggers say that something may have changed; each
//! pass starts again from the whole state: configuration, kernel, API facts and health.
//!
//! The rim. What is decided in a pass is decided by `resolve`, `plan`, `course`, `guard`, `fight` and
//! `report_of`; what is said of it leaves through channels, so that nobody who is slow to listen delays a route.

pub mod course;
pub mod guard;
mod pass;
pub mod repair_limit;
mod reporting;
mod triggers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout};

use crate::agent::course::{Course, Loaded, Newest};
use crate::agent::guard::{Guard, Verdict};
use crate::agent::repair_limit::RepairLimit;
use crate::cli::args::RunArgs;
use crate::cluster::annotations::{self, Reported};
use crate::cluster::client::{self, Api};
use crate::cluster::events;
use crate::cluster::taint;
use crate::cluster::uninstall::{self, Installation, OnExit};
use crate::config::{self, Warning};
use crate::health::HealthView;
use crate::health::probe::Probes;
use crate::kernel::apply::Applier;
use crate::kernel::ip::Ip;
use crate::kernel::monitor::{GatewayLinks, Notice};
use crate::net::prefix::Family;
use crate::report::metrics::Metrics;
use crate::report::status::{NodeEvent, Reason, Status};
use crate::routing::batch::Ownership;
use crate::routing::lookup::{Findings, Rotation};
use crate::routing::node_facts::Facts;
use crate::routing::resolve::SetView;
use crate::routing::state::Kernel;
use crate::serve::http::{self, Pages};
use crate::serve::socket::{self, AgentSocket};
use crate::source::{self, Kind};
use triggers::{Causes, Triggers};

/// How long the first pass waits for the API's facts about this node: with them it protects more.
const FIRST_FACTS: Duration = Duration::from_secs(3);
/// How long reading and checking the configuration may take; a file system that hangs must not stop the agent.
const READING: Duration = Duration::from_secs(10);
/// How long the annotations may take to be removed at an uninstall: what is left of a pod's 30 s, with the verdict before it.
const LAST_WORDS: Duration = Duration::from_secs(8);
/// The first question to the API server while a change waits for its confirmation.
const QUESTION: Duration = Duration::from_secs(2);
/// The loop beats at least this often when it is well, and counts as stuck after [`STUCK`].
const BEAT: Duration = Duration::from_secs(5);
const STUCK: Duration = Duration::from_mins(2);

struct Agent {
    args: RunArgs,
    node: String,
    started: Instant,
    applier: Applier<Ip>,
    metrics: Metrics,
    api: Option<Api>,
    installation: Option<Installation>,
    facts: watch::Receiver<Facts>,
    watching: Option<client::Watching>,
    probes: Probes,
    health: watch::Receiver<HealthView>,
    status: watch::Sender<Option<Status>>,
    /// The task that keeps the annotations.
    annotating: Option<AbortHandle>,
    events: broadcast::Sender<events::Dated>,
    answers: (mpsc::Sender<()>, mpsc::Receiver<()>),
    asking: Option<AbortHandle>,
    /// A look at the directory that did not end in time.
    reading: Option<JoinHandle<Found>>,
    course: Course,
    guard: Guard,
    fight: RepairLimit,
    causes: Causes,
    /// The links of gateways, for the monitor.
    links: Arc<GatewayLinks>,
    memory: Memory,
}

/// What the API tells of this node, and what it told before that: the change cut the API server off, or may have.
#[derive(Clone, Debug)]
struct Held {
    /// What is decided with instead.
    with: Facts,
    /// What is not.
    instead_of: Facts,
    /// A fingerprint of the routes that it would make.
    routes: u64,
}

/// What one pass leaves for the next.
#[derive(Default)]
struct Memory {
    /// The kernel as read last, without our routes.
    kernel: Kernel,
    /// Health as acted upon last.
    health: HealthView,
    /// The revision that is verified in the kernel.
    applied: Option<String>,
    /// What the routes in the kernel were decided with, and a fingerprint of them.
    decided: Option<(Facts, u64)>,
    /// The change that waits for its verdict is one of what the API tells, not of the configuration.
    relabelled: Option<Held>,
    /// Such a change was taken back.
    held: Option<Held>,
    /// The same before an edit that waits for its verdict.
    held_before: Option<Held>,
    /// A fingerprint of the wanted state; while it stays the same, what is written is a repair.
    wanted: Option<u64>,
    /// Whether the verdicts of an earlier agent, as the kernel shows them, have been taken over.
    adopted: bool,
    /// What the node's annotations said at the start, until every gateway has a verdict.
    reported: Reported,
    /// Sets and families without a healthy gateway.
    down: BTreeSet<(String, Family)>,
    /// All that is wanted is in the kernel, and all that applies is known.
    complete: bool,
    /// For status reports between passes.
    sets: Vec<SetView>,
    installed: BTreeMap<u32, usize>,
    problems: Vec<crate::report::status::Problem>,
    last_applied: Option<k8s_openapi::jiff::Timestamp>,
    /// Objects of ours that the last verified read showed to be unused.
    unused: Vec<u32>,
    /// Passes in a row that left something undone.
    failures: u32,
    /// What lookups found, and where the sample goes on.
    findings: Findings,
    rotation: Rotation,
    looked_up: bool,
    /// How long the last read took: what decides how often a busy table is read.
    reading: Duration,
    /// When the last pass ended.
    ended: Option<Instant>,
    /// What was said last, so that it is said once.
    said: BTreeMap<&'static str, String>,
    taint_removed: bool,
    /// The kernel had nothing of ours when the agent started.
    bare: bool,
    /// A configuration is new and has not been called in force yet.
    announce: bool,
    written_since_announced: bool,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut end = std::pin::pin!(async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    });
    let presence = tokio::select! {
        presence = AgentSocket::take() => presence?,
        () = &mut end => return Ok(()),
    };
    let agent = Agent::start(args, presence);
    Box::pin(agent.live(end)).await;
    Ok(())
}

impl Agent {
    fn start(args: RunArgs, presence: AgentSocket) -> Self {
        let ownership = args.node.kernel.ownership();
        let metrics = Metrics::new();
        let api = connect(&args, &metrics);
        let (status, _) = watch::channel(None);
        let (events, _) = broadcast::channel(events::EVENTS_KEPT);
        let watching = api.clone().map(client::watch);
        let (facts_here, no_cluster) = watch::channel(Facts::NoCluster);
        let facts = watching.as_ref().map_or(no_cluster, |w| w.facts.clone());
        tokio::spawn(presence.answer(status.subscribe()));
        let annotating = if let (Some(api), Some(watching)) = (api.clone(), &watching) {
            tokio::spawn(events::publish_events(api.clone(), events.subscribe()));
            Some(
                tokio::spawn(annotations::keep_annotations(
                    api,
                    status.subscribe(),
                    watching.seen.clone(),
                ))
                .abort_handle(),
            )
        } else {
            // Kept alive so that nobody waits on a closed channel.
            tokio::spawn(async move { facts_here.closed().await });
            None
        };
        let installation = api
            .clone()
            .map(|api| Installation::new(api, &args.namespace, &args.daemonset));
        if let Some(installation) = installation.clone() {
            tokio::spawn(async move { installation.recognise().await });
        }
        let probes = Probes::new(Arc::new(Ip { ownership }));
        let health = probes.subscribe();
        Self {
            node: socket::node_name(args.node.node_name.as_deref()),
            started: Instant::now(),
            applier: Applier {
                table: Ip { ownership },
                ownership,
                resilient: true,
            },
            guard: Guard::new(if api.is_some() {
                args.confirm
            } else {
                Duration::ZERO
            }),
            args,
            metrics,
            api,
            installation,
            facts,
            watching,
            probes,
            health,
            status,
            annotating,
            events,
            answers: mpsc::channel(1),
            asking: None,
            reading: None,
            course: Course::default(),
            fight: RepairLimit::default(),
            causes: Causes::default(),
            links: Arc::default(),
            memory: Memory::default(),
        }
    }

    async fn live(mut self, mut end: impl Future<Output = ()> + Unpin) {
        let beat = Arc::new(AtomicU64::new(0));
        self.serve_http(beat.clone());
        if let Err(error) = self.applier.table.check_version().await {
            tracing::error!("{error:#}");
        }
        let mut triggers = Triggers::start(&self.args, self.links.clone());
        tokio::select! {
            () = self.begin() => {}
            () = &mut end => return self.end().await,
        }
        let mut beating = tokio::time::interval(BEAT);
        loop {
            beat.store(self.started.elapsed().as_secs(), Ordering::Relaxed);
            let due = self.causes.due();
            let guarded = self.guard.deadline().map(|at| self.started + at);
            tokio::select! {
                () = &mut end => return self.end().await,
                Some(()) = triggers.directory.recv() => self.load().await,
                Some(()) = triggers.link.recv() => self.notice(Notice::Link),
                Some(()) = triggers.ours.recv() => self.notice(Notice::Ours),
                Some(()) = triggers.rules.recv() => self.notice(Notice::Rule),
                Some(()) = triggers.foreign.recv() => self.notice(Notice::Foreign),
                Ok(()) = self.health.changed() => self.health_changed().await,
                Ok(()) = self.facts.changed() => self.facts_changed(),
                _ = triggers.resync.tick() => self.causes.resync_is_due(),
                _ = beating.tick() => self.refresh(),
                Some(()) = self.answers.1.recv() => { let verdict = self.guard.heard(); self.judge(verdict).await; }
                () = until(guarded) => { let verdict = self.guard.tick(self.started.elapsed()); self.judge(verdict).await; }
                () = until(due) => self.pass().await,
            }
        }
    }

    /// The API tells something else about this node: labels, pod CIDRs, API servers.
    fn facts_changed(&mut self) {
        if self.course.reconsider() {
            self.memory.announce = true;
            self.causes.configuration_changed();
        }
        self.causes.facts_changed();
    }

    fn notice(&mut self, notice: Notice) {
        self.causes
            .notice(notice, self.memory.reading, self.memory.ended);
    }

    fn serve_http(&self, beat: Arc<AtomicU64>) {
        let started = self.started;
        let alive =
            move || started.elapsed() < Duration::from_secs(beat.load(Ordering::Relaxed)) + STUCK;
        let pages = Pages {
            metrics: self.metrics.clone(),
            status: self.status.subscribe(),
            alive: Arc::new(alive),
        };
        tokio::spawn(http::serve(self.args.listen, pages));
    }

    /// The first look at everything.
    async fn begin(&mut self) {
        if self.api.is_some() {
            // Known facts protect more; but routes do not depend on the API.
            let known = self
                .facts
                .wait_for(|facts| matches!(facts, Facts::Known(_)));
            drop(timeout(FIRST_FACTS, known).await);
        }
        self.facts.mark_unchanged();
        if let Some(seen) = self
            .watching
            .as_ref()
            .and_then(|watching| watching.seen.borrow().clone())
        {
            self.memory.reported = Reported::by(&seen.annotations);
        }
        self.load().await;
        self.resume().await;
        self.pass().await;
    }

    /// Reads and checks the directory; a new answer is followed in the next pass.
    async fn load(&mut self) {
        let directory = self.args.node.config.clone();
        let known = match self.course.newest() {
            Newest::Good(loaded) => Some(loaded.revision.clone()),
            Newest::Refused { revision, .. } => revision.clone(),
            Newest::Unknown => None,
        };
        // One that hangs is not joined by more, and not waited for again: each would hold a thread.
        let (mut reading, limit) = match self.reading.take() {
            Some(hanging) => (hanging, Duration::ZERO),
            None => (
                tokio::task::spawn_blocking(move || read(&directory, known.as_deref())),
                READING,
            ),
        };
        let found = match timeout(limit, &mut reading).await {
            Ok(Ok(found)) => found,
            Ok(Err(panic)) => {
                Found::refused(format!("reading the configuration failed: {panic}"), false)
            }
            Err(_) => {
                self.reading = Some(reading);
                Found::refused(
                    format!(
                        "{} could not be read within {} s",
                        self.args.node.config.display(),
                        READING.as_secs()
                    ),
                    false,
                )
            }
        };
        let Found::New {
            newest,
            kind,
            warnings,
        } = found
        else {
            return;
        };
        if !self.course.found(newest) {
            return;
        }
        self.say_kind(kind.as_ref());
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        match self.course.newest() {
            // Which of the two is for `resume` to find out, where the agent has just started.
            Newest::Refused {
                absent: true, why, ..
            } if self.course.in_force().is_none() => {
                tracing::warn!("No configuration; what is in the kernel stays: {why}");
                self.publish();
            }
            Newest::Refused { revision, why, .. } => {
                let revision = revision.as_deref().unwrap_or("unknown");
                let note = format!("Configuration refused (revision {revision}): {why}");
                tracing::error!(
                    revision,
                    in_force = self.course.revision(),
                    "Configuration refused, the last good one stays: {why}"
                );
                if !self.memory.reported.is_refused(why) {
                    self.emit(Reason::ConfigRejected, note);
                }
                self.publish();
            }
            // It was gone for a while; what is known of it still holds.
            Newest::Good(newest) if self.guard.accused() == Some(newest.revision.as_str()) => {
                self.publish();
            }
            _ => {
                // What was said of an older revision says nothing of this one. A refused one leaves the guard at its post.
                self.guard.superseded();
                self.stop_asking();
                self.memory.relabelled = None;
                self.memory.held_before =
                    self.memory.held.take().or(self.memory.held_before.take());
                if let Some(watching) = &self.watching {
                    // Where the API servers were half an hour ago is not enough to protect them from this.
                    watching.refresh();
                }
                self.course.follow();
                self.memory.announce = true;
                self.causes.configuration_changed();
            }
        }
    }

    fn say_kind(&mut self, kind: Option<&Kind>) {
        let words = match kind {
            Some(Kind::Plain) => {
                "The configuration is a directory of plain files, no ConfigMap volume: files that are written one after the other may be read in between"
            }
            Some(Kind::Single) => {
                "routes.yaml is a mount of its own (subPath?): the kubelet never updates it, so edits arrive only with a new pod; mount the whole ConfigMap"
            }
            Some(Kind::Volume(_)) | None => return,
        };
        if self.once("kind", words) {
            tracing::warn!("{words}");
        }
    }

    /// Acts on what the guard found.
    async fn judge(&mut self, verdict: Option<Verdict>) {
        match verdict {
            None => return,
            Some(Verdict::Confirmed) => {
                self.stop_asking();
                if self.course.in_force().is_none() {
                    // Marked by an agent that was killed: look again, guarded anew if there is something to write.
                    self.course.follow();
                    self.causes.configuration_changed();
                } else {
                    tracing::info!(
                        revision = self.course.revision(),
                        "Change confirmed: the API server answers"
                    );
                    self.course.confirm();
                    (self.memory.relabelled, self.memory.held_before) = (None, None);
                    self.settle_marks().await;
                    self.remove_startup_taint();
                }
            }
            Some(Verdict::TakeBack) => self.take_back(),
            Some(Verdict::Rejected) => {
                self.stop_asking();
                self.settle_marks().await;
            }
            Some(Verdict::ApplyAfterAll) => {
                self.stop_asking();
                tracing::warn!(
                    "The API server stays away without the change too, so the change was not the cause: applying it after all"
                );
                (
                    self.memory.relabelled,
                    self.memory.held,
                    self.memory.held_before,
                ) = (None, None, None);
                self.course.follow();
                self.course.confirm();
                self.write_mark(None).await;
                self.causes.configuration_changed();
            }
        }
        self.publish();
    }

    fn take_back(&mut self) {
        let revision = self.guard.rejected().unwrap_or_default().to_owned();
        self.metrics.rolled_back();
        let silent = format!(
            "the API server did not answer for {:?} after it was applied",
            self.args.confirm
        );
        self.memory.held = self.memory.relabelled.take();
        let note = if self.memory.held.is_some() {
            format!(
                "What changed with the node's labels taken back: {silent}; the earlier labels are in force until labels or configuration change"
            )
        } else {
            self.memory.held = self.memory.held_before.take();
            self.course.take_back();
            let back = match self.course.revision() {
                "" => "what was there before".to_owned(),
                before => format!("revision {before}"),
            };
            format!(
                "Revision {revision} taken back: {silent}; {back} is in force until the configuration changes"
            )
        };
        tracing::error!(revision, "{note}");
        self.emit(Reason::RolledBack, note);
        self.causes.configuration_changed();
    }

    /// Asks the API server until it answers or the asking is stopped.
    fn ask(&mut self) {
        self.stop_asking();
        let Some(api) = self.api.clone() else { return };
        let answers = self.answers.0.clone();
        let asking = tokio::spawn(async move {
            api.until_it_answers(QUESTION).await;
            let _ = answers.send(()).await;
        });
        self.asking = Some(asking.abort_handle());
    }

    fn stop_asking(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        // An answer to an older question says nothing about a newer change.
        while self.answers.1.try_recv().is_ok() {}
    }

    async fn end(mut self) {
        self.stop_asking();
        let why = match self.leave().await {
            uninstall::Verdict::Keep(why) => return tracing::info!(why, "Ending; the routes stay"),
            uninstall::Verdict::Cleanup(why) => why,
        };
        match self.applier.remove_all().await {
            Ok(outcome) if outcome.left.is_empty() => {
                tracing::info!(
                    why,
                    routes = outcome.changed.deleted,
                    "Ending; routes and nexthops removed"
                );
            }
            Ok(outcome) => tracing::error!(
                left = outcome.left.delete.len(),
                "Ending; not everything could be removed"
            ),
            Err(error) => tracing::error!("Ending; removing the routes failed: {error:#}"),
        }
        if let Some(annotating) = &self.annotating {
            annotating.abort();
        }
        if let Some(api) = &self.api
            && let Err(error) = annotations::clear_annotations(api, LAST_WORDS).await
        {
            tracing::warn!("The annotations of this node stay: {error:#}");
        }
    }

    async fn leave(&self) -> uninstall::Verdict {
        match (self.args.on_exit, &self.installation) {
            (OnExit::Keep, _) => uninstall::Verdict::Keep("--on-exit keep"),
            (OnExit::Cleanup, _) => uninstall::Verdict::Cleanup("--on-exit cleanup"),
            (OnExit::Auto, None) => uninstall::Verdict::Keep(
                "without a cluster nobody says that the agent is uninstalled",
            ),
            (OnExit::Auto, Some(installation)) => {
                installation.verdict(socket::successor_waits).await
            }
        }
    }

    fn ownership(&self) -> Ownership {
        self.applier.ownership
    }

    /// Sends a happening to whoever publishes; the log line is the caller's.
    fn emit(&self, reason: Reason, note: String) {
        // Without a cluster nobody listens.
        let _ = self
            .events
            .send(events::Dated::now(NodeEvent { reason, note }));
    }

    /// Whether these words are new about this topic.
    fn once(&mut self, topic: &'static str, words: &str) -> bool {
        self.memory.said.insert(topic, words.to_owned()).as_deref() != Some(words)
    }

    /// Once, after the first verified apply of a configuration that is confirmed and that is known to be all that applies here.
    fn remove_startup_taint(&mut self) {
        if !self.memory.complete
            || self.course.config().is_none()
            || self.guard.is_undecided()
            || self.guard.rejected().is_some()
        {
            return;
        }
        if let (Some(key), Some(api), false) = (
            &self.args.startup_taint,
            &self.api,
            self.memory.taint_removed,
        ) {
            self.memory.taint_removed = true;
            let (api, key) = (api.clone(), key.clone());
            tokio::spawn(async move { taint::remove(&api, &key).await });
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn connect(args: &RunArgs, metrics: &Metrics) -> Option<Api> {
    match Api::in_cluster(args.node.node_name.as_deref(), metrics) {
        Ok(api) => Some(api),
        Err(why) => {
            tracing::info!(%why, "No cluster: no annotations, Events, nodeSelector or guarded apply");
            None
        }
    }
}

/// What a look at the directory found.
enum Found {
    /// The revision that is known already.
    Same,
    /// Another.
    New {
        newest: Newest,
        kind: Option<Kind>,
        warnings: Vec<Warning>,
    },
}

impl Found {
    fn refused(why: String, absent: bool) -> Self {
        Self::New {
            newest: Newest::Refused {
                revision: None,
                why,
                absent,
            },
            kind: None,
            warnings: Vec::new(),
        }
    }
}

fn read(directory: &Path, known: Option<&str>) -> Found {
    let snapshot = match source::read(directory) {
        Ok(snapshot) => snapshot,
        Err(error) => return Found::refused(error.to_string(), error.is_not_configured()),
    };
    let revision = snapshot.files.revision().to_string();
    if known == Some(revision.as_str()) {
        return Found::Same;
    }
    let (newest, warnings) = match config::parse(&snapshot.files) {
        Ok(checked) => (
            Newest::Good(Arc::new(Loaded {
                revision,
                config: checked.config,
            })),
            checked.warnings,
        ),
        Err(problems) => (
            Newest::Refused {
                revision: Some(revision),
                why: problems.summary(),
                absent: false,
            },
            Vec::new(),
        ),
    };
    Found::New {
        newest,
        kind: Some(snapshot.kind),
        warnings,
    }
}
