//! `--merge-into`: seals the items of a Secret for the place where a file's SealedSecret stands, and adds them to it.
//! Scope, name and namespace are the file's; what it says otherwise, and how it is written, stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crds::{
    Scope, SealedSecret,
    recipients::{Recipients, Sealed},
    scope, seal,
};
use kube::ResourceExt as _;
use serde_json::Value;

use crate::{
    certificate::{self, Certificates},
    cluster,
    command::MergeInto,
    commands::{
        input::{self, InputError},
        seal::{DocumentError, mark, settle, tell_unfit},
        sealed_file,
    },
    exit::Error,
    io::{Io, ReadError},
    item,
    manifest::{self, Place},
    output,
    surgery::{self, SurgeryError},
};

/// Why a Secret cannot be merged into a file.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{}: no SealedSecret to merge into was found there", path.display())]
    Nothing { path: PathBuf },
    #[error("{}: {fault}", path.display())]
    Target { path: PathBuf, fault: String },
    #[error("{} has no SealedSecret {name:?}, but {all}", path.display())]
    Unknown { path: PathBuf, name: String, all: String },
    #[error("{} has several SealedSecrets: {all}; say which one with --name, or in the Secret", path.display())]
    Ambiguous { path: PathBuf, all: String },
    #[error("{target} is {is}, so --scope {given} would make items that do not open there")]
    Scope { target: String, is: Scope, given: Scope },
    #[error("{0} holds all its items in one, in the deprecated spec.data; --re-encrypt takes them apart")]
    Deprecated(String),
    #[error("cannot change {}", path.display())]
    Edit { path: PathBuf, source: SurgeryError },
}

/// What the input's Secret shall become part of.
struct Target {
    place: Place,
    sealed: SealedSecret,
}

pub async fn run(command: MergeInto, io: &mut Io<'_>) -> Result<(), Error> {
    let MergeInto { input, target: path, mut rules, access, certificates } = command;
    let (text, encoding) = io.read_text(Some(&path)).map_err(MergeError::Read)?;
    let targets = targets(&text, &path)?;
    let secrets = input::secrets(&input::read(input.as_deref(), io)?.0)?;
    let wanted = rules.name.take();
    let single = secrets.len() == 1;
    let mut work = Vec::new();
    for (place, mut clear) in secrets {
        let secret = clear.expose_mut();
        let name = wanted.as_deref().or(secret.metadata.name.as_deref());
        let target = pick(&targets, (secret.metadata.namespace.as_deref(), name), single, &path)?;
        let scope = check(target, rules.scope)?;
        secret.metadata.name = Some(target.sealed.name_any());
        if let Some(namespace) = target.sealed.namespace() {
            secret.metadata.namespace = Some(namespace);
        }
        mark(secret, scope);
        work.push((place, clear, target));
    }
    rules.scope = None; // from here on the annotations say it
    let homeless = work.iter().any(|(_, clear, _)| crate::commands::seal::wants_namespace(clear, &rules));
    let implicit = if homeless { cluster::namespace(&access)? } else { None };
    let fallback = implicit.as_ref().map(|implicit| implicit.namespace.as_str());
    let settled = input::all(
        "Secrets cannot be merged",
        work.into_iter().map(|(place, clear, target)| match settle(clear, &rules, fallback) {
            Ok((clear, scope)) => Ok((place, clear, scope, target)),
            Err(error) => Err((place, error)),
        }),
    )
    .map_err(InputError::from)?;
    settled.iter().for_each(|(place, clear, ..)| tell_unfit(place, clear, io));
    if let Some(implicit) = implicit {
        input::told(implicit, "sealing for", io);
    }
    let certificates = certificate::fetch_all(&certificates, io).await?;

    let mut documents: Vec<_> = crds::yaml::documents(&text).into_iter().map(|document| document.value).collect();
    let mut changed = BTreeSet::new();
    for (place, clear, scope, target) in settled {
        let Certificates { first, others } = &certificates;
        let update = seal::secret_for(clear.expose(), scope, first, others, &mut rand::rng());
        let update = update.map_err(|error| InputError::one(place, &DocumentError::from(error)))?;
        let items: Vec<String> = update.spec.encrypted_data.keys().cloned().collect();
        sealed_file::tell_left_out(&target.sealed, &items, &certificates, io);
        changed.insert(target.place.document - 1);
        let merged = manifest::at(&mut documents, &target.place).and_then(|object| merge(object, update));
        merged.ok_or_else(|| target.fault(&path, "a field of it is not a mapping"))?;
    }
    let edit = |source| MergeError::Edit { path: path.clone(), source };
    let wanted: BTreeMap<usize, Value> = documents
        .into_iter()
        .enumerate()
        .filter_map(|(index, value)| Some((index, value.ok()?)))
        .filter(|(index, _)| changed.contains(index))
        .collect();
    let merged = surgery::rewrite(&text, &wanted).map_err(edit)?;
    Ok(output::write_back(&text, &merged, encoding, &path)?)
}

impl Target {
    fn fault(&self, path: &Path, fault: &str) -> MergeError {
        MergeError::Target { path: path.to_owned(), fault: format!("{}: {fault}", self.place) }
    }
}

/// The SealedSecrets of a file. Whatever else it holds is none of our business, unless it is broken.
fn targets(text: &str, path: &Path) -> Result<Vec<Target>, MergeError> {
    let mut found = Vec::new();
    for entry in manifest::sealed_secrets(text) {
        match entry.object {
            Ok(sealed) => found.push(Target { place: entry.place, sealed }),
            Err(manifest::Fault::Unsealed | manifest::Fault::Kind { .. } | manifest::Fault::NoKind(_)) => {}
            Err(fault) => {
                let fault = format!("{}: {fault}", entry.place);
                return Err(MergeError::Target { path: path.to_owned(), fault });
            }
        }
    }
    if found.is_empty() { Err(MergeError::Nothing { path: path.to_owned() }) } else { Ok(found) }
}

/// The one SealedSecret, whatever the Secret is called; of several the one that is called as the Secret.
fn pick<'a>(
    targets: &'a [Target],
    (namespace, name): (Option<&str>, Option<&str>),
    single: bool,
    path: &Path,
) -> Result<&'a Target, MergeError> {
    if let ([one], true) = (targets, single) {
        return Ok(one);
    }
    let fits = |target: &&Target| {
        let own = target.sealed.namespace();
        let elsewhere = own.as_deref().zip(namespace).is_some_and(|(own, namespace)| own != namespace);
        Some(target.sealed.name_any().as_str()) == name && !elsewhere
    };
    let fitting: Vec<_> = targets.iter().filter(fits).collect();
    let path = path.to_owned();
    let all = |targets: &[&Target]| {
        let places: Vec<String> = targets.iter().map(|target| target.place.to_string()).collect();
        places.join("; ")
    };
    match (fitting.as_slice(), name) {
        ([one], _) => Ok(one),
        ([], Some(name)) => {
            let all = all(&targets.iter().collect::<Vec<_>>());
            Err(MergeError::Unknown { path, name: name.to_owned(), all })
        }
        ([], None) => Err(MergeError::Ambiguous { path, all: all(&targets.iter().collect::<Vec<_>>()) }),
        (several, _) => Err(MergeError::Ambiguous { path, all: all(several) }),
    }
}

/// The scope to seal in.
fn check(target: &Target, given: Option<Scope>) -> Result<Scope, MergeError> {
    let sealed = &target.sealed;
    let is = Scope::from_annotations(sealed.annotations());
    let name = || target.place.to_string();
    match given {
        _ if sealed.spec.data.is_some() => Err(MergeError::Deprecated(name())),
        Some(given) if given != is => Err(MergeError::Scope { target: name(), is, given }),
        _ => Ok(is),
    }
}

/// Adds what was sealed to what stands there. `None` when something there is not what it has to be.
fn merge(object: &mut Value, update: SealedSecret) -> Option<()> {
    let recipients = Recipients::of(update.annotations());
    for (item, blob) in update.spec.encrypted_data {
        let others = recipients.entries(&item);
        item::put(object, &item, Some(Sealed { blob, others }))?;
    }
    let metadata = update.spec.template.and_then(|template| template.metadata).unwrap_or_default();
    for field in ["labels", "annotations"] {
        let added = metadata.get(field).and_then(Value::as_object).into_iter().flatten();
        // The scope is the object's own annotation, which stands there already.
        let added: Vec<_> =
            added.filter(|(key, _)| *key != scope::NAMESPACE_WIDE && *key != scope::CLUSTER_WIDE).collect();
        if !added.is_empty() {
            let fields = surgery::mapping(object, &["spec", "template", "metadata", field])?;
            fields.extend(added.into_iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    Some(())
}
