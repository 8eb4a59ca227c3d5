//! One Git repository on a [`crate::GitServer`] and the work tree of the person who writes to it: real git, none of the
//! developer's configuration. It must not read the developer's name, keys or hooks.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, clean},
    git::Site,
};

/// A bare repository that is served, and a clone that is written to.
pub struct Repository {
    name: String,
    work: PathBuf,
    site: Arc<Site>,
}

impl Repository {
    pub(crate) async fn create(site: Arc<Site>, name: &str) -> Result<Self> {
        let work = site.work.join(name);
        fs::create_dir_all(&work)?;
        let repository = Self { name: name.to_owned(), work, site };
        let bare = repository.bare();
        let bare = bare.to_str().context("the temporary folder's path is not UTF-8")?;
        repository.git(&["init", "--quiet", "--bare", "--initial-branch=main", bare]).await?;
        // As public hosts have it: pushes, partial clones, and any commit by its id.
        for setting in ["http.receivepack", "uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"] {
            repository.git(&["--git-dir", bare, "config", setting, "true"]).await?;
        }
        repository.git(&["init", "--quiet", "--initial-branch=main"]).await?;
        repository.git(&["remote", "add", "origin", &repository.url()]).await?;
        Ok(repository)
    }

    /// Where it is served over http.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/{}.git", self.site.port, self.name)
    }

    /// Where it lies, as a URL.
    pub fn file_url(&self) -> String {
        format!("file://{}", self.bare().display())
    }

    /// The served repository's folder.
    pub fn bare(&self) -> PathBuf {
        self.site.root.join(format!("{}.git", self.name))
    }

    /// The folder that `commit` commits.
    pub fn work_tree(&self) -> &Path {
        &self.work
    }

    /// Writes a file in the work tree.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.work.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))
    }

    /// Removes a file, or a folder with all in it, from the work tree.
    pub fn remove(&self, path: &str) -> Result<()> {
        let path = self.work.join(path);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("failed to remove {}", path.display()))
    }

    /// Commits the work tree as it is, and pushes it to its branch; the commit's id.
    pub async fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "--all"]).await?;
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]).await?;
        self.push(&[]).await?;
        self.head().await
    }

    /// Pushes HEAD to the branch of its name; `["--force"]` after history was rewritten.
    pub async fn push(&self, options: &[&str]) -> Result<()> {
        self.git(&[&["push", "--quiet"], options, &["origin", "HEAD"]].concat()).await?;
        Ok(())
    }

    /// The id of the last commit in the work tree.
    pub async fn head(&self) -> Result<String> {
        Ok(self.git(&["rev-parse", "HEAD"]).await?.trim().to_owned())
    }

    /// What git needs in its environment to work here.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.site.git_environment()
    }

    /// Any git command in the work tree; its stdout.
    pub async fn git(&self, args: &[&str]) -> Result<String> {
        let mut git = clean("git", &self.site.home);
        git.current_dir(&self.work).args(args).envs(self.site.git_environment());
        command::run(&mut git, b"").await?.success().with_context(|| format!("failed: git {}", args.join(" ")))
    }
}
