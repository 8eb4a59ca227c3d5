//! Runs a program to its end in an environment that holds nothing of the developer's: no KUBECONFIG, no ~/.gitconfig,
//! no proxy. It must not judge the exit status unless asked to.

use std::{
    env,
    ffi::OsStr,
    fmt::{self, Display},
    io::Write as _,
    path::Path,
    process::{ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// stdout when the program succeeded; an error that holds its stderr otherwise.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{self}")
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}{}", self.status, self.stdout, self.stderr)
    }
}

/// A command that sees only PATH and a HOME of its own.
pub fn clean(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home);
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs `command` with `stdin` and waits for its end; the program dies with the future.
pub async fn run(command: &mut Command, stdin: &[u8]) -> Result<Output> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let raw = run_bytes(command, stdin).await.with_context(|| format!("failed to run {name}"))?;
    Ok(Output {
        status: raw.status,
        stdout: String::from_utf8_lossy(&raw.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&raw.stderr).into_owned(),
    })
}

/// The same for programs that speak bytes.
pub async fn run_bytes(command: &mut Command, stdin: &[u8]) -> Result<std::process::Output> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut pipe = child.stdin.take().context("stdin was not piped")?;
    let feed = async move {
        // A program may end without reading all of it: its own words then say why.
        let _ = pipe.write_all(stdin).await;
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    Ok(output?)
}

/// Writes a program by another process. A child that some thread starts while we had it open for writing would have it
/// open, too, until it becomes what it is to be; and what is open for writing cannot be run: "Text file busy".
pub fn executable(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(path);
    let mut child = shell.stdin(Stdio::piped()).spawn().context("failed to run sh")?;
    let written = child.stdin.take().context("stdin was not piped")?.write_all(content.as_ref());
    ensure!(child.wait()?.success() && written.is_ok(), "failed to write {}", path.display());
    Ok(())
}
