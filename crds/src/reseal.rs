//! Seals a `SealedSecret` anew for another certificate, usually the newest. Only ciphertexts change: the object is taken
//! as it came, so the template, labels, annotations, and what this version does not know stay as they are. The template
//! is not even looked at: rendered, it would tell whoever may ask what the values are.
//!
//! An item with further recipients ([`crate::recipients`]) keeps its value's ciphertext: only what is this cluster's own is
//! made anew, so that the others go on opening it.
//!
//! The scope is the object's own, before and after: a value gets nowhere that it could not go already.

use std::collections::BTreeMap;

use rand::CryptoRng;
use serde_json::{Map, Value, json};

use crate::{
    Certificate, Fingerprint, KeyRing, Plaintext, Scope, base64,
    envelope::EnvelopeError,
    key_ring::{OpenError, Opened},
    recipients::{RECIPIENTS, Recipients, TooLarge},
    seal::LEAKING_ANNOTATIONS,
    sealed_secret::SecretTemplate,
    unseal::{self, Unsealed, WHOLE},
};

/// What an API server adds to an object's metadata, and refuses or ignores in an object that comes from elsewhere.
const SERVER_SET: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Why an object cannot be sealed anew. Names fields and items, never what they hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResealError {
    /// Something else.
    #[error("this is not a SealedSecret of bitnami.com/v1alpha1")]
    NotASealedSecret,
    /// A field of another type.
    #[error("{field} must be {expected}")]
    Field {
        /// Its path.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// Both forms in one object.
    #[error("cannot use the field 'encryptedData' and the deprecated field 'data' at the same time")]
    BothForms,
    /// The deprecated form, where it is switched off.
    #[error("spec.data, the deprecated form, is not accepted: use spec.encryptedData")]
    Deprecated,
    /// An item that is no sealed value, as anyone can see.
    #[error("{item} is {why}")]
    Malformed {
        /// Its path.
        item: String,
        /// What is wrong with it.
        why: String,
    },
    /// Says the same whichever of its reasons holds: nobody shall learn by asking what a ciphertext was made for.
    #[error("no key could decrypt secret: it is sealed for another cluster, name, namespace or scope, or damaged")]
    NoKey,
    /// What `spec.data` holds opens, but is no Secret.
    #[error("spec.data holds something that is not a Secret")]
    NoSecret,
    /// The certificate cannot seal.
    #[error("cannot seal an item anew: {0}")]
    Seal(#[from] EnvelopeError),
    /// The newest key is larger than the one before, and there were many recipients already.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The caller wants no answer any more.
    #[error("given up half way")]
    Stopped,
}

/// Told after each item how many RSA operations it cost; answers whether to go on.
pub type Meter<'a> = dyn FnMut(u32) -> bool + 'a;

/// A `SealedSecret` as it came, with what decides how it opens.
pub struct Candidate {
    object: Value,
    label: String,
    recipients: Recipients,
    form: Form,
}

enum Form {
    /// `spec.encryptedData`.
    Items(BTreeMap<String, String>),
    /// `spec.data`, the deprecated form.
    Whole(String),
}

impl Candidate {
    /// Fails when the object is of another kind, or when a field that matters is of another type.
    pub fn new(object: Value) -> Result<Self, ResealError> {
        let is = |field: &str, value: &str| object.get(field).and_then(Value::as_str) == Some(value);
        if !is("apiVersion", "bitnami.com/v1alpha1") || !is("kind", "SealedSecret") {
            return Err(ResealError::NotASealedSecret);
        }
        let (metadata, spec) = (map(&object, "/metadata", "metadata")?, map(&object, "/spec", "spec")?);
        let annotations = texts(metadata.get("annotations"), "metadata.annotations")?;
        let name = text(metadata.get("name"), "metadata.name")?.unwrap_or_default();
        let namespace = text(metadata.get("namespace"), "metadata.namespace")?.unwrap_or_default();
        let items = texts(spec.get("encryptedData"), "spec.encryptedData")?;
        let form = match text(spec.get("data"), "spec.data")? {
            Some(_) if !items.is_empty() => return Err(ResealError::BothForms),
            Some(blob) => Form::Whole(blob),
            None => Form::Items(items),
        };
        let label = Scope::from_annotations(&annotations).label(&namespace, &name);
        let recipients = Recipients::of(&annotations);
        Ok(Self { object, label, recipients, form })
    }

    /// The namespace and name that it gives itself; empty where it gives none.
    pub fn place(&self) -> (&str, &str) {
        let metadata = |path| self.object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        (metadata("/metadata/namespace"), metadata("/metadata/name"))
    }

    /// Whether it is in the deprecated form.
    pub fn is_deprecated(&self) -> bool {
        matches!(self.form, Form::Whole(_))
    }

    /// Opens everything, for the sake of knowing that it opens. Ends at the first that does not.
    pub fn verify(&self, ring: &KeyRing, meter: &mut Meter<'_>) -> Result<(), ResealError> {
        self.open(ring, None, meter).try_for_each(|opened| opened.map(drop))
    }

    /// The object with every item sealed for `certificate`, and without what a server had added to it. An item that
    /// already is stays as it is, so that a second run changes nothing and a diff shows what was stale. The deprecated
    /// form becomes the present one, with the sealed Secret's own metadata as its template.
    pub fn reseal(
        mut self,
        ring: &KeyRing,
        certificate: &Certificate,
        rng: &mut impl CryptoRng,
        meter: &mut Meter<'_>,
    ) -> Result<Value, ResealError> {
        let opened: Vec<Item> = self.open(ring, Some(certificate.fingerprint()), meter).collect::<Result<_, _>>()?;
        let mut items = Map::new();
        if let Form::Items(texts) = &self.form {
            let mut recipients = self.recipients.clone();
            for Item { name, blob, value, by, through_entry } in opened {
                let text = if by == *certificate.fingerprint() {
                    texts.get(&name).cloned().ok_or(ResealError::NoKey)?
                } else if recipients.entries(&name).is_empty() {
                    base64::encode(&certificate.seal(value.expose(), &self.label, rng)?)
                } else {
                    let key = ring.keys().iter().find(|key| *key.private.fingerprint() == by);
                    let key = &key.ok_or(ResealError::NoKey)?.private;
                    let renewed =
                        recipients.renew((&name, &blob, through_entry), &self.label, key, certificate, rng)?;
                    if !meter(1) {
                        return Err(ResealError::Stopped);
                    }
                    base64::encode(&renewed.ok_or(ResealError::NoKey)?)
                };
                items.insert(name, text.into());
            }
            if recipients != self.recipients
                && let Some(text) = recipients.annotation()?
            {
                self.object["metadata"]["annotations"][RECIPIENTS] = text.into();
            }
        } else {
            let values = opened.into_iter().map(|item| (item.name, item.value)).collect();
            let metadata = self.object.pointer("/spec/template/metadata").cloned();
            let template = SecretTemplate { metadata, ..SecretTemplate::default() };
            let sealed = Unsealed { template, values, keys: BTreeMap::new() };
            let Unsealed { template, values, .. } = unseal::whole(sealed).map_err(|_| ResealError::NoSecret)?;
            for (item, value) in &values {
                let blob = certificate.seal(value.expose(), &self.label, rng)?;
                items.insert(item.clone(), base64::encode(&blob).into());
            }
            if let Some(Value::Object(spec)) = self.object.get_mut("spec") {
                spec.remove("data");
                spec.insert("template".to_owned(), json!(template));
            }
            self.object.pointer_mut("/spec/template/metadata").map(strip_annotations);
        }
        self.object["spec"]["encryptedData"] = Value::Object(items);
        strip(&mut self.object);
        Ok(self.object)
    }

    fn open<'a>(
        &'a self,
        ring: &'a KeyRing,
        likely: Option<&'a Fingerprint>,
        meter: &'a mut Meter<'_>,
    ) -> impl Iterator<Item = Result<Item, ResealError>> + 'a {
        let blobs: Vec<(&str, &str)> = match &self.form {
            Form::Items(items) => items.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect(),
            Form::Whole(text) => vec![(WHOLE, text)],
        };
        blobs.into_iter().map(move |(name, text)| {
            let malformed = |why: String| {
                let item = if self.is_deprecated() { "spec.data".to_owned() } else { format!("encryptedData.{name}") };
                ResealError::Malformed { item, why }
            };
            let blob = base64::decode(text).ok_or_else(|| malformed("not valid base64".to_owned()))?;
            let (operations, opened) = match self.recipients.open((name, &blob), &self.label, ring, likely) {
                Ok(Opened { plaintext: value, by, through_entry, operations }) => {
                    (operations, Ok(Item { name: name.to_owned(), blob, value, by, through_entry }))
                }
                Err(OpenError::NoKey { operations }) => (operations, Err(ResealError::NoKey)),
                Err(OpenError::Envelope(error)) => (0, Err(malformed(error.to_string()))),
            };
            if meter(operations) { opened } else { Err(ResealError::Stopped) }
        })
    }
}

struct Item {
    name: String,
    blob: Vec<u8>,
    value: Plaintext,
    by: Fingerprint,
    through_entry: bool,
}

/// Takes out of an object what a server added, and the former versions that other tools keep in it.
pub fn strip(object: &mut Value) {
    if let Value::Object(fields) = object {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata") {
        if let Value::Object(fields) = metadata {
            fields.retain(|field, value| value.is_null() || !SERVER_SET.contains(&field.as_str()));
        }
        strip_annotations(metadata);
    }
}

/// Of those in which other tools keep a former version of the whole object.
fn strip_annotations(metadata: &mut Value) {
    let Value::Object(metadata) = metadata else { return };
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        let before = annotations.len();
        annotations.retain(|key, _| !LEAKING_ANNOTATIONS.contains(&key.as_str()));
        if annotations.is_empty() && before > 0 {
            metadata.remove("annotations");
        }
    }
}

fn map<'a>(object: &'a Value, path: &str, field: &'static str) -> Result<&'a Map<String, Value>, ResealError> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    match object.pointer(path) {
        None | Some(Value::Null) => Ok(&EMPTY),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(ResealError::Field { field, expected: "a map" }),
    }
}

fn text(value: Option<&Value>, field: &'static str) -> Result<Option<String>, ResealError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ResealError::Field { field, expected: "text" }),
    }
}

fn texts(value: Option<&Value>, field: &'static str) -> Result<BTreeMap<String, String>, ResealError> {
    let wrong = || ResealError::Field { field, expected: "a map of text" };
    match value {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(map)) => {
            map.iter().map(|(key, value)| Ok((key.clone(), value.as_str().ok_or_else(wrong)?.to_owned()))).collect()
        }
        Some(_) => Err(wrong()),
    }
}
