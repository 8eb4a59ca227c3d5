//! What differs between two versions of SealedSecrets, by namespace and name. Pure, and shows no value: a difference is
//! a path and one word. Without keys a value that was sealed again looks like another value.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crds::{KeyRing, Scope, SealedSecret};
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::Value;

use crate::sight;

/// One difference.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Namespace and name.
    pub object: String,
    /// Where in the object; none is the object itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub change: Change,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    Added,
    Removed,
    /// Another text; of an item nobody knows whether it is another value.
    Changed,
    /// Another value, as the keys show.
    ValueChanged,
    /// The same value, sealed again, as the keys show.
    Resealed,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, path, change } = self;
        let (sign, note) = match change {
            Change::Added => ('+', ""),
            Change::Removed => ('-', ""),
            Change::Changed => ('~', ""),
            Change::ValueChanged => ('~', " (another value)"),
            Change::Resealed => ('~', " (the same value, sealed again)"),
        };
        match path {
            Some(path) => write!(f, "{sign} {object}: {path}{note}"),
            None => write!(f, "{sign} {object}{note}"),
        }
    }
}

/// All that differs, in order.
pub fn differences(before: &[SealedSecret], after: &[SealedSecret], keys: &KeyRing) -> Vec<Difference> {
    let (before, after) = (by_name(before), by_name(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut found = Vec::new();
    for object in names {
        let mut add = |path: Option<String>, change| found.push(Difference { object: object.clone(), path, change });
        match (before.get(object), after.get(object)) {
            (Some(before), Some(after)) => compare(before, after, keys, &mut add),
            (None, _) => add(None, Change::Added),
            (_, None) => add(None, Change::Removed),
        }
    }
    found
}

fn by_name(all: &[SealedSecret]) -> BTreeMap<String, &SealedSecret> {
    let name = |sealed: &SealedSecret| match sealed.namespace().filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{namespace}/{}", sealed.name_any()),
        None => sealed.name_any(),
    };
    all.iter().map(|sealed| (name(sealed), sealed)).collect()
}

fn compare(before: &SealedSecret, after: &SealedSecret, keys: &KeyRing, add: &mut impl FnMut(Option<String>, Change)) {
    let scope = |sealed: &SealedSecret| Scope::from_annotations(sealed.annotations());
    if scope(before) != scope(after) {
        add(Some("scope".to_owned()), Change::Changed);
    }
    let (old, new) = (&before.spec.encrypted_data, &after.spec.encrypted_data);
    let items: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for item in items {
        let path = || Some(format!("encryptedData.{item}"));
        match (old.get(item), new.get(item)) {
            (Some(one), Some(other)) if one == other && scope(before) == scope(after) => {}
            (Some(one), Some(other)) => match (sight::open(before, item, keys), sight::open(after, item, keys)) {
                (Some(one), Some(other)) if one == other => add(path(), Change::Resealed),
                (Some(_), Some(_)) => add(path(), Change::ValueChanged),
                _ if one == other => {}
                _ => add(path(), Change::Changed),
            },
            (None, _) => add(path(), Change::Added),
            (_, None) => add(path(), Change::Removed),
        }
    }
    let rest = |sealed: &SealedSecret| {
        let mut spec = serde_json::json!({ "data": sealed.spec.data, "template": sealed.spec.template });
        drop_nulls(&mut spec);
        let metadata = serde_json::json!({"labels": sealed.labels(), "annotations": sealed.annotations()});
        serde_json::json!({"spec": spec, "metadata": metadata})
    };
    values(&rest(before), &rest(after), "", add);
}

fn values(before: &Value, after: &Value, path: &str, add: &mut impl FnMut(Option<String>, Change)) {
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (before.get(key), after.get(key)) {
                    (Some(before), Some(after)) => values(before, after, &path, add),
                    (None, _) => add(Some(path), Change::Added),
                    (_, None) => add(Some(path), Change::Removed),
                }
            }
        }
        _ => add(Some(path.to_owned()), Change::Changed),
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
    }
}
