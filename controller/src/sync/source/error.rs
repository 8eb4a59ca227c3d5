//! Why a source gives nothing, in words for people. No text here holds a credential.

use std::{fmt, path::Path, time::Duration};

use super::{Commit, mirror};

/// Why a source gives nothing. The text says what was done, to what, why it failed and what to do.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum SourceError {
    /// The URL can be no source.
    #[error("cannot use {url} as a Git source: {why}")]
    InvalidUrl { url: String, why: String },
    /// There can be no such reference.
    #[error("cannot follow {what}: {why}")]
    InvalidReference { what: String, why: String },
    /// The path leads out of the repository.
    #[error("cannot read the path {path:?}: it must stay in the repository, without ..")]
    InvalidPath { path: String },
    /// Credentials are missing, or of a kind that the URL cannot take.
    #[error("cannot fetch from {url}: {why}")]
    InvalidCredentials { url: String, why: &'static str },
    /// The host does not let us in.
    #[error("cannot fetch {place}: {why}")]
    AuthenticationFailed { place: Place, why: String },
    /// The host is not the one that known_hosts knows.
    #[error("cannot fetch {place}: the host cannot be trusted: {why}")]
    HostKeyRefused { place: Place, why: String },
    /// The host has no such repository, or does not show it to us.
    #[error("cannot fetch {place}: there is no such repository, or the credentials may not see it ({why})")]
    RepositoryNotFound { place: Place, why: String },
    /// The repository has nothing of what is followed.
    #[error("cannot fetch {place}: {why}")]
    ReferenceNotFound { place: Place, why: String },
    /// The host cannot be reached, or is in trouble.
    #[error("cannot fetch {place}: {why}; check that the host is well and can be reached from here")]
    Unreachable { place: Place, why: String },
    /// The host takes too long.
    #[error("cannot fetch {place}: {}", late(*after))]
    Timeout { place: Place, after: Duration },
    /// More comes than is wanted.
    #[error(
        "cannot fetch {place}: it is larger than {} MiB (--git-max-size); make the repository smaller, or allow more", limit >> 20
    )]
    FetchTooLarge { place: Place, limit: u64 },
    /// Something else went wrong between the host and us.
    #[error("cannot fetch {place}: {why}")]
    FetchFailed { place: Place, why: String },
    /// The mirror's folder cannot be written.
    #[error("cannot keep a mirror of {url}: {why}; check the volume given as --git-cache")]
    StorageFailed { url: String, why: String },
    /// The mirror cannot be read; the next fetch replaces it.
    #[error("cannot read the mirror of {url}, which will be fetched anew: {why}")]
    MirrorDamaged { url: String, why: String },
    /// The mirror does not have the commit.
    #[error("cannot read the commit {commit} of {url}: it is not in the mirror, and will be fetched")]
    CommitNotFound { url: String, commit: Commit },
    /// The repository has no such path.
    #[error("cannot read the path {path:?} of {url}: {why} at the commit {commit}; correct spec.path or push it")]
    PathNotFound { url: String, path: String, commit: Commit, why: &'static str },
    /// There is more than the controller wants to hold.
    #[error(
        "cannot read the path {path:?} of {url} at the commit {commit}: it holds more than {limit}; split it into several GitSyncs"
    )]
    TooLarge { url: String, path: String, commit: Commit, limit: &'static str },
    /// A bug.
    #[error("cannot work on the mirror of {url}: a defect of the controller ended the attempt")]
    Defect { url: String },
}

impl SourceError {
    /// Its kind, such as `ReferenceNotFound`: the reason of a condition, the label of a metric.
    pub fn reason(&self) -> &'static str {
        self.into()
    }

    /// The reasons for which a fetch is what helps.
    pub const LACKING: [&str; 2] = ["MirrorDamaged", "CommitNotFound"];

    /// Whether another place of the same repository may help: what cannot be reached has said nothing.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Of several places that cannot be reached.
    pub fn together(errors: Vec<Self>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let first = errors.next()?;
        let others: Vec<String> = errors.map(|error| error.to_string()).collect();
        Some(match (&first, others.as_slice()) {
            (_, []) => first,
            (Self::Timeout { place, .. } | Self::Unreachable { place, .. }, others) => {
                let (place, why) = (place.clone(), first.why());
                Self::Unreachable { place, why: format!("{why}, and its fallbacks: {}", others.join("; ")) }
            }
            _ => first,
        })
    }

    fn why(&self) -> String {
        match self {
            Self::Unreachable { why, .. } => why.clone(),
            Self::Timeout { after, .. } => late(*after),
            other => other.to_string(),
        }
    }

    /// Without the mirror's folder.
    #[must_use]
    pub fn without(mut self, folder: &Path) -> Self {
        if let Self::RepositoryNotFound { why, .. }
        | Self::Unreachable { why, .. }
        | Self::FetchFailed { why, .. }
        | Self::StorageFailed { why, .. }
        | Self::MirrorDamaged { why, .. } = &mut self
        {
            *why = mirror::hide(why, folder);
        }
        self
    }
}

fn late(after: Duration) -> String {
    format!("it took longer than {} s (--git-timeout)", after.as_secs_f32())
}

/// What is followed, and where, as errors name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub url: String,
    pub what: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.what, self.url)
    }
}
