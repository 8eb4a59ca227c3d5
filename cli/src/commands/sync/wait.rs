//! `seal sync wait` and `seal sync now`: until what is wanted is there, is lost, or takes too long. On a terminal it
//! shows meanwhile what happens.

use std::time::Duration;

use crds::git_sync::RECONCILE_REQUESTED;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Key, Site, SyncError,
    status::{told, warned},
};
use crate::{
    commands::keys::write,
    exit::{Error, Exit},
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

pub async fn run(command: Wait, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Wait { which, goal, timeout, lookout, output } = command;
    let Several { which, at } = which;
    let site = Site::at(at).await?;
    let goals = site.keys(&which, io).await?.into_iter().map(|key| (key, goal.clone())).collect();
    until(&site, goals, timeout, &lookout, output, io).await
}

pub async fn now(command: Now, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Now { which, waiting: Waiting { no_wait, timeout, output, lookout } } = command;
    let Several { which, at } = which;
    let site = Site::at(at).await?;
    let request = io.now.to_string();
    let (mut goals, mut asked) = (Vec::new(), Vec::new());
    for key in site.keys(&which, io).await? {
        if site.cluster.git_sync(&key.0, &key.1).await?.spec.suspend {
            let key = format!("{}/{}", key.0, key.1);
            if !which.names.is_empty() {
                return Err(SyncError::Suspended(key).into());
            }
            io.remark(&format!("{key} is suspended, and left out"));
            continue;
        }
        goals.push((key, Goal::Handled(request.clone())));
    }
    for ((namespace, name), _) in &goals {
        let patch = json!({"metadata": {"annotations": {RECONCILE_REQUESTED: request}}});
        asked.push(Verdict::of(&site.cluster.change_git_sync(namespace, name, &patch).await?));
    }
    if no_wait {
        let words = || asked.iter().map(|it| it.key() + " is asked to look at Git\n").collect();
        write(&asked, words, output, io)?;
        return Ok(Exit::Ok);
    }
    until(&site, goals, timeout, &lookout, output, io).await
}

/// Waits for all of them, and tells what came of each.
pub async fn until(
    site: &Site,
    goals: Vec<(Key, Goal)>,
    timeout: Duration,
    lookout: &Lookout,
    output: Output,
    io: &mut Io<'_>,
) -> Result<Exit, Error> {
    let deadline = Instant::now() + timeout;
    let progress = io.spinner();
    let mut is_first = true;
    let ended = loop {
        let looked = look(site, &goals).await;
        // Whoever could be asked once can be asked again: an API server that restarts is waited for.
        let found = match looked {
            Err(error) if is_first || Instant::now() >= deadline => return Err(error),
            Err(_) => Vec::new(),
            Ok(found) => found,
        };
        is_first = false;
        let under = found.iter().filter(|(_, step)| *step == Step::Under);
        if let Some((verdict, _)) = under.clone().next() {
            progress.set_message(said(verdict, under.count(), goals.len()));
        }
        let is_over = found.len() == goals.len() && found.iter().all(|(_, step)| *step != Step::Under);
        if is_over || (found.len() == goals.len() && Instant::now() >= deadline) {
            break found;
        }
        sleep(PAUSE).await;
    };
    progress.finish_and_clear();
    let late: Vec<String> =
        ended.iter().filter(|(_, step)| *step == Step::Under).map(|(verdict, _)| verdict.key()).collect();
    let lost = ended.iter().any(|(_, step)| *step == Step::Lost);
    let waits = ended.iter().any(|(verdict, step)| *step == Step::Under && verdict.waits());
    let idle = if late.is_empty() { None } else { site.idle(lookout, waits, io).await };
    let outcome = |(verdict, step)| Outcome { verdict, reached: step == Step::Reached, idle: idle.clone() };
    let outcomes: Vec<Outcome> = ended.into_iter().map(outcome).collect();
    let (now, coloured) = (jiff::Timestamp::now().max(io.now), io.colour_stdout);
    let all = outcomes.iter().map(|outcome| told(&outcome.verdict, now, coloured));
    write(&outcomes, || warned(idle.as_ref(), now, coloured) + &all.collect::<String>(), output, io)?;
    match (late.is_empty(), lost) {
        (_, true) => Ok(Exit::Failed),
        (false, false) => Err(SyncError::Late { keys: late, after: timeout }.into()),
        (true, false) => Ok(Exit::Ok),
    }
}

async fn look(site: &Site, goals: &[(Key, Goal)]) -> Result<Vec<(Verdict, Step)>, Error> {
    let mut found = Vec::new();
    for ((namespace, name), goal) in goals {
        let sync = if *goal == Goal::Deleted {
            site.cluster.git_sync_if_any(namespace, name).await?
        } else {
            Some(site.cluster.git_sync(namespace, name).await?)
        };
        let step = verdict::step(sync.as_ref(), goal);
        let gone = || Verdict::gone(namespace.clone(), name.clone());
        found.push((sync.as_ref().map_or_else(gone, Verdict::of), step));
    }
    Ok(found)
}

/// What one sees meanwhile.
fn said(verdict: &Verdict, under: usize, all: usize) -> String {
    let why = verdict.why.first().filter(|_| verdict.state != State::Well).map(String::as_str).unwrap_or_default();
    let count = if all > 1 { format!("{under} of {all} to go; ") } else { String::new() };
    format!("{count}{}: {why}", verdict.key())
}
