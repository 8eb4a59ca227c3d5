//! `seal sync diff`: what Git, or a folder, would change in the cluster. The API server itself says what an object would
//! become, by an apply that is tried only.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    process::Stdio,
};

use crds::{
    GitSync,
    git_sync::{NAME_LABEL, NAMESPACE_LABEL},
    sync::{
        digest::digest,
        hook::Phase,
        ignore,
        kinds::Kinds,
        marks::marks,
        object::ObjectId,
        render::{Desired, Problem, SourceFile, definitions, documents},
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
    render::{self, Capabilities, RenderError},
    variables::{self, Values},
};
use crate::{
    cluster::{Cluster, ClusterError},
    delta::delta,
    exit::{self, Error, Exit},
    hidden::{self, Hidden, Path as Way},
    io::Io,
    output::{self, OutputError},
    table::{CYAN, GREEN, RED},
    verbs::{Report, sync::Diff},
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
    #[error("{failed} of {all} objects could not be compared")]
    Failed { failed: usize, all: usize },
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
    Run,
}

#[derive(Debug, Serialize)]
struct Difference {
    object: String,
    becomes: Becomes,
    /// Of a hook.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    phases: Vec<Phase>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    diff: String,
}

/// What came of one: a difference or none, or why nobody knows.
type Compared = Result<Option<Difference>, String>;

/// What a sync would make.
struct Wanted {
    desired: Vec<Desired>,
    /// Why others are not among them: what goes into them cannot be read.
    doubts: Vec<String>,
    /// How many those are.
    missing: usize,
    /// The same objects with something else in the place of secret values, where there are any.
    masked: Option<HashMap<ObjectId, Value>>,
}

pub async fn run(command: Diff, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Diff { which, local, revision, output, tools } = command;
    let site = Site::at(which.at).await?;
    let sync = site.find(&which.name).await?;
    if sync.spec.kube_config.is_some() {
        return Err(DiffError::Elsewhere.into());
    }
    let kinds = site.cluster.kinds().await?;
    let capabilities = Capabilities { version: Some(site.cluster.version().await?), apis: kinds.apis() };
    let files = if let Some(path) = local {
        render::files(Path::new(""), &path, &sync, &capabilities, &tools).await?
    } else {
        let clone = fetch(&sync, revision.as_deref()).await?;
        let path = PathBuf::from(sync.spec.path.trim_matches('/'));
        render::files(clone.path(), &path, &sync, &capabilities, &tools).await?
    };
    let values = variables::read(&site.cluster, &sync).await;
    let Wanted { desired, doubts, missing, masked } = wanted(&files, &values, &kinds, &sync)?;
    let known = kinds.clone().with_definitions(definitions(&desired));
    let sight = Sight { values: &values, masked: masked.as_ref() };
    let kept = desired.iter().filter(|object| object.marks.hook.is_none() && !object.marks.ignored);
    let applies = kept.map(|object| compare(&site.cluster, &kinds, object, sight));
    let mut compared: Vec<Compared> = stream::iter(applies).buffered(CONCURRENCY).try_collect().await?;
    if doubts.is_empty() {
        compared.extend(prunes(&site.cluster, &known, &sync, &desired, sight).await?);
    }
    let all = compared.len() + missing;
    let (mut found, mut failed, mut unknown) = (Vec::new(), missing, doubts);
    for one in compared {
        match one {
            Ok(difference) => found.extend(difference),
            Err(why) => {
                failed += 1;
                unknown.push(values.mask(&why));
            }
        }
    }
    let same = all - failed - found.len();
    if !found.is_empty() && !is_applied(&sync, &desired) {
        found.extend(hooks(&desired, sight)?);
    }
    let text = match output {
        Report::Text => text(&found, same, io.colour_stdout),
        Report::Json => serde_json::to_string_pretty(&found).map_err(OutputError::Json)? + "\n",
    };
    output::write(text.as_bytes(), None, io)?;
    if !unknown.is_empty() {
        unknown.iter().for_each(|why| io.error(why));
        for why in &values.unread {
            io.hint(&format!("{why}: what needs it cannot be compared, nor told what would be pruned"));
        }
        return Err(DiffError::Failed { failed, all }.into());
    }
    Ok(if found.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn wanted(files: &[SourceFile], values: &Values, kinds: &Kinds, sync: &GitSync) -> Result<Wanted, Error> {
    let mut read = documents(files, values.variables.as_ref());
    let doubts = if values.unread.is_empty() { Vec::new() } else { std::mem::take(&mut read.problems) };
    let missing = if doubts.is_empty() { 0 } else { documents(files, None).objects.len() - read.objects.len() };
    let masked = |problem: Problem| Problem { what: values.mask(&problem.what), ..problem };
    let desired = render::desired(&read, kinds, sync).map_err(|error| match error {
        RenderError::Problems(problems) => RenderError::Problems(problems.into_iter().map(masked).collect()),
        error => error,
    })?;
    let masked = values.variables.as_ref().filter(|variables| variables.are_secret()).map(|variables| {
        let mut read = documents(files, Some(&variables.masked()));
        read.problems.clear();
        // Where a name is a secret it may be somebody else's: then nothing is shown.
        let objects = render::desired(&read, kinds, sync).unwrap_or_default();
        objects.into_iter().map(|object| (object.id, object.body.value())).collect()
    });
    Ok(Wanted { desired, doubts: doubts.iter().map(ToString::to_string).collect(), missing, masked })
}

/// What of objects may be seen.
#[derive(Clone, Copy)]
struct Sight<'a> {
    values: &'a Values,
    masked: Option<&'a HashMap<ObjectId, Value>>,
}

impl<'a> Sight<'a> {
    fn hidden(self, object: Option<&Desired>) -> Hidden<'a> {
        let paths = |(object, masked): (&Desired, &HashMap<ObjectId, Value>)| match masked.get(&object.id) {
            Some(masked) => hidden::paths(&object.body.value(), masked),
            None => vec![Way::new()],
        };
        Hidden {
            paths: object.zip(self.masked).map(paths).unwrap_or_default(),
            variables: self.values.variables.as_ref(),
        }
    }

    fn difference(
        self,
        object: Result<&Desired, &ObjectId>,
        (live, after): (Option<&Value>, Option<&Value>),
        becomes: Becomes,
    ) -> Result<Option<Difference>, Error> {
        let id = object.map_or_else(|id| id, |object| &object.id);
        let name = self.values.mask(&id.to_string());
        let hidden = self.hidden(object.ok());
        let shown = delta(id, live, after, &hidden).map_err(|why| DiffError::Shown { object: name.clone(), why })?;
        let place = object.ok().map(|object| object.place.to_string());
        Ok(shown.map(|diff| Difference { object: name, becomes, phases: Vec::new(), place, diff }))
    }
}

/// Tries one. What the API server refuses is one object's trouble; what it cannot be asked is everybody's.
async fn compare(cluster: &Cluster, kinds: &Kinds, object: &Desired, sight: Sight<'_>) -> Result<Compared, Error> {
    let Desired { id, version, body, marks, place, ignored, .. } = object;
    let body = &body.value();
    let difference = |live: Option<&Value>, after: &Value| {
        let becomes = if live.is_some() { Becomes::Changed } else { Becomes::Created };
        sight.difference(Ok(object), (live, Some(after)), becomes)
    };
    // Its definition is among the objects: what it will be nobody can try.
    let Some(kind) = kinds.get(&id.group, version, &id.kind) else {
        return difference(None, body).map(Ok);
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
        Ok(tried) => difference(live.as_ref(), &tried).map(Ok),
        // It will be there before the object is: it is among them, or nothing would say so.
        Err(error) if live.is_none() && error.is_nowhere() => difference(None, body).map(Ok),
        Err(error @ ClusterError::Try { .. }) => Ok(Err(format!("{place}: {}", exit::chain(&error)))),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is what was applied whole last: what differs then was changed by others, and no hook runs for that.
fn is_applied(sync: &GitSync, desired: &[Desired]) -> bool {
    let last = sync.status.iter().flat_map(|status| &status.history).next();
    last.is_some_and(|last| last.digest == digest(desired, &[]))
}

/// What would be run, made anew each time.
fn hooks(desired: &[Desired], sight: Sight<'_>) -> Result<Vec<Difference>, Error> {
    let hooks = desired.iter().filter(|object| !object.marks.ignored);
    let hooks = hooks.filter_map(|object| Some((object, object.marks.hook?)));
    let run = hooks.map(|(object, hook)| {
        let run = sight.difference(Ok(object), (None, Some(&object.body.value())), Becomes::Run)?;
        Ok(run.map(|run| Difference { phases: hook.phases().collect(), ..run }))
    });
    run.filter_map(Result::transpose).collect()
}

/// What would be deleted, by the controller's rules.
async fn prunes(
    cluster: &Cluster,
    kinds: &Kinds,
    sync: &GitSync,
    desired: &[Desired],
    sight: Sight<'_>,
) -> Result<Vec<Compared>, Error> {
    let (namespace, name) = (sync.namespace().unwrap_or_default(), sync.name_any());
    let wanted: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
    let inventory = sync.status.iter().filter_map(|status| status.inventory.as_ref()).flat_map(|it| &it.objects);
    let leaving =
        inventory.filter(|_| sync.spec.prune).filter(|(id, _)| !wanted.contains(id) && !id.is_vital(&namespace));
    let mut found = Vec::new();
    for (id, version) in leaving {
        let Some(kind) = kinds.find(&id.group, version, &id.kind) else { continue };
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
        found.push(Ok(sight.difference(Err(id), (Some(&live), None), Becomes::Pruned)?));
    }
    Ok(found)
}

/// What tells Git in a hook which repository is meant. Its configuration may stand in variables as well: that is kept, for
/// the credentials in it.
const REPOSITORY: [&str; 9] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

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
        for variable in REPOSITORY {
            git.env_remove(variable);
        }
        let done = git.output().await.map_err(DiffError::Git)?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(failed(said.lines().last().unwrap_or_default().to_owned()));
        }
    }
    Ok(folder)
}

fn text(found: &[Difference], same: usize, coloured: bool) -> String {
    let mut text = String::new();
    for Difference { object, becomes, phases, place, diff } in found {
        let phases = phases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let phases = if phases.is_empty() { phases } else { format!(" in {phases}") };
        let place = place.as_ref().map(|place| format!(", {place}")).unwrap_or_default();
        text.extend([format!("{object}: {becomes}{phases}{place}\n")]);
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
    let [created, changed, pruned, run] =
        [Becomes::Created, Becomes::Changed, Becomes::Pruned, Becomes::Run].map(count);
    let run = if run == 0 { String::new() } else { format!("{run} run, ") };
    text + &format!("{created} created, {changed} changed, {pruned} pruned, {run}{same} as they are\n")
}
