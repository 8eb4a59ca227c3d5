//! Now and then forgets what is kept for GitSyncs that went, or are others by now. It touches nothing that one of those
//! there are still needs.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{Key, Syncer, guarded_key};

const EVERY: Duration = Duration::from_mins(5);

impl Syncer {
    /// Goes on until it is dropped.
    pub(super) async fn sweep(&self) {
        // Until all GitSyncs are known, none is known to be gone.
        if self.store.wait_until_ready().await.is_err() {
            return;
        }
        let mut turns = tokio::time::interval(EVERY);
        loop {
            turns.tick().await;
            let syncs = self.store.state();
            self.post.keep(syncs.iter().filter_map(|guarded| guarded.0.as_ref().ok()));
            let there: HashSet<Key> = syncs.iter().map(|sync| guarded_key(sync)).collect();
            let mirrors = self.git.mirrors.clone();
            let swept = tokio::task::spawn_blocking(move || mirrors.sweep(|user| there.contains(user), Instant::now()));
            // A defect leaves them for the next turn.
            let _ = swept.await;
        }
    }
}
