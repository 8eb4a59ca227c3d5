//! Says what happened, once: in the log, as a count, as an Event, and in the status.

use crds::{
    GitSync,
    audit::Act,
    git_sync::GitSyncStatus,
    sync::{history::Trigger, notify::Notified},
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;

use super::{
    Error, State, Syncer,
    audit::How,
    key,
    letter::About,
    notify::{News, Seen, news, wanted},
    object::ObjectId,
    source::Description,
    status::{self, Cause, DRIFTED, Fact, Verdict},
};
use crate::{
    calls::{CallError, write_status},
    events::Severity,
    metrics,
};

impl Syncer {
    /// The audit: one line and one count for each object, as soon as it was changed. A pass may be broken off.
    pub(super) fn tell<'a>(
        &'a self,
        sync: &GitSync,
        state: &mut State,
        revision: &'a str,
        said: &'a Description,
    ) -> impl Fn(&ObjectId, How) + use<'a> {
        let (namespace, name) = key(sync);
        let identity = self.git.hands.identity(sync);
        let trigger = state.record.did(std::iter::empty());
        move |object, how| {
            let trigger = if how == How::Healed { Trigger::Drift } else { trigger };
            self.context.audit.write(Act {
                namespace: namespace.clone(),
                name: name.clone(),
                revision: revision.to_owned(),
                author: said.author.clone(),
                identity: identity.clone(),
                trigger: trigger.to_string(),
                action: <&str>::from(how).to_owned(),
                object: object.to_string(),
                ..Act::default()
            });
            if let Some(step) = how.step() {
                self.context.metrics.sync_steps.get_or_create(&metrics::Step { step }).inc();
            }
        }
    }

    /// The audit: one Event for all that a pass changed, and for a revision that is applied whole.
    pub(super) fn sum_up(&self, sync: &GitSync, state: &mut State, said: &Description) {
        let Some(tally) = state.record.untold() else { return };
        let message = tally.message(&self.git.hands.identity(sync), said);
        self.events.publish(sync, Severity::Normal, tally.reason(), &message);
    }

    fn notify(&self, sync: &GitSync, news: &[News]) {
        let about = || About {
            namespace: sync.namespace().unwrap_or_default(),
            name: sync.name_any(),
            uid: sync.uid().unwrap_or_default(),
            url: sync.spec.source.url.clone(),
            at: Timestamp::now().to_string(),
        };
        for receiver in &sync.spec.notify {
            for news in wanted(receiver, news) {
                self.post.send(receiver, news.clone(), about());
            }
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
        status.under_way = state.record.under_way();
        status.last_handled_reconcile_at = state.fetching.handled().map(str::to_owned);
        let drifted = |status: &GitSyncStatus| {
            let drifted = status.conditions.iter().find(|it| it.type_ == DRIFTED && it.status == "True");
            drifted.map(|it| (it.reason.clone(), it.message.clone()))
        };
        let drift = state.corrected.clone().or_else(|| Some(drifted(&status)?.1));
        let news = note(sync, &mut status, &verdict, drift.as_deref());
        if status == before {
            state.corrected = None;
            state.status = Some(status);
            return Ok(false);
        }
        self.write(sync, &status).await.map_err(Error::Status)?;
        state.corrected = None;
        self.notify(sync, &news);
        if let Verdict::Ready(message) = &verdict
            && std::mem::take(&mut state.is_unwell)
        {
            self.events.publish(sync, Severity::Normal, verdict.reason(), message);
        }
        state.is_unwell |= matches!(verdict, Verdict::Failed(_) | Verdict::Stalled(_));
        if let Verdict::Failed(cause) | Verdict::Stalled(cause) = &verdict
            && status::ready(&before).is_none_or(|old| old.message != cause.message)
        {
            let Cause { reason, message } = cause;
            tracing::warn!(namespace = sync.namespace(), name = sync.name_any(), reason, "{message}");
            self.events.publish(sync, Severity::Warning, reason, message);
        }
        if let Some((reason, message)) = drifted(&status)
            && drifted(&before).is_none_or(|(_, old)| old != message)
        {
            tracing::warn!(namespace = sync.namespace(), name = sync.name_any(), reason, "{message}");
            self.events.publish(sync, Severity::Warning, &reason, &message);
        }
        state.status = Some(status);
        Ok(true)
    }
}

impl Syncer {
    /// A definition that is older than the inventory's present form refuses the status whole, for want of what it had then.
    async fn write(&self, sync: &GitSync, status: &GitSyncStatus) -> Result<(), CallError> {
        let client = &self.context.client;
        match (write_status(client, sync, status).await, &status.inventory) {
            (Err(error), Some(inventory)) if error.is_invalid() => {
                let mut older = json!(status);
                older["inventory"] = json!(inventory.in_entries());
                write_status(client, sync, &older).await
            }
            (written, _) => written,
        }
    }
}

/// Whom to tell what, which is written down before it is sent: rather lost than said again after each restart.
fn note(sync: &GitSync, status: &mut GitSyncStatus, verdict: &Verdict, drift: Option<&str>) -> Vec<News> {
    if sync.spec.notify.is_empty() {
        status.notified = None;
        return Vec::new();
    }
    let before = status.notified.take().unwrap_or_default();
    let (news, told) = news(&before, Seen { verdict, after: &*status, drift, now: Timestamp::now() });
    status.notified = Some(told).filter(|told| *told != Notified::default());
    news
}

/// As last written by this process, else as it stands in the cluster.
pub(super) fn current_status(sync: &GitSync, state: &State) -> GitSyncStatus {
    state.status.clone().or_else(|| sync.status.clone()).unwrap_or_default()
}
