//! What others changed, said object by object: with its fields and who has them now. It asks the cluster, once for each
//! version of an object; what the answer means is [`super::drift`]'s to say, and when to stop healing [`super::fight`]'s.

use std::{collections::HashMap, time::Instant};

use crds::GitSync;
use futures::{FutureExt as _, StreamExt as _};
use kube::Client;

use super::{
    State, Syncer,
    audit::How,
    drift::{Drift, What},
    execute::{self, Done},
    key,
    kinds::Kinds,
    object::ObjectId,
    plan::LiveObject,
    render::Desired,
    status,
};
use crate::{calls::concurrently, context::chain, events::Severity, metrics::DriftBy};

impl Syncer {
    /// What is left as others made it.
    pub(super) async fn differences(
        &self,
        hands: &Client,
        drifted: &[ObjectId],
        desired: &[Desired],
        live: &HashMap<ObjectId, LiveObject>,
        kinds: &Kinds,
        state: &mut State,
    ) -> Vec<Drift> {
        let mut known = std::mem::take(&mut state.drifts);
        let version = |object: &Desired| {
            let live = live.get(&object.id).map(|live| live.resource_version.as_str()).unwrap_or_default();
            format!("{live} {}", object.digest)
        };
        let left = desired.iter().filter(|object| drifted.contains(&object.id));
        let looks = left.map(|object| {
            let version = version(object);
            let seen = known.remove(&object.id).filter(|(seen, _)| *seen == version);
            async move {
                let drift = match seen {
                    Some((_, drift)) => drift,
                    None => self.difference(hands, object, kinds).await,
                };
                (object.id.clone(), (version, drift))
            }
            .boxed()
        });
        state.drifts = concurrently(looks).collect().await;
        let mut drifts: Vec<Drift> = state.drifts.values().map(|(_, drift)| drift.clone()).collect();
        drifts.retain(|drift| !drift.is_none());
        drifts.sort_by(|one, other| one.id.cmp(&other.id));
        drifts
    }

    async fn difference(&self, hands: &Client, object: &Desired, kinds: &Kinds) -> Drift {
        let unseen = |why: String| Drift { id: object.id.clone(), what: What::Unseen(why) };
        let Some(kind) = kinds.get(&object.id.group, &object.version, &object.id.kind) else {
            return unseen("its kind is not served any more".to_owned());
        };
        let drift = match execute::drift(hands, kind, object).await {
            Ok(drift) => drift,
            Err(error) => unseen(chain(&error)),
        };
        if !drift.is_none() {
            self.count(&drift, "left");
        }
        drift
    }

    /// Says what was healed, and whether that is of any use.
    pub(super) fn healed(&self, sync: &GitSync, state: &mut State, revision: &str, done: &Done) {
        let (namespace, name) = key(sync);
        for (id, _) in done.acts.iter().filter(|(_, how)| matches!(how, How::Created | How::Changed | How::Recreated)) {
            state.fights.forget(id);
        }
        if done.drifts.is_empty() {
            return;
        }
        for drift in &done.drifts {
            tracing::info!(namespace, name, revision, drift = state.mask(&drift.to_string()), "drift corrected");
            self.count(drift, "corrected");
        }
        self.context.metrics.git_syncs.corrected(&key(sync), done.drifts.len());
        let message = state.mask(&format!("Drift corrected: {}", status::list(done.drifts.iter())));
        self.events.publish(sync, Severity::Normal, "DriftCorrected", &message);
        state.corrected = Some(message);
        let fights = state.fights.healed(&done.drifts, Instant::now());
        if !fights.is_empty() {
            self.context.metrics.fights.inc_by(fights.len().try_into().unwrap_or(u64::MAX));
            let objects = fights.iter().map(|drift| drift.id.to_string()).collect::<Vec<_>>().join(", ");
            tracing::warn!(namespace, name, revision, objects, "changed back each time");
        }
    }

    fn count(&self, drift: &Drift, action: &'static str) {
        let manager = self.context.metrics.managers.of(drift.by().unwrap_or("unknown"));
        self.context.metrics.drifts.get_or_create(&DriftBy { manager, action }).inc();
    }
}
