//! What is written down of every change: who and what brought it, whose rights were used, and what was done to which object.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use crds::{
    git_sync::{HistoryEntry, RECONCILE_REQUESTED},
    sync::history::{Counts, Trigger},
};
use data_encoding::HEXLOWER;
use harness::{
    Asked, At, ClusterOptions, ControllerOptions, GitServer, Repository, controller::Signal, eventually, seal,
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, config_map, document, follow, recorded};

/// Of the log, the lines about objects of a GitSync.
async fn audit(world: &World, name: &str) -> Result<Vec<Value>> {
    let logs = world.controller.logs().await?;
    let lines = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter(|line| line["message"] == "audit" && line["name"] == name).collect())
}

fn acts(lines: &[Value]) -> Vec<(&str, &str, &str)> {
    fn text<'a>(line: &'a Value, field: &str) -> &'a str {
        line[field].as_str().unwrap_or_default()
    }
    lines.iter().map(|line| (text(line, "action"), text(line, "object"), text(line, "trigger"))).collect()
}

async fn commit(repository: &Repository, value: &str) -> Result<String> {
    repository.write("map.yaml", config_map("settings", value))?;
    repository.commit(&format!("settings: {value}\n\nand more that nobody needs")).await
}

async fn newest(place: &Place<'_>, commit: &str) -> Result<HistoryEntry> {
    let status = place.applied("app", commit).await?.status.unwrap_or_default();
    status.history.into_iter().next().context("no history")
}

fn counted(created: usize, changed: usize, deleted: usize, unchanged: usize) -> Counts {
    Counts { created, changed, deleted, unchanged }
}

#[tokio::test]
async fn every_change_is_on_record_with_who_and_what_brought_it() -> Result<()> {
    let options = ControllerOptions { args: vec!["--log-format=json".to_owned()], ..ControllerOptions::default() };
    let world = World::with(ClusterOptions::default(), options).await?;
    let place = world.place("audit").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("other.yaml", config_map("other", "same"))?;
    let first = commit(&repository, "one").await?;
    world.cluster.apply(&place.secret("hook", &[("token", "t0ken")])).await?;
    // What is there already is changed, and not made.
    world
        .cluster
        .apply(&config_map("other", "before").replace(
            "  name:",
            // A field that Git does not have tells it from one that was made in this second.
            &format!("  annotations: {{whose: mine}}\n  namespace: {}\n  name:", place.namespace),
        ))
        .await?;
    follow(&place, "app", &repository, json!({"interval": "1h"})).await?;
    let entry = newest(&place, &first).await?;
    assert_eq!((entry.trigger, entry.counts), (Some(Trigger::SpecChange), Some(counted(1, 1, 0, 0))));
    assert_eq!(entry.author.as_deref(), Some("Ada <ada@example.com>"));
    assert_eq!(entry.subject.as_deref(), Some("settings: one"));
    assert!(entry.duration.is_some_and(|took| took.ends_with('s')));

    let webhook = json!({"type": "GitHub", "secretRef": {"name": "hook"}});
    let spec = json!({"spec": {"source": {"webhook": webhook}}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(spec)).await?;
    place.ready("app", |ready, sync| ready.observed_generation == sync.metadata.generation).await?;
    let second = commit(&repository, "two").await?;
    let body = r#"{"ref":"refs/heads/main"}"#;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"t0ken"), body.as_bytes());
    let url = world.controller.url(&format!("/hook/{}/app", place.namespace));
    harness::install_crypto();
    let request = reqwest::Client::builder().no_proxy().build()?.post(url).body(body);
    let signed = format!("sha256={}", HEXLOWER.encode(tag.as_ref()));
    request.header("x-hub-signature-256", signed).send().await?.error_for_status()?;
    let entry = newest(&place, &second).await?;
    assert_eq!((entry.trigger, entry.counts), (Some(Trigger::Webhook), Some(counted(0, 1, 0, 1))));

    repository.remove("other.yaml")?;
    let third = commit(&repository, "three").await?;
    let request = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: "now"}}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(request)).await?;
    let entry = newest(&place, &third).await?;
    assert_eq!((entry.trigger, entry.counts), (Some(Trigger::Annotation), Some(counted(0, 1, 1, 0))));

    let often = json!({"spec": {"interval": "1s"}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(often)).await?;
    place.ready("app", |ready, sync| ready.observed_generation == sync.metadata.generation).await?;
    // A fetch for that change may be under way still, and would bring what comes now.
    let asked = git.requests();
    eventually("the next fetch", SOON, || async { Ok((git.requests() >= asked + 4).then_some(())) }).await?;
    let fourth = commit(&repository, "four").await?;
    assert_eq!(newest(&place, &fourth).await?.trigger, Some(Trigger::Interval));

    place.maps().delete("settings", &DeleteParams::default()).await?;
    eventually("the line about what was healed", SOON, || async {
        Ok(acts(&audit(&world, "app").await?).iter().any(|(action, ..)| *action == "healed").then_some(()))
    })
    .await?;
    place.says("settings", &[("value", "four")]).await?;
    world.controller.kill().await?;
    let fifth = commit(&repository, "five").await?;
    world.controller.restart().await?;
    assert_eq!(newest(&place, &fifth).await?.trigger, Some(Trigger::Start));
    place.event("Applied", &format!("{fifth}: 0 created, 1 changed, 0 deleted, 0 unchanged; Start, as system:serviceaccount:kube-system:signet-sync; Ada <ada@example.com>: settings: five")).await?;

    // Its objects go with it, which is on record too.
    place.syncs().delete("app", &DeleteParams::default()).await?;
    place.event("Deleted", &format!("{fifth}: 0 created, 0 changed, 1 deleted")).await?;
    let lines = audit(&world, "app").await?;
    let (settings, other) =
        (format!("ConfigMap {}/settings", place.namespace), format!("ConfigMap {}/other", place.namespace));
    let mut expected = [
        ("created", settings.as_str(), "SpecChange"),
        ("changed", &other, "SpecChange"),
        ("changed", &settings, "Webhook"),
        ("changed", &settings, "Annotation"),
        ("deleted", &other, "Annotation"),
        ("changed", &settings, "Interval"),
        ("healed", &settings, "Drift"),
        ("changed", &settings, "Start"),
        ("deleted", &settings, "Deletion"),
    ];
    let mut acts = acts(&lines);
    // Of one stage the order is nobody's.
    expected[..2].sort_unstable();
    if let Some(first) = acts.get_mut(..2) {
        first.sort_unstable();
    }
    assert_eq!(acts, expected);
    for line in &lines {
        assert_eq!(line["identity"], "system:serviceaccount:kube-system:signet-sync");
        assert_eq!(line["namespace"], place.namespace);
        assert!(line["revision"].as_str().is_some_and(|it| it.starts_with("main@sha1:")), "{line}");
        let author =
            if line["action"] == "deleted" && line["trigger"] == "Deletion" { "" } else { "Ada <ada@example.com>" };
        assert_eq!(line["author"], author);
    }
    let counted =
        |trigger: &str| format!("sealed_secrets_controller_git_sync_revisions_total{{trigger=\"{trigger}\"}}");
    assert!(world.controller.metrics().await?.contains(&counted("Start")));

    a_gap_would_show(&world, &place).await
}

/// What the controller writes with its own rights is on record too; and all of it, over two starts, is two chains.
async fn a_gap_would_show(world: &World, place: &Place<'_>) -> Result<()> {
    place.apply_sealed("db", &[("password", "c0rrect-horse")]).await?;
    place.holds("db", &[("password", "c0rrect-horse")]).await?;
    let secret = format!("Secret {}/db", place.namespace);
    eventually("the line about the Secret", SOON, || async {
        let lines = audit(world, "db").await?;
        let is_it = |line: &&Value| line["object"] == secret && line["trigger"] == "Unsealing";
        Ok(lines.iter().find(is_it).map(|line| assert_eq!(line["action"], "created")))
    })
    .await?;
    let logs = world.controller.logs().await?;
    // Of a line that is being written the end is not there yet.
    let logs = logs.rsplit_once('\n').map_or("", |(whole, _)| whole);
    assert!(!logs.contains("c0rrect-horse"));
    let report = checked(logs, 0).await?;
    assert_eq!(report["chains"].as_object().map(serde_json::Map::len), Some(2), "{report}");
    let lines: Vec<&str> = logs.lines().collect();
    let entries: Vec<_> = lines.iter().enumerate().filter(|(_, line)| line.contains("\"message\":\"audit\"")).collect();
    assert!(entries[0].1.contains("\"trigger\":\"Rotation\""), "its first key: {}", entries[0].1);
    let (at, _) = entries[2];
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
    let report = checked(&without(at), 1).await?;
    let (next, _) = entries[3];
    assert_eq!(report["findings"], json!([{"file": "-", "line": next, "message": "entry 3 is missing here"}]));
    let edited = logs.replacen("\"action\":\"healed\"", "\"action\":\"changed\"", 1);
    let report = checked(&edited, 1).await?;
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(1), "{report}");
    assert!(report["findings"][0]["message"].as_str().is_some_and(|it| it.contains("was changed")), "{report}");
    Ok(())
}

/// What `seal audit` says of a log, with this exit code.
async fn checked(logs: &str, code: i32) -> Result<Value> {
    let output = seal(None, &["audit", "-", "-o", "json"], logs).await?;
    assert_eq!(output.status.code(), Some(code), "{output}");
    Ok(serde_json::from_str(&output.stdout)?)
}

/// On record is the account whose rights were used, and not the controller's.
#[tokio::test]
async fn a_tenants_changes_are_its_accounts() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("auditee").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let account = json!({"metadata": {"name": "deployer"}});
    let accounts = Api::<ServiceAccount>::namespaced(place.client.clone(), &place.namespace);
    accounts.create(&PostParams::default(), &serde_json::from_value(account)?).await?;
    let namespace = place.namespace.as_str();
    for (name, role, who) in [
        ("signet-sync-tenant", "ClusterRole/signet-sync-tenant", "kube-system/sealed-secrets-controller"),
        ("deployer", "ClusterRole/admin", &format!("{namespace}/deployer")),
    ] {
        let kind = role.split('/').next().unwrap_or_default();
        let role = format!("--{}={}", kind.to_lowercase(), role.split('/').next_back().unwrap_or_default());
        let subject = format!("--serviceaccount={}", who.replace('/', ":"));
        world.cluster.kubectl(&["-n", namespace, "create", "rolebinding", name, &role, &subject]).await?;
    }
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"serviceAccountName": "deployer"})).await?;
    place.applied("app", &first).await?;
    let identity = format!("as system:serviceaccount:{namespace}:deployer");
    place.event("Applied", &identity).await?;
    let logged = format!("identity=\"system:serviceaccount:{namespace}:deployer\"");
    eventually("the line about the object", SOON, || async {
        let logs = world.controller.logs().await?;
        Ok(logs.lines().any(|line| line.contains("audit") && line.contains(&logged)).then_some(()))
    })
    .await?;
    // The log for people is a record as good; of a line that is being written the end is not there yet.
    let logs = world.controller.logs().await?;
    let whole = logs.rsplit_once('\n').map_or("", |(whole, _)| whole);
    checked(whole, 0).await?;
    checked(&whole.replacen(&logged, "identity=\"nobody\"", 1), 1).await.map(drop)
}

/// Events give way to all else, and so the last ones still wait when all else has ended.
#[tokio::test]
async fn what_waits_to_be_told_when_the_controller_ends_is_told() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("waits").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let events = format!("/api/v1/namespaces/{}/events", place.namespace);
    let mut held = gate.hold(At::Request, move |asked| asked.method == "POST" && asked.path == events);
    let first = commit(&repository, "one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    held.caught().await?;
    place.applied("app", &first).await?;
    let second = commit(&repository, "two").await?;
    place.applied("app", &second).await?;
    world.controller.signal(Signal::TERM).await?;
    // From now on it has but seconds.
    eventually("it to stop", SOON, || async {
        Ok(world.controller.logs().await?.contains("stopping: ending what is under way").then_some(()))
    })
    .await?;
    held.pass();
    place.event("Applied", &second).await.map(drop)
}

/// What is made anew is deleted first, and between the two anything may happen.
#[tokio::test]
async fn what_is_deleted_to_be_made_anew_is_on_record_though_it_is_not_made() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("anew").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let forced = "metadata:\n  annotations: {kustomize.toolkit.fluxcd.io/force: enabled}\n";
    let map =
        |value: &str| format!("{}immutable: true\n", config_map("fixed", value)).replacen("metadata:\n", forced, 1);
    repository.write("map.yaml", map("one"))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let path = |rest: &str| format!("/api/v1/namespaces/{}/{rest}", place.namespace);
    let fixed = path("configmaps/fixed");
    let mut held = gate.hold(At::Request, once_deleted(fixed.clone(), "PATCH", fixed));
    repository.write("map.yaml", map("two"))?;
    let second = repository.commit("two").await?;
    held.caught().await?;
    drop(held);
    place.applied("app", &second).await?;
    let logs = world.controller.logs().await?;
    let acts = recorded(&logs, &format!("ConfigMap {}/fixed", place.namespace));
    assert!(acts.starts_with(&["created", "deleted", "unheard"]), "{acts:?}");

    let seal = async |value: &str| {
        let mut sealed = document(&world.seal(&place.secret("db", &[("password", value)]), &[]).await?)?;
        sealed["spec"]["template"]["immutable"] = json!(true);
        sealed["metadata"]["annotations"]["sealedsecrets.bitnami.com/replace"] = json!("true");
        world.cluster.apply(&sealed.to_string()).await
    };
    seal("1").await?;
    place.holds("db", &[("password", "1")]).await?;
    place.synced("db", "True").await?;
    let mut held = gate.hold(At::Request, once_deleted(path("secrets/db"), "POST", path("secrets")));
    seal("2").await?;
    held.caught().await?;
    drop(held);
    place.holds("db", &[("password", "2")]).await?;
    let logs = world.controller.logs().await?;
    let acts = recorded(&logs, &format!("Secret {}/db", place.namespace));
    // It was made ours before its values were refused.
    assert!(acts.starts_with(&["created", "changed", "deleted", "unheard"]), "{acts:?}");
    Ok(())
}

/// The request that comes after a deletion, and is no trial.
fn once_deleted(deleted: String, method: &'static str, path: String) -> impl Fn(&Asked) -> bool + Send {
    let is_deleted = AtomicBool::new(false);
    move |asked| {
        is_deleted.fetch_or(asked.method == "DELETE" && asked.path == deleted, Ordering::Relaxed);
        let is_it = asked.method == method && asked.path == path && !asked.body.contains("generateName");
        is_it && is_deleted.load(Ordering::Relaxed)
    }
}
