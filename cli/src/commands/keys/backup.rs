//! `seal keys backup`: every key of a cluster in one file, encrypted; and whether such a file still has all that the
//! cluster has. What is in the clear is never on a disk, unless that was asked for by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use crds::{
    Fingerprint,
    key_life::State,
    key_secret::{self, DEFAULT_PREFIX, KeyOrder},
    unseal::ClearSecret,
};
use jiff::{Timestamp, tz::TimeZone};
use kube::ResourceExt as _;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::json;

use super::{Found, write};
use crate::{
    backup::{self, BackupError, Kept, Manifest, Origin, Recipients},
    commands::keyring::{self, KeyringError},
    exit::{self, Error, Exit},
    io::{self, Io},
    key_file::KeyFileError,
    manifest::{self, Entry},
    output, table,
    verbs::{
        Unlock,
        keys::{Backup, For},
    },
};

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupCommandError {
    #[error(
        "say for whom the backup is: --recipient or --recipients-file, or --passphrase; --plain leaves the keys in the clear"
    )]
    NoRecipient,
    #[error("there are no keys in the namespace {0}")]
    NoKeys(String),
    #[error("the two passphrases are not the same")]
    NotTheSame,
    #[error("an empty passphrase keeps nobody out")]
    Empty,
    #[error("{} is there already: a backup is never overwritten", .0.display())]
    Taken(PathBuf),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("cannot use the recipient")]
    Recipient(#[source] BackupError),
}

pub async fn run(command: Backup, io: &mut Io<'_>) -> Result<Exit, Error> {
    if command.verify {
        return verify(command, io).await;
    }
    let Backup { file, to, unlock, plain, verify: _, output, home } = command;
    if fs::symlink_metadata(&file).is_ok() {
        return Err(BackupCommandError::Taken(file).into());
    }
    let recipients = if plain { None } else { Some(recipients(to, &unlock, io)?) };
    let (found, secrets) = Found::with_secrets(home).await?;
    if secrets.is_empty() {
        return Err(BackupCommandError::NoKeys(found.namespace).into());
    }
    for Unusable { secret, error } in secrets.iter().filter_map(unusable) {
        io.warning(&format!("{secret} holds no key that can be used, and is in the backup as it is: {error}"));
    }
    let manifest = manifest(&found, &secrets, io.now).await?;
    let text = match &recipients {
        Some(recipients) => backup::write(&manifest, &secrets, recipients).map(|text| text.into_bytes().into()),
        None => backup::plain(&secrets),
    };
    // Nothing is left to do with them, and whoever reads what is told below may take long.
    drop(secrets);
    output::write_new_private(&text.map_err(BackupCommandError::from)?, &file)?;
    if plain {
        io.warning(&format!("{} holds the private keys in the clear", file.display()));
    }
    write(&manifest, || shown(&manifest.keys), output, io)?;
    Ok(Exit::Ok)
}

fn recipients(to: For, unlock: &Unlock, io: &mut Io<'_>) -> Result<Recipients, Error> {
    let For { recipient, recipients_file, passphrase } = to;
    let mut keys = Vec::new();
    for text in recipient {
        keys.push(backup::recipient(text.trim()).map_err(BackupCommandError::Recipient)?);
    }
    for path in recipients_file {
        let (text, _) = io.read_text(Some(&path)).map_err(KeyringError::from)?;
        keys.extend(backup::recipients(&text).map_err(BackupCommandError::Recipient)?);
    }
    if !keys.is_empty() {
        return Ok(Recipients::Keys(keys));
    }
    if !passphrase && unlock.passphrase_file.is_none() {
        return Err(BackupCommandError::NoRecipient.into());
    }
    let words = if let Some(words) = keyring::given(unlock, io)? {
        words
    } else {
        let words = io::ask("Passphrase for the backup: ").map_err(KeyringError::Ask)?;
        let again = io::ask("The same again: ").map_err(KeyringError::Ask)?;
        if words.expose_secret() != again.expose_secret() {
            return Err(BackupCommandError::NotTheSame.into());
        }
        words
    };
    if words.expose_secret().is_empty() {
        return Err(BackupCommandError::Empty.into());
    }
    Ok(Recipients::Passphrase(words))
}

/// What a backup of these keys says of itself.
async fn manifest(found: &Found, secrets: &[ClearSecret], now: Timestamp) -> Result<Manifest, Error> {
    let states: BTreeMap<&str, State> = found.keys.iter().map(|(key, state)| (key.name.as_str(), state)).collect();
    let mut keys: Vec<Kept> = secrets.iter().filter_map(|secret| kept(secret, &states)).collect();
    keys.sort_by(|a, b| b.not_before.cmp(&a.not_before).then_with(|| a.secret.cmp(&b.secret)));
    let cluster = Origin { uid: found.cluster.uid().await?, server: found.cluster.server().to_owned() };
    Ok(Manifest { cluster, namespace: found.namespace.clone(), created: now, keys })
}

/// A Secret whose private key would open nothing, and why.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Unusable {
    secret: String,
    error: String,
}

fn unusable(secret: &ClearSecret) -> Option<Unusable> {
    let error = key_secret::read(secret.expose(), KeyOrder::default()).err()?;
    Some(Unusable { secret: secret.expose().name_any(), error: exit::chain(&error) })
}

/// What there is to say of one key Secret, if there is a key in it.
fn kept(secret: &ClearSecret, states: &BTreeMap<&str, State>) -> Option<Kept> {
    let key = backup::described(secret)?;
    let hidden = || secret.expose().labels().get(key_secret::LABEL).cloned().unwrap_or_default();
    Some(Kept {
        state: states.get(key.name.as_str()).map_or_else(hidden, ToString::to_string),
        fingerprint: key.fingerprint,
        secret: key.name,
        not_before: key.not_before,
        not_after: key.not_after,
    })
}

fn shown(keys: &[Kept]) -> String {
    let mut rows = vec![["FINGERPRINT", "STATE", "EXPIRES", "SECRET"].map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        let expires = key.not_after.to_zoned(TimeZone::UTC).strftime("%F").to_string();
        vec![key.fingerprint.to_string(), key.state.clone(), expires, key.secret.clone()]
    }));
    table::render(&rows, |_, _| None)
}

/// How a backup and a cluster differ.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Differences {
    /// Keys of the cluster that are not in the backup.
    missing: Vec<Fingerprint>,
    /// Keys of the backup that are not in the cluster.
    extra: Vec<Fingerprint>,
    /// Keys of which the two say different things.
    changed: Vec<Fingerprint>,
}

fn differences(backup: &[Kept], cluster: &[Kept]) -> Differences {
    // Which one is the newest changes by itself.
    let said = |key: &Kept| match key.state.as_str() {
        "sealing" | "superseded" => "active".to_owned(),
        other => other.to_owned(),
    };
    let by = |keys: &[Kept]| -> BTreeMap<Fingerprint, String> {
        keys.iter().map(|key| (key.fingerprint.clone(), said(key))).collect()
    };
    let (backup, cluster) = (by(backup), by(cluster));
    let lacks = |keys: &BTreeMap<_, String>, others: &BTreeMap<Fingerprint, String>| {
        others.keys().filter(|key| !keys.contains_key(*key)).cloned().collect()
    };
    let changed = backup.iter().filter(|(key, said)| cluster.get(*key).is_some_and(|now| now != *said));
    Differences {
        missing: lacks(&backup, &cluster),
        extra: lacks(&cluster, &backup),
        changed: changed.map(|(key, _)| key.clone()).collect(),
    }
}

async fn verify(command: Backup, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Backup { file, to: _, unlock, plain: _, verify: _, output, home } = command;
    let (text, _) = io.read_text(Some(&file)).map_err(KeyringError::from)?;
    let (mut kept, origin, opened) = if let Some(backup) = backup::Backup::parse(&text) {
        let failed = |source| KeyringError::Backup { path: file.clone(), source };
        let backup = backup.map_err(failed)?;
        backup.sound().map_err(failed)?;
        let opened = if !unlock.identity.is_empty() || keyring::given(&unlock, io)?.is_some() {
            Some(Opened::of(&keyring::open(file.clone(), &backup, &unlock, io)?))
        } else {
            io.remark("only the manifest was compared: with --identity or --passphrase-file the backup is opened too");
            None
        };
        (backup.manifest.keys, Some((backup.manifest.cluster, backup.manifest.created)), opened)
    } else {
        let opened = Opened::of(&text);
        if opened.good.is_empty() && opened.unusable.is_empty() {
            return Err(KeyringError::Key { path: file, source: KeyFileError::Empty.into() }.into());
        }
        (opened.kept(), None, Some(opened))
    };
    let (found, secrets) = Found::with_secrets(home).await?;
    let mut now = manifest(&found, &secrets, io.now).await?;
    let spoilt: Vec<_> = secrets.iter().filter_map(unusable).collect();
    for Unusable { secret, error } in &spoilt {
        io.warning(&format!("{secret} in the cluster holds no key that can be used: {error}"));
    }
    // What opens nothing is no key, and nobody misses it.
    now.keys.retain(|key| spoilt.iter().all(|it| it.secret != key.secret));
    if let Some(opened) = &opened {
        let good: BTreeSet<_> = opened.kept().into_iter().map(|key| key.fingerprint).collect();
        kept.retain(|key| good.contains(&key.fingerprint));
    }
    let differences = differences(&kept, &now.keys);
    let unusable = opened.as_ref().map(|opened| &opened.unusable[..]).unwrap_or_default();
    let uids = origin.as_ref().and_then(|(origin, _)| origin.uid.as_ref().zip(now.cluster.uid.as_ref()));
    let same = uids.map(|(one, other)| one == other);
    // With nothing to compare it with, or with something else, a backup is neither good nor bad.
    let is_compared = same != Some(false) && !now.keys.is_empty();
    let report = json!({
        "cluster": origin.as_ref().map(|(origin, _)| origin), "created": origin.as_ref().map(|(_, created)| created),
        "sameCluster": same, "opened": opened.is_some(), "keys": kept, "unusable": unusable, "differences": differences,
    });
    let text = || {
        let Differences { missing, extra, changed } = &differences;
        let mut text = String::new();
        for (words, keys) in [
            ("is in the cluster, but not in the backup", missing),
            ("is in the backup, but not in the cluster", extra),
            ("is marked otherwise in the backup than in the cluster", changed),
        ] {
            text.extend(keys.iter().map(|key| format!("{key} {words}\n")));
        }
        text.extend(unusable.iter().map(|it| {
            let Unusable { secret, error } = it;
            format!("{secret} in the backup holds no key that can be used: {error}\n")
        }));
        if same == Some(false) {
            text += "the backup is another cluster's\n";
        }
        if now.keys.is_empty() {
            text += "the cluster has no key that the backup could be compared with\n";
        }
        text
    };
    write(&report, text, output, io)?;
    let good = differences.missing.is_empty() && differences.changed.is_empty() && unusable.is_empty();
    if !is_compared {
        return Ok(Exit::Unreadable);
    }
    io.remark(match (good, spoilt.is_empty()) {
        (true, _) => "every key of the cluster is in the backup",
        (false, true) => "make a new backup",
        (false, false) => {
            "restore what cannot be used in the cluster from an older backup, or delete it; then make a new backup"
        }
    });
    Ok(if good { Exit::Ok } else { Exit::Failed })
}

/// What is in a backup that was opened. A Secret that holds no usable key says nothing of the others.
#[derive(Default)]
struct Opened {
    good: Vec<ClearSecret>,
    unusable: Vec<Unusable>,
}

impl Opened {
    /// Of a manifest or a list with key Secrets.
    fn of(text: &str) -> Self {
        let mut opened = Self::default();
        for Entry { place, object } in manifest::secrets(text) {
            match object {
                Err(fault) => {
                    opened.unusable.push(Unusable { secret: place.to_string(), error: fault.to_string() });
                }
                Ok(secret) => match unusable(&secret) {
                    Some(spoilt) => opened.unusable.push(spoilt),
                    None => opened.good.push(secret),
                },
            }
        }
        opened
    }

    /// The good ones, as a manifest would name them.
    fn kept(&self) -> Vec<Kept> {
        let keys = self.good.iter().filter_map(|secret| {
            let mark = key_secret::mark(secret.expose(), DEFAULT_PREFIX)?;
            key_secret::describe(secret.expose(), mark, KeyOrder::default()).ok()
        });
        let keys: crds::key_life::Keys = keys.collect();
        let states = keys.iter().map(|(key, state)| (key.name.as_str(), state)).collect();
        self.good.iter().filter_map(|secret| kept(secret, &states)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(certificate: &str, state: &str) -> Kept {
        let certificate = crds::Certificate::from_pem(certificate).unwrap();
        Kept {
            fingerprint: certificate.fingerprint().clone(),
            secret: "k".to_owned(),
            state: state.to_owned(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
        }
    }

    #[test]
    fn a_secret_whose_private_key_opens_nothing_is_warned_of() {
        const CERTIFICATE: &str = include_str!("../../../../crds/testdata/new.crt");
        let why = |key: &str| {
            let secret = serde_json::json!({"metadata": {"name": "k"}, "data": {
                "tls.key": crds::base64::encode(key.as_bytes()), "tls.crt": crds::base64::encode(CERTIFICATE.as_bytes()),
            }});
            unusable(&ClearSecret::new(serde_json::from_value(secret).unwrap()))
        };
        assert_eq!(why(include_str!("../../../../crds/testdata/new.key")), None);
        for other in [include_str!("../../../../crds/testdata/old.key"), "", "hunter2"] {
            let Unusable { secret, error } = why(other).unwrap();
            assert!(secret == "k" && error.contains("unusable") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_backup_lacks_what_it_does_not_have_and_what_it_says_no_more() {
        const NEW: &str = include_str!("../../../../crds/testdata/new.crt");
        const OLD: &str = include_str!("../../../../crds/testdata/old.crt");
        let differing = |backup: &[Kept], cluster: &[Kept]| {
            let Differences { missing, extra, changed } = differences(backup, cluster);
            [missing.len(), extra.len(), changed.len()]
        };
        let (old, new) = (key(OLD, "superseded"), key(NEW, "sealing"));
        assert_eq!(differing(&[old.clone(), new.clone()], &[key(OLD, "sealing"), key(NEW, "superseded")]), [0, 0, 0]);
        assert_eq!(differing(std::slice::from_ref(&old), &[old.clone(), new.clone()]), [1, 0, 0]);
        assert_eq!(differing(&[old.clone(), new.clone()], std::slice::from_ref(&new)), [0, 1, 0]);
        assert_eq!(differing(&[old, new.clone()], &[key(OLD, "compromised"), new]), [0, 0, 1]);
    }
}
