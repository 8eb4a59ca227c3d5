//! Any JSON of a SealedSecret, template and annotations included, becomes a Secret or an error, and the same one each
//! time. An item that says `sealed` stands for a value that opens wherever the object is cluster-wide.
#![no_main]

mod fixed;

use std::sync::LazyLock;

use crds::{Scope, SealedSecret, base64, scope, template::Environment, unseal};
use libfuzzer_sys::{Corpus, fuzz_target};

const VALUE: &[u8] = b"correct horse battery staple";

static SEALED: LazyLock<String> =
    LazyLock::new(|| base64::encode(&fixed::SEALER.seal(VALUE, "", &mut rand::rng()).expect("the key seals")));

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(mut sealed) = serde_json::from_slice::<SealedSecret>(data) else { return Corpus::Reject };
    for text in sealed.spec.encrypted_data.values_mut().filter(|text| *text == "sealed") {
        text.clone_from(&SEALED);
    }
    let record = sealed.status.as_ref().and_then(|status| status.unsealed.as_ref());
    let opened = unseal::open(&sealed, &fixed::RING, record);
    let Ok(unsealed) = opened.outcome else { return Corpus::Keep };
    let annotations = sealed.metadata.annotations.clone().unwrap_or_default();
    if !unsealed.values.is_empty() {
        assert_eq!(Scope::from_annotations(&annotations), Scope::ClusterWide);
        assert_eq!(annotations.get(scope::CLUSTER_WIDE).map(String::as_str), Some("true"));
    }
    let environment = Environment { rng: &mut rand::rng(), now: jiff::Timestamp::UNIX_EPOCH };
    let Ok(secret) = unseal::secret(&sealed, unsealed, environment) else { return Corpus::Keep };
    let secret = secret.expose();
    assert_eq!(secret.metadata.name, sealed.metadata.name, "a template must not move a Secret");
    assert_eq!(secret.metadata.namespace, sealed.metadata.namespace);
    let rendered = sealed.spec.template.as_ref().and_then(|template| template.data.as_ref());
    let known = |item: &String| {
        sealed.spec.encrypted_data.contains_key(item) || rendered.is_some_and(|rendered| rendered.contains_key(item))
    };
    assert!(secret.data.iter().flatten().all(|(item, _)| known(item)));
    Corpus::Keep
});
