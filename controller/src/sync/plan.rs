//! Decides what a sync changes. Knows no cluster and no clock: given the same desired, live and recorded state it
//! answers the same plan, and planning again after that plan ran plans nothing. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crds::git_sync::{APPROVE, Inventory, InventoryEntry, PendingPlan};
use sha2::{Digest as _, Sha256};

use super::{
    health::Health,
    marks::Marks,
    object::ObjectId,
    order,
    render::{Desired, Problem},
};

/// Steps that a waiting plan names; the rest is counted.
const NAMED: usize = 50;
/// As many may go without anybody being asked, however few there are.
const FEW: usize = 10;

/// What a metadata watch shows of an object that carries our labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveObject {
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// Namespace and name of the GitSync in its labels.
    pub owner: (String, String),
    /// Digest of the fields that our apply owns. Whoever changes one of them takes it away from us.
    pub fields: u64,
    /// Its generation, where the kind has one.
    pub generation: Option<i64>,
    /// What it says about how it is synced.
    pub marks: Marks,
}

/// What we applied last, and how the object stood then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Of the body.
    pub digest: String,
    /// UID it had.
    pub uid: String,
    /// See [`LiveObject::fields`].
    pub fields: u64,
}

/// Why an object is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Why {
    /// Git asks for something else than what was applied last, or nothing is known.
    Apply,
    /// Git asks for the same, but somebody changed or deleted it.
    Heal,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<'a> {
    /// Apply it.
    Apply {
        /// The object.
        desired: &'a Desired,
        /// For the record.
        why: Why,
    },
    /// Delete it.
    Prune {
        /// The object.
        id: ObjectId,
        /// API version to ask under.
        version: String,
        /// Only if it is this very object.
        uid: String,
    },
}

/// What is known of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Everything that carries our labels.
    pub live: &'a HashMap<ObjectId, LiveObject>,
    /// What this process applied.
    pub applied: &'a HashMap<ObjectId, Applied>,
    /// What the status says is there because of us.
    pub inventory: &'a Inventory,
    /// How the objects fare that can fare badly.
    pub health: &'a HashMap<ObjectId, Health>,
}

/// What is allowed.
#[derive(Clone, Debug)]
pub struct Policy<'a> {
    /// Namespace and name of the GitSync.
    pub me: (&'a str, &'a str),
    /// `spec.prune`.
    pub prune: bool,
    /// The other GitSyncs there are.
    pub others: &'a HashSet<(String, String)>,
    /// `spec.syncPolicy` is Manual.
    pub ask: bool,
    /// `spec.drift` is Report.
    pub leave_drift: bool,
    /// Digests of plans that are allowed.
    pub allowed: &'a [String],
}

/// The plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<'a> {
    /// To be written before the first step: all that may be in the cluster because of us, then and until the end.
    pub inventory: Inventory,
    /// Applies, stage after stage; then prunes, in the reverse order of their stages.
    pub stages: Vec<Vec<Step<'a>>>,
    /// What may not be touched. The rest goes on.
    pub refused: Vec<Problem>,
    /// Set when pruning would empty everything, or most of it, which nobody means.
    pub refused_prune: Option<String>,
    /// Why later waves wait: this wave is not done with.
    pub held: Option<Held>,
    /// What somebody changed, and is left so.
    pub drifted: Vec<ObjectId>,
    /// What waits to be allowed, and what it is in all.
    pub pending: Option<PendingPlan>,
    /// Of what would then be there, and what would not.
    pub digest: String,
}

/// See [`Plan::held`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The wave.
    pub wave: i32,
    /// Its objects that are not healthy, and why.
    pub by: Vec<(ObjectId, Health)>,
}

/// Decides.
pub fn plan<'a>(desired: &'a [Desired], known: Known<'_>, policy: &Policy<'_>) -> Plan<'a> {
    let mut applies: Waves<'a> = BTreeMap::new();
    let mut refused = Vec::new();
    let mut drifted = Vec::new();
    let mut inventory: BTreeMap<String, InventoryEntry> = BTreeMap::new();
    let recorded: HashMap<&str, &InventoryEntry> =
        known.inventory.entries.iter().map(|entry| (entry.id.as_str(), entry)).collect();

    for object in desired {
        let live = known.live.get(&object.id);
        if let Some(owner) = live.map(|live| &live.owner).filter(|owner| policy.others.contains(owner)) {
            let what =
                format!("{} belongs to the GitSync {}/{}; take it out of one of the two", object.id, owner.0, owner.1);
            refused.push(Problem { place: object.place.clone(), what });
            continue;
        }
        let entry_id = object.id.inventory_id();
        let before = recorded.get(entry_id.as_str());
        if object.marks.ignored && before.is_none() {
            continue;
        }
        let uid = live.map(|live| live.uid.clone()).or_else(|| before?.uid.clone());
        inventory.insert(entry_id, object.id.entry(&object.version, uid));
        match wanted(object, live, known.applied.get(&object.id)) {
            Some(Why::Heal) if policy.leave_drift => drifted.push(object.id.clone()),
            Some(why) => {
                let stages = applies.entry(object.marks.wave).or_default();
                stages.entry(order::stage(&object.id)).or_default().push(Step::Apply { desired: object, why });
            }
            None => {}
        }
    }

    let wanted_ids: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
    let (leaving, mut prunes) =
        if policy.prune { prunes(known, policy.me, |id| !wanted_ids.contains(id)) } else { (Vec::new(), Vec::new()) };
    let digest = digest(desired, &leaving);
    let allowed = policy.allowed.contains(&digest);
    let refused_prune = guard(&prunes, desired, known.inventory).filter(|_| !allowed).map(|why| {
        prunes.clear();
        format!("{why}; to allow it: {}", command(policy.me, &digest))
    });
    let mut pending = None;
    if policy.ask && !allowed {
        let steps = changes(&applies, &prunes);
        if !steps.is_empty() {
            prunes.clear();
            let unhealed = |step: &Step<'_>| matches!(step, Step::Apply { why: Why::Heal, .. });
            applies.values_mut().flat_map(BTreeMap::values_mut).for_each(|steps| steps.retain(unhealed));
            pending = Some(PendingPlan { digest: digest.clone(), steps });
        }
    }
    let held = hold(&mut applies, desired, known.health);
    let mut stages: Vec<Vec<Step<'a>>> = applies.into_values().flat_map(BTreeMap::into_values).collect();
    if held.is_none() {
        stages.extend(prunes);
    }
    stages.retain(|steps| !steps.is_empty());
    // What goes later is there until then.
    inventory.extend(leaving.into_iter().map(|entry| (entry.id.clone(), entry)));
    let inventory = Inventory { entries: inventory.into_values().collect() };
    Plan { inventory, stages, refused, refused_prune, held, drifted, pending, digest }
}

/// Steps by wave and stage.
type Waves<'a> = BTreeMap<i32, BTreeMap<u8, Vec<Step<'a>>>>;

/// How to allow a plan.
pub fn command(me: (&str, &str), digest: &str) -> String {
    format!("kubectl annotate --overwrite -n {} gitsync {} {APPROVE}={digest}", me.0, me.1)
}

/// Names what would be there and what would go. The same while the plan is carried out wave by wave.
fn digest(desired: &[Desired], leaving: &[InventoryEntry]) -> String {
    let mut hasher = Sha256::new();
    for object in desired {
        hasher.update(format!("+{}={}\n", object.id.inventory_id(), object.digest));
    }
    for entry in leaving {
        hasher.update(format!("-{}\n", entry.id));
    }
    let digest = hasher.finalize();
    // It may become the value of a label one day: letters at both ends.
    let text: String = URL_SAFE_NO_PAD.encode(digest.as_slice()).chars().take(20).collect();
    format!("p{text}x")
}

/// Why so much may not go unasked.
fn guard(prunes: &[Vec<Step<'_>>], desired: &[Desired], inventory: &Inventory) -> Option<String> {
    let (going, all) = (prunes.iter().map(Vec::len).sum::<usize>(), inventory.entries.len());
    if desired.is_empty() && going > 0 {
        return Some(format!("nothing is left at the path: refusing to delete all {going} objects"));
    }
    (going > FEW && going * 2 > all).then(|| format!("refusing to delete {going} of {all} objects"))
}

/// One line a change.
fn changes(applies: &Waves<'_>, prunes: &[Vec<Step<'_>>]) -> Vec<String> {
    let applies = applies.values().flat_map(BTreeMap::values).flatten();
    let line = |step: &Step<'_>| match step {
        Step::Apply { why: Why::Heal, .. } => None,
        Step::Apply { desired, why: Why::Apply } => Some(format!("apply {}", desired.id)),
        Step::Prune { id, .. } => Some(format!("delete {id}")),
    };
    let mut lines: Vec<String> = applies.chain(prunes.iter().flatten()).filter_map(line).collect();
    if lines.len() > NAMED {
        let rest = lines.split_off(NAMED).len();
        lines.push(format!("and {rest} more"));
    }
    lines
}

/// Leaves out of later waves what is new until the earlier ones are done and healthy. Drift is healed all the same.
fn hold(applies: &mut Waves<'_>, desired: &[Desired], health: &HashMap<ObjectId, Health>) -> Option<Held> {
    let is_new = |step: &Step<'_>| matches!(step, Step::Apply { why: Why::Apply, .. });
    let has_new = |stages: &BTreeMap<u8, Vec<Step<'_>>>| stages.values().flatten().any(is_new);
    let last = applies.iter().rev().find(|(_, stages)| has_new(stages)).map(|(wave, _)| *wave)?;
    let mut waves: Vec<i32> = desired.iter().map(|object| object.marks.wave).filter(|wave| *wave < last).collect();
    waves.sort_unstable();
    waves.dedup();
    for wave in waves {
        let of_wave = desired.iter().filter(|object| object.marks.wave == wave);
        let by: Vec<_> = of_wave
            .filter_map(|object| Some((object.id.clone(), health.get(&object.id)?.clone())))
            .filter(|(_, health)| *health != Health::Healthy)
            .collect();
        if !by.is_empty() || applies.get(&wave).is_some_and(has_new) {
            let later = applies.range_mut(wave + 1..).flat_map(|(_, stages)| stages.values_mut());
            later.for_each(|steps| steps.retain(|step| !is_new(step)));
            return Some(Held { wave, by });
        }
    }
    None
}

/// Deletes everything that is there because of a GitSync that goes.
pub fn teardown<'a>(known: Known<'_>, me: (&str, &str)) -> Vec<Vec<Step<'a>>> {
    prunes(known, me, |_| true).1
}

/// The entries that may be deleted and the steps that do it, in the reverse order of their waves and stages.
fn prunes<'a>(
    known: Known<'_>,
    me: (&str, &str),
    left_over: impl Fn(&ObjectId) -> bool,
) -> (Vec<InventoryEntry>, Vec<Vec<Step<'a>>>) {
    let mut entries = Vec::new();
    let mut stages: BTreeMap<(i32, u8), Vec<Step<'a>>> = BTreeMap::new();
    for entry in &known.inventory.entries {
        let Some(id) = ObjectId::from_inventory(&entry.id).filter(&left_over) else { continue };
        let live = known.live.get(&id);
        if let Some(uid) = doomed(&id, entry, live, me) {
            entries.push(entry.clone());
            let version = entry.v.clone();
            let turn = (live.map_or(0, |live| live.marks.wave), order::stage(&id));
            stages.entry(turn).or_default().push(Step::Prune { id, version, uid });
        }
    }
    (entries, stages.into_values().rev().collect())
}

/// Why an object must be applied; `None` while it is as we left it.
fn wanted(object: &Desired, live: Option<&LiveObject>, applied: Option<&Applied>) -> Option<Why> {
    let is_there = live.is_some() || applied.is_some();
    if object.marks.ignored || live.is_some_and(|live| live.marks.ignored) || (object.marks.once && is_there) {
        return None;
    }
    match (live, applied) {
        (Some(live), Some(applied)) if object.digest == applied.digest => {
            (live.uid != applied.uid || live.fields != applied.fields).then_some(Why::Heal)
        }
        (None, Some(applied)) if object.digest == applied.digest => Some(Why::Heal),
        _ => Some(Why::Apply),
    }
}

/// The UID to delete by; `None` for what must stay: it is another's, was never seen, or holds everything.
fn doomed(id: &ObjectId, entry: &InventoryEntry, live: Option<&LiveObject>, me: (&str, &str)) -> Option<String> {
    if id.is_vital(me.0) {
        return None;
    }
    match live {
        Some(live) if (live.owner.0.as_str(), live.owner.1.as_str()) != me || live.marks.kept => None,
        Some(live) => Some(live.uid.clone()),
        // Out of the watch's sight: gone, or somebody took the labels off. The UID tells.
        None => entry.uid.clone(),
    }
}

/// The inventory once the steps ran: `seen` are the UIDs of what was applied, `gone` what was deleted.
pub fn settle(before: &Inventory, seen: &HashMap<ObjectId, String>, gone: &HashSet<ObjectId>) -> Inventory {
    let keep = |entry: &InventoryEntry| -> Option<InventoryEntry> {
        let id = ObjectId::from_inventory(&entry.id)?;
        if gone.contains(&id) {
            return None;
        }
        Some(InventoryEntry { uid: seen.get(&id).cloned().or_else(|| entry.uid.clone()), ..entry.clone() })
    };
    Inventory { entries: before.entries.iter().filter_map(keep).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::render::Place;
    use super::*;

    /// A cluster in memory: a plan is run on it as the executor runs it on a real one.
    #[derive(Default)]
    struct World {
        live: HashMap<ObjectId, LiveObject>,
        applied: HashMap<ObjectId, Applied>,
        inventory: Inventory,
        others: HashSet<(String, String)>,
        health: HashMap<ObjectId, Health>,
        ask: bool,
        leave_drift: bool,
        allowed: Vec<String>,
        born: u32,
    }

    fn id(kind: &str, name: &str) -> ObjectId {
        let group = if kind == "CustomResourceDefinition" { "apiextensions.k8s.io" } else { "" };
        ObjectId { namespace: "ns".into(), name: name.into(), group: group.into(), kind: kind.into() }
    }

    fn live_object(uid: &str, owner: (String, String)) -> LiveObject {
        let (resource_version, marks) = (String::new(), Marks::default());
        LiveObject { uid: uid.into(), resource_version, owner, fields: 1, generation: None, marks }
    }

    fn desired(kind: &str, name: &str, digest: &str) -> Desired {
        Desired {
            id: id(kind, name),
            version: "v1".into(),
            body: serde_json::Value::Null,
            digest: digest.into(),
            marks: Marks::default(),
            place: Place { file: format!("{name}.yaml"), line: 1 },
        }
    }

    impl World {
        fn plan<'a>(&self, desired: &'a [Desired]) -> Plan<'a> {
            let policy = Policy {
                me: ("ns", "app"),
                prune: true,
                others: &self.others,
                ask: self.ask,
                leave_drift: self.leave_drift,
                allowed: &self.allowed,
            };
            plan(desired, self.known(), &policy)
        }

        fn known(&self) -> Known<'_> {
            let Self { live, applied, inventory, health, .. } = self;
            Known { live, applied, inventory, health }
        }

        fn run(&mut self, desired: &[Desired]) -> Vec<String> {
            let plan = self.plan(desired);
            let (mut seen, mut gone, mut done) = (HashMap::new(), HashSet::new(), Vec::new());
            for step in plan.stages.iter().flatten() {
                match step {
                    Step::Apply { desired, why } => {
                        self.born += 1;
                        let fresh = format!("uid-{}", self.born);
                        let uid = self.live.get(&desired.id).map_or(fresh, |live| live.uid.clone());
                        let owner = ("ns".to_owned(), "app".to_owned());
                        let live = live_object(&uid, owner);
                        self.live.insert(desired.id.clone(), live);
                        let applied = Applied { digest: desired.digest.clone(), uid: uid.clone(), fields: 1 };
                        self.applied.insert(desired.id.clone(), applied);
                        seen.insert(desired.id.clone(), uid);
                        done.push(format!("{why:?} {}", desired.id));
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
            self.inventory = settle(&plan.inventory, &seen, &gone);
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
        let ids: Vec<_> = plan.inventory.entries.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["ns_a__ConfigMap", "ns_b__ConfigMap"]);
        assert_eq!(plan.inventory.entries[1].uid, None);
    }

    #[test]
    fn what_another_took_over_is_not_pruned() {
        let mut world = World::default();
        world.run(&[desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1")]);
        world.live.get_mut(&id("ConfigMap", "a")).unwrap().owner = ("ns".into(), "other".into());
        assert!(world.run(&[desired("ConfigMap", "b", "1")]).is_empty());
        assert_eq!(world.inventory.entries.len(), 1);
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
    fn an_object_whose_labels_were_taken_off_is_pruned_by_its_uid() {
        let mut world = World::default();
        world.run(&[desired("ConfigMap", "a", "1"), desired("ConfigMap", "b", "1")]);
        let uid = world.live.remove(&id("ConfigMap", "a")).unwrap().uid;
        let wanted = [desired("ConfigMap", "b", "1")];
        let plan = world.plan(&wanted);
        assert_eq!(plan.stages, [[Step::Prune { id: id("ConfigMap", "a"), version: "v1".into(), uid }]]);
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
        assert_eq!((held.wave, held.by.len()), (-1, 1));
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
        let all =
            [in_wave(0, "ConfigMap", "a", "1"), in_wave(1, "ConfigMap", "b", "1"), desired("ConfigMap", "c", "1")];
        for _ in 0..2 {
            world.run(&all);
        }
        world.live.get_mut(&id("ConfigMap", "b")).unwrap().marks.wave = 1;
        let next = [desired("ConfigMap", "c", "2"), in_wave(1, "ConfigMap", "d", "1")];
        assert_eq!(world.run(&next), ["Apply ConfigMap ns/c"]);
        assert_eq!(world.inventory.entries.len(), 4, "what goes later is there until then");
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
    fn most_of_it_is_not_pruned_unasked() {
        let mut world = World::default();
        let all: Vec<_> = (0..15).map(|number| desired("ConfigMap", &format!("m{number:02}"), "1")).collect();
        world.run(&all);
        let plan = world.plan(&all[..3]);
        assert!(plan.refused_prune.unwrap().contains("12 of 15"));
        assert!(plan.stages.is_empty());
        assert_eq!(plan.inventory, world.inventory);
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
        assert_eq!(world.inventory.entries.len(), 0);
        let once = |digest: &str| Desired { digest: digest.into(), ..marked(Marks { once: true, ..none }) };
        assert_eq!(world.run(&[once("1")]), ["Apply ConfigMap ns/a"]);
        assert!(world.run(&[once("2")]).is_empty());
        world.live.get_mut(&id("ConfigMap", "a")).unwrap().marks.kept = true;
        assert!(world.run(&[desired("ConfigMap", "b", "1")]).iter().all(|step| !step.starts_with("Prune")));
        assert_eq!(world.inventory.entries.len(), 1, "it is nobody's any more");
    }
}
