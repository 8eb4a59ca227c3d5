//! A fetch beside the passes, so that a host that does not answer holds up nobody: neither other GitSyncs, nor what is
//! healed of its own. A pass begins it, and the one that it triggers when it is over takes in what it came to. It decides
//! nothing.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{GitSync, git_sync::GitSource};
use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, Span};

use super::{Asked, Outcome, alone};
use crate::{
    health::PASS,
    metrics,
    sync::{State, Syncer, audit::Pass, key, source::SourceError, spans},
    traces::{self, span},
};

/// Ends when it is dropped: with its GitSync, with its source, or with everything.
pub struct UnderWay {
    sync: Arc<GitSync>,
    /// The pass that began it. That goes on when this is over.
    pass: (Pass, Span),
    over: oneshot::Receiver<(Asked, Outcome)>,
    _task: AbortOnDropHandle<()>,
}

impl UnderWay {
    /// Whether it is from there.
    pub fn is_from(&self, source: &GitSource) -> bool {
        self.sync.spec.source == *source
    }
}

impl Syncer {
    /// Begins to fetch, as a part of this pass.
    pub(in crate::sync) fn begin(&self, sync: &Arc<GitSync>, state: &mut State, pass: Pass, interval: Duration) {
        let order = state.fetching.order(sync, interval, Instant::now(), Timestamp::now());
        let whole = spans::pass(sync, pass.trigger, state.waiting.as_ref());
        let span = whole.in_scope(|| span!("fetch"));
        let (client, mirrors, news) = (self.context.client.clone(), self.git.mirrors.clone(), self.news.clone());
        let (me, sync) = (key(sync), sync.clone());
        let pulse = self.context.pulses.begin("fetch", format!("{}/{}", me.0, me.1), PASS);
        let (tell, over) = oneshot::channel();
        let (of, within) = (sync.clone(), span.clone());
        let fetched = pulse.scope(async move {
            let fetched = AssertUnwindSafe(order.fetch(&client, &mirrors, &of)).catch_unwind().await;
            // A defect is told, and tried again, like any other failure.
            let defect = || SourceError::Defect { url: format!("the GitSync {}/{}", me.0, me.1) };
            let outcome = fetched.unwrap_or_else(|_| Err(alone(defect().into())));
            traces::ended(&within, named(&outcome), outcome.is_err());
            // Nobody hears it once the sync has ended.
            let _ = tell.send((order.asked, outcome));
            let _ = news.send(me);
        });
        let task = AbortOnDropHandle::new(tokio::spawn(fetched.instrument(span)));
        state.under_way = Some(UnderWay { sync, pass: (pass, whole), over, _task: task });
    }

    /// Takes in what a fetch came to, if it is over. Answers the pass that goes on then.
    pub(in crate::sync) fn take_in(
        &self,
        sync: &GitSync,
        state: &mut State,
        mut fetch: UnderWay,
        interval: Duration,
    ) -> Option<(Pass, Span)> {
        let (asked, outcome) = match fetch.over.try_recv() {
            Ok(over) => over,
            Err(TryRecvError::Empty) => {
                state.under_way = Some(fetch);
                return None;
            }
            // It was broken off, and is begun anew.
            Err(TryRecvError::Closed) => return None,
        };
        self.context.metrics.git_fetches.get_or_create(&metrics::Outcome { outcome: named(&outcome) }).inc();
        self.context.metrics.git_syncs.asked(&key(sync), Timestamp::now());
        state.fetching.done(asked, outcome, interval, Instant::now());
        if let Some(filled) = &mut state.variables {
            filled.is_old = true;
        }
        Some(fetch.pass)
    }
}

fn named(outcome: &Outcome) -> &'static str {
    outcome.as_ref().map_or_else(|missed| missed.0.cause().reason, |_| "success")
}
