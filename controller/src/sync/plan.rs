//! Decides what a sync changes. Knows no cluster and no clock: given the same desired, live and recorded state it
//! answers the same plan, and planning again after that plan ran plans nothing. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use crds::git_sync::{Inventory, InventoryEntry};

use super::{
    object::ObjectId,
    order,
    render::{Desired, Problem},
};

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
    /// Set when pruning would empty everything, which nobody means.
    pub refused_prune: Option<String>,
}

/// Decides.
pub fn plan<'a>(desired: &'a [Desired], known: Known<'_>, policy: &Policy<'_>) -> Plan<'a> {
    let mut applies: BTreeMap<u8, Vec<Step<'a>>> = BTreeMap::new();
    let mut refused = Vec::new();
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
        let uid = live.map(|live| live.uid.clone()).or_else(|| recorded.get(entry_id.as_str())?.uid.clone());
        inventory.insert(entry_id, object.id.entry(&object.version, uid));
        if let Some(why) = wanted(object, live, known.applied.get(&object.id)) {
            applies.entry(order::stage(&object.id)).or_default().push(Step::Apply { desired: object, why });
        }
    }

    let refused_prune = (policy.prune && desired.is_empty() && !recorded.is_empty()).then(|| {
        let count = recorded.len();
        format!(
            "nothing is left at the path: refusing to delete all {count} objects; to delete them, delete the GitSync"
        )
    });
    let wanted_ids: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
    let left_over = |id: &ObjectId| !wanted_ids.contains(id);
    let mut stages: Vec<_> = applies.into_values().collect();
    if refused_prune.is_some() {
        inventory.extend(known.inventory.entries.iter().map(|entry| (entry.id.clone(), entry.clone())));
    } else if policy.prune {
        let (kept, prunes) = prunes(known, policy.me, left_over);
        inventory.extend(kept.into_iter().map(|entry| (entry.id.clone(), entry)));
        stages.extend(prunes);
    }
    Plan { inventory: Inventory { entries: inventory.into_values().collect() }, stages, refused, refused_prune }
}

/// Deletes everything that is there because of a GitSync that goes.
pub fn teardown<'a>(known: Known<'_>, me: (&str, &str)) -> Vec<Vec<Step<'a>>> {
    prunes(known, me, |_| true).1
}

/// The entries that may be deleted and the steps that do it, in the reverse order of their stages.
fn prunes<'a>(
    known: Known<'_>,
    me: (&str, &str),
    left_over: impl Fn(&ObjectId) -> bool,
) -> (Vec<InventoryEntry>, Vec<Vec<Step<'a>>>) {
    let mut entries = Vec::new();
    let mut stages: BTreeMap<u8, Vec<Step<'a>>> = BTreeMap::new();
    for entry in &known.inventory.entries {
        let Some(id) = ObjectId::from_inventory(&entry.id).filter(&left_over) else { continue };
        if let Some(uid) = doomed(&id, entry, known.live.get(&id), me) {
            entries.push(entry.clone());
            let version = entry.v.clone();
            stages.entry(order::stage(&id)).or_default().push(Step::Prune { id, version, uid });
        }
    }
    (entries, stages.into_values().rev().collect())
}

/// Why an object must be applied; `None` while it is as we left it.
fn wanted(object: &Desired, live: Option<&LiveObject>, applied: Option<&Applied>) -> Option<Why> {
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
    if is_vital(id, me.0) {
        return None;
    }
    match live {
        Some(live) if (live.owner.0.as_str(), live.owner.1.as_str()) != me => None,
        Some(live) => Some(live.uid.clone()),
        // Out of the watch's sight: gone, or somebody took the labels off. The UID tells.
        None => entry.uid.clone(),
    }
}

/// What is never pruned, whatever Git says: the loss would take Signet or the cluster with it.
fn is_vital(id: &ObjectId, own_namespace: &str) -> bool {
    match (id.group.as_str(), id.kind.as_str()) {
        ("", "Namespace") => {
            ["default", "kube-system", "kube-public", "kube-node-lease", own_namespace].contains(&id.name.as_str())
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            ["gitsyncs.signet.dev", "sealedsecrets.bitnami.com"].contains(&id.name.as_str())
        }
        _ => false,
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
        born: u32,
    }

    fn id(kind: &str, name: &str) -> ObjectId {
        let group = if kind == "CustomResourceDefinition" { "apiextensions.k8s.io" } else { "" };
        ObjectId { namespace: "ns".into(), name: name.into(), group: group.into(), kind: kind.into() }
    }

    fn live_object(uid: &str, owner: (String, String)) -> LiveObject {
        LiveObject { uid: uid.into(), resource_version: String::new(), owner, fields: 1, generation: None }
    }

    fn desired(kind: &str, name: &str, digest: &str) -> Desired {
        Desired {
            id: id(kind, name),
            version: "v1".into(),
            body: serde_json::Value::Null,
            digest: digest.into(),
            place: Place { file: format!("{name}.yaml"), line: 1 },
        }
    }

    impl World {
        fn plan<'a>(&self, desired: &'a [Desired]) -> Plan<'a> {
            let known = Known { live: &self.live, applied: &self.applied, inventory: &self.inventory };
            plan(desired, known, &Policy { me: ("ns", "app"), prune: true, others: &self.others })
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
}
