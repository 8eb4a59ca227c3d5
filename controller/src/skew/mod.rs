//! Whether the definitions in the cluster are those that this controller was made for. The API server drops fields that a
//! definition does not have, and says nothing; and what is newer than us we overlook. Both work, and somebody has to say
//! so. Looks when the controller starts, and must not hold that up.

mod fields;

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use axum::http::Request;
use crds::GitSync;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Client, Resource as _};
use serde_json::Value;

use self::fields::{Published, Schema, Skew};
use crate::{calls::bounded, context::chain};

/// What the API server publishes follows a changed definition within seconds. A look at once may see what was there before,
/// and find that it is ours; and one that finds something may still come too early.
const WAITS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(5)];

/// Looks at each definition that is needed, and says what it found.
pub async fn look(client: Client, follows: bool) {
    let is_needed = |definition: &CustomResourceDefinition| follows || definition.spec.names.kind != GitSync::kind(&());
    for definition in crds::definitions().into_iter().filter(is_needed) {
        let name = definition.metadata.name.as_deref().unwrap_or_default();
        match settled(&client, &definition).await {
            Ok(skew) => tell(name, &skew),
            Err(error) => tracing::debug!(definition = name, error = %chain(&*error), "cannot look at a definition"),
        }
    }
}

fn tell(definition: &str, skew: &Skew) {
    let list = |fields: &BTreeSet<String>| fields.iter().cloned().collect::<Vec<_>>().join(", ");
    if !skew.dropped.is_empty() {
        let fields = list(&skew.dropped);
        tracing::warn!(
            definition,
            fields,
            "the definition is older than this controller, and the API server drops these fields: apply crds/crds.yaml of \
             this version"
        );
    }
    if !skew.overlooked.is_empty() {
        let fields = list(&skew.overlooked);
        tracing::warn!(
            definition,
            fields,
            "the definition is newer than this controller, which overlooks these fields"
        );
    }
}

/// What differs, and goes on doing so.
async fn settled(client: &Client, definition: &CustomResourceDefinition) -> anyhow::Result<Skew> {
    let mut last = Ok(Skew::default());
    for wait in WAITS {
        tokio::time::sleep(wait).await;
        last = seen(client, definition).await;
        if last.as_ref().is_ok_and(Skew::is_none) {
            break;
        }
    }
    last
}

async fn seen(client: &Client, definition: &CustomResourceDefinition) -> anyhow::Result<Skew> {
    let spec = &definition.spec;
    let version = &spec.versions.first().context("a definition without a version")?.name;
    let published = Request::get(format!("/openapi/v3/apis/{}/{version}", spec.group)).body(Vec::new())?;
    let published: Published = bounded(client.request(published)).await?;
    let group: Vec<&str> = spec.group.split('.').rev().collect();
    let name = format!("{}.{version}.{}", group.join("."), spec.names.kind);
    let served = published.schema(&name).with_context(|| format!("nothing is published of {name}"))?;
    let ours: Schema = serde_json::from_value(own(definition)?)?;
    Ok(Skew::between(&ours, served))
}

/// The schema of a definition of ours.
fn own(definition: &CustomResourceDefinition) -> anyhow::Result<Value> {
    let version = definition.spec.versions.first();
    let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    Ok(serde_json::to_value(schema.context("a definition without a schema")?)?)
}
