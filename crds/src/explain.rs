//! Why an item stays closed. RSA-OAEP tells a wrong key from a wrong label no more than upstream's message does, but
//! whoever holds the keys can try the labels that such an item is likely to carry. For conditions, Events and the
//! command line; an endpoint that anyone may ask must not, for the answers would tell what a ciphertext was made for.

use std::fmt;

use kube::ResourceExt as _;

use crate::{KeyRing, Scope, SealedSecret, base64, envelope::Envelope, unseal};

/// RSA operations that may go into one explanation. A ring of 24 keys gets through all labels of one item, and the
/// items of one object are as a rule sealed alike.
const OPERATIONS: u32 = 200;

/// Why no key opened an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A key of the ring is the right one, but another scope, name or namespace than the object's.
    Elsewhere(String),
    /// Key and label are right; the value does not fit its tag.
    Corrupted,
    /// No key of the ring has the size, in bits, of the one it was sealed with.
    KeySize(usize),
    /// None of these.
    Unknown,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elsewhere(place) => write!(f, "was sealed for {place}; seal it again for where it stands now"),
            Self::Corrupted => f.write_str("was sealed for this place, but its value was changed or cut since"),
            Self::KeySize(bits) => {
                write!(f, "was sealed with a key of {bits} bits, and no key here has that size")
            }
            Self::Unknown => f.write_str(
                "was sealed with a key that is not here, for another name or namespace, or is corrupted; seal it again with this cluster's certificate",
            ),
        }
    }
}

/// Fills in why each item is closed; what it cost in RSA operations.
pub fn explain(sealed: &SealedSecret, ring: &KeyRing, closed: &mut unseal::Closed) -> u32 {
    let places = places(sealed);
    let mut operations = 0;
    for (item, why) in &mut closed.0 {
        if operations >= OPERATIONS {
            break;
        }
        let text = sealed.spec.encrypted_data.get(item).or(sealed.spec.data.as_ref());
        let blob = text.and_then(|text| base64::decode(text)).unwrap_or_default();
        let Ok(envelope) = Envelope::parse(&blob) else { continue };
        *why = Some(reason(envelope, ring, &places, &mut operations));
    }
    operations
}

fn reason(envelope: Envelope<'_>, ring: &KeyRing, places: &[Place], operations: &mut u32) -> Why {
    let fitting: Vec<_> = ring.keys().iter().filter(|key| key.private.fits(envelope)).collect();
    if fitting.is_empty() {
        return Why::KeySize(envelope.sealed_session_key.len() * 8);
    }
    for (index, place) in places.iter().enumerate() {
        for key in &fitting {
            *operations += 1;
            if key.private.recognises(envelope, &place.label) {
                return if index == 0 { Why::Corrupted } else { Why::Elsewhere(place.words.clone()) };
            }
        }
    }
    Why::Unknown
}

/// Where an item may have been sealed for.
struct Place {
    label: String,
    words: String,
}

/// The object's own place first; then its other scopes, what the template remembers of the original, and the namespace
/// that stands for none.
fn places(sealed: &SealedSecret) -> Vec<Place> {
    let remembered = |field| {
        let metadata = sealed.spec.template.as_ref()?.metadata.as_ref()?;
        metadata.get(field)?.as_str().map(str::to_owned)
    };
    let (namespace, name) = (sealed.namespace().unwrap_or_default(), sealed.name_any());
    let namespaces = [Some(namespace), remembered("namespace"), Some("default".to_owned())];
    let names = [Some(name), remembered("name")];
    let mut places: Vec<Place> = Vec::new();
    let mut add = |scope: Scope, namespace: &str, name: &str| {
        let label = scope.label(namespace, name);
        if places.iter().any(|place| place.label == label) {
            return;
        }
        let words = match scope {
            Scope::Strict => format!("{label} (strict scope)"),
            Scope::NamespaceWide => format!("the namespace {label} (namespace-wide scope)"),
            Scope::ClusterWide => "any namespace (cluster-wide scope)".to_owned(),
        };
        places.push(Place { label, words });
    };
    let own = Scope::from_annotations(sealed.annotations());
    add(own, namespaces[0].as_deref().unwrap_or_default(), names[0].as_deref().unwrap_or_default());
    for namespace in namespaces.iter().flatten() {
        for name in names.iter().flatten() {
            for scope in [Scope::Strict, Scope::NamespaceWide, Scope::ClusterWide] {
                add(scope, namespace, name);
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{Certificate, PrivateKey, key, key_ring::RingKey, sealed_secret::SealedSecretSpec};

    fn ring(key: &str) -> KeyRing {
        let private = Arc::new(PrivateKey::from_pem(key).unwrap());
        [RingKey { private, certificate: None, certificate_pem: "".into(), born: jiff::Timestamp::UNIX_EPOCH }]
            .into_iter()
            .collect()
    }

    fn new_ring() -> KeyRing {
        ring(include_str!("../testdata/new.key"))
    }

    /// An object shop/db whose item `a` is sealed under `label`.
    fn sealed(label: &str) -> SealedSecret {
        let certificate = Certificate::from_pem(include_str!("../testdata/new.crt")).unwrap();
        let blob = certificate.seal(b"hunter2", label, &mut rand::rng()).unwrap();
        let spec = SealedSecretSpec {
            encrypted_data: [("a".to_owned(), base64::encode(&blob))].into(),
            ..SealedSecretSpec::default()
        };
        let mut sealed = SealedSecret::new("db", spec);
        sealed.metadata.namespace = Some("shop".to_owned());
        sealed
    }

    fn said(sealed: &SealedSecret, ring: &KeyRing) -> String {
        let outcome = unseal::open(sealed, ring, None).outcome;
        let Err(unseal::UnsealError::NoKey(mut closed)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(closed.to_string(), "no key could decrypt secret (a)", "nothing is told unasked");
        assert!(explain(sealed, ring, &mut closed) <= OPERATIONS);
        let text = closed.to_string();
        text.strip_prefix("no key could decrypt secret (a): ").unwrap().to_owned()
    }

    #[test]
    fn another_place_is_named() {
        for (label, words) in [
            ("", "was sealed for any namespace (cluster-wide scope)"),
            ("shop", "was sealed for the namespace shop (namespace-wide scope)"),
            ("default/db", "was sealed for default/db (strict scope)"),
            ("default", "was sealed for the namespace default (namespace-wide scope)"),
        ] {
            let text = said(&sealed(label), &new_ring());
            assert!(text.starts_with(words), "{label}: {text}");
        }
        let mut renamed = sealed("bank/vault");
        assert!(said(&renamed, &new_ring()).starts_with("was sealed with a key that is not here"));
        let metadata = Some(json!({"name": "vault", "namespace": "bank"}));
        renamed.spec.template = Some(crate::sealed_secret::SecretTemplate { metadata, ..Default::default() });
        assert!(said(&renamed, &new_ring()).starts_with("was sealed for bank/vault (strict scope)"));
    }

    #[test]
    fn corruption_and_unknown_keys_are_told_apart_where_they_can_be() {
        let mut changed = sealed("shop/db");
        let mut blob = base64::decode(&changed.spec.encrypted_data["a"]).unwrap();
        *blob.last_mut().unwrap() ^= 1;
        changed.spec.encrypted_data.insert("a".to_owned(), base64::encode(&blob));
        assert!(said(&changed, &new_ring()).contains("changed or cut"));

        let (bits, not_before, lifetime) = (4096, jiff::Timestamp::UNIX_EPOCH, jiff::SignedDuration::from_hours(1));
        let request = key::KeyRequest { bits, common_name: String::new(), not_before, lifetime };
        let other = ring(&key::mint(&request, &mut rand::rng()).unwrap().private_key_pem);
        assert!(said(&sealed("shop/db"), &other).starts_with("was sealed with a key that is not here"));
        let small = ring(include_str!("../testdata/small.key"));
        assert!(said(&sealed("shop/db"), &small).starts_with("was sealed with a key of 4096 bits"));
    }

    #[test]
    fn items_with_one_reason_share_its_words() {
        let closed = |items: &[(&str, Option<Why>)]| {
            unseal::Closed(items.iter().map(|(item, why)| ((*item).to_owned(), why.clone())).collect()).to_string()
        };
        assert_eq!(closed(&[("a", None), ("b", None)]), "no key could decrypt secret (a, b)");
        let text = closed(&[("a", Some(Why::Corrupted)), ("b", Some(Why::Corrupted))]);
        assert_eq!(text.matches("changed or cut").count(), 1);
        let text = closed(&[("a", Some(Why::Corrupted)), ("b", Some(Why::KeySize(2048))), ("c", None)]);
        assert!(text.contains(": a was sealed for this place") && text.contains("; b was sealed with a key of 2048"));
    }
}
