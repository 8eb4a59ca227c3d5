//! Backups written, opened and spoilt, with keys of our own.

use age::secrecy::ExposeSecret as _;
use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::*;

const KEY: &str = include_str!("../../../crds/testdata/new.key");
const CERTIFICATE: &str = include_str!("../../../crds/testdata/new.crt");
const OLD: &str = include_str!("../../../crds/testdata/old.key");
const OLD_CERTIFICATE: &str = include_str!("../../../crds/testdata/old.crt");

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
fn what_is_cut_off_is_damaged_for_everybody() {
    let me = age::x25519::Identity::generate();
    let backup = written(&Recipients::Keys(vec![Box::new(me.to_public())]));
    backup.sound().unwrap();
    let lines: Vec<&str> = backup.encrypted.lines().collect();
    for kept in [0, 1, 5, lines.len() - 1] {
        let cut = Backup { manifest: manifest(), encrypted: lines[..kept].join("\n") };
        assert!(matches!(cut.sound(), Err(BackupError::Damaged(_))), "{kept}");
    }
}

/// For a passphrase that is less work than what is written.
fn light() -> Backup {
    let mut light = age::scrypt::Recipient::new("three words long".to_owned().into());
    light.set_work_factor(2);
    written(&Recipients::Keys(vec![Box::new(light)]))
}

/// What age says of its recipients, and the rest.
fn unarmored(backup: &Backup) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    ArmoredReader::new(backup.encrypted.as_bytes()).read_to_end(&mut bytes).unwrap();
    let body = bytes.split_off(bytes.windows(4).position(|four| four == b"\n---").unwrap());
    (String::from_utf8(bytes).unwrap(), body)
}

#[test]
fn how_hard_a_passphrase_is_to_guess_depends_on_no_machine() {
    let backup = written(&Recipients::Passphrase("three words long".to_owned().into()));
    let (head, _) = unarmored(&backup);
    assert!(head.lines().any(|line| line.starts_with("-> scrypt ") && line.ends_with(" 18")), "{head}");

    let mut backup = light();
    let (head, body) = unarmored(&backup);
    let mut writer = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor).unwrap();
    writer.write_all(&[head.replace(" 2\n", " 23\n").as_bytes(), &body].concat()).unwrap();
    backup.encrypted = String::from_utf8(writer.finish().unwrap()).unwrap();
    let refused = backup.open(&[passphrase("three words long".to_owned().into())]).unwrap_err();
    assert!(refused.to_string().contains("work factor 23, and at most 22 is accepted"), "{refused}");
}

#[test]
fn a_passphrase_opens_and_a_wrong_one_does_not() {
    let backup = light();
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
fn a_key_secret_that_is_spoilt_locks_out_no_other() {
    let spoilt = |name: &str, entries: &[(&str, &str)]| {
        let entries = entries.iter().map(|(entry, text)| ((*entry).to_owned(), ByteString(text.as_bytes().to_vec())));
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..secret().expose().metadata.clone() };
        ClearSecret::new(Secret { metadata, data: Some(entries.collect()), ..Secret::default() })
    };
    let secrets = [
        spoilt("without", &[("tls.key", OLD)]),
        secret(),
        spoilt("anothers", &[("tls.key", OLD), ("tls.crt", CERTIFICATE)]),
        spoilt("emptied", &[("tls.key", ""), ("tls.crt", OLD_CERTIFICATE)]),
    ];
    let mut manifest = manifest();
    for secret in secrets.iter().skip(2) {
        let Key { fingerprint, name, not_before, not_after, .. } = described(secret).unwrap();
        manifest.keys.push(Kept { fingerprint, secret: name, state: "retired".to_owned(), not_before, not_after });
    }
    let one = age::x25519::Identity::generate();
    let text = write(&manifest, &secrets, &Recipients::Keys(vec![Box::new(one.to_public())])).unwrap();
    let backup = Backup::parse(&text).unwrap().unwrap();
    let opened = backup.open(&[Box::new(one) as Identity]).unwrap();
    backup.check(&opened).unwrap();
    let good = manifest::secrets(&opened).remove(1).object.unwrap();
    let key = key_secret::read(good.expose(), KeyOrder::default()).unwrap();
    assert_eq!(key.private.fingerprint(), &manifest.keys[0].fingerprint);
}

#[test]
fn a_backup_that_would_not_open_is_not_written() {
    let one = age::x25519::Identity::generate();
    let other = Manifest { keys: Vec::new(), ..manifest() };
    let refused = write(&other, &[secret()], &Recipients::Keys(vec![Box::new(one.to_public())]));
    assert!(matches!(refused, Err(BackupError::Manifest(_))));
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
