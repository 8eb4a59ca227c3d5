//! From a Secret to a `SealedSecret`. Decides what goes into the sealed form and what stays behind; where the Secret
//! comes from, and which certificate to trust, is the caller's business.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::core::ObjectMeta;
use rand::CryptoRng;
use serde_json::{Map, Value};

use crate::{
    Certificate, Scope, SealedSecret, base64,
    envelope::EnvelopeError,
    recipients::{self, RECIPIENTS, Recipients, TooLarge},
    sealed_secret::{SealedSecretSpec, SecretTemplate},
};

/// Annotations in which other tools keep the plain Secret.
pub const LEAKING_ANNOTATIONS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "kubecfg.ksonnet.io/last-applied-configuration"];

/// Why a Secret cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Nothing says what it is called.
    #[error("missing metadata.name in input Secret")]
    NoName,
    /// Nothing says where it goes, and the scope needs to know.
    #[error("missing metadata.namespace in input Secret; give it there or with --namespace")]
    NoNamespace,
    /// For more recipients than an object has room for.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// One item failed.
    #[error("cannot seal the item {item:?}")]
    Item {
        /// Its key in the Secret.
        item: String,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
}

/// Seals one value to the form that an item of `encryptedData` has.
pub fn value(
    value: &[u8],
    (namespace, name): (&str, &str),
    scope: Scope,
    certificate: &Certificate,
    rng: &mut impl CryptoRng,
) -> Result<String, EnvelopeError> {
    Ok(base64::encode(&certificate.seal(value, &scope.label(namespace, name), rng)?))
}

/// Seals every item of a Secret for one recipient; see [`secret_for`].
pub fn secret(
    secret: &Secret,
    scope: Scope,
    certificate: &Certificate,
    rng: &mut impl CryptoRng,
) -> Result<SealedSecret, SealError> {
    secret_for(secret, scope, certificate, &[], rng)
}

/// Seals every item of a Secret, for `others` as [`crate::recipients`] has it. Labels and annotations become the template's; what a server added is dropped.
pub fn secret_for(
    secret: &Secret,
    scope: Scope,
    certificate: &Certificate,
    others: &[Certificate],
    rng: &mut impl CryptoRng,
) -> Result<SealedSecret, SealError> {
    let Secret { metadata, data, string_data, type_, immutable } = secret;
    let name = metadata.name.as_deref().filter(|name| !name.is_empty()).ok_or(SealError::NoName)?;
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    if namespace.is_none() && scope != Scope::ClusterWide {
        return Err(SealError::NoNamespace);
    }
    let plain = data.iter().flatten().map(|(item, bytes)| (item, bytes.0.as_slice()));
    let text = string_data.iter().flatten().map(|(item, text)| (item, text.as_bytes()));
    let items: BTreeMap<&String, &[u8]> = plain.chain(text).collect();
    let label = scope.label(namespace.unwrap_or_default(), name);
    let (mut encrypted_data, mut recipients) = (BTreeMap::new(), Recipients::default());
    for (item, bytes) in items {
        let sealed = recipients::seal(bytes, &label, certificate, others, rng)
            .map_err(|source| SealError::Item { item: item.clone(), source })?;
        recipients.set(item, sealed.others);
        encrypted_data.insert(item.clone(), sealed.blob);
    }
    let spec = SealedSecretSpec {
        encrypted_data,
        template: Some(SecretTemplate {
            metadata: Some(template_metadata(metadata)),
            type_: type_.clone(),
            immutable: *immutable,
            data: None,
        }),
        data: None,
    };
    let mut sealed = SealedSecret::new(name, spec);
    sealed.metadata.namespace = namespace.map(str::to_owned);
    let scope = scope.annotation().map(|key| (key.to_owned(), "true".to_owned()));
    let recipients = recipients.annotation()?.map(|value| (RECIPIENTS.to_owned(), value));
    let annotations: BTreeMap<_, _> = scope.into_iter().chain(recipients).collect();
    sealed.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Ok(sealed)
}

fn template_metadata(metadata: &ObjectMeta) -> Value {
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !LEAKING_ANNOTATIONS.contains(&key.as_str()));
    let text = |value: &Option<String>| value.clone().map(Value::String);
    let strings = |map: BTreeMap<String, String>| {
        (!map.is_empty()).then(|| map.into_iter().map(|(key, value)| (key, Value::String(value))).collect())
    };
    let fields = [
        ("name", text(&metadata.name)),
        ("namespace", text(&metadata.namespace)),
        ("labels", strings(metadata.labels.clone().unwrap_or_default())),
        ("annotations", strings(annotations)),
        ("finalizers", metadata.finalizers.clone().map(Value::from)),
    ];
    let present = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}
