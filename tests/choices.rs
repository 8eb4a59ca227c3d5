//! What people choose object by object: annotations on the SealedSecret, its template, or the Secret.

use anyhow::Result;
use crds::Certificate;
use harness::{eventually, seal};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, document};

async fn merge(place: &Place<'_>, secret: &str, patch: Value) -> Result<()> {
    place.secrets().patch(secret, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn marks(marks: &[&str]) -> Value {
    let annotations: serde_json::Map<_, _> =
        marks.iter().map(|mark| (format!("sealedsecrets.bitnami.com/{mark}"), json!("true"))).collect();
    json!({"metadata": {"annotations": annotations, "labels": {"theirs": "stays"}}})
}

#[tokio::test]
async fn a_managed_secret_is_taken_over_and_a_patched_one_added_to() -> Result<()> {
    let place = World::shared().await?.place("takeover").await?;
    for (name, annotations) in [("managed", &["managed"][..]), ("patched", &["patch"]), ("both", &["managed", "patch"])]
    {
        place.world.cluster.apply(&place.secret(name, &[("password", "old"), ("theirs", "kept")])).await?;
        merge(&place, name, marks(annotations)).await?;
        place.apply_sealed(name, &[("password", "new")]).await?;
    }
    let theirs = [("password", "new"), ("theirs", "kept")];
    let managed = place.holds("managed", &[("password", "new")]).await?;
    let patched = place.holds("patched", &theirs).await?;
    let both = place.holds("both", &theirs).await?;
    let owners = [&managed, &patched, &both].map(|secret| secret.owner_references().len());
    assert_eq!(owners, [1, 0, 1]);
    for secret in [&managed, &patched, &both] {
        assert_eq!(secret.labels().get("theirs").map(String::as_str), Some("stays"), "{}", secret.name_any());
        place.synced(&secret.name_any(), "True").await?;
    }

    // What is taken out of a SealedSecret leaves a patched Secret too; upstream keeps it for ever.
    place.apply_sealed("patched", &[("other", "1")]).await?;
    place.holds("patched", &[("other", "1"), ("theirs", "kept")]).await?;
    place.secrets().delete("patched", &DeleteParams::default()).await?;
    place.holds("patched", &[("other", "1")]).await?;
    Ok(())
}

/// A ConfigMap that owns, as an owner reference.
async fn owner(place: &Place<'_>, name: &str) -> Result<Value> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let maps: Api<ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    let map = maps.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await?;
    Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": map.uid()}))
}

/// As upstream does it: there is one controlling owner only, and it shall be the SealedSecret.
#[tokio::test]
async fn a_managed_secret_is_taken_over_from_its_controller_too() -> Result<()> {
    let place = World::shared().await?.place("controlled").await?;
    let (bystander, mut controller) = (owner(&place, "bystander").await?, owner(&place, "controller").await?);
    controller["controller"] = json!(true);
    for (name, annotations) in [("managed", &["managed"][..]), ("both", &["managed", "patch"])] {
        place.world.cluster.apply(&place.secret(name, &[("password", "old")])).await?;
        let mut marked = marks(annotations);
        marked["metadata"]["ownerReferences"] = json!([controller, bystander]);
        merge(&place, name, marked).await?;
        place.apply_sealed(name, &[("password", "new")]).await?;
        let secret = place.holds(name, &[("password", "new")]).await?;
        let owners: Vec<_> =
            secret.owner_references().iter().map(|owner| (owner.kind.as_str(), owner.controller)).collect();
        assert_eq!(owners, [("ConfigMap", None), ("SealedSecret", Some(true))], "{name}");
        place.synced(name, "True").await?;
    }
    Ok(())
}

#[tokio::test]
async fn owners_and_annotations_of_others_stay() -> Result<()> {
    let place = World::shared().await?.place("owners").await?;
    place.apply_sealed("db", &[("password", "1")]).await?;
    let secret = place.holds("db", &[("password", "1")]).await?;
    let other = owner(&place, "other").await?;
    let ours = serde_json::to_value(&secret.owner_references()[0])?;
    let theirs =
        json!({"metadata": {"ownerReferences": [ours, other], "annotations": {"example.com/theirs": "stays"}}});
    merge(&place, "db", theirs).await?;
    place.apply_sealed("db", &[("password", "2")]).await?;
    let secret = place.holds("db", &[("password", "2")]).await?;
    assert_eq!(secret.owner_references().len(), 2);
    assert_eq!(secret.annotations()["example.com/theirs"], "stays");
    Ok(())
}

/// Upstream suppresses what changes no spec.
#[tokio::test]
async fn an_edited_scope_counts_at_once() -> Result<()> {
    let place = World::shared().await?.place("scope").await?;
    let sealed = place.world.seal(&place.secret("db", &[("a", "1")]), &["--scope", "cluster-wide"]).await?;
    let mut sealed = document(&sealed)?;
    sealed["metadata"]["annotations"] = json!({});
    place.world.cluster.apply(&sealed.to_string()).await?;
    let message = place.synced("db", "False").await?.message.unwrap_or_default();
    assert!(message.contains("was sealed for any namespace (cluster-wide scope)"), "{message}");
    sealed["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/cluster-wide": "true"});
    place.world.cluster.apply(&sealed.to_string()).await?;
    place.holds("db", &[("a", "1")]).await?;
    place.synced("db", "True").await?;
    Ok(())
}

#[tokio::test]
async fn an_item_that_was_put_in_by_hand_goes() -> Result<()> {
    let place = World::shared().await?.place("strange").await?;
    place.apply_sealed("db", &[("password", "right")]).await?;
    place.holds("db", &[("password", "right")]).await?;
    merge(&place, "db", json!({"stringData": {"backdoor": "open"}})).await?;
    place.holds("db", &[("password", "right")]).await?;
    Ok(())
}

#[tokio::test]
async fn a_secret_without_owner_is_kept_all_the_same() -> Result<()> {
    let place = World::shared().await?.place("ownerless").await?;
    let mut sealed = document(&place.world.seal(&place.secret("db", &[("password", "right")]), &[]).await?)?;
    let annotations = json!({"sealedsecrets.bitnami.com/skip-set-owner-references": "true"});
    sealed["spec"]["template"]["metadata"]["annotations"] = annotations;
    place.world.cluster.apply(&sealed.to_string()).await?;
    let secret = place.holds("db", &[("password", "right")]).await?;
    assert!(secret.owner_references().is_empty());
    place.synced("db", "True").await?;
    merge(&place, "db", json!({"stringData": {"password": "wrong"}})).await?;
    place.holds("db", &[("password", "right")]).await?;
    Ok(())
}

/// The Secret outlives its SealedSecret, and is taken over by the one that comes back.
#[tokio::test]
async fn a_retained_secret_outlives_its_sealed_secret() -> Result<()> {
    let place = World::shared().await?.place("retain").await?;
    place.apply_sealed("db", &[("password", "1")]).await?;
    let owned = place.holds("db", &[("password", "1")]).await?;
    assert_eq!(owned.owner_references().len(), 1);
    place.apply_annotated("db", &[("password", "1")], &["retain"]).await?;
    eventually("the owner to go", SOON, || async {
        Ok(place.secrets().get("db").await?.owner_references().is_empty().then_some(()))
    })
    .await?;
    place.sealed().delete("db", &DeleteParams::default()).await?;
    eventually("the SealedSecret to go", SOON, || async {
        Ok(place.sealed().get_opt("db").await?.is_none().then_some(()))
    })
    .await?;
    place.apply_annotated("db", &[("password", "2")], &["retain"]).await?;
    let kept = place.holds("db", &[("password", "2")]).await?;
    assert_eq!(kept.uid(), owned.uid());
    place.synced("db", "True").await?;
    Ok(())
}

#[tokio::test]
async fn an_immutable_secret_is_replaced_only_when_asked() -> Result<()> {
    let place = World::shared().await?.place("immutable").await?;
    let seal = async |value: &str, annotations: &[&str]| {
        let mut sealed = document(&place.world.seal(&place.secret("db", &[("password", value)]), &[]).await?)?;
        sealed["spec"]["template"]["immutable"] = json!(true);
        for annotation in annotations {
            sealed["metadata"]["annotations"][format!("sealedsecrets.bitnami.com/{annotation}")] = json!("true");
        }
        place.world.cluster.apply(&sealed.to_string()).await
    };
    // Added later, which upstream ignores.
    place.apply_sealed("db", &[("password", "1")]).await?;
    let first = place.holds("db", &[("password", "1")]).await?;
    seal("1", &[]).await?;
    eventually("the Secret to be immutable", SOON, || async {
        Ok(place.secrets().get("db").await?.immutable.filter(|immutable| *immutable))
    })
    .await?;

    seal("2", &[]).await?;
    let synced = place.synced("db", "False").await?;
    assert_eq!(synced.reason.as_deref(), Some("Immutable"));
    assert!(synced.message.unwrap_or_default().contains("the target Secret is immutable"));
    place.event("ErrUpdateFailed", "the target Secret is immutable").await?;
    place.holds("db", &[("password", "1")]).await?;

    // No new generation: the annotation alone wakes it.
    seal("2", &["replace"]).await?;
    let second = place.holds("db", &[("password", "2")]).await?;
    assert_ne!(second.uid(), first.uid());
    place.synced("db", "True").await?;
    Ok(())
}

/// What may only be added to is somebody else's: it would lose what else is in it.
#[tokio::test]
async fn a_secret_that_may_only_be_added_to_is_never_replaced() -> Result<()> {
    let place = World::shared().await?.place("patched").await?;
    let theirs = json!({
        "apiVersion": "v1", "kind": "Secret", "immutable": true, "stringData": {"theirs": "1"},
        "metadata": {"name": "db", "namespace": place.namespace, "annotations": {"sealedsecrets.bitnami.com/patch": "true"}},
    });
    place.world.cluster.apply(&theirs.to_string()).await?;
    let uid = place.secrets().get("db").await?.uid();
    place.apply_annotated("db", &[("password", "1")], &["replace"]).await?;
    assert_eq!(place.synced("db", "False").await?.reason.as_deref(), Some("Immutable"));
    assert_eq!(place.secrets().get("db").await?.uid(), uid);
    place.holds("db", &[("theirs", "1")]).await?;
    Ok(())
}

#[tokio::test]
async fn a_secret_of_another_type_is_replaced_only_when_asked() -> Result<()> {
    let place = World::shared().await?.place("type").await?;
    place.apply_sealed("db", &[("password", "1")]).await?;
    place.holds("db", &[("password", "1")]).await?;
    let mut sealed = document(&place.world.seal(&place.secret("db", &[("password", "1")]), &[]).await?)?;
    sealed["spec"]["template"]["type"] = json!("example.com/other");
    place.world.cluster.apply(&sealed.to_string()).await?;
    let synced = place.synced("db", "False").await?;
    assert!(synced.message.unwrap_or_default().contains("the type of the target Secret cannot change"));

    sealed["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/replace": "true"});
    place.world.cluster.apply(&sealed.to_string()).await?;
    eventually("the new type", SOON, || async {
        Ok(place.secrets().get("db").await?.type_.filter(|kind| kind == "example.com/other"))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn labels_are_copied_and_drift_is_ignored_where_that_was_chosen() -> Result<()> {
    let place = World::shared().await?.place("labels").await?;
    let mut sealed = document(&place.world.seal(&place.secret("db", &[("password", "1")]), &[]).await?)?;
    sealed["metadata"]["labels"] = json!({"team": "blue"});
    let chosen =
        json!({"sealedsecrets.bitnami.com/copy-labels": "true", "sealedsecrets.bitnami.com/ignore-drift": "true"});
    sealed["metadata"]["annotations"] = chosen;
    place.world.cluster.apply(&sealed.to_string()).await?;
    let secret = place.holds("db", &[("password", "1")]).await?;
    assert_eq!(secret.labels()["team"], "blue");
    place.synced("db", "True").await?;

    merge(&place, "db", json!({"stringData": {"password": "by hand"}})).await?;
    // One that comes after it has its turn after it.
    place.apply_sealed("later", &[("a", "1")]).await?;
    place.synced("later", "True").await?;
    place.holds("db", &[("password", "by hand")]).await?;

    // A label alone makes no new generation.
    sealed["metadata"]["labels"] = json!({"team": "green"});
    place.world.cluster.apply(&sealed.to_string()).await?;
    eventually("the new label", SOON, || async {
        Ok(place.secrets().get("db").await?.labels().get("team").filter(|team| *team == "green").map(drop))
    })
    .await?;
    place.holds("db", &[("password", "1")]).await?;
    Ok(())
}

#[tokio::test]
async fn the_deprecated_form_is_opened() -> Result<()> {
    let place = World::shared().await?.place("deprecated").await?;
    let pem = seal(Some(place.world.cluster.kubeconfig()), &["--fetch-cert"], "").await?.success()?;
    let label = format!("{}/db", place.namespace);
    let blob = Certificate::from_pem(&pem)?.seal(
        place.secret("db", &[("password", "old")]).as_bytes(),
        &label,
        &mut rand::rng(),
    )?;
    let sealed = json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": "db", "namespace": place.namespace},
        "spec": {"data": crds::base64::encode(&blob), "encryptedData": {}},
    });
    place.world.cluster.apply(&sealed.to_string()).await?;
    let secret = place.holds("db", &[("password", "old")]).await?;
    assert_eq!(secret.owner_references().len(), 1);
    place.synced("db", "True").await?;
    Ok(())
}

/// In the condition and in the Event alike.
#[tokio::test]
async fn what_no_key_opens_says_where_it_was_sealed_for() -> Result<()> {
    let place = World::shared().await?.place("explain").await?;
    let mut sealed = document(&place.world.seal(&place.secret("db", &[("password", "1")]), &[]).await?)?;
    sealed["metadata"]["name"] = json!("renamed");
    place.world.cluster.apply(&sealed.to_string()).await?;
    let message = place.synced("renamed", "False").await?.message.unwrap_or_default();
    let expected = format!(
        "no key could decrypt secret (password): was sealed for {}/db (strict scope); seal it again for where it stands now",
        place.namespace
    );
    assert_eq!(message, expected);
    let events: Api<Event> = Api::namespaced(place.client.clone(), &place.namespace);
    let event = eventually("the Event", SOON, || async {
        let all = events.list(&ListParams::default()).await?;
        Ok(all.items.into_iter().find(|event| event.reason.as_deref() == Some("ErrUnsealFailed")))
    })
    .await?;
    assert_eq!(event.message, Some(format!("Failed to unseal: {expected}")));
    Ok(())
}
