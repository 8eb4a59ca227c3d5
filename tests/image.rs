//! The image without a container engine: its program, static as the Dockerfile builds it, runs where there is nothing but
//! itself, its two tools and a CA bundle, as the Pod's user on a root that cannot be written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use crds::GitSync;
use harness::{Cluster, Controller, ControllerOptions, GitServer, TlsFront, command, release, tools::Tool};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{ObjectMeta, PostParams};
use serde_json::json;

use crate::world::{World, config_map, document};

/// The name of the Git host, which only a file of the container knows.
const HOST: &str = "git.example.com";

/// As much of a container as the kernel makes without an engine: a root of its own that is read-only, with /dev, /proc and
/// what a Pod mounts; and a user of the container, 65532, who is nobody outside and has no capability.
const CONTAINER: &str = r#"#!/bin/sh
exec unshare --user --map-root-user --mount sh -ec '
root=$1 mounted=$2 unshare=$(command -v unshare)
shift 2
mount --bind "$root" "$root"
for folder in /dev /proc; do mount --rbind "$folder" "$root$folder"; done
mount --bind "$mounted" "$root$mounted"
mount -o remount,bind,ro "$root"
exec env PATH=/usr/local/bin "$unshare" --user --map-user=65532 --map-group=65532 --root="$root" --wd=/ /signet-controller "$@"
' sh "#;

fn dockerfile() -> Result<String> {
    Ok(fs::read_to_string("../Dockerfile")?)
}

/// Cheap enough for every day: what the Dockerfile says is what the test below builds and what the chart expects.
#[test]
fn the_image_is_what_is_tested_and_what_the_chart_expects() -> Result<()> {
    let dockerfile = dockerfile()?;
    assert!(dockerfile.contains(&format!("RUN cargo {} --package controller", release::STATIC)), "{dockerfile}");
    // What it takes, no more: rustup would fetch what rust-toolchain.toml names beside the compiler.
    let toolchain = fs::read_to_string("../rust-toolchain.toml")?;
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).context("a channel")?;
    let channel = channel.trim_matches('"');
    for line in [format!("FROM rust:{channel}-bookworm AS build"), format!("ENV RUSTUP_TOOLCHAIN={channel}")] {
        assert!(dockerfile.lines().any(|it| it == line), "{line}");
    }
    let page = fs::read_to_string("../docs/install.md")?;
    for base in dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next()) {
        assert!(page.contains(&format!("`{base}`")), "docs/install.md does not name {base}");
    }
    let (_, image) = dockerfile.rsplit_once("\nFROM ").context("stages")?;
    let lines: Vec<&str> = image.lines().collect();
    assert_eq!(lines.first(), Some(&"gcr.io/distroless/static-debian12:nonroot"), "nothing but a CA bundle and a user");
    let copied: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("COPY ")?.split(' ').next_back()).collect();
    assert_eq!(copied, ["/usr/local/bin/", "/signet-controller"]);
    assert!(lines.contains(&"ENTRYPOINT [\"/signet-controller\"]"));

    let values = document(&fs::read_to_string("../deploy/chart/values.yaml")?)?;
    let (pod, container) = (&values["podSecurityContext"], &values["securityContext"]);
    assert!(lines.contains(&format!("USER {0}:{0}", pod["runAsUser"]).as_str()), "{pod}");
    assert_eq!((&pod["runAsNonRoot"], &container["readOnlyRootFilesystem"]), (&json!(true), &json!(true)));
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    Ok(())
}

/// What the image holds, and what the kubelet adds to it.
async fn root(cluster: &Cluster, authority: &str) -> Result<PathBuf> {
    let scratch = cluster.scratch();
    let root = scratch.folder("image")?;
    let mounted = root.join(scratch.path().strip_prefix("/")?);
    for folder in ["dev", "proc", "etc/ssl/certs", "usr/local/bin"].map(|it| root.join(it)).iter().chain([&mounted]) {
        fs::create_dir_all(folder)?;
    }
    let program = release::build("controller").await?.join("signet-controller");
    for (from, to) in [
        (program, "signet-controller"),
        (Tool::Kustomize.path().await?, "usr/local/bin/kustomize"),
        (Tool::Helm.path().await?, "usr/local/bin/helm"),
    ] {
        let program = fs::read(&from).with_context(|| format!("failed to read {}", from.display()))?;
        command::executable(&root.join(to), program)?;
    }
    fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), authority)?;
    fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost {HOST}\n"))?;
    Ok(root)
}

fn container(cluster: &Cluster, root: &Path) -> Result<PathBuf> {
    let script = format!("{CONTAINER}'{}' '{}' \"$@\"\n", root.display(), cluster.scratch().path().display());
    let path = cluster.scratch().path().join("container.sh");
    command::executable(&path, script)?;
    Ok(path)
}

#[tokio::test]
#[ignore = "builds a release, which takes minutes: cargo test --test e2e -- --ignored image::"]
async fn the_static_program_runs_where_there_is_nothing_else() -> Result<()> {
    let git = GitServer::start()?;
    let front = TlsFront::start(&[HOST], git.port())?;
    let certificates = front.certificates();
    let cluster = Cluster::start().await?;
    cluster.deploy().await?;
    let root = root(&cluster, &certificates.authority).await?;
    let program = Some(container(&cluster, &root)?);
    let controller = Controller::start_with(&cluster, ControllerOptions { program, ..Default::default() }).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", controller.id().await))?;
    assert!(status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
    let maps = fs::read_to_string(format!("/proc/{}/uid_map", controller.id().await))?;
    assert_eq!(maps.split_whitespace().next(), Some("65532"), "{maps}");

    let world = World { cluster, controller };
    let place = world.place("image").await?;
    place.apply_sealed("db", &[("password", "hunter2")]).await?;
    place.holds("db", &[("password", "hunter2")]).await?;

    // A host with a name and a certificate, which only the container's files explain.
    let repository = git.create("site").await?;
    repository.write("kustomize/kustomization.yaml", "namePrefix: built-\nresources: [map.yaml]\n")?;
    repository.write("kustomize/map.yaml", config_map("map", "a"))?;
    repository.write("chart/Chart.yaml", "apiVersion: v2\nname: chart\nversion: 1.0.0\n")?;
    let template = config_map("rendered", "{{ .Values.value }}");
    repository.write("chart/templates/map.yaml", template)?;
    repository.write("chart/values.yaml", "value: b\n")?;
    let commit = repository.commit("both tools").await?;
    let entries = [("tls.crt", &certificates.client.certificate), ("tls.key", &certificates.client.key)];
    let data = entries.map(|(key, value)| (key.to_owned(), ByteString(value.clone().into_bytes())));
    let metadata = ObjectMeta { name: Some("host".to_owned()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data.into()), ..Secret::default() };
    place.secrets().create(&PostParams::default(), &secret).await?;
    let port = git.port().to_string();
    let url = repository.url().replace("http://", "https://").replace("127.0.0.1", HOST);
    let url = url.replace(&port, &front.port().to_string());
    for (path, map, value) in [("kustomize", "built-map", "a"), ("chart", "rendered", "b")] {
        let spec = json!({
            "source": {"url": url, "secretRef": {"name": "host"}}, "path": path, "interval": "1s",
            "targetNamespace": place.namespace,
        });
        place.syncs().create(&PostParams::default(), &GitSync::new(path, serde_json::from_value(spec)?)).await?;
        place.applied(path, &commit).await?;
        let data = place.maps().get(map).await?.data.unwrap_or_default();
        assert_eq!(data["value"], value);
    }
    assert_eq!(world.controller.terminate().await?.code(), Some(0), "{}", world.controller.logs().await?);
    Ok(())
}
