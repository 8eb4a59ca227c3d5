//! Whatever happens to the keys of a cluster, in whatever order: what was sealed opens, until an operator gives its key
//! up himself.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    Fingerprint,
    key_life::{Asked, Key, Keys, Mark, Policy, Rotation, State, Validity},
};
use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, sample::Index};

const POLICY: Policy = Policy { period: SignedDuration::from_hours(720), cutoff: None, first: true };
const HOUR: i64 = 3600;
const LIFETIME: i64 = 87600 * HOUR;

#[derive(Clone, Debug)]
enum Step {
    /// The clock moves, forwards as a rule.
    Clock(i64),
    /// `seal keys rotate`.
    Rotate,
    /// SIGUSR1 to a replica.
    Signal(usize),
    /// A replica looks at the keys, and makes one if one is due.
    Look(usize),
    /// A replica goes one step of that, and may be overtaken by the other.
    Go(usize),
    /// A replica dies and starts anew.
    Crash(usize),
    /// An operator brings a key of his own: so many hours from now, for so many.
    Bring(i64, i64),
    Mark(Index, Mark),
    Delete(Index),
    /// Something else takes the place of a key, under its name.
    Spoil(Index),
    Backup,
    Restore,
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    let mark = prop::sample::select(vec![Mark::Active, Mark::Exposed, Mark::Compromised, Mark::Retired]);
    prop_oneof![
        3 => (0..2000_i64).prop_map(Step::Clock),
        1 => (-100_000..100_000_i64).prop_map(Step::Clock),
        2 => Just(Step::Rotate),
        1 => (0..2_usize).prop_map(Step::Signal),
        4 => (0..2_usize).prop_map(Step::Look),
        12 => (0..2_usize).prop_map(Step::Go),
        1 => (0..2_usize).prop_map(Step::Crash),
        1 => (-20_000..20_000_i64, 24..100_000_i64).prop_map(|(from, hours)| Step::Bring(from, hours)),
        2 => (any::<Index>(), mark).prop_map(|(index, mark)| Step::Mark(index, mark)),
        1 => any::<Index>().prop_map(Step::Delete),
        1 => any::<Index>().prop_map(Step::Spoil),
        1 => Just(Step::Backup),
        1 => Just(Step::Restore),
        4 => Just(Step::Seal),
    ]
}

/// How far a replica has come that makes a key.
#[derive(Clone, Debug, Default)]
enum Making {
    #[default]
    Nothing,
    /// It has a key that begins then, in the place of the newest one.
    Ready(Asked, Timestamp),
    /// It knows the name that was agreed on, and since when.
    Named(Asked, Timestamp, u32),
    /// It has looked once more, and a key was due.
    Sure(Asked, Timestamp, u32),
    /// The name is taken.
    Used(Asked, Timestamp, u32, bool),
}

#[derive(Debug, Default)]
struct World {
    now: Timestamp,
    store: BTreeMap<String, Key>,
    /// Names of Secrets that are no keys.
    taken: BTreeSet<String>,
    backup: BTreeMap<String, Key>,
    asked: [Option<Asked>; 2],
    making: [Making; 2],
    /// The agreed name of the next key, as a number.
    next: u32,
    /// Names that were given once.
    given: BTreeSet<String>,
    /// How often keys were restored; and how often when each replica learnt the name.
    restored: u32,
    known: [u32; 2],
    /// Keys by the one in whose place they were made.
    followers: Vec<(Asked, Fingerprint)>,
    made: u32,
    sealed: BTreeSet<Fingerprint>,
    /// Keys that an operator took away or closed, and did not give back.
    given_up: BTreeSet<Fingerprint>,
}

impl World {
    fn keys(&self) -> Keys {
        self.store.values().cloned().collect()
    }

    fn due(&self, replica: usize) -> bool {
        self.keys().due(POLICY, self.asked[replica].as_ref(), self.now) == Rotation::Mint
    }

    /// What the API server does: a name is given once.
    fn create(&mut self, name: &str, not_before: Timestamp, hours: i64) -> bool {
        if self.store.contains_key(name) || self.taken.contains(name) {
            return false;
        }
        self.made += 1;
        let key = Key {
            name: name.to_owned(),
            fingerprint: fingerprint(self.made),
            mark: Mark::Active,
            born: not_before,
            made: not_before,
            not_before,
            not_after: not_before + SignedDuration::from_hours(hours),
            replace: false,
        };
        self.store.insert(name.to_owned(), key);
        true
    }

    /// One step of what a replica does, as the controller does it. False when it has come to an end.
    fn go(&mut self, replica: usize) -> bool {
        self.making[replica] = match std::mem::take(&mut self.making[replica]) {
            Making::Nothing if self.due(replica) => {
                let keys = self.keys();
                Making::Ready(keys.ask(), keys.valid_from(self.now))
            }
            Making::Ready(before, from) => {
                self.known[replica] = self.restored;
                Making::Named(before, from, self.next)
            }
            Making::Named(before, from, name) if self.keys().ask() == before && self.due(replica) => {
                Making::Sure(before, from, name)
            }
            Making::Sure(before, from, name) => {
                let secret = format!("key-{name}");
                let created = self.create(&secret, from, LIFETIME / HOUR);
                if created && self.given.insert(secret) && self.known[replica] == self.restored {
                    self.follow(&before);
                }
                Making::Used(before, from, name, created)
            }
            Making::Used(before, from, name, created) => {
                // Only who knows the present name may change it.
                self.next += u32::from(self.next == name);
                if created { Making::Nothing } else { Making::Ready(before, from) }
            }
            Making::Nothing | Making::Named(..) => Making::Nothing,
        };
        if !self.due(replica) {
            self.asked[replica] = None;
        }
        !matches!(self.making[replica], Making::Nothing)
    }

    /// In the place of one key at most one other is made, as long as that is there. Not so for who deletes or restores
    /// a key in the very moment in which two replicas make one: its name is free again, or it was not there to be seen.
    fn follow(&mut self, before: &Asked) {
        for (other, follower) in &self.followers {
            let there = self.store.values().any(|key| key.fingerprint == *follower);
            assert!(other != before || !there, "two keys in the place of one");
        }
        self.followers.push((before.clone(), fingerprint(self.made)));
    }

    fn look(&mut self, replica: usize) {
        while self.go(replica) {}
        while self.due(replica) {
            while self.go(replica) {}
        }
    }

    fn chosen(&self, index: Index) -> Option<String> {
        let names: Vec<String> = self.store.keys().cloned().collect();
        (!names.is_empty()).then(|| index.get(&names).clone())
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Clock(hours) => {
                let now = self.now + SignedDuration::from_hours(hours);
                self.now = now.max(Timestamp::UNIX_EPOCH);
            }
            Step::Rotate => {
                let newest = self.keys().newest().map(|key| key.name.clone());
                if let Some(key) = newest.and_then(|name| self.store.get_mut(&name)) {
                    key.replace = true;
                }
            }
            Step::Signal(replica) => self.asked[replica] = Some(self.keys().ask()),
            Step::Look(replica) => self.look(replica),
            Step::Go(replica) => {
                self.go(replica);
            }
            Step::Crash(replica) => (self.asked[replica], self.making[replica]) = (None, Making::Nothing),
            Step::Bring(from, hours) => {
                let from = self.now + SignedDuration::from_hours(from);
                self.create(&format!("own-{}", self.made), from.max(Timestamp::UNIX_EPOCH), hours);
            }
            Step::Mark(index, mark) => {
                if let Some(key) = self.chosen(index).and_then(|name| self.store.get_mut(&name)) {
                    key.mark = mark;
                    let fingerprint = key.fingerprint.clone();
                    if mark.opens() {
                        self.given_up.remove(&fingerprint)
                    } else {
                        self.given_up.insert(fingerprint)
                    };
                }
            }
            Step::Delete(index) => {
                let gone = self.chosen(index).and_then(|name| self.store.remove(&name));
                self.given_up.extend(gone.map(|key| key.fingerprint));
            }
            Step::Spoil(index) => {
                let gone = self.chosen(index).and_then(|name| self.store.remove(&name));
                self.taken.extend(gone.iter().map(|key| key.name.clone()));
                self.given_up.extend(gone.map(|key| key.fingerprint));
            }
            Step::Backup => self.backup = self.store.clone(),
            Step::Restore => {
                self.restored += 1;
                for (name, key) in self.backup.clone() {
                    if self.store.contains_key(&name) || self.taken.contains(&name) {
                        continue;
                    }
                    if key.mark.opens() {
                        self.given_up.remove(&key.fingerprint);
                    }
                    self.store.insert(name, key);
                }
            }
            Step::Seal => {
                if let Some(served) = self.served() {
                    assert_eq!(served.mark, Mark::Active);
                    self.sealed.insert(served.fingerprint);
                }
            }
        }
    }

    /// The key whose certificate is served.
    fn served(&self) -> Option<Key> {
        self.keys().sealing().filter(|key| key.validity(self.now).0 != Validity::Expired).cloned()
    }

    fn check(&self) {
        let opens: BTreeSet<_> =
            self.store.values().filter(|key| key.mark.opens()).map(|key| key.fingerprint.clone()).collect();
        let lost: Vec<_> = self.sealed.difference(&opens).filter(|key| !self.given_up.contains(key)).collect();
        assert_eq!(lost, Vec::<&Fingerprint>::new(), "sealed, not given up, and closed");
        let sealing = self.keys().iter().filter(|(_, state)| *state == State::Sealing).count();
        assert_eq!(sealing, usize::from(self.keys().sealing().is_some()), "one key seals at most");
    }
}

fn fingerprint(number: u32) -> Fingerprint {
    serde_json::from_value(format!("SHA256:{number}").into()).unwrap()
}

/// Both replicas go on in turns until neither has anything to do.
fn race(world: &mut World) {
    while [0, 1].map(|replica| world.go(replica)).contains(&true) {}
}

proptest! {
    #[test]
    fn nothing_that_happens_loses_what_was_sealed(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::default();
        for step in steps {
            world.take(&step);
            world.check();
        }
        // Whatever it was: when a replica has looked, there is a valid certificate, and nothing more to be made.
        world.look(0);
        world.look(1);
        world.check();
        let made = world.made;
        prop_assert!(world.served().is_some());
        prop_assert_eq!(world.keys().newest().map(|key| key.name.clone()), world.served().map(|key| key.name));
        world.take(&Step::Crash(1));
        race(&mut world);
        prop_assert_eq!(world.made, made);
        // And whoever asks for another key gets one.
        world.take(&Step::Rotate);
        race(&mut world);
        prop_assert_eq!(world.made, made + 1);
        world.check();
    }
}
