//! Whom a GitSync tells what becomes of it, and what was told. No behaviour.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::git_sync::SecretReference;

/// Somebody who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.url) || has(self.secretRef)").message("needs url, or secretRef to a Secret with an address"),
    validation = Rule::new("has(self.secretRef) || !(self.type in ['GitHub', 'GitLab'])").message("needs secretRef to a Secret with a token")
)]
pub struct Notify {
    /// What takes the messages, and how they are written for it.
    #[serde(rename = "type", default)]
    pub kind: NotifyKind,
    /// Where to. An address that is a secret itself, as Slack's is, belongs into the Secret. For GitHub and GitLab the
    /// beginning of their API, where that is not at the source's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = "^https?://"))]
    pub url: Option<String>,
    /// Secret in the GitSync's namespace, with the address, which goes before url; the token: for a Webhook to sign with,
    /// for GitHub and GitLab to be let in; and ca.crt, the authorities that are trusted beside the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// What is told. GitHub and GitLab are told the state of each commit instead.
    #[serde(default = "some_events")]
    pub events: Vec<Occasion>,
}

/// See [`Notify::kind`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
pub enum NotifyKind {
    /// JSON as Flux posts it. X-Signature: sha256=HMAC of the body, where there is a token.
    #[default]
    Webhook,
    /// Slack, and whatever takes the same: Mattermost, Rocket.Chat, Discord at /slack.
    Slack,
    /// The state of a commit.
    GitHub,
    /// The state of a commit.
    GitLab,
}

/// What may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
pub enum Occasion {
    /// The cluster is not as Git says: once for each reason and revision.
    Failed,
    /// It waits for leave, or for another GitSync.
    Waiting,
    /// After a failure, all is well again.
    Recovered,
    /// Another revision is applied.
    Applied,
    /// Others changed what was applied.
    Drift,
}

/// What was told, so that nothing is told twice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notified {
    /// Since all was well: event, reason and revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<String>,
    /// The revision that was told to be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// The last state of a commit, and which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Digest of the last drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_at: Option<Time>,
}

fn some_events() -> Vec<Occasion> {
    vec![Occasion::Failed, Occasion::Waiting, Occasion::Recovered]
}
