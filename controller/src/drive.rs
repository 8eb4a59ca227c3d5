//! Runs a reconciler over a stream of triggers: one pass at a time per object, failures tried again with growing waits
//! and without end, a clean finish when told to stop, none for who no longer leads. What a pass does is the reconciler's
//! business.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, TryFutureExt as _};
use kube::{
    Resource,
    runtime::{
        controller::{self, Action, applier},
        reflector::{Lookup, ObjectRef, Store},
    },
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{backoff, context::chain, queue::Queue};

/// How a reconciler is run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Passes at once.
    pub concurrency: u16,
    /// Tries after a failure before it is left until something changes; `None` for without end.
    pub retries: Option<u32>,
}

/// What a pass came to that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// All is done, until then.
    Done(Action),
    /// It is too early to try again, for so long or until something changes: what failed before still counts.
    Early(Option<Duration>),
}

/// When a reconciler ends.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Nothing new is taken up; what is under way comes to its end.
    pub stop: CancellationToken,
    /// What is under way is broken off.
    pub lost: CancellationToken,
}

/// Runs `pass` for every trigger; it is told how often it has failed in a row.
pub async fn drive<K, C, E, Pass>(
    pass: impl Fn(Arc<K>, Arc<C>, u32) -> Pass,
    context: Arc<C>,
    store: Store<K>,
    triggers: impl Stream<Item = ObjectRef<K>>,
    limits: Limits,
    queue: Queue,
    Ends { stop, lost }: Ends,
) where
    K: Clone + Resource<DynamicType = ()> + 'static,
    E: std::error::Error + Send + 'static,
    Pass: Future<Output = Result<Passed, E>> + Send + 'static,
{
    let failures = Arc::<Failures>::default();
    let counted = |object: Arc<K>, context: Arc<C>| {
        let (key, failures) = (ObjectRef::from_obj(object.as_ref()), failures.clone());
        queue.leave(&key);
        let pulse = queue.pass(&key);
        let failed = failures.of(&key, object.meta().uid.as_ref());
        let succeeded = move |passed| match passed {
            Passed::Done(action) => {
                failures.forget(&key);
                action
            }
            Passed::Early(left) => left.map_or_else(Action::await_change, Action::requeue),
        };
        Box::pin(pulse.scope(pass(object, context, failed)).map_ok(succeeded))
    };
    let retry = |object: Arc<K>, error: &E, _: Arc<C>| {
        let key = ObjectRef::from_obj(object.as_ref());
        let count = failures.again(&key, object.meta().uid.as_ref());
        if limits.retries.is_some_and(|retries| count > retries) {
            failures.forget(&key);
            tracing::error!(object = %key, error = chain(error), "Error updating, giving up");
            return Action::await_change();
        }
        let wait = backoff::after(count);
        tracing::warn!(object = %key, error = chain(error), ?wait, "Error updating, will retry");
        Action::requeue(wait)
    };
    let triggers = triggers.take_until(stop.cancelled_owned());
    let triggers = triggers.inspect(|object| queue.enter(object)).map(Ok::<_, Infallible>);
    let config = controller::Config::default().concurrency(limits.concurrency);
    let passes = applier(counted, retry, context, store, triggers, config).for_each(|result| async {
        match result {
            Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {} // logged above
            // Deleted while it waited for its turn.
            Err(controller::Error::ObjectNotFound(object)) => {
                queue.leave(&object);
                failures.forget(&object);
                tracing::debug!(%object, "gone before its pass");
            }
            Err(error) => tracing::error!(%error, "the reconciler cannot go on"),
        }
    });
    lost.run_until_cancelled(queue.turning().idle(passes)).await;
    queue.close();
}

/// Namespace and name.
type Key = (Option<String>, String);

/// How often the passes over each object failed since one succeeded, with its UID: one that is made anew under the same
/// name has no past.
#[derive(Default)]
struct Failures(Mutex<HashMap<Key, (Option<String>, u32)>>);

impl Failures {
    fn of<K: Lookup>(&self, object: &ObjectRef<K>, uid: Option<&String>) -> u32 {
        self.0.lock().get(&key(object)).filter(|(of, _)| of.as_ref() == uid).map_or(0, |(_, count)| *count)
    }

    fn again<K: Lookup>(&self, object: &ObjectRef<K>, uid: Option<&String>) -> u32 {
        let mut all = self.0.lock();
        let (of, count) = all.entry(key(object)).or_default();
        if of.as_ref() != uid {
            (*of, *count) = (uid.cloned(), 0);
        }
        *count = count.saturating_add(1);
        *count
    }

    fn forget<K: Lookup>(&self, object: &ObjectRef<K>) {
        self.0.lock().remove(&key(object));
    }
}

fn key<K: Lookup>(object: &ObjectRef<K>) -> Key {
    (object.namespace.clone(), object.name.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::stream;
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Secret;
    use kube::{ResourceExt as _, runtime::reflector, runtime::watcher::Event};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{health::PASS, metrics::Metrics, pulse::Pulses};

    /// Hears of a pass, and when that may end.
    type Hang = (oneshot::Sender<String>, oneshot::Receiver<()>);

    #[test]
    fn one_that_is_made_anew_has_no_past() {
        let failures = Failures::default();
        let object = ObjectRef::<Secret>::new("db").within("shop");
        let [one, other] = ["1", "2"].map(str::to_owned);
        assert_eq!([1, 2].map(|_| failures.again(&object, Some(&one))), [1, 2]);
        assert_eq!(failures.of(&object, Some(&other)), 0);
        assert_eq!([1, 2].map(|_| failures.again(&object, Some(&other))), [1, 2]);
        assert_eq!(failures.of(&object, Some(&other)), 2);
        failures.forget(&object);
        assert_eq!(failures.again(&object, Some(&other)), 1);
    }

    #[tokio::test]
    async fn a_pass_that_hangs_is_noticed_until_it_ends() {
        let (pulses, stop) = (Pulses::default(), CancellationToken::new());
        let (store, mut writer) = reflector::store();
        let mut secret = Secret::default();
        (secret.metadata.name, secret.metadata.namespace) = (Some("db".to_owned()), Some("shop".to_owned()));
        let reference = ObjectRef::from_obj(&secret);
        for event in [Event::Init, Event::InitApply(secret), Event::InitDone] {
            writer.apply_watcher_event(&event);
        }
        let (begun, has_begun) = oneshot::channel();
        let (end, may_end) = oneshot::channel::<()>();
        let hangs = Arc::new(Mutex::new(Some((begun, may_end))));
        let pass = |secret: Arc<Secret>, hangs: Arc<Mutex<Option<Hang>>>, _| async move {
            let Some((begun, may_end)) = hangs.lock().take() else { return Ok(Passed::Done(Action::await_change())) };
            let _ = begun.send(secret.name_any());
            let _ = may_end.await;
            Ok::<_, std::fmt::Error>(Passed::Done(Action::await_change()))
        };
        let queue = Queue::new("unseal", Metrics::new(Timestamp::UNIX_EPOCH), pulses.clone());
        let triggers = stream::iter([reference]).chain(stream::pending());
        let limits = Limits { concurrency: 1, retries: None };
        let ends = Ends { stop: stop.clone(), lost: CancellationToken::new() };
        let driven = drive(pass, hangs, store, triggers, limits, queue, ends);
        let judged = async {
            let name = has_begun.await.unwrap();
            let stuck = pulses.stuck(Instant::now() + PASS);
            assert!(stuck.iter().any(|it| it.name == "unseal" && it.about == format!("shop/{name}")), "{stuck:?}");
            assert!(pulses.stuck(Instant::now()).is_empty(), "not yet");
            end.send(()).unwrap();
            let ended = async {
                while pulses.stuck(Instant::now() + PASS).iter().any(|it| !it.about.is_empty()) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
            stop.cancel();
        };
        tokio::join!(driven, judged);
        assert!(pulses.stuck(Instant::now() + PASS).is_empty(), "the loop has ended, and is not stuck");
    }
}
