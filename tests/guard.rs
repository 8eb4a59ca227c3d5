//! Secrets stay where they belong: not in what the controller says, and not in its memory longer than it needs them.

use std::{
    fs::{self, File},
    io::{PipeReader, Write as _},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use crds::GitSync;
use harness::{
    ClusterOptions, ControllerOptions, GitServer, binaries, command, eventually,
    memory::{self, Found, Needle},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use rsa::{RsaPrivateKey, pkcs1::DecodeRsaPrivateKey as _, traits::PrivateKeyParts as _};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::world::{KEYS, Place, SOON, World, document};

/// In every value here, and in nothing else.
const CANARY: &str = "Wq7vJ0zT3xYc9LmK5dRb2HgN8sPf6UaE";
/// What Git is asked with.
const PASSWORD: &str = "Hc5nQw8rTz1Vb6XkMj3LsYp0EaGd9UfO";
/// Long enough that no chance makes it.
const PART: usize = 16;

/// Of a plaintext, in all forms that it goes through: itself, and what base64 makes of it at each of three places.
fn plaintext(name: &str, text: &[u8]) -> Vec<Needle> {
    let coded = (0..3).flat_map(|shift| {
        // The first and last characters depend on the neighbours.
        let coded = STANDARD.encode([vec![b' '; shift], text.to_vec()].concat());
        Needle::parts(&format!("{name}, base64 at {shift}"), &coded.as_bytes()[4..coded.len() - 4], PART)
    });
    Needle::parts(name, text, PART).into_iter().chain(coded).collect()
}

/// Numbers of a private key as memory holds them: the low byte first or last.
fn numbers(pem: &str) -> Result<Vec<Needle>> {
    let key = RsaPrivateKey::from_pkcs1_pem(pem)?;
    let [p, q] = key.primes() else { anyhow::bail!("not two primes") };
    let parts = [("p", p.to_be_bytes()), ("q", q.to_be_bytes()), ("d", key.d().to_be_bytes())];
    Ok(parts
        .into_iter()
        .flat_map(|(name, high_first)| {
            let low_first: Vec<u8> = high_first.iter().rev().copied().collect();
            let of = |bytes: &[u8], order: &str| Needle::new(&format!("{name}, {order} first"), &bytes[32..64]);
            [of(&high_first, "high"), of(&low_first, "low")]
        })
        .collect())
}

/// The PEM text of every key, by the name of its Secret.
async fn keys(place: &Place<'_>) -> Result<Vec<(String, String)>> {
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let text = |secret: &Secret| {
        let pem = secret.data.as_ref().and_then(|data| data.get("tls.key")).context("tls.key")?;
        Ok((secret.name_any(), String::from_utf8(pem.0.clone())?))
    };
    keys.list(&ListParams::default().labels(KEYS)).await?.iter().map(text).collect()
}

/// `None` where this test may not look, which is as it should be for all but root.
fn found(process: u32, needles: &[Needle]) -> Result<Option<Vec<Found>>> {
    match memory::find(process, needles) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            assert!(!rustix::process::geteuid().is_root(), "root may look");
            Ok(None)
        }
        found => Ok(Some(found?)),
    }
}

/// What a pass that is under way holds goes with it; what stays is left for good.
async fn nothing_is_left(process: u32, needles: &[Needle]) -> Result<()> {
    eventually("no trace to be left", SOON, || async {
        let left = found(process, needles)?.context("root may look")?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn the_controller_leaves_no_core_dump() -> Result<()> {
    let world = World::shared().await?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", world.controller.id().await))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("the limit")?;
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    Ok(())
}

/// Opened, rendered, verified, re-encrypted, edited, healed and followed from a private repository: then there is no trace of the value, nor of a key's text.
/// And of a key that was deleted not even its numbers.
#[tokio::test]
async fn no_trace_of_a_value_or_a_key_is_left_when_the_work_is_done() -> Result<()> {
    let flags = ["--rate-limit=1000", "--rate-limit-burst=1000"].map(str::to_owned).to_vec();
    let options = ControllerOptions { args: flags, ..ControllerOptions::default() };
    let world = World::with(ClusterOptions { audit: true, ..ClusterOptions::default() }, options).await?;
    let place = world.place("canary").await?;
    // The long one fills more of a buffer than what comes after it.
    let long = format!("{}{CANARY}", "x".repeat(40_000));
    let values = [("password", CANARY), ("long", &long)];
    let sealed = document(&world.seal(&place.secret("db", &values), &[]).await?)?;
    let mut rendered = sealed.clone();
    let (text, bad) = ("pw={{ .password }} {{ .password | b64enc }}", "{{ fail .password }}");
    rendered["spec"]["template"]["data"] = json!({"text": text});
    world.cluster.apply(&rendered.to_string()).await?;
    place.synced("db", "True").await?;
    rendered["spec"]["template"]["data"] = json!({"text": text, "bad": bad});
    world.cluster.apply(&rendered.to_string()).await?;
    place.synced("db", "False").await?;
    world.cluster.apply(&sealed.to_string()).await?;
    place.holds("db", &values).await?;

    let git = GitServer::start()?;
    git.require_basic("me", PASSWORD);
    let repository = git.create("app").await?;
    repository.write("db.yaml", sealed.to_string())?;
    let commit = repository.commit("a SealedSecret").await?;
    world.cluster.apply(&place.secret("git", &[("username", "me"), ("password", PASSWORD)])).await?;
    let spec = json!({"source": {"url": repository.url(), "secretRef": {"name": "git"}}});
    place.syncs().create(&PostParams::default(), &GitSync::new("app", serde_json::from_value(spec)?)).await?;
    place.applied("app", &commit).await?;

    world.renew_key().await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let post = async |path: &str, body: String| {
        anyhow::Ok(http.post(world.controller.url(path)).body(body).send().await?.error_for_status()?.text().await?)
    };
    let again: Value = serde_json::from_str(&post("/v1/rotate", sealed.to_string()).await?)?;
    assert_ne!(again["spec"]["encryptedData"], sealed["spec"]["encryptedData"]);
    let verified = post("/v1/verify", again.to_string()).await?;

    // All that it says, to whomever.
    let told = [world.controller.logs().await?, world.controller.metrics().await?, again.to_string(), verified];
    let objects = ["sealedsecrets", "gitsyncs", "events", "leases", "configmaps", "namespaces"].join(",");
    let objects = ["get", &objects, "--all-namespaces", "--show-managed-fields", "--output=json"];
    let audited = world.cluster.audited()?;
    for kind in ["sealedsecrets", "gitsyncs", "events", "leases"] {
        let with_body = |it: &&Value| it["objectRef"]["resource"] == kind && it["requestObject"].is_object();
        assert!(audited.iter().any(|request| with_body(&request)), "no body of {kind} is on record");
    }
    let audited = audited.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let told = [told.as_slice(), &[world.cluster.kubectl(&objects).await?, audited]].concat();
    let keys_before = keys(&place).await?;
    assert_eq!(keys_before.len(), 2);
    let mut traces = plaintext("the value", CANARY.as_bytes());
    for (name, pem) in &keys_before {
        let middle = pem.as_bytes().get(1024..1088).context("a key is longer")?;
        traces.extend(plaintext(&format!("the text of {name}"), middle));
    }
    let password = plaintext("the password of Git", PASSWORD.as_bytes());
    for text in &told {
        let text = text.as_bytes();
        let trace = traces.iter().chain(&password).find(|trace| memchr::memmem::find(text, &trace.bytes).is_some());
        assert!(trace.is_none(), "{trace:?}");
    }

    let live = numbers(&keys_before[0].1)?;
    let process = world.controller.id().await;
    let Some(found_live) = found(process, &live)? else { return Ok(()) };
    assert!(!found_live.is_empty(), "a key that is used is there, and the search finds it");
    nothing_is_left(process, &traces).await?;

    let secrets: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    for (name, _) in &keys_before {
        secrets.delete(name, &DeleteParams::default()).await?;
    }
    eventually("one new key and no other", SOON, || async {
        let one = world.controller.metric("sealed_secrets_controller_keys").await?.to_string() == "1";
        let new = keys(&place).await?.iter().all(|(name, _)| keys_before.iter().all(|(before, _)| before != name));
        Ok((one && new).then_some(()))
    })
    .await?;
    nothing_is_left(process, &[live, traces].concat()).await
}

/// A `seal` that has done its work, and waits for somebody to take what it writes.
async fn unheard(home: &Path, line: &str, stdin: &str) -> Result<(Child, PipeReader)> {
    let (reader, mut full) = std::io::pipe()?;
    full.write_all(&vec![b'.'; rustix::pipe::fcntl_getpipe_size(&full)?])?;
    fs::write(home.join("stdin"), stdin)?;
    let mut seal = command::clean(binaries::seal().await?, home);
    seal.current_dir(home).args(line.split_whitespace()).kill_on_drop(true);
    seal.stdin(File::open(home.join("stdin"))?).stdout(full).stderr(Stdio::inherit());
    let seal = seal.spawn()?;
    let id = seal.id().context("it has ended")?;
    eventually(&format!("seal {line} to write"), SOON, || async {
        Ok(fs::read_to_string(format!("/proc/{id}/wchan"))?.contains("pipe_write").then_some(()))
    })
    .await?;
    // Without a reader it would end.
    Ok((seal, reader))
}

/// What is in the memory of `seal` while its result leaves it is what the result is made of.
#[tokio::test]
async fn seal_keeps_no_trace_of_what_it_sealed() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let world = World::shared().await?;
    let place = world.place("traces").await?;
    let folder = tempfile::tempdir()?;
    let home = folder.path();
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata");
    let long = format!("{}{CANARY}", "x".repeat(40_000));
    let secret = place.secret("db", &[("password", CANARY), ("long", &long)]);
    let certificate = format!("--cert {testdata}/new.crt");
    fs::write(home.join("db.yaml"), world.seal(&secret, &["--cert", &format!("{testdata}/new.crt")]).await?)?;

    let traces = plaintext("the value", CANARY.as_bytes());
    let (open, _reader) =
        unheard(home, &format!("unseal db.yaml --recovery-private-key {testdata}/new.key"), "").await?;
    let there = found(open.id().context("it has ended")?, &traces)?.context("root")?;
    assert!(!there.is_empty(), "what is written is there, and the search finds it");
    for (line, stdin) in [(certificate.clone(), secret.as_str()), (format!("raw {certificate} shop/db"), &long)] {
        let (seal, _reader) = unheard(home, &line, stdin).await?;
        let there = found(seal.id().context("it has ended")?, &traces)?.context("root")?;
        assert!(there.is_empty(), "seal {line}: {there:#?}");
    }
    Ok(())
}
