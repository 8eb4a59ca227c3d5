//! The `GitSync` resource, `signet.dev/v1alpha1`: what stands at a path of a Git repository shall stand in the cluster.
//! Field names and conditions are Flux's where Flux has them. No behaviour here.

#![allow(clippy::struct_excessive_bools, reason = "switches that have nothing to do with each other")]

mod source;
mod status;

use std::collections::BTreeMap;

use jiff::SignedDuration;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};

pub use self::{
    source::{GitReference, GitSource, Verify, VerifyMode, Webhook, WebhookType},
    status::{GitSyncStatus, HistoryEntry, PendingPlan, Rollback},
};
use crate::sync::notify::Notify;

/// Labels that mark what a `GitSync` applied. They make its objects easy to list and to watch; what is pruned is
/// decided by the inventory.
pub const NAME_LABEL: &str = "gitsync.signet.dev/name";
/// See [`NAME_LABEL`].
pub const NAMESPACE_LABEL: &str = "gitsync.signet.dev/namespace";
/// Held while the objects of a `GitSync` wait to be pruned.
pub const FINALIZER: &str = "gitsync.signet.dev/prune";
/// Any new value makes the controller look at Git now. Flux's key, because hands know it.
pub const RECONCILE_REQUESTED: &str = "reconcile.fluxcd.io/requestedAt";
/// Allows the plan with this digest, where a plan waits to be allowed.
pub const APPROVE: &str = "gitsync.signet.dev/approve";
/// Goes back to this revision of the history, until there is a newer commit.
pub const ROLLBACK: &str = "gitsync.signet.dev/rollback";

/// As Go writes durations.
const DURATION: &str = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$";

/// What to follow, and how.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "signet.dev",
    version = "v1alpha1",
    kind = "GitSync",
    doc = "Keeps the cluster as a path of a Git repository says.",
    namespaced,
    status = "GitSyncStatus",
    shortname = "gs",
    derive = "Default",
    validation = kube::core::Rule::new("self.metadata.name.size() <= 63").message("the name becomes a label of what is applied: at most 63 characters"),
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Status", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GitSyncSpec {
    /// Where the manifests come from.
    pub source: GitSource,
    /// Folder in the repository. One with a kustomization.yaml is built by Kustomize, one with a Chart.yaml by Helm; of
    /// any other all .yaml, .yml and .json files at and below it are applied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What makes manifests of the files at the path, where it shall not be chosen by what stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renderer: Option<Renderer>,
    /// For a path that Helm renders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helm: Option<Helm>,
    /// Namespace of everything that is applied and lives in one, whatever its manifest says. It must exist, or be made by
    /// the same commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_namespace: Option<String>,
    /// Labels and annotations of everything that is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_metadata: Option<CommonMetadata>,
    /// Other names, tags or digests for container images, as kustomize has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageOverride>,
    /// Variables such as ${name} or ${name:=default} in what is rendered. Nothing is replaced without it; with it every
    /// variable needs a value. $${name} stands for ${name} itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_build: Option<PostBuild>,
    /// How often to look for a new commit, such as 30s or 5m; from a second to a year, which is 8760h.
    #[serde(default = "default_interval")]
    #[schemars(schema_with = "duration")]
    pub interval: String,
    /// GitSyncs of this namespace that must be Ready, and at this revision if they follow the same source, before this one
    /// applies another revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<SyncReference>,
    /// Whether a new plan is carried out at once, or when somebody allowed it: by the annotation
    /// gitsync.signet.dev/approve with the digest in status.plan.
    #[serde(default)]
    pub sync_policy: SyncPolicy,
    /// What is done about objects that others changed.
    #[serde(default)]
    pub drift: Drift,
    /// Fields that are not kept as Git says once their object is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<IgnoreRule>,
    /// Whether Ready waits until everything that was applied is healthy.
    #[serde(default)]
    pub wait: bool,
    /// How objects fare of kinds that have words of their own for it, in CEL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub health_check_exprs: Vec<HealthCheckExpr>,
    /// How long a revision may take to become healthy, where anything waits for that; from a second to a year.
    #[serde(default = "default_timeout")]
    #[schemars(schema_with = "timeout")]
    pub timeout: String,
    /// Who is told what becomes of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub notify: Vec<Notify>,
    /// Whether what goes from Git also goes from the cluster.
    #[serde(default = "default_prune")]
    pub prune: bool,
    /// While true nothing is fetched, applied, healed or pruned; deleting the GitSync then leaves its objects.
    #[serde(default)]
    pub suspend: bool,
    /// ServiceAccount of this namespace with whose rights everything is read, applied and deleted. Without it the account
    /// that the controller was given for all GitSyncs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
    /// Another cluster that the objects are applied to, instead of the one that this GitSync is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_config: Option<KubeConfigReference>,
    /// What becomes of the objects when the GitSync is deleted. Of one that is suspended they stay.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Lets a plain Secret with data through. Whoever can read the repository can read it.
    #[serde(default)]
    pub allow_plain_secrets: bool,
}

/// See [`GitSyncSpec::kube_config`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeConfigReference {
    /// Secret in the GitSync's namespace with a kubeconfig that needs nothing beside it: no file, and no program to run. Its
    /// user must be able to list and watch the kinds that are applied. With serviceAccountName that account of that
    /// cluster is impersonated.
    pub secret_ref: SecretKeyReference,
}

/// An entry of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyReference {
    /// Its name.
    pub name: String,
    /// The entry; value, or else value.yaml, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A GitSync of the same namespace by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncReference {
    /// Its name.
    pub name: String,
    /// CEL expression that says whether it is ready, instead of its condition Ready and its revision. self is this
    /// GitSync, dep is that one: dep.status.lastAppliedRevision == self.status.lastAttemptedRevision
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub ready_expr: Option<String>,
}

/// See [`GitSyncSpec::health_check_exprs`]. The expressions see the fields of the object, such as status.phase == 'Ready'.
/// The first that is true counts, in the order inProgress, failed, current; while none is the object is in progress, and
/// so it is while one asks for what is not there yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckExpr {
    /// Group and version. Objects of other versions of the group are meant too.
    pub api_version: String,
    /// Kind; all kinds of the group when absent. Secrets are never looked into, and how SealedSecrets fare is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whether it may become healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub in_progress: Option<String>,
    /// Whether it is not healthy, and will not be by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub failed: Option<String>,
    /// Whether it is healthy.
    #[schemars(length(min = 1, max = 2048))]
    pub current: String,
}

/// See [`GitSyncSpec::sync_policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SyncPolicy {
    /// At once.
    #[default]
    Automatic,
    /// When it is allowed.
    Manual,
}

/// See [`GitSyncSpec::drift`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Drift {
    /// They are made again as Git says.
    #[default]
    Correct,
    /// They are left, and told in the condition Drifted.
    Report,
}

/// See [`GitSyncSpec::deletion_policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// As spec.prune says.
    #[default]
    MirrorPrune,
    /// They are deleted.
    Delete,
    /// They are deleted, and the GitSync is there until the last of them is gone.
    WaitForTermination,
    /// They stay.
    Orphan,
}

/// See [`GitSyncSpec::ignore`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IgnoreRule {
    /// JSON pointers, such as /spec/replicas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Field managers, such as kube-controller-manager: whatever fields they have are theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub managers: Vec<String>,
    /// Which objects; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<IgnoreTarget>,
}

/// Objects by what they are called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IgnoreTarget {
    /// API group; empty for the core group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Regular expression for the whole name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Regular expression for the whole namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What makes manifests of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Renderer {
    /// Nothing: the files are the manifests.
    Plain,
    /// kustomize build. What it reads must be in the repository.
    Kustomize,
    /// helm template. The charts it depends on must be in the repository.
    Helm,
}

/// How a chart is rendered. There is no release: what Helm renders is applied, healed and pruned like all else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Helm {
    /// Name that the chart sees; the GitSync's when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_name: Option<String>,
    /// Files with values, seen from the path. A later one goes before an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values_files: Vec<String>,
    /// Values that go before those of all files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub values: Option<serde_json::Value>,
}

/// See [`GitSyncSpec::common_metadata`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CommonMetadata {
    /// Labels. They are added to the objects alone, not to selectors or templates in them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// See [`GitSyncSpec::images`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageOverride {
    /// The image's name in the manifests, without tag.
    pub name: String,
    /// Its name instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_name: Option<String>,
    /// Its tag instead; without digest then, if none is given here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tag: Option<String>,
    /// Its digest instead, such as sha256:24a0; without tag then, if none is given here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// See [`GitSyncSpec::post_build`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostBuild {
    /// Values by name. They go before all others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub substitute: BTreeMap<String, String>,
    /// ConfigMaps and Secrets of this namespace with values by name, read again at each interval with the rights of the
    /// account that applies. A later one goes before an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub substitute_from: Vec<ValuesReference>,
}

/// A ConfigMap or Secret with values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ValuesReference {
    /// What it is.
    pub kind: ValuesKind,
    /// Its name.
    pub name: String,
    /// Whether it may be absent.
    #[serde(default)]
    pub optional: bool,
}

/// See [`ValuesReference::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValuesKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret. Its values are left out of all messages.
    Secret,
}

/// A Secret by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SecretReference {
    /// Its name.
    pub name: String,
}

/// A time that is no duration, or none that anybody waits for.
#[derive(Debug, thiserror::Error)]
#[error("spec.{field} {text:?} is not a duration from one second to a year (8760h); write one such as 30s or 5m")]
pub struct BadDuration {
    field: &'static str,
    text: String,
}

impl GitSyncSpec {
    /// [`Self::interval`], parsed.
    pub fn interval(&self) -> Result<SignedDuration, BadDuration> {
        some_time("interval", &self.interval)
    }

    /// [`Self::timeout`], parsed.
    pub fn timeout(&self) -> Result<SignedDuration, BadDuration> {
        some_time("timeout", &self.timeout)
    }
}

fn some_time(field: &'static str, text: &str) -> Result<SignedDuration, BadDuration> {
    // What may be longer cannot always be added to a time.
    let bounds = SignedDuration::from_secs(1)..=SignedDuration::from_hours(8760);
    let parsed = text.parse::<SignedDuration>().ok().filter(|time| bounds.contains(time));
    parsed.ok_or_else(|| BadDuration { field, text: text.to_owned() })
}

/// As the API server fills it in.
impl Default for GitSyncSpec {
    fn default() -> Self {
        Self {
            source: GitSource::default(),
            path: String::new(),
            renderer: None,
            helm: None,
            target_namespace: None,
            common_metadata: None,
            images: Vec::new(),
            post_build: None,
            interval: default_interval(),
            depends_on: Vec::new(),
            sync_policy: SyncPolicy::default(),
            drift: Drift::default(),
            ignore: Vec::new(),
            wait: false,
            health_check_exprs: Vec::new(),
            timeout: default_timeout(),
            notify: Vec::new(),
            prune: default_prune(),
            suspend: false,
            service_account_name: None,
            kube_config: None,
            deletion_policy: DeletionPolicy::default(),
            allow_plain_secrets: false,
        }
    }
}

fn default_interval() -> String {
    "1m".to_owned()
}

fn default_timeout() -> String {
    "5m".to_owned()
}

fn default_prune() -> bool {
    true
}

fn any_object(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn duration(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "default": default_interval(), "pattern": DURATION})
}

fn timeout(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "default": default_timeout(), "pattern": DURATION})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_go_durations() {
        let interval = |text: &str| GitSyncSpec { interval: text.to_owned(), ..GitSyncSpec::default() }.interval();
        assert_eq!(interval("1m").unwrap(), SignedDuration::from_secs(60));
        assert_eq!(interval("1h30m").unwrap(), SignedDuration::from_secs(5400));
        assert_eq!(interval("8760h").unwrap(), SignedDuration::from_hours(8760));
        for bad in ["", "0s", "-1m", "soon", "8760h1s", "2562047788015215h", "99999999999999999999h"] {
            assert!(interval(bad).unwrap_err().to_string().contains("30s"), "{bad}");
        }
    }
}
