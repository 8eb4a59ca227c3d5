//! Objects as a watch brings them, kept as JSON text: thousands of trees of it would take three times the memory. What
//! of them cannot be read is an error of whoever reads it, and not of the watch. Pure.

use std::{borrow::Cow, fmt, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::object::HasStatus};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// An object of a kind that has `spec` and `status`. Nobody asks for its managed fields, nor for what `kubectl apply`
/// noted of it: neither is kept.
pub struct Kept<K> {
    metadata: ObjectMeta,
    /// All but the metadata; the status comes last.
    text: Box<str>,
    /// How much of that the status is.
    status: usize,
    kind: PhantomData<fn() -> K>,
}

/// What is read of the text that comes, and what is kept of it.
#[derive(Serialize, Deserialize)]
struct Parts {
    metadata: ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Box<RawValue>>,
}

impl<K: Resource + DeserializeOwned> Kept<K> {
    /// The object, or what is wrong with it.
    pub fn read(&self) -> Result<K, String> {
        let mut object: K =
            serde_json::from_str(&self.text).map_err(|error| self.why().unwrap_or(error).to_string())?;
        object.meta_mut().clone_from(&self.metadata);
        Ok(object)
    }

    /// What its status says, if that can be read: much less to read than the whole.
    pub fn status(&self) -> Option<K::Status>
    where
        K: HasStatus<Status: DeserializeOwned>,
    {
        let end = self.text.len().checked_sub(1)?;
        serde_json::from_str(self.text.get(end.checked_sub(self.status)?..end)?).ok()
    }

    /// The same error without the place of it, which is one in our own text.
    fn why(&self) -> Option<serde_json::Error> {
        let value: Value = serde_json::from_str(&self.text).ok()?;
        serde_json::from_value::<K>(value).err()
    }
}

impl<'de, K> Deserialize<'de> for Kept<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::deserialize(deserializer)?;
        let mut metadata = std::mem::take(&mut parts.metadata);
        metadata.managed_fields = None;
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        let text = serde_json::to_string(&parts).map_err(serde::de::Error::custom)?;
        let status = parts.status.map_or(0, |status| status.get().len());
        Ok(Self { metadata, text: text.into(), status, kind: PhantomData })
    }
}

impl<K> Clone for Kept<K> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), text: self.text.clone(), status: self.status, kind: PhantomData }
    }
}

/// Its name: what it holds may be a secret.
impl<K> fmt::Debug for Kept<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectMeta { namespace, name, .. } = &self.metadata;
        f.debug_struct("Kept").field("namespace", namespace).field("name", name).finish_non_exhaustive()
    }
}

impl<K: Resource> Resource for Kept<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use crds::SealedSecret;
    use kube::{ResourceExt as _, core::WatchEvent};
    use serde_json::json;

    use super::*;

    fn sealed() -> Value {
        json!({
            "apiVersion": "bitnami.com/v1alpha1",
            "kind": "SealedSecret",
            "metadata": {
                "name": "db",
                "namespace": "shop",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "a"},
                "managedFields": [{"manager": "kubectl", "operation": "Apply"}],
            },
            "spec": {"encryptedData": {"password": "AgB"}, "template": {"type": "Opaque"}},
            "status": {"observedGeneration": 3},
        })
    }

    #[test]
    fn what_is_read_is_what_came() {
        let kept: Kept<SealedSecret> = serde_json::from_str(&sealed().to_string()).unwrap();
        let mut wanted: SealedSecret = serde_json::from_value(sealed()).unwrap();
        wanted.metadata.managed_fields = None;
        wanted.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
        let value = |object: &SealedSecret| serde_json::to_value(object).unwrap();
        assert_eq!(value(&kept.read().unwrap()), value(&wanted));
        assert_eq!(kept.status(), wanted.status);
        assert_eq!((kept.name_any().as_str(), kept.namespace().as_deref()), ("db", Some("shop")));
    }

    #[test]
    fn it_comes_by_a_watch() {
        let line = format!(r#"{{"type": "MODIFIED", "object": {}}}"#, sealed());
        let WatchEvent::Modified(kept) = serde_json::from_str::<WatchEvent<Kept<SealedSecret>>>(&line).unwrap() else {
            unreachable!("the event is a change")
        };
        assert_eq!(kept.read().unwrap().spec.encrypted_data["password"], "AgB");
    }

    #[test]
    fn what_cannot_be_read_is_nobody_elses_trouble() {
        let mut broken = sealed();
        broken["spec"]["encryptedData"] = json!(5);
        let kept: Kept<SealedSecret> = serde_json::from_value(broken).unwrap();
        assert_eq!(kept.name_any(), "db");
        assert_eq!(kept.read().unwrap_err(), "invalid type: integer `5`, expected a map");
        assert_eq!(kept.status().unwrap().observed_generation, Some(3));
        let empty: Kept<SealedSecret> = serde_json::from_value(json!({"metadata": {"name": "db"}})).unwrap();
        assert_eq!(empty.read().unwrap_err(), "missing field `spec`");
        assert_eq!(empty.status(), None);
    }

    #[test]
    fn debug_shows_no_content() {
        let kept: Kept<SealedSecret> = serde_json::from_value(sealed()).unwrap();
        assert!(!format!("{kept:?}").contains("AgB"));
    }
}
