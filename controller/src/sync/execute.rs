//! Carries a plan out: stage after stage, concurrently within one. Makes no choices; says what came of each step.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    time::Duration,
};

use crds::{
    git_sync::{NAME_LABEL, NAMESPACE_LABEL},
    sync::hook::RUN,
};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{DynamicObject, PartialObjectMeta, PartialObjectMetaExt as _},
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};
use tracing::{Instrument as _, Span, field::Empty};

use super::{
    SYNC_MANAGER,
    audit::How,
    drift::{self, Drift, What},
    ignore,
    kinds::{Kind, Kinds},
    live::Live,
    object::{Manifest, ObjectId},
    plan::{Applied, LiveObject, Step, Why},
    render::{Desired, Problem},
};
use crate::{
    calls::{CallError, bounded, concurrently, heard},
    context::chain,
    traces::{self, count, span},
};

/// Longest wait for a new definition to be served.
const ESTABLISH: Duration = Duration::from_secs(30);
/// Longest wait for an object to go that is made anew.
const RECREATE: Duration = Duration::from_secs(30);

/// So often an object is looked at anew that somebody edits at the same moment; then it is left to the next pass.
const RACES: u32 = 3;

/// Hears of what is done to objects, at once: what is broken off answers nothing.
pub type Tell<'a> = &'a (dyn Fn(&ObjectId, How) + Sync);

/// What came of the steps.
#[derive(Debug, Default)]
pub struct Done {
    /// Applied objects, and how each stands now.
    pub applied: HashMap<ObjectId, Applied>,
    /// What the API server had to change, and how.
    pub acts: Vec<(ObjectId, How)>,
    /// What had become of those that were healed.
    pub drifts: Vec<Drift>,
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
    Applied {
        id: ObjectId,
        applied: Applied,
        how: Option<How>,
        drift: Option<Drift>,
    },
    /// It is there, and was to be made only if it were not.
    Left(ObjectId, Applied),
    Pruned(ObjectId),
    Gone(ObjectId),
    Failed(Problem),
    Unpruned(String),
}

/// Runs the stages in order. A stage with a failure is the last: what comes after it may need it. What failed is said in
/// the order in which it stands in Git: the same failures shall be the same words.
pub async fn execute(
    client: &Client,
    live: &Live,
    known: &HashMap<ObjectId, LiveObject>,
    kinds: &Kinds,
    stages: Vec<Vec<Step<'_>>>,
    tell: Tell<'_>,
) -> Done {
    let mut done = Done::default();
    for stage in stages {
        let definitions: Vec<&Desired> = stage.iter().filter_map(definition).collect();
        let (span, acts) = (traced(&stage), done.acts.len());
        let mut outcomes =
            concurrently(stage.into_iter().map(|step| run(client, live, known, kinds, step, tell).boxed()));
        async {
            while let Some(outcome) = outcomes.next().await {
                done.take(outcome, tell);
            }
        }
        .instrument(span.clone())
        .await;
        let failures = done.failed.len() + done.unpruned.len();
        span.record("changed", count(done.acts.len() - acts)).record("failed", count(failures));
        traces::ended(&span, if failures == 0 { "success" } else { "failure" }, failures > 0);
        if !done.failed.is_empty() || !done.unpruned.is_empty() {
            done.failed.sort_by(|one, other| (&one.place, &one.what).cmp(&(&other.place, &other.what)));
            done.unpruned.sort();
            break;
        }
        for definition in definitions {
            done.defined = true;
            if let Err(why) = established(client, &definition.id.name).await {
                done.take(failed(definition, &why), tell);
                return done;
            }
        }
    }
    done
}

fn traced(stage: &[Step<'_>]) -> Span {
    let steps = count(stage.len());
    if stage.iter().all(|step| step.pruned().is_some()) {
        span!("prune", steps, changed = Empty, failed = Empty)
    } else {
        span!("apply", steps, changed = Empty, failed = Empty)
    }
}

impl Done {
    fn take(&mut self, outcome: Outcome, tell: Tell<'_>) {
        match outcome {
            Outcome::Applied { id, applied, how, drift } => {
                if let Some(how) = how {
                    tell(&id, how);
                    self.acts.push((id.clone(), how));
                }
                self.drifts.extend(drift);
                self.applied.insert(id, applied);
            }
            Outcome::Left(id, applied) => {
                self.applied.insert(id, applied);
            }
            Outcome::Pruned(id) => {
                tell(&id, How::Deleted);
                self.gone.insert(id.clone());
                self.acts.push((id, How::Deleted));
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
    tell: Tell<'_>,
) -> Outcome {
    match step {
        Step::Apply { desired, why } => {
            let Some(kind) = kinds.get(&desired.id.group, &desired.version, &desired.id.kind) else {
                return failed(desired, "its kind is not served any more");
            };
            let before = known.get(&desired.id);
            let mut races = 0..RACES;
            let (found, written) = loop {
                // Once it is applied nobody can tell any more.
                let found = match why {
                    Why::Heal => found(client, kind, &desired.id).await,
                    Why::Apply | Why::Run => Ok(None),
                };
                let found = match found {
                    Ok(found) => found,
                    Err(error) => return failed(desired, &format!("cannot be read: {}", chain(&error))),
                };
                let version = found.as_ref().and_then(kube::ResourceExt::resource_version);
                match apply(client, kind, desired, version, tell).await {
                    // Somebody edited it just now: that is looked at, too.
                    Err(error) if error.is_conflict() && !error.is_taken() && races.next().is_some() => {}
                    written => break (found, written),
                }
            };
            let mut how = match why {
                Why::Heal => How::Healed,
                Why::Apply | Why::Run => How::Changed,
            };
            let written = match written {
                Err(error) if desired.marks.once && error.is_taken() => {
                    let (digest, uid) = (desired.digest.clone(), String::new());
                    return Outcome::Left(desired.id.clone(), Applied { digest, uid, fields: 0 });
                }
                Err(error) if desired.marks.forced && is_immutable(&error) => match before {
                    Some(live) => {
                        how = How::Recreated;
                        recreate(client, kind, desired, &live.uid, tell).await
                    }
                    None => Err(said(&error)),
                },
                written => written.map_err(|error| said(&error)),
            };
            match written {
                Ok((written, is_new)) => {
                    let now = live.wrote(kind, &written);
                    if how == How::Changed && before.is_none() && is_new {
                        how = How::Created;
                    }
                    let before = before.map(|live| live.resource_version.as_str());
                    let changed = before != Some(now.resource_version.as_str());
                    let applied = Applied { digest: desired.digest.clone(), uid: now.uid, fields: now.fields };
                    let drift = (why == Why::Heal).then(|| told(desired, found.as_ref(), written.managed_fields()));
                    let drift = drift.filter(|drift| !drift.is_none());
                    Outcome::Applied { id: desired.id.clone(), applied, how: changed.then_some(how), drift }
                }
                Err(why) => failed(desired, &why),
            }
        }
        Step::Run { desired, mark } => {
            let Some(kind) = kinds.get(&desired.id.group, &desired.version, &desired.id.kind) else {
                return failed(desired, "its kind is not served any more");
            };
            match make(client, kind, desired, &mark, tell).await {
                Ok(made) => {
                    let now = live.wrote(kind, &made);
                    let applied = Applied { digest: desired.digest.clone(), uid: now.uid, fields: now.fields };
                    Outcome::Applied { id: desired.id.clone(), applied, how: Some(How::Ran), drift: None }
                }
                Err(why) => failed(desired, &why),
            }
        }
        Step::Prune { id, version, uid } => match kinds.find(&id.group, &version, &id.kind) {
            Some(kind) => match delete(client, kind, &id, uid, tell).await {
                Ok(()) => Outcome::Pruned(id),
                Err(error) if error.is_unserved() => {
                    let version = &kind.resource.api_version;
                    Outcome::Unpruned(format!("cannot delete {id}: {version} is not served any more; trying again"))
                }
                // Gone already, or another object of the same name: not ours to delete.
                Err(error) if error.is_not_found() || error.is_conflict() => Outcome::Gone(id),
                Err(error) => Outcome::Unpruned(format!("cannot delete {id}: {}", said(&error))),
            },
            // With its definition went the object.
            None => Outcome::Gone(id),
        },
    }
}

/// What the API server said, once: of a refusal it names the account, the verb and the object.
fn said(error: &CallError) -> String {
    match error {
        CallError::Api(kube::Error::Api(status)) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

fn failed(desired: &Desired, why: &str) -> Outcome {
    Outcome::Failed(Problem { place: desired.place.clone(), what: format!("{}: {why}", desired.id) })
}

/// Also says whether it was not there before.
async fn apply(
    client: &Client,
    kind: &Kind,
    desired: &Desired,
    version: Option<String>,
    tell: Tell<'_>,
) -> Result<(PartialObjectMeta<DynamicObject>, bool), CallError> {
    heard(write(client, kind, desired, version), || tell(&desired.id, How::Unheard)).await
}

async fn write(
    client: &Client,
    kind: &Kind,
    desired: &Desired,
    version: Option<String>,
) -> Result<(PartialObjectMeta<DynamicObject>, bool), CallError> {
    let call = api(client, kind, &desired.id);
    if desired.marks.once {
        let made = bounded(call.create(&creation(false), &object(desired.body.value())?)).await?;
        return Ok((made.metadata.into_response_partial(), true));
    }
    let (wanted, current) = body(&call, desired).await?;
    let written = patch(&call, desired, &wanted, version.or(current), false).await?;
    let is_new = drift::is_new(&written.metadata);
    if desired.marks.merged {
        return Ok((written, is_new));
    }
    let Some(entries) = drift::taken_over(written.managed_fields()) else { return Ok((written, is_new)) };
    // With the version, so that nobody's edit in between is lost: if there was one, all of this is tried again.
    let version = written.resource_version();
    let taken = json!({"metadata": {"managedFields": entries, "resourceVersion": version}});
    let params = PatchParams { field_manager: Some(SYNC_MANAGER.to_owned()), ..PatchParams::default() };
    bounded(call.patch_metadata(&desired.id.name, &params, &Patch::Merge(&taken))).await?;
    let (wanted, current) = body(&call, desired).await?;
    let written = patch(&call, desired, &wanted, current, false).await?;
    Ok((written, is_new))
}

/// Over a version, if there is one: nobody's edit in between is lost, or goes unsaid.
async fn patch(
    call: &Api<DynamicObject>,
    desired: &Desired,
    body: &Manifest,
    version: Option<String>,
    dry_run: bool,
) -> Result<PartialObjectMeta<DynamicObject>, CallError> {
    let mut body = Cow::Borrowed(body);
    if let Some(version) = version {
        let mut value = body.value();
        value["metadata"]["resourceVersion"] = version.into();
        body = Cow::Owned(Manifest::from(&value));
    }
    let params = PatchParams { dry_run, ..PatchParams::apply(SYNC_MANAGER).force().validation_strict() };
    bounded(call.patch_metadata(&desired.id.name, &params, &Patch::Apply(body.as_ref()))).await
}

/// What is applied: what Git says, but for what is the cluster's to say, and in which version of the object that is so.
async fn body<'a>(
    call: &Api<DynamicObject>,
    desired: &'a Desired,
) -> Result<(Cow<'a, Manifest>, Option<String>), CallError> {
    let live = if desired.ignored.is_none() { None } else { bounded(call.get_opt(&desired.id.name)).await? };
    let Some(live) = live else { return Ok((Cow::Borrowed(&desired.body), None)) };
    let version = live.resource_version();
    let live = serde_json::to_value(live).map_err(|error| CallError::Api(kube::Error::SerdeError(error)))?;
    let body = Manifest::from(&ignore::payload(desired.body.value(), &desired.ignored, &live));
    Ok((Cow::Owned(body), version))
}

/// What it is, and who has which of its fields; `None` for what is not there.
async fn found(
    client: &Client,
    kind: &Kind,
    id: &ObjectId,
) -> Result<Option<PartialObjectMeta<DynamicObject>>, CallError> {
    bounded(api(client, kind, id).get_metadata_opt(&id.name)).await
}

fn told(desired: &Desired, found: Option<&PartialObjectMeta<DynamicObject>>, applied: &[ManagedFieldsEntry]) -> Drift {
    let changed = |found: &PartialObjectMeta<DynamicObject>| {
        What::Changed(drift::changes(found.managed_fields(), applied, desired.marks.merged))
    };
    Drift { id: desired.id.clone(), what: found.map_or(What::Deleted, changed) }
}

/// What healing an object would tell of it. Changes nothing.
pub async fn drift(client: &Client, kind: &Kind, desired: &Desired) -> Result<Drift, CallError> {
    let Some(found) = found(client, kind, &desired.id).await? else { return Ok(told(desired, None, &[])) };
    let call = api(client, kind, &desired.id);
    let (wanted, _) = body(&call, desired).await?;
    let applied = patch(&call, desired, &wanted, None, true).await?;
    Ok(told(desired, Some(&found), applied.managed_fields()))
}

fn creation(dry_run: bool) -> PostParams {
    PostParams { dry_run, field_manager: Some(SYNC_MANAGER.to_owned()) }
}

fn object(body: Value) -> Result<DynamicObject, CallError> {
    serde_json::from_value(body).map_err(|error| CallError::Api(kube::Error::SerdeError(error)))
}

/// Whether the API server refuses the change as such. Every other refusal is about what is wrong with the manifest, and
/// no reason to delete what is there.
fn is_immutable(error: &CallError) -> bool {
    let CallError::Api(kube::Error::Api(status)) = error else { return false };
    let words = [
        "immutable",
        "cannot change roleRef",
        "updates to parameters are forbidden",
        "updates to statefulset spec for fields other than",
    ];
    status.code == 422 && words.iter().any(|words| status.message.contains(words))
}

/// Deletes and makes anew what cannot be changed, once the API server has said that it would take the new one.
async fn recreate(
    client: &Client,
    kind: &Kind,
    desired: &Desired,
    uid: &str,
    tell: Tell<'_>,
) -> Result<(PartialObjectMeta<DynamicObject>, bool), String> {
    let call = api(client, kind, &desired.id);
    let mut trial = desired.body.value();
    let name: String = desired.id.name.chars().take(50).collect();
    trial["metadata"]["name"] = format!("{}-trial", name.trim_end_matches(['-', '.'])).into();
    let tried = async { bounded(call.create(&creation(true), &object(trial)?)).await };
    tried.await.map_err(|error| format!("cannot be changed, and the new one would be refused: {}", said(&error)))?;
    clear(client, kind, desired, uid, tell).await?;
    apply(client, kind, desired, None, tell).await.map_err(|error| said(&error))
}

/// Deletes it, and waits until it is gone.
async fn clear(client: &Client, kind: &Kind, desired: &Desired, uid: &str, tell: Tell<'_>) -> Result<(), String> {
    match delete(client, kind, &desired.id, uid.to_owned(), tell).await {
        Ok(()) => tell(&desired.id, How::Cleared),
        Err(error) if !error.is_not_found() => {
            return Err(format!("cannot delete it to make it anew: {}", said(&error)));
        }
        _ => {}
    }
    let gone = await_condition(api(client, kind, &desired.id), &desired.id.name, conditions::is_deleted(uid));
    match tokio::time::timeout(RECREATE, gone).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err("is being deleted to be made anew, which takes long: see its finalizers".to_owned()),
    }
}

/// Makes a hook, in place of what an earlier run left. Created and not applied: what runs is new, or it is an error.
async fn make(
    client: &Client,
    kind: &Kind,
    desired: &Desired,
    mark: &str,
    tell: Tell<'_>,
) -> Result<PartialObjectMeta<DynamicObject>, String> {
    let call = api(client, kind, &desired.id);
    let there = bounded(call.get_metadata_opt(&desired.id.name)).await.map_err(|error| said(&error))?;
    let mut body = desired.body.value();
    if let Some((uid, labels)) = there.and_then(|there| Some((there.metadata.uid?, there.metadata.labels))) {
        let labels = labels.unwrap_or_default();
        let is_ours =
            |label| labels.get(label).is_some_and(|owner| body["metadata"]["labels"][label] == owner.as_str());
        if ![NAME_LABEL, NAMESPACE_LABEL].into_iter().all(is_ours) {
            return Err(
                "is there already and is not this GitSync's; delete it, or give the hook another name".to_owned()
            );
        }
        clear(client, kind, desired, &uid, tell).await?;
    }
    body["metadata"]["annotations"][RUN] = mark.into();
    let made = async { bounded(call.create(&creation(false), &object(body)?)).await };
    let made = heard(made, || tell(&desired.id, How::Unheard));
    made.await.map(|made| made.metadata.into_response_partial()).map_err(|error| said(&error))
}

/// What a GET says of an object.
pub async fn read(client: &Client, kind: &Kind, id: &ObjectId) -> Result<Value, CallError> {
    let found = bounded(api(client, kind, id).get(&id.name)).await?;
    serde_json::to_value(found).map_err(|error| CallError::Api(kube::Error::SerdeError(error)))
}

async fn delete(client: &Client, kind: &Kind, id: &ObjectId, uid: String, tell: Tell<'_>) -> Result<(), CallError> {
    let params = DeleteParams::background().preconditions(Preconditions { uid: Some(uid), resource_version: None });
    let call = api(client, kind, id);
    heard(bounded(call.delete(&id.name, &params)), || tell(id, How::Unheard)).await.map(drop)
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
