//! From the newest commit to the objects that it asks for; where that fails the last good ones stay. Touches the world
//! through the modules it calls.

use std::{collections::HashSet, sync::Arc};

use crds::{
    GitSync,
    git_sync::{GitSyncStatus, ROLLBACK, Renderer},
    sync::substitute::Variables,
};
use jiff::Timestamp;
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};
use tracing::{Instrument as _, Span, field::Empty};

use super::{
    Error, Good, Origin, Read, State, Syncer,
    builder::{Build, Capabilities, Release},
    clusters::Cluster,
    fetch, key,
    kinds::Kinds,
    render::{self, Desired, Documents, Owner, Problem, SourceFile},
    rollback, sealed,
    source::{Description, SourceError, Survey, Tip},
    status::{self, Cause},
};
use crate::{
    context::chain,
    metrics,
    traces::{self, count, span},
};

impl Syncer {
    /// Makes objects of the newest commit. Answers why that is not possible; then the last good commit stays.
    pub(super) async fn render(
        &self,
        sync: &GitSync,
        state: &mut State,
        status: &mut GitSyncStatus,
        cluster: &Cluster,
    ) -> Result<Option<Cause>, Error> {
        let Some(tip) = state.fetching.tip.clone() else { return Ok(None) };
        let newest = tip.revision();
        let asked = sync.annotations().get(ROLLBACK).map(String::as_str);
        match rollback::pin(asked, status.rollback.take(), &status.history, &newest) {
            Ok(pin) => status.rollback = pin,
            Err(cause) => return Ok(Some(cause)),
        }
        let pinned = rollback::pinned(status.rollback.as_ref(), &newest);
        let pinned = pinned.and_then(|it| Some((Tip::from_revision(it)?, it.to_owned())));
        let is_pinned = pinned.is_some();
        let (tip, revision) = pinned.unwrap_or((tip, newest));
        let is_applied = status.last_applied_revision.as_ref() == Some(&revision);
        self.context.metrics.git_syncs.saw(&key(sync), &revision, is_applied, Timestamp::now());
        let variables = match self.variables(sync, state).await {
            Ok(variables) => variables,
            Err(cause) => return Ok(Some(cause)),
        };
        let origin = Origin::new(tip.commit.clone(), &sync.spec, variables.as_deref());
        status.last_attempted_revision = Some(revision.clone());
        if let Some(good) = state.good.as_mut().filter(|good| good.origin == origin) {
            // Another reference may lead to the same commit.
            good.revision = revision;
            return Ok(state.fetching.lacks(&tip.commit, None));
        }
        let span = span!("render", revision, objects = Empty);
        let (client, mirrors) = (&self.context.client, &self.git.mirrors);
        let is_vouched_for = if is_pinned { fetch::vouched(client, mirrors, sync, &tip).await } else { Ok(()) };
        let made = match is_vouched_for {
            Ok(()) => {
                let made = self.make(sync, state, (origin, revision), variables.as_deref(), cluster);
                made.instrument(span.clone()).await
            }
            Err(error) => Ok(Some(error.cause())),
        };
        let outcome = made.map(|unmade| {
            let cause = state.fetching.lacks(&tip.commit, unmade)?;
            Some(match rollback::holding(status) {
                Some(pin) => rollback::missed(pin, &status.history, cause),
                None => cause,
            })
        });
        let (word, failed) = match &outcome {
            Ok(None) => ("success", false),
            Ok(Some(cause)) => (cause.reason, true),
            Err(_) => ("failure", true),
        };
        traces::ended(&span, word, failed);
        outcome
    }

    /// Makes objects of a commit that no objects were made of yet.
    async fn make(
        &self,
        sync: &GitSync,
        state: &mut State,
        (origin, revision): (Origin, String),
        variables: Option<&Variables>,
        cluster: &Cluster,
    ) -> Result<Option<Cause>, Error> {
        let read = match state.read.take().filter(|read| read.origin == origin) {
            Some(read) => read,
            None => match self.read(sync, &origin, variables, state.good.as_mut(), cluster).await? {
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
        let mut rendered = attempt(cluster.served(&HashSet::new()).await?.as_ref());
        if rendered.is_err() {
            // A kind may have come since the API server was last asked.
            rendered = attempt(cluster.discover().await?.as_ref());
        }
        let cause = match rendered {
            Ok(desired) => {
                Span::current().record("objects", count(desired.len()));
                let desired = Arc::new(desired);
                // Elsewhere another controller has the keys.
                let closed = if cluster.is_home() { self.closed(&desired).await } else { Vec::new() };
                if closed.is_empty() {
                    let Read { recipe, said, .. } = read;
                    state.good = Some(Good { origin, recipe, revision, said, desired });
                    return Ok(None);
                }
                Cause { reason: "SealedSecretFailed", message: status::list(closed.iter()) }
            }
            Err(problems) => Cause { reason: "BuildFailed", message: status::list(problems.iter()) },
        };
        state.read = Some(read);
        Ok(Some(cause))
    }

    /// Documents of a commit; none when it holds what the last good rendering was made of, which then is this commit's.
    async fn read(
        &self,
        sync: &GitSync,
        origin: &Origin,
        variables: Option<&Variables>,
        good: Option<&mut Good>,
        cluster: &Cluster,
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
        let said = mirrors.described(&source, &origin.commit).await;
        if let Ok(Description { committed, .. }) = &said {
            self.context.metrics.git_syncs.dated(&key(sync), *committed);
        }
        let said = said.unwrap_or_default();
        // Whoever may push writes this, and may quote what is a secret here.
        let mask = |text: &str| variables.map_or_else(|| text.to_owned(), |variables| variables.mask(text));
        let said = Arc::new(Description { author: mask(&said.author), subject: mask(&said.subject), ..said });
        let capabilities = match survey.renderer {
            Renderer::Helm => capabilities(cluster).await?,
            Renderer::Plain | Renderer::Kustomize => Capabilities::default(),
        };
        let recipe = format!("{} {capabilities:?} {}", survey.digest(), origin.variables);
        if let Some(good) = good.filter(|good| good.recipe == recipe && good.origin.spec == *spec) {
            good.said = said;
            return Ok(Ok(None));
        }
        let made = |documents: Documents| {
            let outcome = if documents.problems.is_empty() { "success" } else { "failure" };
            self.context.metrics.renders.get_or_create(&metrics::Outcome { outcome }).inc();
            Ok(Ok(Some(Read { origin: origin.clone(), recipe, said, documents: Arc::new(documents) })))
        };
        if !survey.problems.is_empty() {
            return made(Documents { objects: Vec::new(), problems: survey.problems });
        }
        if survey.renderer == Renderer::Plain {
            let files = mirrors.read(&source, &origin.commit, &spec.path, is_manifest).await;
            return match files {
                Ok(files) => {
                    let files: Vec<_> = files.iter().map(SourceFile::from).collect();
                    made(render::documents(&files, variables))
                }
                Err(error) => Ok(Err(unfetched(error))),
            };
        }
        let (own, name) = key(sync);
        let turn = self.git.builder.turn(&own).await;
        let files = match mirrors.load(&source, &origin.commit, &survey).await {
            Ok(files) => files,
            Err(error) => return Ok(Err(unfetched(error))),
        };
        let namespace = spec.target_namespace.as_deref().unwrap_or(&own);
        let helm = spec.helm.clone().unwrap_or_default();
        let release = Release { name: &name, namespace, helm: &helm, capabilities: &capabilities };
        let Survey { renderer, path, folders, .. } = &survey;
        let build = Build { renderer: *renderer, path, files, folders, release, variables };
        match self.git.builder.build(build, turn).await {
            Ok(documents) => made(documents),
            Err(error) => Ok(Err(Cause { reason: "BuildFailed", message: chain(&error) })),
        }
    }

    /// The SealedSecrets that could not be opened where they would stand.
    async fn closed(&self, desired: &Arc<Vec<Desired>>) -> Vec<Problem> {
        let ring = self.context.ring.borrow().clone();
        let (desired, live) = (desired.clone(), self.context.sealed.clone());
        let check = move || {
            let (mut closed, mut operations) = (Vec::new(), 0);
            for object in desired.iter().filter(|object| object.id.is_sealed()) {
                let at = ObjectRef::new(&object.id.name).within(&object.id.namespace);
                let live = live.get(&at).and_then(|kept| kept.read().ok());
                let verdict = sealed::check(object, live.as_ref(), &ring);
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
}

/// What charts are told of the cluster.
async fn capabilities(cluster: &Cluster) -> Result<Capabilities, Error> {
    let version = cluster.version().await?;
    Ok(Capabilities { version, apis: cluster.served(&HashSet::new()).await?.apis() })
}

fn is_manifest(path: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|ending| path.ends_with(ending))
}
