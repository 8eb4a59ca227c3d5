//! `seal sync diff` and `render`: what a folder would change in the cluster, also where more than manifests decides what a
//! sync would do: hooks, and variables that the cluster holds. No value of a Secret is shown.

use std::fs;

use anyhow::{Context as _, Result};
use harness::{
    binaries,
    command::{self, clean},
    eventually, seal,
    tools::Tool,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    sync_cli::Desk,
    world::{SOON, config_map, follow},
};

/// What nobody may see in any output: on one line, on two, and too short to be looked for.
const SECRETS: [(&str, &str); 3] = [("PASSWORD", "hunter2-old"), ("KEY", "begin-key\nend-key\n"), ("PIN", "Q%7")];

/// What trying an apply takes.
const TRY: [&str; 3] = ["get", "patch", "create"];

/// Lets the operator try what the controller would do, and waits until that counts.
async fn may(desk: &Desk, name: &str, verbs: &[&str], resources: &str) -> Result<()> {
    let (cluster, namespace) = (&desk.place.world.cluster, desk.place.namespace.as_str());
    let account = format!("kube-system:{namespace}");
    let (verb, resource) = (format!("--verb={}", verbs.join(",")), format!("--resource={resources}"));
    cluster.kubectl(&["-n", namespace, "create", "role", name, &verb, &resource]).await?;
    let (role, subject) = (format!("--role={name}"), format!("--serviceaccount={account}"));
    cluster.kubectl(&["-n", namespace, "create", "rolebinding", name, &role, &subject]).await?;
    cluster.may(&account, verbs[0], resources, &format!("--namespace={namespace}")).await
}

#[tokio::test]
async fn hooks_are_shown_where_a_sync_would_run_them() -> Result<()> {
    let desk = Desk::new("diff-hooks").await?;
    let (namespace, repository) = (&desk.place.namespace, &desk.repository);
    repository.write("map.yaml", config_map("settings", "one"))?;
    let mark = "metadata:\n  annotations: {argocd.argoproj.io/hook: 'PostSync,SyncFail'}\n";
    repository.write("after.yaml", config_map("after", "one").replace("metadata:\n", mark))?;
    let commit = repository.commit("one").await?;
    follow(&desk.place, "web", repository, json!({"drift": "Report"})).await?;
    desk.place.applied("web", &commit).await?;
    may(&desk, "differ", &TRY, "configmaps").await?;

    // Nothing is changed, or only by others: nothing is run.
    let local = repository.work_tree().to_str().context("a path")?;
    for more in [&[][..], &["--local", local]] {
        let (code, told) = desk.code(&[&["diff", "web"], more].concat()).await?;
        assert_eq!((code, told.as_str()), (0, "0 created, 0 changed, 0 pruned, 1 as they are\n"));
    }
    let edit = json!({"data": {"value": "by hand"}});
    desk.place.maps().patch("settings", &PatchParams::default(), &Patch::Merge(edit)).await?;
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert!(code == 1 && told.ends_with("0 created, 1 changed, 0 pruned, 0 as they are\n"), "{told}");

    // A merge that changes something runs it.
    repository.write("map.yaml", config_map("settings", "two"))?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert_eq!(code, 1, "{told}");
    for words in [
        &format!(
            "ConfigMap {namespace}/after: run in PostSync, SyncFail, {local}/after.yaml:1\n--- /dev/null\n+++ git/Conf"
        ),
        "0 created, 1 changed, 0 pruned, 1 run, 0 as they are\n",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
    let report = desk.sync(&["diff", "web", "--local", local, "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&report.stdout)?;
    let runs = (&report[1]["becomes"], &report[1]["phases"]);
    assert_eq!(runs, (&json!("run"), &json!(["PostSync", "SyncFail"])), "{report}");

    // In a hook Git says by variables which repository is the user's own. It is left as it is.
    let own = repository.work_tree().join(".git");
    let state =
        || anyhow::Ok((fs::read(own.join("HEAD"))?, fs::read(own.join("index"))?, own.join("shallow").exists()));
    let before = state()?;
    let home = tempfile::tempdir()?;
    let mut command = clean(binaries::seal().await?, home.path());
    command.args(["sync", "diff", "web", "-n", namespace, "--kubeconfig"]).arg(&desk.operator);
    command.env("GIT_DIR", &own).env("GIT_INDEX_FILE", own.join("index")).env("GIT_WORK_TREE", repository.work_tree());
    let told = command::run(&mut command, b"").await?;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert_eq!(state()?, before);
    Ok(())
}

#[tokio::test]
async fn variables_are_the_clusters_and_no_value_of_a_secret_is_shown() -> Result<()> {
    let desk = Desk::new("diff-variables").await?;
    let (cluster, repository) = (&desk.place.world.cluster, &desk.repository);
    let colour = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vars, namespace: NS}\ndata: {COLOUR: blue}\n";
    cluster.apply(&colour.replace("NS", &desk.place.namespace)).await?;
    cluster.apply(&desk.place.secret("vars", &SECRETS)).await?;
    let map = |value: &str| {
        let data = format!("{{value: '{value}', login: 'me:${{PASSWORD}}', key: '${{KEY}}', pin: '${{PIN}}'}}");
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {data}\n")
    };
    repository.write("map.yaml", map("${COLOUR}"))?;
    repository.write("plain.yaml", config_map("plain", "${COLOUR}"))?;
    let commit = repository.commit("one").await?;
    let from = json!([{"kind": "Secret", "name": "vars"}, {"kind": "ConfigMap", "name": "vars"}]);
    let spec = json!({"interval": "1h", "postBuild": {"substituteFrom": from}});
    follow(&desk.place, "web", repository, spec).await?;
    desk.place.applied("web", &commit).await?;

    // What may not be read is told, and what needs it; the rest is compared.
    may(&desk, "differ", &TRY, "configmaps").await?;
    repository.write("plain.yaml", config_map("plain", "red"))?;
    let local = repository.work_tree().to_str().context("a path")?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert_eq!(code, 2, "{told}");
    for words in [
        "-  value: blue\n+  value: red\n",
        "map.yaml:4: the variable PASSWORD may be in what cannot be read",
        &format!("cannot read the Secret {}/vars", desk.place.namespace),
        "which spec.postBuild names: what needs it cannot be compared, nor told what would be pruned",
        "1 of 2 objects could not be compared",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
    assert!(!told.contains("settings: pruned"), "{told}");

    // With the right to, it is what the controller applied.
    may(&desk, "reader", &["get"], "secrets").await?;
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert_eq!((code, told.as_str()), (0, "0 created, 0 changed, 0 pruned, 2 as they are\n"));

    // The Secret holds other values by now: that is told, and none of them, old or new.
    let newer = [("PASSWORD", "hunter3-new"), ("KEY", "begin-other\nend-other\n"), ("PIN", "Z%8")];
    cluster.apply(&desk.place.secret("vars", &newer)).await?;
    repository.write("map.yaml", map("green"))?;
    for more in [&["-o", "json"][..], &[]] {
        let (code, told) = desk.code(&[&["diff", "web", "--local", local], more].concat()).await?;
        assert_eq!(code, 1, "{told}");
        assert!(told.contains("value: green"), "{told}");
        unseen(&told, &newer);
    }
    let (_, told) = desk.code(&["diff", "web", "--local", local]).await?;
    for key in ["login", "key", "pin"] {
        assert!(told.contains(&format!("-  {key}: \"*** (before)\"\n")), "{told}");
        assert!(told.contains(&format!("+  {key}: \"*** (after)\"\n")), "{told}");
    }
    // Nor where the API server says what is wrong with them.
    repository
        .write("map.yaml", map("green").replace("{name: settings}", "{name: settings, labels: {a: '@${PASSWORD}'}}"))?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert!(
        code == 2 && told.contains("map.yaml:1: the API server would not take ConfigMap") && told.contains("***"),
        "{told}"
    );
    unseen(&told, &newer);
    eventually("nothing to be changed", SOON, || async {
        let settings = desk.place.maps().get("settings").await?;
        Ok(settings.data.filter(|data| data.get("pin").is_some_and(|pin| pin == "Q%7")).map(drop))
    })
    .await
}

fn unseen(told: &str, newer: &[(&str, &str)]) {
    for value in SECRETS.iter().chain(newer).flat_map(|(_, value)| value.lines()) {
        assert!(!told.contains(value), "{value} in {told}");
    }
}

/// What nobody may see in any output.
const OLD: &str = "hunter2-old";
const NEW: &str = "hunter3-new";

#[tokio::test]
async fn a_diff_shows_what_a_merge_would_bring_and_no_value_of_a_secret() -> Result<()> {
    let desk = Desk::new("diff").await?;
    let namespace = &desk.place.namespace;
    let secret =
        |value: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{p: {value}}}\n");
    desk.repository.write("deploy/a.yaml", config_map("a", "one"))?;
    desk.repository.write("deploy/gone.yaml", config_map("gone", "one"))?;
    desk.repository.write("deploy/s.yaml", secret(OLD))?;
    let commit = desk.repository.commit("one").await?;
    let spec = json!({"path": "deploy", "drift": "Report", "allowPlainSecrets": true});
    follow(&desk.place, "web", &desk.repository, spec).await?;
    desk.place.applied("web", &commit).await?;

    // Trying an apply takes the right to do it.
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert!(code == 2 && told.contains("forbidden"), "{told}");
    may(&desk, "differ", &TRY, "configmaps").await?;
    may(&desk, "reader", &TRY, "secrets").await?;

    // As it was applied, from Git: nothing; then what somebody changed.
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert_eq!((code, told.as_str()), (0, "0 created, 0 changed, 0 pruned, 3 as they are\n"));
    let edit = json!({"data": {"value": "by hand"}});
    desk.place.maps().patch("a", &PatchParams::default(), &Patch::Merge(edit)).await?;
    let (code, told) = desk.code(&["diff", "web"]).await?;
    assert_eq!(code, 1);
    assert!(told.contains("-  value: by hand\n+  value: one\n"), "{told}");

    // A folder beside it.
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    write("a.yaml", &config_map("a", "by hand"))?;
    write("new.yaml", &config_map("new", "one"))?;
    write("s.yaml", &secret(NEW))?;
    let local = folder.path().to_str().context("a path")?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert_eq!(code, 1, "{told}");
    for words in [
        format!("ConfigMap {namespace}/new: created, {local}/new.yaml:1\n--- /dev/null\n+++ git/ConfigMap"),
        format!("Secret {namespace}/s: changed, {local}/s.yaml:1\n"),
        "-  p: \"*** (before)\"\n+  p: \"*** (after)\"\n".to_owned(),
        format!("ConfigMap {namespace}/gone: pruned\n"),
        "1 created, 1 changed, 1 pruned, 1 as they are\n".to_owned(),
    ] {
        assert!(told.contains(&words), "{words} in {told}");
    }
    let encoded = |text: &str| crds::base64::encode(text.as_bytes());
    for value in [OLD.to_owned(), NEW.to_owned(), encoded(OLD), encoded(NEW)] {
        assert!(!told.contains(&value), "{told}");
    }
    let secrets = Api::<Secret>::namespaced(desk.place.client.clone(), namespace);
    assert_eq!(secrets.get("s").await?.data.context("data")?["p"].0, OLD.as_bytes(), "nothing was changed");
    assert!(desk.place.maps().get_opt("new").await?.is_none() && desk.place.maps().get_opt("gone").await?.is_some());
    let report = desk.sync(&["diff", "web", "--local", local, "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&report.stdout)?;
    let becomes: Vec<&Value> = report.as_array().context("a list")?.iter().map(|it| &it["becomes"]).collect();
    assert_eq!(becomes, ["created", "changed", "pruned"]);

    // What the API server would refuse, and what nobody can render, is trouble and no difference.
    write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {value: 7}\n")?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert!(code == 2 && told.contains("a.yaml:1: the API server would not take ConfigMap"), "{told}");
    write("a.yaml", "kind: ConfigMap\n")?;
    let (code, told) = desk.code(&["diff", "web", "--local", local]).await?;
    assert!(code == 2 && told.contains("a.yaml:1: apiVersion is missing"), "{told}");
    Ok(())
}

/// What is rendered here is what the controller applied: nothing differs.
#[tokio::test]
async fn what_is_rendered_here_is_what_the_controller_applies() -> Result<()> {
    let desk = Desk::new("rendered").await?;
    let tools = [("--kustomize", Tool::Kustomize), ("--helm", Tool::Helm)];
    let mut flags = Vec::new();
    for (flag, tool) in tools {
        flags.extend([flag.to_owned(), tool.path().await?.display().to_string()]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let write = |path: &str, text: &str| desk.repository.write(path, text);
    write("base/kustomization.yaml", "resources: [a.yaml]\nconfigMapGenerator: [{name: made, literals: [k=v]}]\n")?;
    write("base/a.yaml", &config_map("a", "one"))?;
    write("overlay/kustomization.yaml", "resources: [../base]\nnamePrefix: dev-\n")?;
    write("chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\nkubeVersion: '>=1.30.0-0'\n")?;
    write("chart/values.yaml", "value: none\n")?;
    write("chart/more.yaml", "value: more\nother: file\n")?;
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {value: {{ .Values.value }}, other: {{ .Values.other }}, ns: {{ .Release.Namespace }}}\n";
    write("chart/templates/map.yaml", template)?;
    let commit = desk.repository.commit("both").await?;
    let common = json!({"labels": {"team": "shop"}, "annotations": {"note": "ours"}});
    let helm = json!({"valuesFiles": ["more.yaml"], "values": {"value": "spec"}});
    follow(&desk.place, "overlay", &desk.repository, json!({"path": "overlay", "commonMetadata": common})).await?;
    follow(&desk.place, "chart", &desk.repository, json!({"path": "chart", "helm": helm})).await?;
    let (admin, work) = (desk.place.world.cluster.kubeconfig(), desk.repository.work_tree());
    for (name, objects) in [("overlay", 2), ("chart", 1)] {
        desk.place.applied(name, &commit).await?;
        let sync = format!("{}/{name}", desk.place.namespace);
        let path = work.join(name).display().to_string();
        for local in [&["--local", path.as_str()][..], &[]] {
            let diff = seal(Some(admin), &[&["sync", "diff", &sync], local, &flags[..]].concat(), "").await?;
            assert_eq!(diff.success()?, format!("0 created, 0 changed, 0 pruned, {objects} as they are\n"));
        }
        let rendered =
            seal(Some(admin), &[&["sync", "render", &path, "--sync", &sync], &flags[..]].concat(), "").await?;
        let rendered = rendered.success()?;
        assert!(rendered.contains(&format!("gitsync.signet.dev/name: {name}\n")), "{rendered}");
    }

    // The same without a cluster: for a GitSync in a file, and for nobody.
    let manifest = work.join("sync.yaml");
    let sync = json!({"apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "metadata": {"name": "x", "namespace": "far"},
        "spec": {"source": {"url": "https://git.example.com/x.git"}, "targetNamespace": "shop", "commonMetadata": common}});
    std::fs::write(&manifest, sync.to_string())?;
    let render = async |path: &str, more: &[&str]| {
        let path = work.join(path).display().to_string();
        seal(None, &[&["sync", "render", &path], &flags[..], more].concat(), "").await
    };
    let text = render("overlay", &["--file", manifest.to_str().context("a path")?]).await?.success()?;
    let first = crate::world::document(&text)?;
    let metadata = &first["metadata"];
    assert_eq!((&metadata["namespace"], &metadata["labels"]["team"]), (&json!("shop"), &json!("shop")), "{text}");
    let text = render("overlay", &[]).await?.success()?;
    let expected = "apiVersion: v1\ndata:\n  value: one\nkind: ConfigMap\nmetadata:\n  name: dev-a\n";
    assert!(text.contains(expected) && !text.contains("gitsync.signet.dev"), "{text}");
    let text = render("chart", &["--kube-version", "v1.36.0"]).await?.success()?;
    assert!(text.contains("name: chart\n") && text.contains("value: none\n"), "{text}");

    // seal verify reads it; what it is about is told with its file.
    let sealed = desk.place.world.seal(&desk.place.secret("db", &[("a", "1")]), &[]).await?;
    write("sealed/db.yaml", &sealed)?;
    let rendered = render("sealed", &[]).await?.success()?;
    assert!(seal(None, &["verify", "-"], &rendered).await?.status.success());
    let broken = rendered.replace("encryptedData:\n    a: Ag", "encryptedData:\n    a: \"@");
    assert_ne!(broken, rendered, "{rendered}");
    assert_eq!(seal(None, &["verify", "-"], broken).await?.status.code(), Some(1));
    write("sealed/plain.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: p}\nstringData: {a: hunter2}\n")?;
    let refused = render("sealed", &[]).await?;
    assert_eq!(refused.status.code(), Some(1));
    let words = "sealed/plain.yaml:1: Secret p is a plain Secret";
    assert!(refused.stderr.contains(words) && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
    let missing =
        seal(None, &["sync", "render", &work.join("overlay").display().to_string(), "--kustomize", "/no/such"], "")
            .await?;
    assert!(
        missing.stderr.contains("cannot start /no/such") && missing.stderr.contains("--kustomize"),
        "{}",
        missing.stderr
    );
    Ok(())
}
