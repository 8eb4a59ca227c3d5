//! Keeps the cluster as Git says. A pass has Git asked when it is time to, renders what is new, plans by metadata alone,
//! and carries the plan out; while nothing moved it makes no call at all. It writes with the rights of a
//! ServiceAccount that is made for it, and never with the controller's.
//!
//! Here is the wiring: what triggers a pass, and what is kept between passes. The pass itself is in [`pass`], and what it
//! is made of in [`prepare`], [`look`], [`rollout`] and [`tell`].

pub mod asks;
pub mod audit;
pub mod builder;
pub mod claims;
pub mod clusters;
pub mod depends;
pub mod drift;
pub mod execute;
pub mod expressions;
pub mod fetch;
pub mod fight;
pub mod hands;
mod heal;
pub mod hooks;
pub mod inputs;
pub mod kubeconfig;
mod lanes;
pub mod letter;
pub mod live;
mod look;
pub mod memory;
mod neighbours;
pub mod notify;
pub mod output;
mod pass;
pub mod permits;
pub mod plan;
mod post;
mod prepare;
pub mod reach;
pub mod rollback;
mod rollout;
pub mod sandbox;
pub mod sealed;
mod shares;
pub mod source;
mod spans;
mod ssh;
pub mod status;
mod sweep;
mod tell;
mod trust;
mod variables;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use crds::{
    GitSync, SealedSecret,
    git_sync::{FINALIZER, GitSource, GitSyncSpec, GitSyncStatus, NAME_LABEL, NAMESPACE_LABEL},
    sync::{FIELD_MANAGER as SYNC_MANAGER, health, ignore, kinds, marks, object, order, render, substitute::Variables},
};
use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        controller::Action,
        finalizer::{Error as FinalizerError, Event as Finalize, finalizer},
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    asks::Asks,
    audit::Record,
    claims::Claims,
    clusters::{AccessError, Cluster, Clusters},
    drift::Drift,
    expressions::{Expressions, Invalid},
    fetch::{Fetching, under_way::UnderWay},
    fight::Fights,
    hands::AccountError,
    health::Health,
    live::WatchError,
    object::ObjectId,
    plan::{Applied, Leave},
    post::Post,
    render::{Desired, Documents},
    source::{Commit, Description},
    status::Fact,
};
pub use self::{builder::Builder, clusters::Remote, hands::Hands, source::Mirrors};
use crate::{
    calls::{self, CallError, logged},
    context::Context,
    events::Events,
    kept::Kept,
    keys::Ring,
};

/// Namespace and name of a GitSync.
pub type Key = (String, String);
type Guarded = DeserializeGuard<GitSync>;

/// What went wrong on the way; the pass is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The outcome could not be written down.
    #[error("cannot write the status of the GitSync")]
    Status(#[source] CallError),
    /// The cluster cannot be seen.
    #[error("cannot ask the API server what it serves")]
    Discovery(#[source] CallError),
    /// A kind cannot be seen.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Nothing can be done in its name.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Objects of a GitSync that goes are still there.
    #[error("cannot delete what was applied: {0}")]
    Teardown(String),
    /// The finalizer could not be set or taken away.
    #[error("cannot write the finalizer of the GitSync")]
    Finalizer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What Git is reached, rendered and written with.
#[derive(Clone)]
pub struct Git {
    /// Clients with the rights of ServiceAccounts.
    pub hands: Hands,
    /// The way to other clusters.
    pub remote: Remote,
    /// Copies of the repositories.
    pub mirrors: Arc<Mirrors>,
    /// Kustomize and Helm.
    pub builder: Arc<Builder>,
}

/// What a rendering is of.
#[derive(Clone, PartialEq)]
struct Origin {
    commit: Commit,
    /// Of the variables.
    variables: String,
    /// What of the spec has a say in it.
    spec: GitSyncSpec,
}

impl Origin {
    fn new(commit: Commit, spec: &GitSyncSpec, variables: Option<&Variables>) -> Self {
        let none = GitSyncSpec { source: GitSource::default(), interval: String::new(), ..GitSyncSpec::default() };
        let GitSyncSpec { source, interval, prune, suspend, notify, .. } = none;
        let variables = variables.map(Variables::digest).unwrap_or_default();
        Self { commit, variables, spec: GitSyncSpec { source, interval, prune, suspend, notify, ..spec.clone() } }
    }
}

/// Documents, and what they were made of: the same again makes the same again.
#[derive(Clone)]
struct Read {
    origin: Origin,
    recipe: String,
    said: Arc<Description>,
    documents: Arc<Documents>,
}

#[derive(Clone)]
struct Good {
    origin: Origin,
    recipe: String,
    /// As branch@sha1:commit.
    revision: String,
    /// What its commit says of itself.
    said: Arc<Description>,
    desired: Arc<Vec<Desired>>,
}

/// What this process knows of a GitSync.
#[derive(Default)]
struct State {
    uid: String,
    /// As last written: the watch's copy may be older than that, and an old inventory would lose objects.
    status: Option<GitSyncStatus>,
    /// Where its objects are, as last found.
    cluster: Option<Arc<Cluster>>,
    fetching: Fetching,
    under_way: Option<UnderWay>,
    variables: Option<variables::Filled>,
    /// What was read last and does not render, so that it need not be read again when a kind comes that it lacks.
    read: Option<Read>,
    /// The newest that rendered: as it says the cluster is kept.
    good: Option<Good>,
    applied: HashMap<ObjectId, Applied>,
    /// What the spec says in CEL, and the generation that says it.
    expressions: Arc<Expressions>,
    understood: Option<i64>,
    /// How objects fare, by the version that was looked at.
    health: HashMap<ObjectId, (String, Health)>,
    /// What others changed and is left so, by the version that was looked at.
    drifts: HashMap<ObjectId, (String, Drift)>,
    /// Who corrects us.
    fights: Fights,
    /// What is done, and what for.
    record: Record,
    /// Drift that was corrected, and of which nobody was notified yet.
    corrected: Option<String>,
    /// As last found; conditions beside Ready.
    facts: Vec<Fact>,
    /// The revision under way, and since when.
    since: Option<(String, Instant)>,
    /// The span of the time until the next pass, while there is nothing to do but wait.
    waiting: Option<tracing::Span>,
    /// The plan that somebody allowed.
    leave: Option<Leave>,
    failures: u32,
    /// All that goes with it has gone.
    is_over: bool,
    /// Others are waited for that may ask for what goes.
    lingers: bool,
    /// It has failed, and was not well since.
    is_unwell: bool,
}

impl State {
    /// Reads the expressions of a spec that is new.
    async fn understand(&mut self, sync: &GitSync) -> Result<(), Invalid> {
        if self.understood.is_none() || self.understood != sync.metadata.generation {
            let spec = Box::new(sync.spec.clone());
            let read = tokio::task::spawn_blocking(move || Expressions::new(&spec)).await;
            let expressions = read.unwrap_or_else(|_| Err(Invalid::unread()))?;
            // What was looked at by other rules is looked at again.
            if !expressions.judge_as(&self.expressions) {
                self.health.clear();
            }
            (self.expressions, self.understood) = (Arc::new(expressions), sync.metadata.generation);
        }
        Ok(())
    }

    /// A message without the values of Secrets that went into what was rendered.
    fn mask(&self, message: &str) -> String {
        self.variables.as_ref().map_or_else(|| message.to_owned(), |filled| filled.variables.mask(message))
    }
}

struct Syncer {
    context: Context,
    git: Git,
    clusters: Clusters,
    events: Events,
    post: Post,
    store: Store<Guarded>,
    states: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<State>>>>,
    claims: Mutex<Claims>,
    /// The revisions that GitSyncs were called for by others.
    calls: Mutex<HashMap<Key, String>>,
    /// Hears for which GitSync there is a call, or what a fetch came to.
    news: mpsc::UnboundedSender<Key>,
}

/// The GitSync whose labels a SealedSecret carries; empty names for none.
pub fn owner(sealed: &Kept<SealedSecret>) -> Key {
    let label = |key| sealed.labels().get(key).cloned().unwrap_or_default();
    (label(NAMESPACE_LABEL), label(NAME_LABEL))
}

/// Runs until `stop`, then ends what is under way. `sealed` brings the GitSyncs whose SealedSecrets moved.
pub async fn run(context: Context, git: Git, sealed: mpsc::UnboundedReceiver<Key>, stop: CancellationToken) {
    let (store, writer) = reflector::store();
    let (moved, drift) = mpsc::unbounded_channel();
    let (news, told) = mpsc::unbounded_channel();
    let events = Events::new(context.client.clone(), "signet");
    let syncer = Arc::new(Syncer {
        clusters: Clusters::new(&git, context.pulses.clone(), moved, stop.clone()),
        post: Post::new(context.clone(), events.clone(), stop.clone()),
        events,
        states: Mutex::default(),
        claims: Mutex::default(),
        calls: Mutex::default(),
        news,
        store: store.clone(),
        context,
        git,
    });
    let triggers = stream::select_all([
        syncer.clone().git_syncs(writer).boxed(),
        known(store.clone(), drift).boxed(),
        known(store.clone(), sealed).boxed(),
        known(store.clone(), told).boxed(),
        keyed(store.clone(), syncer.context.ring.clone()).boxed(),
    ]);
    let metrics = syncer.context.metrics.clone();
    metrics.git_syncs.follow(store);
    // Both go on until all ends; with a defect of the one the other ends, too.
    tokio::select! {
        () = lanes::run(syncer.clone(), triggers, stop) => {}
        () = syncer.sweep() => {}
    }
    // With what is known of them go their fetches: nobody would take in what these come to.
    syncer.keep(|_| false);
    syncer.post.finish().await;
    metrics.git_syncs.forget();
    syncer.events.sent(&syncer.context.lost).await;
}

impl Syncer {
    async fn reconcile(&self, guarded: &Guarded) -> Result<Action, Error> {
        let sync = match &guarded.0 {
            Ok(sync) => sync.clone(),
            Err(invalid) => {
                tracing::error!(name = guarded.name_any(), error = invalid.error, "a GitSync cannot be read");
                return Ok(Action::await_change());
            }
        };
        let api: Api<GitSync> = Api::namespaced(self.context.client.clone(), &sync.namespace().unwrap_or_default());
        let Some(state) = self.state(&sync) else { return Ok(Action::await_change()) };
        let pass = |event| async move {
            let mut state = state.lock().await;
            match event {
                Finalize::Apply(sync) => self.sync(&sync, &mut state).await,
                Finalize::Cleanup(sync) => self.cleanup(&sync, &mut state).await,
            }
        };
        finalizer(&api, FINALIZER, Arc::new(sync), pass).await.map_err(|error| match error {
            FinalizerError::ApplyFailed(error) | FinalizerError::CleanupFailed(error) => error,
            other => Error::Finalizer(Box::new(other)),
        })
    }

    /// Where its objects are. Of what is elsewhere nothing is known any more.
    async fn cluster(&self, sync: &GitSync, state: &mut State) -> Result<Arc<Cluster>, AccessError> {
        let cluster = self.clusters.of(sync).await?;
        if state.cluster.as_ref().is_some_and(|before| before.server() != cluster.server()) {
            (state.read, state.good) = (None, None);
            state.applied.clear();
            state.health.clear();
            state.drifts.clear();
        }
        state.cluster = Some(cluster.clone());
        Ok(cluster)
    }

    /// What is known of it: of another object than last time nothing yet. `None` if it went before its turn came: what was
    /// known went with it, and all it did at its end would be done again.
    fn state(&self, sync: &GitSync) -> Option<Arc<tokio::sync::Mutex<State>>> {
        let uid = sync.uid().unwrap_or_default();
        let (namespace, name) = key(sync);
        // The store forgets it first, then `keep`.
        let mut states = self.states.lock();
        self.store.get(&ObjectRef::new(&name).within(&namespace)).filter(|there| there.uid() == sync.uid())?;
        let known = states.entry(key(sync)).or_default();
        if known.try_lock().is_ok_and(|state| state.uid != uid) {
            let under_way = sync.status.as_ref().and_then(|status| status.under_way.as_ref());
            let record = under_way.map(Record::resumed).unwrap_or_default();
            *known = Arc::new(tokio::sync::Mutex::new(State { uid, record, ..State::default() }));
        }
        Some(known.clone())
    }

    /// Forgets all others.
    fn keep(&self, stays: impl Fn(&Key) -> bool) {
        self.states.lock().retain(|key, _| stays(key));
        self.claims.lock().keep(&stays);
        self.calls.lock().retain(|key, _| stays(key));
    }

    fn git_syncs(self: Arc<Self>, writer: Writer<Guarded>) -> impl Stream<Item = ObjectRef<Guarded>> {
        let api: Api<Guarded> = Api::all(self.context.client.clone());
        let mut asks = Asks::default();
        calls::watch(api, watcher::Config::default())
            .modify(|sync| sync.managed_fields_mut().clear())
            .reflect(writer)
            .filter_map(logged("GitSync", &self.context.metrics))
            .flat_map(move |event| {
                let (moved, itself) = match event {
                    Event::Apply(sync) => {
                        let key = guarded_key(&sync);
                        (key.clone(), asks.is_new(key, &sync))
                    }
                    Event::Delete(sync) => {
                        let key = guarded_key(&sync);
                        self.keep(|other| *other != key);
                        asks.keep(|other| *other != key);
                        (key, false)
                    }
                    // Before that the store does not have them.
                    Event::InitDone => {
                        let there: HashSet<Key> = self.store.state().iter().map(|sync| guarded_key(sync)).collect();
                        self.keep(|key| there.contains(key));
                        asks.keep(|key| there.contains(key));
                        return stream::iter(all(&self.store));
                    }
                    Event::Init | Event::InitApply(_) => return stream::iter(Vec::new()),
                };
                // Those that wait for it look again, whatever became of it.
                let all = self.store.state();
                let waiting = depends::dependents(&moved, all.iter().filter_map(|guarded| guarded.0.as_ref().ok()));
                let keys = itself.then_some(moved).into_iter().chain(waiting);
                stream::iter(keys.map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)).collect::<Vec<_>>())
            })
    }
}

/// Those of the named GitSyncs that there are.
fn known(store: Store<Guarded>, named: mpsc::UnboundedReceiver<Key>) -> impl Stream<Item = ObjectRef<Guarded>> {
    let names = stream::unfold(named, |mut named| async move { named.recv().await.map(|key| (key, named)) });
    names.filter_map(move |(namespace, name)| {
        let sync = ObjectRef::new(&name).within(&namespace);
        std::future::ready(store.get(&sync).map(|_| sync))
    })
}

/// All GitSyncs, whenever the keys change: what could not be opened may be now.
fn keyed(store: Store<Guarded>, ring: Ring) -> impl Stream<Item = ObjectRef<Guarded>> {
    let changes = stream::unfold(ring, |mut ring| async move { ring.changed().await.ok().map(|()| ((), ring)) });
    changes.flat_map(move |()| stream::iter(all(&store)))
}

fn all(store: &Store<Guarded>) -> Vec<ObjectRef<Guarded>> {
    store.state().iter().map(|sync| ObjectRef::from_obj(sync.as_ref())).collect()
}

fn guarded_key(sync: &Guarded) -> Key {
    (sync.namespace().unwrap_or_default(), sync.name_any())
}

fn key(sync: &GitSync) -> Key {
    (sync.namespace().unwrap_or_default(), sync.name_any())
}
