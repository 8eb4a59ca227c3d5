//! `docs/runbook-keys.md`, word for word: its commands in their order, by a shell, on real clusters. A command that does
//! not work any more fails here before it fails somebody at night.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    Cluster, Controller, ControllerOptions, GitServer, Repository, binaries, command, eventually, tools::Tool,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::world::{Place, SOON, World, manifest};

const RUNBOOK: &str = include_str!("../docs/runbook-keys.md");

/// Its commands, block by block, each with the heading that it stands under.
fn blocks() -> Vec<(&'static str, Vec<&'static str>)> {
    let (mut blocks, mut heading, mut inside) = (Vec::new(), "", false);
    for line in RUNBOOK.lines() {
        if let Some(words) = line.strip_prefix("## ") {
            heading = words;
        } else if line == "```console" {
            inside = true;
            blocks.push((heading, Vec::new()));
        } else if line == "```" {
            inside = false;
        } else if let (true, Some((_, commands))) = (inside, blocks.last_mut()) {
            commands.push(line.strip_prefix("$ ").expect("in a console block every line is a command"));
        }
    }
    blocks
}

/// A shell in the folder of a repository, with the programs that the runbook names.
struct Desk<'a> {
    repository: &'a Repository,
    home: tempfile::TempDir,
}

impl<'a> Desk<'a> {
    async fn new(repository: &'a Repository) -> Result<Self> {
        let desk = Self { repository, home: tempfile::tempdir()? };
        let programs = desk.home.path().join("bin");
        fs::create_dir(&programs)?;
        for (name, path) in [
            ("seal", binaries::seal().await?),
            ("kubectl", Tool::Kubectl.path().await?),
            ("kubeseal", Tool::Kubeseal.path().await?),
            ("age", Tool::Age.path().await?),
            ("age-keygen", Tool::AgeKeygen.path().await?),
        ] {
            symlink(path, programs.join(name))?;
        }
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), repository.work_tree().join("signet"))?;
        fs::write(repository.work_tree().join("new-password.txt"), "n3w")?;
        Ok(desk)
    }

    /// What one block sets the next one knows.
    async fn run(&self, kubeconfig: &Path, commands: &[&str]) -> Result<()> {
        let variables = self.home.path().join("variables");
        let set = format!(
            "set -eua; [ ! -e {0} ] || . {0}; KUBECONFIG={1}; set -x\n{2}\nset +x; export -p > {0}",
            variables.display(),
            kubeconfig.display(),
            commands.join("\n"),
        );
        let mut shell = command::clean("sh", self.home.path());
        let path = format!("{}:{}", self.home.path().join("bin").display(), std::env::var("PATH")?);
        shell.args(["-c", &set]).env("PATH", path).current_dir(self.repository.work_tree());
        shell.envs(self.repository.environment()).env("GIT_CONFIG_COUNT", "1");
        shell.env("GIT_CONFIG_KEY_0", "push.autoSetupRemote").env("GIT_CONFIG_VALUE_0", "true");
        command::run(&mut shell, b"").await?.success().with_context(|| commands.join("\n"))?;
        Ok(())
    }
}

/// Waits until a commit is applied and no SealedSecret needs any key but the newest.
async fn settled(place: &Place<'_>, repository: &Repository) -> Result<()> {
    place.applied("shop", &repository.head().await?).await?;
    for name in ["db", "web"] {
        place.synced(name, "True").await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_command_of_the_runbook_works() -> Result<()> {
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    let desk = Desk::new(&repository).await?;
    let old = World::new().await?;
    old.cluster.kubectl(&["create", "namespace", "shop"]).await?;
    for (name, password) in [("db", "0ld"), ("web", "other")] {
        let sealed = old.seal(&manifest("shop", name, &[("password", password)]), &[]).await?;
        repository.write(&format!("deploy/{name}.yaml"), sealed)?;
    }
    let sync = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "metadata": {"name": "shop", "namespace": "shop"},
        "spec": {"source": {"url": repository.url()}, "path": "deploy", "interval": "1s", "prune": true},
    });
    repository.write("gitsync.yaml", sync.to_string())?;
    repository.write(".gitignore", "*\n!deploy/\n!deploy/*\n!gitsync.yaml\n")?;
    repository.commit("sealed").await?;
    old.cluster.apply(&sync.to_string()).await?;
    let place = Place { world: &old, namespace: "shop".to_owned(), client: old.cluster.admin().await? };
    settled(&place, &repository).await?;

    let (new, nowhere) = (Cluster::start().await?, PathBuf::from("/dev/null"));
    let keys: Api<Secret> = Api::namespaced(new.admin().await?, "kube-system");
    let names = async || {
        let all = keys.list(&ListParams::default().labels(crds::key_secret::LABEL)).await?;
        // Those that were set aside first: without the one that seals the controller would make another.
        let active = |key: &Secret| key.labels()[crds::key_secret::LABEL] == crds::key_secret::ACTIVE;
        let mut names: Vec<_> = all.iter().map(|key| (active(key), key.name_any())).collect();
        names.sort();
        anyhow::Ok(names.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
    };
    let mut controller = None;
    let mut made = Vec::new();
    for (heading, commands) in blocks() {
        let mut kubeconfig = old.cluster.kubeconfig();
        match heading {
            // What was just pushed must be in the cluster before the old key can go.
            "Retire a key" => settled(&place, &repository).await?,
            "A key was given away" if commands.len() == 2 => {
                settled(&place, &repository).await?;
                place.holds("db", &[("password", "n3w")]).await?;
            }
            "A new cluster" | "Lost keys" => kubeconfig = new.kubeconfig(),
            "Restore a key that was deleted" => {
                kubeconfig = new.kubeconfig();
                made = names().await?;
                keys.delete(made.first().context("a key")?, &DeleteParams::default()).await?;
            }
            "Without a cluster" => kubeconfig = &nowhere,
            _ => {}
        }
        desk.run(kubeconfig, &commands).await.with_context(|| heading.to_owned())?;
        if heading == "A new cluster" && controller.is_none() {
            // In the place of the kubelet.
            let args = vec!["--git-file-root=/".to_owned()];
            controller = Some(Controller::start_with(&new, ControllerOptions { args, ..Default::default() }).await?);
        }
        if heading == "Restore a key that was deleted" {
            ensure!(names().await? == made, "the key is back");
        }
    }
    let secrets: Api<Secret> = Api::namespaced(new.admin().await?, "shop");
    eventually("the values in the new cluster", SOON, || async {
        let secret = secrets.get_opt("db").await?.and_then(|secret| secret.data);
        Ok(secret.filter(|data| data.get("password").is_some_and(|value| value.0 == b"n3w")))
    })
    .await?;
    Ok(())
}
