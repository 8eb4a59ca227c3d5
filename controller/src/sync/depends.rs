//! Whether what a GitSync depends on is there. Pure: the other GitSyncs are an argument.

use std::collections::HashMap;

use crds::{GitSync, git_sync::GitSyncSpec};
use kube::ResourceExt as _;

use super::{
    Key,
    expressions::Expressions,
    status::{Cause, ready},
};

/// Waiting may help.
pub const NOT_READY: &str = "DependencyNotReady";
/// It will not.
pub const CYCLE: &str = "DependencyCycle";

/// What it waits for; `None` when it may go on. `expressions` are its own.
pub fn blocked(
    me: &Key,
    attempted: Option<&str>,
    all: &HashMap<Key, &GitSync>,
    expressions: &Expressions,
) -> Option<Cause> {
    if let Some(cycle) = cycle(me, all) {
        let names: Vec<String> = cycle.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        let message = format!("spec.dependsOn goes in a circle: {}; take one of them out", names.join(" -> "));
        return Some(Cause { reason: CYCLE, message });
    }
    let sync = all.get(me)?;
    let missing: Vec<String> = needs(&me.0, &sync.spec)
        .into_iter()
        .enumerate()
        .filter_map(|(number, key)| {
            let why = match all.get(&key) {
                None => "does not exist".to_owned(),
                Some(other) => match expressions.ready(number, sync, other) {
                    Some(ready) => ready.err()?,
                    None => unready(sync, attempted, other)?.to_owned(),
                },
            };
            Some(format!("{}/{} {why}", key.0, key.1))
        })
        .collect();
    (!missing.is_empty()).then(|| Cause { reason: NOT_READY, message: format!("waits: {}", missing.join("; ")) })
}

/// Those that wait for one.
pub fn dependents<'a>(of: &Key, all: impl Iterator<Item = &'a GitSync>) -> Vec<Key> {
    let waits = |sync: &&GitSync| needs(&sync.namespace().unwrap_or_default(), &sync.spec).contains(of);
    all.filter(waits).map(|sync| (sync.namespace().unwrap_or_default(), sync.name_any())).collect()
}

fn needs(namespace: &str, spec: &GitSyncSpec) -> Vec<Key> {
    spec.depends_on.iter().map(|it| (namespace.to_owned(), it.name.clone())).collect()
}

/// Of the same source it must have applied the same revision; what it applied before says nothing about this commit.
fn unready(sync: &GitSync, attempted: Option<&str>, other: &GitSync) -> Option<&'static str> {
    let status = other.status.as_ref();
    let is_ready = status
        .and_then(ready)
        .is_some_and(|ready| ready.status == "True" && ready.observed_generation == other.metadata.generation);
    if !is_ready {
        return Some("is not ready");
    }
    let applied = status.and_then(|status| status.last_applied_revision.as_deref());
    let behind = sync.spec.source.follows_same(&other.spec.source) && attempted.is_some() && attempted != applied;
    behind.then_some("has not applied this revision")
}

/// The way back to where it began.
fn cycle(me: &Key, all: &HashMap<Key, &GitSync>) -> Option<Vec<Key>> {
    let mut paths = vec![vec![me.clone()]];
    let mut seen = std::collections::HashSet::new();
    while let Some(path) = paths.pop() {
        let last = path.last()?;
        let Some(sync) = all.get(last) else { continue };
        for next in needs(&last.0, &sync.spec) {
            let mut longer = path.clone();
            longer.push(next.clone());
            if next == *me {
                return Some(longer);
            }
            if seen.insert(next) {
                paths.push(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crds::git_sync::SyncReference;
    use serde_json::json;

    use super::*;

    fn sync(name: &str, needs: &[&str], ready: &str, applied: &str) -> (Key, GitSync) {
        let depends_on =
            needs.iter().map(|name| SyncReference { name: (*name).to_owned(), ready_expr: None }).collect();
        let mut sync = GitSync::new(name, GitSyncSpec { depends_on, ..GitSyncSpec::default() });
        sync.metadata.namespace = Some("ns".to_owned());
        sync.metadata.generation = Some(1);
        let condition = json!({"type": "Ready", "status": ready, "reason": "", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"conditions": [condition], "lastAppliedRevision": applied});
        sync.status = serde_json::from_value(status).unwrap();
        (("ns".to_owned(), name.to_owned()), sync)
    }

    fn said(all: &[(Key, GitSync)]) -> Option<String> {
        let known = all.iter().map(|(key, sync)| (key.clone(), sync)).collect();
        let expressions = Expressions::new(&all[0].1.spec).unwrap();
        blocked(&all[0].0, Some("two"), &known, &expressions)
            .map(|cause| format!("{}: {}", cause.reason, cause.message))
    }

    #[test]
    fn it_waits_for_what_is_not_there_not_ready_or_behind() {
        let app = || sync("app", &["db"], "True", "one");
        assert_eq!(said(&[app()]).unwrap(), "DependencyNotReady: waits: ns/db does not exist");
        assert!(said(&[app(), sync("db", &[], "False", "two")]).unwrap().ends_with("ns/db is not ready"));
        assert!(said(&[app(), sync("db", &[], "True", "one")]).unwrap().ends_with("has not applied this revision"));
        assert_eq!(said(&[app(), sync("db", &[], "True", "two")]), None);
        let mut changed = sync("db", &[], "True", "two");
        changed.1.metadata.generation = Some(2);
        assert!(said(&[app(), changed]).unwrap().ends_with("ns/db is not ready"));
        let mut elsewhere = sync("db", &[], "True", "one");
        elsewhere.1.spec.source.url = "https://example.com/other".to_owned();
        assert_eq!(said(&[app(), elsewhere]), None);
    }

    #[test]
    fn an_expression_says_when_another_is_ready() {
        let mut app = sync("app", &["db"], "True", "one");
        let mut expect = |expression: &str| {
            app.1.spec.depends_on[0].ready_expr = Some(expression.to_owned());
            said(&[app.clone(), sync("db", &[], "False", "one")])
        };
        assert_eq!(expect("dep.status.lastAppliedRevision == self.status.lastAppliedRevision"), None);
        let waits = "DependencyNotReady: waits: ns/db is not ready by spec.dependsOn[0].readyExpr";
        assert_eq!(
            expect("dep.status.conditions.exists(it, it.type == 'Ready' && it.status == 'True')").unwrap(),
            waits
        );
        let said = expect("dep.status.plan.digest == ''").unwrap();
        assert!(said.starts_with(waits) && said.contains("plan"), "{said}");
    }

    #[test]
    fn a_circle_is_named() {
        let all = [sync("a", &["x", "b"], "True", ""), sync("b", &["c"], "True", ""), sync("c", &["a"], "True", "")];
        let expected =
            "DependencyCycle: spec.dependsOn goes in a circle: ns/a -> ns/b -> ns/c -> ns/a; take one of them out";
        assert_eq!(said(&all).unwrap(), expected);
        // One that only leads to a circle waits.
        let outside = [sync("d", &["a"], "True", "two"), all[0].clone(), all[1].clone(), all[2].clone()];
        assert_eq!(said(&outside).map(|said| said.starts_with(CYCLE)), Some(false));
        assert_eq!(
            dependents(&("ns".into(), "a".into()), all.iter().map(|(_, sync)| sync)),
            [("ns".into(), "c".into())]
        );
    }
}
