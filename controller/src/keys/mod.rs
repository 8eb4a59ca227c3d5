//! Watches the key Secrets of the controller's own namespace, holds them as a ring, and mints a key when one is due, by
//! what `crds::key_life` decides. A key Secret that cannot be read is reported and stops nothing; a failed minting is
//! tried again while the old keys go on opening. No key Secret is ever changed or deleted here.

mod name;

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use crds::{
    KeyRing, guard,
    key::{self, KeyRequest},
    key_life::{Asked, Key, Keys, Mark, Policy, Rotation, Validity},
    key_ring::RingKey,
    key_secret::{self, KeyOrder},
};
use futures::{Stream, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, ObjectMeta, PostParams},
    core::PartialObjectMeta,
    runtime::watcher::{self, Event},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field::Empty};

use self::name::Names;
use crate::{
    audit::Audit,
    backoff,
    calls::{self, logged},
    context::{Ended, chain},
    events::{Events, Severity},
    lead::{Role, Roles},
    metrics::Metrics,
    pulse,
    traces::{self, span},
};

/// However long nothing is due, the clock may be set meanwhile.
const LOOK: Duration = Duration::from_hours(1);

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
    Ended(#[from] Ended),
    #[error("failed to write the new key Secret")]
    Write(#[from] kube::Error),
    #[error("the new key does not read back")]
    Read(#[from] key_secret::KeySecretError),
    #[error("the key Secret {0} was made in the place of the newest key, but is not newer: see --key-order-priority")]
    NotNewer(String),
}

/// What one key Secret holds.
struct Held {
    /// The version it was read from.
    version: Option<String>,
    uid: Option<String>,
    /// `None` if it cannot be read. Of a key that does not open nothing but its certificate is.
    key: Option<(Key, Option<RingKey>)>,
}

/// Why the keeper does something.
enum Turn {
    End,
    Seen(Box<Event<PartialObjectMeta<Secret>>>),
    /// What could not be read may be readable now.
    Read,
    /// A key may be due.
    Due,
    /// Somebody wants a new key.
    Asked,
    /// Who leads has changed.
    Look,
}

/// Watches the key Secrets and owns the ring.
pub struct Keeper {
    api: Api<Secret>,
    /// What happens to them; without what is in them, since a watch goes on holding what it brought.
    watched: Api<PartialObjectMeta<Secret>>,
    names: Names,
    options: Options,
    events: Events,
    metrics: Metrics,
    audit: Audit,
    ring: watch::Sender<Arc<KeyRing>>,
    /// By the Secret's name.
    held: BTreeMap<String, Held>,
    /// All that could be read, in their order.
    keys: Arc<Keys>,
    /// Names that the list under way has brought.
    listing: Option<Vec<String>>,
    listed: bool,
    /// They have changed and could not be read since, for so many times.
    unread: Option<u32>,
    /// Somebody wanted a new key before the keys were known.
    asked_early: bool,
    /// Somebody wants a new key now.
    asked: Option<Asked>,
    failures: u32,
    /// What key was made last, and in the place of which.
    made: Option<(Asked, String)>,
    /// The certificate that was last complained about.
    warned: Option<(String, Validity)>,
}

impl Keeper {
    /// Knows nothing yet; [`Self::run`] fills the ring. The keys themselves come and go by `fleeting`, a client that
    /// closes each connection after its answer: one that is kept goes on holding what went through it.
    pub fn new(
        client: Client,
        fleeting: Client,
        options: Options,
        events: Events,
        metrics: Metrics,
        audit: Audit,
    ) -> Self {
        Self {
            api: Api::namespaced(fleeting, &options.namespace),
            watched: Api::namespaced(client.clone(), &options.namespace),
            names: Names::new(client, &options.namespace),
            options,
            events,
            metrics,
            audit,
            ring: watch::Sender::default(),
            held: BTreeMap::new(),
            keys: Arc::default(),
            listing: None,
            listed: false,
            unread: None,
            asked_early: false,
            asked: None,
            failures: 0,
            made: None,
            warned: None,
        }
    }

    /// The ring, for everyone else.
    pub fn ring(&self) -> Ring {
        self.ring.subscribe()
    }

    /// Keeps the ring until `stop`. Each item of `renew` asks for a new key now; else only a leader makes any.
    pub async fn run(mut self, renew: impl Stream<Item = ()> + Send, mut roles: Roles, stop: CancellationToken) {
        // Whatever the label says: one that is set aside is known too, and taken up again as soon as it is active.
        let config = watcher::Config::default().labels(key_secret::LABEL);
        let mut watch = pin!(calls::watch(self.watched.clone(), config).filter_map(logged("Secret", &self.metrics)));
        let mut renew = pin!(renew.fuse());
        loop {
            let (leads, now) = (*roles.borrow_and_update() == Role::Leading, Timestamp::now());
            if leads {
                self.warn(now);
            }
            let wait = self.due(leads, now);
            let unread = self.unread.map(backoff::after);
            let turn = pulse::idle(async {
                tokio::select! {
                    () = stop.cancelled() => Turn::End,
                    event = watch.next() => event.map_or(Turn::End, |event| Turn::Seen(event.into())),
                    () = tokio::time::sleep(unread.unwrap_or_default()), if unread.is_some() => Turn::Read,
                    () = tokio::time::sleep(wait.unwrap_or(LOOK).min(LOOK)) => Turn::Due,
                    Some(()) = renew.next() => Turn::Asked,
                    Ok(()) = roles.changed() => Turn::Look,
                }
            });
            match turn.await {
                Turn::End => return,
                Turn::Seen(event) => self.on_event(*event).await,
                Turn::Read => self.read().await,
                Turn::Due if wait.is_some_and(|wait| wait <= LOOK) => self.mint(&roles).await,
                Turn::Due | Turn::Look => {}
                Turn::Asked => self.ask(),
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
        let asked = self.asked.as_ref().filter(|asked| **asked == self.keys.ask());
        if !self.listed || !(leads || asked.is_some()) {
            return Rotation::Keep { until: None };
        }
        self.keys.due(self.options.policy, asked, now)
    }

    fn ask(&mut self) {
        if self.listed {
            self.asked = Some(self.keys.ask());
        } else {
            self.asked_early = true;
        }
    }

    /// Complains, once, of a sealing certificate that ends and that nothing will replace.
    fn warn(&mut self, now: Timestamp) {
        let replaced = self.failures == 0 && self.rotation(true, now) == Rotation::Mint;
        let keys = self.keys.clone();
        let Some(key) = keys.sealing().filter(|_| !replaced) else { return };
        let (validity, _) = key.validity(now);
        let (reason, what) = match validity {
            Validity::Good => return,
            Validity::Ending => ("CertificateEnding", "ends"),
            Validity::Expired => ("CertificateExpired", "ended, and nothing can be sealed:"),
        };
        let warned = Some((key.name.clone(), validity));
        if self.warned == warned {
            return;
        }
        let message = format!(
            "the certificate that values are sealed with {what} at {}; renew it: seal keys rotate",
            key.not_after
        );
        tracing::warn!(name = key.name, fingerprint = %key.fingerprint, "{message}");
        let about = self.about(&key.name, self.held.get(&key.name).and_then(|held| held.uid.clone()));
        self.events.publish(&about, Severity::Warning, reason, &message);
        self.warned = warned;
    }

    async fn on_event(&mut self, event: Event<PartialObjectMeta<Secret>>) {
        match event {
            Event::Init => self.listing = Some(Vec::new()),
            Event::InitApply(secret) => self.listing.get_or_insert_default().push(secret.name_any()),
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let is_gone = |name: &&String| !listed.contains(name) && **name != self.options.prefix;
                let gone: Vec<_> = self.held.keys().filter(is_gone).cloned().collect();
                for name in gone {
                    self.lose(&name);
                }
                self.read().await;
            }
            Event::Apply(secret) if self.knows(&secret.name_any(), secret.metadata.resource_version.as_ref()) => {}
            Event::Apply(_) => self.read().await,
            Event::Delete(secret) => {
                self.lose(&secret.name_any());
                self.publish();
            }
        }
    }

    /// Reads those that have changed. There are few, and all come in one answer.
    async fn read(&mut self) {
        match self.found().await {
            Ok((secrets, legacy)) => {
                for secret in &secrets {
                    self.take(secret);
                }
                match legacy {
                    Some(secret) => self.take(&secret),
                    None => self.lose(&self.options.prefix.clone()),
                }
                (self.unread, self.listed) = (None, true);
                self.publish();
                if std::mem::take(&mut self.asked_early) {
                    self.ask();
                }
            }
            Err(error) => {
                self.unread = Some(self.unread.unwrap_or_default().saturating_add(1));
                tracing::warn!(error = chain(&error), "cannot read the key Secrets; trying again");
            }
        }
    }

    fn knows(&self, name: &str, version: Option<&String>) -> bool {
        self.held.get(name).is_some_and(|held| version.is_some() && held.version.as_ref() == version)
    }

    /// The labelled ones, and the one without a label that upstream's oldest versions kept under the bare prefix. Both or
    /// neither: without one of them there might seem to be no key, and another would be made.
    async fn found(&self) -> kube::Result<(Vec<Secret>, Option<Secret>)> {
        let labelled = self.api.list(&ListParams::default().labels(key_secret::LABEL)).await?;
        Ok((labelled.items, self.api.get_opt(&self.options.prefix).await?))
    }

    fn lose(&mut self, name: &str) {
        let Some(held) = self.held.remove(name) else { return };
        let opened = held.key.filter(|(key, _)| key.mark.opens());
        let Some((Key { fingerprint, .. }, _)) = opened else {
            return tracing::info!(name, "a key Secret is gone that opened nothing");
        };
        let others = self.held.iter().filter_map(|(name, held)| Some((name, &held.key.as_ref()?.0)));
        let mut copies = others.filter(|(_, key)| key.fingerprint == fingerprint && key.mark.opens());
        if let Some((copy, _)) = copies.next() {
            return tracing::info!(name, %fingerprint, copy, "a key Secret is gone of which there is a copy");
        }
        tracing::warn!(name, %fingerprint, "a key is gone: what only it can open stays closed");
        self.metrics.keys_lost.inc();
        let message = "the key is gone, and what only it can open stays closed: restore it with seal keys restore";
        self.events.publish(&self.about(name, held.uid), Severity::Warning, "KeyLost", message);
    }

    /// A key Secret, for an Event.
    fn about(&self, name: &str, uid: Option<String>) -> Secret {
        let (name, namespace) = (Some(name.to_owned()), Some(self.options.namespace.clone()));
        Secret { metadata: ObjectMeta { name, namespace, uid, ..ObjectMeta::default() }, ..Secret::default() }
    }

    fn take(&mut self, secret: &Secret) {
        let (name, version) = (secret.name_any(), secret.resource_version());
        let Some(mark) = key_secret::mark(secret, &self.options.prefix) else { return self.lose(&name) };
        if self.knows(&name, version.as_ref()) {
            return;
        }
        let before = self.held.get(&name).and_then(|before| before.key.as_ref()).map(|(key, _)| key.mark);
        let key = match read(secret, mark, self.options.order) {
            Ok((key, ring)) => {
                if before != Some(mark) {
                    announce(&key);
                }
                Some((key, ring))
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(name, error, "a key Secret cannot be read; the others go on");
                self.events.publish(secret, Severity::Warning, "MalformedKey", &error);
                None
            }
        };
        self.held.insert(name, Held { version, uid: secret.uid(), key });
    }

    fn publish(&mut self) {
        let read = || self.held.values().filter_map(|held| held.key.as_ref());
        let keys: Keys = read().map(|(key, _)| key.clone()).collect();
        let ring = ring(&keys, read());
        self.keys = Arc::new(keys);
        let malformed = self.held.values().filter(|held| held.key.is_none()).count();
        self.metrics.keys.set(i64::try_from(ring.keys().len()).unwrap_or(i64::MAX));
        self.metrics.malformed_keys.set(i64::try_from(malformed).unwrap_or(i64::MAX));
        self.metrics.known_keys.set(self.keys.clone());
        self.ring.send_replace(Arc::new(ring));
    }

    async fn mint(&mut self, roles: &Roles) {
        let span = span!("rotate", key = Empty, fingerprint = Empty);
        let minted = self.try_mint(roles).instrument(span.clone()).await;
        traces::ended(&span, if minted.is_ok() { "success" } else { "failure" }, minted.is_err());
        match minted {
            Ok(()) => {
                (self.failures, self.asked) = (0, None);
                // One that lies ahead would ask for another key at once, and for ever.
                self.options.policy.cutoff = None;
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.metrics.key_mint_failures.inc();
                tracing::error!(error = chain(&error), "cannot make a new key; trying again, the old ones go on");
            }
        }
    }

    async fn try_mint(&mut self, roles: &Roles) -> Result<(), MintError> {
        let Options { namespace, prefix, order, bits, lifetime, common_name, annotations, labels, .. } =
            self.options.clone();
        let before = self.keys.ask();
        // A clock that runs back, where keys are ordered by the creation of their Secrets, shall not fill the cluster.
        if let Some((_, name)) =
            self.made.as_ref().filter(|(asked, name)| *asked == before && self.held.contains_key(name))
        {
            return Err(MintError::NotNewer(name.clone()));
        }
        let request = KeyRequest { bits, common_name, not_before: self.keys.valid_from(Timestamp::now()), lifetime };
        let minting = tokio::task::spawn_blocking(move || guard::wiped(|| key::mint(&request, &mut rand::rng())));
        // A large one takes its time, most of all where there is little of it.
        let minted = pulse::idle(minting).await.map_err(Ended::from)??;
        loop {
            // In this order: a key that another replica makes after the list has this name.
            let agreed = self.names.next(&prefix).await?;
            for secret in self.api.list(&ListParams::default().labels(key_secret::LABEL)).await? {
                self.take(&secret);
            }
            self.publish();
            let leads = *roles.borrow() == Role::Leading;
            if self.keys.ask() != before || self.rotation(leads, Timestamp::now()) != Rotation::Mint {
                return Ok(());
            }
            let mut secret = key_secret::write(&minted, &namespace, &agreed.name);
            secret.annotations_mut().extend(annotations.clone());
            secret.labels_mut().extend(labels.clone());
            let secret = match self.api.create(&PostParams::default(), &secret).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    self.names.used(agreed, &prefix).await?;
                    continue;
                }
                written => written?,
            };
            let (key, ring) = read(&secret, Mark::Active, order)?;
            tracing::info!(name = key.name, fingerprint = %key.fingerprint, "New key written");
            Span::current().record("key", &key.name).record("fingerprint", key.fingerprint.to_string());
            self.metrics.keys_minted.inc();
            self.audit.own("Rotation", "created", (&namespace, &key.name), &key.name);
            self.made = Some((before, key.name.clone()));
            // Not left to the watch: until it came, another key would be due.
            let held = Held { version: secret.resource_version(), uid: secret.uid(), key: Some((key, ring)) };
            self.held.insert(secret.name_any(), held);
            self.publish();
            if let Err(error) = self.names.used(agreed, &prefix).await {
                tracing::debug!(%error, "the next key finds its name taken, and another");
            }
            return Ok(());
        }
    }
}

/// What is known of a key and, if it opens, the key itself.
fn read(secret: &Secret, mark: Mark, order: KeyOrder) -> Result<(Key, Option<RingKey>), key_secret::KeySecretError> {
    let key = key_secret::describe(secret, mark, order)?;
    let ring = if mark.opens() { Some(guard::wiped(|| key_secret::read(secret, order))?) } else { None };
    Ok((key, ring))
}

/// The keys that open; those that may not seal are without their certificates.
fn ring<'a>(keys: &Keys, read: impl Iterator<Item = &'a (Key, Option<RingKey>)>) -> KeyRing {
    let opening = read.filter_map(|(key, ring)| Some((key, ring.clone()?)));
    let able = |(key, ring): (&Key, RingKey)| {
        if keys.may_seal(key) { ring } else { RingKey { certificate: None, certificate_pem: "".into(), ..ring } }
    };
    opening.map(able).collect()
}

fn announce(Key { name, fingerprint, mark, .. }: &Key) {
    match mark {
        Mark::Active => tracing::info!(name, %fingerprint, "registered private key"),
        Mark::Exposed => tracing::warn!(name, %fingerprint, "a compromised key: it goes on opening, but seals nothing"),
        Mark::Compromised => tracing::warn!(name, %fingerprint, "a compromised key: what it sealed stays closed"),
        Mark::Retired => tracing::info!(name, %fingerprint, "a retired key: what it sealed stays closed"),
    }
}

#[cfg(test)]
mod tests;
