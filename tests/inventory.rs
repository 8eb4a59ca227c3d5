//! What the status remembers of what is in the cluster: short, and not trusted about what is ours.

use anyhow::{Context as _, Result};
use crds::git_sync::NAME_LABEL;
use harness::GitServer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::DynamicObject,
    discovery::ApiResource,
};
use serde_json::{Value, json};

use crate::world::{Place, World, config_map, follow};

/// With an inventory as earlier versions wrote it, and with objects that others took the labels off.
#[tokio::test]
async fn an_inventory_of_an_earlier_version_is_read_and_prunes_what_is_ours_alone() -> Result<()> {
    const KEPT: &str = "  annotations: {kustomize.toolkit.fluxcd.io/prune: disabled}\n";
    let world = World::new().await?;
    let place = world.place("inventory").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let names = ["bare", "goes", "kept", "replaced", "stays"];
    for name in names {
        repository.write(&format!("{name}.yaml"), config_map(name, "one"))?;
    }
    let kept = config_map("kept", "one").replace("metadata:\n", &format!("metadata:\n{KEPT}"));
    repository.write("kept.yaml", kept)?;
    let first = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({})).await?;
    place.applied("app", &first).await?;
    let stays = place.maps().get("stays").await?;
    world.controller.kill().await?;

    let mut entries = Vec::new();
    for name in names {
        let uid = place.maps().get(name).await?.uid();
        entries.push(json!({"id": format!("{}_{name}__ConfigMap", place.namespace), "v": "v1", "uid": uid}));
    }
    let mut sync = raw(&place).get("app").await?;
    let mut writers = sync.managed_fields().iter().filter(|fields| fields.subresource.as_deref() == Some("status"));
    let writer = writers.next().and_then(|fields| fields.manager.clone()).context("who writes the status")?;
    sync.data["status"]["inventory"] = json!({"entries": entries});
    let old = json!({"apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "status": sync.data["status"]});
    let as_writer = PatchParams::apply(&writer).force();
    raw(&place).patch_status("app", &as_writer, &Patch::Apply(old)).await?;
    assert_eq!(inventory(&place).await?["entries"].as_array().map(Vec::len), Some(names.len()));

    let bare = json!({"metadata": {"labels": {NAME_LABEL: null}}});
    for name in ["bare", "kept"] {
        place.maps().patch(name, &PatchParams::default(), &Patch::Merge(&bare)).await?;
    }
    place.maps().delete("replaced", &DeleteParams::default()).await?;
    let theirs: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "replaced"}, "data": {"by": "them"}}))?;
    place.maps().create(&PostParams::default(), &theirs).await?;
    for name in ["bare", "goes", "kept", "replaced"] {
        repository.remove(&format!("{name}.yaml"))?;
    }
    let second = repository.commit("one is left").await?;
    world.controller.restart().await?;
    place.applied("app", &second).await?;
    for name in ["bare", "goes"] {
        assert!(place.maps().get_opt(name).await?.is_none(), "{name} is ours, and left Git");
    }
    place.says("replaced", &[("by", "them")]).await?;
    place.says("kept", &[("value", "one")]).await?;
    let same = place.maps().get("stays").await?;
    assert_eq!((same.uid(), same.resource_version()), (stays.uid(), stays.resource_version()));
    let left = json!({"apiVersion": "v1", "kind": "ConfigMap", "namespace": place.namespace, "names": ["stays"]});
    assert_eq!(inventory(&place).await?, json!({"kinds": [left]}));
    Ok(())
}

/// As it is stored, and not as we read it.
fn raw(place: &Place<'_>) -> Api<DynamicObject> {
    let kind = ApiResource::erase::<crds::GitSync>(&());
    Api::namespaced_with(place.client.clone(), &place.namespace, &kind)
}

async fn inventory(place: &Place<'_>) -> Result<Value> {
    Ok(raw(place).get("app").await?.data["status"]["inventory"].clone())
}
