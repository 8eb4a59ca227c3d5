//! The file that a cluster's keys are kept in: a manifest that anybody can read, and below it the key Secrets,
//! encrypted with age. Opened by age itself, what is in it is a list that kubectl and kubeseal take: nobody depends on
//! this program to get the keys back. Pure over text and bytes. The keys in the clear exist in wiped memory only.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
};

use age::{
    DecryptError, Decryptor, Encryptor,
    armor::{ArmoredReader, ArmoredWriter, Format},
};
use crds::{
    Fingerprint, base64,
    key_life::{Key, Mark},
    key_secret::{self, KeyOrder},
    seal::LEAKING_ANNOTATIONS,
    unseal::ClearSecret,
};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use zeroize::Zeroizing;

use crate::manifest::{self, Entry};

const API_VERSION: &str = "signet.dev/v1alpha1";
const KIND: &str = "KeyBackup";

/// For whoever finds the file in a bad moment.
const HOW_TO_OPEN: &str = "\
# The keys of a cluster's SealedSecrets, encrypted with age. seal keys restore puts them back, seal unseal opens files
# with them. Without seal: sed -n 's/^ *//; /^-----BEGIN/,/^-----END/p' THIS_FILE | age -d -i IDENTITY > keys.json
";

/// The last line of what is encrypted.
const END: &str = "-----END AGE ENCRYPTED FILE-----";

/// How hard a passphrase is to guess: that of age's own program. Measured, it would depend on what else the machine does.
const WORK_FACTOR: u8 = 18;
/// What is accepted, on any machine, as by age's own program: four gigabytes of memory, and a minute.
const MAX_WORK_FACTOR: u8 = 22;

/// What can be read without decrypting. Nothing vouches for it until the backup is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub cluster: Origin,
    /// Of the controller.
    pub namespace: String,
    pub created: Timestamp,
    /// Newest first.
    pub keys: Vec<Kept>,
}

/// Which cluster the keys are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Of the namespace `kube-system`, which no two clusters share; absent if it may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The API server as it was reached.
    pub server: String,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    pub fingerprint: Fingerprint,
    /// Name of its Secret.
    pub secret: String,
    pub state: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
    #[serde(flatten)]
    manifest: Manifest,
}

#[derive(Deserialize)]
struct File {
    #[serde(flatten)]
    head: Head,
    encrypted: String,
}

/// A backup as it lies in a file.
#[derive(Debug)]
pub struct Backup {
    pub manifest: Manifest,
    encrypted: String,
}

/// For whom a backup is encrypted.
pub enum Recipients {
    /// Whoever holds one of their private keys.
    Keys(Vec<Box<dyn age::Recipient>>),
    /// Whoever knows it.
    Passphrase(SecretString),
}

/// What opens a backup.
pub type Identity = Box<dyn age::Identity>;

/// Why there is no backup, or none that opens. Never shows what it read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("it is not a backup of keys as this version knows them")]
    NotABackup,
    #[error("its encrypted part is damaged: {0}")]
    Damaged(String),
    #[error("it cannot be encrypted: {0}")]
    Encrypt(String),
    #[error("none of the identities opens it")]
    NoIdentity,
    #[error("the passphrase is wrong")]
    Passphrase,
    #[error(
        "its passphrase takes the work factor {0}, and at most {MAX_WORK_FACTOR} is accepted: seal writes {WORK_FACTOR}, so it was made or changed by something else"
    )]
    Work(u8),
    #[error("what its manifest says and what is in it differ: {0}")]
    Manifest(String),
    #[error("{0} is a private key: a backup is encrypted for its public key")]
    PrivateRecipient(String),
    #[error("{0} is neither an age recipient (age1…) nor an ssh-ed25519 or ssh-rsa public key")]
    Recipient(String),
    #[error("{0} holds no age identity and no ssh private key")]
    Identity(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    api_version: &'a str,
    kind: &'a str,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: Named<'a>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    type_: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<bool>,
    data: Data<'a>,
}

/// What of the metadata is the key's own, and not the cluster's.
#[derive(Serialize)]
struct Named<'a> {
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, &'a str>,
}

/// Unlike `ByteString`'s own, its base64 is wiped.
struct Data<'a>(&'a BTreeMap<String, ByteString>);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (entry, bytes) in self.0 {
            map.serialize_entry(entry, Zeroizing::new(base64::encode(&bytes.0)).as_str())?;
        }
        map.end()
    }
}

fn item(secret: &ClearSecret) -> Item<'_> {
    static NONE: BTreeMap<String, ByteString> = BTreeMap::new();
    let Secret { metadata, data, string_data: _, type_, immutable } = secret.expose();
    let annotations = metadata.annotations.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    Item {
        api_version: "v1",
        kind: "Secret",
        metadata: Named {
            name: metadata.name.as_deref(),
            namespace: metadata.namespace.as_deref(),
            labels: metadata.labels.as_ref(),
            // In some of them kubectl keeps the whole object, with the key in the clear.
            annotations: annotations.filter(|(key, _)| !LEAKING_ANNOTATIONS.contains(key)).collect(),
        },
        type_: type_.as_deref(),
        immutable: *immutable,
        data: Data(data.as_ref().unwrap_or(&NONE)),
    }
}

/// Counts, so that what is written next needs no second buffer: one that is outgrown is not wiped.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The key Secrets as a list in JSON, in the clear.
pub fn plain(secrets: &[ClearSecret]) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let list = List { api_version: "v1", kind: "List", items: secrets.iter().map(item).collect() };
    let failed = |error: serde_json::Error| BackupError::Encrypt(error.to_string());
    let mut count = Count(1);
    serde_json::to_writer(&mut count, &list).map_err(failed)?;
    let mut text = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer(&mut *text, &list).map_err(failed)?;
    text.push(b'\n');
    Ok(text)
}

/// The file. What could not be opened and checked again is not written.
pub fn write(manifest: &Manifest, secrets: &[ClearSecret], recipients: &Recipients) -> Result<String, BackupError> {
    let encrypt = |error: String| BackupError::Encrypt(error);
    let passphrase;
    let list: Vec<&dyn age::Recipient> = match recipients {
        Recipients::Keys(keys) => keys.iter().map(|key| &**key as _).collect(),
        Recipients::Passphrase(words) => {
            let mut recipient = age::scrypt::Recipient::new(words.clone());
            recipient.set_work_factor(WORK_FACTOR);
            passphrase = recipient;
            vec![&passphrase]
        }
    };
    let encryptor = Encryptor::with_recipients(list.into_iter()).map_err(|error| encrypt(error.to_string()))?;
    let plain = plain(secrets)?;
    let armored = || -> io::Result<Vec<u8>> {
        let mut writer = encryptor.wrap_output(ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?)?;
        writer.write_all(&plain)?;
        writer.finish()?.finish()
    };
    let armored = armored().map_err(|error| encrypt(error.to_string()))?;
    let head = Head { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), manifest: manifest.clone() };
    let mut text = HOW_TO_OPEN.to_owned();
    text += &crds::yaml::to_string(&head).map_err(|error| encrypt(error.to_string()))?;
    text += "encrypted: |\n";
    let lines = String::from_utf8_lossy(&armored);
    text.extend(lines.lines().map(|line| format!("  {line}\n")));
    let held = str::from_utf8(&plain).map_err(|error| encrypt(error.to_string()))?;
    Backup::parse(&text).ok_or(BackupError::NotABackup)??.check(held)?;
    Ok(text)
}

impl Backup {
    /// Reads a file; `None` for one that says to be something else.
    pub fn parse(text: &str) -> Option<Result<Self, BackupError>> {
        // Others may hold keys in the clear, and are not taken apart here.
        if !text.contains(KIND) {
            return None;
        }
        let value = crds::yaml::documents(text).into_iter().next()?.value.ok()?;
        if value.get("kind").is_none_or(|kind| kind != KIND) {
            return None;
        }
        let file = serde_json::from_value(value).ok().filter(|file: &File| file.head.api_version == API_VERSION);
        let file = file.map(|File { head, encrypted }| Self { manifest: head.manifest, encrypted });
        Some(file.ok_or(BackupError::NotABackup))
    }

    /// Whether it is a passphrase that opens it.
    pub fn wants_passphrase(&self) -> Result<bool, BackupError> {
        Ok(self.decryptor()?.is_scrypt())
    }

    /// The key Secrets as a list in JSON.
    pub fn open(&self, identities: &[Identity]) -> Result<Zeroizing<String>, BackupError> {
        let decryptor = self.decryptor()?;
        let with_passphrase = decryptor.is_scrypt();
        let opened = decryptor.decrypt(identities.iter().map(|identity| &**identity as _));
        let mut reader = opened.map_err(|error| match error {
            DecryptError::NoMatchingKeys if !with_passphrase => BackupError::NoIdentity,
            DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed | DecryptError::NoMatchingKeys => {
                if with_passphrase {
                    BackupError::Passphrase
                } else {
                    BackupError::NoIdentity
                }
            }
            DecryptError::ExcessiveWork { required, .. } => BackupError::Work(required),
            error => BackupError::Damaged(error.to_string()),
        })?;
        // Never longer than what is encrypted, so never copied on the way.
        let mut text = Zeroizing::new(String::with_capacity(self.encrypted.len()));
        reader.read_to_string(&mut text).map_err(|error| BackupError::Damaged(error.to_string()))?;
        Ok(text)
    }

    /// Fails where it is seen without opening it that nothing will: no age file, or one that is cut off.
    pub fn sound(&self) -> Result<(), BackupError> {
        self.decryptor()?;
        let mut armor = ArmoredReader::new(self.encrypted.as_bytes());
        io::copy(&mut armor, &mut io::sink()).map_err(|error| BackupError::Damaged(error.to_string()))?;
        let is_whole = self.encrypted.trim_end().ends_with(END);
        if is_whole { Ok(()) } else { Err(BackupError::Damaged("its end is missing".to_owned())) }
    }

    fn decryptor(&self) -> Result<Decryptor<ArmoredReader<io::BufReader<&[u8]>>>, BackupError> {
        let reader = ArmoredReader::new(self.encrypted.as_bytes());
        Decryptor::new_buffered(reader).map_err(|error| BackupError::Damaged(error.to_string()))
    }

    /// Fails unless the keys that it holds are those that its manifest names: by their certificates, since a Secret whose
    /// private key is spoilt must not lock out the others.
    pub fn check(&self, opened: &str) -> Result<(), BackupError> {
        let held = manifest::secrets(opened).into_iter().filter_map(|Entry { object, .. }| object.ok());
        let held: BTreeSet<Fingerprint> =
            held.filter_map(|secret| described(&secret).map(|key| key.fingerprint)).collect();
        let named: BTreeSet<_> = self.manifest.keys.iter().map(|kept| kept.fingerprint.clone()).collect();
        let differing: Vec<_> = held.symmetric_difference(&named).map(ToString::to_string).collect();
        if differing.is_empty() { Ok(()) } else { Err(BackupError::Manifest(differing.join(", "))) }
    }
}

/// What a manifest can say of a key Secret, if there is anything. Of the key itself nothing depends on the mark.
pub fn described(secret: &ClearSecret) -> Option<Key> {
    key_secret::describe(secret.expose(), Mark::Active, KeyOrder::default()).ok()
}

/// Whom a backup is for: an age recipient or an ssh public key.
pub fn recipient(text: &str) -> Result<Box<dyn age::Recipient>, BackupError> {
    let shown = || text.chars().take(20).collect::<String>();
    if text.starts_with("AGE-SECRET-KEY-") || text.contains("PRIVATE KEY") {
        return Err(BackupError::PrivateRecipient(shown().chars().take(15).collect()));
    }
    if let Ok(native) = text.parse::<age::x25519::Recipient>() {
        return Ok(Box::new(native));
    }
    match text.parse::<age::ssh::Recipient>() {
        Ok(ssh) => Ok(Box::new(ssh)),
        Err(_) => Err(BackupError::Recipient(shown())),
    }
}

/// The recipients of a file: one in a line, beside empty lines and remarks.
pub fn recipients(text: &str) -> Result<Vec<Box<dyn age::Recipient>>, BackupError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(recipient).collect()
}

/// What a passphrase opens.
pub fn passphrase(words: SecretString) -> Identity {
    let mut identity = age::scrypt::Identity::new(words);
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    Box::new(identity)
}

/// What a file of age identities or an ssh private key opens; `words` is asked for the passphrase of the latter.
pub fn identities(text: &str, name: &str, words: impl age::Callbacks) -> Result<Vec<Identity>, BackupError> {
    let failed = |_| BackupError::Identity(name.to_owned());
    if text.contains("-----BEGIN ") {
        let ssh = age::ssh::Identity::from_buffer(text.as_bytes(), Some(name.to_owned())).map_err(failed)?;
        return Ok(vec![Box::new(ssh.with_callbacks(words))]);
    }
    let file = age::IdentityFile::from_buffer(text.as_bytes()).map_err(failed)?;
    let found = file.into_identities().map_err(|_| BackupError::Identity(name.to_owned()))?;
    if found.is_empty() { Err(BackupError::Identity(name.to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests;
