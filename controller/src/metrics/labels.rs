//! What tells the series of one metric apart. Every label is bounded: by a list here, or by what a person configures.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;

/// Labels of `unseal_errors_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnsealError {
    /// One of [`UnsealError::REASONS`].
    pub reason: &'static str,
    /// Of the SealedSecret.
    pub namespace: String,
}

impl UnsealError {
    /// Upstream's.
    pub const REASONS: [&str; 5] = ["fetch", "status", "unseal", "unmanaged", "update"];
}

/// Labels of `http_requests_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpRequest {
    /// One of those under /v1, or that of the webhooks.
    pub path: &'static str,
    /// Of the answer.
    pub code: u16,
    /// In lower case; unknown for one that is no method.
    pub method: &'static str,
}

/// Labels of `http_request_duration_seconds`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpPath {
    /// See [`HttpRequest`].
    pub path: &'static str,
    /// See [`HttpRequest`].
    pub method: &'static str,
}

/// Labels of `queue_depth` and `queue_wait_seconds`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueName {
    /// unseal or sync.
    pub queue: &'static str,
}

/// Labels of `api_requests_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRequest {
    /// As Kubernetes calls it.
    pub verb: &'static str,
    /// Of the answer.
    pub code: Cow<'static, str>,
}

/// Labels of counters of outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// success, or the reason of the condition.
    pub outcome: &'static str,
}

/// Labels of `git_sync_steps_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Step {
    /// apply, heal, run or prune.
    pub step: &'static str,
}

/// Labels of `git_sync_revisions_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Triggered {
    /// See [`crds::sync::history::Trigger`].
    pub trigger: &'static str,
}

/// Labels of `git_sync_drifts_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DriftBy {
    /// See [`Managers`].
    pub manager: Arc<str>,
    /// corrected or left.
    pub action: &'static str,
}

/// Names of field managers as labels. Whoever may write an object chooses one, so only the first few are told by name.
#[derive(Clone, Debug, Default)]
pub struct Managers(Arc<RwLock<BTreeSet<Arc<str>>>>);

impl Managers {
    /// So many by name; the rest is `other`.
    const NAMED: usize = 50;

    /// The label for a name.
    pub fn of(&self, name: &str) -> Arc<str> {
        let mut known = self.0.write();
        if let Some(known) = known.get(name) {
            return known.clone();
        }
        if known.len() >= Self::NAMED {
            return "other".into();
        }
        let name: Arc<str> = name.into();
        known.insert(name.clone());
        name
    }
}

/// Labels of `git_sync_notifications_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Notified {
    /// See [`crds::sync::notify::NotifyKind`].
    pub r#type: &'static str,
    /// delivered, failed or dropped.
    pub outcome: &'static str,
}

/// Labels of `watch_errors_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Watched {
    /// Of the objects.
    pub kind: &'static str,
}
