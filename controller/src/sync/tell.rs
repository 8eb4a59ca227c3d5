//! Says what happened, once: in the log, as a count, as an Event, and in the status.

use crds::{GitSync, git_sync::GitSyncStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use super::{
    Error, State, Syncer,
    execute::Done,
    key,
    plan::Why,
    status::{self, Cause, DRIFTED, Fact, Verdict},
};
use crate::{calls::write_status, events::Severity, metrics};

impl Syncer {
    /// One line and one count a change; nothing for nothing.
    pub(super) async fn tell(&self, sync: &GitSync, revision: &str, done: &Done) {
        let (namespace, name) = key(sync);
        let count = |step| self.context.metrics.sync_steps.get_or_create(&metrics::Step { step }).inc();
        for (object, why) in &done.changed {
            tracing::info!(namespace, name, revision, %object, "{}", match why { Why::Apply => "applied", Why::Heal => "healed", Why::Run => "ran" });
            count((*why).into());
        }
        for object in &done.pruned {
            tracing::info!(namespace, name, revision, %object, "pruned");
            count("prune");
        }
        let (applied, pruned) = (done.changed.iter().filter(|(_, why)| *why == Why::Apply).count(), done.pruned.len());
        if applied + pruned > 0 {
            let message = format!("{revision}: {applied} applied, {pruned} pruned");
            self.events.publish(sync, Severity::Normal, "Applied", &message).await;
        }
    }

    /// Writes the status, and sends an Event when there is something to look at. True if anything was new.
    pub(super) async fn report(
        &self,
        sync: &GitSync,
        state: &mut State,
        mut status: GitSyncStatus,
        verdict: Verdict,
    ) -> Result<bool, Error> {
        // What the API server refuses it quotes.
        let verdict = verdict.map(|message| state.mask(message));
        let facts = std::mem::take(&mut state.facts).into_iter();
        state.facts = facts.map(|fact| Fact { message: state.mask(&fact.message), ..fact }).collect();
        let before = current_status(sync, state);
        let generation = sync.metadata.generation;
        let facts: Vec<_> = state.facts.iter().chain(&state.fetching.facts).cloned().collect();
        status.conditions = status::conditions(&before.conditions, &verdict, &facts, generation, Timestamp::now());
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
        let drifted = |conditions: &[Condition]| {
            let drifted = conditions.iter().find(|it| it.type_ == DRIFTED && it.status == "True");
            drifted.map(|it| (it.reason.clone(), it.message.clone()))
        };
        if let Some((reason, message)) = drifted(&status.conditions)
            && drifted(&before.conditions).is_none_or(|(_, old)| old != message)
        {
            tracing::warn!(namespace = sync.namespace(), name = sync.name_any(), reason, "{message}");
            self.events.publish(sync, Severity::Warning, &reason, &message).await;
        }
        state.status = Some(status);
        Ok(true)
    }
}

/// As last written by this process, else as it stands in the cluster.
pub(super) fn current_status(sync: &GitSync, state: &State) -> GitSyncStatus {
    state.status.clone().or_else(|| sync.status.clone()).unwrap_or_default()
}
