//! Which present values one may see: with private keys, or with the right to read the cluster's Secret. Everything here
//! is in the clear only as long as it lives.

use crds::{KeyRing, Plaintext, SealedSecret, sealed_secret::SealedSecretSpec, unseal, unseal::ClearSecret};
use kube::ResourceExt as _;

/// What lets values be seen.
#[derive(Debug)]
pub enum Sight {
    /// Nothing does.
    None,
    Keys(KeyRing),
    Cluster(Box<Seen>),
}

/// What the cluster holds. Its Secret shows a value of the file only where both come from the same ciphertext.
#[derive(Debug)]
pub struct Seen {
    pub sealed: SealedSecret,
    pub secret: ClearSecret,
}

impl Seen {
    fn shows(&self, sealed: &SealedSecret, item: &str) -> bool {
        let Self { sealed: live, .. } = self;
        let observed = live.status.as_ref().and_then(|status| status.observed_generation);
        let synced = live.synced().is_some_and(|condition| condition.status == "True");
        let same = live.spec.encrypted_data.get(item) == sealed.spec.encrypted_data.get(item);
        synced && same && observed == live.metadata.generation
    }
}

impl Sight {
    /// The value of an item, if it can be seen.
    pub fn value(&self, sealed: &SealedSecret, item: &str) -> Option<Plaintext> {
        match self {
            Self::None => None,
            Self::Keys(keys) => open(sealed, item, keys),
            Self::Cluster(seen) => {
                let value = seen.secret.expose().data.as_ref()?.get(item)?;
                seen.shows(sealed, item).then(|| Plaintext::new(value.0.clone()))
            }
        }
    }
}

/// Opens one item by itself: what else the object holds, and whether that opens, does not matter.
pub fn open(sealed: &SealedSecret, item: &str, keys: &KeyRing) -> Option<Plaintext> {
    let blob = sealed.spec.encrypted_data.get(item)?;
    let mut alone = SealedSecret::new(&sealed.name_any(), SealedSecretSpec::default());
    alone.metadata = sealed.metadata.clone();
    alone.spec.encrypted_data.insert(item.to_owned(), blob.clone());
    unseal::open(&alone, keys, None).outcome.ok()?.values.remove(item)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{ByteString, api::core::v1::Secret};
    use serde_json::json;

    use super::*;

    fn sealed(blob: &str, status: &str, observed: i64) -> SealedSecret {
        serde_json::from_value(json!({
            "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
            "metadata": {"name": "db", "generation": 2}, "spec": {"encryptedData": {"a": blob}},
            "status": {"observedGeneration": observed, "conditions": [{"type": "Synced", "status": status}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_cluster_shows_a_value_only_where_it_is_the_files() {
        let file = sealed("AgA", "True", 2);
        for (live, shown) in [
            (sealed("AgA", "True", 2), true),
            (sealed("AgB", "True", 2), false),
            (sealed("AgA", "False", 2), false),
            (sealed("AgA", "True", 1), false),
        ] {
            let data = [("a".to_owned(), ByteString(b"hunter2".to_vec()))].into();
            let secret = ClearSecret::new(Secret { data: Some(data), ..Secret::default() });
            let sight = Sight::Cluster(Box::new(Seen { sealed: live, secret }));
            assert_eq!(sight.value(&file, "a").is_some(), shown);
            assert!(sight.value(&file, "b").is_none());
            assert!(!format!("{sight:?}").contains("hunter2"));
        }
    }
}
