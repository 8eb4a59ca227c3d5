//! What is seen of the cluster: which kinds it serves, what stands in it because of us, and how that fares. Nothing is
//! asked twice that has not moved.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crds::{GitSync, sync::inventory::Inventory};
use futures::{FutureExt as _, StreamExt as _};
use kube::{Resource as _, runtime::reflector::ObjectRef};
use serde_json::Value;

use super::{
    State, Syncer,
    clusters::Cluster,
    execute,
    expressions::Expressions,
    health::{self, Health},
    key,
    kinds::Kinds,
    object::ObjectId,
    plan::LiveObject,
    render::{Desired, Problem},
    status::{self, Opened},
};
use crate::{calls::concurrently, context::chain};

/// Group, version and kind.
pub(super) type KindName = (String, String, String);
/// How objects fare, by the version that was looked at.
type Seen = HashMap<ObjectId, (String, Health)>;

impl Syncer {
    /// How the objects fare that can fare badly. Only what moved since it was looked at is looked at again.
    pub(super) async fn assess(
        &self,
        sync: &GitSync,
        desired: &[Desired],
        live: &HashMap<ObjectId, LiveObject>,
        kinds: &Kinds,
        state: &mut State,
        cluster: &Cluster,
    ) -> HashMap<ObjectId, Health> {
        let me = key(sync);
        let expressions = state.expressions.clone();
        let is_judged = |object: &Desired| {
            let by_expression = !object.marks.any_health && !object.id.is_sealed() && expressions.judges(&object.id);
            by_expression || health::is_judged(object) || (object.id.is_sealed() && !cluster.is_home())
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
        let (client, expressions) = (&cluster.hands.of(sync), &expressions);
        let looks = looks.into_iter().map(|(object, kind, live)| {
            async move {
                let seen = match execute::read(client, kind, &object.id).await {
                    Ok(read) => (live.resource_version.clone(), fares(object, read, expressions).await),
                    // The next pass tries again.
                    Err(error) => (String::new(), Health::Progressing(format!("cannot be read: {}", chain(&error)))),
                };
                (object.id.clone(), seen)
            }
            .boxed()
        });
        let looks: Vec<_> = concurrently(looks).collect().await;
        state.health.extend(looks);
        let in_git: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
        state.health.retain(|id, _| in_git.contains(id));
        let mut all: HashMap<_, _> =
            state.health.iter().map(|(id, (_, health))| (id.clone(), health.clone())).collect();
        for (object, opened) in self.sealed_in(desired, cluster, &state.health) {
            let health = match opened {
                Opened::Yes => Health::Healthy,
                Opened::NotYet => Health::Progressing("is not opened yet".to_owned()),
                Opened::No(why) => Health::Degraded(why),
            };
            all.insert(object.id.clone(), health);
        }
        all
    }

    /// How the SealedSecrets of a commit fare.
    pub(super) fn sealed(&self, desired: &[Desired], cluster: &Cluster, health: &Seen) -> Vec<(Problem, Opened)> {
        let problem = |object: &Desired| Problem { place: object.place.clone(), what: object.id.to_string() };
        let all = self.sealed_in(desired, cluster, health).into_iter();
        all.map(|(object, opened)| (problem(object), opened)).collect()
    }

    /// Of those that were applied. Of this cluster the other half of the controller knows; in another one their status is
    /// looked at as that of any object.
    fn sealed_in<'a>(&self, desired: &'a [Desired], cluster: &Cluster, health: &Seen) -> Vec<(&'a Desired, Opened)> {
        let is_sealed = |object: &&Desired| object.id.is_sealed() && !object.marks.ignored;
        let live = cluster.live.find(desired.iter().filter(is_sealed).map(|object| &object.id));
        let fare = |object: &'a Desired| {
            let at = ObjectRef::new(&object.id.name).within(&object.id.namespace);
            let applied = live.get(&object.id).and_then(|live| live.generation);
            let opened = match health.get(&object.id) {
                _ if cluster.is_home() => {
                    let kept = self.context.sealed.get(&at);
                    let newest = kept.as_ref().and_then(|kept| kept.meta().generation);
                    status::opened(kept.and_then(|kept| kept.status()).as_ref(), newest, applied)
                }
                Some((_, Health::Healthy)) => Opened::Yes,
                Some((_, Health::Degraded(why))) => Opened::No(why.clone()),
                Some((_, Health::Progressing(_))) | None => Opened::NotYet,
            };
            (object, opened)
        };
        desired.iter().filter(is_sealed).map(fare).collect()
    }
}

async fn fares(object: &Desired, read: Value, expressions: &Arc<Expressions>) -> Health {
    let group = &object.id.group;
    if expressions.judges(&object.id) {
        // Whoever wrote it may have it take long.
        let (id, expressions) = (object.id.clone(), expressions.clone());
        let judged = tokio::task::spawn_blocking(move || expressions.health(&id, &read)).await;
        return judged.ok().flatten().unwrap_or_else(|| Health::Progressing("cannot be judged".to_owned()));
    }
    if object.marks.hook.is_some() { health::ended(group, &read) } else { health::health(group, &read) }
}

pub(super) fn kinds_of(desired: &[Desired], inventory: &Inventory) -> HashSet<KindName> {
    let wanted = desired.iter().map(|object| (&object.id, &object.version));
    let all = wanted.chain(&inventory.objects);
    all.map(|(ObjectId { group, kind, .. }, version)| (group.clone(), version.clone(), kind.clone())).collect()
}
