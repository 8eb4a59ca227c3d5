//! What is seen of the cluster: which kinds it serves, what stands in it because of us, and how that fares. Nothing is
//! asked twice that has not moved.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crds::{GitSync, sync::inventory::Inventory};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use kube::{Discovery, discovery::ApiCapabilities, runtime::reflector::ObjectRef};
use serde_json::Value;

use super::{
    Error, Key, State, Syncer,
    execute::{self, CONCURRENCY},
    expressions::Expressions,
    health::{self, Health},
    key,
    kinds::{Kind, Kinds},
    object::ObjectId,
    plan::LiveObject,
    render::{Desired, Problem},
    status::{self, Opened},
};
use crate::{calls::bounded, context::chain};

/// Group, version and kind.
type KindName = (String, String, String);

impl Syncer {
    /// How the objects fare that can fare badly. Only what moved since it was looked at is looked at again.
    pub(super) async fn assess(
        &self,
        sync: &GitSync,
        desired: &[Desired],
        live: &HashMap<ObjectId, LiveObject>,
        kinds: &Kinds,
        state: &mut State,
    ) -> HashMap<ObjectId, Health> {
        let me = key(sync);
        let expressions = state.expressions.clone();
        let is_judged = |object: &Desired| {
            let by_expression = !object.marks.any_health && !object.id.is_sealed() && expressions.judges(&object.id);
            by_expression || health::is_judged(object)
        };
        let judged: Vec<&Desired> = desired
            .iter()
            .filter(|object| is_judged(object))
            .filter(|object| object.id.kind != "GitSync" || (&object.id.namespace, &object.id.name) != (&me.0, &me.1))
            .collect();
        let looks: Vec<_> = judged
            .into_iter()
            .filter_map(|object| {
                let live = live.get(&object.id)?;
                let kind = kinds.get(&object.id.group, &object.version, &object.id.kind)?;
                let known = state.health.get(&object.id).filter(|(version, _)| *version == live.resource_version);
                known.is_none().then_some((object, kind, live))
            })
            .collect();
        let (client, expressions) = (&self.git.hands.of(sync), &*expressions);
        let looks = looks.into_iter().map(|(object, kind, live)| {
            async move {
                let seen = match execute::read(client, kind, &object.id).await {
                    Ok(read) => (live.resource_version.clone(), fares(object, &read, expressions)),
                    // The next pass tries again.
                    Err(error) => (String::new(), Health::Progressing(format!("cannot be read: {}", chain(&error)))),
                };
                (object.id.clone(), seen)
            }
            .boxed()
        });
        let looks: Vec<_> = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY).collect().await;
        state.health.extend(looks);
        let in_git: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
        state.health.retain(|id, _| in_git.contains(id));
        let mut all: HashMap<_, _> =
            state.health.iter().map(|(id, (_, health))| (id.clone(), health.clone())).collect();
        for (object, opened) in self.sealed_in(desired) {
            let health = match opened {
                Opened::Yes => Health::Healthy,
                Opened::NotYet => Health::Progressing("is not opened yet".to_owned()),
                Opened::No(why) => Health::Degraded(why),
            };
            all.insert(object.id.clone(), health);
        }
        all
    }

    /// How the SealedSecrets of a commit fare, by what the other half of the controller knows.
    pub(super) fn sealed(&self, desired: &[Desired]) -> Vec<(Problem, Opened)> {
        let problem = |object: &Desired| Problem { place: object.place.clone(), what: object.id.to_string() };
        self.sealed_in(desired).into_iter().map(|(object, opened)| (problem(object), opened)).collect()
    }

    /// Of those that were applied.
    pub(super) fn sealed_in<'a>(&self, desired: &'a [Desired]) -> Vec<(&'a Desired, Opened)> {
        let is_sealed = |object: &&Desired| object.id.is_sealed() && !object.marks.ignored;
        let live = self.live.find(desired.iter().filter(is_sealed).map(|object| &object.id));
        let fare = |object: &'a Desired| {
            let at = ObjectRef::new(&object.id.name).within(&object.id.namespace);
            let applied = live.get(&object.id).and_then(|live| live.generation);
            (object, status::opened(self.context.sealed.get(&at).as_deref().map(|guarded| &guarded.0), applied))
        };
        desired.iter().filter(is_sealed).map(fare).collect()
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
        let looks: Vec<_> = unseen
            .filter_map(|(id, version)| Some((id, served.get(&id.group, version, &id.kind)?)))
            .map(|(id, kind)| self.live.stray(kind, id, me).boxed())
            .collect();
        let strays: Vec<_> = stream::iter(looks).buffer_unordered(CONCURRENCY).try_collect().await?;
        seen.extend(strays.into_iter().flatten());
        Ok(seen)
    }

    pub(super) async fn watch(&self, served: &Kinds, kinds: &HashSet<KindName>) -> Result<(), Error> {
        let there = kinds.iter().filter_map(|(group, version, kind)| served.get(group, version, kind));
        Ok(self.live.ensure(there).await?)
    }

    /// What the API server serves, as it last said; asked anew when it did not say some of what is needed.
    pub(super) async fn served(&self, needed: &HashSet<KindName>) -> Result<Arc<Kinds>, Error> {
        let known = self.served.lock().await.clone();
        let all = |served: &Arc<Kinds>| {
            needed.iter().all(|(group, version, kind)| served.get(group, version, kind).is_some())
        };
        match known.filter(all) {
            Some(served) => Ok(served),
            None => self.discover().await,
        }
    }

    /// Asks the API server what it serves.
    pub(super) async fn discover(&self) -> Result<Arc<Kinds>, Error> {
        let discovery = bounded(Discovery::new(self.context.client.clone()).run_aggregated()).await;
        let served = Arc::new(served(&discovery.map_err(Error::Discovery)?));
        *self.served.lock().await = Some(served.clone());
        Ok(served)
    }
}

fn fares(object: &Desired, read: &Value, expressions: &Expressions) -> Health {
    let group = &object.id.group;
    let known = || if object.marks.hook.is_some() { health::ended(group, read) } else { health::health(group, read) };
    expressions.health(&object.id, read).unwrap_or_else(known)
}

/// What an API server said it serves.
fn served(discovery: &Discovery) -> Kinds {
    let versions = discovery.groups().flat_map(|group| group.versions().map(move |version| (group, version)));
    let resources = versions.flat_map(|(group, version)| group.versioned_resources(version));
    resources.map(|(resource, ApiCapabilities { scope, .. })| Kind { resource, scope }).collect()
}

pub(super) fn kinds_of(desired: &[Desired], inventory: &Inventory) -> HashSet<KindName> {
    let wanted = desired.iter().map(|object| (&object.id, &object.version));
    let all = wanted.chain(&inventory.objects);
    all.map(|(ObjectId { group, kind, .. }, version)| (group.clone(), version.clone(), kind.clone())).collect()
}
