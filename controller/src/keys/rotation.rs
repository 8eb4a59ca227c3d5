//! When a new key is due. Pure: the clock is an argument.

use jiff::{SignedDuration, Timestamp};

/// What to do about the sealing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Make a new key now.
    Mint,
    /// The newest key serves until then; `None` for ever.
    Keep {
        /// When to look again.
        until: Option<Timestamp>,
    },
}

/// When keys are made.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// When the newest key is older than this; zero never renews.
    pub period: SignedDuration,
    /// When the newest key was born before this.
    pub cutoff: Option<Timestamp>,
    /// Whether a first key is made. Without it the controller waits for one that is brought.
    pub first: bool,
}

/// Decides by the birth of the newest key.
pub fn due(newest: Option<Timestamp>, policy: Policy, now: Timestamp) -> Rotation {
    let Some(born) = newest else {
        return if policy.first { Rotation::Mint } else { Rotation::Keep { until: None } };
    };
    if policy.cutoff.is_some_and(|cutoff| born < cutoff) {
        return Rotation::Mint;
    }
    if policy.period.is_zero() {
        return Rotation::Keep { until: None };
    }
    match born.checked_add(policy.period) {
        Ok(until) if until <= now => Rotation::Mint,
        Ok(until) => Rotation::Keep { until: Some(until) },
        Err(_) => Rotation::Keep { until: None }, // beyond the year 9999
    }
}

/// Start of a new certificate's validity: now, but later than every other, by which keys are ordered. Else a key made
/// within the second of the last one, or after the clock was set back, might never be the newest.
pub fn valid_from(others: impl Iterator<Item = Timestamp>, now: Timestamp) -> Timestamp {
    others.filter_map(|other| other.checked_add(SignedDuration::from_secs(1)).ok()).fold(now, Timestamp::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: Policy = Policy { period: SignedDuration::from_hours(720), cutoff: None, first: true };
    const NEVER: Policy = Policy { period: SignedDuration::ZERO, ..MONTH };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_key_is_made_whatever_the_period() {
        assert_eq!(due(None, MONTH, at(0)), Rotation::Mint);
        assert_eq!(due(None, NEVER, at(0)), Rotation::Mint);
    }

    #[test]
    fn one_who_waits_for_keys_makes_no_first_one() {
        let waiting = Policy { first: false, cutoff: Some(at(9)), ..MONTH };
        assert_eq!(due(None, waiting, at(0)), Rotation::Keep { until: None });
        assert_eq!(due(Some(at(1)), waiting, at(2)), Rotation::Mint, "what was brought is renewed as any other");
    }

    #[test]
    fn a_key_is_renewed_when_the_period_is_over() {
        let end = at(0) + MONTH.period;
        assert_eq!(due(Some(at(0)), MONTH, at(1)), Rotation::Keep { until: Some(end) });
        assert_eq!(due(Some(at(0)), MONTH, end), Rotation::Mint);
        assert_eq!(due(Some(at(0)), NEVER, end), Rotation::Keep { until: None });
    }

    #[test]
    fn a_key_from_before_the_cutoff_is_replaced_whatever_the_period() {
        let policy = Policy { cutoff: Some(at(10)), ..NEVER };
        assert_eq!(due(Some(at(9)), policy, at(20)), Rotation::Mint);
        assert_eq!(due(Some(at(10)), policy, at(20)), Rotation::Keep { until: None });
    }

    #[test]
    fn a_clock_that_runs_behind_makes_no_key() {
        assert_eq!(due(Some(at(1000)), MONTH, at(0)), Rotation::Keep { until: Some(at(1000) + MONTH.period) });
    }

    #[test]
    fn a_new_key_is_the_newest_even_within_one_second_or_when_the_clock_was_set_back() {
        let valid_from = |others: &[i64], now| valid_from(others.iter().map(|it| at(*it)), at(now));
        assert_eq!(valid_from(&[], 5), at(5));
        assert_eq!(valid_from(&[3, 1], 5), at(5));
        assert_eq!(valid_from(&[5, 1], 5), at(6));
        assert_eq!(valid_from(&[1, 9], 5), at(10));
    }

    #[test]
    fn a_period_beyond_all_time_never_ends() {
        let policy = Policy { period: SignedDuration::MAX, ..MONTH };
        assert_eq!(due(Some(at(0)), policy, at(0)), Rotation::Keep { until: None });
    }
}
