//! A stream of documents to Secrets and SealedSecrets. Pure over strings. Reads each field by hand instead of through
//! serde, whose errors quote what they found: a fault here names a place and what belongs there, never what stands
//! there.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use crds::{
    SealedSecret, base64,
    sealed_secret::{SealedSecretSpec, SecretTemplate},
    unseal::ClearSecret,
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::core::ObjectMeta;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::spelling;

/// One object of a stream, or why it is none.
#[derive(Debug)]
pub struct Entry<T> {
    pub place: Place,
    pub object: Result<T, Fault>,
}

/// Where in a stream something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// From 1; empty documents do not count.
    pub document: usize,
    /// In the whole stream, from 1.
    pub line: usize,
    /// In a list, from 1; in a list of lists one number for each.
    pub item: Vec<usize>,
    /// Of the object, as far as it says.
    pub name: Option<String>,
}

/// Why a document is not what was expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Syntax(String),
    #[error("expected a {expected}, found {found}")]
    NotAnObject { expected: &'static str, found: &'static str },
    #[error("expected kind {0}, but there is no kind")]
    NoKind(&'static str),
    #[error("expected kind {expected}, found {found}")]
    Kind { expected: &'static str, found: String },
    #[error(
        "this is a SealedSecret: it is sealed already; --re-encrypt seals it anew, --merge-into adds items of a Secret to it"
    )]
    Sealed,
    #[error("this is a Secret: it is not sealed yet")]
    Unsealed,
    #[error("expected apiVersion {0}")]
    ApiVersion(&'static str),
    #[error("{path} must be {expected}")]
    Field { path: String, expected: &'static str },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}, line {}", self.document, self.line)?;
        self.item.iter().try_for_each(|item| write!(f, ", item {item}"))?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        Ok(())
    }
}

/// Reads a whole stream: YAML documents or JSON objects, Secrets or lists of them.
pub fn secrets(text: &str) -> Vec<Entry<ClearSecret>> {
    let as_written = |(mut entry, document): (Entry<Value>, &str)| {
        let Entry { place, object } = &mut entry;
        object.iter_mut().for_each(|object| spelling::keep(object, document, &place.item, &spelling::OF_A_SECRET));
        entry.and_then("Secret", secret)
    };
    found(text).into_iter().map(as_written).collect()
}

/// Reads the SealedSecrets of a stream, alone or in lists. Objects of other kinds may stand beside them, but no Secrets.
pub fn sealed_secrets(text: &str) -> Vec<Entry<SealedSecret>> {
    let all: Vec<_> = objects(text).into_iter().map(|entry| entry.and_then("SealedSecret", sealed_secret)).collect();
    let other = |entry: &Entry<_>| matches!(entry.object, Err(Fault::Kind { .. }));
    if all.iter().all(other) {
        return all; // nothing to stand beside
    }
    all.into_iter().filter(|entry| !other(entry)).collect()
}

/// A chart's templates can be read by Helm alone. A SealedSecret has templates too, which know none of these.
pub fn is_of_a_chart(text: &str) -> bool {
    let words = [".Values", ".Release", ".Chart", ".Capabilities", ".Files", "include "];
    text.contains("{{") && words.iter().any(|word| text.contains(word))
}

/// The object at a place, in the parsed documents of its stream.
pub fn at<'a, E>(documents: &'a mut [Result<Value, E>], place: &Place) -> Option<&'a mut Value> {
    let mut object = documents.get_mut(place.document.checked_sub(1)?)?.as_mut().ok()?;
    for item in &place.item {
        object = object.get_mut("items")?.get_mut(item.checked_sub(1)?)?;
    }
    Some(object)
}

/// Every object of a stream, lists taken apart.
pub fn objects(text: &str) -> Vec<Entry<Value>> {
    found(text).into_iter().map(|(entry, _)| entry).collect()
}

/// Each object with the text of its document.
pub fn found(text: &str) -> Vec<(Entry<Value>, &str)> {
    let documents = crds::yaml::documents(text).into_iter().enumerate();
    documents
        .flat_map(|(index, document)| {
            let place = Place { document: index + 1, line: document.line, ..Place::default() };
            let own = text.get(document.range).unwrap_or_default();
            let entries = match document.value {
                Ok(value) => entries(value, place),
                Err(error) => vec![Entry {
                    place: Place { line: error.line, ..place },
                    object: Err(Fault::Syntax(error.problem)),
                }],
            };
            entries.into_iter().map(move |entry| (entry, own))
        })
        .collect()
}

fn entries(mut value: Value, place: Place) -> Vec<Entry<Value>> {
    let is_list = match value.get("kind").map(Value::as_str) {
        Some(kind) => matches!(kind, Some("List" | "SecretList" | "SealedSecretList")),
        None => {
            value.get("metadata").and_then(|metadata| metadata.get("name")).is_none() && value.get("items").is_some()
        }
    };
    if !is_list {
        return vec![Entry { place: Place { name: name(&value), ..place }, object: Ok(value) }];
    }
    let items = match value.get_mut("items").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => return vec![Entry { place, object: Err(field("items", "a list")) }],
    };
    let numbered = items.into_iter().enumerate();
    let place = |index| Place { item: [place.item.as_slice(), &[index + 1]].concat(), ..place.clone() };
    numbered.flat_map(|(index, item)| entries(item, place(index))).collect()
}

fn name(object: &Value) -> Option<String> {
    let metadata = |key| object.get("metadata")?.get(key)?.as_str().filter(|text| !text.is_empty());
    match (metadata("namespace"), metadata("name")) {
        (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
        (None, Some(name)) => Some(name.to_owned()),
        (_, None) => None,
    }
}

impl Entry<Value> {
    fn and_then<T>(
        self,
        expected: &'static str,
        read: impl FnOnce(Map<String, Value>) -> Result<T, Fault>,
    ) -> Entry<T> {
        let as_object = |value| object(value).map_err(|found| Fault::NotAnObject { expected, found });
        Entry { place: self.place, object: self.object.and_then(as_object).and_then(read) }
    }
}

/// What a SealedSecret says. Fields that only a server writes are dropped, whatever they look like.
pub fn sealed_secret(mut object: Map<String, Value>) -> Result<SealedSecret, Fault> {
    match word(&object, "kind")? {
        Some("SealedSecret") => {}
        Some("Secret") => return Err(Fault::Unsealed),
        Some(kind) => return Err(Fault::Kind { expected: "SealedSecret", found: presentable(kind) }),
        None => return Err(Fault::NoKind("SealedSecret")),
    }
    match word(&object, "apiVersion")? {
        Some("bitnami.com/v1alpha1") => {}
        _ => return Err(Fault::ApiVersion("bitnami.com/v1alpha1")),
    }
    let metadata = metadata(object.remove("metadata"), "metadata")?;
    let mut spec = mapping(object.remove("spec"), "spec")?;
    let mut encrypted_data = BTreeMap::new();
    for (item, value) in mapping(spec.remove("encryptedData"), "spec.encryptedData")? {
        let value = text(Some(value), || format!("spec.encryptedData.{item}"))?.unwrap_or_default();
        encrypted_data.insert(item, value);
    }
    let data = text(spec.remove("data"), || "spec.data".to_owned())?;
    let template = match spec.remove("template") {
        None | Some(Value::Null) => None,
        Some(value) => Some(template(value)?),
    };
    Ok(SealedSecret { metadata, spec: SealedSecretSpec { template, data, encrypted_data }, status: None })
}

/// What a SealedSecret's template says; of its metadata not more than that there are fields.
pub fn template(value: Value) -> Result<SecretTemplate, Fault> {
    let mut template = mapping(Some(value), "spec.template")?;
    let mut data = BTreeMap::new();
    for (key, value) in mapping(template.remove("data"), "spec.template.data")? {
        data.insert(key.clone(), text(Some(value), || format!("spec.template.data.{key}"))?);
    }
    Ok(SecretTemplate {
        metadata: match template.remove("metadata") {
            None | Some(Value::Null) => None,
            metadata => Some(Value::Object(mapping(metadata, "spec.template.metadata")?)),
        },
        type_: text(template.remove("type"), || "spec.template.type".to_owned())?,
        immutable: immutable(template.get("immutable"), "spec.template.immutable")?,
        data: (!data.is_empty()).then_some(data),
    })
}

/// Takes a Secret out of a document; the values move, so that they are wiped with the [`ClearSecret`].
fn secret(mut object: Map<String, Value>) -> Result<ClearSecret, Fault> {
    check_kind(&object)?;
    // In care from the start: what was read before a fault is wiped as well.
    let mut clear = ClearSecret::new(Secret::default());
    let secret = clear.expose_mut();
    for (known, expected) in [("data", "spelled data"), ("stringData", "spelled stringData")] {
        // kubeseal reads them all the same, an API server would not.
        if let Some(key) = object.keys().find(|key| key.eq_ignore_ascii_case(known) && *key != known) {
            return Err(field(key, expected));
        }
    }
    // A ConfigMap's. An API server would drop it, and the values with it.
    if object.get("binaryData").is_some_and(|it| !it.is_null()) {
        return Err(field("binaryData", "spelled data in a Secret"));
    }
    secret.type_ = text(object.remove("type"), || "type".to_owned())?.filter(|word| !word.is_empty());
    secret.immutable = immutable(object.get("immutable"), "immutable")?;
    secret.metadata = metadata(object.remove("metadata"), "metadata")?;
    for (key, value) in mapping(object.remove("data"), "data")? {
        let encoded = Zeroizing::new(text(Some(value), || format!("data.{key}"))?.unwrap_or_default());
        let bytes = base64::decode(&encoded)
            .ok_or_else(|| field(format!("data.{key}"), "base64; what is not encoded belongs under stringData"))?;
        secret.data.get_or_insert_default().insert(key, ByteString(bytes));
    }
    for (key, value) in mapping(object.remove("stringData"), "stringData")? {
        let plain = text(Some(value), || format!("stringData.{key}"))?.unwrap_or_default();
        secret.string_data.get_or_insert_default().insert(key, plain);
    }
    Ok(clear)
}

/// What kubeseal takes for a Secret is one, even without a kind; what says to be something else is not.
fn check_kind(object: &Map<String, Value>) -> Result<(), Fault> {
    match word(object, "kind")? {
        Some("Secret") => {}
        Some("SealedSecret") => return Err(Fault::Sealed),
        Some(kind) => return Err(Fault::Kind { expected: "Secret", found: presentable(kind) }),
        None if object.contains_key("metadata") => {}
        None => return Err(Fault::NoKind("Secret")),
    }
    match word(object, "apiVersion")? {
        None | Some("v1") => Ok(()),
        Some(_) => Err(Fault::ApiVersion("v1")),
    }
}

fn word<'a>(object: &'a Map<String, Value>, key: &'static str) -> Result<Option<&'a str>, Fault> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| field(key, "a string")),
    }
}

fn immutable(value: Option<&Value>, path: &str) -> Result<Option<bool>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(immutable)) => Ok(Some(*immutable)),
        Some(_) => Err(field(path, "true or false")),
    }
}

/// Whether a template's metadata is of the types that an API server takes.
pub fn check_template(template: &SecretTemplate) -> Result<(), Fault> {
    metadata(template.metadata.clone(), "spec.template.metadata").map(drop)
}

/// Only what a manifest says: what a server adds (uid, managedFields, …) may look however it likes.
fn metadata(value: Option<Value>, path: &str) -> Result<ObjectMeta, Fault> {
    let mut fields = mapping(value, path)?;
    let within = |field: &str| format!("{path}.{field}");
    let name = text(fields.remove("name"), || within("name"))?;
    let namespace = text(fields.remove("namespace"), || within("namespace"))?;
    let labels = texts(fields.remove("labels"), &within("labels"))?;
    let annotations = texts(fields.remove("annotations"), &within("annotations"))?;
    let finalizers = match fields.remove("finalizers") {
        None | Some(Value::Null) => None,
        Some(Value::Array(items)) => Some(
            items
                .into_iter()
                .map(|item| Ok(text(Some(item), || within("finalizers"))?.unwrap_or_default()))
                .collect::<Result<_, Fault>>()?,
        ),
        Some(_) => return Err(field(within("finalizers"), "a list of strings")),
    };
    Ok(ObjectMeta { name, namespace, labels, annotations, finalizers, ..ObjectMeta::default() })
}

fn object(value: Value) -> Result<Map<String, Value>, &'static str> {
    match value {
        Value::Object(object) => Ok(object),
        Value::Array(_) => Err("a list"),
        Value::String(_) => Err("plain text"),
        Value::Number(_) => Err("a number"),
        Value::Bool(_) | Value::Null => Err("a single word"),
    }
}

fn mapping(value: Option<Value>, path: &str) -> Result<Map<String, Value>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(value) => object(value).map_err(|_| field(path, "a mapping")),
    }
}

fn texts(value: Option<Value>, path: &str) -> Result<Option<BTreeMap<String, String>>, Fault> {
    let fields = mapping(value, path)?.into_iter();
    let texts: BTreeMap<_, _> = fields
        .map(|(key, value)| {
            let text = text(Some(value), || format!("{path}.{key}"))?.unwrap_or_default();
            Ok((key, text))
        })
        .collect::<Result<_, Fault>>()?;
    Ok((!texts.is_empty()).then_some(texts))
}

fn text(value: Option<Value>, path: impl FnOnce() -> String) -> Result<Option<String>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(_) | Value::Bool(_)) => Err(field(path(), "a string: put it in quotes")),
        Some(_) => Err(field(path(), "a string")),
    }
}

/// A kind as such is public, but anything can stand in its place.
fn presentable(kind: &str) -> String {
    let plain = kind.len() <= 63 && !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric());
    if plain { kind.to_owned() } else { "something else".to_owned() }
}

fn field<'a>(path: impl Into<Cow<'a, str>>, expected: &'static str) -> Fault {
    Fault::Field { path: path.into().into_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\n";

    fn only(text: &str) -> Result<ClearSecret, Fault> {
        let mut entries = secrets(text);
        assert_eq!(entries.len(), 1, "{text}");
        entries.remove(0).object
    }

    fn other(kind: &str) -> Fault {
        Fault::Kind { expected: "Secret", found: kind.to_owned() }
    }

    fn fault(text: &str) -> String {
        only(text).unwrap_err().to_string()
    }

    #[test]
    fn a_secret_keeps_what_matters_and_loses_what_a_server_added() {
        let text = "kind: Secret\nmetadata: {name: db, namespace: shop, uid: 1, labels: {a: b}, managedFields: 7}\ntype: t\nimmutable: true\ndata: {p: eHk=, none: }\nstringData: {q: z}\n";
        let secret = only(text).unwrap();
        let Secret { metadata, data, string_data, type_, immutable } = secret.expose();
        assert_eq!((metadata.name.as_deref(), metadata.namespace.as_deref()), (Some("db"), Some("shop")));
        assert_eq!(metadata.uid, None);
        assert_eq!(metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(data.as_ref().unwrap()["p"].0, b"xy");
        assert_eq!(data.as_ref().unwrap()["none"].0, b"");
        assert_eq!(string_data.as_ref().unwrap()["q"], "z");
        assert_eq!((type_.as_deref(), *immutable), (Some("t"), Some(true)));
    }

    #[test]
    fn lists_are_taken_apart() {
        let list = "kind: List\nitems:\n- {kind: Secret, metadata: {name: a}}\n- {kind: SecretList, items: [{metadata: {name: b}}]}\n- {kind: Pod, metadata: {name: c}}\n";
        let entries = secrets(list);
        let places: Vec<String> = entries.iter().map(|entry| entry.place.to_string()).collect();
        assert_eq!(places[0], "document 1, line 1, item 1 (a)");
        assert_eq!(places[2], "document 1, line 1, item 3 (c)");
        assert!(entries[1].object.is_ok());
        assert_eq!(entries[2].object.as_ref().unwrap_err(), &other("Pod"));
        assert!(secrets("kind: SecretList\nitems: []\n").is_empty());
    }

    #[test]
    fn other_kinds_are_refused() {
        assert_eq!(only("kind: ConfigMap\ndata: {a: eHk=}\n").unwrap_err(), other("ConfigMap"));
        assert_eq!(only("kind: SealedSecret\n").unwrap_err(), Fault::Sealed);
        assert_eq!(only("a: b\n").unwrap_err(), Fault::NoKind("Secret"));
        assert_eq!(only("kind: Secret\napiVersion: v2\n").unwrap_err(), Fault::ApiVersion("v1"));
        assert_eq!(fault("[1]"), "expected a Secret, found a list");
        assert!(only("metadata: {name: db}\ndata: {a: eHk=}\n").is_ok(), "kubeseal takes it");
    }

    #[test]
    fn faults_name_the_key_and_never_the_value() {
        for (text, message) in [
            (
                "data: {password: hunter2-not-base64!}",
                "data.password must be base64; what is not encoded belongs under stringData",
            ),
            ("data: {password: 532532}", "data.password must be a string: put it in quotes"),
            ("stringData: {on: yes}", "stringData.on must be a string: put it in quotes"),
            ("stringdata: {password: hunter2}", "stringdata must be spelled stringData"),
            ("Data: {password: hunter2}", "Data must be spelled data"),
            ("binaryData: {password: aHVudGVyMg==}", "binaryData must be spelled data in a Secret"),
            ("stringData: {nested: {password: hunter2}}", "stringData.nested must be a string"),
            ("data: hunter2", "data must be a mapping"),
            ("stringData: [hunter2]", "stringData must be a mapping"),
            ("immutable: hunter2", "immutable must be true or false"),
            ("type: [hunter2]", "type must be a string"),
        ] {
            assert_eq!(fault(&format!("{HEAD}{text}\n")), message);
        }
        for text in ["kind: hunter2 is mine\n", "apiVersion: hunter2\nkind: Secret\n", "hunter2", "- hunter2\n"] {
            let message = fault(text);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn broken_text_is_not_quoted_either() {
        for broken in [
            "stringData: {password: \"hunter2}",
            "stringData:\n  password: hunter2: hunter2\n",
            "stringData:\n  password: hunter2\n hunter2\n",
            "stringData:\n  password: *hunter2\n",
            "stringData:\n  password: !!int hunter2\n",
            "stringData:\n  password: !hunter2 hunter2\n",
            "stringData:\n  password: @hunter2\n",
            "stringData:\n  password: \"\\hunter2\"\n",
            "stringData:\n  password: %hunter2\n",
            "stringData:\n  password: |hunter2\n",
            "stringData:\n\tpassword: hunter2\n",
            "{\"stringData\": {\"password\": \"hunter2\" \"hunter2\"}}",
            "{\"stringData\": {\"password\": \"hunter2}}",
        ] {
            for entry in secrets(broken) {
                let message = format!("{} {:?}", entry.place, entry.object);
                assert!(!message.contains("hunter2"), "{broken:?}: {message}");
            }
        }
    }

    #[test]
    fn places_are_told_by_document_and_line() {
        let stream = format!("# first\n{HEAD}---\n---\n{HEAD}---\nkind: [\n");
        let places: Vec<String> = secrets(&stream).iter().map(|entry| entry.place.to_string()).collect();
        assert_eq!(places[..2], ["document 1, line 2 (db)", "document 2, line 7 (db)"]);
        assert!(places[2].starts_with("document 3, line 1"), "{}", places[2]);
    }
}
