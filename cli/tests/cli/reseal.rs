//! `seal reseal`, run as a program on trees of files: what it changes, what it leaves, and how it ends.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crds::{Certificate, KeyRing, Scope, SealedSecret, key_ring::RingKey, reseal::Candidate, seal, unseal};

use crate::stub::{Request, Stub};

const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata");

pub fn testdata(name: &str) -> String {
    fs::read_to_string(Path::new(TESTDATA).join(name)).unwrap()
}

pub fn certificate(name: &str) -> Certificate {
    Certificate::from_pem(&testdata(&format!("{name}.crt"))).unwrap()
}

fn ring(names: &[&str]) -> KeyRing {
    let key = |name: &&str| RingKey {
        private: crds::PrivateKey::from_pem(&testdata(&format!("{name}.key"))).unwrap().into(),
        certificate: None,
        certificate_pem: "".into(),
        born: jiff::Timestamp::UNIX_EPOCH,
    };
    names.iter().map(key).collect()
}

fn value(plain: &str, name: &str, key: &str) -> String {
    seal::value(plain.as_bytes(), ("shop", name), Scope::Strict, &certificate(key), &mut rand::rng()).unwrap()
}

/// A SealedSecret shop/`name` with two items, of which the second is folded.
pub fn sealed(name: &str, (a, b): (&str, &str)) -> String {
    format!(
        "# of the shop\napiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {{name: {name}, namespace: shop}} # ours\nspec:\n  encryptedData:\n    a: '{}' # first\n    b: >-\n      {}\n  template:\n    data:\n      url: 'db://{{{{ .a }}}}'\n",
        value("s3cret", name, a),
        value("two", name, b)
    )
}

pub struct Tree(tempfile::TempDir);

impl Tree {
    /// With all keys in one file, and the certificate of the one that seals.
    pub fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        let keys: String = ["old.key", "new.key", "new.crt"].map(testdata).concat();
        tree.write("keys.pem", &keys);
        tree
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn command(&self, verb: &str, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seal"));
        command.arg(verb).args(line.split_whitespace()).env_clear().current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> (Option<i32>, String, String) {
        self.seal("reseal", line)
    }

    /// Exit code, stdout and stderr of a verb.
    pub fn seal(&self, verb: &str, line: &str) -> (Option<i32>, String, String) {
        done(self.command(verb, line).output().unwrap())
    }
}

fn done(Output { status, stdout, stderr }: Output) -> (Option<i32>, String, String) {
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The values of the last document, which must be a SealedSecret.
fn values(text: &str, ring: &KeyRing) -> Option<BTreeMap<String, Vec<u8>>> {
    let document = crds::yaml::documents(text).pop().unwrap();
    let sealed: SealedSecret = serde_json::from_value(document.value.unwrap()).unwrap();
    let values = unseal::open(&sealed, ring, None).outcome.ok()?.values;
    Some(values.iter().map(|(item, value)| (item.clone(), value.expose().to_vec())).collect())
}

fn both() -> BTreeMap<String, Vec<u8>> {
    [("a".to_owned(), b"s3cret".to_vec()), ("b".to_owned(), b"two".to_vec())].into()
}

fn differing(before: &str, after: &str) -> Vec<usize> {
    assert_eq!(before.lines().count(), after.lines().count());
    let lines = before.lines().zip(after.lines()).enumerate();
    lines.filter(|(_, (before, after))| before != after).map(|(number, _)| number + 1).collect()
}

#[test]
fn what_is_stale_in_a_tree_is_sealed_anew_and_nothing_else_is_touched() {
    let tree = Tree::new();
    let config = "kind: ConfigMap\nmetadata: {name: other}\n---\n";
    tree.write("app/half.yaml", &format!("{config}{}", sealed("half", ("old", "new"))));
    tree.write("app/new.yml", &sealed("new", ("new", "new")));
    let document = crds::yaml::documents(&sealed("json", ("old", "old"))).remove(0).value.unwrap();
    tree.write("app/deep/old.json", &serde_json::to_string_pretty(&document).unwrap());
    tree.write("chart/templates/db.yaml", "kind: SealedSecret\nmetadata: {name: {{ .Release.Name }}}\n  bad\n");
    tree.write("app/.hidden.yaml", &sealed("hidden", ("old", "old")));
    tree.write("app/notes.txt", &sealed("notes", ("old", "old")));
    let names = ["app/half.yaml", "app/new.yml", "app/deep/old.json", "chart/templates/db.yaml"];
    let untouched = ["app/.hidden.yaml", "app/notes.txt"];
    let snapshot = || names.iter().chain(&untouched).map(|name| tree.read(name)).collect::<Vec<_>>();
    let before = snapshot();

    let found = "app/deep/old.json:1: shop/json: a, b";
    let (code, stdout, stderr) = tree.run("--recovery-private-key keys.pem --check app chart ./app/half.yaml");
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    assert_eq!(stdout.lines().next(), Some(format!("{found} sealed with an older key").as_str()));
    assert_eq!(tree.run("--recovery-private-key keys.pem --dry-run app chart"), (Some(0), stdout, stderr));
    assert_eq!(snapshot(), before, "a check changes nothing");

    let (code, stdout, stderr) = tree.run("--recovery-private-key keys.pem app chart ./app/half.yaml");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, format!("{found} sealed anew\napp/half.yaml:5: shop/half: a sealed anew\n"));
    let after = snapshot();
    assert_eq!(differing(&before[0], &after[0]), [10], "the stale item's line");
    assert_eq!(differing(&before[2], &after[2]).len(), 2);
    assert_eq!(before[1], after[1]);
    assert_eq!(before[3..], after[3..]);
    for text in [&after[0], &after[2]] {
        assert_eq!(values(text, &ring(&["new"])), Some(both()));
    }
    assert_eq!(tree.run("--recovery-private-key keys.pem --check app chart"), (Some(0), String::new(), String::new()));
    assert_eq!(snapshot(), after, "a second run changes nothing");
}

#[test]
fn one_bad_file_or_document_stops_no_other() {
    let tree = Tree::new();
    let moved = sealed("moved", ("old", "old")).replace("name: moved", "name: elsewhere");
    tree.write("a/broken.yaml", "kind: SealedSecret\nspec: [ # {{ .user }}\n");
    tree.write("a/two.yaml", &format!("{moved}---\n{}", sealed("two", ("old", "old"))));
    tree.write("a/homeless.yaml", &sealed("homeless", ("old", "old")).replace(", namespace: shop", ""));
    tree.write("a/anchor.yaml", &sealed("anchor", ("old", "old")).replace("a: '", "a: &x '"));
    tree.write("a/good.yaml", &sealed("good", ("old", "old")));
    let before = ["a/broken.yaml", "a/homeless.yaml", "a/anchor.yaml"].map(|name| tree.read(name));

    let (code, stdout, stderr) = tree.run("--recovery-private-key keys.pem -o json a none");
    assert_eq!(code, Some(3));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let stale = report["stale"].as_array().unwrap();
    let done: Vec<_> = stale.iter().map(|it| (it["object"].as_str().unwrap(), it["document"].as_u64())).collect();
    assert_eq!(done, [("shop/good", Some(1)), ("shop/two", Some(2))]);
    assert_eq!((&report["written"], &report["interrupted"]), (&true.into(), &false.into()));
    assert_eq!(report["failed"].as_array().unwrap().len(), 5);
    for words in [
        "error: a/broken.yaml: document 1, line 2: ",
        "error: a/two.yaml: document 1, line 2 (shop/elsewhere): no key could decrypt secret (a, b): was sealed ",
        "error: a/homeless.yaml: document 1, line 2 (homeless): metadata.namespace is missing",
        "error: a/anchor.yaml: cannot change the file: document 1: spec.encryptedData.a is shared by a YAML anchor",
        "error: open none: no such file or directory",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert!(!stderr.contains("s3cret") && !stderr.contains("BEGIN"), "{stderr}");
    for name in ["a/two.yaml", "a/good.yaml"] {
        assert_eq!(values(&tree.read(name), &ring(&["new"])), Some(both()), "{name}");
    }
    assert_eq!(["a/broken.yaml", "a/homeless.yaml", "a/anchor.yaml"].map(|name| tree.read(name)), before);
    let again = tree.run("--recovery-private-key keys.pem --namespace shop a/homeless.yaml");
    assert_eq!((again.0, again.2.as_str()), (Some(0), ""));
    let text = tree.read("a/homeless.yaml");
    assert!(!text.contains("namespace"), "it still names none: {text}");
    assert_eq!(
        values(&text.replace("name: homeless", "name: homeless, namespace: shop"), &ring(&["new"])),
        Some(both())
    );
}

#[test]
fn keys_without_a_certificate_do_not_say_for_which_to_seal() {
    let tree = Tree::new();
    tree.write("bare.pem", &testdata("old.key"));
    tree.write("a.yaml", &sealed("a", ("old", "old")));
    let (code, _, stderr) = tree.run("--recovery-private-key bare.pem a.yaml");
    assert_eq!(code, Some(3));
    assert!(stderr.contains("name the one to seal with, with --cert"), "{stderr}");
    let (code, _, stderr) = tree.run("--cert cert.pem a.yaml");
    assert!(code == Some(3) && stderr.contains("--recovery-private-key"), "{stderr}");
    fs::copy(Path::new(TESTDATA).join("new.crt"), tree.path("cert.pem")).unwrap();
    let (code, _, stderr) = tree.run("--recovery-private-key bare.pem --cert cert.pem a.yaml");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(values(&tree.read("a.yaml"), &ring(&["new"])), Some(both()));
}

/// As ours answers; `/v1/rotate` of the real one is asked in `tests/`.
fn controller(request: &Request) -> (u16, String) {
    let object = serde_json::from_str(&request.body).unwrap();
    let renewed = Candidate::new(object)
        .and_then(|it| it.reseal(&ring(&["old", "new"]), &certificate("new"), &mut rand::rng(), &mut |_| true));
    renewed.map_or((500, String::new()), |renewed| (200, renewed.to_string()))
}

#[test]
fn an_interruption_leaves_whole_files_and_the_next_run_goes_on() {
    ["INT", "TERM"].into_iter().for_each(interrupted);
}

fn interrupted(signal: &str) {
    let tree = Tree::new();
    tree.write("a/1.yaml", &sealed("one", ("old", "old")));
    tree.write("a/2.yaml", &format!("{}---\n{}", sealed("two", ("old", "old")), sealed("three", ("old", "old"))));
    let before = tree.read("a/2.yaml");
    // Its first answer is the last one for now.
    let stub = Stub::start(
        |request| if request.body.contains("\"one\"") { controller(request) } else { (429, String::new()) },
    );
    let flags = |stub: &Stub| format!("--kubeconfig= --server {} a", stub.address);
    let child = tree.command("reseal", &flags(&stub)).spawn().unwrap();
    while stub.asked().len() < 2 {
        std::thread::yield_now();
    }
    let interrupt = format!("kill -s {signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let (code, stdout, stderr) = done(child.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(3), "a/1.yaml:2: shop/one: a, b sealed anew\n"));
    assert!(stderr.contains("interrupted: every file is whole"), "{stderr}");
    assert_eq!(values(&tree.read("a/1.yaml"), &ring(&["new"])), Some(both()));
    assert_eq!(tree.read("a/2.yaml"), before);

    let first = tree.read("a/1.yaml");
    let stub = Stub::start(controller);
    let (code, stdout, stderr) = tree.run(&flags(&stub));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    assert_eq!(tree.read("a/1.yaml"), first);
    assert_eq!(values(&tree.read("a/2.yaml"), &ring(&["new"])), Some(both()));
}

#[test]
fn a_way_to_the_controller_that_fails_for_a_moment_is_tried_again() {
    let tree = Tree::new();
    tree.write("a/1.yaml", &sealed("one", ("old", "old")));
    let failures = std::sync::Mutex::new(vec![(502, "bad gateway"), (503, "error trying to reach service: EOF")]);
    let stub = Stub::start(move |request| match failures.lock().unwrap().pop() {
        Some((status, words)) => (status, words.to_owned()),
        None => controller(request),
    });
    let flags = |stub: &Stub| format!("--kubeconfig= --server {} a", stub.address);
    let (code, _, stderr) = tree.run(&flags(&stub));
    assert_eq!((code, stderr.as_str(), stub.asked().len()), (Some(0), "", 3));
    assert_eq!(values(&tree.read("a/1.yaml"), &ring(&["new"])), Some(both()));

    // One that does not come back holds up the first question only.
    tree.write("a/1.yaml", &sealed("one", ("old", "old")));
    tree.write("a/2.yaml", &sealed("two", ("old", "old")));
    let stub = Stub::start(|_| (503, "no endpoints available".to_owned()));
    let (code, _, stderr) = tree.run(&flags(&stub));
    assert_eq!((code, stub.asked().len()), (Some(3), 1 + 5 + 1), "{stderr}");
    assert_eq!(stderr.matches("no endpoints available").count(), 2, "{stderr}");
}

#[test]
fn sealed_values_that_nobody_reads_are_named_and_fail_a_check() {
    let tree = Tree::new();
    let old = value("s3cret", "db", "old");
    let template = "kind: SealedSecret\nmetadata: {name: {{ .Release.Name }}}\nspec: {encryptedData: {a: VALUE}}\n";
    tree.write("charts/templates/ss.yaml", &template.replace("VALUE", &old));
    tree.write("charts/values.yaml", &format!("db:\n  password: {old}\n"));
    tree.write("charts/good.yaml", &sealed("good", ("new", "new")));
    tree.write("charts/other.yaml", "kind: ConfigMap\nmetadata: {name: other}\n");
    let keys = "--recovery-private-key keys.pem";
    let (code, stdout, stderr) = tree.run(&format!("{keys} --check charts"));
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    for file in ["charts/templates/ss.yaml:2: ", "charts/values.yaml:1: "] {
        assert!(stderr.contains(&format!("warning: {file}passed over")), "{stderr}");
    }
    assert!(stderr.contains("1 of its values") && stderr.contains("seal keys list"), "{stderr}");
    let (code, stdout, _) = tree.run(&format!("{keys} --dry-run -o json charts"));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, Some(0));
    let skipped: Vec<_> = report["skipped"].as_array().unwrap().iter().map(|it| it["file"].clone()).collect();
    assert_eq!(skipped, ["charts/templates/ss.yaml", "charts/values.yaml"]);
    assert_eq!((&report["sealedSecrets"], &report["skipped"][1]["values"]), (&1.into(), &1.into()));

    let (code, _, stderr) = tree.run(&format!("{keys} --check charts/good.yaml charts/other.yaml"));
    assert_eq!(
        (code, stderr.as_str()),
        (Some(0), "warning: charts/other.yaml: there is no SealedSecret in it, or none that can be read\n")
    );
    let (code, stdout, stderr) = tree.seal("verify", "charts -o json");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, report["skipped"].as_array().unwrap().len()), (Some(0), 2), "{report}");
    assert!(stderr.contains("charts/values.yaml:1: passed over"), "{stderr}");
}

#[test]
fn killed_at_any_moment_it_leaves_whole_files() {
    let tree = Tree::new();
    let names: Vec<String> = (0..40).map(|number| format!("f{number}")).collect();
    for name in &names {
        tree.write(&format!("a/{name}.yaml"), &sealed(name, ("old", "old")));
    }
    let first = tree.read("a/f0.yaml");
    let mut child = tree.command("reseal", "--recovery-private-key keys.pem a").spawn().unwrap();
    while tree.read("a/f0.yaml") == first && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for name in &names {
        assert_eq!(values(&tree.read(&format!("a/{name}.yaml")), &ring(&["old", "new"])), Some(both()), "{name}");
    }
    assert_eq!(tree.run("--recovery-private-key keys.pem a").0, Some(0));
    assert_eq!(tree.run("--recovery-private-key keys.pem --check a"), (Some(0), String::new(), String::new()));
}
