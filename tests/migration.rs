//! From upstream's controller to ours and back, in a living cluster: upstream's own chart and program, its keys, its
//! SealedSecrets; and `docs/migration.md`, word for word. Nothing is made anew, and nothing stays that should go.

use std::{os::unix::fs::symlink, path::PathBuf, process::Command};

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
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, Service},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::{
    book::{Desk, Page},
    world::{KEYS, SOON, document},
};

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
    // Upstream's chart names the port, its manifest does not.
    let service = Api::<Service>::namespaced(cluster.admin().await?, "kube-system").get(NAME).await?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let name = ports.first().and_then(|port| port.name.as_deref()).unwrap_or_default();
    let port = PublishedPort { name, port: 8080, loopback_port: http };
    cluster.publish_service("kube-system", NAME, port).await?;
    let client = cluster.kubeconfig();
    Tool::Kubeseal.path().await?; // built now, and not while it is waited for
    eventually("upstream to serve its certificate", SOON, || async {
        process.ensure_running()?;
        Ok(kubeseal(Some(client), &["--fetch-cert"], "").await?.success().ok())
    })
    .await?;
    Ok(process)
}

/// Upstream's own sources, in Go's module cache; fetched when they are not there yet.
async fn upstreams_sources() -> Result<PathBuf> {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/sealed-secrets");
    // As for the tools, whatever says where modules come from counts.
    let mut go = tokio::process::Command::new("go");
    go.current_dir(tools).args(["mod", "download", "-json", "github.com/bitnami/sealed-secrets"]);
    let module: Value = serde_json::from_str(&command::run(&mut go, b"").await?.success()?)?;
    Ok(module["Dir"].as_str().context("Go does not say where the sources of upstream's controller are")?.into())
}

async fn upstreams_chart() -> Result<String> {
    Ok(upstreams_sources().await?.join("helm/sealed-secrets").display().to_string())
}

/// The one that its chart installs and never upgrades.
pub async fn upstreams_definition() -> Result<String> {
    let path = upstreams_sources().await?.join("helm/sealed-secrets/crds/bitnami.com_sealedsecrets.yaml");
    std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
}

/// `controller.yaml`, as upstream makes it for a release. kubecfg lends one function that jsonnet has under another name.
async fn upstreams_manifest() -> Result<String> {
    const ALL: &str = "local all = import 'controller.jsonnet'; \
        {apiVersion: 'v1', kind: 'List', items: [all[name] for name in std.objectFields(all)]}";
    const KUBECFG: &str =
        "{parseYaml(text):: local all = std.parseYaml(text); if std.isArray(all) then all else [all]}";
    let home = tempfile::tempdir()?;
    std::fs::write(home.path().join("kubecfg.libsonnet"), KUBECFG)?;
    let mut jsonnet = command::clean(Tool::Jsonnet.path().await?, home.path());
    jsonnet.arg("--jpath").arg(upstreams_sources().await?).arg("--jpath").arg(home.path());
    jsonnet.args(["--ext-str", "CONTROLLER_IMAGE=upstream:1", "--ext-str", "IMAGE_PULL_POLICY=", "--exec", ALL]);
    command::run(&mut jsonnet, b"").await?.success()
}

struct Moving {
    cluster: Cluster,
    namespace: String,
    page: Page,
    desk: Desk,
}

impl Moving {
    async fn new() -> Result<Self> {
        let cluster =
            Cluster::start_with(ClusterOptions { controller_manager: true, ..ClusterOptions::default() }).await?;
        let namespace = cluster.namespace("moving").await?;
        let mut desk = Desk::new(None, Some(cluster.kubeconfig())).await?;
        desk.bring("deploy", &chart::folder())?;
        desk.call("sealed-secrets/sealed-secrets", upstreams_chart().await?);
        Ok(Self { cluster, namespace, page: Page::read("migration.md")?, desk })
    }

    /// Does what the page says under a heading.
    async fn follow(&self, heading: &str) -> Result<()> {
        let steps: Vec<_> = self.page.steps.iter().filter(|step| step.heading == heading).collect();
        ensure!(!steps.is_empty(), "the page says nothing of {heading:?}");
        self.desk.follow_all(steps).await
    }

    /// Upstream runs and has opened all.
    async fn begun(&self) -> Result<Process> {
        self.cluster.established(&["sealedsecrets.bitnami.com"]).await?;
        let running = upstream(&self.cluster).await?;
        for name in NAMES {
            self.seal(name, |_| ()).await?;
        }
        self.synced().await?;
        Ok(running)
    }

    /// We run, and have looked at all that is there.
    async fn taken_over(&self) -> Result<Controller> {
        let controller = Controller::start(&self.cluster).await?;
        self.synced().await?;
        let sealed = Api::<SealedSecret>::namespaced(self.cluster.admin().await?, &self.namespace);
        let recorded = || async {
            let all = sealed.list(&ListParams::default()).await?;
            let recorded = |it: &SealedSecret| it.status.as_ref().is_some_and(|status| status.unsealed.is_some());
            Ok(all.iter().all(recorded).then_some(()))
        };
        eventually("all to be looked at by us", SOON, recorded).await?;
        Ok(controller)
    }

    /// Our Service has our Pods, and nobody else's selector is left on it.
    async fn leads_to_us(&self) -> Result<()> {
        let selectors = ["-n", "kube-system", "get", "service", "-o", "jsonpath={.items[*].spec.selector}"];
        let selectors = self.cluster.kubectl(&selectors).await?;
        ensure!(
            selectors == r#"{"app.kubernetes.io/name":"signet"} {"app.kubernetes.io/name":"signet"}"#,
            "{selectors}"
        );
        Ok(())
    }

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
    let it = Moving::new().await?;
    let name = format!("--set=fullnameOverride={NAME}");
    it.cluster
        .helm(&["install", "sealed-secrets", &upstreams_chart().await?, "--namespace=kube-system", &name])
        .await?;
    let running = it.begun().await?;
    let before = it.seen().await?;
    assert_eq!(before.len(), 1 + NAMES.len());

    running.terminate(SOON).await?;
    it.follow("With Helm").await?;
    it.leads_to_us().await?;
    let controller = it.taken_over().await?;
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

    controller.terminate().await?;
    it.follow("Back with Helm").await?;
    let _running = upstream(&it.cluster).await?;
    it.synced().await?;
    assert_eq!(it.seen().await?, between);
    it.seal("db", |secret| secret["stringData"] = json!({"password": "again", "more": "1"})).await?;
    it.until("upstream to write it", |secret| items(secret) == ["more", "password"]).await?;
    assert_eq!(it.secrets().await?.get("db").await?.uid().map(Value::from), Some(before[1]["metadata"]["uid"].clone()));
    Ok(())
}

#[tokio::test]
async fn upstreams_manifest_is_taken_over_and_given_back() -> Result<()> {
    let it = Moving::new().await?;
    let manifest = upstreams_manifest().await?;
    it.desk.write("controller.yaml", &manifest)?;
    let apply = ["apply", "--filename=-"];
    it.cluster.kubectl_as(it.cluster.kubeconfig(), &apply, &manifest).await?.success()?;
    let running = it.begun().await?;
    let before = it.seen().await?;

    running.terminate(SOON).await?;
    it.follow("With kubectl").await?;
    it.leads_to_us().await?;
    let controller = it.taken_over().await?;
    assert_eq!(it.seen().await?, before);
    // Under our rights alone, and by our definitions.
    it.cluster.kubectl(&["get", "gitsyncs", "-A"]).await?;

    controller.terminate().await?;
    it.follow("Back with kubectl").await?;
    let _running = upstream(&it.cluster).await?;
    it.synced().await?;
    assert_eq!(it.seen().await?, before);
    it.seal("db", |secret| secret["stringData"] = json!({"password": "again", "more": "1"})).await?;
    it.until("upstream to write it", |secret| items(secret) == ["more", "password"]).await
}

/// Changed while nobody was there: what upstream wrote for what is gone by now is found out too.
#[tokio::test]
async fn what_was_changed_between_the_two_is_caught_up_with() -> Result<()> {
    let it = Moving::new().await?;
    let manifest = upstreams_manifest().await?;
    it.cluster.apply(&manifest).await?;
    let running = it.begun().await?;
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
    it.follow("With kubectl").await?;
    let _controller = Controller::start(&it.cluster).await?;
    it.until("it to be as it is now", |secret| {
        items(secret) == ["password"] && secret.labels().keys().eq(["theirs"]) && secret.uid() == uid
    })
    .await
}
