//! Runs `seal` as it stands in the workspace and the real `kubeseal`, alike, so that a test can ask both the same. They
//! see a kubeconfig only when given one, and an empty HOME that is also where they run: name files absolutely.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    binaries,
    command::{self, Output},
    tools::Tool,
};

/// Runs our CLI; a failure is an [`Output`] too.
pub async fn seal(kubeconfig: Option<&Path>, args: &[&str], stdin: impl AsRef<[u8]>) -> Result<Output> {
    run(binaries::seal().await?, kubeconfig, args, stdin.as_ref()).await
}

/// Runs upstream's CLI.
pub async fn kubeseal(kubeconfig: Option<&Path>, args: &[&str], stdin: impl AsRef<[u8]>) -> Result<Output> {
    run(Tool::Kubeseal.path().await?, kubeconfig, args, stdin.as_ref()).await
}

async fn run(program: PathBuf, kubeconfig: Option<&Path>, args: &[&str], stdin: &[u8]) -> Result<Output> {
    let home = tempfile::tempdir()?;
    let mut command = command::clean(program, home.path());
    command.current_dir(home.path()).args(args);
    if let Some(kubeconfig) = kubeconfig {
        // After the verb, which our CLI wants first; neither minds.
        command.arg("--kubeconfig").arg(kubeconfig);
    }
    command::run(&mut command, stdin).await
}
