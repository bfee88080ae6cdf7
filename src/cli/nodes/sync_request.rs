//! Requests to the kubelets to sync: an annotation on an agent's pod makes its kubelet bring the `ConfigMap` at once.
//!
//! A kubelet follows an edit with its next periodic sync of a pod, up to 90 s later, and with any change of the pod itself. It may do so
//! before it has seen the new `ConfigMap`, so nodes that stay behind are asked again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::anyhow;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use tokio::time::Instant;

use super::{Fleet, Goal, Observer, say};
use crate::cluster::annotations::wall_clock;
use crate::cluster::client::{code, explain};

/// On the agents' pods; its value is the time of the request.
const ANNOTATION: &str = "egress-routes.dev/sync";
/// Requests at a time.
const AT_ONCE: usize = 16;
/// The first repetition, and the longest time from one to the next.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// When the next requests are due.
#[derive(Debug)]
pub struct SyncRequest {
    due: Instant,
    pause: Duration,
}

impl SyncRequest {
    /// The first, to every agent.
    pub async fn all(observer: &Observer) -> anyhow::Result<Self> {
        let namespace = &observer.args().namespace;
        let pods = observer
            .pods()
            .await
            .map_err(|error| anyhow!(explain(&error)).context("listing the agents' pods"))?;
        let names: Vec<String> = pods.into_iter().filter_map(running).collect();
        if names.is_empty() {
            say(&format!(
                "hint: there are no pods of the agent in `{namespace}`"
            ));
        }
        match annotate(observer, names).await {
            Some(error) if code(&error) == Some(403) => Err(anyhow!(explain(&error)).context(
                format!("annotating the agents' pods needs `patch` on pods in `{namespace}`"),
            )),
            error => {
                warn(error.as_ref());
                Ok(Self {
                    due: Instant::now() + FIRST,
                    pause: FIRST,
                })
            }
        }
    }

    /// Those that are behind, when it is time.
    pub async fn again(&mut self, observer: &Observer, fleet: &Fleet, now: Instant) {
        if now < self.due {
            return;
        }
        let behind: BTreeSet<String> = fleet
            .behind(Goal::Applied)
            .filter_map(|row| row.pod.clone())
            .collect();
        warn(annotate(observer, behind).await.as_ref());
        self.pause = (self.pause * 2).min(LONGEST);
        self.due = Instant::now() + self.pause;
    }
}

fn warn(error: Option<&kube::Error>) {
    if let Some(error) = error {
        say(&format!("annotating a pod: {}", explain(error)));
    }
}

/// A pod that a kubelet has.
fn running(pod: Pod) -> Option<String> {
    pod.spec?.node_name?;
    pod.metadata.name
}

/// One merge patch each; the first error, if there are any. A pod that is gone is none.
async fn annotate(
    observer: &Observer,
    pods: impl IntoIterator<Item = String>,
) -> Option<kube::Error> {
    let api: kube::Api<Pod> = kube::Api::namespaced(observer.client(), &observer.args().namespace);
    let now = wall_clock().to_string();
    let body = serde_json::json!({"metadata": {"annotations": {ANNOTATION: now}}});
    let patch = Patch::Merge(body);
    let patched = futures::stream::iter(pods)
        .map(|name| {
            let (api, patch) = (&api, &patch);
            async move {
                api.patch_metadata(&name, &PatchParams::default(), patch)
                    .await
                    .err()
            }
        })
        .buffer_unordered(AT_ONCE);
    let errors = patched.filter_map(async |error| error.filter(|error| code(error) != Some(404)));
    errors.collect::<Vec<_>>().await.into_iter().next()
}
