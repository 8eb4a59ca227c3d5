//! `seal set` and `seal unset`: one item of a file, sealed for where the file says it goes.

use crds::recipients;
use secrecy::ExposeSecret as _;

use crate::{
    certificate::{self, Certificates},
    commands::{
        raw::RawError,
        sealed_file::{self, SealedFile},
    },
    exit::Error,
    io::{self, Io},
    verbs::{Set, Unset},
};

/// Why an item cannot be set or removed.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    #[error("KEY=VALUE and --from-file name two values for one item")]
    TwoValues,
    #[error("a Secret takes letters, digits, '-', '_' and '.' for a key, but not {0:?}")]
    Key(String),
    #[error("cannot ask for the value: pipe it in, or name a file with --from-file")]
    Ask(#[source] std::io::Error),
    #[error("{0:?} is not among the items: {1}")]
    Missing(String, String),
}

pub async fn set(command: Set, io: &mut Io<'_>) -> Result<(), Error> {
    let Set { item, file, from_file, which, sight, certificate, connection } = command;
    let (item, given) = match item.split_once('=') {
        Some((item, value)) => (item.to_owned(), Some(zeroize::Zeroizing::new(value.as_bytes().to_vec()))),
        None => (item, None),
    };
    if given.is_some() && from_file.is_some() {
        return Err(ItemError::TwoValues.into());
    }
    check(&item)?;
    let (access, origins) = sealed_file::origins(certificate, connection)?;
    let file = SealedFile::read(&file, which, io)?;
    let (scope, namespace, name) = file.destination()?;
    let value = match (given, from_file) {
        (Some(value), _) => {
            io.warning("a value on the command line is seen by others and kept in the shell's history; leave it out to type or pipe it");
            value
        }
        // Who types it is not shown what they type.
        (None, None) if io.stdin_is_terminal => {
            let typed = io::ask(&format!("Value of {item}: ")).map_err(ItemError::Ask)?;
            zeroize::Zeroizing::new(typed.expose_secret().as_bytes().to_vec())
        }
        (None, from_file) => io.read(from_file.as_deref()).map_err(RawError::Read)?,
    };
    let present = file.sight(sight, &access, io).await?.value(&file.sealed, &item);
    if present.is_some_and(|present| present.expose() == value.as_slice()) {
        io.remark(&format!("{item} has this value already: {} stays as it is", file.path().display()));
        return Ok(());
    }
    let certificates = certificate::fetch_all(&origins, io).await?;
    sealed_file::tell_left_out(&file.sealed, std::slice::from_ref(&item), &certificates, io);
    let Certificates { first, others } = certificates;
    let sealed = recipients::seal(&value, &scope.label(&namespace, &name), &first, &others, &mut rand::rng());
    let mut object = file.object()?;
    file.put(&mut object, &item, Some(sealed.map_err(RawError::Seal)?))?;
    file.write(object)?;
    Ok(())
}

pub fn unset(command: Unset, io: &mut Io<'_>) -> Result<(), Error> {
    let Unset { item, file, which } = command;
    let file = SealedFile::read(&file, which, io)?;
    let mut object = file.object()?;
    let items = file.mapping(&mut object, &["spec", "encryptedData"])?;
    if !items.contains_key(&item) {
        let all = items.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(ItemError::Missing(item, all).into());
    }
    file.put(&mut object, &item, None)?;
    file.write(object)?;
    Ok(())
}

/// Fails for what Kubernetes would refuse.
pub fn check(item: &str) -> Result<(), ItemError> {
    if crate::lint::is_item(item) { Ok(()) } else { Err(ItemError::Key(item.to_owned())) }
}
