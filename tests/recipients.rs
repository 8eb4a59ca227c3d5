//! One file for two clusters: the controller of the second opens it, and its new key locks the first one out of nothing.

use std::path::Path;

use anyhow::{Result, ensure};
use harness::{kubeseal, seal};
use k8s_openapi::api::core::v1::Secret;

use crate::world::{World, document};

#[tokio::test]
async fn the_second_cluster_opens_verifies_and_re_encrypts_and_the_first_one_still_opens() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("recipients").await?;
    let kubeconfig = Some(world.cluster.kubeconfig());
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("crds").join("testdata");
    let (first, key) = (testdata.join("new.crt").display().to_string(), testdata.join("new.key").display().to_string());
    let own = seal(kubeconfig, &["--fetch-cert"], "").await?.success()?;
    let own = world.cluster.scratch().file("own.pem", own)?.display().to_string();
    let values = [("user", "app"), ("password", "s3cret")];
    let before = world.seal(&place.secret("db", &values), &["--cert", &first, "--cert", &own]).await?;
    // Sealed for the other cluster alone, this would not open.
    world.cluster.apply(&before).await?;
    place.holds("db", &values).await?;
    seal(kubeconfig, &["--validate"], &before).await?.success()?;

    world.renew_key().await?;
    for (program, after) in [
        ("seal", seal(kubeconfig, &["--re-encrypt", "--format", "yaml"], &before).await?),
        ("kubeseal", kubeseal(kubeconfig, &["--re-encrypt", "--format", "yaml"], &before).await?),
    ] {
        let after = after.success()?;
        let (old, new) = (document(&before)?, document(&after)?);
        ensure!(new["metadata"]["annotations"] != old["metadata"]["annotations"], "{program} renewed nothing: {after}");
        let items = |file: &serde_json::Value| file["spec"]["encryptedData"].clone();
        ensure!(items(&new) == items(&old), "{program} changed what the first cluster opens: {after}");
        let flags = ["--recovery-unseal", "--recovery-private-key", &key];
        let opened: Secret = serde_json::from_str(&kubeseal(None, &flags, &after).await?.success()?)?;
        ensure!(opened.data.unwrap_or_default().len() == values.len(), "{program}");
        seal(kubeconfig, &["--validate"], &after).await?.success()?;
        world.cluster.apply(&after).await?;
        place.synced("db", "True").await?;
        place.holds("db", &values).await?;
    }
    Ok(())
}
