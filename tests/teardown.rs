//! What becomes of the objects when their GitSync is deleted.

use anyhow::Result;
use crds::{GitSync, git_sync::GitSyncSpec};
use harness::{GitServer, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{Place, SOON, World, config_map, follow, start};

#[tokio::test]
async fn what_becomes_of_the_objects_is_declared() -> Result<()> {
    let (place, git) = start("policies").await?;
    let repository = git.create("app").await?;
    let policies = ["Delete", "WaitForTermination", "Orphan", "MirrorPrune"];
    for policy in policies {
        let held = "metadata:\n  finalizers: [tests.signet.dev/hold]\n";
        let map = config_map(&policy.to_lowercase(), "one");
        let map = if policy == "WaitForTermination" { map.replacen("metadata:\n", held, 1) } else { map };
        repository.write(&format!("{policy}/map.yaml"), map)?;
    }
    let commit = repository.commit("four").await?;
    for policy in policies {
        let spec = json!({"path": policy, "deletionPolicy": policy, "prune": false});
        follow(&place, &policy.to_lowercase(), &repository, spec).await?;
    }
    for policy in policies {
        let name = policy.to_lowercase();
        place.applied(&name, &commit).await?;
        place.syncs().delete(&name, &DeleteParams::default()).await?;
    }
    let maps = Api::<ConfigMap>::namespaced(place.client.clone(), &place.namespace);
    for policy in ["Delete", "Orphan", "MirrorPrune"] {
        gone(&place, &policy.to_lowercase()).await?;
    }
    assert!(maps.get_opt("delete").await?.is_none());
    maps.get("orphan").await?;
    maps.get("mirrorprune").await?;
    let ready = place.ready("waitfortermination", |ready, _| ready.reason == "PruneFailed").await?;
    let expected = format!("waiting until they are gone: ConfigMap {}/waitfortermination", place.namespace);
    assert!(ready.message.contains(&expected), "{}", ready.message);
    let released = json!({"metadata": {"finalizers": null}});
    maps.patch("waitfortermination", &PatchParams::default(), &Patch::Merge(released)).await?;
    gone(&place, "waitfortermination").await?;
    assert!(maps.get_opt("waitfortermination").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn one_that_was_deleted_before_it_was_seen_is_just_gone() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("unseen").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let commit = repository.commit("one").await?;
    world.controller.kill().await?;
    let made = |name: &str| {
        let mut sync = GitSync::new(name, GitSyncSpec { interval: "1s".to_owned(), ..GitSyncSpec::default() });
        sync.spec.source.url = repository.url();
        sync
    };
    // Somebody else holds it, so that it is still there when the controller comes.
    let mut held = made("held");
    held.finalizers_mut().push("tests.signet.dev/hold".to_owned());
    place.syncs().create(&PostParams::default(), &held).await?;
    place.syncs().delete("held", &DeleteParams::default()).await?;
    place.syncs().create(&PostParams::default(), &made("other")).await?;
    world.controller.restart().await?;
    place.applied("other", &commit).await?;
    let released = json!({"metadata": {"finalizers": null}});
    place.syncs().patch("held", &PatchParams::default(), &Patch::Merge(released)).await?;
    gone(&place, "held").await?;
    assert!(world.controller.is_running().await?);
    Ok(())
}

async fn gone(place: &Place<'_>, name: &str) -> Result<()> {
    eventually(&format!("GitSync {name} to go"), SOON, || async {
        Ok(place.syncs().get_opt(name).await?.is_none().then_some(()))
    })
    .await
}
