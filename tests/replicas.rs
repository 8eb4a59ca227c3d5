//! Several controllers at once: one works, all serve, and the next takes over.

use anyhow::{Context as _, Result};
use harness::{
    Asked, At, Cluster, ClusterOptions, Controller, ControllerOptions, Gate, GitServer, Server, controller::Signal,
    eventually,
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::world::{KEYS, SOON, World, config_map, follow, recorded};

/// How often the one that leads is killed.
const ROUNDS: usize = 4;

async fn replica(cluster: &Cluster) -> Result<Controller> {
    replica_with(cluster, ControllerOptions::hasty()).await
}

async fn replica_with(cluster: &Cluster, mut options: ControllerOptions) -> Result<Controller> {
    options.args.push("--git-file-root=/".to_owned());
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
    let second = replica_with(&world.cluster, ControllerOptions::default()).await?;
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
    let world = World::with(ClusterOptions::default(), ControllerOptions::hasty()).await?;
    let place = world.place("hung").await?;
    // In no haste: it keeps the Lease on a machine that does other things too.
    let second = replica_with(&world.cluster, ControllerOptions::default()).await?;
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

/// It waits longer for one answer than others once waited for the Lease, and may try again after that; nor does it follow
/// when the Lease is deleted.
#[tokio::test]
async fn a_leader_bears_an_api_server_that_hangs() -> Result<()> {
    let world = World::with(ClusterOptions::default(), patient()).await?;
    let place = world.place("slow").await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.holds("db", &[("a", "1")]).await?;
    let leases: Api<Lease> = Api::namespaced(place.client.clone(), "kube-system");
    let before = leases.get("signet-controller").await?.spec.context("a spec")?;
    assert_eq!(
        (before.holder_identity.as_deref(), before.lease_duration_seconds),
        (Some(world.controller.name()), Some(60))
    );

    world.cluster.signal(Server::ApiServer, Signal::STOP).await?;
    eventually("a renewal to come to nothing", SOON, || async {
        Ok(world.controller.logs().await?.contains("did not answer within 20 s").then_some(()))
    })
    .await?;
    world.cluster.signal(Server::ApiServer, Signal::CONT).await?;
    eventually("it to be renewed", SOON, || async {
        let renewed = leases.get("signet-controller").await?.spec.context("a spec")?;
        assert_eq!(renewed.lease_transitions, before.lease_transitions);
        Ok((renewed.renew_time != before.renew_time).then_some(()))
    })
    .await?;
    leases.delete("signet-controller", &DeleteParams::default()).await?;
    eventually("it to be there again", SOON, || leader(&world.cluster)).await?;
    place.apply_sealed("db", &[("a", "2")]).await?;
    place.holds("db", &[("a", "2")]).await?;
    led_throughout(&world).await
}

/// Somebody labels the Lease while it is renewed, and somebody else deletes it while that is tried again.
#[tokio::test]
async fn a_leader_bears_others_that_write_its_lease() -> Result<()> {
    let cluster = Cluster::start().await?;
    let gate = Gate::start(&cluster)?;
    let options = ControllerOptions { server: Some(gate.address()), ..patient() };
    let world = World::on(cluster, "deploy", options).await?;
    let leases: Api<Lease> = Api::namespaced(world.cluster.admin().await?, "kube-system");
    let renewal = |asked: &Asked| asked.method == "PUT" && asked.path.ends_with("/leases/signet-controller");
    let mut first = gate.hold(At::Request, renewal);
    first.caught().await?;
    let label = Patch::Merge(json!({"metadata": {"labels": {"team": "a"}}}));
    leases.patch("signet-controller", &PatchParams::default(), &label).await?;
    let mut second = gate.hold(At::Request, renewal);
    first.pass();
    second.caught().await?;
    leases.delete("signet-controller", &DeleteParams::default()).await?;
    second.pass();
    eventually("it to be there again", SOON, || leader(&world.cluster)).await?;
    led_throughout(&world).await
}

/// Options of one that bears an API server that is slow, or held up.
fn patient() -> ControllerOptions {
    let times = ["lease-duration=60s", "renew-deadline=40s", "retry-period=1s"];
    let args = times.map(|flag| format!("--leader-election-{flag}")).into();
    ControllerOptions { args, ..ControllerOptions::default() }
}

async fn led_throughout(world: &World) -> Result<()> {
    let logs = world.controller.logs().await?;
    anyhow::ensure!(logs.contains("leading") && !logs.contains("following"), "{logs}");
    Ok(())
}

/// One that loses the Lease in the middle of a sync breaks off there and then, and the other brings it to its end.
#[tokio::test]
async fn who_loses_the_lease_writes_no_more() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let other_gate = Gate::start(&world.cluster)?;
    let options = ControllerOptions { server: Some(other_gate.address()), ..ControllerOptions::default() };
    let other = replica_with(&world.cluster, options).await?;
    let place = world.place("lost").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let wave = "metadata:\n  annotations: {gitsync.signet.dev/sync-wave: \"1\"}\n";
    let later = config_map("second", "one").replacen("metadata:\n", wave, 1);
    repository.write("first.yaml", config_map("first", "one"))?;
    repository.write("second.yaml", &later)?;
    repository.write("old.yaml", config_map("old", "one"))?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"prune": true})).await?;
    place.applied("app", &commit).await?;

    let path = |name: &str| format!("/api/v1/namespaces/{}/configmaps/{name}", place.namespace);
    let first = path("first");
    let mut held = gate.hold(At::Answer, move |asked| asked.method == "PATCH" && asked.path == first);
    repository.write("first.yaml", config_map("first", "two"))?;
    repository.write("second.yaml", later.replace("one", "two"))?;
    repository.remove("old.yaml")?;
    let commit = repository.commit("two").await?;
    held.caught().await?;
    let version = place.maps().get("first").await?.resource_version();
    let leases: Api<Lease> = Api::namespaced(place.client.clone(), "kube-system");
    let taken = json!({"spec": {"holderIdentity": other.name()}});
    leases.patch("signet-controller", &PatchParams::default(), &Patch::Merge(taken)).await?;
    eventually("it to have ended all it did", SOON, || async {
        Ok((world.controller.metric("sealed_secrets_controller_leading").await? == 0.0).then_some(()))
    })
    .await?;
    let since = gate.passed().len();
    held.pass();

    place.applied("app", &commit).await?;
    place.says("second", &[("value", "two")]).await?;
    assert_eq!(place.maps().get("first").await?.resource_version(), version, "what was done stays as it is");
    let wrote = |gate: &Gate, since: usize, part: &str| {
        let passed = gate.passed().into_iter().skip(since);
        passed.filter(|it| it.method != "GET" && it.path.contains(part)).map(|it| it.method).collect::<Vec<_>>()
    };
    let (second, old) = (path("second"), path("old"));
    assert_eq!((wrote(&gate, 0, &old), wrote(&other_gate, 0, &old)), (vec!["PATCH".into()], vec!["DELETE".into()]));
    assert_eq!((wrote(&gate, 0, &second).len(), wrote(&other_gate, 0, &second).len()), (1, 1), "once for each commit");
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.holds("db", &[("a", "1")]).await?;
    let late = wrote(&gate, since, &format!("/namespaces/{}/", place.namespace));
    assert!(late.is_empty(), "{late:?} by who does not lead");
    // The other finds nothing to change: who broke it off is the only one to tell.
    let object = format!("ConfigMap {}/first", place.namespace);
    let (mine, others) = (world.controller.logs().await?, other.logs().await?);
    assert_eq!((recorded(&mine, &object), recorded(&others, &object)), (vec!["created", "unheard"], vec![]));

    // What it broke off does not keep it from leading again.
    other.kill().await?;
    repository.write("first.yaml", config_map("first", "three"))?;
    let commit = repository.commit("three").await?;
    place.applied("app", &commit).await?;
    place.secrets().delete("db", &DeleteParams::default()).await?;
    place.holds("db", &[("a", "1")]).await?;
    assert_eq!(leader(&world.cluster).await?.as_deref(), Some(world.controller.name()));
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
    let new = World::with(ClusterOptions::default(), waiting).await?;
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
