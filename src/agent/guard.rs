//! Guarded apply: a change after which the API server no longer answers is taken back.
//!
//! Pure: fed with times and answers, says what to do. Asking the API server is `api`'s, writing is
//! `apply`'s, keeping the previous set is `agent`'s. The life of a guarded change:
//!
//! ```text
//! applied --> Confirming --an answer--> confirmed
//!                 | no answer for --confirm: TakeBack
//!             TakingBack --written--> TakenBack --an answer--> Rejected (until the revision changes)
//!                                         | no answer for --confirm: ApplyAfterAll (the change was not the cause)
//! ```

use std::time::Duration;

/// Time since the agent started; monotonic.
pub type Clock = Duration;

/// Watches over one change at a time.
#[derive(Debug)]
pub struct Guard {
    /// How long an answer may take; zero is off.
    confirm: Duration,
    phase: Phase,
    /// Something was or may have been written that no verdict was reached on.
    unsettled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing to confirm.
    Idle,
    /// The revision is in the kernel; an answer by then, or it is taken back.
    Confirming { revision: String, until: Clock },
    /// The previous set is to be put back.
    TakingBack { revision: String },
    /// The previous set is back; an answer by then proves the revision guilty.
    TakenBack { revision: String, until: Clock },
    /// Guilty.
    Rejected { revision: String },
}

/// What the agent shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The change is good; forget the previous set.
    Confirmed,
    /// Put the previous set back.
    TakeBack,
    /// The API server is back since the previous set is: the change stays rejected.
    Rejected,
    /// The API server stayed away without the change too: apply it.
    ApplyAfterAll,
}

impl Guard {
    /// A guard that waits `confirm` for an answer; zero is off.
    pub const fn new(confirm: Duration) -> Self {
        Self {
            confirm,
            phase: Phase::Idle,
            unsettled: false,
        }
    }

    /// Whether changes are guarded at all.
    pub const fn is_on(&self) -> bool {
        !self.confirm.is_zero()
    }

    /// A change of the configuration has been written, and the API server answered before it.
    pub fn applied(&mut self, now: Clock, revision: &str) {
        if self.is_on() {
            self.phase = Phase::Confirming {
                revision: revision.to_owned(),
                until: now + self.confirm,
            };
        }
    }

    /// The previous set has been put back.
    pub fn taken_back(&mut self, now: Clock) {
        if let Phase::TakingBack { revision } = &self.phase {
            self.phase = Phase::TakenBack {
                revision: revision.clone(),
                until: now + self.confirm,
            };
        }
    }

    /// The kernel shows that this revision was taken back before the agent started.
    pub fn was_rejected(&mut self, revision: &str) {
        self.phase = Phase::Rejected {
            revision: revision.to_owned(),
        };
    }

    /// A guarded change may be in the kernel, in part or as an earlier agent left it, and nobody waits for its confirmation.
    pub fn left_unsettled(&mut self) {
        self.unsettled = self.is_on();
    }

    /// Whether the API server's silence before a change says nothing: an earlier change may be its cause.
    pub const fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Another good revision is the newest: nothing that was said of an older one counts. An unconfirmed
    /// change stays in the kernel until the new one is applied.
    pub fn superseded(&mut self) {
        self.unsettled |= matches!(
            self.phase,
            Phase::Confirming { .. } | Phase::TakingBack { .. } | Phase::TakenBack { .. }
        );
        self.phase = Phase::Idle;
    }

    /// The API server answered a new connection just now.
    pub fn heard(&mut self) -> Option<Verdict> {
        let (phase, verdict) = match &self.phase {
            Phase::Confirming { .. } => (Phase::Idle, Verdict::Confirmed),
            Phase::TakenBack { revision, .. } => (
                Phase::Rejected {
                    revision: revision.clone(),
                },
                Verdict::Rejected,
            ),
            Phase::Idle | Phase::TakingBack { .. } | Phase::Rejected { .. } => return None,
        };
        Some(self.conclude(phase, verdict))
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Clock) -> Option<Verdict> {
        match &self.phase {
            Phase::Confirming { revision, until } if *until <= now => {
                self.phase = Phase::TakingBack {
                    revision: revision.clone(),
                };
                Some(Verdict::TakeBack)
            }
            Phase::TakenBack { until, .. } if *until <= now => {
                Some(self.conclude(Phase::Idle, Verdict::ApplyAfterAll))
            }
            _ => None,
        }
    }

    fn conclude(&mut self, phase: Phase, verdict: Verdict) -> Verdict {
        self.phase = phase;
        self.unsettled = false;
        verdict
    }

    /// When `tick` has something to say; the API server is to be asked until then.
    pub const fn deadline(&self) -> Option<Clock> {
        match &self.phase {
            Phase::Confirming { until, .. } | Phase::TakenBack { until, .. } => Some(*until),
            Phase::Idle | Phase::TakingBack { .. } | Phase::Rejected { .. } => None,
        }
    }

    /// Whether a change waits for its verdict: until then what it replaced is still needed.
    pub const fn is_undecided(&self) -> bool {
        matches!(
            self.phase,
            Phase::Confirming { .. } | Phase::TakingBack { .. } | Phase::TakenBack { .. }
        )
    }

    /// Whether the previous set is to be put back now.
    pub const fn is_taking_back(&self) -> bool {
        matches!(self.phase, Phase::TakingBack { .. })
    }

    /// The revision that waits for its verdict or has been found guilty.
    pub fn accused(&self) -> Option<&str> {
        match &self.phase {
            Phase::Confirming { revision, .. } => Some(revision),
            _ => self.rejected(),
        }
    }

    /// The revision that was taken back.
    pub fn rejected(&self) -> Option<&str> {
        match &self.phase {
            Phase::TakingBack { revision }
            | Phase::TakenBack { revision, .. }
            | Phase::Rejected { revision } => Some(revision),
            Phase::Idle | Phase::Confirming { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_in_time_confirms_the_change() {
        let mut guard = Guard::new(20 * SECOND);
        guard.applied(5 * SECOND, "abc");
        assert_eq!(guard.tick(24 * SECOND), None);
        assert_eq!(guard.heard(), Some(Verdict::Confirmed));
        assert_eq!(
            (guard.tick(60 * SECOND), guard.deadline(), guard.rejected()),
            (None, None, None)
        );
    }

    #[test]
    fn silence_takes_the_change_back_and_an_answer_then_convicts_it() {
        let mut guard = Guard::new(20 * SECOND);
        guard.applied(5 * SECOND, "abc");
        assert_eq!(guard.tick(25 * SECOND), Some(Verdict::TakeBack));
        assert_eq!(guard.rejected(), Some("abc"));
        assert_eq!(
            (guard.heard(), guard.tick(90 * SECOND)),
            (None, None),
            "nothing counts before the previous set is back"
        );
        guard.taken_back(26 * SECOND);
        assert_eq!(guard.heard(), Some(Verdict::Rejected));
        assert_eq!(
            (guard.tick(900 * SECOND), guard.heard(), guard.rejected()),
            (None, None, Some("abc"))
        );
        guard.superseded();
        assert_eq!(guard.rejected(), None);
    }

    #[test]
    fn silence_without_the_change_too_acquits_it() {
        let mut guard = Guard::new(20 * SECOND);
        guard.applied(Duration::ZERO, "abc");
        assert_eq!(guard.tick(20 * SECOND), Some(Verdict::TakeBack));
        guard.taken_back(21 * SECOND);
        assert_eq!(guard.tick(40 * SECOND), None);
        assert_eq!(guard.tick(41 * SECOND), Some(Verdict::ApplyAfterAll));
        assert_eq!((guard.rejected(), guard.deadline()), (None, None));
    }

    #[test]
    fn a_guard_that_is_off_never_fires() {
        let mut guard = Guard::new(Duration::ZERO);
        guard.applied(Duration::ZERO, "abc");
        assert_eq!(
            (guard.tick(900 * SECOND), guard.heard(), guard.deadline()),
            (None, None, None)
        );
    }

    #[test]
    fn an_edit_of_an_unconfirmed_change_does_not_make_its_silence_an_excuse() {
        let mut guard = Guard::new(20 * SECOND);
        assert!(!guard.is_unsettled());
        guard.applied(Duration::ZERO, "abc");
        guard.superseded();
        assert!(guard.is_unsettled());
        guard.applied(1 * SECOND, "def");
        assert!(guard.is_unsettled(), "no verdict yet");
        assert_eq!(guard.heard(), Some(Verdict::Confirmed));
        assert!(!guard.is_unsettled());
        guard.superseded();
        assert!(!guard.is_unsettled(), "nothing was undecided");
    }
}
