//! When to ask Git, and for what. While Git is away the last commit stays, and the asking goes on with growing waits.

use std::time::{Duration, Instant};

use crds::{
    GitSync,
    git_sync::{GitSource, RECONCILE_REQUESTED},
    unseal::ClearSecret,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};

use super::{
    source::{Commit, Credentials, CredentialsError, Mirrors, Source, SourceError},
    status::Cause,
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
    #[error("cannot use the Secret {name} named in source.secretRef")]
    Credentials {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// No such Secret, or no right to it.
    #[error("cannot read the Secret {name} named in source.secretRef")]
    ReadSecret {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: CallError,
    },
}

impl FetchError {
    /// As a condition says it.
    pub fn cause(&self) -> Cause {
        let reason = match self {
            Self::Source(error) => error.into(),
            Self::Credentials { .. } | Self::ReadSecret { .. } => "AuthenticationFailed",
        };
        Cause { reason, message: chain(self) }
    }
}

/// What is known of a source between passes.
#[derive(Default)]
pub struct Fetching {
    /// What the last fetch was for.
    asked: Option<Asked>,
    next: Option<Instant>,
    failures: u32,
    /// Why the last fetch failed.
    pub error: Option<Cause>,
    /// The newest commit that is known.
    pub commit: Option<Commit>,
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

    /// Takes in what a fetch brought: a commit, or why not and what is left of an earlier one.
    pub fn done(
        &mut self,
        sync: &GitSync,
        outcome: Result<Commit, (FetchError, Option<Commit>)>,
        interval: Duration,
        now: Instant,
    ) {
        let asked = asked(sync);
        if self.asked.as_ref().is_some_and(|before| before.source != asked.source) {
            self.commit = None;
        }
        self.asked = Some(asked);
        match outcome {
            Ok(commit) => {
                self.commit = Some(commit);
                self.failures = 0;
                self.error = None;
            }
            Err((error, cached)) => {
                self.commit = self.commit.take().or(cached);
                self.failures = self.failures.saturating_add(1);
                self.error = Some(error.cause());
            }
        }
        let wait = if self.failures > 0 { backoff::after(self.failures).min(interval) } else { interval };
        self.next = Some(now + wait);
    }
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

/// Fetches. On failure also tells what the mirror on disk still has: after a restart drift is healed though Git is away.
pub async fn fetch(client: &Client, mirrors: &Mirrors, sync: &GitSync) -> Result<Commit, (FetchError, Option<Commit>)> {
    let source = source(client, sync).await.map_err(|error| (error, None))?;
    match mirrors.fetch(&source).await {
        Ok(commit) => Ok(commit),
        Err(error) => Err((error.into(), mirrors.cached(&source).await)),
    }
}

/// Where a GitSync's manifests come from, with its credentials.
pub async fn source(client: &Client, sync: &GitSync) -> Result<Source, FetchError> {
    let GitSource { url, reference, secret_ref } = &sync.spec.source;
    let credentials = match secret_ref {
        None => Credentials::None,
        Some(secret) => {
            let name = secret.name.clone();
            let api: Api<Secret> = Api::namespaced(client.clone(), &sync.namespace().unwrap_or_default());
            let read = bounded(api.get(&name)).await;
            let read = read.map_err(|source| FetchError::ReadSecret { name: name.clone(), source })?;
            let read = ClearSecret::new(read);
            let scheme = url.split("://").next().unwrap_or_default();
            let data = read.expose().data.iter().flatten();
            let data = data.map(|(key, value)| (key.clone(), value.clone())).collect();
            Credentials::from_secret_data(scheme, &data).map_err(|source| FetchError::Credentials { name, source })?
        }
    };
    Ok(Source::new(url, &reference.branch, credentials)?)
}

#[cfg(test)]
mod tests {
    use crds::git_sync::GitSyncSpec;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn sync() -> GitSync {
        GitSync::new("app", GitSyncSpec::default())
    }

    fn failed() -> Result<Commit, (FetchError, Option<Commit>)> {
        let call = CallError::Timeout(Duration::from_secs(30));
        Err((FetchError::ReadSecret { name: "git".to_owned(), source: call }, None))
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
}
