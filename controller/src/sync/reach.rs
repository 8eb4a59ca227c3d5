//! Whether another cluster answers. What is not answered in time is given up, and for a moment nothing more is asked, so
//! that a pass over thousands of objects ends at once where nobody listens. It does not judge what is answered, but for
//! one thing: who is not let in has not reached anybody.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use kube::{
    Client,
    client::{Body, ClientBuilder},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::context::chain;

/// Longest wait for the beginning of an answer. Shorter than that of a call, which would not be heard of here.
const ANSWER: Duration = Duration::from_secs(15);
/// After a call in vain nothing is asked for so long.
const PAUSE: Duration = Duration::from_secs(2);

/// Nobody answers, or lets us in.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the cluster at {server} {why}")]
pub struct Unreachable {
    server: Arc<str>,
    why: Arc<str>,
}

/// What is known of one cluster. Cloning shares it.
#[derive(Clone)]
pub struct Reach {
    server: Arc<str>,
    state: Arc<Mutex<State>>,
    /// False while it is away.
    turned: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
enum State {
    /// Nobody has asked.
    #[default]
    Unknown,
    Answers,
    Away {
        why: Arc<str>,
        since: Instant,
    },
}

impl Reach {
    /// Of the server at this address.
    pub fn new(server: &str) -> Self {
        Self { server: server.into(), state: Arc::default(), turned: Arc::new(watch::Sender::new(true)) }
    }

    /// The address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether it answered when it was last asked.
    pub fn answers(&self) -> bool {
        matches!(*self.state.lock(), State::Answers)
    }

    /// Hears whenever it is gone, and whenever it is back.
    pub fn turns(&self) -> watch::Receiver<bool> {
        self.turned.subscribe()
    }

    /// The same client, but one that gives up.
    pub fn of(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let reach = self.clone();
        let patient = tower::service_fn(move |request: Request<Body>| {
            let (reach, client) = (reach.clone(), client.clone());
            async move {
                reach.may_ask(Instant::now())?;
                let answer = match tokio::time::timeout(ANSWER, client.send(request)).await {
                    Ok(Ok(answer)) if answer.status() == StatusCode::UNAUTHORIZED => {
                        Err("does not accept what the kubeconfig has to show".to_owned())
                    }
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(error)) => Err(format!("cannot be reached: {}", chain(&error))),
                    Err(_) => Err(format!("cannot be reached: no answer within {} s", ANSWER.as_secs())),
                };
                reach.saw(answer, Instant::now())
            }
        });
        ClientBuilder::new(patient, namespace).build()
    }

    fn may_ask(&self, now: Instant) -> Result<(), Unreachable> {
        match &*self.state.lock() {
            State::Away { why, since } if now.saturating_duration_since(*since) < PAUSE => {
                Err(Unreachable { server: self.server.clone(), why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    fn saw<T>(&self, answer: Result<T, String>, now: Instant) -> Result<T, Unreachable> {
        let answer = answer.map_err(|why| Unreachable { server: self.server.clone(), why: why.into() });
        *self.state.lock() = match &answer {
            Ok(_) => State::Answers,
            Err(error) => State::Away { why: error.why.clone(), since: now },
        };
        let is_there = answer.is_ok();
        self.turned.send_if_modified(|was_there| std::mem::replace(was_there, is_there) != is_there);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

    use super::*;

    /// A server that answers with this status, and counts; 0 for one that is not there.
    fn server(status: Arc<AtomicU16>, asked: Arc<AtomicUsize>) -> Client {
        let answer = move |_: Request<Body>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let status = status.load(Ordering::Relaxed);
            std::future::ready(match status {
                0 => Err(std::io::Error::other("nobody there")),
                status => Ok(http::Response::builder().status(status).body(Body::empty()).unwrap()),
            })
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn who_does_not_answer_is_asked_once_in_a_while_and_heard_when_back() {
        let (status, asked) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicUsize::new(0)));
        let reach = Reach::new("https://example.com");
        let client = reach.of(server(status.clone(), asked.clone()));
        let ask = async || client.send(Request::new(Body::empty())).await.map(drop).map_err(|error| chain(&error));
        let mut turns = reach.turns();
        assert!(!reach.answers());

        let why = ask().await.unwrap_err();
        assert!(why.contains("the cluster at https://example.com cannot be reached: "), "{why}");
        assert!(why.contains("nobody there") && turns.has_changed().unwrap() && !*turns.borrow_and_update(), "{why}");
        for _ in 0..3_000 {
            assert_eq!(ask().await.unwrap_err(), why);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(reach.may_ask(Instant::now()).is_err() && reach.may_ask(Instant::now() + PAUSE).is_ok());

        status.store(403, Ordering::Relaxed);
        *reach.state.lock() = State::Unknown;
        ask().await.unwrap();
        assert!(
            reach.answers() && turns.has_changed().unwrap() && *turns.borrow_and_update(),
            "a refusal is an answer"
        );

        // But for that of who is not let in.
        status.store(401, Ordering::Relaxed);
        assert!(ask().await.unwrap_err().contains("does not accept what the kubeconfig has to show"));
        assert!(!reach.answers());
    }
}
