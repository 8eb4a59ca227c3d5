//! The `SealedSecret` resource, `bitnami.com/v1alpha1`, with upstream's schema. The additions are optional fields of
//! `status`, so either controller can read what the other wrote. No behaviour here.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::Fingerprint;

/// The condition type: whether the Secret is as the `SealedSecret` says.
pub const SYNCED: &str = "Synced";

/// What a `SealedSecret` holds.
#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bitnami.com",
    version = "v1alpha1",
    kind = "SealedSecret",
    doc = "A Secret, encrypted so that only the controller of one cluster can open it.",
    namespaced,
    status = "SealedSecretStatus",
    derive = "Default",
    printcolumn = r#"{"name": "Status", "type": "string", "jsonPath": ".status.conditions[0].message"}"#,
    printcolumn = r#"{"name": "Synced", "type": "string", "jsonPath": ".status.conditions[0].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SealedSecretSpec {
    /// The Secret to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretTemplate")]
    pub template: Option<SecretTemplate>,
    /// Deprecated: one blob holding a whole Secret as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bytes")]
    pub data: Option<String>,
    /// Each item of the Secret: base64 of an envelope.
    #[serde(deserialize_with = "null_is_empty")]
    #[schemars(schema_with = "encrypted_data")]
    pub encrypted_data: BTreeMap<String, String>,
}

/// The Secret's own metadata and type.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    /// Standard object's metadata. Kept as it came: a wrong type within is this object's error, not the whole watch's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "template_metadata")]
    pub metadata: Option<Value>,
    /// Type of the Secret; Opaque when absent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub type_: Option<String>,
    /// Whether the Secret's data can never change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub immutable: Option<bool>,
    /// Further items, rendered from the decrypted ones; null drops an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "template_data")]
    pub data: Option<BTreeMap<String, Option<String>>>,
}

/// What the controller saw and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealedSecretStatus {
    /// Represents the latest available observations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<SealedSecretCondition>,
    /// The generation that was last handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
    /// What the last successful pass made: while it still holds, nothing needs to be decrypted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UnsealedRecord")]
    pub unsealed: Option<UnsealedRecord>,
}

/// See [`SealedSecretStatus::unsealed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnsealedRecord {
    /// The scope under which the items opened; an annotation can change it without a new generation.
    pub scope: String,
    /// What else its annotations chose that the Secret shows; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub choices: Option<String>,
    /// UID of the Secret.
    pub secret_uid: String,
    /// Version of the Secret when it was as it should be.
    pub secret_resource_version: String,
    /// The key that opened each item.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, Fingerprint>,
}

/// One observation, in upstream's form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealedSecretCondition {
    /// Only [`SYNCED`].
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// When anything about this condition last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_update_time: Option<String>,
    /// When the status last went from one value to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_transition_time: Option<String>,
    /// One word for the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub reason: Option<String>,
    /// Empty when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub message: Option<String>,
}

impl SealedSecret {
    /// The condition `Synced`, if the controller has spoken yet.
    pub fn synced(&self) -> Option<&SealedSecretCondition> {
        self.status.as_ref()?.synced()
    }
}

impl SealedSecretStatus {
    /// The condition `Synced`.
    pub fn synced(&self) -> Option<&SealedSecretCondition> {
        self.conditions.iter().find(|condition| condition.type_ == SYNCED)
    }
}

fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn bytes(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "byte"})
}

fn date_time(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

fn strings(nullable: bool) -> Value {
    let mut value = Map::from_iter([("type".to_owned(), "string".into())]);
    if nullable {
        value.insert("nullable".to_owned(), true.into());
    }
    serde_json::json!({"type": "object", "additionalProperties": value})
}

fn encrypted_data(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-preserve-unknown-fields": true})
}

fn template_data(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "nullable": true, "additionalProperties": {"type": "string", "nullable": true}})
}

fn template_metadata(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "annotations": strings(false),
            "finalizers": {"type": "array", "items": {"type": "string"}},
            "labels": strings(false),
            "name": {"type": "string"},
            "namespace": {"type": "string"},
        },
    })
}
