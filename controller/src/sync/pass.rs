//! One pass over a GitSync: render, plan, execute, report. Touches the world through the modules it calls and
//! leaves the deciding to the pure ones.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crds::{
    GitSync,
    git_sync::{DeletionPolicy, GitSyncStatus},
    sync::{history::Trigger, inventory::Inventory},
};
use jiff::Timestamp;
use kube::{ResourceExt as _, runtime::controller::Action};
use tracing::Instrument as _;

use super::{
    Error, Good, State, Syncer,
    audit::Pass,
    claims::Claim,
    depends,
    execute::execute,
    expressions::Expressions,
    guarded_key,
    hands::AccountError,
    key,
    look::kinds_of,
    object::ObjectId,
    plan::{self, Known, Step},
    rollback,
    source::Description,
    spans,
    status::{self, Cause, Verdict},
    tell::current_status,
};
use crate::{
    backoff,
    context::chain,
    metrics,
    traces::{self, span},
};

/// Shortest wait between two passes that nothing triggered.
const BREATH: Duration = Duration::from_millis(50);
/// Between two looks at whether others have come as far.
const LOOK: Duration = Duration::from_secs(1);

impl Syncer {
    /// Brings the cluster to what Git says, and says how that went.
    pub(super) async fn sync(&self, sync: &GitSync, state: &mut State) -> Result<Action, Error> {
        let status = current_status(sync, state);
        let times = sync.spec.interval().and_then(|interval| Ok((interval, sync.spec.timeout()?)));
        let (interval, timeout) = match times {
            Ok((interval, timeout)) => (interval.unsigned_abs(), timeout.unsigned_abs()),
            Err(error) => {
                let cause = Cause { reason: "InvalidSpec", message: error.to_string() };
                self.report(sync, state, status, Verdict::Stalled(cause)).await?;
                return Ok(Action::await_change());
            }
        };
        if let Err(invalid) = state.understand(sync) {
            let cause = Cause { reason: "InvalidCELExpression", message: invalid.to_string() };
            self.report(sync, state, status, Verdict::Stalled(cause)).await?;
            return Ok(Action::await_change());
        }
        if sync.spec.suspend {
            return Ok(Action::await_change());
        }
        let (is_due, began) = (state.fetching.is_due(sync, Instant::now()), Timestamp::now());
        let pass = Pass { trigger: state.record.trigger(sync, status.observed_generation, is_due), began };
        let span = spans::pass(sync, pass.trigger, state.waiting.as_ref());
        self.follow(sync, state, status, (pass, is_due), (interval, timeout)).instrument(span).await
    }

    /// Looks at Git where that is due, and at the cluster.
    async fn follow(
        &self,
        sync: &GitSync,
        state: &mut State,
        mut status: GitSyncStatus,
        (pass, is_due): (Pass, bool),
        (interval, timeout): (Duration, Duration),
    ) -> Result<Action, Error> {
        if is_due {
            let span = span!("fetch");
            let fetched = state.fetching.fetch(&self.context.client, &self.git.mirrors, sync, interval);
            let outcome = fetched.instrument(span.clone()).await;
            let named = outcome.as_ref().map_or_else(|missed| missed.0.cause().reason, |_| "success");
            traces::ended(&span, named, outcome.is_err());
            self.context.metrics.git_fetches.get_or_create(&metrics::Outcome { outcome: named }).inc();
            self.context.metrics.git_syncs.asked(&key(sync), Timestamp::now());
            state.fetching.done(sync, outcome, interval, Instant::now());
            // What they are read from is not watched.
            state.variables = None;
        }
        let verdict = match self.bring(sync, state, &mut status, (pass, timeout)).await {
            // The cluster cannot be seen: that too is for whoever looks at the GitSync.
            Err(error @ (Error::Discovery(_) | Error::Watch(_))) => {
                Verdict::Failed(Cause { reason: "ReconciliationFailed", message: chain(&error) })
            }
            Err(Error::Account(error)) => Verdict::Failed(Cause { reason: "AccessDenied", message: chain(&error) }),
            verdict => verdict?,
        };
        state.failures = if verdict.is_failure() { state.failures.saturating_add(1) } else { 0 };
        state.waiting = spans::passed(status.last_attempted_revision.as_deref(), &verdict, state.waiting.take());
        let outcome = verdict.reason();
        if self.report(sync, state, status, verdict).await? {
            self.context.metrics.syncs.get_or_create(&metrics::Outcome { outcome }).inc();
        }
        let mut wait = state.fetching.wait(Instant::now());
        if let Some((_, since)) = &state.since
            && since.elapsed() < timeout
        {
            wait = wait.min(timeout.saturating_sub(since.elapsed()));
        }
        if state.failures > 0 {
            wait = wait.min(backoff::after(state.failures));
        }
        if state.lingers {
            wait = wait.min(LOOK);
        }
        if let Some(rest) = state.fights.wait(Instant::now()) {
            wait = wait.min(rest);
        }
        Ok(Action::requeue(wait.max(BREATH)))
    }

    /// Makes objects of the newest commit, and the cluster as the newest good one says.
    async fn bring(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        (pass, timeout): (Pass, Duration),
    ) -> Result<Verdict, Error> {
        let cluster = match self.cluster(sync, state).await {
            Ok(cluster) => cluster,
            Err(error) => return Ok(Verdict::Failed(error.cause())),
        };
        if let Some(cause) = cluster.moved_from(status) {
            return Ok(Verdict::Stalled(cause));
        }
        if let Some(cause) = cluster.absent().await {
            return Ok(Verdict::Failed(cause));
        }
        let unrendered = self.render(sync, state, status, &cluster).await?;
        if let Some(Good { revision, desired, .. }) = &state.good {
            let (server, revision, desired) = (cluster.server().map(str::to_owned), revision.clone(), desired.clone());
            self.claims.lock().claim(key(sync), Claim { server, revision, desired });
        }
        state.lingers = false;
        state.record.attempted(sync, status.last_attempted_revision.as_deref().unwrap_or_default(), pass);
        let applied = match state.good.clone() {
            Some(good) => match self.blocked(sync, status, &good.revision, &state.expressions) {
                Some(cause) if cause.reason == depends::CYCLE => Verdict::Stalled(cause),
                Some(cause) => Verdict::Waiting(cause),
                None => {
                    state.record.applying(&good.revision, pass);
                    self.apply(sync, state, status, &good, timeout, &cluster).await?
                }
            },
            None => Verdict::Progressing("waiting for the first commit".to_owned()),
        };
        Ok(status::overall(unrendered, applied, state.fetching.error.clone()))
    }

    /// What another revision waits for. Drift of this one is healed without waiting.
    fn blocked(
        &self,
        sync: &GitSync,
        status: &GitSyncStatus,
        revision: &str,
        expressions: &Expressions,
    ) -> Option<Cause> {
        if sync.spec.depends_on.is_empty() || status.last_applied_revision.as_deref() == Some(revision) {
            return None;
        }
        let all = self.store.state();
        let known = all.iter().filter_map(|guarded| Some((guarded_key(guarded), guarded.0.as_ref().ok()?))).collect();
        // One that was rolled back goes back alone.
        let revision = rollback::holding(status).is_none().then_some(revision);
        depends::blocked(&key(sync), revision, &known, expressions)
    }

    /// Deletes what was applied, before the GitSync itself may go.
    pub(super) async fn cleanup(&self, sync: &GitSync, state: &mut State) -> Result<Action, Error> {
        // The watch has not caught up with what the last pass did.
        if state.is_over {
            return Ok(Action::await_change());
        }
        let status = current_status(sync, state);
        let inventory = status.inventory.clone().unwrap_or_default();
        let policy = sync.spec.deletion_policy;
        let prunes = match policy {
            DeletionPolicy::MirrorPrune => sync.spec.prune,
            DeletionPolicy::Delete | DeletionPolicy::WaitForTermination => true,
            DeletionPolicy::Orphan => false,
        };
        if !prunes || sync.spec.suspend {
            tracing::info!(namespace = sync.namespace(), name = sync.name_any(), "GitSync goes; its objects stay");
            return Ok(Action::await_change());
        }
        if inventory.objects.is_empty() {
            return Ok(Action::await_change());
        }
        let cluster = match (self.cluster(sync, state).await, state.cluster.clone()) {
            (Ok(cluster), _) => cluster,
            // It went with the namespace that goes: who was let in still is.
            (Err(error), Some(cluster)) if error.is_gone() => cluster,
            (Err(error), None) if error.is_gone() => {
                let (namespace, name) = key(sync);
                tracing::warn!(namespace, name, error = chain(&error), "GitSync goes; its objects stay");
                return Ok(Action::await_change());
            }
            (Err(error), _) => return self.stays(sync, state, inventory, chain(&error)).await,
        };
        let absent = match cluster.moved_from(&status) {
            None => cluster.absent().await,
            moved => moved,
        };
        if let Some(Cause { message, .. }) = absent {
            return self.stays(sync, state, inventory, message).await;
        }
        match cluster.hands.check(sync).await {
            // Nobody has the right to delete them any more, and the GitSync shall not be stuck for that.
            Err(error @ AccountError::Missing(_)) => {
                let (namespace, name) = key(sync);
                tracing::warn!(namespace, name, error = chain(&error), "GitSync goes; its objects stay");
                return Ok(Action::await_change());
            }
            Err(error) => return self.stays(sync, state, inventory, chain(&error)).await,
            Ok(()) => {}
        }
        let kinds = kinds_of(&[], &inventory);
        let served = cluster.served(&kinds).await?;
        cluster.watch(&served, &kinds).await?;
        let me = key(sync);
        let known = cluster.seen(&me, &[], &inventory, &served).await?;
        let stages = plan::teardown(
            Known { live: &known, applied: &state.applied, inventory: &inventory, health: &HashMap::new() },
            (&me.0, &me.1),
        );
        let going: Vec<ObjectId> = stages.iter().flatten().filter_map(Step::pruned).cloned().collect();
        let done = execute(&cluster.hands.of(sync), &cluster.live, &known, &served, stages).await;
        let revision = status.last_applied_revision.or(status.last_attempted_revision).unwrap_or_default();
        let (pass, said) = (Pass { trigger: Trigger::Deletion, began: Timestamp::now() }, Description::default());
        state.record.attempted(sync, &revision, pass);
        state.record.applying(&revision, pass);
        self.tell(sync, state, &revision, &said, &done);
        self.sum_up(sync, state, &said).await;
        if !done.unpruned.is_empty() {
            let waits = policy == DeletionPolicy::WaitForTermination;
            let inventory = if waits { inventory } else { plan::settle(&inventory, &done.gone) };
            return self.stays(sync, state, inventory, status::list(done.unpruned.iter())).await;
        }
        if policy == DeletionPolicy::WaitForTermination {
            let mut there: Vec<ObjectId> = cluster.live.find(going.iter()).into_keys().collect();
            there.sort();
            if !there.is_empty() {
                let why = format!("waiting until they are gone: {}; see their finalizers", status::list(there.iter()));
                return self.stays(sync, state, inventory, why).await;
            }
        }
        tracing::info!(namespace = me.0, name = me.1, "GitSync goes, and its objects with it");
        state.is_over = true;
        Ok(Action::await_change())
    }

    /// The GitSync cannot go yet; says why, and tries again.
    async fn stays(
        &self,
        sync: &GitSync,
        state: &mut State,
        inventory: Inventory,
        why: String,
    ) -> Result<Action, Error> {
        let mut status = current_status(sync, state);
        status.inventory = Some(inventory);
        let cause = Cause { reason: "PruneFailed", message: why.clone() };
        self.report(sync, state, status, Verdict::Failed(cause)).await?;
        Err(Error::Teardown(why))
    }
}
