//! GitSyncs and what they apply, by the rights of whoever asks: see `deploy/sync-operator`. It changes nothing but the
//! annotations and `spec.suspend` of a GitSync: every other write is tried only.

use crds::{
    GitSync,
    git_sync::{NAME_LABEL, NAMESPACE_LABEL},
    sync::{
        FIELD_MANAGER,
        kinds::{Kind, Kinds},
        object::ObjectId,
    },
    unseal::ClearSecret,
};
use http::StatusCode;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Secret},
};
use kube::{
    Api, Discovery,
    api::{ListParams, Patch, PatchParams},
    core::{DeserializeGuard, DynamicObject},
    discovery::ApiCapabilities,
};
use serde_json::Value;

use super::{Answer, Cluster, ClusterError};
use crate::idle::LEASE;

/// As many at once: a list of large objects must not fill the memory.
const PAGE: u32 = 200;

impl Cluster {
    /// One GitSync.
    pub async fn git_sync(&self, namespace: &str, name: &str) -> Result<GitSync, ClusterError> {
        let api = Api::<GitSync>::namespaced(self.client.clone(), namespace);
        self.within(api.get(name)).await.map_err(|source| git_sync_error(namespace, name, source))
    }

    /// The same, also if it cannot be read.
    pub async fn any_git_sync(&self, namespace: &str, name: &str) -> Result<DeserializeGuard<GitSync>, ClusterError> {
        let api = Api::<DeserializeGuard<GitSync>>::namespaced(self.client.clone(), namespace);
        self.within(api.get(name)).await.map_err(|source| git_sync_error(namespace, name, source))
    }

    /// Those of one namespace, or all. One that cannot be read is there too.
    pub async fn git_syncs(&self, namespace: Option<&str>) -> Result<Vec<DeserializeGuard<GitSync>>, ClusterError> {
        let client = self.client.clone();
        let api = match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let found = self.within(api.list(&ListParams::default())).await.map_err(ClusterError::GitSyncs);
        Ok(found.map_err(|error| error.unless_undefined("GitSyncs"))?.items)
    }

    /// Changes one; how it is then. One that cannot be read is changed all the same.
    pub async fn change_git_sync(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<DeserializeGuard<GitSync>, ClusterError> {
        let api = Api::<DeserializeGuard<GitSync>>::namespaced(self.client.clone(), namespace);
        let params = PatchParams { field_manager: Some("seal".to_owned()), ..PatchParams::default() };
        let changed = self.within(api.patch(name, &params, &Patch::Merge(patch))).await;
        changed.map_err(|source| {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            ClusterError::ChangeGitSync { namespace, name, source }.unless_undefined("GitSyncs")
        })
    }

    /// The Lease of the controllers; `None` if there is none.
    pub async fn lease(&self, namespace: &str) -> Result<Option<Lease>, ClusterError> {
        let api = Api::<Lease>::namespaced(self.client.clone(), namespace);
        let object = || format!("the Lease {namespace}/{LEASE}");
        self.within(api.get_opt(LEASE)).await.map_err(|source| ClusterError::Object { object: object(), source })
    }

    /// What was told of one.
    pub async fn events_of(&self, namespace: &str, name: &str) -> Result<Vec<Event>, ClusterError> {
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let about = ListParams::default().fields(&format!("involvedObject.kind=GitSync,involvedObject.name={name}"));
        let found = self.within(api.list(&about)).await;
        Ok(found.map_err(|source| ClusterError::Events { namespace: namespace.to_owned(), source })?.items)
    }

    /// What the API server serves.
    pub async fn kinds(&self) -> Result<Kinds, ClusterError> {
        let discovery = self.within(Discovery::new(self.client.clone()).run_aggregated()).await;
        let discovery = discovery.map_err(ClusterError::Kinds)?;
        let versions = discovery.groups().flat_map(|group| group.versions().map(move |version| (group, version)));
        let resources = versions.flat_map(|(group, version)| group.versioned_resources(version));
        Ok(resources.map(|(resource, ApiCapabilities { scope, .. })| Kind { resource, scope }).collect())
    }

    /// Its version, such as `v1.36.3`.
    pub async fn version(&self) -> Result<String, ClusterError> {
        let version = self.within(self.client.apiserver_version()).await;
        Ok(version.map_err(ClusterError::Kinds)?.git_version)
    }

    /// An object; `None` if it is not there.
    pub async fn object(&self, kind: &Kind, id: &ObjectId) -> Result<Option<Value>, ClusterError> {
        let found = self.within(self.api(kind, &id.namespace).get_opt(&id.name)).await;
        let found = found.map_err(|source| ClusterError::Object { object: id.to_string(), source })?;
        Ok(found.and_then(|found| serde_json::to_value(found).ok()))
    }

    /// A ConfigMap; `None` if it is not there.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, ClusterError> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let object = || format!("the ConfigMap {namespace}/{name}");
        self.within(api.get_opt(name)).await.map_err(|source| ClusterError::Object { object: object(), source })
    }

    /// A Secret; `None` if it is not there.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<ClearSecret>, ClusterError> {
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let object = || format!("the Secret {namespace}/{name}");
        let found = self.within(api.get_opt(name)).await;
        let found = found.map_err(|source| ClusterError::Object { object: object(), source })?;
        Ok(found.map(ClearSecret::new))
    }

    /// The objects of a kind, and of a namespace if they live in one, that carry the labels of a GitSync.
    pub async fn objects_of(
        &self,
        sync: (&str, &str),
        kind: &Kind,
        namespace: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let api = self.api(kind, namespace);
        let labels = format!("{NAMESPACE_LABEL}={},{NAME_LABEL}={}", sync.0, sync.1);
        let mut page = ListParams::default().labels(&labels).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let found = self.within(api.list(&page)).await;
            let plural = kind.resource.plural.clone();
            let found = found.map_err(|source| ClusterError::Object { object: plural, source })?;
            let kind_of = |mut object: Value| {
                // A list does not repeat it.
                object["kind"] = kind.resource.kind.clone().into();
                object
            };
            all.extend(found.items.into_iter().filter_map(|object| serde_json::to_value(object).ok()).map(kind_of));
            match found.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// What an object would be if it were applied as the sync does. Changes nothing.
    pub async fn tried(&self, kind: &Kind, id: &ObjectId, body: &Value) -> Result<Value, ClusterError> {
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict().dry_run();
        let tried = self.within(self.api(kind, &id.namespace).patch(&id.name, &params, &Patch::Apply(body))).await;
        let failed = |source| ClusterError::Try { object: id.to_string(), source };
        let tried = tried.map_err(failed)?;
        serde_json::to_value(tried).map_err(|error| failed(Answer::of(kube::Error::SerdeError(error), &self.server)))
    }

    fn api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        Api::dynamic(self.client.clone(), &kind.resource, &kind.scope).constrain(namespace)
    }
}

fn git_sync_error(namespace: &str, name: &str, source: Answer) -> ClusterError {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    if source.status() == Some(StatusCode::NOT_FOUND) && !source.is_undefined() {
        return ClusterError::NoGitSync { namespace, name };
    }
    ClusterError::GitSync { namespace, name, source }.unless_undefined("GitSyncs")
}
