//! Two who correct each other without end: how long to leave it alone before the next try. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// Healed so often in a row, it is a fight.
pub const ROUNDS: u32 = 5;
/// What stays as it is for so long is over.
pub const QUIET: Duration = Duration::from_mins(1);
/// First rest; each one after it is twice as long.
const REST: Duration = Duration::from_secs(15);
/// Longest rest.
pub const LONGEST: Duration = Duration::from_mins(10);

/// What was healed lately, again and again.
#[derive(Clone, Copy, Debug)]
pub struct Fight {
    rounds: u32,
    last: Instant,
}

impl Fight {
    /// It was healed for the first time.
    pub fn new(now: Instant) -> Self {
        Self { rounds: 1, last: now }
    }

    /// It was healed once more. Answers whether it has just become clear that it is a fight.
    pub fn again(&mut self, now: Instant) -> bool {
        *self = Self { rounds: self.rounds.saturating_add(1), last: now };
        self.rounds == ROUNDS
    }

    /// For how much longer it is left alone; `None` for not at all.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.rest().checked_sub(now.saturating_duration_since(self.last));
        left.filter(|left| !left.is_zero())
    }

    /// Whether the next change is one like any other.
    pub fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= self.rest() + QUIET
    }

    fn rest(&self) -> Duration {
        match self.rounds.checked_sub(ROUNDS) {
            Some(over) => REST.saturating_mul(2_u32.saturating_pow(over)).min(LONGEST),
            None => Duration::ZERO,
        }
    }
}
