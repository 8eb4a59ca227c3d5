//! Where the programs we did not write come from: a folder that the user names, or a cache that fills itself. It knows
//! what each is called, how it is built and for whom; the building is [`crate::go_build`]'s. It must not look at the
//! programs on PATH: their versions are anyone's guess.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::go_build::{self, Build, Patch};

/// A program of others that the tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Etcd,
    ApiServer,
    ControllerManager,
    Kubectl,
    Kubeseal,
    /// Upstream's controller, to compare with.
    UpstreamController,
    /// What makes upstream's manifest of its sources.
    Jsonnet,
    Kustomize,
    Helm,
    /// What opens backups of keys without us.
    Age,
    /// Makes identities for it.
    AgeKeygen,
    /// What checks alerts and dashboard.
    Promtool,
    /// What installs plugins of kubectl.
    Krew,
    /// What checks the manifests of those that are offered to krew's index.
    KrewValidator,
}

/// For [`Tool::UpstreamController`]: the environment variable that names the folder of its `token` and `ca.crt`.
pub const UPSTREAM_ACCOUNT: &str = "SIGNET_TESTS_SERVICE_ACCOUNT";

/// How a tool is made: one row per tool.
struct Recipe {
    program: &'static str,
    /// The folder below `tests/tools` whose go.mod decides the version.
    folder: &'static str,
    module: &'static str,
    package: &'static str,
    /// What a first build costs on two cores.
    takes: &'static str,
    stamp: fn(&str) -> String,
    /// Build tags.
    tags: &'static str,
    patches: &'static [Patch],
}

/// What of the environment decides where a tool is; an argument so that a test can leave things out.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `KUBEBUILDER_ASSETS`, by convention a folder with etcd, kube-apiserver and kubectl.
    pub assets: Option<PathBuf>,
    /// `SIGNET_KUBERNETES`, an older minor for the servers, such as 1.34; goes before `assets`.
    pub kubernetes: Option<String>,
    /// The user's cache folder.
    pub cache: Option<PathBuf>,
    /// PATH, for Go.
    pub path: Option<OsString>,
}

impl Surroundings {
    pub fn of_this_process() -> Self {
        let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            assets: folder("KUBEBUILDER_ASSETS"),
            kubernetes: env::var("SIGNET_KUBERNETES").ok().filter(|minor| !minor.is_empty()),
            cache: folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache"))),
            path: env::var_os("PATH"),
        }
    }
}

impl Tool {
    /// The program's path; builds it first when this machine has never done so.
    pub async fn path(self) -> Result<PathBuf> {
        tokio::task::spawn_blocking(move || self.locate(&Surroundings::of_this_process())).await?
    }

    /// The same, from explicit surroundings; blocks while it builds.
    pub fn locate(self, surroundings: &Surroundings) -> Result<PathBuf> {
        let Recipe { program, folder, module, package, takes, stamp, tags, patches } = self.recipe();
        // Of the others what counts is the version: the one that we promise to match, or that the image ships.
        let conventional = matches!(self, Self::Etcd | Self::ApiServer | Self::ControllerManager | Self::Kubectl);
        let older =
            surroundings.kubernetes.as_ref().filter(|_| matches!(self, Self::ApiServer | Self::ControllerManager));
        if let (Some(assets), true, None) = (&surroundings.assets, conventional, older) {
            let path = assets.join(program);
            ensure!(
                path.is_file(),
                "KUBEBUILDER_ASSETS={} holds no {program}: put it there, or unset KUBEBUILDER_ASSETS to have it built",
                assets.display()
            );
            return Ok(path);
        }
        let folder = older.map_or_else(|| folder.to_owned(), |minor| format!("{folder}-{minor}"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(&folder);
        ensure!(
            source.is_dir(),
            "SIGNET_KUBERNETES asks for a minor whose servers are not described: there is no {}",
            source.display()
        );
        let cache = surroundings.cache.as_ref().context("neither HOME nor XDG_CACHE_HOME says where to keep tools")?;
        let (hash, version) = pinned(&source, module, patches)?;
        let build = Build {
            program,
            package,
            takes,
            ldflags: stamp(&version),
            version,
            tags,
            patches,
            source,
            target: cache.join("signet").join(format!("{folder}-{hash}")),
            path: surroundings.path.clone(),
        };
        go_build::ensure_built(&build).with_context(|| format!("no {program} {}", build.version))
    }

    fn recipe(self) -> Recipe {
        match self {
            Self::Etcd => control_plane("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", "10 seconds"),
            Self::ApiServer => kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "4 minutes"),
            Self::ControllerManager => {
                kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", "a minute")
            }
            Self::Kubectl => kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl", "20 seconds"),
            Self::Kubeseal => upstream("kubeseal", "github.com/bitnami/sealed-secrets/cmd/kubeseal", &[]),
            Self::UpstreamController => {
                upstream("upstream-controller", "github.com/bitnami/sealed-secrets/cmd/controller", &IN_CLUSTER)
            }
            Self::Jsonnet => Recipe {
                program: "jsonnet",
                folder: "jsonnet",
                module: "github.com/google/go-jsonnet",
                package: "github.com/google/go-jsonnet/cmd/jsonnet",
                takes: "20 seconds",
                stamp: |_| String::new(),
                tags: "",
                patches: &[],
            },
            Self::Kustomize => Recipe {
                program: "kustomize",
                folder: "kustomize",
                module: "sigs.k8s.io/kustomize/kustomize/v5",
                package: "sigs.k8s.io/kustomize/kustomize/v5",
                takes: "a minute",
                stamp: |version| format!("-X sigs.k8s.io/kustomize/api/provenance.version={version}"),
                tags: "",
                patches: &[],
            },
            Self::Helm => Recipe {
                program: "helm",
                folder: "helm",
                module: "helm.sh/helm/v3",
                package: "helm.sh/helm/v3/cmd/helm",
                takes: "3 minutes",
                stamp: |version| format!("-X helm.sh/helm/v3/internal/version.version={version}"),
                tags: "",
                patches: &[],
            },
            Self::Promtool => Recipe {
                program: "promtool",
                folder: "promtool",
                module: "github.com/prometheus/prometheus",
                package: "github.com/prometheus/prometheus/cmd/promtool",
                takes: "4 minutes",
                stamp: |version| format!("-X github.com/prometheus/common/version.Version={version}"),
                tags: "remove_all_sd", // it discovers nothing: half of the build, and every cloud's library
                patches: &[],
            },
            Self::Krew => krew("krew", "sigs.k8s.io/krew/cmd/krew"),
            Self::KrewValidator => krew("validate-krew-manifest", "sigs.k8s.io/krew/cmd/validate-krew-manifest"),
            Self::Age => age("age", "filippo.io/age/cmd/age"),
            Self::AgeKeygen => age("age-keygen", "filippo.io/age/cmd/age-keygen"),
        }
    }
}

/// Upstream takes its account from one place in a Pod and from nowhere else; all that is changed is where it looks.
const IN_CLUSTER: [Patch; 1] = [Patch {
    file: "k8s.io/client-go/rest/config.go",
    from: r#"	const (
		tokenFile  = "/var/run/secrets/kubernetes.io/serviceaccount/token"
		rootCAFile = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	)"#,
    to: r#"	tokenFile := filepath.Join(os.Getenv("SIGNET_TESTS_SERVICE_ACCOUNT"), "token")
	rootCAFile := filepath.Join(os.Getenv("SIGNET_TESTS_SERVICE_ACCOUNT"), "ca.crt")"#,
}];

fn age(program: &'static str, package: &'static str) -> Recipe {
    let stamp = |version: &str| format!("-X main.Version={version}");
    Recipe {
        program,
        folder: "age",
        module: "filippo.io/age",
        package,
        takes: "10 seconds",
        stamp,
        tags: "",
        patches: &[],
    }
}

fn upstream(program: &'static str, package: &'static str, patches: &'static [Patch]) -> Recipe {
    Recipe {
        program,
        folder: "sealed-secrets",
        module: "github.com/bitnami/sealed-secrets",
        package,
        takes: "a minute",
        stamp: |version| format!("-X main.VERSION={version}"),
        tags: "",
        patches,
    }
}

fn krew(program: &'static str, package: &'static str) -> Recipe {
    let stamp = |version: &str| format!("-X sigs.k8s.io/krew/internal/version.gitTag={version}");
    Recipe {
        program,
        folder: "krew",
        module: "sigs.k8s.io/krew",
        package,
        takes: "30 seconds",
        stamp,
        tags: "",
        patches: &[],
    }
}

fn control_plane(program: &'static str, module: &'static str, package: &'static str, takes: &'static str) -> Recipe {
    Recipe {
        program,
        folder: "control-plane",
        module,
        package,
        takes,
        stamp: |_| String::new(),
        tags: "",
        patches: &[],
    }
}

/// Unstamped, Kubernetes calls itself v0.0.0 and refuses clients by their version.
fn kubernetes(program: &'static str, package: &'static str, takes: &'static str) -> Recipe {
    let stamp = |version: &str| {
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let set = "-X k8s.io/component-base/version.git";
        format!("{set}Version={version} {set}Major={major} {set}Minor={minor} {set}TreeState=clean")
    };
    Recipe { stamp, ..control_plane(program, "k8s.io/kubernetes", package, takes) }
}

/// What names a cache folder (so that a new version or patch builds anew), and the version of `module`: go.mod says it.
fn pinned(source: &Path, module: &str, patches: &[Patch]) -> Result<(String, String)> {
    let read = |name| {
        let path = source.join(name);
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
    };
    let (requirements, sums) = (read("go.mod")?, read("go.sum")?);
    let mut digest = Sha256::new().chain_update(&requirements).chain_update(&sums);
    patches.iter().for_each(|patch| digest.update(patch.to));
    let digest = digest.finalize();
    let start: [u8; 8] = std::array::from_fn(|index| digest[index]);
    let version = requirements
        .lines()
        .find_map(|line| line.trim().trim_start_matches("require ").strip_prefix(module)?.strip_prefix(" v"))
        .and_then(|rest| rest.split_whitespace().next())
        .with_context(|| format!("{}/go.mod requires no {module}", source.display()))?;
    Ok((format!("{:016x}", u64::from_be_bytes(start)), format!("v{version}")))
}
