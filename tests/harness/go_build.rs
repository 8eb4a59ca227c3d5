//! Builds one Go program into a cache folder, once per machine: under a lock, since test binaries start together, and
//! under another name until it is whole, since builds get interrupted. It must not know what the program is for.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use console::Term;
use indicatif::{HumanDuration, ProgressBar};

/// How much of a failed build's output the error repeats.
const TAIL: usize = 20;

/// What to build, from where, to where.
pub struct Build {
    pub program: &'static str,
    pub package: &'static str,
    pub version: String,
    pub takes: &'static str,
    pub ldflags: String,
    pub tags: &'static str,
    /// Changes to what is built, file by file.
    pub patches: &'static [Patch],
    /// The folder with go.mod.
    pub source: PathBuf,
    /// The folder that keeps the program.
    pub target: PathBuf,
    /// PATH, where Go is looked for.
    pub path: Option<OsString>,
}

/// One change of a source file of a dependency, made while building and kept nowhere.
#[derive(Debug)]
pub struct Patch {
    /// From its module's path on.
    pub file: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

/// The built program's path; builds it when it is not there.
pub fn ensure_built(build: &Build) -> Result<PathBuf> {
    let Build { program, target, .. } = build;
    let path = target.join(program);
    if path.is_file() {
        return Ok(path);
    }
    let go = find_go(build)?;
    fs::create_dir_all(target).with_context(|| format!("failed to make {}", target.display()))?;
    // One lock for the folder: two builds at once only take each other's cores.
    let lock = File::create(target.join(".lock"))?;
    lock.lock().context("failed to wait for another build")?;
    if !path.is_file() {
        let unfinished = target.join(format!(".{program}.{}", std::process::id()));
        compile(build, &go, &unfinished)?;
        fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

fn find_go(build: &Build) -> Result<PathBuf> {
    let folders = build.path.as_deref().map(|path| env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    folders.into_iter().map(|folder| folder.join("go")).find(|go| go.is_file()).with_context(|| {
        format!(
            "{} {} is built from source, once, and that needs Go, which is not on PATH: install it from \
             https://go.dev/dl, or name a folder of ready programs with KUBEBUILDER_ASSETS",
            build.program, build.version
        )
    })
}

fn compile(build: &Build, go: &Path, unfinished: &Path) -> Result<()> {
    let Build { program, package, version, takes, ldflags, tags, source, patches, .. } = build;
    let telling = Telling::start(&format!("building {program} {version}, about {takes}, once"));
    let copy = tempfile::tempdir()?;
    let mut command = if patches.is_empty() {
        go_command(go, source)
    } else {
        patch(go, source, patches, copy.path())?;
        go_command(go, copy.path())
    };
    command.arg("build").args((!patches.is_empty()).then_some("-mod=vendor"));
    command
        .args(["-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(format!("-s -w {ldflags}"))
        .args(["-tags", tags])
        .arg("-o")
        .args([unfinished.as_os_str(), package.as_ref()]);
    let output = command.output().with_context(|| format!("failed to run {}", go.display()))?;
    if output.status.success() {
        telling.end(&format!("built {program} {version}"));
        return Ok(());
    }
    let _ = fs::remove_file(unfinished);
    telling.end(&format!("failed to build {program} {version}"));
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    bail!("go build ended with {}:\n{}", output.status, lines[lines.len().saturating_sub(TAIL)..].join("\n"))
}

fn go_command(go: &Path, source: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", env::var_os("GOTOOLCHAIN").unwrap_or_else(|| "local".into()))
        .stdin(Stdio::null());
    command
}

/// Makes a copy of the module with all that it depends on, and changes that. Go lets nobody change its own cache.
fn patch(go: &Path, source: &Path, patches: &[Patch], copy: &Path) -> Result<()> {
    for name in ["go.mod", "go.sum"] {
        fs::copy(source.join(name), copy.join(name))?;
    }
    let output = go_command(go, copy).args(["mod", "vendor"]).output()?;
    ensure!(output.status.success(), "go mod vendor failed:\n{}", String::from_utf8_lossy(&output.stderr));
    for Patch { file, from, to } in patches {
        let path = copy.join("vendor").join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {file}"))?;
        ensure!(text.contains(from), "{file} does not hold what is to be patched: {from}");
        fs::write(&path, text.replace(from, to))?;
    }
    Ok(())
}

/// Says on stderr that something long is going on: a spinner for a person, two lines for a log.
struct Telling {
    spinner: Option<ProgressBar>,
    since: Instant,
}

impl Telling {
    fn start(what: &str) -> Self {
        let spinner = Term::stderr().is_term().then(|| {
            let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
            spinner.set_style(
                indicatif::ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                    .unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()),
            );
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        if spinner.is_none() {
            say(what);
        }
        Self { spinner, since: Instant::now() }
    }

    fn end(self, what: &str) {
        if let Some(spinner) = self.spinner {
            spinner.finish_and_clear();
        }
        say(&format!("{what} in {}", HumanDuration(self.since.elapsed())));
    }
}

fn say(line: &str) {
    // Nobody to tell is no reason to fail.
    let _ = Term::stderr().write_line(line);
}
