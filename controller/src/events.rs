//! Publishes core/v1 Events in upstream's form. Events are sent on change only, so there is nothing to aggregate. Nobody
//! waits for them: they are sent one after the other beside the work that they tell of and in no hurry, since each costs
//! the API server as much as a Secret does. One that cannot be sent is logged, never an obstacle; nor are too many of them:
//! those that find no room are left out.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use governor::{Quota, RateLimiter};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::{calls::bounded, context::chain};

/// Events that may wait: more than a burst makes, and a few MiB at most.
const WAITING: usize = 4096;
/// So many at once, and then one in each [`INTERVAL`], while less than half of the room is taken.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(49);
/// See [`BURST`].
const INTERVAL: Duration = Duration::from_millis(20);

/// Whether an Event asks for attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Sends Events.
#[derive(Clone)]
pub struct Events {
    orders: mpsc::Sender<Order>,
    /// Somebody waits for the end.
    hurry: CancellationToken,
    /// There was no room for one, and it was told.
    is_full: Arc<AtomicBool>,
}

enum Order {
    Say(Box<Said>),
    /// Answer once all before is sent.
    Tell(oneshot::Sender<()>),
}

/// An Event in as little memory as it takes.
struct Said {
    about: ObjectReference,
    severity: Severity,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Events {
    /// `component` is what an Event names as its source.
    pub fn new(client: Client, component: &'static str) -> Self {
        let (orders, waiting) = mpsc::channel(WAITING);
        let hurry = CancellationToken::new();
        tokio::spawn(send(client, component, waiting, hurry.clone()));
        Self { orders, hurry, is_full: Arc::default() }
    }

    /// Says something about an object.
    pub fn publish<K>(&self, object: &K, severity: Severity, reason: &str, message: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let said = Said {
            about: ObjectReference { resource_version: None, ..object.object_ref(&()) },
            severity,
            reason: reason.to_owned(),
            message: message.chars().take(1024).collect(), // the API server's limit
            at: Timestamp::now(),
        };
        if self.orders.capacity() > WAITING / 2 {
            self.is_full.store(false, Ordering::Relaxed);
        }
        // The other end lives as long as the runtime; at its end there is nobody to tell.
        let full = matches!(self.orders.try_send(Order::Say(Box::new(said))), Err(TrySendError::Full(_)));
        if full && !self.is_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(waiting = WAITING, "the API server does not take Events in time; more of them are left out");
        }
    }

    /// Waits until all that was said is sent, without a pause from now on: nothing is left to give way to. Who no longer
    /// leads waits for nothing, lest an API server that hangs keep it from leading again; it is sent all the same.
    pub async fn sent(&self, lost: &CancellationToken) {
        let sent = async {
            self.hurry.cancel();
            let (done, all_sent) = oneshot::channel();
            // An error says that nobody sends any more.
            let _ = self.orders.send(Order::Tell(done)).await;
            let _ = all_sent.await;
        };
        let _ = lost.run_until_cancelled(sent).await;
    }
}

async fn send(client: Client, component: &'static str, mut waiting: mpsc::Receiver<Order>, hurry: CancellationToken) {
    let pace = Quota::with_period(INTERVAL).map(|quota| RateLimiter::direct(quota.allow_burst(BURST)));
    while let Some(order) = waiting.recv().await {
        match order {
            Order::Say(said) => {
                if let Some(pace) = pace.as_ref().filter(|_| waiting.len() < WAITING / 2) {
                    tokio::select! {
                        () = pace.until_ready() => {}
                        () = hurry.cancelled() => {}
                    }
                }
                create(&client, component, *said).await;
            }
            Order::Tell(done) => drop(done.send(())),
        }
    }
}

async fn create(client: &Client, component: &'static str, said: Said) {
    let Said { about, severity, reason, message, at } = said;
    let name = about.name.clone().unwrap_or_default();
    let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", at.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: about,
        type_: Some(<&str>::from(severity).to_owned()),
        reason: Some(reason.clone()),
        message: Some(message),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        count: Some(1),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = bounded(api.create(&PostParams::default(), &event)).await
        && !error.is_ending()
    {
        tracing::warn!(error = chain(&error), namespace, name, reason, "cannot publish an Event");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Secret;
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn at_the_end_all_that_was_said_is_sent() {
        const SAID: usize = 3000;
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let answer = move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, std::convert::Infallible>(Response::new(Body::from(b"{}".to_vec()))) }
        };
        let events = Events::new(Client::new(tower::service_fn(answer), "default"), "test");
        for _ in 0..SAID {
            events.publish(&Secret::default(), Severity::Normal, "Unsealed", "");
        }
        events.sent(&CancellationToken::new()).await;
        assert_eq!(sent.load(Ordering::Relaxed), SAID);
    }

    #[tokio::test]
    async fn an_api_server_that_takes_none_keeps_nobody_waiting() {
        let hangs = |_: Request<Body>| std::future::pending::<Result<Response<Body>, std::convert::Infallible>>();
        let events = Events::new(Client::new(tower::service_fn(hangs), "default"), "test");
        for _ in 0..=WAITING {
            assert!(!events.is_full.load(Ordering::Relaxed));
            events.publish(&Secret::default(), Severity::Normal, "Unsealed", "");
        }
        assert!(events.is_full.load(Ordering::Relaxed), "and what is left out is told");
    }

    #[tokio::test]
    async fn who_no_longer_leads_waits_for_no_answer() {
        let (asked, mut was_asked) = mpsc::unbounded_channel();
        let hangs = move |_: Request<Body>| {
            let _ = asked.send(());
            std::future::pending::<Result<Response<Body>, std::convert::Infallible>>()
        };
        let events = Events::new(Client::new(tower::service_fn(hangs), "default"), "test");
        events.publish(&Secret::default(), Severity::Normal, "Unsealed", "");
        was_asked.recv().await.unwrap();
        let lost = CancellationToken::new();
        let sent = events.sent(&lost);
        let ended = async {
            tokio::join!(sent, async { lost.cancel() });
        };
        // Less than a call may take.
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    }
}
