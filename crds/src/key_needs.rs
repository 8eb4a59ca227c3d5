//! Which SealedSecrets still need which key, by what the controller recorded in their status. Where the record does not
//! speak of the object as it is now nobody knows, and that is an answer of its own: a key is given up only when nothing
//! needs it for certain.

use std::collections::BTreeMap;

use kube::{Resource as _, ResourceExt as _, core::DeserializeGuard};
use serde::Serialize;

use crate::{Fingerprint, Scope, SealedSecret, unseal::WHOLE};

/// A SealedSecret and those of its items that a key opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dependent {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The items.
    pub items: Vec<String>,
}

/// A SealedSecret of which nobody knows what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// See [`Needs::of`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    by_key: BTreeMap<Fingerprint, Vec<Dependent>>,
    /// Those that may need any key.
    pub unknown: Vec<Unknown>,
}

impl Needs {
    /// Reads all SealedSecrets of a cluster.
    pub fn of<'a>(all: impl IntoIterator<Item = &'a DeserializeGuard<SealedSecret>>) -> Self {
        let mut needs = Self::default();
        for guarded in all {
            let meta = guarded.meta();
            let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
            match guarded.0.as_ref().map_err(|_| "it cannot be read").and_then(items) {
                Ok(items) => {
                    for (key, items) in items {
                        let dependent = Dependent { namespace: namespace.clone(), name: name.clone(), items };
                        needs.by_key.entry(key).or_default().push(dependent);
                    }
                }
                Err(why) => needs.unknown.push(Unknown { namespace, name, why: why.to_owned() }),
            }
        }
        needs
    }

    /// Those that certainly need a key.
    pub fn dependents(&self, key: &Fingerprint) -> &[Dependent] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }
}

/// The items that each key opened; why it is not known otherwise.
fn items(sealed: &SealedSecret) -> Result<BTreeMap<Fingerprint, Vec<String>>, &'static str> {
    let status = sealed.status.as_ref().ok_or("no controller has looked at it yet")?;
    if status.observed_generation != sealed.metadata.generation {
        return Err("the controller has not seen its last change yet");
    }
    if sealed.synced().is_none_or(|synced| synced.status != "True") {
        return Err("it is not synced: see its status");
    }
    let record = status.unsealed.as_ref().ok_or("its status does not say which key opened it")?;
    if record.scope != Scope::from_annotations(sealed.annotations()).as_str() {
        return Err("the controller has not seen its last change yet");
    }
    let whole = sealed.spec.data.iter().map(|_| WHOLE);
    let mut needed: BTreeMap<Fingerprint, Vec<String>> = BTreeMap::new();
    for item in whole.chain(sealed.spec.encrypted_data.keys().map(String::as_str)) {
        let key = record.keys.get(item).ok_or("its status does not say which key opened it")?;
        needed.entry(key.clone()).or_default().push(item.to_owned());
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sealed(name: &str, change: impl FnOnce(&mut Value)) -> DeserializeGuard<SealedSecret> {
        let mut object = json!({
            "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
            "metadata": {"name": name, "namespace": "shop", "generation": 2},
            "spec": {"encryptedData": {"a": "AgA=", "b": "AgA="}},
            "status": {
                "observedGeneration": 2,
                "conditions": [{"type": "Synced", "status": "True"}],
                "unsealed": {
                    "scope": "strict", "secretUid": "1", "secretResourceVersion": "1",
                    "keys": {"a": "SHA256:old", "b": "SHA256:new"},
                },
            },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    type Change = fn(&mut Value);

    fn key(name: &str) -> Fingerprint {
        serde_json::from_value(json!(format!("SHA256:{name}"))).unwrap()
    }

    #[test]
    fn a_key_is_needed_by_what_it_opened() {
        let needs = Needs::of(&[
            sealed("db", |_| {}),
            sealed("web", |it| it["status"]["unsealed"]["keys"]["a"] = json!("SHA256:new")),
        ]);
        let dependent = |name: &str, items: &[&str]| Dependent {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            items: items.iter().map(|&item| item.to_owned()).collect(),
        };
        assert_eq!(needs.dependents(&key("old")), [dependent("db", &["a"])]);
        assert_eq!(needs.dependents(&key("new")), [dependent("db", &["b"]), dependent("web", &["a", "b"])]);
        assert_eq!((needs.dependents(&key("other")), needs.unknown.as_slice()), (&[][..], &[][..]));
    }

    #[test]
    fn a_record_that_is_not_of_the_object_as_it_is_says_nothing() {
        let changes: [(Change, &str); 8] = [
            (|it| it["status"] = Value::Null, "no controller has looked at it yet"),
            (|it| it["metadata"]["generation"] = json!(3), "the controller has not seen its last change yet"),
            (|it| it["status"]["conditions"][0]["status"] = json!("False"), "it is not synced: see its status"),
            (|it| it["status"]["conditions"] = json!([]), "it is not synced: see its status"),
            (|it| it["status"]["unsealed"] = Value::Null, "its status does not say which key opened it"),
            (
                |it| it["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/cluster-wide": "true"}),
                "the controller has not seen its last change yet",
            ),
            (|it| it["spec"]["encryptedData"]["c"] = json!("AgA="), "its status does not say which key opened it"),
            (|it| it["spec"] = json!("broken"), "it cannot be read"),
        ];
        for (change, why) in changes {
            let needs = Needs::of(&[sealed("db", change)]);
            assert!(needs.by_key.is_empty(), "{why}");
            assert_eq!(needs.unknown.iter().map(|it| it.why.as_str()).collect::<Vec<_>>(), [why]);
        }
    }

    #[test]
    fn the_deprecated_form_needs_the_key_of_the_whole() {
        let whole = sealed("db", |it| {
            it["spec"] = json!({"data": "AgA=", "encryptedData": {}});
            it["status"]["unsealed"]["keys"] = json!({"data": "SHA256:old"});
        });
        assert_eq!(Needs::of(&[whole]).dependents(&key("old"))[0].items, [WHOLE]);
    }
}
