//! The requests by which a Secret is made, changed and made anew. Each is on the very Secret that was decided about, and
//! none takes what is somebody else's; what is wanted is decided elsewhere.

use crds::unseal::ClearSecret;
use http::{HeaderValue, header::ACCEPT};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{PartialObjectMeta, Request},
};
use serde_json::json;

use super::{adopt, decide::LiveSecret};
use crate::{
    calls::{CallError, bounded},
    context::FIELD_MANAGER,
};

/// What was just written need not come back whole.
const METADATA_ONLY: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// The metadata of one object, by the right to list.
pub(super) async fn one<K>(api: &Api<K>, name: &str) -> Result<Option<PartialObjectMeta<K>>, CallError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(bounded(api.list_metadata(&by_name)).await?.items.into_iter().next())
}

/// Makes a Secret where there is none; one of that name is left alone. Costs the API server half of what applying it
/// does, so what it is later made of is [`adopt`]ed first.
pub(super) async fn create(client: &Client, secret: &ClearSecret) -> Result<PartialObjectMeta<Secret>, CallError> {
    let namespace = secret.expose().metadata.namespace.as_deref();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let bytes = serde_json::to_vec(secret.expose()).map_err(kube::Error::SerdeError)?;
    let request = Request::new(Secret::url_path(&(), namespace)).create(&params, bytes);
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(ACCEPT, METADATA_ONLY);
    bounded(client.request(request)).await
}

async fn apply(api: &Api<Secret>, name: &str, secret: &ClearSecret) -> Result<PartialObjectMeta<Secret>, CallError> {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    bounded(api.patch_metadata(name, &params, &Patch::Apply(secret.expose()))).await
}

/// Makes a Secret that is there ours. Unless it is only to be added to, items that others put in go. `changed` says so
/// of a Secret that is no longer as it was, whatever comes next.
pub(super) async fn update(
    api: &Api<Secret>,
    name: &str,
    clear: &mut ClearSecret,
    live: &LiveSecret,
    changed: &mut bool,
) -> Result<PartialObjectMeta<Secret>, CallError> {
    let adopted = if live.created { adopt(api, name, live).await? } else { None };
    *changed = adopted.is_some();
    let live = adopted.as_ref().unwrap_or(live);
    let mut resource_version = live.resource_version.clone();
    if let Some(without) = take_out(api, name, clear, live).await? {
        *changed = true;
        resource_version = without.resource_version().unwrap_or_default();
    }
    let metadata = &mut clear.expose_mut().metadata;
    if live.patch && !live.managed {
        metadata.owner_references = None;
    }
    let ours = metadata.owner_references.iter().flatten().map(|owner| owner.uid.as_str()).next();
    if ours.is_some() && live.owner.is_some() && live.owner.as_deref() != ours {
        resource_version = free(api, name, live, resource_version).await?;
    }
    metadata.uid = Some(live.uid.clone());
    metadata.resource_version = Some(resource_version);
    let applied = apply(api, name, clear).await?;
    // Of one that no record says who wrote what of, as of old, there is one now.
    Ok(take_out(api, name, clear, &(&applied).into()).await?.unwrap_or(applied))
}

/// Takes out the items that others put in, unless the Secret is only to be added to. None where there are none.
async fn take_out(
    api: &Api<Secret>,
    name: &str,
    clear: &ClearSecret,
    live: &LiveSecret,
) -> Result<Option<PartialObjectMeta<Secret>>, CallError> {
    let is_wanted = |item: &&String| clear.expose().data.iter().flatten().any(|(wanted, _)| wanted == *item);
    let strange =
        live.foreign.iter().filter(|item| !is_wanted(item)).map(|item| (item.clone(), serde_json::Value::Null));
    let strange: serde_json::Map<_, _> = strange.collect();
    if live.patch || strange.is_empty() {
        return Ok(None);
    }
    let version = json!({"uid": live.uid, "resourceVersion": live.resource_version});
    let removal = Patch::Merge(json!({"metadata": version, "data": strange}));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    Ok(Some(bounded(api.patch_metadata(name, &params, &removal)).await?))
}

/// Takes away the owner that has controlled a Secret until now: there can be one only. Answers its new version.
async fn free(api: &Api<Secret>, name: &str, live: &LiveSecret, resource_version: String) -> Result<String, CallError> {
    let Some(secret) = one(api, name).await? else { return Ok(resource_version) };
    let others: Vec<_> = secret.owner_references().iter().filter(|owner| owner.controller != Some(true)).collect();
    let metadata = json!({"uid": live.uid, "resourceVersion": resource_version, "ownerReferences": others});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let freed = bounded(api.patch_metadata(name, &params, &Patch::Merge(json!({ "metadata": metadata })))).await?;
    Ok(freed.resource_version().unwrap_or_default())
}

/// Makes what was created of a Secret applied by us. None where it is no longer the Secret that was seen.
async fn adopt(api: &Api<Secret>, name: &str, live: &LiveSecret) -> Result<Option<LiveSecret>, CallError> {
    let Some(secret) = one(api, name).await? else { return Ok(None) };
    let seen =
        secret.uid().as_ref() == Some(&live.uid) && secret.resource_version().as_ref() == Some(&live.resource_version);
    let entries = adopt::adopted(secret.managed_fields(), live.owner.as_deref());
    let Some(entries) = entries.filter(|_| seen) else { return Ok(None) };
    let metadata = json!({"uid": live.uid, "resourceVersion": live.resource_version, "managedFields": entries});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = bounded(api.patch_metadata(name, &params, &Patch::Merge(json!({ "metadata": metadata })))).await?;
    Ok(Some((&written).into()))
}

/// Deletes a Secret, says so, and makes it anew; not before a new one has been found acceptable, under another name.
pub(super) async fn replace(
    client: &Client,
    api: &Api<Secret>,
    name: &str,
    clear: &mut ClearSecret,
    live: &LiveSecret,
    deleted: impl FnOnce(),
) -> Result<PartialObjectMeta<Secret>, CallError> {
    let metadata = &mut clear.expose_mut().metadata;
    (metadata.uid, metadata.resource_version) = (None, None);
    (metadata.name, metadata.generate_name) = (None, Some(format!("{name}-")));
    let trial = PostParams { dry_run: true, field_manager: Some(FIELD_MANAGER.to_owned()) };
    bounded(api.create(&trial, clear.expose())).await.map(ClearSecret::new).map(drop)?;
    let metadata = &mut clear.expose_mut().metadata;
    (metadata.name, metadata.generate_name) = (Some(name.to_owned()), None);
    let preconditions =
        Some(Preconditions { uid: Some(live.uid.clone()), resource_version: Some(live.resource_version.clone()) });
    bounded(api.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() })).await?;
    deleted();
    create(client, clear).await
}
