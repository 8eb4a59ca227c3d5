//! The end-to-end tests: both sides on a real API server. One binary, so that its tests share one cluster.

#![recursion_limit = "256"] // json! with one entry for each flag
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail by panic")]

mod access;
mod alerts;
mod audit;
mod book;
mod chart;
mod choices;
mod clusters;
mod controllers_run;
mod crash;
mod deploy;
mod disaster;
mod drift;
mod endpoints;
mod expressions;
mod from_cluster;
mod git_hosts_work;
mod guard;
mod harness_works;
mod hooks;
mod image;
mod install;
mod inventory;
mod keys;
mod kubectl_plugin;
mod kubeseal_parity;
mod lifecycle;
mod migration;
mod modes;
mod notify;
mod recipients;
mod render;
mod replicas;
mod reseal;
mod rights;
mod rollback;
mod rollout;
mod runbook;
mod scenarios;
mod sealing;
mod source;
mod steps;
mod sync;
mod sync_cli;
mod sync_screens;
mod teardown;
mod templates;
mod tenancy;
mod terminal;
mod tools_are_found;
mod traces;
mod variables;
mod versions;
mod world;
