//! Gateway health: a state machine fed with `(now, probe result)`.
//!
//! Pure: probing is `probe`'s, what health means for routes is `resolve`'s.
//!
//! # Damping
//!
//! A gateway that fails once is back after exactly `successes` answers in a row. One that keeps
//! failing has to answer longer each time, so that a flapping gateway costs a bounded number of
//! membership changes: every time it goes down within [`QUIET`] of its last unrest, the answers it
//! needs double, up to [`MAX_DOUBLINGS`] times and never beyond what fits into [`MAX_HOLD`]. Unrest
//! is going down, and answering for a while without making it. After [`QUIET`] without unrest,
//! steadily up or steadily down, the past is forgotten.

pub mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::HealthCheck;

/// How long a gateway must be steady before its past is forgotten.
pub const QUIET: Duration = Duration::from_mins(5);

/// How often the needed successes double: 5 become 80 at the most.
pub const MAX_DOUBLINGS: u32 = 4;

/// Doubling ends where the needed successes would take longer than this; `successes` itself is never cut.
pub const MAX_HOLD: Duration = Duration::from_mins(5);

/// One probe task: a gateway and how it is checked, however many sets use the pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeKey {
    /// The gateway.
    pub gateway: IpAddr,
    /// The check.
    pub check: HealthCheck,
}

/// What is known of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No verdict yet; counts as healthy.
    Unknown,
    /// Answers.
    Up,
    /// Missed `failures` probes in a row and has not answered `successes` in a row since.
    Down,
}

/// The latest of one gateway and check.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The verdict.
    pub state: State,
    /// Whether a probe has ever succeeded since the agent started (or the kernel shows that one did before). The first answers of
    /// a gateway that was down from the start count when it is up, or fails again: until then nothing shows that it ever failed.
    pub ever_up: bool,
    /// Round-trip time of the last successful probe.
    pub rtt: Option<Duration>,
    /// Why it is not up, or why it is not probed; for a person. The same words while nothing changes.
    pub reason: Option<String>,
}

/// All of them; a missing key is `Unknown`.
pub type HealthView = BTreeMap<ProbeKey, Health>;

/// What is known before the first probe.
#[derive(Clone, Debug, PartialEq)]
pub enum Initial {
    /// Nothing.
    Unknown,
    /// The kernel shows that an earlier agent had taken the gateway out.
    AdoptedDown,
    /// What was known of the gateway under another check.
    CarriedOver(Health),
}

impl Initial {
    /// What is known of a gateway whose check is new to it: `is_wanted` reports which checks continue, `adopted_down` which gateways an
    /// earlier agent had taken out.
    pub fn of(
        key: &ProbeKey,
        known: &HealthView,
        is_wanted: impl Fn(&ProbeKey) -> bool,
        adopted_down: &BTreeSet<ProbeKey>,
    ) -> Self {
        match carried_over(key, known, is_wanted) {
            Some(health) => Self::CarriedOver(health),
            None if adopted_down.contains(key) => Self::AdoptedDown,
            None => Self::Unknown,
        }
    }
}

/// What is known of a gateway whose check is new to it: `is_wanted` reports which checks continue.
///
/// A check that is no longer wanted is the one that was edited, and its verdict stays until the new one has its own. That a
/// probe was ever answered is known of that probe only, unless the gateway is down: an edit must not call a dead gateway untested.
pub fn carried_over(
    key: &ProbeKey,
    known: &HealthView,
    is_wanted: impl Fn(&ProbeKey) -> bool,
) -> Option<Health> {
    let same_probe =
        |old: &ProbeKey| (old.check.probe, old.check.target) == (key.check.probe, key.check.target);
    let of_gateway = || known.iter().filter(|(old, _)| old.gateway == key.gateway);
    let edited = of_gateway().filter(|(old, _)| !is_wanted(old));
    let rank =
        |(old, health): &(&ProbeKey, &Health)| (!same_probe(old), health.state != State::Down);
    let down = || of_gateway().find(|(_, health)| health.state == State::Down);
    let (old, health) = edited.min_by_key(rank).or_else(down)?;
    let counts = health.state == State::Down || same_probe(old);
    Some(Health {
        ever_up: health.ever_up && counts,
        rtt: health.rtt.filter(|_| same_probe(old)),
        ..health.clone()
    })
}

/// A change of verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
}

/// The reason of a gateway that an earlier agent found down, until its first probe.
pub const ADOPTED: &str = "out of service when the agent started";

/// The state machine of one [`ProbeKey`].
#[derive(Clone, Debug)]
pub struct Machine {
    failures: u32,
    successes: u32,
    interval: Duration,
    state: State,
    ever_up: bool,
    rtt: Option<Duration>,
    /// Results of one kind since the last of the other.
    streak: Streak,
    /// Why the last failed probe failed.
    failure: Option<String>,
    /// That is from before the first probe; the first that fails has better words.
    inherited: bool,
    /// Why the last probe gave no verdict; cleared by the next that does.
    no_verdict: Option<String>,
    doublings: u32,
    /// When it last went down, or answered for a while in vain.
    unrest: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streak {
    Failures(u32),
    Successes(u32),
}

impl Machine {
    /// A machine that has seen no probe yet.
    pub fn new(check: &HealthCheck, initial: Initial) -> Self {
        let known = match initial {
            Initial::Unknown => None,
            Initial::AdoptedDown => Some(Health {
                state: State::Down,
                ever_up: true,
                rtt: None,
                reason: Some(ADOPTED.to_owned()),
            }),
            Initial::CarriedOver(health) => Some(health),
        };
        let inherited = known.is_some();
        let known = known.unwrap_or(Health {
            state: State::Unknown,
            ever_up: false,
            rtt: None,
            reason: None,
        });
        Self {
            failures: check.failures.max(1),
            successes: check.successes.max(1),
            interval: check.interval,
            state: known.state,
            ever_up: known.ever_up,
            rtt: known.rtt,
            streak: Streak::Failures(0),
            failure: known.reason,
            inherited,
            no_verdict: None,
            doublings: 0,
            unrest: None,
        }
    }

    /// Takes the result of one probe: its round-trip time, or why it failed.
    ///
    /// `now` is monotonic time since any fixed moment, and never goes back.
    pub fn feed(&mut self, now: Duration, result: Result<Duration, String>) -> Option<Transition> {
        self.no_verdict = None;
        self.forget_when_quiet(now);
        match result {
            Ok(rtt) => self.success(rtt),
            Err(why) => self.failure(now, why),
        }
    }

    /// Notes that a probe could not be sent for a reason that is not the gateway's. It is neither a
    /// success nor a failure: the verdict and the counts stay.
    pub fn no_verdict(&mut self, why: String) {
        self.no_verdict = Some(why);
    }

    /// What is known now.
    pub fn health(&self) -> Health {
        Health {
            state: self.state,
            ever_up: self.ever_up,
            rtt: self.rtt,
            reason: self.reason(),
        }
    }

    /// Successes in a row that a gateway which is down needs to come up.
    pub fn needed(&self) -> u32 {
        let fitting = MAX_HOLD.as_nanos() / self.interval.as_nanos().max(1);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        self.successes
            .saturating_mul(1 << self.doublings)
            .min(fitting)
            .max(self.successes)
    }

    fn reason(&self) -> Option<String> {
        if let Some(why) = &self.no_verdict {
            return Some(why.clone());
        }
        match self.state {
            State::Up => None,
            // Not whether it answers at the moment: a flapping gateway's reason must not flap.
            State::Down if self.doublings > 0 => {
                let failure = self.failure.as_deref().unwrap_or("failed");
                Some(format!(
                    "{failure}; flapping: needs {} consecutive successes",
                    self.needed()
                ))
            }
            State::Down | State::Unknown => self.failure.clone(),
        }
    }

    fn success(&mut self, rtt: Duration) -> Option<Transition> {
        self.rtt = Some(rtt);
        self.ever_up |= self.state == State::Up;
        let count = match self.streak {
            Streak::Successes(count) => count.saturating_add(1),
            Streak::Failures(_) => 1,
        };
        self.streak = Streak::Successes(count);
        match self.state {
            State::Unknown => Some(self.turn(State::Up)),
            State::Down if count >= self.needed() => Some(self.turn(State::Up)),
            State::Down | State::Up => None,
        }
    }

    fn failure(&mut self, now: Duration, why: String) -> Option<Transition> {
        // The last reason before the verdict stays: those of a dead gateway's later probes differ, and change nothing.
        if self.state != State::Down || self.inherited {
            self.inherited = false;
            self.failure = Some(why);
        }
        let count = match self.streak {
            Streak::Failures(count) => count.saturating_add(1),
            Streak::Successes(_) => {
                self.ever_up = true;
                if self.state == State::Down {
                    self.unrest = Some(now);
                }
                1
            }
        };
        self.streak = Streak::Failures(count);
        if self.state == State::Down || count < self.failures {
            return None;
        }
        if self.unrest.is_some() {
            self.doublings = (self.doublings + 1).min(MAX_DOUBLINGS);
        }
        self.unrest = Some(now);
        Some(self.turn(State::Down))
    }

    fn turn(&mut self, to: State) -> Transition {
        self.ever_up |= to == State::Up;
        Transition {
            from: std::mem::replace(&mut self.state, to),
            to,
        }
    }

    fn forget_when_quiet(&mut self, now: Duration) {
        if self
            .unrest
            .is_some_and(|unrest| now.saturating_sub(unrest) >= QUIET)
        {
            self.unrest = None;
            self.doublings = 0;
        }
    }
}

#[cfg(test)]
mod tests;
