//! Other GitSyncs that an object may have come from or go to. Those of the same repository are called before anything is
//! deleted, and not waited for for long: none may delay another.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crds::{GitSync, git_sync::GitSyncStatus, sync::inventory::Inventory};
use kube::ResourceExt as _;

use super::{
    Key, State, Syncer, claims::Neighbours, key, object::ObjectId, plan::LiveObject, render::Desired, rollback,
};

/// Longest wait for others to look at a revision: that takes them a second.
const LINGER: Duration = Duration::from_mins(1);

impl Syncer {
    pub(super) fn neighbours(
        &self,
        sync: &GitSync,
        (state, status): (&State, &GitSyncStatus),
        revision: &str,
        (desired, inventory, live): (&[Desired], &Inventory, &HashMap<ObjectId, LiveObject>),
    ) -> Neighbours {
        let me = key(sync);
        let stays: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
        let going: HashSet<&ObjectId> = inventory.objects.keys().filter(|id| !stays.contains(id)).collect();
        let (freed, wanted) = {
            let claims = self.claims.lock();
            (claims.freed(&me, live), claims.wanted(&me, &going))
        };
        let mut early = Vec::new();
        let is_soon = state.since.as_ref().is_some_and(|(_, since)| since.elapsed() < LINGER);
        if going.len() > wanted.len() && is_soon && rollback::holding(status).is_none() {
            let all = self.store.state();
            let others = all.iter().filter_map(|guarded| guarded.0.as_ref().ok()).filter(|other| key(other) != me);
            for other in others.filter(|other| self.claims.lock().is_early(other, sync, revision)) {
                self.call(key(other), revision);
                early.push(format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()));
            }
        }
        Neighbours { freed, wanted, early }
    }

    /// Has it look at Git now, once for a revision.
    fn call(&self, other: Key, revision: &str) {
        let before = self.calls.lock().insert(other.clone(), revision.to_owned());
        if before.as_deref() != Some(revision) {
            // Nobody hears it once the sync has ended.
            let _ = self.news.send(other);
        }
    }
}
