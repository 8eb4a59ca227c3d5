//! The controller may die at any moment: what it was doing is done after the next start, nothing lost and nothing twice.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use harness::{ClusterOptions, ControllerOptions, GitServer, eventually, process::Signal};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Event, Secret},
        rbac::v1::{ClusterRole, Role},
    },
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{KEYS, SOON, World, config_map};

const ROUNDS: usize = 10;
const SECRETS: usize = 4;

/// SealedSecrets and commits arrive; each round the controller is killed a little further into its work.
#[tokio::test]
async fn a_controller_killed_again_and_again_loses_nothing() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("crash").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("first.yaml", config_map("first", 0))?;
    repository.commit("first").await?;
    place.sync("app", &repository.url(), "").await?;
    let maps: Api<ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);

    for round in 0..ROUNDS {
        for number in 0..SECRETS {
            place.apply_sealed(&name(round, number), &[("value", &name(round, number))]).await?;
        }
        let git_name = name(round, SECRETS);
        let sealed = world.seal(&place.secret(&git_name, &[("value", &git_name)]), &[]).await?;
        repository.write(&format!("sealed-{round}.yaml"), &sealed)?;
        repository.write(&format!("map-{round}.yaml"), config_map(&format!("map-{round}"), round))?;
        repository.write("first.yaml", config_map("first", round))?;
        if round > 0 {
            repository.remove(&format!("map-{}.yaml", round - 1))?;
        }
        repository.commit(&format!("round {round}")).await?;
        // Each time a little more has been done when it dies: an opened Secret more, or the commit half applied.
        let opened = round % (SECRETS + 1);
        eventually("so many Secrets of this round", SOON, || async {
            let all = place.secrets().list(&ListParams::default()).await?;
            let prefix = format!("r{round}-");
            Ok((all.iter().filter(|secret| secret.name_any().starts_with(&prefix)).count() >= opened).then_some(()))
        })
        .await?;
        if round % 2 == 1 {
            eventually("the round's ConfigMap", SOON, || maps_get(&maps, format!("map-{round}"))).await?;
        }
        world.controller.kill().await?;
        world.controller.restart().await?;
    }

    let last = repository.head().await?;
    let sync = place.applied("app", &last).await?;
    for round in 0..ROUNDS {
        for number in 0..=SECRETS {
            place.holds(&name(round, number), &[("value", &name(round, number))]).await?;
            place.synced(&name(round, number), "True").await?;
        }
    }
    let found: BTreeSet<_> = maps.list(&ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect();
    let ours = found.into_iter().filter(|name| name != "kube-root-ca.crt").collect::<Vec<_>>();
    assert_eq!(
        ours,
        ["first".to_owned(), format!("map-{}", ROUNDS - 1)],
        "what was removed is gone, the rest is there"
    );
    assert_eq!(maps.get("first").await?.data.context("data")?["value"], (ROUNDS - 1).to_string());
    let objects = sync.status.and_then(|status| status.inventory).context("an inventory")?.objects;
    assert_eq!(objects.len(), 2 + ROUNDS);
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let keys = keys.list(&ListParams::default().labels(KEYS)).await?;
    assert_eq!(keys.items.len(), 1, "no second key was minted");
    Ok(())
}

/// A key made by signal seals from now on; what the old one sealed opens still, also after a restart.
#[tokio::test]
async fn a_rotated_key_keeps_opening() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("rotate").await?;
    let old = place.world.seal(&place.secret("old", &[("a", "1")]), &[]).await?;
    let certificate =
        || async { harness::seal(Some(world.cluster.kubeconfig()), &["--fetch-cert"], "").await?.success() };
    // More than once, because keys that are made within one second must not tie.
    for _ in 0..4 {
        let before = certificate().await?;
        world.controller.signal(Signal::USR1).await?;
        eventually("another certificate", SOON, || async { Ok((certificate().await? != before).then_some(())) })
            .await?;
    }
    place.apply_sealed("new", &[("a", "2")]).await?;
    world.cluster.apply(&old).await?;
    place.holds("new", &[("a", "2")]).await?;
    place.holds("old", &[("a", "1")]).await?;
    assert!(world.controller.terminate().await?.success(), "{}", world.controller.logs().await?);
    world.controller.restart().await?;
    place.secrets().delete("old", &DeleteParams::default()).await?;
    place.holds("old", &[("a", "1")]).await?;
    Ok(())
}

/// A key that is put back opens what waited for it, without a restart.
#[tokio::test]
async fn a_restored_key_wakes_what_waited_for_it() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("restore").await?;
    let sealed = world.seal(&place.secret("db", &[("a", "1")]), &[]).await?;
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let labelled = ListParams::default().labels(KEYS);
    let mut key = keys.list(&labelled).await?.items.pop().context("a key")?;
    keys.delete(&key.name_any(), &DeleteParams::default()).await?;
    eventually("a key in its place", SOON, || async {
        Ok((keys.list(&labelled).await?.items.len() == 1).then_some(()))
    })
    .await?;
    world.cluster.apply(&sealed).await?;
    place.synced("db", "False").await?;
    key.metadata = ObjectMeta { name: Some(key.name_any()), labels: key.metadata.labels, ..ObjectMeta::default() };
    // Anybody could put one anywhere else.
    place.secrets().create(&PostParams::default(), &key).await?;
    place.apply_sealed("later", &[("a", "1")]).await?;
    place.synced("later", "True").await?;
    place.synced("db", "False").await?;
    keys.create(&PostParams::default(), &key).await?;
    place.holds("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    Ok(())
}

/// Upstream's oldest versions kept one key without a label, under the bare prefix.
#[tokio::test]
async fn an_unlabelled_legacy_key_is_found() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("legacy").await?;
    let sealed = world.seal(&place.secret("db", &[("a", "1")]), &[]).await?;
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let mut key = keys.list(&ListParams::default().labels(KEYS)).await?.items.pop().context("a key")?;
    keys.delete(&key.name_any(), &DeleteParams::default()).await?;
    key.metadata = ObjectMeta { name: Some("sealed-secrets-key".to_owned()), ..ObjectMeta::default() };
    keys.create(&PostParams::default(), &key).await?;
    world.controller.restart().await?;
    world.cluster.apply(&sealed).await?;
    place.holds("db", &[("a", "1")]).await?;
    Ok(())
}

/// As long as that one may not be read nobody knows whether there is a key, and none is made in its place.
#[tokio::test]
async fn a_legacy_key_that_may_not_be_read_is_waited_for() -> Result<()> {
    let options = ControllerOptions { wait_until_ready: false, ..ControllerOptions::default() };
    let world = World::with(ClusterOptions::default(), options).await?;
    world.controller.ready().await?;
    let place = world.place("refused").await?;
    let sealed = world.seal(&place.secret("db", &[("a", "1")]), &[]).await?;
    world.controller.kill().await?;
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let labelled = ListParams::default().labels(KEYS);
    let mut key = keys.list(&labelled).await?.items.pop().context("a key")?;
    keys.delete(&key.name_any(), &DeleteParams::default()).await?;
    key.metadata = ObjectMeta { name: Some("sealed-secrets-key".to_owned()), ..ObjectMeta::default() };
    keys.create(&PostParams::default(), &key).await?;

    // It may be listed, as a key with a label, but not got.
    let role = Api::<Role>::namespaced(place.client.clone(), "kube-system");
    let cluster_role = Api::<ClusterRole>::all(place.client.clone());
    let mut own = role.get("sealed-secrets-key-admin").await?;
    let mut everywhere = cluster_role.get("sealed-secrets-controller").await?;
    let rules = own.rules.clone();
    for rule in own.rules.iter_mut().chain(&mut everywhere.rules).flatten() {
        if rule.resources.iter().flatten().any(|it| it == "secrets") {
            rule.verbs.iter_mut().filter(|verb| *verb == "get").for_each(|verb| "list".clone_into(verb));
        }
    }
    role.replace("sealed-secrets-key-admin", &PostParams::default(), &own).await?;
    cluster_role.replace("sealed-secrets-controller", &PostParams::default(), &everywhere).await?;
    let account = world.cluster.kubeconfig_for_service_account("kube-system", "sealed-secrets-controller").await?;
    let theirs: Api<Secret> = Api::namespaced(world.cluster.client_for(&account).await?, "kube-system");
    eventually("the rights to be gone", SOON, || async {
        Ok(theirs
            .get("sealed-secrets-key")
            .await
            .is_err_and(|error| error.to_string().contains("forbidden"))
            .then_some(()))
    })
    .await?;
    let before = world.controller.logs().await?.len();
    world.controller.restart().await?;
    let refused = |line: &&str| {
        let says = |words| line.contains(words);
        says("cannot read the key Secrets; trying again") && says("sealed-secrets-key") && says("forbidden")
    };
    eventually("it to say why, again and again", SOON, || async {
        let logs = world.controller.logs().await?;
        let said = logs.get(before..).unwrap_or_default().lines().filter(refused).count();
        Ok((said > 1).then_some(()))
    })
    .await?;
    assert_eq!(keys.list(&labelled).await?.items.len(), 0, "another key was made");

    let patch = json!({"rules": rules});
    role.patch("sealed-secrets-key-admin", &PatchParams::default(), &Patch::Merge(patch)).await?;
    world.cluster.apply(&sealed).await?;
    place.holds("db", &[("a", "1")]).await?;
    assert_eq!(keys.list(&labelled).await?.items.len(), 0, "another key was made");
    Ok(())
}

/// A key that cannot be read is reported, and the others go on.
#[tokio::test]
async fn a_malformed_key_stops_nothing() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("malformed").await?;
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let mut key = keys.list(&ListParams::default().labels(KEYS)).await?.items.pop().context("a key")?;
    key.metadata = ObjectMeta { name: Some("broken".to_owned()), labels: key.metadata.labels, ..ObjectMeta::default() };
    key.data.get_or_insert_default().insert("tls.key".to_owned(), ByteString(b"-----BEGIN NOTHING-----".to_vec()));
    keys.create(&PostParams::default(), &key).await?;
    let malformed = || world.controller.metric("sealed_secrets_controller_malformed_keys");
    eventually("the metric", SOON, || async { Ok((malformed().await? > 0.0).then_some(())) }).await?;
    world.controller.restart().await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.holds("db", &[("a", "1")]).await?;
    let events: Api<Event> = Api::namespaced(place.client.clone(), "kube-system");
    let event = eventually("an Event", SOON, || async {
        let events = events.list(&ListParams::default()).await?;
        Ok(events.into_iter().find(|event| event.reason.as_deref() == Some("MalformedKey")))
    })
    .await?;
    assert_eq!(event.involved_object.name.as_deref(), Some("broken"));
    assert!(!world.controller.logs().await?.contains("BEGIN NOTHING"));
    Ok(())
}

async fn maps_get(maps: &Api<ConfigMap>, name: String) -> Result<Option<ConfigMap>> {
    Ok(maps.get_opt(&name).await?)
}

fn name(round: usize, number: usize) -> String {
    format!("r{round}-{number}")
}
