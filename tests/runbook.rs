//! `docs/runbook-keys.md`, word for word: its commands in their order, by a shell, on real clusters. A command that does
//! not work any more fails here before it fails somebody at night.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, Controller, ControllerOptions, GitServer, Repository, eventually};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::{
    book::{Desk, Page, folder},
    world::{Place, SOON, World, manifest},
};

/// Waits until a commit is applied and no SealedSecret needs any key but the newest.
async fn settled(place: &Place<'_>, repository: &Repository) -> Result<()> {
    place.applied("shop", &repository.head().await?).await?;
    for name in ["db", "web"] {
        place.synced(name, "True").await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_command_of_the_runbook_works() -> Result<()> {
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    let old = World::new().await?;
    let mut desk = Desk::new(Some(repository.work_tree()), None).await?;
    desk.bring("signet", folder().parent().context("docs lies in no folder")?)?;
    desk.write("new-password.txt", "n3w")?;
    old.cluster.kubectl(&["create", "namespace", "shop"]).await?;
    for (name, password) in [("db", "0ld"), ("web", "other")] {
        let sealed = old.seal(&manifest("shop", name, &[("password", password)]), &[]).await?;
        repository.write(&format!("deploy/{name}.yaml"), sealed)?;
    }
    let sync = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "metadata": {"name": "shop", "namespace": "shop"},
        "spec": {"source": {"url": repository.url()}, "path": "deploy", "interval": "1s", "prune": true},
    });
    repository.write("gitsync.yaml", sync.to_string())?;
    repository.write(".gitignore", "*\n!deploy/\n!deploy/*\n!gitsync.yaml\n")?;
    repository.commit("sealed").await?;
    old.cluster.apply(&sync.to_string()).await?;
    let place = Place { world: &old, namespace: "shop".to_owned(), client: old.cluster.admin().await? };
    settled(&place, &repository).await?;

    let new = Cluster::start().await?;
    let keys: Api<Secret> = Api::namespaced(new.admin().await?, "kube-system");
    let names = async || {
        let all = keys.list(&ListParams::default().labels(crds::key_secret::LABEL)).await?;
        // Those that were set aside first: without the one that seals the controller would make another.
        let active = |key: &Secret| key.labels()[crds::key_secret::LABEL] == crds::key_secret::ACTIVE;
        let mut names: Vec<_> = all.iter().map(|key| (active(key), key.name_any())).collect();
        names.sort();
        anyhow::Ok(names.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
    };
    let page = Page::read("runbook-keys.md")?;
    let mut controller = None;
    let mut made = Vec::new();
    let mut before: Option<usize> = None;
    for (number, step) in page.steps.iter().enumerate() {
        let begins = before.replace(step.block) != Some(step.block);
        let ends = page.steps.get(number + 1).is_none_or(|next| next.block != step.block);
        let heading = step.heading.as_str();
        match heading {
            // What was just pushed must be in the cluster before the old key can go.
            "Retire a key" if begins => settled(&place, &repository).await?,
            "A key was given away" if step.runs("seal keys compromised \"$LEAKED\"") => {
                settled(&place, &repository).await?;
                place.holds("db", &[("password", "n3w")]).await?;
            }
            "Restore a key that was deleted" if begins => {
                made = names().await?;
                keys.delete(made.first().context("a key")?, &DeleteParams::default()).await?;
            }
            _ => {}
        }
        desk.turn_to(match heading {
            "A new cluster" | "Restore a key that was deleted" | "Lost keys" => new.kubeconfig(),
            "Without a cluster" => Path::new("/dev/null"),
            _ => old.cluster.kubeconfig(),
        });
        desk.follow(step).await?;
        if step.runs("rm old.yaml clear.yaml") {
            let moved = std::fs::read_to_string(repository.work_tree().join("website.yaml"))?;
            let moved = crate::world::document(&moved)?;
            ensure!(
                moved["metadata"]["namespace"] == "store" && moved["spec"]["encryptedData"]["password"].is_string()
            );
        }
        if heading == "A new cluster" && ends && controller.is_none() {
            // In the place of the kubelet.
            let args = vec!["--git-file-root=/".to_owned()];
            controller = Some(Controller::start_with(&new, ControllerOptions { args, ..Default::default() }).await?);
        }
        if heading == "Restore a key that was deleted" && ends {
            ensure!(names().await? == made, "the key is back");
        }
    }
    let secrets: Api<Secret> = Api::namespaced(new.admin().await?, "shop");
    eventually("the values in the new cluster", SOON, || async {
        let secret = secrets.get_opt("db").await?.and_then(|secret| secret.data);
        Ok(secret.filter(|data| data.get("password").is_some_and(|value| value.0 == b"n3w")))
    })
    .await?;
    Ok(())
}
