//! The work: keys, SealedSecrets of one value of 64 bytes, and foreign Secrets, on a cluster of its own each time; and
//! the floor, which is the same writes by a client that does nothing else.

use std::{
    collections::HashSet,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use axum::http::Request;
use crds::{
    Certificate, Scope, SealedSecret,
    key::{self, KeyRequest, MintedKey},
    key_secret, seal,
    sealed_secret::{SealedSecretSpec, SecretTemplate},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::Cluster;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use rand::RngExt as _;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::phase;

/// Writes at once while the stage is set, which nobody times.
const SETTING: usize = 16;
const PATIENCE: Duration = Duration::from_mins(10);

/// Keys of several days, oldest first, so that none is due for renewal; generated once for the whole run.
pub struct Keys(Vec<(MintedKey, Certificate)>);

impl Keys {
    /// Makes as many of 4096 bits, on all cores.
    pub async fn mint(count: usize) -> Result<Self> {
        let now = Timestamp::now();
        let making = (0..count).map(|number| {
            let age = SignedDuration::from_hours(24) * i32::try_from(count - number).unwrap_or(i32::MAX);
            let request = KeyRequest {
                bits: 4096,
                common_name: String::new(),
                not_before: now - age,
                lifetime: SignedDuration::from_hours(87_600),
            };
            tokio::task::spawn_blocking(move || {
                let minted = key::mint(&request, &mut rand::rng())?;
                let certificate = Certificate::from_pem(&minted.certificate_pem)?;
                anyhow::Ok((minted, certificate))
            })
        });
        let making: Vec<_> = making.collect();
        let mut keys = Vec::new();
        for made in making {
            keys.push(made.await??);
        }
        Ok(Self(keys))
    }

    /// The newest, which no stage is without.
    pub fn newest(&self) -> Result<&(MintedKey, Certificate)> {
        self.0.last().context("there is no key")
    }

    /// The oldest, which only a stage with all of them has.
    pub fn oldest(&self) -> Result<&(MintedKey, Certificate)> {
        self.0.first().context("there is no key")
    }
}

/// A cluster with keys in it, and nobody who uses them yet.
pub struct Stage {
    pub cluster: Cluster,
    pub client: Client,
    namespace: String,
    made: usize,
}

/// Which of the keys seals the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedWith {
    Newest,
    Oldest,
}

impl Stage {
    /// `deploy/` on a new cluster, with the newest `count` of the keys.
    pub async fn set(keys: &Keys, count: usize) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let (client, namespace) = phase(&cluster, format!("a new cluster with keys: {count}"), async {
            cluster.deploy().await?;
            let client = cluster.admin().await?;
            let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
            for (number, (minted, _)) in keys.0.iter().rev().take(count).rev().enumerate() {
                let name = format!("{}{number}", key_secret::DEFAULT_PREFIX);
                secrets.create(&PostParams::default(), &key_secret::write(minted, "kube-system", &name)).await?;
            }
            Ok((client, cluster.namespace("bench").await?))
        })
        .await?;
        Ok(Self { cluster, client, namespace, made: 0 })
    }

    /// How many SealedSecrets are in place.
    pub fn count(&self) -> usize {
        self.made
    }

    fn sealed(&self) -> Api<SealedSecret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Puts more SealedSecrets in place.
    pub async fn seal(&mut self, count: usize, keys: &Keys, with: SealedWith) -> Result<()> {
        let key = match with {
            SealedWith::Newest => keys.0.last(),
            SealedWith::Oldest => keys.0.first(),
        };
        let (_, certificate) = key.context("there is no key")?;
        let names = self.made..self.made + count;
        self.made += count;
        let api = self.sealed();
        let creating = names.map(|number| {
            let sealed = sealed_secret(&self.namespace, &format!("sealed-{number}"), certificate);
            let api = api.clone();
            async move {
                api.create(&PostParams::default(), &sealed?).await?;
                anyhow::Ok(())
            }
        });
        let creating = stream::iter(creating).buffer_unordered(SETTING).try_collect();
        phase(&self.cluster, format!("SealedSecrets are put in place: {count}"), creating).await
    }

    /// Puts Secrets of somebody else in place, so many times 1 MiB in all.
    pub async fn foreign(&self, mebibytes: usize) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), "default");
        let creating = (0..mebibytes * 2).map(|number| {
            let mut value = vec![0; 1 << 19];
            rand::rng().fill(value.as_mut_slice());
            let secret = plain_secret(&format!("foreign-{number}"), value);
            let api = api.clone();
            async move {
                api.create(&PostParams::default(), &secret).await?;
                anyhow::Ok(())
            }
        });
        let creating = stream::iter(creating).buffer_unordered(4).try_collect();
        phase(&self.cluster, format!("{mebibytes} MiB of foreign Secrets are put in place"), creating).await
    }

    /// Waits, from now on, until so many SealedSecrets are synced; the answer is when.
    pub fn synced(&self, count: usize) -> JoinHandle<Result<Instant>> {
        when(self.sealed(), count, |sealed| sealed.synced().is_some_and(|condition| condition.status == "True"))
    }

    /// The floor: for every SealedSecret its Secret and a status, by so many clients at once that do nothing else.
    pub async fn floor(&self, round: usize, concurrency: usize) -> Result<Duration> {
        let names: Vec<_> = self.sealed().list_metadata(&ListParams::default()).await?.items;
        let (sealed, secrets) = (self.sealed(), Api::<Secret>::namespaced(self.client.clone(), &self.namespace));
        let since = Instant::now();
        let writing = names.into_iter().map(|it| {
            let (sealed, secrets) = (sealed.clone(), secrets.clone());
            async move {
                let name = it.name_any();
                let mut secret = plain_secret(&format!("{name}-{round}"), vec![b'x'; 64]);
                let owner = json!([{"apiVersion": SealedSecret::api_version(&()), "kind": "SealedSecret", "name": name,
                    "uid": it.uid(), "controller": true}]);
                secret.metadata.owner_references = serde_json::from_value(owner)?;
                secrets.create(&PostParams::default(), &secret).await?;
                let now = Timestamp::now();
                let status = json!({"status": {"observedGeneration": 1, "conditions": [{"type": "Synced",
                    "status": "True", "lastUpdateTime": now, "lastTransitionTime": now, "reason": "Unsealed"}]}});
                sealed.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
                anyhow::Ok(())
            }
        });
        stream::iter(writing).buffer_unordered(concurrency).try_collect::<Vec<_>>().await?;
        Ok(since.elapsed())
    }
}

/// How many requests about these resources the API server has answered, watches aside.
pub async fn requests(client: &Client, resources: &[&str]) -> Result<f64> {
    let text = client.request_text(Request::get("/metrics").body(Vec::new())?).await?;
    let about = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && resources.iter().any(|it| line.contains(&format!("resource=\"{it}\"")))
            && !line.contains("verb=\"WATCH\"")
    };
    let counts = text.lines().filter(about).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}

/// Watches, from now on, until so many objects have been as wanted; the answer is when.
pub fn when<K>(
    api: Api<K>,
    count: usize,
    mut wanted: impl FnMut(&K) -> bool + Send + 'static,
) -> JoinHandle<Result<Instant>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
    tokio::spawn(async move {
        let mut done = HashSet::new();
        let mut events = pin!(events);
        let counting = async {
            while let Some(object) = events.try_next().await? {
                if wanted(&object) && done.insert(object.name_any()) && done.len() == count {
                    return Ok(Instant::now());
                }
            }
            bail!("the watch ended")
        };
        match tokio::time::timeout(PATIENCE, counting).await {
            Ok(ended) => ended,
            Err(_) => bail!("{} of {count} are as wanted after {PATIENCE:?}", done.len()),
        }
    })
}

fn sealed_secret(namespace: &str, name: &str, certificate: &Certificate) -> Result<SealedSecret> {
    let value: [u8; 64] = rand::random();
    let sealed = seal::value(&value, (namespace, name), Scope::Strict, certificate, &mut rand::rng())?;
    let metadata = json!({"name": name, "namespace": namespace});
    let template = SecretTemplate { metadata: Some(metadata), ..SecretTemplate::default() };
    let spec = SealedSecretSpec {
        encrypted_data: [("password".to_owned(), sealed)].into(),
        template: Some(template),
        ..SealedSecretSpec::default()
    };
    Ok(SealedSecret::new(name, spec))
}

fn plain_secret(name: &str, value: Vec<u8>) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([("password".to_owned(), ByteString(value))].into()),
        ..Secret::default()
    }
}
