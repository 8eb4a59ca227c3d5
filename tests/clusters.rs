//! GitSyncs whose objects are in another cluster: two real API servers, of which one knows nothing of Signet.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use crds::{GitSync, git_sync::FINALIZER};
use harness::{Cluster, GitServer, Server, eventually, process::Signal};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::world::{Place, SOON, World, config_map, document, follow};

/// Another cluster, with a namespace of the same name as here.
struct Elsewhere {
    cluster: Cluster,
    client: Client,
    namespace: String,
}

impl Elsewhere {
    async fn of(place: &Place<'_>) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let (client, namespace) = (cluster.admin().await?, place.namespace.clone());
        let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
        let made = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &made).await?;
        Ok(Self { cluster, client, namespace })
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn says(&self, name: &str, value: &str) -> Result<()> {
        eventually(&format!("ConfigMap {name} elsewhere to say {value}"), SOON, || async {
            let data = self.maps().get_opt(name).await?.and_then(|map| map.data).unwrap_or_default();
            Ok((data.get("value").map(String::as_str) == Some(value)).then_some(()))
        })
        .await
    }

    /// A ServiceAccount that may do this much, and its kubeconfig.
    async fn account(&self, name: &str, rules: Value) -> Result<String> {
        let kubectl = async |args: &[&str]| self.cluster.kubectl(args).await;
        kubectl(&["-n", &self.namespace, "create", "serviceaccount", name]).await?;
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
            "rules": rules});
        self.cluster.apply(&role.to_string()).await?;
        let (role, account) = (format!("--clusterrole={name}"), format!("--serviceaccount={}:{name}", self.namespace));
        kubectl(&["create", "clusterrolebinding", name, &role, &account]).await?;
        read(&self.cluster.kubeconfig_for_service_account(&self.namespace, name).await?)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

async fn kubeconfig(place: &Place<'_>, name: &str, text: &str) -> Result<()> {
    place.world.cluster.apply(&place.secret(name, &[("value", text)])).await?;
    Ok(())
}

fn there(secret: &str) -> Value {
    json!({"secretRef": {"name": secret}})
}

#[tokio::test]
async fn objects_of_another_cluster_are_applied_healed_and_pruned_there() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("remote").await?;
    let elsewhere = Elsewhere::of(&place).await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    // The other cluster knows a kind that this one does not.
    elsewhere.cluster.apply(include_str!("testdata/widget-crd.yaml")).await?;
    repository.write(
        "widget.yaml",
        "apiVersion: tests.signet.dev/v1\nkind: Widget\nmetadata: {name: first}\nspec: {size: 2}\n",
    )?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let hook = "metadata:\n  annotations: {gitsync.signet.dev/hook: PreSync}\n";
    repository.write("hook.yaml", config_map("before", "one").replacen("metadata:\n", hook, 1))?;
    let first = repository.commit("one").await?;
    kubeconfig(&place, "there", &read(elsewhere.cluster.kubeconfig())?).await?;
    follow(&place, "app", &repository, json!({"kubeConfig": there("there"), "interval": "1h"})).await?;
    let sync = place.applied("app", &first).await?;
    let status = sync.status.unwrap_or_default();
    assert_eq!(status.cluster.as_deref(), Some(elsewhere.cluster.server()));
    assert_eq!(status.inventory.map(|it| it.objects.len()), Some(3));
    elsewhere.says("settings", "one").await?;
    elsewhere.says("before", "one").await?;
    assert!(place.maps().get_opt("settings").await?.is_none(), "nothing is applied here");

    // Drift there is seen there.
    let wrong = Patch::Merge(json!({"data": {"value": "by hand"}}));
    elsewhere.maps().patch("settings", &PatchParams::default(), &wrong).await?;
    elsewhere.says("settings", "one").await?;
    place.event("DriftCorrected", "settings").await?;

    // What is elsewhere is not left behind for another cluster, nor taken for gone.
    let home = Patch::Merge(json!({"spec": {"kubeConfig": null}}));
    place.syncs().patch("app", &PatchParams::default(), &home).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "ClusterChanged").await?;
    let words = format!("3 objects of it are in the one at {}", elsewhere.cluster.server());
    assert!(ready.message.contains(&words) && ready.message.contains("leads to this cluster"), "{}", ready.message);
    let back = Patch::Merge(json!({"spec": {"kubeConfig": there("there"), "interval": "1s"}}));
    place.syncs().patch("app", &PatchParams::default(), &back).await?;
    repository.remove("widget.yaml")?;
    let second = repository.commit("no widget").await?;
    place.applied("app", &second).await?;
    let widget = ["-n", &elsewhere.namespace, "get", "widgets.tests.signet.dev", "-o", "name"];
    assert_eq!(elsewhere.cluster.kubectl(&widget).await?.trim(), "");

    // It goes with its namespace, where the kubeconfig may go first.
    place.secrets().delete("there", &DeleteParams::default()).await?;
    place.ready("app", |ready, _| ready.reason == "InvalidKubeConfig").await?;
    place.syncs().delete("app", &DeleteParams::default()).await?;
    gone(&place, "app").await?;
    assert!(elsewhere.maps().get_opt("settings").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_that_is_rotated_is_used_at_once() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("rotated").await?;
    let elsewhere = Elsewhere::of(&place).await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]);
    let token = elsewhere.account("deployer", rules).await?;
    let secret_part: String = document(&token)?["users"][0]["user"]["token"].as_str().unwrap_or_default().to_owned();
    assert!(secret_part.len() > 100);

    // Nothing but this trigger: the interval is long.
    kubeconfig(&place, "there", &token.replace(&secret_part, "revoked")).await?;
    follow(&place, "app", &repository, json!({"kubeConfig": there("there"), "interval": "1h"})).await?;
    let told = "does not accept what the kubeconfig has to show";
    place.ready("app", |ready, _| ready.reason == "ClusterUnreachable" && ready.message.contains(told)).await?;
    kubeconfig(&place, "there", &token).await?;
    place.applied("app", &first).await?;
    let by = elsewhere.maps().get("settings").await?;
    assert_eq!(by.labels()["gitsync.signet.dev/name"], "app");

    // What would reach out of it is refused, and nothing of it is told.
    let mut program = document(&token)?;
    program["users"][0]["user"]["exec"] = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh"});
    let mut insecure = document(&token)?;
    insecure["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = json!(true);
    for (text, words) in [
        (program.to_string(), "its user has exec, which runs a program"),
        (insecure.to_string(), "--insecure-kubeconfig-tls"),
        (secret_part.clone(), "it is no kubeconfig"),
    ] {
        kubeconfig(&place, "there", &text).await?;
        let ready = place.ready("app", |ready, _| ready.message.contains(words)).await?;
        assert_eq!(ready.reason, "InvalidKubeConfig");
    }
    // Rights are those of that cluster.
    let less = elsewhere
        .account("reader", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]))
        .await?;
    kubeconfig(&place, "there", &less).await?;
    repository.write("map.yaml", config_map("settings", "two"))?;
    repository.commit("two").await?;
    let now = Patch::Merge(json!({"metadata": {"annotations": {crds::git_sync::RECONCILE_REQUESTED: "now"}}}));
    place.syncs().patch("app", &PatchParams::default(), &now).await?;
    let reader = format!("system:serviceaccount:{}:reader", elsewhere.namespace);
    place.ready("app", |ready, _| ready.message.contains(&reader)).await?;
    let told = [world.controller.logs().await?, serde_json::to_string(&place.syncs().get("app").await?)?].concat();
    assert!(!told.contains(&secret_part[..40]));
    Ok(())
}

/// In another cluster an account is one of that cluster, and impersonated there.
#[tokio::test]
async fn an_account_is_impersonated_there() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("there").await?;
    let elsewhere = Elsewhere::of(&place).await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    let watches = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]});
    let acts = json!({"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get", "impersonate"]});
    let manager = elsewhere.account("manager", json!([watches])).await?;
    kubeconfig(&place, "there", &manager).await?;
    follow(&place, "app", &repository, json!({"kubeConfig": there("there"), "serviceAccountName": "tenant"})).await?;
    let told = "the user of the kubeconfig must be allowed to get and impersonate it";
    place.ready("app", |ready, _| ready.reason == "AccessDenied" && ready.message.contains(told)).await?;
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "manager"},
        "rules": [watches, acts]});
    elsewhere.cluster.apply(&role.to_string()).await?;
    place.ready("app", |ready, _| ready.message.contains("does not exist; make it")).await?;
    elsewhere
        .account(
            "tenant",
            json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch", "create", "get"]}]),
        )
        .await?;
    place.applied("app", &first).await?;
    let made = elsewhere.maps().get("settings").await?;
    assert_eq!(made.data.unwrap_or_default()["value"], "one");
    Ok(())
}

/// A cluster that does not answer is told of, and keeps nobody waiting; when it is back all goes on.
#[tokio::test]
async fn a_cluster_that_does_not_answer_delays_nobody() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("away").await?;
    let elsewhere = Elsewhere::of(&place).await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let first = repository.commit("one").await?;
    kubeconfig(&place, "there", &read(elsewhere.cluster.kubeconfig())?).await?;
    // As long as one call may take: whoever waits for those that do not answer needs more.
    let soon = Duration::from_secs(30);
    // More of them than are handled at once here.
    let names: Vec<String> = (0..12).map(|number| format!("away-{number}")).collect();
    for name in &names {
        elsewhere.cluster.kubectl(&["create", "namespace", name]).await?;
        let spec = json!({"kubeConfig": there("there"), "targetNamespace": name});
        follow(&place, name, &repository, spec).await?;
    }
    for name in &names {
        place.applied(name, &first).await?;
    }
    // It takes every connection and answers none.
    elsewhere.cluster.signal(Server::ApiServer, Signal::STOP).await?;
    repository.write("map.yaml", config_map("settings", "two"))?;
    let second = repository.commit("two").await?;
    follow(&place, "here", &repository, json!({})).await?;
    timeout(soon, place.applied("here", &second)).await??;
    let ready = place.ready("away-0", |ready, _| ready.reason != "ReconciliationSucceeded").await?;
    assert_eq!(ready.status, "False", "{}", ready.message);
    repository.write("map.yaml", config_map("settings", "three"))?;
    let third = repository.commit("three").await?;
    timeout(soon, place.applied("here", &third)).await??;
    elsewhere.cluster.signal(Server::ApiServer, Signal::CONT).await?;
    for name in &names {
        place.applied(name, &third).await?;
    }

    // One that is not there at all holds up no deletion that wants nothing of it.
    kubeconfig(
        &place,
        "nowhere",
        &read(elsewhere.cluster.kubeconfig())?.replace(elsewhere.cluster.server(), "https://127.0.0.1:1"),
    )
    .await?;
    follow(&place, "nowhere", &repository, json!({"kubeConfig": there("nowhere")})).await?;
    let ready = place.ready("nowhere", |ready, _| ready.reason == "ClusterUnreachable").await?;
    assert!(ready.message.contains("https://127.0.0.1:1 cannot be reached"), "{}", ready.message);
    place.syncs().delete("nowhere", &DeleteParams::default()).await?;
    gone(&place, "nowhere").await
}

/// Another cluster's controller opens what is sealed for it, and what it says of that is told.
#[tokio::test]
async fn what_is_sealed_is_opened_by_the_controller_of_its_cluster() -> Result<()> {
    let world = World::new().await?;
    let other = World::new().await?;
    let place = world.place("sealed").await?;
    let metadata = ObjectMeta { name: Some(place.namespace.clone()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::all(other.cluster.admin().await?).create(&PostParams::default(), &namespace).await?;
    let there_place = Place { world: &other, namespace: place.namespace.clone(), client: other.cluster.admin().await? };
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("db.yaml", other.seal(&place.secret("db", &[("password", "x")]), &[]).await?)?;
    let first = repository.commit("sealed there").await?;
    kubeconfig(&place, "there", &read(other.cluster.kubeconfig())?).await?;
    follow(&place, "app", &repository, json!({"kubeConfig": there("there")})).await?;
    place.applied("app", &first).await?;
    there_place.holds("db", &[("password", "x")]).await?;
    repository.write("bad.yaml", world.seal(&place.secret("bad", &[("password", "x")]), &[]).await?)?;
    repository.commit("sealed for the wrong one").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "SealedSecretFailed").await?;
    assert!(ready.message.contains("bad.yaml:2: ") && ready.message.contains("/bad: "), "{}", ready.message);
    Ok(())
}

async fn gone(place: &Place<'_>, name: &str) -> Result<()> {
    eventually(&format!("GitSync {name} to go"), SOON, || async {
        let left: Option<GitSync> = place.syncs().get_opt(name).await?;
        Ok(left.is_none().then_some(()))
    })
    .await
    .with_context(|| format!("is it held by {FINALIZER}?"))
}
