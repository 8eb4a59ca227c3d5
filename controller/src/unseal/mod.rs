//! Keeps every Secret as its SealedSecret says. The SealedSecrets come whole, the Secrets of the cluster as metadata
//! only; a value is decrypted when it must be written and not kept.
//!
//! Here is which watches run, and how they begin and end; [`watches`] feeds them, [`pass`] does the work of one object,
//! [`decide`], [`choices`], [`adopt`] and [`status`] (pure) judge.

pub mod adopt;
pub mod choices;
pub mod decide;
pub mod namespaces;
mod pass;
pub mod status;
mod watches;

use std::{
    collections::{BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::namespaces::Namespaces;
use crate::context::{Context, Guarded};

/// How SealedSecrets are handled.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "upstream's switches")]
pub struct Options {
    /// Where they are looked for.
    pub namespaces: Namespaces,
    /// Only those whose labels match.
    pub label_selector: Option<String>,
    /// Whether the deprecated `spec.data` is opened.
    pub accept_deprecated: bool,
    /// Whether to say in `status` how each fares. Without it a restart opens everything again.
    pub update_status: bool,
    /// Whether Secrets are watched, so that an edited or deleted one is made again.
    pub watch_secrets: bool,
    /// Whether a Secret is deleted here, and not only by the garbage collector.
    pub delete_secrets: bool,
    /// Tries after a failure before it is left until something changes; `None` for without end.
    pub retries: Option<u32>,
}

/// Called with every SealedSecret that moved.
pub type Changed = Arc<dyn Fn(&Guarded) + Send + Sync>;

/// Runs until `stop`, then ends what is under way. `listed` hears when all SealedSecrets are known.
pub async fn run(
    context: Context,
    options: Options,
    changed: Changed,
    listed: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut wanted = pin!(options.namespaces.clone().watches(context.client.clone()));
    let options = Arc::new(options);
    let mut running: HashMap<Option<String>, CancellationToken> = HashMap::new();
    let mut parts = JoinSet::new();
    let mut unlisted = FuturesUnordered::new();
    let mut known = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(wanted) = wanted.next() => {
                known = true;
                running.retain(|namespace, stop| {
                    let stays = wanted.contains(namespace);
                    if !stays {
                        tracing::info!(namespace, "no longer watching");
                        stop.cancel();
                    }
                    stays
                });
                let new: BTreeSet<_> = wanted.into_iter().filter(|namespace| !running.contains_key(namespace)).collect();
                for namespace in new {
                    tracing::debug!(namespace, "watching");
                    let (part, answered) = (stop.child_token(), CancellationToken::new());
                    running.insert(namespace.clone(), part.clone());
                    unlisted.push(answered.clone().cancelled_owned());
                    parts.spawn(watches::run(context.clone(), options.clone(), namespace, changed.clone(), answered, part));
                }
            }
            Some(()) = unlisted.next() => {}
            Some(ended) = parts.join_next() => {
                // One that was told to end has; any other end is a fault that ends the controller.
                let told = ended.is_ok_and(|namespace| !running.contains_key(&namespace));
                if !told {
                    return;
                }
            }
        }
        if known && unlisted.is_empty() {
            listed.send_replace(true);
        }
    }
    while parts.join_next().await.is_some() {}
}
