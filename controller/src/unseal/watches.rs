//! The watches of one namespace, or of all: SealedSecrets, their Secrets and the keys, as triggers for passes.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Changed, Options,
    pass::{Unsealer, sighting},
};
use crate::{
    calls::logged,
    context::{Context, Guarded},
    drive::{Ends, Limits, drive},
    observed,
    queue::Queue,
};

/// SealedSecrets handled at once. Most of the time goes into waiting for the API server.
const CONCURRENCY: u16 = 16;
/// SealedSecrets are large: a list comes in pages of this many.
const PAGE: u32 = 50;

/// Runs until `stop`, then ends what is under way. `answered` is cancelled once the SealedSecrets are listed, or may not
/// be. Returns the namespace.
pub async fn run(
    context: Context,
    options: Arc<Options>,
    namespace: Option<String>,
    changed: Changed,
    answered: CancellationToken,
    stop: CancellationToken,
) -> Option<String> {
    let (store, writer) = context.sealed.add(namespace.clone());
    let limits = Limits { concurrency: CONCURRENCY, retries: options.retries };
    let watching = options.watch_secrets;
    let unsealer = Arc::new(Unsealer::new(context.clone(), options, namespace.clone()));
    let secrets = if watching { secrets(unsealer.clone(), store.clone()).boxed() } else { stream::pending().boxed() };
    let triggers = stream::select_all([
        sealed_secrets(unsealer.clone(), writer, changed, answered.drop_guard()).boxed(),
        secrets,
        new_keys(&unsealer, store.clone()).boxed(),
    ]);
    let pass = |guarded: Arc<Guarded>, unsealer: Arc<Unsealer>| async move { unsealer.reconcile(guarded).await };
    let queue = Queue::new("unseal", unsealer.context.metrics.clone(), unsealer.context.pulses.clone());
    let events = unsealer.events.clone();
    let ends = Ends { stop, lost: context.lost.clone() };
    drive(pass, unsealer, store, triggers, limits, queue, ends).await;
    events.sent().await;
    context.sealed.remove(namespace.as_ref());
    namespace
}

fn sealed_secrets(
    unsealer: Arc<Unsealer>,
    writer: Writer<Guarded>,
    changed: Changed,
    answered: DropGuard,
) -> impl Stream<Item = ObjectRef<Guarded>> {
    let api: Api<Guarded> = unsealer.api();
    let mut config = watcher::Config::default().page_size(PAGE);
    config.label_selector.clone_from(&unsealer.options.label_selector);
    let single = unsealer.namespace.is_some();
    let mut answered = Some(answered);
    watcher(api, config)
        .default_backoff()
        .modify(|sealed| {
            // kept by nobody, and as large as the rest
            sealed.managed_fields_mut().clear();
            sealed.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
        })
        .reflect(writer)
        .inspect(move |event| {
            let answer = match event {
                Ok(event) => matches!(event, Event::InitDone),
                // A namespace in which we have no rights yet keeps nobody else waiting.
                Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) => single && status.code == 403,
                Err(_) => false,
            };
            if answer {
                drop(answered.take());
            }
        })
        .filter_map(|event| std::future::ready(logged("SealedSecrets", event)))
        .filter_map(move |event| {
            let (unsealer, changed) = (unsealer.clone(), changed.clone());
            async move {
                match event {
                    Event::Apply(sealed) | Event::InitApply(sealed) => {
                        changed(&sealed);
                        Some(ObjectRef::from_obj(&sealed))
                    }
                    Event::Delete(sealed) => {
                        changed(&sealed);
                        unsealer.gone(&sealed).await;
                        None
                    }
                    Event::Init | Event::InitDone => None,
                }
            }
        })
}

/// Whatever happens to a Secret concerns the SealedSecret of its name: an edit, a deletion, a name set free.
fn secrets(unsealer: Arc<Unsealer>, store: Store<Guarded>) -> impl Stream<Item = ObjectRef<Guarded>> {
    let api: Api<PartialObjectMeta<Secret>> = unsealer.api();
    watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(|event| std::future::ready(logged("Secrets", event)))
        .flat_map(move |event| {
            let touched = match &event {
                Event::Apply(secret) | Event::Delete(secret) => {
                    let at = ObjectRef::new(&secret.name_any()).within(&secret.namespace().unwrap_or_default());
                    store.get(&at).map(|_| at)
                }
                Event::Init | Event::InitApply(_) | Event::InitDone => None,
            };
            let listed = unsealer.saw(observed::map(event, |secret| sighting(&secret)));
            // After a gap in the watch anything may have happened.
            let all = if listed { refs(&store) } else { Vec::new() };
            stream::iter(touched.into_iter().chain(all))
        })
}

/// A key that came may open what failed.
fn new_keys(unsealer: &Unsealer, store: Store<Guarded>) -> impl Stream<Item = ObjectRef<Guarded>> + use<> {
    let ring = unsealer.context.ring.clone();
    stream::unfold(ring, |mut ring| async move { ring.changed().await.ok().map(|()| ((), ring)) })
        .flat_map(move |()| stream::iter(refs(&store)))
}

fn refs(store: &Store<Guarded>) -> Vec<ObjectRef<Guarded>> {
    store.state().iter().map(|sealed| ObjectRef::from_obj(sealed.as_ref())).collect()
}
