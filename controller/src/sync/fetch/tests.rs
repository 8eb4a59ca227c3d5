use crds::git_sync::GitSyncSpec;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn sync() -> GitSync {
    GitSync::new("app", GitSyncSpec::default())
}

fn failed() -> Outcome {
    let source = CallError::Timeout(Duration::from_secs(30));
    Err(alone(FetchError::ReadSecret { name: "git".to_owned(), field: "source.secretRef", source }))
}

fn brought(began: Instant) -> Brought {
    let tip = Tip::from_revision("main@sha1:0123456789012345678901234567890123456789").unwrap();
    Brought { fetched: Fetched { tip, began, fallback: None }, signed: None, unbrought: None }
}

#[test]
fn an_accounts_token_is_told_from_others() {
    let of = |kind: &str| Secret { type_: Some(kind.to_owned()), ..Secret::default() };
    assert!(is_account_token(&of("kubernetes.io/service-account-token")));
    assert!(!is_account_token(&of("Opaque")) && !is_account_token(&Secret::default()));
}

#[test]
fn a_failure_is_tried_again_sooner_than_the_interval_but_never_later() {
    let now = Instant::now();
    let mut fetching = Fetching::default();
    assert!(fetching.is_due(&sync(), now));
    fetching.done(fetching.asked_by(&sync()), failed(), MINUTE, now);
    assert_eq!(fetching.wait(&sync(), now), backoff::after(1));
    assert!(!fetching.is_due(&sync(), now) && fetching.is_due(&sync(), now + MINUTE));
    for _ in 0..20 {
        fetching.done(fetching.asked_by(&sync()), failed(), MINUTE, now);
    }
    assert_eq!(fetching.wait(&sync(), now), MINUTE);
    assert_eq!(fetching.error.unwrap().reason, "AuthenticationFailed");
}

#[test]
fn a_request_or_another_source_or_interval_does_not_wait() {
    let now = Instant::now();
    let mut fetching = Fetching::default();
    fetching.done(fetching.asked_by(&sync()), failed(), MINUTE, now);
    let mut asked = sync();
    asked.annotations_mut().insert(RECONCILE_REQUESTED.to_owned(), "now".to_owned());
    assert!(fetching.is_due(&asked, now));
    let mut moved = sync();
    moved.spec.source.url = "https://example.com/other.git".to_owned();
    assert!(fetching.is_due(&moved, now));
    let mut hurried = sync();
    hurried.spec.interval = "1s".to_owned();
    assert!(fetching.is_due(&hurried, now));
}

#[test]
fn a_request_is_served_by_the_fetch_that_was_made_for_it() {
    let now = Instant::now();
    let mut fetching = Fetching::default();
    let mut asked = sync();
    assert!(!fetching.knows(&asked.spec.source) && fetching.request(&asked).is_none());
    let earlier = fetching.order(&asked, MINUTE, now, Timestamp::UNIX_EPOCH);
    asked.annotations_mut().insert(RECONCILE_REQUESTED.to_owned(), "now".to_owned());
    fetching.done(earlier.asked, Ok(brought(now)), MINUTE, now);
    assert!(fetching.is_due(&asked, now), "what was under way by then may not have seen what it is about");
    assert_eq!((fetching.handled(), fetching.request(&asked)), (None, Some("now")));
    let order = fetching.order(&asked, MINUTE, now, Timestamp::UNIX_EPOCH);
    fetching.done(order.asked, failed(), MINUTE, now);
    assert_eq!((fetching.handled(), fetching.request(&asked)), (Some("now"), None));
    assert!(fetching.knows(&asked.spec.source));
    asked.spec.source.url = "https://example.com/other.git".to_owned();
    assert!(!fetching.knows(&asked.spec.source));
}

#[test]
fn what_a_rendering_lacks_is_asked_for_once_and_then_with_each_interval() {
    let (then, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let now = then + MINUTE;
    let mut fetching = Fetching::default();
    let Brought { fetched: Fetched { tip, .. }, .. } = brought(now);
    let cause = |reason| Some(Cause { reason, message: String::new() });
    fetching.done(fetching.asked_by(&sync()), Ok(brought(now)), MINUTE, now);
    assert_eq!(fetching.lacks(&tip.commit, cause("PathNotFound")), cause("PathNotFound"));
    assert!(!fetching.wants() && !fetching.is_due(&sync(), now), "no fetch would help");

    fetching.lacks(&tip.commit, cause("CommitNotFound"));
    assert!(fetching.wants() && fetching.is_due(&sync(), now));
    let order = fetching.order(&sync(), MINUTE, now, clock);
    assert_eq!(order.since, now, "an answer that others got brought nothing");
    let unbrought = cause("ReferenceNotFound");
    fetching.done(order.asked, Ok(Brought { unbrought: unbrought.clone(), ..brought(now) }), MINUTE, now);
    assert_eq!(fetching.lacks(&tip.commit, cause("CommitNotFound")), unbrought);
    assert!(!fetching.wants() && !fetching.is_due(&sync(), now) && fetching.is_due(&sync(), now + MINUTE));

    assert_eq!(fetching.lacks(&tip.commit, None), None);
    assert!(!fetching.is_due(&sync(), now), "it was found");
    fetching.lacks(&tip.commit, cause("MirrorDamaged"));
    assert!(fetching.wants(), "and lost again");
}

#[test]
fn answers_are_shared_but_nobody_is_told_older_news_than_the_interval_or_the_request() {
    let (then, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let now = then + MINUTE;
    let mut fetching = Fetching::default();
    let mut born = sync();
    born.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(clock));
    assert_eq!(fetching.since(&born, MINUTE, now, clock), now, "what is new may be about what is newer");
    let later = clock + jiff::SignedDuration::from_hours(1);
    assert_eq!(fetching.since(&born, MINUTE, now, later), then, "as after a restart");

    // An answer of another's, 20 s old: the next question is due when its interval is over.
    fetching.done(fetching.asked_by(&born), Ok(brought(then + MINUTE * 2 / 3)), MINUTE, now);
    assert_eq!(fetching.wait(&born, now), MINUTE * 2 / 3);
    assert_eq!(fetching.since(&born, MINUTE, now, later), then);
    born.annotations_mut().insert(RECONCILE_REQUESTED.to_owned(), "now".to_owned());
    assert_eq!(fetching.since(&born, MINUTE, now, later), now);
}
