//! Whether anybody works, as far as the Lease of the controllers shows it to another clock. What is not certain is not
//! said: a Lease that may not be read says nothing, nor does one that was never made, unless something waits. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use serde::Serialize;

use crate::table::span;

/// The Lease's name.
pub const LEASE: &str = "signet-controller";
/// Clocks differ, and a new replica may take its time.
const SLACK: SignedDuration = SignedDuration::from_secs(30);

/// Nobody works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Where the controller was looked for.
    pub namespace: String,
    /// When one was seen last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl Idle {
    /// Judges. `waits` says that something was not taken up yet.
    pub fn of(namespace: &str, lease: Option<&Lease>, waits: bool, now: Timestamp) -> Option<Self> {
        let idle = |since| Self { namespace: namespace.to_owned(), since };
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let Some(renewed) = spec.and_then(|spec| spec.renew_time.as_ref()) else {
            // A controller that is told not to elect a leader makes none.
            return waits.then(|| idle(None));
        };
        let lasts = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let patience = SignedDuration::from_secs(lasts.into()) + SLACK;
        (renewed.0.duration_until(now) > patience).then(|| idle(Some(renewed.0)))
    }

    /// For a person, in one line.
    pub fn told(&self, now: Timestamp) -> String {
        let Self { namespace, since } = self;
        match since {
            Some(since) => format!(
                "No controller works: the last was seen {} ago, by the Lease {namespace}/{LEASE}. All is as it was left",
                span(since.duration_until(now))
            ),
            None => format!("No controller is seen at work: there is no Lease {namespace}/{LEASE}"),
        }
    }

    /// What to do about it.
    pub fn next(&self) -> String {
        format!(
            "See whether it runs: kubectl -n {} get pods. --controller-namespace is where else it is",
            self.namespace
        )
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};

    use super::*;

    #[test]
    fn nobody_works_when_the_lease_has_not_moved_for_longer_than_clocks_differ() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let lease = |holder: Option<&str>| Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                renew_time: Some(MicroTime(at(1000))),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        let judged = |now| Idle::of("kube-system", Some(&lease(Some("a"))), true, at(now));
        assert_eq!([judged(0), judged(1001), judged(1045)], [None, None, None]);
        let idle = judged(1200).unwrap();
        assert_eq!(idle.since, Some(at(1000)));
        let told = "No controller works: the last was seen 3m ago, by the Lease kube-system/signet-controller.";
        assert!(idle.told(at(1200)).starts_with(told), "{}", idle.told(at(1200)));
        // One that was given back is nobody's, but for a moment that is as it should be.
        assert_eq!(Idle::of("kube-system", Some(&lease(None)), false, at(1010)), None);
        assert!(Idle::of("kube-system", Some(&lease(None)), false, at(1200)).is_some());
    }

    #[test]
    fn without_a_lease_only_what_waits_shows_that_nobody_works() {
        for lease in [None, Some(Lease::default())] {
            assert_eq!(Idle::of("far", lease.as_ref(), false, Timestamp::UNIX_EPOCH), None);
            let idle = Idle::of("far", lease.as_ref(), true, Timestamp::UNIX_EPOCH).unwrap();
            assert!(idle.told(Timestamp::UNIX_EPOCH).contains("no Lease far/signet-controller"));
        }
    }
}
