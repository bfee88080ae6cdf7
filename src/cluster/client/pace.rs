//! When to ask again: back-off with jitter, and a node's place among the others.
//!
//! Pure but for the random numbers.

use std::hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher as _, RandomState};
use std::time::Duration;

/// Doubling pauses with jitter, from `first` up to `longest`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// The first pause is `first`, give or take the jitter; none is longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// How long to wait after one more failure: between half and all of the doubled pause.
    pub fn failed(&mut self) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << self.failures.min(20))
            .min(self.longest);
        self.failures = self.failures.saturating_add(1);
        doubled / 2 + share(doubled / 2, RandomState::new().hash_one(0))
    }

    /// It worked: the next pause is the first again.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// Failures since it last worked.
    pub fn failures(self) -> u32 {
        self.failures
    }
}

/// A node's own point within `period`, the same at every start, spread evenly over nodes.
pub fn phase(node: &str, period: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    share(period, hasher.finish())
}

/// The part of `period` that `random` is of all 64-bit numbers.
#[allow(
    clippy::cast_precision_loss,
    reason = "a pause needs no 64 significant bits"
)]
fn share(period: Duration, random: u64) -> Duration {
    period.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_when_it_worked() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 60);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let pause = backoff.failed();
            assert!(
                pause >= second * expected / 2 && pause <= second * expected,
                "{pause:?} is not within half of {expected} s"
            );
        }
        (0..100).for_each(|_| assert!(backoff.failed() <= second * 60));
        backoff.worked();
        assert!(backoff.failed() <= second);
    }

    #[test]
    fn pauses_of_two_agents_differ() {
        let pauses: std::collections::BTreeSet<_> = (0..20)
            .map(|_| Backoff::new(Duration::from_secs(8), Duration::from_mins(1)).failed())
            .collect();
        assert!(pauses.len() > 10, "{pauses:?}");
    }

    #[test]
    fn nodes_are_spread_evenly_over_the_period() {
        let period = Duration::from_secs(5);
        let mut seconds = [0; 5];
        for n in 0..5000 {
            seconds[usize::try_from(phase(&format!("pool-web-{n}"), period).as_secs())
                .unwrap()
                .min(4)] += 1;
        }
        assert!(
            seconds.iter().all(|&count| (800..1200).contains(&count)),
            "{seconds:?}"
        );
        assert_eq!(phase("node1", period), phase("node1", period));
    }
}
