//! One pass over a GitSync: fetch, render, plan, execute, report. Touches the world through the modules it calls and
//! leaves the deciding to the pure ones.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{
    GitSync,
    git_sync::{APPROVE, Drift, GitSyncStatus, HistoryEntry, Inventory, Renderer, SyncPolicy},
};
use futures::{FutureExt as _, StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Discovery, ResourceExt as _,
    discovery::ApiCapabilities,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    Error, Good, Origin, Read, State, Syncer,
    builder::{Build, Capabilities, Release},
    depends,
    execute::{self, CONCURRENCY, Done, execute},
    fetch, guarded_key,
    health::{self, Health},
    key,
    kinds::{Kind, Kinds},
    object::ObjectId,
    plan::{self, Held, Known, LiveObject, Plan, Policy, Why, plan},
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

/// Revisions that are remembered.
const HISTORY: usize = 10;

/// What came of all waves: the last plan, and what it did not do.
struct Outcome<'a> {
    planned: Plan<'a>,
    unhealthy: Vec<(ObjectId, Health)>,
    failed: Vec<Problem>,
    unpruned: Vec<String>,
}

/// Shortest wait between two passes that nothing triggered.
const BREATH: Duration = Duration::from_millis(50);

impl Syncer {
    /// Brings the cluster to what Git says, and says how that went.
    pub(super) async fn sync(&self, sync: &GitSync, state: &mut State) -> Result<Action, Error> {
        let mut status = current_status(sync, state);
        let times = sync.spec.interval().and_then(|interval| Ok((interval, sync.spec.timeout()?)));
        let (interval, timeout) = match times {
            Ok((interval, timeout)) => (interval.unsigned_abs(), timeout.unsigned_abs()),
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
        let verdict = match self.bring(sync, state, &mut status, timeout).await {
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
        if let Some((_, since)) = &state.since
            && since.elapsed() < timeout
        {
            wait = wait.min(timeout.saturating_sub(since.elapsed()));
        }
        if state.failures > 0 {
            wait = wait.min(backoff::after(state.failures));
        }
        Ok(Action::requeue(wait.max(BREATH)))
    }

    /// Makes objects of the newest commit, and the cluster as the newest good one says.
    async fn bring(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        timeout: Duration,
    ) -> Result<Verdict, Error> {
        let unrendered = self.render(sync, state, status).await?;
        let applied = match state.good.clone() {
            Some(good) => match self.blocked(sync, status, &good.revision) {
                Some(cause) if cause.reason == depends::CYCLE => Verdict::Stalled(cause),
                Some(cause) => Verdict::Waiting(cause),
                None => self.apply(sync, state, status, &good, timeout).await?,
            },
            None => Verdict::Progressing("waiting for the first commit".to_owned()),
        };
        Ok(status::overall(unrendered, applied, state.fetching.error.clone()))
    }

    /// What another revision waits for. Drift of this one is healed without waiting.
    fn blocked(&self, sync: &GitSync, status: &GitSyncStatus, revision: &str) -> Option<Cause> {
        if sync.spec.depends_on.is_empty() || status.last_applied_revision.as_deref() == Some(revision) {
            return None;
        }
        let all = self.store.state();
        let known = all.iter().filter_map(|guarded| Some((guarded_key(guarded), guarded.0.as_ref().ok()?))).collect();
        depends::blocked(&key(sync), Some(revision), &known)
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
        let stages = plan::teardown(
            Known { live: &known, applied: &state.applied, inventory: &inventory, health: &HashMap::new() },
            (&me.0, &me.1),
        );
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

    /// Makes the cluster as a good rendering says, and says how that went.
    async fn apply(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        good: &Good,
        timeout: Duration,
    ) -> Result<Verdict, Error> {
        let revision = &good.revision;
        let since = match state.since.take() {
            Some((under_way, since)) if under_way == *revision => since,
            _ => Instant::now(),
        };
        state.since = Some((revision.clone(), since));
        let outcome = self.bring_about(sync, state, status, good).await?;
        Ok(self.conclude(sync, state, status, good, outcome, since.elapsed() >= timeout))
    }

    /// Wave after wave: each round ends with nothing new, or with less to do. The inventory is written before anything
    /// is, and made smaller after.
    async fn bring_about<'a>(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        Good { revision, desired, .. }: &'a Good,
    ) -> Result<Outcome<'a>, Error> {
        let me = key(sync);
        let others: HashSet<_> =
            self.store.state().iter().map(|other| guarded_key(other)).filter(|other| *other != me).collect();
        let approved = sync.annotations().get(APPROVE).cloned();
        let before = status.history.first().map(|entry| entry.digest.clone());
        let allowed: Vec<String> = approved.into_iter().chain(state.allowed.clone()).chain(before).collect();
        let policy = Policy {
            me: (&me.0, &me.1),
            prune: sync.spec.prune,
            others: &others,
            ask: sync.spec.sync_policy == SyncPolicy::Manual,
            leave_drift: sync.spec.drift == Drift::Report,
            allowed: &allowed,
        };
        loop {
            let inventory = status.inventory.clone().unwrap_or_default();
            let kinds = kinds_of(desired, &inventory);
            let served = self.served(&kinds).await?;
            self.watch(&served, &kinds).await?;
            let ids: HashSet<ObjectId> =
                desired.iter().map(|object| object.id.clone()).chain(ids(&inventory)).collect();
            let known = self.live.find(ids.iter());
            let kinds = served.as_ref().clone().with_definitions(desired.iter().map(|object| &object.body));
            let health = self.assess(sync, desired, &known, &kinds, state).await;
            let seen = Known { live: &known, applied: &state.applied, inventory: &inventory, health: &health };
            let mut planned = plan(desired, seen, &policy);
            if allowed.contains(&planned.digest) {
                state.allowed = Some(planned.digest.clone());
            }
            if planned.stages.is_empty() {
                let health = health.into_iter().filter(|(_, health)| *health != Health::Healthy);
                let mut unhealthy: Vec<_> = health.collect();
                unhealthy.sort_by(|(one, _), (other, _)| one.cmp(other));
                if planned.inventory != inventory {
                    status.inventory = Some(planned.inventory.clone());
                }
                return Ok(Outcome { planned, unhealthy, failed: Vec::new(), unpruned: Vec::new() });
            }
            if planned.inventory != inventory {
                status.inventory = Some(planned.inventory.clone());
                let verdict = Verdict::Progressing(format!("applying {revision}"));
                self.report(sync, state, status.clone(), verdict).await?;
            }
            let stages = std::mem::take(&mut planned.stages);
            let done = execute(&self.git.hands, &self.live, &known, &kinds, stages).await;
            if done.defined {
                self.discover().await?;
            }
            self.tell(sync, revision, &done).await;
            let uids = done.applied.iter().filter(|(_, applied)| !applied.uid.is_empty());
            let seen = uids.map(|(id, applied)| (id.clone(), applied.uid.clone())).collect();
            status.inventory = Some(plan::settle(&planned.inventory, &seen, &done.gone));
            state.applied.retain(|id, _| !done.gone.contains(id));
            state.health.retain(|id, _| !done.gone.contains(id));
            state.applied.extend(done.applied);
            let Done { failed, unpruned, .. } = done;
            if !failed.is_empty() || !unpruned.is_empty() {
                return Ok(Outcome { planned, unhealthy: Vec::new(), failed, unpruned });
            }
        }
    }

    /// What all of that means.
    fn conclude(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        Good { revision, desired, .. }: &Good,
        Outcome { planned, unhealthy, failed, unpruned }: Outcome<'_>,
        is_late: bool,
    ) -> Verdict {
        status.plan = planned.pending;
        if failed.is_empty() && unpruned.is_empty() {
            state.facts = vec![status::healthy(&unhealthy), status::drifted(&planned.drifted)];
        }
        let failed: Vec<&Problem> = planned.refused.iter().chain(&failed).collect();
        let cause = |reason, message| Cause { reason, message };
        if !failed.is_empty() {
            return Verdict::Failed(cause("ReconciliationFailed", status::list(failed.into_iter())));
        }
        if !unpruned.is_empty() {
            return Verdict::Failed(cause("PruneFailed", status::list(unpruned.iter())));
        }
        if let Some(pending) = &status.plan {
            let me = key(sync);
            let how = plan::command((&me.0, &me.1), &pending.digest);
            let message = format!("{revision}: its plan, see status.plan, waits to be allowed: {how}");
            return Verdict::Waiting(cause("ApprovalRequired", message));
        }
        if let Some(Held { wave, by }) = &planned.held {
            let what = format!("{revision}: wave {wave}: ");
            return status::awaited(&what, by, is_late).unwrap_or(Verdict::Progressing(what));
        }
        if let Some(refused) = planned.refused_prune {
            return Verdict::Waiting(cause("PruneRefused", refused));
        }
        let opened = status::judge_sealed(self.sealed(desired).into_iter());
        let unhealthy = if sync.spec.wait { unhealthy } else { Vec::new() };
        if opened.is_none() && unhealthy.is_empty() {
            state.since = None;
        }
        status.last_applied_revision = Some(revision.clone());
        let digest = planned.digest;
        if status.history.first().is_none_or(|last| last.revision != *revision || last.digest != digest) {
            let applied_at = Time(Timestamp::now());
            status.history.insert(0, HistoryEntry { revision: revision.clone(), digest, applied_at });
            status.history.truncate(HISTORY);
        }
        let waits = || status::awaited("", &unhealthy, is_late);
        opened.or_else(waits).unwrap_or_else(|| Verdict::Ready(format!("Applied revision: {revision}")))
    }

    /// How the objects fare that can fare badly. Only what moved since it was looked at is looked at again.
    async fn assess(
        &self,
        sync: &GitSync,
        desired: &[Desired],
        live: &HashMap<ObjectId, LiveObject>,
        kinds: &Kinds,
        state: &mut State,
    ) -> HashMap<ObjectId, Health> {
        let me = key(sync);
        let judged: Vec<&Desired> = desired
            .iter()
            .filter(|object| health::is_judged(object))
            .filter(|object| object.id.kind != "GitSync" || (&object.id.namespace, &object.id.name) != (&me.0, &me.1))
            .collect();
        let looks: Vec<_> = judged
            .into_iter()
            .filter_map(|object| {
                let live = live.get(&object.id)?;
                let kind = kinds.get(&object.id.group, &object.version, &object.id.kind)?;
                let known = state.health.get(&object.id).filter(|(version, _)| *version == live.resource_version);
                known.is_none().then_some((object, kind, live))
            })
            .collect();
        let looks = looks.into_iter().map(|(object, kind, live)| {
            async move {
                let health = match execute::read(&self.git.hands, kind, &object.id).await {
                    Ok(read) => health::health(&object.id.group, &read),
                    Err(error) => Health::Progressing(format!("cannot be read: {}", chain(&error))),
                };
                (object.id.clone(), (live.resource_version.clone(), health))
            }
            .boxed()
        });
        let looks: Vec<_> = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY).collect().await;
        state.health.extend(looks);
        let in_git: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
        state.health.retain(|id, _| in_git.contains(id));
        let mut all: HashMap<_, _> =
            state.health.iter().map(|(id, (_, health))| (id.clone(), health.clone())).collect();
        for (object, opened) in self.sealed_in(desired) {
            let health = match opened {
                Opened::Yes => Health::Healthy,
                Opened::NotYet => Health::Progressing("is not opened yet".to_owned()),
                Opened::No(why) => Health::Degraded(why),
            };
            all.insert(object.id.clone(), health);
        }
        all
    }

    /// How the SealedSecrets of a commit fare, by what the other half of the controller knows.
    fn sealed(&self, desired: &[Desired]) -> Vec<(Problem, Opened)> {
        let problem = |object: &Desired| Problem { place: object.place.clone(), what: object.id.to_string() };
        self.sealed_in(desired).into_iter().map(|(object, opened)| (problem(object), opened)).collect()
    }

    /// Of those that were applied.
    fn sealed_in<'a>(&self, desired: &'a [Desired]) -> Vec<(&'a Desired, Opened)> {
        let is_sealed = |object: &&Desired| sealed::is_sealed(&object.id) && !object.marks.ignored;
        let live = self.live.find(desired.iter().filter(is_sealed).map(|object| &object.id));
        let fare = |object: &'a Desired| {
            let at = ObjectRef::new(&object.id.name).within(&object.id.namespace);
            let applied = live.get(&object.id).and_then(|live| live.generation);
            (object, status::opened(self.context.sealed.get(&at).as_deref().map(|guarded| &guarded.0), applied))
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
        let served = Arc::new(served(&discovery.map_err(Error::Discovery)?));
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
        status.conditions =
            status::conditions(&before.conditions, &verdict, &state.facts, generation, Timestamp::now());
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

/// What an API server said it serves.
fn served(discovery: &Discovery) -> Kinds {
    let versions = discovery.groups().flat_map(|group| group.versions().map(move |version| (group, version)));
    let resources = versions.flat_map(|(group, version)| group.versioned_resources(version));
    resources.map(|(resource, ApiCapabilities { scope, .. })| Kind { resource, scope }).collect()
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

fn is_manifest(path: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|ending| path.ends_with(ending))
}
