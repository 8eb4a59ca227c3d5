//! Calls to the API server, bounded in time, and what their refusals mean. Decides nothing.

use std::{
    error::Error,
    fmt::Debug,
    future::{Ready, ready},
    io, iter, mem,
    time::Duration,
};

use axum::http::{Request, header::CONTENT_TYPE};
use crds::{GitSync, git_sync::RECONCILE_REQUESTED};
use futures::{
    future::BoxFuture,
    stream::{self, BufferUnordered, Stream, StreamExt as _},
};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    context::{FIELD_MANAGER, chain},
    metrics::{Metrics, Watched},
    pulse,
};

/// Longest wait for one answer of the API server. It answers within a second or is in trouble.
const CALL: Duration = Duration::from_secs(30);

/// Calls of one sync under way at once.
const CONCURRENCY: usize = 16;

/// It has given up, and what it asked its store to do may be done yet.
const TOO_LATE: u16 = 504;

/// What it says of a field that a definition does not have.
const UNDECLARED: &str = "field not declared in schema";

/// Work of which [`CONCURRENCY`] is under way at once. What waits is not made yet: each piece takes some KiB.
pub type Concurrent<'a, T> = BufferUnordered<stream::Iter<Box<dyn Iterator<Item = BoxFuture<'a, T>> + Send + 'a>>>;

/// See [`Concurrent`]. Results come as they are there.
pub fn concurrently<'a, T>(work: impl Iterator<Item = BoxFuture<'a, T>> + Send + 'a) -> Concurrent<'a, T> {
    let work: Box<dyn Iterator<Item = _> + Send + 'a> = Box::new(work);
    stream::iter(work).buffer_unordered(CONCURRENCY)
}

/// Has a GitSync look at Git: the request stands on it, where the replica that leads sees it.
pub async fn call(client: &Client, (namespace, name): (&str, &str), request: &str) -> Result<(), CallError> {
    let api: Api<PartialObjectMeta<GitSync>> = Api::namespaced(client.clone(), namespace);
    let asked = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: request}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    bounded(api.patch_metadata(name, &params, &Patch::Merge(&asked))).await.map(drop)
}

/// A call to the API server that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It said no, or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// It did not say anything.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl CallError {
    /// HTTP status of the answer; `None` if there was none.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Somebody else was faster, or owns the field.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// An object of that name is there. A quota or a webhook may say [`Self::is_conflict`] to a new name, too.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.is_already_exists())
    }

    /// Nothing is made any more in a namespace that is being deleted.
    pub fn is_ending(&self) -> bool {
        let Self::Api(kube::Error::Api(status)) = self else { return false };
        status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// No such object, or no such kind.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// No such kind, or not in this version: of an object that is missing the answer has the name.
    pub fn is_unserved(&self) -> bool {
        let Self::Api(kube::Error::Api(status)) = self else { return false };
        status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty())
    }

    /// It is not as its definition wants it.
    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// Nobody was there to be asked.
    fn is_unreached(&self) -> bool {
        let mut causes = iter::successors(Some(self as &(dyn Error + 'static)), |&error| error.source());
        causes.any(|error| {
            error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        })
    }

    /// A well-considered no: the same request would be refused again.
    pub fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| (400..500).contains(&code) && ![408, 429].contains(&code))
    }
}

/// Awaits a change, and says so when nobody heard what came of it: no answer came, or it is not waited for any more. If it
/// went through all the same, whoever tries again finds nothing left to change.
pub async fn heard<T>(change: impl Future<Output = Result<T, CallError>>, unheard: impl Fn()) -> Result<T, CallError> {
    let mut asked = Asked { heard: false, unheard };
    let answer = change.await;
    let is_answer = |error: &CallError| error.code().is_some_and(|code| code != TOO_LATE);
    asked.heard = answer.as_ref().err().is_none_or(|error| is_answer(error) || error.is_unreached());
    answer
}

/// Of a change that is broken off nothing but this is left.
struct Asked<F: Fn()> {
    heard: bool,
    unheard: F,
}

impl<F: Fn()> Drop for Asked<F> {
    fn drop(&mut self) {
        if !self.heard {
            (self.unheard)();
        }
    }
}

/// Awaits one call, but not for ever.
pub async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    within(CALL, call).await
}

/// Awaits one call for so long.
pub async fn within<T>(time: Duration, call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    let answer = tokio::time::timeout(time, call).await;
    pulse::beat();
    answer.map_err(|_| CallError::Timeout(time))?.map_err(CallError::Api)
}

/// Writes a status whole, and only to the very object that it is about. One that is gone needs none.
pub async fn write_status<K>(client: &Client, about: &K, status: &impl Serialize) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api: Api<PartialObjectMeta<K>> =
        Api::namespaced(client.clone(), about.meta().namespace.as_deref().unwrap_or_default());
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"uid": about.meta().uid},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let name = about.meta().name.as_deref().unwrap_or_default();
    let written = match bounded(api.patch_status(name, &params, &Patch::Apply(body))).await {
        Err(error) if chain(&error).contains(UNDECLARED) => replace_status(client, about, status).await,
        written => written.map(drop),
    };
    written.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}

/// Under a definition that is older than we are: it takes no apply that names a field of which it does not know, and of
/// what is written otherwise it keeps the rest.
async fn replace_status<K>(client: &Client, about: &K, status: &impl Serialize) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": about.meta().uid},
        {"op": "add", "path": "/status", "value": status},
    ]);
    let (namespace, name) = (about.meta().namespace.as_deref(), about.meta().name.as_deref().unwrap_or_default());
    let url = format!("{}/{name}/status?fieldManager={FIELD_MANAGER}", K::url_path(&(), namespace));
    let request =
        Request::patch(url).header(CONTENT_TYPE, "application/json-patch+json").body(patch.to_string().into());
    let request =
        request.map_err(|error| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error)))?;
    bounded(client.request::<PartialObjectMeta<K>>(request)).await.map(drop)
}

/// A watch that goes on by itself. The longer it fails the less often it is tried.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    patient(watcher::watcher(api, config), DefaultBackoff::default())
}

/// A list that begins is no success: it is told once it brings something, so that one that then fails is waited for longer.
fn patient<K: Send>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    backoff: impl Backoff,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let held = events.scan(false, |begun, event| {
        let events = match event {
            Ok(Event::Init) => {
                *begun = true;
                [None, None]
            }
            Ok(event) => [mem::take(begun).then_some(Ok(Event::Init)), Some(Ok(event))],
            Err(error) => [None, Some(Err(error))],
        };
        ready(Some(stream::iter(events.into_iter().flatten())))
    });
    held.flatten().backoff(backoff)
}

/// What a watch brings, with its errors logged. Those are counted that keep it from beginning: one that breaks off may do so
/// every few minutes, where something between us and the API server ends what is silent.
pub fn logged<T>(kind: &'static str, metrics: &Metrics) -> impl FnMut(watcher::Result<T>) -> Ready<Option<T>> + use<T> {
    let errors = metrics.watch_errors.get_or_create(&Watched { kind }).clone();
    move |event| {
        let told = |error: &watcher::Error| {
            if matches!(error, watcher::Error::InitialListFailed(_) | watcher::Error::WatchStartFailed(_)) {
                errors.inc();
            }
            tracing::warn!(error = chain(error), "cannot watch {kind}s; trying again");
        };
        ready(event.inspect_err(told).ok())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use futures::FutureExt as _;
    use kube::core::{Status, response::StatusDetails};

    use super::*;

    /// Failures in a row, as it takes them.
    #[derive(Clone, Default)]
    struct Counts(Arc<AtomicU32>);

    impl Iterator for Counts {
        type Item = Duration;

        fn next(&mut self) -> Option<Duration> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Some(Duration::ZERO)
        }
    }

    impl Backoff for Counts {
        fn reset(&mut self) {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_list_that_begins_and_fails_is_no_success() {
        let failure = || Err::<Event<u8>, _>(watcher::Error::NoResourceVersion);
        let fails = [0; 3].into_iter().flat_map(|_| [Ok(Event::Init), failure()]);
        let then = [Ok(Event::Init), Ok(Event::InitApply(1)), Ok(Event::InitDone), failure()];
        let counts = Counts::default();
        let mut watch = pin!(patient(stream::iter(fails.chain(then)), counts.clone()));
        let failures = || counts.0.load(Ordering::Relaxed);
        for tries in 1..=3 {
            assert!(watch.next().await.unwrap().is_err());
            assert_eq!(failures(), tries);
        }
        assert!(matches!(watch.next().await, Some(Ok(Event::Init))));
        assert!(matches!(watch.next().await, Some(Ok(Event::InitApply(1)))));
        assert_eq!(failures(), 0);
        assert!(matches!(watch.next().await, Some(Ok(Event::InitDone))));
        assert!(watch.next().await.unwrap().is_err());
        assert_eq!(failures(), 1);
    }

    #[tokio::test]
    async fn a_watch_that_breaks_off_is_not_counted_but_one_that_cannot_begin() {
        let metrics = Metrics::new(jiff::Timestamp::UNIX_EPOCH);
        let mut logged = logged::<()>("Secret", &metrics);
        let failed = || kube::Error::LinesCodecMaxLineLengthExceeded;
        for (error, count) in [
            (watcher::Error::WatchFailed(failed()), 0),
            (watcher::Error::InitialListFailed(failed()), 1),
            (watcher::Error::WatchStartFailed(failed()), 2),
        ] {
            assert_eq!(logged(Err(error)).await, None);
            assert_eq!(metrics.watch_errors.get_or_create(&Watched { kind: "Secret" }).get(), count);
        }
        assert_eq!(logged(Ok(())).await, Some(()));
    }

    #[test]
    fn a_kind_that_is_not_served_is_no_object_that_is_missing() {
        let error = |code, details: Option<StatusDetails>| {
            CallError::Api(kube::Error::Api(Status { code, details, ..Status::default() }.boxed()))
        };
        let named = |name: &str| serde_json::from_value(json!({"name": name})).unwrap();
        assert!(error(404, None).is_unserved() && error(404, named("")).is_unserved());
        assert!(!error(404, named("first")).is_unserved());
        assert!(!error(409, None).is_unserved());
    }

    #[tokio::test]
    async fn a_change_that_nobody_heard_of_is_told() {
        let told = AtomicU32::new(0);
        let tell = || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let hear = |answer| heard(ready(answer), tell);
        let status = |code| CallError::Api(kube::Error::Api(Status { code, ..Status::default() }.boxed()));
        hear(Ok(())).await.unwrap();
        hear(Err(status(409))).await.unwrap_err();
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        hear(Err(CallError::Api(kube::Error::Service(refused.into())))).await.unwrap_err();
        assert_eq!(told.load(Ordering::Relaxed), 0, "these are answers, or nobody was asked");
        hear(Err(CallError::Timeout(CALL))).await.unwrap_err();
        hear(Err(status(TOO_LATE))).await.unwrap_err();
        assert_eq!(told.load(Ordering::Relaxed), 2);
        let hangs = heard(std::future::pending::<Result<(), _>>(), tell);
        assert!(hangs.now_or_never().is_none());
        assert_eq!(told.load(Ordering::Relaxed), 3, "broken off");
    }
}
