//! From a `SealedSecret` to its Secret, with whatever keys the caller holds. Makes no API call: the controller and an
//! offline recovery run this same code. Every item is tried, so that one error message names them all.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource as _, ResourceExt as _, core::ObjectMeta};

use crate::{
    Fingerprint, KeyRing, Plaintext, Scope, SealedSecret, base64,
    explain::Why,
    key_ring::OpenError,
    recipients::Recipients,
    sealed_secret::{SecretTemplate, UnsealedRecord},
    template::{self, Environment, MissingKey, TemplateError},
};

/// On the template: make the Secret without an owner reference.
pub const SKIP_OWNER: &str = "sealedsecrets.bitnami.com/skip-set-owner-references";

/// Why a `SealedSecret` cannot become a Secret. Names items and fields, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum UnsealError {
    /// Well-formed items that no key opens: other key, name, namespace or scope, or corrupted.
    #[error(transparent)]
    NoKey(#[from] Closed),
    /// Fields that are no sealed values at all.
    #[error("{}", .0.iter().map(|(field, why)| format!("{field} is {why}")).collect::<Vec<_>>().join("; "))]
    Malformed(Vec<(String, String)>),
    /// Both forms at once.
    #[error("cannot use the field 'encryptedData' and the deprecated field 'data' at the same time")]
    BothForms,
    /// The deprecated form opened, but what is in it is no Secret.
    #[error("spec.data opens, but does not hold a Secret")]
    NoSecret,
    /// The template does not describe an object.
    #[error("spec.template.metadata is not valid: {0}")]
    Template(String),
    /// Templates that cannot be rendered.
    #[error("cannot render spec.template.data: {0}")]
    Render(#[from] TemplateError),
}

/// Items that stay closed, each with the reason where one was looked for ([`crate::explain`]).
#[derive(Debug, PartialEq, Eq)]
pub struct Closed(pub Vec<(String, Option<Why>)>);

impl std::error::Error for Closed {}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<&str> = self.0.iter().map(|(item, _)| item.as_str()).collect();
        write!(f, "no key could decrypt secret ({})", items.join(", "))?;
        let mut reasons: BTreeMap<&Why, Vec<&str>> = BTreeMap::new();
        for (item, why) in &self.0 {
            reasons.entry(why.as_ref().unwrap_or(&Why::Unknown)).or_default().push(item);
        }
        if self.0.iter().all(|(_, why)| why.is_none()) {
            return Ok(());
        }
        let only = reasons.len() == 1;
        for (index, (why, items)) in reasons.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            if !only {
                write!(f, "{} ", items.join(", "))?;
            }
            write!(f, "{why}")?;
        }
        Ok(())
    }
}

/// What was opened.
#[derive(Debug)]
pub struct Unsealed {
    /// The Secret's own metadata and type: those of `spec.template` or, in the deprecated form, the sealed ones.
    pub template: SecretTemplate,
    /// The values.
    pub values: BTreeMap<String, Plaintext>,
    /// The key that opened each item; in the deprecated form there is one item, [`WHOLE`].
    pub keys: BTreeMap<String, Fingerprint>,
}

/// The name under which the blob of the deprecated form is spoken of.
pub const WHOLE: &str = "data";

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
    let spec = &sealed.spec;
    let refused = |error| Attempt { operations: 0, outcome: Err(error) };
    let blobs: Vec<(&str, &str)> = match &spec.data {
        Some(_) if !spec.encrypted_data.is_empty() => return refused(UnsealError::BothForms),
        Some(blob) => vec![(WHOLE, blob)],
        None => spec.encrypted_data.iter().map(|(item, blob)| (item.as_str(), blob.as_str())).collect(),
    };
    let field = |item: &str| spec.data.as_ref().map_or_else(|| format!("encryptedData.{item}"), |_| "spec.data".into());
    let template = spec.template.clone().unwrap_or_default();
    let label = label(sealed);
    let recipients = Recipients::of(sealed.annotations());
    let mut operations = 0;
    let mut unsealed = Unsealed { template, values: BTreeMap::new(), keys: BTreeMap::new() };
    let (mut closed, mut malformed) = (Vec::new(), Vec::new());
    for (item, blob) in blobs {
        let Some(blob) = base64::decode(blob) else {
            malformed.push((field(item), "not valid base64".to_owned()));
            continue;
        };
        let likely = before.and_then(|record| record.keys.get(item));
        match recipients.open((item, &blob), &label, ring, likely) {
            Ok(opened) => {
                operations += opened.operations;
                unsealed.values.insert(item.to_owned(), opened.plaintext);
                unsealed.keys.insert(item.to_owned(), opened.by);
            }
            Err(OpenError::NoKey { operations: spent }) => {
                operations += spent;
                closed.push((item.to_owned(), None));
            }
            Err(OpenError::Envelope(error)) => malformed.push((field(item), error.to_string())),
        }
    }
    let outcome = match (malformed.is_empty(), closed.is_empty()) {
        (false, _) => Err(UnsealError::Malformed(malformed)),
        (true, false) => Err(Closed(closed).into()),
        (true, true) if spec.data.is_some() => whole(unsealed),
        (true, true) => Ok(unsealed),
    };
    Attempt { operations, outcome }
}

/// The label that an object's scope, name and namespace call for.
pub(crate) fn label(sealed: &SealedSecret) -> String {
    Scope::from_annotations(sealed.annotations()).label(&sealed.namespace().unwrap_or_default(), &sealed.name_any())
}

/// The deprecated form holds a Secret as JSON, metadata and all.
pub(crate) fn whole(unsealed: Unsealed) -> Result<Unsealed, UnsealError> {
    let Unsealed { template, values, keys } = unsealed;
    // What serde has to say would quote what it found.
    let sealed = values.get(WHOLE).and_then(|json| serde_json::from_slice(json.expose()).ok());
    let mut sealed = ClearSecret::new(sealed.ok_or(UnsealError::NoSecret)?);
    let secret = sealed.expose_mut();
    let data = std::mem::take(&mut secret.data).into_iter().flatten().map(|(item, bytes)| (item, bytes.0));
    let text = std::mem::take(&mut secret.string_data).into_iter().flatten();
    let values = data.chain(text.map(|(item, text)| (item, text.into_bytes())));
    let values = values.map(|(item, bytes)| (item, Plaintext::new(bytes))).collect();
    let ObjectMeta { labels, annotations, finalizers, .. } = std::mem::take(&mut secret.metadata);
    let mut annotations = annotations.unwrap_or_default();
    if skips_owner(&template) {
        annotations.insert(SKIP_OWNER.to_owned(), "true".to_owned());
    }
    let metadata = ObjectMeta { labels, annotations: Some(annotations), finalizers, ..ObjectMeta::default() };
    let template = SecretTemplate {
        metadata: Some(serde_json::to_value(metadata).map_err(|_| UnsealError::NoSecret)?),
        type_: secret.type_.take(),
        immutable: secret.immutable,
        data: None,
    };
    Ok(Unsealed { template, values, keys })
}

/// The Secret that a `SealedSecret` stands for: the template's metadata, the opened values, the rendered templates, and
/// an owner reference unless the template declines it. Only who may read the Secret may learn what comes of this: with
/// templates of one's choice, whether it fails tells of the values.
pub fn secret(
    sealed: &SealedSecret,
    unsealed: Unsealed,
    environment: Environment<'_>,
) -> Result<ClearSecret, UnsealError> {
    let ownerless = skips_owner(&unsealed.template);
    let SecretTemplate { metadata, type_, immutable, data } = unsealed.template;
    let templates = data.unwrap_or_default();
    let described: ObjectMeta = match metadata {
        Some(metadata) => serde_json::from_value(metadata).map_err(|error| UnsealError::Template(error.to_string()))?,
        None => ObjectMeta::default(),
    };
    // As upstream's reference, this one does not block: deleting the owner in the foreground waits for nothing.
    let owner = sealed.controller_owner_ref(&()).filter(|_| !ownerless);
    let owner = owner.map(|owner| OwnerReference { block_owner_deletion: None, ..owner });
    let missing = MissingKey::from_annotations(sealed.annotations());
    let rendered = template::render(&templates, &unsealed.values, missing, environment)?;
    let kept = unsealed.values.into_iter().filter(|(item, _)| !matches!(templates.get(item), Some(None)));
    let data = kept.chain(rendered).map(|(item, value)| (item, ByteString(value.expose().to_vec()))).collect();
    Ok(ClearSecret(Secret {
        metadata: ObjectMeta {
            name: sealed.metadata.name.clone(),
            namespace: sealed.metadata.namespace.clone(),
            labels: described.labels,
            annotations: described.annotations,
            finalizers: described.finalizers,
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_,
        immutable,
        string_data: None,
    }))
}

fn skips_owner(template: &SecretTemplate) -> bool {
    let annotations = template.metadata.as_ref().and_then(|metadata| metadata.get("annotations"));
    annotations.and_then(|annotations| annotations.get(SKIP_OWNER)).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{Certificate, PrivateKey, key_ring::RingKey, sealed_secret::SealedSecretSpec};

    fn ring() -> KeyRing {
        let private = Arc::new(PrivateKey::from_pem(include_str!("../testdata/new.key")).unwrap());
        let born = jiff::Timestamp::UNIX_EPOCH;
        [RingKey { private, certificate: None, certificate_pem: "".into(), born }].into_iter().collect()
    }

    /// shop/db in the deprecated form, holding `text`.
    fn deprecated(text: &str) -> SealedSecret {
        let certificate = Certificate::from_pem(include_str!("../testdata/new.crt")).unwrap();
        let blob = certificate.seal(text.as_bytes(), "shop/db", &mut rand::rng()).unwrap();
        let spec = SealedSecretSpec { data: Some(base64::encode(&blob)), ..SealedSecretSpec::default() };
        let mut sealed = SealedSecret::new("db", spec);
        sealed.metadata.namespace = Some("shop".to_owned());
        sealed.metadata.uid = Some("1".to_owned());
        sealed
    }

    fn opened(sealed: &SealedSecret) -> Result<ClearSecret, UnsealError> {
        let environment = Environment { rng: &mut rand::rng(), now: jiff::Timestamp::UNIX_EPOCH };
        open(sealed, &ring(), None).outcome.and_then(|unsealed| secret(sealed, unsealed, environment))
    }

    #[test]
    fn the_deprecated_form_is_a_whole_secret() {
        let inner = json!({
            "kind": "Secret", "apiVersion": "v1", "type": "kubernetes.io/basic-auth", "immutable": true,
            "metadata": {"name": "other", "namespace": "elsewhere", "labels": {"a": "b"}, "creationTimestamp": null},
            "data": {"password": "aHVudGVyMg=="}, "stringData": {"username": "app"},
        });
        let mut sealed = deprecated(&inner.to_string());
        let secret = opened(&sealed).unwrap();
        let Secret { metadata, data, type_, immutable, .. } = secret.expose();
        assert_eq!((metadata.name.as_deref(), metadata.namespace.as_deref()), (Some("db"), Some("shop")));
        assert_eq!(metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(metadata.owner_references.as_ref().map(Vec::len), Some(1));
        let data = data.as_ref().unwrap();
        assert_eq!((data["password"].0.as_slice(), data["username"].0.as_slice()), (&b"hunter2"[..], &b"app"[..]));
        assert_eq!((type_.as_deref(), *immutable), (Some("kubernetes.io/basic-auth"), Some(true)));

        let metadata = Some(json!({"annotations": {SKIP_OWNER: "true"}}));
        sealed.spec.template = Some(SecretTemplate { metadata, ..SecretTemplate::default() });
        assert_eq!(opened(&sealed).unwrap().expose().metadata.owner_references, None);
    }

    #[test]
    fn the_deprecated_form_alone_and_only_with_a_secret_in_it() {
        let mut sealed = deprecated("{\"data\": {\"a\": \"hunter2\"}, \"type\": 5}");
        assert_eq!(opened(&sealed).unwrap_err(), UnsealError::NoSecret);
        sealed.spec.encrypted_data.insert("a".to_owned(), String::new());
        assert_eq!(opened(&sealed).unwrap_err(), UnsealError::BothForms);
    }
}
