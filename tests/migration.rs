//! From upstream's controller to ours and back, in a living cluster: upstream's own chart and program, its keys, its
//! SealedSecrets. Nothing is made anew, and nothing stays that should go.

use std::{os::unix::fs::symlink, process::Command};

use anyhow::{Context as _, Result, ensure};
use crds::SealedSecret;
use harness::{
    Cluster, ClusterOptions, Controller,
    background::free_port,
    chart, command, eventually, kubeseal,
    process::Process,
    publish::PublishedPort,
    tools::{Tool, UPSTREAM_ACCOUNT},
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::world::{KEYS, SOON, document};

const NAMES: [&str; 2] = ["db", "cache"];
const NAME: &str = "sealed-secrets-controller";

/// Upstream's controller as its chart runs it: with the rights, flags and name of program that it has there.
async fn upstream(cluster: &Cluster) -> Result<Process> {
    let scratch = cluster.scratch();
    let account = scratch.folder("upstream-account")?;
    scratch.file("upstream-account/token", cluster.service_account_token("kube-system", NAME).await?)?;
    std::fs::copy(scratch.path().join("ca.crt"), account.join("ca.crt"))?;
    // Whoever writes an object is noted by the name of his program.
    let program = account.join("controller");
    if !program.exists() {
        symlink(Tool::UpstreamController.path().await?, &program)?;
    }
    let address = cluster.server().strip_prefix("https://").and_then(|server| server.rsplit_once(':'));
    let (host, port) = address.context("the API server has no address")?;
    let deployment = Api::<Deployment>::namespaced(cluster.admin().await?, "kube-system").get(NAME).await?;
    let pod = deployment.spec.and_then(|spec| spec.template.spec).context("a Deployment without a Pod")?;
    let flags = pod.containers.into_iter().next().and_then(|container| container.args).unwrap_or_default();
    let (http, metrics) = (free_port()?, free_port()?);
    let mut run = Command::new(program);
    run.env_clear()
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port)
        .env("POD_NAMESPACE", "kube-system")
        .env(UPSTREAM_ACCOUNT, account)
        .args(flags)
        .arg(format!("--listen-addr=127.0.0.1:{http}"))
        .arg(format!("--listen-metrics-addr=127.0.0.1:{metrics}"));
    let process = Process::start(scratch, "upstream", &mut run)?;
    cluster
        .publish_service("kube-system", NAME, PublishedPort { name: "http", port: 8080, loopback_port: http })
        .await?;
    let client = cluster.kubeconfig();
    eventually("upstream to serve its certificate", SOON, || async {
        process.ensure_running()?;
        Ok(kubeseal(Some(client), &["--fetch-cert"], "").await?.success().ok())
    })
    .await?;
    Ok(process)
}

/// Upstream's chart, out of its own sources.
async fn upstreams_chart() -> Result<String> {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/upstream-controller");
    let home = std::env::var("HOME")?;
    let mut go = command::clean("go", home.as_ref());
    go.current_dir(tools).args(["list", "-m", "-f", "{{.Dir}}", "github.com/bitnami/sealed-secrets"]);
    let folder = command::run(&mut go, b"").await?.success()?;
    ensure!(!folder.trim().is_empty(), "Go's module cache holds no sources of upstream's controller any more");
    Ok(format!("{}/helm/sealed-secrets", folder.trim()))
}

struct Moving {
    cluster: Cluster,
    namespace: String,
}

impl Moving {
    async fn secrets(&self) -> Result<Api<Secret>> {
        Ok(Api::namespaced(self.cluster.admin().await?, &self.namespace))
    }

    /// Seals with the real kubeseal, for whichever controller is there.
    async fn seal(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "example.com/mine",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {"tier": "one"}, "annotations": {"a": "b"}},
            "stringData": {"user": "me", "password": "secret"},
        });
        change(&mut secret);
        let kubeconfig = Some(self.cluster.kubeconfig());
        let sealed = kubeseal(kubeconfig, &["--format=yaml"], secret.to_string()).await?.success()?;
        self.cluster.apply(&document(&sealed)?.to_string()).await?;
        Ok(())
    }

    /// Every key and every Secret, with all that a user could notice of it; not what is noted of who wrote it.
    async fn seen(&self) -> Result<Vec<Value>> {
        let keys = Api::<Secret>::namespaced(self.cluster.admin().await?, "kube-system");
        let mut seen = keys.list(&ListParams::default().labels(KEYS)).await?.items;
        for name in NAMES {
            seen.push(self.secrets().await?.get(name).await?);
        }
        let plain = |mut secret: Secret| {
            (secret.metadata.managed_fields, secret.metadata.resource_version) = (None, None);
            serde_json::to_value(secret)
        };
        Ok(seen.into_iter().map(plain).collect::<Result<_, _>>()?)
    }

    async fn synced(&self) -> Result<()> {
        let sealed = Api::<SealedSecret>::namespaced(self.cluster.admin().await?, &self.namespace);
        eventually("all to be synced", SOON, || async {
            let all = sealed.list(&ListParams::default()).await?;
            let done = |it: &SealedSecret| {
                let observed = it.status.as_ref().and_then(|status| status.observed_generation);
                observed == it.metadata.generation && it.synced().is_some_and(|synced| synced.status == "True")
            };
            Ok((all.items.len() == NAMES.len() && all.iter().all(done)).then_some(()))
        })
        .await
    }

    /// Waits until a Secret is as it should be.
    async fn until(&self, what: &str, wanted: impl Fn(&Secret) -> bool) -> Result<()> {
        let secrets = self.secrets().await?;
        eventually(what, SOON, || async { Ok(secrets.get_opt("db").await?.filter(&wanted).map(drop)) }).await
    }
}

fn items(secret: &Secret) -> Vec<&str> {
    secret.data.iter().flatten().map(|(item, _)| item.as_str()).collect()
}

#[tokio::test]
async fn upstreams_release_is_taken_over_and_given_back() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions { controller_manager: true, ..ClusterOptions::default() }).await?;
    let namespace = cluster.namespace("moving").await?;
    let theirs = upstreams_chart().await?;
    let ours = chart::folder().join("chart");
    let ours = ours.to_str().context("UTF-8")?;
    let name = format!("--set=fullnameOverride={NAME}");
    let install = ["install", "sealed-secrets", &theirs, "--namespace=kube-system", &name];
    cluster.helm(&install).await?;
    cluster.kubectl(&["wait", "--for=condition=established", "--all", "customresourcedefinitions"]).await?;
    let it = Moving { cluster, namespace };
    let running = upstream(&it.cluster).await?;
    for name in NAMES {
        it.seal(name, |_| ()).await?;
    }
    it.synced().await?;
    let before = it.seen().await?;
    assert_eq!(before.len(), 1 + NAMES.len());

    // As docs/migration.md has it.
    it.cluster.helm(&["uninstall", "sealed-secrets", "--namespace=kube-system", "--wait"]).await?;
    running.terminate(SOON).await?;
    it.cluster.helm(&["install", "signet", ours, "--namespace=kube-system", "--take-ownership"]).await?;
    let controller = Controller::start(&it.cluster).await?;
    it.synced().await?;
    let sealed = Api::<SealedSecret>::namespaced(it.cluster.admin().await?, &it.namespace);
    let recorded = || async {
        let all = sealed.list(&ListParams::default()).await?;
        let recorded = |it: &SealedSecret| it.status.as_ref().is_some_and(|status| status.unsealed.is_some());
        Ok(all.iter().all(recorded).then_some(()))
    };
    eventually("all to be looked at by us", SOON, recorded).await?;
    assert_eq!(it.seen().await?, before);

    // What upstream wrote goes with what it was written for: an item, a label, an annotation.
    it.seal("db", |secret| {
        secret["metadata"] = json!({"name": "db", "namespace": it.namespace, "labels": {"other": "two"}});
        secret["stringData"] = json!({"password": "changed"});
    })
    .await?;
    it.until("what was taken out to go", |secret| {
        items(secret) == ["password"] && secret.labels().keys().eq(["other"]) && secret.annotations().is_empty()
    })
    .await?;
    it.synced().await?;
    let between = it.seen().await?;
    assert_eq!(between[1]["metadata"]["uid"], before[1]["metadata"]["uid"]);

    // And back.
    controller.terminate().await?;
    it.cluster.helm(&["uninstall", "signet", "--namespace=kube-system", "--wait"]).await?;
    it.cluster.helm(&install).await?;
    let _running = upstream(&it.cluster).await?;
    it.synced().await?;
    assert_eq!(it.seen().await?, between);
    it.seal("db", |secret| secret["stringData"] = json!({"password": "again", "more": "1"})).await?;
    it.until("upstream to write it", |secret| items(secret) == ["more", "password"]).await?;
    assert_eq!(it.secrets().await?.get("db").await?.uid().map(Value::from), Some(before[1]["metadata"]["uid"].clone()));
    Ok(())
}

/// Changed while nobody was there: what upstream wrote for what is gone by now is found out too.
#[tokio::test]
async fn what_was_changed_between_the_two_is_caught_up_with() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions { controller_manager: true, ..ClusterOptions::default() }).await?;
    let namespace = cluster.namespace("moving").await?;
    let name = format!("--set=fullnameOverride={NAME}");
    cluster.helm(&["install", "sealed-secrets", &upstreams_chart().await?, "--namespace=kube-system", &name]).await?;
    cluster.kubectl(&["wait", "--for=condition=established", "--all", "customresourcedefinitions"]).await?;
    let it = Moving { cluster, namespace };
    let running = upstream(&it.cluster).await?;
    for name in NAMES {
        it.seal(name, |_| ()).await?;
    }
    it.synced().await?;
    let uid = it.secrets().await?.get("db").await?.uid();
    // Somebody else's label is no business of either controller.
    it.cluster.kubectl(&["-n", &it.namespace, "label", "secret", "db", "theirs=stays"]).await?;
    running.terminate(SOON).await?;
    let change = json!([
        {"op": "remove", "path": "/spec/encryptedData/user"},
        {"op": "remove", "path": "/spec/template/metadata/labels"},
    ]);
    let change = change.to_string();
    it.cluster
        .kubectl(&["-n", &it.namespace, "patch", "sealedsecret", "db", "--type=json", "--patch", &change])
        .await?;
    it.cluster.helm(&["uninstall", "sealed-secrets", "--namespace=kube-system"]).await?;
    let deploy = chart::folder();
    let deploy = deploy.to_str().context("UTF-8")?;
    it.cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "--kustomize", deploy]).await?;
    let _controller = Controller::start(&it.cluster).await?;
    it.until("it to be as it is now", |secret| {
        items(secret) == ["password"] && secret.labels().keys().eq(["theirs"]) && secret.uid() == uid
    })
    .await
}
