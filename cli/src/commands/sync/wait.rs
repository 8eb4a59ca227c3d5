//! `seal sync wait` and `seal sync now`: until what is wanted is there, is lost, or takes too long. On a terminal it
//! shows meanwhile what happens.

use std::{mem, time::Duration};

use crds::{GitSync, git_sync::RECONCILE_REQUESTED};
use kube::core::DeserializeGuard;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Key, Site, SyncError, ended,
    status::{told, warned},
};
use crate::{
    cluster::ClusterError,
    commands::keys::write,
    exit::{self, Error, Exit},
    idle::Idle,
    io::Io,
    verbs::{
        keys::Output,
        sync::{Lookout, Now, Several, Wait, Waiting},
    },
    verdict::{self, Goal, State, Step, Verdict},
};

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(250);

/// What came of one.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    verdict: Verdict,
    /// Whether it is as wanted.
    reached: bool,
    /// Nobody works.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Idle>,
}

/// One that is waited for, as it was last seen.
pub struct Awaited {
    key: Key,
    goal: Goal,
    verdict: Verdict,
    step: Step,
}

impl Awaited {
    /// `None` is one that is not there.
    pub fn of(key: Key, goal: Goal, found: Option<&DeserializeGuard<GitSync>>) -> Self {
        let gone = || Verdict::gone(key.0.clone(), key.1.clone());
        let verdict = found.map_or_else(gone, Verdict::of_any);
        let step = verdict::step_of_any(found, &goal);
        Self { key, goal, verdict, step }
    }
}

pub async fn run(command: Wait, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Wait { which, goal, timeout, lookout, output } = command;
    let Several { which, at } = which;
    let site = Site::at(at).await?;
    let (mut awaited, mut failed) = (Vec::new(), Vec::new());
    // Of those that are to be gone, none is as wanted.
    for (key, found) in site.found(&which, goal != Goal::Deleted, io).await? {
        match found {
            Ok(found) => awaited.push(Awaited::of(key, goal.clone(), Some(&found))),
            Err(ClusterError::NoGitSync { .. }) if goal == Goal::Deleted => {
                awaited.push(Awaited::of(key, goal.clone(), None));
            }
            Err(error) => failed.push(error.into()),
        }
    }
    until(&site, awaited, failed, timeout, &lookout, output, io).await
}

pub async fn now(command: Now, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Now { which, waiting: Waiting { no_wait, timeout, output, lookout } } = command;
    let Several { which, at } = which;
    let site = Site::at(at).await?;
    let request = io.now.to_string();
    let patch = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: request}}});
    let (mut asked, mut failed) = (Vec::new(), Vec::<Error>::new());
    for (key, found) in site.found(&which, !no_wait, io).await? {
        match found {
            Ok(DeserializeGuard(Ok(sync))) if sync.spec.suspend => {
                let key = format!("{}/{}", key.0, key.1);
                if which.names.is_empty() {
                    io.remark(&format!("{key} is suspended, and left out"));
                } else {
                    failed.push(SyncError::Suspended(key).into());
                }
            }
            Ok(_) => match site.cluster.change_git_sync(&key.0, &key.1, &patch).await {
                Ok(found) => asked.push(Awaited::of(key, Goal::Handled(request.clone()), Some(&found))),
                Err(error) => failed.push(error.into()),
            },
            Err(error) => failed.push(error.into()),
        }
    }
    if no_wait {
        let asked: Vec<Verdict> = asked.into_iter().map(|it| it.verdict).collect();
        let words = || asked.iter().map(|it| it.key() + " is asked to look at Git\n").collect();
        write(&asked, words, output, io)?;
        return ended(failed, Exit::Ok, io);
    }
    until(&site, asked, failed, timeout, &lookout, output, io).await
}

/// Waits for all of them, and tells what came of each, and then what `failed`.
pub async fn until(
    site: &Site,
    mut awaited: Vec<Awaited>,
    mut failed: Vec<Error>,
    timeout: Duration,
    lookout: &Lookout,
    output: Output,
    io: &mut Io<'_>,
) -> Result<Exit, Error> {
    let deadline = Instant::now() + timeout;
    let progress = io.spinner();
    let mut trouble = None;
    loop {
        let mut under = awaited.iter().filter(|it| it.step == Step::Under);
        let Some(first) = under.next().filter(|_| Instant::now() < deadline) else { break };
        progress.set_message(said(&first.verdict, 1 + under.count(), awaited.len()));
        sleep(PAUSE).await;
        trouble = look(site, &mut awaited, &mut failed).await;
    }
    progress.finish_and_clear();
    let under = || awaited.iter().filter(|it| it.step == Step::Under).map(|it| &it.verdict);
    let late: Vec<String> = under().map(Verdict::key).collect();
    let waits = under().any(Verdict::waits);
    let lost = awaited.iter().any(|it| it.step == Step::Lost);
    let idle = if late.is_empty() { None } else { site.idle(lookout, waits, io).await };
    let outcome =
        |Awaited { verdict, step, .. }| Outcome { verdict, reached: step == Step::Reached, idle: idle.clone() };
    let outcomes: Vec<Outcome> = awaited.into_iter().map(outcome).collect();
    let (now, coloured) = (jiff::Timestamp::now().max(io.now), io.colour_stdout);
    let all = outcomes.iter().map(|outcome| told(&outcome.verdict, now, coloured));
    write(&outcomes, || warned(idle.as_ref(), now, coloured) + &all.collect::<String>(), output, io)?;
    if !late.is_empty() {
        if let Some(error) = trouble {
            io.warning(&format!("{}: what is told is as it was last seen", exit::chain(&error)));
        }
        let late = SyncError::Late { keys: late, after: timeout };
        if failed.is_empty() && !lost {
            return Err(late.into());
        }
        io.error(&late.to_string());
    }
    ended(failed, if lost { Exit::Failed } else { Exit::Ok }, io)
}

/// Looks at each again. What may pass is handed back, and leaves that one as it was last seen: an API server that
/// restarts is waited for. One that will not be seen any more is `failed`, and the others are waited for all the same.
async fn look(site: &Site, awaited: &mut Vec<Awaited>, failed: &mut Vec<Error>) -> Option<ClusterError> {
    let mut trouble: Option<ClusterError> = None;
    for it in mem::take(awaited) {
        if trouble.as_ref().is_some_and(ClusterError::is_of_all) {
            awaited.push(it);
            continue;
        }
        match site.cluster.any_git_sync(&it.key.0, &it.key.1).await {
            Ok(found) => awaited.push(Awaited::of(it.key, it.goal, Some(&found))),
            Err(ClusterError::NoGitSync { .. }) => awaited.push(Awaited::of(it.key, it.goal, None)),
            Err(error) if error.is_momentary() => {
                awaited.push(it);
                trouble = Some(error);
            }
            Err(error) => failed.push(error.into()),
        }
    }
    trouble
}

/// What one sees meanwhile.
fn said(verdict: &Verdict, under: usize, all: usize) -> String {
    let why = verdict.why.first().filter(|_| verdict.state != State::Well).map(String::as_str).unwrap_or_default();
    let count = if all > 1 { format!("{under} of {all} to go; ") } else { String::new() };
    format!("{count}{}: {why}", verdict.key())
}
