//! The verbs beside sealing: what each does to files, and what it asks of a controller.

use std::{collections::BTreeMap, fs, path::PathBuf};

use cli::Exit;
use crds::{Certificate, SealedSecret, seal, template::Environment, unseal};

use crate::{
    opens::{CERTIFICATE, Run, SCRIPT, Surroundings, opened, ring, run, run_bare},
    stub::{Request, Stub},
};

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata/new.key");

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn secret(name: &str, items: &str) -> String {
    format!("kind: Secret\nmetadata: {{name: {name}, namespace: shop}}\nstringData: {{{items}}}\n")
}

/// One sealed value for a scope, as `encryptedData` holds it.
fn value(plain: &str, scope: &str) -> String {
    run(&format!("--raw --name db -n shop --scope {scope}"), plain, SCRIPT).stdout
}

fn sealed_file(scope: &str) -> String {
    format!(
        "# the shop's\n---\napiVersion: v1\nkind: ConfigMap # beside it\nmetadata: {{name: other}}\n---\napiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata:\n  name: db # ours\n  namespace: shop\n  labels: {{mine: 'yes'}}\n  annotations:\n    sealedsecrets.bitnami.com/{scope}: \"true\"\nspec:\n  encryptedData:\n    # asked for by ops\n    old: {}\n  template:\n    metadata:\n      labels: {{team: \"a\"}}\n    data:\n      url: 'db://{{{{ .old }}}}'\n",
        value("before", scope)
    )
}

/// A controller that opens and seals as upstream's does, and loses what it loses.
pub fn controller(request: &Request) -> (u16, String) {
    let sealed: SealedSecret = match serde_json::from_str(&request.body) {
        Ok(sealed) => sealed,
        Err(_) => return (500, String::new()),
    };
    let attempt = unseal::open(&sealed, &ring(), None).outcome;
    let environment = Environment { rng: &mut rand::rng(), now: jiff::Timestamp::UNIX_EPOCH };
    let Ok(clear) = attempt.and_then(|opened| unseal::secret(&sealed, opened, environment)) else {
        return (if request.path.ends_with("/v1/verify") { 409 } else { 500 }, String::new());
    };
    if request.path.ends_with("/v1/verify") {
        return (200, String::new());
    }
    let certificate = Certificate::from_pem(&fs::read_to_string(CERTIFICATE).unwrap()).unwrap();
    let empty = BTreeMap::new();
    // Upstream takes the scope from the template: CVE-2026-22728.
    let scope = crds::Scope::from_annotations(clear.expose().metadata.annotations.as_ref().unwrap_or(&empty));
    let again = seal::secret(clear.expose(), scope, &certificate, &mut rand::rng()).unwrap();
    (200, serde_json::to_string(&again).unwrap())
}

fn ask(stub: &Stub, line: &str, stdin: &str) -> Run {
    run(&format!("--kubeconfig= --server {} {line}", stub.address), stdin, SCRIPT)
}

#[test]
fn merging_keeps_the_file_and_takes_the_scope_of_its_sealed_secret() {
    for scope in ["strict", "namespace-wide", "cluster-wide"] {
        let folder = Folder::new();
        let before = sealed_file(scope);
        let path = folder.file("sealed.yaml", &before);
        let plain = "kind: Secret\nmetadata:\n  name: any\n  labels: {team: b}\n  annotations: {note: new, sealedsecrets.bitnami.com/namespace-wide: 'true'}\nstringData: {new: after}\n";
        let done = run(&format!("--merge-into {}", path.display()), plain, SCRIPT);
        assert_eq!((done.exit, done.stdout.as_str(), done.stderr.as_str()), (Exit::Ok, "", ""), "{scope}");
        let after = fs::read_to_string(&path).unwrap();
        for line in before.lines().filter(|line| !line.contains("team")) {
            assert!(after.lines().any(|kept| kept == line), "{scope} lost {line}: {after}");
        }
        let mut document = crds::yaml::documents(&after).remove(1).value.unwrap();
        let template = document["spec"]["template"].clone();
        assert_eq!(template["metadata"]["labels"]["team"], "b");
        assert_eq!(template["metadata"]["annotations"], serde_json::json!({"note": "new"}));
        document["spec"]["template"]["data"].take();
        let values = opened(&document.to_string()).remove(0).1;
        assert_eq!((values["old"].as_slice(), values["new"].as_slice()), (&b"before"[..], &b"after"[..]), "{scope}");
    }
}

#[test]
fn merging_creates_what_the_file_lacks() {
    let head = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: db, namespace: shop}\n";
    let plain = "kind: Secret\nmetadata: {labels: {a: b}, annotations: {c: d}}\nstringData: {new: x}\n";
    for rest in [
        "spec: {encryptedData: {}}\n",
        "spec:\n  encryptedData: null\n",
        "spec: {template: {}}\n",
        "spec:\n  encryptedData: {}\n  template:\n    metadata: null\n",
        "",
    ] {
        let folder = Folder::new();
        let path = folder.file("sealed.yaml", format!("{head}{rest}"));
        let done = run(&format!("--merge-into {}", path.display()), plain, SCRIPT);
        assert_eq!((done.exit, done.stderr.as_str()), (Exit::Ok, ""), "{rest}");
        let (sealed, values) = opened(&fs::read_to_string(&path).unwrap()).remove(0);
        assert_eq!(values["new"], b"x");
        let metadata = sealed.spec.template.unwrap().metadata.unwrap();
        assert_eq!((&metadata["labels"]["a"], &metadata["annotations"]["c"]), (&"b".into(), &"d".into()));
    }
}

#[test]
fn merging_keeps_json_as_json_and_utf_16_as_utf_16() {
    let folder = Folder::new();
    let json = run("", &secret("db", "old: x"), SCRIPT).stdout;
    let path = folder.file("sealed.txt", &json);
    assert_eq!(
        run(&format!("--merge-into {} -o yaml", path.display()), &secret("db", "new: z"), SCRIPT).exit,
        Exit::Ok
    );
    let after = fs::read_to_string(&path).unwrap();
    let merged: SealedSecret = serde_json::from_str(&after).unwrap();
    assert_eq!(merged.spec.encrypted_data.len(), 2);
    assert!(after.starts_with("{\n  \"kind\": \"SealedSecret\",\n  \"apiVersion\""), "{after}");

    let wide = folder.file("wide.yaml", &*cli::text::encode(&sealed_file("strict"), cli::text::Encoding::Utf16Le));
    assert_eq!(run(&format!("--merge-into {}", wide.display()), &secret("db", "new: z"), SCRIPT).exit, Exit::Ok);
    let (text, encoding) = cli::text::decode(&fs::read(&wide).unwrap()).unwrap();
    assert_eq!(encoding, cli::text::Encoding::Utf16Le);
    assert!(text.contains("    new: Ag"), "{}", *text);
}

#[test]
fn merging_finds_the_sealed_secret_by_name_or_says_which_there_are() {
    let folder = Folder::new();
    let file = run("-o yaml", &format!("{}---\n{}", secret("db", "a: x"), secret("cache", "a: x")), SCRIPT).stdout;
    let path = folder.file("sealed.yaml", &file);
    let merge = |flags: &str, plain: &str| run(&format!("--merge-into {} {flags}", path.display()), plain, SCRIPT);
    let nameless = "kind: Secret\nmetadata: {}\nstringData: {b: z}\n";
    for (flags, plain, words) in [
        ("", nameless, "has several SealedSecrets: document 1, line 2 (shop/db); document 2,"),
        ("", &*secret("web", "b: z"), "has no SealedSecret \"web\", but document 1, line 2 (shop/db); document 2,"),
        (
            "--scope cluster-wide --name db",
            nameless,
            "is strict, so --scope cluster-wide would make items that do not open",
        ),
        ("-n bank --name db", nameless, "namespace mismatch"),
    ] {
        let refused = merge(flags, plain);
        assert_eq!(refused.exit, Exit::Failed);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert_eq!(fs::read_to_string(&path).unwrap(), file, "on any error the file is as it was");
    }
    assert_eq!(merge("", &format!("{}---\n{}", secret("cache", "b: z"), secret("db", "c: z"))).stderr, "");
    let all = opened(&fs::read_to_string(&path).unwrap());
    let keys = |index: usize| all[index].1.keys().cloned().collect::<Vec<_>>();
    assert_eq!((keys(0), keys(1)), (vec!["a".to_owned(), "c".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_failed_merge_leaves_the_file_as_it_was() {
    let folder = Folder::new();
    let file = sealed_file("strict");
    let path = folder.file("sealed.yaml", &file);
    let line = format!("--merge-into {}", path.display());
    let late = Surroundings { now: "2127-01-01T00:00:00Z", ..SCRIPT };
    for (plain, surroundings) in
        [("", SCRIPT), ("kind: [", SCRIPT), (&*secret("db", ""), SCRIPT), (&*secret("db", "a: b"), late)]
    {
        assert_eq!(run(&line, plain, surroundings).exit, Exit::Failed, "{plain}");
        assert_eq!(fs::read_to_string(&path).unwrap(), file);
    }
    for broken in ["", "kind: SealedSecret\n", "a: [", "kind: Secret\nmetadata: {name: db}\n"] {
        let path = folder.file("broken.yaml", broken);
        let refused = run(&format!("--merge-into {}", path.display()), &secret("db", "a: b"), SCRIPT);
        assert_eq!(refused.exit, Exit::Failed, "{broken}");
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn re_encrypting_in_place_changes_nothing_but_the_sealed_values() {
    for scope in ["strict", "namespace-wide", "cluster-wide"] {
        let stub = Stub::start(controller);
        let folder = Folder::new();
        let before = sealed_file(scope);
        let path = folder.file("sealed.yaml", &before);
        let done = ask(&stub, &format!("--re-encrypt -f {}", path.display()), "");
        assert_eq!((done.exit, done.stdout.as_str(), done.stderr.as_str()), (Exit::Ok, "", ""), "{scope}");
        let after = fs::read_to_string(&path).unwrap();
        let without =
            |text: &str| text.lines().filter(|line| !line.starts_with("    old: ")).collect::<Vec<_>>().join("\n");
        assert_ne!(after, before, "{scope}");
        assert_eq!(without(&after), without(&before), "{scope}");
        let mut document = crds::yaml::documents(&after).remove(1).value.unwrap();
        document["spec"]["template"]["data"].take();
        assert_eq!(opened(&document.to_string())[0].1["old"], b"before", "{scope}");
        let asked = stub.asked();
        assert!(
            !asked[0].body.contains("team") && !asked[0].body.contains("db://"),
            "the template is not its business"
        );
    }
}

#[test]
fn a_file_by_another_name_is_re_encrypted_in_place_too() {
    let stub = Stub::start(controller);
    let folder = Folder::new();
    let path = folder.file("app.yaml", "");
    let (dotted, link) = (folder.0.path().join("./././app.yaml"), folder.0.path().join("link.yaml"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    fs::create_dir(folder.0.path().join("sub")).unwrap();
    for (from, to) in [
        (&path, &path),
        (&path, &folder.0.path().join("sub/../app.yaml")),
        (&path, &link),
        (&link, &path),
        (&dotted, &link),
    ] {
        let before = sealed_file("strict");
        fs::write(&path, &before).unwrap();
        let done = ask(&stub, &format!("--re-encrypt -f {} -w {}", from.display(), to.display()), "");
        assert_eq!((done.exit, done.stdout.as_str(), done.stderr.as_str()), (Exit::Ok, "", ""));
        let after = fs::read_to_string(&path).unwrap();
        let mine = |text: &str| text.lines().filter(|line| !line.contains(" old: ")).collect::<Vec<_>>().join("\n");
        assert_eq!(mine(&after), mine(&before), "{} {}", from.display(), to.display());
        assert_ne!(after, before);
    }
    let other = folder.0.path().join("other.yaml");
    ask(&stub, &format!("--re-encrypt -f {} -w {}", path.display(), other.display()), "");
    assert!(!fs::read_to_string(&other).unwrap().contains("ConfigMap"), "elsewhere goes what was re-encrypted alone");
}

/// In the deprecated form, with the template that a Go client writes beside it, and the one thing that counts there.
fn whole(blob: &str) -> String {
    format!(
        "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata:\n  name: db\n  namespace: shop\nspec:\n  data: {blob}\n  template:\n    metadata:\n      creationTimestamp: null\n      annotations:\n        sealedsecrets.bitnami.com/skip-set-owner-references: \"true\"\n"
    )
}

#[test]
fn the_deprecated_form_taken_apart_keeps_type_and_labels() {
    let plain = r#"{"kind": "Secret", "metadata": {"labels": {"team": "a"}}, "type": "kubernetes.io/basic-auth", "data": {"user": "eA=="}}"#;
    let stub = Stub::start(controller);
    let folder = Folder::new();
    let path = folder.file("old.yaml", "").display().to_string();
    let by_controller = format!("--kubeconfig= --server {} --re-encrypt -f {path}", stub.address);
    let here = format!("reseal --recovery-private-key {KEY} --cert {CERTIFICATE} {path}");
    let piped = format!("--kubeconfig= --server {} --re-encrypt -o yaml", stub.address);
    for line in [by_controller, here, piped] {
        let before = whole(&value(plain, "strict"));
        fs::write(&path, &before).unwrap();
        let done = run_bare(&line, &before, SCRIPT);
        assert_eq!((done.exit, done.stderr.as_str()), (Exit::Ok, ""), "{line}");
        let text = if line.contains("-o yaml") { done.stdout } else { fs::read_to_string(&path).unwrap() };
        let (sealed, values) = opened(&text).remove(0);
        assert_eq!((values["user"].as_slice(), &sealed.spec.data), (&b"x"[..], &None), "{text}");
        let template = sealed.spec.template.unwrap();
        assert_eq!(template.type_.as_deref(), Some("kubernetes.io/basic-auth"), "{text}");
        let metadata = template.metadata.unwrap();
        assert_eq!(metadata["labels"]["team"], "a", "{text}");
        assert_eq!(metadata["annotations"]["sealedsecrets.bitnami.com/skip-set-owner-references"], "true", "{text}");
    }
}

#[test]
fn what_a_server_wrote_does_not_stay_in_a_re_encrypted_file() {
    let stub = Stub::start(controller);
    let folder = Folder::new();
    let got = sealed_file("strict").replace(
        "  name: db # ours\n",
        "  name: db # ours\n  uid: 1-2\n  resourceVersion: \"7\"\n  generation: 3\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n",
    ) + "status:\n  observedGeneration: 3\n";
    let path = folder.file("got.yaml", got);
    assert_eq!(ask(&stub, &format!("--re-encrypt -f {}", path.display()), "").stderr, "");
    let after = fs::read_to_string(&path).unwrap();
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "status", "observedGeneration"] {
        assert!(!after.contains(field), "{after}");
    }
    let piped = ask(&stub, "--rotate -o yaml", &fs::read_to_string(&path).unwrap()).stdout;
    assert!(piped.contains("mine: 'yes'") || piped.contains("mine: \"yes\""), "its own labels stay: {piped}");
    assert!(piped.contains("url: "), "its template stays: {piped}");
}

#[test]
fn an_answer_that_is_not_the_same_items_for_the_same_place_is_refused() {
    let swap = |from: &'static str, to: &'static str| {
        move |request: &Request| {
            let (status, body) = controller(request);
            (status, body.replace(from, to))
        }
    };
    for (from, to, words) in [
        ("\"old\"", "\"new\"", "the controller answered with other items: new"),
        ("\"name\":\"db\"", "\"name\":\"dc\"", "the controller sealed for strict shop/dc, which is another place"),
        ("SealedSecret", "Secret", "the controller's answer is not a SealedSecret"),
    ] {
        let stub = Stub::start(swap(from, to));
        let folder = Folder::new();
        let before = sealed_file("strict");
        let path = folder.file("sealed.yaml", &before);
        let refused = ask(&stub, &format!("--re-encrypt -f {}", path.display()), "");
        assert_eq!(refused.exit, Exit::Failed);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
}

/// Upstream's controller would answer with a file that nobody else opens.
#[test]
fn re_encrypting_locks_no_further_recipient_out() {
    let second = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata/small.crt");
    let flags = format!("--cert {second} -o yaml");
    let sealed = run(&flags, &secret("db", "a: x, b: z"), SCRIPT);
    assert_eq!(sealed.exit, Exit::Ok, "{}", sealed.stderr);
    let before = sealed.stdout;
    let folder = Folder::new();
    let path = folder.file("sealed.yaml", &before);
    let stub = Stub::start(controller);
    let refused = ask(&stub, &format!("--re-encrypt -f {}", path.display()), "");
    let words = "does not know of further recipients and would lock them out of a, b: seal again with every --cert";
    assert!(refused.exit == Exit::Failed && refused.stderr.contains(words), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert!(stub.asked()[0].body.contains("sealedsecrets.bitnami.com/recipients"), "it was told of them");
}

#[test]
fn a_broken_file_is_neither_re_encrypted_nor_emptied_nor_half_sent() {
    let stub = Stub::start(controller);
    let folder = Folder::new();
    for broken in
        [format!("{}---\nkind: [\n", sealed_file("strict")), String::new(), secret("db", "a: b"), "a: b\n".to_owned()]
    {
        let path = folder.file("broken.yaml", &broken);
        assert_eq!(ask(&stub, &format!("--re-encrypt -f {}", path.display()), "").exit, Exit::Failed, "{broken}");
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
    assert!(stub.asked().is_empty());
    let refusing = Stub::start(|_| (500, "{\"error\": \"no key\"}".to_owned()));
    let path = folder.file("sealed.yaml", sealed_file("strict"));
    let refused = ask(&refusing, &format!("--re-encrypt -f {}", path.display()), "");
    assert_eq!(refused.stderr, "error: cannot re-encrypt secret: no key\n");
    assert_eq!(fs::read_to_string(&path).unwrap().len(), sealed_file("strict").len());
}

#[test]
fn validating_says_yes_silently_and_no_with_the_name() {
    let stub = Stub::start(controller);
    let good = run("", &secret("db", "a: b"), SCRIPT).stdout;
    let yes = ask(&stub, "--validate", &good);
    assert_eq!((yes.exit, yes.stdout.as_str(), yes.stderr.as_str()), (Exit::Ok, "", ""));
    let moved = ask(&stub, "--validate", &good.replace("\"db\"", "\"dc\""));
    assert_eq!((moved.exit, moved.stderr.as_str()), (Exit::Failed, "error: unable to decrypt sealed secret: dc\n"));
    for nothing in
        ["", "\n---\n", "kind: [", "just text", &secret("db", "a: b"), "kind: ConfigMap\n", &format!("{good}kind: [")]
    {
        let no = ask(&stub, "--validate", nothing);
        assert_eq!((no.exit, no.stdout.as_str()), (Exit::Failed, ""), "{nothing}");
    }
    let failing = Stub::start(|_| (500, String::new()));
    let broken = ask(&failing, "--validate", &good).stderr;
    assert_eq!(broken, "error: cannot validate sealed secret: the server answered 500 Internal Server Error\n");
}

#[test]
fn a_controller_that_limits_is_asked_again() {
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let stub = Stub::start(move |request| match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => (429, String::new()),
        _ => controller(request),
    });
    let good = run("", &secret("db", "a: b"), SCRIPT).stdout;
    assert_eq!(ask(&stub, "--validate", &good).stderr, "");
    assert_eq!(stub.asked().len(), 2);
}

#[test]
fn who_asks_and_for_how_long_is_what_the_flags_say() {
    let stub = Stub::start(controller);
    let good = run("", &secret("db", "a: b"), SCRIPT).stdout;
    let line = "--validate --token t0ken --as deploy --as-group ops --as-group dev --as-uid 7 --controller-name c --controller-namespace n";
    assert_eq!(ask(&stub, line, &good).stderr, "");
    let request = stub.asked().remove(0);
    assert_eq!(request.path, "/api/v1/namespaces/n/services/http:c:http/proxy/v1/verify");
    for header in [
        "authorization: bearer t0ken",
        "impersonate-user: deploy",
        "impersonate-group: ops",
        "impersonate-group: dev",
        "impersonate-uid: 7",
    ] {
        assert!(request.headers.iter().any(|have| have == header), "{header}: {:?}", request.headers);
    }
    assert_eq!(ask(&stub, "--validate --username me --password p", &good).stderr, "");
    assert!(stub.asked()[1].headers.iter().any(|have| have.starts_with("authorization: basic ")));

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let late =
        run(&format!("--kubeconfig= --server http://{address} --request-timeout 20ms --validate"), &good, SCRIPT);
    assert!(late.stderr.contains("no answer within 0.02 s (--request-timeout)"), "{}", late.stderr);
}

#[test]
fn recovery_opens_every_document_without_a_cluster() {
    let stream = run("-o yaml", &format!("{}---\n{}", secret("db", "a: b"), secret("cache", "c: d")), SCRIPT).stdout;
    let line = format!("--recovery-unseal --recovery-private-key {KEY} --kubeconfig /nonexistent/bad");
    let done = run(&line, &stream, SCRIPT);
    assert_eq!((done.exit, done.stderr.as_str()), (Exit::Ok, ""));
    let documents: Vec<_> = crds::yaml::documents(&done.stdout).into_iter().map(|it| it.value.unwrap()).collect();
    assert_eq!((&documents[0]["data"]["a"], &documents[1]["data"]["c"]), (&"Yg==".into(), &"ZA==".into()));
    assert!(
        done.stdout
            .starts_with("{\n  \"kind\": \"Secret\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"name\"")
    );
}

#[test]
fn recovery_says_which_items_stay_closed_and_why() {
    let sealed = run("", &secret("db", "a: b, c: d"), SCRIPT).stdout;
    let none = run("--recovery-unseal", &sealed, SCRIPT);
    assert_eq!(none.exit, Exit::Failed);
    assert_eq!(
        none.stderr,
        "error: document 1, line 1 (shop/db): no key could decrypt secret (a, c)\nName the private keys with --recovery-private-key\n"
    );
    let line = format!("--recovery-unseal --recovery-private-key {KEY}");
    let moved = run(
        &line,
        &sealed.replace(
            "\"namespace\": \"shop\"",
            "\"namespace\": \"shop\", \"annotations\": {\"sealedsecrets.bitnami.com/cluster-wide\": \"true\"}",
        ),
        SCRIPT,
    );
    assert!(moved.stderr.contains("no key could decrypt secret (a, c): was sealed for"), "{}", moved.stderr);
    assert_eq!(moved.stdout, "");
}

#[test]
fn a_recovered_secret_is_for_its_owner_only() {
    let folder = Folder::new();
    let path = folder.0.path().join("clear.yaml");
    let sealed = run("", &secret("db", "a: b"), SCRIPT).stdout;
    let done = run(&format!("--recovery-unseal --recovery-private-key {KEY} -w {}", path.display()), &sealed, SCRIPT);
    assert_eq!((done.exit, done.stdout.as_str()), (Exit::Ok, ""));
    assert!(fs::read_to_string(&path).unwrap().contains("a: Yg=="));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn text_of_windows_is_read_wherever_text_is_read() {
    use cli::text::Encoding::{Utf8Marked, Utf16Be, Utf16Le};
    let folder = Folder::new();
    for encoding in [Utf8Marked, Utf16Le, Utf16Be] {
        let file =
            |name: &str, text: &str| folder.file(name, &*cli::text::encode(text, encoding)).display().to_string();
        let (plain, certificate, key) = (
            file("secret.yaml", &secret("db", "a: b")),
            file("cert.pem", &fs::read_to_string(CERTIFICATE).unwrap()),
            file("key.pem", &fs::read_to_string(KEY).unwrap()),
        );
        let sealed = run(&format!("--cert {certificate} -f {plain}"), "", SCRIPT);
        assert_eq!((sealed.exit, sealed.stderr.as_str()), (Exit::Ok, ""), "{encoding:?}");
        let sealed = file("sealed.json", &sealed.stdout);
        let done = run(&format!("--recovery-unseal --recovery-private-key {key} -f {sealed}"), "", SCRIPT);
        assert!(done.stdout.contains("\"a\": \"Yg==\""), "{encoding:?}: {}", done.stderr);
    }
}

#[test]
fn dev_stdin_is_standard_input() {
    assert_eq!(run("-f /dev/stdin", &secret("db", "a: b"), SCRIPT).exit, Exit::Ok);
    let raw = run("--raw --name db -n shop --from-file x=/dev/stdin", "value", SCRIPT);
    assert_eq!((raw.exit, raw.stdout.len()), (Exit::Ok, 716));
}
