//! Two forms of an object beside each other, as a unified diff. Pure. What only a server says is left out, and of a
//! Secret's values, in it or where variables brought them, nothing is shown but that they differ.

use crds::{seal::LEAKING_ANNOTATIONS, sync::object::ObjectId};
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::hidden::{Hidden, Path, Step, conceal, mask};

/// What a server says of an object, and nobody asks for.
const SERVERS: [&str; 6] = ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"];

/// The differences; `None` if there are none. One side may be missing.
pub fn delta(
    id: &ObjectId,
    before: Option<&Value>,
    after: Option<&Value>,
    hidden: &Hidden<'_>,
) -> Result<Option<String>, String> {
    let (mut before, mut after) = (before.cloned(), after.cloned());
    [&mut before, &mut after].into_iter().flatten().for_each(clean);
    let is_secret = (id.group.as_str(), id.kind.as_str()) == ("", "Secret");
    if is_secret {
        [&mut before, &mut after].into_iter().flatten().for_each(encode);
    }
    if before == after {
        return Ok(None);
    }
    let own = if is_secret { values(before.as_ref(), after.as_ref()) } else { Vec::new() };
    hidden.paths.iter().chain(&own).for_each(|path| conceal(&mut before, &mut after, path));
    if let Some(variables) = hidden.variables {
        [&mut before, &mut after].into_iter().flatten().for_each(|side| mask(side, variables));
    }
    let text = |side: &Option<Value>| match side {
        Some(value) => crds::yaml::to_string(value).map_err(|error| error.to_string()),
        None => Ok(String::new()),
    };
    let (old, new) = (text(&before)?, text(&after)?);
    let shown = hidden.variables.map_or_else(|| id.to_string(), |variables| variables.mask(&id.to_string()));
    let name = |side: &Option<Value>, what: &str| {
        if side.is_some() { format!("{what}/{shown}") } else { "/dev/null".to_owned() }
    };
    let (from, to) = (name(&before, "cluster"), name(&after, "git"));
    if old == new {
        return Ok(Some(format!("--- {from}\n+++ {to}\n(values of Secrets differ)\n")));
    }
    Ok(Some(TextDiff::from_lines(&old, &new).unified_diff().header(&from, &to).to_string()))
}

/// The ways to what a Secret holds.
fn values(before: Option<&Value>, after: Option<&Value>) -> Vec<Path> {
    let sides = [before, after].into_iter().flatten();
    let field = |name: &str| vec![Step::Key(name.to_owned())];
    let ways = sides.flat_map(|side| {
        ["data", "stringData"].into_iter().filter_map(|name| Some((name, side.get(name)?))).flat_map(|(name, held)| {
            match held {
                Value::Object(items) => items.keys().map(|key| [field(name), field(key)].concat()).collect(),
                // What is no mapping could still hold what should be in one.
                _ => vec![field(name)],
            }
        })
    });
    let mut ways: Vec<Path> = ways.collect();
    ways.sort();
    ways.dedup();
    ways
}

fn clean(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.remove("status");
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    SERVERS.iter().for_each(|field| drop(metadata.remove(*field)));
    // A copy of the object, values and all.
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| !LEAKING_ANNOTATIONS.contains(&key.as_str()));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

/// As the API server keeps it: all values in `data`.
fn encode(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if let Some(data) = data.as_object_mut() {
        for (key, value) in texts {
            let bytes = value.as_str().unwrap_or_default().as_bytes();
            data.insert(key, crds::base64::encode(bytes).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn delta(id: &ObjectId, before: Option<&Value>, after: Option<&Value>) -> Result<Option<String>, String> {
        super::delta(id, before, after, &Hidden::default())
    }

    fn id(kind: &str) -> ObjectId {
        let text = |text: &str| text.to_owned();
        ObjectId { namespace: text("shop"), name: text("db"), group: String::new(), kind: text(kind) }
    }

    #[test]
    fn what_a_server_says_is_no_difference() {
        let live = json!({"kind": "ConfigMap", "data": {"a": "1"}, "status": {}, "metadata": {"name": "db", "uid": "u",
            "resourceVersion": "7", "managedFields": [], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x"}}});
        let git = json!({"kind": "ConfigMap", "data": {"a": "1"}, "metadata": {"name": "db"}});
        assert_eq!(delta(&id("ConfigMap"), Some(&live), Some(&git)), Ok(None));
        let other = json!({"kind": "ConfigMap", "data": {"a": "2"}, "metadata": {"name": "db"}});
        let told = delta(&id("ConfigMap"), Some(&live), Some(&other)).unwrap().unwrap();
        assert!(told.starts_with("--- cluster/ConfigMap shop/db\n+++ git/ConfigMap shop/db\n@@"), "{told}");
        assert!(told.contains("-  a: \"1\"\n+  a: \"2\"\n"), "{told}");
        let made = delta(&id("ConfigMap"), None, Some(&git)).unwrap().unwrap();
        assert!(made.starts_with("--- /dev/null\n+++ git/ConfigMap shop/db\n"), "{made}");
    }

    #[test]
    fn a_secret_shows_that_it_changes_and_no_byte_of_it() {
        let values = ["aHVudGVyMg==", "aHVudGVyMw==", "c2FtZQ==", "b25seQ==", "bmV3", "hunter4"];
        let live = json!({"kind": "Secret", "data": {"a": values[0], "same": values[2], "gone": values[3]},
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": values[0]}}});
        let git = json!({"kind": "Secret", "data": {"a": values[1], "same": values[2], "new": values[4]},
            "stringData": {"text": values[5]}, "metadata": {}});
        for (before, after) in [(Some(&live), Some(&git)), (None, Some(&git)), (Some(&live), None)] {
            let told = delta(&id("Secret"), before, after).unwrap().unwrap();
            assert!(values.iter().all(|value| !told.contains(value)), "{told}");
            assert!(!told.contains("aHVudGVyNA"), "{told}");
        }
        let told = delta(&id("Secret"), Some(&live), Some(&git)).unwrap().unwrap();
        assert!(told.contains("-  a: \"*** (before)\"\n") && told.contains("+  a: \"*** (after)\"\n"), "{told}");
        assert!(told.contains("+  new: \"***\"\n") && told.contains("-  gone: \"***\"\n"), "{told}");
        assert!(told.contains("   same: \"***\"\n"), "{told}");
        let strange = json!({"kind": "Secret", "data": "hunter2", "metadata": {}});
        assert!(!delta(&id("Secret"), Some(&live), Some(&strange)).unwrap().unwrap().contains("hunter2"));
    }

    #[test]
    fn a_secret_in_text_is_the_one_that_is_there() {
        let live = json!({"kind": "Secret", "data": {"a": "aHVudGVyMg=="}});
        let git = json!({"kind": "Secret", "stringData": {"a": "hunter2"}});
        assert_eq!(delta(&id("Secret"), Some(&live), Some(&git)), Ok(None));
    }

    #[test]
    fn a_sealed_secret_is_shown_as_it_is() {
        let sealed = |value: &str| json!({"kind": "SealedSecret", "spec": {"encryptedData": {"a": value}}});
        let told = delta(&id("SealedSecret"), Some(&sealed("AgA")), Some(&sealed("AgB"))).unwrap().unwrap();
        assert!(told.contains("AgA") && told.contains("AgB"));
    }

    #[test]
    fn what_variables_brought_from_a_secret_is_not_shown() {
        let mut variables = crds::sync::substitute::Variables::default();
        variables.set("key", "line one\nline two", true);
        let map = |a: &str, b: &str| json!({"kind": "ConfigMap", "data": {"a": a, "b": b}});
        let (live, git) = (map("old", "line one\nline two"), map("line one\nline two", "open"));
        let paths = vec![vec![Step::Key("data".to_owned()), Step::Key("a".to_owned())]];
        let hidden = Hidden { paths, variables: Some(&variables) };
        let told = super::delta(&id("ConfigMap"), Some(&live), Some(&git), &hidden).unwrap().unwrap();
        assert!(!told.contains("line") && !told.contains("old"), "{told}");
        assert!(told.contains("+  a: \"*** (after)\"\n") && told.contains("+  b: open\n"), "{told}");
        // Two that both are secret differ still.
        variables.set("other", "another one", true);
        let hidden = Hidden { paths: Vec::new(), variables: Some(&variables) };
        let (live, git) = (map("line one\nline two", ""), map("another one", ""));
        let told = super::delta(&id("ConfigMap"), Some(&live), Some(&git), &hidden).unwrap().unwrap();
        assert!(told.ends_with("(values of Secrets differ)\n"), "{told}");
    }
}
