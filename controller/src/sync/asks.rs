//! Which news of a GitSync ask for something. What the controller says in its status does not: a failure whose words
//! change from time to time would be tried without a pause. Pure.

use std::collections::HashMap;

use kube::{
    Resource,
    runtime::{Predicate as _, predicates},
};

/// What each asks for, as it was last seen.
#[derive(Debug)]
pub struct Asks<Key>(HashMap<Key, (Option<String>, Option<u64>)>);

impl<Key> Default for Asks<Key> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Key: Eq + std::hash::Hash> Asks<Key> {
    /// Whether this asks for something that was not asked for before.
    pub fn is_new(&mut self, key: Key, object: &impl Resource) -> bool {
        let asked = predicates::generation.combine(predicates::annotations).combine(predicates::finalizers);
        let asks = (object.meta().uid.clone(), asked.hash_property(object));
        self.0.insert(key, asks.clone()) != Some(asks)
    }

    /// All others are gone.
    pub fn keep(&mut self, stays: impl Fn(&Key) -> bool) {
        self.0.retain(|key, _| stays(key));
    }
}

#[cfg(test)]
mod tests {
    use crds::{GitSync, git_sync::GitSyncStatus};

    use super::*;

    #[test]
    fn a_status_asks_for_nothing() {
        let mut asks = Asks::default();
        let mut sync = GitSync::new("app", crds::git_sync::GitSyncSpec::default());
        sync.metadata.generation = Some(1);
        let mut news = |sync: &GitSync| asks.is_new("app", sync);
        assert!(news(&sync));
        sync.status = Some(GitSyncStatus { observed_generation: Some(1), ..GitSyncStatus::default() });
        sync.metadata.resource_version = Some("2".to_owned());
        assert!(!news(&sync));
        sync.metadata.generation = Some(2);
        assert!(news(&sync));
        sync.metadata.annotations = Some([("reconcile.fluxcd.io/requestedAt".to_owned(), "now".to_owned())].into());
        assert!(news(&sync));
        sync.metadata.finalizers = Some(vec!["signet.dev/finalizer".to_owned()]);
        assert!(news(&sync));
        assert!(!news(&sync));
        sync.metadata.uid = Some("another".to_owned());
        assert!(news(&sync));
    }
}
