//! `kubectl seal`: the real kubectl finds the plugin on its PATH, and asks the program that completes it.

use std::{env, fs, os::unix::fs::symlink};

use anyhow::{Context as _, Result};
use harness::{binaries, command, seal, tools::Tool};

#[tokio::test]
async fn kubectl_runs_seal_and_completes_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins)?;
    symlink(binaries::seal().await?, plugins.join("kubectl-seal"))?;
    let completion = seal(None, &["completion", "kubectl"], "").await?.success()?;
    command::executable(&plugins.join("kubectl_complete-seal"), completion)?;
    let others = env::var_os("PATH").context("PATH")?;
    let path = env::join_paths([plugins].into_iter().chain(env::split_paths(&others)))?;
    let kubectl = async |args: &[&str]| {
        let mut kubectl = command::clean(Tool::Kubectl.path().await?, folder.path());
        kubectl.env("PATH", &path).args(args);
        command::run(&mut kubectl, b"").await?.success()
    };
    assert!(kubectl(&["seal", "verify", "--help"]).await?.contains("seal verify"));
    assert_eq!(kubectl(&["__complete", "seal", "ver"]).await?, "verify\n:0\n");
    assert_eq!(kubectl(&["__complete", "seal", "sync", "sus"]).await?, "suspend\n:0\n");
    assert_eq!(kubectl(&["__complete", "seal", "keys", "list", "--out"]).await?, "--output\n:0\n");
    assert_eq!(kubectl(&["__complete", "seal", "completion", "fi"]).await?, "fish\n:0\n");
    // The shell itself then looks for files.
    assert_eq!(kubectl(&["__complete", "seal", "verify", "dep"]).await?, ":0\n");
    Ok(())
}
