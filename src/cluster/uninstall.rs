//! `--on-exit`: whether SIGTERM means replacement or uninstall.
//!
//! A replaced agent leaves its routes in the kernel, an uninstalled one removes them. The evidence is the agent's own
//! DaemonSet. An API that does not answer is no evidence of anything, and what is no evidence keeps the routes.
//!
//! `kubectl delete -f` deletes the DaemonSet and, milliseconds later, the service account and its rights; the pods are notified
//! to stop only after that. So the question may well be refused (401, 403). A refusal is taken for an uninstall only if
//! - this agent has seen its own DaemonSet before, by the name that it asks for now,
//! - it is fresh: rights that were lost minutes ago, as with a `ServiceAccount` that was re-created, are no uninstall,
//! - it lasts: rights that are replaced are back in a moment,
//! - no successor waits on this node: a pod that was deleted by force loses its token too, and is replaced at once.
//!
//! There is no surer sign: the API server's 401 is the same, byte for byte, for a `ServiceAccount` that is gone and for one that was
//! re-created. So a restart within [`FRESH`] of its re-creation looks like an uninstall; docs/install.md has the way around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use tokio::time::{Instant, sleep};

use crate::cluster::client::{Api, Backoff, code, explain};

/// The value of `--on-exit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnExit {
    /// Keep the routes.
    Keep,
    /// Remove the routes, whatever the reason for the end.
    Cleanup,
    /// Keep the routes unless the agent's DaemonSet is deleted or being deleted.
    #[default]
    Auto,
}

/// What to do with the routes, and why; the reason is for a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave them.
    Keep(&'static str),
    /// Remove them, the nexthops and the annotations.
    Cleanup(&'static str),
}

/// How long to look for evidence. A pod has 30 s (terminationGracePeriodSeconds), and cleaning up takes some of them.
const LOOK: Duration = Duration::from_secs(15);
/// A refusal (401, 403) that lasts this long counts as an uninstall. Time for rights that are replaced to be back, and for a successor to start.
const LASTING: Duration = Duration::from_secs(8);
/// From one question to the next.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long before SIGTERM a refusal may have begun. In a large cluster it takes minutes from the deletion
/// of the DaemonSet until the last of its pods is reported: the garbage collector deletes some twenty a second.
const FRESH: Duration = Duration::from_mins(2);
/// The same where no refusal was noticed before: this long ago a request was granted. The agent asks for its node once a minute.
const RECENT: Duration = Duration::from_secs(200);
/// How long the DaemonSet has to be gone: `kubectl replace --force` deletes one and creates the next.
const GONE: Duration = Duration::from_secs(2);
/// How long one question may take.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
/// The longest name of a generated pod: one of this length may have lost the end of its owner's name.
const LONGEST_POD_NAME: usize = 63;

/// The name of the DaemonSet that made a pod: the pod's, without the dash and five characters at its end.
pub fn daemonset_of(pod_name: &str) -> Option<&str> {
    let (owner, random) = pod_name.rsplit_once('-')?;
    let is_whole = pod_name.len() < LONGEST_POD_NAME;
    (is_whole && random.len() == 5 && !owner.is_empty()).then_some(owner)
}

/// The DaemonSet that this agent is a pod of.
#[derive(Clone)]
pub struct Installation {
    api: Api,
    namespace: Arc<str>,
    daemonset: Arc<str>,
    seen: Arc<AtomicBool>,
}

/// The API's answer about the DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    There,
    BeingDeleted,
    NotFound,
    Refused,
    /// No answer, or one that is no evidence about the DaemonSet.
    Nothing,
}

impl Installation {
    /// `namespace` is the pod's (`POD_NAMESPACE`), `daemonset` the name of its DaemonSet.
    pub fn new(api: Api, namespace: &str, daemonset: &str) -> Self {
        Self {
            api,
            namespace: namespace.into(),
            daemonset: daemonset.into(),
            seen: Arc::default(),
        }
    }

    /// Looks at the DaemonSet until it was seen once; without that, [`Installation::verdict`] is always to keep.
    pub async fn recognise(&self) {
        let mut refused = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));
        // An API that is away when the agent starts is back sooner than a right that was never given.
        let mut unanswered = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        loop {
            let pause = match self.ask().await {
                Ok(Answer::There | Answer::BeingDeleted) => {
                    return self.seen.store(true, Ordering::Relaxed);
                }
                Ok(answer @ (Answer::NotFound | Answer::Refused)) => {
                    if refused.failures() == 3 {
                        self.warn(answer);
                    }
                    refused.failed()
                }
                Ok(Answer::Nothing) => unanswered.failed(),
                Err(error) => {
                    tracing::debug!(
                        error = explain(&error),
                        "The agent's DaemonSet could not be read"
                    );
                    unanswered.failed()
                }
            };
            sleep(pause.max(self.api.hold())).await;
        }
    }

    fn warn(&self, answer: Answer) {
        let (namespace, name) = (&self.namespace, &self.daemonset);
        let remedy = if answer == Answer::Refused {
            format!(
                "a Role in {namespace} must allow `get` for daemonsets with `resourceNames: [{name}]`"
            )
        } else {
            format!(
                "there is no DaemonSet {name} in {namespace}: set EGRESS_ROUTES_DAEMONSET to the name of the agent's own"
            )
        };
        tracing::warn!(
            "The agent cannot read its own DaemonSet, so the routes stay when it is uninstalled; {remedy}"
        );
    }

    /// Called on SIGTERM with `--on-exit auto`. Takes up to 15 s where the evidence is doubtful, else a few requests.
    /// `successor` returns whether another agent waits to take over this node.
    pub async fn verdict(&self, successor: impl Fn() -> bool) -> Verdict {
        let asked_at = Instant::now();
        if !self.seen.load(Ordering::Relaxed) {
            return match self.ask().await {
                Ok(Answer::BeingDeleted) => Verdict::Cleanup(BEING_DELETED),
                _ => Verdict::Keep("the agent has never seen its own DaemonSet"),
            };
        }
        let is_within = |at: Option<Instant>, limit| at.is_some_and(|at| asked_at - at <= limit);
        let mut case = Case {
            rights_were_there: match self.api.refused_since() {
                Some(since) => is_within(Some(since), FRESH),
                None => is_within(self.api.last_granted(), RECENT),
            },
            refused_since: None,
            gone_since: None,
        };
        loop {
            let answer = self.ask().await.unwrap_or(Answer::Nothing);
            let now = Instant::now();
            if let Some(verdict) = case.judge(answer, now, successor()) {
                return verdict;
            }
            if now - asked_at > LOOK {
                return Verdict::Keep(
                    "the API server did not answer whether the DaemonSet still exists",
                );
            }
            sleep(ASK_EVERY).await;
        }
    }

    async fn ask(&self) -> Result<Answer, kube::Error> {
        let sets: kube::Api<DaemonSet> = kube::Api::namespaced(self.api.client(), &self.namespace);
        let Ok(result) =
            tokio::time::timeout(QUESTION_LIMIT, sets.get_metadata(&self.daemonset)).await
        else {
            return Ok(Answer::Nothing);
        };
        match result {
            Ok(found) if found.metadata.deletion_timestamp.is_some() => Ok(Answer::BeingDeleted),
            Ok(_) => Ok(Answer::There),
            // Only the API server's own answer about this object: a proxy in between has 404 pages too.
            Err(kube::Error::Api(status)) if status.code == 404 && status.reason == "NotFound" => {
                Ok(Answer::NotFound)
            }
            Err(error) if matches!(code(&error), Some(401 | 403)) => Ok(Answer::Refused),
            Err(error) => Err(error),
        }
    }
}

const BEING_DELETED: &str = "the DaemonSet is being deleted";

/// The evidence so far.
struct Case {
    rights_were_there: bool,
    refused_since: Option<Instant>,
    gone_since: Option<Instant>,
}

impl Case {
    /// `None` is to ask again.
    fn judge(&mut self, answer: Answer, now: Instant, successor: bool) -> Option<Verdict> {
        if successor {
            return Some(Verdict::Keep("another agent waits to take over this node"));
        }
        let refused_since = self.refused_since.take();
        match answer {
            Answer::BeingDeleted => Some(Verdict::Cleanup(BEING_DELETED)),
            Answer::There => Some(Verdict::Keep("the DaemonSet is there")),
            Answer::NotFound => {
                let since = *self.gone_since.get_or_insert(now);
                (now - since >= GONE).then_some(Verdict::Cleanup("the DaemonSet is gone"))
            }
            Answer::Refused if self.gone_since.is_some() => Some(Verdict::Cleanup(
                "the DaemonSet and the agent's rights are gone",
            )),
            Answer::Refused if !self.rights_were_there => Some(Verdict::Keep(
                "the agent's rights were removed long before it was stopped",
            )),
            Answer::Refused => {
                let since = *self.refused_since.insert(refused_since.unwrap_or(now));
                (now - since >= LASTING).then_some(Verdict::Cleanup(
                    "the agent's rights were removed at the same time",
                ))
            }
            Answer::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn case(rights_were_there: bool) -> Case {
        Case {
            rights_were_there,
            refused_since: None,
            gone_since: None,
        }
    }

    #[test]
    fn the_daemonset_is_named_by_its_pod_whatever_kustomize_called_it() {
        assert_eq!(daemonset_of("egress-routes-x7k2p"), Some("egress-routes"));
        assert_eq!(
            daemonset_of("acme-egress-routes-v2-bcdfg"),
            Some("acme-egress-routes-v2")
        );
        for name in [
            "",
            "egress",
            "egress-routes",
            "-abcde",
            "egress-routes-abcd",
        ] {
            assert_eq!(daemonset_of(name), None, "{name}");
        }
        let cut = format!("{}-abcde", "x".repeat(57));
        assert_eq!(
            daemonset_of(&cut),
            None,
            "may be the beginning of a longer name"
        );
    }

    #[test]
    fn a_daemonset_that_is_there_keeps_the_routes_whoever_stopped_the_pod() {
        assert_eq!(
            case(true).judge(Answer::There, Instant::now(), false),
            Some(Verdict::Keep("the DaemonSet is there"))
        );
    }

    #[test]
    fn a_daemonset_that_is_being_deleted_takes_the_routes_with_it() {
        let verdict = case(false).judge(Answer::BeingDeleted, Instant::now(), false);
        assert_eq!(
            verdict,
            Some(Verdict::Cleanup("the DaemonSet is being deleted"))
        );
    }

    #[test]
    fn a_daemonset_that_is_gone_takes_the_routes_with_it_unless_another_follows_at_once() {
        let start = Instant::now();
        let mut gone = case(false);
        assert_eq!(gone.judge(Answer::NotFound, start, false), None);
        assert_eq!(gone.judge(Answer::Nothing, start + SECOND, false), None);
        assert_eq!(
            gone.judge(Answer::NotFound, start + 2 * SECOND, false),
            Some(Verdict::Cleanup("the DaemonSet is gone"))
        );
        let mut replaced = case(false);
        assert_eq!(replaced.judge(Answer::NotFound, start, false), None);
        assert_eq!(
            replaced.judge(Answer::There, start + SECOND, false),
            Some(Verdict::Keep("the DaemonSet is there"))
        );
        let mut all_gone = case(false);
        assert_eq!(all_gone.judge(Answer::NotFound, start, false), None);
        assert!(matches!(
            all_gone.judge(Answer::Refused, start + SECOND, false),
            Some(Verdict::Cleanup(_))
        ));
    }

    #[test]
    fn an_api_that_does_not_answer_is_asked_again_and_never_a_reason_to_clean_up() {
        let mut case = case(true);
        let start = Instant::now();
        for n in 0..100 {
            assert_eq!(case.judge(Answer::Nothing, start + n * SECOND, false), None);
        }
    }

    #[test]
    fn a_refusal_counts_when_it_lasts_and_the_rights_were_there_a_short_while_ago() {
        let mut case = case(true);
        let start = Instant::now();
        for n in 0..8 {
            let verdict = case.judge(Answer::Refused, start + n * SECOND, false);
            assert_eq!(verdict, None, "after {n} s");
        }
        assert!(matches!(
            case.judge(Answer::Refused, start + 8 * SECOND, false),
            Some(Verdict::Cleanup(_))
        ));
    }

    #[test]
    fn a_refusal_that_is_interrupted_has_not_lasted() {
        let mut case = case(true);
        let start = Instant::now();
        assert_eq!(case.judge(Answer::Refused, start, false), None);
        assert_eq!(case.judge(Answer::Nothing, start + 4 * SECOND, false), None);
        assert_eq!(case.judge(Answer::Refused, start + 8 * SECOND, false), None);
        assert!(matches!(
            case.judge(Answer::There, start + 9 * SECOND, false),
            Some(Verdict::Keep(_))
        ));
    }

    #[test]
    fn rights_that_were_taken_away_long_ago_are_no_uninstall() {
        assert!(matches!(
            case(false).judge(Answer::Refused, Instant::now(), false),
            Some(Verdict::Keep(_))
        ));
    }

    #[test]
    fn a_successor_on_the_node_keeps_the_routes_whatever_the_api_says() {
        let now = Instant::now();
        for answer in [Answer::NotFound, Answer::Refused, Answer::BeingDeleted] {
            assert!(
                matches!(case(true).judge(answer, now, true), Some(Verdict::Keep(_))),
                "{answer:?}"
            );
        }
    }
}
