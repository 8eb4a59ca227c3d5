//! Scenarios of the Git sync that are about single objects in trouble: frozen, not to be deleted, slow to go, half done.

use anyhow::Result;
use harness::eventually;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace},
    storage::v1::StorageClass,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{Place, SOON, config_map, document, follow, start};

const FORCED: &str = "  annotations: {kustomize.toolkit.fluxcd.io/force: enabled}\n";

#[tokio::test]
async fn what_goes_from_git_stays_where_nothing_is_pruned() -> Result<()> {
    let (place, git) = start("unpruned").await?;
    let repository = git.create("app").await?;
    repository.write("goes.yaml", config_map("goes", "one"))?;
    repository.write("stays.yaml", config_map("stays", "one"))?;
    let first = repository.commit("two").await?;
    follow(&place, "app", &repository, json!({"prune": false})).await?;
    place.applied("app", &first).await?;
    let both = ["goes", "stays"].map(|name| format!("ConfigMap {}/{name}", place.namespace));
    assert_eq!(entries(&place, "app").await?, both);
    for name in ["goes", "stays"] {
        let map = place.maps().get(name).await?;
        let owner = ["namespace", "name"].map(|label| map.labels()[&format!("gitsync.signet.dev/{label}")].clone());
        assert_eq!(owner, [place.namespace.clone(), "app".to_owned()]);
    }
    repository.remove("goes.yaml")?;
    let second = repository.commit("one").await?;
    place.applied("app", &second).await?;
    assert_eq!(entries(&place, "app").await?, [format!("ConfigMap {}/stays", place.namespace)]);
    place.says("goes", &[("value", "one")]).await?;
    Ok(())
}

#[tokio::test]
async fn one_that_was_suspended_goes_on_where_git_is() -> Result<()> {
    let (place, git) = start("resume").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let suspend = |suspended: bool| Patch::Merge(json!({"spec": {"suspend": suspended}}));
    place.syncs().patch("app", &PatchParams::default(), &suspend(true)).await?;

    // Another GitSync of the same repository comes to the second commit, and to drift: there was time for both.
    repository.write("map.yaml", config_map("settings", "two"))?;
    repository.write("other/map.yaml", config_map("other", "two"))?;
    let second = repository.commit("two").await?;
    follow(&place, "other", &repository, json!({"path": "other"})).await?;
    place.applied("other", &second).await?;
    let edit = |value: &str| Patch::Merge(json!({"data": {"value": value}}));
    place.maps().patch("settings", &PatchParams::default(), &edit("edited")).await?;
    place.maps().patch("other", &PatchParams::default(), &edit("edited")).await?;
    place.says("other", &[("value", "two")]).await?;
    place.says("settings", &[("value", "edited")]).await?;

    repository.remove("other")?;
    let third = repository.commit("three").await?;
    place.syncs().patch("app", &PatchParams::default(), &suspend(false)).await?;
    place.applied("app", &third).await?;
    place.says("settings", &[("value", "two")]).await?;
    Ok(())
}

#[tokio::test]
async fn one_that_is_frozen_in_the_cluster_is_left_alone_until_it_thaws() -> Result<()> {
    let (place, git) = start("frozen").await?;
    let repository = git.create("app").await?;
    let both = |value: &str| {
        repository.write("frozen.yaml", config_map("frozen", value))?;
        repository.write("free.yaml", config_map("free", value))
    };
    both("one")?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let freeze = |mark: Value| {
        Patch::Merge(json!({"metadata": {"annotations": {"kustomize.toolkit.fluxcd.io/reconcile": mark}}}))
    };
    place.maps().patch("frozen", &PatchParams::default(), &freeze("disabled".into())).await?;
    both("two")?;
    let second = repository.commit("two").await?;
    place.applied("app", &second).await?;
    place.says("free", &[("value", "two")]).await?;
    place.says("frozen", &[("value", "one")]).await?;

    place.maps().patch("frozen", &PatchParams::default(), &freeze(Value::Null)).await?;
    place.says("frozen", &[("value", "two")]).await?;

    // Nor does it go from the cluster with its file.
    place.maps().patch("frozen", &PatchParams::default(), &freeze("disabled".into())).await?;
    repository.remove("frozen.yaml")?;
    repository.remove("free.yaml")?;
    repository.write("other.yaml", config_map("other", "three"))?;
    let third = repository.commit("three").await?;
    place.applied("app", &third).await?;
    assert!(place.maps().get_opt("free").await?.is_none());
    place.says("frozen", &[("value", "two")]).await?;
    Ok(())
}

#[tokio::test]
async fn what_may_not_be_deleted_is_told_and_tried_again() -> Result<()> {
    let (place, git) = start("undeletable").await?;
    let repository = git.create("app").await?;
    repository.write("goes.yaml", config_map("goes", "one"))?;
    repository.write("stays.yaml", config_map("stays", "one"))?;
    let first = repository.commit("two").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;

    let name = format!("{}-keeps", place.namespace);
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": place.namespace}});
    let deletes =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["configmaps"]}]);
    let (api, kind) = ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy");
    let policy = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": {
        "matchConstraints": {"namespaceSelector": selector, "resourceRules": deletes},
        "validations": [{"expression": "false", "message": "nothing is deleted here"}],
    }});
    let binding = json!({"apiVersion": api, "kind": format!("{kind}Binding"), "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]}});
    let cluster = &place.world.cluster;
    cluster.apply(&format!("{policy}\n---\n{binding}")).await?;
    let trial = DeleteParams { dry_run: true, ..DeleteParams::default() };
    eventually("the policy to be in force", SOON, || async {
        Ok(place.maps().delete("goes", &trial).await.is_err().then_some(()))
    })
    .await?;

    repository.remove("goes.yaml")?;
    let second = repository.commit("one").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "PruneFailed").await?;
    assert!(ready.message.contains("nothing is deleted here"), "{}", ready.message);
    assert_eq!(entries(&place, "app").await?.len(), 2, "it is not forgotten");
    cluster.kubectl(&["delete", &format!("{kind}Binding"), &name]).await?;
    place.applied("app", &second).await?;
    assert!(place.maps().get_opt("goes").await?.is_none());
    assert_eq!(entries(&place, "app").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_is_made_anew_waits_until_the_old_one_is_gone() -> Result<()> {
    let (place, git) = start("slow-to-go").await?;
    let repository = git.create("app").await?;
    let class = format!("{}-disks", place.namespace);
    let both = |value: &str| {
        let fixed = config_map("fixed", value).replace("metadata:\n", &format!("metadata:\n{FORCED}"));
        repository.write("map.yaml", format!("{fixed}immutable: true\n"))?;
        repository.write(
            "class.yaml",
            format!(
                "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n{FORCED}  name: {class}\nprovisioner: example.com/none\nparameters: {{type: {value}}}\n"
            ),
        )
    };
    both("one")?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let hold = |by: Value| Patch::Merge(json!({"metadata": {"finalizers": by}}));
    let old = place.maps().patch("fixed", &PatchParams::default(), &hold(json!(["tests.signet.dev/hold"]))).await?;

    both("two")?;
    let second = repository.commit("two").await?;
    eventually("the old one to be going", SOON, || async {
        let map: ConfigMap = place.maps().get("fixed").await?;
        Ok((map.uid() == old.uid() && map.metadata.deletion_timestamp.is_some()).then_some(()))
    })
    .await?;
    place.maps().patch("fixed", &PatchParams::default(), &hold(Value::Null)).await?;
    place.applied("app", &second).await?;
    let new = place.says("fixed", &[("value", "two")]).await?;
    assert_ne!(new.uid(), old.uid());
    let classes: Api<StorageClass> = Api::all(place.client.clone());
    assert_eq!(classes.get(&class).await?.parameters.unwrap_or_default()["type"], "two");
    Ok(())
}

#[tokio::test]
async fn a_definition_may_come_after_what_needs_it() -> Result<()> {
    let (place, git) = start("later").await?;
    let repository = git.create("app").await?;
    let kind = "apiVersion: later.signet.dev/v1\nkind: Widget\nmetadata: {name: first}\nspec: {size: 3}\n";
    repository.write("widget.yaml", kind)?;
    let commit = repository.commit("a kind that nobody knows").await?;
    follow(&place, "app", &repository, json!({})).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "BuildFailed").await?;
    assert!(ready.message.contains("widget.yaml:1") && ready.message.contains("Widget"), "{}", ready.message);
    let definition = include_str!("testdata/widget-crd.yaml").replace("tests.signet.dev", "later.signet.dev");
    place.world.cluster.apply(&definition).await?;
    place.applied("app", &commit).await?;

    // It goes, and all of its kind with it: that is told.
    place.world.cluster.kubectl(&["delete", "crd", "widgets.later.signet.dev"]).await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.commit("more").await?;
    place.ready("app", |ready, _| ready.status == "False" && ready.message.contains("Widget")).await?;
    Ok(())
}

#[tokio::test]
async fn a_kind_gets_a_new_version_with_a_default() -> Result<()> {
    let (place, git) = start("versions").await?;
    let repository = git.create("app").await?;
    let definition = include_str!("testdata/widget-crd.yaml").replace("tests.signet.dev", "versions.signet.dev");
    let widget = |version: &str| {
        format!(
            "apiVersion: versions.signet.dev/{version}\nkind: Widget\nmetadata: {{name: first}}\nspec: {{size: 3}}\n"
        )
    };
    repository.write("crd.yaml", &definition)?;
    repository.write("widget.yaml", widget("v1"))?;
    let first = repository.commit("version 1").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let before = entries(&place, "app").await?;

    let mut newer = document(&definition)?;
    let mut second = newer["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["colour"] =
        json!({"type": "string", "default": "blue"});
    newer["spec"]["versions"][0]["storage"] = false.into();
    if let Some(versions) = newer["spec"]["versions"].as_array_mut() {
        versions.push(second);
    }
    repository.write("crd.yaml", newer.to_string())?;
    repository.write("widget.yaml", widget("v2"))?;
    let commit = repository.commit("version 2").await?;
    place.applied("app", &commit).await?;
    assert_eq!(entries(&place, "app").await?, before, "a version is no part of what it is");
    let colour =
        ["-n", &place.namespace, "get", "widgets.v2.versions.signet.dev", "first", "-o", "jsonpath={.spec.colour}"];
    assert_eq!(place.world.cluster.kubectl(&colour).await?, "blue");
    Ok(())
}

#[tokio::test]
async fn what_was_watched_under_a_version_that_went_is_healed_under_another() -> Result<()> {
    let (place, git) = start("moves").await?;
    let repository = git.create("app").await?;
    let group = "moves.signet.dev";
    place.world.cluster.apply(&beta(group, true)?.to_string()).await?;
    repository.write("widget.yaml", widget(group, "v1beta1", "first"))?;
    repository.write("goes.yaml", widget(group, "v1beta1", "second"))?;
    let first = repository.commit("beta").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    repository.write("widget.yaml", widget(group, "v1", "first"))?;
    let second = repository.commit("stable").await?;
    place.applied("app", &second).await?;

    withdraw_beta(&place, group).await?;
    let widgets = format!("widgets.v1.{group}");
    let uid =
        ["-n", &place.namespace, "get", &widgets, "first", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}"];
    let before = place.world.cluster.kubectl(&uid).await?;
    place.world.cluster.kubectl(&["-n", &place.namespace, "delete", &widgets, "first"]).await?;
    eventually("another one in its place", SOON, || async {
        let now = place.world.cluster.kubectl(&uid).await?;
        Ok((!now.is_empty() && now != before).then_some(()))
    })
    .await?;

    // What was applied under the older version alone is still ours.
    repository.remove("goes.yaml")?;
    let third = repository.commit("one").await?;
    place.applied("app", &third).await?;
    assert_eq!(names(&place, group).await?, "first");
    assert_eq!(entries(&place, "app").await?, [format!("Widget {}/first", place.namespace)]);
    Ok(())
}

#[tokio::test]
async fn an_object_goes_with_the_version_under_which_it_was_applied() -> Result<()> {
    let (place, git) = start("withdrawn").await?;
    let repository = git.create("app").await?;
    let group = "withdrawn.signet.dev";
    repository.write("crd.yaml", beta(group, true)?.to_string())?;
    repository.write("widget.yaml", widget(group, "v1beta1", "first"))?;
    let first = repository.commit("beta").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    assert_eq!(names(&place, group).await?, "first");

    repository.write("crd.yaml", beta(group, false)?.to_string())?;
    repository.remove("widget.yaml")?;
    let second = repository.commit("no beta, no widget").await?;
    place.applied("app", &second).await?;
    assert_eq!(names(&place, group).await?, "");
    Ok(())
}

#[tokio::test]
async fn what_a_commit_left_half_done_goes_with_it() -> Result<()> {
    let (place, git) = start("half").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("good").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;

    let late = format!("{}-late", place.namespace);
    repository.write("space.yaml", format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {late}}}\n"))?;
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\nspec:\n  selector: {matchLabels: {app: a}}\n  template: {metadata: {labels: {app: b}}, spec: {containers: [{name: app, image: app}]}}\n";
    repository.write("app.yaml", deployment)?;
    repository.commit("half good").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "ReconciliationFailed").await?;
    assert!(ready.message.contains("app.yaml:1: Deployment"), "{}", ready.message);
    let spaces: Api<Namespace> = Api::all(place.client.clone());
    spaces.get(&late).await?;
    assert!(entries(&place, "app").await?.contains(&format!("Namespace {late}")));

    repository.remove("space.yaml")?;
    repository.remove("app.yaml")?;
    let last = repository.commit("as it was").await?;
    place.applied("app", &last).await?;
    eventually("the namespace to go", SOON, || async {
        let left = spaces.get_opt(&late).await?;
        Ok(left.is_none_or(|left| left.metadata.deletion_timestamp.is_some()).then_some(()))
    })
    .await
}

/// etcd takes an object of 1.5 MiB, and keeps every version of it for a while.
#[tokio::test]
async fn thousands_of_objects_are_one_sync() -> Result<()> {
    const OBJECTS: usize = 3000;
    let (place, git) = start("thousands").await?;
    let repository = git.create("app").await?;
    for file in 0..30 {
        let maps = (0..OBJECTS / 30).map(|it| config_map(&format!("settings-of-component-{file}-{it}"), it));
        repository.write(&format!("maps-{file}.yaml"), maps.collect::<Vec<_>>().join("---\n"))?;
    }
    repository.commit("thousands").await?;
    follow(&place, "app", &repository, json!({})).await?;
    let status = eventually("all of them", SOON * 6, || async {
        let status = place.syncs().get("app").await?.status.unwrap_or_default();
        Ok(status.last_applied_revision.is_some().then_some(status))
    })
    .await?;
    let size = serde_json::to_vec(&status)?.len();
    assert_eq!(status.inventory.unwrap_or_default().objects.len(), OBJECTS);
    assert!(size < 100_000, "{size} bytes");
    Ok(())
}

/// The definition of a Widget with an older version.
fn beta(group: &str, served: bool) -> Result<Value> {
    let mut definition = document(&include_str!("testdata/widget-crd.yaml").replace("tests.signet.dev", group))?;
    let mut beta = definition["spec"]["versions"][0].clone();
    beta["name"] = "v1beta1".into();
    beta["storage"] = false.into();
    beta["served"] = served.into();
    if let Some(versions) = definition["spec"]["versions"].as_array_mut() {
        versions.push(beta);
    }
    Ok(definition)
}

fn widget(group: &str, version: &str, name: &str) -> String {
    format!("apiVersion: {group}/{version}\nkind: Widget\nmetadata: {{name: {name}}}\nspec: {{size: 3}}\n")
}

/// Of the Widgets there are.
async fn names(place: &Place<'_>, group: &str) -> Result<String> {
    let widgets = format!("widgets.v1.{group}");
    let get = ["-n", &place.namespace, "get", &widgets, "-o", "jsonpath={.items[*].metadata.name}"];
    place.world.cluster.kubectl(&get).await
}

/// Its older version is served no longer.
async fn withdraw_beta(place: &Place<'_>, group: &str) -> Result<()> {
    let cluster = &place.world.cluster;
    cluster.apply(&beta(group, false)?.to_string()).await?;
    let path = format!("/apis/{group}/v1beta1/widgets");
    eventually("the older version to be gone", SOON, || async {
        Ok(cluster.kubectl(&["get", "--raw", &path]).await.is_err().then_some(()))
    })
    .await
}

/// What the status says is there.
async fn entries(place: &Place<'_>, name: &str) -> Result<Vec<String>> {
    let inventory = place.syncs().get(name).await?.status.and_then(|status| status.inventory).unwrap_or_default();
    Ok(inventory.objects.into_keys().map(|id| id.to_string()).collect())
}
