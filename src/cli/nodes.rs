//! `nodes`: the cluster from a kubeconfig, a line per node.
//!
//! Reads what the agents' annotations say, and compares it with the ConfigMap. Needs get and list on nodes, list on the
//! DaemonSet's pods and get on the ConfigMap; without the pods every node is taken to run the agent.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::time::{Instant, sleep};

use crate::cli::args::{NodesArgs as Args, Output};
use crate::cluster::client::{Api, code, explain};
use crate::config::{self, Files};
use crate::report::metrics::Metrics;

mod table;

pub use table::{Cluster, Desired, Row};

/// From one look at the cluster to the next, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Objects a page.
const PAGE: u32 = 500;

/// What a `ConfigMap` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// By the rule of contract section 2.
    pub revision: String,
    /// Why agents will refuse it, if they will.
    pub refused: Option<String>,
}

/// `nodes`: 0 all Ready, 1 not, also when the time is over.
pub async fn command(args: &Args) -> anyhow::Result<u8> {
    let cluster = look_and_wait(args).await?;
    print(&cluster, args.output, &mut std::io::stdout().lock())
        .map(|all_ready| u8::from(!all_ready))
}

/// What agents will make of a `ConfigMap`'s keys.
fn newest(keys: &BTreeMap<String, Vec<u8>>) -> Newest {
    let Some(files) = Files::from_keys(keys) else {
        return Newest {
            revision: String::new(),
            refused: Some("it has no key `routes.yaml`".into()),
        };
    };
    let refused = config::parse(&files)
        .err()
        .map(|problems| problems.summary());
    Newest {
        revision: files.revision().to_string(),
        refused,
    }
}

fn print(cluster: &Cluster, output: Output, out: &mut impl Write) -> anyhow::Result<bool> {
    match output {
        Output::Table => write!(
            out,
            "{}",
            cluster.table(crate::cluster::annotations::wall_clock())
        ),
        Output::Json => writeln!(out, "{:#}", cluster.json()),
    }
    .context("writing the output")?;
    for hint in &cluster.hints {
        tell(hint);
    }
    Ok(cluster.all_ready())
}

/// To stderr; a closed one is no reason to fail.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

async fn look_and_wait(args: &Args) -> anyhow::Result<Cluster> {
    let observer = Observer {
        api: connect(args).await?,
        args,
    };
    let started = Instant::now();
    let deadline = started + args.timeout;
    let mut progress = Progress {
        started,
        terminal: std::io::stderr().is_terminal(),
    };
    let mut answered = false;
    loop {
        let asked = Instant::now();
        let looked = match observer.look().await {
            // Once it has answered, a short absence of the API is a reason to wait on.
            Err(error) if answered && args.wait && Instant::now() < deadline => {
                progress.show(&format!("{error:#}"));
                None
            }
            other => Some(other?),
        };
        if let Some(mut cluster) = looked {
            answered = true;
            let over = Instant::now() >= deadline;
            if !args.wait || cluster.applied_everywhere() || cluster.refused.is_some() || over {
                progress.clear();
                if args.wait && over && !cluster.applied_everywhere() {
                    cluster.hints.push(format!(
                        "timed out after {:?}: {}",
                        args.timeout,
                        cluster.progress()
                    ));
                }
                return Ok(cluster);
            }
            progress.show(&cluster.progress());
        }
        // In a large cluster a look is some MB: it is not to be the API server's main occupation.
        let pause = (asked.elapsed() * 5).max(LOOK_EVERY);
        sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
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

async fn connect(args: &Args) -> anyhow::Result<Api> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("reading the kubeconfig `{}`", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &options).await
        }
        None => kube::Config::from_kubeconfig(&options).await,
    };
    Api::new(
        config.context("reading the kubeconfig")?,
        "",
        &Metrics::new(),
    )
}

/// One look at a time.
struct Observer<'a> {
    api: Api,
    args: &'a Args,
}

impl Observer<'_> {
    async fn look(&self) -> anyhow::Result<Cluster> {
        let newest = self.newest().await?;
        let Args {
            namespace,
            daemonset,
            ..
        } = self.args;
        let mut hints = Vec::new();
        let desired = self.desired().await;
        let pods = match self.pods().await {
            // A DaemonSet that nobody has looked at yet, or that may not be read: what nodes report is all there is.
            Ok(pods)
                if pods.is_empty() && matches!(desired, Desired::Pods(0) | Desired::Unknown) =>
            {
                hints.push(format!("hint: there are no pods of the agent in `{namespace}`; every node is taken to run it"));
                None
            }
            Ok(pods) => Some(pods),
            Err(error) if code(&error) == Some(403) => {
                hints.push(format!("hint: pods in `{namespace}` may not be listed; every node is taken to run the agent"));
                None
            }
            Err(error) => return Err(anyhow!(explain(&error)).context("listing the agents' pods")),
        };
        if pods.is_some() && desired == Desired::Unknown {
            hints.push(format!(
                "hint: the DaemonSet `{namespace}/{daemonset}` may not be read; a node without a pod that never reported is taken to need none"
            ));
        }
        let nodes = self
            .nodes()
            .await
            .map_err(|error| anyhow!(explain(&error)).context("listing nodes"))?;
        if let Some(reason) = &newest.refused {
            hints.push(format!(
                "hint: agents refuse the ConfigMap as it is: {reason}"
            ));
        }
        Ok(Cluster::new(
            &newest,
            &nodes,
            pods.as_deref(),
            desired,
            hints,
        ))
    }

    async fn newest(&self) -> anyhow::Result<Newest> {
        let Args {
            namespace,
            configmap,
            ..
        } = self.args;
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(self.api.client(), namespace);
        let map = maps
            .get(configmap)
            .await
            .map_err(|error| anyhow!(explain(&error)));
        let map =
            map.with_context(|| format!("reading the ConfigMap `{namespace}/{configmap}`"))?;
        let text = map
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.into_bytes()));
        let binary = map
            .binary_data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.0));
        Ok(newest(&text.chain(binary).collect()))
    }

    async fn nodes(&self) -> Result<Vec<kube::core::PartialObjectMeta<Node>>, kube::Error> {
        let nodes: kube::Api<Node> = kube::Api::all(self.api.client());
        let mut found = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = nodes.list_metadata(&page).await?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = ListParams::default().limit(PAGE).continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    async fn pods(&self) -> Result<Vec<Pod>, kube::Error> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.api.client(), &self.args.namespace);
        let mut found = Vec::new();
        let first = ListParams::default()
            .labels(&self.args.selector)
            .limit(PAGE);
        let mut page = first.clone();
        loop {
            let list = pods.list(&page).await?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = first.clone().continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    async fn desired(&self) -> Desired {
        let sets: kube::Api<DaemonSet> =
            kube::Api::namespaced(self.api.client(), &self.args.namespace);
        match sets.get(&self.args.daemonset).await {
            Ok(set) => Desired::Pods(
                set.status
                    .and_then(|status| status.desired_number_scheduled.try_into().ok())
                    .unwrap_or(0),
            ),
            Err(error) if code(&error) == Some(404) => Desired::NotInstalled,
            Err(_) => Desired::Unknown,
        }
    }
}
