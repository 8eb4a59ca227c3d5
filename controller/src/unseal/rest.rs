//! When a SealedSecret is left alone for a while: after a failure, whoever calls meanwhile, our own status among them; and
//! while others change its Secret again and again. Pure: the clock is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crds::SealedSecret;

use super::{
    decide::{LiveSecret, RingVersion, chosen},
    pass::Key,
};
use crate::fight::Fight;

/// What a pass was made of: with another one there is another outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    uid: Option<String>,
    generation: Option<i64>,
    chosen: u64,
    ring: RingVersion,
    /// The version of the Secret, if there was one.
    secret: Option<String>,
}

impl Tried {
    pub fn of(sealed: &SealedSecret, ring: RingVersion, live: Option<&LiveSecret>) -> Self {
        Self {
            uid: sealed.metadata.uid.clone(),
            generation: sealed.metadata.generation,
            chosen: chosen(sealed),
            ring,
            secret: live.map(|live| live.resource_version.clone()),
        }
    }

    /// Whether the same Secret was wanted.
    fn wanted_as(&self, other: &Self) -> bool {
        (&self.uid, self.generation, self.chosen) == (&other.uid, other.generation, other.chosen)
    }
}

/// Why to wait, and how much longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It failed, and nothing has changed since. `None` where it was given up.
    Failed(Option<Duration>),
    /// Others keep changing the Secret.
    Fought(Duration),
}

/// The objects that failed, and those whose Secrets were healed lately.
#[derive(Debug, Default)]
pub struct Rests {
    failed: HashMap<Key, (Tried, Option<Instant>)>,
    healed: HashMap<Key, (Tried, Fight)>,
}

impl Rests {
    /// Whether there is anything to wait for before the next pass.
    pub fn left(&self, key: &Key, tried: &Tried, now: Instant) -> Option<Rest> {
        let failed = self.failed.get(key).filter(|(before, until)| before == tried && until.is_none_or(|it| it > now));
        let failed = failed.map(|(_, until)| until.map(|until| until.saturating_duration_since(now)));
        let fought = || self.healed.get(key).filter(|(before, _)| before.wanted_as(tried))?.1.left(now);
        failed.map(Rest::Failed).or_else(|| fought().map(Rest::Fought))
    }

    /// A pass failed, and is made again then or, if it was given up, when something changes.
    pub fn failed(&mut self, key: Key, tried: Tried, until: Option<Instant>) {
        self.failed.insert(key, (tried, until));
    }

    /// Somebody had changed the Secret, and it was put right, or would have been had they not been at it again.
    pub fn healed(&mut self, key: Key, tried: Tried, now: Instant) {
        if self.healed.len() == self.healed.capacity() {
            self.healed.retain(|_, (_, fight)| !fight.is_over(now));
        }
        match self.healed.get_mut(&key) {
            Some((before, fight)) if before.wanted_as(&tried) && !fight.is_over(now) => drop(fight.again(now)),
            _ => drop(self.healed.insert(key, (tried, Fight::new(now)))),
        }
    }

    /// A pass succeeded.
    pub fn succeeded(&mut self, key: &Key) {
        self.failed.remove(key);
    }

    /// The object is gone.
    pub fn forget(&mut self, key: &Key) {
        self.failed.remove(key);
        self.healed.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use crds::sealed_secret::SealedSecretSpec;
    use kube::ResourceExt as _;

    use super::*;
    use crate::fight::{QUIET, ROUNDS};

    const SECOND: Duration = Duration::from_secs(1);

    fn key() -> Key {
        ("shop".to_owned(), "db".to_owned())
    }

    fn sealed() -> SealedSecret {
        SealedSecret::new("db", SealedSecretSpec::default())
    }

    fn tried(version: &str) -> Tried {
        Tried { secret: Some(version.to_owned()), ..Tried::of(&sealed(), 1, None) }
    }

    #[test]
    fn what_failed_waits_unless_something_has_changed() {
        let (mut rests, now) = (Rests::default(), Instant::now());
        rests.failed(key(), tried("7"), None);
        assert_eq!(rests.left(&key(), &tried("7"), now + QUIET), Some(Rest::Failed(None)), "it was given up");
        rests.failed(key(), tried("7"), Some(now + SECOND * 2));
        assert_eq!(rests.left(&key(), &tried("7"), now + SECOND), Some(Rest::Failed(Some(SECOND))));
        assert_eq!(rests.left(&key(), &tried("7"), now + SECOND * 2), None, "its time has come");
        let mut annotated = sealed();
        annotated.annotations_mut().insert("a".to_owned(), "b".to_owned());
        let edited = Tried { generation: Some(2), ..tried("7") };
        let others = [
            ("another Secret", tried("8")),
            ("another key", Tried { ring: 2, ..tried("7") }),
            ("another spec", edited),
            ("another choice", Tried { chosen: chosen(&annotated), ..tried("7") }),
            ("another object", Tried { uid: Some("2".to_owned()), ..tried("7") }),
        ];
        for (what, other) in others {
            assert_eq!(rests.left(&key(), &other, now), None, "{what}");
        }
        rests.succeeded(&key());
        assert_eq!(rests.left(&key(), &tried("7"), now), None);
    }

    #[test]
    fn a_secret_that_others_keep_changing_is_left_alone_for_a_while() {
        let (mut rests, now) = (Rests::default(), Instant::now());
        for round in 0..ROUNDS {
            assert_eq!(rests.left(&key(), &tried("9"), now), None, "{round}");
            rests.healed(key(), tried(&round.to_string()), now);
        }
        let Some(Rest::Fought(rest)) = rests.left(&key(), &tried("9"), now) else { panic!("it is a fight") };
        assert_eq!(rests.left(&key(), &tried("9"), now + rest), None);
        let edited = Tried { generation: Some(2), ..tried("9") };
        assert_eq!(rests.left(&key(), &edited, now), None, "another Secret is wanted");
        // It held.
        rests.healed(key(), tried("9"), now + rest + QUIET);
        assert_eq!(rests.left(&key(), &tried("9"), now + rest + QUIET), None);
    }

    #[test]
    fn what_was_healed_once_is_not_remembered_for_ever() {
        let (mut rests, now) = (Rests::default(), Instant::now());
        for number in 0..10_000_u32 {
            rests.healed(("shop".to_owned(), number.to_string()), tried("7"), now + QUIET * number);
        }
        assert!(rests.healed.len() < 100, "{}", rests.healed.len());
    }
}
