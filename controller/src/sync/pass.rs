//! One pass over a GitSync: fetch, render, plan, execute, report. Touches the world through the modules it calls and
//! leaves the deciding to the pure ones.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{
    GitSync,
    git_sync::{GitSyncStatus, Inventory, Renderer},
};
use jiff::Timestamp;
use kube::{
    Discovery, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    Error, Good, Guarded, Origin, Read, State, Syncer,
    builder::{Build, Capabilities, Release},
    execute::{Done, execute},
    fetch, key,
    kinds::Kinds,
    object::ObjectId,
    plan::{self, Known, Policy, Why, plan},
    render::{self, Desired, Documents, Owner, Problem, SourceFile},
    sealed,
    source::{SourceError, Survey},
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
            let outcome = fetch::fetch(&self.context.client, &self.git.mirrors, sync).await;
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
        let done = execute(&self.git.hands, &self.live, &known, &served, stages).await;
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
        let revision = format!("{}@sha1:{commit}", sync.spec.source.reference.branch);
        let origin = Origin::new(commit, &sync.spec);
        status.last_attempted_revision = Some(revision.clone());
        if state.good.as_ref().is_some_and(|good| good.origin == origin) {
            return Ok(None);
        }
        let read = match state.read.take().filter(|read| read.origin == origin) {
            Some(read) => read,
            None => match self.read(sync, &origin, state.good.as_mut()).await? {
                Ok(Some(read)) => read,
                Ok(None) => {
                    if let Some(good) = &mut state.good {
                        (good.origin, good.revision) = (origin, revision);
                    }
                    return Ok(None);
                }
                Err(cause) => return Ok(Some(cause)),
            },
        };
        let (namespace, name) = key(sync);
        let owner = Owner { namespace: &namespace, name: &name, spec: &origin.spec };
        let attempt = |served: &Kinds| {
            let kinds = served.clone().with_definitions(read.documents.objects.iter().map(|(_, object)| object));
            render::objects(&read.documents, &kinds, owner)
        };
        let mut rendered = attempt(self.served(&HashSet::new()).await?.as_ref());
        if rendered.is_err() {
            // A kind may have come since the API server was last asked.
            rendered = attempt(self.discover().await?.as_ref());
        }
        let cause = match rendered {
            Ok(desired) => {
                let desired = Arc::new(desired);
                let closed = self.closed(&desired).await;
                if closed.is_empty() {
                    state.good = Some(Good { origin, recipe: read.recipe, revision, desired });
                    return Ok(None);
                }
                Cause { reason: "SealedSecretFailed", message: status::list(closed.iter()) }
            }
            Err(problems) => Cause { reason: "BuildFailed", message: status::list(problems.iter()) },
        };
        state.read = Some(read);
        Ok(Some(cause))
    }

    /// Documents of a commit; none when it holds what the last good rendering was made of.
    async fn read(
        &self,
        sync: &GitSync,
        origin: &Origin,
        good: Option<&mut Good>,
    ) -> Result<Result<Option<Read>, Cause>, Error> {
        let mirrors = &self.git.mirrors;
        let spec = &origin.spec;
        let unfetched = |error: SourceError| fetch::FetchError::from(error).cause();
        let source = match fetch::source(&self.context.client, sync).await {
            Ok(source) => source,
            Err(error) => return Ok(Err(error.cause())),
        };
        let survey = match mirrors.survey(&source, &origin.commit, spec).await {
            Ok(survey) => survey,
            Err(error) => return Ok(Err(unfetched(error))),
        };
        let capabilities = match survey.renderer {
            Renderer::Helm => self.capabilities().await?,
            Renderer::Plain | Renderer::Kustomize => Capabilities::default(),
        };
        let recipe = format!("{} {capabilities:?}", survey.digest());
        if good.is_some_and(|good| good.recipe == recipe && good.origin.spec == *spec) {
            return Ok(Ok(None));
        }
        let made = |documents: Documents| {
            let outcome = if documents.problems.is_empty() { "success" } else { "failure" };
            self.context.metrics.renders.get_or_create(&metrics::Outcome { outcome }).inc();
            Ok(Ok(Some(Read { origin: origin.clone(), recipe, documents: Arc::new(documents) })))
        };
        if !survey.problems.is_empty() {
            return made(Documents { objects: Vec::new(), problems: survey.problems });
        }
        if survey.renderer == Renderer::Plain {
            let files = mirrors.read(&source, &origin.commit, &spec.path, is_manifest).await;
            return match files {
                Ok(files) => made(render::documents(&files.iter().map(SourceFile::from).collect::<Vec<_>>())),
                Err(error) => Ok(Err(unfetched(error))),
            };
        }
        let files = match mirrors.load(&source, &origin.commit, &survey).await {
            Ok(files) => files,
            Err(error) => return Ok(Err(unfetched(error))),
        };
        let (own, name) = key(sync);
        let namespace = spec.target_namespace.as_deref().unwrap_or(&own);
        let helm = spec.helm.clone().unwrap_or_default();
        let release = Release { name: &name, namespace, helm: &helm, capabilities: &capabilities };
        let Survey { renderer, path, folders, .. } = &survey;
        let build = Build { renderer: *renderer, path, files, folders, release };
        match self.git.builder.build(build).await {
            Ok(documents) => made(documents),
            Err(error) => Ok(Err(Cause { reason: "BuildFailed", message: chain(&error) })),
        }
    }

    /// What charts are told of the cluster.
    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let version = bounded(self.context.client.apiserver_version()).await.map_err(Error::Discovery)?.git_version;
        Ok(Capabilities { version, apis: self.served(&HashSet::new()).await?.apis() })
    }

    /// The SealedSecrets that could not be opened where they would stand.
    async fn closed(&self, desired: &Arc<Vec<Desired>>) -> Vec<Problem> {
        let ring = self.context.ring.borrow().clone();
        let (desired, live) = (desired.clone(), self.context.sealed.clone());
        let check = move || {
            let (mut closed, mut operations) = (Vec::new(), 0);
            for object in desired.iter().filter(|object| sealed::is_sealed(&object.id)) {
                let at = ObjectRef::new(&object.id.name).within(&object.id.namespace);
                let live = live.get(&at);
                let live = live.as_deref().and_then(|guarded| guarded.0.as_ref().ok());
                let verdict = sealed::check(object, live, &ring);
                operations += verdict.operations;
                let problem = |why| Problem { place: object.place.clone(), what: format!("{}: {why}", object.id) };
                closed.extend(verdict.problem.map(problem));
            }
            (closed, operations)
        };
        // What panics has decided nothing: it is found again when the SealedSecret itself is opened.
        let (closed, operations) = tokio::task::spawn_blocking(check).await.unwrap_or_default();
        self.context.metrics.rsa_operations.inc_by(operations.into());
        closed
    }

    /// Makes the cluster as a good rendering says. The inventory is written before anything is, and made smaller after.
    async fn apply(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        Good { revision, desired, .. }: &Good,
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
        let done = execute(&self.git.hands, &self.live, &known, &kinds, planned.stages).await;
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
        let is_sealed = |object: &&Desired| sealed::is_sealed(&object.id);
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
