//! The command line as a process sees it: what goes to which stream, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

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

/// A kubeconfig for an API server at that port of this machine.
fn kubeconfig(port: u16) -> NamedTempFile {
    let text = format!(
        "{{current-context: x, contexts: [{{name: x, context: {{cluster: x, user: x}}}}], users: [{{name: x, user: {{}}}}], \
         clusters: [{{name: x, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]}}"
    );
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// With addresses of nobody's.
fn controller(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signet-controller"));
    let free = ["LISTEN_ADDR", "LISTEN_METRICS_ADDR"].map(|flag| (format!("SEALED_SECRETS_{flag}"), "127.0.0.1:0"));
    command.env_clear().envs(free).env("POD_NAMESPACE", "x").args(flags);
    command
}

#[test]
fn why_it_does_not_start_is_told_with_a_remedy_and_by_the_code() {
    let (taken, nobody) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let silent = kubeconfig(nobody.local_addr().unwrap().port());
    drop(nobody);
    let silent = format!("--kubeconfig={}", silent.path().display());
    let address = format!("--listen-metrics-addr={}", taken.local_addr().unwrap());
    for (flags, code, told) in [
        (vec![silent.as_str(), "--all-namespaces=false", "--git-sync"], 2, "leave --git-sync out"),
        (vec!["--kubeconfig=/nowhere/at/all"], 3, "name another with --kubeconfig"),
        (vec![], 3, "not running in a Pod; name a kubeconfig with --kubeconfig"),
        (vec![&silent], 4, "can be reached from here"),
        (vec![&silent, &address], 7, "choose another with --listen-addr or --listen-metrics-addr"),
    ] {
        let output = controller(&flags).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(told), "{flags:?}: {}\n{said}", output.status);
    }
}

/// What was done, and not what a library has to say of it besides.
#[test]
fn an_api_server_that_is_away_is_told_in_one_line() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = kubeconfig(nobody.local_addr().unwrap().port());
    drop(nobody);
    let output = controller(&[&format!("--kubeconfig={}", silent.path().display())]).output().unwrap();
    let said = text(&output.stderr);
    assert!(said.lines().count() == 1 && said.contains("cannot list sealedsecrets"), "{said}");
}

#[test]
fn nothing_of_a_kubeconfig_that_cannot_be_read_is_told() {
    let file = NamedTempFile::new().unwrap();
    for wrong in
        ["users:\n- name: x\n  user:\n    token: t0p-s3cret\n      more: x\n", "users: [{name: x, user: t0p-s3cret}]"]
    {
        std::fs::write(file.path(), wrong).unwrap();
        let output = controller(&[&format!("--kubeconfig={}", file.path().display())]).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("it is none (line ") && !said.contains("s3cret"), "{said}");
    }
}

/// The code says that it has come as far as a kubeconfig that there is not, or no further than its flags.
#[test]
fn traces_go_where_the_variables_of_open_telemetry_say() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    for (variables, code, told) in [
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://collector")],
            2,
            "--otlp-traces-endpoint must begin",
        ),
        (vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], 2, "must be http/protobuf"),
        (vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_SDK_DISABLED", "true")], 3, "/nowhere/at/all"),
        (vec![("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], 3, "/nowhere/at/all"),
    ] {
        let output = run(&[], &variables);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(told), "{variables:?}: {}\n{said}", output.status);
    }
}

#[test]
fn it_ends_when_told_to_though_the_api_server_says_nothing() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = kubeconfig(server.local_addr().unwrap().port());
    let mut command = controller(&[&format!("--kubeconfig={}", silent.path().display())]);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("serving HTTP")));
    let (_asked, _) = server.accept().unwrap();
    kill_process(Pid::from_child(&running), Signal::TERM).unwrap();
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn the_version_is_on_stdout() {
    let output = run(&["--version"], &[]);
    assert!(output.status.success() && text(&output.stdout).starts_with("controller version: v"));
}
