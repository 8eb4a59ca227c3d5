//! Who may say what is applied: signed commits and tags, made by the real git.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result};
use crds::{GitSync, git_sync::ROLLBACK};
use harness::{Repository, scratch::Scratch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{applied, change, commit, condition, follow, refused, says, secret};
use crate::world::{config_map, start};

/// Somebody's keys, in files that git and ssh-keygen take.
struct Signer {
    _scratch: Scratch,
    key: PathBuf,
    public: String,
}

impl Signer {
    fn new() -> Result<Self> {
        let scratch = Scratch::new("signet-signer-")?;
        let key = scratch.path().join("key");
        let public = harness::ssh::key_pair(key.to_str().context("a path")?)?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        std::fs::write(key.with_extension("pub"), &public)?;
        Ok(Self { _scratch: scratch, key, public })
    }

    async fn git(&self, repository: &Repository, arguments: &[&str]) -> Result<String> {
        let key = format!("user.signingkey={}", self.key.display());
        repository.git(&[["-c", "gpg.format=ssh", "-c", &key].as_slice(), arguments].concat()).await
    }

    async fn commit(&self, repository: &Repository, value: &str) -> Result<String> {
        repository.write("map.yaml", config_map("settings", value))?;
        repository.git(&["add", "--all"]).await?;
        self.git(repository, &["commit", "--quiet", "-S", "--message", value]).await?;
        repository.push(&[]).await?;
        repository.head().await
    }
}

/// Scenario 39: the last one that was signed stays.
#[tokio::test]
async fn only_what_is_signed_is_applied() -> Result<()> {
    let (place, git) = start("signed").await?;
    let (ada, eve) = (Signer::new()?, Signer::new()?);
    let repository = git.create("app").await?;
    let verify = json!({"secretRef": {"name": "signers"}});
    let source = json!({"url": repository.url(), "verify": verify});
    commit(&repository, "unsigned").await?;
    secret(&place, "signers", &[("readme.txt", "no key")]).await?;
    follow(&place, "app", source, "1s").await?;
    let ready = refused(&place, "app", "VerificationError").await?;
    assert!(ready.message.contains(".sshpub"), "{}", ready.message);
    secret(&place, "signers", &[("ada.sshpub", &ada.public)]).await?;
    let unsigned = |ready: &Condition, _: &GitSync| ready.message.contains("bears no signature");
    place.ready("app", unsigned).await?;

    let first = ada.commit(&repository, "one").await?;
    applied(&place, "app", &format!("main@sha1:{first}")).await?;
    let verified = condition(&place, "app", "SourceVerified").await?.context("SourceVerified")?;
    assert!(verified.status == "True" && verified.message.contains("SHA256:"), "{verified:?}");

    eve.commit(&repository, "eve").await?;
    place.ready("app", |ready, _| ready.message.contains("not in the Secret")).await?;
    assert_eq!(condition(&place, "app", "SourceVerified").await?.context("SourceVerified")?.status, "False");
    // A good signature under other words.
    let raw = repository.git(&["cat-file", "commit", &first]).await?;
    let forged = raw.replace("\none\n", "\nforged\n");
    assert_ne!(raw, forged);
    repository.write("../forged", &forged)?;
    let forged = repository.git(&["hash-object", "-t", "commit", "-w", "../forged"]).await?;
    repository.git(&["push", "--quiet", "--force", "origin", &format!("{}:main", forged.trim())]).await?;
    place.ready("app", |ready, _| ready.message.contains("changed after signing")).await?;
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    maps.delete("settings", &kube::api::DeleteParams::default()).await?;
    says(&place, "one").await?;
    Ok(())
}

#[tokio::test]
async fn nobody_goes_back_to_what_is_not_signed() -> Result<()> {
    let (place, git) = start("back").await?;
    let ada = Signer::new()?;
    let repository = git.create("app").await?;
    secret(&place, "signers", &[("ada.sshpub", &ada.public)]).await?;
    let unsigned = commit(&repository, "before anybody signed").await?;
    follow(&place, "app", json!({"url": repository.url()}), "1s").await?;
    applied(&place, "app", &format!("main@sha1:{unsigned}")).await?;
    change(&place, "app", json!({"verify": {"secretRef": {"name": "signers"}}})).await?;
    let mut signed = Vec::new();
    for value in ["one", "two"] {
        signed.push(ada.commit(&repository, value).await?);
        applied(&place, "app", &format!("main@sha1:{}", signed[signed.len() - 1])).await?;
    }
    let back = async |to: &str| {
        let asked = json!({"metadata": {"annotations": {ROLLBACK: to}}});
        place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(asked)).await
    };
    back(&unsigned).await?;
    refused(&place, "app", "VerificationError").await?;
    says(&place, "two").await?;
    back(&signed[0]).await?;
    says(&place, "one").await?;
    Ok(())
}

#[tokio::test]
async fn a_signed_commit_carries_no_unsigned_one_along() -> Result<()> {
    let (place, git) = start("range").await?;
    let ada = Signer::new()?;
    let repository = git.create("app").await?;
    secret(&place, "signers", &[("ada.sshpub", &ada.public)]).await?;
    let verify = json!({"range": true, "secretRef": {"name": "signers"}});
    commit(&repository, "before anybody signed").await?;
    let first = ada.commit(&repository, "one").await?;
    follow(&place, "app", json!({"url": repository.url(), "verify": verify}), "1s").await?;
    applied(&place, "app", &format!("main@sha1:{first}")).await?;

    let off = json!({"spec": {"suspend": true}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(off)).await?;
    let smuggled = commit(&repository, "smuggled").await?;
    ada.commit(&repository, "two").await?;
    let on = json!({"spec": {"suspend": false}});
    place.syncs().patch("app", &PatchParams::default(), &Patch::Merge(on)).await?;
    let ready = refused(&place, "app", "VerificationError").await?;
    assert!(ready.message.contains(&smuggled), "{}", ready.message);
    says(&place, "one").await?;

    // Signed anew, the range is whole.
    let key = ["rebase", "--quiet", "--force-rebase", "--gpg-sign", &first];
    ada.git(&repository, &key).await?;
    repository.push(&["--force"]).await?;
    let whole = repository.head().await?;
    applied(&place, "app", &format!("main@sha1:{whole}")).await?;
    let verified = condition(&place, "app", "SourceVerified").await?.context("SourceVerified")?;
    assert!(verified.message.contains("all 2 commits since"), "{}", verified.message);
    Ok(())
}

#[tokio::test]
async fn a_tag_must_be_signed_under_its_name() -> Result<()> {
    let (place, git) = start("tags").await?;
    let ada = Signer::new()?;
    let repository = git.create("app").await?;
    secret(&place, "signers", &[("allowed_signers", &format!("ada@example.com {}", ada.public))]).await?;
    let first = commit(&repository, "one").await?;
    ada.git(&repository, &["tag", "--sign", "--message=one", "v1.0.0"]).await?;
    repository.git(&["push", "--quiet", "--tags", "origin"]).await?;
    let verify = json!({"mode": "Tag", "secretRef": {"name": "signers"}});
    let source = json!({"url": repository.url(), "ref": {"semver": ">=1"}, "verify": verify});
    follow(&place, "app", source, "1s").await?;
    applied(&place, "app", &format!("v1.0.0@sha1:{first}")).await?;

    // The old tag under a new name would take the cluster back.
    commit(&repository, "two").await?;
    repository.git(&["push", "--quiet", "origin", "refs/tags/v1.0.0:refs/tags/v1.1.0"]).await?;
    place.ready("app", |ready, _| ready.message.contains("was signed as v1.0.0")).await?;
    let third = ada.commit(&repository, "three").await?;
    ada.git(&repository, &["tag", "--sign", "--message=three", "v1.2.0"]).await?;
    repository.git(&["push", "--quiet", "--tags", "origin"]).await?;
    change(&place, "app", json!({"verify": {"mode": "TagAndHEAD"}})).await?;
    applied(&place, "app", &format!("v1.2.0@sha1:{third}")).await?;
    Ok(())
}
