//! The only place where the harness waits for time to pass: a condition, a deadline, and an error that names both.
//! It must not be used to wait "a little": there is always something to look at.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

/// How often a condition is looked at: far below what a person notices, far above what one look costs.
const INTERVAL: Duration = Duration::from_millis(50);

/// Polls until `look` answers `Some`. An error is not the end, as most conditions begin as one ("connection refused");
/// the last one is told when the deadline passes.
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let last = Mutex::new(None);
    let polling = async {
        loop {
            let seen = look().await;
            let error = match seen {
                Ok(Some(found)) => return found,
                Ok(None) => None,
                Err(error) => Some(error),
            };
            *last.lock().unwrap_or_else(PoisonError::into_inner) = error;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let finished = tokio::time::timeout(deadline, polling).await;
    if let Ok(found) = finished {
        return Ok(found);
    }
    let waited = format!("waited {} s in vain for {what}", deadline.as_secs_f32());
    match last.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error).context(waited),
        None => Err(anyhow!(waited)),
    }
}
