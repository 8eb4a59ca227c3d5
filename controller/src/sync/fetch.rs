//! When to ask Git, and for what. While Git is away the last commit stays, and the asking goes on with growing waits.

pub mod hook;
pub mod under_way;
pub mod verify;

use std::time::{Duration, Instant};

use crds::{
    GitSync,
    git_sync::{GitSource, RECONCILE_REQUESTED, SecretReference, Verify, VerifyMode},
    unseal::ClearSecret,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};

use self::verify::{Keys, KeysError, Unverified};
use super::{
    key,
    source::{
        Commit, Credentials, CredentialsError, Fetched, Mirrors, Proxy, SecretData, Signed, Source, SourceError, Tip,
        Walk,
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
    /// A Secret that Kubernetes made for an account.
    #[error("the Secret {name} named in {field} is the token of a ServiceAccount, which is sent to nobody")]
    AccountToken {
        /// Its name.
        name: String,
        /// Where it is named.
        field: &'static str,
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

/// What a fetch came to.
pub type Outcome = Result<Brought, Missed>;

/// What a fetch brought.
pub struct Brought {
    fetched: Fetched,
    /// By whom it is signed, where that was asked.
    signed: Option<String>,
    /// Why it did not bring what was lacking, too.
    unbrought: Option<Cause>,
}

impl FetchError {
    /// As a condition says it.
    pub fn cause(&self) -> Cause {
        let reason = match self {
            Self::Source(error) => error.into(),
            Self::Credentials { .. } | Self::AccountToken { .. } | Self::ReadSecret { .. } => "AuthenticationFailed",
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
    /// The revision that another GitSync has seen.
    pub call: Option<String>,
    /// When the last one that counts began, and how long after that the next does.
    next: Option<(Instant, Duration)>,
    failures: u32,
    /// Why the last fetch failed.
    pub error: Option<Cause>,
    /// The newest that is known, and was signed where it must be.
    pub tip: Option<Tip>,
    /// Conditions beside Ready that are about the source.
    pub facts: Vec<Fact>,
    /// What a rendering lacked.
    lacking: Option<Commit>,
    /// Why it was not brought.
    unbrought: Option<Cause>,
}

impl Fetching {
    /// Whether the interval is over, the source changed, or somebody wants it now.
    pub fn is_due(&self, sync: &GitSync, now: Instant) -> bool {
        self.left(now).is_zero() || self.asked.as_ref() != Some(&self.asked_by(sync))
    }

    fn asked_by(&self, sync: &GitSync) -> Asked {
        let (source, interval) = (sync.spec.source.clone(), sync.spec.interval.clone());
        Asked {
            source,
            interval,
            request: sync.annotations().get(RECONCILE_REQUESTED).cloned(),
            call: self.call.clone(),
            lacking: self.lacking.clone(),
        }
    }

    /// How long until the next fetch.
    pub fn wait(&self, sync: &GitSync, now: Instant) -> Duration {
        if self.is_due(sync, now) { Duration::ZERO } else { self.left(now) }
    }

    fn left(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |(began, wait)| wait.saturating_sub(now.saturating_duration_since(began)))
    }

    /// Whether what is known is about the source that is followed by now.
    pub fn knows(&self, source: &GitSource) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.source == *source)
    }

    /// The request that was served last.
    pub fn handled(&self) -> Option<&str> {
        self.asked.as_ref()?.request.as_deref()
    }

    /// The request that is yet to be served.
    pub fn request<'a>(&self, sync: &'a GitSync) -> Option<&'a str> {
        let request = sync.annotations().get(RECONCILE_REQUESTED).map(String::as_str);
        request.filter(|_| request != self.handled())
    }

    /// Takes note of what a rendering came to. A commit that it lacks is fetched, once and then with each interval.
    /// Answers what is to be told.
    pub fn lacks(&mut self, commit: &Commit, unmade: Option<Cause>) -> Option<Cause> {
        let is_lacking = unmade.as_ref().is_some_and(|cause| SourceError::LACKING.contains(&cause.reason));
        self.lacking = is_lacking.then(|| commit.clone());
        if let Some(asked) = self.asked.as_mut().filter(|_| !is_lacking) {
            asked.lacking = None;
        }
        if is_lacking && !self.wants() { self.unbrought.clone().or(unmade) } else { unmade }
    }

    /// Whether something is lacking that was not asked for yet.
    pub fn wants(&self) -> bool {
        self.lacking.is_some() && self.asked.as_ref().is_none_or(|asked| asked.lacking != self.lacking)
    }

    /// What is to be fetched now.
    pub fn order(&self, sync: &GitSync, interval: Duration, now: Instant, clock: Timestamp) -> Order {
        let since = self.since(sync, interval, now, clock);
        Order { asked: self.asked_by(sync), since, is_first: self.asked.is_none() }
    }

    /// Answers that others got are as good, if they are no older than the interval; for a request they must be newer.
    fn since(&self, sync: &GitSync, interval: Duration, now: Instant, clock: Timestamp) -> Instant {
        // Of one that is new to us it is not known since when it is as it is, but it is no older than its object.
        let age = sync.creation_timestamp().map_or(Duration::ZERO, |born| clock.duration_since(born.0).unsigned_abs());
        let reach = match &self.asked {
            Some(before) if *before == self.asked_by(sync) && self.lacking.is_none() => interval,
            Some(_) => Duration::ZERO,
            None => interval.min(age.saturating_sub(CLOCKS)),
        };
        now.checked_sub(reach).unwrap_or(now)
    }

    /// Takes in what a fetch came to.
    pub fn done(&mut self, asked: Asked, outcome: Outcome, interval: Duration, now: Instant) {
        if self.asked.as_ref().is_some_and(|before| before.source != asked.source) {
            self.tip = None;
            self.facts.clear();
        }
        self.asked = Some(asked);
        let mut began = now;
        match outcome {
            Ok(Brought { fetched: Fetched { tip, began: then, fallback }, signed, unbrought }) => {
                self.unbrought = unbrought;
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
                (self.error, self.unbrought) = (Some(cause.clone()), Some(cause));
            }
        }
        let wait = if self.failures > 0 { backoff::after(self.failures).min(interval) } else { interval };
        self.next = Some((began, wait));
    }
}

fn alone(error: FetchError) -> Missed {
    Box::new((error, None))
}

fn fact(kind: &'static str, status: &'static str, reason: &'static str, message: String) -> Fact {
    Fact { kind, status, reason, message }
}

/// One fetch.
pub struct Order {
    /// What it is for.
    pub asked: Asked,
    /// How old its answer may be.
    since: Instant,
    /// Nothing is known of an earlier one.
    is_first: bool,
}

impl Order {
    /// Fetches. On failure also tells what is left: after a restart drift is healed though Git is away, and what is not
    /// signed does not take the place of what was.
    pub async fn fetch(&self, client: &Client, mirrors: &Mirrors, sync: &GitSync) -> Outcome {
        let source = source(client, sync).await.map_err(alone)?;
        let keys = match &sync.spec.source.verify {
            Some(verify) => Some((verify, keys(client, sync, verify).await.map_err(alone)?)),
            None => None,
        };
        let error = match mirrors.fetch(&source, self.since).await {
            Ok(fetched) => match verified(mirrors, sync, &source, keys.as_ref(), &fetched.tip).await {
                Ok(signed) => {
                    let unbrought = match &self.asked.lacking {
                        Some(commit) => mirrors.bring(&source, commit).await.err(),
                        None => None,
                    };
                    let unbrought = unbrought.map(|error| FetchError::from(error).cause());
                    return Ok(Brought { fetched, signed, unbrought });
                }
                Err(error) => error,
            },
            Err(error) => error.into(),
        };
        // After a restart what was applied stays; where nothing was, or something else was asked for by now, what the
        // mirror has.
        let status = sync.status.as_ref().filter(|_| self.is_first);
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
}

/// What a fetch is for: once one of these is another, the next does not wait.
#[derive(PartialEq)]
pub struct Asked {
    source: GitSource,
    interval: String,
    request: Option<String>,
    call: Option<String>,
    lacking: Option<Commit>,
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

/// Whether a commit that is gone back to is signed by those who may sign by now. It may have been applied before anybody
/// asked for that. A tag's own signature is not looked for: what it led to is not in the history.
pub async fn vouched(client: &Client, mirrors: &Mirrors, sync: &GitSync, tip: &Tip) -> Result<(), FetchError> {
    let verify = match &sync.spec.source.verify {
        Some(verify) if verify.mode != VerifyMode::Tag => verify,
        _ => return Ok(()),
    };
    let (source, keys) = (source(client, sync).await?, keys(client, sync, verify).await?);
    let signed = mirrors.signed(&source, tip).await?;
    let unverified = |why| FetchError::Unverified { revision: tip.revision(), why };
    keys.tip(VerifyMode::Head, (&tip.commit, tip.tag_name()), &signed).map(drop).map_err(unverified)
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
    Ok(Source::new(spec, credentials, proxy)?.of(key(sync)))
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
    let read = ClearSecret::new(read);
    if is_account_token(read.expose()) {
        return Err(FetchError::AccountToken { name: secret.name.clone(), field });
    }
    Ok(read)
}

/// Whether Kubernetes made it for an account. Who writes a GitSync may not be who may read that, and says where it goes.
pub fn is_account_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some("kubernetes.io/service-account-token")
}

#[cfg(test)]
mod tests;
