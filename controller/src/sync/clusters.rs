//! The clusters that objects are applied to: the one that the controller runs in, and those that kubeconfigs lead to. Each
//! has its own clients, watches and list of kinds; GitSyncs with the same kubeconfig share them, and the last one that goes
//! takes them along. Another kubeconfig in the same Secret is another cluster here, begun anew at the next pass.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use crds::{GitSync, git_sync::GitSyncStatus, sync::inventory::Inventory, unseal::ClearSecret};
use futures::{FutureExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Config, Discovery,
    config::{KubeConfigOptions, Kubeconfig},
    discovery::ApiCapabilities,
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Error, Git, Key,
    hands::Hands,
    key,
    kinds::{Kind, Kinds},
    kubeconfig::{self, Refused},
    live::Live,
    look::KindName,
    object::ObjectId,
    plan::LiveObject,
    reach::Reach,
    render::Desired,
    status::Cause,
};
use crate::{
    calls::{CallError, bounded, concurrently},
    context::chain,
    pace::Pace,
    pulse::Pulses,
};

/// Longest wait for a connection to another cluster.
const CONNECT: Duration = Duration::from_secs(10);
/// Where Flux looks for a kubeconfig when no entry is named.
const ENTRIES: [&str; 2] = ["value", "value.yaml"];

/// How other clusters are reached.
#[derive(Clone)]
pub struct Remote {
    /// Of each, as of the own one.
    pub pace: Pace,
    /// --insecure-kubeconfig-tls
    pub insecure: bool,
}

/// One cluster.
pub struct Cluster {
    /// Whose rights everything is done with.
    pub hands: Hands,
    /// What stands there because of us.
    pub live: Arc<Live>,
    /// What its API server serves, as it last said.
    served: tokio::sync::Mutex<Option<Arc<Kinds>>>,
    /// Of one that the controller does not run in.
    reach: Option<Reach>,
    /// Ends its watches.
    _end: DropGuard,
}

/// All clusters.
pub struct Clusters {
    home: Arc<Cluster>,
    /// By the digest of their kubeconfigs.
    others: Mutex<HashMap<[u8; 32], Weak<Cluster>>>,
    remote: Remote,
    around: Around,
}

/// What every cluster's watches tell, and when they end.
struct Around {
    pulses: Pulses,
    moved: mpsc::UnboundedSender<Key>,
    stop: CancellationToken,
}

/// Why a kubeconfig leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No such Secret, or no right to it.
    #[error("cannot read the Secret {name} named in spec.kubeConfig.secretRef")]
    Read {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: CallError,
    },
    /// Nothing in it.
    #[error("the Secret {name} named in spec.kubeConfig.secretRef has no entry {entry}")]
    Entry {
        /// Its name.
        name: String,
        /// The one that is missing.
        entry: String,
    },
    /// It is not used.
    #[error("cannot use the kubeconfig in the Secret {name}: {why}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        why: Refused,
    },
}

impl AccessError {
    /// As a condition says it.
    pub fn cause(&self) -> Cause {
        Cause { reason: "InvalidKubeConfig", message: chain(self) }
    }

    /// Whether the Secret has gone.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.is_not_found())
    }
}

impl Clusters {
    /// The hands of `git` are those of the cluster that the controller runs in.
    pub fn new(git: &Git, pulses: Pulses, moved: mpsc::UnboundedSender<Key>, stop: CancellationToken) -> Self {
        let around = Around { pulses, moved, stop };
        let home = Arc::new(Cluster::new(git.hands.clone(), None, &around));
        Self { home, others: Mutex::default(), remote: git.remote.clone(), around }
    }

    /// The cluster of a GitSync. Asks that one nothing.
    pub async fn of(&self, sync: &GitSync) -> Result<Arc<Cluster>, AccessError> {
        let Some(wanted) = &sync.spec.kube_config else { return Ok(self.home.clone()) };
        let name = wanted.secret_ref.name.clone();
        let refused = |why| AccessError::Refused { name: name.clone(), why };
        let api: Api<Secret> = Api::namespaced(self.home.hands.controller().clone(), &key(sync).0);
        let secret = bounded(api.get(&name)).await;
        let secret = secret.map_err(|source| AccessError::Read { name: name.clone(), source })?;
        let secret = ClearSecret::new(secret);
        let entries = match &wanted.secret_ref.key {
            Some(key) => vec![key.as_str()],
            None => ENTRIES.to_vec(),
        };
        let data = secret.expose().data.as_ref();
        let text = entries
            .iter()
            .find_map(|entry| data?.get(*entry))
            .ok_or_else(|| AccessError::Entry { name: name.clone(), entry: entries.join(" or ") })?;
        let digest: [u8; 32] = Sha256::digest(&text.0).into();
        let known = self.others.lock().get(&digest).and_then(Weak::upgrade);
        if let Some(cluster) = known {
            return Ok(cluster);
        }
        let text = std::str::from_utf8(&text.0).map_err(|_| refused(Refused::Unreadable { line: None }))?;
        let access = kubeconfig::read(text, self.remote.insecure).map_err(refused)?;
        let config = config(access.kubeconfig).await.map_err(refused)?;
        let client = self.remote.pace.apart().of(config).map_err(|_| refused(Refused::Data))?;
        let reach = Reach::new(&access.server);
        let client = reach.of(client);
        let hands = self.home.hands.elsewhere(client, &access.server);
        let cluster = Arc::new(Cluster::new(hands, Some(reach), &self.around));
        let mut others = self.others.lock();
        others.retain(|_, cluster| cluster.strong_count() > 0);
        others.insert(digest, Arc::downgrade(&cluster));
        Ok(cluster)
    }
}

/// How to reach it, without a word of what is in the kubeconfig.
async fn config(kubeconfig: Kubeconfig) -> Result<Config, Refused> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|_| Refused::Data)?;
    config.connect_timeout = Some(CONNECT);
    Ok(config)
}

impl Cluster {
    fn new(hands: Hands, reach: Option<Reach>, around: &Around) -> Self {
        let end = around.stop.child_token();
        let live = Arc::new(Live::new(hands.own().clone(), around.moved.clone(), around.pulses.clone(), end.clone()));
        if let Some(reach) = &reach {
            // Whoever has something there looks again, when it is gone and when it is back.
            let (mut turns, live) = (reach.turns(), live.clone());
            let watching = async move {
                while turns.changed().await.is_ok() {
                    live.nudge();
                }
            };
            tokio::spawn(end.clone().run_until_cancelled_owned(watching));
        }
        Self { hands, live, served: tokio::sync::Mutex::default(), reach, _end: end.drop_guard() }
    }

    /// Whether it is the one that the controller runs in.
    pub fn is_home(&self) -> bool {
        self.reach.is_none()
    }

    /// Address of another cluster's API server.
    pub fn server(&self) -> Option<&str> {
        self.reach.as_ref().map(Reach::server)
    }

    /// Why nothing can be done there now. Of the own one everything else tells.
    pub async fn absent(&self) -> Option<Cause> {
        if self.reach.as_ref().is_none_or(Reach::answers) {
            return None;
        }
        let error = bounded(self.hands.own().apiserver_version()).await.err()?;
        Some(Cause { reason: "ClusterUnreachable", message: said(&error) })
    }

    /// Why what was applied elsewhere is not left behind for this cluster.
    pub fn moved_from(&self, status: &GitSyncStatus) -> Option<Cause> {
        let count = status.inventory.as_ref().map_or(0, |inventory| inventory.objects.len());
        if count == 0 || status.cluster.as_deref() == self.server() {
            return None;
        }
        let name =
            |server: Option<&str>| server.map_or_else(|| "this cluster".to_owned(), |it| format!("the one at {it}"));
        let (there, here) = (name(status.cluster.as_deref()), name(self.server()));
        let message = format!(
            "{count} objects of it are in {there}, and spec.kubeConfig now leads to {here}: lead it back, or delete this \
             GitSync, with deletionPolicy: Orphan to leave them there, and make it anew"
        );
        Some(Cause { reason: "ClusterChanged", message })
    }

    /// The inventory is about this cluster from now on.
    pub fn mark(&self, status: &mut GitSyncStatus) {
        let has_any = status.inventory.as_ref().is_some_and(|Inventory { objects }| !objects.is_empty());
        status.cluster = self.server().filter(|_| has_any).map(str::to_owned);
    }

    /// What is there of what Git asks for, and of what came from us. Of the latter some may have lost their labels.
    pub(super) async fn seen(
        &self,
        me: &Key,
        desired: &[Desired],
        inventory: &Inventory,
        served: &Kinds,
    ) -> Result<HashMap<ObjectId, LiveObject>, Error> {
        let wanted: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
        let mut seen = self.live.find(wanted.iter().copied().chain(inventory.objects.keys()));
        let unseen = inventory.objects.iter().filter(|(id, _)| !wanted.contains(id) && !seen.contains_key(id));
        let looks = unseen
            .filter_map(|(id, version)| Some((id, served.find(&id.group, version, &id.kind)?)))
            .map(|(id, kind)| self.live.stray(kind, id, me).boxed());
        let strays: Vec<_> = concurrently(looks).try_collect().await?;
        seen.extend(strays.into_iter().flatten());
        Ok(seen)
    }

    /// Watches these kinds, as far as they are served; answers what is.
    pub(super) async fn watch(&self, kinds: &HashSet<KindName>) -> Result<Arc<Kinds>, Error> {
        let served = self.served(kinds).await?;
        let there = kinds.iter().filter_map(|(group, version, kind)| served.find(group, version, kind));
        self.live.ensure(there).await?;
        Ok(served)
    }

    fn is_over(&self, (group, _, kind): &KindName) -> bool {
        self.live.is_over(group, kind)
    }

    /// What its API server serves, as it last said; asked anew when it did not say some of what is needed, or what it said
    /// does not hold any more.
    pub(super) async fn served(&self, needed: &HashSet<KindName>) -> Result<Arc<Kinds>, Error> {
        let known = self.served.lock().await.clone();
        let all = |served: &Arc<Kinds>| {
            let is_served = |(group, version, kind): &KindName| served.get(group, version, kind).is_some();
            needed.iter().all(|kind| is_served(kind) && !self.is_over(kind))
        };
        match known.filter(all) {
            Some(served) => Ok(served),
            None => self.discover().await,
        }
    }

    /// Asks the API server what it serves.
    pub(super) async fn discover(&self) -> Result<Arc<Kinds>, Error> {
        let discovery = bounded(Discovery::new(self.hands.controller().clone()).run_aggregated()).await;
        let served = Arc::new(served(&discovery.map_err(Error::Discovery)?));
        *self.served.lock().await = Some(served.clone());
        Ok(served)
    }

    /// Of its API server.
    pub(super) async fn version(&self) -> Result<String, Error> {
        let version = bounded(self.hands.controller().apiserver_version()).await;
        Ok(version.map_err(Error::Discovery)?.git_version)
    }
}

/// What was in the way, without the layers that it came through.
fn said(error: &CallError) -> String {
    match error {
        CallError::Api(kube::Error::Service(error)) => error.to_string(),
        other => chain(other),
    }
}

/// What an API server said it serves.
fn served(discovery: &Discovery) -> Kinds {
    let versions = discovery.groups().flat_map(|group| group.versions().map(move |version| (group, version)));
    let resources = versions.flat_map(|(group, version)| group.versioned_resources(version));
    resources.map(|(resource, ApiCapabilities { scope, .. })| Kind { resource, scope }).collect()
}
