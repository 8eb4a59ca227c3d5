//! Private keys from the files that operators name, backups among them, and what opens a backup: identities, or a
//! passphrase from a file, the environment or a person.

use std::{env, io as std_io, path::PathBuf};

use crds::KeyRing;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    backup::{self, Backup, BackupError},
    exit,
    io::{self, Io, ReadError},
    key_file::{self, KeyFileError},
    verbs::{Recovery, Unlock},
};

/// Holds a passphrase, for scripts.
const PASSPHRASE: &str = "SEALED_SECRETS_PASSPHRASE";

/// Why there are no keys to open with.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("there is nothing to open it with: name the private keys with --recovery-private-key")]
    None,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cannot use the private key {}", path.display())]
    Key { path: PathBuf, source: Box<KeyFileError> },
    #[error("cannot open the backup {}", path.display())]
    Backup { path: PathBuf, source: BackupError },
    #[error("cannot use the identity")]
    Identity(#[source] BackupError),
    #[error("the backup {} is encrypted for keys: name the one that opens it with --identity", path.display())]
    NoIdentity { path: PathBuf },
    #[error("cannot ask for the passphrase: name it with --passphrase-file or ${PASSPHRASE}")]
    Ask(#[source] std_io::Error),
}

/// The keys of all files. One that is spoilt among others is only warned of: the others may be the ones that are needed.
pub fn ring(recovery: Recovery, io: &mut Io<'_>) -> Result<KeyRing, KeyringError> {
    let Recovery { recovery_private_key, unlock } = recovery;
    let mut keys = Vec::new();
    for path in recovery_private_key {
        let (mut text, _) = io.read_text(Some(&path))?;
        if let Some(backup) = Backup::parse(&text) {
            let backup = backup.map_err(|source| KeyringError::Backup { path: path.clone(), source })?;
            text = open(path.clone(), &backup, &unlock, io)?;
        }
        let (good, mut spoilt): (Vec<_>, Vec<_>) = key_file::keys(&text).into_iter().partition(Result::is_ok);
        if let (true, Some(Err(source))) = (good.is_empty(), spoilt.pop()) {
            return Err(KeyringError::Key { path, source: source.into() });
        }
        for error in spoilt.into_iter().filter_map(Result::err) {
            let error = KeyringError::Key { path: path.clone(), source: error.into() };
            io.warning(&exit::chain(&error));
        }
        keys.extend(good.into_iter().flatten());
    }
    Ok(keys.into_iter().collect())
}

/// The key Secrets of a backup, as a list in JSON.
pub fn open(
    path: PathBuf,
    backup: &Backup,
    unlock: &Unlock,
    io: &mut Io<'_>,
) -> Result<Zeroizing<String>, KeyringError> {
    let failed = |source| KeyringError::Backup { path: path.clone(), source };
    let identities = if backup.wants_passphrase().map_err(failed)? {
        let given = given(unlock, io)?;
        let words = given.map_or_else(|| io::ask(&format!("Passphrase of {}: ", path.display())), Ok);
        vec![backup::passphrase(words.map_err(KeyringError::Ask)?)]
    } else if unlock.identity.is_empty() {
        return Err(KeyringError::NoIdentity { path });
    } else {
        identities(unlock, io)?
    };
    let opened = backup.open(&identities).map_err(failed)?;
    backup.check(&opened).map_err(failed)?;
    Ok(opened)
}

fn identities(unlock: &Unlock, io: &mut Io<'_>) -> Result<Vec<backup::Identity>, KeyringError> {
    let mut all = Vec::new();
    for path in &unlock.identity {
        let (text, _) = io.read_text(Some(path))?;
        let words = Words(given(unlock, io)?);
        all.extend(backup::identities(&text, &path.display().to_string(), words).map_err(KeyringError::Identity)?);
    }
    Ok(all)
}

/// A passphrase that nobody has to type.
pub fn given(unlock: &Unlock, io: &mut Io<'_>) -> Result<Option<SecretString>, KeyringError> {
    if let Some(path) = &unlock.passphrase_file {
        let (text, _) = io.read_text(Some(path))?;
        return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned().into()));
    }
    let words = env::var(PASSPHRASE).ok().filter(|words| !words.is_empty());
    Ok(words.map(SecretString::from))
}

/// The passphrase of an ssh key: asked for only when the key has one.
#[derive(Clone)]
struct Words(Option<SecretString>);

impl age::Callbacks for Words {
    fn display_message(&self, _: &str) {}

    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        self.0.clone().or_else(|| io::ask(&format!("{description}: ")).ok())
    }
}
