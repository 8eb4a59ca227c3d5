//! Counters and gauges, under upstream's names where upstream has them. Labels are bounded: no object names.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Labels of `unseal_errors_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnsealError {
    /// fetch, status, unseal, unmanaged or update.
    pub reason: &'static str,
    /// Of the SealedSecret.
    pub namespace: String,
}

/// Labels of counters of outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// success, or the reason of the condition.
    pub outcome: &'static str,
}

/// Labels of `git_sync_steps_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Step {
    /// apply, heal or prune.
    pub step: &'static str,
}

/// All of them. Cloning shares the counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// SealedSecrets that were opened, or tried.
    pub unseal_requests: Counter,
    /// Those that failed.
    pub unseal_errors: Family<UnsealError, Counter>,
    /// RSA private-key operations: the cost of unsealing.
    pub rsa_operations: Counter,
    /// Keys that can open.
    pub keys: Gauge,
    /// Key Secrets that cannot be read.
    pub malformed_keys: Gauge,
    /// Keys minted by this process.
    pub keys_minted: Counter,
    /// Passes over a GitSync that did something.
    pub syncs: Family<Outcome, Counter>,
    /// Objects changed in the cluster.
    pub sync_steps: Family<Step, Counter>,
    /// Fetches from Git.
    pub git_fetches: Family<Outcome, Counter>,
}

impl Metrics {
    /// In the text format of Prometheus.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("sealed_secrets_controller");
        registry.register("unseal_requests", "SealedSecrets opened or tried", self.unseal_requests.clone());
        registry.register(
            "unseal_errors",
            "SealedSecrets that failed, by reason and namespace",
            self.unseal_errors.clone(),
        );
        registry.register("rsa_operations", "RSA private-key operations", self.rsa_operations.clone());
        registry.register("keys", "Keys that can open", self.keys.clone());
        registry.register("malformed_keys", "Key Secrets that cannot be read", self.malformed_keys.clone());
        registry.register("keys_minted", "Keys minted by this process", self.keys_minted.clone());
        let signet = registry.sub_registry_with_prefix("git_sync");
        signet.register("passes", "Passes over a GitSync that did something, by outcome", self.syncs.clone());
        signet.register("steps", "Objects applied, healed and pruned", self.sync_steps.clone());
        signet.register("fetches", "Fetches from Git, by outcome", self.git_fetches.clone());
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}
