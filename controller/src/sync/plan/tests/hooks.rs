//! Hooks in the same cluster in memory.

use std::collections::BTreeMap;

use super::*;

fn hook(name: &str, annotations: &[(&str, &str)], digest: &str) -> Desired {
    let annotations: BTreeMap<String, String> =
        annotations.iter().map(|(key, value)| (format!("argocd.argoproj.io/{key}"), (*value).to_owned())).collect();
    let marks = crate::sync::marks::marks(&BTreeMap::new(), &annotations).unwrap();
    Desired { marks, ..desired("Job", name, digest) }
}

impl World {
    fn ends(&mut self, name: &str, well: bool) {
        let health = if well { Health::Healthy } else { Health::Degraded("exit 1".into()) };
        self.health.insert(id("Job", name), health);
    }

    /// As the end of a pass does when nothing is left to do.
    fn whole(&mut self, desired: &[Desired]) {
        let plan = self.plan(desired);
        assert!(plan.stages.is_empty() && plan.held.is_none(), "{plan:?}");
        (self.last, self.record) = (Some(plan.digest), None);
    }
}

#[test]
fn each_phase_waits_for_the_one_before() {
    let mut world = World::default();
    world.run(&[desired("ConfigMap", "old", "1")]);
    let wanted = [
        hook("after", &[("hook", "PostSync"), ("hook-delete-policy", "HookSucceeded")], "1"),
        hook("second", &[("hook", "PreSync"), ("sync-wave", "1")], "1"),
        hook("first", &[("hook", "PreSync"), ("hook-delete-policy", "HookSucceeded")], "1"),
        desired("Pod", "app", "1"),
    ];
    assert_eq!(world.run(&wanted), ["Run Job ns/first"]);
    let plan = world.plan(&wanted);
    assert!(plan.stages.is_empty());
    assert_eq!(plan.held.unwrap().turn.to_string(), "PreSync");
    let expected = ["Pod ns/app", "Job ns/first", "ConfigMap ns/old"];
    assert_eq!(names(&world.inventory), expected, "a hook that has not begun is not there");
    world.ends("first", true);
    // The phase is not over: what has succeeded in it stays.
    assert_eq!(world.run(&wanted), ["Run Job ns/second"]);
    world.ends("second", true);
    world.health.insert(id("Pod", "app"), Health::Progressing("starts".into()));
    assert_eq!(world.run(&wanted), ["Apply Pod ns/app", "Prune ConfigMap ns/old", "Prune Job ns/first"]);
    assert!(world.run(&wanted).is_empty(), "not before it is healthy");
    world.health.insert(id("Pod", "app"), Health::Healthy);
    assert_eq!(world.run(&wanted), ["Run Job ns/after"]);
    assert!(world.plan(&wanted).held.is_some(), "it is waited for though nothing follows");
    world.ends("after", true);
    assert_eq!(world.run(&wanted), ["Prune Job ns/after"]);
    world.whole(&wanted);

    // A restart knows nothing of what was applied, and runs nothing.
    world.applied.clear();
    assert_eq!(world.run(&wanted), ["Apply Pod ns/app"]);
    world.live.remove(&id("Pod", "app"));
    assert_eq!(world.run(&wanted), ["Heal Pod ns/app"]);
    // Nor does a change of a hook alone, or one that is taken away.
    let mut other = wanted.clone();
    other[1].digest = "2".into();
    world.whole(&other);
    world.live.remove(&id("Job", "second"));
    world.whole(&other);

    let mut next = other.clone();
    next[3].digest = "2".into();
    assert_eq!(world.run(&next), ["Run Job ns/first"]);
}

#[test]
fn one_that_fails_stops_the_sync_until_something_changes() {
    let mut world = World { seed: "one".into(), ..World::default() };
    let wanted = |digest| {
        [
            hook("tell", &[("hook", "SyncFail")], "1"),
            hook("gone", &[("hook", "PreSync"), ("hook-delete-policy", "HookFailed")], "1"),
            hook("first", &[("hook", "PreSync")], "1"),
            desired("Pod", "app", digest),
        ]
    };
    let first = wanted("1");
    assert_eq!(world.run(&first), ["Run Job ns/gone", "Run Job ns/first"]);
    world.ends("first", true);
    world.ends("gone", false);
    assert_eq!(world.run(&first), ["Prune Job ns/gone", "Run Job ns/tell"]);
    assert!(world.run(&first).is_empty());
    let held = world.plan(&first).held.unwrap();
    assert_eq!(held.by, [(id("Job", "gone"), Health::Degraded("exit 1".into()))]);
    // A restart changes nothing about that.
    world.applied.clear();
    assert!(world.run(&first).is_empty());
    // Somebody asks for another try.
    world.seed = "two".into();
    assert_eq!(world.run(&first), ["Run Job ns/gone", "Run Job ns/first"]);
    world.ends("first", true);
    world.ends("gone", false);
    world.run(&first);
    let second = wanted("2");
    assert_eq!(world.run(&second), ["Run Job ns/gone", "Run Job ns/first"]);
    world.ends("first", true);
    world.ends("gone", true);
    assert_eq!(world.run(&second), ["Apply Pod ns/app"]);
    world.whole(&second);
}

#[test]
fn what_ran_is_known_after_a_restart() {
    let mut world = World::default();
    let wanted = [hook("first", &[("hook", "PreSync,PostSync")], "1"), desired("ConfigMap", "a", "1")];
    assert_eq!(world.run(&wanted), ["Run Job ns/first"]);
    // Killed before the status was written: the object tells.
    world.record = None;
    assert!(world.run(&wanted).is_empty());
    world.ends("first", true);
    assert_eq!(world.run(&wanted), ["Apply ConfigMap ns/a"]);
    // It is another run for another phase.
    assert_eq!(world.run(&wanted), ["Run Job ns/first"]);
    assert!(world.run(&wanted).is_empty());
    // Gone before it ended: nobody knows how. A Job that takes itself away did well.
    let job = world.live.remove(&id("Job", "first"));
    let plan = world.plan(&wanted);
    assert!(matches!(&plan.held.unwrap().by[0].1, Health::Degraded(why) if why.contains("deleted before")));
    let mut brief = wanted.clone();
    brief[0].body = Manifest::from(&serde_json::json!({"spec": {"ttlSecondsAfterFinished": 1}}));
    assert_eq!(world.plan(&brief).held, None);
    world.live.extend(job.map(|job| (id("Job", "first"), job)));
    world.ends("first", true);
    world.run(&wanted);
    world.whole(&wanted);
}

#[test]
fn hooks_are_part_of_what_is_allowed_and_refused() {
    let mut world = World { ask: true, ..World::default() };
    let wanted = [hook("first", &[("hook", "PreSync")], "1"), desired("ConfigMap", "a", "1")];
    world.run(&[]);
    let pending = world.plan(&wanted).pending.unwrap();
    assert_eq!(pending.steps, ["run Job ns/first", "apply ConfigMap ns/a"]);
    assert!(world.run(&wanted).is_empty() && world.record.is_none());
    world.allowed.push(pending.digest);
    assert_eq!(world.run(&wanted), ["Run Job ns/first"]);
    world.ends("first", true);
    assert_eq!(world.run(&wanted), ["Apply ConfigMap ns/a"]);

    // Another's is not run over, and what it was to be done before is not done.
    let mut world = World::default();
    let owner = ("ns".to_owned(), "other".to_owned());
    world.others.insert(owner.clone());
    world.live.insert(id("Job", "first"), live_object("u", owner));
    assert!(world.run(&wanted).is_empty());
    assert_eq!(world.plan(&wanted).refused.len(), 1);
}

#[test]
fn a_hook_that_left_git_is_pruned() {
    let mut world = World::default();
    let wanted = [hook("first", &[("hook", "Sync")], "1"), desired("ConfigMap", "a", "1")];
    assert_eq!(world.run(&wanted), ["Apply ConfigMap ns/a", "Run Job ns/first"]);
    world.ends("first", true);
    world.run(&wanted);
    world.whole(&wanted);
    assert_eq!(world.run(&wanted[1..]), ["Prune Job ns/first"]);
}
