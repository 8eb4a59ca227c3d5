//! The Git hosts of the harness, asked by the real git: over http with its troubles, and over ssh.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use harness::{
    GitServer, Output, Repository, SshServer,
    command::{clean, run},
    scratch::Scratch,
};

/// Clones as a stranger would; what `manifest.yaml` then holds, or what git said.
async fn clone(url: &str, settings: &[(&str, &str)]) -> Result<Result<String, Output>> {
    let scratch = Scratch::new("signet-clone-")?;
    let mut git = clean("git", scratch.path());
    git.current_dir(scratch.path()).env("GIT_TERMINAL_PROMPT", "0").envs(settings.iter().copied());
    let output = run(git.args(["clone", "--quiet", "--depth=1", url, "cloned"]), b"").await?;
    if output.status.success() {
        return Ok(Ok(std::fs::read_to_string(scratch.path().join("cloned/manifest.yaml"))?));
    }
    Ok(Err(output))
}

async fn repository(server: &GitServer) -> Result<Repository> {
    let repository = server.create("app").await?;
    repository.write("manifest.yaml", "first")?;
    repository.commit("First").await?;
    Ok(repository)
}

#[tokio::test]
async fn what_is_pushed_is_cloned() -> Result<()> {
    let server = GitServer::start()?;
    let repository = repository(&server).await?;
    assert_eq!(clone(&repository.url(), &[]).await?.ok().as_deref(), Some("first"));
    assert_eq!(clone(&repository.file_url(), &[]).await?.ok().as_deref(), Some("first"));

    // Large enough that git sends it in chunks and packed.
    repository.write("folder/large", vec![b'x'; 3 << 20])?;
    repository.write("manifest.yaml", "second")?;
    let commit = repository.commit("Second").await?;
    assert_eq!(commit.len(), 40, "{commit}");
    assert_eq!(clone(&repository.url(), &[]).await?.ok().as_deref(), Some("second"));
    Ok(())
}

#[tokio::test]
async fn an_outage_begins_and_ends() -> Result<()> {
    let server = GitServer::start()?;
    let repository = repository(&server).await?;
    server.stop();
    let before = server.requests();
    let refused = clone(&repository.url(), &[]).await?.err().map(|output| output.stderr).unwrap_or_default();
    assert!(refused.contains("503"), "{refused}");
    assert!(server.requests() > before);
    server.resume();
    assert_eq!(clone(&repository.url(), &[]).await?.ok().as_deref(), Some("first"));
    Ok(())
}

#[tokio::test]
async fn credentials_are_asked_for() -> Result<()> {
    let server = GitServer::start()?;
    let repository = repository(&server).await?;
    server.require_basic("robot", "s3cret");
    assert!(clone(&repository.url(), &[]).await?.is_err());
    assert!(clone(&repository.url().replace("//", "//robot:wrong@"), &[]).await?.is_err());
    assert!(clone(&repository.url().replace("//", "//robot:s3cret@"), &[]).await?.is_ok());
    repository.commit("Our own pushes know them").await?;
    Ok(())
}

#[tokio::test]
async fn ssh_lets_one_key_in() -> Result<()> {
    let server = GitServer::start()?;
    let repository = repository(&server).await?;
    let (ssh, other) = (SshServer::start(server.root())?, SshServer::start(server.root())?);
    let scratch = Scratch::new("signet-key-")?;
    let known_hosts = scratch.file("known_hosts", ssh.known_hosts() + &other.known_hosts())?;
    let key = private_file(&scratch, "key", ssh.private_key())?;
    let wrong = private_file(&scratch, "wrong", other.private_key())?;

    for version in ["version=2", "version=0"] {
        let settings = [("GIT_SSH_COMMAND", &*ssh_command(&key, &known_hosts)), ("GIT_PROTOCOL", version)];
        assert_eq!(clone(&ssh.url("app"), &settings).await?.ok().as_deref(), Some("first"));
    }
    let refused = clone(&ssh.url("app"), &[("GIT_SSH_COMMAND", &ssh_command(&wrong, &known_hosts))]).await?;
    assert!(refused.is_err_and(|output| output.stderr.contains("Permission denied")));
    let outside = ssh.url("../served/app");
    assert!(clone(&outside, &[("GIT_SSH_COMMAND", &ssh_command(&key, &known_hosts))]).await?.is_err());
    assert!(repository.bare().exists());
    Ok(())
}

fn ssh_command(key: &Path, known_hosts: &Path) -> String {
    let options = "-F none -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes";
    format!("ssh {options} -o UserKnownHostsFile={} -i {}", known_hosts.display(), key.display())
}

/// OpenSSH refuses keys that others may read.
fn private_file(scratch: &Scratch, name: &str, content: &str) -> Result<PathBuf> {
    let path = scratch.file(name, content)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path)
}
