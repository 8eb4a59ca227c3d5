//! One replica leads: it opens, syncs and mints, while all serve certificates. Holds a Lease in the controller's own
//! namespace. Should two ever believe to lead, they write the same things under one name, a new key among them; the
//! Lease only keeps them from doing the work twice.

pub mod lease;

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::lease::{Move, Sighting, Times, evaluate, holder, released, still_leads};
use crate::{
    calls::{CallError, within},
    context::chain,
    pulse,
};

/// The Lease's name.
const NAME: &str = "signet-controller";

/// What this replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Role {
    /// Not known yet.
    #[default]
    Starting,
    /// The one that works.
    Leading,
    /// One that serves, and is ready to lead.
    Following,
}

/// The role, as others see it.
pub type Roles = watch::Receiver<Role>;

/// No watch brings what happens in a store that was set back, until it has come as far as it was.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster has an older state than before: its store was restored from a backup, and watches miss what happens in it; \
     ending, to begin anew"
)]
pub struct Undone;

/// A candidate.
pub struct Candidate {
    api: Api<Lease>,
    me: String,
    times: Times,
    seen: Option<Sighting>,
    /// What was seen once is not there any more.
    undone: bool,
    /// What is in the way, and was told.
    trouble: Option<String>,
}

impl Candidate {
    /// `me` must be nobody else's name, and the same again after this container was restarted: the Pod's.
    pub fn new(client: Client, namespace: &str, me: String, times: Times) -> Self {
        Self { api: Api::namespaced(client, namespace), me, times, seen: None, undone: false, trouble: None }
    }

    /// Leads when it can until `stop`, then gives the Lease back.
    pub async fn run(mut self, role: Arc<watch::Sender<Role>>, stop: CancellationToken) -> Result<(), Undone> {
        let me = self.me.clone();
        let take_on = |new: Role| {
            // Others hear of a change, not of every renewal.
            if role.send_if_modified(|role| std::mem::replace(role, new) != new) {
                tracing::info!(identity = me, "{new}");
            }
        };
        let (mut renewed, mut next) = (Instant::now(), Instant::now());
        while stop.run_until_cancelled(sleep_until(next.into())).await.is_some() {
            pulse::beat();
            let began = Instant::now();
            if *role.borrow() == Role::Leading && began >= self.times.end(renewed) {
                take_on(Role::Following);
            }
            let leads = *role.borrow() == Role::Leading;
            let end = self.times.end(if leads { renewed } else { began });
            let step = timeout_at(end.into(), self.step(leads, end));
            let Some(outcome) = stop.run_until_cancelled(step).await else { break };
            if self.undone {
                return Err(Undone);
            }
            next = began + self.times.retry;
            match outcome.unwrap_or(Err(CallError::Timeout(self.times.deadline))) {
                Ok(since) => {
                    self.well();
                    take_on(if since.is_some() { Role::Leading } else { Role::Following });
                    renewed = since.unwrap_or(began);
                }
                // Another candidate was faster: what it wrote is seen at the next look.
                Err(error) if error.is_conflict() => take_on(Role::Following),
                Err(error) => {
                    self.trouble(chain(&error));
                    // A leader gives up in time, and not only when it would try again.
                    next = if leads { next.min(end) } else { next };
                }
            }
        }
        self.release().await;
        Ok(())
    }

    /// At each try: the same is told once.
    fn trouble(&mut self, error: String) {
        if self.trouble.as_ref() != Some(&error) {
            tracing::warn!(
                error,
                "cannot hold or look at the Lease; trying again; see deploy/install.yaml if this is a matter of rights"
            );
            self.trouble = Some(error);
        }
    }

    fn well(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("the Lease can be looked at again");
        }
    }

    /// Takes or renews the Lease where it may; since when it is held then.
    async fn step(&mut self, leads: bool, end: Instant) -> Result<Option<Instant>, CallError> {
        loop {
            let error = match self.attempt(leads).await {
                Err(error) if leads && error.is_conflict() => error,
                outcome => return outcome,
            };
            // Others may write it more than once meanwhile.
            let there = self.look().await?;
            if !still_leads(there.as_ref(), &self.me, end, Instant::now()) {
                return Err(error);
            }
            self.seen = there.map(|lease| Sighting { lease, since: Instant::now() });
        }
    }

    /// The Lease as it is there.
    async fn look(&mut self) -> Result<Option<Lease>, CallError> {
        let there = within(self.times.call(), self.api.get_opt(NAME)).await?;
        let both = self.seen.as_ref().zip(there.as_ref());
        self.undone |= both.is_some_and(|(seen, there)| seen.is_undone(there));
        Ok(there)
    }

    /// A leader knows what it wrote last and need not look.
    async fn attempt(&mut self, leads: bool) -> Result<Option<Instant>, CallError> {
        let call = self.times.call();
        if !leads {
            let seen = self.look().await?;
            self.seen = seen.map(|lease| Sighting::after(self.seen.take(), lease, Instant::now()));
        }
        let now = Instant::now();
        let named = || Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            ..Lease::default()
        };
        let written = match evaluate(self.seen.as_ref(), &self.me, named, self.times, now, Timestamp::now()) {
            Move::Create(lease) => within(call, self.api.create(&PostParams::default(), &lease)).await?,
            Move::Write(lease) => within(call, self.api.replace(NAME, &PostParams::default(), &lease)).await?,
            Move::Follow => return Ok(None),
        };
        self.seen = Some(Sighting::after(self.seen.take(), written, now));
        Ok(Some(now))
    }

    /// What cannot be given back is taken when its time is over.
    async fn release(&self) {
        let held_by = self.seen.as_ref().and_then(|seen| holder(&seen.lease));
        if held_by.is_some_and(|holder| holder != self.me) {
            return;
        }
        loop {
            match self.free().await {
                Ok(true) => tracing::info!("gave the Lease back"),
                Ok(false) => {}
                // A renewal that was not waited for went through all the same.
                Err(error) if error.is_conflict() => continue,
                Err(error) => tracing::warn!(
                    error = chain(&error),
                    "cannot give the Lease back; another takes it when its time is over"
                ),
            }
            return;
        }
    }

    /// Frees the Lease as it is there now; whether it was ours.
    async fn free(&self) -> Result<bool, CallError> {
        let call = self.times.call();
        let there = within(call, self.api.get_opt(NAME)).await?;
        let Some(lease) = there.filter(|lease| holder(lease) == Some(self.me.as_str())) else { return Ok(false) };
        let freed = released(&lease, Timestamp::now());
        within(call, self.api.replace(NAME, &PostParams::default(), &freed)).await?;
        Ok(true)
    }
}
