//! What kubeseal sealed opens, and only where it may; what is sealed here opens here. `testdata/make.sh` made the files.

use std::sync::Arc;

use crds::{
    Certificate, KeyRing, PrivateKey, Scope, SealedSecret,
    key::{KeyRequest, mint},
    key_ring::RingKey,
    seal,
    template::Environment,
    unseal::{self, Closed, UnsealError},
    yaml,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn object<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let document = yaml::documents(&file(name)).into_iter().next().unwrap();
    serde_json::from_value(document.value.unwrap()).unwrap()
}

fn ring_key(name: &str, born: i64) -> RingKey {
    RingKey {
        private: Arc::new(PrivateKey::from_pem(&file(&format!("{name}.key"))).unwrap()),
        certificate: None,
        certificate_pem: "".into(),
        born: Timestamp::from_second(born).unwrap(),
    }
}

fn ring(names: &[&str]) -> KeyRing {
    names.iter().zip((0..100).rev()).map(|(name, born)| ring_key(name, born)).collect()
}

/// Opens to the very bytes of `secret.yaml`, or says why not.
fn assert_opens(sealed: &SealedSecret, ring: &KeyRing) -> Result<u32, UnsealError> {
    let plain: Secret = object("secret.yaml");
    let attempt = unseal::open(sealed, ring, None);
    let environment = Environment { rng: &mut rand::rng(), now: Timestamp::UNIX_EPOCH };
    let clear = unseal::secret(sealed, attempt.outcome?, environment)?;
    let mut expected = plain.data.clone().unwrap();
    expected.extend(
        plain.string_data.clone().unwrap().into_iter().map(|(k, v)| (k, k8s_openapi::ByteString(v.into_bytes()))),
    );
    assert_eq!(clear.expose().data.as_ref().unwrap(), &expected);
    assert_eq!(clear.expose().type_, plain.type_);
    assert_eq!(clear.expose().labels(), plain.labels());
    assert_eq!(clear.expose().annotations()["note"], "kept");
    Ok(attempt.operations)
}

#[test]
fn kubeseals_files_open_in_every_scope_and_with_every_key() {
    let ring = ring(&["new", "old", "small"]);
    for name in ["strict.yaml", "namespace-wide.yaml", "cluster-wide.yaml", "old-key.yaml", "small-key.yaml"] {
        // Four items, one RSA operation each: keys of another size are not even tried.
        assert_eq!(assert_opens(&object(name), &ring).unwrap(), 4, "{name}");
    }
}

#[test]
fn a_pkcs8_key_is_the_same_key() {
    let pkcs8 = PrivateKey::from_pem(&file("old.pkcs8.key")).unwrap();
    assert_eq!(pkcs8.fingerprint(), PrivateKey::from_pem(&file("old.key")).unwrap().fingerprint());
}

#[test]
fn fingerprints_are_those_of_ssh_keygen() {
    // ssh-keygen -l -f FILE
    for (name, expected) in [
        ("new", "SHA256:x9/vGpQho8Gn7+taRvVpgxxB5lNPZY9GvlOAeCaxMmY"),
        ("old", "SHA256:SrzwBLSRB5RKZZDN4shNbLEcDK/Fu0sbZ2Y4161HR7M"),
        ("small", "SHA256:V/IZYUgnuTnEGI7OVX4hfQl/MVLKDWmMxIUKCksogPI"),
    ] {
        let key = PrivateKey::from_pem(&file(&format!("{name}.key"))).unwrap();
        let certificate = Certificate::from_pem(&file(&format!("{name}.crt"))).unwrap();
        assert_eq!(key.fingerprint().to_string(), expected);
        certificate.belongs_to(&key).unwrap();
    }
    let other = PrivateKey::from_pem(&file("old.key")).unwrap();
    assert!(Certificate::from_pem(&file("new.crt")).unwrap().belongs_to(&other).is_err());
}

#[test]
fn a_value_opens_only_where_its_scope_lets_it() {
    let ring = ring(&["new"]);
    let moved = |file: &str, namespace: &str, name: &str| {
        let mut sealed: SealedSecret = object(file);
        sealed.metadata.namespace = Some(namespace.to_owned());
        sealed.metadata.name = Some(name.to_owned());
        assert_opens(&sealed, &ring)
    };
    let closed = ["binary", "empty", "one", "password"].map(|item| (item.to_owned(), None));
    let refused = Err(UnsealError::NoKey(Closed(closed.to_vec())));
    assert_eq!(moved("strict.yaml", "shop", "other"), refused);
    assert_eq!(moved("strict.yaml", "other", "db"), refused);
    assert!(moved("namespace-wide.yaml", "shop", "other").is_ok());
    assert_eq!(moved("namespace-wide.yaml", "other", "db"), refused);
    assert!(moved("cluster-wide.yaml", "other", "other").is_ok());

    let mut unmarked: SealedSecret = object("cluster-wide.yaml");
    unmarked.metadata.annotations = None;
    assert_eq!(assert_opens(&unmarked, &ring), refused);
    let said = assert_opens(&unmarked, &ring).unwrap_err().to_string();
    assert_eq!(said, "no key could decrypt secret (binary, empty, one, password)", "the words that tools look for");
}

#[test]
fn bad_items_are_named_all_at_once() {
    let mut sealed: SealedSecret = object("strict.yaml");
    sealed.spec.encrypted_data.insert("one".to_owned(), "***".to_owned());
    sealed.spec.encrypted_data.insert("password".to_owned(), "AgAB".to_owned());
    let error = assert_opens(&sealed, &ring(&["new"])).unwrap_err().to_string();
    assert_eq!(
        error,
        "encryptedData.one is not valid base64; encryptedData.password is truncated: 3 bytes, at least 530 needed"
    );

    let mut sealed: SealedSecret = object("strict.yaml");
    let blob = sealed.spec.encrypted_data["one"].replace(['x', 'y', 'z'], "w");
    sealed.spec.encrypted_data.insert("one".to_owned(), blob);
    let error = assert_opens(&sealed, &ring(&["new"])).unwrap_err();
    assert_eq!(error, UnsealError::NoKey(Closed(vec![("one".to_owned(), None)])));
}

#[test]
fn a_wrong_type_in_the_template_is_that_objects_error() {
    let mut sealed: SealedSecret = object("strict.yaml");
    sealed.spec.template.as_mut().unwrap().metadata = Some(serde_json::json!({"ownerReferences": "x"}));
    let error = assert_opens(&sealed, &ring(&["new"])).unwrap_err().to_string();
    assert!(error.starts_with("spec.template.metadata is not valid:"), "{error}");
}

#[test]
fn the_likeliest_key_is_tried_first() {
    let rng = &mut rand::rng();
    let minted = |name: &str| {
        let request = KeyRequest {
            bits: 2048,
            common_name: name.to_owned(),
            not_before: Timestamp::UNIX_EPOCH,
            lifetime: SignedDuration::from_hours(24),
        };
        mint(&request, &mut rand::rng()).unwrap()
    };
    let minted = minted("second");
    let mut ring_keys = vec![ring_key("old", 2)];
    ring_keys.push(RingKey {
        private: Arc::new(PrivateKey::from_pem(&minted.private_key_pem).unwrap()),
        certificate: None,
        certificate_pem: "".into(),
        born: Timestamp::UNIX_EPOCH,
    });
    let ring: KeyRing = ring_keys.into_iter().collect();
    let certificate = Certificate::from_pem(&minted.certificate_pem).unwrap();
    let blob = certificate.seal(b"value", "a/b", rng).unwrap();
    let opened = ring.open(&blob, "a/b", None).unwrap();
    assert_eq!((opened.plaintext.expose(), opened.operations), (b"value".as_slice(), 2));
    assert_eq!(ring.open(&blob, "a/b", None).unwrap().operations, 1, "it opened last");
    let newer = Certificate::from_pem(&file("old.crt")).unwrap().seal(b"value", "a/b", rng).unwrap();
    assert_eq!(ring.open(&newer, "a/b", None).unwrap().operations, 2);
    assert_eq!(ring.open(&blob, "a/b", Some(&opened.by)).unwrap().operations, 1, "it opened this one before");
}

#[test]
fn a_minted_key_has_upstreams_form() {
    let request = KeyRequest {
        bits: 2048,
        common_name: String::new(),
        not_before: Timestamp::from_second(1_700_000_000).unwrap(),
        lifetime: SignedDuration::from_hours(10),
    };
    let minted = mint(&request, &mut rand::rng()).unwrap();
    assert!(minted.private_key_pem.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    let certificate = Certificate::from_pem(&minted.certificate_pem).unwrap();
    certificate.belongs_to(&PrivateKey::from_pem(&minted.private_key_pem).unwrap()).unwrap();
    assert_eq!(certificate.not_before(), request.not_before);
    assert_eq!(certificate.not_after(), request.not_before + request.lifetime);
    assert!(mint(&KeyRequest { bits: 1024, ..request }, &mut rand::rng()).is_err());
}

#[test]
fn what_is_sealed_here_opens_here() {
    let ring = ring(&["new"]);
    let certificate = Certificate::from_pem(&file("new.crt")).unwrap();
    for scope in [Scope::Strict, Scope::NamespaceWide, Scope::ClusterWide] {
        let mut plain: Secret = object("secret.yaml");
        plain
            .annotations_mut()
            .insert("kubectl.kubernetes.io/last-applied-configuration".to_owned(), "the plain Secret".to_owned());
        let sealed = seal::secret(&plain, scope, &certificate, &mut rand::rng()).unwrap();
        assert_opens(&sealed, &ring).unwrap();
        let text = yaml::to_string(&sealed).unwrap();
        assert!(!text.contains("the plain Secret") && !text.contains("null"), "{text}");
    }
}

#[test]
fn no_key_or_value_is_ever_printed() {
    let key = ring_key("new", 0);
    let debug = format!("{key:?}");
    assert!(debug.contains("SHA256:") && debug.len() < 6000 && !debug.contains("BEGIN RSA"), "{debug}");
    let sealed: SealedSecret = object("strict.yaml");
    let unsealed = unseal::open(&sealed, &ring(&["new"]), None).outcome.unwrap();
    assert!(format!("{unsealed:?}").contains("redacted"));
    let environment = Environment { rng: &mut rand::rng(), now: Timestamp::UNIX_EPOCH };
    let clear = unseal::secret(&sealed, unsealed, environment).unwrap();
    assert_eq!(format!("{clear:?}"), "ClearSecret(db, <redacted>)");
}
