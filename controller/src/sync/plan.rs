//! Decides what a sync changes. Knows no cluster and no clock: given the same desired, live and recorded state it
//! answers the same plan, and planning again after that plan ran plans nothing. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
};

use crds::{
    git_sync::{APPROVE, PendingPlan},
    sync::{
        digest::digest,
        hook::{Hook, HookRun, Phase},
        inventory::Inventory,
    },
};

use super::{
    claims::Neighbours,
    health::Health,
    hooks::{self, Course, Hooks, Turn, Unwell},
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
    /// The run of hooks that it was made in.
    pub run: Option<String>,
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
    /// It is a hook, and it is its turn.
    Run,
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
    /// Make it anew; what is left of an earlier run goes first.
    Run {
        /// The hook.
        desired: &'a Desired,
        /// Value of its annotation [`crds::sync::hook::RUN`].
        mark: String,
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

impl Step<'_> {
    /// What it deletes.
    pub fn pruned(&self) -> Option<&ObjectId> {
        match self {
            Self::Prune { id, .. } => Some(id),
            Self::Apply { .. } | Self::Run { .. } => None,
        }
    }
}

/// What is known of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What is there and carries our labels, or did and carries fields that we applied.
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
    /// From whom objects may have come, and to whom they may go.
    pub neighbours: &'a Neighbours,
    /// `spec.syncPolicy` is Manual.
    pub ask: bool,
    /// `spec.drift` is Report.
    pub leave_drift: bool,
    /// Objects that others change back whenever they are healed: they are left alone for a while.
    pub resting: &'a HashSet<ObjectId>,
    /// Digests of plans that are allowed.
    pub allowed: &'a [String],
    /// What was allowed and is being carried out.
    pub leave: Option<&'a Leave>,
    /// What is known of the hooks.
    pub hooks: Hooks<'a>,
}

/// What somebody allowed. It holds to its end, though less of it is left: what could not be deleted at once is asked for
/// once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Digest of what is to be there.
    whole: String,
    leaving: HashSet<ObjectId>,
}

impl Leave {
    fn covers(&self, whole: &str, leaving: &[(ObjectId, String)]) -> bool {
        self.whole == whole && leaving.iter().all(|(id, _)| self.leaving.contains(id))
    }
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
    /// Objects that go once the others have looked.
    pub lingering: usize,
    /// What somebody changed, and is left so.
    pub drifted: Vec<ObjectId>,
    /// What waits to be allowed, and what it is in all.
    pub pending: Option<PendingPlan>,
    /// Of what would then be there, and what would not.
    pub digest: String,
    /// Set when it is allowed.
    pub leave: Option<Leave>,
    /// How far the hooks have come. To be written before the first step, too.
    pub hooks: Option<HookRun>,
}

/// See [`Plan::held`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The wave.
    pub turn: Turn,
    /// Its objects that are not healthy, and why.
    pub by: Vec<(ObjectId, Health)>,
}

/// Decides.
pub fn plan<'a>(desired: &'a [Desired], known: Known<'_>, policy: &Policy<'_>) -> Plan<'a> {
    let mut applies: Waves<'a> = BTreeMap::new();
    let mut hooks = Vec::new();
    let (mut refused, mut taken) = (Vec::new(), Vec::new());
    let mut drifted = Vec::new();
    let mut inventory = Inventory::default();

    for object in desired {
        let live = known.live.get(&object.id);
        let owner = live.map(|live| &live.owner).filter(|owner| policy.others.contains(owner));
        if let Some(owner) = owner.filter(|_| !policy.neighbours.freed.contains(&object.id)) {
            let what =
                format!("{} belongs to the GitSync {}/{}; take it out of one of the two", object.id, owner.0, owner.1);
            refused.push(Problem { place: object.place.clone(), what });
            taken.push(object);
            continue;
        }
        let is_recorded = known.inventory.objects.contains_key(&object.id);
        if object.marks.ignored && !is_recorded {
            continue;
        }
        let is_hook = object.marks.hook.is_some();
        if !is_hook || (live.is_some() && is_recorded) {
            inventory.objects.insert(object.id.clone(), object.version.clone());
        }
        if is_hook {
            hooks.push(object);
            continue;
        }
        match wanted(object, live, known.applied.get(&object.id)) {
            Some(Why::Heal) if policy.leave_drift || policy.resting.contains(&object.id) => {
                drifted.push(object.id.clone());
            }
            Some(why) => {
                let turn = Turn { phase: Phase::Sync, wave: object.marks.wave };
                add(&mut applies, turn, object, Step::Apply { desired: object, why });
            }
            None => {}
        }
    }

    let Going { leaving, handed, mut prunes } = going(desired, known, policy);
    let whole = digest(desired, &[]);
    let digest = digest(desired, &leaving);
    let allowed = policy.allowed.contains(&digest) || policy.leave.is_some_and(|leave| leave.covers(&whole, &leaving));
    let refused_prune = guard(&prunes, desired, known.inventory).filter(|_| !allowed);
    let refused_prune = refused_prune.map(|why| format!("{why}; to allow it: {}", command(policy.me, &digest)));
    let is_changing = (refused_prune.is_none() && !prunes.is_empty()) || applies.values().any(has_new);
    let mut course = hooks::course(&hooks, known, policy.hooks, &whole, is_changing);
    for (turn, object, step) in course.steps.drain(..) {
        add(&mut applies, turn, object, step);
    }
    for object in taken {
        for phase in object.marks.hook.iter().flat_map(Hook::phases) {
            let why = Health::Degraded("belongs to another GitSync".to_owned());
            let turn = Turn { phase, wave: object.marks.wave };
            course.waits.entry(turn).or_default().push((object.id.clone(), why));
        }
    }
    // What was begun with leave goes on.
    let asks = policy.ask && !allowed && !policy.hooks.are_under_way(&whole);
    let steps = if asks { changes(&applies, &prunes) } else { changes(&Waves::new(), &prunes) };
    let is_asked = (asks || refused_prune.is_some()) && !steps.is_empty();
    let pending = is_asked.then(|| PendingPlan { digest: digest.clone(), steps });
    if pending.is_some() {
        prunes.clear();
    }
    if asks && pending.is_some() {
        applies.values_mut().flat_map(BTreeMap::values_mut).for_each(|steps| steps.retain(|step| !is_new(step)));
        course = Course { record: policy.hooks.record.cloned(), ..Course::default() };
    }
    if refused_prune.is_some() || !prunes.is_empty() {
        applies.retain(|turn, _| turn.phase < Phase::PostSync);
    }
    let held = hold(&mut applies, unhealthy(desired, known.health), course.waits);
    let mut stages: Vec<Vec<Step<'a>>> = applies.into_values().flat_map(BTreeMap::into_values).collect();
    let going = prunes.iter().map(Vec::len).sum();
    let lingering = if policy.neighbours.early.is_empty() || held.is_some() { 0 } else { going };
    if held.is_none() && lingering == 0 {
        stages.extend(prunes);
    }
    stages.extend(course.after.into_iter().map(|step| vec![step]));
    stages.retain(|steps| !steps.is_empty());
    for step in stages.iter().flatten() {
        if let Step::Run { desired: Desired { id, version, .. }, .. } = step {
            inventory.objects.entry(id.clone()).or_insert_with(|| version.clone());
        }
    }
    let leave = allowed.then(|| Leave { whole, leaving: leaving.iter().map(|(id, _)| id.clone()).collect() });
    // What goes later is there until then.
    inventory.objects.extend(leaving.into_iter().chain(handed));
    Plan {
        inventory,
        stages,
        refused,
        refused_prune,
        held,
        lingering,
        drifted,
        pending,
        digest,
        leave,
        hooks: course.record,
    }
}

/// Steps by wave and stage.
type Waves<'a> = BTreeMap<Turn, BTreeMap<u8, Vec<Step<'a>>>>;

fn add<'a>(waves: &mut Waves<'a>, turn: Turn, object: &Desired, step: Step<'a>) {
    waves.entry(turn).or_default().entry(order::stage(&object.id)).or_default().push(step);
}

/// Whether it is more than healing.
fn is_new(step: &Step<'_>) -> bool {
    !matches!(step, Step::Apply { why: Why::Heal, .. })
}

fn has_new(stages: &BTreeMap<u8, Vec<Step<'_>>>) -> bool {
    stages.values().flatten().any(is_new)
}

/// What is applied and not healthy, by turn.
fn unhealthy(desired: &[Desired], health: &HashMap<ObjectId, Health>) -> Unwell {
    let mut unwell = Unwell::new();
    for object in desired.iter().filter(|object| object.marks.hook.is_none()) {
        if let Some(health) = health.get(&object.id).filter(|health| **health != Health::Healthy) {
            let turn = Turn { phase: Phase::Sync, wave: object.marks.wave };
            unwell.entry(turn).or_default().push((object.id.clone(), health.clone()));
        }
    }
    unwell
}

/// How to allow a plan.
pub fn command(me: (&str, &str), digest: &str) -> String {
    format!("kubectl annotate --overwrite -n {} gitsync {} {APPROVE}={digest}", me.0, me.1)
}

/// Why so much may not go unasked.
fn guard(prunes: &[Vec<Step<'_>>], desired: &[Desired], inventory: &Inventory) -> Option<String> {
    let (going, all) = (prunes.iter().map(Vec::len).sum::<usize>(), inventory.objects.len());
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
        Step::Apply { desired, .. } => Some(format!("apply {}", desired.id)),
        Step::Run { desired, .. } => Some(format!("run {}", desired.id)),
        Step::Prune { id, .. } => Some(format!("delete {id}")),
    };
    let mut lines: Vec<String> = applies.chain(prunes.iter().flatten()).filter_map(line).collect();
    if lines.len() > NAMED {
        let rest = lines.split_off(NAMED).len();
        lines.push(format!("and {rest} more"));
    }
    lines
}

/// Leaves out of later waves what is new until the earlier ones are done and healthy. Drift is healed all the same. Hooks
/// are waited for though nothing comes after them.
fn hold(applies: &mut Waves<'_>, mut unwell: Unwell, hooks: Unwell) -> Option<Held> {
    let last = applies.iter().rev().find(|(_, stages)| has_new(stages)).map(|(turn, _)| *turn);
    let waited_for = hooks.keys().next().copied();
    for (turn, by) in hooks {
        unwell.entry(turn).or_default().extend(by);
    }
    let turns: BTreeSet<Turn> = unwell.keys().chain(applies.keys()).copied().collect();
    for turn in turns.into_iter().filter(|turn| Some(*turn) < last) {
        let by = unwell.remove(&turn).unwrap_or_default();
        if !by.is_empty() || applies.get(&turn).is_some_and(has_new) {
            let later = applies.range_mut((Bound::Excluded(turn), Bound::Unbounded));
            let later = later.flat_map(|(_, stages)| stages.values_mut());
            later.for_each(|steps| steps.retain(|step| !is_new(step)));
            return Some(Held { turn, by });
        }
    }
    waited_for.map(|turn| Held { turn, by: unwell.remove(&turn).unwrap_or_default() })
}

/// Deletes everything that is there because of a GitSync that goes.
pub fn teardown<'a>(known: Known<'_>, me: (&str, &str)) -> Vec<Vec<Step<'a>>> {
    prunes(known, me, |_| true).1
}

/// What Git no longer has.
struct Going<'a> {
    /// What is to be deleted.
    leaving: Vec<(ObjectId, String)>,
    /// What another takes over. It is ours until then.
    handed: Vec<(ObjectId, String)>,
    prunes: Vec<Vec<Step<'a>>>,
}

fn going<'a>(desired: &[Desired], known: Known<'_>, policy: &Policy<'_>) -> Going<'a> {
    let stays: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
    let (mut leaving, mut prunes) =
        if policy.prune { prunes(known, policy.me, |id| !stays.contains(id)) } else { (Vec::new(), Vec::new()) };
    let wanted = &policy.neighbours.wanted;
    let handed = leaving.extract_if(.., |(id, _)| wanted.contains(id)).collect();
    prunes.iter_mut().for_each(|steps| steps.retain(|step| !step.pruned().is_some_and(|id| wanted.contains(id))));
    prunes.retain(|steps| !steps.is_empty());
    Going { leaving, handed, prunes }
}

/// What may be deleted, with its version, and the steps that do it, in the reverse order of their waves and stages.
fn prunes<'a>(
    known: Known<'_>,
    me: (&str, &str),
    left_over: impl Fn(&ObjectId) -> bool,
) -> (Vec<(ObjectId, String)>, Vec<Vec<Step<'a>>>) {
    let mut leaving = Vec::new();
    let mut stages: BTreeMap<(i32, u8), Vec<Step<'a>>> = BTreeMap::new();
    for (id, version) in known.inventory.objects.iter().filter(|(id, _)| left_over(id)) {
        let Some(live) = known.live.get(id).filter(|live| is_doomed(id, live, me)) else { continue };
        leaving.push((id.clone(), version.clone()));
        let (id, version, uid) = (id.clone(), version.clone(), live.uid.clone());
        let turn = (live.marks.wave, order::stage(&id));
        stages.entry(turn).or_default().push(Step::Prune { id, version, uid });
    }
    (leaving, stages.into_values().rev().collect())
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

/// Whether it may be deleted: it is nobody else's, is not to be kept, and does not hold everything up.
fn is_doomed(id: &ObjectId, live: &LiveObject, me: (&str, &str)) -> bool {
    !id.is_vital(me.0) && (live.owner.0.as_str(), live.owner.1.as_str()) == me && !live.marks.kept
}

/// The inventory once the steps ran and these were deleted.
pub fn settle(before: &Inventory, gone: &HashSet<ObjectId>) -> Inventory {
    let left = before.objects.iter().filter(|(id, _)| !gone.contains(id));
    Inventory { objects: left.map(|(id, version)| (id.clone(), version.clone())).collect() }
}

/// Forgets what was applied once, and by now is neither in Git nor in the inventory.
pub fn forget(applied: &mut HashMap<ObjectId, Applied>, desired: &[Desired], inventory: &Inventory) {
    let in_git: HashSet<&ObjectId> = desired.iter().map(|object| &object.id).collect();
    applied.retain(|id, _| in_git.contains(id) || inventory.objects.contains_key(id));
}

#[cfg(test)]
mod tests;
