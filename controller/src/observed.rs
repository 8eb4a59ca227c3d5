//! What a metadata watch has shown of objects, together with what our own writes returned before the watch did.
//!
//! A write's answer is newer than the cache; deciding by the cache alone would do the work a second time. A write is
//! merged in only while the watch has not passed it, so an object that was deleted right after it stays deleted.
//! Pure: fed with events, asked for values.

use std::{collections::HashMap, hash::Hash};

use kube::runtime::watcher::Event;

/// One kind's objects by key. Versions are etcd revisions, which order all objects of a kind.
#[derive(Debug)]
pub struct Observed<K, V> {
    /// With the version of each.
    objects: HashMap<K, (u64, V)>,
    /// While a list is under way: what it has brought so far.
    listing: Option<HashMap<K, (u64, V)>>,
    /// Newest version that the watch has shown.
    newest: u64,
}

impl<K, V> Default for Observed<K, V> {
    fn default() -> Self {
        Self { objects: HashMap::new(), listing: None, newest: 0 }
    }
}

/// An object as the watch brings it: its key, its version, and what is kept of it.
pub type Sighting<K, V> = (K, u64, V);

impl<K: Eq + Hash + Clone, V: Clone> Observed<K, V> {
    /// What is known of an object.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.objects.get(key).map(|(_, value)| value)
    }

    /// All that is known.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.objects.iter().map(|(key, (_, value))| (key, value))
    }

    /// Takes in what the watch shows. True when a list just ended, so that everything is known.
    pub fn on_event(&mut self, event: Event<Sighting<K, V>>) -> bool {
        match event {
            Event::Init => self.listing = Some(HashMap::new()),
            Event::InitApply((key, version, value)) => {
                self.newest = self.newest.max(version);
                self.listing.get_or_insert_default().insert(key, (version, value));
            }
            Event::InitDone => {
                self.objects = self.listing.take().unwrap_or_default();
                return true;
            }
            Event::Apply((key, version, value)) => {
                self.newest = self.newest.max(version);
                if !self.is_past(&key, version) {
                    self.objects.insert(key, (version, value));
                }
            }
            Event::Delete((key, version, _)) => {
                self.newest = self.newest.max(version);
                if !self.is_past(&key, version) {
                    self.objects.remove(&key);
                }
            }
        }
        false
    }

    /// Whether a write of ours is newer: what is told of the object before it, such as that the one before it was
    /// deleted, is no news.
    fn is_past(&self, key: &K, version: u64) -> bool {
        self.objects.get(key).is_some_and(|(known, _)| *known > version)
    }

    /// Takes in what a write of ours returned.
    pub fn wrote(&mut self, (key, version, value): Sighting<K, V>) {
        if version <= self.newest {
            return;
        }
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone(), (version, value.clone()));
        }
        self.objects.insert(key, (version, value));
    }
}

/// An event with something else in it.
pub fn map<A, B>(event: Event<A>, of: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(of(object)),
        Event::Apply(object) => Event::Apply(of(object)),
        Event::Delete(object) => Event::Delete(of(object)),
    }
}

/// A `resourceVersion` as a number; 0 for one that is none, which makes [`Observed::wrote`] leave it to the watch.
pub fn version(resource_version: Option<&str>) -> u64 {
    resource_version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(events: impl IntoIterator<Item = Event<Sighting<char, u64>>>) -> Observed<char, u64> {
        let mut observed = Observed::default();
        for event in events {
            observed.on_event(event);
        }
        observed
    }

    #[test]
    fn a_write_counts_until_the_watch_passes_it() {
        let mut observed = seen([Event::Init, Event::InitDone]);
        observed.wrote(('a', 5, 5));
        assert_eq!(observed.get(&'a'), Some(&5));
        observed.on_event(Event::Apply(('a', 6, 6)));
        observed.wrote(('a', 5, 5));
        assert_eq!(observed.get(&'a'), Some(&6), "an answer that came late");
    }

    #[test]
    fn what_was_deleted_stays_deleted() {
        let mut observed = seen([Event::Init, Event::InitDone, Event::Apply(('a', 5, 5)), Event::Delete(('a', 7, 5))]);
        observed.wrote(('a', 6, 6));
        assert_eq!(observed.get(&'a'), None);
    }

    #[test]
    fn what_was_made_anew_does_not_go_with_what_was_deleted() {
        let mut observed = seen([Event::Init, Event::InitDone, Event::Apply(('a', 5, 5))]);
        observed.wrote(('a', 8, 8));
        observed.on_event(Event::Apply(('a', 6, 6)));
        observed.on_event(Event::Delete(('a', 7, 6)));
        assert_eq!(observed.get(&'a'), Some(&8));
        observed.on_event(Event::Delete(('a', 9, 8)));
        assert_eq!(observed.get(&'a'), None);
    }

    #[test]
    fn a_new_list_replaces_all_but_newer_writes() {
        let mut observed = seen([Event::Init, Event::InitApply(('a', 1, 1)), Event::InitDone]);
        assert!(!observed.on_event(Event::Init));
        observed.on_event(Event::InitApply(('b', 2, 2)));
        assert_eq!(observed.get(&'a'), Some(&1), "known until the list is whole");
        observed.wrote(('c', 3, 3));
        assert!(observed.on_event(Event::InitDone));
        assert_eq!(['a', 'b', 'c'].map(|key| observed.get(&key).copied()), [None, Some(2), Some(3)]);
    }

    #[test]
    fn versions_that_are_no_numbers_are_left_to_the_watch() {
        assert_eq!([version(Some("12")), version(Some("x")), version(None)], [12, 0, 0]);
    }
}
