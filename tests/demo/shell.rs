//! The developer's shell: what is shown is what runs, in `sh`, with our seal, the real kubectl and git on its PATH and
//! nothing of the real developer's in its environment. It must not know what the commands are for.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use harness::{Cluster, Output, binaries, command, eventually, tools::Tool};

use crate::story::Story;

/// Ada, who commits.
const GIT_CONFIG: &str = "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n";
/// How soon everything is expected on a machine that does other things too.
const SOON: Duration = Duration::from_secs(30);

/// A home with a `bin` and a work folder in it.
pub struct Shell<'a> {
    story: &'a Story,
    home: PathBuf,
    folder: PathBuf,
    path: String,
    kubeconfig: PathBuf,
}

impl<'a> Shell<'a> {
    /// A shell whose kubectl and seal speak to this cluster; gone with it.
    pub async fn new(story: &'a Story, cluster: &Cluster) -> Result<Self> {
        let home = cluster.scratch().folder("home")?;
        let (bin, folder) = (cluster.scratch().folder("home/bin")?, cluster.scratch().folder("home/shop")?);
        symlink(Tool::Kubectl.path().await?, bin.join("kubectl"))?;
        symlink(binaries::seal().await?, bin.join("seal"))?;
        fs::write(home.join(".gitconfig"), GIT_CONFIG)?;
        let path = format!("{}:{}", bin.display(), env::var("PATH").context("PATH is not set")?);
        Ok(Self { story, home, folder, path, kubeconfig: cluster.kubeconfig().to_owned() })
    }

    /// Shows a command and what it prints, which must be a success.
    pub async fn show(&self, line: &str) -> Result<String> {
        self.show_in(&self.folder, line).await
    }

    /// The same in another folder.
    pub async fn show_in(&self, folder: &Path, line: &str) -> Result<String> {
        self.story.command(line)?;
        let (output, _) = self.story.waiting(line, self.run(folder, line)).await?;
        self.story.output(&output.stdout)?;
        ensure!(output.status.success(), "`{line}` ended with {}", output.status);
        Ok(output.stdout)
    }

    /// Shows a command that is repeated until it prints what is wanted, and that; tells how long it took.
    pub async fn until(&self, what: &str, line: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.story.command(line)?;
        let (said, took) = self.story.waiting(line, self.poll(line, wanted)).await?;
        self.story.output(&said)?;
        self.story.done(what, took)
    }

    /// The same without a word.
    pub async fn poll(&self, line: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        eventually(&format!("`{line}` to print what it should"), SOON, || async {
            let said = self.quiet(line).await?;
            // The last thing that it did print is told if time runs out.
            if wanted(&said) { Ok(Some(said)) } else { Err(anyhow!("it printed:\n{said}")) }
        })
        .await
    }

    /// Runs a command without showing it; what it printed.
    pub async fn quiet(&self, line: &str) -> Result<String> {
        self.run(&self.folder, line).await?.success()
    }

    /// Runs a command; its stderr comes among its stdout, as on a terminal.
    async fn run(&self, folder: &Path, line: &str) -> Result<Output> {
        let mut sh = command::clean("sh", &self.home);
        sh.arg("-c").arg(format!("exec 2>&1\n{line}")).current_dir(folder);
        sh.env("PATH", &self.path).env("KUBECONFIG", &self.kubeconfig).env("GIT_CONFIG_NOSYSTEM", "1");
        // Ctrl-C is for the demo, which ends its commands; they must not fail first.
        let mut output = command::run(sh.process_group(0), b"").await?;
        output.stdout = output.stdout.replace(&self.home.display().to_string(), "~");
        Ok(output)
    }

    /// Writes a file, named as in a command: in the work folder, or in the home with `~/`.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = name.strip_prefix("~/").map_or_else(|| self.folder.join(name), |name| self.home.join(name));
        fs::write(&path, text).with_context(|| format!("failed to write {name}"))
    }

    /// What another terminal needs to go on where this one stopped.
    pub fn to_join(&self) -> String {
        let (kubeconfig, home) = (self.kubeconfig.display(), self.home.display());
        format!("export KUBECONFIG={kubeconfig}\nexport PATH={home}/bin:$PATH\ncd {home}/shop")
    }
}
