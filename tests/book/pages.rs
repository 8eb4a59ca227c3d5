//! What single pages say, done in their order. What a test adds is what a page takes for granted: a cluster, the kubelet's
//! part, a repository, files of the reader's own.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, Controller, ControllerOptions, GitServer, Repository};
use serde_json::json;

use super::{Desk, Page};
use crate::{
    access,
    world::{Place, World, config_map, definition, follow, manifest},
};

/// Of the keys that the sealing tests have.
fn testdata(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/testdata").join(name);
    fs::read(&path).with_context(|| format!("failed to read {}", path.display()))
}

/// A namespace `shop` of a cluster of its own.
fn shop(world: &World, client: kube::Client) -> Place<'_> {
    Place { world, namespace: "shop".to_owned(), client }
}

async fn world() -> Result<World> {
    let world = World::new().await?;
    world.cluster.kubectl(&["create", "namespace", "shop"]).await?;
    Ok(world)
}

#[tokio::test]
async fn seal_without_a_cluster() -> Result<()> {
    let page = Page::read("seal.md")?;
    let desk = Desk::new(None, None).await?;
    for (name, of) in
        [("cert.pem", "new.crt"), ("key.pem", "new.key"), ("old-cert.pem", "old.crt"), ("old-key.pem", "old.key")]
    {
        desk.write(name, testdata(of)?)?;
    }
    desk.write("deploy/README.md", "What the shop runs on.")?;
    desk.follow_all(&page.steps).await
}

#[tokio::test]
async fn the_quick_start() -> Result<()> {
    let page = Page::read("quick-start.md")?;
    let (cluster, git) = (Cluster::start().await?, GitServer::start()?);
    let repository = git.create("shop").await?;
    let mut desk = Desk::new(None, Some(cluster.kubeconfig())).await?;
    desk.bring("deploy", &harness::chart::folder())?;
    desk.write(".gitignore", "/deploy\n")?;
    desk.call("https://git.example.com/shop.git", repository.url());
    // Every second, so that nobody waits for the default of a minute.
    desk.call("  prune: true\n", "  prune: true\n  interval: 1s\n");
    let installed = page.steps.iter().position(|step| step.heading != "Install" || step.runs("seal cert"));
    let (install, rest) = page.steps.split_at(installed.context("seal cert")?);
    desk.follow_all(install).await?;
    let _controller = Controller::start(&cluster).await?;
    desk.follow_all(rest).await
}

/// What is orphaned stays, with Secrets and definitions; and what was deleted too late is let go by hand.
#[tokio::test]
async fn uninstalling() -> Result<()> {
    let page = Page::read("install.md")?;
    let world = world().await?;
    let place = shop(&world, world.cluster.admin().await?);
    place.apply_sealed("db", &[("password", "1")]).await?;
    place.synced("db", "True").await?;
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    let head = commit(&repository, "blue").await?;
    follow(&place, "web", &repository, json!({})).await?;
    place.applied("web", &head).await?;
    let desk = Desk::new(None, Some(world.cluster.kubeconfig())).await?;
    desk.bring("deploy", &harness::chart::folder())?;
    let (last, first) = page.steps.split_last().context("no steps")?;
    desk.follow_all(first).await?;
    world.controller.terminate().await?;
    place.says("web", &[("value", "blue")]).await?;
    place.holds("db", &[("password", "1")]).await?;

    let metadata = json!({"name": "api", "namespace": "shop", "finalizers": [crds::git_sync::FINALIZER]});
    let spec = json!({"source": {"url": repository.url()}});
    let late = json!({"apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "metadata": metadata, "spec": spec});
    world.cluster.apply(&late.to_string()).await?;
    world.cluster.kubectl(&["-n", "shop", "delete", "gitsync", "api", "--wait=false"]).await?;
    ensure!(place.syncs().get_opt("api").await?.is_some(), "nobody is there to let it go");
    desk.follow(last).await?;
    ensure!(place.syncs().get_opt("api").await?.is_none(), "it is gone");
    Ok(())
}

#[tokio::test]
async fn the_keys() -> Result<()> {
    let world = world().await?;
    let place = shop(&world, world.cluster.admin().await?);
    place.apply_sealed("db", &[("password", "1")]).await?;
    place.synced("db", "True").await?;
    let desk = Desk::new(None, Some(world.cluster.kubeconfig())).await?;
    desk.follow_all(&Page::read("seal-keys.md")?.steps).await?;
    desk.write("own.crt", testdata("new.crt")?)?;
    desk.write("own.key", testdata("new.key")?)?;
    desk.follow_all(&Page::read("keys.md")?.steps).await
}

/// A GitSync with a past to go back to, and a namespace for a tenant.
#[tokio::test]
async fn the_guide_of_git_syncs() -> Result<()> {
    let world = world().await?;
    world.cluster.kubectl(&["create", "namespace", "team"]).await?;
    let place = shop(&world, world.cluster.admin().await?);
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    let first = commit(&repository, "blue").await?;
    follow(&place, "shop", &repository, json!({})).await?;
    place.applied("shop", &first).await?;
    let second = commit(&repository, "green").await?;
    place.applied("shop", &second).await?;
    let mut desk = Desk::new(None, Some(world.cluster.kubeconfig())).await?;
    desk.call("4f1d2a9c", &first[..8]);
    // Without a kubelet nobody has a Pod's log.
    desk.write("log", world.controller.logs().await?)?;
    desk.call("kubectl logs -n kube-system -l app.kubernetes.io/name=signet --tail=-1", "cat log");
    desk.follow_all(&Page::read("gitsync-guide.md")?.steps).await?;
    place.says("web", &[("value", "blue")]).await?;
    Ok(())
}

async fn commit(repository: &Repository, colour: &str) -> Result<String> {
    repository.write("web.yaml", config_map("web", colour))?;
    repository.commit(colour).await
}

#[tokio::test]
async fn what_the_alerts_runbook_looks_at() -> Result<()> {
    let world = world().await?;
    let place = shop(&world, world.cluster.admin().await?);
    let stranger = manifest("shop", "db", &[("a", "1")]).replace("\"db\"", "\"stranger\"");
    let sealed = world.seal(&stranger, &[]).await?.replace("name: stranger", "name: db");
    world.cluster.apply(&sealed).await?;
    place.synced("db", "False").await?;
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    let head = commit(&repository, "blue").await?;
    follow(&place, "web", &repository, json!({})).await?;
    place.applied("web", &head).await?;
    let desk = Desk::new(None, Some(world.cluster.kubeconfig())).await?;
    desk.bring("deploy", &harness::chart::folder())?;
    desk.follow_all(&Page::read("runbook-alerts.md")?.steps).await
}

/// With tokens that are asked for.
#[tokio::test]
async fn the_endpoints() -> Result<()> {
    let world = access::deployed(ControllerOptions::default()).await?;
    let kubectl = async |args: &[&str]| world.cluster.kubectl(args).await;
    kubectl(&["create", "namespace", "shop"]).await?;
    kubectl(&["-n", "shop", "create", "serviceaccount", "ci"]).await?;
    let (role, ci) = ("--clusterrole=sealed-secrets-endpoints", "--serviceaccount=shop:ci");
    kubectl(&["-n", "shop", "create", "rolebinding", "ci", role, ci]).await?;
    let desk = Desk::new(None, Some(world.cluster.kubeconfig())).await?;
    desk.write("db.yaml", world.seal(&manifest("shop", "db", &[("a", "1")]), &[]).await?)?;
    desk.follow_all(&Page::read("endpoints.md")?.steps).await
}

/// One object that another program applied, and the object that had it do so; then the page.
async fn moved_from(
    group: &str,
    kind: &str,
    namespace: &str,
    manager: &str,
    page: &Page,
) -> Result<(World, GitServer)> {
    let world = world().await?;
    world.cluster.apply(&definition(group, kind)).await?;
    world.cluster.established(&[&format!("{}s.{group}", kind.to_lowercase())]).await?;
    if namespace != "shop" {
        world.cluster.kubectl(&["create", "namespace", namespace]).await?;
    }
    let theirs = json!({
        "apiVersion": format!("{group}/v1"), "kind": kind,
        "metadata": {"name": "shop", "namespace": namespace, "finalizers": ["example.com/theirs"]},
        "spec": {"prune": true, "syncPolicy": {"automated": {}}},
    });
    world.cluster.apply(&theirs.to_string()).await?;
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    let map = |more: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: web, namespace: shop}}\ndata: {{colour: blue{more}}}\n"
        )
    };
    repository.write("deploy/web.yaml", map(", size: big"))?;
    repository.commit("both").await?;
    let apply = ["apply", "--server-side", "--field-manager", manager, "--filename=-"];
    world.cluster.kubectl_as(world.cluster.kubeconfig(), &apply, &map(", size: big")).await?.success()?;
    let place = shop(&world, world.cluster.admin().await?);
    let before = place.maps().get("web").await?;

    let mut desk = Desk::new(None, Some(world.cluster.kubeconfig())).await?;
    desk.call("https://git.example.com/shop.git", repository.url());
    desk.call("  prune: true\n", "  prune: true\n  interval: 1s\n");
    desk.follow_all(&page.steps).await?;
    let after = place.maps().get("web").await?;
    assert_eq!((after.metadata.uid, after.data), (before.metadata.uid, before.data));
    repository.write("deploy/web.yaml", map(""))?;
    let head = repository.commit("less").await?;
    place.applied("shop", &head).await?;
    Ok((world, git))
}

#[tokio::test]
async fn from_flux() -> Result<()> {
    let page = Page::read("from-flux.md")?;
    let (world, _git) =
        moved_from("kustomize.toolkit.fluxcd.io", "Kustomization", "shop", "kustomize-controller", &page).await?;
    shop(&world, world.cluster.admin().await?).says("web", &[("colour", "blue")]).await?;
    Ok(())
}

#[tokio::test]
async fn from_argo_cd() -> Result<()> {
    let page = Page::read("from-argo-cd.md")?;
    let (world, _git) = moved_from("argoproj.io", "Application", "argocd", "argocd-controller", &page).await?;
    // As the page says, what left Git is still there.
    shop(&world, world.cluster.admin().await?).says("web", &[("colour", "blue"), ("size", "big")]).await?;
    Ok(())
}

/// SOPS itself is whatever writes a Secret to standard output.
#[tokio::test]
async fn from_sops() -> Result<()> {
    let world = world().await?;
    let secret = manifest("shop", "db", &[("password", "1")]);
    world.cluster.apply(&secret).await?;
    let place = shop(&world, world.cluster.admin().await?);
    let before = place.secrets().get("db").await?;
    let mut desk = Desk::new(None, Some(world.cluster.kubeconfig())).await?;
    let certificate = harness::kubeseal(Some(world.cluster.kubeconfig()), &["--fetch-cert"], "").await?.success()?;
    desk.write("cert.pem", certificate)?;
    desk.write("db.enc.yaml", secret)?;
    desk.call("decrypt db.enc.yaml", "cat db.enc.yaml");
    desk.follow_all(&Page::read("from-sops.md")?.steps).await?;
    let after = place.holds("db", &[("password", "1")]).await?;
    ensure!(after.metadata.uid == before.metadata.uid, "it is the same Secret");
    Ok(())
}
