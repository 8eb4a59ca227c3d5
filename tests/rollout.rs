//! In which order things happen, what they wait for, and who is asked.

use anyhow::{Context as _, Result};
use crds::{GitSync, git_sync::APPROVE};
use harness::{GitServer, eventually};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Secret},
        rbac::v1::RoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, config_map, follow, start};

/// No controller but ours runs here: the test says when a Deployment has rolled out.
#[tokio::test]
async fn a_wave_waits_for_the_health_of_the_one_before() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("waves").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("first.yaml", deployment("first", -1, "a"))?;
    repository.write("second.yaml", deployment("second", 0, "a"))?;
    repository.write("third.yaml", in_wave(&config_map("third", "one"), 5))?;
    let first = repository.commit("three waves").await?;
    follow(&place, "app", &repository, json!({"wait": true})).await?;
    let waits = |wave: &str, name: &str| {
        let words = (format!("wave {wave}: "), format!("Deployment {}/{name}", place.namespace));
        move |ready: &Condition, _: &GitSync| {
            ready.status == "Unknown" && ready.message.contains(&words.0) && ready.message.contains(&words.1)
        }
    };
    place.ready("app", waits("-1", "first")).await?;
    let deployments = Api::<Deployment>::namespaced(place.client.clone(), &place.namespace);
    assert!(deployments.get_opt("second").await?.is_none());
    rolled_out(&deployments, "first", "Available").await?;
    place.ready("app", waits("0", "second")).await?;
    assert!(place.maps().get_opt("third").await?.is_none());
    rolled_out(&deployments, "second", "Available").await?;
    place.applied("app", &first).await?;
    place.maps().get("third").await?;
    assert_eq!(condition(&place, "app", "Healthy").await?.status, "True");

    // One that cannot roll out fails at once, and stops what comes after.
    repository.write("first.yaml", deployment("first", -1, "b"))?;
    repository.write("third.yaml", in_wave(&config_map("third", "two"), 5))?;
    repository.commit("a bad image").await?;
    place.ready("app", waits("-1", "first")).await?;
    rolled_out(&deployments, "first", "ProgressDeadlineExceeded").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "HealthCheckFailed").await?;
    assert!(ready.message.contains("first: ProgressDeadlineExceeded"), "{}", ready.message);
    assert_eq!(condition(&place, "app", "Healthy").await?.status, "False");
    place.event("HealthCheckFailed", "first: ProgressDeadlineExceeded").await?;
    // What waits is not applied.
    let third = place.maps().get("third").await?.data.unwrap_or_default();
    assert_eq!(third["value"], "one");
    place.maps().delete("third", &DeleteParams::default()).await?;
    let generation = deployments.get("first").await?.metadata.generation;
    repository.write("first.yaml", deployment("first", -1, "a"))?;
    let repaired = repository.commit("the good image").await?;
    eventually("the repair to be applied", SOON, || async {
        Ok((deployments.get("first").await?.metadata.generation > generation).then_some(()))
    })
    .await?;
    rolled_out(&deployments, "first", "Available").await?;
    place.applied("app", &repaired).await?;
    place.event("ReconciliationSucceeded", &repaired).await?;
    value(&place, "third", "two").await?;
    Ok(())
}

/// What needs others goes before them, by waves and within a wave by kinds: from Git, and with its GitSync.
#[tokio::test]
async fn what_goes_goes_backwards() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("backwards").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    for set in ["a", "b"] {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": format!("{set}-account")}});
        let maps = [("early", -1), ("map", 0), ("late", 5)];
        let maps = maps.map(|(name, wave)| in_wave(&config_map(&format!("{set}-{name}"), "one"), wave));
        repository.write(&format!("{set}.yaml"), format!("{account}\n---\n{}", maps.join("---\n")))?;
    }
    repository.write("c.yaml", config_map("c", "one"))?;
    let first = repository.commit("two sets").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let deleted = |set: &str| {
        let all = gate.passed().into_iter().filter(|asked| asked.method == "DELETE");
        let names = all.filter_map(|asked| asked.path.rsplit('/').next().map(str::to_owned));
        names.filter_map(|name| name.strip_prefix(set).map(str::to_owned)).collect::<Vec<_>>()
    };

    repository.remove("a.yaml")?;
    let second = repository.commit("one set").await?;
    place.applied("app", &second).await?;
    assert_eq!(deleted("a-"), ["late", "map", "account", "early"]);
    place.syncs().delete("app", &DeleteParams::default()).await?;
    eventually("the GitSync to be gone", SOON, || async {
        Ok(place.syncs().get_opt("app").await?.is_none().then_some(()))
    })
    .await?;
    assert_eq!(deleted("b-"), ["late", "map", "account", "early"]);
    Ok(())
}

/// The newest commit does not wait for an older one to become healthy.
#[tokio::test]
async fn a_new_commit_ends_the_wait_for_an_old_one() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("newest").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("app.yaml", deployment("app", 0, "a"))?;
    repository.commit("it never becomes ready").await?;
    follow(&place, "app", &repository, json!({"wait": true, "timeout": "1h"})).await?;
    place.ready("app", |ready, _| ready.message.contains("waiting for Deployment")).await?;
    repository.remove("app.yaml")?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let second = repository.commit("without it").await?;
    place.applied("app", &second).await?;

    // And a wait has an end.
    repository.write("app.yaml", deployment("app", 0, "a"))?;
    repository.commit("again").await?;
    let short = json!({"spec": {"timeout": "1s"}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(short)).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "HealthCheckFailed").await?;
    assert!(ready.message.contains("not healthy within spec.timeout"), "{}", ready.message);
    Ok(())
}

#[tokio::test]
async fn a_plan_is_shown_and_waits_to_be_allowed() -> Result<()> {
    let (place, git) = start("manual").await?;
    let repository = git.create("app").await?;
    repository.write("a.yaml", config_map("a", "one"))?;
    repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"syncPolicy": "Manual"})).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "ApprovalRequired").await?;
    assert!(place.maps().get_opt("a").await?.is_none());
    let plan = plan(&place, "app").await?;
    assert_eq!(plan.steps, [format!("apply ConfigMap {}/a", place.namespace)]);
    assert!(ready.message.ends_with(&format!("{APPROVE}={}", plan.digest)), "{}", ready.message);

    // Another commit is another plan: the old leave does not hold for it.
    let planned = async |count: usize| {
        eventually("the newer plan", SOON, || async {
            let status = place.syncs().get("app").await?.status.unwrap_or_default();
            Ok(status.plan.filter(|plan| plan.steps.len() == count))
        })
        .await
    };
    repository.write("b.yaml", config_map("b", "one"))?;
    repository.commit("two").await?;
    planned(2).await?;
    approve(&place, "app", &plan.digest).await?;
    repository.write("c.yaml", config_map("c", "one"))?;
    let last = repository.commit("three").await?;
    let newer = planned(3).await?;
    assert!(place.maps().get_opt("a").await?.is_none());
    approve(&place, "app", &newer.digest).await?;
    let sync = place.applied("app", &last).await?;
    let status = sync.status.context("a status")?;
    assert_eq!(status.plan, None);
    assert_eq!(status.history[0].revision, format!("main@sha1:{last}"));
    // Drift needs nobody's leave, and a restart asks for none again (its digest is in the history).
    place.maps().delete("a", &DeleteParams::default()).await?;
    value(&place, "a", "one").await?;
    Ok(())
}

#[tokio::test]
async fn drift_may_be_reported_and_left() -> Result<()> {
    let (place, git) = start("report").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "right"))?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"drift": "Report"})).await?;
    place.applied("app", &commit).await?;
    assert_eq!(condition(&place, "app", "Drifted").await?.status, "False");
    let wrong = json!({"data": {"value": "by hand"}});
    place.maps().patch("settings", &PatchParams::default(), &Patch::Merge(wrong)).await?;
    let drifted = eventually("drift to be told", SOON, || async {
        Ok(Some(condition(&place, "app", "Drifted").await?).filter(|drifted| drifted.status == "True"))
    })
    .await?;
    assert!(drifted.message.contains(&format!("ConfigMap {}/settings", place.namespace)), "{}", drifted.message);
    value(&place, "settings", "by hand").await?;
    let correct = json!({"spec": {"drift": "Correct"}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(correct)).await?;
    value(&place, "settings", "right").await?;
    Ok(())
}

#[tokio::test]
async fn one_sync_waits_for_another_and_a_circle_is_named() -> Result<()> {
    let (place, git) = start("depends").await?;
    let repository = git.create("app").await?;
    repository.write("db/map.yaml", config_map("db", "one"))?;
    repository.write("app/map.yaml", config_map("app", "one"))?;
    let commit = repository.commit("two parts").await?;
    follow(&place, "app", &repository, json!({"path": "app", "dependsOn": [{"name": "db"}], "interval": "1h"})).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "DependencyNotReady").await?;
    assert!(ready.message.contains(&format!("{}/db does not exist", place.namespace)), "{}", ready.message);
    assert!(place.maps().get_opt("app").await?.is_none());
    // It does not wait for its own interval.
    follow(&place, "db", &repository, json!({"path": "db"})).await?;
    place.applied("app", &commit).await?;

    let back = json!({"spec": {"dependsOn": [{"name": "app"}]}});
    place.syncs().patch("db", &PatchParams::default(), &Patch::Merge(back)).await?;
    repository.write("db/map.yaml", config_map("db", "two"))?;
    repository.commit("a circle").await?;
    let ready = place.ready("db", |ready, _| ready.reason == "DependencyCycle").await?;
    let name = &place.namespace;
    assert!(ready.message.contains(&format!("{name}/db -> {name}/app -> {name}/db")), "{}", ready.message);
    Ok(())
}

/// Most of what is there does not go because a folder was emptied, unless somebody says so.
#[tokio::test]
async fn mass_deletion_is_asked_about() -> Result<()> {
    let (place, git) = start("guard").await?;
    let repository = git.create("app").await?;
    for number in 0..15 {
        repository.write(&format!("map-{number}.yaml"), config_map(&format!("map-{number}"), "one"))?;
    }
    let first = repository.commit("fifteen").await?;
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &first).await?;
    for number in 0..14 {
        repository.remove(&format!("map-{number}.yaml"))?;
    }
    let second = repository.commit("one left").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "PruneRefused").await?;
    assert!(ready.message.contains("refusing to delete 14 of 15 objects"), "{}", ready.message);
    place.maps().get("map-0").await?;
    let plan = place.syncs().get("app").await?.status.and_then(|status| status.plan).context("a plan")?;
    assert!(ready.message.ends_with(&format!("={}", plan.digest)), "{}", ready.message);
    let expected = format!("delete ConfigMap {}/map-0", place.namespace);
    assert!(plan.steps.len() == 14 && plan.steps.contains(&expected), "{:?}", plan.steps);
    approve(&place, "app", &plan.digest).await?;
    let sync = place.applied("app", &second).await?;
    assert_eq!(sync.status.and_then(|status| status.plan), None);
    assert!(place.maps().get_opt("map-0").await?.is_none());
    place.maps().get("map-14").await?;

    // So may the last of them, and then there is nothing.
    repository.remove("map-14.yaml")?;
    let last = repository.commit("none left").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "PruneRefused").await?;
    assert!(ready.message.contains("nothing is left at the path"), "{}", ready.message);
    approve(&place, "app", &self::plan(&place, "app").await?.digest).await?;
    let sync = place.applied("app", &last).await?;
    assert_eq!(sync.status.and_then(|status| status.inventory).unwrap_or_default().objects.len(), 0);
    assert!(place.maps().get_opt("map-14").await?.is_none());
    Ok(())
}

/// Marks of Flux and Argo CD on single objects.
#[tokio::test]
async fn single_objects_are_kept_ignored_or_made_once() -> Result<()> {
    let (place, git) = start("marks").await?;
    let repository = git.create("app").await?;
    place.world.cluster.apply(&namespaced(&place, &config_map("existing", "by hand"))?.to_string()).await?;
    let once = "kustomize.toolkit.fluxcd.io/ssa: IfNotPresent";
    for (name, mark) in [
        ("kept", "argocd.argoproj.io/sync-options: Prune=false"),
        ("ignored", "kustomize.toolkit.fluxcd.io/reconcile: disabled"),
        ("once", once),
        ("existing", once),
        ("plain", "example.com/mark: none"),
    ] {
        repository.write(&format!("{name}.yaml"), annotated(&config_map(name, "one"), mark))?;
    }
    let first = repository.commit("five").await?;
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &first).await?;
    let maps = place.maps();
    assert!(maps.get_opt("ignored").await?.is_none());
    let says = async |name: &str| {
        anyhow::Ok(maps.get(name).await?.data.unwrap_or_default().remove("value").unwrap_or_default())
    };
    assert_eq!((says("existing").await?, says("once").await?), ("by hand".to_owned(), "one".to_owned()));

    repository.write("once.yaml", annotated(&config_map("once", "two"), once))?;
    repository.remove("kept.yaml")?;
    repository.remove("existing.yaml")?;
    repository.remove("plain.yaml")?;
    repository.write("other.yaml", config_map("other", "one"))?;
    let second = repository.commit("less").await?;
    place.applied("app", &second).await?;
    assert!(maps.get_opt("plain").await?.is_none());
    assert_eq!((says("kept").await?, says("once").await?), ("one".to_owned(), "one".to_owned()));
    assert_eq!(says("existing").await?, "by hand");

    repository.write("other.yaml", annotated(&config_map("other", "one"), "argocd.argoproj.io/sync-wave: first"))?;
    repository.commit("a wave that is none").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "BuildFailed").await?;
    assert!(ready.message.contains("other.yaml:1: ") && ready.message.contains("sync-wave"), "{}", ready.message);
    Ok(())
}

/// Only what is impossible otherwise, only where it is asked for, and never for the sake of what would be refused.
#[tokio::test]
async fn what_cannot_be_changed_is_made_anew_where_that_is_allowed() -> Result<()> {
    let (place, git) = start("force").await?;
    let repository = git.create("app").await?;
    let forced = "kustomize.toolkit.fluxcd.io/force: enabled";
    let map = |value: &str| format!("{}immutable: true\n", config_map("fixed", value));
    let binding = |role: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: binding\n  annotations:\n    {forced}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}\n"
        )
    };
    repository.write("map.yaml", map("one"))?;
    repository.write("binding.yaml", binding("view"))?;
    let first = repository.commit("one").await?;
    place.sync("app", &repository.url(), "").await?;
    place.applied("app", &first).await?;
    let before = place.maps().get("fixed").await?.uid();

    repository.write("map.yaml", map("two"))?;
    repository.write("binding.yaml", binding("edit"))?;
    repository.commit("two").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "ReconciliationFailed").await?;
    let expected = format!("map.yaml:1: ConfigMap {}/fixed: ", place.namespace);
    assert!(ready.message.contains(&expected) && ready.message.contains("immutable"), "{}", ready.message);
    let bindings = Api::<RoleBinding>::namespaced(place.client.clone(), &place.namespace);
    eventually("the binding to be made anew", SOON, || async {
        Ok((bindings.get("binding").await?.role_ref.name == "edit").then_some(()))
    })
    .await?;

    // Invalid as well as immutable: what is there stays.
    repository.write("map.yaml", annotated(&map("two"), forced).replace("value:", "not/a/key:"))?;
    repository.commit("invalid").await?;
    place.ready("app", |ready, _| ready.message.contains("not/a/key")).await?;
    assert_eq!(place.maps().get("fixed").await?.uid(), before);
    repository.write("map.yaml", annotated(&map("two"), forced))?;
    let last = repository.commit("forced").await?;
    place.applied("app", &last).await?;
    value(&place, "fixed", "two").await?;
    assert_ne!(place.maps().get("fixed").await?.uid(), before);
    // Secrets of others are never written over to get there.
    assert!(Api::<Secret>::namespaced(place.client.clone(), &place.namespace).get_opt("fixed").await?.is_none());
    Ok(())
}

async fn approve(place: &Place<'_>, name: &str, digest: &str) -> Result<()> {
    let approval = json!({"metadata": {"annotations": {APPROVE: digest}}});
    place.syncs().patch(name, &PatchParams::default(), &Patch::Merge(approval)).await?;
    Ok(())
}

async fn plan(place: &Place<'_>, name: &str) -> Result<crds::git_sync::PendingPlan> {
    place.syncs().get(name).await?.status.and_then(|status| status.plan).context("a plan")
}

async fn condition(place: &Place<'_>, name: &str, kind: &str) -> Result<Condition> {
    let status = place.syncs().get(name).await?.status.unwrap_or_default();
    status.conditions.into_iter().find(|condition| condition.type_ == kind).with_context(|| format!("no {kind}"))
}

async fn value(place: &Place<'_>, name: &str, wanted: &str) -> Result<()> {
    let api = place.maps();
    eventually(&format!("ConfigMap {name} to say {wanted}"), SOON, || async {
        let says = |map: &ConfigMap| map.data.iter().flatten().any(|(key, value)| key == "value" && value == wanted);
        Ok(api.get_opt(name).await?.filter(says).map(drop))
    })
    .await
}

pub fn deployment(name: &str, wave: i32, image: &str) -> String {
    let labels = json!({"app": name});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": image}]}});
    let metadata = json!({"name": name, "annotations": {"argocd.argoproj.io/sync-wave": wave.to_string()}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": pod});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}).to_string()
}

/// What the controller of Deployments would say of its newest generation.
pub async fn rolled_out(deployments: &Api<Deployment>, name: &str, reason: &str) -> Result<()> {
    let generation = deployments.get(name).await?.metadata.generation;
    let kind = if reason == "Available" { "Available" } else { "Progressing" };
    let status = if reason == "Available" { "True" } else { "False" };
    let status = json!({"status": {
        "observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
        "conditions": [{"type": kind, "status": status, "reason": reason}],
    }});
    deployments.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

pub fn in_wave(manifest: &str, wave: i32) -> String {
    annotated(manifest, &format!("argocd.argoproj.io/sync-wave: \"{wave}\""))
}

fn annotated(manifest: &str, mark: &str) -> String {
    manifest.replacen("metadata:\n", &format!("metadata:\n  annotations:\n    {mark}\n"), 1)
}

fn namespaced(place: &Place<'_>, manifest: &str) -> Result<Value> {
    let mut value = crate::world::document(manifest)?;
    value["metadata"]["namespace"] = place.namespace.clone().into();
    Ok(value)
}
