//! The status as JSON, written once per change however many ask for it.
//!
//! No I/O. Fifty sets with a thousand skipped destinations each are megabytes: all readers of one status share one copy.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use tokio::sync::watch;

use crate::report::status::{Overall, Status};

/// The newest status, for those who ask.
#[derive(Clone)]
pub struct StatusPage {
    status: watch::Receiver<Option<Status>>,
    written: Arc<Mutex<Written>>,
}

struct Written {
    status: watch::Receiver<Option<Status>>,
    json: Option<Bytes>,
}

impl StatusPage {
    /// Of what `status` holds at the time of each question.
    pub fn new(status: watch::Receiver<Option<Status>>) -> Self {
        Self {
            written: Arc::new(Mutex::new(Written {
                status: status.clone(),
                json: None,
            })),
            status,
        }
    }

    /// One line of JSON; `None` before the first status.
    pub fn json(&self) -> Option<Bytes> {
        // The value is replaced as a whole: a panic elsewhere cannot have left it half-written.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = written.status.has_changed().unwrap_or(false);
        if written.json.is_none() || is_old {
            let json = written.status.borrow_and_update().as_ref().map(|status| {
                let mut json = serde_json::to_vec(status).unwrap_or_default();
                json.push(b'\n');
                Bytes::from(json)
            });
            written.json = json;
        }
        written.json.clone()
    }

    /// [`readiness`] of the newest status.
    pub fn readiness(&self) -> Result<(), String> {
        readiness(self.status.borrow().as_ref())
    }
}

/// Ready once the configuration in force is in the kernel. A refused newer one, or a gateway that is down, is no reason
/// to stop a rollout: the routes are there.
pub fn readiness(status: Option<&Status>) -> Result<(), String> {
    let Some(status) = status else {
        return Err("no status yet".into());
    };
    // Also where there is nothing to install: a rollout must not wait for a configuration that nobody has written yet.
    if status.status == Overall::Ready {
        return Ok(());
    }
    let because = |otherwise: &str| {
        Err(status
            .message
            .clone()
            .unwrap_or_else(|| otherwise.to_owned()))
    };
    // What an earlier agent left is in force although its revision may not be known.
    if status.revision.is_empty() && status.sets.is_empty() {
        return because("no configuration is in force yet");
    }
    if status.last_applied_at.is_none() && status.sets.iter().any(|set| set.installed < set.wanted)
    {
        return because("routes are missing in the kernel");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::tests::example;

    #[test]
    fn a_node_is_ready_once_the_configuration_in_force_is_in_the_kernel() {
        assert_eq!(readiness(None), Err("no status yet".into()));
        let refused = Status {
            revision: String::new(),
            message: Some("routes.yaml:1:1: …".into()),
            last_applied_at: None,
            ..example()
        };
        assert_eq!(readiness(Some(&refused)), Err("routes.yaml:1:1: …".into()));
        let mut adopted = refused.clone();
        for set in &mut adopted.sets {
            set.wanted = set.installed;
        }
        assert_eq!(
            readiness(Some(&adopted)),
            Ok(()),
            "an earlier agent's routes, of a revision that nobody knows any more"
        );
        adopted.sets.clear();
        assert!(readiness(Some(&adopted)).is_err(), "nothing is in force");
        let incomplete = Status {
            last_applied_at: None,
            ..example()
        };
        assert!(readiness(Some(&incomplete)).is_err());
        assert_eq!(
            readiness(Some(&example())),
            Ok(()),
            "what is missing later is no reason to stop a rollout"
        );
        let bare = Status {
            status: Overall::Ready,
            message: Some("not configured: …".into()),
            ..refused
        };
        assert_eq!(readiness(Some(&bare)), Ok(()), "nothing to wait for");
    }

    #[test]
    fn all_who_ask_between_two_changes_share_one_copy() {
        let (sender, status) = watch::channel(None);
        let page = StatusPage::new(status);
        assert_eq!(page.json(), None);
        sender.send_replace(Some(example()));
        let (one, two) = (page.json().unwrap(), page.clone().json().unwrap());
        assert_eq!(one.as_ptr(), two.as_ptr());
        let read: Status = serde_json::from_slice(&one).unwrap();
        assert_eq!(read, example());
        let next = Status {
            revision: "ba9876543210".into(),
            ..example()
        };
        sender.send_replace(Some(next.clone()));
        let read: Status = serde_json::from_slice(&page.json().unwrap()).unwrap();
        assert_eq!(read, next);
        drop(sender);
        assert!(page.json().is_some());
    }
}
