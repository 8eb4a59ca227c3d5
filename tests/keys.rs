//! The keys of a cluster over the years, by `seal keys` with the rights of `deploy/keys-operator` and no others.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use harness::{Cluster, Output, seal};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, api::PostParams, core::ObjectMeta};
use serde_json::{Value, json};

use crate::world::World;

/// A world, and somebody who looks after its keys.
struct Operated {
    world: World,
    operator: PathBuf,
}

impl Operated {
    async fn new() -> Result<Self> {
        Self::of(World::new().await?).await
    }

    /// `deploy/keys-operator` speaks of a group; here a ServiceAccount takes its place.
    async fn of(world: World) -> Result<Self> {
        let cluster = &world.cluster;
        cluster.deploy_from("deploy/keys-operator").await?;
        let operator = account(cluster, "operator").await?;
        let subject = json!({"subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "kube-system"}]});
        for binding in ["rolebinding", "clusterrolebinding"] {
            let patch = ["-n", "kube-system", "patch", binding, "signet-keys-operator", "--type=merge", "-p"];
            cluster.kubectl(&[&patch[..], &[&subject.to_string()]].concat()).await?;
        }
        Ok(Self { world, operator })
    }

    /// `seal keys …`.
    async fn keys(&self, args: &[&str]) -> Result<Output> {
        seal(Some(&self.operator), &[&["keys"], args].concat(), "").await
    }

    /// The same, with a report to read.
    async fn report(&self, args: &[&str]) -> Result<Value> {
        let text = self.keys(&[args, &["-o", "json"]].concat()).await?.success()?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// What `seal keys list` says of each key, newest first: its state, and how many SealedSecrets need it.
    async fn states(&self) -> Result<Vec<(String, usize)>> {
        let report = self.report(&["list"]).await?;
        let keys = report["keys"].as_array().context("keys")?;
        let text = |key: &Value| key["state"].as_str().unwrap_or_default().to_owned();
        Ok(keys.iter().map(|key| (text(key), key["neededBy"].as_array().map_or(0, Vec::len))).collect())
    }
}

/// Makes a ServiceAccount; its kubeconfig.
async fn account(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin().await?, "kube-system");
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    accounts.create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() }).await?;
    cluster.kubeconfig_for_service_account("kube-system", name).await
}

fn states(expected: &[(&str, usize)]) -> Vec<(String, usize)> {
    expected.iter().map(|(state, needed)| ((*state).to_owned(), *needed)).collect()
}

#[tokio::test]
async fn the_list_tells_states_and_what_needs_each_key() -> Result<()> {
    let it = Operated::new().await?;
    let place = it.world.place("list").await?;
    place.apply_sealed("old", &[("a", "1")]).await?;
    place.synced("old", "True").await?;
    it.world.renew_key().await?;
    place.apply_sealed("new", &[("a", "1"), ("b", "2")]).await?;
    place.synced("new", "True").await?;
    assert_eq!(it.states().await?, states(&[("sealing", 1), ("superseded", 1)]));

    let report = it.report(&["list"]).await?;
    let newest = &report["keys"][0];
    assert_eq!(newest["neededBy"], json!([{"namespace": place.namespace, "name": "new", "items": ["a", "b"]}]));
    assert_eq!((&newest["opens"], &newest["validity"]), (&json!(true), &json!("good")));
    let table = it.keys(&["list"]).await?.success()?;
    assert!(!table.contains('\u{1b}'), "no colour without a terminal");
    assert!(table.starts_with("FINGERPRINT"), "{table}");
    assert!(table.lines().nth(1).is_some_and(|line| line.contains("sealing") && line.contains("in 9y")), "{table}");

    // One that does not open may need any key, as far as anybody knows.
    let broken = json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": "broken", "namespace": place.namespace}, "spec": {"encryptedData": {"a": "AgA="}},
    });
    it.world.cluster.apply(&broken.to_string()).await?;
    place.synced("broken", "False").await?;
    let report = it.report(&["list"]).await?;
    assert_eq!(report["unknown"][0]["name"], "broken", "{report}");

    // Whoever has no rights is told where they stand.
    let stranger = account(&it.world.cluster, "stranger").await?;
    let refused = seal(Some(&stranger), &["keys", "list"], "").await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("deploy/keys-operator"), "{}", refused.stderr);
    Ok(())
}
