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

/// What a key Secret says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Each with its state.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, State)> {
        let sealing = self.sealing().map(|key| &key.name);
        self.0.iter().map(move |key| {
            let state = match key.mark {
                Mark::Active if Some(&key.name) == sealing => State::Sealing,
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

    fn may_seal(&self, key: &Key) -> bool {
        let copies = self.0.iter().filter(|other| other.fingerprint == key.fingerprint);
        key.mark == Mark::Active
            && copies.into_iter().all(|copy| !matches!(copy.mark, Mark::Exposed | Mark::Compromised))
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
