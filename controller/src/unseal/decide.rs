//! Decides what a SealedSecret needs, by metadata alone: nothing is decrypted to find out that nothing changed. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crds::{
    SealedSecret,
    sealed_secret::{SealedSecretStatus, UnsealedRecord},
};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{ResourceExt as _, core::PartialObjectMeta};

use super::{
    adopt,
    choices::{Choices, MADE_FOR, MANAGED, PATCH},
};
use crate::context::FIELD_MANAGER;

/// What is kept of a Secret. Never its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "facts, of which any may be true")]
pub struct LiveSecret {
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// UID of its controlling owner or, where it has none, of the SealedSecret that it says to be [`MADE_FOR`].
    pub owner: Option<String>,
    /// Carries [`MANAGED`].
    pub managed: bool,
    /// Carries [`PATCH`].
    pub patch: bool,
    /// Keys of its data that somebody else wrote, as its managed fields tell. We may have written them too.
    pub foreign: Box<[String]>,
    /// Some of it is as it was created, by us or by upstream's controller, and not applied since.
    pub created: bool,
    /// It was deleted, and stays until its finalizers are done.
    pub going: bool,
}

impl From<&PartialObjectMeta<Secret>> for LiveSecret {
    fn from(secret: &PartialObjectMeta<Secret>) -> Self {
        let marked = |key| secret.annotations().get(key).is_some_and(|value| value == "true");
        let controls = |owner: &&OwnerReference| owner.controller == Some(true);
        let others = secret.managed_fields().iter().filter(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER));
        // Whoever applies `stringData` is noted under that, although it ends up as data.
        let fields = others.filter_map(|entry| entry.fields_v1.as_ref());
        let data = fields.flat_map(|fields| ["f:data", "f:stringData"].map(|field| fields.0.get(field)));
        let keys = data.flatten().filter_map(|data| data.as_object()).flat_map(|data| data.keys());
        let mut foreign: Vec<String> = keys.filter_map(|key| key.strip_prefix("f:")).map(str::to_owned).collect();
        foreign.sort_unstable();
        foreign.dedup();
        let owner = secret.owner_references().iter().find(controls).map(|owner| owner.uid.clone());
        let owner = owner.or_else(|| secret.annotations().get(MADE_FOR).cloned());
        Self {
            uid: secret.uid().unwrap_or_default(),
            resource_version: secret.resource_version().unwrap_or_default(),
            created: secret.managed_fields().iter().any(|entry| adopt::is_of_creation(entry, owner.as_deref())),
            owner,
            managed: marked(MANAGED),
            patch: marked(PATCH),
            foreign: foreign.into(),
            going: secret.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// What is known of the Secret of a SealedSecret's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Live {
    /// Nobody watches Secrets (`--skip-recreate`).
    Unwatched,
    /// There is none.
    Absent,
    /// It is there.
    Present(LiveSecret),
}

impl Live {
    /// The Secret, if it is known to be there.
    pub fn secret(&self) -> Option<&LiveSecret> {
        match self {
            Self::Present(secret) => Some(secret),
            Self::Unwatched | Self::Absent => None,
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
    /// The Secret is on its way out, and another one comes when it has gone.
    Going,
    /// Open the items and write the Secret.
    Unseal,
}

/// What the last pass over an object came to. Held in memory; after a restart only what `status` says is known.
#[derive(Clone, Debug, PartialEq)]
pub struct LastPass {
    /// The status it wrote, or found.
    pub status: SealedSecretStatus,
    /// What it waits for, if it failed in a way that trying again does not mend.
    pub stuck: Option<Stuck>,
}

/// A failure that lasts while this does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The ring that it failed with.
    pub ring: RingVersion,
    /// The annotations and labels that it failed with, which change without a new generation.
    pub chosen: u64,
    /// The version of the Secret that it failed on, if the Secret had a part in it.
    pub secret: Option<String>,
}

/// Changes when an object's annotations or labels do. For this process only.
pub fn chosen(sealed: &SealedSecret) -> u64 {
    let mut hasher = DefaultHasher::new();
    (sealed.annotations(), sealed.labels()).hash(&mut hasher);
    hasher.finish()
}

/// Counts the changes of the ring.
pub type RingVersion = u64;

/// Decides. `last` is the last pass in this process, else what the status tells of an earlier one.
pub fn decide(sealed: &SealedSecret, last: Option<&LastPass>, live: &Live, ring: RingVersion) -> Verdict {
    let record = last.and_then(|last| last.status.unsealed.as_ref());
    if live.secret().is_some_and(|live| !may_write(sealed, record, live)) {
        return Verdict::NotManaged;
    }
    if live.secret().is_some_and(|live| live.going) {
        return Verdict::Going;
    }
    let Some(last) = last else { return Verdict::Unseal };
    if last.status.observed_generation != sealed.metadata.generation {
        return Verdict::Unseal;
    }
    let choices = Choices::of(&sealed.metadata);
    let stuck = last.stuck.as_ref().is_some_and(|stuck| {
        let version = live.secret().map(|secret| &secret.resource_version);
        stuck.ring == ring
            && stuck.chosen == chosen(sealed)
            && (stuck.secret.is_none() || stuck.secret.as_ref() == version)
    });
    let synced = last.status.conditions.iter().any(|condition| condition.status == "True");
    let holds = record.is_some_and(|record| {
        record.scope == choices.scope.as_str() && record.choices == choices.shown() && as_left(record, live, &choices)
    });
    if stuck || (synced && holds) { Verdict::Unchanged } else { Verdict::Unseal }
}

/// Whether the Secret is no longer as we left it, though the same is wanted.
pub fn is_healing(sealed: &SealedSecret, last: &LastPass, live: &Live) -> bool {
    let is_same = last.status.observed_generation == sealed.metadata.generation;
    let left = |record: &UnsealedRecord| {
        live.secret().is_some_and(|live| {
            record.secret_uid == live.uid && record.secret_resource_version == live.resource_version
        })
    };
    is_same && last.status.unsealed.as_ref().is_some_and(|record| !left(record))
}

/// Who else wrote a Secret last.
pub fn last_other(secret: &PartialObjectMeta<Secret>) -> Option<String> {
    let others = secret.managed_fields().iter().filter(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER));
    others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?.manager.clone()
}

/// Whether the Secret still is what the last pass made, or may differ.
fn as_left(record: &UnsealedRecord, live: &Live, choices: &Choices) -> bool {
    match live {
        Live::Unwatched => true,
        Live::Absent => false,
        Live::Present(live) => {
            let same = record.secret_resource_version == live.resource_version;
            record.secret_uid == live.uid && (same || choices.ignore_drift)
        }
    }
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
    use crds::{
        scope::CLUSTER_WIDE,
        sealed_secret::{SealedSecretCondition, SealedSecretSpec},
    };
    use serde_json::json;

    use super::super::choices::{IGNORE_DRIFT, REPLACE, RETAIN};

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
            foreign: [].into(),
            created: false,
            going: false,
        }
    }

    fn present() -> Live {
        Live::Present(live())
    }

    fn annotated(keys: &[&str]) -> SealedSecret {
        let mut sealed = sealed();
        sealed.annotations_mut().extend(keys.iter().map(|key| ((*key).to_owned(), "true".to_owned())));
        sealed
    }

    fn stuck(secret: Option<&str>) -> LastPass {
        let stuck = Stuck { ring: 1, chosen: chosen(&sealed()), secret: secret.map(str::to_owned) };
        LastPass { stuck: Some(stuck), ..pass("False") }
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
                    choices: None,
                    secret_uid: "secret-1".to_owned(),
                    secret_resource_version: "7".to_owned(),
                    keys: [].into(),
                }),
            },
            stuck: None,
        }
    }

    #[test]
    fn nothing_is_opened_while_the_record_holds() {
        assert_eq!(decide(&sealed(), Some(&pass("True")), &present(), 1), Verdict::Unchanged);
        assert_eq!(decide(&annotated(&[REPLACE]), Some(&pass("True")), &present(), 1), Verdict::Unchanged);
    }

    #[test]
    fn every_change_that_matters_opens_again() {
        let opens = |sealed: &SealedSecret, last: Option<LastPass>, live: &Live| {
            assert_eq!(decide(sealed, last.as_ref(), live, 1), Verdict::Unseal);
        };
        opens(&sealed(), None, &Live::Absent);
        opens(&sealed(), None, &Live::Unwatched);
        opens(&sealed(), Some(pass("True")), &Live::Absent);
        opens(&sealed(), Some(pass("True")), &edited());
        opens(&sealed(), Some(pass("True")), &Live::Present(LiveSecret { uid: "secret-2".to_owned(), ..live() }));
        opens(&sealed(), Some(pass("False")), &present());
        let mut edited = sealed();
        edited.metadata.generation = Some(4);
        opens(&edited, Some(pass("True")), &present());
        opens(&annotated(&[CLUSTER_WIDE]), Some(pass("True")), &present());
        opens(&annotated(&[RETAIN]), Some(pass("True")), &present());
    }

    fn edited() -> Live {
        Live::Present(LiveSecret { resource_version: "8".to_owned(), ..live() })
    }

    #[test]
    fn drift_is_left_alone_where_that_was_chosen() {
        let ignoring = annotated(&[IGNORE_DRIFT]);
        assert_eq!(decide(&ignoring, Some(&pass("True")), &edited(), 1), Verdict::Unchanged);
        assert_eq!(decide(&ignoring, Some(&pass("True")), &Live::Absent, 1), Verdict::Unseal, "gone is not edited");
        assert_eq!(decide(&sealed(), Some(&pass("True")), &Live::Unwatched, 1), Verdict::Unchanged);
    }

    #[test]
    fn a_failure_waits_for_what_could_mend_it() {
        let failed = stuck(None);
        assert_eq!(decide(&sealed(), Some(&failed), &Live::Absent, 1), Verdict::Unchanged);
        assert_eq!(decide(&sealed(), Some(&failed), &present(), 1), Verdict::Unchanged);
        assert_eq!(decide(&sealed(), Some(&failed), &Live::Absent, 2), Verdict::Unseal, "another key");
        assert_eq!(decide(&annotated(&[CLUSTER_WIDE]), Some(&failed), &Live::Absent, 1), Verdict::Unseal);
        let mut edited_object = sealed();
        edited_object.metadata.generation = Some(4);
        assert_eq!(decide(&edited_object, Some(&failed), &Live::Absent, 1), Verdict::Unseal);

        let immutable = stuck(Some("7"));
        assert_eq!(decide(&sealed(), Some(&immutable), &present(), 1), Verdict::Unchanged);
        assert_eq!(decide(&sealed(), Some(&immutable), &edited(), 1), Verdict::Unseal);
        assert_eq!(decide(&sealed(), Some(&immutable), &Live::Absent, 1), Verdict::Unseal);
        assert_eq!(decide(&annotated(&[REPLACE]), Some(&immutable), &present(), 1), Verdict::Unseal);
    }

    #[test]
    fn what_is_not_ours_is_never_touched() {
        let foreign = LiveSecret { uid: "other".to_owned(), owner: None, ..live() };
        let claimed = LiveSecret { owner: Some("someone".to_owned()), ..live() };
        for secret in [&foreign, &claimed] {
            let live = Live::Present(secret.clone());
            assert_eq!(decide(&sealed(), Some(&pass("True")), &live, 1), Verdict::NotManaged);
        }
        let managed = Live::Present(LiveSecret { managed: true, ..foreign.clone() });
        assert_eq!(decide(&sealed(), None, &managed, 1), Verdict::Unseal);
        assert_eq!(decide(&sealed(), None, &Live::Present(LiveSecret { patch: true, ..claimed }), 1), Verdict::Unseal);
        // Made without an owner reference, as the template asked: still ours.
        let ownerless = Live::Present(LiveSecret { owner: None, ..live() });
        assert_eq!(decide(&sealed(), Some(&pass("True")), &ownerless, 1), Verdict::Unchanged);
    }

    #[test]
    fn what_is_on_its_way_out_is_waited_for() {
        let going = LiveSecret { going: true, ..live() };
        for last in [None, Some(pass("True")), Some(pass("False"))] {
            let live = Live::Present(going.clone());
            assert_eq!(decide(&annotated(&[REPLACE]), last.as_ref(), &live, 1), Verdict::Going);
        }
        let foreign = Live::Present(LiveSecret { owner: None, uid: "other".to_owned(), ..going });
        assert_eq!(decide(&sealed(), None, &foreign, 1), Verdict::NotManaged);
    }

    #[test]
    fn without_an_owner_it_is_ours_by_what_it_was_made_for() {
        let made_for = |uid: &str| {
            let metadata = json!({"name": "db", "uid": "secret-1", "annotations": {MADE_FOR: uid}});
            let secret: PartialObjectMeta<Secret> = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
            Live::Present((&secret).into())
        };
        assert_eq!(decide(&sealed(), None, &made_for("sealed-1"), 1), Verdict::Unseal);
        assert_eq!(decide(&sealed(), None, &made_for("sealed-2"), 1), Verdict::NotManaged);
    }

    #[test]
    fn what_others_wrote_is_read_off_the_managed_fields() {
        let fields = |keys: &[&str]| {
            let data: serde_json::Map<_, _> = keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect();
            json!({"f:data": data, "f:type": {}})
        };
        let entry = |manager: &str, operation: &str, keys: &[&str]| json!({"manager": manager, "operation": operation, "fieldsV1": fields(keys)});
        let secret = json!({"metadata": {"name": "db", "managedFields": [
            entry(FIELD_MANAGER, "Apply", &["a"]),
            entry("controller", "Update", &["b", "a"]),
            entry("kubectl-edit", "Update", &["c", "b"]),
            {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:stringData": {"f:d": {}}}},
        ]}});
        let secret: PartialObjectMeta<Secret> = serde_json::from_value(secret).unwrap();
        assert_eq!(*LiveSecret::from(&secret).foreign, ["a", "b", "c", "d"].map(str::to_owned));
    }
}
