//! One pass over a GitSync: render, plan, execute, report. Touches the world through the modules it calls and
//! leaves the deciding to the pure ones.

use std::{
    collections::HashMap,
    sync::Arc,
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
use crate::{backoff, context::chain, metrics};

/// Shortest wait between two passes that nothing triggered.
const BREATH: Duration = Duration::from_millis(50);
/// Between two looks at whether others have come as far.
const LOOK: Duration = Duration::from_secs(1);
/// As long as a fetch may take before the cluster is looked at without it. Most do not take as long, and then one look
/// is enough.
const GRACE: Duration = Duration::from_secs(2);

impl Syncer {
    /// Brings the cluster to what Git says, and says how that went.
    pub(super) async fn sync(&self, sync: &Arc<GitSync>, state: &mut State) -> Result<Action, Error> {
        // It ends here where nobody wants to know any more what it comes to.
        let fetch = state.under_way.take().filter(|fetch| fetch.is_from(&sync.spec.source));
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
        if let Err(invalid) = state.understand(sync).await {
            let cause = Cause { reason: "InvalidCELExpression", message: invalid.to_string() };
            self.report(sync, state, status, Verdict::Stalled(cause)).await?;
            return Ok(Action::await_change());
        }
        if sync.spec.suspend {
            return Ok(Action::await_change());
        }
        state.fetching.call = self.calls.lock().get(&key(sync)).cloned();
        let (observed, began) = (status.observed_generation, Timestamp::now());
        let over = fetch.and_then(|fetch| self.take_in(sync, state, fetch, interval));
        // What came is looked at before more is asked for.
        if over.is_none() && state.under_way.is_none() && state.fetching.is_due(sync, Instant::now()) {
            let trigger = state.record.trigger(sync, observed, true, state.fetching.request(sync));
            self.begin(sync, state, Pass { trigger, began }, interval);
            if state.fetching.knows(&sync.spec.source) {
                return Ok(Action::requeue(GRACE));
            }
        }
        if !state.fetching.knows(&sync.spec.source) {
            // Whatever was there before stays as it is until more is known.
            return Ok(Action::requeue(interval));
        }
        let pass = Pass { trigger: state.record.trigger(sync, observed, over.is_some(), None), began };
        let (pass, span) = match over {
            Some((asked, span)) => (pass.after(asked), span),
            None => (pass, spans::pass(sync, pass.trigger, state.waiting.as_ref())),
        };
        self.follow(sync, state, status, pass, (interval, timeout)).instrument(span).await
    }

    /// Keeps the cluster as what is known of Git says.
    async fn follow(
        &self,
        sync: &GitSync,
        state: &mut State,
        mut status: GitSyncStatus,
        pass: Pass,
        (interval, timeout): (Duration, Duration),
    ) -> Result<Action, Error> {
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
        // What is under way says itself when it is over.
        let mut wait = if state.under_way.is_some() { interval } else { state.fetching.wait(sync, Instant::now()) };
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
        state.lingers = false;
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
        state.record.attempted(sync, status.last_attempted_revision.as_deref().unwrap_or_default(), pass);
        let applied = match state.good.clone() {
            Some(good) => match self.blocked(sync, status, &good.revision, &state.expressions).await {
                Some(cause) if cause.reason == depends::CYCLE => Verdict::Stalled(cause),
                Some(cause) => Verdict::Waiting(cause),
                None => {
                    state.record.applying(&good.revision, pass);
                    self.apply(sync, state, status, &good, timeout, &cluster).await?
                }
            },
            None => Verdict::Progressing("waiting for the first commit".to_owned()),
        };
        Ok(match status::overall(unrendered, applied, state.fetching.error.clone()) {
            Verdict::Failed(Cause { message, .. }) if state.fetching.wants() => Verdict::Progressing(message),
            verdict => verdict,
        })
    }

    /// What another revision waits for. Drift of this one is healed without waiting.
    async fn blocked(
        &self,
        sync: &GitSync,
        status: &GitSyncStatus,
        revision: &str,
        expressions: &Arc<Expressions>,
    ) -> Option<Cause> {
        if sync.spec.depends_on.is_empty() || status.last_applied_revision.as_deref() == Some(revision) {
            return None;
        }
        let (all, me, expressions) = (self.store.state(), key(sync), expressions.clone());
        // One that was rolled back goes back alone.
        let revision = rollback::holding(status).is_none().then(|| revision.to_owned());
        let decide = move || {
            let known = all.iter().filter_map(|it| Some((guarded_key(it), it.0.as_ref().ok()?))).collect();
            depends::blocked(&me, revision.as_deref(), &known, &expressions)
        };
        // Whoever wrote the expressions may have them take long.
        tokio::task::spawn_blocking(decide).await.unwrap_or_else(|_| {
            let message = "whether what spec.dependsOn names is ready could not be told".to_owned();
            Some(Cause { reason: depends::NOT_READY, message })
        })
    }

    /// Deletes what was applied, before the GitSync itself may go.
    pub(super) async fn cleanup(&self, sync: &GitSync, state: &mut State) -> Result<Action, Error> {
        state.under_way = None;
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
        let served = cluster.watch(&kinds).await?;
        let me = key(sync);
        let known = cluster.seen(&me, &[], &inventory, &served).await?;
        let stages = plan::teardown(
            Known { live: &known, applied: &state.applied, inventory: &inventory, health: &HashMap::new() },
            (&me.0, &me.1),
        );
        let going: Vec<ObjectId> = stages.iter().flatten().filter_map(Step::pruned).cloned().collect();
        let revision = status.last_applied_revision.or(status.last_attempted_revision).unwrap_or_default();
        let (pass, said) = (Pass { trigger: Trigger::Deletion, began: Timestamp::now() }, Description::default());
        state.record.attempted(sync, &revision, pass);
        state.record.applying(&revision, pass);
        let tell = self.tell(sync, state, &revision, &said);
        let done = execute(&cluster.hands.of(sync), &cluster.live, &known, &served, stages, &tell).await;
        state.record.did(done.acts.iter().map(|(_, how)| *how));
        self.sum_up(sync, state, &said);
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
