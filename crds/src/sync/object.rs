//! What an object is called, how Flux spells it, and what of it is applied. Pure.

use std::fmt;

use kube::Resource as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::SealedSecret;

/// An object's identity. The API version is no part of it: a new version is the same object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Empty for what belongs to no namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
}

impl ObjectId {
    /// Flux's spelling: `namespace_name_group_kind`, with the colons of RBAC names doubled into underscores.
    pub fn inventory_id(&self) -> String {
        let Self { namespace, name, group, kind } = self;
        format!("{namespace}_{}_{group}_{kind}", name.replace(':', "__"))
    }

    /// Reads [`Self::inventory_id`]. `None` for what is no such text.
    pub fn from_inventory(id: &str) -> Option<Self> {
        let (namespace, rest) = id.split_once('_')?;
        let (rest, kind) = rest.rsplit_once('_')?;
        let (name, group) = rest.rsplit_once('_')?;
        let whole = !name.is_empty() && !kind.is_empty();
        whole.then(|| Self {
            namespace: namespace.to_owned(),
            name: name.replace("__", ":"),
            group: group.to_owned(),
            kind: kind.to_owned(),
        })
    }

    /// Whether it is a SealedSecret.
    pub fn is_sealed(&self) -> bool {
        self.group == SealedSecret::group(&()) && self.kind == SealedSecret::kind(&())
    }

    /// Whether what is not its own goes with it: what is in it, or written there.
    pub fn holds_others(&self) -> bool {
        matches!(
            (self.group.as_str(), self.kind.as_str()),
            ("", "Namespace" | "PersistentVolume" | "PersistentVolumeClaim")
                | ("apiextensions.k8s.io", "CustomResourceDefinition")
        )
    }

    /// Whether it is never pruned, whatever Git says: the loss would take Signet or the cluster with it.
    pub fn is_vital(&self, own_namespace: &str) -> bool {
        match (self.group.as_str(), self.kind.as_str()) {
            ("", "Namespace") => {
                let kept = ["default", "kube-system", "kube-public", "kube-node-lease", own_namespace];
                kept.contains(&self.name.as_str())
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                ["gitsyncs.signet.dev", "sealedsecrets.bitnami.com"].contains(&self.name.as_str())
            }
            _ => false,
        }
    }
}

/// As people write it: `Deployment shop/web`.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// What is applied, kept as JSON text: thousands of trees of it would take five times the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest(Box<str>);

impl Manifest {
    /// As it stands in that text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The tree of it.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<&Value> for Manifest {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl Serialize for Manifest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fluxs_and_read_back() {
        let id = |namespace: &str, name: &str, group: &str, kind: &str| ObjectId {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
        };
        for (object, text) in [
            (id("shop", "web", "apps", "Deployment"), "shop_web_apps_Deployment"),
            (id("", "shop", "", "Namespace"), "_shop__Namespace"),
            (
                id("", "system:a:b", "rbac.authorization.k8s.io", "ClusterRole"),
                "_system__a__b_rbac.authorization.k8s.io_ClusterRole",
            ),
            (id("shop", "a:b", "", "Role"), "shop_a__b__Role"),
        ] {
            assert_eq!(object.inventory_id(), text);
            assert_eq!(ObjectId::from_inventory(text), Some(object));
        }
        for bad in ["", "a_b", "a_b_c", "____"] {
            assert_eq!(ObjectId::from_inventory(bad), None, "{bad}");
        }
    }
}
