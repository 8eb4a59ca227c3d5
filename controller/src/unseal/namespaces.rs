//! Which namespaces are watched: all of them with one watch, or each that is listed or carries a label with a watch of
//! its own, so that the controller needs no right anywhere else.

use std::collections::BTreeSet;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _, core::PartialObjectMeta, runtime::watcher};

use crate::{
    calls::{logged, watch},
    metrics::Metrics,
    observed::{Observed, version},
};

/// Where SealedSecrets are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Everywhere.
    All,
    /// In these, whether they exist yet or not.
    Listed(BTreeSet<String>),
    /// In those whose labels match, while they do.
    Selected(String),
}

impl Namespaces {
    /// Whether rights in single namespaces are enough.
    pub fn are_single(&self) -> bool {
        *self != Self::All
    }

    /// The watches that there shall be, each time that changes: `None` is one for all namespaces.
    pub fn watches(self, client: Client, metrics: &Metrics) -> impl Stream<Item = BTreeSet<Option<String>>> + Send {
        match self {
            Self::All => stream::once(async { BTreeSet::from([None]) }).chain(stream::pending()).boxed(),
            Self::Listed(listed) => {
                stream::once(async { listed.into_iter().map(Some).collect() }).chain(stream::pending()).boxed()
            }
            Self::Selected(selector) => selected(client, &selector, metrics).boxed(),
        }
    }
}

fn selected(
    client: Client,
    selector: &str,
    metrics: &Metrics,
) -> impl Stream<Item = BTreeSet<Option<String>>> + Send + use<> {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let config = watcher::Config::default().labels(selector);
    let mut observed = Observed::<String, ()>::default();
    let mut known = false;
    watch(api, config).filter_map(logged("Namespace", metrics)).filter_map(move |event| {
        let sighting = |namespace: PartialObjectMeta<Namespace>| {
            (namespace.name_any(), version(namespace.metadata.resource_version.as_deref()), ())
        };
        known |= observed.on_event(crate::observed::map(event, sighting));
        std::future::ready(known.then(|| observed.iter().map(|(name, ())| Some(name.clone())).collect()))
    })
}
