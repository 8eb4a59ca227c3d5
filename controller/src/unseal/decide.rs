//! Decides what a SealedSecret needs, by metadata alone: nothing is decrypted to find out that nothing changed. Pure.

use crds::{
    Scope, SealedSecret,
    sealed_secret::{SealedSecretStatus, UnsealedRecord},
};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{ResourceExt as _, core::PartialObjectMeta};

/// On an existing Secret: may be taken over.
pub const MANAGED: &str = "sealedsecrets.bitnami.com/managed";
/// On an existing Secret: may be added to, but stays its owner's.
pub const PATCH: &str = "sealedsecrets.bitnami.com/patch";

/// What is kept of a Secret. Never its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSecret {
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// UID of its controlling owner.
    pub owner: Option<String>,
    /// Carries [`MANAGED`].
    pub managed: bool,
    /// Carries [`PATCH`].
    pub patch: bool,
}

impl From<&PartialObjectMeta<Secret>> for LiveSecret {
    fn from(secret: &PartialObjectMeta<Secret>) -> Self {
        let marked = |key| secret.annotations().get(key).is_some_and(|value| value == "true");
        let controls = |owner: &&OwnerReference| owner.controller == Some(true);
        Self {
            uid: secret.uid().unwrap_or_default(),
            resource_version: secret.resource_version().unwrap_or_default(),
            owner: secret.owner_references().iter().find(controls).map(|owner| owner.uid.clone()),
            managed: marked(MANAGED),
            patch: marked(PATCH),
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is as the last pass left it.
    Unchanged,
    /// A Secret of that name is somebody else's.
    NotManaged,
    /// Open the items and write the Secret.
    Unseal,
}

/// What the last pass over an object came to. Held in memory; after a restart only what `status` says is known.
#[derive(Clone, Debug, PartialEq)]
pub struct LastPass {
    /// The status it wrote, or found.
    pub status: SealedSecretStatus,
    /// The ring it failed with. The same ring would fail again.
    pub failed_with: Option<RingVersion>,
    /// The scope it read; an annotation can change it without a new generation.
    pub scope: Scope,
}

/// Counts the changes of the ring.
pub type RingVersion = u64;

/// Decides. `last` is the last pass in this process, else what the status tells of an earlier one.
pub fn decide(sealed: &SealedSecret, last: Option<&LastPass>, live: Option<&LiveSecret>, ring: RingVersion) -> Verdict {
    let record = last.and_then(|last| last.status.unsealed.as_ref());
    if live.is_some_and(|live| !may_write(sealed, record, live)) {
        return Verdict::NotManaged;
    }
    let Some(last) = last else { return Verdict::Unseal };
    let scope = Scope::from_annotations(sealed.annotations());
    if last.status.observed_generation != sealed.metadata.generation || last.scope != scope {
        return Verdict::Unseal;
    }
    let as_left = match (record, live) {
        (Some(record), Some(live)) => {
            record.secret_uid == live.uid && record.secret_resource_version == live.resource_version
        }
        _ => false,
    };
    let synced = last.status.conditions.iter().any(|condition| condition.status == "True");
    if (synced && as_left) || last.failed_with == Some(ring) { Verdict::Unchanged } else { Verdict::Unseal }
}

/// A Secret is ours by its owner, by its annotations, or because we made it and nobody else claims it.
fn may_write(sealed: &SealedSecret, record: Option<&UnsealedRecord>, live: &LiveSecret) -> bool {
    let ours = match &live.owner {
        Some(owner) => Some(owner.as_str()) == sealed.metadata.uid.as_deref(),
        None => record.is_some_and(|record| record.secret_uid == live.uid),
    };
    ours || live.managed || live.patch
}

#[cfg(test)]
mod tests {
    use crds::sealed_secret::{SealedSecretCondition, SealedSecretSpec};

    use super::*;

    fn sealed() -> SealedSecret {
        let mut sealed = SealedSecret::new("db", SealedSecretSpec::default());
        sealed.metadata.uid = Some("sealed-1".to_owned());
        sealed.metadata.generation = Some(3);
        sealed
    }

    fn live() -> LiveSecret {
        let text = str::to_owned;
        LiveSecret {
            uid: text("secret-1"),
            resource_version: text("7"),
            owner: Some(text("sealed-1")),
            managed: false,
            patch: false,
        }
    }

    fn pass(status: &str) -> LastPass {
        LastPass {
            status: SealedSecretStatus {
                observed_generation: Some(3),
                conditions: vec![SealedSecretCondition {
                    type_: "Synced".to_owned(),
                    status: status.to_owned(),
                    last_update_time: None,
                    last_transition_time: None,
                    reason: None,
                    message: None,
                }],
                unsealed: Some(UnsealedRecord {
                    scope: "strict".to_owned(),
                    secret_uid: "secret-1".to_owned(),
                    secret_resource_version: "7".to_owned(),
                    keys: [].into(),
                }),
            },
            failed_with: None,
            scope: Scope::Strict,
        }
    }

    #[test]
    fn nothing_is_opened_while_the_record_holds() {
        assert_eq!(decide(&sealed(), Some(&pass("True")), Some(&live()), 1), Verdict::Unchanged);
    }

    #[test]
    fn every_change_that_matters_opens_again() {
        let opens = |sealed: &SealedSecret, last: Option<LastPass>, live: Option<LiveSecret>| {
            assert_eq!(decide(sealed, last.as_ref(), live.as_ref(), 1), Verdict::Unseal);
        };
        opens(&sealed(), None, None);
        opens(&sealed(), Some(pass("True")), None);
        opens(&sealed(), Some(pass("True")), Some(LiveSecret { resource_version: "8".to_owned(), ..live() }));
        opens(&sealed(), Some(pass("True")), Some(LiveSecret { uid: "secret-2".to_owned(), ..live() }));
        opens(&sealed(), Some(pass("False")), Some(live()));
        let mut edited = sealed();
        edited.metadata.generation = Some(4);
        opens(&edited, Some(pass("True")), Some(live()));
        let mut rescoped = sealed();
        rescoped.annotations_mut().insert(crds::scope::CLUSTER_WIDE.to_owned(), "true".to_owned());
        opens(&rescoped, Some(pass("True")), Some(live()));
    }

    #[test]
    fn a_failure_waits_for_another_ring_or_generation() {
        let failed = LastPass { failed_with: Some(1), ..pass("False") };
        assert_eq!(decide(&sealed(), Some(&failed), None, 1), Verdict::Unchanged);
        assert_eq!(decide(&sealed(), Some(&failed), None, 2), Verdict::Unseal);
        let mut edited = sealed();
        edited.metadata.generation = Some(4);
        assert_eq!(decide(&edited, Some(&failed), None, 1), Verdict::Unseal);
    }

    #[test]
    fn what_is_not_ours_is_never_touched() {
        let foreign = LiveSecret { uid: "other".to_owned(), owner: None, ..live() };
        let claimed = LiveSecret { owner: Some("someone".to_owned()), ..live() };
        for secret in [&foreign, &claimed] {
            assert_eq!(decide(&sealed(), Some(&pass("True")), Some(secret), 1), Verdict::NotManaged);
        }
        assert_eq!(decide(&sealed(), None, Some(&LiveSecret { managed: true, ..foreign.clone() }), 1), Verdict::Unseal);
        assert_eq!(decide(&sealed(), None, Some(&LiveSecret { patch: true, ..claimed }), 1), Verdict::Unseal);
        // Made without an owner reference, as the template asked: still ours.
        let ownerless = LiveSecret { owner: None, ..live() };
        assert_eq!(decide(&sealed(), Some(&pass("True")), Some(&ownerless), 1), Verdict::Unchanged);
    }
}
