//! Who leads. Pure: the clocks are arguments. A lease counts as abandoned when this process has not seen it move for as
//! long as its holder said that it lasts, by the own clock, so no two clocks have to agree.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

use crate::observed::version;

/// A lease that lasts longer leaves the cluster without a leader for too long.
const LONGEST: Duration = Duration::from_mins(5);

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long a lease that does not move is still its holder's.
    pub lease: Duration,
    /// How long a leader that cannot renew it goes on. It counts from the moment before the last renewal, which others
    /// cannot have seen earlier: so it has ended before the lease has, for whoever watches it.
    pub deadline: Duration,
    /// From one renewal, or look, to the next.
    pub retry: Duration,
}

impl Times {
    /// Which two do not go together; the flags are named as they are typed.
    pub fn check(self) -> Result<Self, String> {
        let Self { lease, deadline, retry } = self;
        let flag = |name| format!("--leader-election-{name}");
        let (lease_flag, deadline_flag) = (flag("lease-duration"), flag("renew-deadline"));
        if lease > LONGEST {
            return Err(format!("{lease_flag} ({lease:?}) must be at most {LONGEST:?}"));
        }
        if deadline >= lease {
            return Err(format!(
                "{deadline_flag} ({deadline:?}) must be shorter than {lease_flag} ({lease:?}), so that a leader has \
                 stopped before another may take over"
            ));
        }
        if retry >= deadline {
            return Err(format!(
                "{} ({retry:?}) must be shorter than {deadline_flag} ({deadline:?}), so that there is time to renew",
                flag("retry-period")
            ));
        }
        Ok(self)
    }

    /// How long one call may take: after one that hangs there is time for another.
    pub fn call(self) -> Duration {
        self.deadline / 2
    }

    /// Until when a leader leads that renewed then.
    pub fn end(self, renewed: Instant) -> Instant {
        renewed + self.deadline
    }
}

/// A lease as this process saw it.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Its newest state.
    pub lease: Lease,
    /// Since when it has been just so.
    pub since: Instant,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// There is none: make it, and lead.
    Create(Lease),
    /// Write this over the very lease that was seen; whoever succeeds leads.
    Write(Lease),
    /// Somebody else leads.
    Follow,
}

impl Sighting {
    /// Takes in what the API server shows now.
    pub fn after(before: Option<Self>, lease: Lease, now: Instant) -> Self {
        let unmoved = before.filter(|before| before.lease.spec == lease.spec);
        Self { since: unmoved.map_or(now, |before| before.since), lease }
    }

    /// Whether the API server shows an older lease than this: what it keeps its objects in was restored from a backup.
    pub fn is_undone(&self, now_there: &Lease) -> bool {
        let version = |lease: &Lease| version(lease.metadata.resource_version.as_deref());
        let (before, now) = (version(&self.lease), version(now_there));
        now > 0 && now < before
    }
}

/// Decides for `me`. `named` makes the lease that there is not yet; `wall` is only written down, for people.
pub fn evaluate(
    seen: Option<&Sighting>,
    me: &str,
    named: impl FnOnce() -> Lease,
    times: Times,
    now: Instant,
    wall: Timestamp,
) -> Move {
    let Some(Sighting { lease, since }) = seen else {
        return Move::Create(Lease { spec: Some(held(me, None, times, wall)), ..named() });
    };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    // The holder may have been told other times than we were.
    let lasts = spec.and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok()).map(Duration::from_secs);
    let abandoned = now.saturating_duration_since(*since) >= lasts.unwrap_or(times.lease);
    if holder.is_none_or(|holder| holder == me) || abandoned {
        return Move::Write(Lease { spec: Some(held(me, spec, times, wall)), ..lease.clone() });
    }
    Move::Follow
}

/// Whether a leader whose write met a conflict may try again: the lease that is there now is still its own, so that it met
/// its own earlier write, whose answer came too late; or somebody deleted it, and whoever makes it anew leads. That counts
/// until `end`, as for a renewal that failed.
pub fn still_leads(now_there: Option<&Lease>, me: &str, end: Instant, now: Instant) -> bool {
    now_there.is_none_or(|lease| holder(lease) == Some(me)) && now < end
}

/// The same lease, held by nobody, so that a follower need not wait.
pub fn released(lease: &Lease, wall: Timestamp) -> Lease {
    let spec = lease.spec.clone().unwrap_or_default();
    let spec = LeaseSpec { holder_identity: None, renew_time: Some(MicroTime(wall)), ..spec };
    Lease { spec: Some(spec), ..lease.clone() }
}

/// Who holds a lease.
pub fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

fn held(me: &str, before: Option<&LeaseSpec>, times: Times, wall: Timestamp) -> LeaseSpec {
    let before = before.cloned().unwrap_or_default();
    let mine = before.holder_identity.as_deref() == Some(me);
    let transitions = before.lease_transitions.unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(times.lease.as_millis().div_ceil(1000)).ok(),
        renew_time: Some(MicroTime(wall)),
        acquire_time: before.acquire_time.clone().filter(|_| mine).or(Some(MicroTime(wall))),
        lease_transitions: Some(transitions.saturating_add(i32::from(!mine))),
        ..before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMES: Times = Times { lease: SECOND.saturating_mul(15), deadline: SECOND.saturating_mul(10), retry: SECOND };

    fn lease(holder: &str, renewed: i64) -> Lease {
        let renewed = Timestamp::from_second(renewed).unwrap();
        let holder_identity = (!holder.is_empty()).then(|| holder.to_owned());
        let spec = LeaseSpec {
            holder_identity,
            renew_time: Some(MicroTime(renewed)),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    fn decided(seen: Option<&Sighting>, now: Instant) -> Move {
        evaluate(seen, "me", Lease::default, TIMES, now, Timestamp::from_second(9).unwrap())
    }

    fn new_holder(decided: Move) -> (String, i32) {
        let (Move::Create(lease) | Move::Write(lease)) = decided else { panic!("{decided:?}") };
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap();
        (holder(&lease).unwrap().to_owned(), transitions)
    }

    #[test]
    fn a_lease_from_before_is_told_from_a_newer_one() {
        let at = |version: &str| {
            let mut lease = lease("me", 1);
            lease.metadata.resource_version = Some(version.to_owned());
            lease
        };
        let seen = Sighting { lease: at("40"), since: Instant::now() };
        assert_eq!(["39", "40", "41", "x"].map(|version| seen.is_undone(&at(version))), [true, false, false, false]);
    }

    #[test]
    fn a_lease_that_is_free_or_mine_is_taken() {
        let now = Instant::now();
        assert_eq!(new_holder(decided(None, now)), ("me".to_owned(), 1));
        for (who, transitions) in [("", 4), ("me", 3)] {
            let seen = Sighting { lease: lease(who, 1), since: now };
            assert_eq!(new_holder(decided(Some(&seen), now)), ("me".to_owned(), transitions), "{who:?}");
        }
        let freed = Sighting { lease: released(&lease("other", 1), Timestamp::UNIX_EPOCH), since: now };
        assert_eq!(new_holder(decided(Some(&freed), now)).0, "me");
    }

    #[test]
    fn the_lease_of_another_is_taken_only_when_it_has_not_moved_for_long() {
        let start = Instant::now();
        let seen = Sighting { lease: lease("other", 1), since: start };
        let later = start + TIMES.lease;
        assert_eq!(decided(Some(&seen), later.checked_sub(SECOND / 100).unwrap()), Move::Follow);
        assert_eq!(new_holder(decided(Some(&seen), later)), ("me".to_owned(), 4));
        // Whatever its own times say: clocks differ.
        let moved = Sighting::after(Some(seen.clone()), lease("other", -100_000), later);
        assert_eq!(decided(Some(&moved), later), Move::Follow);
        let still = Sighting::after(Some(seen), lease("other", 1), later);
        assert_eq!(still.since, start);
    }

    #[test]
    fn a_lease_lasts_as_long_as_its_holder_said() {
        let start = Instant::now();
        let lasting = |seconds| {
            let mut seen = Sighting { lease: lease("other", 1), since: start };
            seen.lease.spec.as_mut().unwrap().lease_duration_seconds = Some(seconds);
            seen
        };
        assert_eq!(decided(Some(&lasting(60)), start + SECOND * 59), Move::Follow);
        for (seconds, passed) in [(60, 60), (4, 4), (-1, 15)] {
            assert_eq!(new_holder(decided(Some(&lasting(seconds)), start + SECOND * passed)).0, "me", "{seconds}");
        }
        let Move::Create(mine) = decided(None, start) else { panic!("there is none") };
        assert_eq!(mine.spec.unwrap().lease_duration_seconds, Some(15));
        let odd = Times { lease: SECOND * 7 / 2, ..TIMES };
        let Move::Create(mine) = evaluate(None, "me", Lease::default, odd, start, Timestamp::UNIX_EPOCH) else {
            panic!("there is none")
        };
        assert_eq!(mine.spec.unwrap().lease_duration_seconds, Some(4), "never less than it is");
    }

    #[test]
    fn a_leader_that_met_its_own_late_write_goes_on_while_it_is_in_time() {
        let start = Instant::now();
        let (mine, others, end) = (lease("me", 2), lease("other", 2), TIMES.end(start));
        assert!(still_leads(Some(&mine), "me", end, start + TIMES.retry + TIMES.call()));
        assert!(!still_leads(Some(&mine), "me", end, end), "another may have taken and lost it meanwhile");
        assert!(!still_leads(Some(&others), "me", end, start));
        assert!(!still_leads(Some(&released(&mine, Timestamp::UNIX_EPOCH)), "me", end, start));
        assert!(still_leads(None, "me", end, start) && !still_leads(None, "me", end, end));
    }

    #[test]
    fn times_that_let_two_lead_are_refused() {
        assert!(TIMES.check().is_ok());
        for (times, told) in [
            (Times { deadline: TIMES.lease, ..TIMES }, "renew-deadline (15s) must be shorter than"),
            (Times { retry: TIMES.deadline, ..TIMES }, "retry-period (10s) must be shorter than"),
            (Times { lease: SECOND * 301, ..TIMES }, "lease-duration (301s) must be at most 300s"),
        ] {
            let why = times.check().unwrap_err();
            assert!(why.contains(told), "{why}");
        }
        let now = Instant::now();
        assert!(TIMES.end(now) < now + TIMES.lease, "a leader has stopped before anyone may take over");
        assert!(TIMES.retry + TIMES.call() < TIMES.deadline, "one call that hangs is forgiven");
    }
}
