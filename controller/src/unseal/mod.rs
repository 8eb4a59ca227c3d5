//! Keeps every Secret as its SealedSecret says. The SealedSecrets come whole, the Secrets of the cluster as metadata
//! only; a value is decrypted when it must be written and not kept.
//!
//! Here is which watches run, and how they begin and end; [`watches`] feeds them, [`pass`] does the work of one object,
//! [`write`] makes its requests, [`report`] tells what came of it, and [`decide`], [`choices`], [`adopt`], [`rest`] and
//! [`status`] (pure) judge.

pub mod adopt;
pub mod choices;
pub mod decide;
pub mod namespaces;
mod pass;
mod report;
pub mod rest;
pub mod status;
mod watches;
mod write;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    pin::pin,
    sync::Arc,
};

use crds::SealedSecret;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::namespaces::Namespaces;
use crate::{context::Context, kept::Kept};

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
pub type Changed = Arc<dyn Fn(&Kept<SealedSecret>) + Send + Sync>;

/// Runs until `stop`, then ends what is under way. `listed` hears when all SealedSecrets are known.
pub async fn run(
    context: Context,
    options: Options,
    changed: Changed,
    listed: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut wanted = pin!(options.namespaces.clone().watches(context.client.clone(), &context.metrics));
    let options = Arc::new(options);
    let mut asked = BTreeSet::new();
    let mut running: HashMap<Option<String>, CancellationToken> = HashMap::new();
    // Told to end. What is wanted again begins after that: no two work in one namespace.
    let mut ending = BTreeSet::new();
    let mut parts = JoinSet::new();
    let mut unlisted = FuturesUnordered::new();
    let mut known = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(wanted) = wanted.next() => {
                known = true;
                asked = wanted;
                for (namespace, stop) in running.extract_if(|namespace, _| !asked.contains(namespace)) {
                    tracing::info!(namespace, "no longer watching");
                    stop.cancel();
                    ending.insert(namespace);
                }
            }
            Some(()) = unlisted.next() => {}
            Some(ended) = parts.join_next() => {
                // One that was told to end has; any other end is a fault that ends the controller.
                if !ended.is_ok_and(|namespace| ending.remove(&namespace)) {
                    return;
                }
            }
        }
        for namespace in asked.iter().filter(|namespace| !ending.contains(*namespace)) {
            if let Entry::Vacant(place) = running.entry(namespace.clone()) {
                tracing::debug!(namespace, "watching");
                let (part, answered) = (place.insert(stop.child_token()).clone(), CancellationToken::new());
                unlisted.push(answered.clone().cancelled_owned());
                let (context, options, changed) = (context.clone(), options.clone(), changed.clone());
                parts.spawn(watches::run(context, options, namespace.clone(), changed, answered, part));
            }
        }
        if known && unlisted.is_empty() {
            listed.send_replace(true);
        }
    }
    while parts.join_next().await.is_some() {}
}
