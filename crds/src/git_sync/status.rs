//! What became of a GitSync, as its `status` says it. No behaviour here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sync::{
    history::{Counts, Trigger, UnderWay},
    hook::HookRun,
    inventory::Inventory,
    notify::Notified,
};

/// What the controller saw and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSyncStatus {
    /// Ready, and Reconciling or Stalled where they hold, as kstatus reads them; Healthy and Drifted; SourceVerified and
    /// FallbackInUse where the source asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation that was last handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The commit that was last tried, as main@sha1:commit, v1.0.0@sha1:commit, refs/…@sha1:commit or sha1:commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempted_revision: Option<String>,
    /// The commit that was last applied whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied_revision: Option<String>,
    /// The value of the request annotation that was last served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// What would be done, and waits to be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PendingPlan>,
    /// What the annotation gitsync.signet.dev/rollback came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// How far the hooks of a revision that is being applied have come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<HookRun>,
    /// The revision that is being applied, until it is applied whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_way: Option<UnderWay>,
    /// The last revisions that were applied whole, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// Address of the API server that the objects of the inventory are in, where spec.kubeConfig led there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What those in spec.notify were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notified: Option<Notified>,
    /// What is in the cluster because of this GitSync. Written before anything is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}

/// See [`GitSyncStatus::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PendingPlan {
    /// To be given back in the annotation gitsync.signet.dev/approve.
    pub digest: String,
    /// One line an object; of a long plan the first.
    pub steps: Vec<String>,
}

/// See [`GitSyncStatus::rollback`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollback {
    /// The annotation's value.
    pub asked: String,
    /// What it means, and what is applied while the newest revision is that below.
    pub revision: String,
    /// The newest revision when it was asked for.
    pub newest: String,
}

/// See [`GitSyncStatus::history`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// As branch@sha1:commit.
    pub revision: String,
    /// Of what it asked for: the same again needs nobody's leave.
    pub digest: String,
    /// When it was applied whole.
    pub applied_at: Time,
    /// Who wrote the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// How its message begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What had it applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// From then until it was applied whole, such as 1.250s; what it waited for is part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// What was done to its objects. Drift that was healed meanwhile does not count, nor does what the controller did in
    /// the moment before it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

impl HistoryEntry {
    /// With nothing that is known of it beside.
    pub fn new(revision: String, digest: String, applied_at: Time) -> Self {
        let (author, subject, trigger, duration, counts) = (None, None, None, None, None);
        Self { revision, digest, applied_at, author, subject, trigger, duration, counts }
    }
}
