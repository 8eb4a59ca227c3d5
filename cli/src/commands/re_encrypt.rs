//! `--re-encrypt`: has the controller seal SealedSecrets anew with its newest key. Only the sealed values change: of
//! the answer nothing else is taken, and what the controller has no need to know is not sent.

use std::{collections::BTreeMap, fs, path::Path};

use crds::{
    Scope, SealedSecret,
    recipients::{RECIPIENTS, Recipients},
    sealed_secret::{SealedSecretSpec, SecretTemplate},
    unseal::SKIP_OWNER,
};
use kube::{ResourceExt as _, core::ObjectMeta};
use serde_json::{Value, json};

use crate::{
    cluster,
    command::ReEncrypt,
    commands::input,
    exit::Error,
    io::Io,
    manifest::{self, Fault, Place},
    output::{self, Output},
    renewal::{self, RenewalError},
    surgery,
};

/// Why nothing was sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum ReEncryptError {
    #[error("{place}")]
    Answer { place: Place, source: AnswerError },
    #[error(transparent)]
    Edit(#[from] RenewalError),
}

/// Why an answer cannot be trusted to be the same values, sealed anew.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the controller's answer is not a SealedSecret")]
    Nothing,
    #[error("the controller's answer is not a SealedSecret")]
    Manifest(#[from] Fault),
    #[error("the controller sealed for {0}, which is another place")]
    Place(String),
    #[error("the controller answered with other items: {0}")]
    Items(String),
    #[error(
        "the controller does not know of further recipients and would lock them out of {0}: seal again with every --cert, or take the annotation {RECIPIENTS} away if nobody else opens this file"
    )]
    Recipients(String),
}

pub async fn run(command: ReEncrypt, io: &mut Io<'_>) -> Result<(), Error> {
    let ReEncrypt { input: path, output, namespace, access, controller } = command;
    let (text, encoding) = input::read(path.as_deref(), io)?;
    let mut found = input::sealed_secrets(&text, "SealedSecrets cannot be sealed anew")?;
    let own: Vec<Option<String>> = found.iter().map(|(_, sealed)| sealed.namespace()).collect();
    input::settle_namespaces(&mut found, namespace.as_deref(), Some(&access), io)?;
    let cluster = cluster::connect(&access).await?;
    let controller = cluster.controller(&controller).await?;
    for ((place, sealed), own) in found.iter_mut().zip(own) {
        let answer = controller.rotate(&request(sealed)?).await?;
        renew(sealed, &answer).map_err(|source| ReEncryptError::Answer { place: place.clone(), source })?;
        sealed.metadata.namespace = own;
    }
    let elsewhere = output.filter(|output| !is_same(path.as_deref(), output.path.as_deref()));
    if let (None, Some(path)) = (&elsewhere, &path) {
        let renewed = renewal::in_place(&text, &found).map_err(ReEncryptError::from)?;
        return Ok(output::write_back(&text, &renewed, encoding, path)?);
    }
    let Output { path, format } = elsewhere.unwrap_or_default();
    let documents = found.iter().map(|(_, sealed)| output::render(sealed, format));
    let text = documents.collect::<Result<String, _>>()?;
    Ok(output::write(text.as_bytes(), path.as_deref(), io)?)
}

/// Whether two names are of one file, so that writing to the one is to keep what else is in the other.
fn is_same(one: Option<&Path>, other: Option<&Path>) -> bool {
    let file = |path: Option<&Path>| path.and_then(|path| fs::canonicalize(path).ok()).filter(|path| path.is_file());
    file(one).is_some_and(|one| file(other) == Some(one))
}

/// What the controller needs to open the items and to seal them for the same place, and no more: some controllers
/// render the template, others take the new scope from it.
pub fn request(sealed: &SealedSecret) -> Result<String, output::OutputError> {
    let scope = Scope::from_annotations(sealed.annotations());
    let annotations: BTreeMap<String, String> =
        scope.annotation().map(|key| (key.to_owned(), "true".to_owned())).into_iter().collect();
    let SealedSecretSpec { template: _, data, encrypted_data } = &sealed.spec;
    let recipients = sealed.annotations().get_key_value(RECIPIENTS).map(|(key, text)| (key.clone(), text.clone()));
    let own: BTreeMap<_, _> = annotations.clone().into_iter().chain(recipients).collect();
    let metadata = ObjectMeta {
        name: sealed.metadata.name.clone(),
        namespace: sealed.metadata.namespace.clone(),
        annotations: Some(own).filter(|own| !own.is_empty()),
        ..ObjectMeta::default()
    };
    let mut same = json!({"name": metadata.name, "namespace": metadata.namespace, "annotations": annotations});
    if let Value::Object(fields) = &mut same {
        fields.retain(|_, value| !value.is_null() && *value != json!({}));
    }
    let template = SecretTemplate { metadata: Some(same), ..SecretTemplate::default() };
    let spec =
        SealedSecretSpec { template: Some(template), data: data.clone(), encrypted_data: encrypted_data.clone() };
    let request = SealedSecret { metadata, spec, status: None };
    serde_json::to_string(&request).map_err(output::OutputError::Json)
}

/// Takes the values of an answer over, if they are those of the same items for the same place.
pub fn renew(sealed: &mut SealedSecret, answer: &str) -> Result<(), AnswerError> {
    let mut entries = manifest::sealed_secrets(answer);
    let answer = entries.pop().filter(|_| entries.is_empty()).ok_or(AnswerError::Nothing)?.object?;
    let place = |sealed: &SealedSecret| {
        let scope = Scope::from_annotations(sealed.annotations());
        (scope, scope.label(&sealed.namespace().unwrap_or_default(), &sealed.name_any()))
    };
    let (scope, label) = place(&answer);
    if (scope, &label) != (place(sealed).0, &place(sealed).1) {
        return Err(AnswerError::Place(format!("{scope} {label}").trim().to_owned()));
    }
    let (before, after) = (Recipients::of(sealed.annotations()), Recipients::of(answer.annotations()));
    let spec = &mut sealed.spec;
    if spec.data.take().is_some() {
        // The old form holds the whole Secret: its items and its template come out of it only now. Of the file's own
        // template it heeds one annotation, which the controller was not told.
        let own = std::mem::replace(&mut spec.template, answer.spec.template);
        let declined = own.as_ref().and_then(|own| own.metadata.as_ref()?.get("annotations")?.get(SKIP_OWNER).cloned());
        if let Some(declined) = declined {
            let metadata = spec.template.get_or_insert_default().metadata.get_or_insert_default();
            let annotations = surgery::mapping(metadata, &["annotations"]).ok_or(AnswerError::Nothing)?;
            annotations.insert(SKIP_OWNER.to_owned(), declined);
        }
    } else if !spec.encrypted_data.keys().eq(answer.spec.encrypted_data.keys()) {
        let names: Vec<_> = answer.spec.encrypted_data.into_keys().collect();
        return Err(AnswerError::Items(names.join(", ")));
    } else {
        let pairs = spec.encrypted_data.iter().zip(answer.spec.encrypted_data.values());
        let lost = pairs.filter(|((item, old), new)| !before.survive(item, old, (&after, new)));
        let lost: Vec<_> = lost.map(|((item, _), _)| item.as_str()).collect();
        if !lost.is_empty() {
            return Err(AnswerError::Recipients(lost.join(", ")));
        }
    }
    let renewed = answer.metadata.annotations.unwrap_or_default().remove(RECIPIENTS);
    let kept = sealed.metadata.annotations.as_mut().and_then(|annotations| annotations.get_mut(RECIPIENTS));
    if let (Some(kept), Some(renewed)) = (kept, renewed) {
        *kept = renewed;
    }
    sealed.spec.encrypted_data = answer.spec.encrypted_data;
    Ok(())
}
