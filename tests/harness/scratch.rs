//! A folder, and the processes that live in it, that do not outlive us: not after a panic, not after Ctrl-C, not after
//! SIGKILL, and not when the handle sits in a static, which Rust never drops. A guardian (a shell that reads a pipe
//! which only we hold) does the cleaning, since it alone surely notices our end. It must not clean anything else.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

/// Remembers process groups until the pipe closes, then ends what is left of them and removes the folder. The signals
/// that end us must not end the guardian; a dying server may still be writing, hence the retries. `kill` is the shell's
/// own, in the form of the standard: the program of procps 4.0.2 reads `-1234` as `-1`, which is everybody.
const GUARDIAN: &str = r#"
trap '' HUP INT TERM
groups=
while read -r verb group; do
    kept=
    for known in $groups; do [ "$known" = "$group" ] || kept="$kept $known"; done
    groups=$kept
    [ "$verb" = watch ] && groups="$groups $group"
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" 2>/dev/null && exit
    sleep 0.1
done
exit 1
"#;

/// The folder and its guardian.
pub struct Scratch {
    dir: PathBuf,
    guardian: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Scratch {
    /// Makes an empty folder below the system's temporary folder.
    pub fn new(prefix: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir().context("failed to make a temporary folder")?;
        let mut guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian"])
            .arg(dir.path())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start the guardian, which needs sh")?;
        let pipe = Mutex::new(guardian.stdin.take());
        // From here on the guardian removes it.
        Ok(Self { dir: dir.keep(), guardian, pipe })
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Makes a folder in the scratch folder.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file in the scratch folder.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }

    /// Has the guardian end the process group `group` when we are gone.
    pub fn watch(&self, group: u32) -> Result<()> {
        self.tell("watch", group)
    }

    /// The process group ended: its number may soon be another's.
    pub fn forget(&self, group: u32) -> Result<()> {
        self.tell("forget", group)
    }

    fn tell(&self, verb: &str, group: u32) -> Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().context("the guardian was dismissed")?;
        writeln!(pipe, "{verb} {group}").context("the guardian is gone")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The end of the pipe is the guardian's order; waiting for it means that the folder is gone after Drop.
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.guardian.wait();
    }
}
