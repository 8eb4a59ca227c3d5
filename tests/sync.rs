//! What stands in Git stands in the cluster: applied, healed, pruned and reported.

use std::path::Path;

use anyhow::{Context as _, Result};
use crds::{GitSync, git_sync::RECONCILE_REQUESTED};
use harness::{GitServer, Repository, eventually};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Event, Service, ServiceAccount},
        rbac::v1::Role,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{Place, SOON, World, config_map, follow, start};

/// Nine objects of a public repository, a SealedSecret beside them, and one file that goes.
#[tokio::test]
async fn real_manifests_are_applied_opened_and_pruned() -> Result<()> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/podinfo/deploy/webapp");
    if !fixture.exists() {
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(&mut stderr, b"skipped: ../shared/fixtures is not here\n")?;
        return Ok(());
    }
    let world = World::shared().await?;
    let place = world.place("podinfo").await?;
    let git = GitServer::start()?;
    let repository = git.create("webapp").await?;
    for file in [
        "common/namespace",
        "common/service-account",
        "common/reconciler-rbac",
        "backend/deployment",
        "backend/service",
        "backend/hpa",
        "frontend/deployment",
        "frontend/service",
        "frontend/hpa",
    ] {
        let text = std::fs::read_to_string(fixture.join(format!("{file}.yaml")))?;
        repository.write(&format!("deploy/{file}.yaml"), &text)?;
    }
    let sealed = world.seal(&crate::world::manifest("webapp", "db", &[("password", "s3cret")]), &[]).await?;
    repository.write("deploy/db.yaml", &sealed)?;
    repository.write("README.md", "not a manifest")?;
    let first = repository.commit("everything").await?;

    place.sync("webapp", &repository.url(), "deploy").await?;
    let sync = place.applied("webapp", &first).await?;
    assert_eq!(inventory(&sync).len(), 12, "{:?}", inventory(&sync));
    let client = || place.client.clone();
    Api::<Deployment>::namespaced(client(), "webapp").get("frontend").await?;
    Api::<Deployment>::namespaced(client(), "webapp").get("backend").await?;
    Api::<ServiceAccount>::namespaced(client(), "webapp").get("webapp").await?;
    let role = Api::<Role>::namespaced(client(), "webapp").get("reconciler").await?;
    assert_eq!(role.labels()["gitsync.signet.dev/name"], "webapp");
    let webapp = Place { world, namespace: "webapp".to_owned(), client: client() };
    webapp.holds("db", &[("password", "s3cret")]).await?;

    repository.remove("deploy/frontend/service.yaml")?;
    let second = repository.commit("without a Service").await?;
    let sync = place.applied("webapp", &second).await?;
    assert_eq!(inventory(&sync).len(), 11);
    let services = Api::<Service>::namespaced(client(), "webapp");
    assert!(services.get_opt("frontend").await?.is_none());
    services.get("backend").await?;
    Api::<Deployment>::namespaced(client(), "webapp").get("frontend").await?;
    webapp.holds("db", &[("password", "s3cret")]).await?;
    Ok(())
}

#[tokio::test]
async fn drift_is_healed_within_seconds() -> Result<()> {
    let (place, git) = start("drift").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "right"))?;
    let commit = repository.commit("a ConfigMap").await?;
    slow_sync(&place, "app", &repository).await?;
    place.applied("app", &commit).await?;
    let maps = place.maps();
    let before = maps.get("settings").await?;

    let wrong = json!({"data": {"value": "wrong"}});
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(wrong)).await?;
    value(&place, "settings", "right").await?;
    maps.delete("settings", &DeleteParams::default()).await?;
    value(&place, "settings", "right").await?;
    // Out of the watch's sight: without our label it is no longer ours to see, and so it is put back.
    let bare = json!({"metadata": {"labels": {"gitsync.signet.dev/name": null}}, "data": {"value": "wrong"}});
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(bare)).await?;
    value(&place, "settings", "right").await?;

    // What is not in Git is nobody's drift.
    let more = json!({"data": {"other": "kept"}});
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(more)).await?;
    let wrong = json!({"data": {"value": "wrong again"}});
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(wrong)).await?;
    let healed = value(&place, "settings", "right").await?;
    assert_ne!(before.uid(), healed.uid());
    let events: Api<Event> = Api::namespaced(place.client.clone(), &place.namespace);
    let said = |event: &Event| event.message.as_deref().is_some_and(|it| it.starts_with("Drift corrected: ConfigMap"));
    eventually("the Event", SOON, || async {
        Ok(events.list(&ListParams::default()).await?.iter().any(said).then_some(()))
    })
    .await?;
    assert_eq!(healed.data.unwrap_or_default()["other"], "kept");
    Ok(())
}

#[tokio::test]
async fn while_git_is_away_the_last_good_state_is_kept_and_healed() -> Result<()> {
    let (place, git) = start("away").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &first).await?;

    git.stop();
    let ready = place.ready("app", |ready, _| ready.status == "False").await?;
    assert!(ready.message.contains(&repository.url()), "{}", ready.message);
    place.maps().delete("settings", &DeleteParams::default()).await?;
    value(&place, "settings", "one").await?;

    git.resume();
    repository.write("map.yaml", config_map("settings", "two"))?;
    let second = repository.commit("two").await?;
    place.applied("app", &second).await?;
    value(&place, "settings", "two").await?;
    Ok(())
}

/// The mirror on disk outlives the process: drift is healed though Git is away from the start.
#[tokio::test]
async fn a_restart_while_git_is_away_forgets_nothing() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("away").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let commit = repository.commit("one").await?;
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &commit).await?;

    git.stop();
    world.controller.kill().await?;
    place.maps().delete("settings", &DeleteParams::default()).await?;
    world.controller.restart().await?;
    value(&place, "settings", "one").await?;
    place.ready("app", |ready, _| ready.status == "False" && ready.reason == "Unreachable").await?;
    Ok(())
}

#[tokio::test]
async fn what_only_another_spec_can_mend_is_stalled() -> Result<()> {
    let (place, git) = start("stalled").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let commit = repository.commit("one").await?;
    place.sync("outside", &repository.url(), "../..").await?;
    place.sync("password", "http://robot:hunter2@127.0.0.1/app.git", "").await?;
    // As many hours as there is a number for.
    follow(&place, "rarely", &repository, json!({"interval": "2562047788015215h"})).await?;
    let all = [("outside", "InvalidPath"), ("password", "InvalidUrl"), ("rarely", "InvalidSpec")];
    for (name, reason) in all {
        let ready = place.ready(name, |ready, _| ready.reason == reason).await?;
        assert!(!ready.message.contains("hunter2"), "{}", ready.message);
        let status = place.syncs().get(name).await?.status.unwrap_or_default();
        assert!(status.conditions.iter().any(|it| it.type_ == "Stalled" && it.status == "True"), "{name}: {status:?}");
    }
    // Nobody else is.
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &commit).await?;
    Ok(())
}

/// All that is wrong with a commit is told at once, with file and line, and nothing of it is applied.
#[tokio::test]
async fn a_bad_commit_changes_nothing_and_says_everything() -> Result<()> {
    let (place, git) = start("bad-commit").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "good"))?;
    let good = repository.commit("good").await?;
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &good).await?;

    repository.write("map.yaml", config_map("settings", "bad"))?;
    repository.write(
        "broken.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ok}\n---\nkey: [\n---\nkind: ConfigMap\n",
    )?;
    repository.write("plain.yaml", place.secret("db", &[("password", "hunter2")]))?;
    repository.write("widget.yaml", "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n")?;
    let bad = repository.commit("bad").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "BuildFailed").await?;
    for part in [
        "broken.yaml:5",
        "broken.yaml:7: apiVersion is missing",
        "plain.yaml:1",
        "seal -f plain.yaml",
        "no Widget in example.com/v1",
    ] {
        assert!(ready.message.contains(part), "{part} in {}", ready.message);
    }
    assert!(!ready.message.contains("hunter2"), "{}", ready.message);
    let status = place.syncs().get("app").await?.status.context("a status")?;
    assert_eq!(status.last_attempted_revision, Some(format!("main@sha1:{bad}")));
    assert_eq!(status.last_applied_revision, Some(format!("main@sha1:{good}")));
    value(&place, "settings", "good").await?;

    for file in ["broken.yaml", "plain.yaml", "widget.yaml"] {
        repository.remove(file)?;
    }
    let repaired = repository.commit("repaired").await?;
    place.applied("app", &repaired).await?;
    value(&place, "settings", "bad").await?;
    Ok(())
}

/// It could be opened, but what it would write over is not ours.
#[tokio::test]
async fn a_sealed_secret_that_fails_is_the_syncs_failure() -> Result<()> {
    let (place, git) = start("sealed").await?;
    let repository = git.create("app").await?;
    let sealed = place.world.seal(&place.secret("db", &[("password", "s3cret")]), &[]).await?;
    place.world.cluster.apply(&place.secret("db", &[("password", "by hand")])).await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.write("secrets/db.yaml", &sealed)?;
    let commit = repository.commit("a Secret that is there already").await?;
    place.sync("app", &repository.url(), ".").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "SealedSecretFailed").await?;
    let expected = format!("secrets/db.yaml:2: SealedSecret {}/db: ", place.namespace);
    assert!(ready.message.contains(&expected), "{}", ready.message);
    value(&place, "settings", "one").await?;

    place.secrets().delete("db", &DeleteParams::default()).await?;
    place.applied("app", &commit).await?;
    place.holds("db", &[("password", "s3cret")]).await?;
    Ok(())
}

#[tokio::test]
async fn a_definition_and_its_objects_come_in_one_commit() -> Result<()> {
    let (place, git) = start("widgets").await?;
    let repository = git.create("app").await?;
    repository.write(
        "a-widget.yaml",
        "apiVersion: tests.signet.dev/v1\nkind: Widget\nmetadata: {name: first}\nspec: {size: 3}\n",
    )?;
    repository.write("z-crd.yaml", include_str!("testdata/widget-crd.yaml"))?;
    let commit = repository.commit("a kind of our own").await?;
    place.sync("app", &repository.url(), "/").await?;
    place.applied("app", &commit).await?;
    let of_it = ["-n", &place.namespace, "get", "widgets.tests.signet.dev", "first", "-o", "jsonpath={.spec.size}"];
    assert_eq!(place.world.cluster.kubectl(&of_it).await?, "3");

    // It goes as it came: the object, then its definition.
    place.syncs().delete("app", &DeleteParams::default()).await?;
    gone(&place, "app").await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(place.client.clone());
    eventually("the definition to go", SOON, || async {
        Ok(definitions.get_opt("widgets.tests.signet.dev").await?.is_none().then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn what_goes_with_its_git_sync_and_what_stays() -> Result<()> {
    let (place, git) = start("teardown").await?;
    let repository = git.create("app").await?;
    repository.write("one/map.yaml", config_map("pruned", "x"))?;
    repository.write("two/map.yaml", config_map("kept", "x"))?;
    let commit = repository.commit("two folders").await?;
    place.sync("one", &repository.url(), "one").await?;
    place.sync("two", &repository.url(), "./two/").await?;
    place.applied("one", &commit).await?;
    place.applied("two", &commit).await?;

    let suspend = json!({"spec": {"suspend": true}});
    place.syncs().patch("two", &PatchParams::default(), &Patch::Merge(suspend)).await?;
    for name in ["one", "two"] {
        place.syncs().delete(name, &DeleteParams::default()).await?;
        gone(&place, name).await?;
    }
    assert!(place.maps().get_opt("pruned").await?.is_none());
    value(&place, "kept", "x").await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_emptied_by_mistake() -> Result<()> {
    let (place, git) = start("empty").await?;
    let repository = git.create("app").await?;
    repository.write("app/map.yaml", config_map("settings", "x"))?;
    let commit = repository.commit("one").await?;
    place.sync("app", &repository.url(), "app").await?;
    place.applied("app", &commit).await?;
    repository.remove("app/map.yaml")?;
    repository.write("app/README.md", "moved")?;
    repository.commit("nothing left").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "PruneRefused").await?;
    assert!(ready.message.contains("refusing to delete all 1 objects"), "{}", ready.message);
    repository.remove("app/README.md")?;
    repository.write("README.md", "moved")?;
    repository.commit("no folder left").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "PathNotFound").await?;
    assert!(ready.message.contains("app"), "{}", ready.message);
    value(&place, "settings", "x").await?;
    Ok(())
}

#[tokio::test]
async fn two_syncs_do_not_fight_over_one_object() -> Result<()> {
    let (place, git) = start("claim").await?;
    let repository = git.create("app").await?;
    repository.write("one/map.yaml", config_map("shared", "one"))?;
    repository.write("two/map.yaml", config_map("shared", "two"))?;
    let commit = repository.commit("the same object twice").await?;
    place.sync("one", &repository.url(), "one").await?;
    place.applied("one", &commit).await?;
    place.sync("two", &repository.url(), "two").await?;
    let ready = place.ready("two", |ready, _| ready.status == "False").await?;
    let expected = format!("two/map.yaml:1: ConfigMap {0}/shared belongs to the GitSync {0}/one", place.namespace);
    assert!(ready.message.contains(&expected), "{}", ready.message);
    let before = value(&place, "shared", "one").await?;
    let told = place.syncs().get("two").await?.resource_version();
    let asked = git.requests();
    eventually("Git to be asked again by both", SOON, || async { Ok((git.requests() >= asked + 12).then_some(())) })
        .await?;
    assert_eq!(value(&place, "shared", "one").await?.resource_version(), before.resource_version(), "nobody writes it");
    assert_eq!(place.syncs().get("two").await?.resource_version(), told, "nor anything else");

    // Handed over, it does not go with the file of the one that had it.
    let to = json!({"metadata": {"labels": {"gitsync.signet.dev/name": "two"}}});
    place.maps().patch("shared", &PatchParams::default(), &Patch::Merge(to)).await?;
    value(&place, "shared", "two").await?;
    repository.remove("one/map.yaml")?;
    repository.write("one/other.yaml", config_map("other", "one"))?;
    let commit = repository.commit("one of them").await?;
    place.applied("one", &commit).await?;
    place.applied("two", &commit).await?;
    assert_eq!(value(&place, "shared", "two").await?.uid(), before.uid());
    Ok(())
}

/// Whoever of the two looks first.
#[tokio::test]
async fn what_moves_from_one_sync_to_another_is_handed_over() -> Result<()> {
    let (place, git) = start("moving").await?;
    let repository = git.create("app").await?;
    for sync in ["one", "two"] {
        repository.write(&format!("{sync}/own.yaml"), config_map(sync, "own"))?;
    }
    repository.write("one/map.yaml", config_map("moving", "0"))?;
    let commit = repository.commit("all in place").await?;
    for path in ["one", "two"] {
        let spec = json!({"source": {"url": repository.url()}, "path": path, "interval": "1h"});
        let sync = GitSync::new(path, serde_json::from_value(spec)?);
        place.syncs().create(&PostParams::default(), &sync).await?;
        place.applied(path, &commit).await?;
    }
    let uid = value(&place, "moving", "0").await?.uid();
    for (round, (from, to), first) in
        [(1, ("one", "two"), "one"), (2, ("two", "one"), "one"), (3, ("one", "two"), "two")]
    {
        repository.remove(&format!("{from}/map.yaml"))?;
        repository.write(&format!("{to}/map.yaml"), config_map("moving", round))?;
        let commit = repository.commit(&format!("from {from} to {to}")).await?;
        // The one that it leaves calls the other.
        for name in [first, from] {
            let request = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: format!("{round}")}}});
            place.syncs().patch(name, &PatchParams::default(), &Patch::Merge(request)).await?;
        }
        place.applied(from, &commit).await?;
        place.applied(to, &commit).await?;
        let moved = value(&place, "moving", &round.to_string()).await?;
        assert_eq!(moved.uid(), uid, "from {from} to {to}, {first} first");
        assert_eq!(moved.labels().get("gitsync.signet.dev/name").map(String::as_str), Some(to));
        // A call is no request of a user's: it has no hook run again, and takes no other request's place.
        let asked = place.syncs().get("two").await?.annotations().get(RECONCILE_REQUESTED).cloned();
        assert_eq!(asked, (round > 1).then(|| round.to_string()));
    }
    Ok(())
}

/// Nothing moved: no write, and no request but the watches, however often Git is asked.
#[tokio::test]
async fn an_idle_sync_makes_no_call() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("idle").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.write("db.yaml", &world.seal(&place.secret("db", &[("a", "1")]), &[]).await?)?;
    let commit = repository.commit("one").await?;
    place.sync("app", &repository.url(), "").await?;
    let sync = place.applied("app", &commit).await?;
    // These come after what they tell of.
    place.event("Applied", &commit).await?;
    place.event("Unsealed", "").await?;
    let requests = || async {
        let text = world.cluster.kubectl(&["get", "--raw", "/metrics"]).await?;
        // Every write, and every single read: kubectl's own reads are of other things.
        let counted = |line: &&str| {
            line.starts_with("apiserver_request_total")
                && ["configmaps", "events", "gitsyncs", "sealedsecrets", "secrets"]
                    .iter()
                    .any(|it| line.contains(&format!("resource=\"{it}\"")))
                && !line.contains("verb=\"WATCH\"")
        };
        let count = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        anyhow::Ok(text.lines().filter(counted).filter_map(count).sum::<f64>())
    };
    let (asked, before) = (git.requests(), requests().await?);
    eventually("Git to be asked three times more", SOON, || async { Ok((git.requests() >= asked + 6).then_some(())) })
        .await?;
    assert_eq!(requests().await?.to_string(), before.to_string(), "{}", world.controller.logs().await?);
    assert_eq!(place.syncs().get("app").await?.resource_version(), sync.resource_version());
    Ok(())
}

/// A GitSync that looks at Git so seldom that only a watch can heal in time.
async fn slow_sync(place: &Place<'_>, name: &str, repository: &Repository) -> Result<()> {
    let spec = json!({"source": {"url": repository.url()}, "interval": "1h"});
    let sync = GitSync::new(name, serde_json::from_value(spec)?);
    place.syncs().create(&PostParams::default(), &sync).await?;
    Ok(())
}

fn inventory(sync: &GitSync) -> Vec<String> {
    let inventory = sync.status.as_ref().and_then(|status| status.inventory.clone()).unwrap_or_default();
    inventory.objects.into_keys().map(|id| id.to_string()).collect()
}

async fn value(place: &Place<'_>, name: &str, wanted: &str) -> Result<ConfigMap> {
    let api = place.maps();
    eventually(&format!("ConfigMap {name} to say {wanted}"), SOON, || async {
        let labelled = |map: &ConfigMap| map.labels().contains_key("gitsync.signet.dev/name");
        let says = |map: &ConfigMap| map.data.iter().flatten().any(|(key, value)| key == "value" && value == wanted);
        Ok(api.get_opt(name).await?.filter(|map| says(map) && labelled(map)))
    })
    .await
}

async fn gone(place: &Place<'_>, name: &str) -> Result<()> {
    let api = place.syncs();
    eventually(&format!("GitSync {name} to go"), SOON, || async {
        Ok(api.get_opt(name).await?.is_none().then_some(()))
    })
    .await
}
