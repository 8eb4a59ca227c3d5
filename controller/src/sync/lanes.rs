//! Who waits behind whom. The GitSyncs of this cluster share one queue; those of each kubeconfig have one of their own,
//! so that nobody waits behind a cluster that does not answer. A change of a kubeconfig is a trigger for those that use it.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
};

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::{
        controller::Action,
        reflector::{ObjectRef, Store},
        watcher::{self, Event},
    },
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Guarded, Syncer, guarded_key};
use crate::{
    calls::{logged, watch},
    context::Context,
    drive::{Ends, Limits, drive},
    queue::Queue,
};

/// GitSyncs of this cluster that are handled at once.
const CONCURRENCY: u16 = 8;
/// Of each other cluster.
const ELSEWHERE: u16 = 4;

/// Namespace and name of the Secret with the kubeconfig; none for this cluster.
pub(super) type Lane = Option<(String, String)>;

/// The lane of a GitSync. One that cannot be read has nothing done about it, and that at once.
pub(super) fn lane_of(guarded: &Guarded) -> Lane {
    let wanted = guarded.0.as_ref().ok()?.spec.kube_config.as_ref()?;
    Some((guarded_key(guarded).0, wanted.secret_ref.name.clone()))
}

/// Hands each trigger to its lane, until `stop`; then ends what is under way.
pub(super) async fn run(
    syncer: Arc<Syncer>,
    triggers: impl Stream<Item = ObjectRef<Guarded>> + Send,
    stop: CancellationToken,
) {
    let mut lanes: HashMap<Lane, mpsc::UnboundedSender<ObjectRef<Guarded>>> = HashMap::new();
    let mut running = JoinSet::new();
    let mut triggers = pin!(triggers.take_until(stop.clone().cancelled_owned()));
    while let Some(sync) = triggers.next().await {
        let Some(lane) = syncer.store.get(&sync).map(|guarded| lane_of(&guarded)) else { continue };
        if !lanes.contains_key(&lane) {
            // Those that nobody is in any more end.
            let wanted: HashSet<Lane> = syncer.store.state().iter().map(|guarded| lane_of(guarded)).collect();
            lanes.retain(|lane, _| wanted.contains(lane));
            while running.try_join_next().is_some() {}
        }
        let sender = lanes.entry(lane).or_insert_with_key(|lane| {
            let (sender, receiver) = mpsc::unbounded_channel();
            running.spawn(work(syncer.clone(), lane.clone(), receiver, stop.clone()));
            sender
        });
        // It ends with its sender, or with everything.
        let _ = sender.send(sync);
    }
    drop(lanes);
    while running.join_next().await.is_some() {}
}

async fn work(
    syncer: Arc<Syncer>,
    lane: Lane,
    triggers: mpsc::UnboundedReceiver<ObjectRef<Guarded>>,
    stop: CancellationToken,
) {
    let (end, store) = (stop.child_token(), syncer.store.clone());
    let ended = end.clone().drop_guard();
    let triggers = stream::unfold((triggers, ended), |(mut triggers, ended)| async move {
        triggers.recv().await.map(|sync| (sync, (triggers, ended)))
    });
    let changes = match &lane {
        Some(at) => changes(&syncer, at.clone(), store.clone()).boxed(),
        None => stream::empty().boxed(),
    };
    let triggers = stream::select(triggers, changes.take_until(end.clone().cancelled_owned()));
    let concurrency = if lane.is_some() { ELSEWHERE } else { CONCURRENCY };
    let queue = Queue::new("sync", syncer.context.metrics.clone(), syncer.context.pulses.clone());
    let pass = move |guarded: Arc<Guarded>, syncer: Arc<Syncer>, _| {
        // One that has gone over to another lane is passed over there.
        let is_here = lane_of(&guarded) == lane;
        async move { if is_here { Box::pin(syncer.reconcile(&guarded)).await } else { Ok(Action::await_change()) } }
    };
    let ends = Ends { stop: end, lost: syncer.context.lost.clone() };
    drive(pass, syncer, store, triggers, Limits { concurrency, retries: None }, queue, ends).await;
}

/// All of a lane, whenever its kubeconfig changes.
fn changes(
    syncer: &Syncer,
    (namespace, name): (String, String),
    store: Store<Guarded>,
) -> impl Stream<Item = ObjectRef<Guarded>> + use<> {
    let Context { client, metrics, .. } = &syncer.context;
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), &namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let lane: Lane = Some((namespace, name));
    watch(api, config).filter_map(logged("Secret", metrics)).flat_map(move |event| {
        let concerned = match event {
            Event::Apply(_) | Event::Delete(_) | Event::InitDone => store.state(),
            Event::Init | Event::InitApply(_) => Vec::new(),
        };
        let concerned = concerned.into_iter().filter(|guarded| lane_of(guarded) == lane);
        stream::iter(concerned.map(|guarded| ObjectRef::from_obj(&*guarded)).collect::<Vec<_>>())
    })
}
