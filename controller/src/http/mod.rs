//! The endpoints. kubeseal reaches `/v1` through the API server's service proxy, where whoever may log in may ask; the
//! kubelet asks the health ones; Prometheus asks for the metrics.
//!
//! So nobody learns anything here that a ciphertext does not say by itself: no value, no private key, nothing rendered,
//! and of what does not open not why. What opens costs RSA operations: they are limited in rate, and done one request
//! at a time, so that unsealing never waits for whoever asks.

mod count;
mod gate;
mod hook;
mod limit;
mod refusal;
mod serve;

use std::{
    collections::BTreeSet,
    error::Error,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use crds::{
    KeyRing, guard,
    key_ring::RingKey,
    reseal::{Candidate, Meter, ResealError},
    yaml,
};
use http_body_util::LengthLimitError;
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::{
    count::counted,
    limit::{Limiter, limited},
    refusal::{Refusal, worded},
};
pub use self::{
    gate::Gate,
    hook::Hooks,
    limit::Rate,
    serve::{Timeouts, bind, serve},
};
use crate::{
    context::{Ended, SealedSecrets},
    health::readiness,
    keys::Ring,
    metrics::{Format, Metrics, Snapshot},
    pulse::Pulses,
};

/// Largest body. No SealedSecret of this size fits into a cluster.
const BODY: usize = 10 << 20;
/// Bodies held in memory at once; further requests wait.
const BODIES: usize = 4;
/// Time for a Git host to send its body. Whoever gets here may begin one, and hosts give up after as long.
const DELIVERY: Duration = Duration::from_secs(10);

const CERTIFICATE: &str = "/v1/cert.pem";
const VERIFY: &str = "/v1/verify";
const ROTATE: &str = "/v1/rotate";
const HOOK: &str = "/hook/{namespace}/{name}";
/// A push may be told to every GitSync of a repository at once. It costs no RSA, but two calls to the API server.
const HOOK_RATE: Rate = Rate { per_second: NonZeroU32::MIN.saturating_add(19), burst: 200 };

/// What the endpoints tell, and how.
#[derive(Clone)]
pub struct Endpoints {
    /// The keys.
    pub ring: Ring,
    /// Counters.
    pub metrics: Metrics,
    /// Every SealedSecret.
    pub sealed: SealedSecrets,
    /// Whether all of them are known.
    pub listed: watch::Receiver<bool>,
    /// `--metrics-omit-secret-labels`.
    pub omit_names: bool,
    /// Time for a client to send a body.
    pub timeouts: Timeouts,
    /// `--rate-limit` and `--rate-limit-burst`.
    pub rate: Rate,
    /// `--accept-deprecated-v1-data`.
    pub accept_deprecated: bool,
    /// `--authenticate`: decides who may have something verified or rotated. Without it, whoever gets here may.
    pub gate: Option<Gate>,
    /// Where Git hosts call, if GitSyncs are followed.
    pub hooks: Option<Hooks>,
    /// Signs of life.
    pub pulses: Pulses,
    /// Cancelled once the controller was told to end.
    pub stopping: CancellationToken,
}

struct Shared {
    endpoints: Endpoints,
    bodies: Semaphore,
    /// The same for Git hosts: none waits behind those who seal, nor they behind it.
    deliveries: Semaphore,
    hands: Arc<Semaphore>,
}

/// `/v1`, `/healthz` and `/readyz`.
pub fn main_routes(endpoints: &Endpoints) -> Router {
    let counted = |path| from_fn_with_state((endpoints.metrics.clone(), path), counted);
    // Each path by itself, and all clients together: what a client says about itself can be anything, and behind the
    // service proxy all are the API server.
    let at_most = |rate| from_fn_with_state(Arc::new(Limiter::new(rate)), limited);
    let limited = || at_most(endpoints.rate);
    let reads = || async { Refusal::method("GET, HEAD") };
    let posts = || async { Refusal::method("POST") };
    Router::new()
        .route("/healthz", get(healthz).fallback(reads))
        .route("/readyz", get(readyz).fallback(reads))
        .route(CERTIFICATE, get(certificate).fallback(reads).layer(counted(CERTIFICATE)))
        .route(VERIFY, post(verify).fallback(posts).layer(limited()).layer(counted(VERIFY)))
        .route(ROTATE, post(rotate).fallback(posts).layer(limited()).layer(counted(ROTATE)))
        .route(HOOK, post(hook).fallback(posts).layer(at_most(HOOK_RATE)).layer(counted(HOOK)))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(from_fn(worded))
        .with_state(Arc::new(Shared {
            endpoints: endpoints.clone(),
            bodies: Semaphore::new(BODIES),
            deliveries: Semaphore::new(BODIES),
            hands: Arc::new(Semaphore::new(1)),
        }))
}

/// `/metrics`.
pub fn metrics_routes(endpoints: Endpoints) -> Router {
    let turns = Arc::new(Semaphore::new(1));
    Router::new().route("/metrics", get(metrics)).with_state((Arc::new(endpoints), turns))
}

/// Which loops are stuck. With what, only the log tells: whoever may log in may ask here.
async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let stuck: BTreeSet<_> = shared.endpoints.pulses.stuck(Instant::now()).into_iter().map(|it| it.name).collect();
    if stuck.is_empty() {
        return "ok\n".into_response();
    }
    let names = stuck.into_iter().collect::<Vec<_>>().join(", ");
    (StatusCode::SERVICE_UNAVAILABLE, format!("stuck: {names}; the log says with what\n")).into_response()
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let Endpoints { listed, ring, stopping, .. } = &shared.endpoints;
    match readiness(stopping.is_cancelled(), ring.borrow().newest().is_some(), *listed.borrow()) {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn certificate(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    let ring = shared.endpoints.ring.borrow().clone();
    let pem = sealing_key(&ring, Timestamp::now())?.certificate_pem.to_string();
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response())
}

/// The newest key, unless nobody should seal with it any more.
fn sealing_key(ring: &KeyRing, now: Timestamp) -> Result<&RingKey, Refusal> {
    let key = ring.sealing().ok_or_else(no_key)?;
    match key.certificate.as_ref().map(|certificate| certificate.not_after()) {
        Some(end) if end <= now => {
            let message = format!("the newest certificate expired at {end}: make a new key with `seal keys rotate`");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
        _ => Ok(key),
    }
}

fn no_key() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "there is no key yet").retry_after(1)
}

/// 200 if everything opens, 409 if not.
async fn verify(State(shared): State<Arc<Shared>>, request: Request) -> Result<(), Refusal> {
    let conflict = |error: ResealError| match error {
        ResealError::NotASealedSecret | ResealError::Field { .. } | ResealError::Stopped => unreadable(error),
        error => Refusal::new(StatusCode::CONFLICT, error.to_string()),
    };
    let verify = move |candidate: Candidate, ring: &KeyRing, meter: &mut Meter<'_>| {
        candidate.verify(ring, meter).map_err(conflict)
    };
    shared.work("verify", request, verify).await
}

/// The same SealedSecret, sealed for the newest key.
async fn rotate(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    let rotate = |candidate: Candidate, ring: &KeyRing, meter: &mut Meter<'_>| {
        let key = sealing_key(ring, Timestamp::now())?;
        let Some(certificate) = &key.certificate else {
            return Err(Refusal::internal("the newest key has no certificate"));
        };
        // Upstream's code for whatever goes wrong here: of a 409 kubeseal would not print the reason.
        candidate.reseal(ring, certificate, &mut rand::rng(), meter).map_err(unreadable)
    };
    let sealed = shared.work("rotate", request, rotate).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], sealed.to_string()).into_response())
}

/// Upstream's code for what it cannot read.
fn unreadable(error: impl std::fmt::Display) -> Refusal {
    Refusal::internal(error)
}

impl Shared {
    /// Reads the one SealedSecret of a request and does something with it, off the async threads and in its turn. When
    /// the client goes, the work ends.
    async fn work<T: Send + 'static>(
        &self,
        action: &'static str,
        request: Request,
        task: impl FnOnce(Candidate, &KeyRing, &mut Meter<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let closed = |_| Refusal::internal("the controller is stopping");
        let gate = self.endpoints.gate.as_ref();
        let caller = match gate {
            Some(gate) => Some((gate, gate.identify(request.headers()).await?)),
            None => None,
        };
        let _body = self.bodies.acquire().await.map_err(closed)?;
        let text = read(request, self.endpoints.timeouts.read).await?;
        let turn = self.hands.clone().acquire_owned().await.map_err(closed)?;
        let candidate = off(move || candidate(&text)).await?;
        drop(turn);
        if let Some((gate, user)) = caller {
            gate.admit(user, action, candidate.place()).await?;
        }
        let turn = self.hands.clone().acquire_owned().await.map_err(closed)?;
        let ring = self.endpoints.ring.borrow().clone();
        ring.newest().ok_or_else(no_key)?; // or everything would seem to be sealed for somebody else
        let (metrics, accept_deprecated) = (self.endpoints.metrics.clone(), self.endpoints.accept_deprecated);
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        let work = move || {
            let _turn = turn;
            if candidate.is_deprecated() && !accept_deprecated {
                return Err(Refusal::new(StatusCode::CONFLICT, ResealError::Deprecated));
            }
            let mut meter = |operations: u32| {
                metrics.rsa_operations.inc_by(operations.into());
                !gone.is_cancelled()
            };
            task(candidate, &ring, &mut meter)
        };
        off(work).await
    }
}

/// Off the async threads.
async fn off<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(|| guard::wiped(work)).await;
    done.map_err(|_| Refusal::internal("the work was ended"))?
}

async fn read(request: Request, within: Duration) -> Result<String, Refusal> {
    let too_large = || {
        let message = format!("the body is larger than {} MiB", BODY >> 20);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > BODY) {
        return Err(too_large());
    }
    let body = to_bytes(request.into_body(), BODY);
    let is_length = |error: &axum::Error| error.source().is_some_and(<dyn Error>::is::<LengthLimitError>);
    match tokio::time::timeout(within, body).await {
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        Ok(Err(error)) if is_length(&error) => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body could not be read")),
        Ok(Ok(bytes)) => String::from_utf8(bytes.into()).map_err(|_| unreadable("the body is not UTF-8 text")),
    }
}

fn candidate(text: &str) -> Result<Candidate, Refusal> {
    let mut documents = yaml::documents(text);
    let only = documents.pop().ok_or_else(|| unreadable("the body is empty: send one SealedSecret"))?;
    if !documents.is_empty() {
        return Err(unreadable("the body holds more than one document: send them one by one"));
    }
    let object = only.value.map_err(|error| unreadable(format!("the body is neither JSON nor YAML: {error}")))?;
    Candidate::new(object).map_err(unreadable)
}

/// 202 when it was heard, whether it is news or not.
async fn hook(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let nothing = || Refusal::new(StatusCode::NOT_FOUND, "GitSyncs are not followed here");
    let hooks = shared.endpoints.hooks.as_ref().ok_or_else(nothing)?;
    let _body = shared.deliveries.acquire().await.map_err(|_| Refusal::internal("the controller is stopping"))?;
    let headers = request.headers().clone();
    let body = read(request, shared.endpoints.timeouts.read.min(DELIVERY)).await?;
    hooks.receive((&namespace, &name), &headers, body.as_bytes()).await
}

type Scraped = (Arc<Endpoints>, Arc<Semaphore>);

/// Of many objects it takes a while: one at a time, and not in the way of what must not wait.
async fn metrics(State((endpoints, turns)): State<Scraped>, headers: HeaderMap) -> Response {
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    // Never closed.
    let turn = turns.acquire_owned().await;
    let seen = Snapshot {
        sealed: endpoints.sealed.all(),
        ring: endpoints.ring.borrow().clone(),
        omit_names: endpoints.omit_names,
    };
    let work = move || {
        let _turn = turn;
        endpoints.metrics.render(&seen, format)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Ok(Err(error)) => Refusal::internal(error).into_response(),
        Err(error) => Refusal::internal(Ended::from(error)).into_response(),
    }
}
