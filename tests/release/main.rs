//! `cargo release`: everything that a release of this version holds, in one folder, and prints what that is. Of the
//! same commit and programs all is the same, whoever makes it and when.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use console::Term;
use harness::{command, release, scratch::Scratch};
use tokio::process::Command;

/// Makes the SBOMs.
const CYCLONEDX: &str = "0.5.9";
/// Packages that are released, and their programs.
const PROGRAMS: [(&str, &str); 2] = [("cli", "seal"), ("controller", "signet-controller")];
/// Its checksum cannot be in it.
const CHECKSUMS: &str = "checksums.txt";

/// Makes archives, SBOMs, manifests and checksums of this version.
#[derive(Parser)]
#[command(name = "cargo release", bin_name = "cargo release")]
struct Args {
    /// Where the folder's files will be fetched from; krew's manifest says so.
    #[arg(long, value_name = "URL")]
    url: String,
    /// What krew's users are told to read.
    #[arg(long, value_name = "URL")]
    homepage: String,
    /// Folder for all of it. Archives of other platforms that lie there already go into krew's manifest.
    #[arg(long, default_value = concat!("target/dist/v", env!("CARGO_PKG_VERSION")), value_name = "DIR")]
    to: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(run(&args))
}

async fn run(args: &Args) -> Result<()> {
    let term = Term::stdout();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let to = &args.to;
    let git = async |words: &[&str]| output(Command::new("git").args(words).current_dir(root)).await;
    let changed = git(&["status", "--porcelain"]).await?;
    ensure!(changed.is_empty(), "a release is made of a commit: commit or stash these, then try again\n{changed}");
    let there = output(Command::new("cargo").args(["cyclonedx", "--version"])).await.unwrap_or_default();
    let install = format!("cargo install cargo-cyclonedx --version {CYCLONEDX} --locked");
    ensure!(there.contains(CYCLONEDX), "SBOMs are made by cargo-cyclonedx {CYCLONEDX}, which is not here: {install}");
    let time = git(&["log", "-1", "--format=%ct"]).await?.trim().parse()?;
    fs::create_dir_all(to).with_context(|| format!("failed to make {}", to.display()))?;

    term.write_line("building: takes minutes the first time")?;
    let scratch = Scratch::new("signet-release-")?;
    let seal = release::build("cli").await?.join("seal");
    let controller = release::build("controller").await?.join("signet-controller");
    // What is ignored lies in the working tree, too: only a copy of the commit is packed.
    let sources = scratch.folder("sources")?;
    release::sources(root, &sources).await?;
    let (license, readme) = (sources.join("LICENSE"), sources.join("README.md"));
    let texts = [(license.as_path(), "LICENSE"), (readme.as_path(), "README.md")];

    // The CLI goes with what packages install beside it.
    let (completions, man) = (scratch.folder("completions")?, scratch.folder("man")?);
    for (shell, file) in [("bash", "seal.bash"), ("zsh", "_seal"), ("fish", "seal.fish"), ("powershell", "seal.ps1")] {
        fs::write(completions.join(file), output(Command::new(&seal).args(["completion", shell])).await?)?;
    }
    output(Command::new(&seal).arg("man").arg(&man)).await?;
    let beside = [(seal.as_path(), "seal"), (&completions, "completions"), (&man, "man/man1")];
    release::archive(&[&beside[..], &texts].concat(), time, &to.join(release::name("seal") + ".tar.gz"))?;
    let program = [(controller.as_path(), "signet-controller")];
    let name = release::name("signet-controller") + ".tar.gz";
    release::archive(&[&program[..], &texts].concat(), time, &to.join(name))?;

    // How it is installed.
    release::chart(&sources, time, to)?;
    release::manifests(&sources, time, to)?;
    fs::write(to.join("install.yaml"), output(Command::new(&seal).arg("install")).await?)?;

    // One SBOM for each program. They are written beside every Cargo.toml: last, that none gets into an archive.
    let mut boms = Command::new("cargo");
    boms.args(["cyclonedx", "--format=json", "--spec-version=1.5", "--describe=binaries", "--no-build-deps"]);
    output(boms.env("SOURCE_DATE_EPOCH", format!("{time}")).current_dir(&sources)).await?;
    for (package, program) in PROGRAMS {
        let bom = fs::read_to_string(sources.join(package).join(format!("{program}_bin.cdx.json")))?;
        // Where it was made is nobody's business, and would make another file of it.
        let bom = bom.replace(&sources.display().to_string(), "/src");
        fs::write(to.join(release::name(program) + ".cdx.json"), bom)?;
    }

    let krew = release::krew(to, &args.url, &args.homepage)?;
    fs::write(to.join("seal.yaml"), crds::yaml::to_string(&krew)?)?;
    let checksums = release::checksums(to, CHECKSUMS)?;
    fs::write(to.join(CHECKSUMS), &checksums)?;
    term.write_line(&format!("{}:\n{checksums}", to.display()))?;
    Ok(())
}

/// What a program says.
async fn output(command: &mut Command) -> Result<String> {
    command::run(command, b"").await?.success()
}
