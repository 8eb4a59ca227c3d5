//! Two who correct each other without end: when to stop healing for a while, and when to try again. Pure: the clock is an
//! argument.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{drift::Drift, object::ObjectId};

/// Healed so often in a row, it is a fight.
const ROUNDS: u32 = 5;
/// What stays as it is for so long is over.
const QUIET: Duration = Duration::from_mins(1);
/// First rest; each one after it is twice as long.
const REST: Duration = Duration::from_secs(15);
/// Longest rest.
const LONGEST: Duration = Duration::from_mins(10);

/// Objects that were healed lately.
#[derive(Debug, Default)]
pub struct Fights(HashMap<ObjectId, Fight>);

#[derive(Debug)]
struct Fight {
    by: Option<String>,
    rounds: u32,
    last: Instant,
}

impl Fight {
    /// How long it is left alone.
    fn rest(&self) -> Duration {
        match self.rounds.checked_sub(ROUNDS) {
            Some(over) => REST.saturating_mul(2_u32.saturating_pow(over)).min(LONGEST),
            None => Duration::ZERO,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= self.rest() + QUIET
    }
}

impl Fights {
    /// These were healed. Answers those of which it has just become clear that it is a fight.
    pub fn healed<'a>(&mut self, drifts: &'a [Drift], now: Instant) -> Vec<&'a Drift> {
        self.0.retain(|_, fight| !fight.is_over(now));
        let again = |drift: &&'a Drift| {
            let by = drift.by().map(str::to_owned);
            let fight = self.0.entry(drift.id.clone()).or_insert(Fight { by: by.clone(), rounds: 0, last: now });
            fight.rounds = if fight.by == by { fight.rounds.saturating_add(1) } else { 1 };
            (fight.by, fight.last) = (by, now);
            fight.rounds == ROUNDS
        };
        drifts.iter().filter(again).collect()
    }

    /// Git asks for something else: a new beginning.
    pub fn forget(&mut self, id: &ObjectId) {
        self.0.remove(id);
    }

    /// Those that are left alone now.
    pub fn resting(&self, now: Instant) -> HashSet<ObjectId> {
        let resting = |fight: &Fight| now.saturating_duration_since(fight.last) < fight.rest();
        self.0.iter().filter(|(_, fight)| resting(fight)).map(|(id, _)| id.clone()).collect()
    }

    /// How long until the first of them may be healed again.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let left = |fight: &Fight| fight.rest().checked_sub(now.saturating_duration_since(fight.last));
        self.0.values().filter_map(left).filter(|left| !left.is_zero()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::drift::{Change, What};
    use super::*;

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
