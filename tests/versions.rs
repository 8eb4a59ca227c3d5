//! Definitions that are older or newer than the controller, as they are for a moment in every upgrade, and for ever where
//! somebody forgets them: it works, and says so.

use anyhow::{Context as _, Result};
use harness::{Cluster, Controller, ControllerOptions, GitServer, Repository, chart, eventually};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, config_map, document, follow};

const DROPS: &str = "the definition is older than this controller, and the API server drops these fields";
const OVERLOOKS: &str = "the definition is newer than this controller, which overlooks these fields";

/// The rights of this version, with these definitions.
async fn deployed(definitions: &str) -> Result<Cluster> {
    let cluster = Cluster::start().await?;
    cluster.deploy().await?;
    cluster.apply(definitions).await?;
    Ok(cluster)
}

async fn says(world: &World, part: &str) -> Result<()> {
    eventually(&format!("the log to say {part:?}"), SOON, || async {
        Ok(world.controller.logs().await?.contains(part).then_some(()))
    })
    .await
}

async fn commit(repository: &Repository, value: &str, more: &[&str]) -> Result<String> {
    repository.write("map.yaml", config_map("settings", value))?;
    for name in more {
        repository.write(&format!("{name}.yaml"), config_map(name, value))?;
    }
    repository.commit(value).await
}

/// Everything that a version without the new fields could do.
async fn works(place: &Place<'_>, git: &GitServer, repository: &Repository) -> Result<()> {
    let world = place.world;
    place.apply_sealed("db", &[("a", "1")]).await?;
    let secret = place.holds("db", &[("a", "1")]).await?;
    let head = commit(repository, "one", &["more"]).await?;
    follow(place, "app", repository, json!({"prune": true})).await?;
    place.applied("app", &head).await?;
    place.says("settings", &[("value", "one")]).await?;
    // Drift is healed, and what leaves Git goes.
    world.cluster.kubectl(&["-n", &place.namespace, "delete", "configmap", "settings"]).await?;
    place.says("settings", &[("value", "one")]).await?;
    repository.remove("more.yaml")?;
    let head = commit(repository, "two", &[]).await?;
    place.applied("app", &head).await?;
    assert!(place.maps().get_opt("more").await?.is_none(), "it is pruned");
    // What the API server dropped is not written again and again.
    place.synced("db", "True").await?;
    let versions = async || {
        let (sync, sealed) = (place.syncs().get("app").await?, place.sealed().get("db").await?);
        anyhow::Ok((sync.resource_version(), sealed.resource_version()))
    };
    let (asked, before) = (git.requests(), versions().await?);
    eventually("Git to be asked three times more", SOON, || async { Ok((git.requests() >= asked + 6).then_some(())) })
        .await?;
    assert_eq!(versions().await?, before);
    // A restart knows less, and makes nothing anew.
    world.controller.restart().await?;
    let head = commit(repository, "three", &[]).await?;
    place.applied("app", &head).await?;
    place.synced("db", "True").await?;
    assert_eq!(place.holds("db", &[("a", "1")]).await?.uid(), secret.uid());
    Ok(())
}

#[tokio::test]
async fn newer_definitions_do_and_are_told() -> Result<()> {
    let folder = chart::folder().with_file_name("crds");
    let text = std::fs::read_to_string(folder.join("crds.yaml"))?;
    let mut newer = Vec::new();
    for text in text.split("---\n").skip(1) {
        let mut definition = document(text)?;
        let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            schema[part]["properties"]["ofTomorrow"] = json!({"type": "string"});
        }
        newer.push(definition);
    }
    let newer = json!({"apiVersion": "v1", "kind": "List", "items": newer});
    let cluster = deployed(&newer.to_string()).await?;
    let controller = Controller::start_with(&cluster, ControllerOptions::default()).await?;
    let world = World { cluster, controller };
    says(&world, OVERLOOKS).await?;
    let logs = world.controller.logs().await?;
    assert!(logs.contains("spec.ofTomorrow, status.ofTomorrow") && !logs.contains(DROPS), "{logs}");
    let place = world.place("newer").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    works(&place, &git, &repository).await?;
    // Somebody uses it already.
    let tomorrow = json!({"spec": {"ofTomorrow": "x"}}).to_string();
    let patch = ["-n", &place.namespace, "patch", "gitsync", "app", "--type=merge", "--patch", &tomorrow];
    world.cluster.kubectl(&patch).await?;
    let head = commit(&repository, "four", &[]).await?;
    place.applied("app", &head).await?;
    let kept = ["-n", &place.namespace, "get", "gitsync", "app", "-o", "jsonpath={.spec.ofTomorrow}"];
    assert_eq!(world.cluster.kubectl(&kept).await?, "x", "what we do not know is not ours to remove");
    Ok(())
}

/// The definition that upstream's chart leaves behind knows nothing of what we record.
#[tokio::test]
async fn upstreams_definition_does() -> Result<()> {
    let theirs = crate::migration::upstreams_definition().await?;
    let cluster = deployed(&theirs).await?;
    let controller = Controller::start_with(&cluster, ControllerOptions::default()).await?;
    let world = World { cluster, controller };
    says(&world, "status.unsealed").await?;
    let place = world.place("theirs").await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    let secret = place.holds("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    world.controller.restart().await?;
    place.apply_sealed("other", &[("b", "2")]).await?;
    place.holds("other", &[("b", "2")]).await?;
    assert_eq!(place.holds("db", &[("a", "1")]).await?.uid(), secret.uid());
    world.cluster.kubectl(&["-n", &place.namespace, "delete", "secret", "db"]).await?;
    place.holds("db", &[("a", "1")]).await?;
    Ok(())
}

/// All that the first definition of GitSyncs had. Its inventory was another one, and was not optional.
const FIRST_SPEC: [&str; 10] = [
    "allowPlainSecrets",
    "commonMetadata",
    "helm",
    "interval",
    "path",
    "prune",
    "renderer",
    "source",
    "suspend",
    "targetNamespace",
];
const FIRST_STATUS: [&str; 5] =
    ["conditions", "lastAppliedRevision", "lastAttemptedRevision", "lastHandledReconcileAt", "observedGeneration"];

#[tokio::test]
async fn the_first_definition_of_git_syncs_does() -> Result<()> {
    let text = std::fs::read_to_string(chart::folder().with_file_name("crds").join("crds.yaml"))?;
    let ours = text.split("---\n").skip(1).find(|text| text.contains("kind: GitSync\n")).context("our definition")?;
    let mut first = document(ours)?;
    let schema = &mut first["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    for (part, fields) in [("spec", &FIRST_SPEC[..]), ("status", &FIRST_STATUS)] {
        let all = schema[part]["properties"].as_object_mut().context("fields")?;
        all.retain(|field, _| fields.contains(&field.as_str()));
        assert_eq!(all.len(), fields.len(), "{all:?}");
    }
    let text = || json!({"type": "string"});
    let entry =
        json!({"type": "object", "required": ["id", "v"], "properties": {"id": text(), "v": text(), "uid": text()}});
    let entries = json!({"entries": {"type": "array", "items": entry}});
    schema["status"]["properties"]["inventory"] =
        json!({"type": "object", "required": ["entries"], "properties": entries});
    let cluster = deployed(&first.to_string()).await?;
    let controller = Controller::start_with(&cluster, ControllerOptions::default()).await?;
    let world = World { cluster, controller };
    says(&world, "status.inventory.kinds").await?;
    let place = world.place("first").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    works(&place, &git, &repository).await?;
    let kept = ["-n", &place.namespace, "get", "gitsync", "app", "-o", "jsonpath={.status.inventory}"];
    let kept: Value = serde_json::from_str(&world.cluster.kubectl(&kept).await?)?;
    assert_eq!(kept, json!({"entries": [{"id": format!("{}_settings__ConfigMap", place.namespace), "v": "v1"}]}));
    // A later process knows what to prune.
    world.controller.kill().await?;
    repository.remove("map.yaml")?;
    repository.write("other.yaml", config_map("other", "one"))?;
    let head = repository.commit("other").await?;
    world.controller.restart().await?;
    place.applied("app", &head).await?;
    assert!(place.maps().get_opt("settings").await?.is_none(), "it is pruned");
    Ok(())
}
