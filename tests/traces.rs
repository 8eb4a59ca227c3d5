//! What a collector of traces is sent, what it is not sent, and that nobody waits for it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use crds::{GitSync, git_sync::RECONCILE_REQUESTED};
use data_encoding::HEXLOWER;
use harness::{
    ClusterOptions, Collector, ControllerOptions, GitServer, Repository,
    collector::{Mood, Span},
    eventually,
};
use kube::{ResourceExt as _, api::PostParams};
use serde_json::json;

use crate::{
    hooks::{ends, exists, job},
    world::{Place, SOON, World, config_map, follow},
};

/// The span of a program that pushes and calls the webhook.
const CALLER: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");

async fn traced(collector: &Collector, variables: &[(&str, &str)]) -> Result<World> {
    let args = vec![format!("--otlp-endpoint={}", collector.address())];
    let often = ("OTEL_BSP_SCHEDULE_DELAY", "50");
    let env = variables.iter().chain([&often]).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = ControllerOptions { args, env: env.collect(), ..ControllerOptions::default() };
    World::with(ClusterOptions::default(), options).await
}

/// Waits for a span, and answers the first.
async fn span(collector: &Collector, what: &str, wanted: impl Fn(&Span) -> bool) -> Result<Span> {
    let found = || async { Ok(collector.spans().into_iter().find(|span| wanted(span))) };
    eventually(&format!("the span of {what}"), SOON, found).await.with_context(|| {
        format!("{:#?}", collector.spans().iter().map(|it| (&it.name, &it.attributes)).collect::<Vec<_>>())
    })
}

async fn child(collector: &Collector, parent: &Span, name: &str) -> Result<Span> {
    let child =
        span(collector, &format!("{name} below {}", parent.name), |it| it.parent == parent.id && it.name == name)
            .await?;
    assert_eq!(child.trace, parent.trace);
    assert!(child.start >= parent.start, "{child:?} begins before {parent:?}");
    Ok(child)
}

/// Has a GitSync looked at, as a Git host or a pipeline does.
async fn call(place: &Place<'_>, name: &str) -> Result<()> {
    let body = r#"{"ref":"refs/heads/main"}"#;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"t0ken"), body.as_bytes());
    let url = place.world.controller.url(&format!("/hook/{}/{name}", place.namespace));
    harness::install_crypto();
    let request = reqwest::Client::builder().no_proxy().build()?.post(url).body(body);
    let request = request.header("x-signature", format!("sha256={}", HEXLOWER.encode(tag.as_ref())));
    let request = request.header("traceparent", format!("00-{}-{}-01", CALLER.0, CALLER.1));
    request.send().await?.error_for_status()?;
    Ok(())
}

async fn looks_when_called(place: &Place<'_>, repository: &Repository, secret: Option<&str>) -> Result<()> {
    place.world.cluster.apply(&place.secret("hook", &[("token", "t0ken")])).await?;
    let webhook = json!({"type": "Generic", "secretRef": {"name": "hook"}});
    let mut source = json!({"url": repository.url(), "webhook": webhook});
    if let Some(secret) = secret {
        source["secretRef"] = json!({"name": secret});
    }
    let spec = json!({"source": source, "interval": "1h", "prune": true});
    place.syncs().create(&PostParams::default(), &GitSync::new("app", serde_json::from_value(spec)?)).await?;
    Ok(())
}

#[tokio::test]
async fn a_sync_an_unsealing_and_a_new_key_are_traces_without_anything_secret() -> Result<()> {
    let collector = Collector::start()?;
    let world = traced(
        &collector,
        &[
            ("OTEL_SERVICE_NAME", "signet-of-the-test"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=mine"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20c0llect"),
        ],
    )
    .await?;
    let place = world.place("traces").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    git.require_basic("ada", "hunter2");
    world.cluster.apply(&place.secret("git", &[("username", "ada"), ("password", "hunter2")])).await?;
    let sealed = world.seal(&place.secret("db", &[("password", "c0rrect-horse")]), &[]).await?;
    repository.write("db.yaml", sealed)?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.write("job.yaml", job("migrate", "gitsync.signet.dev/hook: PostSync"))?;
    let first = repository.commit("one").await?;
    looks_when_called(&place, &repository, Some("git")).await?;
    exists(&place, "migrate").await?;

    // A revision is one trace, though it takes more than one pass.
    let named = |span: &Span| span.attribute("namespace") == place.namespace && span.attribute("name") == "app";
    let sync = span(&collector, "a sync", |it| it.name == "sync" && it.parent.is_empty() && named(it)).await?;
    assert_eq!(sync.attribute("trigger"), "SpecChange");
    assert_eq!(sync.attribute("revision"), format!("main@sha1:{first}"));
    assert_eq!((sync.attribute("outcome"), sync.failed), ("Progressing", false));
    assert_eq!(sync.resource["service.name"], "signet-of-the-test");
    assert_eq!(sync.resource["deployment.environment.name"], "test");
    assert_eq!(sync.resource["service.version"], "mine");
    assert_eq!(child(&collector, &sync, "fetch").await?.attribute("outcome"), "success");
    let render = child(&collector, &sync, "render").await?;
    assert_eq!((render.attribute("objects"), render.attribute("outcome")), ("3", "success"));
    child(&collector, &sync, "plan").await?;
    let apply = child(&collector, &sync, "apply").await?;
    assert_eq!((apply.attribute("steps"), apply.attribute("changed"), apply.attribute("failed")), ("2", "2", "0"));
    ends(&place, "migrate", true).await?;
    place.applied("app", &first).await?;
    let wait = child(&collector, &sync, "wait").await?;
    assert_eq!(wait.attribute("outcome"), "ReconciliationSucceeded");
    assert!(wait.end >= sync.end, "it goes on when the pass is over");
    let last =
        |it: &Span| it.name == "sync" && it.parent == wait.id && it.attribute("outcome") == wait.attribute("outcome");
    assert_eq!(span(&collector, "the last pass", last).await?.trace, sync.trace);

    place.holds("db", &[("password", "c0rrect-horse")]).await?;
    let is_ours = |span: &Span| span.name == "unseal" && span.attribute("namespace") == place.namespace;
    let unseal = span(&collector, "an unsealing", is_ours).await?;
    assert_eq!((unseal.attribute("name"), unseal.attribute("outcome")), ("db", "success"));
    world.renew_key().await?;
    let is_new = |span: &Span| span.name == "rotate" && span.attribute("outcome") == "success";
    let key = span(&collector, "a new key", is_new).await?;
    assert!(key.attribute("key").starts_with("sealed-secrets-key") && !key.attribute("fingerprint").is_empty());

    // Who calls goes on being traced here; and what fails is marked.
    repository.remove("map.yaml")?;
    repository.remove("job.yaml")?; // it would run once more
    let second = repository.commit("two").await?;
    call(&place, "app").await?;
    place.applied("app", &second).await?;
    let called = span(&collector, "the webhook's sync", |it| it.name == "sync" && it.parent == CALLER.1).await?;
    assert_eq!((called.trace.as_str(), called.attribute("trigger")), (CALLER.0, "Webhook"));
    let prune = child(&collector, &called, "prune").await?;
    assert_eq!((prune.attribute("failed"), prune.attribute("outcome")), ("0", "success"));
    assert!(prune.attribute("changed") == prune.attribute("steps") && prune.attribute("steps") != "0", "{prune:?}");
    repository.write("map.yaml", "kind: [c0rrect-horse")?;
    repository.commit("three").await?;
    call(&place, "app").await?;
    place.ready("app", |ready, _| ready.reason == "BuildFailed").await?;
    let failed = span(&collector, "a failure", |it| it.name == "render" && it.failed).await?;
    assert_eq!(failed.attribute("outcome"), "BuildFailed");

    assert_eq!(collector.paths(), BTreeSet::from(["/v1/traces".to_owned()]));
    let header = collector.headers().get("authorization").cloned().context("no token")?;
    assert_eq!(header, "Bearer c0llect");
    let bodies = collector.bodies();
    for secret in ["c0rrect-horse", "hunter2", "t0ken", "c0llect", &git.port().to_string()] {
        for text in [secret.to_owned(), BASE64_STANDARD.encode(secret)] {
            let found = bodies.iter().any(|body| memchr::memmem::find(body, text.as_bytes()).is_some());
            assert!(!found, "{secret} was sent");
        }
    }
    assert!(collector.spans().iter().all(|span| span.events == 0), "lines of the log stay in the log");
    let logs = world.controller.logs().await?;
    assert!(!logs.contains("sync{") && !logs.contains("unseal{"), "and spans out of it: {logs}");
    Ok(())
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_is_away() -> Result<()> {
    let collector = Collector::start()?;
    collector.be(Mood::Refuse);
    // One that nobody bounds would hang for an hour.
    let world = traced(&collector, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000")]).await?;
    let place = world.place("away").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let refused = || async { Ok((collector.unserved().0 > 3).then_some(())) };
    eventually("some refusals", SOON, refused).await?;
    collector.be(Mood::Take);
    let again = || async { Ok(world.controller.logs().await?.contains("traces are taken again").then_some(())) };
    eventually("the word that they are taken", SOON, again).await?;
    span(&collector, "a sync", |it| it.name == "sync").await?;
    let logs = world.controller.logs().await?;
    let told: Vec<_> = logs.lines().filter(|line| line.contains("cannot send traces")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("404") && told[0].contains("/v1/traces"), "{told:?}");

    collector.be(Mood::Hang);
    eventually("a collector that says nothing", SOON, || async { Ok((collector.unserved().1 > 0).then_some(())) })
        .await?;
    repository.write("map.yaml", config_map("settings", "two"))?;
    let second = repository.commit("two").await?;
    place.applied("app", &second).await?;
    place.apply_sealed("db", &[("password", "x")]).await?;
    place.holds("db", &[("password", "x")]).await?;
    let ended = world.controller.terminate().await?;
    assert!(ended.success(), "{ended}");
    let logs = world.controller.logs().await?;
    assert!(logs.contains("the last traces may be lost"), "{logs}");
    Ok(())
}

/// As OpenTelemetry's own variables have it, and nothing is added to the URL that is for traces alone.
#[tokio::test]
async fn the_variable_of_traces_goes_before_the_others() -> Result<()> {
    let collector = Collector::start()?;
    let whole = format!("{}/tenant/7", collector.address());
    let world = traced(&collector, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &whole)]).await?;
    let place = world.place("whole").await?;
    place.apply_sealed("db", &[("password", "x")]).await?;
    span(&collector, "an unsealing", |it| it.name == "unseal").await?;
    assert_eq!(collector.paths(), BTreeSet::from(["/tenant/7".to_owned()]));
    Ok(())
}

#[tokio::test]
async fn without_an_endpoint_nobody_is_traced_and_a_wrong_one_is_told() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("untraced").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    looks_when_called(&place, &repository, None).await?;
    place.applied("app", &first).await?;
    call(&place, "app").await?;
    let sync = place.syncs().get("app").await?;
    let request = sync.annotations().get(RECONCILE_REQUESTED).context("not called")?;
    assert!(request.starts_with("webhook ") && !request.contains(CALLER.0), "{request}");

    let program = harness::binaries::signet_controller().await?;
    let home = tempfile::tempdir()?;
    for (endpoint, why) in [
        ("grpc://collector:4317", "must begin with http:// or https://"),
        ("http://ada:hunter2@collector:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
    ] {
        let mut command = harness::command::clean(&program, home.path());
        let output = harness::command::run(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), b"").await?;
        assert_eq!(output.status.code(), Some(2), "{output}");
        assert!(output.stderr.contains(why) && !output.stderr.contains("hunter2"), "{output}");
    }
    Ok(())
}
