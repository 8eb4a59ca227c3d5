//! Where a run of hooks stands, and what it does next. A hook is a wave with a policy: it is waited for like any object,
//! but made once for each revision that changes something, and taken away by its own rules. Pure: what has begun is read
//! off the objects, and what has ended is remembered in the record that it answers.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use crds::sync::{
    health::Health,
    hook::{Hook, HookRun, HookState, PHASES, Phase, Progress},
};
use sha2::{Digest as _, Sha256};

use super::{
    object::ObjectId,
    plan::{Known, LiveObject, Step},
    render::Desired,
};

/// As much as is remembered of why a hook failed.
const WORDS: usize = 200;

/// When in a sync something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// First the phase,
    pub phase: Phase,
    /// then the wave.
    pub wave: i32,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase {
            Phase::Sync => write!(f, "wave {}", self.wave),
            phase => write!(f, "{phase}"),
        }
    }
}

/// What is not as it should be, by turn.
pub type Unwell = BTreeMap<Turn, Vec<(ObjectId, Health)>>;

/// What is known of the hooks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hooks<'a> {
    /// As last written.
    pub record: Option<&'a HookRun>,
    /// Digest of what was applied whole last. For that nothing runs again.
    pub last: Option<&'a str>,
    /// Differs when somebody asks for another try, and after each revision.
    pub seed: &'a str,
}

impl Hooks<'_> {
    /// Whether those of this digest have begun.
    pub fn are_under_way(&self, digest: &str) -> bool {
        self.record.is_some_and(|run| run.digest == digest)
    }

    /// The run to go on with or to begin; a failed one only when somebody asks for it.
    fn run(&self, digest: &str, is_changing: bool) -> Option<HookRun> {
        let begun = || {
            let id = Sha256::digest(format!("{digest} {}", self.seed));
            let id = URL_SAFE_NO_PAD.encode(id.as_slice()).chars().take(12).collect();
            HookRun { id, digest: digest.to_owned(), ..HookRun::default() }
        };
        match self.record {
            Some(run) if run.digest == digest => {
                let failed = run.failed || run.hooks.iter().any(|hook| hook.state == Progress::Failed);
                Some(if failed && begun().id != run.id { begun() } else { run.clone() })
            }
            // After one that came to no end all of them run again, though the digest may be the last one's.
            record => (is_changing && (record.is_some() || self.last != Some(digest))).then(begun),
        }
    }
}

/// What hooks ask of a plan.
#[derive(Default)]
pub struct Course<'a> {
    /// How far they have come.
    pub record: Option<HookRun>,
    /// Those to be run, each at its turn.
    pub steps: Vec<(Turn, &'a Desired, Step<'a>)>,
    /// Those that are waited for, and those that failed.
    pub waits: Unwell,
    /// What waits for nothing: those that run because the sync has failed, and what goes.
    pub after: Vec<Step<'a>>,
}

/// Looks at all of them. `digest` is of all that is asked for, `is_changing` whether anything else is to be done.
pub fn course<'a>(
    hooks: &[&'a Desired],
    known: Known<'_>,
    state: Hooks<'_>,
    digest: &str,
    is_changing: bool,
) -> Course<'a> {
    if hooks.is_empty() {
        return Course::default();
    }
    let Some(mut run) = state.run(digest, is_changing) else {
        return Course { record: state.record.cloned(), ..Course::default() };
    };
    let mut course = Course::default();
    let mut told = Vec::new();
    for phase in PHASES {
        let failed = run.failed || told.iter().any(|hook: &HookState| hook.state == Progress::Failed);
        if phase == Phase::SyncFail && !failed {
            continue;
        }
        let mark = format!("{}-{phase}", run.id);
        let of_phase: Vec<Member<'a>> = hooks
            .iter()
            .filter_map(|desired| {
                Some((*desired, desired.marks.hook.filter(|hook| hook.phases().any(|it| it == phase))?))
            })
            .map(|(desired, hook)| Member::new(desired, hook, phase, known, &run, &mark))
            .collect();
        for Member { desired, state, .. } in &of_phase {
            let turn = Turn { phase, wave: desired.marks.wave };
            match state {
                None if phase == Phase::SyncFail => {
                    course.after.push(Step::Run { desired, mark: mark.clone() });
                }
                None => course.steps.push((turn, *desired, Step::Run { desired, mark: mark.clone() })),
                Some((state, why)) => {
                    told.push(remembered(desired, phase, *state, why));
                    let health = match state {
                        Progress::Succeeded => continue,
                        Progress::Running => Health::Progressing(why.clone()),
                        Progress::Failed => Health::Degraded(why.clone()),
                    };
                    if phase != Phase::SyncFail {
                        course.waits.entry(turn).or_default().push((desired.id.clone(), health));
                    }
                }
            }
        }
        course.after.extend(leaving(&of_phase, known));
    }
    run.hooks = told;
    course.record = Some(run);
    course
}

/// A hook in one phase of a run.
struct Member<'a> {
    desired: &'a Desired,
    hook: Hook,
    /// The object of this run, while it is there.
    uid: Option<String>,
    /// How far it has come, and what there is to say; `None` before it begins.
    state: Option<(Progress, String)>,
}

impl<'a> Member<'a> {
    fn new(desired: &'a Desired, hook: Hook, phase: Phase, known: Known<'_>, run: &HookRun, mark: &str) -> Self {
        let id = desired.id.inventory_id();
        let before = run.hooks.iter().find(|it| it.id == id && it.phase == phase);
        let live: Option<&LiveObject> = known.live.get(&desired.id).filter(|live| live.run.as_deref() == Some(mark));
        let state = match (before, live) {
            (Some(before), _) if before.state != Progress::Running => Some((before.state, before.message.clone())),
            (_, Some(_)) => Some(match known.health.get(&desired.id) {
                None | Some(Health::Healthy) => (Progress::Succeeded, String::new()),
                Some(Health::Progressing(why)) => (Progress::Running, why.clone()),
                Some(Health::Degraded(why)) => (Progress::Failed, why.clone()),
            }),
            // A Job that takes itself away has done its work.
            (Some(_), None) if desired.body.value()["spec"]["ttlSecondsAfterFinished"].is_number() => {
                Some((Progress::Succeeded, String::new()))
            }
            (Some(_), None) => Some((Progress::Failed, "was deleted before it had ended".to_owned())),
            (None, None) => None,
        };
        Self { desired, hook, uid: live.map(|live| live.uid.clone()), state }
    }
}

/// What goes, once the phase is over: others of it may have needed what has ended.
fn leaving<'a>(of_phase: &[Member<'a>], known: Known<'_>) -> Vec<Step<'a>> {
    let state = |member: &Member<'_>| member.state.as_ref().map(|(state, _)| *state);
    let has_failed = of_phase.iter().any(|member| state(member) == Some(Progress::Failed));
    if !has_failed && of_phase.iter().any(|member| state(member) != Some(Progress::Succeeded)) {
        return Vec::new();
    }
    let goes = |member: &&Member<'_>| match state(member) {
        Some(Progress::Succeeded) => member.hook.goes_when_succeeded,
        Some(Progress::Failed) => member.hook.goes_when_failed,
        Some(Progress::Running) | None => false,
    };
    let step = |member: &Member<'a>| {
        let Desired { id, version, .. } = member.desired;
        let uid = member.uid.clone().filter(|_| known.inventory.objects.contains_key(id))?;
        Some(Step::Prune { id: id.clone(), version: version.clone(), uid })
    };
    of_phase.iter().filter(goes).filter_map(step).collect()
}

fn remembered(desired: &Desired, phase: Phase, state: Progress, why: &str) -> HookState {
    let message = if state == Progress::Failed { why.chars().take(WORDS).collect() } else { String::new() };
    HookState { id: desired.id.inventory_id(), phase, state, message }
}
