//! By signatures of the real git, ssh-keygen and gpg.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use k8s_openapi::ByteString;
use tempfile::TempDir;

use super::*;
use crate::sync::source::Tip;

/// Somebody with a repository and keys.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::Builder::new().prefix("sig").tempdir_in("/tmp").unwrap() };
        fs::create_dir(world.path("gnupg")).unwrap();
        fs::set_permissions(world.path("gnupg"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        world.git(&["init", "--quiet", "--initial-branch=main", "."]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.folder.path());
        command.env("GNUPGHOME", self.path("gnupg")).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "Ada").env(format!("GIT_{who}_EMAIL"), "ada@example.com");
        }
        let output = command.current_dir(self.folder.path()).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        output
    }

    fn git(&self, arguments: &[&str]) -> Vec<u8> {
        self.run("git", arguments).stdout
    }

    /// Makes an SSH key; the public one.
    fn ssh_key(&self, name: &str, kind: &[&str]) -> String {
        let path = self.path(name);
        let path = path.to_str().unwrap();
        self.run("ssh-keygen", &[&["-q", "-N", "", "-C", "ada", "-f", path], kind].concat());
        fs::read_to_string(format!("{path}.pub")).unwrap()
    }

    /// A signed commit, as the mirror would tell it.
    fn commit(&self, format: &str, key: &str) -> Signature {
        let settings = signing(format, key);
        self.git(&["-c", &settings[0], "-c", &settings[1], "commit", "--quiet", "-S", "--allow-empty", "-m", "x"]);
        self.last()
    }

    fn last(&self) -> Signature {
        let raw = self.git(&["cat-file", "commit", "HEAD"]);
        let (armor, data) = gix::objs::CommitRefIter::signature(&raw, gix::hash::Kind::Sha1).unwrap().unwrap();
        Signature { armor: armor.to_string(), payload: data.to_bstring().into() }
    }

    fn gpg(&self, arguments: &[&str]) -> String {
        let fixed = ["--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""];
        String::from_utf8(self.run("gpg", &[&fixed, arguments].concat()).stdout).unwrap()
    }

    /// Makes an OpenPGP key; its fingerprint.
    fn pgp_key(&self, user: &str, usage: &str, expires: &str) -> String {
        self.gpg(&["--quick-gen-key", user, "ed25519", usage, expires]);
        self.fingerprints(user)[0].clone()
    }

    fn fingerprints(&self, user: &str) -> Vec<String> {
        let listed = self.gpg(&["--with-colons", "--list-keys", user]);
        let lines = listed.lines().filter_map(|line| line.strip_prefix("fpr:"));
        lines.map(|line| line.trim_matches(':').to_owned()).collect()
    }

    fn public(&self, user: &str) -> String {
        self.gpg(&["--armor", "--export", user])
    }
}

/// For git: by which key.
fn signing(format: &str, key: &str) -> [String; 2] {
    [format!("gpg.format={format}"), format!("user.signingkey={key}")]
}

impl Drop for World {
    fn drop(&mut self) {
        // The agent that gpg started ends with its home.
        if self.path("gnupg").join("S.gpg-agent").exists() {
            let _ = Command::new("gpgconf").env("GNUPGHOME", self.path("gnupg")).args(["--kill", "gpg-agent"]).status();
        }
    }
}

fn keys(entries: &[(&str, &str)]) -> Result<Keys, KeysError> {
    let data = entries.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec())));
    Keys::from_secret_data(&data.collect())
}

fn some_commit() -> Commit {
    Tip::from_revision("sha1:0123456789012345678901234567890123456789").unwrap().commit
}

fn check(keys: &Keys, signature: Option<&Signature>) -> Result<String, Unverified> {
    keys.check("the commit".to_owned(), signature)
}

fn why(keys: &Keys, signature: &Signature) -> String {
    check(keys, Some(signature)).unwrap_err().to_string()
}

fn tampered(signature: &Signature) -> Signature {
    let mut tampered = signature.clone();
    tampered.payload.extend(b"and more\n");
    tampered
}

fn has_gpg() -> bool {
    let there = Command::new("gpg").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(&mut stderr, b"skipped: gpg is not here\n").unwrap();
    }
    there
}

#[test]
fn ssh_keys_of_all_kinds_sign() {
    let world = World::new();
    let other = keys(&[("other.sshpub", &world.ssh_key("other", &["-t", "ed25519"]))]).unwrap();
    for (name, kind) in [
        ("ed25519", ["-t", "ed25519"].as_slice()),
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
        ("rsa", &["-t", "rsa", "-b", "3072"]),
    ] {
        let public = world.ssh_key(name, kind);
        let signature = world.commit("ssh", world.path(name).to_str().unwrap());
        let known = keys(&[("ada.sshpub", &public)]).unwrap();
        assert!(check(&known, Some(&signature)).unwrap().starts_with("the SSH key SHA256:"), "{name}");
        assert!(why(&known, &tampered(&signature)).contains("changed after signing"), "{name}");
        assert!(why(&other, &signature).contains("not in the Secret"), "{name}");
        assert_eq!(check(&known, None).unwrap_err().to_string(), "the commit bears no signature");
    }
}

#[test]
fn a_signature_for_something_else_does_not_count() {
    let world = World::new();
    let public = world.ssh_key("ada", &["-t", "ed25519"]);
    fs::write(world.path("words"), "tree x\n").unwrap();
    world.run("ssh-keygen", &["-Y", "sign", "-q", "-n", "file", "-f", world.path("ada").to_str().unwrap(), "words"]);
    let armor = fs::read_to_string(world.path("words.sig")).unwrap();
    let known = keys(&[("ada.pub", &public)]).unwrap();
    let signature = Signature { armor, payload: b"tree x\n".to_vec() };
    assert!(why(&known, &signature).contains("not made for git"));
    let nonsense = Signature { armor: format!("{SSH}\nAAAA\n-----END SSH SIGNATURE-----\n"), payload: Vec::new() };
    assert!(why(&known, &nonsense).contains("cannot be read"));
}

#[test]
fn allowed_signers_may_say_when_and_for_what() {
    let world = World::new();
    let public = world.ssh_key("ada", &["-t", "ed25519"]);
    let signature = world.commit("ssh", world.path("ada").to_str().unwrap());
    let with = |options: &str| keys(&[("allowed_signers", &format!("# who\nada@example.com {options}{public}"))]);
    for options in [
        "",
        "namespaces=\"git\" ",
        "namespaces=\"file,git\" ",
        "valid-after=\"20200101Z\" ",
        "valid-after=\"20200101\",valid-before=\"20990101120000Z\" ",
    ] {
        assert!(check(&with(options).unwrap(), Some(&signature)).is_ok(), "{options}");
    }
    for options in ["valid-before=\"20200101\" ", "valid-after=\"209901010000Z\" "] {
        assert!(why(&with(options).unwrap(), &signature).contains("might not sign at that time"), "{options}");
    }
    for options in ["namespaces=\"file\" ", "cert-authority ", "valid-after=\"soon\" "] {
        assert!(with(options).is_err(), "{options}");
    }
}

#[test]
fn a_secret_without_keys_is_told() {
    let tell = |entries: &[_]| keys(entries).err().unwrap().to_string();
    assert!(tell(&[]).contains(".sshpub"));
    assert!(tell(&[("README", "x")]).contains(".asc"));
    assert!(tell(&[("ada.asc", "nonsense")]).contains("ada.asc"));
    assert!(tell(&[("ada.sshpub", "nonsense")]).contains("ada.sshpub"));
    assert!(tell(&[("ada.sshpub", "# nobody\n")]).contains("no SSH key"));
}

#[test]
fn openpgp_keys_and_their_subkeys_sign() {
    if !has_gpg() {
        return;
    }
    let world = World::new();
    let ada = world.pgp_key("ada@example.com", "sign", "never");
    let other = world.pgp_key("eve@example.com", "sign", "never");
    let by_ada = world.commit("openpgp", &ada);
    let known = keys(&[("ada.asc", &world.public(&ada))]).unwrap();
    assert_eq!(check(&known, Some(&by_ada)).unwrap(), format!("the OpenPGP key {ada}"));
    assert!(why(&known, &tampered(&by_ada)).contains("changed after signing"));
    let by_eve = world.commit("openpgp", &other);
    assert!(why(&known, &by_eve).contains(&format!("{other}, which is not in the Secret")));
    let both = keys(&[("all.asc", &(world.public(&ada) + &world.public(&other)))]).unwrap();
    assert!(check(&both, Some(&by_eve)).is_ok() && check(&both, Some(&by_ada)).is_ok());

    // RSA, and a subkey that signs for a key that only certifies.
    world.gpg(&["--quick-gen-key", "rsa@example.com", "rsa3072", "cert", "never"]);
    let rsa = world.fingerprints("rsa@example.com")[0].clone();
    world.gpg(&["--quick-add-key", &rsa, "rsa3072", "sign", "never"]);
    let by_subkey = world.commit("openpgp", &rsa);
    let known = keys(&[("rsa.asc", &world.public(&rsa))]).unwrap();
    assert_eq!(check(&known, Some(&by_subkey)).unwrap(), format!("the OpenPGP key {rsa}"));
    assert!(why(&known, &tampered(&by_subkey)).contains("changed after signing"));
}

/// What the library lets pass and gpg does not.
#[test]
fn revoked_and_expired_keys_do_not_count() {
    if !has_gpg() {
        return;
    }
    let world = World::new();
    // One that had expired by the time it signed, by a clock that was put back for its making.
    let made =
        ["--faked-system-time", "20200101T000000!", "--quick-gen-key", "old@example.com", "ed25519", "sign", "1y"];
    world.gpg(&made);
    let old = world.fingerprints("old@example.com")[0].clone();
    fs::write(world.path("words"), "tree x\n").unwrap();
    let sign = |time: &str, key: &str| {
        let _ = fs::remove_file(world.path("words.asc"));
        let when = ["--faked-system-time", time, "--local-user", key, "--armor", "--detach-sign", "words"];
        world.gpg(&when);
        Signature { armor: fs::read_to_string(world.path("words.asc")).unwrap(), payload: b"tree x\n".to_vec() }
    };
    let in_time = sign("20200601T000000!", &old);
    let known = keys(&[("old.asc", &world.public(&old))]).unwrap();
    assert!(check(&known, Some(&in_time)).is_ok(), "it was alive when it signed");
    // A later life, for the signature alone: the Secret has the key as it was.
    world.gpg(&["--quick-set-expire", &old, "never"]);
    let late = sign("20230101T000000!", &old);
    assert!(why(&known, &late).contains("had expired by then"));
    let prolonged = keys(&[("old.asc", &world.public(&old))]).unwrap();
    assert!(check(&prolonged, Some(&late)).is_ok(), "the newest word of the key counts");

    let ada = world.pgp_key("ada@example.com", "sign", "never");
    let signature = world.commit("openpgp", &ada);
    let revocation = world.path("gnupg").join(format!("openpgp-revocs.d/{ada}.rev"));
    let text = fs::read_to_string(&revocation).unwrap().replace(":-----BEGIN", "-----BEGIN");
    fs::write(&revocation, text).unwrap();
    world.gpg(&["--import", revocation.to_str().unwrap()]);
    let revoked = keys(&[("ada.asc", &world.public(&ada))]).unwrap();
    assert!(why(&revoked, &signature).contains("is revoked"));
}

#[test]
fn tags_are_signed_under_their_own_names() {
    use VerifyMode::{Head, Tag, TagAndHead};
    let world = World::new();
    let public = world.ssh_key("ada", &["-t", "ed25519"]);
    let settings = signing("ssh", world.path("ada").to_str().unwrap());
    let commit = world.commit("ssh", world.path("ada").to_str().unwrap());
    world.git(&["-c", &settings[0], "-c", &settings[1], "tag", "--sign", "--message=first", "v1.0.0"]);
    let raw = String::from_utf8(world.git(&["cat-file", "tag", "v1.0.0"])).unwrap();
    let at = raw.find(SSH).unwrap();
    let tag = Signature { armor: raw[at..].to_owned(), payload: raw.as_bytes()[..at].to_vec() };
    let known = keys(&[("ada.sshpub", &public)]).unwrap();
    let id = some_commit();
    let tell = |mode, followed: &str, commit: Option<&Signature>, tag: Option<Option<&Signature>>| {
        let signed = Signed { commit: commit.cloned(), tag: tag.map(Option::<&Signature>::cloned) };
        known.tip(mode, (&id, followed), &signed)
    };
    let (signed, tag) = (Some(&commit), Some(Some(&tag)));
    assert!(tell(Head, "main", signed, None).unwrap().contains("the commit"));
    assert!(tell(Tag, "v1.0.0", None, tag).unwrap().starts_with("the tag v1.0.0 is signed by"));
    assert!(tell(TagAndHead, "v1.0.0", signed, tag).unwrap().contains("the commit"));
    assert!(matches!(tell(Head, "v1.0.0", None, tag), Err(Unverified::Unsigned(_))));
    assert!(matches!(tell(TagAndHead, "v1.0.0", None, tag), Err(Unverified::Unsigned(_))));
    assert!(matches!(tell(Tag, "v1.0.0", signed, Some(None)), Err(Unverified::Unsigned(_))));
    assert!(matches!(tell(Tag, "main", signed, None), Err(Unverified::NoTag(_))));
    assert!(matches!(tell(Tag, "v2.0.0", signed, tag), Err(Unverified::Renamed { .. })));
}

#[test]
fn one_unsigned_commit_spoils_a_range() {
    let world = World::new();
    let public = world.ssh_key("ada", &["-t", "ed25519"]);
    let signature = world.commit("ssh", world.path("ada").to_str().unwrap());
    let known = keys(&[("ada.sshpub", &public)]).unwrap();
    let good = || (some_commit(), Some(signature.clone()));
    assert_eq!(known.range(&[good(), good()]), Ok(2));
    assert!(matches!(known.range(&[good(), (some_commit(), None)]), Err(Unverified::Unsigned(_))));
}
