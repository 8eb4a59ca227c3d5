//! The default: seals every Secret of a stream. Either all of it is sealed or nothing is written, and then every
//! document that stood in the way is named.

use std::collections::BTreeMap;

use crds::{
    Scope, scope,
    seal::{self, SealError},
    unseal::ClearSecret,
};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

use crate::{
    certificate::{self, Certificates},
    cluster,
    command::{Rules, Seal},
    commands::{
        input::{self, InputError, all},
        set::ItemError,
    },
    exit::Error,
    io::Io,
    lint,
    manifest::{self, Entry, Fault, Place},
    output,
};

/// Why one Secret cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error(transparent)]
    Manifest(#[from] Fault),
    #[error(
        "secret.data is empty in input Secret, assuming this is an error and aborting. To work with empty data, --allow-empty-data can be used"
    )]
    Empty,
    #[error("namespace mismatch: input secret is in namespace {0:?} but {1:?} was specified")]
    NamespaceMismatch(String, String),
    #[error(
        "input secret has no namespace and cannot infer the namespace automatically when no kube config is available"
    )]
    NoNamespace,
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A Secret that nothing stands in the way of.
struct Settled {
    place: Place,
    secret: ClearSecret,
    scope: Scope,
}

pub async fn run(command: Seal, io: &mut Io<'_>) -> Result<(), Error> {
    let Seal { input, output, rules, access, certificates } = command;
    let entries = manifest::secrets(&input::read(input.as_deref(), io)?.0);
    if entries.is_empty() {
        return Err(InputError::NoSecrets.into());
    }
    let homeless =
        entries.iter().filter_map(|entry| entry.object.as_ref().ok()).any(|secret| wants_namespace(secret, &rules));
    let implicit = if homeless { cluster::namespace(&access)? } else { None };
    let fallback = implicit.as_ref().map(|implicit| implicit.namespace.as_str());
    let settled = refused(entries.into_iter().map(|Entry { place, object }| {
        let settled = object.map_err(DocumentError::from).and_then(|secret| settle(secret, &rules, fallback));
        match settled {
            Ok((secret, scope)) => Ok(Settled { place, secret, scope }),
            Err(error) => Err((place, error)),
        }
    }))?;
    settled.iter().for_each(|Settled { place, secret, .. }| tell_unfit(place, secret, io));
    if let Some(implicit) = implicit {
        input::told(implicit, "sealing for", io);
    }
    let Certificates { first, others } = certificate::fetch_all(&certificates, io).await?;
    let sealed = refused(settled.into_iter().map(|Settled { place, secret, scope }| {
        let sealed = seal::secret_for(secret.expose(), scope, &first, &others, &mut rand::rng());
        sealed.map_err(|error| (place, error.into()))
    }))?;
    let documents = sealed.iter().map(|sealed| output::render(sealed, output.format));
    let text = documents.collect::<Result<String, _>>()?;
    Ok(output::write(text.as_bytes(), output.path.as_deref(), io)?)
}

fn refused<T>(results: impl Iterator<Item = Result<T, (Place, DocumentError)>>) -> Result<Vec<T>, InputError> {
    Ok(all("Secrets cannot be sealed", results)?)
}

/// Says which keys no Secret can have, though kubeseal seals them.
pub fn tell_unfit(place: &Place, secret: &ClearSecret, io: &mut Io<'_>) {
    let Secret { data, string_data, .. } = secret.expose();
    let items = data.iter().flat_map(BTreeMap::keys).chain(string_data.iter().flat_map(BTreeMap::keys));
    for item in items.filter(|item| !lint::is_item(item)) {
        io.warning(&format!("{place}: {}, so no Secret comes of this", ItemError::Key(item.clone())));
    }
}

/// Whether a kubeconfig has to be asked, so that none is touched without need.
pub fn wants_namespace(secret: &ClearSecret, rules: &Rules) -> bool {
    let secret = secret.expose();
    let bound = scope_of(secret, rules) != Scope::ClusterWide;
    bound && rules.namespace.is_none() && given(secret.metadata.namespace.as_deref()).is_none()
}

/// Makes a Secret what the flags say it is, or says why it cannot be. `implicit` is the namespace to fall back on.
pub fn settle(
    mut clear: ClearSecret,
    rules: &Rules,
    implicit: Option<&str>,
) -> Result<(ClearSecret, Scope), DocumentError> {
    let Rules { scope: _, name, namespace, allow_empty_data } = rules;
    let secret = clear.expose_mut();
    let scope = scope_of(secret, rules);
    let empty = secret.data.iter().all(BTreeMap::is_empty) && secret.string_data.iter().all(BTreeMap::is_empty);
    if empty && !allow_empty_data {
        return Err(DocumentError::Empty);
    }
    if let Some(name) = name {
        secret.metadata.name = Some(name.clone());
    }
    if given(secret.metadata.name.as_deref()).is_none() {
        return Err(SealError::NoName.into());
    }
    match (given(secret.metadata.namespace.as_deref()), namespace) {
        _ if scope == Scope::ClusterWide => {}
        (Some(own), Some(given)) if own != given => {
            return Err(DocumentError::NamespaceMismatch(own.to_owned(), given.clone()));
        }
        (Some(_), _) => {}
        (None, given) => {
            let namespace = given.as_deref().or(implicit).ok_or(DocumentError::NoNamespace)?;
            secret.metadata.namespace = Some(namespace.to_owned());
        }
    }
    if rules.scope.is_some() {
        mark(secret, scope);
    }
    Ok((clear, scope))
}

/// `--scope` counts before annotations, also when it says strict.
fn scope_of(secret: &Secret, rules: &Rules) -> Scope {
    rules.scope.unwrap_or_else(|| Scope::from_annotations(secret.annotations()))
}

/// Makes the annotations, which go into the template, say what `--scope` said.
pub fn mark(secret: &mut Secret, scope: Scope) {
    let annotations = secret.annotations_mut();
    annotations.retain(|key, _| key != scope::NAMESPACE_WIDE && key != scope::CLUSTER_WIDE);
    annotations.extend(scope.annotation().map(|key| (key.to_owned(), "true".to_owned())));
}

/// In a manifest an empty text is none.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(text: &str, rules: &Rules, implicit: Option<&str>) -> Result<(ClearSecret, Scope), DocumentError> {
        settle(manifest::secrets(text).remove(0).object.unwrap(), rules, implicit)
    }

    fn scoped(scope: Scope) -> Rules {
        Rules { scope: Some(scope), ..Rules::default() }
    }

    const PLAIN: &str = "{kind: Secret, metadata: {name: db, namespace: shop}, stringData: {a: b}}";
    const HOMELESS: &str = "{kind: Secret, metadata: {name: db}, stringData: {a: b}}";
    const WIDE: &str = "{kind: Secret, metadata: {name: db, namespace: shop, annotations: {sealedsecrets.bitnami.com/cluster-wide: 'true', a: b}}, stringData: {a: b}}";

    #[test]
    fn the_flag_counts_before_the_annotation() {
        for (text, rules, scope, left) in [
            (PLAIN, Rules::default(), Scope::Strict, vec![]),
            (WIDE, Rules::default(), Scope::ClusterWide, vec!["a", scope::CLUSTER_WIDE]),
            (WIDE, scoped(Scope::NamespaceWide), Scope::NamespaceWide, vec!["a", scope::NAMESPACE_WIDE]),
            (WIDE, scoped(Scope::Strict), Scope::Strict, vec!["a"]),
            (PLAIN, scoped(Scope::ClusterWide), Scope::ClusterWide, vec![scope::CLUSTER_WIDE]),
        ] {
            let (secret, found) = settled(text, &rules, None).unwrap();
            let keys: Vec<&str> = secret.expose().annotations().keys().map(String::as_str).collect();
            assert_eq!((found, keys), (scope, left), "{text} {rules:?}");
        }
    }

    #[test]
    fn the_namespace_is_the_inputs_then_the_flags_then_the_contexts() {
        let flag = |namespace: &str| Rules { namespace: Some(namespace.to_owned()), ..Rules::default() };
        let namespace = |text, rules: &Rules, implicit| {
            settled(text, rules, implicit).map(|(secret, _)| secret.expose().namespace().unwrap_or_default())
        };
        assert_eq!(namespace(PLAIN, &Rules::default(), Some("context")).unwrap(), "shop");
        assert_eq!(namespace(PLAIN, &flag("shop"), None).unwrap(), "shop");
        assert_eq!(namespace(HOMELESS, &flag("shop"), Some("context")).unwrap(), "shop");
        assert_eq!(namespace(HOMELESS, &Rules::default(), Some("context")).unwrap(), "context");
        assert_eq!(namespace(HOMELESS, &scoped(Scope::ClusterWide), Some("context")).unwrap(), "");
        assert!(matches!(namespace(HOMELESS, &Rules::default(), None), Err(DocumentError::NoNamespace)));
        assert_eq!(
            namespace(PLAIN, &flag("bank"), None).unwrap_err().to_string(),
            "namespace mismatch: input secret is in namespace \"shop\" but \"bank\" was specified"
        );
        assert_eq!(namespace(WIDE, &flag("bank"), None).unwrap(), "shop", "it opens in any");
    }

    #[test]
    fn a_kubeconfig_is_asked_only_for_a_secret_that_needs_it() {
        let wants = |text, rules: &Rules| wants_namespace(manifest::secrets(text)[0].object.as_ref().unwrap(), rules);
        assert!(wants(HOMELESS, &Rules::default()));
        assert!(!wants(PLAIN, &Rules::default()));
        assert!(!wants(HOMELESS, &Rules { namespace: Some("shop".to_owned()), ..Rules::default() }));
        assert!(!wants(HOMELESS, &scoped(Scope::ClusterWide)));
    }

    #[test]
    fn a_name_can_come_from_the_flag() {
        let nameless = "{kind: Secret, metadata: {namespace: shop}, stringData: {a: b}}";
        let named = Rules { name: Some("db".to_owned()), ..Rules::default() };
        assert_eq!(settled(nameless, &named, None).unwrap().0.expose().name_any(), "db");
        assert!(matches!(settled(nameless, &Rules::default(), None), Err(DocumentError::Seal(SealError::NoName))));
    }

    #[test]
    fn empty_data_needs_a_word() {
        let empty = "{kind: Secret, metadata: {name: db, namespace: shop}, data: {}}";
        assert!(matches!(settled(empty, &Rules::default(), None), Err(DocumentError::Empty)));
        assert!(settled(empty, &Rules { allow_empty_data: true, ..Rules::default() }, None).is_ok());
    }
}
