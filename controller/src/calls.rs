//! Calls to the API server, bounded in time, and what their refusals mean. Decides nothing.

use std::time::Duration;

use axum::http::{Request, header::CONTENT_TYPE};
use crds::{GitSync, git_sync::RECONCILE_REQUESTED};
use futures::{
    future::BoxFuture,
    stream::{self, BufferUnordered, StreamExt as _},
};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::watcher,
};
use serde::Serialize;
use serde_json::json;

use crate::{
    context::{FIELD_MANAGER, chain},
    pulse,
};

/// Longest wait for one answer of the API server. It answers within a second or is in trouble.
const CALL: Duration = Duration::from_secs(30);

/// Calls of one sync under way at once.
const CONCURRENCY: usize = 16;

/// What it says of a field that a definition does not have.
const UNDECLARED: &str = "field not declared in schema";

/// Work of which [`CONCURRENCY`] is under way at once. What waits is not made yet: each piece takes some KiB.
pub type Concurrent<'a, T> = BufferUnordered<stream::Iter<Box<dyn Iterator<Item = BoxFuture<'a, T>> + Send + 'a>>>;

/// See [`Concurrent`]. Results come as they are there.
pub fn concurrently<'a, T>(work: impl Iterator<Item = BoxFuture<'a, T>> + Send + 'a) -> Concurrent<'a, T> {
    let work: Box<dyn Iterator<Item = _> + Send + 'a> = Box::new(work);
    stream::iter(work).buffer_unordered(CONCURRENCY)
}

/// Has a GitSync look at Git: the request stands on it, where the replica that leads sees it.
pub async fn call(client: &Client, (namespace, name): (&str, &str), request: &str) -> Result<(), CallError> {
    let api: Api<PartialObjectMeta<GitSync>> = Api::namespaced(client.clone(), namespace);
    let asked = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: request}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    bounded(api.patch_metadata(name, &params, &Patch::Merge(&asked))).await.map(drop)
}

/// A call to the API server that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It said no, or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// It did not say anything.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl CallError {
    /// HTTP status of the answer; `None` if there was none.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Somebody else was faster, or owns the field.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// No such object, or no such kind.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// It is not as its definition wants it.
    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// A well-considered no: the same request would be refused again.
    pub fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| (400..500).contains(&code) && ![408, 429].contains(&code))
    }
}

/// Awaits one call, but not for ever.
pub async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    within(CALL, call).await
}

/// Awaits one call for so long.
pub async fn within<T>(time: Duration, call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    let answer = tokio::time::timeout(time, call).await;
    pulse::beat();
    answer.map_err(|_| CallError::Timeout(time))?.map_err(CallError::Api)
}

/// Writes a status whole, and only to the very object that it is about. One that is gone needs none.
pub async fn write_status<K>(client: &Client, about: &K, status: &impl Serialize) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api: Api<PartialObjectMeta<K>> =
        Api::namespaced(client.clone(), about.meta().namespace.as_deref().unwrap_or_default());
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"uid": about.meta().uid},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let name = about.meta().name.as_deref().unwrap_or_default();
    let written = match bounded(api.patch_status(name, &params, &Patch::Apply(body))).await {
        Err(error) if chain(&error).contains(UNDECLARED) => replace_status(client, about, status).await,
        written => written.map(drop),
    };
    written.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}

/// Under a definition that is older than we are: it takes no apply that names a field of which it does not know, and of
/// what is written otherwise it keeps the rest.
async fn replace_status<K>(client: &Client, about: &K, status: &impl Serialize) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": about.meta().uid},
        {"op": "add", "path": "/status", "value": status},
    ]);
    let (namespace, name) = (about.meta().namespace.as_deref(), about.meta().name.as_deref().unwrap_or_default());
    let url = format!("{}/{name}/status?fieldManager={FIELD_MANAGER}", K::url_path(&(), namespace));
    let request =
        Request::patch(url).header(CONTENT_TYPE, "application/json-patch+json").body(patch.to_string().into());
    let request =
        request.map_err(|error| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error)))?;
    bounded(client.request::<PartialObjectMeta<K>>(request)).await.map(drop)
}

/// What a watch brings, with its errors logged: it goes on by itself.
pub fn logged<T>(what: &str, event: watcher::Result<T>) -> Option<T> {
    event.inspect_err(|error| tracing::warn!(error = chain(error), "cannot watch {what}; trying again")).ok()
}
