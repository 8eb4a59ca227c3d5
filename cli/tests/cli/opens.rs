//! Drives `cli::run` in process, and opens with `crds` what comes out.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    sync::Arc,
    thread,
};

use cli::{Exit, Io};
use crds::{KeyRing, PrivateKey, Scope, SealedSecret, key_ring::RingKey};
use jiff::Timestamp;

pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata/new.crt");
const SECRET: &str = include_str!("../../../crds/testdata/secret.yaml");

/// One run: exit code, stdout, stderr.
pub struct Run {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Clone, Copy)]
pub struct Surroundings {
    pub terminal: bool,
    pub now: &'static str,
}

pub const SCRIPT: Surroundings = Surroundings { terminal: false, now: "2026-12-01T00:00:00Z" };

pub fn run(line: &str, stdin: &str, surroundings: Surroundings) -> Run {
    run_bare(&format!("--cert {CERTIFICATE} {line}"), stdin, surroundings)
}

/// As [`run`], but with no certificate named.
pub fn run_bare(line: &str, stdin: &str, surroundings: Surroundings) -> Run {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut io = Io {
        stdin: Box::new(stdin.as_bytes()),
        stdout: Box::new(&mut stdout),
        stderr: Box::new(&mut stderr),
        stdin_is_terminal: surroundings.terminal,
        stderr_is_read: surroundings.terminal,
        colour: false,
        colour_stdout: false,
        width: None,
        now: surroundings.now.parse::<Timestamp>().unwrap(),
    };
    let words = ["seal"].into_iter().chain(line.split_whitespace());
    let exit = cli::run(words.map(Into::into), &mut io);
    drop(io);
    Run { exit, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

pub fn ring() -> KeyRing {
    let key = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata/new.key")).unwrap();
    let private = Arc::new(PrivateKey::from_pem(&key).unwrap());
    [RingKey { private, certificate: None, certificate_pem: "".into(), born: Timestamp::UNIX_EPOCH }]
        .into_iter()
        .collect()
}

/// The values of every document of a stream.
pub fn opened(stream: &str) -> Vec<(SealedSecret, BTreeMap<String, Vec<u8>>)> {
    crds::yaml::documents(stream)
        .into_iter()
        .map(|document| {
            let sealed: SealedSecret = serde_json::from_value(document.value.unwrap()).unwrap();
            let unsealed = crds::unseal::open(&sealed, &ring(), None).outcome.unwrap();
            let values = unsealed.values.iter().map(|(item, value)| (item.clone(), value.expose().to_vec())).collect();
            (sealed, values)
        })
        .collect()
}

#[test]
fn what_is_sealed_opens_in_every_scope_and_format() {
    for format in ["json", "yaml"] {
        for scope in ["strict", "namespace-wide", "cluster-wide"] {
            let done = run(&format!("--scope {scope} -o {format}"), SECRET, SCRIPT);
            assert_eq!((done.exit, done.stderr.as_str()), (Exit::Ok, ""));
            let (sealed, values) = opened(&done.stdout).remove(0);
            assert_eq!(
                Scope::from_annotations(sealed.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new())).as_str(),
                scope
            );
            assert_eq!(values["password"], "pässword".as_bytes());
            assert_eq!(values["binary"], [0, 0xff, 0x80, 0x7f, 0, 1, 2, 0xff, 0xfe]);
            assert_eq!((values["one"].as_slice(), values["empty"].as_slice()), (&b"x"[..], &b""[..]));
        }
    }
}

#[test]
fn a_stream_comes_out_as_a_stream() {
    let stream = format!(
        "{SECRET}---\nkind: List\nitems:\n- kind: Secret\n  metadata: {{name: b, namespace: shop}}\n  stringData: {{a: b}}\n  data: {{a: YQ==}}\n"
    );
    let all = opened(&run("-o yaml", &stream, SCRIPT).stdout);
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].0.metadata.name.as_deref(), Some("b"));
    assert_eq!(all[1].1["a"], b"b", "stringData counts before data");
}

#[test]
fn a_raw_value_fits_under_encrypted_data() {
    for scope in ["strict", "namespace-wide", "cluster-wide"] {
        let value = run(&format!("--raw --name db -n shop --scope {scope}"), "p\n", SCRIPT).stdout;
        let annotation = format!("sealedsecrets.bitnami.com/{scope}");
        let sealed = format!(
            "{{kind: SealedSecret, apiVersion: bitnami.com/v1alpha1, metadata: {{name: db, namespace: shop, annotations: {{{annotation}: 'true'}}}}, spec: {{encryptedData: {{p: {value}}}}}}}"
        );
        assert_eq!(opened(&sealed)[0].1["p"], b"p\n", "line ends are part of the value");
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    let late = Surroundings { now: "2127-01-01T00:00:00Z", ..SCRIPT };
    for line in ["", "--raw --name db -n shop"] {
        let refused = run(line, SECRET, late);
        assert_eq!(refused.exit, Exit::Failed);
        assert_eq!(
            refused.stderr,
            "error: failed to encrypt using an expired certificate on October 27, 2126\nFetch the controller's newest one with --fetch-cert\n"
        );
        assert_eq!(refused.stdout, "");
    }
    assert_eq!(run("--fetch-cert", "", late).exit, Exit::Ok, "looking at it is allowed");
}

#[test]
fn a_person_is_told_what_a_script_is_not() {
    let person = Surroundings { terminal: true, ..SCRIPT };
    let told = run("", SECRET, person).stderr;
    assert!(
        told.starts_with("(tty detected: expecting json/yaml k8s resource in stdin)\ncertificate SHA256:"),
        "{told}"
    );
    assert!(told.ends_with("new.crt, valid until October 27, 2126\n"), "{told}");
    assert!(
        run("--raw --name db -n shop", "p", person)
            .stderr
            .contains("(tty detected: expecting a secret to encrypt in stdin)")
    );
    assert!(!run("--fetch-cert", "", person).stderr.contains("tty detected"));
    assert_eq!(run("", SECRET, SCRIPT).stderr, "");
}

#[test]
fn a_namespace_that_nobody_named_is_said() {
    let line = concat!("-o yaml --kubeconfig ", env!("CARGO_MANIFEST_DIR"), "/tests/cmd/kubeconfig.yaml");
    let homeless = "kind: Secret\nmetadata: {name: db}\nstringData: {a: b}\n";
    let words = "sealing for the namespace shop of the current context; --namespace names another\n";
    let person = Surroundings { terminal: true, ..SCRIPT };
    let told = run(line, homeless, person);
    assert!(told.stderr.contains(words), "{}", told.stderr);
    assert_eq!(opened(&told.stdout)[0].0.metadata.namespace.as_deref(), Some("shop"));
    assert!(!run(line, SECRET, person).stderr.contains("sealing for"));
}

#[test]
fn a_certificate_in_another_form_than_pem_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let der = folder.path().join("cert.der");
    fs::write(&der, b"\x30\x82\x04\xe3\xff").unwrap();
    let mut seal = Command::new(env!("CARGO_BIN_EXE_seal"));
    let refused = seal.env_clear().arg("--cert").arg(&der).args(["--raw", "--scope", "cluster-wide"]).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("data does not contain any valid RSA or ECDSA certificates"), "{stderr}");
}

#[test]
fn a_certificate_comes_from_a_web_server_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        for status in ["200 OK", "404 Not Found"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            let body = fs::read_to_string(CERTIFICATE).unwrap();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    let url = format!("http://user:hunter2@{address}/cert.pem");
    let secret = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata/secret.yaml");
    let mut seal = Command::new(env!("CARGO_BIN_EXE_seal"));
    seal.env_clear().args(["--cert", &url, "-f", secret]); // no proxy of the developer's
    let fetched = seal.output().unwrap();
    assert_eq!(opened(&String::from_utf8(fetched.stdout).unwrap())[0].1["one"], b"x");
    let refused = seal.output().unwrap();
    let words = format!("error: cannot fetch \"http://{address}/cert.pem\": 404 Not Found\n");
    assert_eq!((String::from_utf8(refused.stderr).unwrap(), refused.status.code()), (words, Some(1)));
    assert!(refused.stdout.is_empty());
    server.join().unwrap();
}

#[test]
fn a_file_is_written_only_when_all_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sealed.yaml");
    let line = format!("-w {}", file.display());
    assert_eq!(run(&line, "kind: Secret\n", SCRIPT).exit, Exit::Failed);
    assert!(!file.exists());
    let done = run(&line, SECRET, SCRIPT);
    assert_eq!((done.exit, done.stdout.as_str()), (Exit::Ok, ""));
    let sealed = fs::read_to_string(&file).unwrap();
    assert!(sealed.starts_with("---\napiVersion: "), "the extension decides the format");
    assert_eq!(run(&line, &format!("{SECRET}---\nkind: Pod\n"), SCRIPT).exit, Exit::Failed);
    assert_eq!(fs::read_to_string(&file).unwrap(), sealed);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}
