//! The life of a key, decided without a clock or a cluster of its own.
//!
//! ```text
//!            minted                  a newer one is minted
//!   (none) ─────────► sealing ─────────────────────────────► superseded ──► retired
//!                        │                                       │   ◄──────── │ reinstated
//!                        └──────────────► compromised ◄──────────┘
//! ```
//!
//! What is marked stands in the key Secret's label, in values that upstream understands: it takes `active` and nothing
//! else. What is not marked follows from the order of the keys: the newest seals, the others are superseded. Sealing
//! only moves forward: when the newest key may not seal any more a newer one is minted, and no older one is taken up
//! again. Nothing here deletes a key, and no key but one that was marked ever stops opening.

use jiff::{SignedDuration, Timestamp};
use kube::core::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Fingerprint,
    key_secret::{ACTIVE, LABEL},
};

/// On a key Secret that is labelled [`ACTIVE`]: `compromised` for a key that goes on opening but never seals. Upstream
/// does not know it, and opens too.
pub const STATE: &str = "sealedsecrets.bitnami.com/key-state";
/// On a key Secret: `true` asks for a newer key. It says which key is to be replaced and so can be obeyed only once,
/// however many controllers read it how often.
pub const REPLACE: &str = "sealedsecrets.bitnami.com/replace-key";

const COMPROMISED: &str = "compromised";
const RETIRED: &str = "retired";

/// How long before its end the sealing certificate is replaced, or complained about where keys are not renewed.
const EARLY: SignedDuration = SignedDuration::from_hours(30 * 24);
/// However short the validity or the period: keys are never deleted, and a cluster shall not be filled with them.
const LEAST: SignedDuration = SignedDuration::from_mins(1);

/// What a key Secret says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Mark {
    /// It opens, and seals if it is the newest.
    Active,
    /// Somebody else may have it. It opens, but never seals.
    Exposed,
    /// Somebody else may have it. It neither opens nor seals.
    Compromised,
    /// Nothing needs it any more. It neither opens nor seals.
    Retired,
}

impl Mark {
    /// `None` for what is no key Secret, or hidden by a label's value that is none of ours.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let label = metadata.labels.as_ref()?.get(LABEL)?;
        let state = metadata.annotations.as_ref().and_then(|annotations| annotations.get(STATE));
        match label.as_str() {
            ACTIVE if state.is_some_and(|state| state == COMPROMISED) => Some(Self::Exposed),
            ACTIVE => Some(Self::Active),
            COMPROMISED => Some(Self::Compromised),
            RETIRED => Some(Self::Retired),
            _ => None,
        }
    }

    /// Whether what was sealed with it is opened.
    pub fn opens(self) -> bool {
        matches!(self, Self::Active | Self::Exposed)
    }

    /// A merge patch that makes a key Secret say so.
    pub fn patch(self) -> Value {
        let (label, state) = match self {
            Self::Active => (ACTIVE, None),
            Self::Exposed => (ACTIVE, Some(COMPROMISED)),
            Self::Compromised => (COMPROMISED, None),
            Self::Retired => (RETIRED, None),
        };
        json!({"metadata": {"labels": {LABEL: label}, "annotations": {STATE: state}}})
    }
}

/// A merge patch that asks for a key in the place of this one.
pub fn replace_patch() -> Value {
    json!({"metadata": {"annotations": {REPLACE: "true"}}})
}

/// Whether a key Secret asks for a newer key.
pub fn asks_to_be_replaced(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().and_then(|annotations| annotations.get(REPLACE)).is_some_and(|value| value == "true")
}

/// What a key is among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum State {
    /// The newest: values are sealed with it.
    Sealing,
    /// It opens what was sealed with it.
    Superseded,
    /// What was sealed with it must be changed.
    Compromised,
    /// Set aside.
    Retired,
}

/// One key, without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Name of its Secret.
    pub name: String,
    /// Identifies it.
    pub fingerprint: Fingerprint,
    /// What its Secret says.
    pub mark: Mark,
    /// By this time keys are ordered.
    pub born: Timestamp,
    /// Since when it is there. Where the clock was ahead its certificate begins later.
    pub made: Timestamp,
    /// Start of its certificate's validity.
    pub not_before: Timestamp,
    /// End of its certificate's validity.
    pub not_after: Timestamp,
    /// Its Secret asks for a newer key.
    pub replace: bool,
}

/// All keys, newest first: those of a ring and those that are set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

impl FromIterator<Key> for Keys {
    fn from_iter<T: IntoIterator<Item = Key>>(keys: T) -> Self {
        let mut keys: Vec<Key> = keys.into_iter().collect();
        // The order of a ring. Of two Secrets with one key the one that says more against it counts for sealing.
        let order = |key: &Key| (std::cmp::Reverse((key.born, key.not_before)), key.fingerprint.clone());
        keys.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name)));
        Self(keys)
    }
}

impl Keys {
    /// Each with its state. A key that two Secrets hold, as after some restores, is one key, and seals in both.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, State)> {
        let sealing = self.sealing().map(|key| &key.fingerprint);
        self.0.iter().map(move |key| {
            let state = match key.mark {
                Mark::Active if Some(&key.fingerprint) == sealing => State::Sealing,
                Mark::Active => State::Superseded,
                Mark::Exposed | Mark::Compromised => State::Compromised,
                Mark::Retired => State::Retired,
            };
            (key, state)
        })
    }

    /// The newest of all, whatever is said of it.
    pub fn newest(&self) -> Option<&Key> {
        self.0.first()
    }

    /// The newest that may seal.
    pub fn sealing(&self) -> Option<&Key> {
        self.0.iter().find(|key| self.may_seal(key))
    }

    /// Whether it would seal were it the newest. No copy of it may be compromised.
    pub fn may_seal(&self, key: &Key) -> bool {
        let copies = self.0.iter().filter(|other| other.fingerprint == key.fingerprint);
        key.mark == Mark::Active
            && copies.into_iter().all(|copy| !matches!(copy.mark, Mark::Exposed | Mark::Compromised))
    }
}

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
    /// When the newest key is older than this, or its certificate ends; zero never renews.
    pub period: SignedDuration,
    /// When the newest key was born before this.
    pub cutoff: Option<Timestamp>,
    /// Whether a first key is made. Without it the controller waits for one that is brought.
    pub first: bool,
}

/// Somebody wants another key than the one that was the newest then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked(Option<Fingerprint>);

impl Keys {
    /// Notes which key somebody wants another one for.
    pub fn ask(&self) -> Asked {
        Asked(self.newest().map(|key| key.fingerprint.clone()))
    }

    /// Decides by the newest key, so that what one replica makes is what the others were waiting for.
    pub fn due(&self, policy: Policy, asked: Option<&Asked>, now: Timestamp) -> Rotation {
        if asked.is_some_and(|asked| *asked == self.ask()) {
            return Rotation::Mint;
        }
        let Some(newest) = self.newest() else {
            return if policy.first { Rotation::Mint } else { Rotation::Keep { until: None } };
        };
        if newest.replace {
            return Rotation::Mint;
        }
        if !policy.first && !self.0.iter().any(|key| key.mark.opens()) {
            return Rotation::Keep { until: None }; // the others are still to be brought
        }
        // One that was set aside is followed by a new one, never by an older one.
        if !self.may_seal(newest) || policy.cutoff.is_some_and(|cutoff| newest.born < cutoff) {
            return Rotation::Mint;
        }
        if policy.period.is_zero() {
            return Rotation::Keep { until: None };
        }
        let old = newest.made.checked_add(policy.period).unwrap_or(Timestamp::MAX);
        let least = newest.made.checked_add(LEAST).unwrap_or(Timestamp::MAX);
        let until = old.min(newest.early()).max(least);
        if until <= now { Rotation::Mint } else { Rotation::Keep { until: Some(until) } }
    }

    /// Start of a new certificate's validity: now, but later than every other, by which keys are ordered. Else a key
    /// made within the second of the last one, or after the clock was set back, might never be the newest.
    pub fn valid_from(&self, now: Timestamp) -> Timestamp {
        let after = |key: &Key| key.not_before.checked_add(SignedDuration::from_secs(1)).ok();
        self.0.iter().filter_map(after).fold(now, Timestamp::max)
    }
}

/// How near the end of its validity a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Validity {
    /// Far.
    Good,
    /// So near that something should be done.
    Ending,
    /// Over: nobody shall seal with it.
    Expired,
}

impl Key {
    /// How valid its certificate is, and when that changes.
    pub fn validity(&self, now: Timestamp) -> (Validity, Option<Timestamp>) {
        let early = self.early();
        if now >= self.not_after {
            (Validity::Expired, None)
        } else if now >= early {
            (Validity::Ending, Some(self.not_after))
        } else {
            (Validity::Good, Some(early))
        }
    }

    /// When to do something about its end. A short validity has a short last quarter.
    fn early(&self) -> Timestamp {
        let quarter = self.not_before.duration_until(self.not_after) / 4;
        self.not_after.checked_sub(EARLY.min(quarter)).unwrap_or(self.not_after)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const MONTH: Policy = Policy { period: SignedDuration::from_hours(720), cutoff: None, first: true };
    const NEVER: Policy = Policy { period: SignedDuration::ZERO, ..MONTH };
    const WAITING: Policy = Policy { first: false, ..MONTH };
    const TEN_YEARS: i64 = 87600 * 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(name: &str, born: i64, mark: Mark) -> Key {
        Key {
            name: name.to_owned(),
            fingerprint: serde_json::from_value(json!(format!("SHA256:{name}"))).unwrap(),
            mark,
            born: at(born),
            made: at(born),
            not_before: at(born),
            not_after: at(born + TEN_YEARS),
            replace: false,
        }
    }

    fn keys(all: impl IntoIterator<Item = Key>) -> Keys {
        all.into_iter().collect()
    }

    fn active(born: i64) -> Keys {
        keys([key("a", born, Mark::Active)])
    }

    fn metadata(label: &str, state: Option<&str>) -> ObjectMeta {
        let pair = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        ObjectMeta {
            labels: Some(pair(LABEL, label)),
            annotations: state.map(|state| pair(STATE, state)),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_mark_is_read_as_it_is_written() {
        for mark in [Mark::Active, Mark::Exposed, Mark::Compromised, Mark::Retired] {
            let patch = mark.patch();
            let label = patch["metadata"]["labels"][LABEL].as_str().unwrap();
            assert_eq!(Mark::of(&metadata(label, patch["metadata"]["annotations"][STATE].as_str())), Some(mark));
            assert_eq!(label == ACTIVE, mark.opens(), "upstream opens with the same keys");
        }
        assert_eq!(Mark::of(&metadata("staged", None)), None);
        assert_eq!(Mark::of(&ObjectMeta::default()), None);
        assert_eq!(Mark::of(&metadata("retired", Some("compromised"))), Some(Mark::Retired));
    }

    #[test]
    fn the_newest_that_may_seals() {
        let all = keys([
            key("a", 1, Mark::Active),
            key("b", 4, Mark::Exposed),
            key("c", 2, Mark::Active),
            key("d", 3, Mark::Retired),
        ]);
        let told: Vec<_> = all.iter().map(|(key, state)| (key.name.as_str(), state)).collect();
        let expected =
            [("b", State::Compromised), ("d", State::Retired), ("c", State::Sealing), ("a", State::Superseded)];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_copy_of_the_sealing_key_is_superseded_by_nothing() {
        let copy = |name: &str, mark| Key { name: name.to_owned(), ..key("b", 4, mark) };
        let all = [key("a", 1, Mark::Active), copy("copy", Mark::Active), copy("b", Mark::Active)];
        let told = |all: &Keys| all.iter().map(|(key, state)| (key.name.clone(), state)).collect::<Vec<_>>();
        let expected = [("b", State::Sealing), ("copy", State::Sealing), ("a", State::Superseded)];
        assert_eq!(told(&keys(all)), expected.map(|(name, state)| (name.to_owned(), state)));
    }

    #[test]
    fn a_copy_of_a_compromised_key_does_not_seal() {
        let copy = Key { name: "copy".to_owned(), ..key("b", 4, Mark::Active) };
        let all = keys([key("a", 1, Mark::Active), key("b", 4, Mark::Compromised), copy]);
        assert_eq!(all.sealing().map(|key| key.name.as_str()), Some("a"));
        assert_eq!(all.due(NEVER, None, at(5)), Rotation::Mint);
    }

    #[test]
    fn the_first_key_is_made_whatever_the_period_unless_it_is_waited_for() {
        let none = Keys::default();
        assert_eq!([MONTH, NEVER].map(|policy| none.due(policy, None, at(0))), [Rotation::Mint; 2]);
        assert_eq!(none.due(WAITING, None, at(0)), Rotation::Keep { until: None });
        assert_eq!(none.due(WAITING, Some(&none.ask()), at(0)), Rotation::Mint, "asked for by name");
        let policy = Policy { cutoff: Some(at(9)), ..WAITING };
        assert_eq!(active(1).due(policy, None, at(2)), Rotation::Mint, "what was brought is renewed as any other");
        let set_aside = keys([key("a", 1, Mark::Retired), key("b", 2, Mark::Compromised)]);
        assert_eq!(set_aside.due(WAITING, None, at(3)), Rotation::Keep { until: None }, "a restore goes on");
        assert_eq!(set_aside.due(MONTH, None, at(3)), Rotation::Mint);
    }

    #[test]
    fn a_key_is_renewed_when_the_period_is_over() {
        let end = at(0) + MONTH.period;
        assert_eq!(active(0).due(MONTH, None, at(1)), Rotation::Keep { until: Some(end) });
        assert_eq!(active(0).due(MONTH, None, end), Rotation::Mint);
        assert_eq!(active(0).due(NEVER, None, end), Rotation::Keep { until: None });
        let behind = Rotation::Keep { until: Some(at(1000) + MONTH.period) };
        assert_eq!(active(1000).due(MONTH, None, at(0)), behind, "a clock that runs behind makes no key");
        let ahead = keys([Key { made: at(0), ..key("a", TEN_YEARS, Mark::Active) }]);
        assert_eq!(ahead.due(MONTH, None, at(1)), Rotation::Keep { until: Some(end) }, "nor one that ran ahead none");
        let beyond = Policy { period: SignedDuration::MAX, ..MONTH };
        let end = active(0).newest().unwrap().early();
        assert_eq!(active(0).due(beyond, None, at(0)), Rotation::Keep { until: Some(end) }, "a period beyond all time");
    }

    #[test]
    fn a_key_from_before_the_cutoff_is_replaced_whatever_the_period() {
        let policy = Policy { cutoff: Some(at(10)), ..NEVER };
        assert_eq!(active(9).due(policy, None, at(20)), Rotation::Mint);
        assert_eq!(active(10).due(policy, None, at(20)), Rotation::Keep { until: None });
    }

    #[test]
    fn who_asks_gets_one_key_and_no_second() {
        let before = active(0);
        let asked = before.ask();
        assert_eq!(before.due(NEVER, Some(&asked), at(1)), Rotation::Mint);
        let wanted = Key { replace: true, ..key("a", 0, Mark::Active) };
        assert_eq!(keys([wanted.clone()]).due(NEVER, None, at(1)), Rotation::Mint);
        let after = keys([wanted, key("b", 1, Mark::Active)]);
        assert_eq!(after.due(NEVER, Some(&asked), at(1)), Rotation::Keep { until: None });
    }

    #[test]
    fn sealing_only_moves_forward() {
        for mark in [Mark::Exposed, Mark::Compromised, Mark::Retired] {
            let all = keys([key("a", 0, Mark::Active), key("b", 1, mark)]);
            assert_eq!(all.due(NEVER, None, at(2)), Rotation::Mint, "{mark:?}");
            let followed = keys([key("a", 0, Mark::Active), key("b", 1, mark), key("c", 2, Mark::Active)]);
            assert_eq!(followed.due(NEVER, None, at(2)), Rotation::Keep { until: None }, "{mark:?}");
        }
    }

    #[test]
    fn a_certificate_that_ends_is_replaced_early_where_keys_are_renewed() {
        let short = |lifetime: i64| keys([Key { not_after: at(lifetime), ..key("a", 0, Mark::Active) }]);
        let day = 86400;
        let keep = |second| Rotation::Keep { until: Some(at(second)) };
        assert_eq!(short(100 * day).due(Policy { period: SignedDuration::MAX, ..MONTH }, None, at(1)), keep(75 * day));
        assert_eq!(short(8 * day).due(MONTH, None, at(1)), keep(6 * day), "a short one in its last quarter");
        assert_eq!(short(8 * day).due(NEVER, None, at(9 * day)), Rotation::Keep { until: None });
        assert_eq!(short(1).due(MONTH, None, at(2)), keep(60), "not more than a key in a minute");
    }

    #[test]
    fn validity_ends_in_steps() {
        let key = key("a", 0, Mark::Active);
        let month = 30 * 86400;
        assert_eq!(key.validity(at(1)), (Validity::Good, Some(at(TEN_YEARS - month))));
        assert_eq!(key.validity(at(TEN_YEARS - month)), (Validity::Ending, Some(at(TEN_YEARS))));
        assert_eq!(key.validity(at(TEN_YEARS)), (Validity::Expired, None));
    }

    #[test]
    fn a_new_key_is_the_newest_even_within_one_second_or_when_the_clock_was_set_back() {
        let valid_from = |others: &[i64], now| {
            keys(others.iter().map(|born| key(&born.to_string(), *born, Mark::Retired))).valid_from(at(now))
        };
        assert_eq!(valid_from(&[], 5), at(5));
        assert_eq!(valid_from(&[3, 1], 5), at(5));
        assert_eq!(valid_from(&[5, 1], 5), at(6));
        assert_eq!(valid_from(&[1, 9], 5), at(10));
    }
}
