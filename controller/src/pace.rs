//! `--kubeclient-qps`: how many requests the API server gets in a second. Counts every request of the process, watches
//! among them; decides nothing about any.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kube::client::{Body, Client, ClientBuilder};

/// The pace of all clients together. Cloning shares it.
#[derive(Clone)]
pub struct Pace(Option<Arc<DefaultDirectRateLimiter>>);

impl Pace {
    /// `qps` requests in a second, of which `burst` may come at once; a negative number is no limit.
    pub fn new(qps: f64, burst: NonZeroU32) -> Self {
        let interval = Duration::try_from_secs_f64(qps.recip()).ok();
        let quota = interval.and_then(Quota::with_period).map(|quota| quota.allow_burst(burst));
        Self(quota.map(|quota| Arc::new(RateLimiter::direct(quota))))
    }

    /// The same client, but not faster than that.
    pub fn of(&self, client: Client) -> Client {
        let Some(limiter) = self.0.clone() else { return client };
        let namespace = client.default_namespace().to_owned();
        let paced = tower::service_fn(move |request: http::Request<Body>| {
            let (limiter, client) = (limiter.clone(), client.clone());
            async move {
                limiter.until_ready().await;
                client.send(request).await
            }
        });
        ClientBuilder::new(paced, namespace).build()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn client() -> Client {
        let answer = |_: http::Request<Body>| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) };
        Client::new(tower::service_fn(answer), "default")
    }

    /// How many of a few requests are answered at once.
    async fn at_once(pace: &Pace) -> usize {
        let client = pace.of(client());
        let mut answered = 0;
        for _ in 0..5 {
            let request = http::Request::new(Body::empty());
            let waiting = tokio::time::timeout(Duration::from_millis(200), client.send(request));
            answered += usize::from(waiting.await.is_ok_and(|answer| answer.is_ok()));
        }
        answered
    }

    #[tokio::test]
    async fn what_exceeds_the_burst_waits_and_a_negative_number_is_no_limit() {
        let burst = NonZeroU32::new(2).unwrap();
        assert_eq!(at_once(&Pace::new(0.001, burst)).await, 2);
        assert_eq!(at_once(&Pace::new(-1.0, burst)).await, 5);
    }
}
