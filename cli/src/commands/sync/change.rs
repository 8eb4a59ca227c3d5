//! `seal sync suspend`, `resume` and `rollback`.

use crds::{
    GitSync,
    git_sync::{NAME_LABEL, NAMESPACE_LABEL, ROLLBACK},
};
use kube::ResourceExt as _;
use serde_json::json;

use super::{Site, SyncError, status::told, wait};
use crate::{
    commands::keys::write,
    exit::{self, Error, Exit},
    io::Io,
    verbs::sync::{Change, Rollback, Several, Waiting},
    verdict::{self, Goal, Verdict},
};

pub async fn suspend(command: Change, wanted: bool, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Change { which, output } = command;
    let Several { which, at } = which;
    let site = Site::at(at).await?;
    let (mut changed, mut failed) = (Vec::new(), Vec::new());
    for (namespace, name) in site.keys(&which, io).await? {
        let patch = json!({"spec": {"suspend": wanted}});
        match site.cluster.change_git_sync(&namespace, &name, &patch).await {
            Ok(sync) => {
                warn_of_git(&sync, "spec.suspend", io);
                changed.push(Verdict::of(&sync));
            }
            // Whoever holds everything holds the others all the same.
            Err(error) => failed.push(error),
        }
    }
    let (now, coloured) = (io.now, io.colour_stdout);
    let words = |it: &Verdict| {
        if wanted { told(it, now, coloured) } else { format!("{} goes on\n", it.key()) }
    };
    write(&changed, || changed.iter().map(words).collect(), output, io)?;
    let Some(last) = failed.pop() else { return Ok(Exit::Ok) };
    failed.iter().for_each(|error| io.error(&exit::chain(error)));
    Err(last.into())
}

pub async fn rollback(command: Rollback, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Rollback { name, revision, off, waiting: Waiting { no_wait, timeout, output, lookout }, at } = command;
    let site = Site::at(at).await?;
    let sync = site.find(&name).await?;
    let (namespace, name) = site.key(&name)?;
    let key = format!("{namespace}/{name}");
    if sync.spec.suspend {
        return Err(SyncError::Suspended(key).into());
    }
    let status = sync.status.clone().unwrap_or_default();
    let to = if off {
        None
    } else {
        let found = verdict::target(&status.history, status.last_applied_revision.as_deref(), revision.as_deref());
        let missing = || match revision {
            Some(wanted) => SyncError::NoRevision { key, wanted },
            None => SyncError::NoOther(key),
        };
        Some(found.ok_or_else(missing)?.revision.clone())
    };
    let patch = json!({"metadata": {"annotations": {ROLLBACK: to}}});
    let changed = site.cluster.change_git_sync(&namespace, &name, &patch).await?;
    warn_of_git(&changed, "the annotation", io);
    if no_wait || to.is_none() {
        let verdict = Verdict::of(&changed);
        let words = || match &to {
            Some(to) => format!("{} is asked to go back to {}\n", verdict.key(), verdict::short(to)),
            None => format!("{} follows Git again\n", verdict.key()),
        };
        write(&verdict, words, output, io)?;
        return Ok(Exit::Ok);
    }
    let goal = Goal::Applied(to.unwrap_or_default());
    wait::until(&site, vec![((namespace, name), goal)], timeout, &lookout, output, io).await
}

/// What stands in Git itself is put back from there.
fn warn_of_git(sync: &GitSync, what: &str, io: &mut Io<'_>) {
    if let (Some(namespace), Some(name)) = (sync.labels().get(NAMESPACE_LABEL), sync.labels().get(NAME_LABEL)) {
        io.warning(&format!(
            "{} is itself applied by the GitSync {namespace}/{name}, which puts {what} back if Git says otherwise",
            sync.name_any()
        ));
    }
}
