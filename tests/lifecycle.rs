//! How a controller begins and ends: what it says when it cannot start, and what it leaves when it is told to stop.

use std::{fs, net::TcpListener};

use anyhow::{Context as _, Result};
use crds::{GitSync, git_sync::GitSyncSpec};
use harness::{Cluster, Output, binaries, command, eventually};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::world::{SOON, World};

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
    cluster.kubectl(&["wait", "--for=condition=established", "--all", "customresourcedefinitions"]).await?;
    is(&ended(&cluster, cluster.kubeconfig(), &[]).await?, 5, "cannot list gitsyncs");
    let wrong = ended(&cluster, cluster.kubeconfig(), &["--git-sync=false", "--label-selector=a in"]).await?;
    is(&wrong, 2, "see --label-selector");

    cluster.kubectl(&["-n", "kube-system", "create", "serviceaccount", "nobody"]).await?;
    let nobody = cluster.kubeconfig_for_service_account("kube-system", "nobody").await?;
    is(&ended(&cluster, &nobody, &[]).await?, 6, "apply deploy/install.yaml");
    let stranger = fs::read_to_string(&nobody)?.replace("\"token\":\"", "\"token\":\"x");
    let stranger = cluster.scratch().file("stranger.kubeconfig", stranger)?;
    is(&ended(&cluster, &stranger, &[]).await?, 6, "does not know who asks");
    Ok(())
}

/// A Git host that says nothing is not waited for; the Lease is free for the next one all the same.
#[tokio::test]
async fn a_controller_with_work_in_hand_ends_in_time_and_gives_the_lease_back() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("ends").await?;
    let host = TcpListener::bind("127.0.0.1:0")?;
    host.set_nonblocking(true)?;
    let source = json!({"source": {"url": format!("http://{}/x.git", host.local_addr()?)}, "interval": "1h"});
    let spec: GitSyncSpec = serde_json::from_value(source)?;
    place.syncs().create(&PostParams::default(), &GitSync::new("silent", spec)).await?;
    let _asked = eventually("the host to be asked", SOON, || async { Ok(host.accept().ok()) }).await?;

    let began = std::time::Instant::now();
    assert_eq!(world.controller.terminate().await?.code(), Some(0));
    let logs = world.controller.logs().await?;
    assert!(logs.contains("not everything ended in time") && logs.contains("gave the Lease back"), "{logs}");
    let leases: Api<Lease> = Api::namespaced(place.client.clone(), "kube-system");
    let lease = leases.get("signet-controller").await?.spec.unwrap_or_default();
    assert_eq!(lease.holder_identity, None, "after {:?}", began.elapsed());
    Ok(())
}
