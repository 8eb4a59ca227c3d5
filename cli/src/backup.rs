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
use crds::{Fingerprint, base64, seal::LEAKING_ANNOTATIONS, unseal::ClearSecret};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use zeroize::Zeroizing;

use crate::key_file;

const API_VERSION: &str = "signet.dev/v1alpha1";
const KIND: &str = "KeyBackup";

/// For whoever finds the file in a bad moment.
const HOW_TO_OPEN: &str = "\
# The keys of a cluster's SealedSecrets, encrypted with age. seal keys restore puts them back, seal unseal opens files
# with them. Without seal: sed -n 's/^ *//; /^-----BEGIN/,/^-----END/p' THIS_FILE | age -d -i IDENTITY > keys.json
";

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

/// The file.
pub fn write(manifest: &Manifest, secrets: &[ClearSecret], recipients: &Recipients) -> Result<String, BackupError> {
    let encrypt = |error: String| BackupError::Encrypt(error);
    let passphrase;
    let list: Vec<&dyn age::Recipient> = match recipients {
        Recipients::Keys(keys) => keys.iter().map(|key| &**key as _).collect(),
        Recipients::Passphrase(words) => {
            passphrase = age::scrypt::Recipient::new(words.clone());
            vec![&passphrase]
        }
    };
    let encryptor = Encryptor::with_recipients(list.into_iter()).map_err(|error| encrypt(error.to_string()))?;
    let armored = || -> io::Result<Vec<u8>> {
        let mut writer = encryptor.wrap_output(ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?)?;
        writer.write_all(&plain(secrets).map_err(io::Error::other)?)?;
        writer.finish()?.finish()
    };
    let armored = armored().map_err(|error| encrypt(error.to_string()))?;
    let head = Head { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), manifest: manifest.clone() };
    let mut text = HOW_TO_OPEN.to_owned();
    text += &crds::yaml::to_string(&head).map_err(|error| encrypt(error.to_string()))?;
    text += "encrypted: |\n";
    let lines = String::from_utf8_lossy(&armored);
    text.extend(lines.lines().map(|line| format!("  {line}\n")));
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
            error => BackupError::Damaged(error.to_string()),
        })?;
        // Never longer than what is encrypted, so never copied on the way.
        let mut text = Zeroizing::new(String::with_capacity(self.encrypted.len()));
        reader.read_to_string(&mut text).map_err(|error| BackupError::Damaged(error.to_string()))?;
        Ok(text)
    }

    fn decryptor(&self) -> Result<Decryptor<ArmoredReader<io::BufReader<&[u8]>>>, BackupError> {
        let reader = ArmoredReader::new(self.encrypted.as_bytes());
        Decryptor::new_buffered(reader).map_err(|error| BackupError::Damaged(error.to_string()))
    }

    /// Fails unless the keys that it holds are those that its manifest names.
    pub fn check(&self, opened: &str) -> Result<(), BackupError> {
        let held = key_file::keys(opened).into_iter().flatten();
        let held: BTreeSet<Fingerprint> = held.map(|key| key.private.fingerprint().clone()).collect();
        let named: BTreeSet<_> = self.manifest.keys.iter().map(|kept| kept.fingerprint.clone()).collect();
        let differing: Vec<_> = held.symmetric_difference(&named).map(ToString::to_string).collect();
        if differing.is_empty() { Ok(()) } else { Err(BackupError::Manifest(differing.join(", "))) }
    }
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
    Box::new(age::scrypt::Identity::new(words))
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
mod tests {
    use age::secrecy::ExposeSecret as _;
    use kube::core::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = include_str!("../../crds/testdata/new.key");
    const CERTIFICATE: &str = include_str!("../../crds/testdata/new.crt");

    fn secret() -> ClearSecret {
        let entry = |text: &str| ByteString(text.as_bytes().to_vec());
        let copy = "kubectl.kubernetes.io/last-applied-configuration".to_owned();
        ClearSecret::new(Secret {
            metadata: ObjectMeta {
                name: Some("sealed-secrets-key1".to_owned()),
                namespace: Some("kube-system".to_owned()),
                labels: Some([(crds::key_secret::LABEL.to_owned(), "compromised".to_owned())].into()),
                annotations: Some([("mine".to_owned(), "yes".to_owned()), (copy, "hunter2".to_owned())].into()),
                uid: Some("7".to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some([("tls.key".to_owned(), entry(KEY)), ("tls.crt".to_owned(), entry(CERTIFICATE))].into()),
            ..Secret::default()
        })
    }

    fn manifest() -> Manifest {
        let certificate = crds::Certificate::from_pem(CERTIFICATE).unwrap();
        Manifest {
            cluster: Origin { uid: Some("1-2".to_owned()), server: "https://near".to_owned() },
            namespace: "kube-system".to_owned(),
            created: "2026-11-21T10:00:00Z".parse().unwrap(),
            keys: vec![Kept {
                fingerprint: certificate.fingerprint().clone(),
                secret: "sealed-secrets-key1".to_owned(),
                state: "compromised".to_owned(),
                not_before: certificate.not_before(),
                not_after: certificate.not_after(),
            }],
        }
    }

    fn written(recipients: &Recipients) -> Backup {
        let text = write(&manifest(), &[secret()], recipients).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("tls.key"), "{text}");
        Backup::parse(&text).unwrap().unwrap()
    }

    #[test]
    fn a_backup_opens_for_each_recipient_and_holds_what_the_key_secret_says() {
        let (one, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
        let recipients = format!("# ops\n\n{}\n{}\n", one.to_public(), other.to_public());
        let backup = written(&Recipients::Keys(super::recipients(&recipients).unwrap()));
        assert_eq!(backup.manifest, manifest());
        assert!(!backup.wants_passphrase().unwrap());
        for identity in [&one, &other] {
            let file = Zeroizing::new(format!("# mine\n{}\n", identity.to_string().expose_secret()));
            let opened = backup.open(&identities(&file, "me", age::NoCallbacks).unwrap()).unwrap();
            backup.check(&opened).unwrap();
            assert_eq!(opened.as_bytes(), &**plain(&[secret()]).unwrap());
            let value: Value = serde_json::from_str(&opened).unwrap();
            let metadata = json!({
                "name": "sealed-secrets-key1", "namespace": "kube-system", "annotations": {"mine": "yes"},
                "labels": {"sealedsecrets.bitnami.com/sealed-secrets-key": "compromised"},
            });
            assert_eq!((&value["items"][0]["metadata"], &value["kind"]), (&metadata, &json!("List")));
            assert_eq!(value["items"][0]["type"], "kubernetes.io/tls");
        }
        let stranger: Identity = Box::new(age::x25519::Identity::generate());
        assert!(matches!(backup.open(&[stranger]), Err(BackupError::NoIdentity)));
    }

    #[test]
    fn a_passphrase_opens_and_a_wrong_one_does_not() {
        // A light one: what age chooses takes a second.
        let mut light = age::scrypt::Recipient::new("three words long".to_owned().into());
        light.set_work_factor(2);
        let backup = written(&Recipients::Keys(vec![Box::new(light)]));
        assert!(backup.wants_passphrase().unwrap());
        assert!(backup.open(&[passphrase("three words long".to_owned().into())]).is_ok());
        let wrong = backup.open(&[passphrase("two words".to_owned().into())]);
        assert!(matches!(wrong, Err(BackupError::Passphrase)));
    }

    #[test]
    fn a_manifest_that_names_other_keys_is_found_out() {
        let one = age::x25519::Identity::generate();
        let mut backup = written(&Recipients::Keys(vec![Box::new(one.to_public())]));
        backup.manifest.keys.clear();
        let opened = backup.open(&[Box::new(one) as Identity]).unwrap();
        let words = backup.check(&opened).unwrap_err().to_string();
        assert!(words.contains("differ: SHA256:"), "{words}");
    }

    #[test]
    fn what_is_damaged_or_something_else_is_said_to_be_so() {
        assert!(Backup::parse("kind: Secret\n").is_none() && Backup::parse(KEY).is_none());
        let newer = "apiVersion: signet.dev/v9\nkind: KeyBackup\n";
        assert!(matches!(Backup::parse(newer), Some(Err(BackupError::NotABackup))));
        let one = age::x25519::Identity::generate();
        let mut backup = written(&Recipients::Keys(vec![Box::new(one.to_public())]));
        let middle = backup.encrypted.len() / 2;
        let other = if backup.encrypted.as_bytes()[middle] == b'A' { "B" } else { "A" };
        backup.encrypted.replace_range(middle..=middle, other);
        assert!(matches!(backup.open(&[Box::new(one) as Identity]), Err(BackupError::Damaged(_))));
    }

    #[test]
    fn a_private_key_is_not_taken_for_a_recipient_and_not_shown() {
        let identity = age::x25519::Identity::generate().to_string();
        let words = recipient(identity.expose_secret()).err().unwrap().to_string();
        assert!(words.starts_with("AGE-SECRET-KEY- is a private key"), "{words}");
        assert!(recipient("ssh-dss AAAA me").is_err());
        let words = identities("hunter2", "me.txt", age::NoCallbacks).err().unwrap().to_string();
        assert_eq!(words, "me.txt holds no age identity and no ssh private key");
    }
}
