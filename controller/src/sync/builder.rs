//! Makes manifests of a commit's files with Kustomize and Helm, upstream's own programs, each in a sandbox that holds
//! nothing but a copy of what it may read. It must not decide what that is: [`super::inputs`] does.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crds::{
    git_sync::{Helm, Renderer},
    sync::substitute::Variables,
};
use tempfile::TempDir;

use super::{
    memory,
    output::{self, REPOSITORY},
    permits::{Permit, Permits},
    render::{Documents, Place, Problem, SourceFile},
    sandbox::{Job, Limits, SandboxError, run},
    source::File,
};
use crate::pulse;

/// Kustomize takes 50 ms for 25 objects and 2 s for the largest that is known; Helm about the same.
const TIME: Duration = Duration::from_mins(1);
/// As much as is read of what they write: the largest charts write 8 MiB, definitions above all.
const OUTPUT: u64 = 16 << 20;
/// Programs that run at once: they compute and do not wait, and the more run the less memory is left to each. A namespace
/// may have both, and waits while another has less: for [`TIME`] at most, however many loop for ever.
const CONCURRENCY: usize = 2;
/// Folder for work trees, beside the mirrors.
const WORK: &str = "work";

/// What the cluster is, for charts that ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Such as v1.36.3.
    pub version: String,
    /// Such as apps/v1 and apps/v1/Deployment.
    pub apis: BTreeSet<String>,
}

/// One rendering.
pub struct Build<'a> {
    /// By what: Kustomize or Helm.
    pub renderer: Renderer,
    /// Path that is rendered.
    pub path: &'a str,
    /// Every file that may be read.
    pub files: Vec<File>,
    /// Every folder that must be there.
    pub folders: &'a BTreeSet<String>,
    /// For Helm: release and namespace, values, cluster.
    pub release: Release<'a>,
    /// What is replaced in what it writes.
    pub variables: Option<&'a Variables>,
}

/// What a chart is told.
pub struct Release<'a> {
    /// `.Release.Name`.
    pub name: &'a str,
    /// `.Release.Namespace`.
    pub namespace: &'a str,
    /// Values.
    pub helm: &'a Helm,
    /// `.Capabilities`.
    pub capabilities: &'a Capabilities,
}

/// Why nothing could be tried. What is wrong with the files is a problem among the documents instead.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No such program.
    #[error("cannot render: there is no {name} on PATH; install it, or name it with --{flag}")]
    NoProgram {
        /// As it was given.
        name: String,
        /// How to give it.
        flag: &'static str,
    },
    /// The work tree could not be written.
    #[error("cannot write a work tree; check the volume given as --git-cache")]
    WorkTree(#[source] io::Error),
    /// It would have taken more than is left to it.
    #[error(
        "cannot render with {name}: it needs more than {} MiB of memory; split what is rendered, or give the container \
         more, and --render-memory if it is set; {CONCURRENCY} may run at once", limit >> 20
    )]
    Memory {
        /// Its name.
        name: &'static str,
        /// What it may take, in bytes.
        limit: u64,
    },
    /// The program was not up to it.
    #[error("cannot render with {0}")]
    Sandbox(&'static str, #[source] SandboxError),
}

/// The programs, and where they work.
pub struct Builder {
    work: PathBuf,
    kustomize: Result<PathBuf, String>,
    helm: Result<PathBuf, String>,
    /// Bytes that one program may take.
    memory: u64,
    turns: Permits,
}

impl Builder {
    /// `cache` is where the mirrors are, `search` the PATH on which programs without a folder are looked for. A program
    /// may take `memory` bytes, or its share of the `container`'s.
    pub fn new(
        cache: &Path,
        (kustomize, helm): (&Path, &Path),
        search: Option<&OsStr>,
        memory: Option<u64>,
        container: Option<u64>,
    ) -> Self {
        let work = cache.join(WORK);
        // What a killed predecessor left behind; if it cannot be removed, writing fails too and says why.
        let _ = fs::remove_dir_all(&work);
        let memory = memory.unwrap_or_else(|| memory::share(container, CONCURRENCY));
        tracing::info!(memory = format!("{} MiB", memory >> 20), at_once = CONCURRENCY, "rendering within limits");
        let turns = Permits::new(CONCURRENCY, CONCURRENCY);
        Self { work, kustomize: find(kustomize, search), helm: find(helm, search), memory, turns }
    }

    /// Waits until it is the turn of a namespace. Whoever has it loads what is rendered: those who wait hold none of it.
    pub async fn turn(&self, namespace: &str) -> Permit {
        pulse::idle(self.turns.one(namespace)).await
    }

    /// Renders. Turn and work tree go when this ends, however it ends.
    pub async fn build(&self, build: Build<'_>, _turn: Permit) -> Result<Documents, BuildError> {
        let (name, flag, program) = match build.renderer {
            Renderer::Helm => ("helm", "helm", &self.helm),
            Renderer::Kustomize | Renderer::Plain => ("kustomize", "kustomize", &self.kustomize),
        };
        let program = program.clone().map_err(|name| BuildError::NoProgram { name, flag })?;
        let tree = self.tree(&build).map_err(BuildError::WorkTree)?;
        let args = arguments(&build, tree.path()).map_err(BuildError::WorkTree)?;
        let home = tree.path().to_string_lossy().into_owned();
        let limits = Limits { time: TIME, memory: memory::mapped(self.memory), output: OUTPUT };
        // Both are written in Go.
        let variables = vec![("GOMEMLIMIT", memory::collected(self.memory))];
        let ran = run(Job { program, args, folder: tree.path().to_owned(), variables, limits }).await;
        let texts = || -> Vec<SourceFile> { build.files.iter().map(SourceFile::from).collect() };
        let failed = |problem| Documents { objects: Vec::new(), problems: vec![problem] };
        let (path, is_helm) = (build.path, build.renderer == Renderer::Helm);
        match ran {
            Ok(written) => {
                let Ok(written) = String::from_utf8(written) else {
                    let place = Place { file: path.to_owned(), line: 0 };
                    return Ok(failed(Problem { place, what: format!("{name} wrote what is not UTF-8 text") }));
                };
                Ok(if is_helm {
                    output::templated(&written, path, build.variables)
                } else {
                    output::kustomized(&written, &texts(), path, build.variables)
                })
            }
            Err(SandboxError::Failed(said)) if memory::ran_out(&said) => {
                Err(BuildError::Memory { name, limit: self.memory })
            }
            Err(SandboxError::Failed(said)) if is_helm => Ok(failed(output::helm_problem(&said, &home, path))),
            Err(SandboxError::Failed(said)) => Ok(failed(output::kustomize_problem(&said, &home, &texts(), path))),
            Err(error) => Err(BuildError::Sandbox(name, error)),
        }
    }

    /// Writes what may be read. The paths hold no `..`: they are those of a Git tree.
    fn tree(&self, build: &Build<'_>) -> io::Result<TempDir> {
        let mut folders = fs::DirBuilder::new();
        folders.recursive(true).mode(0o700);
        folders.create(&self.work)?;
        let private = fs::Permissions::from_mode(0o700);
        let tree = tempfile::Builder::new().prefix("").permissions(private).tempdir_in(&self.work)?;
        let repository = tree.path().join(REPOSITORY);
        for folder in build.folders {
            folders.create(repository.join(folder))?;
        }
        for File { path, bytes } in &build.files {
            let path = repository.join(path);
            if let Some(folder) = path.parent() {
                folders.create(folder)?;
            }
            fs::write(path, bytes)?;
        }
        Ok(tree)
    }
}

fn arguments(build: &Build<'_>, tree: &Path) -> io::Result<Vec<OsString>> {
    if build.renderer != Renderer::Helm {
        fs::write(tree.join("kustomization.yaml"), output::wrapper(build.path))?;
        return Ok(["build", "."].map(OsString::from).to_vec());
    }
    let Release { name, namespace, helm, capabilities: Capabilities { version, apis } } = &build.release;
    let repository = tree.join(REPOSITORY);
    let chart = repository.join(build.path);
    let mut args: Vec<OsString> = ["template", "--include-crds", "--skip-tests"].map(OsString::from).to_vec();
    let apis = apis.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    for (flag, value) in [("--namespace", *namespace), ("--kube-version", version), ("--api-versions", &apis)] {
        args.extend([flag, value].map(OsString::from));
    }
    for file in &helm.values_files {
        args.extend(["--values".into(), chart.join(file).into()]);
    }
    if let Some(values) = &helm.values {
        let file = tree.join("values.json");
        fs::write(&file, values.to_string())?;
        args.extend(["--values".into(), file.into()]);
    }
    // What comes from a spec cannot be a flag.
    args.extend(["--".into(), helm.release_name.as_deref().unwrap_or(name).into(), chart.into()]);
    Ok(args)
}

/// The program's path, or its name when there is none.
fn find(program: &Path, search: Option<&OsStr>) -> Result<PathBuf, String> {
    let folders = match program.parent() {
        Some(folder) if folder.as_os_str().is_empty() => {
            search.map(std::env::split_paths).into_iter().flatten().collect()
        }
        _ => vec![PathBuf::new()],
    };
    let found = folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| program.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_with_the_remedy() {
        let cache = tempfile::tempdir().unwrap();
        let programs = (Path::new("kustomize"), Path::new("/no/helm"));
        let builder = Builder::new(cache.path(), programs, Some(OsStr::new("/no")), None, None);
        let release =
            Release { name: "a", namespace: "b", helm: &Helm::default(), capabilities: &Capabilities::default() };
        let build = Build {
            renderer: Renderer::Kustomize,
            path: "",
            files: vec![],
            folders: &BTreeSet::new(),
            release,
            variables: None,
        };
        let turn = builder.turn("b").await;
        let error = builder.build(build, turn).await.map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, "cannot render: there is no kustomize on PATH; install it, or name it with --kustomize");
        assert_eq!(find(Path::new("sh"), Some(OsStr::new("/no:/bin"))), Ok("/bin/sh".into()));
    }
}
