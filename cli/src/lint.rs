//! What is wrong with a manifest's SealedSecrets, as far as the text shows it. Pure over strings. Without a private key a
//! ciphertext tells its size and nothing else: a value sealed for another key of the same size, or under another name,
//! looks well here.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use crds::{
    Certificate, KeyRing, SealedSecret, base64, envelope, explain,
    recipients::{RECIPIENTS, Recipients},
    scope, template,
    unseal::{self, UnsealError},
};
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::Value;

use crate::{
    manifest::{self, Entry, Fault, Place},
    passed, surgery,
};

/// What to compare with.
#[derive(Default)]
pub struct Rules {
    /// A value must have the size that one of these makes.
    pub certificates: Vec<Certificate>,
    /// One of these must open it; none is no demand.
    pub keys: KeyRing,
    /// These are no findings.
    pub allowed: Vec<Rule>,
}

/// What a finding is about; the words stand in its output and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Rule {
    /// No YAML or JSON
    Syntax,
    /// A field that is missing, unknown or of another type
    Schema,
    /// A value that is no sealed value
    Value,
    /// A value of a size that the key of no --cert makes
    KeySize,
    /// A mark of the scope that does not mean what it seems to
    Scope,
    /// No name, or one that Kubernetes refuses
    Name,
    /// No namespace, though the scope is bound to one; allowed, such a value is not opened
    Namespace,
    /// A key that a Secret cannot have
    Item,
    /// The same namespace and name twice in one folder, as overlays have their own
    Duplicate,
    /// A Secret that is not sealed
    Plain,
    /// A template that cannot be rendered, whatever the values
    Template,
    /// An item that not all recipients open, or an entry that opens nothing
    Recipients,
    /// A value that no --recovery-private-key opens
    Closed,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    pub line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    pub rule: Rule,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, object, rule, message } = self;
        let rule: &str = rule.into();
        match object {
            Some(object) => write!(f, "{file}:{line}: {object}: {message} ({rule})"),
            None => write!(f, "{file}:{line}: {message} ({rule})"),
        }
    }
}

/// Looks at files one after the other, and remembers what it saw.
pub struct Linter<'a> {
    rules: &'a Rules,
    /// Every SealedSecret's last place, by folder, namespace and name.
    seen: BTreeMap<(PathBuf, String, String), String>,
    pub findings: Vec<Finding>,
    /// SealedSecrets looked at.
    pub checked: usize,
    /// What was passed over, and seems to hold sealed values.
    pub skipped: Vec<Skipped>,
}

/// See [`Linter::skipped`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub file: String,
    pub document: usize,
    pub line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// How many of them.
    pub values: usize,
}

impl Skipped {
    pub fn new(file: &str, place: Place, values: usize) -> Self {
        let Place { document, line, name: object, .. } = place;
        Self { file: file.to_owned(), document, line, object, values }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, object, values, .. } = self;
        let object = object.as_deref().map(|object| format!("{object}: ")).unwrap_or_default();
        write!(
            f,
            "{file}:{line}: {object}passed over, as no SealedSecret, though {values} of its values seem to be sealed"
        )
    }
}

/// One object, and where to report what is wrong with it.
struct Subject<'a> {
    file: &'a str,
    text: &'a str,
    place: Place,
}

impl<'a> Linter<'a> {
    pub fn new(rules: &'a Rules) -> Self {
        Self { rules, seen: BTreeMap::new(), findings: Vec::new(), checked: 0, skipped: Vec::new() }
    }

    /// Everything that is wrong in one file. One that was `named` is meant to be read, whatever it holds.
    pub fn file(&mut self, file: &str, text: &str, named: bool) {
        for (Entry { place, object }, own) in manifest::found(text) {
            let is_ours = object.as_ref().is_ok_and(|object| object.get("kind").is_some_and(|it| it == "SealedSecret"));
            let values = if is_ours { 0 } else { passed::sealed_values(&object, own) };
            let (before, subject) = (self.findings.len(), Subject { file, text, place });
            match object {
                Ok(object) => self.object(&subject, object),
                Err(fault) if named || (text.contains("SealedSecret") && !manifest::is_of_a_chart(text)) => {
                    self.add(&subject, &[], Rule::Syntax, fault.to_string());
                }
                Err(_) => {}
            }
            // What is wrong with it is said already.
            if values > 0 && self.findings.len() == before {
                self.skipped.push(Skipped::new(file, subject.place, values));
            }
        }
    }

    fn object(&mut self, subject: &Subject<'_>, object: Value) {
        let says = |field: &str| object.get(field).and_then(Value::as_str);
        match (says("kind"), says("apiVersion")) {
            (Some("Secret"), Some("v1")) => self.plain(subject, &object),
            (Some("SealedSecret"), _) => {
                self.checked += 1;
                self.fields(subject, &object);
                let Value::Object(fields) = object else { return };
                match manifest::sealed_secret(fields) {
                    Ok(sealed) => self.sealed(subject, &sealed),
                    Err(fault) => self.fault(subject, &fault),
                }
            }
            _ => {}
        }
    }

    /// Labels and annotations of a Secret are no secret; a Secret without data has none either.
    fn plain(&mut self, subject: &Subject<'_>, object: &Value) {
        let filled = |field: &str| object.get(field).and_then(Value::as_object).is_some_and(|data| !data.is_empty());
        if filled("data") || filled("stringData") {
            self.add(subject, &["kind"], Rule::Plain, "this Secret is not sealed".to_owned());
        }
    }

    fn fault(&mut self, subject: &Subject<'_>, fault: &Fault) {
        let path = match fault {
            Fault::Field { path, .. } => path.as_str(),
            Fault::ApiVersion(_) => "apiVersion",
            _ => "",
        };
        // Behind these comes one key, dots and all.
        let (head, tail) = [
            "spec.encryptedData.",
            "spec.template.data.",
            "spec.template.metadata.labels.",
            "spec.template.metadata.annotations.",
            "metadata.labels.",
            "metadata.annotations.",
        ]
        .iter()
        .find_map(|head| Some((*head, path.strip_prefix(head)?)))
        .unwrap_or((path, ""));
        let mut steps: Vec<&str> = head.split('.').chain([tail]).collect();
        steps.retain(|step| !step.is_empty());
        self.add(subject, &steps, Rule::Schema, fault.to_string());
    }

    /// An API server drops fields that it does not know, without a word.
    fn fields(&mut self, subject: &Subject<'_>, object: &Value) {
        let known = [
            (&["spec"][..], &["encryptedData", "data", "template"][..]),
            (&["spec", "template"], &["metadata", "type", "immutable", "data"]),
        ];
        for (path, known) in known {
            let fields = path.iter().try_fold(object, |value, key| value.get(key)).and_then(Value::as_object);
            for field in fields.into_iter().flat_map(|fields| fields.keys()) {
                if !known.contains(&field.as_str()) {
                    let message = format!("{}.{field} is no field of a SealedSecret", path.join("."));
                    self.add(subject, &[path, &[field.as_str()]].concat(), Rule::Schema, message);
                }
            }
        }
        if object.get("spec").is_none() {
            self.add(subject, &["kind"], Rule::Schema, "spec is missing".to_owned());
        } else if object.pointer("/spec/encryptedData").is_none() && object.pointer("/spec/data").is_none() {
            self.add(subject, &["spec"], Rule::Schema, "spec.encryptedData is missing".to_owned());
        }
    }

    fn sealed(&mut self, subject: &Subject<'_>, sealed: &SealedSecret) {
        let before = self.findings.len();
        self.scope(subject, sealed);
        self.place(subject, sealed);
        if sealed.spec.data.is_some() && !sealed.spec.encrypted_data.is_empty() {
            self.add(subject, &["spec", "data"], Rule::Schema, UnsealError::BothForms.to_string());
        }
        if let Some(blob) = &sealed.spec.data {
            self.value(subject, &["spec", "data"], blob);
        }
        if let Some(Err(fault)) = sealed.spec.template.as_ref().map(manifest::check_template) {
            self.fault(subject, &fault);
        }
        let template = sealed.spec.template.as_ref().and_then(|template| template.data.as_ref());
        for item in template.into_iter().flatten().map(|(item, _)| item) {
            self.item(subject, &["spec", "template", "data", item]);
        }
        for fault in template.map(template::check).unwrap_or_default() {
            self.add(subject, &["spec", "template", "data", &fault.key], Rule::Template, format!("spec.{fault}"));
        }
        for fault in Recipients::faults(sealed.annotations(), &sealed.spec.encrypted_data) {
            let message = format!("the annotation {RECIPIENTS} {fault}");
            self.add(subject, &["metadata", "annotations", RECIPIENTS], Rule::Recipients, message);
        }
        for (item, blob) in &sealed.spec.encrypted_data {
            let path = ["spec", "encryptedData", item.as_str()];
            self.item(subject, &path);
            self.value(subject, &path, blob);
        }
        if self.findings.len() == before && !is_homeless(sealed) && !self.rules.keys.keys().is_empty() {
            self.open(subject, sealed);
        }
    }

    fn scope(&mut self, subject: &Subject<'_>, sealed: &SealedSecret) {
        let annotations = sealed.annotations();
        let mut set = Vec::new();
        for key in [scope::CLUSTER_WIDE, scope::NAMESPACE_WIDE] {
            match annotations.get(key).map(String::as_str) {
                None | Some("false") => {}
                Some("true") => set.push(key),
                Some(_) => {
                    let message = format!("{key} counts only with the value \"true\"; this one means strict");
                    self.add(subject, &["metadata", "annotations", key], Rule::Scope, message);
                }
            }
        }
        if let [_, narrower] = set.as_slice() {
            let message = "it is marked cluster-wide and namespace-wide; cluster-wide counts".to_owned();
            self.add(subject, &["metadata", "annotations", narrower], Rule::Scope, message);
        }
        let template = sealed.spec.template.as_ref().and_then(|template| template.metadata.as_ref());
        let inner = template.and_then(|metadata| metadata.get("annotations")).and_then(Value::as_object);
        for key in [scope::CLUSTER_WIDE, scope::NAMESPACE_WIDE] {
            let marked = inner.is_some_and(|inner| inner.get(key).and_then(Value::as_str) == Some("true"));
            if marked && set.is_empty() {
                let message = format!("{key} has no effect in the template; it belongs into metadata.annotations");
                self.add(subject, &["spec", "template", "metadata", "annotations", key], Rule::Scope, message);
            }
        }
    }

    fn place(&mut self, subject: &Subject<'_>, sealed: &SealedSecret) {
        let (name, namespace) = (sealed.name_any(), sealed.namespace().unwrap_or_default());
        if name.is_empty() {
            return self.add(subject, &["metadata"], Rule::Name, "metadata.name is missing".to_owned());
        }
        if !is_subdomain(&name) {
            let message = "Kubernetes takes lower case letters, digits, '-' and '.' for a name, 253 at most".to_owned();
            self.add(subject, &["metadata", "name"], Rule::Name, message);
        }
        if is_homeless(sealed) {
            let message = "metadata.namespace is missing, and the values open in one namespace only".to_owned();
            self.add(subject, &["metadata"], Rule::Namespace, message);
        }
        let here = format!("{}:{}", subject.file, subject.place.line);
        // Overlays have folders of their own, and each fills in or replaces what others have too.
        let folder = Path::new(subject.file).parent().unwrap_or(Path::new("")).to_owned();
        match self.seen.insert((folder, namespace, name), here.clone()) {
            Some(before) if before != here => {
                let message = format!("the same SealedSecret stands at {before}");
                self.add(subject, &["metadata", "name"], Rule::Duplicate, message);
            }
            _ => {}
        }
    }

    fn item(&mut self, subject: &Subject<'_>, path: &[&str]) {
        let Some(item) = path.last() else { return };
        if !is_item(item) {
            let message = format!("a Secret takes letters, digits, '-', '_' and '.' for a key, but not {item:?}");
            self.add(subject, path, Rule::Item, message);
        }
    }

    fn value(&mut self, subject: &Subject<'_>, path: &[&str], text: &str) {
        let field = path.join(".");
        let Some(blob) = base64::decode(text) else {
            return self.add(subject, path, Rule::Value, format!("{field} is not valid base64"));
        };
        let outline = match envelope::outline(&blob) {
            Ok(outline) => outline,
            Err(error) => return self.add(subject, path, Rule::Value, format!("{field} is {error}")),
        };
        let sizes: Vec<usize> = self.rules.certificates.iter().map(Certificate::key_bits).collect();
        if !sizes.is_empty() && !sizes.contains(&outline.key_bits) {
            let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
            let (bits, sizes) = (outline.key_bits, sizes.join(" or "));
            let message = format!("{field} is sealed for a key of {bits} bits, the certificate's has {sizes}");
            self.add(subject, path, Rule::KeySize, message);
        } else if !(512..=16384).contains(&outline.key_bits) {
            let message = format!("{field} does not begin as a sealed value does");
            self.add(subject, path, Rule::Value, message);
        }
    }

    fn open(&mut self, subject: &Subject<'_>, sealed: &SealedSecret) {
        match unseal::open(sealed, &self.rules.keys, None).outcome {
            Err(UnsealError::NoKey(mut closed)) => {
                explain::explain(sealed, &self.rules.keys, &mut closed);
                for (item, why) in &closed.0 {
                    let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                    let path: &[&str] =
                        if sealed.spec.data.is_some() { &["spec", "data"] } else { &["spec", "encryptedData", item] };
                    self.add(subject, path, Rule::Closed, format!("no key could decrypt {item}{why}"));
                }
            }
            Err(error) => self.add(subject, &["spec"], Rule::Closed, error.to_string()),
            Ok(_) => {}
        }
    }

    fn add(&mut self, subject: &Subject<'_>, path: &[&str], rule: Rule, message: String) {
        if self.rules.allowed.contains(&rule) {
            return;
        }
        let Subject { file, text, place } = subject;
        let line = surgery::line(text, place.document, &place.item, path).unwrap_or(place.line);
        self.findings.push(Finding { file: (*file).to_owned(), line, object: place.name.clone(), rule, message });
    }
}

/// Whether a namespace is missing without which nothing opens.
fn is_homeless(sealed: &SealedSecret) -> bool {
    let bound = crds::Scope::from_annotations(sealed.annotations()) != crds::Scope::ClusterWide;
    bound && sealed.namespace().unwrap_or_default().is_empty()
}

/// What Kubernetes takes for a key of a Secret.
pub fn is_item(item: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=253).contains(&item.len()) && item.chars().all(allowed) && item != "." && item != ".."
}

/// What Kubernetes takes for the name of a Secret.
fn is_subdomain(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let part = |part: &str| {
        edge(part.chars().next()) && edge(part.chars().last()) && part.chars().all(|c| c == '-' || edge(Some(c)))
    };
    name.len() <= 253 && name.split('.').all(part)
}
