//! Events on the Node: a bounded number of them, spread over nodes, each with the time at which it happened.
//!
//! Written as the kubelet writes its own, `v1` Events in `default`: servers before 1.21 take Events about a Node in the newer
//! form (which kube's `Recorder` writes) only in `kube-system`, and then with nothing that `kubectl describe node` would find.
//! The same sentence again within an hour is the same Event with a higher count.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::annotations::{SPREAD, wall_clock};
use crate::cluster::client::{Api, Backoff, code, explain, may_get_better, phase};
use crate::report::status::NodeEvent;
use crate::report::token_bucket::TokenBucket;

/// The capacity of the channel that events come through; with more waiting, the oldest are lost.
pub const EVENTS_KEPT: usize = 64;
/// Where Events about objects without a namespace are kept.
const NAMESPACE: &str = "default";
/// The Event's source.
const COMPONENT: &str = "egress-routes";
/// Events that may be written in a row.
const BURST: u32 = 10;
/// One more for every such time that passes.
const REFILL: Duration = Duration::from_secs(10);
/// For how long an Event is tried: over a restart of the API server, and no longer than it is of interest.
const TRIED: Duration = Duration::from_mins(10);
/// The pauses between tries: a server that has too much to do gets no more of it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Bytes of a note, a limit of the API.
const NOTE_LENGTH: usize = 1024;
/// Bytes of the node's name in an Event's name, of which 253 are allowed.
const NODE_LENGTH: usize = 200;
/// Recents that are remembered, so that a repetition is a count.
const REMEMBERED: usize = 64;
/// For how long: API servers keep an Event for an hour.
const KEPT: Duration = Duration::from_hours(1);

/// An event and its moment: the Event may be written well after it.
#[derive(Clone, Debug)]
pub struct Dated {
    event: NodeEvent,
    at: Timestamp,
    since: Instant,
}

impl Dated {
    /// It happens now.
    pub fn now(event: NodeEvent) -> Self {
        Self {
            event,
            at: wall_clock(),
            since: Instant::now(),
        }
    }
}

/// Publishes events as Events on this node until their sender is gone.
pub async fn publish_events(api: Api, mut events: broadcast::Receiver<Dated>) {
    let spread = phase(api.node(), SPREAD);
    let mut written = Written::default();
    let start = Instant::now();
    let mut bucket = TokenBucket::new(BURST, REFILL);
    let mut complained = false;
    loop {
        let quiet = events.is_empty();
        let dated = match events.recv().await {
            Ok(dated) => dated,
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                tracing::debug!(lost, "Too many Events; some were dropped");
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if quiet {
            sleep(spread).await;
        }
        while !bucket.take(start.elapsed()) {
            sleep_until(start + bucket.next()).await;
        }
        match publish(&api, &mut written, &dated).await {
            Ok(()) => complained = false,
            Err(error) if complained => tracing::debug!(error, "Writing an Event failed again"),
            Err(error) => {
                tracing::warn!(error, reason = ?dated.event.reason, "Writing an Event failed; giving up");
                complained = true;
            }
        }
    }
}

async fn publish(api: &Api, written: &mut Written, dated: &Dated) -> Result<(), String> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let Err(error) = write(api, written, dated).await else {
            return Ok(());
        };
        if !may_get_better(&error) || dated.since.elapsed() > TRIED {
            return Err(explain(&error));
        }
        sleep(backoff.failed().max(api.hold())).await;
    }
}

async fn write(
    api: &Api,
    written: &mut Written,
    Dated { event, at, .. }: &Dated,
) -> Result<(), kube::Error> {
    let events: kube::Api<Event> = kube::Api::namespaced(api.client(), NAMESPACE);
    if let Some((name, count)) = written.before(event, Instant::now()) {
        let again =
            Patch::Merge(serde_json::json!({"count": count + 1, "lastTimestamp": Time(*at)}));
        match events
            .patch_metadata(&name, &PatchParams::default(), &again)
            .await
        {
            Ok(_) => {
                written.remember(event, name, count + 1, Instant::now());
                return Ok(());
            }
            // The server keeps Events for a shorter time than usual, or somebody deleted it.
            Err(error) if code(&error) == Some(404) => {}
            Err(error) => return Err(error),
        }
    }
    let object = to_write(api.node(), event, *at);
    let name = object.metadata.name.clone().unwrap_or_default();
    match events.create(&PostParams::default(), &object).await {
        // An earlier try got through, though its answer did not.
        Err(error) if code(&error) == Some(409) => {}
        created => drop(created?),
    }
    written.remember(event, name, 1, Instant::now());
    Ok(())
}

fn to_write(node: &str, event: &NodeEvent, at: Timestamp) -> Event {
    let start = node[..node.floor_char_boundary(NODE_LENGTH)].trim_end_matches(['.', '-']);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{start}.{:x}", at.as_nanosecond())),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        involved_object: reference(node),
        type_: Some(
            if event.reason.is_warning() {
                "Warning"
            } else {
                "Normal"
            }
            .into(),
        ),
        reason: Some(format!("{:?}", event.reason)),
        message: Some(event.note[..event.note.floor_char_boundary(NOTE_LENGTH)].to_owned()),
        source: Some(EventSource {
            component: Some(COMPONENT.into()),
            host: Some(node.into()),
        }),
        count: Some(1),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        ..Event::default()
    }
}

/// As the kubelet refers to its node: `kubectl describe node` looks for the name in place of the uid. `kubectl events --for node/NAME`
/// compares the version too.
fn reference(node: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(node.into()),
        uid: Some(node.into()),
        ..ObjectReference::default()
    }
}

/// Recent Events, the oldest first.
#[derive(Debug, Default)]
struct Written(VecDeque<Recent>);

#[derive(Debug)]
struct Recent {
    event: NodeEvent,
    name: String,
    count: i32,
    at: Instant,
}

impl Written {
    /// The name of the Event that has been written of the same, and its count.
    fn before(&mut self, event: &NodeEvent, now: Instant) -> Option<(String, i32)> {
        self.0.retain(|recent| now - recent.at < KEPT);
        let found = self.0.iter().find(|recent| recent.event == *event)?;
        Some((found.name.clone(), found.count))
    }

    fn remember(&mut self, event: &NodeEvent, name: String, count: i32, now: Instant) {
        self.0.retain(|recent| recent.event != *event);
        while self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Recent {
            event: event.clone(),
            name,
            count,
            at: now,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::Reason;

    fn event(reason: Reason, note: &str) -> NodeEvent {
        NodeEvent {
            reason,
            note: note.into(),
        }
    }

    #[test]
    fn two_gateways_that_fail_are_two_events_and_the_same_one_again_is_a_count_for_an_hour() {
        let now = Instant::now();
        let mut written = Written::default();
        let first = event(Reason::GatewayDown, "Gateway down: 10.116.0.5");
        written.remember(&first, "node1.1".into(), 1, now);
        assert_eq!(
            written.before(&event(Reason::GatewayDown, "Gateway down: 10.116.0.6"), now),
            None
        );
        assert_eq!(written.before(&first, now), Some(("node1.1".into(), 1)));
        written.remember(&first, "node1.1".into(), 2, now + KEPT / 2);
        assert_eq!(
            written.before(&first, now + KEPT),
            Some(("node1.1".into(), 2))
        );
        assert_eq!(written.before(&first, now + 2 * KEPT), None);
    }

    #[test]
    fn no_more_than_a_bounded_number_of_events_is_remembered() {
        let now = Instant::now();
        let mut written = Written::default();
        for n in 0..1000 {
            written.remember(
                &event(Reason::GatewayDown, &n.to_string()),
                n.to_string(),
                1,
                now,
            );
        }
        assert_eq!(written.0.len(), REMEMBERED);
        assert!(
            written
                .before(&event(Reason::GatewayDown, "999"), now)
                .is_some()
        );
    }

    #[test]
    fn a_note_and_a_name_keep_within_the_limits_of_the_api() {
        let node = format!("{}-{}", "n".repeat(199), "x".repeat(53));
        let event = to_write(
            &node,
            &event(Reason::ConfigRejected, &"\u{e4}".repeat(2000)),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(event.message.unwrap().len(), 1024);
        assert_eq!(
            event.metadata.name.unwrap(),
            format!("{}.0", "n".repeat(199))
        );
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
