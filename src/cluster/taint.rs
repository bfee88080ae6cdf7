//! Removes the startup taint from this node: after the first verified apply, and again if something adds it again.
//!
//! Clouds that keep the taints of a node pool put a removed one back. Without an end to that no pod would start on a node that has its
//! routes; without a pause two programs would write against each other.
//!
//! Taints are a list without keys: a merge patch would write all of them and undo what somebody else writes meanwhile. A
//! JSON patch removes by position, and tests first that the very taint is still there.

use std::time::Duration;

use hyper::{Request, header};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::cluster::client::{Api, Backoff, code, explain};

/// The longest pause after a failure: no pod starts before the taint is gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The first pause and the longest between two removals.
const FIRST_AGAIN: Duration = Duration::from_secs(30);
const LONGEST_AGAIN: Duration = Duration::from_mins(10);
/// Without the taint for this long, the next removal is the first again.
const CALM: Duration = Duration::from_hours(1);

/// Looks for the taint each time `verified` names another version of the node, one whose routes are all in the kernel.
pub async fn keep_away(api: Api, key: String, mut verified: watch::Receiver<String>) {
    let mut pauses = Backoff::new(FIRST_AGAIN, LONGEST_AGAIN);
    let mut removed_at: Option<Instant> = None;
    while verified.changed().await.is_ok() {
        if remove(&api, &key).await == 0 {
            tracing::debug!(key, "The startup taint is not on this node");
            continue;
        }
        if removed_at.is_some_and(|at| at.elapsed() > CALM) {
            pauses.worked();
        }
        if removed_at.is_none() {
            tracing::info!(key, "Startup taint removed");
        } else {
            tracing::warn!(
                key,
                "Startup taint removed again: somebody puts it back; give it to the node pool's new nodes only, or choose a key that the cloud does not keep"
            );
        }
        removed_at = Some(Instant::now());
        sleep(pauses.failed()).await;
    }
}

/// Removes every taint with `key` from this node, and only these; returns how many. Tries until it worked: pods wait for it.
pub async fn remove(api: &Api, key: &str) -> usize {
    let mut backoff = Backoff::new(Duration::from_millis(200), LONGEST_PAUSE);
    loop {
        match try_remove(api, key).await {
            Ok(count) => return count,
            // The test failed (422), or the node changed while it was patched (409): somebody else was faster.
            Err(error) if matches!(code(&error), Some(409 | 422)) && backoff.failures() < 5 => {
                tracing::debug!(
                    error = explain(&error),
                    "The node changed while its startup taint was removed"
                );
            }
            Err(error) if backoff.failures() == 0 => {
                tracing::warn!(
                    key,
                    error = explain(&error),
                    "Removing the startup taint failed; retrying"
                );
            }
            Err(error) => tracing::debug!(
                key,
                error = explain(&error),
                "Removing the startup taint failed again"
            ),
        }
        sleep(backoff.failed().max(api.hold())).await;
    }
}

/// Returns how many taints were removed.
async fn try_remove(api: &Api, key: &str) -> Result<usize, kube::Error> {
    let path = format!("/api/v1/nodes/{}", api.node());
    let build = |builder: hyper::http::request::Builder, body| {
        builder.body(body).map_err(kube::Error::HttpError)
    };
    let node: Value = api
        .client()
        .request(build(Request::get(&path), Vec::new())?)
        .await?;
    let operations = operations(&node, key);
    if operations.is_empty() {
        return Ok(0);
    }
    let body = serde_json::to_vec(&operations).map_err(kube::Error::SerdeError)?;
    let request = Request::patch(&path)
        .header(header::CONTENT_TYPE, "application/json-patch+json")
        .header(
            header::ACCEPT,
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        );
    let _: Value = api.client().request(build(request, body)?).await?;
    Ok(operations.len() / 2)
}

/// From the last to the first, so that no removal moves what comes after it; each is tested to be what was read.
fn operations(node: &Value, key: &str) -> Vec<Value> {
    let taints = node
        .pointer("/spec/taints")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let ours = taints
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, taint)| taint["key"] == key);
    ours.flat_map(|(index, taint)| {
        let path = format!("/spec/taints/{index}");
        [
            json!({"op": "test", "path": path, "value": taint}),
            json!({"op": "remove", "path": path}),
        ]
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_taints_with_the_key_are_removed_the_last_one_first() {
        let node = json!({"spec": {"taints": [
            {"key": "egress", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2026-11-22T10:00:00Z"},
            {"key": "egress", "value": "x", "effect": "NoExecute"},
            {"key": "egress.example/other", "effect": "NoSchedule"}
        ]}});
        assert_eq!(
            operations(&node, "egress"),
            [
                json!({"op": "test", "path": "/spec/taints/2", "value": {"key": "egress", "value": "x", "effect": "NoExecute"}}),
                json!({"op": "remove", "path": "/spec/taints/2"}),
                json!({"op": "test", "path": "/spec/taints/0", "value": {"key": "egress", "effect": "NoSchedule"}}),
                json!({"op": "remove", "path": "/spec/taints/0"}),
            ]
        );
    }

    #[test]
    fn a_node_without_the_taint_is_left_alone() {
        for node in [
            json!({}),
            json!({"spec": {}}),
            json!({"spec": {"taints": null}}),
            json!({"spec": {"taints": [{"key": "a"}]}}),
        ] {
            assert!(operations(&node, "egress").is_empty());
        }
    }
}
