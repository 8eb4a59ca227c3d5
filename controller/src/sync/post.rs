//! Carries messages to whom they are for, each receiver's in their order, beside the work that they tell of: a receiver
//! that is dead or slow delays neither a sync nor another receiver. It chooses nothing: what is sent is
//! [`super::notify`]'s to say, and how it is written [`super::letter`]'s. A Secret is read for each try, and kept for none.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crds::{
    GitSync,
    git_sync::GitSyncSpec,
    sync::notify::{Notify, NotifyKind},
    unseal::ClearSecret,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use parking_lot::Mutex;
use reqwest::{Client, StatusCode, redirect::Policy};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    fetch::is_account_token,
    letter::{About, Letter, Way, letter},
    notify::News,
    trust,
};
use crate::{
    calls::bounded,
    context::{Context, chain},
    events::{Events, Severity},
    metrics::Notified,
};

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Waits between tries; after the last the message is given up.
const WAITS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_mins(2)];
/// Time that is left for messages that wait when the controller ends.
const LAST: Duration = Duration::from_secs(3);
/// Messages that wait for one receiver. Of more the oldest go: the newest tell how it stands.
const WAITING: usize = 20;

/// The namespace of its Secret, and what it is.
type Receiver = (String, Notify);
/// The oldest first.
type Queue = VecDeque<(News, About)>;

/// Sends.
#[derive(Clone)]
pub struct Post {
    context: Context,
    events: Events,
    queues: Arc<Mutex<HashMap<Receiver, Queue>>>,
    /// Those that got nothing last, which was told.
    silent: Arc<Mutex<HashSet<Receiver>>>,
    /// Made once, for this machine and for all others: see [`Letter::is_near`].
    clients: Arc<Mutex<HashMap<bool, Client>>>,
    sending: TaskTracker,
    stop: CancellationToken,
}

/// Why a message did not arrive.
struct Undelivered {
    why: String,
    /// Whether it may arrive another time.
    may_pass: bool,
}

impl Post {
    /// After `stop` each message is tried once.
    pub fn new(context: Context, events: Events, stop: CancellationToken) -> Self {
        let (queues, silent, clients, sending) = (Arc::default(), Arc::default(), Arc::default(), TaskTracker::new());
        Self { context, events, queues, silent, clients, sending, stop }
    }

    /// Waits for what is still to be sent, but not for long: what then remains is lost.
    pub async fn finish(&self) {
        self.sending.close();
        // Whoever does not get them in time has missed them; who no longer leads holds nobody up.
        let sent = tokio::time::timeout(LAST, self.sending.wait());
        let _ = self.context.lost.run_until_cancelled(sent).await;
    }

    /// Takes a message in, and returns at once.
    pub fn send(&self, receiver: &Notify, news: News, about: About) {
        let receiver = (about.namespace.clone(), receiver.clone());
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(&receiver) {
            queue.push_back((news, about));
            if queue.len() > WAITING {
                queue.pop_front();
                self.count(receiver.1.kind, "dropped");
            }
            return;
        }
        queues.insert(receiver.clone(), [(news, about)].into());
        let post = self.clone();
        self.sending.spawn(async move { post.empty(&receiver).await });
    }

    /// Forgets the receivers that none of these has.
    pub fn keep<'a>(&self, syncs: impl Iterator<Item = &'a GitSync>) {
        forget(&mut self.silent.lock(), syncs);
    }

    /// Sends what waits for one receiver, until nothing does.
    async fn empty(&self, receiver: &Receiver) {
        while let Some((news, about)) = self.next(receiver) {
            self.deliver(receiver, &news, &about).await;
        }
    }

    fn next(&self, receiver: &Receiver) -> Option<(News, About)> {
        let mut queues = self.queues.lock();
        let next = queues.get_mut(receiver).and_then(VecDeque::pop_front);
        if next.is_none() {
            queues.remove(receiver);
        }
        next
    }

    async fn deliver(&self, receiver: &Receiver, news: &News, about: &About) {
        let kind = receiver.1.kind;
        let mut waits = WAITS.iter();
        let why = loop {
            let Err(Undelivered { why, may_pass }) = self.attempt(&receiver.1, news, about).await else {
                self.silent.lock().remove(receiver);
                return self.count(kind, "delivered");
            };
            let Some(wait) = waits.next().filter(|_| may_pass) else { break why };
            if self.stop.run_until_cancelled(tokio::time::sleep(*wait)).await.is_none() {
                break why;
            }
        };
        self.count(kind, "failed");
        if self.silent.lock().insert(receiver.clone()) {
            let who = <&str>::from(kind);
            let secret = receiver.1.secret_ref.as_ref().map(|secret| format!(", Secret {}", secret.name));
            let message = format!("cannot notify {who}{}: {why}", secret.unwrap_or_default());
            tracing::warn!(namespace = about.namespace, name = about.name, reason = news.reason, "{message}");
            let mut sync = GitSync::new(&about.name, GitSyncSpec::default());
            (sync.metadata.namespace, sync.metadata.uid) = (Some(about.namespace.clone()), Some(about.uid.clone()));
            self.events.publish(&sync, Severity::Warning, "NotificationFailed", &message);
        }
    }

    async fn attempt(&self, receiver: &Notify, news: &News, about: &About) -> Result<(), Undelivered> {
        let secret = match &receiver.secret_ref {
            Some(named) => {
                let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), &about.namespace);
                let read = bounded(secrets.get(&named.name)).await;
                let unread = |error| Undelivered { why: format!("cannot read it: {}", chain(&error)), may_pass: true };
                let secret = ClearSecret::new(read.map_err(unread)?);
                if is_account_token(secret.expose()) {
                    let why = "it is the token of a ServiceAccount, which is sent to nobody".to_owned();
                    return Err(Undelivered { why, may_pass: false });
                }
                Some(secret)
            }
            None => None,
        };
        let text = |key: &str| {
            let value = secret.as_ref()?.expose().data.as_ref()?.get(key)?;
            std::str::from_utf8(&value.0).ok()
        };
        let authorities = text("ca.crt").filter(|pem| !pem.is_empty());
        let way = Way { address: text("address").or(receiver.url.as_deref()), token: text("token"), authorities };
        let refused = |why: String| Undelivered { why, may_pass: false };
        let letter = letter(receiver.kind, news, about, way).map_err(|error| refused(error.to_string()))?;
        hand_over(self.client(letter.is_near, authorities).map_err(refused)?, letter).await
    }

    /// One that trusts the usual authorities, and those that are given. An address may not lead to where its writer could
    /// not send: nothing is followed. No connection is kept, because messages are rare.
    fn client(&self, is_near: bool, authorities: Option<&str>) -> Result<Client, String> {
        if let Some(client) = self.clients.lock().get(&is_near).filter(|_| authorities.is_none()) {
            return Ok(client.clone());
        }
        let unmade = |error: &(dyn std::error::Error + 'static)| format!("cannot make a client: {}", chain(error));
        let client = Client::builder().timeout(ANSWER).redirect(Policy::none()).user_agent("signet");
        let client = client.pool_max_idle_per_host(0);
        let client = if is_near { client.no_proxy() } else { client };
        let client = match authorities {
            Some(pem) => {
                let authorities = trust::authorities(pem.as_bytes());
                client.tls_certs_merge(authorities.ok_or("its ca.crt cannot be read: it must be PEM")?)
            }
            None => client.tls_backend_preconfigured(trust::usual().map_err(|error| unmade(&error))?),
        };
        let client = client.build().map_err(|error| unmade(&error))?;
        if authorities.is_none() {
            self.clients.lock().insert(is_near, client.clone());
        }
        Ok(client)
    }

    fn count(&self, kind: NotifyKind, outcome: &'static str) {
        let labels = Notified { r#type: kind.into(), outcome };
        self.context.metrics.notifications.get_or_create(&labels).inc();
    }
}

fn forget<'a>(silent: &mut HashSet<Receiver>, syncs: impl Iterator<Item = &'a GitSync>) {
    let of = |sync: &'a GitSync| {
        let namespace = sync.metadata.namespace.as_deref().unwrap_or_default();
        sync.spec.notify.iter().map(move |receiver| (namespace, receiver))
    };
    let there: HashSet<(&str, &Notify)> = syncs.flat_map(of).collect();
    silent.retain(|(namespace, receiver)| there.contains(&(namespace.as_str(), receiver)));
}

async fn hand_over(client: Client, Letter { address, header, body, .. }: Letter) -> Result<(), Undelivered> {
    // The address may be a secret, and so may what an answer quotes.
    let unreached = |error: reqwest::Error| {
        let error = error.without_url();
        Undelivered { why: chain(&error), may_pass: !error.is_builder() }
    };
    let request = client.post(address.as_str());
    let mut request = request.header("content-type", "application/json").body(body);
    if let Some((name, value)) = &header {
        request = request.header(*name, value.as_str());
    }
    let status = request.send().await.map_err(unreached)?.status();
    let may_pass =
        status.is_server_error() || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
    if status.is_success() { Ok(()) } else { Err(Undelivered { why: format!("it answered {status}"), may_pass }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_of_git_syncs_that_went_or_have_others_by_now_are_forgotten() {
        let receiver = |url: &str| Notify { url: Some(url.to_owned()), ..Notify::default() };
        let sync = |namespace: &str, urls: &[&str]| {
            let notify = urls.iter().map(|url| receiver(url)).collect();
            let mut sync = GitSync::new("app", GitSyncSpec { notify, ..GitSyncSpec::default() });
            sync.metadata.namespace = Some(namespace.to_owned());
            sync
        };
        let key = |namespace: &str, url: &str| (namespace.to_owned(), receiver(url));
        let mut silent: HashSet<Receiver> = [key("a", "old"), key("a", "dead"), key("b", "dead")].into();
        forget(&mut silent, [sync("a", &["dead", "new"]), sync("c", &["old"])].iter());
        assert_eq!(silent, [key("a", "dead")].into());
        forget(&mut silent, [].iter());
        assert!(silent.is_empty());
    }
}
