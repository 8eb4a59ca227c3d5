//! Brings the cluster to what a good rendering says: wave after wave, with the inventory written before and after. What
//! is done is the plan's to say.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crds::{
    GitSync,
    git_sync::{APPROVE, Drift, GitSyncStatus, HistoryEntry, SyncPolicy},
    sync::hook::Progress,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tracing::field::Empty;

use super::{
    Error, Good, State, Syncer,
    claims::Neighbours,
    clusters::Cluster,
    drift::Drift as Drifted,
    execute::{Done, execute},
    guarded_key,
    health::Health,
    hooks::Hooks,
    key,
    look::kinds_of,
    object::ObjectId,
    plan::{self, Held, Known, Plan, Policy, plan},
    render::{Problem, definitions},
    rollback,
    status::{self, Cause, Opened, Verdict},
};
use crate::{
    metrics,
    traces::{count, span},
};

/// Revisions that are remembered.
const HISTORY: usize = 10;

/// What came of all waves: the last plan, and what it did not do.
struct Outcome<'a> {
    planned: Plan<'a>,
    neighbours: Neighbours,
    unhealthy: Vec<(ObjectId, Health)>,
    drifts: Vec<Drifted>,
    failed: Vec<Problem>,
    unpruned: Vec<String>,
    /// How SealedSecrets fare.
    opened: Vec<(Problem, Opened)>,
}

impl Syncer {
    /// Makes the cluster as a good rendering says, and says how that went.
    pub(super) async fn apply(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        good: &Good,
        timeout: Duration,
        cluster: &Cluster,
    ) -> Result<Verdict, Error> {
        let revision = &good.revision;
        let since = match state.since.take() {
            Some((under_way, since)) if under_way == *revision => since,
            _ => Instant::now(),
        };
        state.since = Some((revision.clone(), since));
        let outcome = self.bring_about(sync, state, status, good, cluster).await?;
        let verdict = self.conclude(sync, state, status, good, outcome, since.elapsed() >= timeout);
        self.sum_up(sync, state, &good.said);
        if let (Some(run), Verdict::Failed(_)) = (&mut status.hooks, &verdict) {
            run.failed = true;
        }
        Ok(verdict)
    }

    /// Wave after wave: each round ends with nothing new, or with less to do. The inventory is written before anything
    /// is, and made smaller after.
    async fn bring_about<'a>(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        Good { revision, desired, said, .. }: &'a Good,
        cluster: &Cluster,
    ) -> Result<Outcome<'a>, Error> {
        let me = key(sync);
        let others: HashSet<_> =
            self.store.state().iter().map(|other| guarded_key(other)).filter(|other| *other != me).collect();
        let applied_at = status.history.first().map(|entry| entry.applied_at.0.as_second());
        let seed = format!("{:?} {applied_at:?}", state.fetching.handled());
        let approved = sync.annotations().get(APPROVE).cloned();
        let last = status.history.first().map(|entry| entry.digest.clone());
        let allowed: Vec<String> = approved.into_iter().chain(last.clone()).collect();
        let policy = Policy {
            me: (&me.0, &me.1),
            prune: sync.spec.prune,
            others: &others,
            neighbours: &Neighbours::default(),
            ask: sync.spec.sync_policy == SyncPolicy::Manual,
            leave_drift: sync.spec.drift == Drift::Report,
            allowed: &allowed,
            leave: None,
            hooks: Hooks::default(),
            resting: &HashSet::new(),
        };
        let hands = cluster.hands.of(sync);
        loop {
            let resting = state.fights.resting(Instant::now());
            let inventory = status.inventory.clone().unwrap_or_default();
            plan::forget(&mut state.applied, desired, &inventory);
            let kinds = kinds_of(desired, &inventory);
            let served = cluster.watch(&kinds).await?;
            let known = cluster.seen(&me, desired, &inventory, &served).await?;
            let kinds = served.as_ref().clone().with_definitions(definitions(desired));
            let health = self.assess(sync, desired, &known, &kinds, state, cluster).await;
            let seen = Known { live: &known, applied: &state.applied, inventory: &inventory, health: &health };
            let hooks = Hooks { record: status.hooks.as_ref(), last: last.as_deref(), seed: &seed };
            let neighbours = self.neighbours(sync, (state, status), revision, (desired, &inventory, &known));
            let leave = state.leave.take();
            let leave = leave.as_ref();
            let policy = Policy { hooks, resting: &resting, neighbours: &neighbours, leave, ..policy.clone() };
            let span = span!("plan", revision, steps = Empty);
            let mut planned = span.in_scope(|| plan(desired, seen, &policy));
            span.record("steps", count(planned.stages.iter().map(Vec::len).sum()));
            state.leave = planned.leave.take();
            if planned.stages.is_empty() {
                let kept = desired.iter().filter(|object| object.marks.hook.is_none());
                let health = kept.filter_map(|object| Some((object.id.clone(), health.get(&object.id)?.clone())));
                let mut unhealthy: Vec<_> = health.filter(|(_, health)| *health != Health::Healthy).collect();
                unhealthy.sort_by(|(one, _), (other, _)| one.cmp(other));
                if planned.inventory != inventory {
                    status.inventory = Some(planned.inventory.clone());
                }
                cluster.mark(status);
                status.hooks.clone_from(&planned.hooks);
                let drifts = self.differences(&hands, &planned.drifted, desired, &known, &kinds, state).await;
                let opened = self.sealed(desired, cluster, &state.health);
                let (failed, unpruned) = (Vec::new(), Vec::new());
                return Ok(Outcome { planned, neighbours, unhealthy, drifts, failed, unpruned, opened });
            }
            cluster.hands.check(sync).await?;
            if planned.inventory != inventory || planned.hooks != status.hooks {
                status.inventory = Some(planned.inventory.clone());
                status.hooks.clone_from(&planned.hooks);
                cluster.mark(status);
                let verdict = Verdict::Progressing(format!("applying {revision}"));
                self.report(sync, state, status.clone(), verdict).await?;
            }
            let stages = std::mem::take(&mut planned.stages);
            let tell = self.tell(sync, state, revision, said);
            let done = execute(&hands, &cluster.live, &known, &kinds, stages, &tell).await;
            state.record.did(done.acts.iter().map(|(_, how)| *how));
            if done.defined {
                cluster.discover().await?;
            }
            self.healed(sync, state, revision, &done);
            status.inventory = Some(plan::settle(&planned.inventory, &done.gone));
            cluster.mark(status);
            state.applied.retain(|id, _| !done.gone.contains(id));
            state.health.retain(|id, _| !done.gone.contains(id));
            state.applied.extend(done.applied);
            let Done { failed, unpruned, .. } = done;
            if !failed.is_empty() || !unpruned.is_empty() {
                let (unhealthy, drifts, opened) = (Vec::new(), Vec::new(), Vec::new());
                return Ok(Outcome { planned, neighbours, unhealthy, drifts, failed, unpruned, opened });
            }
        }
    }

    /// What all of that means.
    fn conclude(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        Good { revision, desired, said, .. }: &Good,
        Outcome { planned, neighbours, unhealthy, drifts, failed, unpruned, opened }: Outcome<'_>,
        is_late: bool,
    ) -> Verdict {
        status.plan = planned.pending;
        if failed.is_empty() && unpruned.is_empty() {
            state.facts = vec![status::healthy(&unhealthy), status::drifted(&drifts, sync.spec.drift == Drift::Report)];
        }
        let failed: Vec<&Problem> = planned.refused.iter().chain(&failed).collect();
        let cause = |reason, message| Cause { reason, message };
        if !failed.is_empty() {
            return Verdict::Failed(cause("ReconciliationFailed", status::list(failed.into_iter())));
        }
        if !unpruned.is_empty() {
            return Verdict::Failed(cause("PruneFailed", status::list(unpruned.iter())));
        }
        if let (Some(pending), None) = (&status.plan, &planned.refused_prune) {
            let me = key(sync);
            let how = plan::command((&me.0, &me.1), &pending.digest);
            let message = format!("{revision}: its plan, see status.plan, waits to be allowed: {how}");
            return Verdict::Waiting(cause("ApprovalRequired", message));
        }
        if let Some(Held { turn, by }) = &planned.held {
            let what = format!("{revision}: {turn}: ");
            let failed = status.hooks.iter().flat_map(|run| &run.hooks).any(|hook| hook.state == Progress::Failed);
            return match status::awaited(&what, by, is_late) {
                Some(Verdict::Failed(Cause { message, .. })) if failed => {
                    let again = "; it is run again with the next change, or when a sync is requested";
                    Verdict::Failed(cause("HookFailed", format!("{message}{again}")))
                }
                awaited => awaited.unwrap_or(Verdict::Progressing(what)),
            };
        }
        if planned.lingering > 0 {
            state.lingers = true;
            let (count, others) = (planned.lingering, neighbours.early.join(", "));
            return Verdict::Progressing(format!(
                "{revision}: {count} to be deleted, once {others} can have taken them over"
            ));
        }
        if let Some(refused) = planned.refused_prune {
            return Verdict::Waiting(cause("PruneRefused", refused));
        }
        let opened = status::judge_sealed(opened.into_iter(), is_late);
        let unhealthy = if sync.spec.wait { unhealthy } else { Vec::new() };
        if opened.is_none() && unhealthy.is_empty() {
            state.since = None;
        }
        status.last_applied_revision = Some(revision.clone());
        status.hooks = None;
        let digest = planned.digest;
        let last = status.history.first().filter(|last| last.revision == *revision && last.digest == digest);
        let is_new = last.is_none();
        if is_new {
            let now = Timestamp::now();
            self.context.metrics.git_syncs.applied(&key(sync), revision, status.history.is_empty(), now);
            status.history.insert(0, HistoryEntry::new(revision.clone(), digest, Time(now)));
            status.history.truncate(HISTORY);
        }
        let entry = status.history.first_mut().filter(|_| is_new);
        if let Some(trigger) = state.record.whole(entry, desired, said, Timestamp::now()) {
            let trigger = metrics::Triggered { trigger: trigger.into() };
            self.context.metrics.sync_revisions.get_or_create(&trigger).inc();
        }
        let waits = || status::awaited("", &unhealthy, is_late);
        opened.or_else(waits).unwrap_or_else(|| {
            let rolled_back = rollback::holding(status).map_or(String::new(), |pin| {
                format!("; rolled back by an annotation, until a commit comes after {}", pin.newest)
            });
            Verdict::Ready(format!("Applied revision: {revision}{rolled_back}"))
        })
    }
}
