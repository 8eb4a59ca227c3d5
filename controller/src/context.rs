//! What the reconcilers share. Holds; decides nothing.

use std::{collections::BTreeMap, sync::Arc};

use crds::SealedSecret;
use kube::{
    Client,
    core::DeserializeGuard,
    runtime::reflector::{self, ObjectRef, Store, store::Writer},
};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::{audit::Audit, keys::Ring, metrics::Metrics, pulse::Pulses};

/// Name under which the controller writes, so that its fields can be told from others'.
pub const FIELD_MANAGER: &str = "signet-controller";

/// A SealedSecret, or of one that does not parse its metadata and the reason.
pub type Guarded = DeserializeGuard<SealedSecret>;

/// SealedSecrets as the watches show them: one watch for all namespaces (`None`), or one for each.
#[derive(Clone, Default)]
pub struct SealedSecrets(Arc<RwLock<BTreeMap<Option<String>, Store<Guarded>>>>);

impl SealedSecrets {
    /// Makes room for what one more watch will bring.
    pub fn add(&self, namespace: Option<String>) -> (Store<Guarded>, Writer<Guarded>) {
        let (store, writer) = reflector::store();
        self.0.write().insert(namespace, store.clone());
        (store, writer)
    }

    /// Forgets what a watch that ended has brought.
    pub fn remove(&self, namespace: Option<&String>) {
        self.0.write().remove(&namespace.cloned());
    }

    /// One of them.
    pub fn get(&self, at: &ObjectRef<Guarded>) -> Option<Arc<Guarded>> {
        let stores = self.0.read();
        stores.get(&None).or_else(|| stores.get(&at.namespace))?.get(at)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Guarded>> {
        self.0.read().values().flat_map(Store::state).collect()
    }
}

/// Shared by `unseal` and `sync`.
#[derive(Clone)]
pub struct Context {
    /// As the controller's own ServiceAccount.
    pub client: Client,
    /// The keys.
    pub ring: Ring,
    /// Every SealedSecret.
    pub sealed: SealedSecrets,
    /// Counters.
    pub metrics: Metrics,
    /// Signs of life.
    pub pulses: Pulses,
    /// What is changed.
    pub audit: Audit,
    /// Cancelled once this replica no longer leads: nothing that is under way goes on.
    pub lost: CancellationToken,
}

/// An error and all its causes in one line. A cause that only repeats its effect is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
