//! `--kubeclient-qps`: how many requests the API server gets in a second. Every request of the process comes by
//! here, watches among them, and so is counted for the metrics too, and not waited for for ever. Decides nothing about any.

use std::{borrow::Cow, num::NonZeroU32, sync::Arc, time::Duration};

use futures::stream;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{Method, Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Bytes;
use kube::{
    Config,
    client::{Body, Client, ClientBuilder},
};
use tokio::time::{sleep, timeout};
use tower::BoxError;

use crate::{
    calls::CallError,
    metrics::{ApiRequest, Metrics},
};

/// Longest wait for an answer to begin, and for more of one. An API server that lives gives up after a minute, and says so.
const SILENCE: Duration = Duration::from_secs(65);

/// So often a request that was not taken is sent again; then it is an error like any other.
const AGAIN: u32 = 8;
/// First wait before that, where the API server does not say how long; each one after it is twice as long.
const WAIT: Duration = Duration::from_millis(50);
/// Longest wait that the API server may ask for. One that asks for more is told of, instead of waited for in silence.
const LONGEST: Duration = Duration::from_secs(10);

/// The pace of all clients together. Cloning shares it.
#[derive(Clone)]
pub struct Pace {
    quota: Option<Quota>,
    limiter: Option<Arc<DefaultDirectRateLimiter>>,
    silence: Duration,
    metrics: Metrics,
}

impl Pace {
    /// `qps` requests in a second, of which `burst` may come at once; a negative number is no limit.
    pub fn new(qps: f64, burst: NonZeroU32, metrics: Metrics) -> Self {
        let interval = Duration::try_from_secs_f64(qps.recip()).ok();
        let quota = interval.and_then(Quota::with_period).map(|quota| quota.allow_burst(burst));
        Self { quota, limiter: limiter(quota), silence: SILENCE, metrics }
    }

    /// The same pace for another server, which neither waits for the other.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { limiter: limiter(self.quota), ..self.clone() }
    }

    /// A client that is counted, not faster than that, and has an error for an answer that does not come.
    pub fn of(&self, mut config: Config) -> kube::Result<Client> {
        // kube sends everything again, also what was given up and may be done yet.
        config.default_retry = false;
        Ok(self.around(Client::try_from(config)?))
    }

    fn around(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let pace = self.clone();
        let paced = tower::service_fn(move |request: Request<Body>| {
            let (pace, client) = (pace.clone(), client.clone());
            async move {
                let (mut request, mut wait) = (request, WAIT);
                for _ in 0..AGAIN {
                    let Some(same) = copy(&request) else { break };
                    let answer = pace.ask(&client, request).await?;
                    let Some(pause) = again_after(same.method(), &answer, wait) else { return Ok(answer) };
                    sleep(pause).await;
                    (request, wait) = (same, wait * 2);
                }
                pace.ask(&client, request).await
            }
        });
        ClientBuilder::new(paced, namespace).build()
    }

    async fn ask(&self, client: &Client, request: Request<Body>) -> kube::Result<Response<impl Answer + use<>>> {
        if let Some(limiter) = &self.limiter {
            limiter.until_ready().await;
        }
        let verb = verb(&request);
        let answer = timeout(self.silence, client.send(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(kube::Error::Service(CallError::Timeout(self.silence).into())));
        let code = answer.as_ref().map(|answer| answer.status().as_u16().to_string());
        let code = code.map_or(Cow::Borrowed("none"), Cow::Owned);
        self.metrics.api_requests.get_or_create(&ApiRequest { verb, code }).inc();
        // kube ends a watch that is silent for longer than one may be.
        let silence = if verb == "watch" { Duration::MAX } else { self.silence };
        answer.map(|answer| answer.map(|body| bounded(body, silence)))
    }
}

/// After which time the same may be sent again, since it was not taken or changes nothing; `None` for never. Of what else
/// was given up somebody has to know that it may be done yet.
fn again_after<B>(method: &Method, answer: &Response<B>, wait: Duration) -> Option<Duration> {
    let may = match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => *method == Method::GET,
        _ => false,
    };
    let told = || answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs);
    may.then(|| told().unwrap_or(wait)).filter(|pause| *pause <= LONGEST)
}

fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut same = Request::new(request.body().try_clone()?);
    same.method_mut().clone_from(request.method());
    same.uri_mut().clone_from(request.uri());
    same.headers_mut().clone_from(request.headers());
    same.extensions_mut().clone_from(request.extensions());
    Some(same)
}

/// The body of an answer.
trait Answer: hyper::body::Body<Data = Bytes, Error = BoxError> + Send + 'static {}
impl<B: hyper::body::Body<Data = Bytes, Error = BoxError> + Send + 'static> Answer for B {}

/// A body that ends in an error where it does not go on.
fn bounded(body: Body, silence: Duration) -> impl Answer {
    StreamBody::new(stream::unfold(body, move |mut body| async move {
        let frame = match timeout(silence, body.frame()).await {
            Ok(frame) => frame?.map_err(BoxError::from),
            Err(_) => Err(CallError::Timeout(silence).into()),
        };
        Some((frame, body))
    }))
}

fn limiter(quota: Option<Quota>) -> Option<Arc<DefaultDirectRateLimiter>> {
    quota.map(|quota| Arc::new(RateLimiter::direct(quota)))
}

/// As Kubernetes calls it; a list is a get too.
fn verb(request: &Request<Body>) -> &'static str {
    let watches = |query: &str| query.split('&').any(|part| part == "watch=true");
    match *request.method() {
        Method::GET if request.uri().query().is_some_and(watches) => "watch",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::StreamExt as _;
    use hyper::body::Frame;
    use jiff::Timestamp;

    use super::*;
    use crate::context::chain;

    fn pace(qps: f64, burst: u32) -> Pace {
        Pace::new(qps, NonZeroU32::new(burst).unwrap(), Metrics::new(Timestamp::UNIX_EPOCH))
    }

    fn client() -> Client {
        let answer = |_: http::Request<Body>| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) };
        Client::new(tower::service_fn(answer), "default")
    }

    /// How many of a few requests are answered at once.
    async fn at_once(pace: &Pace) -> usize {
        let client = pace.around(client());
        let request = || client.send(http::Request::new(Body::empty()));
        let asked = (0..5).map(|_| tokio::time::timeout(Duration::from_secs(2), request()));
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().filter(|answer| matches!(answer, Ok(Ok(_)))).count()
    }

    #[tokio::test]
    async fn what_exceeds_the_burst_waits_and_a_negative_number_is_no_limit() {
        let slow = pace(0.001, 2);
        assert_eq!(at_once(&slow).await, 2);
        assert_eq!(at_once(&slow.apart()).await, 2);
        assert_eq!(at_once(&pace(-1.0, 2)).await, 5);
    }

    #[tokio::test]
    async fn what_is_not_answered_or_not_to_its_end_is_an_error() {
        let begun = || stream::once(async { Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{"))) });
        let answer = move |request: http::Request<Body>| async move {
            if request.uri().path() == "/hangs" {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(http::Response::new(StreamBody::new(begun().chain(stream::pending()))))
        };
        let pace = Pace { silence: Duration::from_millis(50), ..pace(-1.0, 1) };
        let client = pace.around(Client::new(tower::service_fn(answer), "default"));
        let ask = async |uri: &str| client.request_text(Request::get(uri).body(Vec::new()).unwrap()).await;
        for uri in ["/hangs", "/hangs?watch=true", "/breaks-off"] {
            let asked = tokio::time::timeout(Duration::from_secs(30), ask(uri));
            let error = chain(&asked.await.expect(uri).unwrap_err());
            assert!(error.contains("did not answer within"), "{uri}: {error}");
        }
        let quiet = tokio::time::timeout(pace.silence * 4, ask("/quiet?watch=true"));
        assert!(quiet.await.is_err(), "a watch may be quiet");
    }

    #[tokio::test]
    async fn only_what_was_not_taken_or_changes_nothing_is_sent_again() {
        let asked = |method: Method, code: StatusCode| async move {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = count.clone();
            let answer = move |_: http::Request<Body>| {
                let is_first = counted.fetch_add(1, Ordering::Relaxed) == 0;
                let mut answer = http::Response::new(Body::empty());
                *answer.status_mut() = if is_first { code } else { StatusCode::OK };
                async { Ok::<_, Infallible>(answer) }
            };
            let client = pace(-1.0, 1).around(Client::new(tower::service_fn(answer), "default"));
            let request = Request::builder().method(method).uri("/x").body(Body::from(b"{}".to_vec())).unwrap();
            let last = client.send(request).await.unwrap().status();
            (count.load(Ordering::Relaxed), last)
        };
        let (full, late) = (StatusCode::TOO_MANY_REQUESTS, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(asked(Method::POST, full).await, (2, StatusCode::OK));
        assert_eq!(asked(Method::GET, late).await, (2, StatusCode::OK));
        for method in [Method::POST, Method::PATCH, Method::DELETE] {
            assert_eq!(asked(method, late).await, (1, late), "it may be done");
        }
    }

    #[test]
    fn nobody_waits_for_hours_because_a_balancer_says_so() {
        let after = |seconds: &str| {
            let answer = Response::builder().status(503).header(RETRY_AFTER, seconds).body(()).unwrap();
            again_after(&Method::GET, &answer, WAIT)
        };
        assert_eq!(after("2"), Some(Duration::from_secs(2)));
        assert_eq!(after("3600"), None);
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(WAIT));
    }

    #[tokio::test]
    async fn requests_are_counted_by_verb_and_code() {
        let pace = pace(-1.0, 1);
        let client = pace.around(client());
        for (method, uri) in [("GET", "/x?limit=1"), ("GET", "/x?&watch=true"), ("PATCH", "/x"), ("PATCH", "/x")] {
            let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
            client.send(request).await.unwrap();
        }
        let counted = |verb| {
            let labels = ApiRequest { verb, code: "200".into() };
            pace.metrics.api_requests.get_or_create(&labels).get()
        };
        assert_eq!(["get", "watch", "patch", "delete"].map(counted), [1, 1, 2, 0]);
    }
}
