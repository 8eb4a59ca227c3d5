//! The endpoints as people use them: the real kubeseal, through the API server's service proxy, as a ServiceAccount that
//! may do nothing but log in.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use harness::{ClusterOptions, ControllerOptions, eventually, kubeseal};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::world::{KEYS, Place, SOON, World};

/// In every value here, and in nothing else.
const PLAIN: &str = "correct-horse-battery";

/// One for all tests of this file: their requests would be too many for the limits that others meet.
async fn world() -> Result<&'static World> {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    let flags = [
        "--rate-limit=1000",
        "--rate-limit-burst=1000",
        "--privatekey-labels=team=blue",
        "--privatekey-annotations=example.org/note=a=b",
        "--key-cutoff-time=Thu, 01 Jan 2099 00:00:00 +0000",
        "--kubeclient-qps=500",
    ];
    let options = ControllerOptions { args: flags.map(str::to_owned).to_vec(), ..ControllerOptions::default() };
    WORLD.get_or_try_init(|| World::with(ClusterOptions::default(), options)).await
}

/// Somebody who may log in.
async fn developer(place: &Place<'_>) -> Result<PathBuf> {
    let cluster = &place.world.cluster;
    cluster.kubectl(&["-n", &place.namespace, "create", "serviceaccount", "developer"]).await?;
    cluster.kubeconfig_for_service_account(&place.namespace, "developer").await
}

/// A SealedSecret of this namespace as kubeseal writes it.
async fn sealed(place: &Place<'_>, name: &str, flags: &[&str]) -> Result<Value> {
    let args: Vec<&str> = ["--format", "json"].iter().chain(flags).copied().collect();
    let kubeconfig = Some(place.world.cluster.kubeconfig());
    let text = kubeseal(kubeconfig, &args, place.secret(name, &[("password", PLAIN)])).await?.success()?;
    Ok(serde_json::from_str(&text)?)
}

#[tokio::test]
async fn kubeseal_validates() -> Result<()> {
    let place = world().await?.place("validate").await?;
    let developer = developer(&place).await?;
    let validate = async |object: &Value| kubeseal(Some(&developer), &["--validate"], object.to_string()).await;
    let good = sealed(&place, "db", &[]).await?;
    let output = validate(&good).await?;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.status.success()), ("", "", true), "{output}");

    let mut elsewhere = good.clone();
    elsewhere["metadata"]["namespace"] = json!("elsewhere");
    let mut wider = good.clone();
    wider["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/cluster-wide": "true"});
    for object in [elsewhere, wider] {
        let output = validate(&object).await?;
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(output.stderr.contains("unable to decrypt sealed secret: db"), "{output}");
    }
    // Rendered, this would fail and say what the password is.
    let mut curious = good;
    curious["spec"]["template"]["data"] = json!({"x": "{{ fail .password }}"});
    assert!(validate(&curious).await?.status.success());
    said_nothing(&place).await
}

#[tokio::test]
async fn kubeseal_re_encrypts_for_the_newest_key_and_nothing_else_changes() -> Result<()> {
    let world = world().await?;
    let place = world.place("rotate").await?;
    let developer = developer(&place).await?;
    let mut old = sealed(&place, "db", &[]).await?;
    old["metadata"]["labels"] = json!({"own": "kept"});
    old["spec"]["template"]["data"] = json!({"url": "https://{{ .password }}"});
    old["spec"]["template"]["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/cluster-wide": "true"});
    world.renew_key().await?;

    let rotate = async |object: &Value| kubeseal(Some(&developer), &["--re-encrypt"], object.to_string()).await;
    let fresh: Value = serde_json::from_str(&rotate(&old).await?.success()?)?;
    assert_ne!(fresh["spec"]["encryptedData"], old["spec"]["encryptedData"]);
    assert_eq!(fresh["metadata"]["labels"], old["metadata"]["labels"]);
    // kubeseal writes the answer back as it understands it: what it knows is all there.
    assert_eq!(fresh["spec"]["template"]["data"], old["spec"]["template"]["data"]);
    let again: Value = serde_json::from_str(&rotate(&fresh).await?.success()?)?;
    assert_eq!(again["spec"], fresh["spec"], "what the newest key opens stays as it is");

    // Still for this name and namespace alone, although the template claims more.
    let mut moved = fresh.clone();
    moved["metadata"]["name"] = json!("other");
    moved["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/cluster-wide": "true"});
    let refused = rotate(&moved).await?;
    assert!(refused.stderr.contains("cannot re-encrypt secret: no key could decrypt secret"), "{refused}");

    let mut plain = fresh;
    plain["spec"]["template"]["data"] = Value::Null;
    world.cluster.apply(&plain.to_string()).await?;
    place.holds("db", &[("password", PLAIN)]).await?;
    said_nothing(&place).await
}

#[tokio::test]
async fn what_the_cluster_made_of_a_sealed_secret_can_be_re_encrypted_and_created_elsewhere() -> Result<()> {
    let world = world().await?;
    let place = world.place("copied").await?;
    let developer = developer(&place).await?;
    world.cluster.apply(&sealed(&place, "db", &[]).await?.to_string()).await?;
    place.synced("db", "True").await?;
    let live = serde_json::to_value(place.sealed().get("db").await?)?;
    let fresh = kubeseal(Some(&developer), &["--re-encrypt"], live.to_string()).await?.success()?;
    let fresh: Value = serde_json::from_str(&fresh)?;
    for field in ["uid", "resourceVersion", "generation", "managedFields"] {
        assert_eq!(fresh["metadata"].get(field), None, "{fresh}");
    }
    place.sealed().delete("db", &DeleteParams::default()).await?;
    place.sealed().create(&kube::api::PostParams::default(), &serde_json::from_value(fresh)?).await?;
    place.holds("db", &[("password", PLAIN)]).await?;
    Ok(())
}

#[tokio::test]
async fn a_refusal_says_why_and_a_stranger_gets_nothing_else() -> Result<()> {
    let world = world().await?;
    let place = world.place("refused").await?;
    let developer = developer(&place).await?;
    let ask = async |verb: &str, rest: &str, body: &str| {
        let path = format!("/api/v1/namespaces/kube-system/services/http:sealed-secrets-controller:http/proxy{rest}");
        let flags: &[&str] = if verb == "create" { &["--filename=-"] } else { &[] };
        world.cluster.kubectl_as(&developer, &[&[verb, "--raw", &path], flags].concat(), body).await
    };
    let told = ask("create", "/v1/verify", &place.secret("db", &[("password", PLAIN)])).await?.to_string();
    assert!(told.contains("this is not a SealedSecret") && !told.contains(PLAIN), "{told}");
    let told = ask("get", "/v1/verify", "").await?.to_string();
    assert!(told.contains("use POST"), "{told}");
    assert_eq!(ask("get", "/readyz", "").await?.success()?, "ok\n");
    said_nothing(&place).await
}

#[tokio::test]
async fn a_series_goes_with_its_object() -> Result<()> {
    let world = world().await?;
    let place = world.place("series").await?;
    let mut labelled = sealed(&place, "db", &[]).await?;
    labelled["metadata"]["labels"] = json!({"app.kubernetes.io/instance": "blue"});
    world.cluster.apply(&labelled.to_string()).await?;
    place.synced("db", "True").await?;
    let series = format!(
        "sealed_secrets_controller_condition_info{{namespace=\"{}\",name=\"db\",condition=\"Synced\",ss_app_kubernetes_io_instance=\"blue\"}} 1",
        place.namespace
    );
    let told = async |wanted: bool| {
        eventually(&format!("{series}: {wanted}"), SOON, || async {
            let has = world.controller.metrics().await?.lines().any(|line| line == series);
            Ok((has == wanted).then_some(()))
        })
        .await
    };
    told(true).await?;
    let mut moved = sealed(&place, "old", &[]).await?;
    moved["metadata"]["name"] = json!("moved");
    world.cluster.apply(&moved.to_string()).await?;
    place.synced("moved", "False").await?;
    let errors = "sealed_secrets_controller_unseal_errors_total";
    let failed = format!("{errors}{{reason=\"unseal\",namespace=\"{}\"}}", place.namespace);
    // More than once where a test beside this one makes a key: then what failed is tried again.
    assert!(world.controller.metric(&failed).await? >= 1.0, "{}", world.controller.metrics().await?);
    for name in ["db", "moved"] {
        place.sealed().delete(name, &DeleteParams::default()).await?;
    }
    told(false).await?;
    let all = eventually("what went to be forgotten", SOON, || async {
        Ok(Some(world.controller.metrics().await?).filter(|all| !all.contains(&place.namespace)))
    })
    .await?;
    for name in ["queue_depth{queue=\"unseal\"}", "queue_wait_seconds_count{queue=\"unseal\"}", "newest_key_expiry"] {
        assert!(all.contains(&format!("sealed_secrets_controller_{name}")), "{name}\n{all}");
    }
    Ok(())
}

/// And a cutoff that lies ahead asks for one key at the start, not for one after the other.
#[tokio::test]
async fn a_new_key_is_marked_as_asked_for() -> Result<()> {
    let place = world().await?.place("marks").await?;
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let keys = keys.list(&ListParams::default().labels(KEYS)).await?.items;
    assert!(keys.len() <= 2, "one of the start, one that another test renews: {}", keys.len());
    let key = keys.first().context("no key")?;
    assert_eq!(key.labels().get("team").map(String::as_str), Some("blue"));
    assert_eq!(key.annotations().get("example.org/note").map(String::as_str), Some("a=b"));
    Ok(())
}

/// No plaintext, and nothing that was posted, in the log.
async fn said_nothing(place: &Place<'_>) -> Result<()> {
    let logs = place.world.controller.logs().await?;
    assert!(!logs.contains(PLAIN) && !logs.contains("encryptedData"), "{logs}");
    Ok(())
}
