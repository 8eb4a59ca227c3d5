//! One replica leads: it opens, syncs and mints, while all serve certificates. Holds a Lease in the controller's own
//! namespace. Should two ever believe to lead, they write the same things under one name, a new key among them; the
//! Lease only keeps them from doing the work twice.

pub mod lease;

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::lease::{CALL, GIVE_UP, LOOK, Move, RENEW, Sighting, evaluate, holder, released, still_leads};
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

/// A candidate.
pub struct Candidate {
    api: Api<Lease>,
    me: String,
    seen: Option<Sighting>,
}

impl Candidate {
    /// `me` must be nobody else's name, and the same again after this container was restarted: the Pod's.
    pub fn new(client: Client, namespace: &str, me: String) -> Self {
        Self { api: Api::namespaced(client, namespace), me, seen: None }
    }

    /// Leads when it can until `stop`, then gives the Lease back.
    pub async fn run(mut self, role: Arc<watch::Sender<Role>>, stop: CancellationToken) {
        let me = self.me.clone();
        let take_on = |new: Role| {
            // Others hear of a change, not of every renewal.
            if role.send_if_modified(|role| std::mem::replace(role, new) != new) {
                tracing::info!(identity = me, "{new}");
            }
        };
        let mut renewed = Instant::now();
        let mut wait = std::time::Duration::ZERO;
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            pulse::beat();
            let began = Instant::now();
            let leads = *role.borrow() == Role::Leading;
            match self.step(leads, renewed).await {
                Ok(new) => {
                    take_on(new);
                    renewed = began;
                }
                // Another candidate was faster: what it wrote is seen at the next look.
                Err(error) if error.is_conflict() => take_on(Role::Following),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(
                        error,
                        "cannot hold or look at the Lease; see deploy/install.yaml if this is a matter of rights"
                    );
                    if leads && renewed.elapsed() >= GIVE_UP {
                        take_on(Role::Following);
                    }
                }
            }
            let pause = if *role.borrow() == Role::Leading && renewed == began { RENEW } else { LOOK };
            wait = pause.saturating_sub(began.elapsed());
        }
        self.release().await;
    }

    /// Takes or renews the Lease where it may.
    async fn step(&mut self, leads: bool, renewed: Instant) -> Result<Role, CallError> {
        match self.attempt(leads).await {
            Err(error) if leads && error.is_conflict() => {
                let there = within(CALL, self.api.get_opt(NAME)).await?;
                if !still_leads(there.as_ref(), &self.me, renewed, Instant::now()) {
                    return Err(error);
                }
                self.seen = there.map(|lease| Sighting { lease, since: Instant::now() });
                self.attempt(leads).await
            }
            outcome => outcome,
        }
    }

    /// A leader knows what it wrote last and need not look.
    async fn attempt(&mut self, leads: bool) -> Result<Role, CallError> {
        if !leads {
            let seen = within(CALL, self.api.get_opt(NAME)).await?;
            self.seen = seen.map(|lease| Sighting::after(self.seen.take(), lease, Instant::now()));
        }
        let now = Instant::now();
        let named = || Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            ..Lease::default()
        };
        let written = match evaluate(self.seen.as_ref(), &self.me, named, now, Timestamp::now()) {
            Move::Create(lease) => within(CALL, self.api.create(&PostParams::default(), &lease)).await?,
            Move::Write(lease) => within(CALL, self.api.replace(NAME, &PostParams::default(), &lease)).await?,
            Move::Follow => return Ok(Role::Following),
        };
        self.seen = Some(Sighting::after(self.seen.take(), written, now));
        Ok(Role::Leading)
    }

    /// What cannot be given back is taken when it has not moved for long.
    async fn release(&self) {
        let mine = self.seen.as_ref().filter(|seen| holder(&seen.lease) == Some(self.me.as_str()));
        let Some(Sighting { lease, .. }) = mine else { return };
        let freed = released(lease, Timestamp::now());
        match within(CALL, self.api.replace(NAME, &PostParams::default(), &freed)).await {
            Ok(_) => tracing::info!("gave the Lease back"),
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot give the Lease back; another takes it in seconds");
            }
        }
    }
}
