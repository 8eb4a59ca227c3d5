//! What Kustomize and Helm make of a path stands in the cluster, by upstream's own programs; and what they may not do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use harness::{ClusterOptions, ControllerOptions, GitServer, Repository};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Namespace},
};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::world::{World, config_map, document, follow, start};

/// The three environments of a public repository, side by side.
#[tokio::test]
async fn overlays_are_built_and_each_object_is_traced_to_its_file() -> Result<()> {
    let Some(fixture) = fixture("podinfo/deploy")? else { return Ok(()) };
    let (place, git) = start("overlays").await?;
    let repository = git.create("webapp").await?;
    for folder in ["bases", "overlays"] {
        copy(&fixture.join(folder), &repository, &format!("deploy/{folder}"))?;
    }
    // The fixture holds manifests only.
    for (base, file) in [
        ("cache", "redis.conf"),
        ("database", "scripts/rollup.sh"),
        ("database", "scripts/backup.sh"),
        ("frontend", "scripts/warm-cache.sh"),
    ] {
        repository.write(&format!("deploy/bases/{base}/{file}"), "maxmemory 64mb\n")?;
    }
    repository.commit("a script is missing").await?;
    place.sync("dev", &repository.url(), "deploy/overlays/dev").await?;
    let ready = place.ready("dev", |ready, _| ready.reason == "BuildFailed").await?;
    let expected = "deploy/bases/frontend/kustomization.yaml: kustomize cannot build it: loading KV pairs";
    assert!(ready.message.contains(expected) && ready.message.contains("warm-cache-init.sh"), "{}", ready.message);
    let work_tree = |text: &str| text.contains("/work/") || text.contains("repo/deploy");
    assert!(!work_tree(&ready.message.replace("repo/deploy/bases/frontend/scripts", "")), "{}", ready.message);

    repository.write("deploy/bases/frontend/scripts/warm-cache-init.sh", "echo\n")?;
    let commit = repository.commit("all scripts").await?;
    place.sync("staging", &repository.url(), "./deploy/overlays/staging/").await?;
    place.sync("production", &repository.url(), "deploy/overlays/production").await?;
    for name in ["dev", "staging", "production"] {
        place.applied(name, &commit).await?;
        let deployments = Api::<Deployment>::namespaced(place.client.clone(), name);
        let labels = deployments.get("frontend").await?.labels().clone();
        assert_eq!(labels["app.kubernetes.io/environment"], name);
        assert_eq!(labels["gitsync.signet.dev/name"], name);
        let sets = Api::<StatefulSet>::namespaced(place.client.clone(), name);
        assert_eq!(sets.list(&kube::api::ListParams::default()).await?.items.len(), 1);
        let maps = Api::<ConfigMap>::namespaced(place.client.clone(), name);
        let maps = maps.list(&kube::api::ListParams::default()).await?;
        let redis =
            maps.items.iter().find(|map| map.name_any().starts_with("redis-config-")).context("redis-config")?;
        assert_eq!(redis.data.iter().flatten().next().context("a file")?.1, "maxmemory 64mb\n");
        assert_eq!(redis.annotations().len(), 0, "the note of the origin is ours");
        Api::<Namespace>::all(place.client.clone()).get(name).await?;
    }

    // A kind that the cluster does not serve, in a file of the base: told with that file and line.
    let file = "deploy/bases/backend/deployment.yaml";
    let deployment = fs::read_to_string(fixture.join("bases/backend/deployment.yaml"))?;
    repository.write(file, format!("# A comment\n{}", deployment.replace("apps/v1", "extensions/v1beta1")))?;
    repository.commit("an old API group").await?;
    let ready = place.ready("dev", |ready, _| ready.reason == "BuildFailed").await?;
    let expected = format!("{file}:2: Deployment backend: this cluster serves no Deployment in extensions/v1beta1");
    assert!(ready.message.contains(&expected), "{}", ready.message);
    Ok(())
}

/// A chart sees the cluster as it is, and the values of files and spec; what it renders is healed and pruned like all
/// else.
#[tokio::test]
async fn a_chart_is_rendered_with_its_values_for_this_cluster() -> Result<()> {
    let Some(fixture) = fixture("podinfo/charts/podinfo")? else { return Ok(()) };
    let (place, git) = start("chart").await?;
    let repository = git.create("chart").await?;
    copy(&fixture, &repository, "charts/podinfo")?;
    repository.write("env/dev.yaml", "replicaCount: 3\nlogLevel: debug\nhpa:\n  enabled: false\n")?;
    let seen = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: seen\ndata:\n  version: {{ .Capabilities.KubeVersion }}\n  gateway: {{ .Capabilities.APIVersions.Has \"gateway.networking.k8s.io/v1/HTTPRoute\" | quote }}\n  sealed: {{ .Capabilities.APIVersions.Has \"bitnami.com/v1alpha1/SealedSecret\" | quote }}\n  namespace: {{ .Release.Namespace }}\n";
    repository.write("charts/podinfo/templates/seen.yaml", seen)?;
    let first = repository.commit("a chart").await?;
    let helm = json!({"valuesFiles": ["values-prod.yaml", "../../env/dev.yaml"], "values": {"logLevel": "warn"}});
    let spec = json!({"path": "charts/podinfo", "helm": helm});
    follow(&place, "web", &repository, spec).await?;
    place.applied("web", &first).await?;

    let deployments = Api::<Deployment>::namespaced(place.client.clone(), &place.namespace);
    let deployment = deployments.get("web-podinfo").await?.spec.context("a spec")?;
    assert_eq!(deployment.replicas, Some(3));
    let command = deployment.template.spec.context("a pod")?.containers[0].command.clone().unwrap_or_default();
    assert!(command.contains(&"--level=warn".to_owned()), "{command:?}");
    deployments.get("web-podinfo-redis").await.context("of values-prod.yaml")?;
    let maps = Api::<ConfigMap>::namespaced(place.client.clone(), &place.namespace);
    let seen = maps.get("seen").await?.data.unwrap_or_default();
    assert_eq!(seen["version"], place.client.apiserver_version().await?.git_version);
    assert_eq!([&*seen["gateway"], &*seen["sealed"], &*seen["namespace"]], ["false", "true", &*place.namespace]);

    repository.write("charts/podinfo/templates/seen.yaml", "a: {{ .Values.nothing.here }}\n")?;
    repository.commit("a mistake").await?;
    let ready = place.ready("web", |ready, _| ready.reason == "BuildFailed").await?;
    let expected = "charts/podinfo/templates/seen.yaml:1: helm cannot render it: template: podinfo/templates/seen.yaml";
    assert!(ready.message.starts_with(expected), "{}", ready.message);

    repository.remove("charts/podinfo/templates/seen.yaml")?;
    let last = repository.commit("without it").await?;
    place.applied("web", &last).await?;
    assert!(maps.get_opt("seen").await?.is_none());
    Ok(())
}

/// What renders reads nothing but the repository and reaches nothing.
#[tokio::test]
async fn what_renders_sees_neither_the_controller_nor_a_network() -> Result<()> {
    let (place, git) = start("confined").await?;
    let repository = git.create("hostile").await?;
    let base = format!("resources:\n- {}\n- ../../outside\n", git_url(&repository, "raw.yaml"));
    repository.write("remote/kustomization.yaml", &base)?;
    // What is no reference by the field it stands in: kustomize itself is asked to read it.
    let secret = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let generator = format!(
        "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata:\n  name: stolen\nfiles:\n- {}\n",
        secret.display()
    );
    repository.write("file/generator.yaml", generator)?;
    repository.write("file/kustomization.yaml", "generators: [generator.yaml]\n")?;
    let generator = format!(
        "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata:\n  name: stolen\nfiles:\n- {}\n",
        git_url(&repository, "info/refs?service=git-upload-pack")
    );
    repository.write("net/generator.yaml", generator)?;
    repository.write("net/kustomization.yaml", "generators: [generator.yaml]\n")?;
    repository.write("link/kustomization.yaml", "configMapGenerator:\n- name: stolen\n  files: [passwd]\n")?;
    std::os::unix::fs::symlink("/etc/passwd", repository.work_tree().join("link/passwd"))?;
    repository.commit("hostile").await?;
    for (name, expected) in [
        ("remote", "remote/kustomization.yaml:2: http://127.0.0.1"),
        ("remote", "remote/kustomization.yaml:3: ../../outside leads out of the repository"),
        ("file", "security; file"),
        ("net", "net/kustomization.yaml"),
        ("link", "passwd: no such file"),
    ] {
        if place.syncs().get_opt(name).await?.is_none() {
            place.sync(name, &repository.url(), name).await?;
        }
        let ready = place.ready(name, |ready, _| ready.reason == "BuildFailed").await?;
        assert!(ready.message.contains(expected), "{name}: {}", ready.message);
    }
    let maps = Api::<ConfigMap>::namespaced(place.client.clone(), &place.namespace);
    let names: Vec<_> =
        maps.list(&kube::api::ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect();
    assert!(!names.iter().any(|name| name.starts_with("stolen")), "{names:?}");
    Ok(())
}

/// What asks for more memory than is left to it fails by itself, in words that say what to do; all else goes on.
#[tokio::test]
async fn what_takes_too_much_memory_is_told_and_others_go_on() -> Result<()> {
    let args = vec!["--render-memory=64Mi".to_owned()];
    let options = ControllerOptions { args, ..ControllerOptions::default() };
    let world = World::with(ClusterOptions::default(), options).await?;
    let place = world.place("hungry").await?;
    let git = GitServer::start()?;
    let repository = git.create("hungry").await?;
    let about = "apiVersion: v2\nname: chart\nversion: 1.0.0\n";
    repository.write("chart/Chart.yaml", about)?;
    repository.write("chart/templates/map.yaml", config_map("of-a-chart", "one"))?;
    repository.write("overlay/kustomization.yaml", "namePrefix: a-\nresources: [map.yaml]\n")?;
    repository.write("overlay/map.yaml", config_map("settings", "one"))?;
    let doubled = "{{- $x := \"x\" }}{{- range until 40 }}{{- $x = printf \"%s%s\" $x $x }}{{- end }}\na: {{ $x }}\n";
    repository.write("hungry-chart/Chart.yaml", about)?;
    repository.write("hungry-chart/templates/map.yaml", doubled)?;
    let maps: Vec<String> = (0..8000).map(|number| config_map(&format!("settings-{number}"), "one")).collect();
    repository.write("hungry-overlay/kustomization.yaml", "namePrefix: a-\nresources: [maps.yaml]\n")?;
    repository.write("hungry-overlay/maps.yaml", maps.join("---\n"))?;
    let commit = repository.commit("two that are hungry").await?;
    for (name, program) in [("hungry-chart", "helm"), ("hungry-overlay", "kustomize")] {
        place.sync(name, &repository.url(), name).await?;
        let ready = place.ready(name, |ready, _| ready.reason == "BuildFailed").await?;
        let expected = format!(
            "cannot render with {program}: it needs more than 64 MiB of memory; split what is rendered, or give the \
             container more, and --render-memory if it is set; 2 may run at once"
        );
        assert_eq!(ready.message, expected);
    }
    for name in ["chart", "overlay"] {
        place.sync(name, &repository.url(), name).await?;
        place.applied(name, &commit).await?;
    }
    let logs = world.controller.logs().await?;
    assert!(
        !logs.contains("goroutine") && !logs.contains("fatal error"),
        "what Go says of itself is for nobody: {logs}"
    );
    Ok(())
}

/// A commit renders what it changed and nothing else.
#[tokio::test]
async fn a_commit_elsewhere_renders_nothing() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("monorepo").await?;
    let git = GitServer::start()?;
    let repository = git.create("monorepo").await?;
    repository.write("base/kustomization.yaml", "resources: [map.yaml]\n")?;
    repository.write("base/map.yaml", config_map("settings", "one"))?;
    repository.write("a/kustomization.yaml", "namePrefix: a-\nresources: [../base]\n")?;
    repository.write("b/kustomization.yaml", "namePrefix: b-\nresources: [../base]\n")?;
    repository.write("chart/Chart.yaml", "apiVersion: v2\nname: chart\nversion: 1.0.0\n")?;
    repository.write("chart/templates/map.yaml", config_map("of-a-chart", "one"))?;
    repository.write("plain/map.yaml", config_map("plain", "one"))?;
    let all = ["a", "b", "chart", "plain"];
    let first = repository.commit("four folders").await?;
    for name in all {
        place.sync(name, &repository.url(), name).await?;
    }
    let applied = async |commit: String| {
        for name in all {
            place.applied(name, &commit).await?;
        }
        anyhow::Ok(())
    };
    let renders = async || {
        let text = world.controller.metrics().await?;
        let counted = text.lines().filter(|line| line.contains("git_sync_renders_total{"));
        anyhow::Ok(counted.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>())
    };
    applied(first).await?;
    assert_eq!(renders().await?, 4);
    repository.write("elsewhere/README.md", "nothing")?;
    applied(repository.commit("elsewhere").await?).await?;
    assert_eq!(renders().await?, 4);
    repository.write("a/kustomization.yaml", "namePrefix: a2-\nresources: [../base]\n")?;
    applied(repository.commit("one of them").await?).await?;
    assert_eq!(renders().await?, 5);
    repository.write("base/map.yaml", config_map("settings", "two"))?;
    applied(repository.commit("what two of them read").await?).await?;
    assert_eq!(renders().await?, 7);
    Ok(())
}

/// An overlay that moves a strictly sealed Secret is told before anything is applied, with the place it was sealed for.
#[tokio::test]
async fn an_overlay_that_a_seal_does_not_allow_is_refused() -> Result<()> {
    let (place, git) = start("moved").await?;
    let repository = git.create("app").await?;
    let sealed = place.world.seal(&place.secret("db", &[("password", "s3cret")]), &[]).await?;
    repository.write("base/db.yaml", &sealed)?;
    repository.write("base/kustomization.yaml", "resources: [db.yaml]\n")?;
    repository.write("dev/map.yaml", config_map("settings", "one"))?;
    repository.write("dev/kustomization.yaml", "namePrefix: dev-\nresources: [../base, map.yaml]\n")?;
    let good = repository.commit("one base, one overlay").await?;
    place.sync("base", &repository.url(), "base").await?;
    place.applied("base", &good).await?;
    place.holds("db", &[("password", "s3cret")]).await?;

    place.sync("dev", &repository.url(), "dev").await?;
    let ready = place.ready("dev", |ready, _| ready.reason == "SealedSecretFailed").await?;
    let (line, namespace) = (2, &place.namespace);
    let expected = format!(
        "base/db.yaml:{line}: SealedSecret {namespace}/dev-db: no key could decrypt secret (password): was sealed for {namespace}/db (strict scope)"
    );
    assert!(ready.message.contains(&expected), "{}", ready.message);
    let moved = json!({"path": "base", "targetNamespace": "default"});
    follow(&place, "target", &repository, moved).await?;
    let ready = place.ready("target", |ready, _| ready.reason == "SealedSecretFailed").await?;
    assert!(ready.message.contains(&format!("was sealed for {namespace}/db")), "{}", ready.message);
    // Nothing of the commit was applied.
    assert!(place.sealed().get_opt("dev-db").await?.is_none());
    let maps = Api::<ConfigMap>::namespaced(place.client.clone(), namespace);
    assert!(maps.get_opt("dev-settings").await?.is_none());

    // With the scope that allows it, it goes through.
    let wide = place.world.seal(&place.secret("db", &[("password", "s3cret")]), &["--scope", "namespace-wide"]).await?;
    repository.write("base/db.yaml", &wide)?;
    let wide = repository.commit("sealed for the namespace").await?;
    place.applied("dev", &wide).await?;
    place.holds("dev-db", &[("password", "s3cret")]).await?;
    Ok(())
}

/// Sealed with another cluster's certificate: told before it is applied, and taken up when the key is brought.
#[tokio::test]
async fn what_is_sealed_for_another_cluster_waits_for_its_key() -> Result<()> {
    let (here, elsewhere) = (World::new().await?, World::shared().await?);
    let place = here.place("foreign").await?;
    let git = GitServer::start()?;
    let repository = git.create("app").await?;
    let sealed = elsewhere.seal(&place.secret("db", &[("password", "s3cret")]), &[]).await?;
    repository.write("db.yaml", &sealed)?;
    let commit = repository.commit("of another cluster").await?;
    let spec = json!({"interval": "1h"});
    follow(&place, "app", &repository, spec).await?;
    let ready = place.ready("app", |ready, _| ready.reason == "SealedSecretFailed").await?;
    assert!(ready.message.contains("was sealed with a key that is not here"), "{}", ready.message);
    assert!(place.sealed().get_opt("db").await?.is_none());

    let get = ["-n", "kube-system", "get", "secrets", "-l", crate::world::KEYS, "-o", "json"];
    let keys: Value = serde_json::from_str(&elsewhere.cluster.kubectl(&get).await?)?;
    for key in keys["items"].as_array().context("keys")? {
        let mut key = key.clone();
        let metadata =
            json!({"name": key["metadata"]["name"], "namespace": "kube-system", "labels": key["metadata"]["labels"]});
        key["metadata"] = metadata;
        here.cluster.apply(&key.to_string()).await?;
    }
    place.applied("app", &commit).await?;
    place.holds("db", &[("password", "s3cret")]).await?;
    Ok(())
}

#[tokio::test]
async fn everything_is_put_where_and_labelled_as_the_sync_says() -> Result<()> {
    let (place, git) = start("target").await?;
    let repository = git.create("app").await?;
    let other = place.world.cluster.namespace("target").await?;
    repository.write("map.yaml", config_map("settings", "one"))?;
    let mut elsewhere = document(&config_map("elsewhere", "one"))?;
    elsewhere["metadata"]["namespace"] = "default".into();
    repository.write("elsewhere.json", elsewhere.to_string())?;
    let commit = repository.commit("two maps").await?;
    let metadata = json!({"labels": {"team": "web"}, "annotations": {"cost-centre": "7"}});
    follow(&place, "app", &repository, json!({"targetNamespace": other, "commonMetadata": metadata})).await?;
    place.applied("app", &commit).await?;
    let maps = Api::<ConfigMap>::namespaced(place.client.clone(), &other);
    for name in ["settings", "elsewhere"] {
        let map = maps.get(name).await?;
        assert_eq!((&*map.labels()["team"], &*map.annotations()["cost-centre"]), ("web", "7"));
    }
    Ok(())
}

/// Old API groups and broken files of a public collection: every one of them is told, by file and line.
#[tokio::test]
async fn what_a_cluster_of_today_cannot_take_is_told_file_by_file() -> Result<()> {
    let Some(fixture) = fixture("examples")? else { return Ok(()) };
    let (place, git) = start("examples").await?;
    let repository = git.create("examples").await?;
    copy(&fixture, &repository, "")?;
    repository.commit("as it is").await?;
    place.sync("archived", &repository.url(), "_archived").await?;
    let ready = place.ready("archived", |ready, _| ready.reason == "BuildFailed").await?;
    assert!(ready.message.contains("this cluster serves no"), "{}", ready.message);
    assert!(ready.message.contains("_archived/") && ready.message.contains(" more"), "{}", ready.message);
    place.sync("guestbook", &repository.url(), "web/guestbook-go").await?;
    place.ready("guestbook", |ready, _| ready.status == "True").await?;
    Ok(())
}

fn git_url(repository: &Repository, path: &str) -> String {
    format!("{}/{path}", repository.url())
}

/// A folder of the fixtures, where they are.
fn fixture(path: &str) -> Result<Option<PathBuf>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures").join(path);
    if !fixture.exists() {
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(&mut stderr, b"skipped: ../shared/fixtures is not here\n")?;
        return Ok(None);
    }
    Ok(Some(fixture))
}

fn copy(from: &Path, repository: &Repository, to: &str) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        let to = if to.is_empty() { name.to_owned() } else { format!("{to}/{name}") };
        if path.is_dir() { copy(&path, repository, &to)? } else { repository.write(&to, fs::read(&path)?)? }
    }
    Ok(())
}
