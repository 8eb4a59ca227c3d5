//! The alerts and the dashboard of `deploy/monitoring`, over what a real controller serves: the real promtool evaluates
//! them, as Prometheus would, on scrapes that are held: the first for the five minutes before something happened, the last
//! for the two hours after.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ClusterOptions, Controller, ControllerOptions, GitServer, chart, command, eventually, metrics::sum,
    process::Signal, scratch::Scratch, tools::Tool,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{KEYS, Place, SOON, World, config_map, document, follow};

const PREFIX: &str = "sealed_secrets_controller_";
/// The minute at which the second scrape takes the place of the first. One more comes each minute.
const STEP: i64 = 5;
/// The GitSync whose host never answers.
const HANGS: &str = "name=\"silent\"";
const LAST_FETCH: &str = "git_sync_last_fetch_timestamp_seconds";

fn rules() -> PathBuf {
    chart::folder().join("monitoring/rules.yaml")
}

async fn promtool(args: &[&str]) -> Result<command::Output> {
    let home = Scratch::new("signet-promtool-")?;
    let mut promtool = command::clean(Tool::Promtool.path().await?, home.path());
    command::run(promtool.args(args), b"").await
}

/// Ours alone: series and value.
fn samples(exposition: &str) -> BTreeMap<&str, f64> {
    let ours = exposition.lines().filter(|line| line.starts_with(PREFIX));
    ours.filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series, value.parse().ok()?)))
        .collect()
}

/// Scrapes as promtool takes them. What tells when Git was asked goes on with the time if it did so between them: the
/// scrapes may have been made faster than one a minute.
fn series(scrapes: &[&str]) -> Vec<Value> {
    let scrapes: Vec<_> = scrapes.iter().map(|text| samples(text)).collect();
    let names: BTreeSet<&str> = scrapes.iter().flat_map(BTreeMap::keys).copied().collect();
    let held = |name: &str| {
        let told: Vec<Option<f64>> = scrapes.iter().map(|scrape| scrape.get(name).copied()).collect();
        let (first, last) = (told.first().copied().flatten(), told.last().copied().flatten());
        let pace = if name.contains(LAST_FETCH) && first != last { 60 } else { 0 };
        let later = |minutes: usize, value: f64| value + f64::from(u32::try_from(pace * minutes).unwrap_or_default());
        let plain = |(minutes, value): (usize, &Option<f64>)| {
            value.map_or_else(|| "_".to_owned(), |value| later(minutes, value).to_string())
        };
        let mut values = vec![first.map_or_else(|| format!("_x{STEP}"), |value| format!("{value}x{}", STEP - 1))];
        values.extend(told.iter().skip(1).take(told.len().saturating_sub(2)).enumerate().map(plain));
        values.push(match last {
            Some(value) => format!("{}+{pace}x120", later(told.len().saturating_sub(2), value)),
            None => "stale".to_owned(),
        });
        values.join(" ")
    };
    // Prometheus itself goes on, even without a controller.
    let prometheus = json!({"series": "up", "values": "0x120"});
    names.into_iter().map(|name| json!({"series": name, "values": held(name)})).chain([prometheus]).collect()
}

/// Has promtool look whether expressions come to what is expected, so many minutes after the beginning.
async fn evaluate(scrapes: &[&str], tests: Value) -> Result<()> {
    let folder = Scratch::new("signet-alerts-")?;
    let file = folder.path().join("test.yaml");
    let start = Timestamp::now().as_second() - STEP * 60;
    let group = json!({
        "interval": "1m", "start_timestamp": start, "input_series": series(scrapes), "promql_expr_test": tests,
    });
    let test = json!({"rule_files": [rules()], "evaluation_interval": "1m", "tests": [group]});
    fs::write(&file, test.to_string())?;
    promtool(&["test", "rules", file.to_str().context("UTF-8")?]).await?.success()?;
    Ok(())
}

/// These alerts fire then, and no others.
async fn fires(scrapes: &[&str], minute: u32, alerts: &[&str]) -> Result<()> {
    let samples = alerts.iter().map(|alert| json!({"labels": format!("{{alertname={alert:?}}}"), "value": 1}));
    let test = json!([{
        "expr": r#"group by (alertname) (ALERTS{alertstate="firing"})"#,
        "eval_time": format!("{minute}m"), "exp_samples": samples.collect::<Vec<_>>(),
    }]);
    evaluate(scrapes, test).await.with_context(|| format!("at minute {minute}: {alerts:?}"))
}

/// A later scrape: Git was asked again meanwhile, but for what hangs, and nothing waits just then. It is held for hours.
async fn later(controller: &Controller, before: &str) -> Result<String> {
    let before = samples(before);
    eventually("Git to be asked again", SOON, || async {
        let text = controller.metrics().await?;
        let now = samples(&text);
        let asked = before.iter().filter(|(name, _)| name.contains(LAST_FETCH) && !name.contains(HANGS));
        let again = asked.into_iter().all(|(name, then)| now.get(name).is_none_or(|now| now > then));
        let idle = now.iter().all(|(name, value)| !name.contains("queue_depth") || *value == 0.0);
        Ok((again && idle).then_some(text))
    })
    .await
}

async fn until(controller: &Controller, metric: &str, wanted: impl Fn(f64) -> bool) -> Result<()> {
    eventually(&format!("{metric} to be as wanted"), SOON, || async {
        Ok(wanted(sum(&controller.metrics().await?, &format!("{PREFIX}{metric}"))?).then_some(()))
    })
    .await
}

/// What no key opens.
fn closed(namespace: &str, name: &str) -> String {
    json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"encryptedData": {"a": "AgA="}},
    })
    .to_string()
}

#[tokio::test]
async fn each_condition_fires_its_alert_and_no_other() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("alerts").await?;
    let controller = &world.controller;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "right"))?;
    let commit = repository.commit("a ConfigMap").await?;
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &commit).await?;
    place.apply_sealed("db", &[("password", "s3cret")]).await?;
    place.synced("db", "True").await?;
    let scrape = || later(controller, "");
    let then = async |before: &str| later(controller, before).await;

    let first = scrape().await?;
    let well = then(&first).await?;
    fires(&[&first, &well], 90, &[]).await?;
    fires(&[&well, ""], 30, &["SignetDown"]).await?;
    let standing_by = ControllerOptions { service: None, ..ControllerOptions::default() };
    let follower = Controller::start_with(&world.cluster, standing_by).await?;
    let follows = follower.metrics().await?;
    fires(&[&follows, &follows], 30, &["SignetNoLeader"]).await?;
    follower.terminate().await?;

    world.cluster.apply(&closed(&place.namespace, "closed")).await?;
    place.synced("closed", "False").await?;
    let shut = then(&well).await?;
    fires(&[&well, &shut], 30, &["SealedSecretNotOpened"]).await?;
    // Two minutes after the replica that told of it is gone: nobody is told that all is well.
    let mut handed_over = vec![shut.as_str(); 14];
    handed_over.push(&follows);
    fires(&handed_over, 20, &["SealedSecretNotOpened"]).await?;
    place.sealed().delete("closed", &DeleteParams::default()).await?;
    until(controller, "sealed_secrets{synced=\"False\"", |some| some == 0.0).await?;

    keys(&world, &place).await?;
    syncs(&place, &git).await?;
    drift_that_returns(&place).await?;

    git.stop();
    place.ready("app", |ready, _| ready.status == "False").await?;
    // Asked ten times within a minute, and then for ten minutes.
    let mut failing = vec![scrape().await?];
    for _ in 0..10 {
        let next = then(failing.last().context("a scrape")?).await?;
        failing.push(next);
    }
    let failing: Vec<&str> = failing.iter().map(String::as_str).collect();
    fires(&[failing[0], failing[10]], 26, &["GitSyncFailing"]).await?;
    fires(&failing, 26, &["GitFetchFailing", "GitSyncFailing"]).await?;
    git.resume();
    place.applied("app", &commit).await?;

    // A host that takes the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    place.sync("silent", &format!("http://{}/app.git", silent.local_addr()?), "").await?;
    let its = format!("{LAST_FETCH}{{namespace={:?},name=\"silent\"}}", place.namespace);
    until(controller, &its, |asked| asked > 0.0).await?;
    let before = scrape().await?;
    let after = later(controller, &before).await?;
    fires(&[&before, &after], 30, &["GitSyncNotFetched"]).await?;

    place.syncs().delete("silent", &DeleteParams::default()).await?;
    until(controller, &its, |asked| asked == 0.0).await?;

    statuses(&place).await?;
    watches(&place).await?;

    dashboard(&first, &after).await?;
    let table = fs::read_to_string(chart::folder().with_file_name("docs").join("metrics.md"))?;
    for name in after.lines().filter_map(|line| line.strip_prefix("# HELP ")?.strip_prefix(PREFIX)?.split(' ').next()) {
        assert!(table.contains(&format!("| `{name}` |")), "docs/metrics.md lacks {name}");
    }
    Ok(())
}

async fn keys(world: &World, place: &Place<'_>) -> Result<()> {
    let controller = &world.controller;
    let before = controller.metrics().await?;
    let label = json!({"sealedsecrets.bitnami.com/sealed-secrets-key": "active"});
    let metadata = json!({"name": "no-key", "namespace": "kube-system", "labels": label});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"tls.key": "none"}});
    world.cluster.apply(&secret.to_string()).await?;
    until(controller, "malformed_keys", |some| some > 0.0).await?;
    fires(&[&before, &later(controller, &before).await?], 30, &["SignetKeyMalformed"]).await?;
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(place.client.clone(), "kube-system");
    secrets.delete("no-key", &DeleteParams::default()).await?;
    until(controller, "malformed_keys", |some| some == 0.0).await?;

    // Neither the one that db was sealed with nor the one that seals.
    let names = async || -> Result<BTreeSet<String>> {
        let keys = secrets.list_metadata(&ListParams::default().labels(KEYS)).await?;
        Ok(keys.items.iter().map(ResourceExt::name_any).collect())
    };
    let first = names().await?;
    world.renew_key().await?;
    let second = names().await?;
    world.renew_key().await?;
    let before = controller.metrics().await?;
    secrets.delete(second.difference(&first).next().context("a key")?, &DeleteParams::default()).await?;
    until(controller, "keys_lost_total", |some| some > 0.0).await?;
    fires(&[&before, &later(controller, &before).await?], 20, &["SignetKeyLost"]).await?;

    let before = controller.metrics().await?;
    let metadata = json!({"name": "full", "namespace": "kube-system"});
    let spec = json!({"hard": {"count/secrets": "0"}});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec});
    world.cluster.apply(&quota.to_string()).await?;
    // As its controller would, which does not run here.
    let status = json!({"status": {"hard": {"count/secrets": "0"}, "used": {"count/secrets": "0"}}}).to_string();
    let patch = ["-n", "kube-system", "patch", "resourcequota", "full", "--subresource=status", "--type=merge", "-p"];
    world.cluster.kubectl(&[&patch[..], &[&status]].concat()).await?;
    eventually("the quota to hold", SOON, || async {
        let create = ["-n", "kube-system", "create", "secret", "generic", "one-more", "--dry-run=server"];
        let tried = world.cluster.kubectl_as(world.cluster.kubeconfig(), &create, "").await?;
        Ok((!tried.status.success()).then_some(()))
    })
    .await?;
    controller.signal(Signal::USR1).await?;
    until(controller, "key_mint_failures_total", |some| some > 0.0).await?;
    let failed = later(controller, &before).await?;
    for minute in [15, 20, 25, 30] {
        fires(&[&before, &failed], minute, &[]).await.context("one failure is made good by the next try")?;
    }
    fails_on(controller, before, "key_mint_failures_total", "SignetKeyNotMade").await?;
    world.cluster.kubectl(&["-n", "kube-system", "delete", "resourcequota", "full"]).await?;
    Ok(())
}

/// One more failure after each five minutes, which is as long as it may take.
async fn fails_on(controller: &Controller, before: String, counter: &str, alert: &str) -> Result<()> {
    let since = sum(&before, &format!("{PREFIX}{counter}"))?;
    let mut tries = vec![before];
    for failures in 1..=5 {
        until(controller, counter, |some| some >= since + f64::from(failures)).await?;
        let failed = controller.metrics().await?;
        tries.extend(vec![failed; 5]);
    }
    fires(&tries.iter().map(String::as_str).collect::<Vec<_>>(), 25, &[alert]).await
}

/// Nobody may write a status.
async fn statuses(place: &Place<'_>) -> Result<()> {
    let (controller, cluster) = (&place.world.controller, &place.world.cluster);
    let named = |kind: &str, spec: Value| {
        let api = "admissionregistration.k8s.io/v1";
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": "no-status"}, "spec": spec}).to_string()
    };
    let status = json!({"apiGroups": ["bitnami.com"], "apiVersions": ["*"], "operations": ["*"],
        "resources": ["sealedsecrets/status"]});
    let policy = json!({"matchConstraints": {"resourceRules": [status]}, "validations": [{"expression": "false"}]});
    cluster.apply(&named("ValidatingAdmissionPolicy", policy)).await?;
    let binding = json!({"policyName": "no-status", "validationActions": ["Deny"]});
    cluster.apply(&named("ValidatingAdmissionPolicyBinding", binding)).await?;
    let mut number = 0;
    let errors = "unseal_errors_total{reason=\"status\"";
    eventually("the policy to hold", SOON, || {
        number += 1;
        let sealed = closed(&place.namespace, &format!("mute-{number}"));
        async move {
            cluster.apply(&sealed).await?;
            Ok((controller.metric(&format!("{PREFIX}{errors}")).await? > 0.0).then_some(()))
        }
    })
    .await?;
    // Before it held some were told that they are closed.
    place.sealed().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    until(controller, "sealed_secrets{synced=\"False\"", |some| some == 0.0).await?;
    let before = controller.metrics().await?;
    cluster.apply(&closed(&place.namespace, "mute")).await?;
    fails_on(controller, before, errors, "SignetStatusNotWritten").await?;
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "no-status"]).await?;
    place.sealed().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(())
}

/// Ends what the watch of SealedSecrets lives on.
async fn watches(place: &Place<'_>) -> Result<()> {
    let before = place.world.controller.metrics().await?;
    place.world.cluster.kubectl(&["delete", "crd", "sealedsecrets.bitnami.com"]).await?;
    fails_on(&place.world.controller, before, "watch_errors_total", "SignetWatchFailing").await
}

async fn syncs(place: &Place<'_>, git: &GitServer) -> Result<()> {
    let controller = &place.world.controller;
    for (name, spec, state, minute, alerts) in [
        ("broken", json!({}), "failed", 30, &["GitSyncFailing"][..]),
        ("outside", json!({"path": "../.."}), "stalled", 15, &["GitSyncStalled"]),
        ("left", json!({}), "drifted", 45, &["GitSyncDrifted"]),
        ("dependent", json!({"dependsOn": [{"name": "nobody"}]}), "waiting", 70, &["GitSyncStuck"]),
        ("starting", json!({"wait": true, "timeout": "2h"}), "progressing", 70, &["GitSyncStuck"]),
        ("held", json!({"deletionPolicy": "WaitForTermination"}), "deleting", 70, &["GitSyncStuck"]),
        ("asked", json!({"syncPolicy": "Manual"}), "planned", 110, &[]),
    ] {
        let before = controller.metrics().await?;
        let repository = git.create(name).await?;
        let text = match name {
            "broken" => "key: [".to_owned(),
            "starting" => deployment(name),
            "held" => config_map(name, "right").replace("metadata:\n", "metadata:\n  finalizers: [example.com/held]\n"),
            _ => config_map(name, "right"),
        };
        repository.write("map.yaml", text)?;
        let commit = repository.commit("one").await?;
        follow(place, name, &repository, spec).await?;
        if name == "held" {
            place.applied(name, &commit).await?;
            place.syncs().delete(name, &DeleteParams::default()).await?;
        }
        if name == "left" {
            place.applied(name, &commit).await?;
            let report = json!({"spec": {"drift": "Report"}});
            place.syncs().patch(name, &PatchParams::default(), &Patch::Merge(report)).await?;
            place.ready(name, |ready, sync| ready.observed_generation == sync.metadata.generation).await?;
            edit(place, name, "wrong").await?;
        }
        let its = format!("git_sync_state{{namespace={:?},name={name:?}", place.namespace);
        until(controller, &format!("{its},state={state:?}"), |some| some > 0.0).await?;
        let after = later(controller, &before).await?;
        fires(&[&before, &after], minute, alerts).await.with_context(|| name.to_owned())?;
        if name == "held" {
            let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            place.maps().patch(name, &PatchParams::default(), &free).await?;
        } else {
            place.syncs().delete(name, &DeleteParams::default()).await?;
        }
        until(controller, &its, |some| some == 0.0).await?;
    }
    Ok(())
}

/// Of Pods that nobody runs.
fn deployment(name: &str) -> String {
    let labels = json!({"app": name});
    let containers = json!([{"name": "app", "image": "example.com/app"}]);
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
    let spec = json!({"selector": {"matchLabels": labels}, "template": template});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}).to_string()
}

async fn drift_that_returns(place: &Place<'_>) -> Result<()> {
    let controller = &place.world.controller;
    let its = format!("git_sync_drift_corrections_total{{namespace={:?},name=\"app\"", place.namespace);
    let before = controller.metrics().await?;
    let done = sum(&before, &format!("{PREFIX}{its}"))?;
    let mut scrapes = vec![before];
    for round in 1..=5 {
        edit(place, "settings", &format!("wrong {round}")).await?;
        until(controller, &its, |some| some >= done + f64::from(round)).await?;
        scrapes.push(later(controller, &scrapes[0]).await?);
    }
    fires(&scrapes.iter().map(String::as_str).collect::<Vec<_>>(), 30, &["GitSyncDriftReturns"]).await
}

async fn edit(place: &Place<'_>, map: &str, value: &str) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    let edit = json!({"data": {"value": value}});
    maps.patch(map, &PatchParams::default(), &Patch::Merge(edit)).await?;
    Ok(())
}

/// Without a key nothing is taken up; and a key that nothing renews ends.
#[tokio::test]
async fn a_queue_that_does_not_move_and_a_certificate_that_ends() -> Result<()> {
    let args = ["--wait-for-keys", "--key-ttl=1h", "--key-renew-period=0"].map(str::to_owned).to_vec();
    let options = ControllerOptions { args, wait_until_ready: false, ..ControllerOptions::default() };
    let world = World::with(ClusterOptions::default(), options).await?;
    let (controller, place) = (&world.controller, world.place("waits").await?);
    // More than are passed over at once.
    let all: Vec<String> = (0..40).map(|number| closed(&place.namespace, &format!("db-{number}"))).collect();
    world.cluster.apply(&all.join("\n---\n")).await?;
    eventually("the metrics to be served", SOON, || async { Ok(controller.metrics().await.ok()) }).await?;
    until(controller, "queue_depth{queue=\"unseal\"", |waiting| waiting > 20.0).await?;
    let (before, after) = (controller.metrics().await?, controller.metrics().await?);
    fires(&[&before, &after], 30, &["SignetQueueStuck"]).await?;

    world.cluster.kubectl(&["-n", &place.namespace, "delete", "sealedsecrets", "--all"]).await?;
    controller.signal(Signal::USR1).await?;
    until(controller, "newest_key_expiry_timestamp_seconds", |end| end > 0.0).await?;
    until(controller, "queue_depth", |waiting| waiting == 0.0).await?;
    until(controller, "sealed_secrets", |some| some == 0.0).await?;
    let now = controller.metrics().await?;
    fires(&[&now, &now], 45, &[]).await?;
    fires(&[&now, &now], 62, &["SignetCertificateEnding"]).await
}

/// In one Prometheus, whose scrapes say which is which.
#[tokio::test]
async fn no_installation_hides_another() -> Result<()> {
    let gauges = [
        r#"build_info{job="one"} 1"#,
        r#"leading{job="one"} 0"#,
        r#"leading{job="two"} 1"#,
        r#"git_sync_state{cluster="one",namespace="shop",name="web",state="failed"} 1"#,
        r#"git_sync_state{cluster="two",namespace="shop",name="web",state="well"} 1"#,
    ];
    let scrape = gauges.map(|gauge| format!("{PREFIX}{gauge}")).join("\n");
    fires(&[&scrape, &scrape], 30, &["SignetNoLeader", "GitSyncFailing"]).await
}

/// Each says whom it wakes, what it is about, and where to read on.
#[tokio::test]
async fn each_alert_has_its_entry() -> Result<()> {
    let rules = rules();
    promtool(&["check", "rules", rules.to_str().context("UTF-8")?]).await?.success()?;
    let runbook = fs::read_to_string(chart::folder().with_file_name("docs").join("runbook-alerts.md"))?;
    let mut entries: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let groups = document(&fs::read_to_string(&rules)?)?;
    let values = document(&fs::read_to_string(chart::folder().join("chart/values.yaml"))?)?;
    let runbooks = values["prometheusRule"]["runbook"].as_str().context("where to read on")?;
    for rule in groups["groups"][0]["rules"].as_array().context("rules")? {
        let name = rule["alert"].as_str().context("a name")?;
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
        for field in ["summary", "description"] {
            assert!(rule["annotations"][field].is_string(), "{name} has no {field}");
        }
        let url = format!("{runbooks}#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], url, "{name}");
        let is_seen = include_str!("alerts.rs").contains(&format!("{name:?}"));
        assert!(is_seen, "no test sees {name} fire");
        ensure!(entries.contains(&name), "no entry for {name}");
        entries.retain(|entry| *entry != name);
    }
    assert!(entries.is_empty(), "no alert for {entries:?}");
    Ok(())
}

/// Every expression of the dashboard comes to something.
async fn dashboard(before: &str, after: &str) -> Result<()> {
    let dashboard: Value = serde_json::from_slice(&fs::read(chart::folder().join("monitoring/dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let tests: Vec<Value> = targets
        .filter_map(|target| target["expr"].as_str())
        .map(|expr| {
            let expr = expr.replace("$__rate_interval", "15m");
            let one = json!([{"labels": "{}", "value": 1}]);
            json!({"expr": format!("count({expr}) > bool 0"), "eval_time": "10m", "exp_samples": one})
        })
        .collect();
    assert!(tests.len() > 10, "{}", tests.len());
    evaluate(&[before, after], tests.into()).await.context("of the dashboard")
}
