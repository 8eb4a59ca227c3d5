//! Where the harness finds programs, and what it says when it cannot.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Result, anyhow};
use harness::{
    command, kubeseal,
    scratch::Scratch,
    tools::{Surroundings, Tool},
};

#[tokio::test]
async fn without_go_the_error_says_what_to_do() -> Result<()> {
    let scratch = Scratch::new("signet-no-go-")?;
    let surroundings = Surroundings {
        cache: Some(scratch.path().to_owned()),
        path: Some(scratch.folder("bin")?.into_os_string()),
        ..Surroundings::default()
    };
    let error = Tool::ApiServer.locate(&surroundings).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("kube-apiserver v1.") && error.contains("https://go.dev/dl"), "{error}");
    assert!(error.contains("KUBEBUILDER_ASSETS"), "{error}");
    Ok(())
}

#[test]
fn an_assets_folder_without_the_program_is_named() -> Result<()> {
    let scratch = Scratch::new("signet-no-assets-")?;
    let surroundings = Surroundings { assets: Some(scratch.path().to_owned()), ..Surroundings::default() };
    let error = Tool::Etcd.locate(&surroundings).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains(&*scratch.path().to_string_lossy()) && error.contains("no etcd"), "{error}");
    Ok(())
}

/// The servers of the newest three minors; the rest is what it always is.
#[test]
fn another_minor_may_be_asked_for() -> Result<()> {
    let scratch = Scratch::new("signet-minor-")?;
    let assets = Some(scratch.folder("assets")?);
    scratch.file("assets/kubectl", "")?;
    let go = with_go(&scratch, "echo whole > \"$out\"")?;
    for minor in ["1.34", "1.35"] {
        let surroundings = Surroundings { kubernetes: Some(minor.to_owned()), assets: assets.clone(), ..go.clone() };
        for tool in [Tool::ApiServer, Tool::ControllerManager] {
            let path = tool.locate(&surroundings)?.display().to_string();
            assert!(path.contains(&format!("control-plane-{minor}-")), "{path}");
        }
        assert!(Tool::Kubectl.locate(&surroundings)?.starts_with(scratch.path().join("assets")));
    }
    let unknown = Surroundings { kubernetes: Some("1.2".to_owned()), ..go };
    let error = Tool::ApiServer.locate(&unknown).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("SIGNET_KUBERNETES") && error.contains("control-plane-1.2"), "{error}");
    Ok(())
}

#[tokio::test]
async fn kubeseal_is_the_version_we_promise_to_match() -> Result<()> {
    let output = kubeseal(None, &["--version"], "").await?;
    assert_eq!(output.success()?.trim(), "kubeseal version: v0.40.0");
    Ok(())
}

#[tokio::test]
async fn kustomize_and_helm_are_the_versions_that_the_image_ships() -> Result<()> {
    for (tool, args, version) in
        [(Tool::Kustomize, &["version"][..], "v5.8.2"), (Tool::Helm, &["version", "--short"], "v3.19.5")]
    {
        let output = std::process::Command::new(tool.path().await?).args(args).env_clear().output()?;
        let said = String::from_utf8(output.stdout)?;
        assert!(said.starts_with(version), "{said}");
        assert!(fs::read_to_string("../Dockerfile")?.contains(&format!("@{version}")), "{version}");
    }
    Ok(())
}

#[test]
fn a_failed_build_is_told_and_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new("signet-bad-go-")?;
    let surroundings = with_go(&scratch, "echo half > \"$out\"; echo 'undefined: everything' >&2; exit 1")?;
    let error = Tool::Etcd.locate(&surroundings).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("undefined: everything"), "{error}");
    assert_eq!(built(scratch.path())?, Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn two_who_need_a_program_build_it_once() -> Result<()> {
    let scratch = Scratch::new("signet-go-")?;
    let runs = scratch.path().join("runs");
    let surroundings = with_go(&scratch, &format!("echo run >> {}; echo whole > \"$out\"", runs.display()))?;
    thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| Tool::Etcd.locate(&surroundings)));
        both.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a thread panicked"))?.map(drop))
    })?;
    assert_eq!(fs::read_to_string(runs)?, "run\n");
    let built = built(scratch.path())?;
    assert!(matches!(&built[..], [one] if one.ends_with("etcd")), "{built:?}");
    Ok(())
}

/// Surroundings with an empty cache and a `go` that does what `script` says, `$out` being the file it shall build.
fn with_go(scratch: &Scratch, script: &str) -> Result<Surroundings> {
    let bin = scratch.folder("bin")?;
    let find_out = "while [ \"$1\" != -o ]; do shift; done; out=$2";
    command::executable(&bin.join("go"), format!("#!/bin/sh\n{find_out}\n{script}\n"))?;
    let (cache, path) = (Some(scratch.folder("cache")?), Some(bin.into_os_string()));
    Ok(Surroundings { cache, path, ..Surroundings::default() })
}

/// What stands in the cache, locks aside.
fn built(scratch: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(scratch.join("cache/signet"))? {
        for file in fs::read_dir(folder?.path())? {
            found.push(file?.path());
        }
    }
    found.retain(|path| !path.ends_with(".lock"));
    Ok(found)
}
