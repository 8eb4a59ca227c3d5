//! Numbers and booleans where a text belongs, such as `port: 5432`: kubeseal takes them, so scripts have them. What is
//! written is what they become, or they stay what they are. Pure.

use std::cell::LazyCell;

use serde_json::Value;

use crate::surgery::Written;

/// Where a Secret has text.
pub const OF_A_SECRET: [&[&str]; 6] = [
    &["stringData"],
    &["metadata", "labels"],
    &["metadata", "annotations"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["type"],
];

/// Makes `port: 5432` and `debug: true` the text that is written there, as kubeseal does. `0042` and `yes` would become
/// another text than what is written: they stay what they are, and are refused.
pub fn keep(object: &mut Value, document: &str, item: &[usize], paths: &[&[&str]]) {
    let written = LazyCell::new(|| Written::of(document));
    let spell = |value: &mut Value, path: &[&str]| {
        if value.is_number() || value.is_boolean() {
            let text = value.to_string();
            if written.plain(item, path) == Some(&text) {
                *value = Value::String(text);
            }
        }
    };
    for path in paths {
        match path.iter().try_fold(&mut *object, |value, key| value.get_mut(key)) {
            None => {}
            Some(Value::Object(fields)) => {
                fields.iter_mut().for_each(|(key, value)| spell(value, &[path, &[key.as_str()][..]].concat()));
            }
            Some(value) => spell(value, path),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use crate::manifest::{self, Entry};

    fn only(text: &str) -> Entry<crds::unseal::ClearSecret> {
        let mut entries = manifest::secrets(text);
        assert_eq!(entries.len(), 1, "{text}");
        entries.remove(0)
    }

    fn fault(text: &str) -> String {
        only(text).object.unwrap_err().to_string()
    }

    #[test]
    fn a_number_is_the_text_that_is_written_or_refused() {
        let taken = "kind: Secret\nmetadata: {name: 12, labels: {a: 1}, annotations: {b: false}}\nstringData:\n  port: 5432 # x\n  rate: -1.5\n  on: true\n";
        for text in [taken.to_owned(), format!("kind: List\nitems:\n- {}", taken.replace('\n', "\n  "))] {
            let clear = only(&text).object.unwrap();
            let Secret { metadata, string_data, .. } = clear.expose();
            assert_eq!(metadata.name.as_deref(), Some("12"));
            assert_eq!(metadata.labels.as_ref().unwrap()["a"], "1");
            assert_eq!(metadata.annotations.as_ref().unwrap()["b"], "false");
            let values: Vec<_> = string_data.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(values, ["on=true", "port=5432", "rate=-1.5"]);
        }
        for other in ["0042", "0x1f", "+5", "1.10", "1e3", "yes", "True", "99999999999999999999999", "*x"] {
            let text = format!("kind: Secret\nmetadata: {{name: &x 5}}\nstringData: {{pin: {other}}}\n");
            assert_eq!(fault(&text), "stringData.pin must be a string: put it in quotes", "{other}");
        }
        assert_eq!(
            fault("{\"kind\": \"Secret\", \"metadata\": {\"name\": \"db\"}, \"stringData\": {\"pin\": 5}}"),
            "stringData.pin must be a string: put it in quotes",
            "in JSON a number is not meant for a text"
        );
    }
}
