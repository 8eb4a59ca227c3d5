//! Which kinds there are, and whether they live in a namespace: those the API server serves, and those that the
//! definitions in the same commit will add.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap},
};

use kube::core::{ApiResource, Version, discovery::Scope};
use serde_json::Value;

/// One kind in one version.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// How to ask for it.
    pub resource: ApiResource,
    /// Whether its objects live in a namespace.
    pub scope: Scope,
}

/// Kinds by group, version and name.
#[derive(Clone, Debug, Default)]
pub struct Kinds(HashMap<(String, String, String), Kind>);

impl Kinds {
    /// Adds what definitions among the objects will serve once they are established.
    #[must_use]
    pub fn with_definitions(mut self, objects: impl Iterator<Item = impl Borrow<Value>>) -> Self {
        for object in objects {
            let object = object.borrow();
            if object["kind"] != "CustomResourceDefinition" {
                continue;
            }
            let spec = &object["spec"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let names = (text(&spec["group"]), text(&spec["names"]["kind"]), text(&spec["names"]["plural"]));
            let (Some(group), Some(kind), Some(plural)) = names else { continue };
            let scope = if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
            let versions = spec["versions"].as_array().into_iter().flatten();
            let served = versions.filter(|version| version["served"] != false);
            for version in served.filter_map(|version| text(&version["name"])) {
                let resource = ApiResource {
                    api_version: format!("{group}/{version}"),
                    group: group.clone(),
                    version,
                    kind: kind.clone(),
                    plural: plural.clone(),
                };
                self.add(Kind { resource, scope: scope.clone() });
            }
        }
        self
    }

    /// Looks a kind up.
    pub fn get(&self, group: &str, version: &str, kind: &str) -> Option<&Kind> {
        self.0.get(&(group.to_owned(), version.to_owned(), kind.to_owned()))
    }

    /// Looks up the kind of what is there already: under another version, the most stable one, if its own is not served any
    /// more.
    pub fn find(&self, group: &str, version: &str, kind: &str) -> Option<&Kind> {
        let others = || {
            let same = self.0.values().filter(|it| it.resource.group == group && it.resource.kind == kind);
            same.max_by_key(|it| Version::parse(&it.resource.version).priority())
        };
        self.get(group, version, kind).or_else(others)
    }

    /// As charts ask for them: group/version, and group/version/Kind.
    pub fn apis(&self) -> BTreeSet<String> {
        let names = self.0.values().map(|kind| (&kind.resource.api_version, &kind.resource.kind));
        names.flat_map(|(version, kind)| [version.clone(), format!("{version}/{kind}")]).collect()
    }

    fn add(&mut self, kind: Kind) {
        let ApiResource { group, version, kind: name, .. } = &kind.resource;
        self.0.entry((group.clone(), version.clone(), name.clone())).or_insert(kind);
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        let mut all = Self::default();
        kinds.into_iter().for_each(|kind| all.add(kind));
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_found_under_any_version_that_is_served() {
        let version = |name, served| json!({"name": name, "served": served});
        let definition = |group, versions| {
            let names = json!({"kind": "Widget", "plural": "widgets"});
            json!({"kind": "CustomResourceDefinition", "spec": {"group": group, "names": names, "versions": versions}})
        };
        let definitions = [
            definition("a", json!([version("v1alpha1", true), version("v1beta1", false), version("v1", true)])),
            definition("b", json!([version("v1beta1", true)])),
            definition("c", json!([version("v1beta1", false)])),
        ];
        let kinds = Kinds::default().with_definitions(definitions.iter());
        let found = |group, version| kinds.find(group, version, "Widget").map(|it| it.resource.api_version.as_str());
        assert_eq!(found("a", "v1alpha1"), Some("a/v1alpha1"));
        assert_eq!(found("a", "v1beta1"), Some("a/v1"));
        assert_eq!(found("b", "v1"), Some("b/v1beta1"));
        assert_eq!(found("c", "v1beta1"), None);
        assert_eq!(kinds.get("a", "v1beta1", "Widget"), None, "what is asked for is not guessed");
        assert_eq!(kinds.find("a", "v1", "Gadget"), None);
    }
}
