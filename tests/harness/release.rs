//! What a release is made of: static programs, archives that are the same bytes whenever they are made of the same files,
//! and the manifest by which krew installs `kubectl seal`. It must not look at the clock, nor leave a trace of who runs it.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{binaries, command};

/// Of every package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The alias of .cargo/config.toml that builds what needs no library beside it.
pub const STATIC: &str = "static";

/// Builds a package as a release has it; the folder with its program. Takes minutes when it is not built yet. Each is built
/// by itself, as the Dockerfile does, or the other's features would get into it.
pub async fn build(package: &'static str) -> Result<PathBuf> {
    tokio::task::spawn_blocking(move || {
        let target = binaries::profile()?.parent().context("this program lies in no target folder")?.to_owned();
        let crates = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
        let crates = crates.context("neither CARGO_HOME nor HOME says where crates are")?;
        let mut cargo = binaries::cargo();
        cargo.arg(STATIC).arg("--target-dir").arg(&target);
        // Where this machine has them is in each message of a panic.
        cargo.arg(format!("--config=build.rustflags=['--remap-path-prefix={}=/cargo']", crates.display()));
        let built = cargo.args(["--package", package]).status().context("failed to run cargo")?;
        ensure!(built.success(), "cargo {STATIC} failed: see above");
        let about = Command::new("rustc").arg("-vV").output().context("failed to run rustc")?;
        let about = String::from_utf8(about.stdout)?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        Ok(target.join(host).join("release"))
    })
    .await?
}

/// What a program's files are called without their extension.
pub fn name(program: &str) -> String {
    // As Go and krew call them.
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    name_for(program, env::consts::OS, arch)
}

/// The same for another machine.
pub fn name_for(program: &str, os: &str, arch: &str) -> String {
    format!("{program}-v{VERSION}-{os}-{arch}")
}

/// Writes a .tar.gz of files, and of folders with all that lies in them, by their names in the archive: in one order,
/// nobody's, and of one time (in Unix seconds).
pub fn archive(entries: &[(&Path, &str)], time: u64, to: &Path) -> Result<()> {
    let mut found = BTreeMap::new();
    for (from, name) in entries {
        find(from, name.into(), &mut found)?;
    }
    let file = File::create(to).with_context(|| format!("failed to write {}", to.display()))?;
    let mut archive = tar::Builder::new(GzBuilder::new().write(file, Compression::best()));
    for (name, path) in found {
        let content = read(&path)?;
        let is_program = fs::metadata(&path)?.permissions().mode() & 0o100 != 0;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if is_program { 0o755 } else { 0o644 });
        header.set_mtime(time);
        archive.append_data(&mut header, name, content.as_slice())?;
    }
    archive.into_inner()?.finish()?;
    Ok(())
}

/// A link is what it leads to.
fn find(from: &Path, name: PathBuf, found: &mut BTreeMap<PathBuf, PathBuf>) -> Result<()> {
    if !from.is_dir() {
        found.insert(name, from.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(from).with_context(|| format!("failed to read {}", from.display()))? {
        let entry = entry?;
        find(&entry.path(), name.join(entry.file_name()), found)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Writes what is committed in a repository, and nothing else that lies there, into a folder.
pub async fn sources(repository: &Path, folder: &Path) -> Result<()> {
    let packed = folder.with_extension("tar");
    let mut git = tokio::process::Command::new("git");
    let git = git.args(["archive", "HEAD", "--output"]).arg(&packed).current_dir(repository);
    command::run(git, b"").await?.success()?;
    tar::Archive::new(File::open(&packed)?).unpack(folder)?;
    Ok(())
}

/// The chart as `helm install` takes it, of the sources into a folder.
pub fn chart(sources: &Path, time: u64, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("signet-{VERSION}.tgz"));
    archive(&[(&sources.join("deploy/chart"), "signet")], time, &path)?;
    Ok(path)
}

/// All by which kubectl and kustomize install it, of the sources into a folder.
pub fn manifests(sources: &Path, time: u64, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("signet-deploy-v{VERSION}.tar.gz"));
    let [deploy, crds] = ["deploy", "crds/crds.yaml"].map(|name| (sources.join(name), name));
    archive(&[(&deploy.0, deploy.1), (&crds.0, crds.1)], time, &path)?;
    Ok(path)
}

/// Of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    Ok(data_encoding::HEXLOWER.encode(&Sha256::digest(read(path)?)))
}

/// As `sha256sum --check` reads it, of every file in a folder but one.
pub fn checksums(folder: &Path, without: &str) -> Result<String> {
    let mut found = BTreeMap::new();
    find(folder, PathBuf::new(), &mut found)?;
    found.remove(Path::new(without));
    found.iter().map(|(name, path)| Ok(format!("{}  {}\n", sha256(path)?, name.display()))).collect()
}

/// The manifest of krew's plugin `seal`, for the archives of `seal` that lie in the folder; `url` is where the folder's
/// files can be fetched from, and `homepage` what users read.
pub fn krew(folder: &Path, url: &str, homepage: &str) -> Result<Value> {
    let mut found = BTreeMap::new();
    find(folder, PathBuf::new(), &mut found)?;
    let mut platforms = Vec::new();
    for (name, path) in &found {
        let name = name.to_string_lossy();
        let platform = name.strip_prefix(&format!("seal-v{VERSION}-")).and_then(|rest| rest.strip_suffix(".tar.gz"));
        let Some((os, arch)) = platform.and_then(|platform| platform.split_once('-')) else { continue };
        platforms.push(json!({
            "selector": {"matchLabels": {"os": os, "arch": arch}},
            "uri": format!("{}/{name}", url.trim_end_matches('/')),
            "sha256": sha256(path)?,
            "bin": "seal",
            "files": [{"from": "seal", "to": "."}, {"from": "LICENSE", "to": "."}],
        }));
    }
    Ok(json!({
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "seal"},
        "spec": {
            "version": format!("v{VERSION}"),
            "homepage": homepage,
            "shortDescription": "Seal Secrets so that they can live in Git",
            "description": "Encrypts Secrets for the sealed-secrets controller of a cluster, so that they can be committed. \
                Also looks after the controller's keys and after the GitSyncs of a cluster.",
            "platforms": platforms,
        },
    }))
}
