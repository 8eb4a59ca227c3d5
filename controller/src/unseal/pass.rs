//! One pass over one SealedSecret: look, open, write, say. A pass starts from zero each time; nobody says why it is made.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use crds::{
    KeyRing, SealedSecret,
    explain::explain,
    guard,
    sealed_secret::UnsealedRecord,
    template::Environment,
    unseal::{self as open, Attempt, ClearSecret, UnsealError},
};
use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Secret};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, Preconditions},
    core::PartialObjectMeta,
    runtime::{controller::Action, reflector::ObjectRef, watcher::Event},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tracing::{Instrument as _, Span};

use super::{
    Options,
    choices::Choices,
    decide::{LastPass, Live, LiveSecret, RingVersion, Verdict, decide, is_healing, last_other},
    rest::{Rest, Rests, Tried},
    status::{self, Failure, Fixed},
    write::{create, one, replace, update},
};
use crate::{
    backoff,
    calls::{CallError, bounded, heard},
    context::{Context, Ended, chain},
    drive::Passed,
    events::Events,
    kept::Kept,
    observed::{Observed, Sighting, version},
    pulse,
    traces::{self, span},
};

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
    Ended(#[from] Ended),
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
    pub(super) passes: RwLock<HashMap<Key, (Option<String>, LastPass)>>,
    rests: Mutex<Rests>,
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
            rests: Mutex::default(),
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

    /// `failed` is how often a pass over it has in a row.
    pub(super) async fn reconcile(&self, kept: &Kept<SealedSecret>, failed: u32) -> Result<Passed, Error> {
        let sealed = match kept.read() {
            Ok(sealed) => Arc::new(sealed),
            Err(error) => {
                let (failure, sealed) = (Failure::Invalid(error), stand_in(kept));
                return self
                    .report(&sealed, Err(failure), &Live::Absent, RingVersion::default())
                    .await
                    .map(Passed::Done);
            }
        };
        if sealed.metadata.deletion_timestamp.is_some() {
            return Ok(Passed::Done(Action::await_change()));
        }
        pulse::idle(self.ready()).await;
        let ring = self.context.ring.borrow().clone();
        let last = self.last(&sealed).or_else(|| recorded(&sealed));
        let mut live = self.live(&key(&sealed));
        let mut verdict = decide(&sealed, last.as_ref(), &live, ring.version());
        if verdict == Verdict::Unseal && live == Live::Unwatched {
            live = self.ask(&sealed).await?;
            verdict = decide(&sealed, last.as_ref(), &live, ring.version());
        }
        let done = match verdict {
            Verdict::Unchanged => {
                self.forget(&sealed);
                Ok(Action::await_change())
            }
            Verdict::NotManaged => {
                let failure = Failure::NotManaged(sealed.name_any());
                self.report(&sealed, Err(failure), &live, ring.version()).await
            }
            Verdict::Going => {
                let failure = Failure::Going(sealed.name_any());
                self.report(&sealed, Err(failure), &live, ring.version()).await
            }
            Verdict::Unseal => return self.unseal_in_time(&sealed, &live, (last, ring), failed).await,
        };
        done.map(Passed::Done)
    }

    /// Opens and writes, unless the same failed a moment ago or others insist on another Secret.
    async fn unseal_in_time(
        &self,
        sealed: &Arc<SealedSecret>,
        live: &Live,
        (last, ring): (Option<LastPass>, Arc<KeyRing>),
        failed: u32,
    ) -> Result<Passed, Error> {
        let (key, tried) = (key(sealed), Tried::of(sealed, ring.version(), live.secret()));
        let rest = self.rests.lock().left(&key, &tried, Instant::now());
        match rest {
            Some(Rest::Failed(left)) => return Ok(Passed::Early(left)),
            Some(Rest::Fought(left)) => {
                let is_told = last.as_ref().is_some_and(|last| status::is_fought(&last.status));
                return if is_told {
                    Ok(Passed::Early(Some(left)))
                } else {
                    self.fought(sealed, live, ring.version(), left).await
                };
            }
            None => {}
        }
        let heals = last.as_ref().is_some_and(|last| is_healing(sealed, last, live));
        let span = span!("unseal", namespace = key.0, name = key.1);
        let outcome = self.unseal(sealed, live, (last, ring), failed).instrument(span).await;
        let (now, mut rests) = (Instant::now(), self.rests.lock());
        if outcome.is_ok() {
            rests.succeeded(&key);
        } else {
            let count = failed.saturating_add(1);
            let goes_on = self.options.retries.is_none_or(|retries| count <= retries);
            rests.failed(key.clone(), tried.clone(), goes_on.then(|| now + backoff::after(count)));
        }
        let again = match &outcome {
            Ok(_) => true,
            Err(error) => matches!(error, Error::Secret(error) if error.is_conflict()),
        };
        if heals && again {
            rests.healed(key, tried, now);
        }
        outcome.map(Passed::Done)
    }

    /// Tells that others keep changing the Secret, and who.
    async fn fought(
        &self,
        sealed: &SealedSecret,
        live: &Live,
        ring: RingVersion,
        left: Duration,
    ) -> Result<Passed, Error> {
        let secret = one(&self.secrets_of(sealed), &sealed.name_any()).await.map_err(Error::Secret)?;
        let by = secret.as_ref().and_then(last_other);
        match self.report(sealed, Err(Failure::Fought(sealed.name_any(), by)), live, ring).await {
            Ok(_) | Err(Error::Refused(_)) => Ok(Passed::Early(Some(left))),
            Err(error) => Err(error),
        }
    }

    async fn unseal(
        &self,
        sealed: &Arc<SealedSecret>,
        live: &Live,
        (last, ring): (Option<LastPass>, Arc<KeyRing>),
        failed: u32,
    ) -> Result<Action, Error> {
        let (version, began) = (ring.version(), Instant::now());
        let outcome = match self.open(sealed.clone(), last, ring).await? {
            Ok((secret, record)) => match self.write(sealed, secret, record, live.secret()).await {
                // The SealedSecret goes with its namespace.
                Err(Error::Secret(error)) if error.is_ending() => return Ok(Action::await_change()),
                Err(Error::Secret(error)) if status::lasts(failed, self.options.retries) => {
                    Err(Failure::Update(chain(&error)))
                }
                Err(error) => {
                    self.count("update", sealed);
                    return Err(error);
                }
                Ok(written) => written,
            },
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

    pub(super) fn last(&self, sealed: &SealedSecret) -> Option<LastPass> {
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
        sealed: Arc<SealedSecret>,
        last: Option<LastPass>,
        ring: Arc<KeyRing>,
    ) -> Result<Result<(ClearSecret, UnsealedRecord), Failure>, Error> {
        let metrics = self.context.metrics.clone();
        let accept_deprecated = self.options.accept_deprecated;
        metrics.unseal_requests.inc();
        let work = move || {
            if sealed.spec.data.is_some() && !accept_deprecated {
                return Err(Failure::Deprecated);
            }
            let before = last.as_ref().and_then(|last| last.status.unsealed.as_ref());
            let Attempt { operations, mut outcome } = open::open(&sealed, &ring, before);
            metrics.rsa_operations.inc_by(operations.into());
            if let Err(UnsealError::NoKey(closed)) = &mut outcome {
                metrics.rsa_operations.inc_by(explain(&sealed, &ring, closed).into());
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
            let mut secret = open::secret(&sealed, unsealed, environment)?;
            choices.shape(&mut secret, sealed.metadata.uid.as_deref());
            Ok((secret, record))
        };
        // Never closed; were it, there would be no bound.
        let _turn = pulse::idle(self.openings.acquire()).await;
        match tokio::task::spawn_blocking(|| guard::wiped(work)).await.map_err(Ended::from) {
            Ok(opened) => Ok(opened),
            Err(Ended::Panicked) => Ok(Err(Failure::Defect)),
            Err(ended) => Err(ended.into()),
        }
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
        let (namespace, name) = key(sealed);
        let tell = |action| self.context.audit.own("Unsealing", action, (&namespace, &name), &name);
        let (client, unheard, mut changed) = (&self.context.client, || tell("unheard"), false);
        let mut written = match live {
            Some(live) => heard(update(&api, &name, &mut secret, live, &mut changed), unheard).await,
            None => heard(create(client, &secret), unheard).await,
        };
        if changed && written.is_err() {
            tell("changed");
        }
        if let (Err(error), Some(live)) = (&written, live)
            && let Some(fixed) = Fixed::of(&chain(error))
        {
            // What may only be added to holds more than what would be made anew.
            if !Choices::of(&sealed.metadata).replace || (live.patch && !live.managed) {
                return Ok(Err(Failure::Immutable(format!("{namespace}/{name}"), fixed)));
            }
            tracing::info!(secret = %ObjectRef::from_obj(sealed), "{fixed}: making it anew");
            written = heard(replace(client, &api, &name, &mut secret, live, || tell("deleted")), unheard).await;
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
                action.into_iter().for_each(tell);
                self.secrets.write().wrote(sighting);
                Ok(Ok(UnsealedRecord { secret_uid: uid, secret_resource_version: resource_version, ..record }))
            }
            Err(error) if error.is_taken() && live.is_none() => {
                // It may be ours all the same: an answer was lost, or another replica was faster.
                let found = one(&api, &name).await.map_err(Error::Secret)?;
                let Some(found) = found.as_ref().map(sighting) else { return Err(Error::Secret(error)) };
                let there = Live::Present(found.2.clone());
                self.secrets.write().wrote(found);
                let record = self.last(sealed);
                match decide(sealed, record.as_ref(), &there, RingVersion::default()) {
                    Verdict::NotManaged => Ok(Err(Failure::NotManaged(name))),
                    _ => Err(Error::Secret(error)),
                }
            }
            // Of an update, a conflict is a version: the watch brings the newer one.
            Err(error) if error.is_ending() || (error.is_conflict() && live.is_some()) => Err(Error::Secret(error)),
            Err(error) if error.is_refusal() => Ok(Err(Failure::Update(chain(&error)))),
            Err(error) => Err(Error::Secret(error)),
        }
    }

    /// A SealedSecret went out of sight. Its Secret goes by the garbage collector or, where that was asked for, here.
    pub(super) async fn gone(&self, kept: &Kept<SealedSecret>) {
        let key = (kept.namespace().unwrap_or_default(), kept.name_any());
        let last = self.passes.write().remove(&key).map(|(_, last)| last);
        self.rests.lock().forget(&key);
        self.uncount(&key.0);
        let last = last.or_else(|| recorded(&kept.read().ok()?));
        let retained = Choices::of(kept.meta()).retain;
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
        let secrets = Api::<Secret>::namespaced(client, namespace);
        // What was only added to is somebody else's.
        let there = one(&secrets, name).await?.as_ref().map(LiveSecret::from);
        if there.is_none_or(|there| there.uid != uid || (there.patch && !there.managed)) {
            return Ok(());
        }
        let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let tell = |action| self.context.audit.own("Deletion", action, (namespace, name), name);
        match heard(bounded(secrets.delete(name, &params)), || tell("unheard")).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::info!(namespace, name, "SealedSecret has gone, deleted its Secret");
                tell("deleted");
                Ok(())
            }
        }
    }
}

pub(super) fn key(sealed: &SealedSecret) -> Key {
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
fn stand_in(kept: &Kept<SealedSecret>) -> SealedSecret {
    SealedSecret { metadata: kept.meta().clone(), status: kept.status(), ..SealedSecret::default() }
}
