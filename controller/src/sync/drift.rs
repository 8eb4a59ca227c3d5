//! What about an object was changed, and by whom, read off its `managedFields`: server-side apply keeps for every manager
//! the list of the fields that are its own, and whoever changes one of ours takes it off our list. Pure, and never shown
//! a value: the lists hold the names of fields alone.
//!
//! kubectl's edits are taken over, as Flux has it: kubectl is a person's hand, and what a person adds to an object that
//! is kept in Git would otherwise stay for ever. What other managers add is theirs.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta};
use serde_json::{Map, Value, json};

use super::{SYNC_MANAGER, object::ObjectId};

/// Fields named of one object; the rest is counted.
const NAMED: usize = 10;
/// Annotations that ask a controller for something. They are no content, and stay whoever sets them.
const REQUESTS: [&str; 2] = ["f:gitsync.signet.dev/", "f:reconcile.fluxcd.io/"];
/// kubectl's own note of what it applied.
const LAST_APPLIED: &str = "f:kubectl.kubernetes.io/last-applied-configuration";

/// What happened to an object that we applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The object.
    pub id: ObjectId,
    /// What.
    pub what: What,
}

/// See [`Drift`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is not there any more.
    Deleted,
    /// These fields are not ours any more, or are there though Git does not ask for them.
    Changed(Vec<Change>),
    /// It cannot be told, for this reason.
    Unseen(String),
}

/// A field that is not as it was applied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Who has it now; nobody where it was removed.
    pub by: Option<String>,
    /// As kubectl writes it: `.spec.template.spec.containers[name="web"].image`.
    pub field: String,
}

impl Drift {
    /// Whether there is anything to tell: what changed hands with its value left alone is no drift.
    pub fn is_none(&self) -> bool {
        matches!(&self.what, What::Changed(changes) if changes.is_empty())
    }

    /// Who did it, as far as anybody knows.
    pub fn by(&self) -> Option<&str> {
        match &self.what {
            What::Deleted | What::Unseen(_) => None,
            What::Changed(changes) => changes.iter().find_map(|change| change.by.as_deref()),
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, what } = self;
        let changes = match what {
            What::Deleted => return write!(f, "{id} (deleted)"),
            What::Unseen(why) => return write!(f, "{id} (cannot be looked at: {why})"),
            What::Changed(changes) => changes,
        };
        let mut by: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for Change { by: who, field } in changes.iter().take(NAMED) {
            by.entry(who.as_deref()).or_default().push(field);
        }
        let mut parts: Vec<String> = by
            .into_iter()
            .map(|(who, fields)| match who {
                Some(who) => format!("{} by {who}", fields.join(", ")),
                None => format!("{} removed", fields.join(", ")),
            })
            .collect();
        if let Some(rest) = changes.len().checked_sub(NAMED).filter(|rest| *rest > 0) {
            parts.push(format!("and {rest} more"));
        }
        write!(f, "{id} ({})", parts.join("; "))
    }
}

/// Changes when anybody takes a field from us, and when kubectl adds one: told apart from nothing else.
pub fn digest(entries: &[ManagedFieldsEntry], is_merged: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    for entry in entries {
        if is_ours(entry) {
            entry.fields_v1.as_ref().map(|fields| fields.0.to_string()).hash(&mut hasher);
        } else if !is_merged && let Some((taken, _)) = hand(entry) {
            (&entry.manager, taken.to_string()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The list with kubectl's fields made ours, so that applying removes those that Git does not ask for. `None` where
/// there are none.
pub fn taken_over(entries: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let ours = entries.iter().find(|entry| is_ours(entry))?;
    let mut fields = ours.fields_v1.as_ref()?.0.clone();
    let mut left = Vec::new();
    let mut is_any = false;
    for entry in entries.iter().filter(|entry| !is_ours(entry)) {
        match hand(entry).filter(|_| entry.api_version == ours.api_version) {
            Some((taken, rest)) => {
                is_any = true;
                unite(&mut fields, &taken);
                if has_leaves(&rest) {
                    left.push(ManagedFieldsEntry { fields_v1: Some(FieldsV1(rest)), ..entry.clone() });
                }
            }
            None => left.push(entry.clone()),
        }
    }
    left.push(ManagedFieldsEntry { fields_v1: Some(FieldsV1(fields)), ..ours.clone() });
    is_any.then_some(left)
}

/// What differs between the lists as they were found and as they are once it is applied again.
pub fn changes(found: &[ManagedFieldsEntry], applied: &[ManagedFieldsEntry], is_merged: bool) -> Vec<Change> {
    let ours = |entries: &[ManagedFieldsEntry]| {
        let fields = entries.iter().find(|entry| is_ours(entry)).and_then(|entry| entry.fields_v1.clone());
        fields.map_or(Value::Null, |fields| fields.0)
    };
    let (before, after) = (ours(found), ours(applied));
    let mut lost = Vec::new();
    missing(&after, Some(&before), &mut Vec::new(), &mut lost);
    let owner = |path: &[&str]| {
        let others = found.iter().filter(|entry| !is_ours(entry));
        let having = others.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| has(&fields.0, path)));
        having.max_by_key(|entry| entry.time.as_ref().map(|time| time.0)).and_then(|entry| entry.manager.clone())
    };
    let mut changes: Vec<Change> = lost.iter().map(|path| Change { by: owner(path), field: written(path) }).collect();
    for entry in found.iter().filter(|_| !is_merged) {
        let Some((taken, _)) = hand(entry) else { continue };
        let mut added = Vec::new();
        missing(&taken, Some(&after), &mut Vec::new(), &mut added);
        added.retain(|path| path.last() != Some(&LAST_APPLIED));
        changes.extend(added.iter().map(|path| Change { by: entry.manager.clone(), field: written(path) }));
    }
    changes.sort();
    changes.dedup();
    changes
}

/// Whether an object was made by the very request that this is the answer to: nobody else has a field of it, and what is
/// ours is no younger than the object.
pub fn is_new(object: &ObjectMeta) -> bool {
    let born = object.creation_timestamp.as_ref();
    let ours =
        |entry: &ManagedFieldsEntry| entry.manager.as_deref() == Some(SYNC_MANAGER) && entry.time.as_ref() <= born;
    object.managed_fields.iter().flatten().all(ours)
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(SYNC_MANAGER) && entry.operation.as_deref() == Some("Apply") && is_main(entry)
}

/// Not of a subresource, such as status or scale.
fn is_main(entry: &ManagedFieldsEntry) -> bool {
    entry.subresource.as_deref().is_none_or(str::is_empty)
}

/// Of an entry that is kubectl's: what is taken over, and what is left to it.
fn hand(entry: &ManagedFieldsEntry) -> Option<(Value, Value)> {
    let manager = entry.manager.as_deref()?;
    // A restart is asked for by an annotation on the pods: without it they would be restarted back.
    let is_hand = (manager.starts_with("kubectl") && manager != "kubectl-rollout") || manager == "before-first-apply";
    if !is_hand || !is_main(entry) {
        return None;
    }
    let mut taken = entry.fields_v1.as_ref()?.0.clone();
    let mut rest = Map::new();
    if let Some(annotations) = taken.pointer_mut("/f:metadata/f:annotations").and_then(Value::as_object_mut) {
        let is_request = |key: &str| REQUESTS.iter().any(|request| key.starts_with(request));
        let requests: Vec<String> = annotations.keys().filter(|key| is_request(key)).cloned().collect();
        rest.extend(requests.into_iter().filter_map(|key| Some((key.clone(), annotations.remove(&key)?))));
        // Without any, a map would stand for itself whole.
        annotations.entry(".").or_insert_with(|| json!({}));
    }
    let rest = if rest.is_empty() { Value::Null } else { json!({"f:metadata": {"f:annotations": rest}}) };
    has_leaves(&taken).then_some((taken, rest))
}

/// Whether any field is named. `.` stands for a container itself.
fn has_leaves(fields: &Value) -> bool {
    let named = fields.as_object().into_iter().flatten().filter(|(key, _)| *key != ".");
    let mut named = named.map(|(_, child)| child);
    named.any(|child| child.as_object().is_none_or(Map::is_empty) || has_leaves(child))
}

fn unite(into: &mut Value, more: &Value) {
    let (Value::Object(into), Value::Object(more)) = (into, more) else { return };
    for (key, child) in more {
        unite(into.entry(key.clone()).or_insert_with(|| Value::Object(Map::new())), child);
    }
}

/// Paths that are in `all` and not in `some`. An item of a list that is missing whole is named once.
fn missing<'a>(all: &'a Value, some: Option<&Value>, at: &mut Vec<&'a str>, into: &mut Vec<Vec<&'a str>>) {
    for (key, child) in all.as_object().into_iter().flatten().filter(|(key, _)| *key != ".") {
        at.push(key);
        let there = some.and_then(|some| some.get(key));
        let is_leaf = !child.as_object().is_some_and(|child| child.keys().any(|key| key != "."));
        let is_item = !key.starts_with("f:");
        match there {
            None if is_leaf || is_item => into.push(at.clone()),
            Some(_) if is_leaf => {}
            there => missing(child, there, at, into),
        }
        at.pop();
    }
}

/// Whether a list names a field, or something that holds it whole.
fn has(fields: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    match fields.get(first) {
        Some(child) if child.as_object().is_some_and(Map::is_empty) => true,
        Some(child) => has(child, rest),
        None => false,
    }
}

/// As kubectl writes a path.
fn written(path: &[&str]) -> String {
    let part = |part: &&str| match part.split_at_checked(2) {
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v:", value)) => format!("[={value}]"),
        Some(("i:", index)) => format!("[{index}]"),
        Some((_, name)) => format!(".{name}"),
        None => String::new(),
    };
    path.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            api_version: Some("v1".to_owned()),
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    fn ours(fields: Value) -> ManagedFieldsEntry {
        entry(SYNC_MANAGER, "Apply", fields)
    }

    #[test]
    fn what_was_there_before_us_is_not_new() {
        let at = |second| Some(Time(Timestamp::from_second(second).unwrap()));
        let object = |entries: &[(&str, i64)]| ObjectMeta {
            creation_timestamp: at(10),
            managed_fields: Some(
                entries
                    .iter()
                    .map(|(who, time)| ManagedFieldsEntry { time: at(*time), ..entry(who, "Apply", json!({})) })
                    .collect(),
            ),
            ..ObjectMeta::default()
        };
        assert!(is_new(&object(&[(SYNC_MANAGER, 10)])));
        assert!(is_new(&object(&[(SYNC_MANAGER, 9)])), "the API server read its clock twice");
        assert!(!is_new(&object(&[(SYNC_MANAGER, 10), ("kubectl", 10)])));
        assert!(!is_new(&object(&[(SYNC_MANAGER, 11)])), "ours of old, without its label");
    }

    fn told(found: &[ManagedFieldsEntry], applied: &[ManagedFieldsEntry]) -> String {
        let id =
            ObjectId { namespace: "shop".into(), name: "web".into(), group: "apps".into(), kind: "Deployment".into() };
        Drift { id, what: What::Changed(changes(found, applied, false)) }.to_string()
    }

    fn pods(image: bool, args: bool) -> Value {
        let mut container = json!({".": {}, "f:name": {}});
        for (field, there) in [("f:image", image), ("f:args", args)] {
            if there {
                container[field] = json!({});
            }
        }
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": container}}})
    }

    #[test]
    fn who_changed_which_field_is_told_as_kubectl_writes_it() {
        let whole = [ours(pods(true, true))];
        let edited = entry("kubectl-edit", "Update", pods(true, false));
        let found = [ours(pods(false, false)), edited];
        let expected = "Deployment shop/web (.spec.containers[name=\"web\"].args removed; .spec.containers[name=\"web\"].image by kubectl-edit)";
        assert_eq!(told(&found, &whole), expected);
        let gone = [ours(json!({"f:spec": {}}))];
        assert_eq!(told(&gone, &whole), "Deployment shop/web (.spec.containers[name=\"web\"] removed)");
        // A list that is changed as one belongs to whoever changed it.
        let atomic = [ours(json!({"f:spec": {}})), entry("editor", "Update", json!({"f:spec": {"f:args": {}}}))];
        let applied = [ours(json!({"f:spec": {"f:args": {}}}))];
        assert_eq!(told(&atomic, &applied), "Deployment shop/web (.spec.args by editor)");
        assert_eq!(changes(&whole, &whole, false), []);
        let many: Map<String, Value> = (0..12).map(|number| (format!("f:k{number:02}"), json!({}))).collect();
        let told = told(&[ours(json!({}))], &[ours(json!({"f:data": many}))]);
        assert!(told.contains(".data.k09 removed; and 2 more") && !told.contains("k10"), "{told}");
    }

    #[test]
    fn the_last_of_several_is_named() {
        let at = |second, manager: &str| ManagedFieldsEntry {
            time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                jiff::Timestamp::from_second(second).unwrap(),
            )),
            ..entry(manager, "Update", json!({"f:data": {"f:a": {}}}))
        };
        let found = [ours(json!({})), at(2, "second"), at(1, "first")];
        let applied = [ours(json!({"f:data": {"f:a": {}}}))];
        assert_eq!(changes(&found, &applied, false), [Change { by: Some("second".into()), field: ".data.a".into() }]);
    }

    #[test]
    fn kubectls_fields_become_ours_and_nobody_elses() {
        let data = |key: &str| json!({"f:data": {key: {}}});
        let mut applied = data("f:b");
        applied["f:metadata"] = json!({"f:annotations": {
            ".": {}, LAST_APPLIED: {}, "f:reconcile.fluxcd.io/requestedAt": {},
        }});
        let scaled = ManagedFieldsEntry {
            subresource: Some("scale".to_owned()),
            ..entry("kubectl", "Update", json!({"f:spec": {"f:replicas": {}}}))
        };
        let others =
            [entry("controller", "Update", data("f:c")), entry("kubectl-rollout", "Update", data("f:d")), scaled];
        let hand = entry("kubectl-client-side-apply", "Update", applied);
        let found: Vec<_> = [ours(data("f:a")), hand].into_iter().chain(others.clone()).collect();
        let after = taken_over(&found).unwrap();
        assert_eq!(after[1..4], others);
        let left = json!({"f:metadata": {"f:annotations": {"f:reconcile.fluxcd.io/requestedAt": {}}}});
        assert_eq!(after[0].fields_v1, Some(FieldsV1(left)));
        let fields = &after[4].fields_v1.as_ref().unwrap().0;
        assert_eq!(fields["f:data"], json!({"f:a": {}, "f:b": {}}));
        assert!(fields["f:metadata"]["f:annotations"][LAST_APPLIED].is_object());
        assert_eq!(taken_over(&after), None, "it ends");
        assert_eq!(
            changes(&found, &[ours(data("f:a"))], false),
            [Change { by: Some("kubectl-client-side-apply".into()), field: ".data.b".into() }]
        );
        assert_eq!(changes(&found, &[ours(data("f:a"))], true), []);

        let [without, with] = [&found[2..], &found[1..]].map(|rest| [&found[..1], rest].concat());
        assert_ne!(digest(&without, false), digest(&with, false));
        assert_eq!(digest(&without, true), digest(&with, true), "what is merged is left");
        assert_eq!(digest(&found[..1], false), digest(&without, false));
    }
}
