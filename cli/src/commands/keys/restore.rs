//! `seal keys restore`: puts the keys of a backup into a cluster that lacks them, with their labels and annotations, and
//! tells which SealedSecrets open because of it. A key that is there is left as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use crds::{
    Fingerprint, SealedSecret,
    key_life::Mark,
    key_secret::{self, KeyOrder},
    unseal::ClearSecret,
};
use kube::ResourceExt as _;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Found, write};
use crate::{
    backup,
    cluster::{Cluster, ClusterError},
    commands::keyring::{self, KeyringError},
    exit::{self, Error, Exit},
    io::Io,
    manifest::{self, Entry},
    verbs::keys::{Home, Restore},
};

/// How often to look whether something opened.
const PAUSE: Duration = Duration::from_secs(1);

/// Why nothing is restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{} holds no keys", .0.display())]
    Nothing(PathBuf),
    #[error("it is labelled as no key")]
    NoKey,
}

/// What becomes of one key.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Fate {
    /// Made under its name.
    Restored,
    /// Made under another, because its own is another Secret's.
    Renamed,
    /// There already.
    Present,
    /// There already, and marked otherwise: what the cluster says counts.
    Marked,
}

#[derive(Debug, Serialize)]
struct Row {
    fingerprint: Fingerprint,
    secret: String,
    outcome: Fate,
}

#[derive(Debug, Serialize)]
struct Failed {
    secret: String,
    error: String,
}

/// A SealedSecret that did not open before.
#[derive(Debug, Serialize)]
struct Closed {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    keys: Vec<Row>,
    failed: Vec<Failed>,
    /// SealedSecrets that opened since.
    opened: Vec<Closed>,
    /// Those that are still closed.
    closed: Vec<Closed>,
}

/// A key of the backup.
struct Held {
    fingerprint: Fingerprint,
    mark: Option<Mark>,
    secret: ClearSecret,
}

pub async fn run(command: Restore, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Restore { file, unlock, dry_run, timeout: limit, output, home } = command;
    let (mut text, _) = io.read_text(Some(&file)).map_err(KeyringError::from)?;
    if let Some(backup) = backup::Backup::parse(&text) {
        let backup = backup.map_err(|source| KeyringError::Backup { path: file.clone(), source })?;
        text = keyring::open(file.clone(), &backup, &unlock, io)?;
    }
    let mut report = Report { dry_run, ..Report::default() };
    let mut held = Vec::new();
    for Entry { place, object } in manifest::secrets(&text) {
        match object.map_err(|fault| fault.to_string()).and_then(|it| hold(it).map_err(|error| exit::chain(&*error))) {
            Ok(key) => held.push(key),
            Err(error) => report.failed.push(Failed { secret: place.to_string(), error }),
        }
    }
    if held.is_empty() && report.failed.is_empty() {
        return Err(RestoreError::Nothing(file).into());
    }
    if !held.is_empty() {
        restore(held, home, limit, &mut report, io).await?;
    }
    write(&report, || text_of(&report), output, io)?;
    for Failed { secret, error } in &report.failed {
        io.error(&format!("{secret}: {error}"));
    }
    Ok(match (&report.failed[..], &report.keys[..]) {
        ([], _) => Exit::Ok,
        (_, []) => Exit::Failed,
        _ => Exit::Unreadable,
    })
}

/// Puts what could be used into the cluster.
async fn restore(
    mut held: Vec<Held>,
    home: Home,
    limit: Duration,
    report: &mut Report,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let dry_run = report.dry_run;
    sort(&mut held, home.key_order_priority);
    let found = Found::by(home).await?;
    let before = closed(&found.cluster, io).await;
    for key in held {
        let name = key.secret.expose().name_any();
        let outcome = match present(&key, &found) {
            Some(fate) => Ok((name.clone(), fate)),
            None => make(&key, &found, dry_run).await,
        };
        match outcome {
            Ok((secret, outcome)) => report.keys.push(Row { fingerprint: key.fingerprint, secret, outcome }),
            Err(error) => report.failed.push(Failed { secret: name, error: exit::chain(&error) }),
        }
    }
    if !dry_run && !report.keys.is_empty() {
        settle(&found.cluster, before, limit, report, io).await;
    }
    Ok(())
}

/// Only what the controller could use is put into a cluster.
fn hold(secret: ClearSecret) -> Result<Held, Box<dyn std::error::Error>> {
    let labelled = secret.expose().labels().contains_key(key_secret::LABEL);
    let mark = key_secret::mark(secret.expose(), key_secret::DEFAULT_PREFIX);
    if !labelled && mark.is_none() {
        return Err(RestoreError::NoKey.into());
    }
    let key = key_secret::read(secret.expose(), KeyOrder::default())?;
    Ok(Held { fingerprint: key.private.fingerprint().clone(), mark, secret })
}

/// The newest first: if an old one were alone for a moment, the controller would think it due and make another key. But
/// where keys are ordered by when their Secrets are made, these must be made in their order.
fn sort(held: &mut [Held], order: KeyOrder) {
    held.sort_by_key(|key| key_secret::read(key.secret.expose(), order).map(|key| key.born).ok());
    if order == KeyOrder::CertNotBefore {
        held.reverse();
    }
}

fn present(key: &Held, found: &Found) -> Option<Fate> {
    let same: Vec<_> = found.keys.iter().filter(|(there, _)| there.fingerprint == key.fingerprint).collect();
    let agree = same.iter().any(|(there, _)| Some(there.mark) == key.mark);
    (!same.is_empty()).then_some(if agree { Fate::Present } else { Fate::Marked })
}

/// Whether a name is free only the API server knows: Secrets that are no keys were not looked at.
async fn make(key: &Held, found: &Found, dry_run: bool) -> Result<(String, Fate), ClusterError> {
    let make = async |rename| found.cluster.make_key(&key.secret, &found.namespace, rename, dry_run).await;
    match make(false).await {
        Err(error) if error.is_taken() => Ok((make(true).await?, Fate::Renamed)),
        made => Ok((made?, Fate::Restored)),
    }
}

/// By namespace and name, those that are not open, and why; `None` if nobody may know.
async fn closed(cluster: &Cluster, io: &mut Io<'_>) -> Option<Names<Option<String>>> {
    match look(cluster).await {
        Ok((_, closed)) => Some(closed),
        // A cluster in which nothing is installed yet.
        Err(error) if error.is_missing() => None,
        Err(error) => {
            io.warning(&format!("nobody can tell which SealedSecrets open: {}", exit::chain(&error)));
            None
        }
    }
}

type Names<T> = BTreeMap<(String, String), T>;

/// The SealedSecrets that are open, and those that are not.
async fn look(cluster: &Cluster) -> Result<(BTreeSet<(String, String)>, Names<Option<String>>), ClusterError> {
    let (mut open, mut closed) = (BTreeSet::new(), BTreeMap::new());
    for sealed in cluster.sealed_secrets().await?.into_iter().filter_map(|it| it.0.ok()) {
        let id = (sealed.namespace().unwrap_or_default(), sealed.name_any());
        let synced = SealedSecret::synced(&sealed);
        if synced.is_some_and(|synced| synced.status == "True") {
            open.insert(id);
        } else {
            closed.insert(id, synced.and_then(|synced| synced.message.clone()));
        }
    }
    Ok((open, closed))
}

/// Waits until the controller has opened what it can, or for so long.
async fn settle(
    cluster: &Cluster,
    before: Option<Names<Option<String>>>,
    limit: Duration,
    report: &mut Report,
    io: &mut Io<'_>,
) {
    let Some(before) = before.filter(|before| !before.is_empty()) else { return };
    io.remark(&format!("{} SealedSecrets were not open: waiting for the controller", before.len()));
    let deadline = Instant::now() + limit;
    let (open, closed) = loop {
        match look(cluster).await {
            Ok((open, closed)) if closed.is_empty() || Instant::now() >= deadline => break (open, closed),
            Err(error) if Instant::now() >= deadline => {
                io.warning(&format!("nobody can tell which SealedSecrets open: {}", exit::chain(&error)));
                return;
            }
            // An API server that was just restored may still stumble.
            _ => sleep(PAUSE.min(limit)).await,
        }
    };
    let row = |((namespace, name), message)| Closed { namespace, name, message };
    let opened = before.into_keys().filter(|id| open.contains(id));
    report.opened = opened.map(|id| row((id, None))).collect();
    report.closed = closed.into_iter().map(row).collect();
}

fn text_of(report: &Report) -> String {
    let key = |Row { fingerprint, secret, outcome }: &Row| {
        let would = if report.dry_run { "would be " } else { "" };
        let said = match outcome {
            Fate::Restored => format!("{would}restored as {secret}"),
            Fate::Renamed => format!("{would}restored as {secret}: its own name is taken"),
            Fate::Present => "is there already".to_owned(),
            Fate::Marked => "is there already, and marked otherwise than in the backup: it stays so".to_owned(),
        };
        format!("{fingerprint} {said}\n")
    };
    let opened = |Closed { namespace, name, .. }: &Closed| format!("{namespace}/{name} opened\n");
    let closed = |Closed { namespace, name, message }: &Closed| {
        let message = message.as_deref().unwrap_or("the controller has not said why");
        format!("{namespace}/{name} is still closed: {message}\n")
    };
    let keys = report.keys.iter().map(key);
    keys.chain(report.opened.iter().map(opened)).chain(report.closed.iter().map(closed)).collect()
}

#[cfg(test)]
mod tests {
    use crds::key::{self, KeyRequest};
    use jiff::{SignedDuration, Timestamp};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn key(name: &str, valid_from: i64, created: i64) -> Held {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (bits, common_name, lifetime) = (2048, String::new(), SignedDuration::from_hours(1));
        let request = KeyRequest { bits, common_name, not_before: at(valid_from), lifetime };
        let mut secret = key_secret::write(&key::mint(&request, &mut rand::rng()).unwrap(), "kube-system", name);
        secret.metadata.creation_timestamp = Some(Time(at(created)));
        secret.metadata.name = Some(name.to_owned());
        hold(ClearSecret::new(secret)).unwrap()
    }

    #[test]
    fn an_old_key_is_never_the_newest_for_a_while() {
        let mut held = [key("a", 1, 30), key("b", 3, 20), key("c", 2, 10)];
        let mut names = |order| {
            sort(&mut held, order);
            held.each_ref().map(|key| key.secret.expose().name_any())
        };
        assert_eq!(names(KeyOrder::CertNotBefore), ["b", "c", "a"]);
        assert_eq!(names(KeyOrder::SecretCreationTimestamp), ["c", "b", "a"]);
    }
}
