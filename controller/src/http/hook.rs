//! Where Git hosts say that something was pushed. Whoever knows a GitSync's token may have it looked at now, and learns
//! nothing else: a GitSync that is not there, one without a webhook and a wrong signature are answered alike, after the
//! same calls. Any replica answers: the request is written on the GitSync, where the one that leads sees it.

use axum::http::{HeaderMap, StatusCode};
use crds::{GitSync, git_sync::Webhook, unseal::ClearSecret};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::refusal::Refusal;
use crate::{
    calls::{CallError, bounded, call},
    context::chain,
    sync::fetch::hook::{concerns, is_genuine, request},
    traces,
};

/// The entry of the Secret.
const TOKEN: &str = "token";
/// A Secret that is not there: asked for where none is named, so that nobody can tell by the time.
const NONE: &str = "none";

/// What of the cluster is needed.
#[derive(Clone)]
pub struct Hooks {
    client: Client,
}

impl Hooks {
    /// With a client that may read GitSyncs and Secrets.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Has a GitSync looked at, if the call is genuine and about what it follows.
    pub(super) async fn receive(
        &self,
        (namespace, name): (&str, &str),
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<StatusCode, Refusal> {
        if !is_name(namespace) || !is_name(name) {
            return Err(unknown());
        }
        let syncs: Api<GitSync> = Api::namespaced(self.client.clone(), namespace);
        let sync = found(bounded(syncs.get(name)).await)?;
        let hook = sync.as_ref().and_then(|sync| sync.spec.source.webhook.clone());
        let Webhook { kind, secret_ref } = hook.clone().unwrap_or_default();
        let named = if secret_ref.name.is_empty() { NONE } else { &secret_ref.name };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = found(bounded(secrets.get(named)).await)?.map(ClearSecret::new);
        let entry = secret.as_ref().and_then(|secret| secret.expose().data.as_ref()?.get(TOKEN));
        let token = entry.map(|entry| entry.0.trim_ascii_end()).unwrap_or_default();
        if hook.is_some() && token.is_empty() {
            tracing::warn!(namespace, name, secret = named, "a webhook was called, but its Secret has no token");
        }
        let is_genuine = is_genuine(kind, headers, body, token);
        let Some(sync) = sync.filter(|_| hook.is_some() && is_genuine) else { return Err(unknown()) };
        if !concerns(&sync.spec.source, body) {
            return Ok(StatusCode::ACCEPTED);
        }
        let caller = headers.get("traceparent").and_then(|caller| caller.to_str().ok());
        let caller = caller.filter(|caller| traces::are_on() && traces::caller(caller).is_some());
        let request = request(Timestamp::now(), caller);
        call(&self.client, (namespace, name), &request).await.map_err(|error| unavailable(&error))?;
        Ok(StatusCode::ACCEPTED)
    }
}

/// As Kubernetes names things: nothing else gets into a path.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(fits) && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

/// What cannot be read, an invalid one among them, is not there; what goes wrong on the way is told.
fn found<T>(answer: Result<T, CallError>) -> Result<Option<T>, Refusal> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(CallError::Api(kube::Error::SerdeError(_))) => Ok(None),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(unavailable(&error)),
    }
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no such webhook, or the signature is wrong")
}

fn unavailable(error: &CallError) -> Refusal {
    let error = chain(error);
    tracing::warn!(error, "a webhook was called, but the API server cannot be asked");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "cannot look at it now").retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_names_gets_into_a_path() {
        assert!(is_name("app") && is_name("app-1.example"));
        for bad in ["", ".", "..", "a/b", "a%2fb", "A", "a b", "a\n", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
