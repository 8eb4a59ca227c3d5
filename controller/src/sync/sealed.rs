//! Whether a SealedSecret can be opened where a rendering has put it. The keys are in this process, so a name that an
//! overlay changed is told before anything is applied, and not by a Secret that is missing later. Pure; a value that was
//! opened is dropped, and with that wiped, at once.

use crds::{
    KeyRing, Scope, SealedSecret,
    explain::explain,
    unseal::{self, UnsealError},
};
use kube::ResourceExt as _;

use super::render::Desired;

/// What is known of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it cannot be opened.
    pub problem: Option<String>,
    /// RSA operations spent.
    pub operations: u32,
}

/// Tries to open it. `live` is what stands in the cluster now: what has opened there is not opened again.
pub fn check(desired: &Desired, live: Option<&SealedSecret>, ring: &KeyRing) -> Verdict {
    let said = |problem: String, operations| Verdict { problem: Some(problem), operations };
    let sealed: SealedSecret = match serde_json::from_str(desired.body.text()) {
        Ok(sealed) => sealed,
        // What serde says may quote a value.
        Err(_) => return said("is not as its definition wants it; seal it again".to_owned(), 0),
    };
    // Without any key nothing is known: they may be on their way.
    if ring.keys().is_empty() || live.is_some_and(|live| is_open(live) && is_same(live, &sealed)) {
        return Verdict::default();
    }
    let attempt = unseal::open(&sealed, ring, None);
    match attempt.outcome {
        Ok(_) => Verdict { problem: None, operations: attempt.operations },
        Err(UnsealError::NoKey(mut closed)) => {
            let operations = attempt.operations + explain(&sealed, ring, &mut closed);
            said(closed.to_string(), operations)
        }
        Err(error) => said(error.to_string(), attempt.operations),
    }
}

fn is_open(live: &SealedSecret) -> bool {
    let observed = live.status.as_ref().and_then(|status| status.observed_generation);
    observed == live.metadata.generation && live.synced().is_some_and(|synced| synced.status == "True")
}

fn is_same(one: &SealedSecret, other: &SealedSecret) -> bool {
    let label = |sealed: &SealedSecret| {
        Scope::from_annotations(sealed.annotations()).label(&sealed.namespace().unwrap_or_default(), &sealed.name_any())
    };
    one.spec.encrypted_data == other.spec.encrypted_data
        && one.spec.data == other.spec.data
        && label(one) == label(other)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crds::{Certificate, PrivateKey, base64, key_ring::RingKey};
    use serde_json::json;

    use super::super::{
        ignore::Ignored,
        marks::Marks,
        object::{Manifest, ObjectId},
        render::Place,
    };
    use super::*;

    fn ring() -> KeyRing {
        let private = Arc::new(PrivateKey::from_pem(include_str!("../../../crds/testdata/new.key")).unwrap());
        [RingKey { private, certificate: None, certificate_pem: "".into(), born: jiff::Timestamp::UNIX_EPOCH }]
            .into_iter()
            .collect()
    }

    fn desired(namespace: &str, label: &str) -> Desired {
        let certificate = Certificate::from_pem(include_str!("../../../crds/testdata/new.crt")).unwrap();
        let blob = certificate.seal(b"hunter2", label, &mut rand::rng()).unwrap();
        let id = ObjectId {
            namespace: namespace.into(),
            name: "db".into(),
            group: "bitnami.com".into(),
            kind: "SealedSecret".into(),
        };
        let body = json!({
            "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
            "metadata": {"name": "db", "namespace": namespace},
            "spec": {"encryptedData": {"password": base64::encode(&blob)},
                "template": {"metadata": {"name": "db", "namespace": "shop"}}},
        });
        let place = Place { file: "db.yaml".into(), line: 1 };
        Desired {
            id,
            version: "v1alpha1".into(),
            body: Manifest::from(&body),
            digest: String::new(),
            marks: Marks::default(),
            ignored: Ignored::default(),
            place,
        }
    }

    #[test]
    fn what_was_moved_is_told_with_where_it_was_sealed_for() {
        assert_eq!(check(&desired("shop", "shop/db"), None, &ring()).problem, None);
        let problem = check(&desired("dev", "shop/db"), None, &ring()).problem.unwrap();
        assert!(problem.contains("was sealed for shop/db (strict scope)") && !problem.contains("hunter2"), "{problem}");
        assert_eq!(check(&desired("dev", "shop/db"), None, &KeyRing::default()), Verdict::default());
    }

    #[test]
    fn what_is_open_already_costs_nothing() {
        let wanted = desired("dev", "shop/db");
        let mut live: SealedSecret = serde_json::from_str(wanted.body.text()).unwrap();
        assert!(check(&wanted, Some(&live), &ring()).problem.is_some());
        live.metadata.generation = Some(1);
        let condition = json!({"type": "Synced", "status": "True"});
        live.status = serde_json::from_value(json!({"observedGeneration": 1, "conditions": [condition]})).unwrap();
        assert_eq!(check(&wanted, Some(&live), &ring()), Verdict::default());
        live.spec.encrypted_data.clear();
        assert!(check(&wanted, Some(&live), &ring()).problem.is_some());
    }
}
