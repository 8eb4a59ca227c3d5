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
use harness::{binaries, command, eventually, seal};
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
        Self::start_with(home, args, "false").await
    }

    async fn start_with(home: &Path, args: &[&str], editor: &str) -> Result<Self> {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        let name = ptsname(&terminal, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let side = File::from(rustix::fs::open(name, flags, Mode::empty())?);
        let mut seal = command::clean(binaries::seal().await?, home);
        seal.args(args)
            .env("EDITOR", editor)
            .stdin(side.try_clone()?)
            .stdout(Stdio::piped())
            .stderr(side)
            .kill_on_drop(true);
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
            // In this order: before it asks the terminal may still be as it was for the last question.
            let is_asked = self.seen().contains(prompt);
            Ok((is_asked && !tcgetattr(&self.keyboard)?.local_modes.contains(LocalModes::ECHO)).then_some(()))
        })
        .await;
        waited.with_context(|| self.seen())?;
        Ok(self.keyboard.write_all(format!("{line}\n").as_bytes())?)
    }

    /// How it ended, what it wrote, and what the person saw.
    async fn end(self) -> Result<(bool, String, String)> {
        let ended = tokio::time::timeout(SOON, self.seal.wait_with_output()).await;
        let output =
            ended.with_context(|| format!("it does not end: {}", String::from_utf8_lossy(&self.screen.lock())))??;
        self.reader.join().expect("it only reads");
        let screen = String::from_utf8_lossy(&self.screen.lock()).into_owned();
        Ok((output.status.success(), String::from_utf8(output.stdout)?, screen))
    }
}

/// Nobody types a Secret twice because what was to seal it was not there.
#[tokio::test]
async fn an_edit_that_is_not_sealed_is_in_the_editor_again() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("edit").await?;
    let sealed = world.seal(&place.secret("db", &[("password", "old")]), &[]).await?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("db.yaml"), &sealed)?;
    let kubeconfig = Some(world.cluster.kubeconfig());
    std::fs::write(path("spare.pem"), seal(kubeconfig, &["--fetch-cert"], "").await?.success()?)?;
    let (file, certificate, seen) = (path("db.yaml"), path("cert.pem"), path("seen"));
    let edit = ["edit", "--cert", &certificate, &file];
    // The first time it writes a value, the second time it leaves that.
    let write = "sed -i \"s/^  password: .*/  password: new/\" \"$1\"";
    let leaves = format!("sh -c 'if grep -q ERROR \"$1\"; then cp \"$1\" {seen}; else {write}; fi' sh");
    let (done, _, screen) = Session::start_with(folder.path(), &edit, &leaves).await?.end().await?;
    let why = format!("open {certificate}");
    assert!(!done && screen.matches(&why).count() == 2 && !screen.contains("new"), "{screen}");
    let offered = std::fs::read_to_string(&seen)?;
    assert!(offered.starts_with("# ERROR: ") && offered.contains("\n  password: new\n"), "{offered}");
    assert!(offered.lines().next().is_some_and(|line| line.contains(&why)), "{offered}");
    assert_eq!(std::fs::read_to_string(&file)?, sealed);

    // The second time there is a certificate, and all is saved once more.
    let spare = path("spare.pem");
    let again = format!(
        "sh -c 'if grep -q ERROR \"$1\"; then cp {spare} {certificate}; sed -i /^#/d \"$1\"; else {write}; fi' sh"
    );
    let (done, _, screen) = Session::start_with(folder.path(), &edit, &again).await?.end().await?;
    assert!(done && screen.matches(&why).count() == 1, "{screen}");
    world.cluster.apply(&std::fs::read_to_string(&file)?).await?;
    place.holds("db", &[("password", "new")]).await?;
    Ok(())
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
