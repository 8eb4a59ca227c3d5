//! What a GitSync's status means for whoever looks at it: whether it is well, what is wrong, and what to do next. Pure.

pub use crds::sync::state::State;
use crds::{
    GitSync,
    git_sync::{HistoryEntry, ROLLBACK},
    sync::state::{current, state},
};
use jiff::Timestamp;
use kube::{
    ResourceExt as _,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};
use serde::Serialize;

use crate::pending::{self, Pending};

/// All that is told of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub namespace: String,
    pub name: String,
    pub state: State,
    /// One word, the controller's.
    pub reason: String,
    /// Line by line.
    pub why: Vec<String>,
    /// What somebody can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How long it has been so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The revision that was last applied whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Timestamp>,
    /// The revision that was last tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempted: Option<String>,
    /// The revision that it was rolled back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// How many objects are there because of it.
    pub objects: usize,
    /// What was asked of it, and is not taken up yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Pending>,
}

impl Verdict {
    /// Judges.
    pub fn of(sync: &GitSync) -> Self {
        let status = sync.status.clone().unwrap_or_default();
        let (state, told) = state(sync);
        let (reason, message) = told.map_or((String::new(), String::new()), |it| (it.reason, it.message));
        let (namespace, name) = (sync.namespace().unwrap_or_default(), sync.name_any());
        let key = format!("{namespace}/{name}");
        let newest =
            status.history.first().filter(|newest| status.last_applied_revision.as_ref() == Some(&newest.revision));
        // The annotation may be of another time: a newer commit ends what it asks for.
        let applied = status.last_applied_revision.clone().unwrap_or_default();
        let is_at = |to: &str| is_revision(&applied, to);
        Self {
            next: next(state, &reason, &key),
            why: match state {
                State::Suspended => vec!["nothing is fetched, applied, healed or pruned".to_owned()],
                State::Progressing if message.is_empty() => {
                    vec!["the controller has not seen it as it is now".to_owned()]
                }
                _ => lines(&message),
            },
            since: told_since(sync, state),
            applied_at: newest.map(|newest| newest.applied_at.0),
            applied: status.last_applied_revision,
            attempted: status.last_attempted_revision,
            pinned: sync.annotations().get(ROLLBACK).filter(|to| is_at(to)).cloned(),
            objects: status.inventory.map_or(0, |inventory| inventory.objects.len()),
            pending: pending::of(sync),
            namespace,
            name,
            state,
            reason,
        }
    }

    /// Judges what may not be readable.
    pub fn of_any(found: &DeserializeGuard<GitSync>) -> Self {
        match &found.0 {
            Ok(sync) => Self::of(sync),
            Err(InvalidObject { error, metadata }) => {
                let [namespace, name] = [&metadata.namespace, &metadata.name].map(|it| it.clone().unwrap_or_default());
                Self::unreadable(namespace, name, error.clone())
            }
        }
    }

    /// One that cannot be read.
    pub fn unreadable(namespace: String, name: String, why: String) -> Self {
        let next = "It was written for another version of Signet: use the seal that goes with the controller";
        let (reason, next) = ("Invalid".to_owned(), Some(next.to_owned()));
        Self { state: State::Unreadable, reason, why: vec![why], next, ..Self::gone(namespace, name) }
    }

    /// One that is not there any more.
    pub fn gone(namespace: String, name: String) -> Self {
        Self {
            namespace,
            name,
            state: State::Gone,
            reason: String::new(),
            why: Vec::new(),
            next: None,
            since: None,
            applied: None,
            applied_at: None,
            attempted: None,
            pinned: None,
            objects: 0,
            pending: Vec::new(),
        }
    }

    /// Whether it waits for somebody to take it up.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty() || (self.state == State::Progressing && self.reason.is_empty())
    }

    /// Namespace and name.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it is well, in one line.
    pub fn headline(&self) -> String {
        let (key, reason) = (self.key(), &self.reason);
        match self.state {
            State::Well if !self.pending.is_empty() => format!("{key} was well when somebody last looked at it"),
            State::Well => format!("{key} is well"),
            State::Progressing => format!("{key} is under way"),
            State::Suspended => format!("{key} is suspended"),
            State::Gone => format!("{key} is gone"),
            State::Deleting => format!("{key} is being deleted"),
            State::Waiting | State::Planned => format!("{key} is not well, it waits: {reason}"),
            State::Drifted => format!("{key} is not well, it has drifted"),
            State::Degraded => format!("{key} is not well, though applied: {reason}"),
            State::Stalled => format!("{key} is not well, and stays so until it is changed: {reason}"),
            State::Failed | State::Unreadable => format!("{key} is not well: {reason}"),
        }
    }
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// It is Ready.
    Ready,
    /// All that was applied does what it is for.
    Healthy,
    /// It is gone.
    Deleted,
    /// This revision, or the one whose commit begins so, is applied.
    Applied(String),
    /// The request was served, and what came of it is known.
    Handled(String),
}

/// How far it is to a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Reached,
    Under,
    /// It will not be reached by waiting.
    Lost,
}

/// Judges; `None` is one that is not there.
pub fn step(sync: Option<&GitSync>, goal: &Goal) -> Step {
    let Some(sync) = sync else { return if *goal == Goal::Deleted { Step::Reached } else { Step::Lost } };
    let (state, _) = state(sync);
    let is = |kind: &str| current(sync, kind).is_some_and(|it| it.status == "True");
    let applied = sync.status.as_ref().and_then(|status| status.last_applied_revision.as_deref()).unwrap_or_default();
    let reached = match goal {
        Goal::Ready => is("Ready"),
        Goal::Healthy => is("Ready") && is("Healthy"),
        Goal::Deleted => false,
        Goal::Applied(wanted) => is("Ready") && is_revision(applied, wanted),
        Goal::Handled(request) => {
            let handled = sync.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref());
            match current(sync, "Ready").map(|ready| ready.status.as_str()) {
                Some("False") if handled == Some(request) => return Step::Lost,
                ready => handled == Some(request) && ready == Some("True"),
            }
        }
    };
    match (reached, state, goal) {
        (true, ..) => Step::Reached,
        (_, State::Stalled | State::Suspended, goal) if *goal != Goal::Deleted => Step::Lost,
        _ => Step::Under,
    }
}

/// The same of one that may not be readable: whether it is as wanted will not be known by waiting, but that it goes may be.
pub fn step_of_any(found: Option<&DeserializeGuard<GitSync>>, goal: &Goal) -> Step {
    match found.map(|found| &found.0) {
        Some(Ok(sync)) => step(Some(sync), goal),
        Some(Err(_)) if *goal == Goal::Deleted => Step::Under,
        Some(Err(_)) => Step::Lost,
        None => step(None, goal),
    }
}

/// Whether a revision is the one that somebody names, by all of it or the first letters of its commit.
pub fn is_revision(revision: &str, wanted: &str) -> bool {
    let commit = revision.rsplit(':').next().unwrap_or_default();
    revision == wanted || (wanted.len() >= 4 && commit.starts_with(wanted))
}

/// As people write it: `main@3f2a91c`.
pub fn short(revision: &str) -> String {
    match revision.split_once("@sha1:") {
        Some((reference, commit)) => format!("{reference}@{}", commit.get(..7).unwrap_or(commit)),
        None => revision.to_owned(),
    }
}

/// The plan that waits for leave.
pub fn waiting_plan(sync: &GitSync) -> Option<(String, Vec<String>)> {
    let plan = sync.status.as_ref()?.plan.as_ref()?;
    Some((plan.digest.clone(), plan.steps.clone()))
}

/// The revision of the history to go back to; `None` if there is no such one.
pub fn target<'a>(
    history: &'a [HistoryEntry],
    applied: Option<&str>,
    wanted: Option<&str>,
) -> Option<&'a HistoryEntry> {
    history.iter().find(|entry| match wanted {
        Some(wanted) => is_revision(&entry.revision, wanted),
        None => Some(entry.revision.as_str()) != applied,
    })
}

fn told_since(sync: &GitSync, of: State) -> Option<Timestamp> {
    match of {
        State::Deleting => sync.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        State::Suspended | State::Unreadable | State::Gone => None,
        _ => state(sync).1.map(|condition| condition.last_transition_time.0),
    }
}

/// A message that tells of several things, one by one: each begins with a place or with an object.
fn lines(message: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in message.split("; ") {
        let word = part.split(' ').next().unwrap_or_default();
        let begins = part.starts_with(char::is_uppercase)
            || word.ends_with(':')
            || part.strip_prefix("and ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        match lines.last_mut().filter(|_| !begins) {
            Some(line) => *line += &["; ", part].concat(),
            None => lines.push(part.to_owned()),
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// What somebody can do.
fn next(state: State, reason: &str, key: &str) -> Option<String> {
    let words = match (state, reason) {
        (State::Well | State::Progressing, "") => {
            "If this lasts, see whether the controller runs: kubectl -n kube-system get deployment sealed-secrets-controller"
        }
        (State::Well | State::Progressing, _) => return None,
        (State::Suspended, _) => return Some(format!("seal sync resume {key} goes on")),
        (State::Deleting, _) => return Some(format!("Its objects go first: seal sync tree {key} shows what is left")),
        (State::Drifted, _) => {
            return Some(format!("seal sync diff {key} shows what was changed; spec.drift: Correct puts it back"));
        }
        (State::Degraded, _) | (_, "HealthCheckFailed") => {
            return Some(format!("seal sync tree {key} shows each object; seal sync rollback {key} goes back"));
        }
        (_, "ApprovalRequired") => {
            return Some(format!("See seal sync plan {key}, then allow it: seal sync approve {key}"));
        }
        (_, "PruneRefused") => {
            return Some(format!("If that is meant, seal sync approve {key}; if not, put the files back into Git"));
        }
        (_, "DependencyNotReady") => "See how those fare that it waits for: seal sync status",
        (State::Stalled, _) => "Change the GitSync: it is not tried again before",
        (_, "BuildFailed") => "Correct these files and push. What was applied before stays, and is healed",
        (_, "SealedSecretFailed") => {
            "Seal the values for this cluster, namespace and name, and push: seal set. Those of a SealedSecret that was \
             renamed or moved: docs/runbook-keys.md, Moved or renamed"
        }
        (_, "ReconciliationFailed") => "Correct these files and push, or give the account the rights that it lacks",
        (_, "RollbackNotFound") => {
            return Some(format!(
                "seal sync history {key} shows the revisions; seal sync rollback {key} --off follows Git"
            ));
        }
        (_, "PruneFailed") => "See what holds these objects: their finalizers, or a webhook",
        (
            _,
            "AuthenticationFailed" | "InvalidCredentials" | "RepositoryNotFound" | "HostKeyRefused" | "SecretNotFound",
        ) => "Correct the Secret that spec.source.secretRef names. What was applied before stays, and is healed",
        (_, "Unreachable" | "Timeout" | "FetchFailed") => {
            "It is tried again and again. What was applied before stays, and is healed"
        }
        (State::Unreadable | State::Gone, _) => return None,
        _ => return Some(format!("It is tried again and again; seal sync events {key} shows what came before")),
    };
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sync(spec: Value, status: &Value) -> GitSync {
        let mut whole = json!({
            "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync",
            "metadata": {"name": "web", "namespace": "shop", "generation": 2},
            "spec": {"source": {"url": "https://git.example.com/shop.git"}}, "status": status,
        });
        if let Value::Object(fields) = spec {
            whole["spec"].as_object_mut().unwrap().extend(fields);
        }
        serde_json::from_value(whole).unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 2,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn with(conditions: &[Value]) -> GitSync {
        sync(json!({}), &json!({"conditions": conditions}))
    }

    #[test]
    fn each_state_is_told_with_what_to_do() {
        let ready = |status: &str, reason: &str| condition("Ready", status, reason, "m");
        for (conditions, state, headline, next) in [
            (vec![], State::Progressing, "is under way", "see whether the controller runs"),
            (vec![ready("True", "R")], State::Well, "is well", ""),
            (vec![ready("Unknown", "Progressing")], State::Progressing, "is under way", ""),
            (vec![ready("False", "BuildFailed")], State::Failed, "is not well: BuildFailed", "Correct these files"),
            (vec![ready("False", "PruneRefused")], State::Waiting, "it waits", "if not, put the files back"),
            (vec![ready("False", "ApprovalRequired")], State::Planned, "it waits", "seal sync approve shop/web"),
            (vec![ready("False", "SealedSecretFailed")], State::Failed, "SealedSecretFailed", "Moved or renamed"),
            (vec![ready("False", "Unheard")], State::Failed, "is not well: Unheard", "seal sync events shop/web"),
            (
                vec![ready("False", "InvalidUrl"), condition("Stalled", "True", "InvalidUrl", "m")],
                State::Stalled,
                "until it is changed: InvalidUrl",
                "Change the GitSync",
            ),
            (
                vec![ready("True", "R"), condition("Healthy", "False", "Degraded", "m")],
                State::Degraded,
                "though applied: Degraded",
                "seal sync tree shop/web",
            ),
            (
                vec![ready("True", "R"), condition("Drifted", "True", "DriftReported", "m")],
                State::Drifted,
                "has drifted",
                "seal sync diff shop/web",
            ),
        ] {
            let verdict = Verdict::of(&with(&conditions));
            assert_eq!(verdict.state, state, "{conditions:?}");
            assert!(verdict.headline().contains(headline), "{}", verdict.headline());
            assert!(verdict.next.unwrap_or_default().contains(next), "{conditions:?}");
        }
        let suspended = Verdict::of(&sync(json!({"suspend": true}), &json!({"conditions": [ready("False", "X")]})));
        assert_eq!(
            (suspended.state, suspended.next.unwrap().as_str()),
            (State::Suspended, "seal sync resume shop/web goes on")
        );
    }

    #[test]
    fn what_is_asked_for_and_not_taken_up_is_not_called_well() {
        let mut sync = with(&[condition("Ready", "True", "R", "m")]);
        assert!(!Verdict::of(&sync).waits());
        sync.annotations_mut().insert(crds::git_sync::RECONCILE_REQUESTED.to_owned(), "now".to_owned());
        let verdict = Verdict::of(&sync);
        assert!(verdict.waits() && verdict.headline().contains("was well when"), "{}", verdict.headline());
        assert!(Verdict::of(&with(&[])).waits(), "nobody has seen it yet");
    }

    #[test]
    fn what_was_said_of_an_older_spec_says_nothing() {
        let mut old = condition("Ready", "True", "R", "m");
        old["observedGeneration"] = json!(1);
        assert_eq!(Verdict::of(&with(&[old.clone()])).state, State::Progressing);
        assert_eq!(step(Some(&with(&[old])), &Goal::Ready), Step::Under);
    }

    #[test]
    fn several_problems_are_told_line_by_line() {
        let message = "a.yaml:1: X; an object may; b.yaml:2: Y; Deployment shop/web: is late; and 3 more";
        let expected = ["a.yaml:1: X; an object may", "b.yaml:2: Y", "Deployment shop/web: is late", "and 3 more"];
        assert_eq!(Verdict::of(&with(&[condition("Ready", "False", "BuildFailed", message)])).why, expected);
    }

    #[test]
    fn goals_are_reached_or_lost() {
        let ready = |status: &str| condition("Ready", status, "R", "m");
        let handled = |status: &str| {
            let revision = "main@sha1:3f2a91c0000";
            let whole = json!({"conditions": [ready(status)], "lastHandledReconcileAt": "now", "lastAppliedRevision": revision});
            sync(json!({}), &whole)
        };
        let asked = Goal::Handled("now".to_owned());
        assert_eq!(
            ["True", "Unknown", "False"].map(|it| step(Some(&handled(it)), &asked)),
            [Step::Reached, Step::Under, Step::Lost]
        );
        assert_eq!(step(Some(&with(&[ready("False")])), &asked), Step::Under, "it was not served yet");
        assert_eq!(step(Some(&with(&[ready("False")])), &Goal::Ready), Step::Under, "it may yet be");
        let stalled = with(&[ready("False"), condition("Stalled", "True", "R", "m")]);
        assert_eq!(step(Some(&stalled), &Goal::Ready), Step::Lost);
        assert_eq!([step(None, &Goal::Deleted), step(None, &Goal::Ready)], [Step::Reached, Step::Lost]);
        assert_eq!(step(Some(&stalled), &Goal::Deleted), Step::Under);
        let applied = |wanted: &str| step(Some(&handled("True")), &Goal::Applied(wanted.to_owned()));
        assert_eq!(
            ["3f2a91c", "main@sha1:3f2a91c0000", "3f", "main"].map(applied),
            [Step::Reached, Step::Reached, Step::Under, Step::Under]
        );
    }

    #[test]
    fn a_rollback_goes_to_what_was_before_or_was_named() {
        let entry = |commit: &str| {
            let entry =
                json!({"revision": format!("main@sha1:{commit}"), "digest": "d", "appliedAt": "2026-01-01T00:00:00Z"});
            serde_json::from_value::<HistoryEntry>(entry).unwrap()
        };
        let history = [entry("cccc1111"), entry("bbbb1111"), entry("aaaa1111")];
        let to = |applied: &str, wanted| target(&history, Some(applied), wanted).map(|it| short(&it.revision));
        assert_eq!(to("main@sha1:cccc1111", None).as_deref(), Some("main@bbbb111"));
        assert_eq!(to("main@sha1:cccc1111", Some("aaaa")).as_deref(), Some("main@aaaa111"));
        assert_eq!(to("main@sha1:cccc1111", Some("dddd")), None);
    }
}
