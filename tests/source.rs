//! Where a GitSync's manifests come from: what is followed, who may say so, and which way it comes.

mod signed;

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use crds::GitSync;
use data_encoding::HEXLOWER;
use harness::{Controller, ControllerOptions, ForwardProxy, GitServer, Repository, SshServer, TlsFront, eventually};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::world::{Place, SOON, World, config_map, start};

/// Follows a source; looks every second if the spec does not say otherwise.
async fn follow(place: &Place<'_>, name: &str, source: Value, interval: &str) -> Result<()> {
    let spec = json!({"source": source, "interval": interval});
    place.syncs().create(&PostParams::default(), &GitSync::new(name, serde_json::from_value(spec)?)).await?;
    Ok(())
}

async fn change(place: &Place<'_>, name: &str, source: Value) -> Result<()> {
    let patch = json!({"spec": {"source": source}});
    place.syncs().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Waits until a revision is applied whole.
async fn applied(place: &Place<'_>, name: &str, revision: &str) -> Result<()> {
    let is_applied = |ready: &Condition, sync: &GitSync| {
        let applied = sync.status.as_ref().and_then(|status| status.last_applied_revision.as_deref());
        ready.status == "True" && applied == Some(revision)
    };
    place.ready(name, is_applied).await.with_context(|| format!("waiting for {revision}"))?;
    Ok(())
}

async fn refused(place: &Place<'_>, name: &str, reason: &str) -> Result<Condition> {
    place.ready(name, |ready, _| ready.status == "False" && ready.reason == reason).await
}

async fn condition(place: &Place<'_>, name: &str, kind: &str) -> Result<Option<Condition>> {
    let status = place.syncs().get(name).await?.status.unwrap_or_default();
    Ok(status.conditions.into_iter().find(|condition| condition.type_ == kind))
}

async fn secret(place: &Place<'_>, name: &str, entries: &[(&str, &str)]) -> Result<()> {
    let data = entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect();
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data), ..Secret::default() };
    let params = PatchParams::apply("test").force();
    place.secrets().patch(name, &params, &Patch::Apply(secret)).await?;
    Ok(())
}

async fn commit(repository: &Repository, value: &str) -> Result<String> {
    repository.write("map.yaml", config_map("settings", value))?;
    repository.commit(value).await
}

async fn says(place: &Place<'_>, value: &str) -> Result<()> {
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    eventually(&format!("the ConfigMap to say {value}"), SOON, || async {
        let map = maps.get_opt("settings").await?;
        Ok(map.filter(|map| map.data.iter().flatten().any(|(_, it)| it == value)).map(drop))
    })
    .await
}

/// Scenario 38.
#[tokio::test]
async fn branches_tags_ranges_names_and_commits_are_followed() -> Result<()> {
    let (place, git) = start("references").await?;
    let repository = git.create("app").await?;
    let url = repository.url();
    follow(&place, "app", json!({"url": url}), "1s").await?;
    let empty = refused(&place, "app", "ReferenceNotFound").await?;
    assert!(empty.message.contains("source.ref.branch"), "{}", empty.message);
    let first = commit(&repository, "one").await?;
    applied(&place, "app", &format!("main@sha1:{first}")).await?;

    // Another reference to the same commit.
    repository.git(&["tag", "--annotate", "--message=one", "v1.0.0"]).await?;
    repository.git(&["push", "--quiet", "--tags", "origin"]).await?;
    change(&place, "app", json!({"ref": {"tag": "v1.0.0"}})).await?;
    applied(&place, "app", &format!("v1.0.0@sha1:{first}")).await?;
    let second = commit(&repository, "two").await?;
    repository.git(&["tag", "v1.1.0"]).await?;
    repository.git(&["push", "--quiet", "--tags", "origin"]).await?;
    repository.git(&["push", "--quiet", "origin", &format!("{first}:refs/pull/7/head")]).await?;
    change(&place, "app", json!({"ref": {"semver": ">=1.0.0 <2.0.0"}})).await?;
    applied(&place, "app", &format!("v1.1.0@sha1:{second}")).await?;
    // A version that comes is followed; one that is not asked for is not.
    let third = commit(&repository, "three").await?;
    repository.git(&["tag", "v2.0.0"]).await?;
    repository.git(&["tag", "v1.2.0"]).await?;
    repository.git(&["push", "--quiet", "--tags", "origin"]).await?;
    applied(&place, "app", &format!("v1.2.0@sha1:{third}")).await?;
    change(&place, "app", json!({"ref": {"name": "refs/pull/7/head"}})).await?;
    applied(&place, "app", &format!("refs/pull/7/head@sha1:{first}")).await?;
    change(&place, "app", json!({"ref": {"commit": second}})).await?;
    applied(&place, "app", &format!("sha1:{second}")).await?;
    says(&place, "two").await?;

    // What can be no reference waits for another spec; what is not there is looked for again. Both keep what was.
    change(&place, "app", json!({"ref": {"commit": null, "name": null, "semver": "newest"}})).await?;
    refused(&place, "app", "InvalidReference").await?;
    assert_eq!(condition(&place, "app", "Stalled").await?.context("Stalled")?.status, "True");
    change(&place, "app", json!({"ref": {"semver": ">=9"}})).await?;
    refused(&place, "app", "ReferenceNotFound").await?;
    says(&place, "two").await?;
    Ok(())
}

#[tokio::test]
async fn a_rewritten_branch_is_followed_and_a_deleted_one_missed() -> Result<()> {
    let (place, git) = start("rewritten").await?;
    let repository = git.create("app").await?;
    commit(&repository, "keep").await?;
    repository.git(&["checkout", "--quiet", "-b", "dev"]).await?;
    let first = commit(&repository, "one").await?;
    follow(&place, "app", json!({"url": repository.url(), "ref": {"branch": "dev"}}), "1s").await?;
    applied(&place, "app", &format!("dev@sha1:{first}")).await?;
    repository.write("map.yaml", config_map("settings", "rewritten"))?;
    repository.git(&["commit", "--quiet", "--all", "--amend", "--message", "rewritten"]).await?;
    repository.push(&["--force"]).await?;
    let second = repository.head().await?;
    applied(&place, "app", &format!("dev@sha1:{second}")).await?;

    repository.git(&["push", "--quiet", "origin", ":dev"]).await?;
    refused(&place, "app", "ReferenceNotFound").await?;
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    maps.delete("settings", &kube::api::DeleteParams::default()).await?;
    says(&place, "rewritten").await?;
    Ok(())
}

/// A host that hands out no commits by their ids says so, and is asked for the branch where one is named.
#[tokio::test]
async fn a_pinned_commit_on_an_old_host_is_found_on_its_branch() -> Result<()> {
    let (place, git) = start("pinned").await?;
    let repository = git.create("app").await?;
    let bare = repository.bare();
    let bare = bare.to_str().context("a path")?;
    repository.git(&["--git-dir", bare, "config", "uploadpack.allowAnySHA1InWant", "false"]).await?;
    let first = commit(&repository, "one").await?;
    for value in ["two", "three"] {
        commit(&repository, value).await?;
    }
    let ssh = SshServer::start(git.root())?;
    ssh.speak_only_old_protocol();
    secret(&place, "git", &[("identity", ssh.private_key()), ("known_hosts", &ssh.known_hosts())]).await?;
    let source = json!({"url": ssh.url("app"), "ref": {"commit": first}, "secretRef": {"name": "git"}});
    follow(&place, "app", source, "1s").await?;
    let ready = refused(&place, "app", "ReferenceNotFound").await?;
    assert!(ready.message.contains("source.ref.branch"), "{}", ready.message);
    change(&place, "app", json!({"ref": {"branch": "main"}})).await?;
    applied(&place, "app", &format!("main@sha1:{first}")).await?;
    says(&place, "one").await?;
    Ok(())
}

#[tokio::test]
async fn a_host_may_want_a_certificate_and_a_token() -> Result<()> {
    let (place, git) = start("certificates").await?;
    let repository = git.create("app").await?;
    let first = commit(&repository, "one").await?;
    git.require_bearer("t0ken");
    let front = TlsFront::start(&["localhost", "127.0.0.1"], git.port())?;
    let url = format!("https://localhost:{}/app.git", front.port());
    let certificates = front.certificates();
    let authority = ("ca.crt", certificates.authority.as_str());
    let identity = [("tls.crt", certificates.client.certificate.as_str()), ("tls.key", &certificates.client.key)];
    let token = ("bearerToken", "t0ken\n");

    // Whoever is not trusted gets no token, and whoever shows no certificate gets nowhere.
    secret(&place, "untrusting", &[token]).await?;
    secret(&place, "nameless", &[token, authority]).await?;
    secret(&place, "wrong", &[("bearerToken", "other"), authority, identity[0], identity[1]]).await?;
    secret(&place, "whole", &[token, authority, identity[0], identity[1]]).await?;
    for (name, reason) in
        [("untrusting", "Unreachable"), ("nameless", "AuthenticationFailed"), ("wrong", "AuthenticationFailed")]
    {
        let before = git.requests();
        follow(&place, name, json!({"url": url, "secretRef": {"name": name}}), "1h").await?;
        let ready = refused(&place, name, reason).await?;
        assert!(!ready.message.contains("t0ken"), "{}", ready.message);
        assert_eq!(git.requests() > before, name == "wrong", "{name}");
    }
    follow(&place, "whole", json!({"url": url, "secretRef": {"name": "whole"}}), "1s").await?;
    applied(&place, "whole", &format!("main@sha1:{first}")).await?;
    let logs = place.world.controller.logs().await?;
    assert!(!logs.contains("t0ken") && !logs.contains("PRIVATE KEY"));
    Ok(())
}

/// The name leads nowhere but through the proxy.
#[tokio::test]
async fn a_proxy_leads_to_a_host_that_only_it_knows() -> Result<()> {
    let (place, git) = start("proxy").await?;
    let repository = git.create("app").await?;
    let first = commit(&repository, "one").await?;
    let front = TlsFront::start(&["git.invalid"], git.port())?;
    let proxy = ForwardProxy::start("git.invalid", front.port(), ("robot", "pr0xy"))?;
    let certificates = front.certificates();
    let pair = &certificates.client;
    let entries = [("ca.crt", certificates.authority.as_str()), ("tls.crt", &pair.certificate), ("tls.key", &pair.key)];
    secret(&place, "git", &entries).await?;
    let address = proxy.address();
    secret(&place, "proxy", &[("address", &address), ("username", "robot"), ("password", "wrong")]).await?;
    let source = json!({
        "url": "https://git.invalid/app.git", "secretRef": {"name": "git"}, "proxySecretRef": {"name": "proxy"},
    });
    follow(&place, "app", source, "1s").await?;
    let ready = refused(&place, "app", "Unreachable").await?;
    assert!(!ready.message.contains("wrong"), "{}", ready.message);
    assert_eq!(proxy.passed(), 0);
    secret(&place, "proxy", &[("address", &address), ("username", "robot"), ("password", "pr0xy")]).await?;
    applied(&place, "app", &format!("main@sha1:{first}")).await?;
    assert!(proxy.passed() > 0);
    Ok(())
}

#[tokio::test]
async fn another_place_is_used_while_the_first_is_away() -> Result<()> {
    let (place, git) = start("fallback").await?;
    let second = GitServer::start()?;
    let (repository, copy) = (git.create("app").await?, second.create("app").await?);
    let first = commit(&repository, "one").await?;
    repository.git(&["push", "--quiet", &copy.url(), "HEAD:main"]).await?;
    git.stop();
    let source = json!({"url": repository.url(), "fallbackUrls": [copy.url()]});
    follow(&place, "app", source, "1s").await?;
    applied(&place, "app", &format!("main@sha1:{first}")).await?;
    let used = condition(&place, "app", "FallbackInUse").await?.context("FallbackInUse")?;
    assert!(used.message.contains(&copy.url()) && used.message.contains(&repository.url()), "{}", used.message);
    git.resume();
    eventually("the first to be used again", SOON, || async {
        Ok(condition(&place, "app", "FallbackInUse").await?.is_none().then_some(()))
    })
    .await?;

    // One that says no is not passed over.
    git.require_basic("robot", "s3cret");
    let ready = refused(&place, "app", "AuthenticationFailed").await?;
    assert!(ready.message.contains(&repository.url()), "{}", ready.message);
    Ok(())
}

/// What a caller gets back.
async fn call(url: &str, headers: &[(&str, String)], body: &str) -> Result<(StatusCode, String)> {
    harness::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut request = client.post(url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let response = request.send().await?;
    Ok((response.status(), response.text().await?))
}

fn signature(token: &str, body: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), body.as_bytes());
    HEXLOWER.encode(tag.as_ref())
}

/// Two replicas: the one that only follows is called, the one that leads fetches. Nothing but the call can have moved
/// it: the interval is an hour.
#[tokio::test]
async fn a_push_is_heard_by_any_replica() -> Result<()> {
    let world = World::new().await?;
    let follower = Controller::start_with(&world.cluster, ControllerOptions::default()).await?;
    let place = world.place("webhook").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let mut last = commit(&repository, "0").await?;
    secret(&place, "hook", &[("token", "t0ken\n")]).await?;
    let hook = |kind: &str| json!({"type": kind, "secretRef": {"name": "hook"}});
    follow(&place, "app", json!({"url": repository.url(), "webhook": hook("GitHub")}), "1h").await?;
    follow(&place, "deaf", json!({"url": repository.url(), "ref": {"branch": "dev"}}), "1h").await?;
    applied(&place, "app", &format!("main@sha1:{last}")).await?;
    let at = |name: &str| follower.url(&format!("/hook/{}/{name}", place.namespace));
    let body = r#"{"ref":"refs/heads/main"}"#;
    let hex = signature("t0ken", body);
    for (kind, header, value) in [
        ("GitHub", "X-Hub-Signature-256", format!("sha256={hex}")),
        ("Gitea", "X-Gitea-Signature", hex.clone()),
        ("Generic", "X-Signature", format!("sha256={hex}")),
        ("GitLab", "X-Gitlab-Token", "t0ken".to_owned()),
    ] {
        change(&place, "app", json!({"webhook": hook(kind)})).await?;
        applied(&place, "app", &format!("main@sha1:{last}")).await?;
        last = commit(&repository, kind).await?;
        let (status, _) = call(&at("app"), &[(header, value)], body).await?;
        assert_eq!(status, StatusCode::ACCEPTED, "{kind}");
        applied(&place, "app", &format!("main@sha1:{last}")).await?;
    }

    // Who does not know the token learns nothing: not even what is there.
    change(&place, "app", json!({"webhook": hook("GitHub")})).await?;
    let good = [("X-Hub-Signature-256", format!("sha256={hex}"))];
    let bad = [("X-Hub-Signature-256", format!("sha256={}", signature("other", body)))];
    let wrong = call(&at("app"), &bad, body).await?;
    assert_eq!(wrong.0, StatusCode::NOT_FOUND);
    for (name, headers, body) in [
        ("app", [].as_slice(), body),
        ("app", &good, "another body"),
        ("absent", &good, body),
        ("deaf", &good, body),
        ("a%2Fb", &good, body),
    ] {
        assert_eq!(call(&at(name), headers, body).await?, wrong, "{name}");
    }
    let refused = reqwest::Client::builder().no_proxy().build()?.get(at("app")).send().await?;
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    let large = "x".repeat(11 << 20);
    // Who still writes when it hangs up never reads its answer.
    if let Ok((status, _)) = call(&at("app"), &good, &large).await {
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    // A push of something else is heard, and asks for nothing.
    let before = place.syncs().get("app").await?.annotations().clone();
    let other = r#"{"ref":"refs/heads/dev"}"#;
    let headers = [("X-Hub-Signature-256", format!("sha256={}", signature("t0ken", other)))];
    assert_eq!(call(&at("app"), &headers, other).await?.0, StatusCode::ACCEPTED);
    assert_eq!(*place.syncs().get("app").await?.annotations(), before);
    for controller in [&world.controller, &follower] {
        assert!(!controller.logs().await?.contains("t0ken"));
    }
    Ok(())
}

/// Two hundred GitSyncs of one repository: one mirror, and the host is asked a few times, not two hundred.
#[tokio::test]
async fn many_syncs_of_one_repository_ask_its_host_once() -> Result<()> {
    const SYNCS: usize = 200;
    let world = World::new().await?;
    let place = world.place("many").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    for index in 0..SYNCS {
        repository.write(&format!("{index}/map.yaml"), config_map(&format!("map-{index}"), index))?;
    }
    let first = repository.commit("everything").await?;
    for index in 0..SYNCS {
        let spec = json!({"source": {"url": repository.url()}, "path": index.to_string(), "interval": "1h"});
        let sync = GitSync::new(&format!("sync-{index}"), serde_json::from_value(spec)?);
        place.syncs().create(&PostParams::default(), &sync).await?;
    }
    let revision = format!("main@sha1:{first}");
    for index in 0..SYNCS {
        applied(&place, &format!("sync-{index}"), &revision).await?;
    }
    // After a restart none of them is new, and one answer is enough for all.
    world.controller.kill().await?;
    let before = git.requests();
    world.controller.restart().await?;
    eventually("every GitSync to have been looked at", SOON, || async {
        Ok((world.controller.metric("sealed_secrets_controller_git_sync_fetches_total").await? >= 200.0).then_some(()))
    })
    .await?;
    assert!(git.requests() - before <= 3, "{} requests", git.requests() - before);
    Ok(())
}

#[tokio::test]
async fn ssh_with_a_deploy_key_and_file_urls_are_followed_too() -> Result<()> {
    let (place, git) = start("ssh").await?;
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "over ssh"))?;
    let commit = repository.commit("one").await?;
    let ssh = SshServer::start(git.root())?;
    let key = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "deploy-key", "namespace": place.namespace},
        "stringData": {"identity": ssh.private_key(), "known_hosts": ssh.known_hosts()},
    });
    place.world.cluster.apply(&key.to_string()).await?;
    follow(&place, "ssh", json!({"url": ssh.url("app"), "secretRef": {"name": "deploy-key"}}), "1s").await?;
    place.applied("ssh", &commit).await?;
    place.says("settings", &[("value", "over ssh")]).await?;
    change(&place, "ssh", json!({"url": repository.file_url(), "secretRef": null})).await?;
    repository.write("map.yaml", config_map("settings", "from a file"))?;
    let commit = repository.commit("two").await?;
    place.applied("ssh", &commit).await?;
    Ok(())
}

#[tokio::test]
async fn a_private_repository_is_followed_with_the_secret_that_the_sync_names() -> Result<()> {
    let (place, git) = start("private").await?;
    git.require_basic("robot", "hunter2");
    let repository = git.create("app").await?;
    repository.write("map.yaml", config_map("settings", "private"))?;
    let commit = repository.commit("one").await?;
    follow(&place, "app", json!({"url": repository.url(), "secretRef": {"name": "git"}}), "1s").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "AuthenticationFailed").await?;
    assert!(ready.message.contains("cannot read the Secret git named in source.secretRef"), "{}", ready.message);

    place.world.cluster.apply(&place.secret("git", &[("username", "robot"), ("password", "wrong")])).await?;
    let ready = place.ready("app", |ready, _| ready.message.contains(&repository.url())).await?;
    assert_eq!(ready.reason, "AuthenticationFailed");
    place.world.cluster.apply(&place.secret("git", &[("username", "robot"), ("password", "hunter2")])).await?;
    place.applied("app", &commit).await?;
    assert!(!place.world.controller.logs().await?.contains("hunter2"));
    Ok(())
}
