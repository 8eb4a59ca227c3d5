//! What a pass came to, told: status, Event, log and metric, each only when something changed. What they say is
//! [`super::status`]'s to decide.

use std::sync::Arc;

use crds::{
    SealedSecret,
    sealed_secret::{SealedSecretStatus, UnsealedRecord},
};
use jiff::Timestamp;
use kube::{
    Resource as _, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    decide::{LastPass, Live, RingVersion, Stuck, chosen},
    pass::{Error, Unsealer, key},
    status::{self, Failure, WaitsFor},
};
use crate::{calls::write_status, events::Severity, kept::Kept, metrics};

impl Unsealer {
    /// Status, Event, metric; each only when something changed. `live` and `ring` are what was tried.
    pub(super) async fn report(
        &self,
        sealed: &SealedSecret,
        outcome: Result<UnsealedRecord, Failure>,
        live: &Live,
        ring: RingVersion,
    ) -> Result<Action, Error> {
        let before = self.last(sealed).map(|last| last.status).or_else(|| sealed.status.clone());
        let failed = outcome.as_ref().err();
        let status =
            status::next(before.as_ref(), sealed.metadata.generation, outcome.as_ref().cloned(), Timestamp::now());
        if let Some(failure) = failed {
            self.count(failure.metric(), sealed);
        }
        if before.as_ref() != Some(&status) {
            if self.options.update_status {
                write_status(&self.context.client, sealed, &status).await.map_err(|error| {
                    self.count("status", sealed);
                    Error::Status(error)
                })?;
            }
            let said = |status: &SealedSecretStatus| {
                let condition = status.conditions.first();
                condition.map(|it| (it.status.clone(), it.message.clone(), status.observed_generation))
            };
            if before.as_ref().and_then(said) != said(&status) {
                self.announce(sealed, failed);
            }
        }
        let waits_for = failed.and_then(Failure::waits_for);
        let secret = live.secret().map(|secret| secret.resource_version.clone());
        let stuck = match waits_for {
            Some(WaitsFor::Object) => Some(Stuck { ring, chosen: chosen(sealed), secret: None }),
            Some(WaitsFor::Secret) if secret.is_some() => Some(Stuck { ring, chosen: chosen(sealed), secret }),
            _ => None,
        };
        // A Secret that nobody watches has to be looked at again and again.
        let unseen = waits_for == Some(WaitsFor::Secret) && !self.options.watch_secrets;
        let action = match failed {
            Some(failure) if unseen || waits_for.is_none() => Err(Error::Refused(failure.to_string())),
            _ => Ok(Action::await_change()),
        };
        let pass = LastPass { status, stuck: stuck.filter(|_| !unseen) };
        let (namespace, name) = key(sealed);
        let mut passes = self.passes.write();
        // The store forgets it first, then `gone`.
        let there = self.context.sealed.get(&ObjectRef::new(&name).within(&namespace));
        if there.is_some_and(|there| there.meta().uid == sealed.metadata.uid) {
            passes.insert((namespace, name), (sealed.metadata.uid.clone(), pass));
        }
        action
    }

    pub(super) fn count(&self, reason: &'static str, sealed: &SealedSecret) {
        let labels = metrics::UnsealError { reason, namespace: sealed.namespace().unwrap_or_default() };
        self.context.metrics.unseal_errors.get_or_create(&labels).inc();
    }

    /// Forgets the failures of a namespace that has no SealedSecrets any more: such come and go, and each would leave
    /// series behind.
    pub(super) fn uncount(&self, namespace: &str) {
        let errors = &self.context.metrics.unseal_errors;
        let labels = |reason| metrics::UnsealError { reason, namespace: namespace.to_owned() };
        let mut counted = metrics::UnsealError::REASONS.map(labels).to_vec();
        counted.retain(|labels| errors.get(labels).is_some());
        let is_there = |kept: &Arc<Kept<SealedSecret>>| kept.meta().namespace.as_deref() == Some(namespace);
        if !counted.is_empty() && !self.context.sealed.all().iter().any(is_there) {
            for labels in &counted {
                errors.remove(labels);
            }
        }
    }

    fn announce(&self, sealed: &SealedSecret, failed: Option<&Failure>) {
        let (namespace, name) = key(sealed);
        if let Some(failure) = failed {
            let (reason, message) = failure.event();
            tracing::warn!(namespace, name, reason = failure.reason(), "{message}");
            self.events.publish(sealed, Severity::Warning, reason, &message);
        } else {
            tracing::info!(namespace, name, "SealedSecret unsealed successfully");
            self.events.publish(sealed, Severity::Normal, "Unsealed", "SealedSecret unsealed successfully");
        }
    }
}
