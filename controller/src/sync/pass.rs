//! One pass over a GitSync: fetch, render, plan, execute, report. Touches the world through the modules it calls and
//! leaves the deciding to the pure ones.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{
    GitSync, SealedSecret,
    git_sync::{GitSyncStatus, Inventory},
};
use jiff::Timestamp;
use kube::{
    Discovery, Resource as _, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    Error, Good, Guarded, Origin, State, Syncer,
    execute::{Done, execute},
    fetch, key,
    kinds::Kinds,
    object::ObjectId,
    plan::{self, Known, Policy, Why, plan},
    render::{self, Desired, Documents, Owner, Problem, SourceFile},
    source::Commit,
    status::{self, Cause, Opened, Verdict},
};
use crate::{
    backoff,
    calls::{bounded, write_status},
    context::chain,
    events::Severity,
    metrics,
};

/// Group, version and kind.
type KindName = (String, String, String);

/// Shortest wait between two passes that nothing triggered.
const BREATH: Duration = Duration::from_millis(50);

impl Syncer {
    /// Brings the cluster to what Git says, and says how that went.
    pub(super) async fn sync(&self, sync: &GitSync, state: &mut State) -> Result<Action, Error> {
        let mut status = current_status(sync, state);
        let interval = match sync.spec.interval() {
            Ok(interval) => interval.unsigned_abs(),
            Err(error) => {
                let cause = Cause { reason: "InvalidSpec", message: error.to_string() };
                self.report(sync, state, status, Verdict::Stalled(cause)).await?;
                return Ok(Action::await_change());
            }
        };
        if sync.spec.suspend {
            return Ok(Action::await_change());
        }
        if state.fetching.is_due(sync, Instant::now()) {
            let outcome = fetch::fetch(&self.context.client, &self.mirrors, sync).await;
            let named = outcome.as_ref().map_or_else(|(error, _)| error.cause().reason, |_| "success");
            self.context.metrics.git_fetches.get_or_create(&metrics::Outcome { outcome: named }).inc();
            state.fetching.done(sync, outcome, interval, Instant::now());
        }
        let verdict = match self.bring(sync, state, &mut status).await {
            // The cluster cannot be seen: that too is for whoever looks at the GitSync.
            Err(error @ (Error::Discovery(_) | Error::Watch(_))) => {
                Verdict::Failed(Cause { reason: "ReconciliationFailed", message: chain(&error) })
            }
            verdict => verdict?,
        };
        state.failures = if verdict.is_failure() { state.failures.saturating_add(1) } else { 0 };
        let outcome = verdict.reason();
        if self.report(sync, state, status, verdict).await? {
            self.context.metrics.syncs.get_or_create(&metrics::Outcome { outcome }).inc();
        }
        let mut wait = state.fetching.wait(Instant::now());
        if state.failures > 0 {
            wait = wait.min(backoff::after(state.failures));
        }
        Ok(Action::requeue(wait.max(BREATH)))
    }

    /// Makes objects of the newest commit, and the cluster as the newest good one says.
    async fn bring(&self, sync: &GitSync, state: &mut State, status: &mut GitSyncStatus) -> Result<Verdict, Error> {
        let unrendered = self.render(sync, state, status).await?;
        let applied = match state.good.clone() {
            Some(good) => self.apply(sync, state, status, &good).await?,
            None => Verdict::Progressing("waiting for the first commit".to_owned()),
        };
        Ok(status::overall(unrendered, applied, state.fetching.error.clone()))
    }

    /// Deletes what was applied, before the GitSync itself may go.
    pub(super) async fn cleanup(&self, sync: &GitSync, state: &mut State) -> Result<Action, Error> {
        let inventory = current_status(sync, state).inventory.unwrap_or_default();
        if !sync.spec.prune || sync.spec.suspend {
            tracing::info!(namespace = sync.namespace(), name = sync.name_any(), "GitSync goes; its objects stay");
            return Ok(Action::await_change());
        }
        let kinds = kinds_of(&[], &inventory);
        let served = self.served(&kinds).await?;
        self.watch(&served, &kinds).await?;
        let known = self.live.find(ids(&inventory).iter());
        let me = key(sync);
        let stages =
            plan::teardown(Known { live: &known, applied: &state.applied, inventory: &inventory }, (&me.0, &me.1));
        let done = execute(&self.hands, &self.live, &known, &served, stages).await;
        if done.unpruned.is_empty() {
            let pruned = done.pruned.len();
            tracing::info!(namespace = me.0, name = me.1, pruned, "GitSync goes, and its objects with it");
            return Ok(Action::await_change());
        }
        let why = status::list(done.unpruned.iter());
        let mut status = current_status(sync, state);
        status.inventory = Some(plan::settle(&inventory, &[].into(), &done.gone));
        let cause = Cause { reason: "PruneFailed", message: why.clone() };
        self.report(sync, state, status, Verdict::Failed(cause)).await?;
        Err(Error::Teardown(why))
    }

    /// Makes objects of the newest commit. Answers why that is not possible; then the last good commit stays.
    async fn render(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
    ) -> Result<Option<Cause>, Error> {
        let Some(commit) = state.fetching.commit.clone() else { return Ok(None) };
        let origin = Origin {
            revision: format!("{}@sha1:{commit}", sync.spec.source.reference.branch),
            commit,
            path: sync.spec.path.clone(),
            allow_plain_secrets: sync.spec.allow_plain_secrets,
        };
        status.last_attempted_revision = Some(origin.revision.clone());
        if state.good.as_ref().is_some_and(|good| good.origin == origin) {
            return Ok(None);
        }
        let documents = match state.read.take() {
            Some((read, documents)) if read == origin => documents,
            _ => match self.read(sync, &origin.commit).await {
                Ok(documents) => documents,
                Err(cause) => return Ok(Some(cause)),
            },
        };
        let (namespace, name) = key(sync);
        let owner = Owner { namespace: &namespace, name: &name, allow_plain_secrets: origin.allow_plain_secrets };
        let attempt = |served: &Kinds| {
            let kinds = served.clone().with_definitions(documents.objects.iter().map(|(_, object)| object));
            render::objects(&documents, &kinds, owner)
        };
        let mut rendered = attempt(self.served(&HashSet::new()).await?.as_ref());
        if rendered.is_err() {
            // A kind may have come since the API server was last asked.
            rendered = attempt(self.discover().await?.as_ref());
        }
        match rendered {
            Ok(desired) => {
                state.good = Some(Good { origin, desired: Arc::new(desired) });
                Ok(None)
            }
            Err(problems) => {
                state.read = Some((origin, documents));
                Ok(Some(Cause { reason: "BuildFailed", message: status::list(problems.iter()) }))
            }
        }
    }

    async fn read(&self, sync: &GitSync, commit: &Commit) -> Result<Arc<Documents>, Cause> {
        let source = fetch::source(&self.context.client, sync).await.map_err(|error| error.cause())?;
        let files = self.mirrors.read(&source, commit, &sync.spec.path, is_manifest).await;
        let files = files.map_err(|error| fetch::FetchError::from(error).cause())?;
        let text = |file: super::source::File| SourceFile { path: file.path, text: String::from_utf8(file.bytes).ok() };
        Ok(Arc::new(render::documents(&files.into_iter().map(text).collect::<Vec<_>>())))
    }

    /// Makes the cluster as a good rendering says. The inventory is written before anything is, and made smaller after.
    async fn apply(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        Good { origin: Origin { revision, .. }, desired }: &Good,
    ) -> Result<Verdict, Error> {
        let me = key(sync);
        let inventory = status.inventory.clone().unwrap_or_default();
        let kinds = kinds_of(desired, &inventory);
        let served = self.served(&kinds).await?;
        self.watch(&served, &kinds).await?;
        let in_git = desired.iter().map(|object| object.id.clone());
        let ids: HashSet<ObjectId> = in_git.chain(ids(&inventory)).collect();
        let known = self.live.find(ids.iter());
        let others = self.store.state().iter().map(|other| guarded_key(other)).filter(|other| *other != me).collect();
        let policy = Policy { me: (&me.0, &me.1), prune: sync.spec.prune, others: &others };
        let planned = plan(desired, Known { live: &known, applied: &state.applied, inventory: &inventory }, &policy);

        if planned.inventory != inventory {
            status.inventory = Some(planned.inventory.clone());
            let verdict = Verdict::Progressing(format!("applying {revision}"));
            self.report(sync, state, status.clone(), verdict).await?;
        }
        let kinds = served.as_ref().clone().with_definitions(desired.iter().map(|object| &object.body));
        let done = execute(&self.hands, &self.live, &known, &kinds, planned.stages).await;
        if done.defined {
            self.discover().await?;
        }
        self.tell(sync, revision, &done).await;
        let seen = done.applied.iter().map(|(id, applied)| (id.clone(), applied.uid.clone())).collect();
        status.inventory = Some(plan::settle(&planned.inventory, &seen, &done.gone));
        state.applied.retain(|id, _| !done.gone.contains(id));
        state.applied.extend(done.applied);

        let failed: Vec<&Problem> = planned.refused.iter().chain(&done.failed).collect();
        let cause = |reason, message| Verdict::Failed(Cause { reason, message });
        if !failed.is_empty() {
            return Ok(cause("ReconciliationFailed", status::list(failed.into_iter())));
        }
        if !done.unpruned.is_empty() {
            return Ok(cause("PruneFailed", status::list(done.unpruned.iter())));
        }
        if let Some(refused) = planned.refused_prune {
            return Ok(cause("PruneRefused", refused));
        }
        status.last_applied_revision = Some(revision.clone());
        let opened = status::judge_sealed(self.sealed(desired).into_iter());
        Ok(opened.unwrap_or_else(|| Verdict::Ready(format!("Applied revision: {revision}"))))
    }

    /// How the SealedSecrets of a commit fare, by what the other half of the controller knows.
    fn sealed(&self, desired: &[Desired]) -> Vec<(Problem, Opened)> {
        let is_sealed = |object: &&Desired| {
            object.id.group == SealedSecret::group(&()) && object.id.kind == SealedSecret::kind(&())
        };
        let live = self.live.find(desired.iter().filter(is_sealed).map(|object| &object.id));
        let fare = |object: &Desired| {
            let at = ObjectRef::new(&object.id.name).within(&object.id.namespace);
            let applied = live.get(&object.id).and_then(|live| live.generation);
            let opened = status::opened(self.context.sealed.get(&at).as_deref().map(|guarded| &guarded.0), applied);
            (Problem { place: object.place.clone(), what: object.id.to_string() }, opened)
        };
        desired.iter().filter(is_sealed).map(fare).collect()
    }

    async fn watch(&self, served: &Kinds, kinds: &HashSet<KindName>) -> Result<(), Error> {
        let there = kinds.iter().filter_map(|(group, version, kind)| served.get(group, version, kind));
        Ok(self.live.ensure(there).await?)
    }

    /// What the API server serves, as it last said; asked anew when it did not say some of what is needed.
    async fn served(&self, needed: &HashSet<KindName>) -> Result<Arc<Kinds>, Error> {
        let known = self.served.lock().await.clone();
        let all = |served: &Arc<Kinds>| {
            needed.iter().all(|(group, version, kind)| served.get(group, version, kind).is_some())
        };
        match known.filter(all) {
            Some(served) => Ok(served),
            None => self.discover().await,
        }
    }

    /// Asks the API server what it serves.
    async fn discover(&self) -> Result<Arc<Kinds>, Error> {
        let discovery = bounded(Discovery::new(self.context.client.clone()).run_aggregated()).await;
        let served = Arc::new(Kinds::served(&discovery.map_err(Error::Discovery)?));
        *self.served.lock().await = Some(served.clone());
        Ok(served)
    }

    /// One line and one count a change; nothing for nothing.
    async fn tell(&self, sync: &GitSync, revision: &str, done: &Done) {
        let (namespace, name) = key(sync);
        let count = |step| self.context.metrics.sync_steps.get_or_create(&metrics::Step { step }).inc();
        for (object, why) in &done.changed {
            tracing::info!(namespace, name, revision, %object, "{}", match why { Why::Apply => "applied", Why::Heal => "healed" });
            count((*why).into());
        }
        for object in &done.pruned {
            tracing::info!(namespace, name, revision, %object, "pruned");
            count("prune");
        }
        let of = |wanted: Why| done.changed.iter().filter(move |(_, why)| *why == wanted).map(|(id, _)| id);
        let (applied, healed): (Vec<_>, Vec<_>) = (of(Why::Apply).collect(), of(Why::Heal).collect());
        if !healed.is_empty() {
            let message = format!("Drift corrected: {}", status::list(healed.into_iter()));
            self.events.publish(sync, Severity::Normal, "DriftCorrected", &message).await;
        }
        if !applied.is_empty() || !done.pruned.is_empty() {
            let (applied, pruned) = (applied.len(), done.pruned.len());
            let message = format!("{revision}: {applied} applied, {pruned} pruned");
            self.events.publish(sync, Severity::Normal, "Applied", &message).await;
        }
    }

    /// Writes the status, and sends an Event when there is something to look at. True if anything was new.
    async fn report(
        &self,
        sync: &GitSync,
        state: &mut State,
        mut status: GitSyncStatus,
        verdict: Verdict,
    ) -> Result<bool, Error> {
        let before = current_status(sync, state);
        let generation = sync.metadata.generation;
        status.conditions = status::conditions(&before.conditions, &verdict, generation, Timestamp::now());
        status.observed_generation = generation;
        status.last_handled_reconcile_at = state.fetching.handled().map(str::to_owned);
        if status == before {
            state.status = Some(status);
            return Ok(false);
        }
        write_status(&self.context.client, sync, &status).await.map_err(Error::Status)?;
        if let Verdict::Failed(cause) | Verdict::Stalled(cause) = &verdict
            && status::ready(&before).is_none_or(|old| old.message != cause.message)
        {
            let Cause { reason, message } = cause;
            tracing::warn!(namespace = sync.namespace(), name = sync.name_any(), reason, "{message}");
            self.events.publish(sync, Severity::Warning, reason, message).await;
        }
        state.status = Some(status);
        Ok(true)
    }
}

/// As last written by this process, else as it stands in the cluster.
fn current_status(sync: &GitSync, state: &State) -> GitSyncStatus {
    state.status.clone().or_else(|| sync.status.clone()).unwrap_or_default()
}

fn ids(inventory: &Inventory) -> Vec<ObjectId> {
    inventory.entries.iter().filter_map(|entry| ObjectId::from_inventory(&entry.id)).collect()
}

fn kinds_of(desired: &[Desired], inventory: &Inventory) -> HashSet<KindName> {
    let wanted = desired.iter().map(|object| (object.id.clone(), object.version.clone()));
    let recorded = inventory.entries.iter().filter_map(|it| Some((ObjectId::from_inventory(&it.id)?, it.v.clone())));
    wanted.chain(recorded).map(|(ObjectId { group, kind, .. }, version)| (group, version, kind)).collect()
}

fn guarded_key(sync: &Guarded) -> super::Key {
    (sync.namespace().unwrap_or_default(), sync.name_any())
}

fn is_manifest(path: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|ending| path.ends_with(ending))
}
