//! What the tests say again and again: a cluster with the controller of `deploy/` in it, a namespace, a sealed Secret,
//! a condition. Sentences, no assertions about the product.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use crds::{GitSync, SealedSecret, git_sync::GitSyncSpec, sealed_secret::SealedSecretCondition};
use harness::{
    Cluster, ClusterOptions, Controller, ControllerOptions, Gate, GitServer, Repository, eventually, kubeseal,
    process::Signal, seal, tools::Tool,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Event, Secret},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// How soon anything is expected on a machine that does other things too; also of what tries again ever more seldom.
pub const SOON: Duration = Duration::from_mins(2);

/// Selects the key Secrets.
pub const KEYS: &str = "sealedsecrets.bitnami.com/sealed-secrets-key=active";

/// A cluster with `deploy/` applied and its controller running.
pub struct World {
    pub cluster: Cluster,
    pub controller: Controller,
}

impl World {
    /// One of its own, for a test that does to the controller what others could not bear.
    pub async fn new() -> Result<Self> {
        Self::with(ClusterOptions::default(), ControllerOptions::default()).await
    }

    pub async fn with(cluster: ClusterOptions, controller: ControllerOptions) -> Result<Self> {
        Self::deployed_from("deploy", cluster, controller).await
    }

    /// Another folder than `deploy/`.
    pub async fn deployed_from(folder: &str, cluster: ClusterOptions, controller: ControllerOptions) -> Result<Self> {
        Self::on(Cluster::start_with(cluster).await?, folder, controller).await
    }

    /// One whose controller asks the API server through a gate.
    pub async fn gated() -> Result<(Self, Gate)> {
        let cluster = Cluster::start().await?;
        let gate = Gate::start(&cluster)?;
        let controller = ControllerOptions { server: Some(gate.address()), ..ControllerOptions::default() };
        Ok((Self::on(cluster, "deploy", controller).await?, gate))
    }

    /// On a cluster that runs already.
    pub async fn on(cluster: Cluster, folder: &str, mut controller: ControllerOptions) -> Result<Self> {
        cluster.deploy_from(folder).await?;
        // Git repositories of the tests lie on this machine.
        controller.args.extend(["--git-file-root=/".to_owned()]);
        // By the environment: another release may not know the flags.
        for (name, tool) in [("SIGNET_KUSTOMIZE", Tool::Kustomize), ("SIGNET_HELM", Tool::Helm)] {
            controller.env.push((name.to_owned(), tool.path().await?.display().to_string()));
        }
        let controller = Controller::start_with(&cluster, controller).await?;
        Ok(Self { cluster, controller })
    }

    /// One for all tests that leave the controller in peace; with garbage collection.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<World> = OnceCell::const_new();
        let collecting = ClusterOptions { controller_manager: true, ..ClusterOptions::default() };
        SHARED.get_or_try_init(|| Self::with(collecting, ControllerOptions::default())).await
    }

    /// Seals with our own `seal` and the running controller's certificate.
    pub async fn seal(&self, secret: &str, flags: &[&str]) -> Result<String> {
        let args: Vec<&str> = ["--format", "yaml"].iter().chain(flags).copied().collect();
        seal(Some(self.cluster.kubeconfig()), &args, secret).await?.success()
    }

    /// Makes a new sealing key, and waits until it is the one that is served.
    pub async fn renew_key(&self) -> Result<()> {
        let certificate = async || kubeseal(Some(self.cluster.kubeconfig()), &["--fetch-cert"], "").await?.success();
        let before = certificate().await?;
        self.controller.signal(Signal::USR1).await?;
        eventually("another certificate", SOON, || async { Ok((certificate().await? != before).then_some(())) }).await
    }

    /// A namespace of its own, and a client of this test's runtime.
    pub async fn place(&self, prefix: &str) -> Result<Place<'_>> {
        let namespace = self.cluster.namespace(prefix).await?;
        Ok(Place { world: self, namespace, client: self.cluster.admin().await? })
    }
}

/// A namespace of a [`World`].
pub struct Place<'a> {
    pub world: &'a World,
    pub namespace: String,
    pub client: Client,
}

impl Place<'_> {
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn sealed(&self) -> Api<SealedSecret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn syncs(&self) -> Api<GitSync> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The manifest of a Secret of this namespace.
    pub fn secret(&self, name: &str, values: &[(&str, &str)]) -> String {
        manifest(&self.namespace, name, values)
    }

    /// Seals a Secret of this namespace and applies it.
    pub async fn apply_sealed(&self, name: &str, values: &[(&str, &str)]) -> Result<String> {
        let sealed = self.world.seal(&self.secret(name, values), &[]).await?;
        self.world.cluster.apply(&sealed).await?;
        Ok(sealed)
    }

    /// The same with annotations of the SealedSecret's own.
    pub async fn apply_annotated(&self, name: &str, values: &[(&str, &str)], annotations: &[&str]) -> Result<()> {
        let sealed = self.world.seal(&self.secret(name, values), &[]).await?;
        let mut sealed = document(&sealed)?;
        for annotation in annotations {
            sealed["metadata"]["annotations"][format!("sealedsecrets.bitnami.com/{annotation}")] = "true".into();
        }
        self.world.cluster.apply(&sealed.to_string()).await?;
        Ok(())
    }

    /// Waits until a Secret holds exactly these values.
    pub async fn holds(&self, name: &str, values: &[(&str, &str)]) -> Result<Secret> {
        let expected: BTreeMap<String, ByteString> =
            values.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect();
        let api = self.secrets();
        eventually(&format!("Secret {name} to hold {values:?}"), SOON, || async {
            Ok(api.get_opt(name).await?.filter(|secret| secret.data.as_ref() == Some(&expected)))
        })
        .await
    }

    /// Waits until the condition `Synced` has this status, and answers it.
    pub async fn synced(&self, name: &str, status: &str) -> Result<SealedSecretCondition> {
        let api = self.sealed();
        eventually(&format!("SealedSecret {name} to be Synced={status}"), SOON, || async {
            let sealed = api.get(name).await?;
            let observed = sealed.status.as_ref().and_then(|it| it.observed_generation);
            let current = observed == sealed.metadata.generation;
            Ok(sealed.synced().filter(|synced| current && synced.status == status).cloned())
        })
        .await
    }

    /// Makes a GitSync that looks every second.
    pub async fn sync(&self, name: &str, url: &str, path: &str) -> Result<GitSync> {
        let (interval, timeout) = ("1s".to_owned(), "5m".to_owned());
        let mut spec = GitSyncSpec { path: path.to_owned(), interval, timeout, prune: true, ..GitSyncSpec::default() };
        url.clone_into(&mut spec.source.url);
        Ok(self.syncs().create(&PostParams::default(), &GitSync::new(name, spec)).await?)
    }

    /// Waits until the condition `Ready` is as wanted, and answers it.
    pub async fn ready(&self, name: &str, wanted: impl Fn(&Condition, &GitSync) -> bool) -> Result<Condition> {
        let api = self.syncs();
        let seen = std::sync::Mutex::new(String::new());
        let ready = eventually(&format!("GitSync {name} to be as wanted"), SOON, || async {
            let sync = api.get(name).await?;
            let ready = sync.status.iter().flat_map(|it| &it.conditions).find(|it| it.type_ == "Ready").cloned();
            if let Ok(mut seen) = seen.lock() {
                *seen = format!("{ready:?}");
            }
            Ok(ready.filter(|ready| wanted(ready, &sync)))
        })
        .await;
        ready.with_context(|| format!("last seen: {}", seen.lock().map(|seen| seen.clone()).unwrap_or_default()))
    }

    /// Waits until a ConfigMap holds exactly these values.
    pub async fn says(&self, name: &str, values: &[(&str, &str)]) -> Result<ConfigMap> {
        let expected: BTreeMap<String, String> =
            values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let api = self.maps();
        eventually(&format!("ConfigMap {name} to say {values:?}"), SOON, || async {
            Ok(api.get_opt(name).await?.filter(|map| map.data.as_ref() == Some(&expected)))
        })
        .await
    }

    /// Waits for an Event with this reason that says this; its message.
    pub async fn event(&self, reason: &str, part: &str) -> Result<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("an Event {reason} with {part:?}"), SOON, || async {
            let all = api.list(&ListParams::default()).await?.items.into_iter();
            let mut said = all.filter(|it| it.reason.as_deref() == Some(reason)).filter_map(|it| it.message);
            Ok(said.find(|message| message.contains(part)))
        })
        .await
    }

    /// Waits until a condition of a GitSync has this status and says this.
    pub async fn condition(&self, name: &str, kind: &str, status: &str, part: &str) -> Result<Condition> {
        let api = self.syncs();
        eventually(&format!("GitSync {name} to be {kind}={status} with {part:?}"), SOON, || async {
            let conditions = api.get(name).await?.status.unwrap_or_default().conditions;
            Ok(conditions.into_iter().find(|it| it.type_ == kind && it.status == status && it.message.contains(part)))
        })
        .await
    }

    /// Waits until a commit is applied whole.
    pub async fn applied(&self, name: &str, commit: &str) -> Result<GitSync> {
        let revision = format!("main@sha1:{commit}");
        self.ready(name, |ready, sync| {
            let applied = sync.status.as_ref().and_then(|it| it.last_applied_revision.as_deref());
            ready.status == "True" && applied == Some(revision.as_str())
        })
        .await?;
        Ok(self.syncs().get(name).await?)
    }
}

/// The manifest of a ConfigMap whose `value` says something.
pub fn config_map(name: &str, value: impl std::fmt::Display) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  value: \"{value}\"\n")
}

/// The manifest of a Secret.
pub fn manifest(namespace: &str, name: &str, values: &[(&str, &str)]) -> String {
    let values: serde_json::Map<_, _> =
        values.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": values,
    })
    .to_string()
}

/// The one document of a manifest.
pub fn document(manifest: &str) -> Result<serde_json::Value> {
    Ok(crds::yaml::documents(manifest).remove(0).value?)
}

/// A namespace in the shared world, and a server for repositories.
pub async fn start(prefix: &str) -> Result<(Place<'static>, GitServer)> {
    Ok((World::shared().await?.place(prefix).await?, GitServer::start()?))
}

/// A GitSync that looks every second, if it does not say otherwise.
pub async fn follow(place: &Place<'_>, name: &str, repository: &Repository, mut spec: Value) -> Result<()> {
    spec["source"] = json!({"url": repository.url()});
    if spec.get("interval").is_none() {
        spec["interval"] = json!("1s");
    }
    place.syncs().create(&PostParams::default(), &GitSync::new(name, serde_json::from_value(spec)?)).await?;
    eventually("the GitSync to be seen", SOON, || async {
        Ok(place.syncs().get(name).await?.status.is_some().then_some(()))
    })
    .await
}

/// As much of the definition of another program's kind as there must be for one to be made.
pub fn definition(group: &str, kind: &str) -> String {
    let plural = format!("{}s", kind.to_lowercase());
    let version = json!({
        "name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()}, "versions": [version],
        },
    })
    .to_string()
}

/// What a log for people has on record of one object.
pub fn recorded<'a>(logs: &'a str, object: &str) -> Vec<&'a str> {
    let object = format!("object=\"{object}\"");
    let lines = logs.lines().filter(|line| line.contains(" INFO audit ") && line.contains(&object));
    lines.filter_map(|line| Some(line.split_once("action=\"")?.1.split_once('"')?.0)).collect()
}
