//! Tells the cluster: annotations of this node when they change, Events on transitions.
//!
//! Nothing here can delay or change a route: it reads a `watch` and a `broadcast`, which never make their sender wait.
//! The annotations' values, and when they are written, are decided by pure functions, below.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cluster::client::{Api, Backoff, PREFIX, Seen, code, explain, may_get_better, phase};
use crate::health::ADOPTED;
use crate::report::status::{GatewayState, GatewayStatus, Overall, Status};

const STATUS: &str = "egress-routes.dev/status";
const REVISION: &str = "egress-routes.dev/revision";
const ROUTES: &str = "egress-routes.dev/routes";
const GATEWAYS: &str = "egress-routes.dev/gateways";
const MESSAGE: &str = "egress-routes.dev/message";

/// What a draining gateway is called that carries no flow: its machine can be rebooted.
pub const DRAINED: &str = "drained";

/// At most one patch in this time per node. A little more than the 5 s that are promised, so that a minute has no room for twelve.
const EVERY: Duration = Duration::from_secs(6);
/// What the first patch, and the first Event, after a quiet time is spread over, by node name.
pub(super) const SPREAD: Duration = Duration::from_secs(5);
/// For so long a gateway without a verdict is waited for: what is so in the seconds between an edit, or a start, and the
/// first answers to probes is not worth a patch of its own.
const VERDICTS: Duration = Duration::from_secs(10);
/// For how long after our own write the API server's cache may not have it yet.
const CACHE_BEHIND: Duration = Duration::from_secs(10);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Bytes of `message`.
const MESSAGE_LENGTH: usize = 1024;
/// Bytes of `gateways`: all annotations of an object share 256 KiB with everybody else's.
const GATEWAYS_LENGTH: usize = 4096;

/// What the clock on the wall shows, for people to read. It jumps: the one place that asks it, and nothing may depend on it.
#[allow(
    clippy::disallowed_methods,
    reason = "a report says what the clock shows"
)]
pub fn wall_clock() -> Timestamp {
    Timestamp::now()
}

/// What the node's annotations are to be; `None` is absent.
pub type Annotations = BTreeMap<&'static str, Option<String>>;

/// The annotations of `status`. Nothing in them ticks: equal states have equal annotations.
pub fn annotations(status: &Status) -> Annotations {
    let (installed, wanted) = status.sets.iter().fold((0, 0), |sum, set| {
        (sum.0 + set.installed, sum.1 + set.wanted)
    });
    let message = status.message.as_deref().filter(|text| !text.is_empty());
    BTreeMap::from([
        (STATUS, Some(word(status.status).to_owned())),
        (REVISION, Some(status.revision.clone())),
        (ROUTES, Some(format!("{installed}/{wanted}"))),
        (GATEWAYS, Some(gateways(status))),
        (
            MESSAGE,
            message.map(|text| text[..text.floor_char_boundary(MESSAGE_LENGTH)].to_owned()),
        ),
    ])
}

fn word(overall: Overall) -> &'static str {
    match overall {
        Overall::Ready => "Ready",
        Overall::Degraded => "Degraded",
        Overall::Invalid => "Invalid",
        Overall::RolledBack => "RolledBack",
    }
}

/// Sorted by address, each once: where sets check a gateway differently, the worst word counts.
fn gateways(status: &Status) -> String {
    let mut worst = BTreeMap::new();
    for gateway in status.sets.iter().flat_map(|set| &set.gateways) {
        let state = match gateway.state {
            // No set's flow leads to it any more.
            GatewayState::Draining if gateway.buckets == Some(0) => (0, DRAINED),
            GatewayState::Up => (1, gateway.state.as_str()),
            GatewayState::Draining => (2, gateway.state.as_str()),
            GatewayState::Unknown => (3, gateway.state.as_str()),
            GatewayState::Down => (4, gateway.state.as_str()),
            GatewayState::Unusable => (5, gateway.state.as_str()),
        };
        let known = worst.entry(gateway.address).or_insert(state);
        *known = state.max(*known);
    }
    let mut text = String::new();
    for (written, (address, (_, state))) in worst.iter().enumerate() {
        let entry = format!("{}{address}={state}", if written == 0 { "" } else { "," });
        if text.len() + entry.len() > GATEWAYS_LENGTH {
            let _ = write!(text, ",and {} more", worst.len() - written);
            break;
        }
        text.push_str(&entry);
    }
    text
}

/// What has to be written so that `known` becomes `wanted`; `null` removes.
fn difference(
    wanted: &Annotations,
    known: &BTreeMap<String, String>,
) -> BTreeMap<&'static str, Option<String>> {
    let changed =
        |&(key, value): &(&&'static str, &Option<String>)| known.get(*key) != value.as_ref();
    wanted
        .iter()
        .filter(changed)
        .map(|(key, value)| (*key, value.clone()))
        .collect()
}

/// When the next patch may be sent.
#[derive(Debug)]
struct Pace {
    spread: Duration,
    last: Option<Instant>,
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Pace {
    fn new(node: &str) -> Self {
        Self {
            spread: phase(node, SPREAD),
            last: None,
            not_before: None,
            backoff: Backoff::new(2 * EVERY, LONGEST_PAUSE),
        }
    }

    /// For something that became worth writing at `now`: in a row of changes the interval counts, after a quiet time the spread.
    fn due(&self, now: Instant) -> Instant {
        let next = self
            .last
            .map(|last| last + EVERY)
            .filter(|&at| at > now)
            .unwrap_or(now + self.spread);
        self.not_before.map_or(next, |at| at.max(next))
    }

    fn worked(&mut self, now: Instant) {
        self.last = Some(now);
        self.not_before = None;
        self.backoff.worked();
    }

    /// `hold` is what the server asked for.
    fn failed(&mut self, now: Instant, hold: Duration) {
        self.last = Some(now);
        self.not_before = Some(now + self.backoff.failed().max(hold));
    }
}

/// Keeps the node's annotations equal to the newest status, for as long as the status has a sender.
///
/// Writes nothing before the first of `seen`, so that a restart without a change is no write, and writes again what
/// somebody else changed or removed.
pub async fn keep_annotations(
    api: Api,
    mut status: watch::Receiver<Option<Status>>,
    mut seen: watch::Receiver<Option<Seen>>,
) {
    let mut pace = Pace::new(api.node());
    let mut known: Option<BTreeMap<String, String>> = None;
    let mut written_at = None;
    let mut patience = Patience::default();
    loop {
        look(&mut seen, &mut known, written_at);
        let mut waits = patience.until(status.borrow().as_ref(), Instant::now());
        if waits.is_none() && to_write(&mut status, known.as_ref()).is_some() {
            sleep_until(pace.due(Instant::now())).await;
            look(&mut seen, &mut known, written_at);
            waits = patience.until(status.borrow().as_ref(), Instant::now());
        }
        // What was worth writing may have been undone, or outdone, in the meantime.
        let Some(changes) = to_write(&mut status, known.as_ref()).filter(|_| waits.is_none())
        else {
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                changed = seen.changed() => if changed.is_err() { return },
                () = sleep_until(waits.unwrap_or_else(Instant::now)), if waits.is_some() => {}
            }
            continue;
        };
        match patch(&api, &changes).await {
            Ok(now_there) => {
                written_at = Some(Instant::now());
                known = Some(now_there);
                pace.worked(Instant::now());
                tracing::debug!(keys = changes.len(), "Node annotations written");
            }
            Err(error) => {
                say_failure(&error, pace.backoff.failures());
                pace.failed(Instant::now(), api.hold());
            }
        }
    }
}

/// How long gateways have been without a verdict.
#[derive(Debug, Default)]
struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// Until when verdicts that are missing in `status` are waited for; `None` when there is nothing to wait for, or it took too long.
    fn until(&mut self, status: Option<&Status>, now: Instant) -> Option<Instant> {
        let mut gateways = status
            .into_iter()
            .flat_map(|status| &status.sets)
            .flat_map(|set| &set.gateways);
        let awaited = |gateway: &GatewayStatus| {
            gateway.state == GatewayState::Unknown || gateway.reason.as_deref() == Some(ADOPTED)
        };
        if !gateways.any(awaited) {
            self.since = None;
            return None;
        }
        Some(*self.since.get_or_insert(now) + VERDICTS).filter(|until| *until > now)
    }
}

/// Takes over what the API has, unless our own last write may be missing in it.
fn look(
    seen: &mut watch::Receiver<Option<Seen>>,
    known: &mut Option<BTreeMap<String, String>>,
    written_at: Option<Instant>,
) {
    if let Some(seen) = &*seen.borrow_and_update()
        && written_at.is_none_or(|at| seen.asked_at > at + CACHE_BEHIND)
    {
        *known = Some(seen.annotations.clone());
    }
}

fn to_write(
    status: &mut watch::Receiver<Option<Status>>,
    known: Option<&BTreeMap<String, String>>,
) -> Option<BTreeMap<&'static str, Option<String>>> {
    let wanted = annotations(status.borrow_and_update().as_ref()?);
    Some(difference(&wanted, known?)).filter(|changes| !changes.is_empty())
}

fn say_failure(error: &kube::Error, earlier: u32) {
    let error = explain(error);
    if earlier == 0 {
        tracing::warn!(
            error,
            "Writing the node's annotations failed; retrying. Routing is not affected"
        );
    } else {
        tracing::debug!(
            error,
            earlier,
            "Writing the node's annotations failed again"
        );
    }
}

/// One merge patch, answered with the node's metadata alone.
async fn patch<V: serde::Serialize>(
    api: &Api,
    changes: &BTreeMap<&'static str, V>,
) -> Result<BTreeMap<String, String>, kube::Error> {
    let nodes: kube::Api<Node> = kube::Api::all(api.client());
    // No apiVersion and kind: they would be merged into the Node, and it is none of another kind.
    let body = serde_json::json!({"metadata": {"annotations": changes}});
    let answer = nodes
        .patch_metadata(api.node(), &PatchParams::default(), &Patch::Merge(body))
        .await?;
    let mut annotations = answer.metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| key.starts_with(PREFIX));
    Ok(annotations)
}

/// Removes our annotations from this node, for `cleanup` and an uninstall; gives up when it is refused, or after `limit`.
pub async fn clear_annotations(api: &Api, limit: Duration) -> anyhow::Result<()> {
    let nothing = BTreeMap::from(
        [STATUS, REVISION, ROUTES, GATEWAYS, MESSAGE].map(|key| (key, None::<String>)),
    );
    let mut backoff = Backoff::new(Duration::from_millis(500), limit);
    let mut last = "no answer".to_owned();
    let removing = async {
        while let Err(error) = patch(api, &nothing).await {
            last = explain(&error);
            // An account or a right that is gone does not come back, here.
            if !may_get_better(&error) || matches!(code(&error), Some(401 | 403)) {
                return Err(());
            }
            sleep(backoff.failed().max(api.hold())).await;
        }
        Ok(())
    };
    match timeout(limit, removing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(())) => bail!("removing the annotations of node `{}`: {last}", api.node()),
        Err(_) => bail!(
            "removing the annotations of node `{}`: not done within {limit:?}: {last}",
            api.node()
        ),
    }
}

/// The node's annotations before this agent's first: what has not changed since is no transition.
#[derive(Debug, Default)]
pub struct Reported {
    down: BTreeSet<IpAddr>,
    refused: Option<String>,
}

impl Reported {
    /// `annotations` with their whole names.
    pub fn by(annotations: &BTreeMap<String, String>) -> Self {
        let of = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
        let down = of(GATEWAYS)
            .split(',')
            .filter_map(|entry| entry.strip_suffix("=down")?.parse().ok());
        let refused = (of(STATUS) == word(Overall::Invalid)).then(|| of(MESSAGE).to_owned());
        Self {
            down: down.collect(),
            refused,
        }
    }

    /// It is up now: whatever comes next is news.
    pub fn forget(&mut self, gateway: IpAddr) {
        self.down.remove(&gateway);
    }

    /// That this gateway is down.
    pub fn is_down(&self, gateway: IpAddr) -> bool {
        self.down.contains(&gateway)
    }

    /// That a configuration was refused for this reason.
    pub fn is_refused(&self, why: &str) -> bool {
        // A long message is cut at its end.
        self.refused.as_deref().is_some_and(|message| {
            message.contains(&why[..why.floor_char_boundary(MESSAGE_LENGTH / 2)])
        })
    }
}

#[cfg(test)]
mod tests;
