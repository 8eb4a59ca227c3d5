//! How long to wait before trying again. Pure; never gives up.

use std::time::Duration;

/// First wait.
const BASE: Duration = Duration::from_millis(200);
/// Longest wait: what is wrong for long is looked at by a person within minutes, not hours.
const CAP: Duration = Duration::from_mins(5);

/// The wait after `failures` failures in a row: doubling from 0.2 s to 5 min.
pub fn after(failures: u32) -> Duration {
    BASE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap() {
        assert_eq!([1, 2, 3].map(after), [200, 400, 800].map(Duration::from_millis));
        assert_eq!(after(u32::MAX), CAP);
    }
}
