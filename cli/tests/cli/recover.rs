//! What opens without a cluster: `seal unseal` on trees, with keys as they lie around and with backups of them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use age::secrecy::ExposeSecret as _;
use cli::backup::{self, Kept, Manifest, Origin, Recipients};
use crds::unseal::ClearSecret;

use crate::reseal::{Tree, certificate, sealed, testdata};

/// Two keys as a cluster has them, in a backup for `recipients`.
fn backup(recipients: &Recipients) -> String {
    let secret = |name: &str| {
        let entry = |ending: &str| crds::base64::encode(testdata(&format!("{name}.{ending}")).as_bytes());
        let secret = serde_json::json!({
            "metadata": {"name": format!("sealed-secrets-key-{name}"), "labels": {crds::key_secret::LABEL: "active"}},
            "type": "kubernetes.io/tls", "data": {"tls.key": entry("key"), "tls.crt": entry("crt")},
        });
        ClearSecret::new(serde_json::from_value(secret).unwrap())
    };
    let kept = |name: &str| Kept {
        fingerprint: certificate(name).fingerprint().clone(),
        secret: format!("sealed-secrets-key-{name}"),
        state: "superseded".to_owned(),
        not_before: certificate(name).not_before(),
        not_after: certificate(name).not_after(),
    };
    let manifest = Manifest {
        cluster: Origin { uid: None, server: "https://gone.example".to_owned() },
        namespace: "kube-system".to_owned(),
        created: "2026-11-21T10:00:00Z".parse().unwrap(),
        keys: vec![kept("new"), kept("old")],
    };
    backup::write(&manifest, &[secret("new"), secret("old")], recipients).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn tree() -> Tree {
    let tree = Tree::new();
    let config = "kind: ConfigMap\nmetadata: {name: other}\n---\n";
    tree.write("a/two.yaml", &format!("{config}{}---\n{}", sealed("x", ("old", "new")), sealed("web", ("new", "new"))));
    let document = crds::yaml::documents(&sealed("json", ("old", "old"))).remove(0).value.unwrap();
    tree.write("a/deep/one.json", &document.to_string());
    tree.write("a/config.yaml", config);
    tree
}

#[test]
fn a_tree_is_opened_into_a_private_folder_and_nothing_is_overwritten() {
    let tree = tree();
    let line = "a --recovery-private-key keys.pem --to clear";
    assert_eq!(tree.seal("unseal", line), (Some(0), String::new(), String::new()));
    let clear = tree.read("clear/two.yaml");
    let documents = crds::yaml::documents(&clear);
    assert_eq!(documents.len(), 2, "what is no SealedSecret is not written: {clear}");
    for document in documents {
        let secret = document.value.unwrap();
        assert_eq!((&secret["kind"], &secret["data"]["a"]), (&"Secret".into(), &"czNjcmV0".into()));
        assert_eq!(secret["data"]["url"], "ZGI6Ly9zM2NyZXQ=", "the template is rendered");
    }
    let one: serde_json::Value = serde_json::from_str(&tree.read("clear/deep/one.json")).unwrap();
    assert_eq!(one["data"]["b"], "dHdv");
    assert!(!tree.path("clear/config.yaml").exists());
    for folder in ["clear", "clear/deep"] {
        assert_eq!(mode(&tree.path(folder)), 0o700, "{folder}");
    }
    for file in ["clear/two.yaml", "clear/deep/one.json"] {
        assert_eq!(mode(&tree.path(file)), 0o600, "{file}");
    }

    tree.write("clear/two.yaml", "mine");
    fs::remove_file(tree.path("clear/deep/one.json")).unwrap();
    let (code, _, stderr) = tree.seal("unseal", line);
    assert_eq!(code, Some(3));
    assert_eq!(stderr, "error: write clear/two.yaml: it is there already, and is not overwritten\n");
    assert_eq!(tree.read("clear/two.yaml"), "mine");
    assert!(tree.path("clear/deep/one.json").exists(), "one file stops no other");
}

#[test]
fn what_does_not_open_stops_nothing_else_and_two_files_never_become_one() {
    let tree = tree();
    tree.write("b/two.yaml", &sealed("moved", ("new", "new")).replace("name: moved", "name: elsewhere"));
    tree.write("b/deep/two.yaml", &sealed("z", ("new", "new")));
    let (code, stdout, stderr) = tree.seal("unseal", "a b --recovery-private-key keys.pem");
    assert_eq!(code, Some(3));
    assert!(stderr.starts_with("error: b/two.yaml: document 1, line 2 (shop/elsewhere): no key could"), "{stderr}");
    assert_eq!(stdout.matches("kind: Secret\n").count(), 4, "{stdout}");
    assert_eq!(crds::yaml::documents(&stdout).len(), 4);
    let (_, stdout, _) = tree.seal("unseal", "b/deep/two.yaml -o json --recovery-private-key keys.pem");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["metadata"]["name"], "z");

    let line = "a/two.yaml b/deep/two.yaml --recovery-private-key keys.pem --to clear";
    let (code, _, stderr) = tree.seal("unseal", line);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("b/deep/two.yaml would be written over a/two.yaml"), "{stderr}");
    assert_eq!(tree.seal("unseal", "a/config.yaml --recovery-private-key keys.pem").0, Some(1), "nothing to open");
    assert_eq!(tree.seal("unseal", "a --recovery-private-key none.pem").0, Some(1), "nothing to open it with");
    let (code, _, stderr) = tree.seal("unseal", "a b");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("name the private keys with --recovery-private-key"), "{stderr}");
}

#[test]
fn sealed_values_that_are_no_sealed_secrets_are_named() {
    let tree = tree();
    let manifest = crds::yaml::documents(&sealed("x", ("new", "new"))).remove(0).value.unwrap();
    let value = manifest["spec"]["encryptedData"]["a"].as_str().unwrap();
    tree.write("a/chart/values.yaml", &format!("db:\n  password: {value}\n"));
    let (code, stdout, stderr) = tree.seal("unseal", "a --recovery-private-key keys.pem");
    assert_eq!((code, stdout.matches("kind: Secret\n").count()), (Some(0), 3), "{stderr}");
    assert!(stderr.contains("warning: a/chart/values.yaml:1: passed over"), "{stderr}");
}

#[test]
fn a_backup_is_as_good_as_its_keys_wherever_keys_are_named() {
    let tree = tree();
    let (mine, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    tree.write("backup.yaml", &backup(&Recipients::Keys(vec![Box::new(mine.to_public())])));
    tree.write("me.txt", &format!("# mine\n{}\n", mine.to_string().expose_secret()));
    tree.write("other.txt", other.to_string().expose_secret());
    let keys = "--recovery-private-key backup.yaml --identity me.txt";
    assert_eq!(tree.seal("unseal", &format!("a --to clear {keys}")), (Some(0), String::new(), String::new()));
    let (code, stdout, stderr) = tree.seal("verify", &format!("a {keys}"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    // Neither certificate is the newer one: what counts is that one of the backup's own is used.
    let (code, _, stderr) = tree.seal("reseal", &format!("a {keys}"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(tree.seal("reseal", &format!("a --check {keys}")).0, Some(0));

    for (flags, words) in [
        ("", "is encrypted for keys: name the one that opens it with --identity"),
        ("--identity other.txt", "none of the identities opens it"),
        ("--identity a/config.yaml", "a/config.yaml holds no age identity and no ssh private key"),
    ] {
        let (code, stdout, stderr) = tree.seal("unseal", &format!("a --recovery-private-key backup.yaml {flags}"));
        assert!(code == Some(1) && stdout.is_empty() && stderr.contains(words), "{words}: {stderr}");
    }
    let cut = tree.read("backup.yaml").replace("-----END", "---- END");
    tree.write("backup.yaml", &cut);
    let (code, _, stderr) = tree.seal("unseal", &format!("a {keys}"));
    assert!(code == Some(1) && stderr.contains("cannot open the backup backup.yaml"), "{stderr}");
}

#[test]
fn a_passphrase_comes_from_a_file_or_the_environment_and_is_never_shown() {
    let tree = tree();
    let mut light = age::scrypt::Recipient::new("three words long".to_owned().into());
    light.set_work_factor(2);
    tree.write("backup.yaml", &backup(&Recipients::Keys(vec![Box::new(light)])));
    tree.write("words.txt", "three words long\r\n");
    let keys = "a --recovery-private-key backup.yaml";
    assert_eq!(tree.seal("unseal", &format!("{keys} --passphrase-file words.txt --to clear")).0, Some(0));
    let with = |words: &str| {
        let mut command = tree.command("unseal", &format!("{keys} -o json"));
        command.env("SEALED_SECRETS_PASSPHRASE", words).output().unwrap()
    };
    assert!(with("three words long").status.success());
    let wrong = String::from_utf8(with("wrong words").stderr).unwrap();
    assert_eq!(wrong, "error: cannot open the backup backup.yaml: the passphrase is wrong\n");
    // There is no terminal here to ask at.
    let (code, _, stderr) = tree.seal("unseal", keys);
    assert!(code == Some(1) && stderr.contains("--passphrase-file or $SEALED_SECRETS_PASSPHRASE"), "{stderr}");
}
