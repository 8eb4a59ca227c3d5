//! Back to a revision that was good.

use anyhow::Result;
use crds::git_sync::ROLLBACK;
use harness::eventually;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{Place, SOON, config_map, follow, start};

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
