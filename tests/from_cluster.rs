//! `seal set` and `seal edit` with the values of the cluster's Secret, for whoever may read it.

use std::{fs, path::Path};

use anyhow::Result;
use harness::{binaries, command, seal};

use crate::{keys::account, world::World};

#[tokio::test]
async fn a_value_that_the_cluster_has_is_not_sealed_again_and_can_be_edited() -> Result<()> {
    let world = World::shared().await?;
    let place = world.place("sight").await?;
    let sealed = place.apply_sealed("db", &[("password", "hunter2"), ("user", "app")]).await?;
    place.synced("db", "True").await?;
    place.holds("db", &[("password", "hunter2"), ("user", "app")]).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("db.yaml");
    fs::write(&file, &sealed)?;
    let path = file.display().to_string();
    let set = async |kubeconfig: &Path, value: &str, flags: &[&str]| {
        seal(Some(kubeconfig), &[&["set", "password", &path], flags].concat(), value).await
    };
    let admin = world.cluster.kubeconfig();
    let changed = || anyhow::Ok(fs::read_to_string(&file)? != sealed);
    set(admin, "hunter2", &["--from-cluster"]).await?.success()?;
    assert!(!changed()?, "it is what the file says already");

    // Whoever may not read the Secret is told, and the file stays.
    let stranger = account(&world.cluster, &place.namespace).await?;
    let refused = set(&stranger, "hunter3", &["--from-cluster"]).await?;
    assert!(!refused.status.success() && refused.stderr.contains("forbidden"), "{refused}");
    assert!(!changed()?);

    // An editor sees the values in the clear, and what it leaves is not sealed again.
    let edit = async |editor: &str| {
        let mut seal = command::clean(binaries::seal().await?, folder.path());
        seal.args(["edit", "--from-cluster", &path, "--kubeconfig"]).arg(admin).env("EDITOR", editor);
        command::run(&mut seal, b"").await
    };
    edit("grep -q hunter2").await?.success()?;
    assert!(!changed()?);
    edit("sed -i s/hunter2/hunter3/").await?.success()?;
    let edited = fs::read_to_string(&file)?;
    let differ = edited.lines().zip(sealed.lines()).filter(|(after, before)| after != before).count();
    assert_eq!((edited.lines().count(), differ), (sealed.lines().count(), 1));
    world.cluster.apply(&edited).await?;
    place.holds("db", &[("password", "hunter3"), ("user", "app")]).await?;
    // The file is another than what the cluster opened until then: nothing can be known of it.
    set(admin, "hunter4", &["--from-cluster"]).await?.success()?;
    assert_ne!(fs::read_to_string(&file)?, edited);
    Ok(())
}
