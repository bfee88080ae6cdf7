//! Limits repairs when something keeps removing our routes; logs it once.
//!
//! Pure: fed with the times of repairs. Losses that a link or address change explains do not count.

use std::time::Duration;

use crate::report::token_bucket::TokenBucket;

/// Repairs that are made at once before the limit counts.
const FREE: u32 = 5;
/// One more repair at once is earned in this time: as often as the default `--resync`.
const EARN: Duration = Duration::from_secs(30);

/// Repairs at once, and whether it was reported that there were too many.
#[derive(Debug)]
pub struct RepairLimit {
    bucket: TokenBucket,
    reported: bool,
}

impl Default for RepairLimit {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::new(FREE, EARN),
            reported: false,
        }
    }
}

/// What a repair means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairState {
    /// Go on as usual.
    Calm,
    /// The limit was just reached: log it.
    Started,
    /// It is one still.
    GoesOn,
}

impl RepairLimit {
    /// A repair was made at `now` (monotonic) that nothing explains.
    pub fn repaired(&mut self, now: Duration) -> RepairState {
        self.left(now);
        self.bucket.take(now);
        match (self.bucket.left(now), self.reported) {
            (0, false) => {
                self.reported = true;
                RepairState::Started
            }
            (0, true) => RepairState::GoesOn,
            _ => RepairState::Calm,
        }
    }

    /// When the next repair may be made at once; `None` is now. The periodic resync is not held up by this.
    pub fn wait_until(&mut self, now: Duration) -> Option<Duration> {
        (self.left(now) == 0).then(|| self.bucket.next())
    }

    fn left(&mut self, now: Duration) -> u32 {
        let left = self.bucket.left(now);
        self.reported &= !self.bucket.is_full();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_fifth_repair_in_a_row_reaches_the_limit_and_is_reported_once() {
        let mut limit = RepairLimit::default();
        let states: Vec<RepairState> = (0..7).map(|n| limit.repaired(at(n))).collect();
        assert_eq!(
            states,
            [
                RepairState::Calm,
                RepairState::Calm,
                RepairState::Calm,
                RepairState::Calm,
                RepairState::Started,
                RepairState::GoesOn,
                RepairState::GoesOn
            ]
        );
    }

    #[test]
    fn at_the_limit_repairs_wait_and_after_a_while_they_do_not() {
        let mut limit = RepairLimit::default();
        for second in 0..5 {
            limit.repaired(at(second));
        }
        let until = limit.wait_until(at(5)).unwrap();
        assert!(until > at(25) && until <= at(35), "{until:?}");
        assert_eq!(limit.wait_until(until), None);
        assert_eq!(limit.wait_until(at(1000)), None);
        assert_eq!(limit.repaired(at(1001)), RepairState::Calm);
    }

    #[test]
    fn a_loop_that_removes_routes_for_an_hour_gets_at_most_a_repair_every_half_minute() {
        let mut limit = RepairLimit::default();
        let mut repairs = 0;
        for second in 0..3600 {
            if limit.wait_until(at(second)).is_none() {
                limit.repaired(at(second));
                repairs += 1;
            }
        }
        assert!(repairs <= 5 + 120, "{repairs}");
    }
}
