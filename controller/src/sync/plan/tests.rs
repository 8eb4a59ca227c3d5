//! A plan is run on a cluster in memory, as the executor runs it on a real one.

mod hooks;

use super::super::{ignore::Ignored, object::Manifest, render::Place};
use super::*;

/// A cluster in memory: a plan is run on it as the executor runs it on a real one.
#[derive(Default)]
struct World {
    live: HashMap<ObjectId, LiveObject>,
    applied: HashMap<ObjectId, Applied>,
    inventory: Inventory,
    others: HashSet<(String, String)>,
    neighbours: Neighbours,
    health: HashMap<ObjectId, Health>,
    ask: bool,
    leave_drift: bool,
    resting: HashSet<ObjectId>,
    allowed: Vec<String>,
    leave: Option<Leave>,
    record: Option<HookRun>,
    seed: String,
    /// Digest of what was applied whole last.
    last: Option<String>,
    born: u32,
    /// What goes from Git is not pruned.
    stays: bool,
}

fn id(kind: &str, name: &str) -> ObjectId {
    let group = if kind == "CustomResourceDefinition" { "apiextensions.k8s.io" } else { "" };
    ObjectId { namespace: "ns".into(), name: name.into(), group: group.into(), kind: kind.into() }
}

fn live_object(uid: &str, owner: (String, String)) -> LiveObject {
    let (resource_version, marks) = (String::new(), Marks::default());
    LiveObject { uid: uid.into(), resource_version, owner, fields: 1, generation: None, run: None, marks }
}

fn desired(kind: &str, name: &str, digest: &str) -> Desired {
    Desired {
        id: id(kind, name),
        version: "v1".into(),
        body: Manifest::from(&serde_json::Value::Null),
        digest: digest.into(),
        marks: Marks::default(),
        ignored: Ignored::default(),
        place: Place { file: format!("{name}.yaml"), line: 1 },
    }
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.objects.keys().map(ToString::to_string).collect()
}

impl World {
    fn plan<'a>(&self, desired: &'a [Desired]) -> Plan<'a> {
        let policy = Policy {
            me: ("ns", "app"),
            prune: !self.stays,
            others: &self.others,
            neighbours: &self.neighbours,
            ask: self.ask,
            leave_drift: self.leave_drift,
            resting: &self.resting,
            allowed: &self.allowed,
            leave: self.leave.as_ref(),
            hooks: Hooks { record: self.record.as_ref(), last: self.last.as_deref(), seed: &self.seed },
        };
        plan(desired, self.known(), &policy)
    }

    fn known(&self) -> Known<'_> {
        let Self { live, applied, inventory, health, .. } = self;
        Known { live, applied, inventory, health }
    }

    fn run(&mut self, desired: &[Desired]) -> Vec<String> {
        forget(&mut self.applied, desired, &self.inventory);
        let mut plan = self.plan(desired);
        let stages = std::mem::take(&mut plan.stages);
        let (mut gone, mut done) = (HashSet::new(), Vec::new());
        for step in stages.iter().flatten() {
            match step {
                Step::Apply { desired, why } => {
                    self.born += 1;
                    let fresh = format!("uid-{}", self.born);
                    let uid = self.live.get(&desired.id).map_or(fresh, |live| live.uid.clone());
                    let owner = ("ns".to_owned(), "app".to_owned());
                    let live = live_object(&uid, owner);
                    self.live.insert(desired.id.clone(), live);
                    let applied = Applied { digest: desired.digest.clone(), uid, fields: 1 };
                    self.applied.insert(desired.id.clone(), applied);
                    done.push(format!("{why:?} {}", desired.id));
                }
                Step::Run { desired, mark } => {
                    self.born += 1;
                    let uid = format!("uid-{}", self.born);
                    let live = live_object(&uid, ("ns".to_owned(), "app".to_owned()));
                    self.live.insert(desired.id.clone(), LiveObject { run: Some(mark.clone()), ..live });
                    self.health.insert(desired.id.clone(), Health::Progressing("runs".into()));
                    done.push(format!("Run {}", desired.id));
                }
                Step::Prune { id, uid, .. } => {
                    assert_eq!(&self.live[id].uid, uid);
                    self.live.remove(id);
                    self.applied.remove(id);
                    gone.insert(id.clone());
                    done.push(format!("Prune {id}"));
                }
            }
        }
        self.inventory = settle(&plan.inventory, &gone);
        self.record = plan.hooks;
        done
    }
}

#[test]
fn planning_again_plans_nothing() {
    let mut world = World::default();
    let first = [desired("Namespace", "ns2", "1"), desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1")];
    assert_eq!(world.run(&first), ["Apply Namespace ns/ns2", "Apply ConfigMap ns/a", "Apply ConfigMap ns/b"]);
    assert!(world.plan(&first).stages.is_empty());
    assert_eq!(world.plan(&first).inventory, world.inventory);

    let second = [desired("ConfigMap", "a", "2"), desired("ConfigMap", "c", "1")];
    let steps = ["Apply ConfigMap ns/a", "Apply ConfigMap ns/c", "Prune ConfigMap ns/b", "Prune Namespace ns/ns2"];
    assert_eq!(world.run(&second), steps);
    assert!(world.plan(&second).stages.is_empty());
}

#[test]
fn what_went_from_git_and_stays_is_forgotten() {
    let mut world = World { stays: true, ..World::default() };
    let hundred = |from: u32| -> Vec<Desired> {
        (from..from + 100).map(|number| desired("ConfigMap", &number.to_string(), "1")).collect()
    };
    for from in [0, 50, 200] {
        world.run(&hundred(from));
        assert!(world.run(&hundred(from)).is_empty());
        assert_eq!((world.applied.len(), world.inventory.objects.len()), (100, 100));
    }
    assert_eq!(world.live.len(), 250);
}

#[test]
fn drift_is_healed_and_only_that() {
    let mut world = World::default();
    let wanted = [desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1")];
    world.run(&wanted);
    world.live.get_mut(&id("ConfigMap", "a")).unwrap().fields = 2;
    assert_eq!(world.run(&wanted), ["Heal ConfigMap ns/a"]);
    world.live.remove(&id("ConfigMap", "b"));
    assert_eq!(world.run(&wanted), ["Heal ConfigMap ns/b"]);
}

#[test]
fn after_a_restart_all_is_applied_once_more() {
    let mut world = World::default();
    let wanted = [desired("ConfigMap", "a", "1")];
    world.run(&wanted);
    world.applied.clear();
    assert_eq!(world.run(&wanted), ["Apply ConfigMap ns/a"]);
    assert!(world.plan(&wanted).stages.is_empty());
}

#[test]
fn the_inventory_names_everything_before_anything_happens() {
    let mut world = World::default();
    world.run(&[desired("ConfigMap", "a", "1")]);
    let next = [desired("ConfigMap", "b", "1")];
    let plan = world.plan(&next);
    assert_eq!(names(&plan.inventory), ["ConfigMap ns/a", "ConfigMap ns/b"]);
}

#[test]
fn what_another_took_over_is_not_pruned() {
    let mut world = World::default();
    world.run(&[desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1")]);
    world.live.get_mut(&id("ConfigMap", "a")).unwrap().owner = ("ns".into(), "other".into());
    assert!(world.run(&[desired("ConfigMap", "b", "1")]).is_empty());
    assert_eq!(world.inventory.objects.len(), 1);
}

#[test]
fn what_moves_to_another_is_kept_for_it() {
    let mut world = World::default();
    let (a, b) = (desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1"));
    world.run(&[a.clone(), b.clone()]);
    // Nobody knows yet whether another asks for it.
    world.neighbours.early.push("ns/other".into());
    assert_eq!(world.plan(std::slice::from_ref(&b)).lingering, 1);
    assert!(world.run(std::slice::from_ref(&b)).is_empty());
    // One does: until it has it, it is ours.
    world.neighbours.early.clear();
    world.neighbours.wanted.insert(a.id.clone());
    assert!(world.run(std::slice::from_ref(&b)).is_empty());
    assert_eq!(world.inventory.objects.len(), 2);
    // It has thought better of it.
    world.neighbours.wanted.clear();
    assert_eq!(world.run(&[b]), ["Prune ConfigMap ns/a"]);
}

#[test]
fn what_another_has_let_go_is_taken_over() {
    let mut world = World::default();
    let owner = ("ns".to_owned(), "other".to_owned());
    world.others.insert(owner.clone());
    world.live.insert(id("ConfigMap", "a"), live_object("u", owner));
    world.neighbours.freed.insert(id("ConfigMap", "a"));
    assert_eq!(world.run(&[desired("ConfigMap", "a", "1")]), ["Apply ConfigMap ns/a"]);
}

#[test]
fn what_another_holds_is_refused_with_its_place() {
    let mut world = World::default();
    world.others.insert(("ns".into(), "other".into()));
    let owner = ("ns".to_owned(), "other".to_owned());
    world.live.insert(id("ConfigMap", "a"), live_object("u", owner));
    let wanted = [desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1")];
    let plan = world.plan(&wanted);
    assert!(plan.refused[0].to_string().starts_with("a.yaml:1: ConfigMap ns/a belongs to the GitSync ns/other"));
    assert_eq!(world.run(&wanted), ["Apply ConfigMap ns/b"]);
}

#[test]
fn what_is_pruned_is_the_object_that_is_seen_and_what_is_not_there_is_forgotten() {
    let mut world = World::default();
    let all = ["a", "b", "c"].map(|name| desired("ConfigMap", name, "1"));
    world.run(&all);
    world.live.remove(&id("ConfigMap", "a"));
    world.live.get_mut(&id("ConfigMap", "b")).unwrap().uid = "another".into();
    let plan = world.plan(&all[2..]);
    let (pruned, uid) = (id("ConfigMap", "b"), "another".to_owned());
    assert_eq!(plan.stages, [[Step::Prune { id: pruned, version: "v1".into(), uid }]]);
    assert_eq!(names(&plan.inventory), ["ConfigMap ns/b", "ConfigMap ns/c"]);
}

#[test]
fn everything_is_never_pruned_at_once() {
    let mut world = World::default();
    world.run(&[desired("ConfigMap", "a", "1")]);
    let plan = world.plan(&[]);
    assert!(plan.stages.is_empty() && plan.refused_prune.unwrap().contains("all 1 objects"));
    assert_eq!(plan.inventory, world.inventory, "nothing is forgotten");
}

#[test]
fn what_holds_signet_up_is_never_pruned() {
    let mut world = World::default();
    let crd = desired("CustomResourceDefinition", "gitsyncs.signet.dev", "1");
    world.run(&[
        desired("Namespace", "kube-system", "1"),
        desired("Namespace", "ns", "1"),
        crd,
        desired("ConfigMap", "b", "1"),
    ]);
    assert!(world.run(&[desired("ConfigMap", "b", "1")]).is_empty());
}

fn in_wave(wave: i32, kind: &str, name: &str, digest: &str) -> Desired {
    Desired { marks: Marks { wave, ..Marks::default() }, ..desired(kind, name, digest) }
}

#[test]
fn a_wave_begins_when_the_one_before_is_healthy() {
    let mut world = World::default();
    let wanted = |digest| [in_wave(-1, "Job", "first", digest), in_wave(0, "Pod", "second", digest)];
    let first = wanted("1");
    world.health.insert(id("Job", "first"), Health::Progressing("runs".into()));
    assert_eq!(world.run(&first), ["Apply Job ns/first"]);
    assert!(world.run(&first).is_empty());
    let held = world.plan(&first).held.unwrap();
    assert_eq!((held.turn.wave, held.by.len()), (-1, 1));
    world.health.insert(id("Job", "first"), Health::Healthy);
    assert_eq!(world.run(&first), ["Apply Pod ns/second"]);
    assert_eq!(world.plan(&first).held, None);

    // A change waits for what is not healthy any more; drift does not.
    world.health.insert(id("Job", "first"), Health::Degraded("fails".into()));
    world.live.get_mut(&id("Pod", "second")).unwrap().fields = 2;
    assert_eq!(world.run(&first), ["Heal Pod ns/second"]);
    let mut second = wanted("2");
    second[0].digest = "1".into();
    assert!(world.run(&second).is_empty());
    // What repairs the wave goes through.
    assert_eq!(world.run(&wanted("2")), ["Apply Job ns/first"]);
}

#[test]
fn what_goes_waits_for_the_waves_and_goes_backwards() {
    let mut world = World::default();
    let all = [in_wave(0, "ConfigMap", "a", "1"), in_wave(1, "ConfigMap", "b", "1"), desired("ConfigMap", "c", "1")];
    for _ in 0..2 {
        world.run(&all);
    }
    world.live.get_mut(&id("ConfigMap", "b")).unwrap().marks.wave = 1;
    let next = [desired("ConfigMap", "c", "2"), in_wave(1, "ConfigMap", "d", "1")];
    assert_eq!(world.run(&next), ["Apply ConfigMap ns/c"]);
    assert_eq!(world.inventory.objects.len(), 4, "what goes later is there until then");
    assert_eq!(world.run(&next), ["Apply ConfigMap ns/d", "Prune ConfigMap ns/b", "Prune ConfigMap ns/a"]);
}

#[test]
fn a_plan_waits_to_be_allowed_as_it_is() {
    let mut world = World { ask: true, ..World::default() };
    let wanted = [desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1")];
    let pending = world.plan(&wanted).pending.unwrap();
    assert_eq!(pending.steps, ["apply ConfigMap ns/a", "apply ConfigMap ns/b"]);
    assert!(world.run(&wanted).is_empty());
    world.allowed.push(pending.digest);
    assert_eq!(world.run(&wanted).len(), 2);
    // It stays allowed: after a restart, too. Drift is healed.
    world.applied.clear();
    assert_eq!(world.run(&wanted).len(), 2);
    world.live.get_mut(&id("ConfigMap", "a")).unwrap().fields = 2;
    world.allowed.clear();
    assert_eq!(world.run(&wanted), ["Heal ConfigMap ns/a"]);
    let other = [desired("ConfigMap", "a", "2")];
    let pending = world.plan(&other).pending.unwrap();
    assert_eq!(pending.steps, ["apply ConfigMap ns/a", "delete ConfigMap ns/b"]);
    assert!(world.run(&other).is_empty());
}

#[test]
fn what_is_allowed_is_allowed_to_its_end() {
    let mut world = World::default();
    let all = ["a", "b", "c", "d"].map(|name| desired("ConfigMap", name, "1"));
    world.run(&all);
    world.ask = true;
    let (kept, more) = (&all[..2], &all[..1]);
    world.allowed.push(world.plan(kept).digest);
    let plan = world.plan(kept);
    assert_eq!(plan.pending, None);
    world.leave = plan.leave;
    world.allowed.clear();
    // One of the two is deleted, the other is not.
    world.live.remove(&id("ConfigMap", "c"));
    world.inventory.objects.remove(&id("ConfigMap", "c"));
    assert!(world.plan(more).pending.is_some(), "nobody allowed that");
    assert_eq!(world.run(kept), ["Prune ConfigMap ns/d"]);
}

#[test]
fn drift_may_be_left() {
    let mut world = World { leave_drift: true, ..World::default() };
    let wanted = [desired("ConfigMap", "a", "1")];
    world.run(&wanted);
    world.live.get_mut(&id("ConfigMap", "a")).unwrap().fields = 2;
    assert!(world.run(&wanted).is_empty());
    assert_eq!(world.plan(&wanted).drifted, [id("ConfigMap", "a")]);
    assert_eq!(world.run(&[desired("ConfigMap", "a", "2")]), ["Apply ConfigMap ns/a"]);
}

#[test]
fn what_is_fought_over_is_left_alone_until_git_changes() {
    let mut world = World { resting: [id("ConfigMap", "a")].into(), ..World::default() };
    let wanted = |digest| [desired("ConfigMap", "a", digest), desired("ConfigMap", "b", "1")];
    world.run(&wanted("1"));
    for name in ["a", "b"] {
        world.live.get_mut(&id("ConfigMap", name)).unwrap().fields = 2;
    }
    assert_eq!(world.run(&wanted("1")), ["Heal ConfigMap ns/b"]);
    assert_eq!(world.plan(&wanted("1")).drifted, [id("ConfigMap", "a")]);
    assert_eq!(world.run(&wanted("2")), ["Apply ConfigMap ns/a"]);
}

#[test]
fn most_of_it_is_not_pruned_unasked() {
    let mut world = World::default();
    let all: Vec<_> = (0..15).map(|number| desired("ConfigMap", &format!("m{number:02}"), "1")).collect();
    world.run(&all);
    let plan = world.plan(&all[..3]);
    assert!(plan.refused_prune.unwrap().contains("12 of 15"));
    assert!(plan.stages.is_empty());
    assert_eq!(plan.inventory, world.inventory);
    // It can be looked at before it is allowed; what asks nobody goes on meanwhile.
    let mut fewer = all[..3].to_vec();
    fewer[0].digest = "2".into();
    let plan = world.plan(&fewer);
    let pending = plan.pending.unwrap();
    assert_eq!((pending.digest, pending.steps.len()), (plan.digest, 12));
    assert_eq!((pending.steps[11].as_str(), plan.stages.len()), ("delete ConfigMap ns/m14", 1));
    world.ask = true;
    let plan = world.plan(&fewer);
    assert_eq!((plan.pending.unwrap().steps.len(), plan.stages.len()), (13, 0), "unless everything asks");
    world.ask = false;
    assert_eq!(world.run(&all[..8]).len(), 7, "not most of it");
    assert_eq!(world.run(&all[..1]).len(), 7, "not many");
    world.allowed.push(world.plan(&[]).digest);
    assert_eq!(world.run(&[]).len(), 1);
}

#[test]
fn what_is_marked_is_kept_ignored_or_made_once() {
    let mut world = World::default();
    let marked = |marks| Desired { marks, ..desired("ConfigMap", "a", "1") };
    let none = Marks::default();
    assert!(world.run(&[marked(Marks { ignored: true, ..none })]).is_empty());
    assert_eq!(world.inventory.objects.len(), 0);
    let once = |digest: &str| Desired { digest: digest.into(), ..marked(Marks { once: true, ..none }) };
    assert_eq!(world.run(&[once("1")]), ["Apply ConfigMap ns/a"]);
    assert!(world.run(&[once("2")]).is_empty());
    world.live.get_mut(&id("ConfigMap", "a")).unwrap().marks.kept = true;
    assert!(world.run(&[desired("ConfigMap", "b", "1")]).iter().all(|step| !step.starts_with("Prune")));
    assert_eq!(world.inventory.objects.len(), 1, "it is nobody's any more");
}
