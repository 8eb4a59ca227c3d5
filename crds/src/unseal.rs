//! From a `SealedSecret` to its Secret, with whatever keys the caller holds. Makes no API call: the controller and an
//! offline recovery run this same code. Every item is tried, so that one error message names them all.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource as _, ResourceExt as _, core::ObjectMeta};

use crate::{
    Fingerprint, KeyRing, Plaintext, Scope, SealedSecret, base64,
    key_ring::OpenError,
    sealed_secret::{SecretTemplate, UnsealedRecord},
};

/// On the template: make the Secret without an owner reference.
pub const SKIP_OWNER: &str = "sealedsecrets.bitnami.com/skip-set-owner-references";

/// Why a `SealedSecret` cannot become a Secret. Names items and fields, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum UnsealError {
    /// Well-formed items that no key opens: other key, name, namespace or scope, or corrupted.
    #[error("no key could decrypt secret ({})", .0.join(", "))]
    NoKey(Vec<String>),
    /// Items that are no sealed values at all.
    #[error("{}", .0.iter().map(|(item, why)| format!("encryptedData.{item} is {why}")).collect::<Vec<_>>().join("; "))]
    Malformed(Vec<(String, String)>),
    /// The template does not describe an object.
    #[error("spec.template.metadata is not valid: {0}")]
    Template(String),
    /// A part of the format that this version does not open.
    #[error("{0} is not supported by this version")]
    Unsupported(&'static str),
}

/// The opened items.
#[derive(Debug)]
pub struct Unsealed {
    /// Their values.
    pub values: BTreeMap<String, Plaintext>,
    /// The key that opened each.
    pub keys: BTreeMap<String, Fingerprint>,
}

/// An attempt, and what it cost.
#[derive(Debug)]
pub struct Attempt {
    /// RSA operations spent.
    pub operations: u32,
    /// What came of it.
    pub outcome: Result<Unsealed, UnsealError>,
}

/// A Secret in the clear. Its values are wiped when it is dropped, and never printed.
pub struct ClearSecret(Secret);

impl ClearSecret {
    /// Takes a Secret into care.
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The Secret itself.
    pub fn expose(&self) -> &Secret {
        &self.0
    }

    /// The Secret itself, to be changed in place.
    pub fn expose_mut(&mut self) -> &mut Secret {
        &mut self.0
    }
}

impl std::fmt::Debug for ClearSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClearSecret({}, <redacted>)", self.0.name_any())
    }
}

impl Drop for ClearSecret {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.0.data.iter_mut().flatten().for_each(|(_, bytes)| bytes.0.zeroize());
        self.0.string_data.iter_mut().flatten().for_each(|(_, text)| text.zeroize());
    }
}

/// Opens all items. `before` is what a former pass recorded: it says which key to try first.
pub fn open(sealed: &SealedSecret, ring: &KeyRing, before: Option<&UnsealedRecord>) -> Attempt {
    let mut operations = 0;
    let unsupported = |what| Attempt { operations: 0, outcome: Err(UnsealError::Unsupported(what)) };
    if sealed.spec.data.is_some() {
        return unsupported("spec.data, the deprecated form,");
    }
    if sealed.spec.template.as_ref().is_some_and(|template| template.data.as_ref().is_some_and(|data| !data.is_empty()))
    {
        return unsupported("spec.template.data");
    }
    let label = Scope::from_annotations(sealed.annotations())
        .label(&sealed.namespace().unwrap_or_default(), &sealed.name_any());
    let mut unsealed = Unsealed { values: BTreeMap::new(), keys: BTreeMap::new() };
    let (mut unopened, mut malformed) = (Vec::new(), Vec::new());
    for (item, text) in &sealed.spec.encrypted_data {
        let Some(blob) = base64::decode(text) else {
            malformed.push((item.clone(), "not valid base64".to_owned()));
            continue;
        };
        let likely = before.and_then(|record| record.keys.get(item));
        match ring.open(&blob, &label, likely) {
            Ok(opened) => {
                operations += opened.operations;
                unsealed.values.insert(item.clone(), opened.plaintext);
                unsealed.keys.insert(item.clone(), opened.by);
            }
            Err(OpenError::NoKey { operations: spent }) => {
                operations += spent;
                unopened.push(item.clone());
            }
            Err(OpenError::Envelope(error)) => malformed.push((item.clone(), error.to_string())),
        }
    }
    let outcome = match (malformed.is_empty(), unopened.is_empty()) {
        (false, _) => Err(UnsealError::Malformed(malformed)),
        (true, false) => Err(UnsealError::NoKey(unopened)),
        (true, true) => Ok(unsealed),
    };
    Attempt { operations, outcome }
}

/// The Secret that a `SealedSecret` stands for: the template, the opened values, and an owner reference unless the
/// template declines it.
pub fn secret(sealed: &SealedSecret, unsealed: Unsealed) -> Result<ClearSecret, UnsealError> {
    let SecretTemplate { metadata, type_, immutable, data: _ } = sealed.spec.template.clone().unwrap_or_default();
    let template: ObjectMeta = match metadata {
        Some(metadata) => serde_json::from_value(metadata).map_err(|error| UnsealError::Template(error.to_string()))?,
        None => ObjectMeta::default(),
    };
    let ownerless = template.annotations.iter().flatten().any(|(key, value)| key == SKIP_OWNER && value == "true");
    // As upstream's reference, this one does not block: deleting the owner in the foreground waits for nothing.
    let owner = sealed.controller_owner_ref(&()).filter(|_| !ownerless);
    let owner = owner.map(|owner| OwnerReference { block_owner_deletion: None, ..owner });
    let data = unsealed.values.into_iter().map(|(item, value)| (item, ByteString(value.expose().to_vec()))).collect();
    Ok(ClearSecret(Secret {
        metadata: ObjectMeta {
            name: sealed.metadata.name.clone(),
            namespace: sealed.metadata.namespace.clone(),
            labels: template.labels,
            annotations: template.annotations,
            finalizers: template.finalizers,
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_,
        immutable,
        string_data: None,
    }))
}
