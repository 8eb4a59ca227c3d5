//! The generated definitions: fresh, and upstream's schema where upstream has one.

use serde_json::{Value, json};

fn generated() -> String {
    let head = "# Generated: cargo run -p crds --example generate > crds/crds.yaml\n".to_owned();
    crds::definitions()
        .iter()
        .fold(head, |text, definition| text + "---\n" + &crds::yaml::to_string(definition).unwrap())
}

#[test]
fn crds_yaml_is_fresh() {
    let path = format!("{}/crds.yaml", env!("CARGO_MANIFEST_DIR"));
    let stands = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stands == generated(), "crds/crds.yaml is stale: cargo run -p crds --example generate > crds/crds.yaml");
}

/// Upstream's schema (v0.27.1, and the nullable template values of v0.40), without descriptions.
fn upstream() -> Value {
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["encryptedData"],
                "properties": {
                    "data": {"type": "string", "format": "byte"},
                    "encryptedData": {
                        "type": "object",
                        "additionalProperties": {"type": "string"},
                        "x-kubernetes-preserve-unknown-fields": true,
                    },
                    "template": {
                        "type": "object",
                        "properties": {
                            "data": {
                                "type": "object",
                                "nullable": true,
                                "additionalProperties": {"type": "string", "nullable": true},
                            },
                            "immutable": {"type": "boolean"},
                            "metadata": {
                                "type": "object",
                                "nullable": true,
                                "x-kubernetes-preserve-unknown-fields": true,
                                "properties": {
                                    "annotations": strings,
                                    "finalizers": {"type": "array", "items": {"type": "string"}},
                                    "labels": strings,
                                    "name": {"type": "string"},
                                    "namespace": {"type": "string"},
                                },
                            },
                            "type": {"type": "string"},
                        },
                    },
                },
            },
            "status": {
                "type": "object",
                "properties": {
                    "conditions": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["status", "type"],
                            "properties": {
                                "lastTransitionTime": {"type": "string", "format": "date-time"},
                                "lastUpdateTime": {"type": "string", "format": "date-time"},
                                "message": {"type": "string"},
                                "reason": {"type": "string"},
                                "status": {"type": "string"},
                                "type": {"type": "string"},
                            },
                        },
                    },
                    "observedGeneration": {"type": "integer", "format": "int64"},
                },
            },
        },
    })
}

fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, value)| !(*key == "description" && value.is_string()))
            .map(|(key, value)| match (key.as_str(), value.as_array()) {
                ("required", Some(names)) => {
                    let mut names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
                    names.sort_unstable();
                    (key.clone(), json!(names))
                }
                _ => (key.clone(), plain(value)),
            })
            .collect(),
        other => other.clone(),
    }
}

#[test]
fn the_sealed_secrets_schema_is_upstreams_and_one_status_field() {
    let definition = serde_json::to_value(&crds::definitions()[0]).unwrap();
    let version = &definition["spec"]["versions"][0];
    let mut schema = plain(&version["schema"]["openAPIV3Schema"]);
    let status = schema["properties"]["status"].as_object_mut().unwrap();
    assert_eq!(status.remove("nullable"), Some(json!(true)), "kube's derive lets status be null");
    assert!(status["properties"].as_object_mut().unwrap().remove("unsealed").is_some());
    schema.as_object_mut().unwrap().remove("title");
    assert_eq!(schema, upstream(), "{schema:#}");

    assert_eq!(definition["metadata"]["name"], "sealedsecrets.bitnami.com");
    assert_eq!(version["subresources"], json!({"status": {}}));
    let columns: Vec<_> =
        version["additionalPrinterColumns"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(columns, ["Status", "Synced", "Age"]);
    assert!(definition["spec"]["names"].get("shortNames").is_none_or(|names| names == &json!([])));
}
