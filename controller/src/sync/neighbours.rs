//! Other GitSyncs that an object may have come from or go to. Those of the same repository are called before anything is
//! deleted, and not waited for for long: none may delay another.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crds::{
    GitSync,
    git_sync::{GitSyncStatus, RECONCILE_REQUESTED},
    sync::inventory::Inventory,
};
use kube::ResourceExt as _;

use super::{State, Syncer, claims::Neighbours, key, object::ObjectId, plan::LiveObject, render::Desired, rollback};
use crate::{calls::call, context::chain};

/// Longest wait for others to look at a revision: that takes them a second.
const LINGER: Duration = Duration::from_mins(1);

impl Syncer {
    pub(super) async fn neighbours(
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
            let others = all.iter().filter_map(|guarded| guarded.0.as_ref().ok());
            for other in others.filter(|other| key(other) != me && self.is_early(other, sync, revision)) {
                self.call(other, revision).await;
                early.push(format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()));
            }
        }
        Neighbours { freed, wanted, early }
    }

    /// Whether it follows the same, and has not come as far.
    fn is_early(&self, other: &GitSync, sync: &GitSync, revision: &str) -> bool {
        let (theirs, ours) = (&other.spec.source, &sync.spec.source);
        let follows = theirs.url == ours.url && theirs.reference == ours.reference;
        let holds = other.status.as_ref().is_some_and(|status| {
            rollback::holding(status).is_some() || status.last_attempted_revision.as_deref() == Some(revision)
        });
        let is_idle = other.spec.suspend || other.metadata.deletion_timestamp.is_some();
        let is_near = other.namespace() == sync.namespace();
        is_near && follows && !holds && !is_idle && !self.claims.lock().is_at(&key(other), revision)
    }

    /// Has it look now, once for a revision.
    async fn call(&self, other: &GitSync, revision: &str) {
        let request = format!("for {revision}");
        if other.annotations().get(RECONCILE_REQUESTED) == Some(&request) {
            return;
        }
        let (namespace, name) = key(other);
        if let Err(error) = call(&self.context.client, (&namespace, &name), &request).await {
            tracing::warn!(namespace, name, error = chain(&error), "cannot have a GitSync look at a new revision");
        }
    }
}
