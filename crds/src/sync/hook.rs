//! Hooks: objects that are run at a turn of a sync instead of being kept. What an object says about that, in the words of
//! Argo CD, Helm and our own; and how far a run of them has come, as the status keeps it. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says when an object is run. Argo CD's annotation of the same name, and Helm's, mean the same.
pub const HOOK: &str = "gitsync.signet.dev/hook";
/// Says when what was run is deleted.
pub const DELETE_POLICY: &str = "gitsync.signet.dev/hook-delete-policy";
/// Written on what is run: in which run, and for which phase of it. So a restart does not run it twice.
pub const RUN: &str = "gitsync.signet.dev/hook-run";

const ARGO_HOOK: &str = "argocd.argoproj.io/hook";
const ARGO_DELETE_POLICY: &str = "argocd.argoproj.io/hook-delete-policy";
const HELM_HOOK: &str = "helm.sh/hook";
const HELM_DELETE_POLICY: &str = "helm.sh/hook-delete-policy";
const HELM_WEIGHT: &str = "helm.sh/hook-weight";

/// A part of a sync, in their order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, strum::Display,
)]
pub enum Phase {
    /// Before everything else.
    PreSync,
    /// In its wave, with what is kept.
    Sync,
    /// When everything is applied, pruned and healthy.
    PostSync,
    /// When the sync has failed.
    SyncFail,
}

/// All of them.
pub const PHASES: [Phase; 4] = [Phase::PreSync, Phase::Sync, Phase::PostSync, Phase::SyncFail];

/// When an object is run, and how long it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    phases: [bool; PHASES.len()],
    /// It goes when its phase is over and it has succeeded. What is left of an earlier run goes before the next in any
    /// case.
    pub goes_when_succeeded: bool,
    /// It goes when its phase is over and it has failed.
    pub goes_when_failed: bool,
}

impl Hook {
    /// Its phases, in their order.
    pub fn phases(&self) -> impl Iterator<Item = Phase> {
        PHASES.into_iter().zip(self.phases).filter_map(|(phase, runs)| runs.then_some(phase))
    }
}

/// What an object says about being a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing: it is kept.
    Nothing,
    /// It is for another time than a sync.
    NotNow,
    /// It is one.
    Hook(Hook),
}

/// Reads it. Helm's words count where neither Argo CD's nor ours are.
pub fn said(annotations: &BTreeMap<String, String>) -> Result<Said, String> {
    let first = |keys: &[&'static str]| keys.iter().find_map(|key| Some((*key, words(annotations.get(*key)?))));
    let Some((key, words)) = first(&[HOOK, ARGO_HOOK, HELM_HOOK]) else { return Ok(Said::Nothing) };
    let mut hook = Hook::default();
    let (mut runs, mut later) = (false, false);
    for word in words {
        let phase = match (word, key) {
            ("PreSync", _) | ("pre-install" | "pre-upgrade", HELM_HOOK) => 0,
            ("Sync", _) => 1,
            ("PostSync", _) | ("post-install" | "post-upgrade", HELM_HOOK) => 2,
            ("SyncFail", _) => 3,
            ("Skip", _) => return Ok(Said::NotNow),
            ("PreDelete" | "PostDelete", _)
            | (
                "pre-delete" | "post-delete" | "pre-rollback" | "post-rollback" | "test" | "test-success"
                | "test-failure",
                HELM_HOOK,
            ) => {
                later = true;
                continue;
            }
            // Of Helm 2: what has it is applied like anything else.
            (_, HELM_HOOK) => continue,
            (word, key) => {
                return Err(format!(
                    "the annotation {key} says {word:?}, which is no hook: use PreSync, Sync, PostSync, SyncFail or Skip"
                ));
            }
        };
        if let Some(flag) = hook.phases.get_mut(phase) {
            (*flag, runs) = (true, true);
        }
    }
    if let Some((key, words)) = first(&[DELETE_POLICY, ARGO_DELETE_POLICY, HELM_DELETE_POLICY]) {
        for word in words {
            match word {
                "HookSucceeded" | "hook-succeeded" => hook.goes_when_succeeded = true,
                "HookFailed" | "hook-failed" => hook.goes_when_failed = true,
                "BeforeHookCreation" | "before-hook-creation" => {}
                other => {
                    return Err(format!(
                        "the annotation {key} says {other:?}: use HookSucceeded, HookFailed or BeforeHookCreation"
                    ));
                }
            }
        }
    }
    Ok(match (runs, later) {
        (true, _) => Said::Hook(hook),
        (false, true) => Said::NotNow,
        (false, false) => Said::Nothing,
    })
}

/// Helm's word for a wave.
pub fn weight(annotations: &BTreeMap<String, String>) -> Option<(&'static str, &str)> {
    Some((HELM_WEIGHT, annotations.get(HELM_WEIGHT)?.trim()))
}

fn words(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// Hooks of the revision that is being applied. It is there until all of that is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookRun {
    /// Stands in the annotation gitsync.signet.dev/hook-run of what is run.
    pub id: String,
    /// Of what the revision asks for.
    pub digest: String,
    /// The sync has failed: what is for that case is run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Those that have begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookState>,
}

/// One hook in one phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookState {
    /// As in the inventory.
    pub id: String,
    /// For which phase.
    pub phase: Phase,
    /// How far it has come.
    pub state: Progress,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// See [`HookState::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Progress {
    /// It has begun.
    Running,
    /// It has ended well.
    Succeeded,
    /// It has ended otherwise.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[(&str, &str)]) -> Result<Said, String> {
        said(&all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    fn phases(all: &[(&str, &str)]) -> Vec<Phase> {
        match of(all).unwrap() {
            Said::Hook(hook) => hook.phases().collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_has_its_words() {
        use Phase::{PostSync, PreSync, Sync, SyncFail};
        for (key, value, expected) in [
            ("gitsync.signet.dev/hook", "PreSync", vec![PreSync]),
            ("argocd.argoproj.io/hook", "PreSync, Sync,PostSync,SyncFail", vec![PreSync, Sync, PostSync, SyncFail]),
            ("argocd.argoproj.io/hook", "PostDelete,PostSync", vec![PostSync]),
            ("helm.sh/hook", "pre-install,pre-upgrade", vec![PreSync]),
            ("helm.sh/hook", "pre-delete,post-install,post-upgrade", vec![PostSync]),
        ] {
            assert_eq!(phases(&[(key, value)]), expected, "{key}: {value}");
        }
        for (key, value, expected) in [
            ("argocd.argoproj.io/hook", "Skip", Said::NotNow),
            ("argocd.argoproj.io/hook", "PreDelete", Said::NotNow),
            ("helm.sh/hook", "test", Said::NotNow),
            ("helm.sh/hook", "crd-install", Said::Nothing),
            ("example.com/hook", "PreSync", Said::Nothing),
        ] {
            assert_eq!(of(&[(key, value)]), Ok(expected), "{key}: {value}");
        }
        // Where Argo CD's word stands, Helm's does not count.
        let both = [("argocd.argoproj.io/hook", "PostSync"), ("helm.sh/hook", "pre-install")];
        assert_eq!(phases(&both), [PostSync]);
        assert!(of(&[("argocd.argoproj.io/hook", "Presync")]).unwrap_err().contains("\"Presync\""));
    }

    #[test]
    fn when_it_goes_is_said_by_each() {
        let hook = |key, value| match of(&[("helm.sh/hook", "pre-install"), (key, value)]).unwrap() {
            Said::Hook(hook) => (hook.goes_when_succeeded, hook.goes_when_failed),
            other => panic!("{other:?}"),
        };
        assert_eq!(hook("helm.sh/hook-delete-policy", "before-hook-creation"), (false, false));
        assert_eq!(hook("helm.sh/hook-delete-policy", "hook-succeeded,hook-failed"), (true, true));
        assert_eq!(hook("argocd.argoproj.io/hook-delete-policy", "HookSucceeded"), (true, false));
        let wrong = [("helm.sh/hook", "pre-install"), ("helm.sh/hook-delete-policy", "never")];
        assert!(of(&wrong).unwrap_err().contains("\"never\""));
    }
}
