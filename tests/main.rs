//! The end-to-end tests: both sides on a real API server. One binary, so that its tests share one cluster.

mod controllers_run;
mod git_hosts_work;
mod harness_works;
mod tools_are_found;
