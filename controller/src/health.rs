//! Whether what runs for long goes on, and whether this replica can serve. Pure: the clock is an argument, and who gives
//! the signs of life is [`crate::pulse`]'s business.
//!
//! What runs gives a sign of life now and then, also while it only waits; who gives none for long is stuck. How long is
//! meant to be generous: a restart helps against a fault of ours alone, and costs everybody who was not stuck.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a loop may be without a sign. It gives one while it waits for something to do, so this is for one turn.
pub const LOOP: Duration = Duration::from_mins(10);
/// How long a pass over one object may be. Each call to the API server is a sign, and ends within half a minute; this is
/// for the longest that is done between two: opening a SealedSecret of thousands of items with a hundred keys.
pub const PASS: Duration = Duration::from_mins(30);

/// All that runs.
#[derive(Debug, Default)]
pub struct Book {
    next: u64,
    running: BTreeMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    about: String,
    bound: Duration,
    last: Instant,
    told: bool,
}

/// What has given no sign of life for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The loop.
    pub name: &'static str,
    /// What it was about; empty for the loop as a whole.
    pub about: String,
    /// For how long.
    pub silent: Duration,
    /// Whether this has not been told before.
    pub is_news: bool,
}

impl Book {
    /// Something begins; its number.
    pub fn begin(&mut self, name: &'static str, about: String, bound: Duration, now: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        self.running.insert(id, Running { name, about, bound, last: now, told: false });
        id
    }

    /// It goes on.
    pub fn beat(&mut self, id: u64, now: Instant) {
        if let Some(running) = self.running.get_mut(&id) {
            (running.last, running.told) = (now, false);
        }
    }

    /// It came to an end.
    pub fn end(&mut self, id: u64) {
        self.running.remove(&id);
    }

    /// What is stuck now; news only the first time.
    pub fn stuck(&mut self, now: Instant) -> Vec<Stuck> {
        let silent = |running: &Running| now.saturating_duration_since(running.last);
        let stuck = self.running.values_mut().filter(|running| silent(running) >= running.bound);
        stuck
            .map(|running| {
                let is_news = !std::mem::replace(&mut running.told, true);
                Stuck { name: running.name, about: running.about.clone(), silent: silent(running), is_news }
            })
            .collect()
    }
}

/// Why a replica should not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// It was told to end.
    #[error("the controller is stopping")]
    Stopping,
    /// There is nothing to seal or open with.
    #[error("there is no key yet")]
    NoKey,
    /// Nobody knows which SealedSecrets there are.
    #[error("not all SealedSecrets are listed yet")]
    Unlisted,
}

/// Whether this replica can serve.
pub fn readiness(is_stopping: bool, has_key: bool, has_listed: bool) -> Result<(), Unready> {
    match (is_stopping, has_key, has_listed) {
        (true, _, _) => Err(Unready::Stopping),
        (_, false, _) => Err(Unready::NoKey),
        (_, _, false) => Err(Unready::Unlisted),
        (false, true, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stuck: &[Stuck]) -> Vec<(&'static str, &str, bool)> {
        stuck.iter().map(|it| (it.name, it.about.as_str(), it.is_news)).collect()
    }

    #[test]
    fn who_gives_no_sign_for_too_long_is_stuck_and_told_once() {
        let (mut book, start) = (Book::default(), Instant::now());
        let keys = book.begin("keys", String::new(), LOOP, start);
        let pass = book.begin("sync", "shop/app".to_owned(), PASS, start);
        let almost = LOOP.saturating_sub(Duration::from_nanos(1));
        assert!(book.stuck(start + almost).is_empty());
        assert_eq!(names(&book.stuck(start + LOOP)), [("keys", "", true)]);
        assert_eq!(names(&book.stuck(start + PASS)), [("keys", "", false), ("sync", "shop/app", true)]);

        book.beat(keys, start + PASS);
        assert_eq!(names(&book.stuck(start + PASS)), [("sync", "shop/app", false)]);
        assert_eq!(names(&book.stuck(start + PASS + LOOP)), [("keys", "", true), ("sync", "shop/app", false)]);
        [keys, pass].into_iter().for_each(|id| book.end(id));
        assert!(book.stuck(start + PASS * 100).is_empty());
    }

    #[test]
    fn one_that_goes_on_may_take_as_long_as_it_likes() {
        let (mut book, start) = (Book::default(), Instant::now());
        let id = book.begin("sync", "shop/app".to_owned(), PASS, start);
        for round in 1..100 {
            let now = start + PASS / 2 * round;
            assert!(book.stuck(now).is_empty(), "{round}");
            book.beat(id, now);
        }
    }

    #[test]
    fn a_clock_that_seems_to_run_back_makes_nobody_stuck() {
        let (mut book, start) = (Book::default(), Instant::now() + PASS);
        book.begin("lead", String::new(), LOOP, start);
        assert!(book.stuck(start.checked_sub(LOOP).unwrap()).is_empty());
    }

    #[test]
    fn the_first_thing_that_is_missing_is_told() {
        assert_eq!(readiness(false, true, true), Ok(()));
        assert_eq!(readiness(true, true, true), Err(Unready::Stopping));
        assert_eq!(readiness(false, false, false), Err(Unready::NoKey));
        assert_eq!(readiness(false, true, false), Err(Unready::Unlisted));
    }
}
