//! What others change is told exactly: which field of which object, and who. Some of it is theirs to change.

use anyhow::Result;
use harness::{At, GitServer, eventually, seal};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Event},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, config_map, follow, start};

/// As a program of this name would write.
fn manager(name: &str) -> PatchParams {
    PatchParams { field_manager: Some(name.to_owned()), ..PatchParams::default() }
}

#[tokio::test]
async fn who_changed_what_is_told_and_put_back() -> Result<()> {
    let (place, git) = start("drift-told").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "right"))?;
    repository.write("app.yaml", deployment(3, "app:1"))?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"interval": "1h"})).await?;
    place.applied("app", &commit).await?;

    let wrong = json!({"data": {"value": "hunter2"}});
    place.maps().patch("settings", &manager("meddler"), &Patch::Merge(wrong)).await?;
    let map = format!("ConfigMap {}/settings", place.namespace);
    let said = place.event("DriftCorrected", &format!("Drift corrected: {map} (.data.value by meddler)")).await?;
    assert!(!said.contains("hunter2"), "{said}");
    place.says("settings", &[("value", "right")]).await?;
    let without = json!({"data": {"value": null}});
    place.maps().patch("settings", &manager("meddler"), &Patch::Merge(without)).await?;
    place.event("DriftCorrected", &format!("{map} (.data.value removed)")).await?;
    place.maps().delete("settings", &DeleteParams::default()).await?;
    place.event("DriftCorrected", &format!("{map} (deleted)")).await?;
    place.says("settings", &[("value", "right")]).await?;

    let set = ["-n", &place.namespace, "set", "image", "deployment/app", "app=app:2"];
    place.world.cluster.kubectl(&set).await?;
    let image = ".spec.template.spec.containers[name=\"app\"].image by kubectl-set";
    place.event("DriftCorrected", image).await?;
    let scale = ["-n", &place.namespace, "scale", "deployment/app", "--replicas=9"];
    place.world.cluster.kubectl(&scale).await?;
    place.event("DriftCorrected", "(.spec.replicas by kubectl)").await?;
    deployed(&place, 3, "app:1").await?;
    let series = "sealed_secrets_controller_git_sync_drifts_total{manager=\"meddler\",action=\"corrected\"";
    assert!(place.world.controller.metric(series).await? >= 1.0);
    assert!(place.world.controller.logs().await?.contains("(.data.value by meddler)"));
    Ok(())
}

/// It would be put back like the first, and nobody would know.
#[tokio::test]
async fn an_edit_that_comes_just_before_another_is_put_back_is_told_too() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let (place, git) = (world.place("drift-twice").await?, GitServer::start()?);
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "right"))?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"interval": "1h"})).await?;
    place.applied("app", &commit).await?;

    let mut held =
        gate.hold(At::Request, |asked| asked.method == "PATCH" && asked.path.ends_with("/configmaps/settings"));
    // The API server itself is not held.
    for (name, value) in [("first", "wrong"), ("second", "worse")] {
        let edit = json!({"data": {"value": value}});
        place.maps().patch("settings", &manager(name), &Patch::Merge(edit)).await?;
        held.caught().await?;
    }
    held.pass();
    place.event("DriftCorrected", "(.data.value by second)").await?;
    place.says("settings", &[("value", "right")]).await.map(drop)
}

#[tokio::test]
async fn drift_that_is_left_is_told_in_the_condition() -> Result<()> {
    let (place, git) = start("drift-left").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "right"))?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"drift": "Report"})).await?;
    place.applied("app", &commit).await?;
    let wrong = json!({"data": {"value": "wrong"}});
    place.maps().patch("settings", &manager("meddler"), &Patch::Merge(wrong)).await?;
    let map = format!("ConfigMap {}/settings", place.namespace);
    let told = format!("changed by others: {map} (.data.value by meddler)");
    place.condition("app", "Drifted", "True", &told).await?;
    place.event("DriftReported", &told).await?;
    let add = ["-n", &place.namespace, "patch", "configmap", "settings", "-p", "{\"data\":{\"more\":\"x\"}}"];
    place.world.cluster.kubectl(&add).await?;
    place.condition("app", "Drifted", "True", "(.data.more by kubectl-patch; .data.value by meddler)").await?;
    place.says("settings", &[("value", "wrong"), ("more", "x")]).await?;
    place.maps().delete("settings", &DeleteParams::default()).await?;
    place.condition("app", "Drifted", "True", &format!("{map} (deleted)")).await?;
    let correct = json!({"spec": {"drift": "Correct"}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(correct)).await?;
    place.says("settings", &[("value", "right")]).await?;
    place.condition("app", "Drifted", "False", "").await?;
    Ok(())
}

/// What a person adds by hand goes again; what a person asks of a controller, and what another program adds, stays.
#[tokio::test]
async fn kubectls_edits_are_taken_over() -> Result<()> {
    let (place, git) = start("kubectl").await?;
    let repository = git.create("app").await?;
    let name = &place.namespace;
    let by_hand = |name: &str| {
        let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"value": "hand", "extra": "hand"}});
        map["metadata"] = json!({"name": name, "namespace": place.namespace});
        map.to_string()
    };
    let apply = async |manifest: &str, flags: &[&str]| {
        let args = [&["apply", "--filename=-"], flags].concat();
        place.world.cluster.kubectl_as(place.world.cluster.kubeconfig(), &args, manifest).await?.success()
    };
    // It was there before: it is adopted.
    apply(&by_hand("old"), &[]).await?;
    let merge = "  annotations: {kustomize.toolkit.fluxcd.io/ssa: Merge}\n";
    for map in ["old", "client", "server"] {
        repository.write(&format!("{map}.yaml"), config_map(map, "git"))?;
    }
    let merged = config_map("merged", "git").replacen("metadata:\n", &format!("metadata:\n{merge}"), 1);
    repository.write("merged.yaml", merged)?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"interval": "1h"})).await?;
    place.applied("app", &commit).await?;
    let git_alone = [("value", "git")];
    let old = place.says("old", &git_alone).await?;
    assert!(old.annotations().is_empty(), "{:?}", old.annotations());

    apply(&by_hand("client"), &[]).await?;
    apply(&by_hand("server"), &["--server-side", "--force-conflicts"]).await?;
    apply(&by_hand("merged"), &["--server-side", "--force-conflicts"]).await?;
    place.event("DriftCorrected", ".data.extra, .data.value by kubectl").await?;
    for map in ["client", "server"] {
        let map = place.says(map, &git_alone).await?;
        let managers: Vec<_> = map.managed_fields().iter().filter_map(|it| it.manager.clone()).collect();
        assert_eq!(managers, ["signet-gitsync"]);
    }
    place.says("merged", &[("value", "git"), ("extra", "hand")]).await?;

    let ask = ["-n", name, "annotate", "configmap", "old", "reconcile.fluxcd.io/requestedAt=now", "note=by-hand"];
    place.world.cluster.kubectl(&ask).await?;
    place.event("DriftCorrected", "(.metadata.annotations.note by kubectl-annotate)").await?;
    let tool = json!({"data": {"tool": "x"}});
    place.maps().patch("old", &manager("tool"), &Patch::Merge(tool)).await?;
    let old = place.says("old", &[("value", "git"), ("tool", "x")]).await?;
    assert_eq!(old.annotations().keys().collect::<Vec<_>>(), ["reconcile.fluxcd.io/requestedAt"]);
    Ok(())
}

/// An autoscaler has the replicas, whether it applies or patches; everything else is Git's.
#[tokio::test]
async fn ignored_fields_are_the_clusters() -> Result<()> {
    let (place, git) = start("ignore").await?;
    let repository = git.create("app").await?;
    repository.write("app.yaml", deployment(3, "app:1"))?;
    repository.write("map.yaml", config_map("settings", "git"))?;
    let first = repository.commit("one").await?;
    let target = json!({"group": "apps", "kind": "Deployment", "name": "a.*"});
    let rules = json!([{"paths": ["/spec/replicas"], "target": target}, {"managers": ["tuner"]}]);
    follow(&place, "app", &repository, json!({"ignore": rules})).await?;
    place.applied("app", &first).await?;
    let deployments = Api::<Deployment>::namespaced(place.client.clone(), &place.namespace);
    deployed(&place, 3, "app:1").await?;

    // Nobody else has it: it stays as it stands, though Git says something else.
    repository.write("app.yaml", deployment(4, "app:2"))?;
    let second = repository.commit("two").await?;
    place.applied("app", &second).await?;
    deployed(&place, 3, "app:2").await?;
    let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "app:9"}]);
    let image: Patch<()> = Patch::Json(serde_json::from_value(image)?);
    deployments.patch("app", &manager("meddler"), &image).await?;
    let said = place.event("DriftCorrected", "containers[name=\"app\"].image by meddler").await?;
    assert!(!said.contains("replicas"), "{said}");
    deployed(&place, 3, "app:2").await?;

    let replicas = |count: u32| json!({"spec": {"replicas": count}});
    deployments.patch("app", &manager("autoscaler"), &Patch::Merge(replicas(7))).await?;
    repository.write("app.yaml", deployment(4, "app:3"))?;
    let third = repository.commit("three").await?;
    place.applied("app", &third).await?;
    deployed(&place, 7, "app:3").await?;
    let mut applied = replicas(8);
    (applied["apiVersion"], applied["kind"]) = ("apps/v1".into(), "Deployment".into());
    deployments.patch("app", &PatchParams::apply("other-scaler").force(), &Patch::Apply(applied)).await?;
    repository.write("app.yaml", deployment(5, "app:4"))?;
    let fourth = repository.commit("four").await?;
    place.applied("app", &fourth).await?;
    let left = deployed(&place, 8, "app:4").await?;
    let ours = left.managed_fields().iter().find(|it| it.manager.as_deref() == Some("signet-gitsync"));
    let fields = ours.and_then(|it| it.fields_v1.as_ref()).map(|it| it.0.to_string()).unwrap_or_default();
    assert!(!fields.contains("f:replicas") && fields.contains("f:image"), "{fields}");

    let tuned = json!({"data": {"value": "tuned"}});
    place.maps().patch("settings", &manager("tuner"), &Patch::Merge(tuned)).await?;
    repository.write("map.yaml", config_map("settings", "git again") + "  more: \"x\"\n")?;
    let fifth = repository.commit("five").await?;
    place.applied("app", &fifth).await?;
    place.says("settings", &[("value", "tuned"), ("more", "x")]).await?;
    let name = format!("{}/app", place.namespace);
    let diff = seal(Some(place.world.cluster.kubeconfig()), &["sync", "diff", &name], "").await?.success()?;
    assert!(diff.contains("0 changed"), "what is ignored is no difference: {diff}");

    // What is made anew is made as Git says, and without the rules all is.
    deployments.delete("app", &DeleteParams::default()).await?;
    deployed(&place, 5, "app:4").await?;
    let none = json!({"spec": {"ignore": null}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(none)).await?;
    place.says("settings", &[("value", "git again"), ("more", "x")]).await?;
    let bad = json!({"spec": {"ignore": [{"paths": ["spec"]}]}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(bad)).await?;
    place.ready("app", |ready, _| ready.message.contains("spec.ignore[0].paths: \"spec\" is no JSON pointer")).await?;
    let events = Api::<Event>::namespaced(place.client.clone(), &place.namespace).list(&ListParams::default()).await?;
    let told = events.iter().filter(|event| event.reason.as_deref() == Some("DriftCorrected"));
    let mut told = told.filter_map(|event| event.message.as_deref());
    assert_eq!(told.find(|message| message.contains("replicas")), None);
    Ok(())
}

/// Two who correct each other would do so without end.
#[tokio::test]
async fn a_fight_is_told_and_given_up() -> Result<()> {
    let (place, git) = start("fight").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "ours"))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let maps = place.maps();
    let other = tokio::spawn(async move {
        eventually("the fight to be given up", SOON, || async {
            let theirs = json!({"data": {"value": "theirs"}});
            let is_ours = |map: &ConfigMap| map.data.iter().flatten().any(|(_, value)| value == "ours");
            if is_ours(&maps.get("settings").await?) {
                maps.patch("settings", &manager("rival"), &Patch::Merge(theirs)).await?;
            }
            Ok(None::<()>)
        })
        .await
    });
    let told = format!("ConfigMap {}/settings (.data.value by rival)", place.namespace);
    let drifted = place.condition("app", "Drifted", "True", &told).await?;
    assert_eq!(drifted.reason, "Fighting");
    assert!(drifted.message.contains("spec.ignore"), "{}", drifted.message);
    place.event("Fighting", &told).await?;
    assert!(place.world.controller.metric("sealed_secrets_controller_git_sync_fights_total").await? >= 1.0);
    place.says("settings", &[("value", "theirs")]).await?;
    other.abort();
    // Another commit is another matter.
    repository.write("map.yaml", config_map("settings", "ours again"))?;
    repository.commit("two").await?;
    place.says("settings", &[("value", "ours again")]).await?;
    place.condition("app", "Drifted", "False", "").await?;
    Ok(())
}

fn deployment(replicas: u32, image: &str) -> String {
    let labels = json!({"app": "app"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": image}]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}, "spec": spec}).to_string()
}

async fn deployed(place: &Place<'_>, replicas: i32, image: &str) -> Result<Deployment> {
    let api = Api::<Deployment>::namespaced(place.client.clone(), &place.namespace);
    eventually(&format!("{replicas} replicas of {image}"), SOON, || async {
        let found = api.get_opt("app").await?;
        let is_so = |found: &Deployment| {
            let value: Value = serde_json::to_value(found).unwrap_or_default();
            value["spec"]["replicas"] == replicas
                && value["spec"]["template"]["spec"]["containers"][0]["image"] == image
        };
        Ok(found.filter(is_so))
    })
    .await
}
