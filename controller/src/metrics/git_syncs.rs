//! How each GitSync fares, as a scraper reads it. Told of those alone that the watch shows, so that a series goes with
//! its object; and by the one replica that leads. Pure: the clock is an argument.

use std::{collections::HashMap, sync::Arc};

use crds::{
    GitSync,
    sync::state::{State, state},
};
use jiff::Timestamp;
use kube::{
    Resource as _,
    core::DeserializeGuard,
    runtime::reflector::{ObjectRef, Store},
};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use super::book::Book;

/// Namespace and name.
type Key = (String, String);
type Guarded = DeserializeGuard<GitSync>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameAndState {
    namespace: String,
    name: String,
    state: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct From {
    from: &'static str,
}

/// What this process did for one.
#[derive(Debug, Default)]
struct Record {
    /// When Git was last asked.
    asked: Option<Timestamp>,
    /// Objects put back.
    corrected: u64,
    /// The newest revision.
    revision: String,
    /// When it was first seen, until it is applied; and when it was committed.
    under_way: Option<(Timestamp, Option<Timestamp>)>,
}

/// Cloning shares it.
#[derive(Clone, Debug)]
pub struct GitSyncs {
    watched: Arc<Mutex<Option<Store<Guarded>>>>,
    records: Arc<Mutex<HashMap<Key, Record>>>,
    latencies: Family<From, Histogram>,
}

impl Default for GitSyncs {
    fn default() -> Self {
        let buckets = || Histogram::new([1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]);
        Self { watched: Arc::default(), records: Arc::default(), latencies: Family::new_with_constructor(buckets) }
    }
}

impl GitSyncs {
    /// From now on those are told of.
    pub fn follow(&self, store: Store<Guarded>) {
        *self.watched.lock() = Some(store);
    }

    /// None is followed any more.
    pub fn forget(&self) {
        *self.watched.lock() = None;
        self.records.lock().clear();
    }

    /// Git was asked, whatever came of it.
    pub fn asked(&self, key: &Key, now: Timestamp) {
        self.records.lock().entry(key.clone()).or_default().asked = Some(now);
    }

    /// So many objects were put back.
    pub fn corrected(&self, key: &Key, objects: usize) {
        let objects = u64::try_from(objects).unwrap_or(u64::MAX);
        let mut records = self.records.lock();
        let record = records.entry(key.clone()).or_default();
        record.corrected = record.corrected.saturating_add(objects);
    }

    /// The newest revision. One that was applied before this process began is nobody's latency.
    pub fn saw(&self, key: &Key, revision: &str, is_applied: bool, now: Timestamp) {
        let mut records = self.records.lock();
        let record = records.entry(key.clone()).or_default();
        if record.revision != revision {
            revision.clone_into(&mut record.revision);
            record.under_way = (!is_applied).then_some((now, None));
        }
    }

    /// When the newest revision was committed.
    pub fn dated(&self, key: &Key, committed: Timestamp) {
        if let Some(Record { under_way: Some((_, when)), .. }) = self.records.lock().get_mut(key) {
            *when = Some(committed);
        }
    }

    /// A revision was applied whole. What the `first` of a GitSync holds may be years old.
    pub fn applied(&self, key: &Key, revision: &str, first: bool, now: Timestamp) {
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(key).filter(|record| record.revision == revision) else { return };
        let Some((seen, committed)) = record.under_way.take() else { return };
        let observe = |from, since: Timestamp| {
            let took = since.duration_until(now).as_secs_f64();
            self.latencies.get_or_create(&From { from }).observe(took.max(0.0));
        };
        observe("seen", seen);
        if let Some(committed) = committed.filter(|_| !first) {
            observe("commit", committed);
        }
    }

    /// `started` is the start of the process.
    pub(super) fn register(&self, book: &mut Book<'_>, started: Timestamp) {
        let help = "How each GitSync fares, as seal sync says it: 1 with the state that it is in (unreadable, stalled, failed, degraded, waiting, planned, drifted, deleting, progressing, suspended, well)";
        let states = Family::<NameAndState, Gauge>::default();
        let (asked, intervals) = (Family::<Name, Gauge>::default(), Family::<Name, Gauge>::default());
        let corrected = Family::<Name, Counter>::default();
        let all = self.watched.lock().as_ref().map(Store::state).unwrap_or_default();
        let mut records = self.records.lock();
        records.retain(|key, _| all.iter().any(|guarded| key_of(guarded) == *key));
        for guarded in &all {
            let key = key_of(guarded);
            let (namespace, name) = key.clone();
            let of = guarded.0.as_ref().map_or(State::Unreadable, |sync| state(sync).0);
            states.get_or_create(&NameAndState { namespace, name, state: of.into() }).set(1);
            let Ok(sync) = &guarded.0 else { continue };
            let labels = Name { namespace: key.0.clone(), name: key.1.clone() };
            let record = records.get(&key);
            corrected.get_or_create(&labels).inc_by(record.map_or(0, |record| record.corrected));
            let Ok(interval) = sync.spec.interval() else { continue };
            // Nobody asks for one whose spec is wrong.
            let is_looked_after = !sync.spec.suspend && of != State::Stalled;
            if is_looked_after && sync.metadata.deletion_timestamp.is_none() {
                let born = sync.metadata.creation_timestamp.as_ref().map_or(started, |born| born.0.max(started));
                let last = record.and_then(|record| record.asked).unwrap_or(born);
                asked.get_or_create(&labels).set(last.as_second());
                intervals.get_or_create(&labels).set(interval.as_secs());
            }
        }
        drop(records);
        book.family("git_sync_state", help, states);
        let help =
            "When Git was last asked for a GitSync, whatever came of it; not of one that is suspended or stalled";
        book.family("git_sync_last_fetch_timestamp_seconds", help, asked);
        book.family("git_sync_interval_seconds", "How often Git is to be asked: spec.interval", intervals);
        book.family("git_sync_drift_corrections", "Objects that others had changed and that were put back", corrected);
        let help = "From a commit to all of it being applied: from when the controller first saw it (seen), and from its own date (commit; not for the first one of a GitSync)";
        book.family("git_sync_commit_to_applied_seconds", help, self.latencies.clone());
    }
}

fn key_of(guarded: &Guarded) -> Key {
    let at = ObjectRef::from_obj(guarded);
    (guarded.meta().namespace.clone().unwrap_or_default(), at.name)
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};
    use prometheus_client::registry::Registry;
    use serde_json::{Value, json};

    use super::*;
    use crate::metrics::exposition::{Format, render};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key() -> Key {
        ("shop".to_owned(), "web".to_owned())
    }

    fn sync(spec: &Value, conditions: &Value) -> Guarded {
        let mut whole = json!({
            "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync",
            "metadata": {"name": "web", "namespace": "shop", "generation": 1, "creationTimestamp": "1970-01-01T00:01:00Z"},
            "spec": {"source": {"url": "https://git.example.com/shop.git"}}, "status": {"conditions": conditions},
        });
        whole["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn failed() -> Value {
        json!([{"type": "Ready", "status": "False", "reason": "BuildFailed", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    fn told(syncs: &GitSyncs) -> String {
        let mut registry = Registry::default();
        syncs.register(&mut Book::new(&mut registry, false), at(0));
        let text = render(&registry, Format::Plain).unwrap();
        text.replace("sealed_secrets_controller_git_sync_", "")
    }

    #[test]
    fn a_series_goes_with_its_git_sync_and_with_its_state() {
        let (store, mut writer) = reflector::store();
        let syncs = GitSyncs::default();
        syncs.follow(store);
        assert!(!told(&syncs).contains("shop"));
        writer.apply_watcher_event(&Event::Apply(sync(&json!({}), &failed())));
        syncs.corrected(&key(), 2);
        let text = told(&syncs);
        for line in [
            r#"state{namespace="shop",name="web",state="failed"} 1"#,
            r#"drift_corrections_total{namespace="shop",name="web"} 2"#,
            r#"interval_seconds{namespace="shop",name="web"} 60"#,
            r#"last_fetch_timestamp_seconds{namespace="shop",name="web"} 60"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        syncs.asked(&key(), at(90));
        assert!(told(&syncs).contains(r#"last_fetch_timestamp_seconds{namespace="shop",name="web"} 90"#));

        writer.apply_watcher_event(&Event::Apply(sync(&json!({"suspend": true}), &failed())));
        let text = told(&syncs);
        assert!(text.contains(r#"state="suspended"} 1"#) && !text.contains("state=\"failed\""), "{text}");
        assert!(!text.contains("last_fetch_timestamp_seconds{"), "nobody asks: {text}");
        let stalled = json!([{"type": "Stalled", "status": "True", "reason": "InvalidSpec", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        writer.apply_watcher_event(&Event::Apply(sync(&json!({}), &stalled)));
        let text = told(&syncs);
        assert!(text.contains(r#"state="stalled"} 1"#) && !text.contains("last_fetch_timestamp_seconds{"), "{text}");
        writer.apply_watcher_event(&Event::Apply(sync(&json!({"prune": "perhaps"}), &failed())));
        assert!(told(&syncs).contains(r#"state="unreadable"} 1"#));

        let gone = sync(&json!({}), &failed());
        writer.apply_watcher_event(&Event::Delete(gone.clone()));
        assert!(!told(&syncs).contains("shop"));
        writer.apply_watcher_event(&Event::Apply(gone));
        assert!(told(&syncs).contains(r#"drift_corrections_total{namespace="shop",name="web"} 0"#), "it has no past");
        syncs.forget();
        assert!(!told(&syncs).contains("shop"), "another replica leads");
    }

    #[test]
    fn each_commit_is_timed_once() {
        let syncs = GitSyncs::default();
        let counts = || {
            let text = told(&syncs);
            let line = |start: &str| text.lines().find_map(|line| Some(line.strip_prefix(start)?.to_owned()));
            ["seen", "commit"].map(|from| {
                ["sum", "count"].map(|of| line(&format!("commit_to_applied_seconds_{of}{{from=\"{from}\"}} ")))
            })
        };
        let some = |sum: &str, count: &str| [Some(sum.to_owned()), Some(count.to_owned())];
        syncs.saw(&key(), "main@sha1:a", true, at(1));
        syncs.applied(&key(), "main@sha1:a", false, at(2));
        assert_eq!(counts(), [[None, None], [None, None]], "it was there before");
        syncs.saw(&key(), "main@sha1:b", false, at(10));
        syncs.dated(&key(), at(5));
        syncs.saw(&key(), "main@sha1:b", false, at(12));
        syncs.applied(&key(), "main@sha1:a", false, at(12));
        syncs.applied(&key(), "main@sha1:b", false, at(13));
        syncs.applied(&key(), "main@sha1:b", false, at(99));
        assert_eq!(counts(), [some("3.0", "1"), some("8.0", "1")]);
        syncs.saw(&key(), "main@sha1:c", false, at(20));
        syncs.dated(&key(), at(1));
        syncs.applied(&key(), "main@sha1:c", true, at(21));
        assert_eq!(counts(), [some("4.0", "2"), some("8.0", "1")], "the first one may be years old");
    }
}
