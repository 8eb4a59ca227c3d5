//! One pass over one SealedSecret: look, open, write, say. A pass starts from zero each time; nobody says why it is made.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc, thread::available_parallelism, time::Instant};

use crds::{
    KeyRing, SealedSecret,
    explain::explain,
    guard,
    sealed_secret::{SealedSecretStatus, UnsealedRecord},
    template::Environment,
    unseal::{self as open, Attempt, ClearSecret, UnsealError},
};
use http::{HeaderValue, header::ACCEPT};
use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Secret};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{PartialObjectMeta, Request},
    runtime::{controller::Action, reflector::ObjectRef, watcher::Event},
};
use parking_lot::RwLock;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tracing::{Instrument as _, Span};

use super::{
    Options, adopt,
    choices::Choices,
    decide::{LastPass, Live, LiveSecret, RingVersion, Stuck, Verdict, chosen, decide},
    status::{self, Failure, Fixed, WaitsFor},
};
use crate::{
    calls::{CallError, bounded, write_status},
    context::{Context, FIELD_MANAGER, Guarded, chain},
    events::{Events, Severity},
    metrics,
    observed::{Observed, Sighting, version},
    pulse,
    traces::{self, span},
};

/// What was just written need not come back whole.
const METADATA_ONLY: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// Namespace and name, shared by a SealedSecret and its Secret.
pub type Key = (String, String);

/// What went wrong on the way; the pass is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The outcome could not be written down.
    #[error("cannot write the status of the SealedSecret")]
    Status(#[source] CallError),
    /// The Secret could not be read or written.
    #[error("cannot write the Secret")]
    Secret(#[source] CallError),
    /// It failed for a reason that may pass.
    #[error("{0}")]
    Refused(String),
    /// The opening was ended.
    #[error("the opening was ended")]
    Ended(#[from] tokio::task::JoinError),
}

/// What the passes of one watch share.
pub struct Unsealer {
    pub(super) context: Context,
    pub(super) options: Arc<Options>,
    /// The namespace, or all.
    pub(super) namespace: Option<String>,
    pub(super) events: Events,
    secrets: RwLock<Observed<Key, LiveSecret>>,
    secrets_listed: watch::Sender<bool>,
    /// With the UID: an object made anew under the same name has no past.
    passes: RwLock<HashMap<Key, (Option<String>, LastPass)>>,
    /// One for each core. More openings at once would only take each other's time, and a stack and a heap each.
    openings: Semaphore,
}

impl Unsealer {
    pub(super) fn new(context: Context, options: Arc<Options>, namespace: Option<String>) -> Self {
        Self {
            events: Events::new(context.client.clone(), "sealed-secrets"),
            secrets: RwLock::default(),
            secrets_listed: watch::Sender::new(!options.watch_secrets),
            passes: RwLock::default(),
            openings: Semaphore::new(available_parallelism().map_or(1, NonZeroUsize::get)),
            context,
            options,
            namespace,
        }
    }

    /// The objects of the watched namespace, or of all.
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.context.client.clone(), namespace),
            None => Api::all(self.context.client.clone()),
        }
    }

    /// Takes in what the watch shows of Secrets. True when all are known.
    pub(super) fn saw(&self, event: Event<Sighting<Key, LiveSecret>>) -> bool {
        let listed = self.secrets.write().on_event(event);
        if listed {
            self.secrets_listed.send_replace(true);
        }
        listed
    }

    pub(super) async fn reconcile(&self, guarded: Arc<Guarded>) -> Result<Action, Error> {
        let sealed = match &guarded.0 {
            Ok(sealed) => sealed,
            Err(invalid) => {
                let failure = Failure::Invalid(invalid.error.clone());
                return self.report(&stand_in(&guarded), Err(failure), &Live::Absent, RingVersion::default()).await;
            }
        };
        if sealed.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        pulse::idle(self.ready()).await;
        let ring = self.context.ring.borrow().clone();
        let last = self.last(sealed).or_else(|| recorded(sealed));
        let mut live = self.live(&key(sealed));
        let mut verdict = decide(sealed, last.as_ref(), &live, ring.version());
        if verdict == Verdict::Unseal && live == Live::Unwatched {
            live = self.ask(sealed).await?;
            verdict = decide(sealed, last.as_ref(), &live, ring.version());
        }
        match verdict {
            Verdict::Unchanged => {
                self.forget(sealed);
                Ok(Action::await_change())
            }
            Verdict::NotManaged => {
                let failure = Failure::NotManaged(sealed.name_any());
                self.report(sealed, Err(failure), &live, ring.version()).await
            }
            Verdict::Unseal => {
                let (namespace, name) = key(sealed);
                let span = span!("unseal", namespace, name);
                self.unseal(guarded.clone(), sealed, &live, (last, ring)).instrument(span).await
            }
        }
    }

    async fn unseal(
        &self,
        guarded: Arc<Guarded>,
        sealed: &SealedSecret,
        live: &Live,
        (last, ring): (Option<LastPass>, Arc<KeyRing>),
    ) -> Result<Action, Error> {
        let (version, began) = (ring.version(), Instant::now());
        let outcome = match self.open(guarded, last, ring).await? {
            Ok((secret, record)) => self.write(sealed, secret, record, live.secret()).await?,
            Err(failure) => Err(failure),
        };
        self.context.metrics.unseal_durations.observe(began.elapsed().as_secs_f64());
        let word = outcome.as_ref().map_or_else(Failure::metric, |_| "success");
        traces::ended(&Span::current(), word, outcome.is_err());
        self.report(sealed, outcome, live, version).await
    }

    /// Deciding needs every Secret's metadata, and opening needs a key.
    async fn ready(&self) {
        let mut listed = self.secrets_listed.subscribe();
        let mut ring = self.context.ring.clone();
        // Both senders live as long as the process; were one gone, there would be nothing to wait for.
        drop(listed.wait_for(|listed| *listed).await);
        drop(ring.wait_for(|ring| ring.newest().is_some()).await);
    }

    fn live(&self, key: &Key) -> Live {
        if !self.options.watch_secrets {
            return Live::Unwatched;
        }
        self.secrets.read().get(key).cloned().map_or(Live::Absent, Live::Present)
    }

    /// The same by a request, for want of a watch.
    async fn ask(&self, sealed: &SealedSecret) -> Result<Live, Error> {
        let api: Api<Secret> = self.secrets_of(sealed);
        let found = one(&api, &sealed.name_any()).await.map_err(Error::Secret)?;
        Ok(found.map_or(Live::Absent, |secret| Live::Present((&secret).into())))
    }

    fn secrets_of(&self, sealed: &SealedSecret) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), &sealed.namespace().unwrap_or_default())
    }

    fn last(&self, sealed: &SealedSecret) -> Option<LastPass> {
        let passes = self.passes.read();
        passes.get(&key(sealed)).filter(|(uid, _)| *uid == sealed.metadata.uid).map(|(_, last)| last.clone())
    }

    /// A pass is remembered only until the watch has brought all that it wrote.
    fn forget(&self, sealed: &SealedSecret) {
        if self.last(sealed).is_some_and(|last| recorded(sealed) == Some(last)) {
            self.passes.write().remove(&key(sealed));
        }
    }

    /// RSA is CPU work: it leaves the async threads free.
    async fn open(
        &self,
        guarded: Arc<Guarded>,
        last: Option<LastPass>,
        ring: Arc<KeyRing>,
    ) -> Result<Result<(ClearSecret, UnsealedRecord), Failure>, Error> {
        let metrics = self.context.metrics.clone();
        let accept_deprecated = self.options.accept_deprecated;
        metrics.unseal_requests.inc();
        let work = move || {
            let sealed = guarded.0.as_ref().map_err(|invalid| Failure::Invalid(invalid.error.clone()))?;
            if sealed.spec.data.is_some() && !accept_deprecated {
                return Err(Failure::Deprecated);
            }
            let before = last.as_ref().and_then(|last| last.status.unsealed.as_ref());
            let Attempt { operations, mut outcome } = open::open(sealed, &ring, before);
            metrics.rsa_operations.inc_by(operations.into());
            if let Err(UnsealError::NoKey(closed)) = &mut outcome {
                metrics.rsa_operations.inc_by(explain(sealed, &ring, closed).into());
            }
            let unsealed = outcome?;
            let choices = Choices::of(&sealed.metadata);
            let record = UnsealedRecord {
                scope: choices.scope.to_string(),
                choices: choices.shown(),
                secret_uid: String::new(),
                secret_resource_version: String::new(),
                keys: unsealed.keys.clone(),
            };
            let environment = Environment { rng: &mut rand::rng(), now: Timestamp::now() };
            let mut secret = open::secret(sealed, unsealed, environment)?;
            choices.shape(&mut secret);
            Ok((secret, record))
        };
        // Never closed; were it, there would be no bound.
        let _turn = pulse::idle(self.openings.acquire()).await;
        Ok(tokio::task::spawn_blocking(|| guard::wiped(work)).await?)
    }

    /// Writes our own fields, and only over the very Secret that was decided about.
    async fn write(
        &self,
        sealed: &SealedSecret,
        mut secret: ClearSecret,
        record: UnsealedRecord,
        live: Option<&LiveSecret>,
    ) -> Result<Result<UnsealedRecord, Failure>, Error> {
        let api = self.secrets_of(sealed);
        let name = sealed.name_any();
        let mut written = match live {
            Some(live) => update(&api, &name, &mut secret, live).await,
            None => create(&self.context.client, &secret).await,
        };
        if let (Err(error), Some(live)) = (&written, live)
            && let Some(fixed) = Fixed::of(&chain(error))
        {
            if !Choices::of(&sealed.metadata).replace {
                let (namespace, name) = key(sealed);
                return Ok(Err(Failure::Immutable(format!("{namespace}/{name}"), fixed)));
            }
            tracing::info!(secret = %ObjectRef::from_obj(sealed), "{fixed}: making it anew");
            written = replace(&self.context.client, &api, &name, &mut secret, live).await;
        }
        match written {
            Ok(written) => {
                let sighting = sighting(&written);
                let LiveSecret { uid, resource_version, .. } = sighting.2.clone();
                let action = match live {
                    None => Some("created"),
                    Some(live) if live.uid != uid => Some("recreated"),
                    Some(live) if live.resource_version != resource_version => Some("changed"),
                    Some(_) => None,
                };
                if let Some(action) = action {
                    let (namespace, name) = key(sealed);
                    self.context.audit.own("Unsealing", action, (&namespace, &name), &name);
                }
                self.secrets.write().wrote(sighting);
                Ok(Ok(UnsealedRecord { secret_uid: uid, secret_resource_version: resource_version, ..record }))
            }
            // Of an update, a conflict is a version: the watch brings the newer one. Of a creation, the name is taken.
            Err(error) if error.is_conflict() && live.is_none() => Ok(Err(Failure::NotManaged(name))),
            Err(error) if error.is_refusal() && !error.is_conflict() => Ok(Err(Failure::Update(chain(&error)))),
            Err(error) => Err(Error::Secret(error)),
        }
    }

    /// Status, Event, metric; each only when something changed. `live` and `ring` are what was tried.
    async fn report(
        &self,
        sealed: &SealedSecret,
        outcome: Result<UnsealedRecord, Failure>,
        live: &Live,
        ring: RingVersion,
    ) -> Result<Action, Error> {
        let before = self.last(sealed).map(|last| last.status).or_else(|| sealed.status.clone());
        let failed = outcome.as_ref().err();
        let status =
            status::next(before.as_ref(), sealed.metadata.generation, outcome.as_ref().cloned(), Timestamp::now());
        if let Some(failure) = failed {
            self.count(failure.metric(), sealed);
        }
        if before.as_ref() != Some(&status) {
            if self.options.update_status {
                write_status(&self.context.client, sealed, &status).await.map_err(|error| {
                    self.count("status", sealed);
                    Error::Status(error)
                })?;
            }
            let said = |status: &SealedSecretStatus| {
                let condition = status.conditions.first();
                condition.map(|it| (it.status.clone(), it.message.clone(), status.observed_generation))
            };
            if before.as_ref().and_then(said) != said(&status) {
                self.announce(sealed, failed).await;
            }
        }
        let waits_for = failed.and_then(Failure::waits_for);
        let secret = live.secret().map(|secret| secret.resource_version.clone());
        let stuck = match waits_for {
            Some(WaitsFor::Object) => Some(Stuck { ring, chosen: chosen(sealed), secret: None }),
            Some(WaitsFor::Secret) if secret.is_some() => Some(Stuck { ring, chosen: chosen(sealed), secret }),
            _ => None,
        };
        // A Secret that nobody watches has to be looked at again and again.
        let unseen = waits_for == Some(WaitsFor::Secret) && !self.options.watch_secrets;
        let action = match failed {
            Some(failure) if unseen || waits_for.is_none() => Err(Error::Refused(failure.to_string())),
            _ => Ok(Action::await_change()),
        };
        let pass = LastPass { status, stuck: stuck.filter(|_| !unseen) };
        self.passes.write().insert(key(sealed), (sealed.metadata.uid.clone(), pass));
        action
    }

    fn count(&self, reason: &'static str, sealed: &SealedSecret) {
        let labels = metrics::UnsealError { reason, namespace: sealed.namespace().unwrap_or_default() };
        self.context.metrics.unseal_errors.get_or_create(&labels).inc();
    }

    async fn announce(&self, sealed: &SealedSecret, failed: Option<&Failure>) {
        let (namespace, name) = key(sealed);
        if let Some(failure) = failed {
            let (reason, message) = failure.event();
            tracing::warn!(namespace, name, reason = failure.reason(), "{message}");
            self.events.publish(sealed, Severity::Warning, reason, &message).await;
        } else {
            tracing::info!(namespace, name, "SealedSecret unsealed successfully");
            self.events.publish(sealed, Severity::Normal, "Unsealed", "SealedSecret unsealed successfully").await;
        }
    }

    /// A SealedSecret went out of sight. Its Secret goes by the garbage collector or, where that was asked for, here.
    pub(super) async fn gone(&self, guarded: &Guarded) {
        let key = (guarded.namespace().unwrap_or_default(), guarded.name_any());
        let last = self.passes.write().remove(&key).map(|(_, last)| last);
        let last = last.or_else(|| recorded(guarded.0.as_ref().ok()?));
        let retained = Choices::of(guarded.meta()).retain;
        let record = last.and_then(|last| last.status.unsealed);
        let Some(record) = record.filter(|_| self.options.delete_secrets && !retained) else { return };
        let (namespace, name) = key;
        if let Err(error) = self.delete(&namespace, &name, record.secret_uid).await {
            let error = chain(&error);
            tracing::warn!(namespace, name, error, "cannot delete the Secret; the garbage collector will");
        }
    }

    /// Deletes a Secret if its SealedSecret really is gone; it may only have lost the label that it is watched by.
    async fn delete(&self, namespace: &str, name: &str, uid: String) -> Result<(), CallError> {
        let client = self.context.client.clone();
        if one(&Api::<SealedSecret>::namespaced(client.clone(), namespace), name).await?.is_some() {
            return Ok(());
        }
        let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match bounded(Api::<Secret>::namespaced(client, namespace).delete(name, &params)).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::info!(namespace, name, "SealedSecret has gone, deleted its Secret");
                self.context.audit.own("Deletion", "deleted", (namespace, name), name);
                Ok(())
            }
        }
    }
}

/// The metadata of one object, by the right to list.
async fn one<K>(api: &Api<K>, name: &str) -> Result<Option<PartialObjectMeta<K>>, CallError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(bounded(api.list_metadata(&by_name)).await?.items.into_iter().next())
}

/// Makes a Secret where there is none; one of that name is left alone. Costs the API server half of what applying it
/// does, so what it is later made of is [`adopt`]ed first.
async fn create(client: &Client, secret: &ClearSecret) -> Result<PartialObjectMeta<Secret>, CallError> {
    let namespace = secret.expose().metadata.namespace.as_deref();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let bytes = serde_json::to_vec(secret.expose()).map_err(kube::Error::SerdeError)?;
    let request = Request::new(Secret::url_path(&(), namespace)).create(&params, bytes);
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(ACCEPT, METADATA_ONLY);
    bounded(client.request(request)).await
}

async fn apply(api: &Api<Secret>, name: &str, secret: &ClearSecret) -> Result<PartialObjectMeta<Secret>, CallError> {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    bounded(api.patch_metadata(name, &params, &Patch::Apply(secret.expose()))).await
}

/// Makes a Secret that is there ours. Unless it is only to be added to, items that others put in go.
async fn update(
    api: &Api<Secret>,
    name: &str,
    clear: &mut ClearSecret,
    live: &LiveSecret,
) -> Result<PartialObjectMeta<Secret>, CallError> {
    let adopted = if live.created { adopt(api, name, live).await? } else { None };
    let live = adopted.as_ref().unwrap_or(live);
    let mut resource_version = live.resource_version.clone();
    if !live.patch {
        let wanted = clear.expose().data.iter().flatten().map(|(item, _)| item).collect::<Vec<_>>();
        let strange: serde_json::Map<_, _> = live
            .foreign
            .iter()
            .filter(|item| !wanted.contains(item))
            .map(|item| (item.clone(), serde_json::Value::Null))
            .collect();
        if !strange.is_empty() {
            let version = json!({"uid": live.uid, "resourceVersion": resource_version});
            let removal = Patch::Merge(json!({"metadata": version, "data": strange}));
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let without = bounded(api.patch_metadata(name, &params, &removal)).await?;
            resource_version = without.resource_version().unwrap_or_default();
        }
    }
    let metadata = &mut clear.expose_mut().metadata;
    metadata.uid = Some(live.uid.clone());
    metadata.resource_version = Some(resource_version);
    if live.patch && !live.managed {
        metadata.owner_references = None;
    }
    apply(api, name, clear).await
}

/// Makes what was created of a Secret applied by us. None where it is no longer the Secret that was seen.
async fn adopt(api: &Api<Secret>, name: &str, live: &LiveSecret) -> Result<Option<LiveSecret>, CallError> {
    let Some(secret) = one(api, name).await? else { return Ok(None) };
    let seen =
        secret.uid().as_ref() == Some(&live.uid) && secret.resource_version().as_ref() == Some(&live.resource_version);
    let entries = adopt::adopted(secret.managed_fields(), live.owner.as_deref());
    let Some(entries) = entries.filter(|_| seen) else { return Ok(None) };
    let metadata = json!({"uid": live.uid, "resourceVersion": live.resource_version, "managedFields": entries});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = bounded(api.patch_metadata(name, &params, &Patch::Merge(json!({ "metadata": metadata })))).await?;
    Ok(Some((&written).into()))
}

/// Deletes a Secret and makes it anew; not before a new one has been found acceptable, under another name.
async fn replace(
    client: &Client,
    api: &Api<Secret>,
    name: &str,
    clear: &mut ClearSecret,
    live: &LiveSecret,
) -> Result<PartialObjectMeta<Secret>, CallError> {
    let metadata = &mut clear.expose_mut().metadata;
    (metadata.uid, metadata.resource_version) = (None, None);
    (metadata.name, metadata.generate_name) = (None, Some(format!("{name}-")));
    let trial = PostParams { dry_run: true, field_manager: Some(FIELD_MANAGER.to_owned()) };
    bounded(api.create(&trial, clear.expose())).await.map(ClearSecret::new).map(drop)?;
    let metadata = &mut clear.expose_mut().metadata;
    (metadata.name, metadata.generate_name) = (Some(name.to_owned()), None);
    let preconditions =
        Some(Preconditions { uid: Some(live.uid.clone()), resource_version: Some(live.resource_version.clone()) });
    bounded(api.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() })).await?;
    create(client, clear).await
}

fn key(sealed: &SealedSecret) -> Key {
    (sealed.namespace().unwrap_or_default(), sealed.name_any())
}

pub(super) fn sighting(secret: &PartialObjectMeta<Secret>) -> Sighting<Key, LiveSecret> {
    let key = (secret.namespace().unwrap_or_default(), secret.name_any());
    (key, version(secret.metadata.resource_version.as_deref()), secret.into())
}

/// What an earlier process left in `status`.
fn recorded(sealed: &SealedSecret) -> Option<LastPass> {
    let status = sealed.status.clone()?;
    status.unsealed.is_some().then_some(LastPass { status, stuck: None })
}

/// An object that does not parse, with what is known of it: enough to hang a condition and an Event on.
fn stand_in(guarded: &Guarded) -> SealedSecret {
    SealedSecret { metadata: guarded.meta().clone(), ..SealedSecret::default() }
}
