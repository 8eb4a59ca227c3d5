//! Manifests into a cluster, by server-side apply, and whether what they made works.

use http::StatusCode;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta},
};
use serde_json::Value;

use super::{Cluster, ClusterError, Controller};

/// A Deployment that is not yet all that it should be.
#[derive(Debug)]
pub struct Unready {
    pub why: String,
    /// Of its Pods.
    pub image: String,
}

impl Cluster {
    /// Applies one object, and says which; what others have set of its fields is overruled.
    pub async fn apply(&self, object: &Value) -> Result<String, ClusterError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name, namespace) =
            (text(&object["kind"]), text(&object["metadata"]["name"]), text(&object["metadata"]["namespace"]));
        let place = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
        let what = format!("{kind} {place}");
        let types = TypeMeta { api_version: text(&object["apiVersion"]), kind };
        let kind = GroupVersionKind::try_from(types).map_err(|_| ClusterError::Name(what.clone()))?;
        let resource = ApiResource::from_gvk(&kind);
        let api = if namespace.is_empty() {
            Api::<DynamicObject>::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &namespace, &resource)
        };
        let params = PatchParams::apply("seal").force();
        match self.within(api.patch_metadata(&name, &params, &Patch::Apply(object))).await {
            Ok(_) => Ok(what),
            // The kinds are there: the API server's own, and those that were just defined.
            Err(source) if source.status() == Some(StatusCode::NOT_FOUND) && !namespace.is_empty() => {
                Err(ClusterError::NoNamespace { what, namespace, source })
            }
            Err(source) => Err(ClusterError::Apply { what, source }),
        }
    }

    /// Why a Deployment is not yet all that it should be, if it is not.
    pub async fn not_ready(&self, controller: &Controller) -> Result<Option<Unready>, ClusterError> {
        let Controller { namespace, name } = controller;
        let api = Api::<Deployment>::namespaced(self.client.clone(), namespace);
        let what = || format!("Deployment {namespace}/{name}");
        let deployment =
            self.within(api.get(name)).await.map_err(|source| ClusterError::Look { what: what(), source })?;
        let spec = deployment.spec.unwrap_or_default();
        let wanted = spec.replicas.unwrap_or(1);
        let containers = spec.template.spec.map(|pod| pod.containers).unwrap_or_default();
        let image = containers.into_iter().next().and_then(|container| container.image).unwrap_or_default();
        let status = deployment.status.unwrap_or_default();
        let seen = status.observed_generation >= deployment.metadata.generation;
        let (updated, available) =
            (status.updated_replicas.unwrap_or_default(), status.available_replicas.unwrap_or_default());
        let why = match () {
            () if !seen => Some("nobody has looked at the Deployment yet".to_owned()),
            () if updated < wanted => Some(format!("{updated} of {wanted} replicas are of this version")),
            () if available < wanted => Some(format!("{available} of {wanted} replicas are available")),
            () => None,
        };
        Ok(why.map(|why| Unready { why, image }))
    }
}
