//! What was asked of a GitSync by its annotations, and is not taken up yet. Pure.

use std::fmt;

use crds::{
    GitSync,
    git_sync::{RECONCILE_REQUESTED, ROLLBACK},
    sync::state::current,
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::{table::span, verdict::short};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "request")]
pub enum Pending {
    /// To look at Git.
    Now {
        /// When, if the request says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
    },
    /// To go back.
    Rollback { to: String },
    /// To follow Git again.
    Follow,
}

/// All of them, unless it is suspended: then they are to wait.
pub fn of(sync: &GitSync) -> Vec<Pending> {
    if sync.spec.suspend || sync.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let status = sync.status.as_ref();
    let asked = |key| sync.annotations().get(key).map(|value: &String| value.trim()).filter(|value| !value.is_empty());
    let handled = status.and_then(|status| status.last_handled_reconcile_at.as_deref()).map(str::trim);
    let now = asked(RECONCILE_REQUESTED)
        .filter(|request| handled != Some(request))
        .map(|request| Pending::Now { at: request.parse().ok() });
    let pinned = status.and_then(|status| status.rollback.as_ref()).map(|pin| pin.asked.as_str());
    // It was looked at, and cannot be done.
    let refused = current(sync, "Ready").is_some_and(|ready| ready.reason == "RollbackNotFound");
    let back = match asked(ROLLBACK) {
        Some(to) if pinned != Some(to) && !refused => Some(Pending::Rollback { to: to.to_owned() }),
        None if pinned.is_some() => Some(Pending::Follow),
        _ => None,
    };
    now.into_iter().chain(back).collect()
}

impl Pending {
    /// For a person.
    pub fn told(&self, now: Timestamp) -> String {
        let ago = |at: &Timestamp| span(at.duration_until(now)) + " ago";
        match self {
            Self::Now { at: Some(at) } => format!("the sync that was asked for {} is not taken up yet", ago(at)),
            other => format!("{other} is not taken up yet"),
        }
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now { .. } => f.write_str("the sync that was asked for"),
            Self::Rollback { to } => write!(f, "the rollback to {}", short(to)),
            Self::Follow => f.write_str("the end of the rollback"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(annotations: &Value, status: &Value, suspend: bool) -> Vec<String> {
        let sync: GitSync = serde_json::from_value(json!({
            "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync",
            "metadata": {"name": "web", "namespace": "shop", "generation": 2, "annotations": annotations},
            "spec": {"source": {"url": "https://git.example.com/shop.git"}, "suspend": suspend}, "status": status,
        }))
        .unwrap();
        of(&sync).iter().map(|it| it.told(Timestamp::from_second(40).unwrap())).collect()
    }

    #[test]
    fn a_request_is_pending_until_the_status_says_that_it_was_taken_up() {
        let asked = json!({RECONCILE_REQUESTED: "1970-01-01T00:00:00Z", ROLLBACK: "main@sha1:3f2a91c0000"});
        let sync = "the sync that was asked for 40s ago is not taken up yet";
        let back = "the rollback to main@3f2a91c is not taken up yet";
        assert_eq!(told(&asked, &json!({"lastHandledReconcileAt": "1969-12-31T00:00:00Z"}), false), [sync, back]);
        assert_eq!(told(&asked, &json!({}), true), [""; 0], "it is to wait");
        let pin = json!({"asked": "main@sha1:3f2a91c0000", "revision": "main@sha1:3f2a91c0000", "newest": "n"});
        let done = json!({"lastHandledReconcileAt": "1970-01-01T00:00:00Z", "rollback": pin});
        assert_eq!(told(&asked, &done, false), [""; 0]);
        assert_eq!(told(&json!({}), &done, false), ["the end of the rollback is not taken up yet"]);
        let refused = json!([{"type": "Ready", "status": "False", "reason": "RollbackNotFound", "message": "m",
            "observedGeneration": 2, "lastTransitionTime": "1970-01-01T00:00:00Z"}]);
        assert_eq!(told(&json!({ROLLBACK: "x"}), &json!({"conditions": refused}), false), [""; 0]);
        let hand = told(&json!({RECONCILE_REQUESTED: "by hand"}), &json!({}), false);
        assert_eq!(hand, ["the sync that was asked for is not taken up yet"]);
    }
}
