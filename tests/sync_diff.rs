//! `seal sync diff` where more than manifests decides what a sync would do: hooks, and variables that the cluster holds.

use anyhow::{Context as _, Result};
use harness::eventually;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    sync_cli::Desk,
    world::{SOON, config_map, follow},
};

/// What nobody may see in any output: on one line, on two, and too short to be looked for.
const SECRETS: [(&str, &str); 3] = [("PASSWORD", "hunter2-old"), ("KEY", "begin-key\nend-key\n"), ("PIN", "Q%7")];

/// Lets the operator try what the controller would do.
async fn may(desk: &Desk, name: &str, verbs: &str, resources: &str) -> Result<()> {
    let (cluster, namespace) = (&desk.place.world.cluster, desk.place.namespace.as_str());
    let subject = format!("--serviceaccount=kube-system:{namespace}");
    let role = ["-n", namespace, "create", "role", name, verbs, resources];
    cluster.kubectl(&role).await?;
    cluster.kubectl(&["-n", namespace, "create", "rolebinding", name, &format!("--role={name}"), &subject]).await?;
    Ok(())
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
    may(&desk, "differ", "--verb=get,patch,create", "--resource=configmaps").await?;

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
    may(&desk, "differ", "--verb=get,patch,create", "--resource=configmaps").await?;
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
    may(&desk, "reader", "--verb=get", "--resource=secrets").await?;
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
