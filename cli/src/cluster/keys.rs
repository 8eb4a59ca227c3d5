//! Key Secrets and what depends on them, by the rights of whoever asks: see `deploy/keys-operator`. What comes from the
//! API server holds private keys, and is wiped when it is dropped.

use crds::{
    SealedSecret,
    key_life::REPLACE,
    key_secret::{ACTIVE, DEFAULT_PREFIX, LABEL},
    seal::LEAKING_ANNOTATIONS,
    unseal::ClearSecret,
};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::{DeserializeGuard, ObjectMeta},
};
use serde_json::{Value, json};

use super::{Cluster, ClusterError};

/// SealedSecrets are large: they come in pages of this many.
const PAGE: u32 = 100;

impl Cluster {
    /// The key Secrets of a namespace, whatever their state, and the unlabelled one of upstream's oldest versions.
    pub async fn key_secrets(&self, namespace: &str) -> Result<Vec<ClearSecret>, ClusterError> {
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let failed = |source| ClusterError::Keys { namespace: namespace.to_owned(), source };
        let labelled = ListParams::default().labels(LABEL);
        let legacy =
            ListParams::default().labels(&format!("!{LABEL}")).fields(&format!("metadata.name={DEFAULT_PREFIX}"));
        let mut found = self.within(api.list(&labelled)).await.map_err(failed)?.items;
        found.extend(self.within(api.list(&legacy)).await.map_err(failed)?.items);
        Ok(found.into_iter().map(ClearSecret::new).collect())
    }

    /// Changes the metadata of a key Secret, if it is still the one that was seen.
    pub async fn mark_key(
        &self,
        namespace: &str,
        seen: &ObjectMeta,
        mut patch: Value,
        dry_run: bool,
    ) -> Result<(), ClusterError> {
        patch["metadata"]["uid"] = json!(seen.uid);
        patch["metadata"]["resourceVersion"] = json!(seen.resource_version);
        let name = seen.name.clone().unwrap_or_default();
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let params = PatchParams { dry_run, field_manager: Some("seal".to_owned()), ..PatchParams::default() };
        let written = self.within(api.patch_metadata(&name, &params, &Patch::Merge(patch))).await;
        written.map(drop).map_err(|source| ClusterError::Mark { namespace: namespace.to_owned(), name, source })
    }

    /// Makes a key Secret as it is in a backup, under another name if need be; answers its name.
    pub async fn make_key(
        &self,
        key: &ClearSecret,
        namespace: &str,
        rename: bool,
        dry_run: bool,
    ) -> Result<String, ClusterError> {
        let Secret { metadata, data, string_data, type_, immutable } = key.expose();
        let ObjectMeta { name, labels, annotations, .. } = metadata.clone();
        let (mut labels, mut annotations) = (labels.unwrap_or_default(), annotations.unwrap_or_default());
        // A request to replace it is from another time.
        annotations.retain(|key, _| !LEAKING_ANNOTATIONS.contains(&key.as_str()) && key != REPLACE);
        if rename {
            // The oldest ones have no label: they are found by their name.
            labels.entry(LABEL.to_owned()).or_insert_with(|| ACTIVE.to_owned());
        }
        let secret = ClearSecret::new(Secret {
            metadata: ObjectMeta {
                name: name.clone().filter(|_| !rename),
                generate_name: rename.then(|| DEFAULT_PREFIX.to_owned()),
                labels: Some(labels).filter(|labels| !labels.is_empty()),
                annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
                ..ObjectMeta::default()
            },
            data: data.clone(),
            string_data: string_data.clone(),
            type_: type_.clone(),
            immutable: *immutable,
        });
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let params = PostParams { dry_run, field_manager: Some("seal".to_owned()) };
        let made = self.within(api.create(&params, secret.expose())).await.map(ClearSecret::new);
        let failed =
            |source| ClusterError::MakeKey { namespace: namespace.to_owned(), name: name.unwrap_or_default(), source };
        Ok(made.map_err(failed)?.expose().name_any())
    }

    /// What no two clusters share: the UID of the namespace `kube-system`. `None` for whoever may not read it.
    pub async fn uid(&self) -> Result<Option<String>, ClusterError> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        match self.within(namespaces.get_metadata("kube-system")).await {
            Ok(namespace) => Ok(namespace.metadata.uid),
            Err(answer) if answer.is_forbidden() => Ok(None),
            Err(answer) => Err(ClusterError::Origin(answer)),
        }
    }

    /// Every SealedSecret. One that cannot be read is there too.
    pub async fn sealed_secrets(&self) -> Result<Vec<DeserializeGuard<SealedSecret>>, ClusterError> {
        let api = Api::<DeserializeGuard<SealedSecret>>::all(self.client.clone());
        let mut all = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = self.within(api.list(&page)).await.map_err(ClusterError::SealedSecrets);
            let list = list.map_err(|error| error.unless_undefined("SealedSecrets"))?;
            all.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
}
