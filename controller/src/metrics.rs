//! What is counted, under upstream's names where upstream has them, so that its dashboards and alerts go on. What can be
//! read off the cluster's state is read when somebody asks ([`Snapshot`]): a series cannot outlive its object.
//!
//! Labels are bounded. Names of SealedSecrets stand in `condition_info` alone, which is upstream's and which its alert
//! needs; `--metrics-omit-secret-labels` leaves it out. GitSyncs are few, and are named.
//!
//! `docs/metrics.md` is made of what is registered here: see [`table`].

mod book;
mod exposition;
mod git_syncs;
mod labels;
mod process;

use std::{collections::BTreeSet, fmt, sync::Arc};

use crds::{
    KeyRing, SealedSecret,
    key_life::Keys,
    sealed_secret::{SealedSecretCondition, SealedSecretStatus},
};
use jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};
use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use self::book::Book;
pub use self::{exposition::Format, git_syncs::GitSyncs, labels::*};
use crate::kept::Kept;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildInfo {
    revision: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionInfo {
    namespace: String,
    name: String,
    condition: String,
    ss_app_kubernetes_io_instance: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyState {
    state: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyEnd {
    fingerprint: String,
    state: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    synced: &'static str,
    reason: String,
}

/// All that is counted. Cloning shares the counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// SealedSecrets that were opened, or tried.
    pub unseal_requests: Counter,
    /// Those that failed.
    pub unseal_errors: Family<UnsealError, Counter>,
    /// How long a try took, from the first RSA operation to the Secret that was written.
    pub unseal_durations: Histogram,
    /// Whether this replica is the one that works.
    pub leading: Gauge,
    /// Requests to the API server.
    pub api_requests: Family<ApiRequest, Counter>,
    /// Requests to the endpoints under /v1 and /hook.
    pub http_requests: Family<HttpRequest, Counter>,
    /// How long they took.
    pub http_durations: Family<HttpPath, Histogram>,
    /// RSA private-key operations: the cost of unsealing.
    pub rsa_operations: Counter,
    /// Objects that wait for their pass.
    pub queue_depth: Family<QueueName, Gauge>,
    /// How long they waited.
    pub queue_waits: Family<QueueName, Histogram>,
    /// Keys that can open.
    pub keys: Gauge,
    /// Key Secrets that cannot be read.
    pub malformed_keys: Gauge,
    /// Keys that opened, and are gone.
    pub keys_lost: Counter,
    /// Watches that could not begin.
    pub watch_errors: Family<Watched, Counter>,
    /// Keys minted by this process.
    pub keys_minted: Counter,
    /// Keys that could not be made.
    pub key_mint_failures: Counter,
    /// Every key, whatever its state.
    pub known_keys: Known,
    /// Passes over a GitSync that did something.
    pub syncs: Family<Outcome, Counter>,
    /// Revisions applied whole.
    pub sync_revisions: Family<Triggered, Counter>,
    /// Objects changed in the cluster.
    pub sync_steps: Family<Step, Counter>,
    /// Objects that others changed.
    pub drifts: Family<DriftBy, Counter>,
    /// Whose names those are told by.
    pub managers: Managers,
    /// Objects that others change back whenever they are healed.
    pub fights: Counter,
    /// Messages to those whom GitSyncs tell.
    pub notifications: Family<Notified, Counter>,
    /// Fetches from Git.
    pub git_fetches: Family<Outcome, Counter>,
    /// Commits of which manifests were made anew.
    pub renders: Family<Outcome, Counter>,
    /// How each GitSync fares.
    pub git_syncs: GitSyncs,
    started: Timestamp,
}

/// What is not counted but seen.
pub struct Snapshot {
    /// Every SealedSecret.
    pub sealed: Vec<Arc<Kept<SealedSecret>>>,
    /// The keys.
    pub ring: Arc<KeyRing>,
    /// `--metrics-omit-secret-labels`.
    pub omit_names: bool,
}

impl Metrics {
    /// All at zero. `started` is the start of the process.
    pub fn new(started: Timestamp) -> Self {
        // Go's default buckets, from 5 ms to 10 s.
        let durations = || Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        // A restart with 20,000 objects makes the last of them wait for minutes.
        let waits = || Histogram::new([0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0]);
        Self {
            unseal_requests: Counter::default(),
            unseal_errors: Family::default(),
            unseal_durations: durations(),
            leading: Gauge::default(),
            api_requests: Family::default(),
            http_requests: Family::default(),
            http_durations: Family::new_with_constructor(durations),
            rsa_operations: Counter::default(),
            queue_depth: Family::default(),
            queue_waits: Family::new_with_constructor(waits),
            keys: Gauge::default(),
            malformed_keys: Gauge::default(),
            keys_lost: Counter::default(),
            watch_errors: Family::default(),
            keys_minted: Counter::default(),
            key_mint_failures: Counter::default(),
            known_keys: Known::default(),
            syncs: Family::default(),
            sync_revisions: Family::default(),
            sync_steps: Family::default(),
            drifts: Family::default(),
            managers: Managers::default(),
            fights: Counter::default(),
            notifications: Family::default(),
            git_fetches: Family::default(),
            renders: Family::default(),
            git_syncs: GitSyncs::default(),
            started,
        }
    }

    /// All of it as a scraper reads it.
    pub fn render(&self, seen: &Snapshot, format: Format) -> Result<String, fmt::Error> {
        self.written(seen, format, false)
    }

    fn written(&self, seen: &Snapshot, format: Format, whole: bool) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        process::register(&mut registry, self.started);
        let mut book = Book::new(&mut registry, whole);
        self.register(&mut book);
        seen.register(&mut book);
        self.git_syncs.register(&mut book, self.started);
        exposition::render(&registry, format)
    }

    fn register(&self, book: &mut Book<'_>) {
        let build: Family<BuildInfo, Gauge> = Family::default();
        build.get_or_create(&BuildInfo { revision: concat!("v", env!("CARGO_PKG_VERSION")) }).set(0);
        book.one("build_info", "The version; always 0, as upstream's", build);
        book.one("leading", "1 of the replica that works, 0 of those that stand by", self.leading.clone());
        book.one("unseal_requests", "SealedSecrets opened or tried", self.unseal_requests.clone());
        let help = "SealedSecrets that failed, by reason: fetch, status, unseal, unmanaged, update";
        book.family("unseal_errors", help, self.unseal_errors.clone());
        let help = "How long a try took, from opening to the Secret being written";
        book.one("unseal_duration_seconds", help, self.unseal_durations.clone());
        book.one("rsa_operations", "RSA private-key operations: what unsealing costs", self.rsa_operations.clone());
        book.family("http_requests", "Requests to the endpoints under /v1 and /hook", self.http_requests.clone());
        book.family("http_request_duration_seconds", "How long they took", self.http_durations.clone());
        let help = "Requests to the API server, by verb (get, watch, create, update, patch, delete) and code of the answer (none without one)";
        book.family("api_requests", help, self.api_requests.clone());
        let help = "Objects that wait for their pass: SealedSecrets (unseal), GitSyncs (sync)";
        book.family("queue_depth", help, self.queue_depth.clone());
        book.family("queue_wait_seconds", "How long objects waited for their pass", self.queue_waits.clone());
        book.one("keys", "Keys that can open", self.keys.clone());
        let help = "Secrets that should hold a key and cannot be read";
        book.one("malformed_keys", help, self.malformed_keys.clone());
        book.one("keys_lost", "Keys that opened, and that no Secret holds any more", self.keys_lost.clone());
        let help = "Watches that could not begin, by kind; each is tried again";
        book.family("watch_errors", help, self.watch_errors.clone());
        book.one("keys_minted", "Keys made by this process", self.keys_minted.clone());
        book.one("key_mint_failures", "Tries to make a key that failed", self.key_mint_failures.clone());
        self.known_keys.register(book);
        let help = "Passes over a GitSync that changed its status, by outcome: the reason of its condition Ready";
        book.family("git_sync_passes", help, self.syncs.clone());
        let help = "Revisions that were applied whole, by what had them applied: Start, Interval, Webhook, Annotation, SpecChange, Drift (something moved in the cluster)";
        book.family("git_sync_revisions", help, self.sync_revisions.clone());
        let help = "Objects changed in the cluster, by step: apply, heal (drift), run (hooks), prune";
        book.family("git_sync_steps", help, self.sync_steps.clone());
        let help = "Objects that others changed, by field manager (the first 50 by name, then other; unknown for what was deleted or removed) and action: corrected, left. Which object and which fields stands in the Event, the log and the condition Drifted";
        book.family("git_sync_drifts", help, self.drifts.clone());
        let help = "Objects that others changed back whenever they were healed";
        book.one("git_sync_fights", help, self.fights.clone());
        let help = "Messages to those in spec.notify, by type (Webhook, Slack, GitHub, GitLab) and outcome: delivered, failed (given up), dropped (too many were waiting)";
        book.family("git_sync_notifications", help, self.notifications.clone());
        let help = "Fetches from Git, by outcome: success, or the reason of the failure";
        book.family("git_sync_fetches", help, self.git_fetches.clone());
        let help = "Renderings of what a commit changed, by outcome: success, failure";
        book.family("git_sync_renders", help, self.renders.clone());
    }
}

/// The page `docs/metrics.md`.
pub fn table() -> Result<String, fmt::Error> {
    let none = Snapshot { sealed: Vec::new(), ring: Arc::default(), omit_names: false };
    let exposition = Metrics::new(Timestamp::UNIX_EPOCH).written(&none, Format::Plain, true)?;
    Ok([include_str!("metrics/head.md"), &book::rows(&exposition)?].concat())
}

/// The keys as they were last seen.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<RwLock<Arc<Keys>>>);

impl Known {
    /// From now on it is these.
    pub fn set(&self, keys: Arc<Keys>) {
        *self.0.write() = keys;
    }

    fn register(&self, book: &mut Book<'_>) {
        let (states, ends) = (Family::<KeyState, Gauge>::default(), Family::<KeyEnd, Gauge>::default());
        let mut counted = BTreeSet::new();
        for (key, state) in self.0.read().iter() {
            // A copy is no further key.
            if counted.insert((key.fingerprint.clone(), state)) {
                states.get_or_create(&KeyState { state: state.into() }).inc();
            }
            let labels = KeyEnd { fingerprint: key.fingerprint.to_string(), state: state.into() };
            ends.get_or_create(&labels).set(key.not_after.as_second());
        }
        book.family("keys_by_state", "Keys by state: sealing, superseded, compromised, retired; see keys.md", states);
        book.family("key_expiry_timestamp_seconds", "When the certificate of each key ends", ends);
    }
}

impl Snapshot {
    fn register(&self, book: &mut Book<'_>) {
        let (states, conditions) = (Family::<State, Gauge>::default(), Family::<ConditionInfo, Gauge>::default());
        for kept in &self.sealed {
            let (meta, status) = (kept.meta(), kept.status().unwrap_or_default());
            for SealedSecretCondition { type_, status, .. } in &status.conditions {
                let text = |text: Option<&String>| text.cloned().unwrap_or_default();
                let instance = kept.labels().get("app.kubernetes.io/instance");
                let labels = ConditionInfo {
                    namespace: text(meta.namespace.as_ref()),
                    name: text(meta.name.as_ref()),
                    condition: type_.clone(),
                    ss_app_kubernetes_io_instance: text(instance),
                };
                let value = match status.as_str() {
                    "True" => 1,
                    "False" => -1,
                    _ => 0,
                };
                conditions.get_or_create(&labels).set(value);
            }
            states.get_or_create(&State::of(&status, meta.generation)).inc();
        }
        book.family("sealed_secrets", "SealedSecrets by state, and by the reason for it", states);
        if !self.omit_names {
            let help = "Condition of each SealedSecret: -1 (false), 0 (unknown), 1 (true); not with --metrics-omit-secret-labels";
            book.family("condition_info", help, conditions);
        }
        let newest = self.ring.sealing();
        let help = "When the newest key was made; the one that seals";
        book.known("newest_key_birth_timestamp_seconds", help, newest.map(|newest| newest.born.as_second()));
        let end = newest.and_then(|newest| Some(newest.certificate.as_ref()?.not_after().as_second()));
        book.known("newest_key_expiry_timestamp_seconds", "When the certificate of the newest key ends", end);
    }
}

impl State {
    /// What was said of another generation says nothing of this one.
    fn of(status: &SealedSecretStatus, generation: Option<i64>) -> Self {
        let Some(condition) = status.synced().filter(|_| status.observed_generation >= generation) else {
            return Self { synced: "Unknown", reason: "Pending".to_owned() };
        };
        let synced = match condition.status.as_str() {
            "True" => "True",
            "False" => "False",
            _ => "Unknown",
        };
        // Upstream gives none; and whoever may write a status shall not make labels without end.
        let word = |reason: &&String| reason.len() < 40 && reason.chars().all(|c| c.is_ascii_alphabetic());
        Self { synced, reason: condition.reason.as_ref().filter(word).cloned().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn snapshot(objects: &[Value]) -> Snapshot {
        let sealed = objects.iter().map(|object| Arc::new(serde_json::from_value(object.clone()).unwrap())).collect();
        Snapshot { sealed, ring: Arc::default(), omit_names: false }
    }

    fn sealed(name: &str, condition: Option<(&str, &str)>) -> Value {
        let conditions: Vec<Value> = condition
            .map(|(status, reason)| json!({"type": "Synced", "status": status, "reason": reason}))
            .into_iter()
            .collect();
        json!({
            "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app.kubernetes.io/instance": "blue"}},
            "spec": {"encryptedData": {}},
            "status": {"conditions": conditions},
        })
    }

    fn text(seen: &Snapshot) -> String {
        Metrics::new(Timestamp::UNIX_EPOCH).render(seen, Format::Plain).unwrap()
    }

    #[test]
    fn conditions_are_told_as_upstream_tells_them() {
        let mut invalid = sealed("invalid", Some(("False", "Invalid")));
        invalid["spec"] = json!("none");
        let mut edited = sealed("edited", Some(("True", "Unsealed")));
        (edited["metadata"]["generation"], edited["status"]["observedGeneration"]) = (json!(2), json!(1));
        let all = [
            sealed("good", Some(("True", "Unsealed"))),
            sealed("bad", Some(("False", "NoKey"))),
            sealed("odd", Some(("Unknown", "a reason\" of somebody else's"))),
            sealed("new", None),
            invalid,
            edited,
        ];
        let told = text(&snapshot(&all));
        let lines = |name: &str| told.lines().filter(|line| line.starts_with(name)).count();
        let info = |name: &str, value: i8| {
            let line = format!(
                "sealed_secrets_controller_condition_info{{namespace=\"shop\",name=\"{name}\",condition=\"Synced\",ss_app_kubernetes_io_instance=\"blue\"}} {value}\n"
            );
            assert!(told.contains(&line), "{line}{told}");
        };
        info("good", 1);
        info("bad", -1);
        info("odd", 0);
        info("invalid", -1);
        assert_eq!(lines("sealed_secrets_controller_condition_info{"), 5);
        for (state, reason, count) in [
            ("True", "Unsealed", 1),
            ("False", "NoKey", 1),
            ("False", "Invalid", 1),
            ("Unknown", "Pending", 2),
            ("Unknown", "", 1),
        ] {
            let labels = format!("synced=\"{state}\",reason=\"{reason}\"");
            let line = format!("sealed_secrets_controller_sealed_secrets{{{labels}}} {count}\n");
            assert!(told.contains(&line), "{line}{told}");
        }
        assert!(told.contains("sealed_secrets_controller_build_info{revision=\"v"));
        let told = text(&snapshot(&all[1..5]));
        assert!(!told.contains("name=\"good\"") && !told.contains("Unsealed"), "gone with its object");
    }

    #[test]
    fn the_names_of_managers_are_bounded() {
        let managers = Managers::default();
        let labels: Vec<_> = (0..100).map(|number| managers.of(&format!("m{number}"))).collect();
        assert_eq!((labels[0].as_ref(), labels[49].as_ref(), labels[50].as_ref()), ("m0", "m49", "other"));
        assert_eq!(managers.of("m0").as_ref(), "m0");
    }

    #[test]
    fn names_are_left_out_when_asked_for() {
        let told = text(&Snapshot { omit_names: true, ..snapshot(&[sealed("good", Some(("True", "Unsealed")))]) });
        assert!(!told.contains("good") && !told.contains("condition_info"), "{told}");
        assert!(told.contains("synced=\"True\",reason=\"Unsealed\"} 1"));
    }

    #[test]
    fn the_table_in_the_documents_is_fresh() {
        let path = format!("{}/../docs/metrics.md", env!("CARGO_MANIFEST_DIR"));
        let stands = std::fs::read_to_string(path).unwrap_or_default();
        let stale = "docs/metrics.md is stale: cargo run -p controller --example metrics > docs/metrics.md";
        assert!(stands == table().unwrap(), "{stale}");
    }
}
