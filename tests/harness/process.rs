//! A server that runs beside the test: in a process group of its own so that Ctrl-C does not reach it before its
//! guardian does, its words in a log file. It must not decide when to restart.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::{scratch::Scratch, wait::eventually};

/// How much of a log an error repeats.
const TAIL: usize = 30;

/// A running server; killed when dropped.
pub struct Process {
    name: String,
    child: Mutex<Child>,
    id: u32,
    log: PathBuf,
    scratch: Arc<Scratch>,
}

impl Process {
    /// Starts `command`; its stdout and stderr are appended to `<name>.log` in the scratch folder.
    pub fn start(scratch: &Arc<Scratch>, name: &str, command: &mut Command) -> Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .current_dir(scratch.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("failed to start {name} ({})", command.get_program().to_string_lossy()))?;
        let id = child.id();
        let process = Self { name: name.to_owned(), child: Mutex::new(child), id, log, scratch: Arc::clone(scratch) };
        scratch.watch(id)?;
        Ok(process)
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Everything it has said, over all starts.
    pub fn logs(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// How it ended, if it did.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child().try_wait()?)
    }

    /// An error with the end of its log when it runs no more: waiting for it is pointless.
    pub fn ensure_running(&self) -> Result<()> {
        if let Some(status) = self.exit_status()? {
            bail!("{} ended: {status}\n{}", self.name, tail(&self.logs()?));
        }
        Ok(())
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Under the lock nobody else reaps it, so that the number is still its own.
        let mut child = self.child();
        ensure!(child.try_wait()?.is_none(), "{} runs no more", self.name);
        kill_process(Pid::from_child(&child), signal)
            .with_context(|| format!("failed to send {signal:?} to {}", self.name))
    }

    /// SIGKILL to the whole group, and waits.
    pub fn kill(&self) -> Result<ExitStatus> {
        let mut child = self.child();
        if child.try_wait()?.is_none() {
            kill_process_group(Pid::from_child(&child), Signal::KILL)
                .with_context(|| format!("failed to kill {}", self.name))?;
        }
        let status = child.wait()?;
        let _ = self.scratch.forget(self.id);
        Ok(status)
    }

    /// SIGTERM, and waits for a voluntary end.
    pub async fn terminate(&self, deadline: Duration) -> Result<ExitStatus> {
        if self.exit_status()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        let status =
            eventually(&format!("{} to end after SIGTERM", self.name), deadline, || async { self.exit_status() })
                .await?;
        let _ = self.scratch.forget(self.id);
        Ok(status)
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a log, for an error.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
