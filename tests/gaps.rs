//! What happens while the controller does not look: its watches are broken, or it is down.

use anyhow::{Context as _, Result};
use crds::{GitSync, git_sync::RECONCILE_REQUESTED};
use harness::{Asked, At, Cluster, ControllerOptions, Gate, GitServer, eventually};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{KEYS, SOON, World, config_map, document, follow};

/// Gone without a word from any watch: the list that comes after is all that tells of it.
#[tokio::test]
async fn what_went_while_the_watches_were_broken_is_missed_by_the_next_list() -> Result<()> {
    let cluster = Cluster::start().await?;
    let gate = Gate::start(&cluster)?;
    // No garbage collector runs here. One that elects would follow, and begin anew, for want of its Lease.
    let args = ["--leader-elect=false", "--old-gc-behavior=true"].map(str::to_owned).to_vec();
    let options = ControllerOptions { server: Some(gate.address()), args, ..ControllerOptions::default() };
    let world = World::on(cluster, "deploy", options).await?;
    let place = world.place("gap").await?;
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let old = keys.list(&ListParams::default().labels(KEYS)).await?.items.pop().context("a key")?.name_any();
    world.renew_key().await?;
    // It only adds to this one, which stays somebody else's.
    let mut shared = document(&place.secret("shared", &[("own", "1")]))?;
    shared["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/patch": "true"});
    world.cluster.apply(&shared.to_string()).await?;
    for name in ["goes", "stays", "shared"] {
        place.apply_sealed(name, &[("a", name)]).await?;
        place.synced(name, "True").await?;
    }
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", &repository, json!({"interval": "1h"})).await?;
    place.applied("app", &commit).await?;
    let metrics = async || world.controller.metrics().await;
    let known = async || world.controller.metric("sealed_secrets_controller_keys").await;
    eventually("what is there to be counted", SOON, || async {
        Ok((metrics().await?.contains("name=\"goes\"") && known().await? > 1.0).then_some(()))
    })
    .await?;

    let shut = gate.shut();
    let params = DeleteParams::default();
    place.sealed().delete("shared", &params).await?;
    place.sealed().delete("goes", &params).await?;
    place.secrets().delete("stays", &params).await?;
    place.maps().delete("settings", &params).await?;
    keys.delete(&old, &params).await?;
    // It remembers nothing of before: no watch can go on where it ended.
    world.cluster.restart_api_server().await?;
    drop(shut);

    eventually("the Secret to go", SOON, || async {
        Ok(place.secrets().get_opt("goes").await?.is_none().then_some(()))
    })
    .await?;
    place.holds("stays", &[("a", "stays")]).await?;
    place.says("settings", &[("value", "one")]).await?;
    eventually("what went not to be counted", SOON, || async {
        Ok((!metrics().await?.contains("name=\"goes\"") && known().await? < 2.0).then_some(()))
    })
    .await?;
    place.holds("shared", &[("own", "1"), ("a", "shared")]).await?;
    let logs = world.controller.logs().await?;
    assert!(logs.contains("SealedSecrets; trying again") && logs.contains("too old resource version"), "{logs}");
    Ok(())
}

/// As of an API server, or a balancer before it, that takes a request and hangs: nobody would know of anything new.
#[tokio::test]
async fn a_list_that_is_never_answered_is_told_and_asked_for_again() -> Result<()> {
    let cluster = Cluster::start().await?;
    let gate = Gate::start(&cluster)?;
    let args = vec!["--leader-elect=false".to_owned()];
    let options = ControllerOptions { server: Some(gate.address()), args, ..ControllerOptions::default() };
    let world = World::on(cluster, "deploy", options).await?;
    let place = world.place("silence").await?;

    let shut = gate.shut();
    world.cluster.restart_api_server().await?;
    let mut held =
        gate.hold(At::Request, |asked| asked.path.ends_with("/sealedsecrets") && !asked.query.contains("watch=true"));
    drop(shut);
    held.caught().await?;
    let errors = "sealed_secrets_controller_watch_errors_total{kind=\"SealedSecret\"}";
    let before = world.controller.metric(errors).await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.holds("db", &[("a", "1")]).await?;
    assert!(world.controller.metric(errors).await? > before);
    let logs = world.controller.logs().await?;
    let told = "failed to perform initial object list: the API server did not answer within 65 s";
    assert!(logs.contains(told), "{logs}");
    drop(held);
    Ok(())
}

/// What a list tells of stands nowhere before its last page: a pass that is made sooner sees what was there before.
#[tokio::test]
async fn what_was_made_or_edited_while_the_watches_were_broken_is_opened_after_the_last_page() -> Result<()> {
    let cluster = Cluster::start().await?;
    let gate = Gate::start(&cluster)?;
    let args = vec!["--leader-elect=false".to_owned()];
    let options = ControllerOptions { server: Some(gate.address()), args, ..ControllerOptions::default() };
    let world = World::on(cluster, "deploy", options).await?;
    let place = world.place("pages").await?;
    let sealed = document(&world.seal(&place.secret("any", &[("a", "1")]), &["--scope", "cluster-wide"]).await?)?;
    let apply = async |name: &str, team: &str| {
        let mut named = sealed.clone();
        named["metadata"]["name"] = json!(name);
        named["spec"]["template"]["metadata"]["labels"] = json!({"team": team});
        world.cluster.apply(&named.to_string()).await
    };
    // More than a page.
    for number in 10..70 {
        apply(&format!("old-{number}"), "blue").await?;
    }
    eventually("all to be opened", SOON, || async {
        let all = place.secrets().list_metadata(&ListParams::default()).await?;
        Ok((all.items.len() == 60).then_some(()))
    })
    .await?;
    place.synced("old-69", "True").await?;

    let seen = gate.passed().len();
    let shut = gate.shut();
    apply("new", "blue").await?;
    apply("old-10", "green").await?;
    world.cluster.restart_api_server().await?;
    let lists = |asked: &Asked, what: &str| asked.path.ends_with(what) && !asked.query.contains("watch=true");
    let mut held =
        gate.hold(At::Request, move |asked| lists(asked, "/sealedsecrets") && asked.query.contains("continue="));
    drop(shut);
    held.caught().await?;
    // They have all of them looked at, too.
    eventually("the Secrets to be listed and watched", SOON, || async {
        let asked = gate.passed();
        let after = asked.iter().skip(seen).filter(|asked| asked.path == "/api/v1/secrets");
        Ok(after.clone().any(|asked| lists(asked, "")).then_some(()))
    })
    .await?;
    held.pass();
    place.holds("new", &[("a", "1")]).await?;
    eventually("the edited one to be opened again", SOON, || async {
        let labels = place.secrets().get("old-10").await?.metadata.labels.unwrap_or_default();
        Ok((labels.get("team").map(String::as_str) == Some("green")).then_some(()))
    })
    .await?;
    Ok(())
}

/// What one process knew of what each asks for is gone with it. The one that loses the object looks first.
#[tokio::test]
async fn what_moves_from_one_sync_to_another_is_handed_over_across_a_restart() -> Result<()> {
    let (world, gate) = World::gated().await?;
    let place = world.place("moves").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    repository.write("one/own.yaml", config_map("one", "own"))?;
    repository.write("one/map.yaml", config_map("moving", "0"))?;
    repository.write("two/own.yaml", config_map("two", "own"))?;
    let commit = repository.commit("all in place").await?;
    // It is read before anything is asked of Git.
    world.cluster.apply(&place.secret("two", &[("username", "robot"), ("password", "x")])).await?;
    for (name, secret) in [("one", None), ("two", Some(json!({"name": "two"})))] {
        let source = json!({"url": repository.url(), "secretRef": secret});
        let spec = json!({"source": source, "path": name, "interval": "1h"});
        place.syncs().create(&PostParams::default(), &GitSync::new(name, serde_json::from_value(spec)?)).await?;
        place.applied(name, &commit).await?;
    }
    let uid = place.says("moving", &[("value", "0")]).await?.uid();

    // Killed before the one that gets it has taken it, but has said that it looked at the commit.
    let namespace = place.namespace.clone();
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/moving");
    let mut held = gate.hold(At::Request, move |asked| asked.method == "PATCH" && asked.path == path);
    repository.remove("one/map.yaml")?;
    repository.write("two/map.yaml", config_map("moving", "1"))?;
    let commit = repository.commit("from one to two").await?;
    let request = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: "now"}}});
    place.syncs().patch("one", &PatchParams::default(), &Patch::Merge(request)).await?;
    held.caught().await?;
    let revision = format!("main@sha1:{commit}");
    place
        .ready("two", |_, two| {
            two.status.as_ref().and_then(|status| status.last_attempted_revision.as_ref()) == Some(&revision)
        })
        .await?;
    // It leaves the object to the other, whom it knows to ask for it; and says no more that it waits.
    place.applied("one", &commit).await?;
    world.controller.kill().await?;
    drop(held);

    let path = format!("/api/v1/namespaces/{namespace}/secrets/two");
    let reads = move |asked: &Asked| asked.method == "GET" && asked.path == path;
    let mut held = gate.hold(At::Request, reads.clone());
    world.controller.restart().await?;
    held.caught().await?;
    // It does not wait for ever, and asks again.
    let again = async {
        loop {
            let mut next = gate.hold(At::Request, reads.clone());
            if let Err(error) = next.caught().await {
                break error;
            }
            held = next;
        }
    };
    let waits = format!("1 to be deleted, once {namespace}/two can have taken them over");
    tokio::select! {
        ready = place.ready("one", |ready, _| ready.message.contains(&waits)) => drop(ready?),
        error = again => return Err(error),
    }
    held.pass();
    place.applied("two", &commit).await?;
    place.applied("one", &commit).await?;
    let moved = place.says("moving", &[("value", "1")]).await?;
    assert_eq!(moved.uid(), uid, "handed over, and not deleted and made anew");
    assert_eq!(moved.labels().get("gitsync.signet.dev/name").map(String::as_str), Some("two"));
    Ok(())
}
