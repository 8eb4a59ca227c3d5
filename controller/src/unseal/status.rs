//! What a pass came to, as `status` and Events say it. Pure: the clock is an argument, and a time moves only when what
//! it dates has changed.

use crds::{
    sealed_secret::{SYNCED, SealedSecretCondition, SealedSecretStatus, UnsealedRecord},
    unseal::UnsealError,
};
use jiff::Timestamp;

use super::choices::{IGNORE_DRIFT, REPLACE};

/// The reason of [`Failure::Fought`].
const FOUGHT: &str = "Overwritten";

/// Why there is no Secret, or not the right one.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The object is not a SealedSecret that can be read.
    #[error("the SealedSecret cannot be read: {0}")]
    Invalid(String),
    /// It is in the old form, which was switched off.
    #[error("spec.data is the deprecated form, which --accept-deprecated-v1-data=false refuses; seal it again")]
    Deprecated,
    /// A fault of ours. With the same object it would come again.
    #[error(
        "a fault of the controller: its log says where; the same values in another form may help, or another version"
    )]
    Defect,
    /// It cannot be opened.
    #[error(transparent)]
    Unseal(#[from] UnsealError),
    /// A Secret of that name is somebody else's.
    #[error("failed update: Resource {0:?} already exists and is not managed by SealedSecret")]
    NotManaged(String),
    /// The Secret is there and can never become the one that is wanted.
    #[error(
        "Error updating {0}: {1}. Delete it or, to have it made anew, annotate the SealedSecret with {REPLACE}=true"
    )]
    Immutable(String, Fixed),
    /// The Secret is being deleted, and stays until whoever holds it lets go.
    #[error(
        "cannot write the Secret: {0} is being deleted, and waits for its metadata.finalizers; it is made anew then"
    )]
    Going(String),
    /// Others change the Secret, of this name, as often as it is put right.
    #[error(
        "the Secret {0} is changed again and again{by}: it is put right with growing waits. Have whoever does that leave it \
         alone or, to have it left as they want it, annotate the SealedSecret with {IGNORE_DRIFT}=true",
        by = .1.as_ref().map(|who| format!(", last by {who}")).unwrap_or_default()
    )]
    Fought(String, Option<String>),
    /// The API server refused the Secret, or failed more than once.
    #[error("cannot write the Secret: {0}")]
    Update(String),
}

/// What of a Secret the API server never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum Fixed {
    /// Its data, once it says so.
    #[strum(to_string = "the target Secret is immutable")]
    Data,
    /// Its type.
    #[strum(to_string = "the type of the target Secret cannot change")]
    Type,
}

impl Fixed {
    /// Reads the API server's refusal.
    pub fn of(refusal: &str) -> Option<Self> {
        if refusal.contains("field is immutable when `immutable` is set") {
            Some(Self::Data)
        } else if refusal.contains("type: Invalid value") && refusal.contains("field is immutable") {
            Some(Self::Type)
        } else {
            None
        }
    }
}

impl Failure {
    /// The condition's reason: one word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Deprecated => "Deprecated",
            Self::Defect => "Defect",
            Self::Unseal(error) => error.into(),
            Self::NotManaged(_) => "NotManaged",
            Self::Immutable(..) => "Immutable",
            Self::Going(_) => "BeingDeleted",
            Self::Fought(..) => FOUGHT,
            Self::Update(_) => "UpdateFailed",
        }
    }

    /// The Event's reason and message, in upstream's words.
    pub fn event(&self) -> (&'static str, String) {
        match self {
            Self::Invalid(_) | Self::Deprecated | Self::Defect | Self::Unseal(_) => {
                ("ErrUnsealFailed", format!("Failed to unseal: {self}"))
            }
            Self::NotManaged(_) | Self::Immutable(..) | Self::Going(_) | Self::Fought(..) | Self::Update(_) => {
                ("ErrUpdateFailed", self.to_string())
            }
        }
    }

    /// The label of `unseal_errors_total`.
    pub fn metric(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "fetch",
            Self::Deprecated | Self::Defect | Self::Unseal(_) => "unseal",
            Self::NotManaged(_) => "unmanaged",
            Self::Immutable(..) | Self::Going(_) | Self::Fought(..) | Self::Update(_) => "update",
        }
    }

    /// What would have to change before another try can end otherwise: the ring or the object, and for some the Secret.
    /// `None` when it may pass by itself, as a quota or a webhook does.
    pub fn waits_for(&self) -> Option<WaitsFor> {
        match self {
            Self::Invalid(_) | Self::Deprecated | Self::Defect | Self::Unseal(_) => Some(WaitsFor::Object),
            Self::NotManaged(_) | Self::Immutable(..) | Self::Going(_) => Some(WaitsFor::Secret),
            Self::Fought(..) | Self::Update(_) => None,
        }
    }
}

/// Failures in a row that may pass before anybody looks, such as those of an API server that starts.
const HICCUPS: u32 = 3;

/// Whether one more failure after so many in a row is told, though it may pass: it has lasted, or is not tried again.
pub fn lasts(failed: u32, retries: Option<u32>) -> bool {
    failed >= retries.unwrap_or(HICCUPS).min(HICCUPS)
}

/// Whether it stands in the status that others keep changing the Secret.
pub fn is_fought(status: &SealedSecretStatus) -> bool {
    status.conditions.iter().any(|condition| condition.reason.as_deref() == Some(FOUGHT))
}

/// See [`Failure::waits_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// The SealedSecret, or the keys.
    Object,
    /// The Secret in its way, or the SealedSecret.
    Secret,
}

/// The status after a pass.
pub fn next(
    before: Option<&SealedSecretStatus>,
    generation: Option<i64>,
    outcome: Result<UnsealedRecord, &Failure>,
    now: Timestamp,
) -> SealedSecretStatus {
    let old = before.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == SYNCED));
    let now = Some(format!("{now:.0}"));
    let (status, reason, message, unsealed) = match outcome {
        Ok(record) => ("True", "Unsealed", None, Some(record)),
        Err(failure) => {
            let record = before.and_then(|status| status.unsealed.clone());
            ("False", failure.reason(), Some(failure.to_string()), record)
        }
    };
    let mut condition = SealedSecretCondition {
        type_: SYNCED.to_owned(),
        status: status.to_owned(),
        last_update_time: None,
        last_transition_time: now.clone(),
        reason: Some(reason.to_owned()),
        message,
    };
    if let Some(old) = old.filter(|old| old.status == status) {
        condition.last_transition_time.clone_from(&old.last_transition_time);
    }
    let same_generation = before.is_some_and(|status| status.observed_generation == generation);
    let unmoved = old.filter(|old| {
        same_generation && SealedSecretCondition { last_update_time: None, ..(*old).clone() } == condition
    });
    condition.last_update_time = unmoved.map_or(now, |old| old.last_update_time.clone());
    SealedSecretStatus { conditions: vec![condition], observed_generation: generation, unsealed }
}

#[cfg(test)]
mod tests {
    use crds::unseal::Closed;

    use super::*;

    fn record() -> UnsealedRecord {
        let text = str::to_owned;
        UnsealedRecord {
            scope: text("strict"),
            choices: None,
            secret_uid: text("u"),
            secret_resource_version: text("1"),
            keys: [].into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn times(status: &SealedSecretStatus) -> (String, String) {
        let condition = &status.conditions[0];
        let end = |time: &Option<String>| time.as_deref().unwrap()["1970-01-01T00:00:".len()..].to_owned();
        (end(&condition.last_transition_time), end(&condition.last_update_time))
    }

    #[test]
    fn a_failure_is_told_when_it_lasts_or_is_the_last() {
        assert_eq!([0, 2, 3, 100].map(|failed| lasts(failed, None)), [false, false, true, true]);
        assert_eq!([0, 1, 2].map(|failed| lasts(failed, Some(1))), [false, true, true]);
        assert!(lasts(0, Some(0)));
    }

    #[test]
    fn times_move_only_with_what_they_date() {
        let first = next(None, Some(1), Ok(record()), at(1));
        assert_eq!(times(&first), ("01Z".to_owned(), "01Z".to_owned()), "equal after the first pass");
        assert_eq!(next(Some(&first), Some(1), Ok(record()), at(2)), first, "nothing new, nothing to write");
        let edited = next(Some(&first), Some(2), Ok(record()), at(3));
        assert_eq!(times(&edited), ("01Z".to_owned(), "03Z".to_owned()), "a new generation moves only the update");
        let failure = Failure::NotManaged("db".to_owned());
        let failed = next(Some(&edited), Some(2), Err(&failure), at(4));
        assert_eq!(times(&failed), ("04Z".to_owned(), "04Z".to_owned()));
        assert_eq!(failed.unsealed, Some(record()), "what was made is still known");
        let other = Failure::Update("full".to_owned());
        let failed = next(Some(&failed), Some(2), Err(&other), at(5));
        assert_eq!(times(&failed), ("04Z".to_owned(), "05Z".to_owned()), "another error, the same status");
        assert_eq!(failed.conditions[0].message.as_deref(), Some("cannot write the Secret: full"));
    }

    #[test]
    fn words_are_upstreams() {
        let failure = Failure::from(UnsealError::NoKey(Closed(vec![("a".to_owned(), None), ("b".to_owned(), None)])));
        assert_eq!(
            failure.event(),
            ("ErrUnsealFailed", "Failed to unseal: no key could decrypt secret (a, b)".to_owned())
        );
        let (reason, message) = Failure::Fought("db".to_owned(), Some("meddler".to_owned())).event();
        assert!(message.starts_with("the Secret db is changed again and again, last by meddler: it is"), "{message}");
        assert_eq!((reason, Failure::Defect.event().0), ("ErrUpdateFailed", "ErrUnsealFailed"));
        let (reason, message) = Failure::NotManaged("db".to_owned()).event();
        assert_eq!(reason, "ErrUpdateFailed");
        assert!(message.contains("\"db\" already exists and is not managed by SealedSecret"));
    }

    #[test]
    fn what_never_changes_is_told_from_other_refusals() {
        let data = "Secret \"db\" is invalid: data: Forbidden: field is immutable when `immutable` is set";
        let kind = "Secret \"db\" is invalid: type: Invalid value: \"Opaque\": field is immutable";
        assert_eq!([data, kind, "exceeded quota"].map(Fixed::of), [Some(Fixed::Data), Some(Fixed::Type), None]);
        let (reason, message) = Failure::Immutable("shop/db".to_owned(), Fixed::Data).event();
        assert_eq!(reason, "ErrUpdateFailed");
        assert!(message.starts_with("Error updating shop/db: the target Secret is immutable. "), "{message}");
    }
}
