//! What a release is made of: archives that do not depend on who makes them, a chart that the real helm takes, and a plugin
//! that the real krew takes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use harness::{chart, command, release, scratch::Scratch, tools::Tool};

/// A commit's time.
const TIME: u64 = 1_700_000_000;

/// What an archive of `seal` is made of, in a folder of that name.
fn folder(scratch: &Scratch, name: &str) -> Result<PathBuf> {
    let folder = scratch.folder(name)?;
    fs::create_dir(folder.join("man"))?;
    fs::write(folder.join("man/seal.1"), ".TH seal\n")?;
    fs::write(folder.join("LICENSE"), "as it is\n")?;
    fs::write(folder.join("program"), "#!/bin/sh\necho \"run as ${0##*/}\"\n")?;
    fs::set_permissions(folder.join("program"), fs::Permissions::from_mode(0o700))?;
    Ok(folder)
}

fn archive(folder: &Path, to: &Path) -> Result<()> {
    let (program, man, license) = (folder.join("program"), folder.join("man"), folder.join("LICENSE"));
    release::archive(&[(&program, "seal"), (&man, "man/man1"), (&license, "LICENSE")], TIME, to)
}

#[tokio::test]
async fn the_same_files_make_the_same_archive() -> Result<()> {
    let scratch = Scratch::new("signet-archive-")?;
    let (one, other) = (folder(&scratch, "one")?, folder(&scratch, "other")?);
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(TIME * 2);
    fs::File::options().append(true).open(other.join("LICENSE"))?.set_modified(later)?;
    fs::set_permissions(other.join("LICENSE"), fs::Permissions::from_mode(0o600))?;
    let (first, second) = (scratch.path().join("1.tar.gz"), scratch.path().join("2.tar.gz"));
    archive(&one, &first)?;
    archive(&other, &second)?;
    assert_eq!(release::sha256(&first)?, release::sha256(&second)?);

    let mut tar = command::clean("tar", scratch.path());
    let list = command::run(tar.args(["--list", "--verbose", "--utc", "--file"]).arg(&first), b"").await?.success()?;
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line[0], line[1], line[3], line[5])).collect();
    let (plain, program) = ("-rw-r--r--", "-rwxr-xr-x");
    let expected = [(plain, "LICENSE"), (plain, "man/man1/seal.1"), (program, "seal")];
    assert_eq!(seen, expected.map(|(mode, name)| (mode, "0/0", "2023-11-14", name)));
    Ok(())
}

/// A file of its maker that Git ignores lies in the working tree, and is nobody else's business.
#[tokio::test]
async fn only_what_is_committed_is_released() -> Result<()> {
    let scratch = Scratch::new("signet-sources-")?;
    let root = scratch.folder("root")?;
    let git = async |args: &[&str]| {
        let mut git = command::clean("git", &root);
        git.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]).args(args).current_dir(&root);
        command::run(&mut git, b"").await?.success()
    };
    git(&["init", "--quiet"]).await?;
    fs::create_dir_all(root.join("deploy/chart"))?;
    fs::create_dir(root.join("crds"))?;
    for file in ["deploy/install.yaml", "deploy/chart/Chart.yaml", "crds/crds.yaml"] {
        fs::write(root.join(file), "committed\n")?;
    }
    git(&["add", "."]).await?;
    git(&["commit", "--quiet", "--message=one"]).await?;
    for file in ["deploy/.env", "deploy/chart/.env"] {
        fs::write(root.join(file), "TOKEN=mine\n")?;
    }
    fs::write(root.join(".git/info/exclude"), ".env\n")?;
    assert_eq!(git(&["status", "--porcelain"]).await?, "", "all is committed, as far as Git says");

    let sources = scratch.folder("sources")?;
    release::sources(&root, &sources).await?;
    let list = async |archive: PathBuf| {
        let mut tar = command::clean("tar", scratch.path());
        command::run(tar.args(["--list", "--file"]).arg(&archive), b"").await?.success()
    };
    let manifests = list(release::manifests(&sources, TIME, scratch.path())?).await?;
    assert_eq!(manifests, "crds/crds.yaml\ndeploy/chart/Chart.yaml\ndeploy/install.yaml\n");
    assert_eq!(list(release::chart(&sources, TIME, scratch.path())?).await?, "signet/Chart.yaml\n");
    Ok(())
}

#[tokio::test]
async fn the_archive_of_the_chart_is_the_chart() -> Result<()> {
    let scratch = Scratch::new("signet-chart-")?;
    let sources = chart::folder().parent().context("the workspace")?.to_owned();
    let path = release::chart(&sources, TIME, scratch.path())?;
    let path = path.to_str().context("the temporary folder is not UTF-8")?;
    let packed = chart::helm(&["template", "signet", path, "--namespace=kube-system"]).await?.success()?;
    assert_eq!(packed, chart::template(&[]).await?.success()?);
    Ok(())
}

/// By its manifest and the archive's checksum, for this platform; and it runs as kubectl would run it.
#[tokio::test]
async fn krew_installs_the_plugin() -> Result<()> {
    let scratch = Scratch::new("signet-krew-")?;
    let dist = scratch.folder("dist")?;
    let mine = dist.join(release::name("seal") + ".tar.gz");
    archive(&folder(&scratch, "seal")?, &mine)?;
    fs::write(dist.join(release::name_for("seal", "darwin", "arm64") + ".tar.gz"), "of another machine")?;
    let manifest = release::krew(&dist, "https://example.com/v1/", "https://example.com")?;
    let platforms = manifest["spec"]["platforms"].as_array().map_or(0, Vec::len);
    assert_eq!(platforms, 2, "{manifest}");
    let path = dist.join("seal.yaml");
    fs::write(&path, crds::yaml::to_string(&manifest)?)?;
    let mut validator = command::clean(Tool::KrewValidator.path().await?, scratch.path());
    // What it would install it would have to download first.
    command::run(validator.args(["-skip-install", "-manifest"]).arg(&path), b"").await?.success()?;

    let install = async |archive: &Path| {
        let mut krew = command::clean(Tool::Krew.path().await?, scratch.path());
        krew.env("KREW_ROOT", scratch.path().join("krew")).arg("install");
        krew.arg(format!("--manifest={}", path.display())).arg(format!("--archive={}", archive.display()));
        command::run(&mut krew, b"").await
    };
    let other = scratch.path().join("other.tar.gz");
    release::archive(&[(&dist, "dist")], TIME, &other)?;
    let refused = install(&other).await?;
    assert!(!refused.status.success() && refused.stderr.contains("checksum"), "{refused}");
    install(&mine).await?.success()?;
    let mut plugin = command::clean(scratch.path().join("krew/bin/kubectl-seal"), scratch.path());
    assert_eq!(command::run(&mut plugin, b"").await?.success()?, "run as kubectl-seal\n");
    let license = scratch.path().join(format!("krew/store/seal/v{}/LICENSE", release::VERSION));
    assert!(license.is_file(), "krew's index demands it");
    Ok(())
}

#[tokio::test]
async fn checksums_are_what_sha256sum_reads() -> Result<()> {
    let scratch = Scratch::new("signet-checksums-")?;
    let dist = folder(&scratch, "dist")?;
    fs::write(dist.join("checksums.txt"), "of the last time")?;
    fs::write(dist.join("checksums.txt"), release::checksums(&dist, "checksums.txt")?)?;
    let check = async || {
        let mut check = command::clean("sha256sum", scratch.path());
        command::run(check.args(["--check", "--strict", "checksums.txt"]).current_dir(&dist), b"").await
    };
    assert_eq!(check().await?.success()?, "LICENSE: OK\nman/seal.1: OK\nprogram: OK\n");
    fs::write(dist.join("LICENSE"), "as it is not\n")?;
    assert!(!check().await?.status.success());
    Ok(())
}
