//! Where a sealed value may be opened. This is the only module that builds an OAEP label, so the side that seals and
//! the side that opens cannot disagree about it.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// Annotation of a namespace-wide `SealedSecret` (or of a Secret about to be sealed).
pub const NAMESPACE_WIDE: &str = "sealedsecrets.bitnami.com/namespace-wide";
/// Annotation of a cluster-wide `SealedSecret`; wins over [`NAMESPACE_WIDE`].
pub const CLUSTER_WIDE: &str = "sealedsecrets.bitnami.com/cluster-wide";

/// How far a sealed value may travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Opens only under the name and namespace it was sealed for.
    #[default]
    Strict,
    /// Opens under any name in the namespace it was sealed for.
    NamespaceWide,
    /// Opens under any name in any namespace.
    ClusterWide,
}

impl Scope {
    /// The scope that annotations ask for. Only the exact value `"true"` counts, as upstream has it.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Self {
        let set = |key| annotations.get(key).is_some_and(|value| value == "true");
        if set(CLUSTER_WIDE) {
            Self::ClusterWide
        } else if set(NAMESPACE_WIDE) {
            Self::NamespaceWide
        } else {
            Self::Strict
        }
    }

    /// The annotation that marks this scope; strict has none.
    pub fn annotation(self) -> Option<&'static str> {
        match self {
            Self::Strict => None,
            Self::NamespaceWide => Some(NAMESPACE_WIDE),
            Self::ClusterWide => Some(CLUSTER_WIDE),
        }
    }

    /// The OAEP label that binds a ciphertext to its place.
    pub fn label(self, namespace: &str, name: &str) -> String {
        match self {
            Self::Strict => format!("{namespace}/{name}"),
            Self::NamespaceWide => namespace.to_owned(),
            Self::ClusterWide => String::new(),
        }
    }

    /// The name used on the command line and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::NamespaceWide => "namespace-wide",
            Self::ClusterWide => "cluster-wide",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is none of the three scopes.
#[derive(Debug, thiserror::Error)]
#[error("unknown scope {0:?}: use strict, namespace-wide or cluster-wide")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(word: &str) -> Result<Self, UnknownScope> {
        [Self::Strict, Self::NamespaceWide, Self::ClusterWide]
            .into_iter()
            .find(|scope| scope.as_str() == word)
            .ok_or_else(|| UnknownScope(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(pairs: &[(&str, &str)]) -> Scope {
        Scope::from_annotations(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn labels_are_upstreams() {
        assert_eq!(Scope::Strict.label("shop", "db"), "shop/db");
        assert_eq!(Scope::NamespaceWide.label("shop", "db"), "shop");
        assert_eq!(Scope::ClusterWide.label("shop", "db"), "");
    }

    #[test]
    fn annotations_choose_the_scope() {
        assert_eq!(annotated(&[]), Scope::Strict);
        assert_eq!(annotated(&[(NAMESPACE_WIDE, "true")]), Scope::NamespaceWide);
        assert_eq!(annotated(&[(NAMESPACE_WIDE, "true"), (CLUSTER_WIDE, "true")]), Scope::ClusterWide);
        assert_eq!(annotated(&[(CLUSTER_WIDE, "True"), (NAMESPACE_WIDE, "yes")]), Scope::Strict);
    }

    #[test]
    fn words_round_trip() {
        for scope in [Scope::Strict, Scope::NamespaceWide, Scope::ClusterWide] {
            assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
        }
        assert!("stricter".parse::<Scope>().unwrap_err().to_string().contains("use strict"));
    }
}
