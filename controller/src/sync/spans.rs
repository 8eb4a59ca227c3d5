//! The spans of a pass, and of the time between two of them: a revision is one trace, however many passes it takes.
//! Decides nothing.

use crds::{GitSync, sync::history::Trigger};
use kube::ResourceExt as _;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{fetch::hook, key, status::Verdict};
use crate::traces::{self, span};

/// The span of a pass. It belongs to what it goes on with: to the waiting of an earlier pass, or to who called a webhook.
pub(super) fn pass(sync: &GitSync, trigger: Trigger, waiting: Option<&Span>) -> Span {
    let (namespace, name) = key(sync);
    let span = span!("sync", namespace, name, %trigger, revision = Empty);
    if span.is_disabled() {
        return span;
    }
    let request = sync.annotations().get(crds::git_sync::RECONCILE_REQUESTED);
    let called = request.filter(|_| trigger == Trigger::Webhook).and_then(|request| hook::traceparent(request));
    let parent = called.and_then(traces::caller).or_else(|| waiting.map(Span::context));
    if let Some(parent) = parent {
        // It is new, and so has no parent yet.
        let _ = span.set_parent(parent);
    }
    span
}

/// What came of the pass under way; answers the waiting that begins or goes on with it.
pub(super) fn passed(revision: Option<&str>, verdict: &Verdict, waiting: Option<Span>) -> Option<Span> {
    let pass = Span::current();
    if pass.is_disabled() {
        return None;
    }
    pass.record("revision", revision);
    traces::ended(&pass, verdict.reason(), verdict.is_failure());
    if matches!(verdict, Verdict::Progressing(_)) {
        return Some(waiting.unwrap_or_else(|| {
            // By its number alone: a child in this process would keep the pass from being sent.
            let span = tracing::info_span!(
                target: traces::TARGET, parent: None, "wait", revision, outcome = Empty, otel.status_code = Empty
            );
            let _ = span.set_parent(pass.context());
            span
        }));
    }
    if let Some(waiting) = waiting {
        traces::ended(&waiting, verdict.reason(), verdict.is_failure());
    }
    None
}
