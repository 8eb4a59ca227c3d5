//! The watches of one namespace, or of all: SealedSecrets, their Secrets and the keys, as triggers for passes.

use std::sync::Arc;

use crds::SealedSecret;
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Changed, Options,
    pass::{Unsealer, sighting},
};
use crate::{
    calls::{logged, watch},
    context::Context,
    drive::{Ends, Limits, drive},
    kept::Kept,
    observed,
    queue::Queue,
};

/// SealedSecrets handled at once. Most of the time goes into waiting for the API server.
const CONCURRENCY: u16 = 16;
/// SealedSecrets are large, and so is what is told of Secrets: a list comes in pages of this many.
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
    let pass = |kept: Arc<Kept<SealedSecret>>, unsealer: Arc<Unsealer>, failed| async move {
        unsealer.reconcile(&kept, failed).await
    };
    let queue = Queue::new("unseal", unsealer.context.metrics.clone(), unsealer.context.pulses.clone());
    let events = unsealer.events.clone();
    let ends = Ends { stop, lost: context.lost.clone() };
    drive(pass, unsealer, store, triggers, limits, queue, ends).await;
    events.sent(&context.lost).await;
    context.sealed.remove(namespace.as_ref());
    namespace
}

fn sealed_secrets(
    unsealer: Arc<Unsealer>,
    writer: Writer<Kept<SealedSecret>>,
    changed: Changed,
    answered: DropGuard,
) -> impl Stream<Item = ObjectRef<Kept<SealedSecret>>> {
    let api: Api<Kept<SealedSecret>> = unsealer.api();
    let mut config = watcher::Config::default().page_size(PAGE);
    config.label_selector.clone_from(&unsealer.options.label_selector);
    let single = unsealer.namespace.is_some();
    let mut answered = Some(answered);
    let (store, mut known) = (writer.as_reader(), Vec::new());
    watch(api, config)
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
        .filter_map(logged("SealedSecret", &unsealer.context.metrics))
        .flat_map(move |event| {
            let (mut moved, mut gone) = (Vec::new(), Vec::new());
            match event {
                Event::Apply(sealed) => moved.push(Arc::new(sealed)),
                Event::Delete(sealed) => gone.push(Arc::new(sealed)),
                Event::Init => known = store.state(),
                // Until the list is whole the store has what was there before it: a pass would see that.
                Event::InitApply(_) => {}
                // What a list does not bring any more went while nobody watched.
                Event::InitDone => (moved, gone) = (store.state(), std::mem::take(&mut known)),
            }
            gone.retain(|sealed| store.get(&ObjectRef::from_obj(sealed.as_ref())).is_none());
            moved.iter().chain(&gone).for_each(|sealed| changed(sealed));
            let (unsealer, moved) = (unsealer.clone(), refs(&moved));
            let cleared = async move {
                for sealed in gone {
                    unsealer.gone(&sealed).await;
                }
                stream::iter(moved)
            };
            stream::once(cleared).flatten()
        })
}

/// Whatever happens to a Secret concerns the SealedSecret of its name: an edit, a deletion, a name set free.
fn secrets(
    unsealer: Arc<Unsealer>,
    store: Store<Kept<SealedSecret>>,
) -> impl Stream<Item = ObjectRef<Kept<SealedSecret>>> {
    let api: Api<PartialObjectMeta<Secret>> = unsealer.api();
    watch(api, watcher::Config::default().page_size(PAGE))
        .filter_map(logged("Secret", &unsealer.context.metrics))
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
            let all = if listed { refs(&store.state()) } else { Vec::new() };
            stream::iter(touched.into_iter().chain(all))
        })
}

/// A key that came may open what failed.
fn new_keys(
    unsealer: &Unsealer,
    store: Store<Kept<SealedSecret>>,
) -> impl Stream<Item = ObjectRef<Kept<SealedSecret>>> + use<> {
    let ring = unsealer.context.ring.clone();
    stream::unfold(ring, |mut ring| async move { ring.changed().await.ok().map(|()| ((), ring)) })
        .flat_map(move |()| stream::iter(refs(&store.state())))
}

fn refs(all: &[Arc<Kept<SealedSecret>>]) -> Vec<ObjectRef<Kept<SealedSecret>>> {
    all.iter().map(|sealed| ObjectRef::from_obj(sealed.as_ref())).collect()
}
