//! What the machine promises, in sentences.

use proptest::prelude::*;

use super::*;
use crate::config::Probe;

const RTT: Duration = Duration::from_millis(1);

fn check(interval: Duration) -> HealthCheck {
    HealthCheck {
        probe: Probe::Icmp,
        interval,
        timeout: interval,
        failures: 3,
        successes: 5,
        target: None,
    }
}

/// A machine and the time at which it is fed, one interval apart.
struct Fed {
    machine: Machine,
    interval: Duration,
    now: Duration,
    transitions: Vec<Transition>,
}

impl Fed {
    fn new(interval: Duration, initial: Initial) -> Self {
        Self {
            machine: Machine::new(&check(interval), initial),
            interval,
            now: Duration::ZERO,
            transitions: Vec::new(),
        }
    }

    fn defaults() -> Self {
        Self::new(Duration::from_secs(1), Initial::Unknown)
    }

    fn feed(&mut self, answers: bool) -> Option<Transition> {
        self.now += self.interval;
        let result = if answers {
            Ok(RTT)
        } else {
            Err("no answer within 1s".to_owned())
        };
        let transition = self.machine.feed(self.now, result);
        self.transitions.extend(transition);
        transition
    }

    fn feed_many(&mut self, answers: bool, times: u32) {
        for _ in 0..times {
            self.feed(answers);
        }
    }

    fn state(&self) -> State {
        self.machine.health().state
    }

    /// Answers in a row until it is up.
    fn answers_until_up(&mut self) -> u32 {
        for count in 1..=1000 {
            if self.feed(true).is_some() {
                return count;
            }
        }
        panic!("still down after 1000 answers");
    }
}

#[test]
fn the_first_success_makes_an_unknown_gateway_up() {
    let mut fed = Fed::defaults();
    fed.feed_many(false, 2);
    assert_eq!(fed.state(), State::Unknown);
    assert_eq!(
        fed.feed(true),
        Some(Transition {
            from: State::Unknown,
            to: State::Up
        })
    );
    assert_eq!(
        fed.machine.health(),
        Health {
            state: State::Up,
            ever_up: true,
            rtt: Some(RTT),
            reason: None
        }
    );
}

#[test]
fn an_unknown_gateway_is_down_after_the_configured_failures_and_was_never_up() {
    let mut fed = Fed::defaults();
    fed.feed_many(false, 2);
    assert_eq!(
        fed.feed(false),
        Some(Transition {
            from: State::Unknown,
            to: State::Down
        })
    );
    let health = fed.machine.health();
    assert!(!health.ever_up);
    assert_eq!(health.reason.as_deref(), Some("no answer within 1s"));
}

#[test]
fn failures_that_are_not_in_a_row_do_not_count() {
    let mut fed = Fed::defaults();
    for _ in 0..100 {
        fed.feed(true);
        fed.feed_many(false, 2);
    }
    assert_eq!(fed.state(), State::Up);
    assert_eq!(
        fed.machine.health().reason,
        None,
        "a gateway that is up has no reason not to be"
    );
}

#[test]
fn a_gateway_that_failed_once_is_back_after_exactly_the_configured_successes() {
    let mut fed = Fed::defaults();
    fed.feed(true);
    fed.feed_many(false, 30);
    assert_eq!(fed.state(), State::Down);
    assert_eq!(fed.answers_until_up(), 5);
}

#[test]
fn a_gateway_that_went_down_for_a_whole_day_is_back_after_exactly_the_configured_successes() {
    let mut fed = Fed::defaults();
    for _ in 0..6 {
        fed.answers_until_up();
        fed.feed_many(false, 3);
    }
    assert!(fed.machine.needed() > 5);
    fed.feed_many(false, 86_400);
    assert_eq!(fed.answers_until_up(), 5);
}

#[test]
fn each_relapse_doubles_what_is_needed_up_to_the_cap() {
    let mut fed = Fed::defaults();
    let needed: Vec<u32> = (0..8)
        .map(|_| {
            let needed = fed.answers_until_up();
            fed.feed_many(false, 3);
            needed
        })
        .collect();
    assert_eq!(needed, [1, 5, 10, 20, 40, 80, 80, 80]);
}

#[test]
fn relapses_are_forgotten_after_quiet_time() {
    let mut fed = Fed::defaults();
    for _ in 0..4 {
        fed.answers_until_up();
        fed.feed_many(false, 3);
    }
    fed.answers_until_up();
    fed.feed_many(true, 300);
    fed.feed_many(false, 3);
    assert_eq!(fed.answers_until_up(), 5);
}

#[test]
fn doubling_ends_where_it_would_take_more_than_five_minutes() {
    let mut fed = Fed::new(Duration::from_secs(20), Initial::Unknown);
    for _ in 0..6 {
        fed.answers_until_up();
        fed.feed_many(false, 3);
    }
    assert_eq!(fed.machine.needed(), 15);

    let mut slow = Fed::new(Duration::from_mins(2), Initial::Unknown);
    slow.feed_many(false, 3);
    assert_eq!(
        slow.machine.needed(),
        5,
        "the configured successes are never cut"
    );
}

#[test]
fn a_gateway_that_flaps_every_two_seconds_for_an_hour_changes_membership_a_handful_of_times() {
    let mut fed = Fed::new(Duration::from_millis(200), Initial::Unknown);
    let mut after_a_minute = 0;
    for second in 0..3600 {
        if second == 60 {
            after_a_minute = fed.transitions.len();
        }
        fed.feed_many(second / 2 % 2 == 0, 5);
    }
    // Unknown to up, down, up after 5, down, up after 10 (all that fit into two seconds), down: needs 20 from there on.
    assert_eq!(after_a_minute, 6);
    assert_eq!(fed.transitions.len(), 6);
    assert_eq!(fed.state(), State::Down);
    assert_eq!(
        fed.machine.health().reason.as_deref(),
        Some("no answer within 1s; flapping: needs 20 consecutive successes")
    );
    assert_eq!(fed.answers_until_up(), 20);
}

#[test]
fn what_is_reported_of_a_flapping_gateway_does_not_flap() {
    let mut fed = Fed::new(Duration::from_millis(200), Initial::Unknown);
    let mut reasons = Vec::new();
    for second in 0..600 {
        for _ in 0..5 {
            fed.feed(second / 2 % 2 == 0);
            reasons.push(fed.machine.health().reason);
            reasons.dedup();
        }
    }
    // Nothing, why it is down, nothing, once more and how long it will take, nothing, and longer.
    assert_eq!(reasons.len(), 6, "{reasons:?}");
}

#[test]
fn an_adopted_gateway_is_down_was_up_before_and_comes_back_by_the_configured_successes() {
    let mut fed = Fed::new(Duration::from_secs(1), Initial::AdoptedDown);
    let health = fed.machine.health();
    assert_eq!((health.state, health.ever_up), (State::Down, true));
    assert_eq!(
        health.reason.as_deref(),
        Some("out of service when the agent started")
    );
    assert_eq!(fed.answers_until_up(), 5);
}

#[test]
fn why_a_gateway_is_down_stays_what_it_was_when_it_went_down() {
    let mut machine = Machine::new(&check(Duration::from_secs(1)), Initial::Unknown);
    let mut now = Duration::ZERO;
    let mut reasons = |machine: &mut Machine, words: &[&str]| {
        let of = |why: &&str| {
            now += Duration::from_secs(1);
            machine.feed(now, Err((*why).to_owned()));
            machine.health().reason.unwrap()
        };
        words.iter().map(of).collect::<Vec<_>>()
    };
    let later = [
        "no answer",
        "no answer",
        "unreachable",
        "no answer",
        "refused",
        "no answer",
    ];
    assert_eq!(reasons(&mut machine, &later)[2..], ["unreachable"; 4]);
    let mut adopted = Machine::new(&check(Duration::from_secs(1)), Initial::AdoptedDown);
    assert_eq!(
        reasons(&mut adopted, &["no answer", "refused"]),
        ["no answer"; 2]
    );
}

#[test]
fn a_probe_that_could_not_be_sent_changes_the_reason_and_nothing_else() {
    let mut fed = Fed::defaults();
    fed.feed(true);
    fed.feed_many(false, 2);
    for _ in 0..100 {
        fed.machine.no_verdict("no permission".to_owned());
    }
    let health = fed.machine.health();
    assert_eq!(
        (health.state, health.reason.as_deref()),
        (State::Up, Some("no permission"))
    );
    assert_eq!(
        fed.feed(false).map(|t| t.to),
        Some(State::Down),
        "the failures before still count"
    );
    assert_eq!(
        fed.machine.health().reason.as_deref(),
        Some("no answer within 1s")
    );
}

proptest! {
    #[test]
    fn a_verdict_never_comes_without_the_results_that_the_configuration_asks_for(
        failures in 1_u32..5,
        successes in 1_u32..6,
        results in prop::collection::vec(any::<bool>(), 0..400),
    ) {
        let check = HealthCheck { failures, successes, ..check(Duration::from_secs(1)) };
        let mut machine = Machine::new(&check, Initial::Unknown);
        let mut fed: Vec<bool> = Vec::new();
        for answers in results {
            fed.push(answers);
            let now = Duration::from_secs(fed.len() as u64);
            let before = machine.health().state;
            let transition = machine.feed(now, if answers { Ok(RTT) } else { Err("late".to_owned()) });
            let in_a_row = fed.iter().rev().take_while(|&&result| result == answers).count();
            let after = machine.health().state;
            prop_assert_eq!(transition.is_some(), before != after);
            match after {
                State::Down if before != State::Down => prop_assert!(!answers && in_a_row >= failures as usize),
                State::Up if before == State::Down => prop_assert!(answers && in_a_row >= successes as usize),
                State::Up if before == State::Unknown => prop_assert!(answers),
                State::Up | State::Unknown => {
                    prop_assert!(answers || in_a_row < failures as usize, "missed {in_a_row} in a row and is not down");
                }
                State::Down => prop_assert!(!answers || in_a_row < (successes << MAX_DOUBLINGS) as usize),
            }
            // The first run of answers of a gateway that was down from the start counts at its end.
            let first = fed.iter().position(|result| *result);
            let counts = first.is_some_and(|first| after != State::Down || fed[first..].contains(&false));
            prop_assert_eq!(machine.health().ever_up, counts);
            prop_assert_eq!(after == State::Up, machine.health().reason.is_none() && after != State::Unknown);
        }
    }
}

#[test]
fn what_an_edit_of_a_check_keeps_is_the_verdict_and_an_answer_counts_for_the_probe_that_had_it() {
    let key = |probe, interval| ProbeKey {
        gateway: "10.116.0.5".parse().unwrap(),
        check: HealthCheck {
            probe,
            ..check(Duration::from_secs(interval))
        },
    };
    let health = |state, ever_up| Health {
        state,
        ever_up,
        rtt: Some(RTT),
        reason: None,
    };
    let carried = |known: &[(ProbeKey, Health)], new: &ProbeKey, kept: &[ProbeKey]| {
        let known = known.iter().cloned().collect();
        let is_wanted = |k: &ProbeKey| k == new || kept.contains(k);
        carried_over(new, &known, is_wanted).map(|h| (h.state, h.ever_up))
    };
    let (ping, slow, tcp) = (
        key(Probe::Icmp, 1),
        key(Probe::Icmp, 9),
        key(Probe::Tcp(80), 1),
    );
    let up = [(ping.clone(), health(State::Up, true))];
    assert_eq!(carried(&up, &slow, &[]), Some((State::Up, true)));
    assert_eq!(
        carried(&up, &tcp, &[]),
        Some((State::Up, false)),
        "the new probe may be wrong"
    );
    let down = [(ping.clone(), health(State::Down, true))];
    assert_eq!(carried(&down, &tcp, &[]), Some((State::Down, true)));
    let never = [(ping.clone(), health(State::Down, false))];
    assert_eq!(carried(&never, &tcp, &[]), Some((State::Down, false)));
    // Another set's check continues: it counts where it found the gateway down.
    let kept = [ping];
    assert_eq!(carried(&up, &tcp, &kept), None);
    assert_eq!(carried(&down, &tcp, &kept), Some((State::Down, true)));
    assert_eq!(carried(&[], &tcp, &[]), None);
}
