//! The endpoints. kubeseal reaches `/v1/cert.pem` through the API server's service proxy; the kubelet asks the health
//! ones. Nothing here opens anything, and no endpoint gives out a private key.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{keys::Ring, metrics::Metrics};

/// What the endpoints tell.
#[derive(Clone)]
pub struct Endpoints {
    /// The keys.
    pub ring: Ring,
    /// Counters.
    pub metrics: Metrics,
    /// Whether every SealedSecret is known.
    pub listed: watch::Receiver<bool>,
}

/// `/v1/cert.pem`, `/healthz` and `/readyz`.
pub fn main_routes(endpoints: Endpoints) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/v1/cert.pem", get(certificate))
        .with_state(Arc::new(endpoints))
}

/// `/metrics`.
pub fn metrics_routes(endpoints: Endpoints) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Arc::new(endpoints))
}

/// Takes the address now, so that one that is taken ends the process and not just a log line.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context as _;
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; choose another with --listen-addr or --listen-metrics-addr")
    })
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn readyz(State(endpoints): State<Arc<Endpoints>>) -> Response {
    if *endpoints.listed.borrow() && endpoints.ring.borrow().newest().is_some() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
}

async fn certificate(State(endpoints): State<Arc<Endpoints>>) -> Response {
    let ring = endpoints.ring.borrow().clone();
    match ring.newest() {
        Some(key) => {
            ([(header::CONTENT_TYPE, "application/x-pem-file")], key.certificate_pem.to_string()).into_response()
        }
        None => (StatusCode::INTERNAL_SERVER_ERROR, "no key yet\n").into_response(),
    }
}

async fn metrics(State(endpoints): State<Arc<Endpoints>>) -> Response {
    match endpoints.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
