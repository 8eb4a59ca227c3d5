//! `seal sync tree`: what is in the cluster because of a GitSync, and how it fares, by the rules of the controller.

use std::collections::{BTreeMap, BTreeSet};

use crds::sync::{
    health::{Health, has_health, health},
    kinds::Kinds,
    object::ObjectId,
};
use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::Value;

use super::{Site, painted, status::told};
use crate::{
    cluster::{Cluster, ClusterError},
    commands::keys::write,
    exit::{Error, Exit},
    io::Io,
    table::{CYAN, DIM, GREEN, RED},
    verbs::sync::Show,
    verdict::Verdict,
};

/// Requests under way at once.
const CONCURRENCY: usize = 8;

/// How an object fares, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
enum Fares {
    Healthy,
    Progressing,
    Degraded,
    Missing,
    /// It may not be read.
    Hidden,
}

#[derive(Debug, Serialize)]
struct Object {
    namespace: String,
    kind: String,
    group: String,
    version: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Fares>,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    git_sync: Verdict,
    inventory: Vec<Object>,
}

/// Objects of a kind in a namespace by name; `None` if they may not be read.
type Found = Option<BTreeMap<String, Value>>;
/// Group, version, kind and namespace.
type Shelf = (String, String, String, String);

pub async fn run(command: Show, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Show { which, output } = command;
    let site = Site::at(which.at).await?;
    let key = site.key(&which.name)?;
    let sync = site.cluster.git_sync(&key.0, &key.1).await?;
    let git_sync = Verdict::of(&sync);
    let status = sync.status.unwrap_or_default();
    let objects = status.inventory.unwrap_or_default().objects;
    let shelf = |(id, version): (&ObjectId, &String)| {
        (id.group.clone(), version.clone(), id.kind.clone(), id.namespace.clone())
    };
    let shelves: BTreeSet<Shelf> = objects.iter().filter(|(id, _)| has_health(id)).map(shelf).collect();
    // Of another cluster nothing can be told from here.
    let found = if shelves.is_empty() || status.cluster.is_some() {
        BTreeMap::new()
    } else {
        look(&site.cluster, &key, shelves).await?
    };
    let mut inventory: Vec<Object> = objects
        .into_iter()
        .map(|(id, version)| {
            let (health, why) = match found.get(&shelf((&id, &version))) {
                None => (None, String::new()),
                Some(None) => (Some(Fares::Hidden), "it may not be read".to_owned()),
                Some(Some(all)) => fares(&id, all.get(&id.name)),
            };
            let ObjectId { namespace, name, group, kind } = id;
            Object { namespace, kind, group, version, name, health, why }
        })
        .collect();
    inventory.sort_by(|a, b| (&a.namespace, &a.kind, &a.name).cmp(&(&b.namespace, &b.kind, &b.name)));
    let report = Report { git_sync, inventory };
    let coloured = io.colour_stdout;
    let head = told(&report.git_sync, io.now, coloured);
    write(&report, || head + &text(&report.inventory, coloured), output, io)?;
    Ok(Exit::Ok)
}

/// One list for each kind and namespace, of what carries the GitSync's labels.
async fn look(
    cluster: &Cluster,
    key: &(String, String),
    shelves: BTreeSet<Shelf>,
) -> Result<BTreeMap<Shelf, Found>, Error> {
    let kinds = cluster.kinds().await?;
    let lists = shelves.into_iter().map(|shelf| list(cluster, &kinds, key, shelf));
    let found: Vec<Result<(Shelf, Found), ClusterError>> =
        stream::iter(lists).buffer_unordered(CONCURRENCY).collect().await;
    Ok(found.into_iter().collect::<Result<_, _>>()?)
}

async fn list(
    cluster: &Cluster,
    kinds: &Kinds,
    key: &(String, String),
    shelf: Shelf,
) -> Result<(Shelf, Found), ClusterError> {
    // With its definition went the objects.
    let Some(kind) = kinds.find(&shelf.0, &shelf.1, &shelf.2) else { return Ok((shelf, Some(BTreeMap::new()))) };
    let found = match cluster.objects_of((&key.0, &key.1), kind, &shelf.3).await {
        Ok(found) => found,
        Err(error) if error.is_hidden() => return Ok((shelf, None)),
        Err(error) => return Err(error),
    };
    let named = |object: Value| Some((object["metadata"]["name"].as_str()?.to_owned(), object));
    let found = found.into_iter().filter_map(named).collect();
    Ok((shelf, Some(found)))
}

fn fares(id: &ObjectId, object: Option<&Value>) -> (Option<Fares>, String) {
    let Some(object) = object else { return (Some(Fares::Missing), "it is not there, or lost its labels".to_owned()) };
    match health(&id.group, object) {
        Health::Healthy => (Some(Fares::Healthy), String::new()),
        Health::Progressing(why) => (Some(Fares::Progressing), why),
        Health::Degraded(why) => (Some(Fares::Degraded), why),
    }
}

fn text(objects: &[Object], coloured: bool) -> String {
    let mut namespaces: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    objects.iter().for_each(|object| namespaces.entry(&object.namespace).or_default().push(object));
    let mut text = String::new();
    let last = namespaces.len().saturating_sub(1);
    for (number, (namespace, objects)) in namespaces.into_iter().enumerate() {
        let (branch, trunk) = if number == last { ("└─", "  ") } else { ("├─", "│ ") };
        let name = if namespace.is_empty() { "(in no namespace)" } else { namespace };
        text.extend([format!("{branch} {name}\n")]);
        let last = objects.len().saturating_sub(1);
        for (number, Object { kind, name, health, why, .. }) in objects.into_iter().enumerate() {
            let branch = if number == last { "└─" } else { "├─" };
            let fares = health.map(|health| format!("  {}", painted(&health.to_string(), colour(health), coloured)));
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            text.extend([format!("{trunk} {branch} {kind} {name}{}{why}\n", fares.unwrap_or_default())]);
        }
    }
    text
}

fn colour(fares: Fares) -> &'static str {
    match fares {
        Fares::Healthy => GREEN,
        Fares::Progressing => CYAN,
        Fares::Degraded | Fares::Missing => RED,
        Fares::Hidden => DIM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_hang_below_their_namespace() {
        let object = |namespace: &str, kind: &str, name: &str, health, why: &str| Object {
            namespace: namespace.to_owned(),
            kind: kind.to_owned(),
            group: String::new(),
            version: "v1".to_owned(),
            name: name.to_owned(),
            health,
            why: why.to_owned(),
        };
        let objects = [
            object("", "Namespace", "shop", None, ""),
            object("shop", "ConfigMap", "a", None, ""),
            object("shop", "Deployment", "web", Some(Fares::Progressing), "readyReplicas is 0 of 2"),
            object("shop", "Job", "db", Some(Fares::Healthy), ""),
        ];
        let expected = "\
├─ (in no namespace)
│  └─ Namespace shop
└─ shop
   ├─ ConfigMap a
   ├─ Deployment web  progressing: readyReplicas is 0 of 2
   └─ Job db  healthy
";
        assert_eq!(text(&objects, false), expected);
    }
}
