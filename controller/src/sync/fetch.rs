//! When to ask Git, and for what. While Git is away the last commit stays, and the asking goes on with growing waits.

pub mod hook;
pub mod verify;

use std::time::{Duration, Instant};

use crds::{
    GitSync,
    git_sync::{GitSource, RECONCILE_REQUESTED, SecretReference, Verify},
    unseal::ClearSecret,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};

use self::verify::{Keys, KeysError, Unverified};
use super::{
    source::{
        Credentials, CredentialsError, Fetched, Mirrors, Proxy, SecretData, Signed, Source, SourceError, Tip, Walk,
    },
    status::{Cause, Fact},
};
use crate::{
    backoff,
    calls::{CallError, bounded},
    context::chain,
};

/// Why the source gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Git, or the path in it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A Secret without what is needed.
    #[error("cannot use the Secret {name} named in {field}")]
    Credentials {
        /// Its name.
        name: String,
        /// Where it is named.
        field: &'static str,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// A Secret without a key.
    #[error("cannot use the Secret {name} named in source.verify.secretRef")]
    Keys {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: KeysError,
    },
    /// No such Secret, or no right to it.
    #[error("cannot read the Secret {name} named in {field}")]
    ReadSecret {
        /// Its name.
        name: String,
        /// Where it is named.
        field: &'static str,
        /// Why.
        #[source]
        source: CallError,
    },
    /// Nobody who may has signed it.
    #[error("{revision} is not applied: {why}")]
    Unverified {
        /// What was fetched.
        revision: String,
        /// Why.
        why: Unverified,
    },
    /// What was applied last is not in its history, or too far back.
    #[error(
        "{revision} is not applied, since not all commits since {base} can be looked at: {why}; set source.verify.range to false until this revision is applied"
    )]
    Range {
        /// What was fetched.
        revision: String,
        /// What was applied last.
        base: String,
        /// Why.
        why: String,
    },
}

/// What a fetch did not bring, and what is left of an earlier one.
pub type Missed = Box<(FetchError, Option<Tip>)>;

/// What a fetch brought.
pub struct Brought {
    fetched: Fetched,
    /// By whom it is signed, where that was asked.
    signed: Option<String>,
}

impl FetchError {
    /// As a condition says it.
    pub fn cause(&self) -> Cause {
        let reason = match self {
            Self::Source(error) => error.into(),
            Self::Credentials { .. } | Self::ReadSecret { .. } => "AuthenticationFailed",
            Self::Unverified { .. } | Self::Range { .. } | Self::Keys { .. } => UNVERIFIED,
        };
        Cause { reason, message: chain(self) }
    }
}

/// The reason of whatever keeps a commit from being applied for want of a signature. Flux's.
const UNVERIFIED: &str = "VerificationError";

/// How far clocks may be apart, theirs in full seconds.
const CLOCKS: Duration = Duration::from_secs(3);

/// What is known of a source between passes.
#[derive(Default)]
pub struct Fetching {
    /// What the last fetch was for.
    asked: Option<Asked>,
    next: Option<Instant>,
    failures: u32,
    /// Why the last fetch failed.
    pub error: Option<Cause>,
    /// The newest that is known, and was signed where it must be.
    pub tip: Option<Tip>,
    /// Conditions beside Ready that are about the source.
    pub facts: Vec<Fact>,
}

impl Fetching {
    /// Whether the interval is over, the source changed, or somebody wants it now.
    pub fn is_due(&self, sync: &GitSync, now: Instant) -> bool {
        self.next.is_none_or(|at| at <= now) || self.asked.as_ref() != Some(&asked(sync))
    }

    /// How long until the next fetch.
    pub fn wait(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// The request that was served last.
    pub fn handled(&self) -> Option<&str> {
        self.asked.as_ref()?.request.as_deref()
    }

    /// Answers that others got are as good, if they are no older than the interval; for a request they must be newer.
    fn since(&self, sync: &GitSync, interval: Duration, now: Instant, clock: Timestamp) -> Instant {
        // Of one that is new to us it is not known since when it is as it is, but it is no older than its object.
        let age = sync.creation_timestamp().map_or(Duration::ZERO, |born| clock.duration_since(born.0).unsigned_abs());
        let reach = match &self.asked {
            Some(before) if *before == asked(sync) => interval,
            Some(_) => Duration::ZERO,
            None => interval.min(age.saturating_sub(CLOCKS)),
        };
        now.checked_sub(reach).unwrap_or(now)
    }

    /// Fetches. On failure also tells what is left: after a restart drift is healed though Git is away, and what is not
    /// signed does not take the place of what was.
    pub async fn fetch(
        &self,
        client: &Client,
        mirrors: &Mirrors,
        sync: &GitSync,
        interval: Duration,
    ) -> Result<Brought, Missed> {
        let source = source(client, sync).await.map_err(alone)?;
        let keys = match &sync.spec.source.verify {
            Some(verify) => Some((verify, keys(client, sync, verify).await.map_err(alone)?)),
            None => None,
        };
        let since = self.since(sync, interval, Instant::now(), Timestamp::now());
        let error = match mirrors.fetch(&source, since).await {
            Ok(fetched) => match verified(mirrors, sync, &source, keys.as_ref(), &fetched.tip).await {
                Ok(signed) => return Ok(Brought { fetched, signed }),
                Err(error) => error,
            },
            Err(error) => error.into(),
        };
        // After a restart what was applied stays; where nothing was, or something else was asked for by now, what the
        // mirror has.
        let status = sync.status.as_ref().filter(|_| self.asked.is_none());
        let is_current = status.is_some_and(|status| status.observed_generation == sync.metadata.generation);
        if let Some(tip) = applied(sync).filter(|_| is_current)
            && mirrors.cached(&source.at(&tip.commit)).await.is_some()
        {
            return Err(Box::new((error, Some(tip))));
        }
        let cached = mirrors.cached(&source).await;
        let kept = match cached {
            Some(tip) if verified(mirrors, sync, &source, keys.as_ref(), &tip).await.is_ok() => Some(tip),
            _ => None,
        };
        Err(Box::new((error, kept)))
    }

    /// Takes in what a fetch came to.
    pub fn done(&mut self, sync: &GitSync, outcome: Result<Brought, Missed>, interval: Duration, now: Instant) {
        let asked = asked(sync);
        if self.asked.as_ref().is_some_and(|before| before.source != asked.source) {
            self.tip = None;
            self.facts.clear();
        }
        self.asked = Some(asked);
        let mut began = now;
        match outcome {
            Ok(Brought { fetched: Fetched { tip, began: then, fallback }, signed }) => {
                self.tip = Some(tip);
                self.failures = 0;
                self.error = None;
                self.facts = signed.map(|who| fact("SourceVerified", "True", "Succeeded", who)).into_iter().collect();
                self.facts.extend(fallback.map(|why| fact("FallbackInUse", "True", "Unreachable", why)));
                began = then;
            }
            Err(missed) => {
                let (error, kept) = *missed;
                self.tip = self.tip.take().or(kept);
                self.failures = self.failures.saturating_add(1);
                let cause = error.cause();
                if cause.reason == UNVERIFIED {
                    self.facts = vec![fact("SourceVerified", "False", UNVERIFIED, cause.message.clone())];
                }
                self.error = Some(cause);
            }
        }
        let wait = if self.failures > 0 { backoff::after(self.failures).min(interval) } else { interval };
        self.next = Some(began + wait);
    }
}

fn alone(error: FetchError) -> Missed {
    Box::new((error, None))
}

fn fact(kind: &'static str, status: &'static str, reason: &'static str, message: String) -> Fact {
    Fact { kind, status, reason, message }
}

/// What a fetch is for: once one of these is another, the next does not wait.
#[derive(PartialEq)]
struct Asked {
    source: GitSource,
    interval: String,
    request: Option<String>,
}

fn asked(sync: &GitSync) -> Asked {
    let (source, interval) = (sync.spec.source.clone(), sync.spec.interval.clone());
    Asked { source, interval, request: sync.annotations().get(RECONCILE_REQUESTED).cloned() }
}

fn applied(sync: &GitSync) -> Option<Tip> {
    Tip::from_revision(sync.status.as_ref()?.last_applied_revision.as_deref()?)
}

/// Looks for the signatures that a GitSync wants, back to what it applied last where it wants that. Answers whose they
/// are.
async fn verified(
    mirrors: &Mirrors,
    sync: &GitSync,
    source: &Source,
    keys: Option<&(&Verify, Keys)>,
    tip: &Tip,
) -> Result<Option<String>, FetchError> {
    let Some((verify, keys)) = keys else { return Ok(None) };
    let revision = tip.revision();
    let unverified = |why| FetchError::Unverified { revision: revision.clone(), why };
    let signed: Signed = mirrors.signed(source, tip).await?;
    let mut who = keys.tip(verify.mode, (&tip.commit, tip.tag_name()), &signed).map_err(unverified)?;
    if let Some(base) = applied(sync).filter(|base| verify.range && base.commit != tip.commit) {
        let range = |why| FetchError::Range { revision: revision.clone(), base: base.revision(), why };
        match mirrors.since(source, tip, &base.commit).await {
            Ok(Walk::Complete(commits)) => {
                let count = keys.range(&commits).map_err(unverified)?;
                who = format!("{who}, and so are all {count} commits since {}", base.revision());
            }
            Ok(Walk::Shallow) => return Err(range("the host does not show its history".to_owned())),
            Ok(Walk::Long) => return Err(range("there are too many".to_owned())),
            // Away is away, and not unsigned.
            Err(error) if error.is_away() => return Err(error.into()),
            Err(error) => return Err(range(error.to_string())),
        }
    }
    Ok(Some(who))
}

/// Where a GitSync's manifests come from, with its credentials.
pub async fn source(client: &Client, sync: &GitSync) -> Result<Source, FetchError> {
    let spec = &sync.spec.source;
    let credentials = match &spec.secret_ref {
        None => Credentials::None,
        Some(secret) => {
            let scheme = spec.url.split("://").next().unwrap_or_default();
            let read = |data: &SecretData| Credentials::from_secret_data(scheme, data);
            secret_of(client, sync, secret, "source.secretRef", read).await?
        }
    };
    let proxy = match &spec.proxy_secret_ref {
        None => None,
        Some(secret) => Some(secret_of(client, sync, secret, "source.proxySecretRef", Proxy::from_secret_data).await?),
    };
    Ok(Source::new(spec, credentials, proxy)?)
}

async fn secret_of<T>(
    client: &Client,
    sync: &GitSync,
    secret: &SecretReference,
    field: &'static str,
    read: impl FnOnce(&SecretData) -> Result<T, CredentialsError>,
) -> Result<T, FetchError> {
    let name = secret.name.clone();
    let data = data_of(client, sync, secret, field).await?;
    read(data.expose().data.as_ref().unwrap_or(&SecretData::new())).map_err(|source| FetchError::Credentials {
        name,
        field,
        source,
    })
}

async fn keys(client: &Client, sync: &GitSync, verify: &Verify) -> Result<Keys, FetchError> {
    let data = data_of(client, sync, &verify.secret_ref, "source.verify.secretRef").await?;
    let keys = Keys::from_secret_data(data.expose().data.as_ref().unwrap_or(&SecretData::new()));
    keys.map_err(|source| FetchError::Keys { name: verify.secret_ref.name.clone(), source })
}

async fn data_of(
    client: &Client,
    sync: &GitSync,
    secret: &SecretReference,
    field: &'static str,
) -> Result<ClearSecret, FetchError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &sync.namespace().unwrap_or_default());
    let read = bounded(api.get(&secret.name)).await;
    let read = read.map_err(|source| FetchError::ReadSecret { name: secret.name.clone(), field, source })?;
    Ok(ClearSecret::new(read))
}

#[cfg(test)]
mod tests {
    use crds::git_sync::GitSyncSpec;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn sync() -> GitSync {
        GitSync::new("app", GitSyncSpec::default())
    }

    fn failed() -> Result<Brought, Missed> {
        let source = CallError::Timeout(Duration::from_secs(30));
        Err(alone(FetchError::ReadSecret { name: "git".to_owned(), field: "source.secretRef", source }))
    }

    fn brought(began: Instant) -> Brought {
        let tip = Tip::from_revision("main@sha1:0123456789012345678901234567890123456789").unwrap();
        Brought { fetched: Fetched { tip, began, fallback: None }, signed: None }
    }

    #[test]
    fn a_failure_is_tried_again_sooner_than_the_interval_but_never_later() {
        let now = Instant::now();
        let mut fetching = Fetching::default();
        assert!(fetching.is_due(&sync(), now));
        fetching.done(&sync(), failed(), MINUTE, now);
        assert_eq!(fetching.wait(now), backoff::after(1));
        assert!(!fetching.is_due(&sync(), now) && fetching.is_due(&sync(), now + MINUTE));
        for _ in 0..20 {
            fetching.done(&sync(), failed(), MINUTE, now);
        }
        assert_eq!(fetching.wait(now), MINUTE);
        assert_eq!(fetching.error.unwrap().reason, "AuthenticationFailed");
    }

    #[test]
    fn a_request_or_another_source_or_interval_does_not_wait() {
        let now = Instant::now();
        let mut fetching = Fetching::default();
        fetching.done(&sync(), failed(), MINUTE, now);
        let mut asked = sync();
        asked.annotations_mut().insert(RECONCILE_REQUESTED.to_owned(), "now".to_owned());
        assert!(fetching.is_due(&asked, now));
        let mut moved = sync();
        moved.spec.source.url = "https://example.com/other.git".to_owned();
        assert!(fetching.is_due(&moved, now));
        let mut hurried = sync();
        hurried.spec.interval = "1s".to_owned();
        assert!(fetching.is_due(&hurried, now));
    }

    #[test]
    fn answers_are_shared_but_nobody_is_told_older_news_than_the_interval_or_the_request() {
        let (then, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let now = then + MINUTE;
        let mut fetching = Fetching::default();
        let mut born = sync();
        born.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(clock));
        assert_eq!(fetching.since(&born, MINUTE, now, clock), now, "what is new may be about what is newer");
        let later = clock + jiff::SignedDuration::from_hours(1);
        assert_eq!(fetching.since(&born, MINUTE, now, later), then, "as after a restart");

        // An answer of another's, 20 s old: the next question is due when its interval is over.
        fetching.done(&born, Ok(brought(then + MINUTE * 2 / 3)), MINUTE, now);
        assert_eq!(fetching.wait(now), MINUTE * 2 / 3);
        assert_eq!(fetching.since(&born, MINUTE, now, later), then);
        born.annotations_mut().insert(RECONCILE_REQUESTED.to_owned(), "now".to_owned());
        assert_eq!(fetching.since(&born, MINUTE, now, later), now);
    }
}
