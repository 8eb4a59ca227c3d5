//! The same command line to the real kubeseal and to ours under its name: exit code, stdout and message must agree,
//! unless upstream has a fault there that we mend, and then the case says what it is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use crds::{
    Certificate, KeyRing, PrivateKey, Scope, SealedSecret, key::KeyRequest, key_ring::RingKey, seal,
    template::Environment, unseal,
};
use harness::{
    Cluster, Output,
    background::{Background, listen},
    binaries, command, eventually,
    publish::PublishedPort,
    tools::Tool,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::world::{SOON, World};

/// What the two must agree on.
#[derive(Clone, Copy)]
enum Agree {
    /// All of it, and the result: sealed values and the nulls that upstream's has are left out of account.
    Fully,
    /// A refusal with these words in it.
    Refusal(&'static str),
    /// Nothing: upstream ends with this code, ours with that one, and these words.
    Mended { upstream: i32, ours: i32, words: &'static str },
}
use Agree::{Fully, Mended, Refusal};

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\n  namespace: shop\n  labels: {app: shop}\n  annotations: {note: kept}\ntype: example.com/t\nimmutable: true\nstringData: {password: hunter2}\ndata: {one: eA==}\n";
const HOMELESS: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {a: b}\n";
const NUMBERS: &str = "kind: Secret\nmetadata:\n  name: 12\n  namespace: shop\n  labels: {tier: 1}\n  annotations: {sealedsecrets.bitnami.com/cluster-wide: true}\nstringData: {port: 5432, rate: 0.5, debug: false}\n";
const FETCHED: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\n  namespace: shop\n  uid: 1-2\n  resourceVersion: '7'\n  generation: 2\n  creationTimestamp: '2026-01-01T00:00:00Z'\n  ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: u}]\n  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}', kept: x}\ndata: {one: eA==}\n";

/// What a case may name at the end of a word.
const FILES: [&str; 5] = ["CERT", "EXPIRED", "KEY", "LIST", "SECRET"];

const OFFLINE: &[(&str, &str, Agree)] = &[
    ("--version", "", Refusal("")),
    ("--cert CERT", SECRET, Fully),
    ("--cert CERT -o yaml", SECRET, Fully),
    ("--cert CERT --format=JSON", SECRET, Fully),
    ("--cert CERT", FETCHED, Fully),
    ("--cert CERT --scope strict", SECRET, Fully),
    ("--cert CERT --scope namespace-wide", SECRET, Fully),
    ("--cert CERT --scope cluster-wide -o yaml", SECRET, Fully),
    ("--cert CERT --scope cluster-wide", HOMELESS, Fully),
    ("--cert CERT -n shop", HOMELESS, Fully),
    ("--cert CERT --name other", SECRET, Fully),
    ("--cert CERT --kubeconfig /nonexistent", SECRET, Fully),
    ("--cert CERT stray words", SECRET, Fully),
    ("--cert CERT --logtostderr -v 0 --v=0", SECRET, Fully),
    ("--cert CERT -n shop", "{\"metadata\": {\"name\": \"testSecret\"}, \"data\": {\"a\": \"eA==\"}}", Fully),
    ("--cert CERT --allow-empty-data", "kind: Secret\nmetadata: {name: db, namespace: shop}\n", Fully),
    ("--cert CERT -f SECRET", "", Fully),
    ("--cert CERT --scope= --name= --from-file= --recovery-private-key=", SECRET, Fully),
    ("--cert CERT --scope cluster-wide -n bank", SECRET, Fully),
    ("--cert CERT", NUMBERS, Fully),
    (
        "--cert CERT -o yaml",
        "kind: Secret\nmetadata: {name: db, namespace: shop}\ntype: ''\nstringData: {a: b}\n",
        Fully,
    ),
    ("--cert file://CERT", SECRET, Fully),
    (
        "--cert CERT",
        "kind: Secret\nmetadata: {name: db, namespace: shop}\n",
        Refusal(
            "secret.data is empty in input Secret, assuming this is an error and aborting. To work with empty data, --allow-empty-data can be used",
        ),
    ),
    (
        "--cert CERT",
        "kind: Secret\nmetadata: {namespace: shop}\nstringData: {a: b}\n",
        Refusal("missing metadata.name in input Secret"),
    ),
    // Upstream says by now no more than "secret must declare a namespace".
    ("--cert CERT", HOMELESS, Mended { upstream: 1, ours: 1, words: "when no kube config is available" }),
    ("--cert CERT -o xml", SECRET, Refusal("unsupported output format: xml")),
    ("--cert /nonexistent", SECRET, Refusal("open /nonexistent: no such file or directory")),
    ("--cert KEY", SECRET, Refusal("data does not contain any valid RSA or ECDSA certificates")),
    ("--cert EXPIRED", SECRET, Refusal("failed to encrypt using an expired certificate on January 2, 2006")),
    (
        "--cert EXPIRED --raw --scope cluster-wide",
        "x",
        Refusal("failed to encrypt using an expired certificate on January 2, 2006"),
    ),
    ("--cert http://127.0.0.1:1/cert.pem", SECRET, Refusal("http://127.0.0.1:1/cert.pem")),
    ("--cert CERT --fetch-cert", "", Fully),
    ("--cert EXPIRED --fetch-cert", "", Fully),
    ("--cert CERT --fetch-cert --raw --merge-into /nonexistent", "", Fully),
    ("--cert CERT --raw --name db -n shop", "value", Fully),
    ("--cert CERT --raw --scope namespace-wide -n shop", "value", Fully),
    ("--cert CERT --raw --scope cluster-wide", "", Fully),
    ("--cert CERT --raw --scope cluster-wide --from-file CERT", "", Fully),
    ("--cert CERT --raw --scope cluster-wide --from-file key=CERT", "", Fully),
    ("--cert CERT --raw=false", SECRET, Fully),
    ("--cert CERT --raw -n shop", "x", Refusal("must provide the --name flag with --raw and --scope strict")),
    ("--cert CERT --raw --name db", "x", Refusal("")),
    ("--cert CERT --from-file CERT", SECRET, Refusal("--from-file requires --raw")),
    (
        "--cert CERT --raw --name db -n shop --from-file CERT --from-file KEY",
        "",
        Refusal("must provide only one --from-file when encrypting a single item with --raw"),
    ),
    (
        "--cert CERT --raw --name db -n shop --from-file /nonexistent",
        "",
        Refusal("open /nonexistent: no such file or directory"),
    ),
    ("--cert CERT --merge-into /nonexistent", SECRET, Refusal("open /nonexistent: no such file or directory")),
    ("--bogus", "", Refusal("")),
    ("--scope wide", SECRET, Refusal("")),
    ("--raw=maybe", SECRET, Refusal("")),
    ("-o", SECRET, Refusal("")),
    ("-v x", SECRET, Refusal("")),
    ("--recovery-unseal --recovery-private-key KEY", "SEALED", Fully),
    ("--recovery-unseal --recovery-private-key LIST -o yaml", "SEALED", Fully),
    ("--recovery-unseal --recovery-private-key KEY,LIST --validate --kubeconfig /nonexistent", "SEALED", Fully),
    // Upstream names the items in any order.
    ("--recovery-unseal", "SEALED", Refusal("no key could decrypt secret (")),
    (
        "--recovery-unseal --recovery-private-key /nonexistent",
        "SEALED",
        Refusal("open /nonexistent: no such file or directory"),
    ),
    ("--recovery-unseal --recovery-private-key CERT", "SEALED", Refusal("")),
    ("--context none --fetch-cert", "", Refusal("context \"none\" does not exist")),
    ("--cluster none --fetch-cert", "", Refusal("cluster \"none\" does not exist")),
    ("--user none --fetch-cert", "", Refusal("auth info \"none\" does not exist")),
    (
        "--server https://127.0.0.1:1 --request-timeout soon --fetch-cert",
        "",
        Refusal(
            "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 1s | 2m | 3h)",
        ),
    ),
    (
        "--server http://127.0.0.1:1 --fetch-cert",
        "",
        Refusal("Please, use the flag --controller-name and --controller-namespace"),
    ),
    ("--server http://127.0.0.1:1 --validate", "SEALED", Refusal("cannot get sealed secret service")),
    ("--server http://127.0.0.1:1 --re-encrypt", "SEALED", Refusal("cannot get sealed secret service")),
    ("--cert CERT -v 3", SECRET, Mended { upstream: 0, ours: 0, words: "certificate SHA256:" }),
    ("--cert CERT", "", Refusal("no secrets found. Ensure the input is valid and UTF-8 encoded")),
    ("--cert CERT -f /nonexistent", "", Refusal("Could not read file specified with --secret-file")),
    (
        "--cert CERT -n bank",
        SECRET,
        Refusal("namespace mismatch: input secret is in namespace \"shop\" but \"bank\" was specified"),
    ),
    // What upstream does silently, or not at all.
    (
        "--cert CERT",
        "kind: ConfigMap\nmetadata: {name: a, namespace: b}\ndata: {a: eHk=}\n",
        Mended { upstream: 0, ours: 1, words: "expected kind Secret, found ConfigMap" },
    ),
    (
        "--cert CERT",
        "kind: Secret\nmetadata: {name: a, namespace: b}\nstringData: {a: b}\n---\nkind: Secret\nmetadata: [\n",
        Mended { upstream: 0, ours: 1, words: "document 2, line 6" },
    ),
    (
        "--cert CERT",
        "kind: Secret\nmetadata: {name: a, namespace: b}\nstringData: {pin: 0042}\n",
        Mended { upstream: 0, ours: 1, words: "stringData.pin must be a string: put it in quotes" },
    ),
    (
        "--cert CERT",
        "kind: Secret\nmetadata: {name: a, namespace: b}\ndata: {a: eA==}\nstringdata: {a: b}\n",
        Mended { upstream: 0, ours: 1, words: "stringdata must be spelled stringData" },
    ),
    ("--cert CERT", "SEALED", Mended { upstream: 1, ours: 1, words: "--re-encrypt seals it anew" }),
    ("--recovery-unseal --recovery-private-key KEY", "SEALED TWICE", Mended { upstream: 1, ours: 0, words: "" }),
];

const ONLINE: &[(&str, &str, Agree)] = &[
    ("--fetch-cert", "", Fully),
    ("--fetch-cert --request-timeout 20s --disable-compression", "", Fully),
    ("--fetch-cert --controller-name none", "", Refusal("services \"none\" not found")),
    (
        "--fetch-cert --as nobody",
        "",
        Refusal(
            "cannot get sealed secret service: services \"parity\" is forbidden: User \"nobody\" cannot get resource \"services\"",
        ),
    ),
    ("--fetch-cert --as nobody --as-group system:masters", "", Fully),
    ("--fetch-cert --context none", "", Refusal("context \"none\" does not exist")),
    ("", SECRET, Fully),
    ("", HOMELESS, Fully),
    ("--raw --name db", "value", Fully),
    ("--validate", "SEALED", Fully),
    ("--validate", "SEALED TWICE", Fully),
    ("--validate", "MOVED", Refusal("unable to decrypt sealed secret: dc")),
    ("--validate --re-encrypt --fetch-cert", "SEALED", Fully),
    ("--re-encrypt", "SEALED", Fully),
    ("--rotate -o yaml", "SEALED", Mended { upstream: 0, ours: 0, words: "please use --re-encrypt instead" }),
    ("--re-encrypt", "SEALED TWICE", Fully),
    ("--re-encrypt", "MOVED", Refusal("cannot re-encrypt secret")),
    ("--validate", "", Mended { upstream: 0, ours: 1, words: "no sealed secrets found" }),
    ("--validate", "kind: [\n", Mended { upstream: 0, ours: 1, words: "document 1, line 1" }),
    ("--re-encrypt", "kind: [\n", Mended { upstream: 0, ours: 1, words: "document 1, line 1" }),
];

/// Both programs, and the files that the cases name.
struct Bench {
    folder: tempfile::TempDir,
    ours: PathBuf,
    theirs: PathBuf,
    sealed: String,
}

impl Bench {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ours = folder.path().join("kubeseal");
        std::os::unix::fs::symlink(binaries::seal().await?, &ours)?;
        let theirs = Tool::Kubeseal.path().await?;
        let secret = serde_json::json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "k"}, "data": {
            "tls.key": crds::base64::encode(testdata("new.key")?.as_bytes()),
            "tls.crt": crds::base64::encode(testdata("new.crt")?.as_bytes()),
        }});
        let expired = KeyRequest {
            bits: 2048,
            common_name: String::new(),
            not_before: "2006-01-01T12:00:00Z".parse::<Timestamp>()?,
            lifetime: SignedDuration::from_hours(24),
        };
        for (name, content) in [
            ("CERT", testdata("new.crt")?),
            ("KEY", testdata("new.key")?),
            ("SECRET", SECRET.to_owned()),
            ("LIST", serde_json::json!({"kind": "List", "apiVersion": "v1", "items": [secret]}).to_string()),
            ("EXPIRED", crds::key::mint(&expired, &mut rand::rng())?.certificate_pem),
        ] {
            std::fs::write(folder.path().join(name), content)?;
        }
        let mut bench = Self { folder, ours, theirs, sealed: String::new() };
        bench.sealed = bench.run(&bench.theirs, "--cert CERT", SECRET).await?.success()?;
        Ok(bench)
    }

    fn stdin(&self, name: &str) -> String {
        match name {
            "SEALED" => self.sealed.clone(),
            "SEALED TWICE" => self.sealed.repeat(2),
            "MOVED" => self.sealed.replace("\"name\": \"db\"", "\"name\": \"dc\""),
            text => text.to_owned(),
        }
    }

    async fn run(&self, program: &Path, line: &str, stdin: &str) -> Result<Output> {
        let file = |part: &str| match FILES.iter().find_map(|name| Some((part.strip_suffix(name)?, name))) {
            Some((before, name)) => format!("{before}{}", self.folder.path().join(name).display()),
            None => part.to_owned(),
        };
        let word = |word: &str| word.split(',').map(file).collect::<Vec<_>>().join(",");
        let home = tempfile::tempdir()?;
        let mut command = command::clean(program, home.path());
        command.current_dir(home.path()).args(line.split_whitespace().map(word));
        let run = command::run(&mut command, stdin.as_bytes());
        tokio::time::timeout(SOON, run).await.with_context(|| format!("{} {line} hangs", program.display()))?
    }

    async fn compare(&self, line: &str, stdin: &str, agree: Agree) -> Result<()> {
        let stdin = self.stdin(stdin);
        let theirs = self.run(&self.theirs, line, &stdin).await?;
        let ours = self.run(&self.ours, line, &stdin).await?;
        let short = |output: &Output| format!("{}, stderr: {}", output.status, output.stderr.trim());
        judge(&theirs, &ours, agree).with_context(|| {
            let start = stdin.lines().take(3).collect::<Vec<_>>().join(" | ");
            format!("kubeseal {line} <<< {start}\n  theirs: {}\n  ours: {}\n ", short(&theirs), short(&ours))
        })
    }
}

fn judge(theirs: &Output, ours: &Output, agree: Agree) -> Result<()> {
    let codes = (theirs.status.code(), ours.status.code());
    match agree {
        Fully => {
            ensure!(codes == (Some(0), Some(0)), "exit codes");
            ensure!(theirs.stderr == ours.stderr, "stderr");
            ensure!(
                shape(&theirs.stdout) == shape(&ours.stdout),
                "stdout:\n{}\n{}",
                shape(&theirs.stdout),
                shape(&ours.stdout)
            );
        }
        Refusal(words) => {
            ensure!(codes.0 == codes.1, "exit codes");
            ensure!(theirs.stderr.contains(words) || theirs.stdout.contains(words), "theirs does not say {words:?}");
            ensure!(ours.stderr.contains(words) || ours.stdout.contains(words), "ours does not say {words:?}");
        }
        Mended { upstream, ours: mended, words } => {
            ensure!(codes == (Some(upstream), Some(mended)), "exit codes");
            ensure!(ours.stderr.contains(words), "ours does not say {words:?}");
        }
    }
    Ok(())
}

/// A result without what differs from run to run, and without what upstream's has though no API server takes it: nulls,
/// and an owner without a UID on a recovered Secret. YAML is read: how it is quoted is nobody's contract.
fn shape(text: &str) -> String {
    if text.starts_with("---\n") {
        let documents = crds::yaml::documents(text).into_iter().filter_map(|document| document.value.ok());
        let shapes: Vec<_> = documents.map(|value| shape(&format!("{value:#}"))).collect();
        return shapes.join("\n---\n");
    }
    let sealed = |word: &str| word.len() > 300 && word.starts_with("Ag");
    let line = |line: &str| {
        let masked: Vec<String> = line
            .split('"')
            .map(|word| if sealed(word) { format!("<sealed {}>", word.len()) } else { word.to_owned() })
            .collect();
        masked.join("\"").trim_end_matches(',').to_owned()
    };
    let mut in_owners = false;
    let kept = text.lines().filter(|line| {
        in_owners |= line.contains("\"ownerReferences\"");
        let kept = !in_owners && !line.contains("creationTimestamp") && !line.trim().is_empty();
        in_owners &= !line.trim().starts_with(']');
        kept
    });
    kept.map(line).collect::<Vec<_>>().join("\n")
}

fn testdata(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("crds").join("testdata").join(name);
    Ok(std::fs::read_to_string(path)?)
}

async fn all(bench: &Bench, cases: impl IntoIterator<Item = (String, &'static str, Agree)>) -> Result<()> {
    let mut failures = Vec::new();
    for (line, stdin, agree) in cases {
        failures.extend(bench.compare(&line, stdin, agree).await.err().map(|error| format!("{error:#}")));
    }
    ensure!(failures.is_empty(), "{} cases differ:\n\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}

#[tokio::test]
async fn without_a_cluster_both_do_the_same() -> Result<()> {
    let bench = Bench::new().await?;
    all(&bench, OFFLINE.iter().map(|(line, stdin, agree)| ((*line).to_owned(), *stdin, *agree))).await
}

#[tokio::test]
async fn through_the_service_proxy_both_do_the_same() -> Result<()> {
    let bench = Bench::new().await?;
    let cluster = harness::shared().await?;
    let namespace = cluster.namespace("parity").await?;
    let _answering = publish(cluster, &namespace).await?;
    let connection = format!(
        "--kubeconfig {} --controller-name parity --controller-namespace {namespace}",
        cluster.kubeconfig().display()
    );
    eventually("the service proxy to answer", SOON, || async {
        Ok(bench.run(&bench.theirs, &format!("{connection} --fetch-cert"), "").await?.success().ok())
    })
    .await?;
    all(&bench, ONLINE.iter().map(|(line, stdin, agree)| (format!("{connection} {line}"), *stdin, *agree))).await?;

    // What either re-encrypts, the other opens.
    for (seals, opens) in [(&bench.ours, &bench.theirs), (&bench.theirs, &bench.ours)] {
        let again = bench.run(seals, &format!("{connection} --re-encrypt"), &bench.sealed).await?.success()?;
        ensure!(again != bench.sealed, "nothing was sealed anew");
        let opened = bench.run(opens, "--recovery-unseal --recovery-private-key KEY", &again).await?.success()?;
        ensure!(opened.contains("\"password\": \"aHVudGVyMg==\""), "{opened}");
    }
    Ok(())
}

/// Our own controller verifies and seals anew for both, and opens what came of it.
#[tokio::test]
async fn both_have_our_controller_verify_and_re_encrypt() -> Result<()> {
    let bench = Bench::new().await?;
    let world = World::shared().await?;
    let place = world.place("re-encrypt").await?;
    let kubeconfig = format!("--kubeconfig {}", world.cluster.kubeconfig().display());
    for (name, program) in [("theirs", &bench.theirs), ("ours", &bench.ours)] {
        let run = async |flags: &str, stdin: &str| bench.run(program, &format!("{kubeconfig} {flags}"), stdin).await;
        let sealed = run("", &place.secret(name, &[("a", "b")])).await?.success()?;
        run("--validate", &sealed).await?.success()?;
        let moved = run("--validate", &sealed.replace(name, "moved")).await?;
        ensure!(moved.status.code() == Some(1), "{name}: {moved}");
        ensure!(moved.stderr.contains("unable to decrypt sealed secret: moved"), "{name}: {moved}");
        let again = run("--re-encrypt", &sealed).await?.success()?;
        // Sealed with the newest key already, so nothing has to change.
        ensure!(again == sealed, "{name}: {again}");
        world.cluster.apply(&again).await?;
        place.holds(name, &[("a", "b")]).await?;
    }
    Ok(())
}

/// Upstream's controller, as far as kubeseal sees it.
async fn publish(cluster: &Cluster, namespace: &str) -> Result<Background> {
    let (listener, loopback_port) = listen()?;
    let serving = Background::run("parity", || async {
        let app = Router::new()
            .route("/v1/cert.pem", get(|| async { testdata("new.crt").map_err(|_| StatusCode::INTERNAL_SERVER_ERROR) }))
            .route(
                "/v1/verify",
                post(|body: String| async move { open(&body).map_err(|_| StatusCode::CONFLICT).map(drop) }),
            )
            .route(
                "/v1/rotate",
                post(|body: String| async move { rotate(&body).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR) }),
            );
        Ok(axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await?)
    })?;
    cluster.publish_service(namespace, "parity", PublishedPort { name: "http", port: 8080, loopback_port }).await?;
    Ok(serving)
}

fn open(body: &str) -> Result<unseal::ClearSecret> {
    let sealed: SealedSecret = serde_json::from_str(body)?;
    let private = Arc::new(PrivateKey::from_pem(&testdata("new.key")?)?);
    let key = RingKey { private, certificate: None, certificate_pem: "".into(), born: Timestamp::UNIX_EPOCH };
    let opened = unseal::open(&sealed, &KeyRing::from_iter([key]), None).outcome?;
    let environment = Environment { rng: &mut rand::rng(), now: Timestamp::UNIX_EPOCH };
    Ok(unseal::secret(&sealed, opened, environment)?)
}

fn rotate(body: &str) -> Result<String> {
    let secret = open(body)?;
    let scope = Scope::from_annotations(secret.expose().metadata.annotations.as_ref().unwrap_or(&BTreeMap::new()));
    let certificate = Certificate::from_pem(&testdata("new.crt")?)?;
    Ok(serde_json::to_string(&seal::secret(secret.expose(), scope, &certificate, &mut rand::rng())?)?)
}
