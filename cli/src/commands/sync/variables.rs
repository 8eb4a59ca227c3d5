//! What `spec.postBuild` of a GitSync names, read with the rights of whoever asks. What cannot be read is told, and nothing
//! is guessed in its place.

use crds::{
    GitSync,
    git_sync::{ValuesKind, ValuesReference},
    sync::substitute::Variables,
};
use kube::ResourceExt as _;

use crate::{
    cluster::{Cluster, ClusterError},
    exit,
};

/// Variables, where any are asked for.
#[derive(Debug, Default)]
pub struct Values {
    pub variables: Option<Variables>,
    /// Why some are not known.
    pub unread: Vec<String>,
}

impl Values {
    /// A text without the values of Secrets.
    pub fn mask(&self, text: &str) -> String {
        self.variables.as_ref().map_or_else(|| text.to_owned(), |variables| variables.mask(text))
    }
}

pub async fn read(cluster: &Cluster, sync: &GitSync) -> Values {
    let Some(wanted) = &sync.spec.post_build else { return Values::default() };
    let (mut variables, mut unread) = (Variables::default(), Vec::new());
    for reference in &wanted.substitute_from {
        let why = match from(cluster, sync, reference, &mut variables).await {
            Ok(true) => continue,
            Ok(false) if reference.optional => continue,
            Ok(false) => format!("there is no {:?} {}, which spec.postBuild names", reference.kind, reference.name),
            Err(error) => format!("{}, which spec.postBuild names", exit::chain(&error)),
        };
        unread.push(why);
        variables.doubt();
    }
    for (name, value) in &wanted.substitute {
        variables.set(name, value, false);
    }
    Values { variables: Some(variables), unread }
}

/// Whether it is there.
async fn from(
    cluster: &Cluster,
    sync: &GitSync,
    ValuesReference { kind, name, .. }: &ValuesReference,
    into: &mut Variables,
) -> Result<bool, ClusterError> {
    let namespace = sync.namespace().unwrap_or_default();
    Ok(match kind {
        ValuesKind::ConfigMap => {
            let map = cluster.config_map(&namespace, name).await?;
            map.map(|map| into.take_map(&map)).is_some()
        }
        ValuesKind::Secret => {
            let secret = cluster.secret(&namespace, name).await?;
            secret.map(|secret| into.take_secret(secret.expose())).is_some()
        }
    })
}
