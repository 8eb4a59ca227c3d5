//! The objects of a GitSync that others keep changing: when to stop healing them for a while, and when to try again. Pure:
//! the clock is an argument.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{drift::Drift, object::ObjectId};
use crate::fight::Fight;

/// Objects that were healed lately, and who had changed them.
#[derive(Debug, Default)]
pub struct Fights(HashMap<ObjectId, (Option<String>, Fight)>);

impl Fights {
    /// These were healed. Answers those of which it has just become clear that it is a fight.
    pub fn healed<'a>(&mut self, drifts: &'a [Drift], now: Instant) -> Vec<&'a Drift> {
        self.0.retain(|_, (_, fight)| !fight.is_over(now));
        let again = |drift: &&'a Drift| {
            let by = drift.by();
            match self.0.get_mut(&drift.id) {
                Some((before, fight)) if before.as_deref() == by => fight.again(now),
                _ => {
                    self.0.insert(drift.id.clone(), (by.map(str::to_owned), Fight::new(now)));
                    false
                }
            }
        };
        drifts.iter().filter(again).collect()
    }

    /// Git asks for something else: a new beginning.
    pub fn forget(&mut self, id: &ObjectId) {
        self.0.remove(id);
    }

    /// Those that are left alone now.
    pub fn resting(&self, now: Instant) -> HashSet<ObjectId> {
        self.0.iter().filter(|(_, (_, fight))| fight.left(now).is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// How long until the first of them may be healed again.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.0.values().filter_map(|(_, fight)| fight.left(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::drift::{Change, What};
    use super::*;
    use crate::fight::{LONGEST, QUIET, ROUNDS};

    fn drift(by: &str) -> Drift {
        let id = ObjectId { namespace: "ns".into(), name: "a".into(), group: String::new(), kind: "ConfigMap".into() };
        Drift { id, what: What::Changed(vec![Change { by: Some(by.to_owned()), field: ".data.a".into() }]) }
    }

    #[test]
    fn a_fight_is_told_once_and_backed_off_until_it_is_quiet() {
        let (mut fights, drifts) = (Fights::default(), [drift("other")]);
        let mut now = Instant::now();
        let mut told = 0;
        let mut rests = Vec::new();
        for _ in 0..12 {
            told += fights.healed(&drifts, now).len();
            let rest = fights.wait(now).unwrap_or_default();
            assert_eq!(fights.resting(now).len(), usize::from(!rest.is_zero()));
            assert!(fights.resting(now + rest).is_empty());
            rests.push(rest.as_secs());
            now += rest + Duration::from_millis(100);
        }
        assert_eq!(told, 1);
        assert_eq!(rests, [0, 0, 0, 0, 15, 30, 60, 120, 240, 480, 600, 600]);
        // It held: the next change is drift like any other.
        now += LONGEST + QUIET;
        assert!(fights.healed(&drifts, now).is_empty());
        assert_eq!(fights.wait(now), None);
    }

    #[test]
    fn another_hand_or_another_commit_is_no_fight() {
        let (mut fights, now) = (Fights::default(), Instant::now());
        for round in 0..20 {
            let drifts = [drift(if round % 2 == 0 { "one" } else { "two" })];
            assert!(fights.healed(&drifts, now).is_empty());
        }
        for _ in 0..ROUNDS {
            fights.healed(&[drift("one")], now);
        }
        assert_eq!(fights.resting(now).len(), 1);
        fights.forget(&drift("one").id);
        assert!(fights.resting(now).is_empty());
    }

    #[test]
    fn now_and_then_is_no_fight() {
        let (mut fights, mut now) = (Fights::default(), Instant::now());
        for _ in 0..20 {
            assert!(fights.healed(&[drift("other")], now).is_empty());
            now += QUIET;
        }
    }
}
