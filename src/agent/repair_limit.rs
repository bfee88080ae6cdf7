//! Limits repairs when something keeps removing our routes; logs it once.
//!
//! Pure: fed with the times of repairs. Losses that a link or address change explains are no fight.

use std::time::Duration;

/// Repairs that are made at once before it counts as a fight.
const FREE: u32 = 5;
/// One more repair at once is earned in this time: as often as the default `--resync`.
const EARN: Duration = Duration::from_secs(30);

/// A token bucket of repairs.
#[derive(Debug)]
pub struct RepairLimit {
    tokens: u32,
    earned: Duration,
    reported: bool,
}

impl Default for RepairLimit {
    fn default() -> Self {
        Self {
            tokens: FREE,
            earned: Duration::ZERO,
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
        self.earn(now);
        self.tokens = self.tokens.saturating_sub(1);
        match (self.tokens, self.reported) {
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
        self.earn(now);
        (self.tokens == 0).then(|| self.earned + EARN)
    }

    fn earn(&mut self, now: Duration) {
        while self.tokens < FREE && now >= self.earned + EARN {
            self.tokens += 1;
            self.earned += EARN;
        }
        if self.tokens == FREE {
            self.earned = now;
            self.reported = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_fifth_repair_in_a_row_is_a_fight_and_is_told_once() {
        let mut fight = RepairLimit::default();
        let bouts: Vec<RepairState> = (0..7).map(|n| fight.repaired(at(n))).collect();
        assert_eq!(
            bouts,
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
    fn in_a_fight_repairs_wait_and_after_it_they_do_not() {
        let mut fight = RepairLimit::default();
        for second in 0..5 {
            fight.repaired(at(second));
        }
        let until = fight.wait_until(at(5)).unwrap();
        assert!(until > at(25) && until <= at(35), "{until:?}");
        assert_eq!(fight.wait_until(until), None);
        assert_eq!(fight.wait_until(at(1000)), None);
        assert_eq!(fight.repaired(at(1001)), RepairState::Calm);
    }

    #[test]
    fn a_loop_that_removes_routes_for_an_hour_gets_at_most_a_repair_every_half_minute() {
        let mut fight = RepairLimit::default();
        let mut repairs = 0;
        for second in 0..3600 {
            if fight.wait_until(at(second)).is_none() {
                fight.repaired(at(second));
                repairs += 1;
            }
        }
        assert!(repairs <= 5 + 120, "{repairs}");
    }
}
