//! `seal install`: what it prints is what `deploy/` has, and what it applies is waited for.

use std::time::Duration;

use anyhow::Result;
use harness::{Cluster, binaries, command, eventually, seal};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

const DEPLOYMENT: &str = "sealed-secrets-controller";

#[tokio::test]
async fn what_it_prints_is_applied_by_kubectl() -> Result<()> {
    let cluster = Cluster::start().await?;
    for namespace in ["signet", "shop"] {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
    }
    let home = tempfile::tempdir()?;
    for flags in [&[][..], &["--sealing-only"], &["--namespaces=shop"], &["--namespace-selector=team=blue"]] {
        for place in [&[][..], &["--namespace=signet", "--image=registry.example.com/signet:1.0"]] {
            // No kubeconfig, no cluster.
            let mut install = command::clean(binaries::seal().await?, home.path());
            let text = command::run(install.arg("install").args(flags).args(place), b"").await?.success()?;
            let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"];
            cluster.kubectl_as(cluster.kubeconfig(), &apply, &text).await?.success()?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_it_applies_is_waited_for() -> Result<()> {
    let cluster = Cluster::start().await?;
    let kubeconfig = Some(cluster.kubeconfig());
    let late = seal(kubeconfig, &["install", "--apply", "--timeout=5"], "").await?;
    assert_eq!(late.status.code(), Some(5), "{late}");
    let image = concat!("of the image signet-controller:", env!("CARGO_PKG_VERSION"));
    assert!(late.stderr.contains("not ready after 5 s: nobody has looked at the Deployment yet"), "{late}");
    assert!(late.stderr.contains(image) && late.stderr.contains("kubectl -n kube-system describe pods"), "{late}");
    assert!(late.stderr.contains("--image"), "{late}");
    let waits = format!("\nwaiting up to 5 s for the Deployment kube-system/{DEPLOYMENT}, {image}\n");
    assert_eq!(late.stdout.matches(&waits).count(), 1, "{late}");

    // Nobody runs Pods here: the Deployment is told to be well.
    let deployments = Api::<Deployment>::namespaced(cluster.admin().await?, "kube-system");
    let well = json!({"status": {"observedGeneration": 9, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}});
    let applying = seal(kubeconfig, &["install", "--apply", "--timeout=300"], "");
    let becoming = eventually("the Deployment to be told so", Duration::from_mins(2), || async {
        Ok(deployments.patch_status(DEPLOYMENT, &PatchParams::default(), &Patch::Merge(&well)).await.ok())
    });
    let (applied, became) = tokio::join!(applying, becoming);
    became?;
    let applied = applied?;
    assert!(applied.status.success() && applied.stdout.contains("the controller is ready"), "{applied}");
    assert!(applied.stdout.contains("applied Deployment kube-system/sealed-secrets-controller"), "{applied}");
    cluster.kubectl(&["get", "gitsyncs,sealedsecrets", "-A"]).await?;

    // Another controller of that name, which selects other Pods, as upstream's does.
    deployments.delete(DEPLOYMENT, &kube::api::DeleteParams::default()).await?;
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT, "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"name": DEPLOYMENT}},
            "template": {
                "metadata": {"labels": {"name": DEPLOYMENT}},
                "spec": {"containers": [{"name": "controller", "image": "theirs"}]},
            },
        },
    });
    cluster.apply(&theirs.to_string()).await?;
    let refused = seal(kubeconfig, &["install", "--apply"], "").await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("docs/migration.md"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn where_it_ends_early_it_tells_what_is_done_and_what_to_do() -> Result<()> {
    let cluster = Cluster::start().await?;
    for (flags, missing) in [("--namespace=sealing", "sealing"), ("--namespaces=default,shop", "shop")] {
        let refused = seal(Some(cluster.kubeconfig()), &["install", "--apply", flags], "").await?;
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        assert!(refused.stdout.contains("applied CustomResourceDefinition gitsyncs.signet.dev\n"), "{refused}");
        assert!(refused.stderr.contains(&format!("kubectl create namespace {missing}\n")), "{refused}");
    }
    Ok(())
}
