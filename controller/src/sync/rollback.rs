//! A rollback is a pin: the revision that somebody names stays until another commit comes than the one that was the newest
//! then. The annotation may stay after that; it has had its effect. Pure.

use crds::git_sync::{GitSyncStatus, HistoryEntry, ROLLBACK, Rollback};

use super::status::Cause;

/// As few characters of a commit name it.
const SHORT: usize = 7;

/// The pin that goes with the annotation: the one that is there, or a new one. `newest` is the newest revision known.
pub fn pin(
    asked: Option<&str>,
    before: Option<Rollback>,
    history: &[HistoryEntry],
    newest: &str,
) -> Result<Option<Rollback>, Cause> {
    let Some(asked) = asked.map(str::trim).filter(|asked| !asked.is_empty()) else { return Ok(None) };
    if let Some(before) = before.filter(|before| before.asked == asked) {
        return Ok(Some(before));
    }
    let is_meant = |entry: &&HistoryEntry| {
        let commit = entry.revision.rsplit_once(':').map_or("", |(_, commit)| commit);
        entry.revision == asked || (asked.len() >= SHORT && commit.starts_with(asked))
    };
    let found = history.iter().find(is_meant).map(|entry| entry.revision.clone()).ok_or_else(|| {
        let known = history.iter().map(|entry| entry.revision.as_str()).collect::<Vec<_>>().join(", ");
        let message =
            format!("the annotation {ROLLBACK} names {asked:?}, which status.history does not hold; it holds: {known}");
        Cause { reason: "RollbackNotFound", message }
    });
    Ok(Some(Rollback { asked: asked.to_owned(), revision: found?, newest: newest.to_owned() }))
}

/// Why it is not gone back, and what to do where the commit is nowhere any more.
pub fn missed(pin: &Rollback, history: &[HistoryEntry], cause: Cause) -> Cause {
    if cause.reason != "ReferenceNotFound" {
        return cause;
    }
    let Rollback { revision, newest, .. } = pin;
    let others = history.iter().map(|entry| &*entry.revision).filter(|other| other != revision).collect::<Vec<_>>();
    let message = format!(
        "cannot go back to {revision}: {}; push that commit again, or let the annotation {ROLLBACK} name another of \
         status.history ({}), or take it off to stay with {newest}",
        cause.message,
        others.join(", ")
    );
    Cause { reason: "RollbackNotFound", message }
}

/// The revision to apply instead of the newest.
pub fn pinned<'a>(pin: Option<&'a Rollback>, newest: &str) -> Option<&'a str> {
    pin.filter(|pin| pin.newest == newest).map(|pin| pin.revision.as_str())
}

/// The pin, while it holds.
pub fn holding(status: &GitSyncStatus) -> Option<&Rollback> {
    let attempted = status.last_attempted_revision.as_deref();
    status.rollback.as_ref().filter(|pin| Some(pin.revision.as_str()) == attempted && pin.revision != pin.newest)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn history() -> Vec<HistoryEntry> {
        let at = Time(Timestamp::UNIX_EPOCH);
        let entry = |revision: &str| HistoryEntry::new(revision.to_owned(), String::new(), at.clone());
        vec![entry("main@sha1:bbbbbbbb2"), entry("main@sha1:aaaaaaaa1")]
    }

    #[test]
    fn it_holds_until_another_commit_comes() {
        let bad = "main@sha1:bbbbbbbb2";
        for asked in ["main@sha1:aaaaaaaa1", "aaaaaaaa1", " aaaaaaa"] {
            let found = pin(Some(asked), None, &history(), bad).unwrap();
            assert_eq!(pinned(found.as_ref(), bad), Some("main@sha1:aaaaaaaa1"), "{asked}");
            assert_eq!(pinned(found.as_ref(), "main@sha1:c"), None);
            // The annotation is still there: no new pin is made of it, but the bad commit stays skipped.
            let later = pin(Some(asked), found.clone(), &[], "main@sha1:c").unwrap();
            assert_eq!(later, found);
            assert_eq!(pinned(later.as_ref(), bad), Some("main@sha1:aaaaaaaa1"));
        }
        assert_eq!(pin(None, pin(Some("aaaaaaa"), None, &history(), bad).unwrap(), &history(), bad), Ok(None));
    }

    #[test]
    fn what_is_nowhere_is_told_with_what_to_do() {
        let [bad, good] = ["main@sha1:bbbbbbbb2", "main@sha1:aaaaaaaa1"];
        let pin = pin(Some("aaaaaaaa1"), None, &history(), bad).unwrap().unwrap();
        let cause = |reason| Cause { reason, message: "why".to_owned() };
        let told = missed(&pin, &history(), cause("ReferenceNotFound"));
        assert_eq!(told.reason, "RollbackNotFound");
        let words = [format!("cannot go back to {good}: why"), format!("({bad})"), format!("to stay with {bad}")];
        assert!(words.iter().all(|words| told.message.contains(words)), "{told:?}");
        assert_eq!(missed(&pin, &history(), cause("Unreachable")), cause("Unreachable"), "it may come back");
    }

    #[test]
    fn what_is_not_known_is_told() {
        for asked in ["aaa", "cccccccc", "main"] {
            let cause = pin(Some(asked), None, &history(), "main@sha1:bbbbbbbb2").unwrap_err();
            assert!(cause.message.contains(asked) && cause.message.ends_with("main@sha1:aaaaaaaa1"), "{cause:?}");
        }
    }
}
