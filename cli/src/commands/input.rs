//! What the verbs have in common before they begin: reading a stream whole, naming every document that stands in the
//! way, and the namespace of objects that name none.

use std::{fmt, path::Path};

use crds::{Scope, SealedSecret, unseal::ClearSecret};
use kube::ResourceExt as _;
use zeroize::Zeroizing;

use crate::{
    cluster::{self, Access, ClusterError, Implicit},
    exit,
    io::{Io, ReadError},
    manifest::{self, Entry, Place},
    text::Encoding,
};

/// Why there is nothing to work on.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("Could not read file specified with --secret-file")]
    Read(#[source] ReadError),
    #[error("cannot read standard input")]
    ReadStdin(#[source] ReadError),
    #[error("no secrets found. Ensure the input is valid and UTF-8 encoded")]
    NoSecrets,
    #[error("no sealed secrets found. Ensure the input is valid and UTF-8 encoded")]
    NoSealedSecrets,
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// The documents that stood in the way.
#[derive(Debug)]
pub struct Refused {
    /// What was to be done: `Secrets cannot be sealed`.
    what: &'static str,
    all: Vec<(Place, String)>,
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, all } = self;
        match all.as_slice() {
            [(place, why)] => write!(f, "{place}: {why}"),
            all => {
                write!(f, "{} {what}, so none was:", all.len())?;
                all.iter().try_for_each(|(place, why)| write!(f, "\n  {place}: {why}"))
            }
        }
    }
}

/// All of them or, with every reason, none.
pub fn all<T, E: std::error::Error + 'static>(
    what: &'static str,
    results: impl Iterator<Item = Result<T, (Place, E)>>,
) -> Result<Vec<T>, Refused> {
    let (mut good, mut all) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(one) => good.push(one),
            Err((place, why)) => all.push((place, exit::chain(&why))),
        }
    }
    if all.is_empty() { Ok(good) } else { Err(Refused { what, all }) }
}

/// The text of a stream of manifests.
pub fn read(input: Option<&Path>, io: &mut Io<'_>) -> Result<(Zeroizing<String>, Encoding), InputError> {
    if input.is_none() {
        io.prompt("(tty detected: expecting json/yaml k8s resource in stdin)");
    }
    io.read_text(input).map_err(|error| match (error, input) {
        (ReadError::NotText { .. }, _) => InputError::NoSecrets,
        (error, Some(_)) => InputError::Read(error),
        (error, None) => InputError::ReadStdin(error),
    })
}

/// The Secrets of a stream, all of them.
pub fn secrets(text: &str) -> Result<Vec<(Place, ClearSecret)>, InputError> {
    let found = entries("Secrets cannot be sealed", manifest::secrets(text))?;
    if found.is_empty() { Err(InputError::NoSecrets) } else { Ok(found) }
}

/// The SealedSecrets of a stream, all of them.
pub fn sealed_secrets(text: &str, what: &'static str) -> Result<Vec<(Place, SealedSecret)>, InputError> {
    let found = entries(what, manifest::sealed_secrets(text))?;
    if found.is_empty() { Err(InputError::NoSealedSecrets) } else { Ok(found) }
}

fn entries<T>(what: &'static str, entries: Vec<Entry<T>>) -> Result<Vec<(Place, T)>, InputError> {
    let each = entries.into_iter().map(|Entry { place, object }| match object {
        Ok(object) => Ok((place, object)),
        Err(fault) => Err((place, fault)),
    });
    Ok(all(what, each)?)
}

impl InputError {
    /// One document stood in the way.
    pub fn one(place: Place, why: &(dyn std::error::Error + 'static)) -> Self {
        Refused { what: "", all: vec![(place, exit::chain(why))] }.into()
    }
}

/// Gives the SealedSecrets that need a namespace and name none the one that was given, or the context's.
pub fn settle_namespaces(
    found: &mut [(Place, SealedSecret)],
    given: Option<&str>,
    access: Option<&Access>,
    io: &mut Io<'_>,
) -> Result<(), ClusterError> {
    let homeless = |sealed: &SealedSecret| {
        let bound = Scope::from_annotations(sealed.annotations()) != Scope::ClusterWide;
        bound && sealed.namespace().is_none_or(|namespace| namespace.is_empty())
    };
    let mut homeless: Vec<_> = found.iter_mut().filter(|(_, sealed)| homeless(sealed)).collect();
    let namespace = match (homeless.as_slice(), given, access) {
        ([], ..) | (_, None, None) => return Ok(()),
        (_, Some(given), _) => given.to_owned(),
        (_, None, Some(access)) => match cluster::namespace(access)? {
            Some(implicit) => told(implicit, "taking SealedSecrets that name no namespace for those of", io),
            None => return Ok(()),
        },
    };
    homeless.iter_mut().for_each(|(_, sealed)| sealed.metadata.namespace = Some(namespace.clone()));
    Ok(())
}

/// Says which namespace nobody named: to a person, and to everybody when not even the context named it.
pub fn told(implicit: Implicit, doing: &str, io: &mut Io<'_>) -> String {
    let Implicit { namespace, named } = implicit;
    let words = format!("{doing} the namespace {namespace} of the current context; --namespace names another");
    if named {
        io.remark(&words);
    } else {
        io.warning(&words);
    }
    namespace
}
