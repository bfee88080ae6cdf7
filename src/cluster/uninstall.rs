//! `--on-exit`: whether SIGTERM means "you are being replaced" or "you are being uninstalled".
//!
//! A replaced agent leaves its routes where they are, an uninstalled one takes them with it. The evidence is the agent's own
//! DaemonSet. An API that does not answer is no evidence of anything, and what is no evidence keeps the routes.
//!
//! `kubectl delete -f` deletes the DaemonSet and, milliseconds later, the service account and its rights; the pods are told
//! to stop only after that. So the question may well be refused (401, 403). A refusal is taken for an uninstall only if
//! - this agent has seen its own DaemonSet before, by the name that it asks for now,
//! - its rights were there until a short while ago: an administrator who tightens them does not stop all agents as well,
//! - the refusal lasts: rights that are replaced are back in a moment,
//! - no successor waits on this node: a pod that was deleted by force loses its token too, and is replaced at once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use tokio::time::{Instant, sleep};

use crate::cluster::client::{Api, Backoff, code, explain};

/// What `--on-exit` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnExit {
    /// Routes stay.
    Keep,
    /// Routes go, whatever the reason for the end.
    Cleanup,
    /// Routes stay unless the agent's DaemonSet is gone or being deleted.
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
/// A refusal that lasts this long is meant. Time for rights that are replaced to be back, and for a successor to start.
const LASTING: Duration = Duration::from_secs(8);
/// From one question to the next.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How old the last granted request may be for a refusal to count. In a large cluster it takes minutes from the deletion of
/// the DaemonSet until the last of its pods is reported: the garbage collector deletes some twenty a second.
const RECENT: Duration = Duration::from_mins(10);
/// How long one question may take.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);

/// The DaemonSet that this agent is a pod of.
#[derive(Clone)]
pub struct Installation {
    api: Api,
    namespace: Arc<str>,
    daemonset: Arc<str>,
    uid: Arc<OnceLock<String>>,
}

/// What the API says of the DaemonSet.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    There {
        uid: String,
        being_deleted: bool,
    },
    NotFound,
    Refused,
    /// No answer, or one that says nothing of the DaemonSet.
    Nothing,
}

impl Installation {
    /// `namespace` is the pod's (`POD_NAMESPACE`), `daemonset` the name of its DaemonSet.
    pub fn new(api: Api, namespace: &str, daemonset: &str) -> Self {
        Self {
            api,
            namespace: namespace.into(),
            daemonset: daemonset.into(),
            uid: Arc::default(),
        }
    }

    /// Looks at the DaemonSet until it was seen once; without that, [`Installation::verdict`] is always to keep.
    pub async fn recognise(&self) {
        let mut refused = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));
        // An API that is away when the agent starts is back sooner than a right that was never given.
        let mut unanswered = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        while self.uid.get().is_none() {
            let pause = match self.ask().await {
                Ok(Answer::There { uid, .. }) => {
                    let _ = self.uid.set(uid);
                    return;
                }
                Ok(answer @ (Answer::NotFound | Answer::Refused)) => {
                    if refused.failures() == 3 {
                        tracing::warn!(
                            namespace = &*self.namespace,
                            daemonset = &*self.daemonset,
                            ?answer,
                            "The agent's DaemonSet cannot be read; until it can, routes stay when the agent is uninstalled"
                        );
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

    /// Called on SIGTERM with `--on-exit auto`. Takes up to 15 s where the evidence is doubtful, else one request.
    /// `successor` says whether another agent waits to take over this node.
    pub async fn verdict(&self, successor: impl Fn() -> bool) -> Verdict {
        let asked_at = Instant::now();
        let Some(uid) = self.uid.get() else {
            return match self.ask().await {
                Ok(Answer::There {
                    being_deleted: true,
                    ..
                }) => Verdict::Cleanup("the DaemonSet is being deleted"),
                _ => Verdict::Keep("the agent has never seen its own DaemonSet"),
            };
        };
        let granted_ago = self.api.last_granted().map(|at| asked_at - at);
        let mut case = Case {
            uid,
            recently_granted: granted_ago.is_some_and(|ago| ago <= RECENT),
            refused_since: None,
        };
        loop {
            let answer = self.ask().await.unwrap_or(Answer::Nothing);
            let now = Instant::now();
            if let Some(verdict) = case.judge(&answer, now, successor()) {
                return verdict;
            }
            if now - asked_at > LOOK {
                return Verdict::Keep("the API does not say whether the DaemonSet is still there");
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
            Ok(found) => Ok(Answer::There {
                uid: found.metadata.uid.unwrap_or_default(),
                being_deleted: found.metadata.deletion_timestamp.is_some(),
            }),
            // Only what the API server itself says of this object: a proxy in between has 404 pages, too.
            Err(kube::Error::Api(status)) if status.code == 404 && status.reason == "NotFound" => {
                Ok(Answer::NotFound)
            }
            Err(error) if matches!(code(&error), Some(401 | 403)) => Ok(Answer::Refused),
            Err(error) => Err(error),
        }
    }
}

/// The evidence so far.
struct Case<'a> {
    uid: &'a str,
    recently_granted: bool,
    refused_since: Option<Instant>,
}

impl Case<'_> {
    /// `None` is to ask again.
    fn judge(&mut self, answer: &Answer, now: Instant, successor: bool) -> Option<Verdict> {
        if successor {
            return Some(Verdict::Keep("another agent waits to take over this node"));
        }
        match answer {
            Answer::There {
                uid,
                being_deleted: true,
            } if uid == self.uid => Some(Verdict::Cleanup("the DaemonSet is being deleted")),
            Answer::There { .. } => Some(Verdict::Keep("the DaemonSet is there")),
            Answer::NotFound => Some(Verdict::Cleanup("the DaemonSet is gone")),
            Answer::Refused if !self.recently_granted => Some(Verdict::Keep(
                "the agent's rights were gone long before it was stopped",
            )),
            Answer::Refused => {
                let since = *self.refused_since.get_or_insert(now);
                (now - since >= LASTING)
                    .then_some(Verdict::Cleanup("the agent's rights went together with it"))
            }
            Answer::Nothing => {
                self.refused_since = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn case(recently_granted: bool) -> Case<'static> {
        Case {
            uid: "u1",
            recently_granted,
            refused_since: None,
        }
    }

    fn there(uid: &str, being_deleted: bool) -> Answer {
        Answer::There {
            uid: uid.into(),
            being_deleted,
        }
    }

    #[test]
    fn a_daemonset_that_is_there_keeps_the_routes_whoever_stopped_the_pod() {
        let now = Instant::now();
        assert_eq!(
            case(true).judge(&there("u1", false), now, false),
            Some(Verdict::Keep("the DaemonSet is there"))
        );
        let replaced = there("u2", true);
        assert_eq!(
            case(true).judge(&replaced, now, false),
            Some(Verdict::Keep("the DaemonSet is there")),
            "not ours is being deleted"
        );
    }

    #[test]
    fn a_daemonset_that_is_gone_or_going_takes_the_routes_with_it() {
        let now = Instant::now();
        assert!(matches!(
            case(true).judge(&Answer::NotFound, now, false),
            Some(Verdict::Cleanup(_))
        ));
        assert!(matches!(
            case(true).judge(&there("u1", true), now, false),
            Some(Verdict::Cleanup(_))
        ));
    }

    #[test]
    fn an_api_that_does_not_answer_is_asked_again_and_never_a_reason_to_clean_up() {
        let mut case = case(true);
        let start = Instant::now();
        for n in 0..100 {
            assert_eq!(
                case.judge(&Answer::Nothing, start + n * SECOND, false),
                None
            );
        }
    }

    #[test]
    fn a_refusal_counts_when_it_lasts_and_the_rights_were_there_a_short_while_ago() {
        let mut case = case(true);
        let start = Instant::now();
        for n in 0..8 {
            assert_eq!(
                case.judge(&Answer::Refused, start + n * SECOND, false),
                None,
                "after {n} s"
            );
        }
        assert!(matches!(
            case.judge(&Answer::Refused, start + 8 * SECOND, false),
            Some(Verdict::Cleanup(_))
        ));
    }

    #[test]
    fn a_refusal_that_is_interrupted_has_not_lasted() {
        let mut case = case(true);
        let start = Instant::now();
        assert_eq!(case.judge(&Answer::Refused, start, false), None);
        assert_eq!(
            case.judge(&Answer::Nothing, start + 4 * SECOND, false),
            None
        );
        assert_eq!(
            case.judge(&Answer::Refused, start + 8 * SECOND, false),
            None
        );
        assert!(matches!(
            case.judge(&there("u1", false), start + 9 * SECOND, false),
            Some(Verdict::Keep(_))
        ));
    }

    #[test]
    fn rights_that_were_taken_away_long_ago_are_no_uninstall() {
        assert!(matches!(
            case(false).judge(&Answer::Refused, Instant::now(), false),
            Some(Verdict::Keep(_))
        ));
    }

    #[test]
    fn a_successor_on_the_node_keeps_the_routes_whatever_the_api_says() {
        let now = Instant::now();
        for answer in [Answer::NotFound, Answer::Refused, there("u1", true)] {
            assert!(
                matches!(case(true).judge(&answer, now, true), Some(Verdict::Keep(_))),
                "{answer:?}"
            );
        }
    }
}
