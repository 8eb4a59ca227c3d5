//! Several controllers at once: one works, all serve, and the next takes over.

use anyhow::{Context as _, Result};
use harness::{Cluster, Controller, ControllerOptions, controller::Signal, eventually};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{Api, ResourceExt, api::ListParams};

use crate::world::{KEYS, SOON, World};

/// How often the one that leads is killed.
const ROUNDS: usize = 4;

async fn replica(cluster: &Cluster) -> Result<Controller> {
    let options = ControllerOptions { args: vec!["--git-file-root=/".to_owned()], ..ControllerOptions::default() };
    Controller::start_with(cluster, options).await
}

/// The name of the one that leads, by the Lease.
async fn leader(cluster: &Cluster) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(cluster.admin().await?, "kube-system");
    let lease = leases.get_opt("signet-controller").await?;
    Ok(lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity))
}

async fn keys(cluster: &Cluster) -> Result<Vec<String>> {
    let keys: Api<Secret> = Api::namespaced(cluster.admin().await?, "kube-system");
    Ok(keys.list(&ListParams::default().labels(KEYS)).await?.iter().map(ResourceExt::name_any).collect())
}

/// Both are ready with one certificate and one key, and each time the leader is killed the other goes on.
#[tokio::test]
async fn a_follower_takes_over_from_a_leader_that_was_killed() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.deploy().await?;
    let (first, second) = tokio::try_join!(replica(&cluster), replica(&cluster))?;
    let certificate = async |replica: &Controller| {
        anyhow::Ok(reqwest::get(replica.url("/v1/cert.pem")).await?.error_for_status()?.text().await?)
    };
    assert_eq!(certificate(&first).await?, certificate(&second).await?);
    let made = keys(&cluster).await?;
    assert_eq!(made.len(), 1, "one key for two replicas");

    let world = World { cluster, controller: first };
    let place = world.place("replicas").await?;
    let replicas = [&world.controller, &second];
    for round in 0..ROUNDS {
        let name = leader(&world.cluster).await?.context("somebody leads")?;
        let killed = replicas.into_iter().find(|replica| replica.name() == name).context("one of ours leads")?;
        let (db, value) = (format!("db-{round}"), round.to_string());
        let sealed = world.seal(&place.secret(&db, &[("a", &value)]), &[]).await?;
        killed.kill().await?;
        world.cluster.apply(&sealed).await?;
        place.holds(&db, &[("a", &value)]).await?;
        assert_ne!(leader(&world.cluster).await?, Some(name));
        killed.restart().await?;
    }
    for round in 0..ROUNDS {
        place.synced(&format!("db-{round}"), "True").await?;
    }
    assert_eq!(keys(&world.cluster).await?, made, "no key was made or lost");
    Ok(())
}

/// One that is told to end gives the Lease back, so that nobody waits for it.
#[tokio::test]
async fn a_leader_that_ends_hands_over_at_once() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("handover").await?;
    place.apply_sealed("before", &[("a", "1")]).await?;
    place.synced("before", "True").await?;
    let second = replica(&world.cluster).await?;
    assert_eq!(leader(&world.cluster).await?.as_deref(), Some(world.controller.name()));
    assert!(world.controller.terminate().await?.success());
    assert_ne!(leader(&world.cluster).await?.as_deref(), Some(world.controller.name()), "given back, or taken");
    place.apply_sealed("after", &[("a", "2")]).await?;
    place.holds("after", &[("a", "2")]).await?;
    let operations = second.metric("sealed_secrets_controller_rsa_operations_total").await?;
    assert_eq!(operations.to_string(), "1", "what the other opened is not opened again");
    Ok(())
}

/// A leader that hangs comes back to find another in its place, and follows.
#[tokio::test]
async fn a_leader_that_hung_follows() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("hung").await?;
    let second = replica(&world.cluster).await?;
    world.controller.signal(Signal::STOP).await?;
    eventually("the other to lead", SOON, || async {
        Ok((leader(&world.cluster).await?.as_deref() == Some(second.name())).then_some(()))
    })
    .await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.holds("db", &[("a", "1")]).await?;
    world.controller.signal(Signal::CONT).await?;
    eventually("it to follow", SOON, || async {
        Ok(world.controller.logs().await?.contains("following").then_some(()))
    })
    .await?;
    assert_eq!(leader(&world.cluster).await?.as_deref(), Some(second.name()));
    place.apply_sealed("db", &[("a", "2")]).await?;
    place.holds("db", &[("a", "2")]).await?;
    Ok(())
}

/// A new cluster that waits for its old keys makes none of its own.
#[tokio::test]
async fn one_that_waits_for_keys_makes_none() -> Result<()> {
    let old = World::new().await?;
    let sealed = old.seal(&crate::world::manifest("default", "db", &[("a", "1")]), &[]).await?;
    let backup = old.cluster.kubectl(&["-n", "kube-system", "get", "secrets", "-l", KEYS, "-o", "json"]).await?;

    let waiting = ControllerOptions {
        args: vec!["--wait-for-keys".to_owned()],
        wait_until_ready: false,
        ..ControllerOptions::default()
    };
    let new = World::with(harness::ClusterOptions::default(), waiting).await?;
    new.cluster.apply(&sealed).await?;
    eventually("it to lead", SOON, || async { leader(&new.cluster).await }).await?;
    assert!(keys(&new.cluster).await?.is_empty());
    let mut backup: serde_json::Value = serde_json::from_str(&backup)?;
    for key in backup["items"].as_array_mut().context("keys")? {
        let metadata = key["metadata"].as_object_mut().context("metadata")?;
        metadata.retain(|field, _| ["name", "namespace", "labels"].contains(&field.as_str()));
    }
    new.cluster.apply(&backup.to_string()).await?;
    let secrets: Api<Secret> = Api::namespaced(new.cluster.admin().await?, "default");
    eventually("the Secret", SOON, || async { Ok(secrets.get_opt("db").await?) }).await?;
    assert_eq!(keys(&new.cluster).await?, keys(&old.cluster).await?);
    Ok(())
}
