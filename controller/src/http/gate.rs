//! Who may ask for what costs and tells something, where the cluster is to decide it: the API server says whose token it
//! is, and whether that one may `create` `sealedsecrets/verify` or `sealedsecrets/rotate` in the object's namespace.
//!
//! The API server's service proxy takes a caller's `Authorization` away before it passes a request on, so there is a
//! header of our own. What it carries must be made for us: a token for the API server would let whoever answers in our
//! place act as the caller.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};

use super::refusal::Refusal;
use crate::{
    calls::{CallError, within},
    context::chain,
};

/// For whom a token must have been made: `kubectl create token NAME --audience signet-controller`.
const AUDIENCE: &str = "signet-controller";
/// Carries a token through the service proxy. Without it `Authorization: Bearer` is looked at.
const TOKEN: HeaderName = HeaderName::from_static("x-signet-token");
/// Longest wait for the API server: somebody waits for the answer.
const CALL: Duration = Duration::from_secs(5);

/// Asks the API server.
#[derive(Clone)]
pub struct Gate {
    reviews: Api<TokenReview>,
    rights: Api<SubjectAccessReview>,
}

impl Gate {
    /// With a client that may make both reviews.
    pub fn new(client: Client) -> Self {
        Self { reviews: Api::all(client.clone()), rights: Api::all(client) }
    }

    /// Who sends these headers.
    pub(super) async fn identify(&self, headers: &HeaderMap) -> Result<UserInfo, Refusal> {
        let token = token(headers).ok_or_else(|| Refusal::unauthorized("send a token in X-Signet-Token"))?;
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = within(CALL, self.reviews.create(&PostParams::default(), &review)).await;
        user(answer.map_err(|error| unavailable(&error))?)
            .ok_or_else(|| Refusal::unauthorized(format!("the token is not valid, or not for the audience {AUDIENCE}")))
    }

    /// Whether they may.
    pub(super) async fn admit(
        &self,
        user: UserInfo,
        action: &'static str,
        (namespace, name): (&str, &str),
    ) -> Result<(), Refusal> {
        let review = SubjectAccessReview { spec: question(user, action, namespace, name), ..Default::default() };
        let answer = within(CALL, self.rights.create(&PostParams::default(), &review)).await;
        if answer.map_err(|error| unavailable(&error))?.status.is_some_and(|status| status.allowed) {
            return Ok(());
        }
        let place = if namespace.is_empty() { "all namespaces" } else { "the namespace of the SealedSecret" };
        let message = format!("the token's account may not create sealedsecrets/{action} in {place}");
        Err(Refusal::new(StatusCode::FORBIDDEN, message))
    }
}

impl Refusal {
    fn unauthorized(message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message).with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }
}

/// What went wrong is said to who runs the controller, not to who asks.
fn unavailable(error: &CallError) -> Refusal {
    let error = chain(error);
    tracing::warn!(
        error,
        "cannot ask the API server who may use /v1; see deploy/authenticated if this is about rights"
    );
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "cannot find out who may ask").retry_after(1)
}

fn token(headers: &HeaderMap) -> Option<&str> {
    if let Some(own) = headers.get(TOKEN) {
        return own.to_str().ok();
    }
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// An API server that knows nothing of audiences names none, and then the token may be one for itself.
fn user(review: TokenReview) -> Option<UserInfo> {
    let status = review.status?;
    let ours = status.audiences.is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE));
    status.user.filter(|_| ours && status.authenticated == Some(true))
}

fn question(user: UserInfo, action: &str, namespace: &str, name: &str) -> SubjectAccessReviewSpec {
    let UserInfo { username, uid, groups, extra } = user;
    let attributes = ResourceAttributes {
        group: Some("bitnami.com".to_owned()),
        resource: Some("sealedsecrets".to_owned()),
        subresource: Some(action.to_owned()),
        verb: Some("create".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ResourceAttributes::default()
    };
    SubjectAccessReviewSpec {
        user: username,
        uid,
        groups,
        extra,
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::TokenReviewStatus;

    use super::*;

    #[test]
    fn our_own_header_comes_first() {
        let headers = |pairs: &[(HeaderName, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            pairs.collect::<HeaderMap>()
        };
        let token = |pairs: &[(HeaderName, &'static str)]| token(&headers(pairs)).map(str::to_owned);
        assert_eq!(token(&[(header::AUTHORIZATION, "bearer a")]).as_deref(), Some("a"));
        assert_eq!(token(&[(header::AUTHORIZATION, "Bearer a"), (TOKEN, "b")]).as_deref(), Some("b"));
        assert_eq!(token(&[(header::AUTHORIZATION, "Basic YTpi")]), None);
        assert_eq!(token(&[]), None);
    }

    #[test]
    fn a_token_must_be_valid_and_for_us() {
        let reviewed = |authenticated, audiences: Option<&[&str]>| {
            let audiences = audiences.map(|list| list.iter().map(|it| (*it).to_owned()).collect());
            let user = Some(UserInfo { username: Some("dev".to_owned()), ..UserInfo::default() });
            let status = TokenReviewStatus { authenticated, audiences, user, ..TokenReviewStatus::default() };
            user_of(status)
        };
        assert_eq!(reviewed(Some(true), Some(&[AUDIENCE])).as_deref(), Some("dev"));
        assert_eq!(reviewed(Some(true), Some(&["https://kubernetes.default.svc"])), None);
        assert_eq!(reviewed(Some(true), None), None);
        assert_eq!(reviewed(Some(false), Some(&[AUDIENCE])), None);
        assert_eq!(reviewed(None, Some(&[AUDIENCE])), None);
    }

    fn user_of(status: TokenReviewStatus) -> Option<String> {
        user(TokenReview { status: Some(status), ..TokenReview::default() })?.username
    }
}
