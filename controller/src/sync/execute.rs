//! Carries a plan out: stage after stage, concurrently within one. Makes no choices; says what came of each step.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::DynamicObject,
    runtime::wait::{await_condition, conditions},
};

use super::{
    SYNC_MANAGER,
    kinds::{Kind, Kinds},
    live::Live,
    object::ObjectId,
    plan::{Applied, LiveObject, Step, Why},
    render::{Desired, Problem},
};
use crate::{
    calls::{CallError, bounded},
    context::chain,
};

/// Requests under way at once.
const CONCURRENCY: usize = 16;
/// Longest wait for a new definition to be served.
const ESTABLISH: Duration = Duration::from_secs(30);

/// What came of the steps.
#[derive(Debug, Default)]
pub struct Done {
    /// Applied objects, and how each stands now.
    pub applied: HashMap<ObjectId, Applied>,
    /// Those of them that the API server had to change, and why.
    pub changed: Vec<(ObjectId, Why)>,
    /// Deleted objects.
    pub pruned: Vec<ObjectId>,
    /// Objects that are no longer there, or no longer ours.
    pub gone: HashSet<ObjectId>,
    /// What could not be applied.
    pub failed: Vec<Problem>,
    /// What could not be deleted.
    pub unpruned: Vec<String>,
    /// New definitions are served: kinds must be asked for again.
    pub defined: bool,
}

enum Outcome {
    Applied(ObjectId, Applied, Option<Why>),
    Pruned(ObjectId),
    Gone(ObjectId),
    Failed(Problem),
    Unpruned(String),
}

/// Runs the stages in order. A stage with a failure is the last: what comes after it may need it.
pub async fn execute(
    client: &Client,
    live: &Live,
    known: &HashMap<ObjectId, LiveObject>,
    kinds: &Kinds,
    stages: Vec<Vec<Step<'_>>>,
) -> Done {
    let mut done = Done::default();
    for stage in stages {
        let definitions: Vec<&Desired> = stage.iter().filter_map(definition).collect();
        let steps: Vec<_> = stage.into_iter().map(|step| run(client, live, known, kinds, step).boxed()).collect();
        let outcomes: Vec<Outcome> = stream::iter(steps).buffer_unordered(CONCURRENCY).collect().await;
        outcomes.into_iter().for_each(|outcome| done.take(outcome));
        if !done.failed.is_empty() || !done.unpruned.is_empty() {
            break;
        }
        for definition in definitions {
            done.defined = true;
            if let Err(why) = established(client, &definition.id.name).await {
                done.take(failed(definition, &why));
                return done;
            }
        }
    }
    done
}

impl Done {
    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Applied(id, applied, why) => {
                self.changed.extend(why.map(|why| (id.clone(), why)));
                self.applied.insert(id, applied);
            }
            Outcome::Pruned(id) => {
                self.gone.insert(id.clone());
                self.pruned.push(id);
            }
            Outcome::Gone(id) => {
                self.gone.insert(id);
            }
            Outcome::Failed(problem) => self.failed.push(problem),
            Outcome::Unpruned(what) => self.unpruned.push(what),
        }
    }
}

async fn run(
    client: &Client,
    live: &Live,
    known: &HashMap<ObjectId, LiveObject>,
    kinds: &Kinds,
    step: Step<'_>,
) -> Outcome {
    match step {
        Step::Apply { desired, why } => {
            let Some(kind) = kinds.get(&desired.id.group, &desired.version, &desired.id.kind) else {
                return failed(desired, "its kind is not served any more");
            };
            match apply(client, kind, desired).await {
                Ok(written) => {
                    let now = live.wrote(kind, &written);
                    let before = known.get(&desired.id).map(|live| live.resource_version.as_str());
                    let changed = before != Some(now.resource_version.as_str());
                    let applied = Applied { digest: desired.digest.clone(), uid: now.uid, fields: now.fields };
                    Outcome::Applied(desired.id.clone(), applied, changed.then_some(why))
                }
                Err(error) => failed(desired, &chain(&error)),
            }
        }
        Step::Prune { id, version, uid } => match kinds.get(&id.group, &version, &id.kind) {
            Some(kind) => match delete(client, kind, &id, uid).await {
                Ok(()) => Outcome::Pruned(id),
                // Gone already, or another object of the same name: not ours to delete.
                Err(error) if error.is_not_found() || error.is_conflict() => Outcome::Gone(id),
                Err(error) => Outcome::Unpruned(format!("cannot delete {id}: {}", chain(&error))),
            },
            // With its definition went the object.
            None => Outcome::Gone(id),
        },
    }
}

fn failed(desired: &Desired, why: &str) -> Outcome {
    Outcome::Failed(Problem { place: desired.place.clone(), what: format!("{}: {why}", desired.id) })
}

async fn apply(
    client: &Client,
    kind: &Kind,
    desired: &Desired,
) -> Result<kube::core::PartialObjectMeta<DynamicObject>, CallError> {
    let params = PatchParams::apply(SYNC_MANAGER).force().validation_strict();
    let call = api(client, kind, &desired.id);
    bounded(call.patch_metadata(&desired.id.name, &params, &Patch::Apply(&desired.body))).await
}

async fn delete(client: &Client, kind: &Kind, id: &ObjectId, uid: String) -> Result<(), CallError> {
    let params = DeleteParams::background().preconditions(Preconditions { uid: Some(uid), resource_version: None });
    let call = api(client, kind, id);
    bounded(call.delete(&id.name, &params)).await.map(drop)
}

fn api(client: &Client, kind: &Kind, id: &ObjectId) -> Api<DynamicObject> {
    Api::dynamic(client.clone(), &kind.resource, &kind.scope).constrain(&id.namespace)
}

fn definition<'a>(step: &Step<'a>) -> Option<&'a Desired> {
    match step {
        Step::Apply { desired, .. } if desired.id.kind == "CustomResourceDefinition" => Some(desired),
        _ => None,
    }
}

async fn established(client: &Client, name: &str) -> Result<(), String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let wait = await_condition(api, name, conditions::is_crd_established());
    match tokio::time::timeout(ESTABLISH, wait).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("cannot see whether it is established: {}", chain(&error))),
        Err(_) => Err(format!("was not established within {} s", ESTABLISH.as_secs())),
    }
}
