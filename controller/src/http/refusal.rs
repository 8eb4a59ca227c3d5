//! Why a request was refused: one plain line, or a `Status` of Kubernetes for who asks for JSON. kubeseal and our CLI
//! ask for JSON, and their Kubernetes libraries print the message of a `Status`; of any other JSON they would only say
//! that the server failed.

use std::fmt::Display;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// An answer that is not what was asked for. Holds nothing of the request.
#[derive(Clone, Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Display) -> Self {
        Self { status, message: message.to_string(), header: None }
    }

    pub fn internal(message: impl Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Asks with another method.
    pub fn method(allowed: &'static str) -> Self {
        let refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}"));
        refusal.with(header::ALLOW, HeaderValue::from_static(allowed))
    }

    /// With a header that goes with its code.
    pub fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// May have more luck in a few seconds; Kubernetes' libraries then try again by themselves.
    pub fn retry_after(self, seconds: u16) -> Self {
        self.with(header::RETRY_AFTER, seconds.into())
    }

    fn json(&self) -> String {
        // Upstream words of Kubernetes.
        let reason = match self.status {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
            StatusCode::REQUEST_TIMEOUT => "Timeout",
            StatusCode::CONFLICT => "Conflict",
            StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            _ => "InternalError",
        };
        let code = self.status.as_u16();
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "reason": reason, "code": code,
        })
        .to_string()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}\n", self.message)).into_response();
        if let Some((name, value)) = self.header.clone() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Puts a refusal into the form that the client asks for.
pub async fn worded(request: Request, next: Next) -> Response {
    let json = asks_for_json(request.headers());
    let response = next.run(request).await;
    let Some(refusal) = response.extensions().get::<Refusal>().filter(|_| json) else { return response };
    let body = refusal.json();
    let (mut head, _) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, body.into())
}

/// By name: `*/*` is no wish.
fn asks_for_json(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|ranges| ranges.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let json = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
        json && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_for_who_names_it() {
        let asks = |accept: &str| {
            asks_for_json(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())]))
        };
        assert!(asks("application/json, */*"), "kubeseal");
        assert!(asks("text/plain;q=0.5, Application/JSON;q=0.9"));
        assert!(!asks("*/*") && !asks("application/json;q=0, text/plain") && !asks("application/jsonp"));
        assert!(!asks_for_json(&HeaderMap::new()));
    }
}
