//! What an object chooses by its own annotations and labels, which change without a new generation. Pure. The table for
//! users is `docs/annotations.md`.

use std::collections::BTreeMap;

use crds::{
    Scope, base64,
    recipients::RECIPIENTS,
    template::MissingKey,
    unseal::{ClearSecret, SKIP_OWNER},
};
use kube::{ResourceExt as _, core::ObjectMeta};
use sha2::{Digest as _, Sha256};

/// On a SealedSecret: its Secret stays when it goes.
pub const RETAIN: &str = "sealedsecrets.bitnami.com/retain";
/// On a SealedSecret: a Secret that cannot be changed is made anew.
pub const REPLACE: &str = "sealedsecrets.bitnami.com/replace";
/// On a SealedSecret: its labels are put on the Secret.
pub const COPY_LABELS: &str = "sealedsecrets.bitnami.com/copy-labels";
/// On a SealedSecret: edits of the Secret are left alone.
pub const IGNORE_DRIFT: &str = "sealedsecrets.bitnami.com/ignore-drift";
/// On a Secret without an owner: the UID of the SealedSecret that it was made for. So it is ours though whoever made it did
/// not live to note that in the status.
pub const MADE_FOR: &str = "sealedsecrets.bitnami.com/made-for";
/// On a Secret: may be taken over.
pub const MANAGED: &str = "sealedsecrets.bitnami.com/managed";
/// On a Secret: may be added to, but stays its owner's.
pub const PATCH: &str = "sealedsecrets.bitnami.com/patch";

/// Labels that say which GitSync applied an object; they are about the SealedSecret and not about its Secret.
const APPLIED_BY: &str = "gitsync.signet.dev/";

/// The choices of one SealedSecret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Where it may be opened.
    pub scope: Scope,
    /// [`RETAIN`].
    pub retain: bool,
    /// [`REPLACE`].
    pub replace: bool,
    /// [`IGNORE_DRIFT`].
    pub ignore_drift: bool,
    /// What becomes of a template that names a key which is not there.
    pub missing_key: MissingKey,
    /// Labels for the Secret; empty without [`COPY_LABELS`].
    pub labels: BTreeMap<String, String>,
    /// Hash of [`RECIPIENTS`], by which other keys may open it, or none.
    pub recipients: Option<String>,
}

impl Choices {
    /// Reads them off a SealedSecret's metadata.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let annotations = metadata.annotations.clone().unwrap_or_default();
        let chosen = |key| annotations.get(key).is_some_and(|value| value == "true");
        let mut labels = metadata.labels.clone().filter(|_| chosen(COPY_LABELS)).unwrap_or_default();
        labels.retain(|key, _| !key.starts_with(APPLIED_BY));
        Self {
            scope: Scope::from_annotations(&annotations),
            retain: chosen(RETAIN),
            replace: chosen(REPLACE),
            ignore_drift: chosen(IGNORE_DRIFT),
            missing_key: MissingKey::from_annotations(&annotations),
            labels,
            recipients: annotations.get(RECIPIENTS).map(|text| base64::encode(&Sha256::digest(text))),
        }
    }

    /// What of them the Secret shows, besides the scope; recorded so that a restart sees a change. `None` for nothing.
    pub fn shown(&self) -> Option<String> {
        let labels = (!self.labels.is_empty()).then(|| {
            let mut hash = Sha256::new();
            for (key, value) in &self.labels {
                hash.update(format!("{key}={value}\n"));
            }
            format!("labels {}", base64::encode(&hash.finalize()))
        });
        let words = [(self.retain, "retain"), (self.missing_key == MissingKey::Error, "fail-on-missing-key")];
        let words = words.iter().filter(|(chosen, _)| *chosen).map(|(_, word)| (*word).to_owned());
        let recipients = self.recipients.iter().map(|hash| format!("recipients {hash}"));
        let words: Vec<String> = words.chain(labels).chain(recipients).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// Makes the Secret, for the SealedSecret of this UID, show them.
    pub fn shape(&self, clear: &mut ClearSecret, uid: Option<&str>) {
        let secret = clear.expose_mut();
        if let (None, Some(uid)) = (&secret.metadata.owner_references, uid) {
            secret.annotations_mut().insert(MADE_FOR.to_owned(), uid.to_owned());
        }
        if self.retain {
            secret.metadata.owner_references = None;
            secret.annotations_mut().extend([SKIP_OWNER, MANAGED].map(|key| (key.to_owned(), "true".to_owned())));
        }
        if !self.labels.is_empty() {
            let own = std::mem::replace(secret.labels_mut(), self.labels.clone());
            secret.labels_mut().extend(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use crds::template::FAIL_ON_MISSING_KEY;
    use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};

    use super::*;

    fn choices(annotations: &[&str], labels: &[(&str, &str)]) -> Choices {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Choices::of(&ObjectMeta {
            annotations: Some(annotations.iter().map(|key| pair(&(key, "true"))).collect()),
            labels: Some(labels.iter().map(pair).collect()),
            ..ObjectMeta::default()
        })
    }

    #[test]
    fn every_choice_is_documented() {
        let table = include_str!("../../../docs/annotations.md");
        let all = [RETAIN, REPLACE, COPY_LABELS, IGNORE_DRIFT, FAIL_ON_MISSING_KEY, MANAGED, PATCH, SKIP_OWNER];
        for key in all.into_iter().chain([crds::scope::CLUSTER_WIDE, crds::scope::NAMESPACE_WIDE]) {
            let name = key.strip_prefix("sealedsecrets.bitnami.com/").unwrap();
            assert!(table.contains(&format!("\n| `{name}`")), "{name}");
        }
    }

    #[test]
    fn only_true_is_a_choice() {
        assert_eq!(choices(&[], &[("a", "b")]), Choices::default());
        let maybe = BTreeMap::from([(RETAIN.to_owned(), "yes".to_owned())]);
        assert!(!Choices::of(&ObjectMeta { annotations: Some(maybe), ..ObjectMeta::default() }).retain);
        let all = choices(&[RETAIN, REPLACE, IGNORE_DRIFT, crds::scope::CLUSTER_WIDE], &[]);
        assert!(all.retain && all.replace && all.ignore_drift && all.scope == Scope::ClusterWide);
    }

    #[test]
    fn what_the_secret_shows_is_recorded_and_nothing_else() {
        assert_eq!(choices(&[REPLACE, IGNORE_DRIFT], &[("a", "b")]).shown(), None);
        let shown = |labels: &[(&str, &str)]| choices(&[RETAIN, COPY_LABELS], labels).shown().unwrap();
        assert_eq!(shown(&[]), "retain");
        assert_ne!(shown(&[("a", "b")]), shown(&[("a", "c")]));
        assert_eq!(choices(&[FAIL_ON_MISSING_KEY], &[]).shown().unwrap(), "fail-on-missing-key");
        assert_eq!(shown(&[("gitsync.signet.dev/name", "shop")]), "retain", "about the SealedSecret alone");
        let sealed_for = |recipients: &str| {
            let annotations = Some([(RECIPIENTS.to_owned(), recipients.to_owned())].into());
            Choices::of(&ObjectMeta { annotations, ..ObjectMeta::default() }).shown()
        };
        assert!(sealed_for("a").is_some() && sealed_for("a") != sealed_for("b"), "another key may open it now");
    }

    #[test]
    fn a_secret_is_shaped_by_them() {
        let owned = || {
            let mut secret = Secret::default();
            secret.metadata.owner_references = Some(vec![OwnerReference::default()]);
            secret.labels_mut().insert("a".to_owned(), "template".to_owned());
            ClearSecret::new(secret)
        };
        let mut plain = owned();
        choices(&[], &[("a", "own"), ("b", "own")]).shape(&mut plain, None);
        assert_eq!((plain.expose().owner_references().len(), plain.expose().labels().len()), (1, 1));

        let mut shaped = owned();
        choices(&[RETAIN, COPY_LABELS], &[("a", "own"), ("b", "own")]).shape(&mut shaped, None);
        let shaped = shaped.expose();
        assert!(shaped.owner_references().is_empty());
        assert_eq!(shaped.annotations()[MANAGED], "true", "so that whoever comes back may take it over");
        assert_eq!((shaped.labels()["a"].as_str(), shaped.labels()["b"].as_str()), ("template", "own"));
    }
}
