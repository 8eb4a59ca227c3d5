//! What an object says about how it is synced, in the words of Flux and Argo CD where both mean the same as we. Pure.

use std::collections::BTreeMap;

use super::hook::{self, Hook, Said};

/// Flux's keys, as labels or annotations.
const FLUX: &str = "kustomize.toolkit.fluxcd.io/";
/// Argo CD's, as annotations.
const ARGO: &str = "argocd.argoproj.io/";
/// Ours, for what Argo CD says under the same name.
const WAVE: &str = "gitsync.signet.dev/sync-wave";

/// How an object is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a mark of its own")]
pub struct Marks {
    /// Its wave: a later one begins when the earlier ones are healthy.
    pub wave: i32,
    /// It stays when it goes from Git.
    pub kept: bool,
    /// It is not touched, whatever Git says.
    pub ignored: bool,
    /// It is made where it is not, and then left alone.
    pub once: bool,
    /// What kubectl adds to it stays.
    pub merged: bool,
    /// It is deleted and made anew where a change is impossible otherwise.
    pub forced: bool,
    /// Nothing waits for its health.
    pub any_health: bool,
    /// It is run at its turn instead of being kept.
    pub hook: Option<Hook>,
}

/// Reads them. The text of an error says what is wrong with which.
pub fn marks(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Result<Marks, String> {
    let flux = |key: &str, value: &str| {
        let key = format!("{FLUX}{key}");
        let said = annotations.get(&key).or_else(|| labels.get(&key));
        said.is_some_and(|said| said.eq_ignore_ascii_case(value))
    };
    let argo = |key: &str| annotations.get(&format!("{ARGO}{key}")).map(|said| said.trim());
    let options = argo("sync-options").unwrap_or_default();
    let option = |wanted: &str| options.split(',').any(|option| option.trim() == wanted);
    let (not_now, hook) = match hook::said(annotations)? {
        Said::Nothing => (false, None),
        Said::NotNow => (true, None),
        Said::Hook(hook) => (false, Some(hook)),
    };
    let frozen = flux("reconcile", "disabled");
    let helm_keeps = annotations.get("helm.sh/resource-policy").is_some_and(|policy| policy == "keep");
    let mut waves = [WAVE, "argocd.argoproj.io/sync-wave"].into_iter();
    let wave = waves.find_map(|key| Some((key, annotations.get(key)?.trim())));
    let (key, wave) = wave.or_else(|| hook.and(hook::weight(annotations))).unwrap_or((WAVE, "0"));
    Ok(Marks {
        wave: wave.parse().map_err(|_| format!("the annotation {key} is {wave:?}, which is no whole number"))?,
        kept: frozen || flux("prune", "disabled") || option("Prune=false") || helm_keeps,
        ignored: frozen || not_now || flux("ssa", "Ignore"),
        once: flux("ssa", "IfNotPresent"),
        merged: flux("ssa", "Merge"),
        forced: flux("force", "enabled") || option("Force=true") || option("Replace=true"),
        any_health: argo("ignore-healthcheck") == Some("true"),
        hook,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<Marks, String> {
        marks(&BTreeMap::new(), &[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn the_words_of_flux_and_argo_are_known() {
        let none = Marks::default();
        assert_eq!(marks(&BTreeMap::new(), &BTreeMap::new()), Ok(none));
        for (key, value, expected) in [
            ("argocd.argoproj.io/sync-wave", "-5", Marks { wave: -5, ..none }),
            ("argocd.argoproj.io/sync-options", "Prune=false", Marks { kept: true, ..none }),
            ("argocd.argoproj.io/sync-options", "Validate=false, Force=true", Marks { forced: true, ..none }),
            ("argocd.argoproj.io/ignore-healthcheck", "true", Marks { any_health: true, ..none }),
            ("kustomize.toolkit.fluxcd.io/prune", "disabled", Marks { kept: true, ..none }),
            ("kustomize.toolkit.fluxcd.io/ssa", "Ignore", Marks { ignored: true, ..none }),
            ("kustomize.toolkit.fluxcd.io/ssa", "Merge", Marks { merged: true, ..none }),
            ("kustomize.toolkit.fluxcd.io/ssa", "ifnotpresent", Marks { once: true, ..none }),
            ("kustomize.toolkit.fluxcd.io/force", "Enabled", Marks { forced: true, ..none }),
            ("kustomize.toolkit.fluxcd.io/reconcile", "disabled", Marks { ignored: true, kept: true, ..none }),
            ("helm.sh/hook", "pre-delete, test", Marks { ignored: true, ..none }),
            ("argocd.argoproj.io/hook", "Skip", Marks { ignored: true, ..none }),
            ("gitsync.signet.dev/sync-wave", "7", Marks { wave: 7, ..none }),
            ("helm.sh/hook-weight", "5", none),
            ("helm.sh/resource-policy", "keep", Marks { kept: true, ..none }),
            ("kustomize.toolkit.fluxcd.io/prune", "enabled", none),
        ] {
            assert_eq!(of(key, value), Ok(expected), "{key}: {value}");
        }
        let hook = [("helm.sh/hook", "pre-install"), ("helm.sh/hook-weight", "-3")];
        let hook = hook.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert!(marks(&BTreeMap::new(), &hook).is_ok_and(|marks| marks.hook.is_some() && marks.wave == -3));
        let label = [("kustomize.toolkit.fluxcd.io/prune".to_owned(), "disabled".to_owned())].into();
        assert!(marks(&label, &BTreeMap::new()).is_ok_and(|marks| marks.kept));
        assert!(of("argocd.argoproj.io/sync-wave", "first").is_err_and(|why| why.contains("\"first\"")));
    }
}
