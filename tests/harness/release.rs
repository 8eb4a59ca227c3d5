//! Our programs as they are released: optimised, and static. It must not be mistaken for what the other tests run.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::binaries;

/// The alias of .cargo/config.toml that builds what needs no library beside it.
pub const STATIC: &str = "static";

/// Builds these packages so; the folder with their programs. Takes minutes when it was not done before.
pub async fn build(packages: &'static [&'static str]) -> Result<PathBuf> {
    tokio::task::spawn_blocking(move || {
        let target = binaries::profile()?.parent().context("this program lies in no target folder")?.to_owned();
        let mut cargo = binaries::cargo();
        cargo.arg(STATIC).arg("--target-dir").arg(&target);
        cargo.args(packages.iter().flat_map(|package| ["--package", package]));
        let output = cargo.output().context("failed to run cargo")?;
        ensure!(output.status.success(), "cargo {STATIC} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        let about = Command::new("rustc").arg("-vV").output().context("failed to run rustc")?;
        let about = String::from_utf8(about.stdout)?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        Ok(target.join(host).join("release"))
    })
    .await?
}
