//! One item of a SealedSecret's object: the blob, and what [`crds::recipients`] keeps about it, always together. Pure.

use crds::recipients::{RECIPIENTS, Recipients, Sealed};
use serde_json::{Map, Value};

use crate::surgery;

/// Puts an item into an object, or takes it out. `None` when a field of the object is not a mapping, or when there are
/// more recipients than it has room for.
pub fn put(object: &mut Value, item: &str, sealed: Option<Sealed>) -> Option<()> {
    let items = surgery::mapping(object, &["spec", "encryptedData"])?;
    items.remove(item);
    let others = sealed.map_or_else(Vec::new, |Sealed { blob, others }| {
        items.insert(item.to_owned(), Value::String(blob));
        others
    });
    let present = object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(RECIPIENTS));
    if present.is_none() && others.is_empty() {
        return Some(());
    }
    let text = present.and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut recipients = Recipients::of(&[(RECIPIENTS.to_owned(), text)].into());
    recipients.set(item, others);
    let annotation = recipients.annotation().ok()?;
    let metadata = surgery::mapping(object, &["metadata"])?;
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new())).as_object_mut()?;
    match annotation {
        Some(text) => drop(annotations.insert(RECIPIENTS.to_owned(), Value::String(text))),
        None => drop(annotations.remove(RECIPIENTS)),
    }
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sealed(blob: &str, others: &[(&str, &str)]) -> Sealed {
        let others = others.iter().map(|(name, entry)| ((*name).to_owned(), (*entry).to_owned())).collect();
        Sealed { blob: blob.to_owned(), others }
    }

    #[test]
    fn a_blob_and_its_entries_come_and_go_together() {
        let mut object = json!({"metadata": {"name": "db"}, "spec": {"encryptedData": {"b": "old"}}});
        let plain = object.clone();
        put(&mut object, "a", Some(sealed("one", &[]))).unwrap();
        assert_eq!(object.pointer("/metadata/annotations"), None, "nothing is added without need");
        put(&mut object, "a", Some(sealed("two", &[("SHA256:x", "eHk=")]))).unwrap();
        assert_eq!(object["metadata"]["annotations"][RECIPIENTS], "{\"SHA256:x\":{\"a\":\"eHk=\"}}");
        put(&mut object, "b", Some(sealed("old", &[]))).unwrap();
        assert_eq!(object["metadata"]["annotations"][RECIPIENTS], "{\"SHA256:x\":{\"a\":\"eHk=\"}}");
        put(&mut object, "a", None).unwrap();
        assert_eq!(object, plain);
    }
}
