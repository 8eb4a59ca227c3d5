//! Signs of life of the loops and of the passes in them, by which `/healthz` knows that they go on. What they mean is
//! judged in [`crate::health`].

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::health::{Book, Stuck};

tokio::task_local! {
    /// Of the loop or pass that this is part of, so that what it calls can give signs for it.
    static PULSE: Pulse;
}

/// Everybody's. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Pulses(Arc<Mutex<Book>>);

impl Pulses {
    /// Something begins that shall give a sign at least this often. `about` is told to the log alone.
    pub fn begin(&self, name: &'static str, about: impl Into<String>, bound: Duration) -> Pulse {
        let id = self.0.lock().begin(name, about.into(), bound, Instant::now());
        Pulse(Arc::new(Beating { id, bound, book: self.0.clone() }))
    }

    /// What is stuck at that time. The log hears of each once, since a probe asks again and again.
    pub fn stuck(&self, now: Instant) -> Vec<Stuck> {
        let stuck = self.0.lock().stuck(now);
        for Stuck { name, about, silent, .. } in stuck.iter().filter(|it| it.is_news) {
            tracing::error!(name, about, seconds = silent.as_secs(), "stuck: no sign of life; see /healthz");
        }
        stuck
    }
}

/// Of one loop or pass, until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Beating>);

#[derive(Debug)]
struct Beating {
    id: u64,
    bound: Duration,
    book: Arc<Mutex<Book>>,
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.book.lock().end(self.id);
    }
}

impl Pulse {
    /// Work that may give signs by [`beat`] and [`idle`].
    pub async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        PULSE.scope(self, work).await
    }

    /// Awaits what may take as long as it likes: a trigger, a turn, or what has an end of its own.
    pub async fn idle<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            self.beat();
            if let Ok(done) = tokio::time::timeout(self.0.bound / 8, wait.as_mut()).await {
                self.beat();
                return done;
            }
        }
    }

    fn beat(&self) {
        self.0.book.lock().beat(self.0.id, Instant::now());
    }
}

/// Gives a sign for whatever this is part of.
pub fn beat() {
    // Not all that calls the API server is watched over.
    let _ = PULSE.try_with(Pulse::beat);
}

/// [`Pulse::idle`] for whatever this is part of.
pub async fn idle<T>(wait: impl Future<Output = T>) -> T {
    match PULSE.try_with(Clone::clone) {
        Ok(pulse) => pulse.idle(wait).await,
        Err(_) => wait.await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn who_is_idle_goes_on_giving_signs_and_who_works_in_silence_does_not() {
        let pulses = Pulses::default();
        let bound = Duration::from_millis(200);
        let idle = tokio::spawn(pulses.begin("idle", "", bound).scope(idle(pending::<()>())));
        let silent = tokio::spawn(pulses.begin("silent", "a/b", bound).scope(pending::<()>()));
        let began = Instant::now();
        let names = |now| pulses.stuck(now).into_iter().map(|it| it.name).collect::<Vec<_>>();
        let only_the_silent = async {
            // By then both had been stuck, had neither given a sign.
            while began.elapsed() < bound || names(Instant::now()) != ["silent"] {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, only_the_silent).await.unwrap();
        idle.abort();
        silent.abort();
        assert!(idle.await.is_err() && silent.await.is_err());
        assert!(names(Instant::now() + SOON).is_empty(), "what has ended is not stuck");
    }

    #[tokio::test]
    async fn a_call_is_a_sign_for_what_it_is_part_of() {
        let pulses = Pulses::default();
        let pulse = pulses.begin("sync", "shop/app", SOON);
        let began = Instant::now();
        let later = began + SOON;
        let call = async {
            while Instant::now() <= began {}
            crate::calls::bounded(async { kube::Result::Ok(()) }).await.unwrap();
            pulses.stuck(later).len()
        };
        assert_eq!(pulse.scope(call).await, 0);
        assert_eq!(idle(async { 7 }).await, 7, "and what is part of nothing just waits");
    }
}
