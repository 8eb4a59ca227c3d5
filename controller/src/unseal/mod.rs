//! Keeps every Secret as its SealedSecret says. The SealedSecrets come whole, the Secrets of the cluster as metadata
//! only; a value is decrypted when it must be written and not kept.

pub mod decide;
pub mod status;

use std::{collections::HashMap, sync::Arc, time::Duration};

use crds::{
    KeyRing, Scope, SealedSecret,
    explain::explain,
    sealed_secret::{SealedSecretStatus, UnsealedRecord},
    unseal::{self as open, Attempt, ClearSecret, UnsealError},
};
use futures::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        controller::Action,
        reflector::{ObjectRef, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    decide::{LastPass, LiveSecret, RingVersion, Verdict, decide},
    status::Failure,
};
use crate::{
    calls::{CallError, bounded, logged, write_status},
    context::{Context, FIELD_MANAGER, chain},
    drive::drive,
    events::{Events, Severity},
    metrics,
    observed::{Observed, Sighting, version},
};

/// SealedSecrets handled at once. Most of the time goes into waiting for the API server.
const CONCURRENCY: u16 = 16;
/// SealedSecrets are large: a list comes in pages of this many.
const PAGE: u32 = 50;

type Guarded = DeserializeGuard<SealedSecret>;
/// Namespace and name, shared by a SealedSecret and its Secret.
type Key = (String, String);

/// What went wrong on the way; the pass is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The outcome could not be written down.
    #[error("cannot write the status of the SealedSecret")]
    Status(#[source] CallError),
    /// The Secret could not be written.
    #[error("cannot write the Secret")]
    Secret(#[source] CallError),
    /// The opening was ended.
    #[error("the opening was ended")]
    Ended(#[from] tokio::task::JoinError),
}

struct Unsealer {
    context: Context,
    events: Events,
    secrets: RwLock<Observed<Key, LiveSecret>>,
    secrets_listed: watch::Sender<bool>,
    /// With the UID: an object made anew under the same name has no past.
    passes: RwLock<HashMap<Key, (Option<String>, LastPass)>>,
}

/// Runs until `stop`, then ends what is under way. `changed` hears of every SealedSecret that moved, `listed` that all
/// are known (the store's own signal wakes one waiter only, and that is the reconciler).
pub async fn run(
    context: Context,
    writer: Writer<Guarded>,
    changed: impl Fn(&Guarded) + Send + 'static,
    listed: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let unsealer = Arc::new(Unsealer {
        events: Events::new(context.client.clone(), "sealed-secrets"),
        secrets: RwLock::default(),
        secrets_listed: watch::Sender::default(),
        passes: RwLock::default(),
        context,
    });
    let triggers = stream::select_all([
        unsealer.clone().sealed_secrets(writer, changed, listed).boxed(),
        unsealer.clone().secrets().boxed(),
        unsealer.clone().new_keys().boxed(),
    ]);
    let store = unsealer.context.sealed.clone();
    let pass = |guarded: Arc<Guarded>, unsealer: Arc<Unsealer>| async move { unsealer.reconcile(&guarded).await };
    drive(pass, unsealer, store, triggers, CONCURRENCY, stop).await;
}

impl Unsealer {
    /// A pass starts from zero each time: nobody says why it is made.
    async fn reconcile(&self, guarded: &Guarded) -> Result<Action, Error> {
        let sealed = match &guarded.0 {
            Ok(sealed) => sealed,
            Err(invalid) => {
                let failure = Failure::Invalid(invalid.error.clone());
                return self.report(&stand_in(guarded), Err(failure), RingVersion::default()).await;
            }
        };
        if sealed.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        self.ready().await;
        let (last, live, ring) = self.seen(sealed);
        match decide(sealed, last.as_ref(), live.as_ref(), ring.version()) {
            Verdict::Unchanged => Ok(Action::await_change()),
            Verdict::NotManaged => {
                self.report(sealed, Err(Failure::NotManaged(sealed.name_any())), ring.version()).await
            }
            Verdict::Unseal => {
                let outcome = match self.open(sealed, last, ring.clone()).await? {
                    Ok((secret, record)) => self.write(sealed, secret, record, live.as_ref()).await?,
                    Err(failure) => Err(failure),
                };
                self.report(sealed, outcome, ring.version()).await
            }
        }
    }

    /// Deciding needs every Secret's metadata, and opening needs a key.
    async fn ready(&self) {
        let mut listed = self.secrets_listed.subscribe();
        let mut ring = self.context.ring.clone();
        // Both senders live as long as the process; were one gone, there would be nothing to wait for.
        drop(listed.wait_for(|listed| *listed).await);
        drop(ring.wait_for(|ring| ring.newest().is_some()).await);
    }

    fn seen(&self, sealed: &SealedSecret) -> (Option<LastPass>, Option<LiveSecret>, Arc<KeyRing>) {
        let live = self.secrets.read().get(&key(sealed)).cloned();
        let last = self.last(sealed).or_else(|| recorded(sealed));
        (last, live, self.context.ring.borrow().clone())
    }

    fn last(&self, sealed: &SealedSecret) -> Option<LastPass> {
        let passes = self.passes.read();
        passes.get(&key(sealed)).filter(|(uid, _)| *uid == sealed.metadata.uid).map(|(_, last)| last.clone())
    }

    /// RSA is CPU work: it leaves the async threads free.
    async fn open(
        &self,
        sealed: &SealedSecret,
        last: Option<LastPass>,
        ring: Arc<KeyRing>,
    ) -> Result<Result<(ClearSecret, UnsealedRecord), Failure>, Error> {
        let sealed = sealed.clone();
        let metrics = self.context.metrics.clone();
        metrics.unseal_requests.inc();
        let work = move || {
            let before = last.as_ref().and_then(|last| last.status.unsealed.as_ref());
            let Attempt { operations, mut outcome } = open::open(&sealed, &ring, before);
            metrics.rsa_operations.inc_by(operations.into());
            if let Err(UnsealError::NoKey(closed)) = &mut outcome {
                metrics.rsa_operations.inc_by(explain(&sealed, &ring, closed).into());
            }
            let unsealed = outcome?;
            let record = UnsealedRecord {
                scope: Scope::from_annotations(sealed.annotations()).to_string(),
                secret_uid: String::new(),
                secret_resource_version: String::new(),
                keys: unsealed.keys.clone(),
            };
            Ok((open::secret(&sealed, unsealed)?, record))
        };
        Ok(tokio::task::spawn_blocking(work).await?)
    }

    /// Writes our own fields, and only over the very Secret that was decided about.
    async fn write(
        &self,
        sealed: &SealedSecret,
        mut secret: ClearSecret,
        record: UnsealedRecord,
        live: Option<&LiveSecret>,
    ) -> Result<Result<UnsealedRecord, Failure>, Error> {
        let mut params = PatchParams::apply(FIELD_MANAGER);
        if let Some(live) = live {
            let metadata = &mut secret.expose_mut().metadata;
            metadata.uid = Some(live.uid.clone());
            metadata.resource_version = Some(live.resource_version.clone());
            if live.patch && !live.managed {
                metadata.owner_references = None;
            }
            params = params.force();
        }
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &sealed.namespace().unwrap_or_default());
        let name = sealed.name_any();
        match bounded(api.patch_metadata(&name, &params, &Patch::Apply(secret.expose()))).await {
            Ok(written) => {
                let sighting = sighting(&written);
                let LiveSecret { uid, resource_version, .. } = sighting.2.clone();
                self.secrets.write().wrote(sighting);
                Ok(Ok(UnsealedRecord { secret_uid: uid, secret_resource_version: resource_version, ..record }))
            }
            // Forced, a conflict is a version: the watch brings the newer one. Not forced, the name is taken.
            Err(error) if error.is_conflict() && live.is_none() => Ok(Err(Failure::NotManaged(name))),
            Err(error) if error.is_refusal() && !error.is_conflict() => Ok(Err(Failure::Update(chain(&error)))),
            Err(error) => Err(Error::Secret(error)),
        }
    }

    /// Status, Event, metric; each only when something changed. `ring` is the one that was tried.
    async fn report(
        &self,
        sealed: &SealedSecret,
        outcome: Result<UnsealedRecord, Failure>,
        ring: RingVersion,
    ) -> Result<Action, Error> {
        let before = self.last(sealed).map(|last| last.status).or_else(|| sealed.status.clone());
        let failed = outcome.as_ref().err();
        let status =
            status::next(before.as_ref(), sealed.metadata.generation, outcome.as_ref().cloned(), Timestamp::now());
        if let Some(failure) = failed {
            let labels =
                metrics::UnsealError { reason: failure.metric(), namespace: sealed.namespace().unwrap_or_default() };
            self.context.metrics.unseal_errors.get_or_create(&labels).inc();
        }
        if before.as_ref() != Some(&status) {
            write_status(&self.context.client, sealed, &status).await.map_err(Error::Status)?;
            let said = |status: &SealedSecretStatus| {
                let condition = status.conditions.first();
                condition.map(|it| (it.status.clone(), it.message.clone(), status.observed_generation))
            };
            if before.as_ref().and_then(said) != said(&status) {
                self.announce(sealed, failed).await;
            }
        }
        // A refusal by the API server may pass (a quota, a webhook); a key, a name or an edit comes by a watch.
        let action = match failed {
            Some(Failure::Update(_)) => Action::requeue(Duration::from_mins(1)),
            _ => Action::await_change(),
        };
        let failed_with = failed.filter(|failure| matches!(failure, Failure::Unseal(_))).map(|_| ring);
        let pass = LastPass { status, failed_with, scope: Scope::from_annotations(sealed.annotations()) };
        self.passes.write().insert(key(sealed), (sealed.metadata.uid.clone(), pass));
        Ok(action)
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

    fn sealed_secrets(
        self: Arc<Self>,
        writer: Writer<Guarded>,
        changed: impl Fn(&Guarded) + Send + 'static,
        listed: watch::Sender<bool>,
    ) -> impl Stream<Item = ObjectRef<Guarded>> {
        let api: Api<Guarded> = Api::all(self.context.client.clone());
        watcher(api, watcher::Config::default().page_size(PAGE))
            .default_backoff()
            .modify(|sealed| sealed.managed_fields_mut().clear())
            .reflect(writer)
            .filter_map(|event| std::future::ready(logged("SealedSecrets", event)))
            .filter_map(move |event| {
                std::future::ready(match event {
                    Event::Apply(sealed) | Event::InitApply(sealed) => {
                        changed(&sealed);
                        Some(ObjectRef::from_obj(&sealed))
                    }
                    Event::Delete(sealed) => {
                        changed(&sealed);
                        let key = (sealed.namespace().unwrap_or_default(), sealed.name_any());
                        self.passes.write().remove(&key);
                        None
                    }
                    Event::InitDone => {
                        listed.send_replace(true);
                        None
                    }
                    Event::Init => None,
                })
            })
    }

    /// Whatever happens to a Secret concerns the SealedSecret of its name: an edit, a deletion, a name set free.
    fn secrets(self: Arc<Self>) -> impl Stream<Item = ObjectRef<Guarded>> {
        let api: Api<PartialObjectMeta<Secret>> = Api::all(self.context.client.clone());
        watcher(api, watcher::Config::default())
            .default_backoff()
            .filter_map(|event| std::future::ready(logged("Secrets", event)))
            .flat_map(move |event| {
                let (event, touched) = match event {
                    Event::Init => (Event::Init, None),
                    Event::InitDone => (Event::InitDone, None),
                    Event::InitApply(secret) => (Event::InitApply(sighting(&secret)), None),
                    Event::Apply(secret) => (Event::Apply(sighting(&secret)), Some(secret)),
                    Event::Delete(secret) => (Event::Delete(sighting(&secret)), Some(secret)),
                };
                let listed = self.secrets.write().on_event(event);
                if listed {
                    self.secrets_listed.send_replace(true);
                }
                let one = touched.and_then(|secret| {
                    let sealed = ObjectRef::new(&secret.name_any()).within(&secret.namespace().unwrap_or_default());
                    self.context.sealed.get(&sealed).map(|_| sealed)
                });
                // After a gap in the watch anything may have happened.
                let all = if listed { self.all() } else { Vec::new() };
                stream::iter(one.into_iter().chain(all))
            })
    }

    /// A key that came may open what failed.
    fn new_keys(self: Arc<Self>) -> impl Stream<Item = ObjectRef<Guarded>> {
        let ring = self.context.ring.clone();
        stream::unfold(ring, |mut ring| async move { ring.changed().await.ok().map(|()| ((), ring)) })
            .flat_map(move |()| stream::iter(self.all()))
    }

    fn all(&self) -> Vec<ObjectRef<Guarded>> {
        self.context.sealed.state().iter().map(|sealed| ObjectRef::from_obj(sealed.as_ref())).collect()
    }
}

fn key(sealed: &SealedSecret) -> Key {
    (sealed.namespace().unwrap_or_default(), sealed.name_any())
}

fn sighting(secret: &PartialObjectMeta<Secret>) -> Sighting<Key, LiveSecret> {
    let key = (secret.namespace().unwrap_or_default(), secret.name_any());
    (key, version(secret.metadata.resource_version.as_deref()), secret.into())
}

/// What an earlier process left in `status`.
fn recorded(sealed: &SealedSecret) -> Option<LastPass> {
    let status = sealed.status.clone()?;
    let scope = status.unsealed.as_ref()?.scope.parse().ok()?;
    Some(LastPass { status, failed_with: None, scope })
}

/// An object that does not parse, with what is known of it: enough to hang a condition and an Event on.
fn stand_in(guarded: &Guarded) -> SealedSecret {
    SealedSecret { metadata: guarded.meta().clone(), ..SealedSecret::default() }
}
