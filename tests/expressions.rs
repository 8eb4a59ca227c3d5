//! What a GitSync says in CEL: how objects of other kinds fare, and when another GitSync is ready.

use anyhow::Result;
use harness::GitServer;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{Place, config_map, follow, start};

const GROUP: &str = "health.signet.dev";

/// A kind that says in words of its own how it fares.
fn definition() -> String {
    let status = "            status: {type: object, x-kubernetes-preserve-unknown-fields: true}\n      subresources: {status: {}}\n";
    include_str!("testdata/widget-crd.yaml").replace("tests.signet.dev", GROUP) + "\n" + status
}

async fn say(place: &Place<'_>, status: Value) -> Result<()> {
    let patch = json!({ "status": status }).to_string();
    let widget = ["-n", &place.namespace, "patch", "widgets.health.signet.dev", "first", "--subresource=status"];
    place.world.cluster.kubectl(&[&widget[..], &["--type=merge", "-p", &patch]].concat()).await?;
    Ok(())
}

#[tokio::test]
async fn other_peoples_kinds_fare_as_expressions_say() -> Result<()> {
    let (place, git) = start("expressions").await?;
    place.world.cluster.apply(&definition()).await?;
    let repository = git.create("app").await?;
    let widget =
        |size: u8| format!("apiVersion: {GROUP}/v1\nkind: Widget\nmetadata: {{name: first}}\nspec: {{size: {size}}}\n");
    repository.write("widget.yaml", widget(2))?;
    repository.write("gate.yaml", config_map("gate", "shut"))?;
    let later = config_map("later", "one");
    let wave = "metadata:\n  annotations: {argocd.argoproj.io/sync-wave: \"1\"}\n";
    repository.write("later.yaml", later.replacen("metadata:\n", wave, 1))?;
    repository.commit("a widget").await?;
    let rules = json!([
        {
            "apiVersion": format!("{GROUP}/v1"), "kind": "Widget",
            "inProgress": "status.phase == 'Starting'",
            "failed": "status.phase == 'Broken'",
            "current": "status.phase == 'Up' && status.ready == spec.size",
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "current": "metadata.name != 'gate' || data.value == 'open'"},
    ]);
    follow(&place, "app", &repository, json!({"healthCheckExprs": rules, "wait": true})).await?;

    // What is not there yet is not known, and the next wave waits for it.
    let ready = place.ready("app", |ready, _| ready.message.contains("there is no status")).await?;
    assert_eq!(ready.status, "Unknown");
    let gate = format!("ConfigMap {}/gate: not current by spec.healthCheckExprs[1].current", place.namespace);
    assert!(ready.message.contains("wave 0: ") && ready.message.contains(&gate), "{}", ready.message);
    say(&place, json!({"phase": "Starting"})).await?;
    place.ready("app", |ready, _| ready.message.contains("in progress by spec.healthCheckExprs[0].inProgress")).await?;
    say(&place, json!({"phase": "Broken"})).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "HealthCheckFailed").await?;
    assert!(ready.message.contains("/first: failed by spec.healthCheckExprs[0].failed"), "{}", ready.message);
    place.condition("app", "Healthy", "False", "first: failed by").await?;
    say(&place, json!({"phase": "Up", "ready": 2})).await?;
    place.ready("app", |ready, _| ready.status == "Unknown" && ready.message.contains("gate: not current")).await?;
    assert!(place.maps().get_opt("later").await?.is_none());
    repository.write("gate.yaml", config_map("gate", "open"))?;
    let second = repository.commit("an open gate").await?;
    place.applied("app", &second).await?;
    place.says("later", &[("value", "one")]).await?;
    place.condition("app", "Healthy", "True", "").await?;

    // A mistake is told with its place, and nothing else is done until it is mended.
    let broken = |text: &str| json!({"spec": {"healthCheckExprs": [{"apiVersion": "v1", "kind": "ConfigMap", "current": text}]}});
    let patch =
        async |text: &str| place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(broken(text))).await;
    patch("data.value ==").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "InvalidCELExpression").await?;
    assert!(ready.message.starts_with("spec.healthCheckExprs[0].current, line 1, column 14: "), "{}", ready.message);
    place.condition("app", "Stalled", "True", "spec.healthCheckExprs[0].current").await?;
    patch("data.value != ''").await?;
    place.applied("app", &second).await?;
    assert!(
        place.syncs().get("app").await?.status.unwrap_or_default().conditions.iter().all(|it| it.type_ != "Stalled")
    );
    Ok(())
}

#[tokio::test]
async fn an_expression_says_when_another_sync_is_ready() -> Result<()> {
    let (place, git) = start("ready-expr").await?;
    let (app, db) = (repository(&git, "app").await?, repository(&git, "db").await?);
    let expression = "dep.metadata.labels['schema'] == self.metadata.annotations['needs']";
    let needs = json!([{"name": "db", "readyExpr": expression}]);
    follow(&place, "db", &db.0, json!({})).await?;
    place.applied("db", &db.1).await?;
    follow(&place, "app", &app.0, json!({"dependsOn": needs, "interval": "1h"})).await?;
    let waits = format!("waits: {}/db is not ready by spec.dependsOn[0].readyExpr: there is no ", place.namespace);
    let ready = place.ready("app", |ready, _| ready.reason == "DependencyNotReady").await?;
    assert!(ready.message.starts_with(&waits), "{}", ready.message);
    let mark = async |name: &str, metadata: Value| {
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        place.syncs().patch(name, &PatchParams::default(), &patch).await
    };
    mark("app", json!({"annotations": {"needs": "v2"}})).await?;
    mark("db", json!({"labels": {"schema": "v1"}})).await?;
    let not_yet = "/db is not ready by spec.dependsOn[0].readyExpr";
    place.ready("app", |ready, _| ready.message.ends_with(not_yet)).await?;
    assert!(place.maps().get_opt("app").await?.is_none());
    // It does not wait for its own interval.
    mark("db", json!({"labels": {"schema": "v2"}})).await?;
    let sync = place.applied("app", &app.1).await?;
    assert_eq!(sync.annotations()["needs"], "v2");

    let bad = json!({"spec": {"dependsOn": [{"name": "db", "readyExpr": "dep.status.isReady()"}]}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(bad)).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "InvalidCELExpression").await?;
    assert_eq!(ready.message, "spec.dependsOn[0].readyExpr: there is no function isReady");
    Ok(())
}

async fn repository(git: &GitServer, name: &str) -> Result<(harness::Repository, String)> {
    let repository = git.create(name).await?;
    repository.write("map.yaml", config_map(name, "one"))?;
    let commit = repository.commit(name).await?;
    Ok((repository, commit))
}
