//! The command line as a process sees it: what goes to which stream, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::process::{Command, Output};

fn run(flags: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signet-controller"));
    // There is no such file, so it starts to speak and ends.
    command.env_clear().args(["--kubeconfig=/nowhere/at/all"]).args(flags);
    command.envs(environment.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn info_goes_to_stdout_and_warnings_to_stderr_unless_told_otherwise() {
    let output = run(&["--watch-for-secrets=false"], &[]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains("Starting signet-controller") && !out.contains("--watch-for-secrets"), "{out}");
    assert!(err.contains("--watch-for-secrets=false has no effect") && err.contains("/nowhere/at/all"), "{err}");
    assert!(!err.contains("Starting"), "{err}");
    let output = run(&[], &[("SEALED_SECRETS_LOG_INFO_STDOUT", "F")]);
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("Starting signet-controller"));
}

#[test]
fn a_wrong_value_ends_with_2_and_names_the_flag() {
    for (flags, environment) in [(vec!["--key-size=1000"], vec![]), (vec![], vec![("SEALED_SECRETS_KEY_SIZE", "1000")])]
    {
        let output = run(&flags, &environment);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(err.contains("--key-size") && err.contains("2048, 3072, 4096 or 8192"), "{err}");
    }
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let output = run(&[], &[("SEALED_SECRETS_KEY_SIZE", ""), ("SIGNET_GIT_SYNC", "")]);
    assert!(text(&output.stdout).contains("Starting signet-controller"), "{}", text(&output.stderr));
}

#[test]
fn the_version_is_on_stdout() {
    let output = run(&["--version"], &[]);
    assert!(output.status.success() && text(&output.stdout).starts_with("controller version: v"));
}
