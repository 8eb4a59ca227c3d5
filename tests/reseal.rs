//! After a new key: a repository's files are sealed anew by the controller, which is asked no more often than it allows,
//! or with the keys themselves; nobody's recipients are lost.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use harness::{kubeseal, seal};

use crate::world::{KEYS, World, document};

#[tokio::test]
async fn a_repository_is_sealed_anew_by_the_controller_or_with_the_keys() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("reseal").await?;
    let kubeconfig = Some(world.cluster.kubeconfig());
    let tree = world.cluster.scratch().folder("repository")?;
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("crds").join("testdata");
    let other = testdata.join("new.crt").display().to_string();
    let own = seal(kubeconfig, &["--fetch-cert"], "").await?.success()?;
    let own = world.cluster.scratch().file("own.pem", own)?.display().to_string();
    // More than the controller answers at once.
    let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    for name in &names {
        let sealed = world.seal(&place.secret(name, &[("a", name), ("b", "two")]), &[]).await?;
        fs::write(tree.join(format!("{name}.yaml")), format!("# the shop's\n{sealed}"))?;
    }
    let shared = world.seal(&place.secret("shared", &[("a", "1")]), &["--cert", &other, "--cert", &own]).await?;
    fs::write(tree.join("shared.yaml"), &shared)?;
    let path = tree.display().to_string();
    let check = async || anyhow::Ok(seal(kubeconfig, &["reseal", &path, "--check"], "").await?.status.code());
    ensure!(check().await? == Some(0), "everything is sealed with the newest key");

    for way in ["controller", "keys"] {
        world.renew_key().await?;
        ensure!(check().await? == Some(1), "{way}: something is stale");
        let list = ["-n", "kube-system", "get", "secrets", "-l", KEYS, "-o", "json"];
        let keys = world.cluster.scratch().file("keys.json", world.cluster.kubectl(&list).await?)?;
        let keys = keys.display().to_string();
        let flags: &[&str] = if way == "keys" { &["--recovery-private-key", &keys] } else { &[] };
        // With the keys no cluster is asked.
        let kubeconfig = kubeconfig.filter(|_| way == "controller");
        let report = seal(kubeconfig, &[&["reseal", &path, "-o", "json"], flags].concat(), "").await?.success()?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        ensure!(report["stale"].as_array().context("stale")?.len() == names.len() + 1, "{way}: {report}");
        ensure!(check().await? == Some(0), "{way}: nothing is stale any more");
        for name in &names {
            let sealed = fs::read_to_string(tree.join(format!("{name}.yaml")))?;
            ensure!(sealed.starts_with("# the shop's\n"), "{way}: {sealed}");
            world.cluster.apply(&sealed).await?;
            place.holds(name, &[("a", name), ("b", "two")]).await?;
        }
        let renewed = fs::read_to_string(tree.join("shared.yaml"))?;
        ensure!(document(&renewed)?["spec"] == document(&shared)?["spec"], "{way}: the first recipient's is as it was");
        ensure!(renewed != shared, "{way}: our part is new");
        let key = testdata.join("new.key").display().to_string();
        kubeseal(None, &["--recovery-unseal", "--recovery-private-key", &key], &renewed).await?.success()?;
        world.cluster.apply(&renewed).await?;
        place.holds("shared", &[("a", "1")]).await?;
    }
    Ok(())
}
