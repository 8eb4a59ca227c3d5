//! Secrets that were created and not applied, by us or by upstream's controller, and how their fields come to be applied
//! by us: else what was written then would be nobody's to remove once it has gone. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde_json::{Map, Value};

use crate::context::FIELD_MANAGER;

/// What upstream's controller calls itself, by the name of its program.
const UPSTREAM: &str = "controller";

/// Whether it was written when the Secret was made: by us, or by upstream's controller for the SealedSecret of this UID.
/// Programs of upstream's name are many: it is the one that wrote the owner.
pub fn is_of_creation(entry: &ManagedFieldsEntry, owner: Option<&str>) -> bool {
    let wrote_owner = || {
        let fields = &entry.fields_v1.as_ref()?.0;
        fields.get("f:metadata")?.get("f:ownerReferences")?.get(format!("k:{{\"uid\":\"{}\"}}", owner?))
    };
    let known = match entry.manager.as_deref() {
        Some(FIELD_MANAGER) => true,
        Some(UPSTREAM) => wrote_owner().is_some(),
        _ => false,
    };
    known && entry.operation.as_deref() == Some("Update") && entry.subresource.is_none()
}

/// The managed fields with what was created counted as if we had applied it. None where there is nothing.
pub fn adopted(entries: &[ManagedFieldsEntry], owner: Option<&str>) -> Option<Vec<ManagedFieldsEntry>> {
    let (created, mut kept): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(|entry| is_of_creation(entry, owner));
    let first = created.first()?;
    let ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
    };
    let mut adopted = match kept.iter().position(ours) {
        Some(place) => kept.swap_remove(place),
        None => ManagedFieldsEntry {
            manager: Some(FIELD_MANAGER.to_owned()),
            operation: Some("Apply".to_owned()),
            fields_v1: None,
            ..first.clone()
        },
    };
    let mut fields = adopted.fields_v1.take().map_or_else(|| Value::Object(Map::new()), |fields| fields.0);
    created.into_iter().filter_map(|entry| entry.fields_v1).for_each(|more| unite(&mut fields, more.0));
    adopted.fields_v1 = Some(FieldsV1(fields));
    kept.push(adopted);
    Some(kept)
}

/// Sets of fields are trees of names.
fn unite(fields: &mut Value, more: Value) {
    let (Value::Object(fields), Value::Object(more)) = (fields, more) else { return };
    for (name, below) in more {
        match fields.get_mut(&name) {
            Some(known) => unite(known, below),
            None => drop(fields.insert(name, below)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    fn written(owner: &str) -> Value {
        let owner = format!("k:{{\"uid\":\"{owner}\"}}");
        json!({"f:data": {".": {}, "f:a": {}}, "f:metadata": {"f:labels": {"f:l": {}}, "f:ownerReferences": {owner: {}}}})
    }

    #[test]
    fn what_was_created_is_applied() {
        let other = entry("kubectl", "Update", json!({"f:data": {"f:b": {}}}));
        for (creator, owner) in [(UPSTREAM, Some("1")), (FIELD_MANAGER, Some("1")), (FIELD_MANAGER, None)] {
            let adopted = adopted(&[entry(creator, "Update", written("1")), other.clone()], owner).unwrap();
            assert_eq!(adopted, [other.clone(), entry(FIELD_MANAGER, "Apply", written("1"))]);
        }
    }

    #[test]
    fn it_comes_to_what_we_have_already() {
        let ours = entry(FIELD_MANAGER, "Apply", json!({"f:data": {"f:a": {}, "f:c": {}}, "f:type": {}}));
        let adopted = adopted(&[ours, entry(UPSTREAM, "Update", written("1"))], Some("1")).unwrap();
        let mut all = written("1");
        all["f:data"]["f:c"] = json!({});
        all["f:type"] = json!({});
        assert_eq!(adopted, [entry(FIELD_MANAGER, "Apply", all)]);
    }

    #[test]
    fn what_others_wrote_is_theirs() {
        let status =
            ManagedFieldsEntry { subresource: Some("status".to_owned()), ..entry(UPSTREAM, "Update", written("1")) };
        let others = [
            entry(UPSTREAM, "Update", written("2")),
            entry(UPSTREAM, "Update", json!({"f:data": {"f:a": {}}})),
            entry(UPSTREAM, "Apply", written("1")),
            entry("kubectl", "Update", written("1")),
            status,
        ];
        assert_eq!(adopted(&others, Some("1")), None);
        assert_eq!(adopted(&[entry(UPSTREAM, "Update", written("1"))], None), None);
    }
}
