//! Metadata watches over everything in a cluster that carries our labels, one a kind, started when a kind is first met. They cost
//! nothing while nothing happens, hold no object's content, and notice drift within the round trip of an event.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crds::{
    git_sync::{NAME_LABEL, NAMESPACE_LABEL},
    sync::hook::RUN,
};
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    core::{DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Key, SYNC_MANAGER, drift, kinds::Kind, marks::marks, object::ObjectId, plan::LiveObject};
use crate::{
    calls::{self, bounded},
    context::chain,
    health::LOOP,
    observed::{Observed, Sighting, version},
    pulse::Pulses,
};

/// Longest wait for the first list of a kind.
const FIRST_LIST: Duration = Duration::from_secs(20);

type Objects = Arc<Mutex<Observed<ObjectId, LiveObject>>>;

/// All the watches.
pub struct Live {
    client: Client,
    /// By group and kind: another version shows the same objects.
    watches: Mutex<HashMap<(String, String), Watch>>,
    moved: mpsc::UnboundedSender<Key>,
    pulses: Pulses,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Watch {
    objects: Objects,
    /// Whether a list came in; until then, why not.
    state: watch::Receiver<Result<bool, Why>>,
}

/// Why there is no list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Why {
    text: String,
    /// The API server said no: to wait for another answer is of no use.
    refused: bool,
}

impl Watch {
    /// Whether the version that it asked under is not served any more: it knows nothing from then on.
    fn is_over(&self) -> bool {
        self.state.has_changed().is_err() && self.state.borrow().is_err()
    }
}

/// A kind that cannot be watched, so that nothing about its objects can be decided.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {kind}: {why}")]
pub struct WatchError {
    kind: String,
    why: String,
}

impl Live {
    /// `moved` hears of every GitSync of which an object moved.
    pub fn new(client: Client, moved: mpsc::UnboundedSender<Key>, pulses: Pulses, stop: CancellationToken) -> Self {
        Self { client, watches: Mutex::default(), moved, pulses, stop }
    }

    /// Watches these kinds, and waits until each has been listed once.
    pub async fn ensure(&self, kinds: impl Iterator<Item = &Kind>) -> Result<(), WatchError> {
        let watches: Vec<_> = kinds.map(|kind| (kind.resource.kind.clone(), self.watch(kind))).collect();
        for (kind, Watch { mut state, .. }) in watches {
            let answered = state.wait_for(|state| state.as_ref().map_or_else(|why| why.refused, |listed| *listed));
            // What came of it is in the state.
            drop(tokio::time::timeout(FIRST_LIST, answered).await);
            let why = match &*state.borrow() {
                Ok(true) => continue,
                Ok(false) => "no answer".to_owned(),
                Err(why) => why.text.clone(),
            };
            return Err(WatchError { kind, why });
        }
        Ok(())
    }

    /// Whether the API server no longer knew this kind as it was watched.
    pub fn is_over(&self, group: &str, kind: &str) -> bool {
        self.watches.lock().get(&(group.to_owned(), kind.to_owned())).is_some_and(Watch::is_over)
    }

    /// What is known of these objects now.
    pub fn find<'a>(&self, ids: impl Iterator<Item = &'a ObjectId>) -> HashMap<ObjectId, LiveObject> {
        let watches = self.watches.lock();
        let look = |id: &ObjectId| {
            let watch = watches.get(&(id.group.clone(), id.kind.clone())).filter(|watch| !watch.is_over())?;
            let live = watch.objects.lock().get(id).cloned()?;
            Some((id.clone(), live))
        };
        ids.filter_map(look).collect()
    }

    /// An object that lost its labels, so that no watch shows it: ours still, if it has fields that we applied. Another
    /// that came in its place has none. Asks for no more rights than a watch.
    pub async fn stray(
        &self,
        kind: &Kind,
        id: &ObjectId,
        me: &Key,
    ) -> Result<Option<(ObjectId, LiveObject)>, WatchError> {
        let api: Api<DynamicObject> =
            Api::dynamic(self.client.clone(), &kind.resource, &kind.scope).constrain(&id.namespace);
        let params = ListParams::default().fields(&format!("metadata.name={}", id.name));
        let found = match bounded(api.list_metadata(&params)).await {
            Ok(found) => found.items.into_iter().next(),
            Err(error) => return Err(WatchError { kind: kind.resource.kind.clone(), why: chain(&error) }),
        };
        let is_ours = |fields: &ManagedFieldsEntry| fields.manager.as_deref() == Some(SYNC_MANAGER);
        Ok(found.filter(|found| found.managed_fields().iter().any(is_ours)).map(|found| {
            let (id, _, live) = sighting(kind, &found);
            let owner = if found.labels().contains_key(NAME_LABEL) { live.owner } else { me.clone() };
            (id, LiveObject { owner, ..live })
        }))
    }

    /// Has everyone look again who has something here.
    pub fn nudge(&self) {
        let watches: Vec<Objects> = self.watches.lock().values().map(|watch| watch.objects.clone()).collect();
        watches.iter().for_each(|objects| tell(&objects.lock(), &self.moved));
    }

    /// Takes in what a write returned, before the watch brings it.
    pub fn wrote(&self, kind: &Kind, written: &PartialObjectMeta<DynamicObject>) -> LiveObject {
        let sighting = sighting(kind, written);
        let live = sighting.2.clone();
        self.watch(kind).objects.lock().wrote(sighting);
        live
    }

    fn watch(&self, kind: &Kind) -> Watch {
        let key = (kind.resource.group.clone(), kind.resource.kind.clone());
        let mut watches = self.watches.lock();
        if let Some(watch) = watches.get(&key).filter(|watch| !watch.is_over()) {
            return watch.clone();
        }
        let watch = self.start(kind.clone());
        watches.insert(key, watch.clone());
        watch
    }

    fn start(&self, kind: Kind) -> Watch {
        let objects = Objects::default();
        let (state, listed) = watch::channel(Ok(false));
        let watch = Watch { objects: objects.clone(), state: listed };
        let (moved, stop) = (self.moved.clone(), self.stop.clone());
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &kind.resource);
        let pulse = self.pulses.begin("watch", kind.resource.kind.as_str(), LOOP);
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let config = watcher::Config::default().labels(NAME_LABEL);
            let mut events = calls::watch(api, config).boxed();
            while let Some(event) = pulse.idle(events.next()).await {
                match event {
                    Ok(event) => {
                        take(&objects, &kind, event, &moved, &state);
                    }
                    Err(error) => {
                        let why = Why { text: chain(&error), refused: is_refused(&error) };
                        tracing::warn!(
                            kind = kind.resource.kind,
                            version = kind.resource.api_version,
                            error = why.text,
                            "cannot watch what was applied; trying again"
                        );
                        if is_unserved(&error) {
                            drop(state.send_replace(Err(why)));
                            drop(state);
                            return end(&objects, &moved);
                        }
                        state.send_if_modified(|state| {
                            *state != Ok(true) && {
                                *state = Err(why);
                                true
                            }
                        });
                    }
                }
            }
        }));
        watch
    }
}

/// No object can be missing from a list.
fn is_unserved(error: &watcher::Error) -> bool {
    code(error) == Some(404)
}

/// Who asks may not.
fn is_refused(error: &watcher::Error) -> bool {
    matches!(code(error), Some(401 | 403))
}

fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// Has everyone look again who had one of them. It knows none from then on.
fn end(objects: &Objects, moved: &mpsc::UnboundedSender<Key>) {
    let gone = std::mem::take(&mut *objects.lock());
    tell(&gone, moved);
}

/// Has everyone look again who has one of them.
fn tell(objects: &Observed<ObjectId, LiveObject>, moved: &mpsc::UnboundedSender<Key>) {
    for key in objects.iter().map(|(_, live)| live.owner.clone()).collect::<HashSet<_>>() {
        // Nobody listens any more: the controller is ending.
        let _ = moved.send(key);
    }
}

fn take(
    objects: &Objects,
    kind: &Kind,
    event: Event<PartialObjectMeta<DynamicObject>>,
    moved: &mpsc::UnboundedSender<Key>,
    state: &watch::Sender<Result<bool, Why>>,
) {
    let (event, touched) = match event {
        Event::Init => (Event::Init, None),
        Event::InitDone => (Event::InitDone, None),
        Event::InitApply(object) => (Event::InitApply(sighting(kind, &object)), None),
        Event::Apply(object) => (Event::Apply(sighting(kind, &object)), Some(owner(&object))),
        Event::Delete(object) => (Event::Delete(sighting(kind, &object)), Some(owner(&object))),
    };
    let mut objects = objects.lock();
    // After a gap in the watch anything may have happened: everyone looks again, those who lost an object included.
    let mut owners: HashSet<Key> = touched.into_iter().collect();
    if matches!(event, Event::InitDone) {
        owners.extend(objects.iter().map(|(_, live)| live.owner.clone()));
    }
    let listed = objects.on_event(event);
    if listed {
        owners.extend(objects.iter().map(|(_, live)| live.owner.clone()));
    }
    drop(objects);
    if listed {
        drop(state.send_replace(Ok(true)));
    }
    for key in owners {
        // Nobody listens any more: the controller is ending.
        let _ = moved.send(key);
    }
}

/// The GitSync in an object's labels.
fn owner(object: &PartialObjectMeta<DynamicObject>) -> Key {
    let label = |key| object.labels().get(key).cloned().unwrap_or_default();
    (label(NAMESPACE_LABEL), label(NAME_LABEL))
}

fn sighting(kind: &Kind, object: &PartialObjectMeta<DynamicObject>) -> Sighting<ObjectId, LiveObject> {
    let id = ObjectId {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        group: kind.resource.group.clone(),
        kind: kind.resource.kind.clone(),
    };
    // What nobody can read says nothing.
    let marks = marks(object.labels(), object.annotations()).unwrap_or_default();
    let live = LiveObject {
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
        owner: owner(object),
        fields: drift::digest(object.managed_fields(), marks.merged),
        generation: object.metadata.generation,
        run: object.annotations().get(RUN).cloned(),
        marks,
    };
    (id, version(object.metadata.resource_version.as_deref()), live)
}

#[cfg(test)]
mod tests {
    use super::{super::marks::Marks, *};

    #[test]
    fn of_a_kind_that_is_served_no_longer_nothing_is_kept() {
        let (objects, (moved, mut told)) = (Objects::default(), mpsc::unbounded_channel());
        let owner = ("ns".to_owned(), "app".to_owned());
        for name in ["a", "b"] {
            let (namespace, name, group, kind) = (String::new(), name.to_owned(), String::new(), "Widget".to_owned());
            let live = LiveObject {
                uid: name.clone(),
                resource_version: String::new(),
                owner: owner.clone(),
                fields: 0,
                generation: None,
                run: None,
                marks: Marks::default(),
            };
            objects.lock().wrote((ObjectId { namespace, name, group, kind }, 1, live));
        }
        end(&objects, &moved);
        assert_eq!(objects.lock().iter().count(), 0);
        assert_eq!((told.try_recv().ok(), told.try_recv().ok()), (Some(owner), None), "each is told once");
    }
}
