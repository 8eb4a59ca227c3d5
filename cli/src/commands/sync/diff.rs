//! `seal sync diff`: what Git, or a folder, would change in the cluster. The API server itself says what an object would
//! become, by an apply that is tried only.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Stdio,
};

use crds::{
    GitSync,
    git_sync::{NAME_LABEL, NAMESPACE_LABEL},
    sync::{
        ignore,
        kinds::Kinds,
        marks::marks,
        object::ObjectId,
        render::{Desired, definitions},
    },
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::{
    Site, painted,
    render::{self, Capabilities},
};
use crate::{
    cluster::{Cluster, ClusterError},
    delta::delta,
    exit::{self, Error, Exit},
    io::Io,
    output::{self, OutputError},
    table::{CYAN, GREEN, RED},
    verbs::{
        Report,
        sync::{Diff, Tools},
    },
};

/// Requests under way at once.
const CONCURRENCY: usize = 8;

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("the GitSync has applied no revision yet")]
    NothingApplied,
    #[error("its objects are in another cluster, by spec.kubeConfig")]
    Elsewhere,
    #[error("{url:?} is no URL of a repository")]
    Url { url: String },
    #[error("cannot start git")]
    Git(#[source] std::io::Error),
    #[error("cannot make a folder for the repository")]
    Folder(#[source] std::io::Error),
    #[error("cannot fetch {commit} of {url}: {said}")]
    Fetch { commit: String, url: String, said: String },
    #[error("{} of {all} objects could not be compared", failed.len())]
    Failed { failed: Vec<String>, all: usize },
    #[error("{object} cannot be shown: {why}")]
    Shown { object: String, why: String },
}

impl DiffError {
    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::NothingApplied => Some("Compare a commit with --revision, or a folder with --local"),
            Self::Elsewhere => {
                Some("Compare what seal sync render makes, with kubectl diff and that cluster's kubeconfig")
            }
            Self::Git(_) | Self::Fetch { .. } => Some("Compare a clone of it instead: --local with its folder"),
            Self::Url { .. } | Self::Folder(_) | Self::Failed { .. } | Self::Shown { .. } => None,
        }
    }
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
enum Becomes {
    Created,
    Changed,
    Pruned,
}

#[derive(Debug, Serialize)]
struct Difference {
    object: String,
    becomes: Becomes,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    diff: String,
}

/// What came of one: a difference or none, or why nobody knows.
type Compared = Result<Option<Difference>, String>;

pub async fn run(command: Diff, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Diff { which, local, revision, output, tools } = command;
    let site = Site::at(which.at).await?;
    let sync = site.find(&which.name).await?;
    if sync.spec.kube_config.is_some() {
        return Err(DiffError::Elsewhere.into());
    }
    let kinds = site.cluster.kinds().await?;
    let desired = if let Some(path) = local {
        wanted(&site.cluster, Path::new(""), &path, &sync, &kinds, &tools).await?
    } else {
        let clone = fetch(&sync, revision.as_deref()).await?;
        let path = PathBuf::from(sync.spec.path.trim_matches('/'));
        wanted(&site.cluster, clone.path(), &path, &sync, &kinds, &tools).await?
    };
    let known = kinds.clone().with_definitions(definitions(&desired));
    let applies = desired.iter().map(|object| compare(&site.cluster, &kinds, object));
    let mut compared: Vec<Compared> = stream::iter(applies).buffered(CONCURRENCY).try_collect().await?;
    compared.extend(prunes(&site.cluster, &known, &sync, &desired).await?);
    let all = compared.len();
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for one in compared {
        match one {
            Ok(difference) => found.extend(difference),
            Err(why) => failed.push(why),
        }
    }
    let text = match output {
        Report::Text => text(&found, all - failed.len(), io.colour_stdout),
        Report::Json => serde_json::to_string_pretty(&found).map_err(OutputError::Json)? + "\n",
    };
    output::write(text.as_bytes(), None, io)?;
    if !failed.is_empty() {
        failed.iter().for_each(|why| io.error(why));
        return Err(DiffError::Failed { failed, all }.into());
    }
    Ok(if found.is_empty() { Exit::Ok } else { Exit::Failed })
}

async fn wanted(
    cluster: &Cluster,
    root: &Path,
    path: &Path,
    sync: &GitSync,
    kinds: &Kinds,
    tools: &Tools,
) -> Result<Vec<Desired>, Error> {
    let capabilities = Capabilities { version: Some(cluster.version().await?), apis: kinds.apis() };
    let read = render::folder(root, path, sync, &capabilities, tools).await?;
    Ok(render::desired(&read, kinds, sync)?)
}

/// Tries one. What the API server refuses is one object's trouble; what it cannot be asked is everybody's.
async fn compare(cluster: &Cluster, kinds: &Kinds, object: &Desired) -> Result<Compared, Error> {
    let Desired { id, version, body, marks, place, ignored, .. } = object;
    let body = &body.value();
    // A hook is run, not kept.
    if marks.ignored || marks.hook.is_some() {
        return Ok(Ok(None));
    }
    // Its definition is among the objects: what it will be nobody can try.
    let Some(kind) = kinds.get(&id.group, version, &id.kind) else {
        return difference(object, None, Some(body)).map(Ok);
    };
    let live = cluster.object(kind, id).await?;
    if live.is_some() && marks.once {
        return Ok(Ok(None));
    }
    let body = match &live {
        Some(live) => &ignore::payload(body.clone(), ignored, live),
        None => body,
    };
    match cluster.tried(kind, id, body).await {
        Ok(tried) => difference(object, live.as_ref(), Some(&tried)).map(Ok),
        // It will be there before the object is: it is among them, or nothing would say so.
        Err(error) if live.is_none() && error.is_nowhere() => difference(object, None, Some(body)).map(Ok),
        Err(error @ ClusterError::Try { .. }) => Ok(Err(format!("{place}: {}", exit::chain(&error)))),
        Err(error) => Err(error.into()),
    }
}

fn difference(object: &Desired, live: Option<&Value>, after: Option<&Value>) -> Result<Option<Difference>, Error> {
    let id = &object.id;
    let shown = delta(id, live, after).map_err(|why| DiffError::Shown { object: id.to_string(), why })?;
    let becomes = if live.is_some() { Becomes::Changed } else { Becomes::Created };
    let place = Some(object.place.to_string());
    Ok(shown.map(|diff| Difference { object: id.to_string(), becomes, place, diff }))
}

/// What would be deleted, by the controller's rules.
async fn prunes(cluster: &Cluster, kinds: &Kinds, sync: &GitSync, desired: &[Desired]) -> Result<Vec<Compared>, Error> {
    let (namespace, name) = (sync.namespace().unwrap_or_default(), sync.name_any());
    let wanted: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
    let inventory = sync.status.iter().filter_map(|status| status.inventory.as_ref()).flat_map(|it| &it.objects);
    let leaving =
        inventory.filter(|_| sync.spec.prune).filter(|(id, _)| !wanted.contains(id) && !id.is_vital(&namespace));
    let mut found = Vec::new();
    for (id, version) in leaving {
        let Some(kind) = kinds.get(&id.group, version, &id.kind) else { continue };
        let Some(live) = cluster.object(kind, id).await? else { continue };
        let texts = |field: &str| {
            let entries = live["metadata"][field].as_object().into_iter().flatten();
            entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        };
        let labels: std::collections::BTreeMap<String, String> = texts("labels");
        let is_ours = labels.get(NAMESPACE_LABEL) == Some(&namespace) && labels.get(NAME_LABEL) == Some(&name);
        if !is_ours || marks(&labels, &texts("annotations")).is_ok_and(|marks| marks.kept) {
            continue;
        }
        let object = id.to_string();
        let shown = delta(id, Some(&live), None).map_err(|why| DiffError::Shown { object: object.clone(), why })?;
        let pruned = |diff| Difference { object, becomes: Becomes::Pruned, place: None, diff };
        found.push(Ok(shown.map(pruned)));
    }
    Ok(found)
}

/// A commit of the repository, by the user's own git and so with the user's own credentials.
async fn fetch(sync: &GitSync, revision: Option<&str>) -> Result<TempDir, DiffError> {
    let url = sync.spec.source.url.clone();
    if !["https://", "http://", "ssh://", "file://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(DiffError::Url { url });
    }
    let applied = sync.status.as_ref().and_then(|status| status.last_applied_revision.as_deref());
    let applied = applied.map(|revision| revision.rsplit(':').next().unwrap_or(revision));
    let commit = revision.or(applied).ok_or(DiffError::NothingApplied)?.to_owned();
    let folder = tempfile::tempdir().map_err(DiffError::Folder)?;
    let failed = |said: String| DiffError::Fetch { commit: commit.clone(), url: url.clone(), said };
    for args in [
        vec!["init", "--quiet"],
        vec!["fetch", "--quiet", "--depth=1", "--no-tags", "--", &url, &commit],
        // A link could lead out of the folder: it becomes a file that says where to.
        vec!["-c", "core.symlinks=false", "-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD"],
    ] {
        let mut git = Command::new("git");
        git.args(args).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        let done = git.output().await.map_err(DiffError::Git)?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(failed(said.lines().last().unwrap_or_default().to_owned()));
        }
    }
    Ok(folder)
}

fn text(found: &[Difference], all: usize, coloured: bool) -> String {
    let mut text = String::new();
    for Difference { object, becomes, place, diff } in found {
        let place = place.as_ref().map(|place| format!(", {place}")).unwrap_or_default();
        text.extend([format!("{object}: {becomes}{place}\n")]);
        for line in diff.lines() {
            let colour = match line.as_bytes().first() {
                Some(b'+') => GREEN,
                Some(b'-') => RED,
                Some(b'@') => CYAN,
                _ => "",
            };
            text += &painted(line, colour, coloured && !colour.is_empty());
            text.push('\n');
        }
        text.push('\n');
    }
    let count = |wanted: Becomes| found.iter().filter(|it| it.becomes == wanted).count();
    let [created, changed, pruned] = [Becomes::Created, Becomes::Changed, Becomes::Pruned].map(count);
    text + &format!("{created} created, {changed} changed, {pruned} pruned, {} as they are\n", all - found.len())
}
