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
    context::{Context, Ended},
    drive::{Ends, Limits, Passed, drive},
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
    let store = syncer.store.clone();
    let triggers = triggers.take_until(stop.clone().cancelled_owned());
    let placed = triggers.filter_map(|sync| {
        let lane = store.get(&sync).map(|guarded| lane_of(&guarded));
        std::future::ready(lane.map(|lane| (lane, sync)))
    });
    let wanted = || store.state().iter().map(|guarded| lane_of(guarded)).collect();
    hand_out(placed, wanted, |lane, triggers| work(syncer.clone(), lane, triggers, stop.clone())).await;
}

/// Until there are no more triggers, or one of the lanes ends in a defect: rather nobody follows Git, and that is seen, than
/// that nothing is done about those in it, and nobody knows.
async fn hand_out<T, Work: Future<Output = ()> + Send + 'static>(
    triggers: impl Stream<Item = (Lane, T)> + Send,
    wanted: impl Fn() -> HashSet<Lane>,
    work: impl Fn(Lane, mpsc::UnboundedReceiver<T>) -> Work,
) {
    let mut lanes: HashMap<Lane, mpsc::UnboundedSender<T>> = HashMap::new();
    let mut running = JoinSet::new();
    let mut triggers = pin!(triggers);
    loop {
        let (lane, trigger) = tokio::select! {
            Some(ended) = running.join_next() => match ended {
                Ok(()) => continue,
                Err(error) => {
                    tracing::error!(error = %Ended::from(error), "the passes over GitSyncs ended in a defect");
                    return;
                }
            },
            next = triggers.next() => match next {
                Some(next) => next,
                None => break,
            },
        };
        if !lanes.contains_key(&lane) {
            // Those that nobody is in any more end.
            let wanted = wanted();
            lanes.retain(|lane, _| wanted.contains(lane));
        }
        let sender = lanes.entry(lane).or_insert_with_key(|lane| {
            let (sender, receiver) = mpsc::unbounded_channel();
            running.spawn(work(lane.clone(), receiver));
            sender
        });
        // It ends with its sender, with everything, or in a defect, which is heard of next.
        let _ = sender.send(trigger);
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
        async move {
            let pass =
                async { if is_here { Box::pin(syncer.reconcile(&guarded)).await } else { Ok(Action::await_change()) } };
            pass.await.map(Passed::Done)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lane_that_ends_in_a_defect_ends_all_and_one_that_nobody_is_in_ends_alone() {
        let lane = |name: &str| Some(("shop".to_owned(), name.to_owned()));
        let (done, mut did) = mpsc::unbounded_channel();
        let work = move |lane: Lane, mut triggers: mpsc::UnboundedReceiver<&'static str>| {
            let done = done.clone();
            async move {
                while let Some(trigger) = triggers.recv().await {
                    assert_ne!(trigger, "a defect");
                    let _ = done.send((lane.clone(), trigger));
                }
                let _ = done.send((lane, "ended"));
            }
        };
        let (tell, told) = mpsc::unbounded_channel();
        let triggers = stream::unfold(told, |mut told| async move { told.recv().await.map(|it| (it, told)) });
        let run = tokio::spawn(hand_out(triggers, || HashSet::from([None]), work));
        tell.send((lane("goes"), "one")).unwrap();
        assert_eq!(did.recv().await, Some((lane("goes"), "one")));
        tell.send((None, "two")).unwrap();
        let both = HashSet::from([did.recv().await.unwrap(), did.recv().await.unwrap()]);
        assert_eq!(both, HashSet::from([(lane("goes"), "ended"), (None, "two")]));
        tell.send((None, "three")).unwrap();
        assert_eq!(did.recv().await, Some((None, "three")));
        tell.send((None, "a defect")).unwrap();
        run.await.unwrap();
        assert!(tell.is_closed(), "though there could be more triggers");
    }
}
