//! What the engine reaches of the world: the clock, the API server, the probes of gateways.
//!
//! I/O only; each is a call to the room that has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::engine::{Outside, ProbePaths, Question};
use super::rollout::{Clock, QUESTION};
use crate::cli::args::RunArgs;
use crate::cluster::annotations;
use crate::cluster::client::{self, Api, Watching};
use crate::cluster::events;
use crate::cluster::taint;
use crate::cluster::uninstall::Installation;
use crate::health::ProbeKey;
use crate::health::probe::Probes;
use crate::kernel::ip::Ip;
use crate::kernel::monitor::GatewayLinks;
use crate::report::metrics::Metrics;
use crate::report::status::Status;
use crate::routing::node_facts::Facts;
use crate::routing::state::Kernel;

/// The pause between two tries of a question that was refused at once.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The real world.
pub(super) struct Rim {
    pub(super) started: Instant,
    pub(super) cluster: Option<Cluster>,
    pub(super) probes: Probes,
    /// The links of gateways, for the monitor.
    pub(super) links: Arc<GatewayLinks>,
}

impl Outside for Rim {
    type Table = Ip;

    fn now(&self) -> Clock {
        self.started.elapsed()
    }

    fn ask(&mut self, question: Question) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        match question {
            Question::Node => cluster.ask_for_node(),
            Question::Alive => cluster.ask(),
            Question::None => cluster.stop_asking(),
        }
    }

    fn probe(&mut self, paths: &ProbePaths, adopted_down: &BTreeSet<ProbeKey>, kernel: &Kernel) {
        self.links
            .update(paths.keys().map(|key| key.gateway), kernel);
        self.probes.set(paths, adopted_down);
    }

    fn is_verified(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        if let Some(seen) = &*cluster.watching.seen.borrow() {
            cluster.verified.send_if_modified(|version| {
                let is_another = *version != seen.version;
                version.clone_from(&seen.version);
                is_another
            });
        }
    }
}

/// What there is only with a Kubernetes API.
pub(super) struct Cluster {
    pub(super) api: Api,
    pub(super) installation: Installation,
    pub(super) watching: Watching,
    /// The task that keeps the annotations.
    pub(super) annotating: AbortHandle,
    /// The version of the node at which all that applies to it was last found in the kernel; for the startup taint.
    verified: watch::Sender<String>,
    /// The question that is being asked, and its answers.
    asking: Option<AbortHandle>,
    answers: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

impl Cluster {
    pub(super) fn connect(
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
        let (verified, versions) = watch::channel(String::new());
        if let Some(key) = args.startup_taint.clone() {
            tokio::spawn(taint::keep_away(api.clone(), key, versions));
        }
        let installation = Installation::new(api.clone(), &args.namespace, args.daemonset());
        let recognising = installation.clone();
        tokio::spawn(async move { recognising.recognise().await });
        Some(Self {
            api,
            installation,
            watching,
            annotating: annotating.abort_handle(),
            verified,
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

    pub(super) fn stop_asking(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        // An answer to an older question is no answer to a newer one.
        while self.answers.1.try_recv().is_ok() {}
    }
}

/// An answer to the question that is being asked.
pub(super) async fn answer(cluster: &mut Option<Cluster>) -> Option<()> {
    match cluster {
        Some(cluster) => cluster.answers.1.recv().await,
        None => std::future::pending().await,
    }
}

/// The facts of a node without a cluster. The sender stays alive, so no receiver waits on a closed channel.
pub(super) fn no_facts() -> watch::Receiver<Facts> {
    let (sender, facts) = watch::channel(Facts::NoCluster);
    tokio::spawn(async move { sender.closed().await });
    facts
}
