//! How a cluster keeps a key: a labelled Secret of type `kubernetes.io/tls`, exactly as upstream writes and finds it.
//! Translates between that Secret and a [`RingKey`]; whether a key is wanted is decided elsewhere.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{ResourceExt as _, core::ObjectMeta};
use zeroize::Zeroizing;

use crate::{
    Certificate, PrivateKey,
    key::{KeyError, MintedKey},
    key_life::{self, Key, Mark},
    key_ring::RingKey,
};

/// Label of a key Secret; only the value [`ACTIVE`] makes it one of the ring.
pub const LABEL: &str = "sealedsecrets.bitnami.com/sealed-secrets-key";
/// See [`LABEL`].
pub const ACTIVE: &str = "active";
/// Upstream's default for `--key-prefix`; an unlabelled Secret of just this name is a legacy key.
pub const DEFAULT_PREFIX: &str = "sealed-secrets-key";

/// Why a Secret is not a key. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeySecretError {
    /// An entry is missing or not text.
    #[error("the key Secret has no text under {0}")]
    Missing(&'static str),
    /// An entry cannot be used.
    #[error("the key Secret's {entry} is unusable")]
    Unusable {
        /// `tls.key` or `tls.crt`.
        entry: &'static str,
        /// Why.
        #[source]
        source: KeyError,
    },
}

/// By which time keys are ordered (`--key-order-priority`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::EnumString)]
pub enum KeyOrder {
    /// Start of the certificate's validity.
    #[default]
    CertNotBefore,
    /// Creation of the Secret.
    SecretCreationTimestamp,
}

/// Reads a key Secret.
pub fn read(secret: &Secret, order: KeyOrder) -> Result<RingKey, KeySecretError> {
    let key_pem = Zeroizing::new(text(secret, "tls.key")?);
    let certificate_pem = text(secret, "tls.crt")?;
    let unusable = |entry| move |source| KeySecretError::Unusable { entry, source };
    let private = PrivateKey::from_pem(&key_pem).map_err(unusable("tls.key"))?;
    let certificate = Certificate::from_pem(&certificate_pem).map_err(unusable("tls.crt"))?;
    certificate.belongs_to(&private).map_err(unusable("tls.crt"))?;
    Ok(RingKey {
        private: Arc::new(private),
        born: born(secret, &certificate, order),
        certificate: Some(Arc::new(certificate)),
        certificate_pem: certificate_pem.into(),
    })
}

/// What a key Secret says of its key, without reading the key.
pub fn describe(secret: &Secret, mark: Mark, order: KeyOrder) -> Result<Key, KeySecretError> {
    let certificate = Certificate::from_pem(&text(secret, "tls.crt")?)
        .map_err(|source| KeySecretError::Unusable { entry: "tls.crt", source })?;
    let born = born(secret, &certificate, order);
    Ok(Key {
        name: secret.name_any(),
        fingerprint: certificate.fingerprint().clone(),
        mark,
        born,
        made: secret.creation_timestamp().map_or(born, |time| time.0.min(born)),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
        replace: key_life::asks_to_be_replaced(&secret.metadata),
    })
}

/// The mark of a key Secret; `None` for what is none. Upstream's oldest versions kept one unlabelled, `legacy` by name.
pub fn mark(secret: &Secret, legacy: &str) -> Option<Mark> {
    let unlabelled = !secret.labels().contains_key(LABEL);
    if unlabelled && secret.name_any() == legacy { Some(Mark::Active) } else { Mark::of(&secret.metadata) }
}

fn born(secret: &Secret, certificate: &Certificate, order: KeyOrder) -> Timestamp {
    match order {
        KeyOrder::CertNotBefore => certificate.not_before(),
        KeyOrder::SecretCreationTimestamp => secret.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    }
}

/// The Secret that keeps a minted key.
pub fn write(minted: &MintedKey, namespace: &str, name: &str) -> Secret {
    Secret {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(LABEL.to_owned(), ACTIVE.to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            ("tls.key".to_owned(), ByteString(minted.private_key_pem.as_bytes().to_vec())),
            ("tls.crt".to_owned(), ByteString(minted.certificate_pem.as_bytes().to_vec())),
        ])),
        ..Secret::default()
    }
}

fn text(secret: &Secret, entry: &'static str) -> Result<String, KeySecretError> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(entry)).ok_or(KeySecretError::Missing(entry))?;
    std::str::from_utf8(&bytes.0).map(str::to_owned).map_err(|_| KeySecretError::Missing(entry))
}
