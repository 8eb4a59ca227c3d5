//! What the reconcilers share. Holds; decides nothing.

use crds::SealedSecret;
use kube::{Client, core::DeserializeGuard, runtime::reflector::Store};

use crate::{keys::Ring, metrics::Metrics};

/// Name under which the controller writes, so that its fields can be told from others'.
pub const FIELD_MANAGER: &str = "signet-controller";

/// SealedSecrets as the watch shows them. One that does not parse is kept as its metadata and the reason.
pub type SealedSecrets = Store<DeserializeGuard<SealedSecret>>;

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
