//! `--kubeclient-qps`: how many requests the API server gets in a second. Every request of the process comes by
//! here, watches among them, and so is counted for the metrics too. Decides nothing about any.

use std::{borrow::Cow, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{Method, Request};
use kube::client::{Body, Client, ClientBuilder};

use crate::metrics::{ApiRequest, Metrics};

/// The pace of all clients together. Cloning shares it.
#[derive(Clone)]
pub struct Pace {
    quota: Option<Quota>,
    limiter: Option<Arc<DefaultDirectRateLimiter>>,
    metrics: Metrics,
}

impl Pace {
    /// `qps` requests in a second, of which `burst` may come at once; a negative number is no limit.
    pub fn new(qps: f64, burst: NonZeroU32, metrics: Metrics) -> Self {
        let interval = Duration::try_from_secs_f64(qps.recip()).ok();
        let quota = interval.and_then(Quota::with_period).map(|quota| quota.allow_burst(burst));
        Self { quota, limiter: limiter(quota), metrics }
    }

    /// The same pace for another server, which neither waits for the other.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { limiter: limiter(self.quota), ..self.clone() }
    }

    /// The same client, counted, and not faster than that.
    pub fn of(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let pace = self.clone();
        let paced = tower::service_fn(move |request: Request<Body>| {
            let (pace, client) = (pace.clone(), client.clone());
            async move {
                if let Some(limiter) = &pace.limiter {
                    limiter.until_ready().await;
                }
                let verb = verb(&request);
                let answer = client.send(request).await;
                let code = answer.as_ref().map(|answer| answer.status().as_u16().to_string());
                let code = code.map_or(Cow::Borrowed("none"), Cow::Owned);
                pace.metrics.api_requests.get_or_create(&ApiRequest { verb, code }).inc();
                answer
            }
        });
        ClientBuilder::new(paced, namespace).build()
    }
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
    use std::convert::Infallible;

    use jiff::Timestamp;

    use super::*;

    fn pace(qps: f64, burst: u32) -> Pace {
        Pace::new(qps, NonZeroU32::new(burst).unwrap(), Metrics::new(Timestamp::UNIX_EPOCH))
    }

    fn client() -> Client {
        let answer = |_: http::Request<Body>| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) };
        Client::new(tower::service_fn(answer), "default")
    }

    /// How many of a few requests are answered at once.
    async fn at_once(pace: &Pace) -> usize {
        let client = pace.of(client());
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
    async fn requests_are_counted_by_verb_and_code() {
        let pace = pace(-1.0, 1);
        let client = pace.of(client());
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
