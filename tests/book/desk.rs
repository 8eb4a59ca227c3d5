//! A reader's desk: a folder, a shell with the programs that the pages name, and what they set. It does what a page says
//! and tells what came out otherwise than the page has it. It must not know what the commands are for.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use harness::{Output, binaries, command, tools::Tool};

use super::page::{Does, Step, is_like};

/// Git as a new user has it.
const GIT_CONFIG: &str =
    "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n[push]\nautoSetupRemote = true\n";

/// Gone when dropped.
pub struct Desk {
    home: tempfile::TempDir,
    folder: PathBuf,
    kubeconfig: PathBuf,
    /// What the pages call so is that here.
    called: Vec<(String, String)>,
}

impl Desk {
    /// In this folder, or in an empty one of its own. Without a kubeconfig no cluster is reached.
    pub async fn new(folder: Option<&Path>, kubeconfig: Option<&Path>) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let own = home.path().join("work");
        let programs = home.path().join("bin");
        for folder in [&own, &programs] {
            fs::create_dir(folder)?;
        }
        fs::write(home.path().join(".gitconfig"), GIT_CONFIG)?;
        for (name, path) in [
            ("seal", binaries::seal().await?),
            ("kubectl", Tool::Kubectl.path().await?),
            ("kubeseal", Tool::Kubeseal.path().await?),
            ("kustomize", Tool::Kustomize.path().await?),
            ("helm", Tool::Helm.path().await?),
            ("age", Tool::Age.path().await?),
            ("age-keygen", Tool::AgeKeygen.path().await?),
        ] {
            symlink(path, programs.join(name))?;
        }
        let folder = folder.map_or(own, Path::to_owned);
        let kubeconfig = kubeconfig.unwrap_or(Path::new("/dev/null")).to_owned();
        Ok(Self { home, folder, kubeconfig, called: Vec::new() })
    }

    /// Another cluster from now on.
    pub fn turn_to(&mut self, kubeconfig: &Path) {
        kubeconfig.clone_into(&mut self.kubeconfig);
    }

    /// Puts a folder of ours among the reader's.
    pub fn bring(&self, name: &str, folder: &Path) -> Result<()> {
        symlink(folder, self.folder.join(name)).with_context(|| format!("failed to link {name}"))
    }

    /// What the pages call so is this here.
    pub fn call(&mut self, written: &str, meant: impl Into<String>) {
        self.called.push((written.to_owned(), meant.into()));
    }

    pub fn write(&self, file: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.folder.join(file);
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
    }

    /// Does one step. An error says what was not as the page has it.
    pub async fn follow(&self, step: &Step) -> Result<()> {
        let meant = |text: &str| self.called.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let example = match &step.does {
            Does::Write { file, text } => return self.write(file, meant(text)),
            Does::Run(example) => example,
        };
        let done = self.shell(&meant(&example.command)).await?;
        let says = example.answer.is_empty() || is_like(&done.stdout, &meant(&example.answer));
        ensure!(
            says && done.status.code() == Some(example.code),
            "{}:\n$ {}\n{done}\ninstead of {} and\n{}",
            step.heading,
            example.command,
            example.code,
            example.answer
        );
        Ok(())
    }

    /// All of them in their order; one that fails does not hide the next.
    pub async fn follow_all(&self, steps: impl IntoIterator<Item = &Step>) -> Result<()> {
        let mut wrong = Vec::new();
        for step in steps {
            if let Err(why) = self.follow(step).await {
                wrong.push(format!("{why:#}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }

    /// What one command sets the next one knows; stderr comes among stdout, as on a terminal.
    async fn shell(&self, words: &str) -> Result<Output> {
        let home = self.home.path();
        let variables = home.join("variables");
        let script = format!(
            "exec 2>&1; set -ua; [ ! -e {0} ] || . {0}; KUBECONFIG={1}\n{words}\ncode=$?; export -p > {0}; exit $code",
            variables.display(),
            self.kubeconfig.display(),
        );
        let mut shell = command::clean("sh", home);
        let path = format!("{}:{}", home.join("bin").display(), std::env::var("PATH")?);
        shell.args(["-c", &script]).env("PATH", path).env("GIT_CONFIG_NOSYSTEM", "1").current_dir(&self.folder);
        command::run(&mut shell, b"").await
    }
}
