//! Git hosts that take every request and answer none.

use anyhow::Result;
use crds::git_sync::{RECONCILE_REQUESTED, ROLLBACK};
use harness::{ClusterOptions, ControllerOptions, GitServer, eventually};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, config_map, follow};

/// More GitSyncs than passes are made at once.
const HANGING: usize = 12;
/// As many of one namespace as ask at once.
const AT_ONCE: u64 = 8;

/// One that waits longer for a host than this test does for it.
async fn patient() -> Result<World> {
    let args = vec!["--git-timeout=10m".to_owned()];
    World::with(ClusterOptions::default(), ControllerOptions { args, ..ControllerOptions::default() }).await
}

#[tokio::test]
async fn hosts_that_never_answer_delay_nobody() -> Result<()> {
    let world = patient().await?;
    let (tenant, other) = (world.place("hangs").await?, world.place("well").await?);
    let (dead, git) = (GitServer::start()?, GitServer::start()?);
    let (before, repository) = (dead.create("before").await?, git.create("app").await?);
    before.write("map.yaml", config_map("settings", "kept"))?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let (known, first) = (before.commit("kept").await?, repository.commit("one").await?);
    follow(&tenant, "before", &before, json!({})).await?;
    tenant.applied("before", &known).await?;

    let nowhere = |number: usize| format!("http://127.0.0.1:{}/{number}.git", dead.port());
    dead.pause();
    let asked = dead.requests();
    for number in 0..HANGING {
        tenant.sync(&format!("hangs-{number}"), &nowhere(number), "").await?;
    }
    eventually("all that may to hang", SOON, || async { Ok((dead.requests() >= asked + AT_ONCE).then_some(())) })
        .await?;

    // Another's is applied, follows and is healed. A commit is asked for and taken in one go.
    let request = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: "now"}}});
    follow(&other, "well", &repository, json!({"interval": "1h"})).await?;
    other.applied("well", &first).await?;
    repository.write("map.yaml", config_map("settings", "two"))?;
    let second = repository.commit("two").await?;
    let asked = git.requests();
    patch(&other, "well", &request).await?;
    other.applied("well", &second).await?;
    assert_eq!(git.requests() - asked, 3, "what the host can, where its branch leads, and the pack");
    drifts(&other).await?;
    other.says("settings", &[("value", "two")]).await?;

    // What hangs is healed too, and nothing is told of a fetch that is not over.
    patch(&tenant, "before", &request).await?;
    drifts(&tenant).await?;
    tenant.says("settings", &[("value", "kept")]).await?;
    let status = tenant.syncs().get("before").await?.status.unwrap_or_default();
    assert_eq!(status.last_handled_reconcile_at, None);
    assert!(status.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True"), "{:?}", status.conditions);

    // One that is led elsewhere waits for its host no longer, nor does one that goes.
    let third = world.place("moves").await?;
    let asked = dead.requests();
    third.sync("moves", &nowhere(HANGING), "").await?;
    eventually("it to hang", SOON, || async { Ok((dead.requests() > asked).then_some(())) }).await?;
    patch(&third, "moves", &json!({"spec": {"source": {"url": repository.url()}}})).await?;
    third.applied("moves", &second).await?;
    for number in 0..HANGING {
        tenant.syncs().delete(&format!("hangs-{number}"), &DeleteParams::default()).await?;
    }
    eventually("them to go", SOON, || async {
        Ok((tenant.syncs().list(&ListParams::default()).await?.items.len() == 1).then_some(()))
    })
    .await?;

    dead.resume();
    eventually("the request to be handled", SOON, || async {
        let handled = tenant.syncs().get("before").await?.status.unwrap_or_default().last_handled_reconcile_at;
        Ok((handled.as_deref() == Some("now")).then_some(()))
    })
    .await
}

/// Nor do commits that must be fetched anew to go back to them.
#[tokio::test]
async fn a_rollback_whose_commit_does_not_come_delays_nobody() -> Result<()> {
    let world = patient().await?;
    let (tenant, other) = (world.place("back").await?, world.place("well").await?);
    let (dead, git) = (GitServer::start()?, GitServer::start()?);
    let (repository, healthy) = (dead.create("app").await?, git.create("app").await?);
    let names: Vec<String> = (0..HANGING).map(|number| format!("back-{number}")).collect();
    let commit = async |value: &str| -> Result<String> {
        for name in &names {
            repository.write(&format!("{name}/map.yaml"), config_map(name, value))?;
        }
        repository.commit(value).await
    };
    let first = commit("one").await?;
    for name in &names {
        tenant.sync(name, &repository.url(), name).await?;
        tenant.applied(name, &first).await?;
    }
    let second = commit("two").await?;
    for name in &names {
        tenant.applied(name, &second).await?;
    }

    dead.pause();
    world.controller.forget_mirrors().await?;
    let back = json!({"metadata": {"annotations": {ROLLBACK: first}}});
    for name in &names {
        patch(&tenant, name, &back).await?;
    }
    for name in &names {
        tenant.ready(name, |ready, _| ready.status == "Unknown" && ready.message.contains("will be fetched")).await?;
    }
    healthy.write("map.yaml", config_map("settings", "one"))?;
    let commit = healthy.commit("one").await?;
    follow(&other, "well", &healthy, json!({})).await?;
    other.applied("well", &commit).await?;

    dead.resume();
    for name in &names {
        tenant.applied(name, &first).await?;
        tenant.says(name, &[("value", "one")]).await?;
    }
    Ok(())
}

async fn drifts(place: &Place<'_>) -> Result<()> {
    let wrong = json!({"data": {"value": "wrong"}});
    place.maps().patch("settings", &PatchParams::default(), &Patch::Merge(wrong)).await?;
    Ok(())
}

async fn patch(place: &Place<'_>, name: &str, change: &Value) -> Result<()> {
    place.syncs().patch(name, &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}
