//! Waits for a turn, and gives it back. Who is next is [`super::shares`]'s to say.

use std::sync::Arc;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::shares::Shares;

/// Everybody's. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Permits(Arc<Mutex<Shares<oneshot::Sender<Permit>>>>);

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Permit(Option<(Permits, String)>);

impl Permits {
    /// So many turns at once, and so many of one namespace.
    pub fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(all, each))))
    }

    /// Waits until it is the turn of a namespace.
    pub async fn one(&self, namespace: &str) -> Permit {
        let (ticket, turn) = oneshot::channel();
        self.0.lock().enter(namespace, ticket);
        self.hand_out();
        // A ticket is kept until it is used: there is always an answer.
        turn.await.unwrap_or(Permit(None))
    }

    /// A turn, if nobody has to be waited for.
    pub fn at_once(&self, namespace: &str) -> Option<Permit> {
        self.one(namespace).now_or_never()
    }

    fn hand_out(&self) {
        while let Some((namespace, ticket)) = self.next() {
            // Who does not wait any more has not taken it.
            if let Err(mut unwanted) = ticket.send(Permit(Some((self.clone(), namespace)))) {
                unwanted.leave();
            }
        }
    }

    /// The lock is not held when a ticket is sent.
    fn next(&self) -> Option<(String, oneshot::Sender<Permit>)> {
        self.0.lock().next()
    }
}

impl Permit {
    /// Gives it back, once. Answers whose it was.
    fn leave(&mut self) -> Option<Permits> {
        let (permits, namespace) = self.0.take()?;
        permits.0.lock().leave(&namespace);
        Some(permits)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = self.leave() {
            permits.hand_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_that_is_given_back_or_not_waited_for_is_the_next_ones() {
        let permits = Permits::new(4, 2);
        let mut all = vec![permits.one("dead").await, permits.one("dead").await];
        let mut given_up = Box::pin(permits.one("dead"));
        let mut waiting = Box::pin(permits.one("dead"));
        assert!((&mut given_up).now_or_never().is_none() && (&mut waiting).now_or_never().is_none());
        assert!(permits.one("well").now_or_never().is_some(), "nobody else waits behind them");
        assert!(permits.at_once("dead").is_none() && permits.at_once("well").is_some());
        drop(given_up);
        all.pop();
        assert!(waiting.now_or_never().is_some());
    }
}
