//! What is run before, within and after a sync, and when one has failed. No controller but ours runs here: the test says
//! how a Job ends.

use anyhow::{Context as _, Result};
use crds::{GitSync, git_sync::RECONCILE_REQUESTED};
use harness::{GitServer, eventually};
use k8s_openapi::api::{batch::v1::Job, core::v1::ConfigMap};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{Place, SOON, World, config_map, document, follow, start};

#[tokio::test]
async fn hooks_run_once_a_revision_at_their_turn() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("hooks").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.write("before.yaml", job("before", "argocd.argoproj.io/hook: PreSync"))?;
    let helm = "helm.sh/hook: post-install,post-upgrade\n    helm.sh/hook-delete-policy: hook-succeeded";
    repository.write("after.yaml", job("after", helm))?;
    repository.write("skipped.yaml", job("skipped", "argocd.argoproj.io/hook: Skip"))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    waits(&place, "PreSync", "before").await?;
    assert!(maps(&place).get_opt("settings").await?.is_none());
    assert!(inventory(&place).await?.contains(&"before".to_owned()));
    let before = jobs(&place).get("before").await?.uid();
    ends(&place, "before", true).await?;
    waits(&place, "PostSync", "after").await?;
    maps(&place).get("settings").await?;
    ends(&place, "after", true).await?;
    let sync = place.applied("app", &first).await?;
    assert_eq!(sync.status.and_then(|status| status.hooks), None, "all of it is done");
    gone(&place, "after").await?;
    assert!(jobs(&place).get_opt("skipped").await?.is_none());
    // What stays until the next run is known, so that it goes with the GitSync.
    assert_eq!(inventory(&place).await?, ["before", "settings"]);

    // Neither drift, nor a restart, nor a commit that changes nothing runs anything.
    let wrong = json!({"data": {"value": "by hand"}});
    maps(&place).patch("settings", &PatchParams::default(), &Patch::Merge(wrong)).await?;
    value(&place, "one").await?;
    world.controller.kill().await?;
    world.controller.restart().await?;
    repository.write("README.md", "no manifest")?;
    let second = repository.commit("nothing").await?;
    place.applied("app", &second).await?;
    assert_eq!(jobs(&place).get("before").await?.uid(), before);
    assert!(jobs(&place).get_opt("after").await?.is_none());

    // The next change does, and a restart while one runs does not run it twice.
    repository.write("map.yaml", config_map("settings", "two"))?;
    let third = repository.commit("two").await?;
    waits(&place, "PreSync", "before").await?;
    let again = jobs(&place).get("before").await?.uid();
    assert_ne!(again, before);
    world.controller.kill().await?;
    world.controller.restart().await?;
    ends(&place, "before", true).await?;
    waits(&place, "PostSync", "after").await?;
    assert_eq!(jobs(&place).get("before").await?.uid(), again);
    world.controller.kill().await?;
    ends(&place, "after", true).await?;
    world.controller.restart().await?;
    place.applied("app", &third).await?;
    gone(&place, "after").await?;
    value(&place, "two").await?;
    Ok(())
}

#[tokio::test]
async fn a_hook_that_fails_stops_the_sync_and_is_told() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("hooks").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.write("before.yaml", job("migrate", "gitsync.signet.dev/hook: PreSync"))?;
    let policy = "gitsync.signet.dev/hook: SyncFail\n    gitsync.signet.dev/hook-delete-policy: HookSucceeded";
    repository.write("alert.yaml", job("alert", policy))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    waits(&place, "PreSync", "migrate").await?;
    assert!(jobs(&place).get_opt("alert").await?.is_none());
    ends(&place, "migrate", false).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "HookFailed").await?;
    assert!(ready.message.contains(&format!("PreSync: Job {}/migrate: it went wrong", place.namespace)), "{ready:?}");
    assert!(maps(&place).get_opt("settings").await?.is_none());
    exists(&place, "alert").await?;
    let failed = jobs(&place).get("migrate").await?.uid();
    ends(&place, "alert", true).await?;
    gone(&place, "alert").await?;

    // It stays so until somebody asks for another try.
    world.controller.kill().await?;
    world.controller.restart().await?;
    place.ready("app", |ready, _| ready.reason == "HookFailed").await?;
    assert_eq!(jobs(&place).get("migrate").await?.uid(), failed);
    let request = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: "now"}}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(request)).await?;
    eventually("another try", SOON, || async {
        Ok(jobs(&place).get_opt("migrate").await?.filter(|job| job.uid() != failed).map(drop))
    })
    .await?;
    ends(&place, "migrate", true).await?;
    place.applied("app", &first).await?;
    value(&place, "one").await?;
    assert!(jobs(&place).get_opt("alert").await?.is_none());
    // A word that is none is told with its place.
    repository.write("before.yaml", job("migrate", "argocd.argoproj.io/hook: Presync"))?;
    repository.commit("a word").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "BuildFailed").await?;
    assert!(ready.message.contains("before.yaml:1: ") && ready.message.contains("\"Presync\""), "{ready:?}");
    Ok(())
}

/// A hook is deleted to be run again: not what bears its name by chance.
#[tokio::test]
async fn a_hook_takes_the_place_of_nothing_that_is_somebody_elses() -> Result<()> {
    let (place, git) = start("foreign").await?;
    let hook = job("migrate", "gitsync.signet.dev/hook: PreSync");
    let theirs = serde_json::from_value(document(&hook)?)?;
    let theirs = jobs(&place).create(&PostParams::default(), &theirs).await?;
    let repository = git.create("app").await?;
    repository.write("before.yaml", &hook)?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.ready("app", |ready, _| ready.message.contains("is not this GitSync's")).await?;
    assert_eq!(jobs(&place).get("migrate").await?.uid(), theirs.uid());
    Ok(())
}

async fn waits(place: &Place<'_>, phase: &str, name: &str) -> Result<()> {
    let words = (format!("{phase}: waiting for "), format!("Job {}/{name}", place.namespace));
    let is_so = |ready: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition, _: &GitSync| {
        ready.status == "Unknown" && ready.message.contains(&words.0) && ready.message.contains(&words.1)
    };
    place.ready("app", is_so).await.map(drop)
}

pub async fn exists(place: &Place<'_>, name: &str) -> Result<Job> {
    eventually(&format!("Job {name}"), SOON, || async { Ok(jobs(place).get_opt(name).await?) }).await
}

pub async fn gone(place: &Place<'_>, name: &str) -> Result<()> {
    eventually(&format!("Job {name} to go"), SOON, || async {
        Ok(jobs(place).get_opt(name).await?.is_none().then_some(()))
    })
    .await
}

/// What the controller of Jobs would say.
pub async fn ends(place: &Place<'_>, name: &str, well: bool) -> Result<()> {
    let now = "2026-11-21T09:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Test", "message": "it went wrong", "lastTransitionTime": now});
    let (first, last) = if well { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
    let mut status = json!({"startTime": now, "conditions": [condition(first), condition(last)]});
    if well {
        status["completionTime"] = json!(now);
    }
    let patch = Patch::Merge(json!({"status": status}));
    jobs(place).patch_status(name, &PatchParams::default(), &patch).await.with_context(|| format!("Job {name}"))?;
    Ok(())
}

pub fn job(name: &str, mark: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {name}\n  annotations:\n    {mark}\nspec:\n  template:\n    spec: {{restartPolicy: Never, containers: [{{name: main, image: none}}]}}\n"
    )
}

/// Names, in their order.
async fn inventory(place: &Place<'_>) -> Result<Vec<String>> {
    let inventory = place.syncs().get("app").await?.status.and_then(|status| status.inventory).unwrap_or_default();
    Ok(inventory.objects.into_keys().map(|id| id.name).collect())
}

async fn value(place: &Place<'_>, wanted: &str) -> Result<()> {
    eventually(&format!("the ConfigMap to say {wanted}"), SOON, || async {
        let all = maps(place).list(&ListParams::default()).await?;
        let says = |map: &ConfigMap| map.name_any() == "settings" && map.data.iter().flatten().any(|it| it.1 == wanted);
        Ok(all.iter().any(says).then_some(()))
    })
    .await
}

pub fn jobs(place: &Place<'_>) -> Api<Job> {
    Api::namespaced(place.client.clone(), &place.namespace)
}

fn maps(place: &Place<'_>) -> Api<ConfigMap> {
    Api::namespaced(place.client.clone(), &place.namespace)
}
