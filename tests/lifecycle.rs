//! How a controller begins and ends: what it says when it cannot start, and what it leaves when it is told to stop.

use std::fs;

use anyhow::{Context as _, Result};
use harness::{
    At, Cluster, ClusterOptions, ControllerOptions, GitServer, Output, binaries, command, eventually, metrics::sum,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::{Value, json};

use crate::world::{SOON, World, config_map, follow};

/// A controller that is expected to end by itself.
async fn ended(cluster: &Cluster, kubeconfig: &std::path::Path, flags: &[&str]) -> Result<Output> {
    let mut controller = command::clean(binaries::signet_controller().await?, cluster.scratch().path());
    controller.arg(format!("--kubeconfig={}", kubeconfig.display())).args(flags);
    controller.args(["--namespace=kube-system", "--listen-addr=127.0.0.1:0", "--listen-metrics-addr=127.0.0.1:0"]);
    command::run(&mut controller, b"").await
}

#[tokio::test]
async fn a_missing_definition_or_right_is_told_with_what_to_do_and_a_code() -> Result<()> {
    let cluster = Cluster::start().await?;
    let is = |output: &Output, code, told: &str| {
        assert!(output.status.code() == Some(code) && output.stderr.contains(told), "{code}, {told}: {output}");
    };
    is(&ended(&cluster, cluster.kubeconfig(), &[]).await?, 5, "cannot list sealedsecrets");

    // One without the other, as after an upgrade from upstream.
    let definitions = fs::read_to_string("../crds/crds.yaml")?;
    let (sealed, _) =
        definitions.rsplit_once("\n---\n").filter(|(_, more)| more.contains("gitsyncs")).context("two")?;
    cluster.apply(sealed).await?;
    cluster.established(&["sealedsecrets.bitnami.com"]).await?;
    is(&ended(&cluster, cluster.kubeconfig(), &[]).await?, 5, "cannot list gitsyncs");
    let wrong = ended(&cluster, cluster.kubeconfig(), &["--leader-election-retry-period=10s"]).await?;
    is(&wrong, 2, "--leader-election-retry-period (10s) must be shorter than --leader-election-renew-deadline (10s)");
    let wrong = ended(&cluster, cluster.kubeconfig(), &["--git-sync=false", "--label-selector=a in"]).await?;
    is(&wrong, 2, "see --label-selector");
    is(&ended(&cluster, cluster.kubeconfig(), &["--namespace-selector=a=b=c"]).await?, 2, "cannot list namespaces");

    cluster.kubectl(&["-n", "kube-system", "create", "serviceaccount", "nobody"]).await?;
    let nobody = cluster.kubeconfig_for_service_account("kube-system", "nobody").await?;
    is(&ended(&cluster, &nobody, &[]).await?, 6, "apply deploy/install.yaml");
    let stranger = fs::read_to_string(&nobody)?.replace("\"token\":\"", "\"token\":\"x");
    let stranger = cluster.scratch().file("stranger.kubeconfig", stranger)?;
    is(&ended(&cluster, &stranger, &[]).await?, 6, "does not know who asks");
    Ok(())
}

/// It is looked at again and again, and told once what is in the way of that.
#[tokio::test]
async fn a_lease_that_cannot_be_looked_at_does_not_fill_the_log() -> Result<()> {
    let times = ["lease-duration=20s", "renew-deadline=10s", "retry-period=500ms"];
    let args = times.map(|flag| format!("--leader-election-{flag}")).into();
    let options = ControllerOptions { args, ..ControllerOptions::default() };
    let world = World::with(ClusterOptions::default(), options).await?;
    let binding = ["-n", "kube-system", "get", "rolebinding", "sealed-secrets-key-admin", "-o", "json"];
    let mut kept: Value = serde_json::from_str(&world.cluster.kubectl(&binding).await?)?;
    kept["metadata"] = json!({"name": "sealed-secrets-key-admin", "namespace": "kube-system"});
    let before = world.controller.logs().await?.len();
    world.cluster.kubectl(&["-n", "kube-system", "delete", "rolebinding", "sealed-secrets-key-admin"]).await?;
    let since = async || anyhow::Ok(world.controller.logs().await?.get(before..).unwrap_or_default().to_owned());
    let refused = "sealed_secrets_controller_api_requests_total{verb=\"get\",code=\"403\"}";
    eventually("it to be refused again and again", SOON, || async {
        Ok((sum(&world.controller.metrics().await?, refused)? > 4.0).then_some(()))
    })
    .await?;
    let logs = since().await?;
    // On a loaded machine an answer may be late, too: that is told in other words, and what comes after it is told anew.
    let late = logs.matches("did not answer").count();
    let refused = |line: &&str| line.contains("cannot hold or look at the Lease") && line.contains("forbidden");
    let told = logs.lines().filter(refused).count();
    assert!((1..=2 + late).contains(&told), "once as the one that leads, once as one that follows: {logs}");
    world.cluster.apply(&kept.to_string()).await?;
    eventually("that to be told", SOON, || async {
        Ok(since().await?.contains("the Lease can be looked at again").then_some(()))
    })
    .await?;
    Ok(())
}

/// A call that is not answered is not waited for; the Lease is free for the next one all the same.
#[tokio::test]
async fn a_controller_with_work_in_hand_ends_in_time_and_gives_the_lease_back() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("ends").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    repository.commit("one").await?;
    let mut held = gate.hold(At::Request, |asked| asked.method == "PATCH" && asked.path.ends_with("/settings"));
    follow(&place, "app", &repository, json!({})).await?;
    held.caught().await?;

    let began = std::time::Instant::now();
    assert_eq!(world.controller.terminate().await?.code(), Some(0));
    let logs = world.controller.logs().await?;
    assert!(logs.contains("not everything ended in time") && logs.contains("gave the Lease back"), "{logs}");
    let leases: Api<Lease> = Api::namespaced(place.client.clone(), "kube-system");
    let lease = leases.get("signet-controller").await?.spec.unwrap_or_default();
    assert_eq!(lease.holder_identity, None, "after {:?}", began.elapsed());
    Ok(())
}
