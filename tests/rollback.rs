//! Back to a revision that was good.

use anyhow::{Context as _, Result};
use crds::git_sync::ROLLBACK;
use harness::{GitServer, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, config_map, follow, start};

#[tokio::test]
async fn a_rollback_stays_until_a_newer_commit() -> Result<()> {
    let (place, git) = start("rollback").await?;
    let repository = git.create("app").await?;
    let mut commits = Vec::new();
    follow(&place, "app", &repository, json!({})).await?;
    for value in ["one", "two", "three"] {
        repository.write("map.yaml", config_map("settings", value))?;
        commits.push(repository.commit(value).await?);
        place.applied("app", commits.last().map_or("", String::as_str)).await?;
    }
    annotate(&place, json!("0123456789")).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "RollbackNotFound").await?;
    assert!(ready.message.contains(&commits[0]), "{}", ready.message);

    let short: String = commits[0].chars().take(12).collect();
    annotate(&place, json!(short)).await?;
    let sync = place.applied("app", &commits[0]).await?;
    value(&place, "one").await?;
    let status = sync.status.unwrap_or_default();
    let pin = status.rollback.clone().unwrap_or_default();
    assert_eq!(pin.revision, format!("main@sha1:{}", commits[0]));
    assert_eq!(pin.newest, format!("main@sha1:{}", commits[2]));
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    assert!(ready.is_some_and(|ready| ready.message.contains(&format!("until a commit comes after {}", pin.newest))));
    // What is kept is that revision: Git is asked again and again, and drift is healed to it.
    let asked = git.requests();
    eventually("Git to be asked again", SOON, || async { Ok((git.requests() >= asked + 4).then_some(())) }).await?;
    maps(&place).delete("settings", &DeleteParams::default()).await?;
    value(&place, "one").await?;

    // The next commit goes on, whatever the annotation still says.
    repository.write("map.yaml", config_map("settings", "four"))?;
    let fourth = repository.commit("four").await?;
    place.applied("app", &fourth).await?;
    value(&place, "four").await?;

    // Taken off, the newest counts.
    annotate(&place, json!(commits[1])).await?;
    place.applied("app", &commits[1]).await?;
    value(&place, "two").await?;
    annotate(&place, Value::Null).await?;
    let sync = place.applied("app", &fourth).await?;
    value(&place, "four").await?;
    assert_eq!(sync.status.and_then(|status| status.rollback), None);
    Ok(())
}

/// The mirror holds no more than it needs. What is not there is asked of the host, and what that has not any more is told.
#[tokio::test]
async fn a_rollback_to_a_commit_that_is_nowhere_says_what_to_do() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("gone").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let mut commits = Vec::new();
    follow(&place, "app", &repository, json!({})).await?;
    for value in ["one", "two"] {
        repository.write("map.yaml", config_map("settings", value))?;
        commits.push(repository.commit(value).await?);
        place.applied("app", commits.last().map_or("", String::as_str)).await?;
    }
    world.controller.forget_mirrors().await?;
    annotate(&place, json!(commits[0])).await?;
    place.applied("app", &commits[0]).await?;
    value(&place, "one").await?;

    // Another history takes the place of theirs.
    repository.git(&["checkout", "--quiet", "--orphan", "other"]).await?;
    repository.write("map.yaml", config_map("settings", "three"))?;
    repository.git(&["add", "--all"]).await?;
    repository.git(&["commit", "--quiet", "--message=three"]).await?;
    repository.git(&["branch", "--force", "main"]).await?;
    repository.git(&["checkout", "--quiet", "main"]).await?;
    repository.push(&["--force"]).await?;
    let third = repository.head().await?;
    place.applied("app", &third).await?;
    let bare = repository.bare();
    let bare = bare.to_str().context("a path")?;
    repository.git(&["--git-dir", bare, "reflog", "expire", "--expire=now", "--all"]).await?;
    repository.git(&["--git-dir", bare, "gc", "--quiet", "--prune=now"]).await?;
    world.controller.forget_mirrors().await?;
    annotate(&place, json!(commits[1])).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "RollbackNotFound").await?;
    for words in [
        format!("cannot go back to main@sha1:{}: cannot fetch the commit {}", commits[1], commits[1]),
        format!("it is not on the branch main; push that commit again, or let the annotation {ROLLBACK} name another"),
        format!("take it off to stay with main@sha1:{third}"),
    ] {
        assert!(ready.message.contains(&words), "{words} in {}", ready.message);
    }
    // What is there stays, and is healed.
    maps(&place).delete("settings", &DeleteParams::default()).await?;
    value(&place, "three").await?;
    annotate(&place, Value::Null).await?;
    place.applied("app", &third).await?;

    // Once it is pushed again the same is possible.
    annotate(&place, json!(commits[1])).await?;
    place.ready("app", |ready, _| ready.reason == "RollbackNotFound").await?;
    repository.git(&["push", "--quiet", "origin", &format!("{}:refs/heads/kept", commits[1])]).await?;
    place.applied("app", &commits[1]).await?;
    value(&place, "two").await
}

async fn annotate(place: &Place<'_>, value: Value) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {ROLLBACK: value}}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn maps(place: &Place<'_>) -> Api<ConfigMap> {
    Api::namespaced(place.client.clone(), &place.namespace)
}

async fn value(place: &Place<'_>, wanted: &str) -> Result<()> {
    eventually(&format!("the ConfigMap to say {wanted}"), SOON, || async {
        let map = maps(place).get_opt("settings").await?;
        Ok(map.and_then(|map| map.data).filter(|data| data.get("value").is_some_and(|it| it == wanted)).map(drop))
    })
    .await
}
