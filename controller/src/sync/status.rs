//! What a pass came to, as `status` says it. Pure: the clock is an argument, and a time moves only when what it dates
//! has changed.

use crds::{git_sync::GitSyncStatus, sealed_secret::SealedSecretStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{depends::CYCLE, drift::Drift, health::Health, object::ObjectId, render::Problem};

/// Problems named in one message; the rest is counted.
const NAMED: usize = 20;

/// Why something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// One word, for conditions, Events and metrics.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Whether the cluster is as Git says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Ready(String),
    /// It soon will be.
    Progressing(String),
    /// It is not; trying again may help.
    Failed(Cause),
    /// It is not, and waits for somebody or something else.
    Waiting(Cause),
    /// It is not, and will not be until the GitSync is changed.
    Stalled(Cause),
}

impl Verdict {
    /// Whether to try again before the interval is over.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// The same in other words.
    #[must_use]
    pub fn map(self, words: impl Fn(&str) -> String) -> Self {
        let cause = |Cause { reason, message }: Cause| Cause { reason, message: words(&message) };
        match self {
            Self::Ready(message) => Self::Ready(words(&message)),
            Self::Progressing(message) => Self::Progressing(words(&message)),
            Self::Failed(said) => Self::Failed(cause(said)),
            Self::Waiting(said) => Self::Waiting(cause(said)),
            Self::Stalled(said) => Self::Stalled(cause(said)),
        }
    }

    /// The reason of the condition `Ready`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ready(_) => "ReconciliationSucceeded",
            Self::Progressing(_) => "Progressing",
            Self::Failed(cause) | Self::Waiting(cause) | Self::Stalled(cause) => cause.reason,
        }
    }
}

/// A condition beside Ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its type.
    pub kind: &'static str,
    /// True, False or Unknown.
    pub status: &'static str,
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Whether what was applied does what it is for.
pub fn healthy(unhealthy: &[(ObjectId, Health)]) -> Fact {
    let kind = "Healthy";
    let words = |degraded: bool| {
        let of_this = unhealthy.iter().filter(|(_, health)| matches!(health, Health::Degraded(_)) == degraded);
        list(of_this.map(|(id, health)| said(id, health)).collect::<Vec<_>>().into_iter())
    };
    if unhealthy.is_empty() {
        return Fact { kind, status: "True", reason: "Healthy", message: "everything applied is healthy".to_owned() };
    }
    match words(true) {
        degraded if !degraded.is_empty() => Fact { kind, status: "False", reason: "Degraded", message: degraded },
        _ => Fact { kind, status: "Unknown", reason: "Progressing", message: words(false) },
    }
}

/// One object that is not healthy.
fn said(id: &ObjectId, health: &Health) -> String {
    match health {
        Health::Healthy => id.to_string(),
        Health::Progressing(why) | Health::Degraded(why) => format!("{id}: {why}"),
    }
}

/// The condition that tells of drift.
pub const DRIFTED: &str = "Drifted";
/// Reason of what is changed back whenever it is healed.
pub const FIGHTING: &str = "Fighting";

/// Whether somebody changed what was applied, and it was left so: because that is asked for, or because healing is of no
/// use.
pub fn drifted(left: &[Drift], is_asked_for: bool) -> Fact {
    let kind = DRIFTED;
    if left.is_empty() {
        return Fact { kind, status: "False", reason: "AsApplied", message: "nothing differs from Git".to_owned() };
    }
    let all = list(left.iter());
    let (reason, message) = if is_asked_for {
        ("DriftReported", format!("changed by others: {all}"))
    } else {
        let way = "take these fields out of Git, leave them to the other by spec.ignore, or make the other stop";
        (FIGHTING, format!("changed back whenever it is healed, and now healed less and less often: {all}; {way}"))
    };
    Fact { kind, status: "True", reason, message }
}

/// What waiting for objects to become healthy comes to: at once if one cannot, else until there is no time left.
pub fn awaited(what: &str, unhealthy: &[(ObjectId, Health)], is_late: bool) -> Option<Verdict> {
    let fact = healthy(unhealthy);
    let reason = "HealthCheckFailed";
    match (fact.status, is_late) {
        ("True", _) => None,
        ("False", _) => Some(Verdict::Failed(Cause { reason, message: format!("{what}{}", fact.message) })),
        (_, true) => {
            let message = format!("{what}not healthy within spec.timeout: {}", fact.message);
            Some(Verdict::Failed(Cause { reason, message }))
        }
        (_, false) => Some(Verdict::Progressing(format!("{what}waiting for {}", fact.message))),
    }
}

/// One verdict of three: what the newest commit lacks, what the cluster lacks, and whether Git answers.
pub fn overall(unrendered: Option<Cause>, applied: Verdict, unfetched: Option<Cause>) -> Verdict {
    match (unrendered, applied, unfetched) {
        (Some(cause), ..) | (None, Verdict::Failed(cause), _) | (None, _, Some(cause)) => failure(cause),
        (None, applied, None) => applied,
    }
}

/// What only another spec can mend is stalled; everything else is tried again.
fn failure(cause: Cause) -> Verdict {
    match cause.reason {
        "InvalidUrl" | "InvalidReference" | "InvalidPath" | CYCLE => Verdict::Stalled(cause),
        _ => Verdict::Failed(cause),
    }
}

/// The conditions after a pass: Ready always, Reconciling and Stalled while they hold, and what else is known.
pub fn conditions(
    before: &[Condition],
    verdict: &Verdict,
    facts: &[Fact],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let same = before.iter().find(|old| old.type_ == kind && old.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: generation,
            last_transition_time: same.map_or(Time(now), |old| old.last_transition_time.clone()),
        }
    };
    let facts: Vec<_> =
        facts.iter().map(|fact| condition(fact.kind, fact.status, fact.reason, &fact.message)).collect();
    let ready = match verdict {
        Verdict::Ready(message) => vec![condition("Ready", "True", "ReconciliationSucceeded", message)],
        Verdict::Progressing(message) => vec![
            condition("Ready", "Unknown", "Progressing", message),
            condition("Reconciling", "True", "Progressing", message),
        ],
        Verdict::Failed(Cause { reason, message }) | Verdict::Waiting(Cause { reason, message }) => {
            vec![condition("Ready", "False", reason, message)]
        }
        Verdict::Stalled(Cause { reason, message }) => {
            vec![condition("Ready", "False", reason, message), condition("Stalled", "True", reason, message)]
        }
    };
    ready.into_iter().chain(facts).collect()
}

/// The condition `Ready`.
pub fn ready(status: &GitSyncStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == "Ready")
}

/// Many lines as one message, in their order.
pub fn list<T: ToString>(lines: impl ExactSizeIterator<Item = T>) -> String {
    let rest = lines.len().saturating_sub(NAMED);
    let mut named: Vec<String> = lines.take(NAMED).map(|line| line.to_string()).collect();
    if rest > 0 {
        named.push(format!("and {rest} more"));
    }
    named.join("; ")
}

/// Whether a SealedSecret that was applied has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It has, in the generation that was applied.
    Yes,
    /// The controller has not come to it.
    NotYet,
    /// It cannot, and why.
    No(String),
}

/// Reads it off the object's status. `newest` is its generation, `applied` the one that the apply returned.
pub fn opened(status: Option<&SealedSecretStatus>, newest: Option<i64>, applied: Option<i64>) -> Opened {
    let observed = status.and_then(|status| status.observed_generation);
    match status.and_then(SealedSecretStatus::synced) {
        Some(synced) if observed >= applied && observed >= newest => match synced.status.as_str() {
            "True" => Opened::Yes,
            _ => Opened::No(synced.message.clone().unwrap_or_else(|| "is not opened".to_owned())),
        },
        _ => Opened::NotYet,
    }
}

/// What the SealedSecrets of a commit mean for the whole: failures with their place, and those that are under way or, once
/// there is no time left, should not be any more.
pub fn judge_sealed(all: impl Iterator<Item = (Problem, Opened)>, is_late: bool) -> Option<Verdict> {
    let (mut failed, mut waiting) = (Vec::new(), Vec::new());
    for (subject, opened) in all {
        match opened {
            Opened::Yes => {}
            Opened::NotYet => waiting.push(subject),
            Opened::No(why) => failed.push(Problem { what: format!("{}: {why}", subject.what), ..subject }),
        }
    }
    if !failed.is_empty() {
        return Some(Verdict::Failed(Cause { reason: "SealedSecretFailed", message: list(failed.iter()) }));
    }
    let waits = || match list(waiting.iter()) {
        those if is_late => {
            let message =
                format!("not opened within spec.timeout, and nobody said why; is it this controller's?: {those}");
            Verdict::Failed(Cause { reason: "SealedSecretFailed", message })
        }
        those => Verdict::Progressing(format!("waiting to be opened: {those}")),
    };
    (!waiting.is_empty()).then(waits)
}

#[cfg(test)]
mod tests {
    use super::super::render::Place;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn cause(reason: &'static str, message: &str) -> Cause {
        Cause { reason, message: message.to_owned() }
    }

    fn failed(reason: &'static str, message: &str) -> Verdict {
        Verdict::Failed(cause(reason, message))
    }

    #[test]
    fn the_newest_trouble_is_told_and_git_being_away_is_one() {
        let ready = || Verdict::Ready("ok".to_owned());
        let away = || Some(cause("Unreachable", "away"));
        assert_eq!(overall(None, ready(), None), ready());
        assert_eq!(overall(None, ready(), away()), failed("Unreachable", "away"));
        assert_eq!(overall(None, failed("PruneFailed", "x"), away()), failed("PruneFailed", "x"));
        assert_eq!(overall(Some(cause("BuildFailed", "b")), ready(), away()), failed("BuildFailed", "b"));
        let bad = Some(cause("InvalidUrl", "u"));
        assert!(matches!(overall(None, Verdict::Progressing(String::new()), bad), Verdict::Stalled(_)));
    }

    #[test]
    fn a_time_moves_only_with_its_status() {
        let first = conditions(&[], &failed("Unreachable", "away"), &[], Some(1), at(1));
        let second = conditions(&first, &failed("Unreachable", "still away"), &[], Some(1), at(2));
        assert_eq!(second[0].last_transition_time, Time(at(1)));
        let third = conditions(&second, &Verdict::Ready("ok".into()), &[], Some(1), at(3));
        assert_eq!(third[0].last_transition_time, Time(at(3)));
        assert_eq!(conditions(&third, &Verdict::Ready("ok".into()), &[], Some(1), at(4)), third, "nothing to write");
    }

    #[test]
    fn kstatus_can_read_each_verdict() {
        let kinds = |verdict: Verdict| -> Vec<String> {
            let all = conditions(&[], &verdict, &[], Some(1), at(1));
            all.into_iter().map(|condition| format!("{}={}", condition.type_, condition.status)).collect()
        };
        assert_eq!(kinds(Verdict::Ready(String::new())), ["Ready=True"]);
        assert_eq!(kinds(Verdict::Progressing(String::new())), ["Ready=Unknown", "Reconciling=True"]);
        assert_eq!(kinds(Verdict::Stalled(cause("InvalidUrl", ""))), ["Ready=False", "Stalled=True"]);
    }

    #[test]
    fn long_lists_are_counted() {
        assert_eq!(list([1, 2].iter()), "1; 2");
        assert!(list((0..30).collect::<Vec<_>>().iter()).ends_with("19; and 10 more"));
    }

    #[test]
    fn a_failed_opening_is_the_syncs_failure_with_its_place() {
        let subject = |name: &str| Problem {
            place: Place { file: format!("{name}.yaml"), line: 1 },
            what: format!("SealedSecret shop/{name}"),
        };
        let all = [
            (subject("a"), Opened::Yes),
            (subject("b"), Opened::NotYet),
            (subject("c"), Opened::No("no key could decrypt secret (x)".to_owned())),
        ];
        let expected = "c.yaml:1: SealedSecret shop/c: no key could decrypt secret (x)".to_owned();
        for is_late in [false, true] {
            let judged = judge_sealed(all.clone().into_iter(), is_late);
            assert_eq!(judged, Some(failed("SealedSecretFailed", &expected)));
            assert_eq!(judge_sealed([(subject("a"), Opened::Yes)].into_iter(), is_late), None);
        }
        let waiting = |is_late| judge_sealed(all.clone().into_iter().take(2), is_late);
        assert!(matches!(waiting(false), Some(Verdict::Progressing(_))));
        let late = "not opened within spec.timeout, and nobody said why; is it this controller's?: b.yaml:1: SealedSecret shop/b";
        assert_eq!(waiting(true), Some(failed("SealedSecretFailed", late)));
    }

    #[test]
    fn an_old_observation_says_nothing_about_a_new_generation() {
        assert_eq!(opened(None, None, None), Opened::NotYet);
        assert_eq!(opened(None, Some(1), Some(1)), Opened::NotYet);
        let condition = serde_json::json!({"type": "Synced", "status": "True"});
        let status = serde_json::json!({"observedGeneration": 1, "conditions": [condition]});
        let status = serde_json::from_value(status).unwrap();
        assert_eq!(opened(Some(&status), Some(1), Some(1)), Opened::Yes);
        assert_eq!(opened(Some(&status), Some(1), Some(2)), Opened::NotYet);
        assert_eq!(opened(Some(&status), Some(2), Some(1)), Opened::NotYet);
    }
}
