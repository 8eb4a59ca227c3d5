//! Our own programs as the workspace builds them now, so that no test runs yesterday's `seal`. It must not pick up
//! installed ones.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::OnceCell;

/// The CLI.
pub async fn seal() -> Result<PathBuf> {
    Ok(built().await?.join("seal"))
}

/// The controller.
pub async fn signet_controller() -> Result<PathBuf> {
    Ok(built().await?.join("signet-controller"))
}

/// The folder with the workspace's programs, brought up to date once per process.
async fn built() -> Result<&'static Path> {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = FOLDER.get_or_try_init(async || tokio::task::spawn_blocking(build).await?).await?;
    Ok(folder)
}

/// The folder of the profile that this program was built with: a test lies in <target>/<profile>/deps, the demo in
/// <target>/<profile>.
pub(crate) fn profile() -> Result<PathBuf> {
    let ours = env::current_exe().context("failed to find this program")?;
    let mut profile = ours.parent().context("this program lies in no folder")?;
    if profile.ends_with("deps") {
        profile = profile.parent().context("this program lies in no target folder")?;
    }
    Ok(profile.to_owned())
}

/// The cargo that runs us, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo
}

fn build() -> Result<PathBuf> {
    let profile = profile()?;
    let target = profile.parent().context("this program lies in no target folder")?;
    let mut cargo = cargo();
    cargo.args(["build", "--workspace", "--bins", "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().context("failed to run cargo")?;
    ensure!(output.status.success(), "cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(profile)
}
