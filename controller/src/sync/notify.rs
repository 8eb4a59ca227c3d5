//! What is worth telling people, given what they were told before: each incident once, its end, and nothing twice, not
//! even after a restart, because what was told is kept in the status. Pure: the clock is an argument, and how it is told is
//! [`super::letter`]'s to say.

use crds::{
    git_sync::{GitSyncStatus, HistoryEntry},
    sync::notify::{Notified, Notify, NotifyKind, Occasion},
};
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest as _, Sha256};

use super::status::{self, Verdict};

/// What comes and goes by itself is told when it stays for so long.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);
/// The same drift again is told after so long.
const AGAIN: SignedDuration = SignedDuration::from_hours(1);
/// Incidents remembered until all is well again.
const REMEMBERED: usize = 10;
/// Reasons that come and go by themselves. They say nothing about a commit.
const PASSING: [&str; 4] = ["Unreachable", "Timeout", "FetchFailed", "DependencyNotReady"];

/// What a pass came to.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// How it ended.
    pub verdict: &'a Verdict,
    /// The status that says so.
    pub after: &'a GitSyncStatus,
    /// What others changed, corrected or not.
    pub drift: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What it is.
    pub what: What,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// As branch@sha1:commit.
    pub revision: String,
}

/// See [`News::what`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// For whoever asked for it.
    Event(Occasion),
    /// For the host of the commit.
    Commit(State),
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum State {
    /// It is being applied, or waits.
    Pending,
    /// It was.
    Success,
    /// It could not be.
    Failure,
}

/// What to tell, and what has been told then. With nothing to tell, nothing new has been told.
pub fn news(before: &Notified, seen: Seen<'_>) -> (Vec<News>, Notified) {
    let Seen { verdict, after, drift, now } = seen;
    let (attempted, applied) = (after.last_attempted_revision.as_ref(), after.last_applied_revision.as_ref());
    let mut told = before.clone();
    let mut all = Vec::new();
    let said = |what, revision: Option<&String>, message: &str| {
        let revision = revision.cloned().unwrap_or_default();
        News { what, reason: verdict.reason().to_owned(), message: message.to_owned(), revision }
    };
    match verdict {
        Verdict::Progressing(message) => {
            // What has failed or succeeded does not begin again.
            if attempted.is_some_and(|revision| !told.commit.as_deref().unwrap_or_default().ends_with(revision)) {
                all.push(said(What::Commit(State::Pending), attempted, message));
            }
        }
        Verdict::Ready(message) => {
            let is_another = told.applied.as_ref() != applied;
            let entry = after.history.first().filter(|entry| is_another && Some(&entry.revision) == applied);
            let message = &entry.map_or_else(|| message.clone(), |entry| format!("{message}: {}", summary(entry)));
            if told.incidents.iter().any(|incident| incident.starts_with(<&str>::from(Occasion::Failed))) {
                all.push(said(What::Event(Occasion::Recovered), applied, message));
            }
            told.incidents.clear();
            if is_another {
                all.push(said(What::Event(Occasion::Applied), applied, message));
                told.applied = applied.cloned();
            }
            all.push(said(What::Commit(State::Success), applied, message));
        }
        Verdict::Failed(cause) | Verdict::Waiting(cause) | Verdict::Stalled(cause) => {
            let (occasion, state) = match verdict {
                Verdict::Waiting(_) => (Occasion::Waiting, State::Pending),
                _ => (Occasion::Failed, State::Failure),
            };
            let is_passing = PASSING.contains(&cause.reason);
            let since = status::ready(after).map(|ready| ready.last_transition_time.0);
            let lasts = since.is_some_and(|since| now.duration_since(since) >= PATIENCE);
            let incident = format!("{occasion:?} {} {}", cause.reason, attempted.map_or("", String::as_str));
            if (!is_passing || lasts) && !told.incidents.contains(&incident) {
                told.incidents.push(incident);
                if told.incidents.len() > REMEMBERED {
                    told.incidents.remove(0);
                }
                all.push(said(What::Event(occasion), attempted, &cause.message));
            }
            if !is_passing {
                all.push(said(What::Commit(state), attempted, &cause.message));
            }
        }
    }
    if let Some(drift) = drift {
        let digest: String = HEXLOWER.encode(&Sha256::digest(drift)).chars().take(16).collect();
        let is_old = |at: &Time| now.duration_since(at.0) >= AGAIN;
        if told.drift.as_ref() != Some(&digest) || told.drift_at.as_ref().is_none_or(is_old) {
            let news = said(What::Event(Occasion::Drift), applied, drift);
            all.push(News { reason: "Drift".to_owned(), ..news });
            (told.drift, told.drift_at) = (Some(digest), Some(Time(now)));
        }
    }
    all.retain(|news| {
        let What::Commit(state) = news.what else { return true };
        let commit = format!("{} {}", <&str>::from(state), news.revision);
        !news.revision.is_empty() && told.commit.replace(commit.clone()) != Some(commit)
    });
    (all, told)
}

/// Who wrote it, and what it did.
fn summary(entry: &HistoryEntry) -> String {
    let counts = entry.counts.map(|counts| counts.to_string());
    let commit = entry.author.iter().zip(&entry.subject).map(|(author, subject)| format!("{author}: {subject}"));
    counts.into_iter().chain(commit).collect::<Vec<_>>().join("; ")
}

/// What of it is for one receiver.
pub fn wanted<'a>(notify: &Notify, all: &'a [News]) -> Vec<&'a News> {
    let takes_states = matches!(notify.kind, NotifyKind::GitHub | NotifyKind::GitLab);
    let asks = |occasion: Occasion| notify.events.contains(&occasion);
    // One message is enough for the commit that repaired it.
    let recovered = asks(Occasion::Recovered) && all.iter().any(|news| news.what == What::Event(Occasion::Recovered));
    let is_wanted = |news: &&News| match news.what {
        What::Commit(_) => takes_states,
        What::Event(Occasion::Applied) if recovered => false,
        What::Event(occasion) => !takes_states && asks(occasion),
    };
    all.iter().filter(is_wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::super::status::Cause;
    use super::*;

    /// Passes one after the other, as the status remembers them.
    struct Day {
        status: GitSyncStatus,
        now: Timestamp,
    }

    impl Day {
        fn new() -> Self {
            Self { status: GitSyncStatus::default(), now: Timestamp::UNIX_EPOCH }
        }

        fn all(&mut self, verdict: &Verdict, commit: &str, drift: Option<&str>) -> Vec<News> {
            let mut after = self.status.clone();
            after.conditions = status::conditions(&self.status.conditions, verdict, &[], Some(1), self.now);
            after.last_attempted_revision = Some(commit.to_owned());
            if matches!(verdict, Verdict::Ready(_)) {
                after.last_applied_revision = Some(commit.to_owned());
            }
            let before = self.status.notified.clone().unwrap_or_default();
            let (all, told) = news(&before, Seen { verdict, after: &after, drift, now: self.now });
            assert!(all.is_empty() || told != before, "the status is not written, so nothing is sent: {all:?}");
            after.notified = Some(told);
            self.status = after;
            all
        }

        fn pass(&mut self, verdict: &Verdict, commit: &str, drift: Option<&str>) -> Vec<String> {
            let line = |news: News| match news.what {
                What::Event(occasion) => format!("{occasion:?} {}", news.reason),
                What::Commit(state) => format!("{state:?}"),
            };
            self.all(verdict, commit, drift).into_iter().map(line).collect()
        }
    }

    fn ready() -> Verdict {
        Verdict::Ready("ok".into())
    }

    fn failed(reason: &'static str) -> Verdict {
        Verdict::Failed(Cause { reason, message: "why".into() })
    }

    fn waiting(reason: &'static str) -> Verdict {
        Verdict::Waiting(Cause { reason, message: "why".into() })
    }

    #[test]
    fn an_incident_is_told_once_and_so_is_its_end() {
        let mut day = Day::new();
        let working = Verdict::Progressing("applying".into());
        assert_eq!(day.pass(&working, "a", None), ["Pending"]);
        assert!(day.pass(&working, "a", None).is_empty());
        assert_eq!(day.pass(&ready(), "a", None), ["Applied ReconciliationSucceeded", "Success"]);
        assert!(day.pass(&ready(), "a", None).is_empty());
        assert_eq!(day.pass(&failed("BuildFailed"), "b", None), ["Failed BuildFailed", "Failure"]);
        // It fails for another reason, tries again, and has nothing new to say.
        assert_eq!(day.pass(&failed("PruneFailed"), "b", None), ["Failed PruneFailed"]);
        for verdict in [failed("BuildFailed"), working.clone(), failed("PruneFailed")] {
            assert!(day.pass(&verdict, "b", None).is_empty(), "{verdict:?}");
        }
        assert_eq!(day.pass(&failed("BuildFailed"), "c", None), ["Failed BuildFailed", "Failure"]);
        let recovered = ["Recovered ReconciliationSucceeded", "Applied ReconciliationSucceeded", "Success"];
        assert_eq!(day.pass(&ready(), "d", None), recovered);
        assert!(day.pass(&ready(), "d", None).is_empty());
        for number in 0..100 {
            day.pass(&failed("BuildFailed"), &number.to_string(), None);
        }
        assert_eq!(day.status.notified.unwrap().incidents.len(), REMEMBERED);
    }

    #[test]
    fn what_passes_by_itself_is_told_when_it_stays_and_blames_no_commit() {
        let mut day = Day::new();
        day.pass(&ready(), "a", None);
        for _ in 0..5 {
            assert!(day.pass(&failed("Unreachable"), "a", None).is_empty());
            day.now += SignedDuration::from_secs(50);
            assert!(day.pass(&failed("Unreachable"), "a", None).is_empty());
            assert!(day.pass(&ready(), "a", None).is_empty());
        }
        day.pass(&failed("Unreachable"), "a", None);
        day.now += PATIENCE;
        assert_eq!(day.pass(&failed("Unreachable"), "a", None), ["Failed Unreachable"]);
        assert_eq!(day.pass(&ready(), "a", None), ["Recovered ReconciliationSucceeded"]);
    }

    #[test]
    fn waiting_is_no_failure_and_its_end_no_recovery() {
        let mut day = Day::new();
        assert_eq!(day.pass(&waiting("ApprovalRequired"), "a", None), ["Waiting ApprovalRequired", "Pending"]);
        assert!(day.pass(&waiting("ApprovalRequired"), "a", None).is_empty());
        assert_eq!(day.pass(&ready(), "a", None), ["Applied ReconciliationSucceeded", "Success"]);
        assert_eq!(day.pass(&waiting("ApprovalRequired"), "b", None), ["Waiting ApprovalRequired", "Pending"]);
    }

    #[test]
    fn drift_is_told_and_the_same_again_only_later() {
        let mut day = Day::new();
        day.pass(&ready(), "a", None);
        assert_eq!(day.pass(&ready(), "a", Some("x")), ["Drift Drift"]);
        assert!(day.pass(&ready(), "a", Some("x")).is_empty());
        assert_eq!(day.pass(&ready(), "a", Some("y")), ["Drift Drift"]);
        day.now += AGAIN;
        assert_eq!(day.pass(&ready(), "a", Some("y")), ["Drift Drift"]);
    }

    #[test]
    fn what_was_applied_is_told_with_its_author_and_counts() {
        let mut day = Day::new();
        let mut entry = HistoryEntry::new("a".to_owned(), String::new(), Time(day.now));
        (entry.author, entry.subject) = (Some("Ada".to_owned()), Some("web".to_owned()));
        entry.counts = Some(crds::sync::history::Counts { created: 2, ..Default::default() });
        day.status.history = vec![entry];
        let all = day.all(&ready(), "a", None);
        assert_eq!(all[0].message, "ok: 2 created, 0 changed, 0 deleted, 0 unchanged; Ada: web");
    }

    #[test]
    fn each_receiver_gets_what_it_asked_for() {
        use Occasion::{Applied, Drift, Failed, Recovered};
        let mut day = Day::new();
        day.pass(&failed("BuildFailed"), "a", None);
        let all = day.all(&ready(), "b", Some("x"));
        let of = |kind, events: &[Occasion]| -> Vec<What> {
            let notify = Notify { kind, events: events.to_vec(), ..Notify::default() };
            wanted(&notify, &all).into_iter().map(|news| news.what).collect()
        };
        assert_eq!(of(NotifyKind::Slack, &[Failed, Recovered, Applied]), [What::Event(Recovered)]);
        assert_eq!(of(NotifyKind::Webhook, &[Applied, Drift]), [What::Event(Applied), What::Event(Drift)]);
        assert_eq!(of(NotifyKind::GitHub, &[Failed, Recovered]), [What::Commit(State::Success)]);
    }
}
