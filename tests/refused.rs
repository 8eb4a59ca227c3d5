//! What becomes of a SealedSecret whose Secret the API server does not take, or not yet.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::{Asked, At, ClusterOptions, ControllerOptions, Gate, Held, eventually};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
    core::Status,
};
use serde_json::json;

use crate::world::{Place, SOON, World, document, recorded};

/// From now on no Secret is made in a namespace.
async fn forbid(place: &Place<'_>) -> Result<()> {
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
    takes(place, false).await
}

/// Waits until the API server takes a Secret, or takes none.
async fn takes(place: &Place<'_>, wanted: bool) -> Result<()> {
    let (cluster, trial) = (&place.world.cluster, place.secret("trial", &[("a", "1")]));
    eventually("the policy to count", SOON, || async {
        let tried = cluster.kubectl_as(cluster.kubeconfig(), &["create", "--dry-run=server", "-f-"], &trial).await?;
        Ok((tried.success().is_ok() == wanted).then_some(()))
    })
    .await
}

/// Until now none was.
async fn allow(place: &Place<'_>) -> Result<()> {
    let binding = ["delete", "validatingadmissionpolicybinding", &place.namespace];
    place.world.cluster.kubectl(&binding).await?;
    takes(place, true).await
}

/// Upstream gives up after five tries within a fifth of a second.
#[tokio::test]
async fn a_refusal_is_waited_out() -> Result<()> {
    let place = World::shared().await?.place("refused").await?;
    forbid(&place).await?;
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
    allow(&place).await?;
    place.holds("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    Ok(())
}

/// What is said of it in the status, which comes back as news, is no change.
#[tokio::test]
async fn what_was_given_up_is_left_until_it_changes() -> Result<()> {
    let args = vec!["--max-unseal-retries=1".to_owned()];
    let world =
        World::with(ClusterOptions::default(), ControllerOptions { args, ..ControllerOptions::default() }).await?;
    let place = world.place("given-up").await?;
    forbid(&place).await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    is_told(&place, "not today").await?;
    let given_up = async || anyhow::Ok(world.controller.logs().await?.matches("giving up").count());
    eventually("it to be given up", SOON, || async { Ok((given_up().await? > 0).then_some(())) }).await?;
    allow(&place).await?;
    // One that comes after it has its turn after it; and after what becomes of it comes back, too.
    for name in ["later", "last"] {
        place.apply_sealed(name, &[("a", "1")]).await?;
        eventually("it to be opened", SOON, || async { Ok(place.secrets().get_opt(name).await?) }).await?;
    }
    assert_eq!((given_up().await?, place.secrets().get_opt("db").await?.is_none()), (1, true));
    place.apply_sealed("db", &[("a", "2")]).await?;
    place.holds("db", &[("a", "2")]).await.map(drop)
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
    let told = eventually(&format!("it to say {why:?}"), SOON, || async {
        let said = place.sealed().get("db").await?.synced().cloned();
        Ok(said.filter(|it| it.status == "False" && it.message.as_ref().is_some_and(|said| said.contains(why))))
    })
    .await?;
    assert_eq!(told.reason.as_deref(), Some("UpdateFailed"));
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

/// As from a webhook whose connection breaks: each answer names another port. What is said of it in the status comes back
/// as news of the object.
#[tokio::test]
async fn a_refusal_in_new_words_each_time_is_waited_out_too() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("words").await?;
    let mut held = gate.hold(At::Request, creation);
    place.apply_sealed("db", &[("a", "1")]).await?;
    held.caught().await?;
    let since = Instant::now();
    for port in 0..6 {
        let why = format!("failed calling webhook \"x.example.com\": read tcp 10.0.0.5:{port}: connection reset");
        fail(&gate, &mut held, Status::failure(&why, "Forbidden").with_code(403)).await?;
        is_told(&place, &why).await?;
    }
    held.caught().await?;
    // 0.2 s after the first, and each time twice as long.
    assert!(since.elapsed() > Duration::from_secs(12), "{:?}", since.elapsed());
    recovers(&place, held).await
}

/// The API server has made the Secret, and says that it does not know whether it has: what is there is ours.
#[tokio::test]
async fn a_secret_that_was_made_without_a_word_is_ours() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("unheard").await?;
    let mut held = gate.hold(At::Answer, creation);
    place.apply_sealed("db", &[("a", "1")]).await?;
    held.caught().await?;
    held.refuse(Status::failure("etcdserver: request timed out", "Timeout").with_code(504));
    place.synced("db", "True").await?;
    let logs = world.controller.logs().await?;
    assert!(!logs.contains("not managed by SealedSecret"), "{logs}");
    let record = recorded(&logs, &format!("Secret {}/db", place.namespace));
    assert_eq!(record.first().copied(), Some("unheard"), "{record:?}");
    Ok(())
}

/// It ended before that stood in the status, and no owner tells.
#[tokio::test]
async fn a_secret_without_an_owner_is_ours_after_a_crash() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("orphan").await?;
    let mut sealed = document(&world.seal(&place.secret("db", &[("a", "1")]), &[]).await?)?;
    sealed["spec"]["template"]["metadata"]["annotations"] =
        json!({"sealedsecrets.bitnami.com/skip-set-owner-references": "true"});
    let mut held = gate.hold(At::Answer, creation);
    world.cluster.apply(&sealed.to_string()).await?;
    held.caught().await?;
    world.controller.kill().await?;
    drop(held);
    world.controller.restart().await?;
    place.synced("db", "True").await?;
    let secret = place.holds("db", &[("a", "1")]).await?;
    assert!(secret.owner_references().is_empty());
    place.secrets().delete("db", &DeleteParams::default()).await?;
    place.holds("db", &[("a", "1")]).await.map(drop)
}

/// As another controller does that keeps the Secret as it wants it.
#[tokio::test]
async fn a_secret_that_others_insist_on_is_put_right_with_growing_waits() -> Result<()> {
    let place = World::shared().await?.place("fought").await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    let meddler = PatchParams { field_manager: Some("meddler".to_owned()), ..PatchParams::default() };
    let edit = Patch::Merge(json!({"stringData": {"extra": "x"}}));
    let told = eventually("who insists to be named", SOON, || async {
        place.secrets().patch("db", &meddler, &edit).await?;
        Ok(place.sealed().get("db").await?.synced().filter(|synced| synced.status == "False").cloned())
    })
    .await?;
    assert_eq!(told.reason.as_deref(), Some("Overwritten"));
    assert!(told.message.as_ref().is_some_and(|it| it.contains("last by meddler")), "{:?}", told.message);
    place.event("ErrUpdateFailed", "changed again and again, last by meddler").await?;
    // It has given up.
    place.synced("db", "True").await?;
    place.holds("db", &[("a", "1")]).await.map(drop)
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
