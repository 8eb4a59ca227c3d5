//! `seal sync render`: what a folder makes, by the user's own kustomize and helm, and by the controller's own rules for
//! all that comes after.

use std::{
    collections::BTreeSet,
    fs, io as stdio,
    path::{Path, PathBuf},
    process::Stdio,
};

use crds::{
    GitSync,
    git_sync::{GitSyncSpec, NAME_LABEL, NAMESPACE_LABEL, Renderer},
    sync::{
        choice::{choose, resolve},
        kinds::{Kind, Kinds},
        render::{Desired, Documents, Owner, Problem, SourceFile, documents, objects},
        substitute::Variables,
    },
};
use kube::{
    ResourceExt as _,
    core::{ApiResource, GroupVersionKind, discovery::Scope},
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::Site;
use crate::{
    cluster, command,
    exit::{Error, Exit},
    io::{Io, ReadError, read_file},
    output::{self, OutputError},
    verbs::sync::{Render, Tools},
};

/// Why a folder makes nothing.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("cannot start {}", program.display())]
    Start { program: PathBuf, source: stdio::Error },
    #[error("{} says: {said}", program.display())]
    Program { program: PathBuf, said: String },
    #[error("{} wrote what is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    #[error("{0} leads out of the repository; correct spec.path or spec.helm.valuesFiles")]
    Outside(String),
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: stdio::Error },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} holds no GitSync that can be read{}", path.display(), why.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoGitSync { path: PathBuf, why: Option<String> },
    #[error("nothing can be rendered while these are wrong:\n  {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Problems(Vec<Problem>),
}

impl RenderError {
    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Start { .. } => Some("Install it, or name it with --kustomize or --helm"),
            _ => None,
        }
    }
}

/// What charts are told of a cluster; nothing is what Helm takes by itself.
#[derive(Debug, Default)]
pub struct Capabilities {
    pub version: Option<String>,
    pub apis: BTreeSet<String>,
}

pub async fn run(command: Render, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Render { path, file, sync, kube_version, tools, at } = command;
    let (sync, served, capabilities) = match (file, sync) {
        (_, Some(name)) => {
            let site = Site::at(at).await?;
            let sync = site.find(&name).await?;
            let kinds = site.cluster.kinds().await?;
            let capabilities = Capabilities { version: Some(site.cluster.version().await?), apis: kinds.apis() };
            (Some(sync), Some(kinds), capabilities)
        }
        (file, None) => {
            let mut sync = file.map(|file| read(&file)).transpose()?;
            if let Some(sync) = sync.as_mut().filter(|sync| sync.namespace().is_none()) {
                let context = || Ok::<_, Error>(cluster::namespace(&command::access(at.connection)?)?);
                sync.metadata.namespace = match at.namespace {
                    Some(namespace) => Some(namespace),
                    None => context()?.map(|implicit| implicit.namespace).or_else(|| Some("default".to_owned())),
                };
            }
            (sync, None, Capabilities { version: kube_version, ..Capabilities::default() })
        }
    };
    let is_bare = sync.is_none();
    let sync = sync.unwrap_or_else(|| nobody(&path));
    let files = files(Path::new(""), &path, &sync, &capabilities, &tools).await?;
    // Those that a cluster holds are left as they stand.
    let read = documents(&files, Variables::of_spec(&sync.spec).as_ref());
    let kinds = served.unwrap_or_else(|| guessed(read.objects.iter().map(|(_, object)| object)));
    let mut text = String::new();
    for Desired { body, place, .. } in desired(&read, &kinds, &sync)? {
        let mut body = body.value();
        if is_bare {
            strip(&mut body);
        }
        let body = crds::yaml::to_string(&body).map_err(|error| OutputError::Yaml(error.to_string()))?;
        text.extend([format!("---\n# {place}\n{body}")]);
    }
    output::write(text.as_bytes(), None, io)?;
    Ok(Exit::Ok)
}

/// The objects of a GitSync, in the order in which they are applied.
pub fn desired(read: &Documents, kinds: &Kinds, sync: &GitSync) -> Result<Vec<Desired>, RenderError> {
    let (namespace, name) = (sync.namespace().unwrap_or_default(), sync.name_any());
    let kinds = kinds.clone().with_definitions(read.objects.iter().map(|(_, object)| object));
    let owner = Owner { namespace: &namespace, name: &name, spec: &sync.spec };
    objects(read, &kinds, owner).map_err(RenderError::Problems)
}

/// What `path`, seen from `root`, makes; variables are as they stand.
pub async fn files(
    root: &Path,
    path: &Path,
    sync: &GitSync,
    capabilities: &Capabilities,
    tools: &Tools,
) -> Result<Vec<SourceFile>, RenderError> {
    let files = sync.spec.helm.iter().flat_map(|helm| &helm.values_files);
    if let Some(path) = strays(root, path, files) {
        return Err(RenderError::Outside(path));
    }
    let place = root.join(path);
    let renderer = match sync.spec.renderer {
        Some(renderer) => renderer,
        None => choose(|name| Ok::<_, RenderError>(place.join(name).is_file()))?,
    };
    let (written, said) = match renderer {
        Renderer::Plain => {
            let mut files = Vec::new();
            find(root, path, &mut files)?;
            return Ok(files);
        }
        Renderer::Kustomize => {
            let mut kustomize = Command::new(&tools.kustomize);
            kustomize.arg("build").arg(if path.as_os_str().is_empty() { Path::new(".") } else { path });
            (run_in(root, kustomize, &tools.kustomize, "").await?, "kustomize build")
        }
        Renderer::Helm => {
            let values = sync.spec.helm.iter().find_map(|helm| helm.values.as_ref());
            let helm = template(path, sync, capabilities, &tools.helm);
            (run_in(root, helm, &tools.helm, &values.map(Value::to_string).unwrap_or_default()).await?, "helm template")
        }
    };
    Ok(vec![SourceFile { path: format!("{} ({said})", path.display()), text: Some(written) }])
}

/// A path that leads out of what is to be rendered: the GitSync may be somebody else's, and shows nothing of this machine.
/// In a folder of the user's own, not in a clone, nobody knows where the repository begins.
fn strays<'a>(root: &Path, path: &Path, mut files: impl Iterator<Item = &'a String>) -> Option<String> {
    let folder = path.to_string_lossy();
    if root.as_os_str().is_empty() {
        return files.find(|file| file.starts_with('/')).cloned();
    }
    if resolve("", &folder).is_none() {
        return Some(folder.into_owned());
    }
    files.find(|file| resolve(&folder, file).is_none()).cloned()
}

fn template(path: &Path, sync: &GitSync, capabilities: &Capabilities, program: &Path) -> Command {
    let helm = sync.spec.helm.clone().unwrap_or_default();
    let mut command = Command::new(program);
    command.args(["template", "--include-crds", "--skip-tests"]);
    let namespace = sync.spec.target_namespace.clone().or_else(|| sync.namespace());
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        command.arg("--namespace").arg(namespace);
    }
    if let Some(version) = &capabilities.version {
        command.arg("--kube-version").arg(version);
    }
    if !capabilities.apis.is_empty() {
        let apis: Vec<&str> = capabilities.apis.iter().map(String::as_str).collect();
        command.arg("--api-versions").arg(apis.join(","));
    }
    for file in &helm.values_files {
        command.arg("--values").arg(path.join(file));
    }
    if helm.values.is_some() {
        command.args(["--values", "-"]);
    }
    // What comes from a spec cannot be a flag.
    let chart = if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) };
    command.arg("--").arg(helm.release_name.unwrap_or_else(|| sync.name_any())).arg(chart);
    command
}

/// What a program writes, run where the repository begins.
async fn run_in(root: &Path, mut command: Command, program: &Path, stdin: &str) -> Result<String, RenderError> {
    if !root.as_os_str().is_empty() {
        command.current_dir(root);
    }
    let start = |source| RenderError::Start { program: program.to_owned(), source };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(start)?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that ends before it has read all of it says why itself.
        let _ = pipe.write_all(stdin.as_bytes()).await;
    }
    let done = child.wait_with_output().await.map_err(start)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().trim_start_matches("Error: ").to_owned();
        let said = if said.is_empty() { format!("nothing, and ended with {}", done.status) } else { said };
        return Err(RenderError::Program { program: program.to_owned(), said });
    }
    String::from_utf8(done.stdout).map_err(|_| RenderError::NotText(program.to_owned()))
}

/// All manifests at and below a folder, as the controller finds them in a commit: links lead nowhere.
fn find(root: &Path, path: &Path, files: &mut Vec<SourceFile>) -> Result<(), RenderError> {
    let place =
        if path.as_os_str().is_empty() && root.as_os_str().is_empty() { PathBuf::from(".") } else { root.join(path) };
    let failed = |source| RenderError::Open { path: place.clone(), source };
    let mut entries: Vec<_> = fs::read_dir(&place).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(failed)?);
        let inner = path.join(&name);
        if kind.is_dir() && name != ".git" {
            find(root, &inner, files)?;
        } else if kind.is_file() && [".yaml", ".yml", ".json"].iter().any(|end| name.to_string_lossy().ends_with(end)) {
            let bytes = read_file(&root.join(&inner))?;
            let text = std::str::from_utf8(&bytes).ok().map(str::to_owned);
            files.push(SourceFile { path: inner.display().to_string(), text });
        }
    }
    Ok(())
}

/// The GitSync of a manifest.
fn read(path: &Path) -> Result<GitSync, RenderError> {
    let bytes = read_file(path)?;
    let failed = |why| RenderError::NoGitSync { path: path.to_owned(), why };
    let text = std::str::from_utf8(&bytes).map_err(|error| failed(Some(error.to_string())))?;
    let values = crds::yaml::documents(text).into_iter().filter_map(|document| document.value.ok());
    let value = values.into_iter().find(|value| value["kind"] == "GitSync").ok_or_else(|| failed(None))?;
    serde_json::from_value(value).map_err(|error| failed(Some(error.to_string())))
}

/// In the place of a GitSync that nobody named.
fn nobody(path: &Path) -> GitSync {
    let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    GitSync::new(&name.unwrap_or_else(|| "release".to_owned()), GitSyncSpec::default())
}

/// Takes off what stands for a GitSync that nobody named.
fn strip(body: &mut Value) {
    let Some(metadata) = body["metadata"].as_object_mut() else { return };
    if metadata.get("namespace").is_some_and(|namespace| namespace == "") {
        metadata.remove("namespace");
    }
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        [NAME_LABEL, NAMESPACE_LABEL].iter().for_each(|label| drop(labels.remove(*label)));
        if labels.is_empty() {
            metadata.remove("labels");
        }
    }
}

/// Kinds of the API server's own that live in no namespace.
const CLUSTER: [&str; 19] = [
    "APIService",
    "CSIDriver",
    "CSINode",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "FlowSchema",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingWebhookConfiguration",
];

/// What is served, where nobody can be asked: all that is wanted. Other people's cluster-wide kinds begin with the word.
fn guessed<'a>(objects: impl Iterator<Item = &'a Value>) -> Kinds {
    let kind = |object: &Value| {
        let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let is_cluster = CLUSTER.contains(&kind) || kind.starts_with("Cluster") || kind.ends_with("PolicyBinding");
        let scope = if is_cluster { Scope::Cluster } else { Scope::Namespaced };
        Some(Kind { resource: ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)), scope })
    };
    // What a definition among them says goes before a guess.
    let all: Vec<&Value> = objects.collect();
    let defined = Kinds::default().with_definitions(all.iter().copied());
    let unknown =
        |kind: &Kind| defined.get(&kind.resource.group, &kind.resource.version, &kind.resource.kind).is_none();
    all.iter().filter_map(|object| kind(object)).filter(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_shows_nothing_of_this_machine() {
        let strays = |root: &str, path: &str, files: &[&str]| {
            let files: Vec<_> = files.iter().map(|file| (*file).to_owned()).collect();
            super::strays(Path::new(root), Path::new(path), files.iter())
        };
        assert_eq!(strays("/clone", "apps/web", &["values.yaml", "../../env/prod.yaml"]), None);
        for path in ["../home", "apps/../../home"] {
            assert_eq!(strays("/clone", path, &[]).as_deref(), Some(path));
        }
        for file in ["../../../x.yaml", "/home/ada/x.yaml"] {
            assert_eq!(strays("/clone", "apps/web", &[file]).as_deref(), Some(file));
        }
        assert_eq!(strays("", "/home/ada/web", &["../env.yaml"]), None, "one's own folder");
        assert_eq!(strays("", "web", &["/etc/x.yaml"]).as_deref(), Some("/etc/x.yaml"));
    }
}
