//! What it means for a manifest that its SealedSecrets are sealed anew: which of them were stale, and the text with the
//! new values in it. Pure over strings; by whom they are sealed is the caller's business.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    Certificate, KeyRing, Scope, SealedSecret, explain,
    recipients::{RECIPIENTS, Recipients},
    reseal::{self, Candidate, ResealError},
    sealed_secret::SealedSecretSpec,
    unseal::{self, UnsealError, WHOLE},
};
use kube::ResourceExt as _;
use rand::CryptoRng;
use serde_json::Value;

use crate::{
    manifest::{self, Entry, Place},
    passed,
    surgery::{self, SurgeryError},
};

/// Why a text cannot hold the new values.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    #[error("{0}: a field of it is not a mapping")]
    Shape(Place),
    #[error("cannot change the file")]
    Edit(#[from] SurgeryError),
}

/// Why a SealedSecret is not sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("metadata.namespace is missing, and the values open in one namespace only: name it with --namespace")]
    NoNamespace,
    #[error(transparent)]
    Closed(UnsealError),
    #[error(transparent)]
    Reseal(#[from] ResealError),
}

/// See [`found`].
#[derive(Debug, Default)]
pub struct Found {
    pub sealed: Vec<(Place, SealedSecret)>,
    pub wrong: Vec<(Place, String)>,
    /// What is passed over, and how many sealed values it seems to hold.
    pub passed: Vec<(Place, usize)>,
}

/// The SealedSecrets of a text, each with its namespace, and what is wrong with others. What is something else, or a
/// chart's template that only its own tools can read, is passed over.
pub fn found(text: &str, namespace: Option<&str>) -> Found {
    let Found { sealed: mut found, mut wrong, mut passed } = Found::default();
    for (Entry { place, object }, own) in manifest::found(text) {
        let sealed = match object {
            Ok(Value::Object(fields)) if fields.get("kind").is_some_and(|kind| kind == "SealedSecret") => {
                manifest::sealed_secret(fields).map_err(|fault| fault.to_string())
            }
            Err(fault) if text.contains("SealedSecret") && !manifest::is_of_a_chart(text) => Err(fault.to_string()),
            other => {
                let values = passed::sealed_values(&other, own);
                passed.extend((values > 0).then_some((place, values)));
                continue;
            }
        };
        match sealed.and_then(|sealed| settled(sealed, namespace).map_err(|refusal| refusal.to_string())) {
            Ok(sealed) => found.push((place, sealed)),
            Err(why) => wrong.push((place, why)),
        }
    }
    Found { sealed: found, wrong, passed }
}

fn settled(mut sealed: SealedSecret, namespace: Option<&str>) -> Result<SealedSecret, Refusal> {
    let homeless = sealed.namespace().is_none_or(|own| own.is_empty());
    if homeless && Scope::from_annotations(sealed.annotations()) != Scope::ClusterWide {
        sealed.metadata.namespace = Some(namespace.ok_or(Refusal::NoNamespace)?.to_owned());
    }
    Ok(sealed)
}

/// Seals with keys at hand what is not sealed for `certificate` yet.
pub fn renew(
    sealed: &SealedSecret,
    ring: &KeyRing,
    certificate: &Certificate,
    rng: &mut impl CryptoRng,
) -> Result<SealedSecret, Refusal> {
    let object = serde_json::to_value(sealed).map_err(|_| ResealError::NotASealedSecret)?;
    let renewed = Candidate::new(object)?.reseal(ring, certificate, rng, &mut |_| true);
    let renewed = renewed.map_err(|error| match error {
        ResealError::NoKey => closed(sealed, ring),
        error => error.into(),
    })?;
    Ok(serde_json::from_value(renewed).map_err(|_| ResealError::NotASealedSecret)?)
}

/// Whoever holds the keys may know why they do not open it.
fn closed(sealed: &SealedSecret, ring: &KeyRing) -> Refusal {
    match unseal::open(sealed, ring, None).outcome {
        Err(UnsealError::NoKey(mut closed)) => {
            explain::explain(sealed, ring, &mut closed);
            Refusal::Closed(closed.into())
        }
        _ => ResealError::NoKey.into(),
    }
}

/// The items of which something is new.
pub fn stale(before: &SealedSecret, after: &SealedSecret) -> Vec<String> {
    if before.spec.data.is_some() {
        return vec![WHOLE.to_owned()];
    }
    let (old, new) = (Recipients::of(before.annotations()), Recipients::of(after.annotations()));
    let items = before.spec.encrypted_data.iter();
    let same =
        |item: &str, blob| after.spec.encrypted_data.get(item) == Some(blob) && old.entries(item) == new.entries(item);
    items.filter(|(item, blob)| !same(item, blob)).map(|(item, _)| item.clone()).collect()
}

/// The text with the new values in the place of the old ones. What a server wrote into it goes: whoever applies the file
/// would be told that it is outdated.
pub fn in_place(text: &str, found: &[(Place, SealedSecret)]) -> Result<String, RenewalError> {
    let mut documents: Vec<_> = crds::yaml::documents(text).into_iter().map(|document| document.value).collect();
    let mut changed = BTreeSet::new();
    for (place, sealed) in found {
        let object = manifest::at(&mut documents, place).and_then(|object| replace(object, sealed));
        object.ok_or_else(|| RenewalError::Shape(place.clone()))?;
        changed.insert(place.document - 1);
    }
    let values = documents.into_iter().enumerate().filter(|(index, _)| changed.contains(index));
    let wanted: BTreeMap<usize, Value> = values.filter_map(|(index, value)| Some((index, value.ok()?))).collect();
    Ok(surgery::rewrite(text, &wanted)?)
}

fn replace(object: &mut Value, sealed: &SealedSecret) -> Option<()> {
    let SealedSecretSpec { template, data: _, encrypted_data } = &sealed.spec;
    let spec = surgery::mapping(object, &["spec"])?;
    if spec.remove("data").is_some_and(|whole| !whole.is_null()) {
        // In the old form the sealed template counts; what stands beside it (Go writes an empty one) would now hide it.
        match template {
            Some(template) => drop(spec.insert("template".to_owned(), serde_json::to_value(template).ok()?)),
            None => drop(spec.remove("template")),
        }
    }
    let items = surgery::mapping(object, &["spec", "encryptedData"])?;
    items.extend(encrypted_data.iter().map(|(item, value)| (item.clone(), value.clone().into())));
    if let Some(recipients) = sealed.annotations().get(RECIPIENTS) {
        let annotations = surgery::mapping(object, &["metadata", "annotations"])?;
        annotations.insert(RECIPIENTS.to_owned(), recipients.clone().into());
    }
    reseal::strip(object);
    Some(())
}
