//! The harness's handle on a controller, shown on a stand-in: so that a fault of the controller is never taken for one
//! of the harness.

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use axum::{Router, routing::get};
use harness::{Cluster, Controller, ControllerOptions, command, eventually, process::Signal, shared};
use tokio::{net::TcpListener, signal::unix};

/// The controller's command line, for the stand-in: the test runner has flags of its own.
const FLAGS: &str = "SIGNET_TEST_FLAGS";

#[tokio::test]
async fn a_controller_is_started_asked_ended_and_started_again() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("controller").await?;
    let controller = stand_in(cluster, &namespace).await?;
    assert!(controller.is_running().await?);
    assert_eq!(controller.metric("stand_in_total").await?.to_string(), "3");
    assert!(controller.logs().await?.contains(&format!("in {namespace}")));

    let path = format!("/api/v1/namespaces/{namespace}/services/http:sealed-secrets-controller:http/proxy/v1/cert.pem");
    let ask = || async { Ok(Some(cluster.kubectl(&["get", "--raw", &path]).await?)) };
    let soon = Duration::from_mins(2);
    assert_eq!(eventually("the certificate", soon, ask).await?, "certificate");

    assert!(controller.terminate().await?.success(), "{}", controller.logs().await?);
    assert!(!controller.is_running().await?);
    controller.restart().await?;
    assert_eq!(eventually("the certificate again", soon, ask).await?, "certificate");
    controller.signal(Signal::STOP).await?;
    assert!(!controller.kill().await?.success());
    assert!(controller.metrics().await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_controller_that_ends_at_once_is_told_with_its_last_words() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("controller").await?;
    cluster.kubectl(&["-n", &namespace, "create", "serviceaccount", "sealed-secrets-controller"]).await?;
    let program = Some(script(cluster, &namespace, "echo no key for me >&2; exit 3")?);
    let started =
        Controller::start_with(cluster, ControllerOptions { namespace, program, ..ControllerOptions::default() }).await;
    let error = started.err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains("no key for me") && error.contains("exit status: 3"), "{error}");
    Ok(())
}

async fn stand_in(cluster: &Cluster, namespace: &str) -> Result<Controller> {
    cluster.kubectl(&["-n", namespace, "create", "serviceaccount", "sealed-secrets-controller"]).await?;
    let ourselves = env::current_exe()?;
    let run = format!(
        "echo running in $POD_NAMESPACE; {FLAGS}=\"$*\" exec '{}' --exact controllers_run::serve --ignored",
        ourselves.display()
    );
    let program = Some(script(cluster, namespace, &run)?);
    let options = ControllerOptions { namespace: namespace.to_owned(), program, ..ControllerOptions::default() };
    Controller::start_with(cluster, options).await
}

fn script(cluster: &Cluster, name: &str, body: &str) -> Result<PathBuf> {
    let path = cluster.scratch().path().join(format!("{name}.sh"));
    command::executable(&path, format!("#!/bin/sh\n{body}\n"))?;
    Ok(path)
}

/// The stand-in: serves what the harness asks for until SIGTERM.
#[tokio::test]
#[ignore = "a_controller_is_started_asked_ended_and_started_again starts it"]
async fn serve() -> Result<()> {
    let Ok(flags) = env::var(FLAGS) else { return Ok(()) };
    let address = |flag: &str| -> Result<SocketAddr> {
        let value = flags.split(' ').find_map(|word| word.strip_prefix(flag)?.strip_prefix('='));
        Ok(value.with_context(|| format!("no {flag} in {flags}"))?.parse()?)
    };
    let main =
        Router::new().route("/readyz", get(|| async { "ok" })).route("/v1/cert.pem", get(|| async { "certificate" }));
    let metrics =
        Router::new().route("/metrics", get(|| async { "stand_in_total{of=\"a\"} 1\nstand_in_total{of=\"b\"} 2\n" }));
    let mut end = unix::signal(unix::SignalKind::terminate())?;
    let (main_listener, metrics_listener) = (
        TcpListener::bind(address("--listen-addr")?).await?,
        TcpListener::bind(address("--listen-metrics-addr")?).await?,
    );
    tokio::select! {
        _ = end.recv() => Ok(()),
        ended = axum::serve(main_listener, main) => Ok(ended?),
        ended = axum::serve(metrics_listener, metrics) => Ok(ended?),
    }
}
