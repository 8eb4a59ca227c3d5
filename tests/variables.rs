//! Variables and images in what is rendered.

use anyhow::Result;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::world::{config_map, follow, start};

#[tokio::test]
async fn variables_come_from_the_spec_and_from_the_cluster() -> Result<()> {
    let (place, git) = start("variables").await?;
    let repository = git.create("app").await?;
    let manifest = "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: ${name}
  labels:
    id: \"${number}\"
    enabled: ${tagged}
data:
  both: ${both} ${region:=nowhere} ${region:0:2} ${region/-/_}
  password: ${password}
  script: |
    echo $${HOME} ${absent:-none}
";
    let replicas = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: ${number}
  paused: ${flag}
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: app, image: \"app:${number}\"}]}
";
    let left = config_map("left", "${untouched}").replacen(
        "metadata:\n",
        "metadata:\n  annotations: {kustomize.toolkit.fluxcd.io/substitute: disabled}\n",
        1,
    );
    for (file, text) in [("map.yaml", manifest), ("app.yaml", replicas), ("left.yaml", &left)] {
        repository.write(&format!("plain/{file}"), text)?;
    }
    repository.write("kustomized/map.yaml", config_map("kustomized", "x-${region}"))?;
    repository.write("kustomized/kustomization.yaml", "resources: [map.yaml]\nnamePrefix: of-${region}-\n")?;
    let commit = repository.commit("variables").await?;

    let values = serde_json::from_value(json!({
        "metadata": {"name": "values"},
        "data": {"region": "eu-1\n", "both": "map", "ca.crt": "no name", "number": "2"},
    }))?;
    place.maps().create(&PostParams::default(), &values).await?;
    let secret = place.secret("values", &[("password", "hunter2"), ("both", "secret")]);
    place.world.cluster.apply(&secret).await?;
    let from = json!([
        {"kind": "ConfigMap", "name": "values"},
        {"kind": "Secret", "name": "values"},
        {"kind": "ConfigMap", "name": "absent", "optional": true},
    ]);
    let inline = json!({"name": "made", "flag": "true", "tagged": "\"true\"", "number": "3"});
    let post_build = json!({"substitute": inline, "substituteFrom": from});
    follow(&place, "plain", &repository, json!({"path": "plain", "postBuild": post_build})).await?;
    place.applied("plain", &commit).await?;
    let expected = [("both", "secret eu-1 eu eu_1"), ("password", "hunter2"), ("script", "echo ${HOME} none\n")];
    let made = place.says("made", &expected).await?;
    let labels = made.metadata.labels.unwrap_or_default();
    assert_eq!((labels["id"].as_str(), labels["enabled"].as_str()), ("3", "true"));
    place.says("left", &[("value", "${untouched}")]).await?;
    let of_it = ["-n", &place.namespace, "get", "deployment", "app", "-o", "jsonpath={.spec.replicas} {.spec.paused}"];
    assert_eq!(place.world.cluster.kubectl(&of_it).await?, "3 true");
    follow(&place, "kustomized", &repository, json!({"path": "kustomized", "postBuild": post_build})).await?;
    place.applied("kustomized", &commit).await?;
    place.says("of-eu-1-kustomized", &[("value", "x-eu-1")]).await?;

    // Another value is another rendering, without another commit.
    let other = json!({"data": {"region": "us-2"}});
    place.maps().patch("values", &PatchParams::default(), &Patch::Merge(other)).await?;
    place.says("of-us-2-kustomized", &[("value", "x-us-2")]).await?;
    let other = json!({"stringData": {"password": "hunter3"}});
    place.secrets().patch("values", &PatchParams::default(), &Patch::Merge(other)).await?;
    let expected = [("both", "secret us-2 us us_2"), ("password", "hunter3"), ("script", "echo ${HOME} none\n")];
    place.says("made", &expected).await?;
    assert!(!place.world.controller.logs().await?.contains("hunter"));
    Ok(())
}

/// All of them at once, each with file and line; nothing of the commit is applied; what a Secret holds is never shown.
#[tokio::test]
async fn what_cannot_be_replaced_is_told_with_file_line_and_name() -> Result<()> {
    let (place, git) = start("undefined").await?;
    let repository = git.create("app").await?;
    repository.write("deep/map.yaml", "# head\n---\n".to_owned() + &config_map("settings", "${one} ${known}"))?;
    repository.write("deep/other.yaml", config_map("other", "${two[@]}"))?;
    let _ = repository.commit("undefined").await?;
    let post_build = json!({"substitute": {"known": "x"}, "substituteFrom": [{"kind": "Secret", "name": "values"}]});
    follow(&place, "app", &repository, json!({"path": "deep", "postBuild": post_build})).await?;
    let wanted = "cannot read the Secret values of spec.postBuild";
    place.ready("app", |ready, _| ready.reason == "BuildFailed" && ready.message.contains(wanted)).await?;
    place.world.cluster.apply(&place.secret("values", &[("label", "not a-label!")])).await?;
    let ready = place.ready("app", |ready, _| ready.message.contains("the variable one is not defined")).await?;
    for part in ["deep/map.yaml:8: the variable one is not defined", "deep/other.yaml:6: ${two[@]} is no variable"] {
        assert!(ready.message.contains(part), "{part} in {}", ready.message);
    }
    assert!(place.maps().get_opt("settings").await?.is_none());

    // What the API server refuses it quotes.
    let labelled = config_map("settings", "x").replacen("metadata:\n", "metadata:\n  labels: {a: \"${label}\"}\n", 1);
    repository.write("deep/map.yaml", labelled)?;
    repository.remove("deep/other.yaml")?;
    repository.commit("a bad label").await?;
    let ready = place.ready("app", |ready, _| ready.reason == "ReconciliationFailed").await?;
    assert!(ready.message.contains("Invalid value: \"***\""), "{}", ready.message);
    assert!(!place.world.controller.logs().await?.contains("not a-label!"));
    Ok(())
}

/// Whatever rendered the manifests, images change as kustomize changes them.
#[tokio::test]
async fn images_are_changed_as_kustomize_does() -> Result<()> {
    let (place, git) = start("images").await?;
    let repository = git.create("app").await?;
    let containers = ["app:1", "registry.example:5000/app:1@sha256:00", "side/car", "apple:1"];
    let containers: Vec<_> = containers
        .iter()
        .enumerate()
        .map(|(number, image)| json!({"name": format!("c{number}"), "image": image}))
        .collect();
    let pod = |name: &str| {
        let spec = json!({"containers": containers, "initContainers": [{"name": "i", "image": "app"}]});
        let template = json!({"metadata": {"labels": {"app": name}}, "spec": spec});
        let spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let images = json!([
        {"name": "app", "newTag": "2"},
        {"name": "registry.example:5000/app", "newName": "mirror.example/app", "newTag": "3"},
        {"name": "side/car", "digest": "sha256:24a0c4b4a4c0eb97a1aabb8e29f18e917d05abfe1b7a7c07857230879ce7d3d3"},
    ]);
    repository.write("plain/app.yaml", pod("ours"))?;
    repository.write("kustomized/app.yaml", pod("theirs"))?;
    repository
        .write("kustomized/kustomization.yaml", json!({"resources": ["app.yaml"], "images": images}).to_string())?;
    let commit = repository.commit("images").await?;
    follow(&place, "plain", &repository, json!({"path": "plain", "images": images})).await?;
    follow(&place, "kustomized", &repository, json!({"path": "kustomized"})).await?;
    let mut seen = Vec::new();
    for (sync, name) in [("plain", "ours"), ("kustomized", "theirs")] {
        place.applied(sync, &commit).await?;
        let path = "jsonpath={.spec.template.spec.containers[*].image} {.spec.template.spec.initContainers[*].image}";
        seen.push(place.world.cluster.kubectl(&["-n", &place.namespace, "get", "deployment", name, "-o", path]).await?);
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].starts_with("app:2 mirror.example/app:3 side/car@sha256:24a0"), "{}", seen[0]);
    Ok(())
}
