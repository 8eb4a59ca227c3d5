//! `seal sync suspend`, `resume` and `rollback`.

use crds::{
    GitSync,
    git_sync::{NAME_LABEL, NAMESPACE_LABEL, ROLLBACK},
};
use kube::{ResourceExt as _, core::DeserializeGuard};
use serde_json::json;

use super::{
    Site, SyncError, ended,
    status::told,
    wait::{Awaited, until},
};
use crate::{
    commands::keys::write,
    exit::{Error, Exit},
    io::Io,
    verbs::sync::{Change, Rollback, Several, Waiting},
    verdict::{self, Goal, State, Verdict},
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
                changed.push(Verdict::of_any(&sync));
            }
            // Whoever holds everything holds the others all the same.
            Err(error) => failed.push(error.into()),
        }
    }
    let (now, coloured) = (io.now, io.colour_stdout);
    let words = |it: &Verdict| match it.state {
        _ if !wanted => format!("{} goes on\n", it.key()),
        // Only the rest of it is not understood here.
        State::Unreadable => format!("{} is suspended; else it cannot be read: {}\n", it.key(), it.why.join("; ")),
        _ => told(it, now, coloured),
    };
    write(&changed, || changed.iter().map(words).collect(), output, io)?;
    ended(failed, Exit::Ok, io)
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
        let verdict = Verdict::of_any(&changed);
        let words = || match &to {
            Some(to) => format!("{} is asked to go back to {}\n", verdict.key(), verdict::short(to)),
            None => format!("{} follows Git again\n", verdict.key()),
        };
        write(&verdict, words, output, io)?;
        return Ok(Exit::Ok);
    }
    let awaited = Awaited::of((namespace, name), Goal::Applied(to.unwrap_or_default()), Some(&changed));
    until(&site, vec![awaited], Vec::new(), timeout, &lookout, output, io).await
}

/// What stands in Git itself is put back from there.
fn warn_of_git(sync: &DeserializeGuard<GitSync>, what: &str, io: &mut Io<'_>) {
    if let (Some(namespace), Some(name)) = (sync.labels().get(NAMESPACE_LABEL), sync.labels().get(NAME_LABEL)) {
        io.warning(&format!(
            "{} is itself applied by the GitSync {namespace}/{name}, which puts {what} back if Git says otherwise",
            sync.name_any()
        ));
    }
}
