//! What `seal` asks a person, on a real pseudo-terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    process::Stdio,
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use harness::{binaries, command, eventually};
use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use tokio::process::Child;

use crate::world::{SOON, World};

const WORDS: &str = "three words long";

/// `seal`, with a person before it.
struct Session {
    seal: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Session {
    async fn start(home: &Path, args: &[&str]) -> Result<Self> {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        let name = ptsname(&terminal, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let side = File::from(rustix::fs::open(name, flags, Mode::empty())?);
        let mut seal = command::clean(binaries::seal().await?, home);
        seal.args(args).stdin(side.try_clone()?).stdout(Stdio::piped()).stderr(side).kill_on_drop(true);
        let seal = seal.spawn()?;
        let keyboard = File::from(terminal);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut shown, seen) = (keyboard.try_clone()?, Arc::clone(&screen));
        let reader = thread::spawn(move || {
            let mut bytes = [0; 1024];
            // An error is the end of a terminal that nobody has open any more.
            while let Ok(count @ 1..) = shown.read(&mut bytes) {
                seen.lock().extend(&bytes[..count]);
            }
        });
        Ok(Self { seal, keyboard, screen, reader })
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock()).into_owned()
    }

    /// Types a line when it is asked for and the terminal does not show what is typed.
    async fn answer(&mut self, prompt: &str, line: &str) -> Result<()> {
        let waited = eventually(&format!("{prompt:?} without an echo"), SOON, || async {
            let hidden = !tcgetattr(&self.keyboard)?.local_modes.contains(LocalModes::ECHO);
            Ok((hidden && self.seen().contains(prompt)).then_some(()))
        })
        .await;
        waited.with_context(|| self.seen())?;
        Ok(self.keyboard.write_all(format!("{line}\n").as_bytes())?)
    }

    /// How it ended, what it wrote, and what the person saw.
    async fn end(self) -> Result<(bool, String, String)> {
        let output = self.seal.wait_with_output().await?;
        self.reader.join().expect("it only reads");
        let screen = String::from_utf8_lossy(&self.screen.lock()).into_owned();
        Ok((output.status.success(), String::from_utf8(output.stdout)?, screen))
    }
}

#[tokio::test]
async fn a_passphrase_is_asked_for_and_not_shown() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("terminal").await?;
    let sealed = place.apply_sealed("db", &[("password", "hunter2")]).await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("db.yaml"), sealed)?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, backup) = (path("db.yaml"), path("keys.yaml"));
    let kubeconfig = world.cluster.kubeconfig().display().to_string();
    let backed_up = ["keys", "backup", &backup, "--passphrase", "--kubeconfig", &kubeconfig];

    let mut slip = Session::start(folder.path(), &backed_up).await?;
    slip.answer("Passphrase for the backup: ", WORDS).await?;
    slip.answer("The same again: ", "three words lnog").await?;
    let (done, _, screen) = slip.end().await?;
    assert!(!done && screen.contains("the two passphrases are not the same"), "{screen}");
    assert!(!Path::new(&backup).exists());

    let mut session = Session::start(folder.path(), &backed_up).await?;
    session.answer("Passphrase for the backup: ", WORDS).await?;
    session.answer("The same again: ", WORDS).await?;
    let (done, _, screen) = session.end().await?;
    assert!(done && !screen.contains(WORDS), "{screen}");

    let mut session = Session::start(folder.path(), &["unseal", &file, "--recovery-private-key", &backup]).await?;
    session.answer(&format!("Passphrase of {backup}: "), WORDS).await?;
    let (done, opened, screen) = session.end().await?;
    assert!(done && !screen.contains(WORDS) && !screen.contains("hunter2"), "{screen}");
    assert!(opened.contains(&STANDARD.encode("hunter2")), "{opened}");
    Ok(())
}
