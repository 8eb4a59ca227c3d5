//! Watches the key Secrets of the controller's own namespace, holds them as a ring, and mints a key when one is due.
//! A key Secret that cannot be read is reported and stops nothing; a failed minting is tried again while the old keys
//! go on opening.

pub mod rotation;

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use crds::{
    KeyRing, guard,
    key::{self, KeyRequest},
    key_ring::RingKey,
    key_secret::{self, KeyOrder},
};
use futures::{Stream, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::rotation::{Policy, Rotation};
use crate::{
    backoff,
    context::chain,
    events::{Events, Severity},
    lead::{Role, Roles},
    metrics::Metrics,
};

/// What a key shall be, and where it lives.
#[derive(Clone, Debug)]
pub struct Options {
    /// The controller's own; keys come from nowhere else.
    pub namespace: String,
    /// `--key-prefix`.
    pub prefix: String,
    /// `--key-order-priority`.
    pub order: KeyOrder,
    /// `--key-renew-period`, `--wait-for-keys` and, until a key was made, `--key-cutoff-time`.
    pub policy: Policy,
    /// `--key-size`.
    pub bits: u32,
    /// `--key-ttl`.
    pub lifetime: SignedDuration,
    /// `--my-cn`.
    pub common_name: String,
    /// `--privatekey-annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `--privatekey-labels`.
    pub labels: BTreeMap<String, String>,
}

/// The ring as others see it: empty until the first list is in and a key is there.
pub type Ring = watch::Receiver<Arc<KeyRing>>;

#[derive(Debug, thiserror::Error)]
enum MintError {
    #[error("failed to generate a key")]
    Generate(#[from] key::KeyError),
    #[error("the key generation was ended")]
    Ended(#[from] tokio::task::JoinError),
    #[error("failed to write the new key Secret")]
    Write(#[from] kube::Error),
    #[error("the new key does not read back")]
    Read(#[from] key_secret::KeySecretError),
}

/// Watches the key Secrets and owns the ring.
pub struct Keeper {
    api: Api<Secret>,
    /// What happens to them; without what is in them, since a watch goes on holding what it brought.
    watched: Api<PartialObjectMeta<Secret>>,
    options: Options,
    events: Events,
    metrics: Metrics,
    ring: watch::Sender<Arc<KeyRing>>,
    /// By the Secret's name, with the version it was read from; `None` for one that cannot be read.
    keys: BTreeMap<String, (Option<String>, Option<RingKey>)>,
    /// Names that the list under way has brought.
    listing: Option<Vec<String>>,
    listed: bool,
    /// They have changed and could not be read since, for so many times.
    unread: Option<u32>,
    /// Somebody wants a new key now.
    asked: bool,
    failures: u32,
}

impl Keeper {
    /// Knows nothing yet; [`Self::run`] fills the ring. The keys themselves come and go by `fleeting`, a client that
    /// closes each connection after its answer: one that is kept goes on holding what went through it.
    pub fn new(client: Client, fleeting: Client, options: Options, events: Events, metrics: Metrics) -> Self {
        Self {
            api: Api::namespaced(fleeting, &options.namespace),
            watched: Api::namespaced(client, &options.namespace),
            options,
            events,
            metrics,
            ring: watch::Sender::default(),
            keys: BTreeMap::new(),
            listing: None,
            listed: false,
            unread: None,
            asked: false,
            failures: 0,
        }
    }

    /// The ring, for everyone else.
    pub fn ring(&self) -> Ring {
        self.ring.subscribe()
    }

    /// Keeps the ring until `stop`. Each item of `renew` asks for a new key now; else only a leader makes any.
    pub async fn run(mut self, renew: impl Stream<Item = ()> + Send, mut roles: Roles, stop: CancellationToken) {
        let config = watcher::Config::default().labels(&active());
        let mut watch = pin!(watcher(self.watched.clone(), config).default_backoff());
        let mut renew = pin!(renew.fuse());
        loop {
            let wait = self.due(*roles.borrow_and_update() == Role::Leading, Timestamp::now());
            let after = async |wait: Option<Duration>| match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                event = watch.next() => match event {
                    Some(Ok(event)) => self.on_event(event).await,
                    Some(Err(error)) => tracing::warn!(%error, "cannot watch the key Secrets; trying again"),
                    None => return,
                },
                () = after(self.unread.map(backoff::after)) => self.read().await,
                () = after(wait) => self.mint(&roles).await,
                Some(()) = renew.next() => self.asked = true,
                Ok(()) = roles.changed() => {}
            }
        }
    }

    /// How long until a key is to be made; `None` for not on our own.
    fn due(&self, leads: bool, now: Timestamp) -> Option<Duration> {
        match self.rotation(leads, now) {
            Rotation::Mint if self.failures > 0 => Some(backoff::after(self.failures)),
            Rotation::Mint => Some(Duration::ZERO),
            Rotation::Keep { until } => until.map(|until| now.duration_until(until).unsigned_abs()),
        }
    }

    fn rotation(&self, leads: bool, now: Timestamp) -> Rotation {
        if !self.listed || !(leads || self.asked) {
            return Rotation::Keep { until: None };
        }
        if self.asked {
            return Rotation::Mint;
        }
        rotation::due(self.ring.borrow().newest().map(|key| key.born), self.options.policy, now)
    }

    async fn on_event(&mut self, event: Event<PartialObjectMeta<Secret>>) {
        match event {
            Event::Init => self.listing = Some(Vec::new()),
            Event::InitApply(secret) => self.listing.get_or_insert_default().push(secret.name_any()),
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.keys.retain(|name, _| listed.contains(name) || *name == self.options.prefix);
                self.read().await;
            }
            Event::Apply(secret) if self.knows(&secret.name_any(), secret.metadata.resource_version.as_ref()) => {}
            Event::Apply(_) => self.read().await,
            Event::Delete(secret) => {
                if self.keys.remove(&secret.name_any()).is_some() {
                    tracing::warn!(name = secret.name_any(), "a key is gone: what only it can open stays closed");
                    self.publish();
                }
            }
        }
    }

    /// Reads those that have changed. There are few, and all come in one answer.
    async fn read(&mut self) {
        match self.api.list(&ListParams::default().labels(&active())).await {
            Ok(secrets) => {
                for secret in secrets {
                    self.take(&secret).await;
                }
                self.take_legacy().await;
                (self.unread, self.listed) = (None, true);
                self.publish();
            }
            Err(error) => {
                self.unread = Some(self.unread.unwrap_or_default().saturating_add(1));
                tracing::warn!(error = chain(&error), "cannot read the key Secrets; trying again");
            }
        }
    }

    fn knows(&self, name: &str, version: Option<&String>) -> bool {
        self.keys.get(name).is_some_and(|(known, _)| version.is_some() && known.as_ref() == version)
    }

    /// Upstream's oldest versions kept one unlabelled key under the bare prefix.
    async fn take_legacy(&mut self) {
        match self.api.get_opt(&self.options.prefix).await {
            Ok(Some(secret)) => self.take(&secret).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, name = self.options.prefix, "cannot look for a legacy key"),
        }
    }

    async fn take(&mut self, secret: &Secret) {
        let (name, version) = (secret.name_any(), secret.resource_version());
        if self.knows(&name, version.as_ref()) {
            return;
        }
        let key = match guard::wiped(|| key_secret::read(secret, self.options.order)) {
            Ok(key) => {
                tracing::info!(name, fingerprint = %key.private.fingerprint(), "registered private key");
                Some(key)
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(name, error, "a key Secret cannot be read; the others go on");
                self.events.publish(secret, Severity::Warning, "MalformedKey", &error).await;
                None
            }
        };
        self.keys.insert(name, (version, key));
    }

    fn publish(&self) {
        let ring: KeyRing = self.keys.values().filter_map(|(_, key)| key.clone()).collect();
        let malformed = self.keys.values().filter(|(_, key)| key.is_none()).count();
        self.metrics.keys.set(i64::try_from(ring.keys().len()).unwrap_or(i64::MAX));
        self.metrics.malformed_keys.set(i64::try_from(malformed).unwrap_or(i64::MAX));
        self.ring.send_replace(Arc::new(ring));
    }

    async fn mint(&mut self, roles: &Roles) {
        match self.try_mint(roles).await {
            Ok(()) => {
                (self.failures, self.asked) = (0, false);
                // One that lies ahead would ask for another key at once, and for ever.
                self.options.policy.cutoff = None;
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                tracing::error!(error = chain(&error), "cannot make a new key; trying again, the old ones go on");
            }
        }
    }

    async fn try_mint(&mut self, roles: &Roles) -> Result<(), MintError> {
        let Options { namespace, prefix, order, bits, lifetime, common_name, annotations, labels, .. } =
            self.options.clone();
        let not_before = {
            let ring = self.ring.borrow();
            let others = ring.keys().iter().filter_map(|key| key.certificate.as_ref()).map(|it| it.not_before());
            rotation::valid_from(others, Timestamp::now())
        };
        let request = KeyRequest { bits, common_name, not_before, lifetime };
        let minted =
            tokio::task::spawn_blocking(move || guard::wiped(|| key::mint(&request, &mut rand::rng()))).await??;
        // That took a while: another replica may have led meanwhile, and made the key that was due.
        for secret in self.api.list(&ListParams::default().labels(&active())).await? {
            self.take(&secret).await;
        }
        self.publish();
        if self.rotation(*roles.borrow() == Role::Leading, Timestamp::now()) != Rotation::Mint {
            return Ok(());
        }
        let mut secret = key_secret::write(&minted, &namespace, &prefix);
        secret.annotations_mut().extend(annotations);
        secret.labels_mut().extend(labels);
        let secret = self.api.create(&PostParams::default(), &secret).await?;
        let key = guard::wiped(|| key_secret::read(&secret, order))?;
        tracing::info!(name = secret.name_any(), fingerprint = %key.private.fingerprint(), "New key written");
        self.metrics.keys_minted.inc();
        // Not left to the watch: until it came, another key would be due.
        self.keys.insert(secret.name_any(), (secret.resource_version(), Some(key)));
        self.publish();
        Ok(())
    }
}

/// Selects the key Secrets.
fn active() -> String {
    format!("{}={}", key_secret::LABEL, key_secret::ACTIVE)
}
