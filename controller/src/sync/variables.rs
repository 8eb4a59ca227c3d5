//! Reads the variables that `spec.postBuild` names: ConfigMaps and Secrets of the GitSync's namespace, with the rights of
//! the account that applies, so that nobody reads by way of a GitSync what its account may not read. They are read again
//! when Git is looked at, at each interval. A watch would tell at once, but only by showing the controller every ConfigMap
//! and Secret of the cluster, or those that somebody has labelled for it.

use std::sync::Arc;

use crds::{
    GitSync,
    git_sync::{PostBuild, ValuesKind, ValuesReference},
    sync::substitute::Variables,
    unseal::ClearSecret,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt as _};

use super::{State, Syncer, status::Cause};
use crate::{
    calls::{CallError, bounded},
    context::chain,
};

/// Variables as last read. They are kept until there are others: what was made with them stands in the cluster, and
/// their values are not to stand in messages.
pub(super) struct Filled {
    /// What they were read for.
    wanted: PostBuild,
    pub variables: Arc<Variables>,
    /// Whether Git was last looked at before. What they are read from is not watched.
    pub is_old: bool,
}

impl Syncer {
    /// The variables of a GitSync; none when it asks for none.
    pub(super) async fn variables(&self, sync: &GitSync, state: &mut State) -> Result<Option<Arc<Variables>>, Cause> {
        let Some(wanted) = &sync.spec.post_build else {
            if state.good.as_ref().is_none_or(|good| good.origin.spec.post_build.is_none()) {
                state.variables = None;
            }
            return Ok(None);
        };
        if let Some(filled) = state.variables.as_ref().filter(|filled| !filled.is_old && filled.wanted == *wanted) {
            return Ok(Some(filled.variables.clone()));
        }
        if !wanted.substitute_from.is_empty() {
            let denied = |error| Cause { reason: "AccessDenied", message: chain(&error) };
            self.git.hands.check(sync).await.map_err(denied)?;
        }
        let mut variables = Variables::default();
        for reference in &wanted.substitute_from {
            let ValuesReference { kind, name, optional } = reference;
            match self.values(sync, reference, &mut variables).await {
                Err(error) if *optional && error.is_not_found() => {}
                Err(error) => {
                    let message = format!("cannot read the {kind:?} {name} of spec.postBuild: {}", chain(&error));
                    return Err(Cause { reason: "BuildFailed", message });
                }
                Ok(()) => {}
            }
        }
        for (name, value) in &wanted.substitute {
            if !variables.set(name, value, false) {
                let message = format!("spec.postBuild.substitute: {name:?} is no name for a variable");
                return Err(Cause { reason: "BuildFailed", message });
            }
        }
        let variables = Arc::new(variables);
        state.variables = Some(Filled { wanted: wanted.clone(), variables: variables.clone(), is_old: false });
        Ok(Some(variables))
    }

    /// Reads one source.
    async fn values(&self, sync: &GitSync, from: &ValuesReference, into: &mut Variables) -> Result<(), CallError> {
        let (client, namespace) = (self.git.hands.of(sync), sync.namespace().unwrap_or_default());
        match from.kind {
            ValuesKind::ConfigMap => {
                let read = bounded(Api::<ConfigMap>::namespaced(client, &namespace).get(&from.name)).await?;
                into.take_map(&read);
            }
            ValuesKind::Secret => {
                let read = bounded(Api::<Secret>::namespaced(client, &namespace).get(&from.name)).await?;
                into.take_secret(ClearSecret::new(read).expose());
            }
        }
        Ok(())
    }
}
