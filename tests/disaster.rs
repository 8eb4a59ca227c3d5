//! What is left when a cluster is gone: the repository and a backup of the keys. Everything comes back from these two,
//! with the controller and without it.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use crds::key_secret::{self, KeyOrder};
use harness::{
    ClusterOptions, ControllerOptions, GitServer, Server, command, eventually, kubeseal, seal, ssh, tools::Tool,
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    keys::{Operated, example},
    world::{KEYS, Place, SOON, World, document, manifest},
};

/// The namespace that is in both clusters.
const SHOP: &str = "shop";

/// A folder outside of every cluster, with somebody's age identity in it.
struct Safe(tempfile::TempDir);

impl Safe {
    async fn new() -> Result<Self> {
        let safe = Self(tempfile::tempdir()?);
        safe.identity("me.txt").await?;
        Ok(safe)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Makes an identity by age's own program; its public key.
    async fn identity(&self, name: &str) -> Result<String> {
        let mut command = command::clean(Tool::AgeKeygen.path().await?, self.0.path());
        let path = self.path(name);
        command::run(command.args(["-o", &path]), b"").await?.success()?;
        let text = fs::read_to_string(path)?;
        let public = text.lines().find_map(|line| line.strip_prefix("# public key: ")).context("a public key")?;
        fs::write(self.path(&format!("{name}.pub")), format!("# of {name}\n{public}\n"))?;
        Ok(public.to_owned())
    }
}

/// A Secret's type and values.
type Held = (Option<String>, BTreeMap<String, ByteString>);

/// What the Secrets of a namespace hold, by name.
async fn secrets(world: &World, namespace: &str) -> Result<BTreeMap<String, Held>> {
    let api: Api<Secret> = Api::namespaced(world.cluster.admin().await?, namespace);
    let all = api.list(&ListParams::default()).await?;
    Ok(all.into_iter().map(|it| (it.name_any(), (it.type_, it.data.unwrap_or_default()))).collect())
}

/// The labels of each key, by name.
async fn keys(world: &World) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let api: Api<Secret> = Api::namespaced(world.cluster.admin().await?, "kube-system");
    let all = api.list(&ListParams::default().labels(key_secret::LABEL)).await?;
    Ok(all.into_iter().map(|key| (key.name_any(), key.metadata.labels.unwrap_or_default())).collect())
}

async fn mark(world: &World, key: &str, state: &str) -> Result<()> {
    let label = format!("{}={state}", key_secret::LABEL);
    world.cluster.kubectl(&["-n", "kube-system", "label", "--overwrite", "secret", key, &label]).await?;
    Ok(())
}

async fn follow(world: &World, url: &str) -> Result<()> {
    let sync = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync", "metadata": {"name": "shop", "namespace": SHOP},
        "spec": {"source": {"url": url}, "path": "deploy", "interval": "1s", "prune": true},
    });
    world.cluster.apply(&sync.to_string()).await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_is_gone_comes_back_from_git_and_a_backup() -> Result<()> {
    let (safe, git) = (Safe::new().await?, GitServer::start()?);
    let repository = git.create("shop").await?;
    let old = World::new().await?;
    old.cluster.kubectl(&["create", "namespace", SHOP]).await?;
    // Values that only bytes can be compared of, and keys of three generations.
    let every: Vec<u8> = (0..=255).collect();
    for (name, value) in [("db", every.as_slice()), ("web", b""), ("mail", "pässwörd\n".as_bytes())] {
        let data = BTreeMap::from([("value".to_owned(), ByteString(value.to_vec()))]);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SHOP, "labels": {"app": name}},
            "type": "example.com/own", "data": data,
        });
        repository.write(&format!("deploy/{name}.yaml"), old.seal(&secret.to_string(), &[]).await?)?;
        old.renew_key().await?;
    }
    let commit = repository.commit("sealed").await?;
    follow(&old, &repository.url()).await?;
    let before = eventually("every Secret", SOON, || async {
        Ok(Some(secrets(&old, SHOP).await?).filter(|secrets| secrets.len() == 3))
    })
    .await?;
    let keys_before = keys(&old).await?;
    ensure!(keys_before.len() == 4);
    let kubeconfig = old.cluster.kubeconfig();
    let backup = safe.path("keys.yaml");
    let line = ["keys", "backup", &backup, "--recipients-file", &safe.path("me.txt.pub")];
    seal(Some(kubeconfig), &line, "").await?.success()?;
    let plain = safe.path("plain.json");
    seal(Some(kubeconfig), &["keys", "backup", &plain, "--plain"], "").await?.success()?;
    drop(old);

    // With a controller that waits, and a SealedSecret that waits for it.
    let options = ControllerOptions {
        args: vec!["--wait-for-keys".to_owned()],
        wait_until_ready: false,
        ..ControllerOptions::default()
    };
    let new = World::with(ClusterOptions::default(), options).await?;
    new.cluster.kubectl(&["create", "namespace", SHOP]).await?;
    let early = fs::read_to_string(repository.work_tree().join("deploy/db.yaml"))?;
    new.cluster.apply(&early).await?;
    let line = ["keys", "restore", &backup, "--identity", &safe.path("me.txt"), "-o", "json", "--timeout", "5m"];
    let report = seal(Some(new.cluster.kubeconfig()), &line, "").await?.success()?;
    let report: Value = serde_json::from_str(&report)?;
    let outcomes: Vec<_> = report["keys"].as_array().context("keys")?.iter().map(|key| &key["outcome"]).collect();
    assert_eq!(outcomes, [&json!("restored"); 4], "{report}");
    assert_eq!(report["opened"], json!([{"namespace": SHOP, "name": "db"}]), "{report}");
    assert_eq!(report["closed"], json!([]));
    assert_eq!(keys(&new).await?, keys_before, "no key is lost, and none is stray");

    follow(&new, &repository.url()).await?;
    eventually("every Secret, byte for byte", SOON, || async {
        Ok((secrets(&new, SHOP).await? == before).then_some(()))
    })
    .await?;
    let place = Place { world: &new, namespace: SHOP.to_owned(), client: new.cluster.admin().await? };
    place.applied("shop", &commit).await?;
    assert_eq!(keys(&new).await?, keys_before, "the controller made none of its own");
    drop(new);

    // And with no cluster at all.
    let (tree, clear) = (repository.work_tree().display().to_string(), safe.path("clear"));
    let line = ["unseal", &tree, "--to", &clear, "--recovery-private-key", &backup, "--identity", &safe.path("me.txt")];
    seal(None, &line, "").await?.success()?;
    for (name, (type_, data)) in &before {
        let ours = fs::read_to_string(Path::new(&clear).join("deploy").join(format!("{name}.yaml")))?;
        let sealed = fs::read_to_string(repository.work_tree().join(format!("deploy/{name}.yaml")))?;
        let line = ["--recovery-unseal", "--recovery-private-key", &plain];
        let theirs = kubeseal(None, &line, &sealed).await?.success()?;
        for opened in [ours, theirs] {
            let secret: Secret = serde_json::from_value(document(&opened)?)?;
            assert_eq!((&secret.type_, secret.data.as_ref()), (type_, Some(data)), "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_backup_holds_every_key_and_opens_for_whom_it_is_made() -> Result<()> {
    let (it, safe) = (Operated::new().await?, Safe::new().await?);
    let first = keys(&it.world).await?.into_keys().next().context("a key")?;
    let sealed = it.world.seal(&manifest("default", "db", &[("a", "1")]), &[]).await?;
    it.world.renew_key().await?;
    mark(&it.world, &first, "compromised").await?;

    let file = safe.path("keys.yaml");
    let report = it.report(&["backup", &file, "--recipients-file", &safe.path("me.txt.pub")]).await?;
    let states: Vec<_> = report["keys"].as_array().context("keys")?.iter().map(|key| &key["state"]).collect();
    assert_eq!(states, [&json!("sealing"), &json!("compromised")]);
    let uid = it.world.cluster.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]).await?;
    assert_eq!(report["cluster"], json!({"uid": uid, "server": it.world.cluster.server()}));
    let text = fs::read_to_string(&file)?;
    assert!(text.contains(&first) && text.contains(&uid) && !text.contains("tls.key"), "{text}");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let again = it.keys(&["backup", &file, "--recipients-file", &safe.path("me.txt.pub")]).await?;
    assert!(again.status.code() == Some(1) && again.stderr.contains("never overwritten"), "{again}");
    assert_eq!(fs::read_to_string(&file)?, text);

    // age alone opens it, by the words that stand in it, and kubeseal takes what comes out.
    let words = text.lines().find_map(|line| Some(line.split_once("Without seal: ")?.1)).context("how to open it")?;
    let (age, clear) = (Tool::Age.path().await?, safe.path("keys.json"));
    let words = words.replace("THIS_FILE", &file).replace("age -d", &format!("{} -d", age.display()));
    let words = words.replace("IDENTITY", &safe.path("me.txt")).replace("keys.json", &clear);
    let mut shell = command::clean("sh", Path::new("/nonexistent"));
    command::run(shell.args(["-ec", &words]), b"").await?.success()?;
    kubeseal(None, &["--recovery-unseal", "--recovery-private-key", &clear], &sealed).await?.success()?;

    // It is checked against the cluster, without opening it and with.
    let stranger = safe.identity("stranger.txt").await?;
    let verify = async |flags: &[&str]| it.keys(&[&["backup", &file, "--verify"], flags].concat()).await;
    assert_eq!(verify(&[]).await?.success()?, "");
    verify(&["--identity", &safe.path("me.txt")]).await?.success()?;
    let closed = verify(&["--identity", &safe.path("stranger.txt")]).await?;
    assert!(closed.status.code() == Some(3) && closed.stderr.contains("none of the identities"), "{closed}");
    // What cannot be opened by anybody is no backup, whatever its head says.
    let text = fs::read_to_string(&file)?;
    let cut = safe.path("cut.yaml");
    let begin = "-----BEGIN AGE ENCRYPTED FILE-----\n";
    let head = text.find(begin).context("an armour")? + begin.len();
    for length in [head, text.len() - 300] {
        fs::write(&cut, &text[..length])?;
        let damaged = it.keys(&["backup", &cut, "--verify"]).await?;
        assert!(damaged.status.code() == Some(3) && damaged.stderr.contains("damaged"), "{damaged}");
    }
    let other = Operated::new().await?;
    let compared = other.keys(&["backup", &file, "--verify"]).await?;
    assert!(compared.status.code() == Some(3) && compared.stdout.contains("is another cluster's"), "{compared}");
    mark(&it.world, &first, "active").await?;
    let changed = verify(&[]).await?;
    assert!(changed.status.code() == Some(1) && changed.stdout.contains("is marked otherwise"), "{changed}");
    mark(&it.world, &first, "compromised").await?;
    it.world.renew_key().await?;
    let missing = verify(&[]).await?;
    assert!(missing.status.code() == Some(1) && missing.stdout.contains("but not in the backup"), "{missing}");

    // For an ssh key beside an age one, for a passphrase, and for nobody in particular.
    let key = ssh::key_pair(&safe.path("id_ed25519"))?;
    let both = safe.path("both.yaml");
    it.keys(&["backup", &both, "--recipient", &key, "--recipient", &stranger]).await?.success()?;
    for identity in ["id_ed25519", "stranger.txt"] {
        it.keys(&["backup", &both, "--verify", "--identity", &safe.path(identity)]).await?.success()?;
    }
    fs::write(safe.path("words"), "three words long\n")?;
    let (with_words, words) = (safe.path("words.yaml"), safe.path("words"));
    it.keys(&["backup", &with_words, "--passphrase-file", &words]).await?.success()?;
    it.keys(&["backup", &with_words, "--verify", "--passphrase-file", &words]).await?.success()?;
    let nobody = it.keys(&["backup", &safe.path("none.yaml")]).await?;
    assert!(nobody.status.code() == Some(1) && nobody.stderr.contains("say for whom the backup is"), "{nobody}");
    assert!(!Path::new(&safe.path("none.yaml")).exists());
    Ok(())
}

/// A key Secret that somebody spoilt is kept as it is, told apart, and keeps nobody from the others.
#[tokio::test]
async fn a_spoilt_key_spoils_no_backup() -> Result<()> {
    let (it, safe) = (Operated::new().await?, Safe::new().await?);
    let api: Api<Secret> = Api::namespaced(it.world.cluster.admin().await?, "kube-system");
    let good = api.list(&ListParams::default().labels(KEYS)).await?.items.pop().context("a key")?;
    let key = key_secret::read(&good, KeyOrder::default())?.private;
    // Its certificate is as good as any: the head of a backup names it.
    let spoilt = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "spoilt", "namespace": "kube-system", "labels": {(key_secret::LABEL): "active"}},
        "stringData": {"tls.key": "hunter2", "tls.crt": include_str!("../crds/testdata/new.crt")},
    });
    it.world.cluster.apply(&spoilt.to_string()).await?;
    let (plain, closed, me) = (safe.path("plain.yaml"), safe.path("closed.yaml"), safe.path("me.txt"));
    for (file, whom) in [(&plain, &["--plain"][..]), (&closed, &["--recipients-file", &safe.path("me.txt.pub")])] {
        let made = it.keys(&[&["backup", file], whom].concat()).await?;
        let warned = "spoilt holds no key that can be used, and is in the backup as it is";
        assert!(made.status.success() && made.stderr.contains(warned), "{made}");
    }

    // Who does not open it cannot tell.
    let head = it.keys(&["backup", &closed, "--verify"]).await?;
    let warned = "spoilt in the cluster holds no key that can be used";
    assert!(head.status.success() && head.stderr.contains(warned), "{head}");
    for (file, opened) in [(&plain, &[][..]), (&closed, &["--identity", &me])] {
        let verify = async |how: &[&str]| it.keys(&[&["backup", file, "--verify"], opened, how].concat()).await;
        let told = verify(&[]).await?;
        assert_eq!(told.status.code(), Some(1), "{told}");
        assert!(told.stdout.starts_with("spoilt in the backup holds no key that can be used: "), "{told}");
        assert!(told.stdout.lines().count() == 1 && !format!("{told}").contains("hunter2"), "{told}");
        let report: Value = serde_json::from_str(&verify(&["-o", "json"]).await?.stdout)?;
        let kept = report["keys"].as_array().context("keys")?;
        assert_eq!((kept.len(), &kept[0]["fingerprint"]), (1, &json!(key.fingerprint().to_string())), "{report}");
        assert_eq!(report["unusable"][0]["secret"], "spoilt", "{report}");
        assert_eq!(report["differences"], json!({"missing": [], "extra": [], "changed": []}), "{report}");
    }
    api.delete(&good.name_any(), &DeleteParams::default()).await?;
    let restored = it.keys(&["restore", &closed, "--identity", &me]).await?;
    assert!(restored.status.code() == Some(3) && restored.stderr.contains("spoilt"), "{restored}");
    assert_eq!(api.get(&good.name_any()).await?.data, good.data);

    // With its private key spoilt, a certificate is no key: the way of the alert SignetKeyMalformed.
    let spoil = Patch::Merge(json!({"stringData": {"tls.key": "hunter2"}}));
    api.patch(&good.name_any(), &PatchParams::default(), &spoil).await?;
    let list = it.report(&["list"]).await?;
    let malformed = list["malformed"].as_array().context("malformed")?;
    assert!(malformed.iter().any(|it| it["secret"] == good.name_any()) && malformed.len() == 2, "{list}");
    let restored = it.keys(&["restore", &closed, "--identity", &me]).await?;
    assert!(restored.stdout.contains(": its own name is taken"), "{restored}");
    let keys = api.list(&ListParams::default().labels(KEYS)).await?.items;
    assert!(keys.iter().any(|key| key.data == good.data), "{restored}");
    Ok(())
}

#[tokio::test]
async fn the_examples_of_the_help_work() -> Result<()> {
    let (it, safe) = (Operated::new().await?, Safe::new().await?);
    fs::copy(safe.path("me.txt.pub"), safe.path("ops.txt"))?;
    for verb in ["backup", "restore"] {
        let words = example(verb).await?;
        let words: Vec<String> =
            words.into_iter().map(|word| if word.contains('.') { safe.path(&word) } else { word }).collect();
        it.keys(&words.iter().map(String::as_str).collect::<Vec<_>>()).await?.success()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_restore_merges_and_tells_what_opened() -> Result<()> {
    let (it, safe) = (Operated::new().await?, Safe::new().await?);
    let place = it.world.place("restore").await?;
    let sealed = it.world.seal(&place.secret("db", &[("a", "1")]), &[]).await?;
    it.world.renew_key().await?;
    it.world.renew_key().await?;
    let file = safe.path("keys.yaml");
    it.keys(&["backup", &file, "--recipients-file", &safe.path("me.txt.pub")]).await?.success()?;
    let restore = ["restore", &file, "--identity", &safe.path("me.txt"), "--timeout", "5m"];

    // One key is gone and its name is another Secret's, one was marked since, and one is as it was.
    let list = it.report(&["list"]).await?;
    let name = |index: usize| list["keys"][index]["secret"].as_str().map(str::to_owned).context("a key");
    let (superseded, gone) = (name(1)?, name(2)?);
    let api: Api<Secret> = Api::namespaced(it.world.cluster.admin().await?, "kube-system");
    api.delete(&gone, &DeleteParams::default()).await?;
    eventually("the loss to be told", SOON, || async {
        let lost = it.world.controller.metric("sealed_secrets_controller_keys_lost_total").await?;
        let told = it.world.cluster.kubectl(&["-n", "kube-system", "get", "events", "-o", "name"]).await?;
        Ok((lost > 0.0 && told.contains(&gone)).then_some(()))
    })
    .await?;
    it.world.cluster.apply(&sealed).await?;
    place.synced("db", "False").await?;
    it.world.cluster.kubectl(&["-n", "kube-system", "create", "secret", "generic", &gone]).await?;
    let before = keys(&it.world).await?;
    let plan = it.keys(&[&restore[..], &["--dry-run"]].concat()).await?.success()?;
    assert!(plan.contains("would be restored as") && plan.contains("is there already"), "{plan}");
    assert_eq!(keys(&it.world).await?, before, "a dry run makes nothing");
    mark(&it.world, &superseded, "retired").await?;

    let report = it.report(&restore).await?;
    let outcome = |index: usize| {
        let row =
            report["keys"].as_array()?.iter().find(|row| row["fingerprint"] == list["keys"][index]["fingerprint"]);
        row?["outcome"].as_str()
    };
    assert_eq!([0, 1, 2].map(outcome), [Some("present"), Some("marked"), Some("renamed")], "{report}");
    assert_eq!(report["opened"], json!([{"namespace": place.namespace, "name": "db"}]), "{report}");
    let after = keys(&it.world).await?;
    assert_eq!(after.len(), 3);
    assert_eq!(after[&superseded][key_secret::LABEL], "retired", "what the cluster says counts");
    assert!(api.get(&gone).await?.data.is_none(), "another's Secret stays as it was");
    place.holds("db", &[("a", "1")]).await?;

    let again = it.report(&restore).await?;
    assert!(again["keys"].as_array().context("keys")?.iter().all(|row| row["outcome"] != "restored"), "{again}");
    assert_eq!(keys(&it.world).await?, after, "a second time changes nothing");
    Ok(())
}

/// As after `etcdctl snapshot restore`. Of the four watches that there are at the least none would ever say so.
#[tokio::test]
async fn a_store_that_was_restored_from_a_backup_is_noticed_by_who_watched_it() -> Result<()> {
    let world = World::new().await?;
    let place = world.place("restored").await?;
    let (store, backup) = (world.cluster.scratch().path().join("etcd"), world.cluster.scratch().path().join("backup"));
    exchange(&world, || copy(&store, &backup)).await?;
    place.apply_sealed("lost", &[("a", "1")]).await?;
    place.synced("lost", "True").await?;
    let leads = async || Ok((world.controller.metric("sealed_secrets_controller_leading").await? > 0.0).then_some(()));
    eventually("it to lead", SOON, leads).await?;

    exchange(&world, || {
        fs::remove_dir_all(&store)?;
        copy(&backup, &store)
    })
    .await?;
    eventually("it to end", SOON, || async { Ok((!world.controller.is_running().await?).then_some(())) }).await?;
    let logs = world.controller.logs().await?;
    assert!(logs.contains("its store was restored from a backup"), "{logs}");
    world.controller.restart().await?;
    place.apply_sealed("new", &[("a", "1")]).await?;
    place.holds("new", &[("a", "1")]).await?;
    Ok(())
}

/// Changes what the API server keeps everything in, while nobody reads or writes it.
async fn exchange(world: &World, change: impl FnOnce() -> Result<()>) -> Result<()> {
    for server in [Server::ApiServer, Server::Etcd] {
        world.cluster.stop(server).await?;
    }
    change()?;
    world.cluster.resume_all(&[Server::Etcd, Server::ApiServer]).await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if from.is_dir() {
            copy(&from, &to.join(name))?;
        } else {
            fs::copy(&from, to.join(name))?;
        }
    }
    Ok(())
}
