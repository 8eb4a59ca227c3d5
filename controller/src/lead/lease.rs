//! Who leads. Pure: the clocks are arguments. A lease counts as abandoned when this process has not seen it move for
//! [`PATIENCE`], by its own clock, so no two clocks have to agree.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

/// How often the leader says that it lives.
pub const RENEW: Duration = Duration::from_secs(1);
/// How often a follower looks.
pub const LOOK: Duration = Duration::from_millis(500);
/// How long one call may take.
pub const CALL: Duration = Duration::from_secs(1);
/// A leader that could not say so for this long follows. With a call under way it is [`CALL`] later, and that is still
/// before [`PATIENCE`] is over for those who watch it.
pub const GIVE_UP: Duration = Duration::from_millis(2_300);
/// How long a lease must not move before another may take it.
pub const PATIENCE: Duration = Duration::from_millis(3_500);

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
}

/// Decides for `me`. `named` makes the lease that there is not yet; `wall` is only written down, for people.
pub fn evaluate(
    seen: Option<&Sighting>,
    me: &str,
    named: impl FnOnce() -> Lease,
    now: Instant,
    wall: Timestamp,
) -> Move {
    let Some(Sighting { lease, since }) = seen else {
        return Move::Create(Lease { spec: Some(held(me, None, wall)), ..named() });
    };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let abandoned = now.saturating_duration_since(*since) >= PATIENCE;
    if holder.is_none_or(|holder| holder == me) || abandoned {
        return Move::Write(Lease { spec: Some(held(me, spec, wall)), ..lease.clone() });
    }
    Move::Follow
}

/// Whether a leader whose write met a conflict goes on leading: the lease that is there now is still its own, so that it
/// met its own earlier write, whose answer came too late. `renewed` is when it last knew so; how long that counts is
/// as for a renewal that failed.
pub fn still_leads(now_there: Option<&Lease>, me: &str, renewed: Instant, now: Instant) -> bool {
    now_there.and_then(holder) == Some(me) && now.saturating_duration_since(renewed) < GIVE_UP
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

fn held(me: &str, before: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
    let before = before.cloned().unwrap_or_default();
    let mine = before.holder_identity.as_deref() == Some(me);
    let transitions = before.lease_transitions.unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(PATIENCE.as_secs() + 1).ok(),
        renew_time: Some(MicroTime(wall)),
        acquire_time: before.acquire_time.clone().filter(|_| mine).or(Some(MicroTime(wall))),
        lease_transitions: Some(transitions.saturating_add(i32::from(!mine))),
        ..before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        evaluate(seen, "me", Lease::default, now, Timestamp::from_second(9).unwrap())
    }

    fn new_holder(decided: Move) -> (String, i32) {
        let (Move::Create(lease) | Move::Write(lease)) = decided else { panic!("{decided:?}") };
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap();
        (holder(&lease).unwrap().to_owned(), transitions)
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
        assert_eq!(decided(Some(&seen), start + PATIENCE.mul_f32(0.99)), Move::Follow);
        assert_eq!(new_holder(decided(Some(&seen), start + PATIENCE)), ("me".to_owned(), 4));
        // Whatever its own times say: clocks differ.
        let later = start + PATIENCE;
        let moved = Sighting::after(Some(seen.clone()), lease("other", -100_000), later);
        assert_eq!(decided(Some(&moved), later), Move::Follow);
        let still = Sighting::after(Some(seen), lease("other", 1), later);
        assert_eq!(still.since, start);
    }

    #[test]
    fn a_leader_that_met_its_own_late_write_goes_on_while_it_is_in_time() {
        let start = Instant::now();
        let (mine, others, late) = (lease("me", 2), lease("other", 2), start + GIVE_UP);
        assert!(still_leads(Some(&mine), "me", start, start + RENEW + CALL));
        assert!(!still_leads(Some(&mine), "me", start, late), "another may have taken and lost it meanwhile");
        assert!(!still_leads(Some(&others), "me", start, start));
        assert!(!still_leads(Some(&released(&mine, Timestamp::UNIX_EPOCH)), "me", start, start));
        assert!(!still_leads(None, "me", start, start));
    }

    #[test]
    fn a_leader_gives_up_before_anyone_may_take_over() {
        assert!(GIVE_UP + CALL < PATIENCE);
        assert!(RENEW + CALL <= GIVE_UP, "one call that fails is forgiven");
    }
}
