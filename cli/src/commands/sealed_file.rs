//! One SealedSecret of a file that is changed in place. What is not changed stays as it is, down to the byte; on any
//! error the file stays as it was.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crds::{
    Certificate, Scope, SealedSecret,
    recipients::{Recipients, Sealed},
};
use kube::ResourceExt as _;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    certificate::{Certificates, Origin, Origins},
    cluster, command,
    commands::{input::InputError, keyring},
    exit::Error,
    io::{Io, ReadError},
    item,
    manifest::{self, Entry, Fault, Place},
    output,
    sight::Sight,
    surgery::{self, SurgeryError},
    text::Encoding,
    verbs,
};

/// Why a file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{}", path.display())]
    Input { path: PathBuf, source: InputError },
    #[error("{}: there is no SealedSecret in it", path.display())]
    Nothing { path: PathBuf },
    #[error("{}: {place}", path.display())]
    Broken { path: PathBuf, place: String, source: Box<Fault> },
    #[error("{} has several SealedSecrets: {all}; say which one with --name", path.display())]
    Several { path: PathBuf, all: String },
    #[error("{} has no SealedSecret {name:?}, but {all}", path.display())]
    Unknown { path: PathBuf, name: String, all: String },
    #[error("{}: metadata.name is missing, so nothing can be sealed for it", path.display())]
    NoName { path: PathBuf },
    #[error(
        "{}: metadata.namespace is missing, and the values open in one namespace only: name it with --namespace",
        path.display()
    )]
    NoNamespace { path: PathBuf },
    #[error("namespace mismatch: {} is for the namespace {own:?} but {given:?} was specified", path.display())]
    NamespaceMismatch { path: PathBuf, own: String, given: String },
    #[error(
        "{} holds all its items in one, in the deprecated spec.data; --re-encrypt takes them apart",
        path.display()
    )]
    Deprecated { path: PathBuf },
    #[error("cannot change {}: a field of it is not a mapping, or there is no room for so many recipients", path.display())]
    Shape { path: PathBuf },
    #[error("cannot change {}", path.display())]
    Edit { path: PathBuf, source: SurgeryError },
}

impl FileError {
    /// What is wrong in a file, which is one of several; nobody names standard input.
    pub fn within(path: Option<&Path>) -> impl FnOnce(InputError) -> Self {
        let path = path.unwrap_or(Path::new("standard input")).to_owned();
        move |source| Self::Input { path, source }
    }
}

/// A file, and the SealedSecret in it that is meant.
pub struct SealedFile {
    path: PathBuf,
    text: Zeroizing<String>,
    encoding: Encoding,
    place: Place,
    pub sealed: SealedSecret,
}

impl SealedFile {
    /// Reads a file. What else it holds is none of our business, unless it is a broken SealedSecret.
    pub fn read(path: &Path, which: verbs::Which, io: &mut Io<'_>) -> Result<Self, FileError> {
        let path = path.to_owned();
        let (text, encoding) = io.read_text(Some(&path))?;
        let mut found = Vec::new();
        for Entry { place, object } in manifest::sealed_secrets(&text) {
            match object {
                Ok(sealed) => found.push((place, sealed)),
                Err(Fault::Unsealed | Fault::Kind { .. } | Fault::NoKind(_)) => {}
                Err(fault) => {
                    let (place, source) = (place.to_string(), Box::new(fault));
                    return Err(FileError::Broken { path, place, source });
                }
            }
        }
        let all = found.iter().map(|(place, _)| place.to_string()).collect::<Vec<_>>().join("; ");
        if found.is_empty() {
            return Err(FileError::Nothing { path });
        }
        if let Some(name) = &which.name {
            found.retain(|(_, sealed)| is_called(sealed, name));
        }
        let (place, mut sealed) = match (found.pop(), which.name) {
            (Some(_), _) if !found.is_empty() => return Err(FileError::Several { path, all }),
            (Some(one), _) => one,
            (None, name) => return Err(FileError::Unknown { path, name: name.unwrap_or_default(), all }),
        };
        if sealed.spec.data.is_some() {
            return Err(FileError::Deprecated { path });
        }
        let own = sealed.namespace().filter(|namespace| !namespace.is_empty());
        match (own, which.namespace.filter(|namespace| !namespace.is_empty())) {
            (Some(own), Some(given)) if own != given => {
                return Err(FileError::NamespaceMismatch { path, own, given });
            }
            (None, Some(given)) => sealed.metadata.namespace = Some(given),
            _ => {}
        }
        Ok(Self { path, text, encoding, place, sealed })
    }

    /// Where its values open; fails when something is missing that this depends on.
    pub fn destination(&self) -> Result<(Scope, String, String), FileError> {
        let scope = Scope::from_annotations(self.sealed.annotations());
        let (namespace, name) = (self.sealed.namespace().unwrap_or_default(), self.sealed.name_any());
        if name.is_empty() && scope == Scope::Strict {
            return Err(FileError::NoName { path: self.path.clone() });
        }
        if namespace.is_empty() && scope != Scope::ClusterWide {
            return Err(FileError::NoNamespace { path: self.path.clone() });
        }
        Ok((scope, namespace, name))
    }

    /// What lets the present values be seen.
    pub async fn sight(&self, sight: verbs::Sight, access: &cluster::Access, io: &mut Io<'_>) -> Result<Sight, Error> {
        if sight.from_cluster {
            let (namespace, name) = (self.sealed.namespace().unwrap_or_default(), self.sealed.name_any());
            return Ok(Sight::Cluster(Box::new(cluster::connect(access).await?.seen(&namespace, &name).await?)));
        }
        if sight.recovery.recovery_private_key.is_empty() {
            return Ok(Sight::None);
        }
        Ok(Sight::Keys(keyring::ring(sight.recovery, io)?))
    }

    /// The object as the file has it, to be changed.
    pub fn object(&self) -> Result<Value, FileError> {
        let mut documents: Vec<_> = self.documents().collect();
        let object = manifest::at(&mut documents, &self.place).map(Value::take);
        object.ok_or_else(|| FileError::Shape { path: self.path.clone() })
    }

    /// Writes the file with the object as it is wanted; not at all when nothing changes, or when somebody else changed it.
    pub fn write(&self, object: Value) -> Result<bool, Error> {
        let mut documents: Vec<_> = self.documents().collect();
        let shape = || FileError::Shape { path: self.path.clone() };
        *manifest::at(&mut documents, &self.place).ok_or_else(shape)? = object;
        let index = self.place.document - 1;
        let wanted = documents.into_iter().nth(index).and_then(Result::ok).ok_or_else(shape)?;
        let edited = surgery::rewrite(&self.text, &BTreeMap::from([(index, wanted)]))
            .map_err(|source| FileError::Edit { path: self.path.clone(), source })?;
        if edited == *self.text {
            return Ok(false);
        }
        output::write_back(&self.text, &edited, self.encoding, &self.path)?;
        Ok(true)
    }

    /// A mapping of the object, made where there is none.
    pub fn mapping<'a>(
        &self,
        object: &'a mut Value,
        path: &[&str],
    ) -> Result<&'a mut serde_json::Map<String, Value>, FileError> {
        surgery::mapping(object, path).ok_or_else(|| FileError::Shape { path: self.path.clone() })
    }

    /// Puts an item in, or takes it out.
    pub fn put(&self, object: &mut Value, item: &str, sealed: Option<Sealed>) -> Result<(), FileError> {
        item::put(object, item, sealed).ok_or_else(|| FileError::Shape { path: self.path.clone() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn documents(&self) -> impl Iterator<Item = Result<Value, crds::yaml::SyntaxError>> {
        crds::yaml::documents(&self.text).into_iter().map(|document| document.value)
    }
}

/// Says which recipients of a SealedSecret get no new value, because they are not named again: they then open nothing.
pub fn tell_left_out(sealed: &SealedSecret, items: &[String], certificates: &Certificates, io: &mut Io<'_>) {
    let Certificates { first, others } = certificates;
    let named: Vec<_> = [first].into_iter().chain(others).map(Certificate::fingerprint).collect();
    for recipient in Recipients::of(sealed.annotations()).left_out(&named) {
        let (recipient, items) = (recipient.unwrap_or("the first recipient of the others"), items.join(", "));
        io.warning(&format!(
            "{items}: not sealed for {recipient}, who then opens nothing of {}: name its --cert too",
            sealed.name_any()
        ));
    }
}

fn is_called(sealed: &SealedSecret, name: &str) -> bool {
    match name.split_once('/') {
        Some((namespace, name)) => {
            sealed.name_any() == name && sealed.namespace().as_deref().unwrap_or_default() == namespace
        }
        None => sealed.name_any() == name,
    }
}

/// What the flags say about the cluster and the certificate.
pub fn origins(
    certificate: crate::args::Certificate,
    connection: crate::args::Connection,
) -> Result<(cluster::Access, Origins), Error> {
    let access = command::access(connection)?;
    let origins = command::origins(certificate, access.clone())?;
    Ok((access, origins))
}

/// The same where there can be one certificate only.
pub fn origin(
    certificate: crate::args::Certificate,
    connection: crate::args::Connection,
) -> Result<(cluster::Access, Origin), Error> {
    let access = command::access(connection)?;
    let origin = command::origin(certificate, access.clone())?;
    Ok((access, origin))
}
