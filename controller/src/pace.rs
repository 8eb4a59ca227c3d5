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
