//! What becomes of a SealedSecret whose Secret the API server does not take, or not yet.

use anyhow::Result;
use harness::{Asked, At, Gate, Held, eventually};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
    core::Status,
};
use serde_json::json;

use crate::world::{Place, SOON, World, document, recorded};

/// Upstream gives up after five tries within a fifth of a second.
#[tokio::test]
async fn a_refusal_is_waited_out() -> Result<()> {
    let place = World::shared().await?.place("refused").await?;
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": place.namespace},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}},
                "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["secrets"]}],
            },
            "validations": [{"expression": "false", "message": "not today"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": place.namespace},
        "spec": {"policyName": place.namespace, "validationActions": ["Deny"]},
    });
    let cluster = &place.world.cluster;
    cluster.apply(&policy.to_string()).await?;
    cluster.apply(&binding.to_string()).await?;
    eventually("the policy to hold", SOON, || async {
        let trial = place.secret("trial", &[("a", "1")]);
        let tried = cluster.kubectl_as(cluster.kubeconfig(), &["create", "--dry-run=server", "-f-"], &trial).await?;
        Ok(tried.success().is_err().then_some(()))
    })
    .await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    let refused = place.synced("db", "False").await?;
    assert_eq!(refused.reason.as_deref(), Some("UpdateFailed"));
    assert!(refused.message.unwrap_or_default().contains("not today"));

    // Well after five tries.
    eventually("it to be tried again and again", SOON, || async {
        let tries = place.world.controller.logs().await?.lines().filter(|line| line.contains("not today")).count();
        Ok((tries > 6).then_some(()))
    })
    .await?;
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", &place.namespace]).await?;
    place.holds("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    Ok(())
}

fn creation(asked: &Asked) -> bool {
    asked.method == "POST" && asked.path.ends_with("/secrets")
}

/// The creation that is held fails, and the one that comes after it is held.
async fn fail(gate: &Gate, held: &mut Held, answer: Status) -> Result<()> {
    held.caught().await?;
    let next = gate.hold(At::Request, creation);
    std::mem::replace(held, next).refuse(answer);
    Ok(())
}

async fn is_told(place: &Place<'_>, why: &str) -> Result<()> {
    let told = place.synced("db", "False").await?;
    assert_eq!(told.reason.as_deref(), Some("UpdateFailed"));
    assert!(told.message.unwrap_or_default().contains(why));
    Ok(())
}

async fn recovers(place: &Place<'_>, mut held: Held) -> Result<()> {
    held.caught().await?;
    held.pass();
    place.holds("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    Ok(())
}

/// A quota that two use at once says so, and a webhook may.
#[tokio::test]
async fn a_conflict_is_no_name_that_is_taken() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("conflict").await?;
    let why = "Operation cannot be fulfilled on resourcequotas \"rq\": the object has been modified";
    let mut held = gate.hold(At::Request, creation);
    place.apply_sealed("db", &[("a", "1")]).await?;
    for _ in 0..2 {
        fail(&gate, &mut held, Status::failure(why, "Conflict").with_code(409)).await?;
        is_told(&place, why).await?;
    }
    recovers(&place, held).await
}

/// As when a webhook has no endpoints. A failure or two may be an API server that starts, and are not worth a word.
#[tokio::test]
async fn a_failure_that_stays_is_told() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("fails").await?;
    let labels = format!("reason=\"update\",namespace={:?}", place.namespace);
    let errors = format!("sealed_secrets_controller_unseal_errors_total{{{labels}");
    let why = "failed calling webhook \"x.example.com\": no endpoints available";
    let mut held = gate.hold(At::Request, creation);
    place.apply_sealed("db", &[("a", "1")]).await?;
    for failures in 0..4 {
        held.caught().await?;
        assert!(place.sealed().get("db").await?.synced().is_none(), "after {failures}");
        assert!(world.controller.metric(&errors).await? >= f64::from(failures));
        fail(&gate, &mut held, Status::failure(why, "InternalError").with_code(500)).await?;
    }
    is_told(&place, why).await?;
    recovers(&place, held).await
}

/// Nothing ends a namespace here, so it stays as it is while it goes.
#[tokio::test]
async fn in_a_namespace_that_goes_nothing_is_made_anew_or_complained_of() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("going").await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    let before = gate.passed().len();
    Api::<Namespace>::all(place.client.clone()).delete(&place.namespace, &DeleteParams::default()).await?;
    place.secrets().delete("db", &DeleteParams::default()).await?;
    let secrets = format!("/namespaces/{}/secrets", place.namespace);
    eventually("it to be tried", SOON, || async {
        let passed = gate.passed();
        let tries = passed.iter().skip(before).filter(|asked| asked.method == "POST" && asked.path.ends_with(&secrets));
        Ok((tries.count() > 0).then_some(()))
    })
    .await?;
    // One that comes after it has its turn after it.
    let later = world.place("later").await?;
    later.apply_sealed("db", &[("a", "1")]).await?;
    later.synced("db", "True").await?;
    let logs = world.controller.logs().await?;
    assert!(!logs.contains("being terminated") && !logs.contains("Error updating"), "{logs}");
    Ok(())
}

/// Each time it would be deleted again, and be on record as deleted.
#[tokio::test]
async fn a_secret_that_is_made_anew_and_has_a_finalizer_is_deleted_once() -> Result<()> {
    let place = World::shared().await?.place("finalizer").await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    let hold = |finalizers: &[&str]| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    place.secrets().patch("db", &PatchParams::default(), &hold(&["example.com/held"])).await?;
    let mut sealed = document(&place.world.seal(&place.secret("db", &[("a", "2")]), &[]).await?)?;
    sealed["spec"]["template"]["type"] = json!("example.com/other");
    sealed["metadata"]["annotations"]["sealedsecrets.bitnami.com/replace"] = json!("true");
    place.world.cluster.apply(&sealed.to_string()).await?;
    eventually("the old one to be deleted", SOON, || async {
        Ok(place.secrets().get("db").await?.metadata.deletion_timestamp)
    })
    .await?;
    let told = place.synced("db", "False").await?;
    assert_eq!(told.reason.as_deref(), Some("BeingDeleted"));
    assert!(told.message.unwrap_or_default().contains("waits for its metadata.finalizers"));
    for team in ["blue", "green"] {
        sealed["metadata"]["labels"] = json!({"team": team});
        place.world.cluster.apply(&sealed.to_string()).await?;
        // One that comes after it has its turn after it.
        place.apply_sealed(team, &[("a", "1")]).await?;
        place.synced(team, "True").await?;
    }
    place.secrets().patch("db", &PatchParams::default(), &hold(&[])).await?;
    let secret = place.holds("db", &[("a", "2")]).await?;
    assert_eq!(secret.type_.as_deref(), Some("example.com/other"));
    place.synced("db", "True").await?;
    let logs = place.world.controller.logs().await?;
    let deletions = recorded(&logs, &format!("Secret {}/db", place.namespace));
    assert_eq!(deletions.iter().filter(|action| **action == "deleted").count(), 1, "{deletions:?}");
    Ok(())
}
