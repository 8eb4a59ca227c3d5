//! Which fields two definitions do not have in common. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// As much of a schema as has names in it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Schema {
    properties: BTreeMap<String, Schema>,
    items: Option<Box<Schema>>,
    #[serde(deserialize_with = "unless_true")]
    additional_properties: Option<Box<Schema>>,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    keeps_all: bool,
}

/// Others may be allowed without a schema.
fn unless_true<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Schema>>, D::Error> {
    match Value::deserialize(deserializer)? {
        schema @ Value::Object(_) => serde_json::from_value(schema).map(Some).map_err(D::Error::custom),
        _ => Ok(None),
    }
}

/// What the API server publishes of one group.
#[derive(Debug, Deserialize)]
pub struct Published {
    components: Components,
}

#[derive(Debug, Deserialize)]
struct Components {
    schemas: BTreeMap<String, Schema>,
}

impl Published {
    /// The schema of a kind, under the name that it is published by.
    pub fn schema(&self, name: &str) -> Option<&Schema> {
        self.components.schemas.get(name)
    }
}

/// Paths of fields, such as `status.history[].revision`; of what lies below one, the one alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// We write or read them, and the API server drops them.
    pub dropped: BTreeSet<String>,
    /// The API server keeps them, and we overlook them.
    pub overlooked: BTreeSet<String>,
}

impl Skew {
    pub fn between(ours: &Schema, served: &Schema) -> Self {
        let mut skew = Self::default();
        for part in ["spec", "status"] {
            if let (Some(ours), Some(served)) = (ours.properties.get(part), served.properties.get(part)) {
                skew.compare(ours, served, part);
            }
        }
        skew
    }

    pub fn is_none(&self) -> bool {
        self.dropped.is_empty() && self.overlooked.is_empty()
    }

    fn compare(&mut self, ours: &Schema, served: &Schema, path: &str) {
        for (name, below) in &ours.properties {
            let path = format!("{path}.{name}");
            match served.properties.get(name) {
                Some(served) => self.compare(below, served, &path),
                None if served.keeps_all => {}
                None => drop(self.dropped.insert(path)),
            }
        }
        let strange = served.properties.keys().filter(|name| !ours.keeps_all && !ours.properties.contains_key(*name));
        self.overlooked.extend(strange.map(|name| format!("{path}.{name}")));
        if let (Some(ours), Some(served)) = (&ours.items, &served.items) {
            self.compare(ours, served, &format!("{path}[]"));
        }
        if let (Some(ours), Some(served)) = (&ours.additional_properties, &served.additional_properties) {
            self.compare(ours, served, &format!("{path}.*"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(spec: &Value) -> Schema {
        serde_json::from_value(json!({"properties": {"metadata": {}, "spec": spec}, "type": "object"})).unwrap()
    }

    fn paths(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn what_one_has_and_the_other_has_not_is_named() {
        let ours = schema(&json!({"properties": {
            "both": {"type": "string"},
            "new": {"properties": {"below": {}}},
            "list": {"items": {"properties": {"a": {}, "b": {}}}},
            "map": {"additionalProperties": {"properties": {"c": {}}}},
            "open": {"additionalProperties": true},
        }}));
        let served = schema(&json!({"properties": {
            "both": {"type": "string"},
            "newer": {},
            "list": {"items": {"properties": {"a": {}}}},
            "map": {"additionalProperties": {"properties": {"c": {}, "d": {}}}},
            "open": {"additionalProperties": {"type": "string"}},
        }}));
        let skew = Skew::between(&ours, &served);
        assert_eq!(skew.dropped, paths(&["spec.list[].b", "spec.new"]));
        assert_eq!(skew.overlooked, paths(&["spec.map.*.d", "spec.newer"]));
        assert!(Skew::between(&ours, &ours).is_none());
    }

    #[test]
    fn what_is_kept_whatever_it_is_lacks_nothing() {
        let named = schema(&json!({"properties": {"a": {}}}));
        let open = schema(&json!({"x-kubernetes-preserve-unknown-fields": true}));
        assert!(Skew::between(&named, &open).is_none());
        assert!(Skew::between(&open, &named).is_none());
    }

    #[test]
    fn our_own_definitions_are_read() {
        for definition in crds::definitions() {
            let ours: Schema = serde_json::from_value(super::super::own(&definition).unwrap()).unwrap();
            let nothing = schema(&json!({}));
            assert!(Skew::between(&ours, &nothing).dropped.len() > 1, "{}", definition.spec.names.kind);
            assert!(Skew::between(&ours, &ours).is_none());
        }
    }
}
