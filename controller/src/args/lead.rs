//! Which of several replicas works. The times have Flux's names and everybody's defaults.

use clap::ArgAction;
use jiff::SignedDuration;

use super::values;
use crate::lead::lease::Times;

/// Which of several replicas works.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Leader election")]
pub struct LeadArgs {
    /// Let one of several replicas work at a time, by the Lease signet-controller.
    #[arg(long, env = "SEALED_SECRETS_LEADER_ELECT", action = ArgAction::Set, default_value = "true", value_name = "BOOL")]
    pub leader_elect: bool,
    /// Name of this replica, unlike all others'. In a Pod its host name is the Pod's.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Time after which a Lease that is not renewed may be taken by another replica.
    #[arg(long, env = "SIGNET_LEADER_ELECTION_LEASE_DURATION", default_value = "15s", value_parser = values::some_time, value_name = "DURATION")]
    pub leader_election_lease_duration: SignedDuration,
    /// Time after which a leader that cannot renew its Lease stops working. Shorter than the Lease lasts.
    #[arg(long, env = "SIGNET_LEADER_ELECTION_RENEW_DEADLINE", default_value = "10s", value_parser = values::some_time, value_name = "DURATION")]
    pub leader_election_renew_deadline: SignedDuration,
    /// Time from one renewal of the Lease, or look at it, to the next.
    #[arg(long, env = "SIGNET_LEADER_ELECTION_RETRY_PERIOD", default_value = "2s", value_parser = values::some_time, value_name = "DURATION")]
    pub leader_election_retry_period: SignedDuration,
}

impl LeadArgs {
    /// The times, or why they do not go together.
    pub fn times(&self) -> Result<Times, String> {
        let times = Times {
            lease: self.leader_election_lease_duration.unsigned_abs(),
            deadline: self.leader_election_renew_deadline.unsigned_abs(),
            retry: self.leader_election_retry_period.unsigned_abs(),
        };
        times.check()
    }
}

#[cfg(test)]
mod tests {
    use crate::args::Args;

    #[test]
    fn the_times_are_the_usual_ones_and_checked_against_each_other() {
        let times = |flags: &[&str]| {
            let line = ["signet-controller"].iter().chain(flags);
            Args::from_command_line(line, |_| None).unwrap().lead.times()
        };
        let usual = times(&[]).unwrap();
        assert_eq!([usual.lease, usual.deadline, usual.retry].map(|it| it.as_secs()), [15, 10, 2]);
        let why = times(&["--leader-election-lease-duration=10s"]).unwrap_err();
        let expected =
            "--leader-election-renew-deadline (10s) must be shorter than --leader-election-lease-duration (10s)";
        assert!(why.starts_with(expected), "{why}");
    }
}
