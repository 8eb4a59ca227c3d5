//! What the reconcilers share. Holds; decides nothing.

use std::{collections::BTreeMap, error::Error, iter, sync::Arc};

use crds::SealedSecret;
use kube::{
    Client,
    config::KubeconfigError,
    core::Status,
    runtime::reflector::{self, ObjectRef, Store, store::Writer},
};
use parking_lot::RwLock;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::{audit::Audit, kept::Kept, keys::Ring, metrics::Metrics, pulse::Pulses};

/// Name under which the controller writes, so that its fields can be told from others'.
pub const FIELD_MANAGER: &str = "signet-controller";

/// One watch for all namespaces (`None`), or one for each.
type Stores = BTreeMap<Option<String>, Store<Kept<SealedSecret>>>;

/// SealedSecrets as the watches show them.
#[derive(Clone, Default)]
pub struct SealedSecrets(Arc<RwLock<Stores>>);

impl SealedSecrets {
    /// Makes room for what one more watch will bring.
    pub fn add(&self, namespace: Option<String>) -> (Store<Kept<SealedSecret>>, Writer<Kept<SealedSecret>>) {
        let (store, writer) = reflector::store();
        self.0.write().insert(namespace, store.clone());
        (store, writer)
    }

    /// Forgets what a watch that ended has brought.
    pub fn remove(&self, namespace: Option<&String>) {
        self.0.write().remove(&namespace.cloned());
    }

    /// One of them.
    pub fn get(&self, at: &ObjectRef<Kept<SealedSecret>>) -> Option<Arc<Kept<SealedSecret>>> {
        let stores = self.0.read();
        stores.get(&None).or_else(|| stores.get(&at.namespace))?.get(at)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Kept<SealedSecret>>> {
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

/// An error and all its causes in one line. A cause that only repeats its effect is left out; of an answer of the API
/// server its message is told, which kube's error spells out three times.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let errors = || iter::successors(Some(error), |error| (*error).source());
    let status = errors().find_map(|error| error.downcast_ref::<Box<Status>>()).filter(|it| !it.message.is_empty());
    let words = |error: &(dyn Error + 'static)| match status {
        Some(status) => {
            let (short, message) = (status.to_string(), &status.message);
            error.to_string().replace(&format!("ApiError: {short} ({status:?})"), message).replace(&short, message)
        }
        // kube's word for all that is no answer; the cause says more.
        None => error.to_string().replace("ServiceError: ", ""),
    };
    let tell = |text: String, next: String| if text.ends_with(&next) { text } else { format!("{text}: {next}") };
    errors().map(words).reduce(tell).unwrap_or_default()
}

/// Why a task came to nothing. tokio's own error quotes the panic, and that may quote what was being worked on: what may be
/// told of it the log has already, by `crds::guard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// A fault.
    #[error("it panicked: the log says where")]
    Panicked,
    /// Nobody waited for it any more.
    #[error("it was broken off")]
    BrokenOff,
}

impl From<JoinError> for Ended {
    fn from(error: JoinError) -> Self {
        if error.is_panic() { Self::Panicked } else { Self::BrokenOff }
    }
}

/// Where a kubeconfig is not as it must be. The parser's own words may quote what it read.
pub fn line(error: &KubeconfigError) -> Option<u64> {
    match error {
        KubeconfigError::Parse(error) => Some(error.location()?.line()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher;

    use super::*;

    #[test]
    fn an_answer_of_the_api_server_is_told_once() {
        let status = Status { code: 403, ..Status::failure("maps is forbidden: User \"x\" cannot list", "Forbidden") };
        let error = watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()));
        let told = "failed to perform initial object list: maps is forbidden: User \"x\" cannot list";
        assert_eq!(chain(&error), told);
        let error = kube::Error::Api(Status { code: 503, ..Status::default() }.boxed());
        assert!(chain(&error).contains("503"), "what has no message is told as it is");
        assert_eq!(chain(&*anyhow::anyhow!("inner").context("outer")), "outer: inner");
        let away = watcher::Error::InitialListFailed(kube::Error::Service("nobody there".into()));
        assert_eq!(chain(&away), "failed to perform initial object list: nobody there");
    }

    #[tokio::test]
    async fn a_task_that_panicked_is_not_quoted() {
        let value = "hünter2".to_owned();
        let panicked = tokio::spawn(async move { value[..2].len() }).await.unwrap_err();
        assert!(panicked.to_string().contains("nter2"), "tokio quotes it: {panicked}");
        let told = Ended::from(panicked);
        assert_eq!(told, Ended::Panicked);
        let aborted = tokio::spawn(std::future::pending::<()>());
        aborted.abort();
        assert_eq!(Ended::from(aborted.await.unwrap_err()), Ended::BrokenOff);
    }
}
