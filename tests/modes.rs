//! The controller in other ways than the usual: in some namespaces only, without watches, without status.

use std::time::Duration;

use anyhow::Result;
use harness::{At, Cluster, ClusterOptions, Controller, ControllerOptions, Gate, eventually};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{Place, SOON, World};

/// How long a namespace in which the controller had no rights may take to be looked at again.
const PATIENCE: Duration = Duration::from_mins(2);

fn flags(flags: &[&str]) -> ControllerOptions {
    ControllerOptions { args: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..ControllerOptions::default() }
}

/// What `deploy/namespaced` tells one to do in each namespace.
async fn grant(cluster: &Cluster, namespace: &str) -> Result<()> {
    let account = "--serviceaccount=kube-system:sealed-secrets-controller";
    let role = "--clusterrole=sealed-secrets-unsealer";
    cluster.kubectl(&["-n", namespace, "create", "rolebinding", "sealed-secrets-unsealer", role, account]).await?;
    Ok(())
}

async fn named<'a>(world: &'a World, name: &str, labels: &[(&str, &str)]) -> Result<Place<'a>> {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    let client = world.cluster.admin().await?;
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(Place { world, namespace: name.to_owned(), client })
}

/// Under exactly the rights of `deploy/namespaced`: its own namespace and those that are listed, made later or not.
#[tokio::test]
async fn only_listed_namespaces_are_watched() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.deploy_from("deploy/namespaced").await?;
    let list = r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/args/1", "value": "--additional-namespaces=early,late"}]"#;
    let deployment = ["patch", "deployment", "sealed-secrets-controller", "--type=json", "--patch", list];
    cluster.kubectl(&[&["-n", "kube-system"], &deployment[..]].concat()).await?;
    let controller = Controller::start(&cluster).await?;
    let world = World { cluster, controller };
    let (early, other) = (named(&world, "early", &[]).await?, named(&world, "other", &[]).await?);
    other.apply_sealed("db", &[("a", "1")]).await?;
    early.apply_sealed("db", &[("a", "1")]).await?;
    grant(&world.cluster, "early").await?;
    let opened = |place: &Place<'_>| {
        let (sealed, secrets) = (place.sealed(), place.secrets());
        async move {
            eventually("the SealedSecret to be opened", PATIENCE, || async {
                let synced = sealed.get("db").await?.synced().is_some_and(|synced| synced.status == "True");
                Ok(secrets.get_opt("db").await?.filter(|_| synced))
            })
            .await
        }
    };
    opened(&early).await?;
    let late = named(&world, "late", &[]).await?;
    grant(&world.cluster, "late").await?;
    late.apply_sealed("db", &[("a", "1")]).await?;
    opened(&late).await?;

    // It is healed there too, and replaced where that was asked for.
    let edit = json!({"stringData": {"a": "wrong"}});
    early.secrets().patch("db", &PatchParams::default(), &Patch::Merge(edit)).await?;
    early.holds("db", &[("a", "1")]).await?;
    let own = Place { world: &world, namespace: "kube-system".to_owned(), client: world.cluster.admin().await? };
    own.apply_sealed("db", &[("a", "1")]).await?;
    own.holds("db", &[("a", "1")]).await?;
    assert!(other.secrets().get_opt("db").await?.is_none());
    assert!(other.sealed().get("db").await?.status.is_none());
    Ok(())
}

/// Namespaces come and go by their labels, and what was opened in one that went stays.
#[tokio::test]
async fn namespaces_are_watched_while_they_carry_the_label() -> Result<()> {
    let world =
        World::deployed_from("deploy/selected", ClusterOptions::default(), ControllerOptions::default()).await?;
    let (blue, red) =
        (named(&world, "blue", &[("signet.dev/unseal", "true")]).await?, named(&world, "red", &[]).await?);
    grant(&world.cluster, "blue").await?;
    grant(&world.cluster, "red").await?;
    red.apply_sealed("db", &[("a", "1")]).await?;
    blue.apply_sealed("db", &[("a", "1")]).await?;
    eventually("the blue one to be opened", PATIENCE, || async { Ok(blue.secrets().get_opt("db").await?) }).await?;
    assert!(red.secrets().get_opt("db").await?.is_none());

    world.cluster.kubectl(&["label", "namespace", "red", "signet.dev/unseal=true"]).await?;
    red.holds("db", &[("a", "1")]).await?;
    world.cluster.kubectl(&["label", "namespace", "blue", "signet.dev/unseal-"]).await?;
    // The log says when it is over, and what was opened is left.
    eventually("blue to be left", SOON, || async {
        Ok(world.controller.logs().await?.contains("no longer watching").then_some(()))
    })
    .await?;
    blue.holds("db", &[("a", "1")]).await?;
    Ok(())
}

/// One that loses its label and gets it back while something is done in it goes on, and nobody else is disturbed.
#[tokio::test]
async fn a_namespace_that_comes_back_at_once_goes_on() -> Result<()> {
    let cluster = Cluster::start().await?;
    let gate = Gate::start(&cluster)?;
    let controller = ControllerOptions { server: Some(gate.address()), ..ControllerOptions::default() };
    let world = World::on(cluster, "deploy/selected", controller).await?;
    let places =
        [named(&world, "red", &[]).await?, named(&world, "blue", &[]).await?, named(&world, "green", &[]).await?];
    for place in &places {
        grant(&world.cluster, &place.namespace).await?;
    }
    let [red, blue, green] = &places;
    let label = async |place: &Place<'_>, change| {
        world.cluster.kubectl(&["label", "namespace", &place.namespace, &format!("signet.dev/unseal{change}")]).await
    };
    label(red, "=true").await?;
    let mut held = gate.hold(At::Request, |asked| asked.method == "POST" && asked.path.ends_with("/red/secrets"));
    red.apply_sealed("first", &[("a", "1")]).await?;
    held.caught().await?;
    for (change, other) in [("-", blue), ("=true", green)] {
        label(red, change).await?;
        // Once this one is opened, that has been seen, too.
        label(other, "=true").await?;
        other.apply_sealed("db", &[("a", "1")]).await?;
        other.synced("db", "True").await?;
    }
    drop(held);
    red.synced("first", "True").await?;
    red.apply_sealed("second", &[("a", "1")]).await?;
    red.synced("second", "True").await?;
    Ok(())
}

/// No status, no watch on Secrets, no deprecated form, and deletion by our own hand: every switch at once.
#[tokio::test]
async fn the_switches_do_what_they_say() -> Result<()> {
    let world = World::with(
        ClusterOptions::default(),
        flags(&[
            "--update-status=false",
            "--skip-recreate",
            "--old-gc-behavior=true",
            "--accept-deprecated-v1-data=false",
            "--label-selector=watched=yes",
            "--max-unseal-retries=1",
        ]),
    )
    .await?;
    let place = world.place("switches").await?;
    let apply = async |name: &str, watched: bool| {
        let mut sealed = crate::world::document(&world.seal(&place.secret(name, &[("a", "1")]), &[]).await?)?;
        if watched {
            sealed["metadata"]["labels"] = json!({"watched": "yes"});
        }
        world.cluster.apply(&sealed.to_string()).await
    };
    apply("unwatched", false).await?;
    apply("db", true).await?;
    place.holds("db", &[("a", "1")]).await?;
    let edit = json!({"stringData": {"a": "by hand"}});
    place.secrets().patch("db", &PatchParams::default(), &Patch::Merge(edit)).await?;

    // Somebody else's Secret is looked at twice, as was allowed, and then left.
    world.cluster.apply(&place.secret("theirs", &[("b", "2")])).await?;
    apply("theirs", true).await?;
    eventually("it to give up", SOON, || async {
        Ok(world.controller.logs().await?.contains("Error updating, giving up").then_some(()))
    })
    .await?;
    place.holds("theirs", &[("b", "2")]).await?;
    place.holds("db", &[("a", "by hand")]).await?;
    for name in ["db", "theirs", "unwatched"] {
        assert!(place.sealed().get(name).await?.status.is_none(), "{name}");
    }
    assert!(place.secrets().get_opt("unwatched").await?.is_none());

    // One that only loses its label keeps its Secret; one that is deleted does not.
    apply("kept", true).await?;
    place.holds("kept", &[("a", "1")]).await?;
    world.cluster.kubectl(&["-n", &place.namespace, "label", "sealedsecret", "kept", "watched-"]).await?;
    place.sealed().delete("db", &DeleteParams::default()).await?;
    eventually("the Secret to be deleted", SOON, || async {
        Ok(place.secrets().get_opt("db").await?.is_none().then_some(()))
    })
    .await?;
    place.holds("kept", &[("a", "1")]).await?;

    let deprecated = json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": "old", "namespace": place.namespace, "labels": {"watched": "yes"}},
        "spec": {"data": "AgAB", "encryptedData": {}},
    });
    world.cluster.apply(&deprecated.to_string()).await?;
    eventually("the deprecated form to be refused", SOON, || async {
        Ok(world.controller.logs().await?.contains("--accept-deprecated-v1-data=false refuses").then_some(()))
    })
    .await?;
    Ok(())
}
