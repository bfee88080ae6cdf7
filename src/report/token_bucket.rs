//! A token bucket: some things at once, then one in each time that passes.
//!
//! Pure: times are those of a monotonic clock, from any beginning.

use std::time::Duration;

/// How many may happen at once now, and since when the next one is earned.
#[derive(Debug)]
pub struct TokenBucket {
    size: u32,
    refill: Duration,
    tokens: u32,
    since: Duration,
}

impl TokenBucket {
    /// A full one.
    pub const fn new(size: u32, refill: Duration) -> Self {
        Self {
            size,
            refill,
            tokens: size,
            since: Duration::ZERO,
        }
    }

    /// Takes a token; false where there is none.
    pub fn take(&mut self, now: Duration) -> bool {
        let taken = self.left(now) > 0;
        self.tokens -= u32::from(taken);
        taken
    }

    /// How many there are.
    pub fn left(&mut self, now: Duration) -> u32 {
        while self.tokens < self.size && now >= self.next() {
            self.tokens += 1;
            self.since += self.refill;
        }
        if self.is_full() {
            self.since = now;
        }
        self.tokens
    }

    /// When the next token comes, if there are fewer than fit.
    pub fn next(&self) -> Duration {
        self.since + self.refill
    }

    /// Whether there is no room for another.
    pub const fn is_full(&self) -> bool {
        self.tokens == self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_in_a_row_then_one_in_ten_seconds() {
        let (start, refill) = (Duration::from_secs(1000), Duration::from_secs(10));
        let mut bucket = TokenBucket::new(10, refill);
        assert!((0..10).all(|_| bucket.take(start)));
        assert_eq!((bucket.take(start), bucket.next()), (false, start + refill));
        assert!(bucket.take(start + refill));
        assert!(!bucket.take(start + refill));
        assert_eq!(bucket.next(), start + 2 * refill);
        let later = start + 100 * refill;
        let granted = (0..100).filter(|_| bucket.take(later)).count();
        assert_eq!(granted, 10, "a quiet time earns no more than the burst");
    }
}
