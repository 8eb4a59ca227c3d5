//! How a GitSync fares, in one word: the same to `seal sync` and in the controller's metrics. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::GitSync;

/// How a GitSync fares, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum State {
    /// Nobody can tell.
    Unreadable,
    /// Something is wrong that only another spec mends.
    Stalled,
    /// Something is wrong.
    Failed,
    /// It was applied, and does not do what it is for.
    Degraded,
    /// It waits for another GitSync, or for somebody to say that so much is to be deleted.
    Waiting,
    /// Its plan waits for leave, as its spec asks.
    Planned,
    /// Others changed what was applied, and it is left so.
    Drifted,
    /// It is being deleted.
    Deleting,
    /// It is under way.
    Progressing,
    /// Nothing is done.
    Suspended,
    /// It is not there any more.
    Gone,
    /// The cluster is as Git says.
    Well,
}

/// The state, and the condition that tells of it.
pub fn state(sync: &GitSync) -> (State, Option<Condition>) {
    let find = |kind: &str, status: &str| current(sync, kind).filter(|it| it.status == status).cloned();
    let ready = current(sync, "Ready").cloned();
    if sync.metadata.deletion_timestamp.is_some() {
        return (State::Deleting, find("Ready", "False"));
    }
    if sync.spec.suspend {
        return (State::Suspended, None);
    }
    if let Some(stalled) = find("Stalled", "True") {
        return (State::Stalled, Some(stalled));
    }
    match ready {
        None => (State::Progressing, None),
        Some(ready) if ready.status == "False" => {
            let state = match ready.reason.as_str() {
                "ApprovalRequired" => State::Planned,
                "PruneRefused" | "DependencyNotReady" => State::Waiting,
                _ => State::Failed,
            };
            (state, Some(ready))
        }
        Some(ready) if ready.status != "True" => (State::Progressing, Some(ready)),
        Some(ready) => match (find("Healthy", "False"), find("Drifted", "True"), find("Healthy", "Unknown")) {
            (Some(unwell), ..) => (State::Degraded, Some(unwell)),
            (_, Some(drifted), _) => (State::Drifted, Some(drifted)),
            (.., Some(under_way)) => (State::Progressing, Some(under_way)),
            _ => (State::Well, Some(ready)),
        },
    }
}

/// A condition of the spec as it is now; what was said of an older one says nothing.
pub fn current<'a>(sync: &'a GitSync, kind: &str) -> Option<&'a Condition> {
    let conditions = &sync.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    (found.observed_generation == sync.metadata.generation).then_some(found)
}
