//! A SealedSecret becomes a Secret and stays one: what a developer and an operator would notice.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use crds::{KeyRing, PrivateKey, key_ring::RingKey, unseal};
use harness::{eventually, kubeseal, seal};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::world::{KEYS, SOON, World, document};

#[tokio::test]
async fn a_sealed_secret_is_opened_and_says_so() -> Result<()> {
    let place = World::shared().await?.place("open").await?;
    place.apply_sealed("db", &[("user", "app"), ("password", "s3cret")]).await?;
    let secret = place.holds("db", &[("user", "app"), ("password", "s3cret")]).await?;
    let sealed = place.sealed().get("db").await?;
    let owner = &secret.owner_references()[0];
    assert_eq!(
        (owner.kind.as_str(), Some(owner.uid.clone()), owner.controller),
        ("SealedSecret", sealed.uid(), Some(true))
    );
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));

    let synced = place.synced("db", "True").await?;
    assert_eq!((synced.reason.as_deref(), synced.message), (Some("Unsealed"), None));
    assert_eq!(synced.last_transition_time, synced.last_update_time);
    let record = place.sealed().get("db").await?.status.and_then(|status| status.unsealed).expect("a record");
    assert_eq!(Some(record.secret_uid), secret.uid());
    assert_eq!(record.keys.len(), 2);

    let events: Api<Event> = Api::namespaced(place.client.clone(), &place.namespace);
    let event = eventually("the Event", SOON, || async {
        let all = events.list(&ListParams::default()).await?;
        Ok(all.items.into_iter().find(|event| event.reason.as_deref() == Some("Unsealed")))
    })
    .await?;
    assert_eq!(event.involved_object.uid, sealed.uid());
    assert_eq!(event.source.and_then(|source| source.component).as_deref(), Some("sealed-secrets"));
    Ok(())
}

#[tokio::test]
async fn an_edited_or_deleted_secret_comes_back() -> Result<()> {
    let place = World::shared().await?.place("heal").await?;
    place.apply_sealed("db", &[("password", "right")]).await?;
    let first = place.holds("db", &[("password", "right")]).await?;

    let edit = json!({"stringData": {"password": "wrong"}});
    place.secrets().patch("db", &PatchParams::default(), &Patch::Merge(edit)).await?;
    let healed = place.holds("db", &[("password", "right")]).await?;
    assert_eq!(healed.uid(), first.uid(), "healed, not made anew");

    place.secrets().delete("db", &DeleteParams::default()).await?;
    let back = place.holds("db", &[("password", "right")]).await?;
    assert_ne!(back.uid(), first.uid());
    place.synced("db", "True").await?;
    Ok(())
}

#[tokio::test]
async fn an_item_taken_out_of_git_leaves_the_secret_and_others_labels_stay() -> Result<()> {
    let place = World::shared().await?.place("items").await?;
    place.apply_sealed("db", &[("a", "1"), ("b", "2")]).await?;
    place.holds("db", &[("a", "1"), ("b", "2")]).await?;
    let label = json!({"metadata": {"labels": {"team": "blue"}}});
    place.secrets().patch("db", &PatchParams::default(), &Patch::Merge(label)).await?;
    place.apply_sealed("db", &[("a", "3")]).await?;
    let secret = place.holds("db", &[("a", "3")]).await?;
    assert_eq!(secret.labels().get("team").map(String::as_str), Some("blue"));
    Ok(())
}

#[tokio::test]
async fn the_secret_goes_with_its_sealed_secret() -> Result<()> {
    let place = World::shared().await?.place("gone").await?;
    place.apply_sealed("db", &[("a", "1")]).await?;
    place.holds("db", &[("a", "1")]).await?;
    place.sealed().delete("db", &DeleteParams::default()).await?;
    // The garbage collector looks for new kinds every 30 s, and SealedSecrets are new to this cluster.
    eventually("the Secret to go", SOON * 3, || async {
        Ok(place.secrets().get_opt("db").await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone_until_it_goes() -> Result<()> {
    let place = World::shared().await?.place("foreign").await?;
    place.world.cluster.apply(&place.secret("db", &[("theirs", "kept")])).await?;
    place.apply_sealed("db", &[("ours", "new")]).await?;
    let refused = place.synced("db", "False").await?;
    assert_eq!(refused.reason.as_deref(), Some("NotManaged"));
    let words = "already exists and is not managed by SealedSecret";
    assert!(refused.message.unwrap_or_default().contains(words));
    place.event("ErrUpdateFailed", words).await?;
    place.holds("db", &[("theirs", "kept")]).await?;

    place.secrets().delete("db", &DeleteParams::default()).await?;
    place.holds("db", &[("ours", "new")]).await?;
    place.synced("db", "True").await?;
    Ok(())
}

#[tokio::test]
async fn a_secret_marked_as_managed_is_taken_over() -> Result<()> {
    let place = World::shared().await?.place("managed").await?;
    place.world.cluster.apply(&place.secret("db", &[("password", "old")])).await?;
    let mark = json!({"metadata": {"annotations": {"sealedsecrets.bitnami.com/managed": "true"}}});
    place.secrets().patch("db", &PatchParams::default(), &Patch::Merge(mark)).await?;
    place.apply_sealed("db", &[("password", "new")]).await?;
    let secret = place.holds("db", &[("password", "new")]).await?;
    assert_eq!(secret.owner_references().len(), 1);
    Ok(())
}

/// Every scope, with every value that could break an encoding, from the real kubeseal to our controller.
#[tokio::test]
async fn what_the_real_kubeseal_seals_is_opened() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("kubeseal").await?;
    // Half a mebibyte: sealed and in base64, a whole one is more than the API server takes of one object.
    let large: String = "0123456789abcdef".repeat(1 << 15);
    for (name, scope) in [("strict", "strict"), ("namespace", "namespace-wide"), ("cluster", "cluster-wide")] {
        let values = [("empty", ""), ("one", "x"), ("unicode", "pässwörd\n"), ("large", large.as_str())];
        let kubeconfig = Some(world.cluster.kubeconfig());
        let sealed = kubeseal(kubeconfig, &["--scope", scope, "--format", "yaml"], place.secret(name, &values)).await?;
        world.cluster.apply(&sealed.success()?).await?;
        place.holds(name, &values).await?;
    }
    Ok(())
}

/// The largest value that a Secret may hold, and binary, without an API server in between.
#[tokio::test]
async fn a_whole_mebibyte_from_the_real_kubeseal_is_opened() -> Result<()> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("crds").join("testdata");
    let certificate = testdata.join("new.crt").display().to_string();
    let binary: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": "shop"},
        "data": {"large": crds::base64::encode(&binary)},
    });
    let sealed = kubeseal(None, &["--cert", &certificate], secret.to_string()).await?.success()?;
    let private = PrivateKey::from_pem(&std::fs::read_to_string(testdata.join("new.key"))?)?;
    let born = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    let key = RingKey { private: Arc::new(private), certificate: None, certificate_pem: "".into(), born };
    let opened = unseal::open(&serde_json::from_str(&sealed)?, &KeyRing::from_iter([key]), None).outcome?;
    assert!(opened.values["large"].expose() == binary);
    Ok(())
}

/// And the other way round: what our `seal` writes, kubeseal opens with the cluster's key.
#[tokio::test]
async fn what_seal_seals_the_real_kubeseal_opens() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("seal").await?;
    let keys: Api<Secret> = Api::namespaced(place.client.clone(), "kube-system");
    let keys = keys.list(&ListParams::default().labels(KEYS)).await?;
    let key = serde_json::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": keys.items}))?;
    let key = world.cluster.scratch().file("keys.json", key)?;
    let megabyte: String = "0123456789abcdef".repeat(1 << 16);
    for scope in ["strict", "namespace-wide", "cluster-wide"] {
        let values = [("empty", ""), ("one", "x"), ("unicode", "pässwörd\n"), ("large", megabyte.as_str())];
        let sealed = world.seal(&place.secret("db", &values), &["--scope", scope]).await?;
        let flags = ["--recovery-unseal", "--recovery-private-key", &key.display().to_string()];
        let opened: Secret = serde_json::from_str(&kubeseal(None, &flags, sealed).await?.success()?)?;
        let opened = opened.data.unwrap_or_default();
        for (item, value) in values {
            assert_eq!(opened.get(item).map(|bytes| bytes.0.as_slice()), Some(value.as_bytes()), "{scope} {item}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_certificate_comes_through_the_service_proxy_for_whoever_may_log_in() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("cert").await?;
    world.cluster.kubectl(&["-n", &place.namespace, "create", "serviceaccount", "developer"]).await?;
    let developer = world.cluster.kubeconfig_for_service_account(&place.namespace, "developer").await?;
    let ours = seal(Some(&developer), &["--fetch-cert"], "").await?.success()?;
    let theirs = kubeseal(Some(&developer), &["--fetch-cert"], "").await?.success()?;
    assert!(ours.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(ours, theirs);
    Ok(())
}

/// What is done to a good SealedSecret.
type Spoil<'a> = &'a dyn Fn(&mut serde_json::Value);

/// Each kind of bad input gets its error, and everything else goes on.
#[tokio::test]
async fn bad_sealed_secrets_say_what_is_wrong_and_stop_nothing() -> Result<()> {
    let place = World::shared().await?.place("bad").await?;
    let good = place.world.seal(&place.secret("good", &[("a", "1")]), &[]).await?;
    let spoil = |name: &str, change: Spoil| {
        let mut sealed = document(&good)?;
        sealed["metadata"]["name"] = json!(name);
        change(&mut sealed);
        anyhow::Ok(sealed.to_string())
    };
    let cases: [(&str, Spoil, &str, &str); 5] = [
        ("other-name", &|_| {}, "NoKey", "no key could decrypt secret (a)"),
        (
            "other-scope",
            &|sealed| sealed["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/cluster-wide": "true"}),
            "NoKey",
            "no key could decrypt secret (a)",
        ),
        ("not-base64", &|sealed| sealed["spec"]["encryptedData"]["a"] = json!("***"), "Malformed", "not valid base64"),
        ("truncated", &|sealed| sealed["spec"]["encryptedData"]["a"] = json!("AgAB"), "Malformed", "truncated"),
        (
            "poison",
            &|sealed| sealed["spec"]["template"]["metadata"] = json!({"ownerReferences": "x"}),
            "NoKey",
            "no key could decrypt secret (a)",
        ),
    ];
    for (name, change, ..) in &cases {
        place.world.cluster.apply(&spoil(name, change)?).await?;
    }
    // The object that stops upstream's whole controller, with items that do open.
    let poison = place.world.seal(&place.secret("poison-that-opens", &[("a", "1")]), &[]).await?;
    let mut poison = document(&poison)?;
    poison["spec"]["template"]["metadata"] = json!({"ownerReferences": "x"});
    place.world.cluster.apply(&poison.to_string()).await?;

    for (name, _, reason, message) in cases {
        let synced = place.synced(name, "False").await?;
        assert_eq!(synced.reason.as_deref(), Some(reason), "{name}");
        assert!(synced.message.as_deref().unwrap_or_default().contains(message), "{name}: {:?}", synced.message);
        assert!(place.secrets().get_opt(name).await?.is_none(), "{name}");
    }
    let synced = place.synced("poison-that-opens", "False").await?;
    assert_eq!(synced.reason.as_deref(), Some("Template"));

    place.world.cluster.apply(&good).await?;
    place.holds("good", &[("a", "1")]).await?;
    Ok(())
}

/// A restart with everything in place opens nothing: no RSA operation, no write, no Event.
#[tokio::test]
async fn nothing_is_decrypted_twice() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("twice").await?;
    for name in ["a", "b", "c"] {
        place.apply_sealed(name, &[("x", "1"), ("y", "2")]).await?;
        place.synced(name, "True").await?;
    }
    assert_eq!(rsa_operations(&world).await?, "6", "one an item");
    let before = place.sealed().list(&ListParams::default()).await?;
    let events = Api::<Event>::namespaced(place.client.clone(), &place.namespace);
    let told = async || anyhow::Ok(events.list(&ListParams::default()).await?.items);
    let count = |all: &[Event]| all.iter().map(|event| event.count.unwrap_or(1)).sum::<i32>();
    eventually("an Event of each", SOON, || async { Ok((count(&told().await?) == 3).then_some(())) }).await?;

    world.controller.terminate().await?;
    world.controller.restart().await?;
    // A new object is handled after the old ones were looked at, so this one's turn says that theirs is over.
    place.apply_sealed("d", &[("x", "1")]).await?;
    place.synced("d", "True").await?;
    assert_eq!(rsa_operations(&world).await?, "1", "{}", world.controller.logs().await?);
    for old in before {
        assert_eq!(place.sealed().get(&old.name_any()).await?.resource_version(), old.resource_version());
    }
    let all = eventually("the Event of the new one", SOON, || async {
        let all = told().await?;
        Ok(all.iter().any(|event| event.involved_object.name.as_deref() == Some("d")).then_some(all))
    })
    .await?;
    assert_eq!(count(&all), 4, "one for each, and none for the restart: {all:#?}");

    // A deletion is no request to open anything either.
    place.sealed().delete("d", &DeleteParams::default()).await?;
    eventually("its series to go", SOON, || async {
        Ok((!world.controller.metrics().await?.contains("name=\"d\"")).then_some(()))
    })
    .await?;
    let requests = world.controller.metric("sealed_secrets_controller_unseal_requests_total").await?;
    assert_eq!(requests.to_string(), "1", "that of d");
    Ok(())
}

async fn rsa_operations(world: &World) -> Result<String> {
    Ok(world.controller.metric("sealed_secrets_controller_rsa_operations_total").await?.to_string())
}
