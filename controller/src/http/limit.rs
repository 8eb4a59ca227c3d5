//! How often an endpoint may be asked: upstream's algorithm (GCRA), numbers and headers.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::StreamExt as _;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};

use super::refusal::Refusal;

/// How many requests are let through.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In a second, for ever.
    pub per_second: NonZeroU32,
    /// On top of that, at once.
    pub burst: u32,
}

/// Lets through, or not.
pub struct Limiter<C: Clock = MonotonicClock> {
    quota: Quota,
    clock: C,
    cells: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
}

/// What the headers tell. Times are in full seconds, rounded up, as upstream's.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    limit: u32,
    remaining: u32,
    /// Until nothing counts any more.
    reset: u64,
    /// Until the next request is let through, if this one was not.
    retry: Option<u64>,
}

impl Limiter {
    pub fn new(rate: Rate) -> Self {
        Self::with_clock(rate, MonotonicClock)
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(Rate { per_second, burst }: Rate, clock: C) -> Self {
        // Upstream counts the burst on top of the one request that is always let through.
        let quota = Quota::per_second(per_second).allow_burst(NonZeroU32::MIN.saturating_add(burst));
        let cells = RateLimiter::direct_with_clock(quota, clock.clone()).with_middleware();
        Self { quota, clock, cells }
    }

    fn check(&self) -> Verdict {
        let (limit, interval) = (self.quota.burst_size().get(), self.quota.replenish_interval());
        let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        match self.cells.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                Verdict { limit, remaining, reset: seconds(interval * (limit - remaining)), retry: None }
            }
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let reset = seconds(wait + interval * (limit - 1));
                Verdict { limit, remaining: 0, reset, retry: Some(seconds(wait)) }
            }
        }
    }
}

impl Verdict {
    fn tell(&self, headers: &mut HeaderMap) {
        let mut tell = |name: &'static str, number: u64| {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(number));
        };
        tell("x-ratelimit-limit", self.limit.into());
        tell("x-ratelimit-remaining", self.remaining.into());
        tell("x-ratelimit-reset", self.reset);
        if let Some(retry) = self.retry {
            tell("retry-after", retry);
        }
    }
}

/// As much as is read of the body of a request that is refused: as Go's server does it.
const DRAINED: usize = 256 << 10;

/// Answers 429 to what comes too often.
pub async fn limited(State(limiter): State<Arc<Limiter>>, request: Request, next: Next) -> Response {
    let verdict = limiter.check();
    let mut response = if verdict.retry.is_none() {
        next.run(request).await
    } else {
        drain(request.into_body()).await;
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "limit exceeded").into_response()
    };
    verdict.tell(response.headers_mut());
    response
}

/// Else the connection ends under who still sends, and of the refusal the API server's proxy makes a 503.
async fn drain(body: Body) {
    let (mut body, mut read) = (body.into_data_stream(), 0);
    while let Some(Ok(chunk)) = body.next().await
        && read < DRAINED
    {
        read += chunk.len();
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn numbers_are_upstreams() {
        let rate = Rate { per_second: NonZeroU32::new(2).unwrap(), burst: 2 };
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::with_clock(rate, clock.clone());
        let verdict = |remaining, reset, retry| Verdict { limit: 3, remaining, reset, retry };
        assert_eq!(limiter.check(), verdict(2, 1, None));
        assert_eq!(limiter.check(), verdict(1, 1, None));
        assert_eq!(limiter.check(), verdict(0, 2, None));
        assert_eq!(limiter.check(), verdict(0, 2, Some(1)));
        clock.advance(Duration::from_millis(500));
        assert_eq!(limiter.check(), verdict(0, 2, None));
        assert_eq!(limiter.check(), verdict(0, 2, Some(1)));
        clock.advance(Duration::from_mins(1));
        assert_eq!(limiter.check(), verdict(2, 1, None));
    }
}
