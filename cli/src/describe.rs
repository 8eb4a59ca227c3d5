//! What a SealedSecret shows without a key. Pure.

use crds::{Scope, SealedSecret, base64, envelope, recipients::Recipients};
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::Value;

use crate::table;

/// One SealedSecret, as it is told.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    pub scope: &'static str,
    /// Of the Secret.
    #[serde(rename = "type")]
    pub type_: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
    pub items: Vec<Item>,
    /// Fingerprints of the keys that open it beside the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<Value>,
}

/// One item. An item of the template has no value of its own, a broken one no size.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub name: String,
    /// Size of the value in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// Size of the RSA key it is sealed for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_bits: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Tells it.
pub fn describe(sealed: &SealedSecret) -> Description {
    let template = sealed.spec.template.as_ref();
    let whole = sealed.spec.data.iter().map(|blob| ("data", blob.as_str()));
    let items = sealed.spec.encrypted_data.iter().map(|(name, blob)| (name.as_str(), blob.as_str()));
    let rendered = template.and_then(|template| template.data.as_ref()).into_iter().flatten();
    let rendered = rendered.filter(|(name, text)| text.is_some() && !sealed.spec.encrypted_data.contains_key(*name));
    Description {
        namespace: sealed.namespace().filter(|namespace| !namespace.is_empty()),
        name: sealed.name_any(),
        scope: Scope::from_annotations(sealed.annotations()).as_str(),
        type_: template.and_then(|template| template.type_.clone()).unwrap_or_else(|| "Opaque".to_owned()),
        immutable: template.and_then(|template| template.immutable),
        items: whole
            .chain(items)
            .map(|(name, blob)| item(name, blob))
            .chain(rendered.map(|(name, _)| Item { name: name.clone(), bytes: None, key_bits: None, problem: None }))
            .collect(),
        recipients: Recipients::of(sealed.annotations()).names().map(str::to_owned).collect(),
        template: template.and_then(|template| serde_json::to_value(template).ok()),
    }
}

fn item(name: &str, blob: &str) -> Item {
    let outline = match base64::decode(blob) {
        None => Err("not valid base64".to_owned()),
        Some(blob) => envelope::outline(&blob).map_err(|error| error.to_string()),
    };
    let (outline, problem) = match outline {
        Ok(outline) => (Some(outline), None),
        Err(problem) => (None, Some(problem)),
    };
    Item {
        name: name.to_owned(),
        bytes: outline.map(|outline| outline.value_bytes),
        key_bits: outline.map(|outline| outline.key_bits),
        problem,
    }
}

/// One line for each item, in columns.
pub fn table(all: &[Description]) -> String {
    let mut rows: Vec<Vec<String>> =
        vec![["NAMESPACE", "NAME", "SCOPE", "TYPE", "ITEM", "BYTES", "KEY"].map(str::to_owned).into()];
    for Description { namespace, name, scope, type_, items, .. } in all {
        let object = [namespace.as_deref().unwrap_or("-"), name, scope, type_];
        let mut add = |item: [&str; 3]| rows.push(object.into_iter().chain(item).map(str::to_owned).collect());
        if items.is_empty() {
            add(["-", "-", "-"]);
        }
        for Item { name, bytes, key_bits, problem } in items {
            let size = match (bytes, problem) {
                (Some(bytes), _) => bytes.to_string(),
                (None, Some(_)) => "broken".to_owned(),
                (None, None) => "template".to_owned(),
            };
            add([name, &size, &key_bits.map_or_else(|| "-".to_owned(), |bits| bits.to_string())]);
        }
    }
    table::render(&rows, |_, _| None)
}
