//! Sealing anew changes ciphertexts and nothing else, and lets nothing go further than it could.

use std::sync::Arc;

use crds::{
    Certificate, KeyRing, PrivateKey, Scope, base64,
    key_ring::RingKey,
    recipients::{RECIPIENTS, Recipients},
    reseal::{Candidate, ResealError},
    seal, unseal, yaml,
};
use jiff::Timestamp;
use serde_json::{Value, json};

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn object(name: &str) -> Value {
    yaml::documents(&file(name)).remove(0).value.unwrap()
}

fn certificate(name: &str) -> Certificate {
    Certificate::from_pem(&file(&format!("{name}.crt"))).unwrap()
}

/// The newest comes first.
fn ring(names: &[&str]) -> KeyRing {
    let key = |(name, born): (&&str, i64)| RingKey {
        private: Arc::new(PrivateKey::from_pem(&file(&format!("{name}.key"))).unwrap()),
        certificate: None,
        certificate_pem: "".into(),
        born: Timestamp::from_second(born).unwrap(),
    };
    names.iter().zip((0..100).rev()).map(key).collect()
}

fn verify(object: &Value, ring: &KeyRing) -> Result<(), ResealError> {
    Candidate::new(object.clone())?.verify(ring, &mut |_| true)
}

fn reseal(object: &Value, ring: &KeyRing, certificate: &Certificate) -> Result<Value, ResealError> {
    Candidate::new(object.clone())?.reseal(ring, certificate, &mut rand::rng(), &mut |_| true)
}

/// The items in the clear.
fn opened(object: &Value, ring: &KeyRing, label: &str) -> Vec<(String, Vec<u8>)> {
    let items = object["spec"]["encryptedData"].as_object().unwrap();
    let open = |text: &Value| {
        let blob = base64::decode(text.as_str().unwrap()).unwrap();
        ring.open(&blob, label, None).unwrap().plaintext.expose().to_vec()
    };
    items.iter().map(|(item, text)| (item.clone(), open(text))).collect()
}

#[test]
fn only_ciphertexts_change_and_the_new_key_alone_opens_them() {
    let old = object("old-key.yaml");
    let fresh = reseal(&old, &ring(&["new", "old"]), &certificate("new")).unwrap();
    let blank = |object: &Value| {
        let mut object = object.clone();
        object["spec"]["encryptedData"] = Value::Null;
        object["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
        object
    };
    assert_eq!(blank(&fresh), blank(&old));
    assert_eq!(opened(&fresh, &ring(&["new"]), "shop/db"), opened(&old, &ring(&["old"]), "shop/db"));
}

#[test]
fn an_item_of_the_newest_key_stays_as_it_is() {
    let mut mixed = object("strict.yaml");
    mixed["spec"]["encryptedData"]["one"] = object("old-key.yaml")["spec"]["encryptedData"]["one"].clone();
    let fresh = reseal(&mixed, &ring(&["new", "old"]), &certificate("new")).unwrap();
    for item in ["binary", "empty", "password"] {
        assert_eq!(fresh["spec"]["encryptedData"][item], mixed["spec"]["encryptedData"][item]);
    }
    assert_ne!(fresh["spec"]["encryptedData"]["one"], mixed["spec"]["encryptedData"]["one"]);
    assert_eq!(reseal(&fresh, &ring(&["new", "old"]), &certificate("new")).unwrap(), fresh, "a second run");
}

#[test]
fn templates_are_kept_and_never_rendered() {
    let mut object = object("old-key.yaml");
    object["metadata"]["labels"] = json!({"own": "kept"});
    object["metadata"]["annotations"] = json!({"own": "kept"});
    object["spec"]["template"]["data"] = json!({"url": "{{ fail .password }}", "password": null});
    object["spec"]["template"]["metadata"]["ownerReferences"] = json!("no type that is one");
    object["spec"]["unknown"] = json!([1]);
    let fresh = reseal(&object, &ring(&["new", "old"]), &certificate("new")).unwrap();
    assert_eq!(fresh["spec"]["template"], object["spec"]["template"]);
    assert_eq!(fresh["spec"]["unknown"], object["spec"]["unknown"]);
    assert_eq!(
        (&fresh["metadata"]["labels"], &fresh["metadata"]["annotations"]),
        (&object["metadata"]["labels"], &object["metadata"]["annotations"])
    );
}

#[test]
fn what_a_server_added_is_left_out() {
    let mut object = object("old-key.yaml");
    object["status"] = json!({"observedGeneration": 1});
    for field in ["uid", "resourceVersion", "selfLink", "creationTimestamp", "deletionTimestamp"] {
        object["metadata"][field] = json!("1");
    }
    object["metadata"]["generation"] = json!(1);
    object["metadata"]["managedFields"] = json!([]);
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    let fresh = reseal(&object, &ring(&["new", "old"]), &certificate("new")).unwrap();
    assert_eq!(fresh["metadata"], json!({"name": "db", "namespace": "shop"}));
    assert_eq!(fresh.get("status"), None);
}

/// CVE-2026-22728: an annotation on the template decided for whom upstream sealed anew.
#[test]
fn the_scope_cannot_be_widened() {
    let wide = json!({"sealedsecrets.bitnami.com/cluster-wide": "true"});
    let keys = ring(&["new", "old"]);
    let mut object = object("old-key.yaml");
    object["spec"]["template"]["metadata"]["annotations"] = wide.clone();
    let fresh = reseal(&object, &keys, &certificate("new")).unwrap();
    assert_eq!(opened(&fresh, &keys, "shop/db").len(), 4, "strict, as it was");

    object["metadata"]["annotations"] = wide;
    assert_eq!(reseal(&object, &keys, &certificate("new")), Err(ResealError::NoKey));
    assert_eq!(verify(&object, &keys), Err(ResealError::NoKey));
}

#[test]
fn every_reason_not_to_open_is_told_alike() {
    let keys = ring(&["new"]);
    let spoiled = |change: &dyn Fn(&mut Value)| {
        let mut object = object("strict.yaml");
        change(&mut object);
        verify(&object, &keys).unwrap_err().to_string()
    };
    let flip = |at: usize| {
        move |object: &mut Value| {
            let text = object["spec"]["encryptedData"]["password"].as_str().unwrap();
            let mut blob = base64::decode(text).unwrap();
            blob[at] ^= 1;
            object["spec"]["encryptedData"]["password"] = base64::encode(&blob).into();
        }
    };
    let answers = [
        spoiled(&|object| object["metadata"]["name"] = json!("other")),
        spoiled(&|object| object["metadata"]["namespace"] = json!("other")),
        spoiled(&|object| {
            object["metadata"]["annotations"] = json!({"sealedsecrets.bitnami.com/namespace-wide": "true"});
        }),
        spoiled(&|object| *object = self::object("old-key.yaml")),
        spoiled(&flip(100)),
        spoiled(&flip(520)),
    ];
    assert!(answers.iter().all(|answer| *answer == ResealError::NoKey.to_string()), "{answers:#?}");
    assert!(answers[0].starts_with("no key could decrypt secret"));
    assert_eq!(verify(&object("strict.yaml"), &keys), Ok(()));
}

#[test]
fn what_is_wrong_with_an_object_is_told_without_its_content() {
    let told = |change: &dyn Fn(&mut Value)| {
        let mut object = object("strict.yaml");
        change(&mut object);
        verify(&object, &ring(&["new"])).unwrap_err().to_string()
    };
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "hunter2"}});
    for (change, expected) in [
        (&(|object: &mut Value| *object = secret.clone()) as &dyn Fn(&mut Value), "this is not a SealedSecret"),
        (&|object| *object = json!(["hunter2"]), "this is not a SealedSecret"),
        (&|object| object["metadata"]["name"] = json!(["hunter2"]), "metadata.name must be text"),
        (&|object| object["metadata"] = json!("hunter2"), "metadata must be a map"),
        (&|object| object["metadata"]["annotations"] = json!({"a": ["hunter2"]}), "metadata.annotations must be"),
        (&|object| object["spec"]["encryptedData"]["one"] = json!(["hunter2"]), "spec.encryptedData must be"),
        (&|object| object["spec"]["encryptedData"]["one"] = json!("hunter2!"), "encryptedData.one is not valid base64"),
        (&|object| object["spec"]["encryptedData"]["one"] = json!("AgAB"), "encryptedData.one is truncated"),
        (&|object| object["spec"]["data"] = json!("aHVudGVyMg=="), "cannot use the field 'encryptedData' and"),
    ] {
        let told = told(change);
        assert!(told.starts_with(expected) && !told.contains("hunter2"), "{told}");
    }
}

#[test]
fn work_ends_when_nobody_waits_for_it() {
    let keys = ring(&["new"]);
    let candidate = Candidate::new(object("strict.yaml")).unwrap();
    let mut operations = Vec::new();
    let mut meter = |spent| {
        operations.push(spent);
        operations.len() < 2
    };
    assert_eq!(candidate.verify(&keys, &mut meter), Err(ResealError::Stopped));
    assert_eq!(operations, [1, 1]);
}

#[test]
fn the_deprecated_form_becomes_the_present_one() {
    let inner = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "example.com/t",
        "metadata": {
            "name": "inner", "labels": {"a": "b"},
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "hunter2",
                "sealedsecrets.bitnami.com/cluster-wide": "true",
            },
        },
        "data": {"password": "aHVudGVyMg=="},
    });
    let blob = certificate("old").seal(inner.to_string().as_bytes(), "shop/db", &mut rand::rng()).unwrap();
    let old = json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"data": base64::encode(&blob), "encryptedData": null},
    });
    let keys = ring(&["new", "old"]);
    assert_eq!(verify(&old, &keys), Ok(()));
    let fresh = reseal(&old, &keys, &certificate("new")).unwrap();
    assert_eq!(fresh["metadata"], old["metadata"], "as strict as before, whatever stands within");
    assert_eq!(opened(&fresh, &ring(&["new"]), "shop/db"), [("password".to_owned(), b"hunter2".to_vec())]);
    assert_eq!(fresh["spec"].get("data"), None);
    assert_eq!(fresh["spec"]["template"]["type"], "example.com/t");
    assert_eq!(fresh["spec"]["template"]["metadata"]["labels"], json!({"a": "b"}));
    assert!(!fresh.to_string().contains("hunter2"));
}

/// Two items for two clusters, with a template.
fn shared(first: &str, second: &str) -> Value {
    let secret = json!({
        "metadata": {"name": "db", "namespace": "shop", "labels": {"a": "b"}},
        "stringData": {"one": "1", "two": "2"},
    });
    let (secret, others) = (serde_json::from_value(secret).unwrap(), [certificate(second)]);
    let sealed = seal::secret_for(&secret, Scope::Strict, &certificate(first), &others, &mut rand::rng()).unwrap();
    let mut sealed = serde_json::to_value(sealed).unwrap();
    sealed["spec"]["template"]["data"] = json!({"url": "{{ fail .one }}"});
    sealed
}

/// Whether the holder of this key alone opens both items.
fn opens(object: &Value, key: &str) -> bool {
    let mut sealed = object.clone();
    sealed["spec"]["template"] = Value::Null;
    let opened = unseal::open(&serde_json::from_value(sealed).unwrap(), &ring(&[key]), None).outcome;
    opened.is_ok_and(|it| it.values.values().map(crds::Plaintext::expose).eq([b"1", b"2"]))
}

fn recipients(object: &Value) -> Recipients {
    let text = object["metadata"]["annotations"][RECIPIENTS].as_str().unwrap();
    Recipients::of(&[(RECIPIENTS.to_owned(), text.to_owned())].into())
}

#[test]
fn a_new_key_at_the_first_cluster_locks_nobody_out() {
    let (before, keys) = (shared("old", "small"), ring(&["new", "old"]));
    assert_eq!(verify(&before, &keys), Ok(()));
    let after = reseal(&before, &keys, &certificate("new")).unwrap();
    assert!(opens(&after, "new") && opens(&after, "small") && !opens(&after, "old"));
    assert_eq!(after["spec"]["template"], before["spec"]["template"]);
    assert_eq!(after["metadata"]["annotations"], before["metadata"]["annotations"]);
    assert_eq!(reseal(&after, &keys, &certificate("new")).unwrap(), after, "a second run");
}

#[test]
fn a_new_key_at_the_second_cluster_locks_nobody_out() {
    let (mut before, keys) = (shared("small", "old"), ring(&["new", "old"]));
    before["metadata"]["annotations"]["own"] = json!("kept");
    assert_eq!(verify(&before, &keys), Ok(()));
    let after = reseal(&before, &keys, &certificate("new")).unwrap();
    assert!(opens(&after, "new") && opens(&after, "small") && !opens(&after, "old"));
    assert_eq!(after["spec"], before["spec"], "all that changes is this cluster's entry");
    assert_eq!(after["metadata"]["annotations"]["own"], "kept");
    assert_eq!(recipients(&after).names().collect::<Vec<_>>(), [certificate("new").fingerprint().to_string()]);
    assert_eq!(reseal(&after, &keys, &certificate("new")).unwrap(), after, "a second run");
}

/// One item was sealed again by a tool that knows nothing of recipients, so its entry opens nothing any more.
#[test]
fn an_entry_that_fits_no_more_is_not_renewed() {
    let mut before = shared("small", "old");
    before["spec"]["encryptedData"]["one"] = object("old-key.yaml")["spec"]["encryptedData"]["one"].clone();
    let after = reseal(&before, &ring(&["new", "old"]), &certificate("new")).unwrap();
    assert_eq!(verify(&after, &ring(&["new"])), Ok(()));
    assert_eq!(recipients(&after).entries("one"), recipients(&before).entries("one"));
}

#[test]
fn each_way_to_lock_a_recipient_out_is_seen() {
    let before = shared("old", "small");
    let blob = |object: &Value| object["spec"]["encryptedData"]["one"].as_str().unwrap().to_owned();
    let survive =
        |after: &Value| recipients(&before).survive("one", &blob(&before), (&recipients(after), &blob(after)));
    let first = reseal(&before, &ring(&["new", "old"]), &certificate("new")).unwrap();
    let second = reseal(&before, &ring(&["new", "small"]), &certificate("new")).unwrap();
    assert!(blob(&first) != blob(&before) && blob(&second) == blob(&before));
    assert!(survive(&before) && survive(&first) && survive(&second));

    let mut both = first.clone();
    both["metadata"] = second["metadata"].clone();
    let mut no_entry = before.clone();
    no_entry["metadata"]["annotations"][RECIPIENTS] = json!("{}");
    assert!(!survive(&both) && !survive(&no_entry) && !survive(&shared("old", "small")));
    let mut other_value = before.clone();
    other_value["spec"] = shared("old", "small")["spec"].clone();
    assert!(!survive(&other_value), "the old entries beside another ciphertext");
}
