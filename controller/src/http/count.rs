//! Counts and times requests, in upstream's labels.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};

use crate::metrics::{HttpPath, HttpRequest, Metrics};

/// Counts one request to `path`.
pub async fn counted(State((metrics, path)): State<(Metrics, &'static str)>, request: Request, next: Next) -> Response {
    let (started, method) = (Instant::now(), method(request.method()));
    let response = next.run(request).await;
    let labels = HttpRequest { path, code: response.status().as_u16(), method };
    metrics.http_requests.get_or_create(&labels).inc();
    metrics.http_durations.get_or_create(&HttpPath { path, method }).observe(started.elapsed().as_secs_f64());
    response
}

/// A client may make methods up; the labels stay few.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "PUT" => "put",
        "HEAD" => "head",
        "POST" => "post",
        "DELETE" => "delete",
        "CONNECT" => "connect",
        "OPTIONS" => "options",
        "NOTIFY" => "notify",
        "TRACE" => "trace",
        "PATCH" => "patch",
        _ => "unknown",
    }
}
