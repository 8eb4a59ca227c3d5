//! What is in the cluster because of a `GitSync`, as its status says it. Thousands of objects are one status, which is written
//! again with every change: names by kind and namespace are all there is, a fifth of what Flux's spelling with UIDs takes.
//! Which object of a name is ours is not for a record to say: the object bears the labels and the fields that we applied,
//! and is deleted by the UID that it has then. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::object::ObjectId;

/// Objects, and the API version under which each was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Written", into = "Written")]
pub struct Inventory {
    /// By what they are called.
    pub objects: BTreeMap<ObjectId, String>,
}

impl Inventory {
    /// As earlier versions wrote it, for a definition that knows no other form.
    pub fn in_entries(&self) -> impl Serialize {
        let entry = |(id, v): (&ObjectId, &String)| Entry { id: id.inventory_id(), v: v.clone(), uid: None };
        Written { kinds: Vec::new(), entries: self.objects.iter().map(entry).collect() }
    }
}

/// What is in the cluster because of a GitSync.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Inventory")]
struct Written {
    /// Objects of one kind in one namespace.
    #[serde(default)]
    kinds: Vec<Shelf>,
    /// As earlier versions wrote it: it is read, and written as kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    entries: Vec<Entry>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Shelf {
    /// Under which they were applied; it is no part of what they are.
    api_version: String,
    /// Their kind.
    kind: String,
    /// Absent for what belongs to none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    /// Their names.
    names: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Entry {
    /// namespace_name_group_kind, as Flux writes it.
    id: String,
    /// API version.
    v: String,
    /// UID, which is not asked for any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
}

impl From<Inventory> for Written {
    fn from(Inventory { objects }: Inventory) -> Self {
        let mut kinds: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (ObjectId { namespace, name, group, kind }, version) in objects {
            let api_version = if group.is_empty() { version } else { format!("{group}/{version}") };
            kinds.entry((namespace, kind, api_version)).or_default().push(name);
        }
        let shelf = |((namespace, kind, api_version), names)| Shelf { api_version, kind, namespace, names };
        Self { kinds: kinds.into_iter().map(shelf).collect(), entries: Vec::new() }
    }
}

impl From<Written> for Inventory {
    fn from(Written { kinds, entries }: Written) -> Self {
        let old = entries.into_iter().filter_map(|Entry { id, v, .. }| Some((ObjectId::from_inventory(&id)?, v)));
        let named = kinds.into_iter().flat_map(|Shelf { api_version, kind, namespace, names }| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            let (group, version) = (group.to_owned(), version.to_owned());
            names.into_iter().map(move |name| {
                let (namespace, group, kind) = (namespace.clone(), group.clone(), kind.clone());
                (ObjectId { namespace, name, group, kind }, version.clone())
            })
        });
        Self { objects: old.chain(named).collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inventory() -> Inventory {
        let objects = [
            ("shop", "web", "apps", "Deployment", "v1"),
            ("shop", "a", "", "ConfigMap", "v1"),
            ("shop", "b", "", "ConfigMap", "v1"),
            ("", "system:a:b", "rbac.authorization.k8s.io", "ClusterRole", "v1"),
        ];
        let object = |(namespace, name, group, kind, version): (&str, &str, &str, &str, &str)| {
            let [namespace, name, group, kind] = [namespace, name, group, kind].map(str::to_owned);
            (ObjectId { namespace, name, group, kind }, version.to_owned())
        };
        Inventory { objects: objects.into_iter().map(object).collect() }
    }

    #[test]
    fn names_stand_below_their_kind_and_namespace() {
        let written = json!({"kinds": [
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "names": ["system:a:b"]},
            {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "names": ["a", "b"]},
            {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "names": ["web"]},
        ]});
        assert_eq!(serde_json::to_value(inventory()).unwrap(), written);
        assert_eq!(serde_json::from_value::<Inventory>(written).unwrap(), inventory());
    }

    #[test]
    fn what_earlier_versions_wrote_is_read() {
        let old = json!({"entries": [
            {"id": "_system__a__b_rbac.authorization.k8s.io_ClusterRole", "v": "v1", "uid": "1"},
            {"id": "shop_a__ConfigMap", "v": "v1"},
            {"id": "shop_b__ConfigMap", "v": "v1", "uid": "2"},
            {"id": "shop_web_apps_Deployment", "v": "v1", "uid": "3"},
        ]});
        assert_eq!(serde_json::from_value::<Inventory>(old).unwrap(), inventory());
        let again = serde_json::to_value(inventory().in_entries()).unwrap();
        assert_eq!(
            again["entries"][0],
            json!({"id": "_system__a__b_rbac.authorization.k8s.io_ClusterRole", "v": "v1"})
        );
        assert_eq!(serde_json::from_value::<Inventory>(again).unwrap(), inventory());
    }
}
