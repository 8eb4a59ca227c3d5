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

/// Decides by the birth of the newest key. A period of zero never renews, but a first key is always made, and so is one
/// when the newest was born before `cutoff`.
pub fn due(newest: Option<Timestamp>, cutoff: Option<Timestamp>, period: SignedDuration, now: Timestamp) -> Rotation {
    let Some(born) = newest.filter(|born| cutoff.is_none_or(|cutoff| *born >= cutoff)) else { return Rotation::Mint };
    if period.is_zero() {
        return Rotation::Keep { until: None };
    }
    match born.checked_add(period) {
        Ok(until) if until <= now => Rotation::Mint,
        Ok(until) => Rotation::Keep { until: Some(until) },
        Err(_) => Rotation::Keep { until: None }, // beyond the year 9999
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: SignedDuration = SignedDuration::from_hours(720);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_key_is_made_whatever_the_period() {
        assert_eq!(due(None, None, MONTH, at(0)), Rotation::Mint);
        assert_eq!(due(None, None, SignedDuration::ZERO, at(0)), Rotation::Mint);
    }

    #[test]
    fn a_key_is_renewed_when_the_period_is_over() {
        let end = at(0) + MONTH;
        assert_eq!(due(Some(at(0)), None, MONTH, at(1)), Rotation::Keep { until: Some(end) });
        assert_eq!(due(Some(at(0)), None, MONTH, end), Rotation::Mint);
        assert_eq!(due(Some(at(0)), None, SignedDuration::ZERO, end), Rotation::Keep { until: None });
    }

    #[test]
    fn a_key_from_before_the_cutoff_is_replaced_whatever_the_period() {
        assert_eq!(due(Some(at(9)), Some(at(10)), SignedDuration::ZERO, at(20)), Rotation::Mint);
        assert_eq!(due(Some(at(10)), Some(at(10)), SignedDuration::ZERO, at(20)), Rotation::Keep { until: None });
    }

    #[test]
    fn a_clock_that_runs_behind_makes_no_key() {
        assert_eq!(due(Some(at(1000)), None, MONTH, at(0)), Rotation::Keep { until: Some(at(1000) + MONTH) });
    }

    #[test]
    fn a_period_beyond_all_time_never_ends() {
        assert_eq!(due(Some(at(0)), None, SignedDuration::MAX, at(0)), Rotation::Keep { until: None });
    }
}
