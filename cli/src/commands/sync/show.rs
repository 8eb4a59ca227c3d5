//! `seal sync history` and `seal sync events`.

use crds::sync::history::Counts;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde::Serialize;

use super::Site;
use crate::{
    commands::keys::write,
    exit::{Error, Exit},
    io::Io,
    table::{self, DIM, GREEN, YELLOW, span},
    verbs::sync::Show,
};

pub async fn history(command: Show, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Show { which, output } = command;
    let sync = Site::at(which.at).await?.find(&which.name).await?;
    let status = sync.status.unwrap_or_default();
    let (now, coloured) = (io.now, io.colour_stdout);
    let text = || {
        let heads = ["", "REVISION", "APPLIED", "FOR", "TOOK", "CHANGES", "AUTHOR", "SUBJECT", "PLAN"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for entry in &status.history {
            let is_present = status.last_applied_revision.as_ref() == Some(&entry.revision);
            let mark = if is_present { "*" } else { "" };
            let ago = format!("{} ago", span(entry.applied_at.0.duration_until(now)));
            let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            rows.push(vec![
                mark.to_owned(),
                entry.revision.clone(),
                ago,
                known(entry.trigger.map(|trigger| trigger.to_string())),
                known(entry.duration.clone()),
                known(entry.counts.map(short)),
                known(entry.author.clone()),
                known(entry.subject.clone()),
                entry.digest.clone(),
            ]);
        }
        let present = |row: usize| rows.get(row).is_some_and(|cells| cells.first().is_some_and(|mark| mark == "*"));
        table::render(&rows, |row, column| (coloured && column < 2 && present(row)).then_some(GREEN))
    };
    write(&status.history, text, output, io)?;
    Ok(Exit::Ok)
}

fn short(Counts { created, changed, deleted, unchanged }: Counts) -> String {
    format!("+{created} ~{changed} -{deleted} ={unchanged}")
}

/// One Event, for a program.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    message: String,
    count: i32,
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        let times = [event.last_timestamp, event.first_timestamp, event.metadata.creation_timestamp];
        Self {
            at: times.into_iter().flatten().map(|time| time.0).next(),
            kind: event.type_.unwrap_or_default(),
            reason: event.reason.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
            count: event.count.unwrap_or(1),
        }
    }
}

/// The newest last, where the eye is.
pub async fn events(command: Show, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Show { which, output } = command;
    let site = Site::at(which.at).await?;
    let (namespace, name) = site.key(&which.name)?;
    let mut all: Vec<Told> = site.cluster.events_of(&namespace, &name).await?.into_iter().map(Told::from).collect();
    all.sort_by_key(|event| event.at);
    let (now, coloured) = (io.now, io.colour_stdout);
    let text = || {
        let mut rows = vec![["WHEN", "TYPE", "REASON", "MESSAGE"].map(str::to_owned).to_vec()];
        for Told { at, kind, reason, message, .. } in &all {
            let ago = at.map_or_else(|| "-".to_owned(), |at| span(at.duration_until(now)) + " ago");
            rows.push([&ago, kind, reason, message].map(ToOwned::to_owned).to_vec());
        }
        table::render(&rows, |row, column| match (coloured && row > 0, column) {
            (true, 0) => Some(DIM),
            (true, 1) => rows.get(row).and_then(|row| row.get(1)).is_some_and(|it| it == "Warning").then_some(YELLOW),
            _ => None,
        })
    };
    write(&all, text, output, io)?;
    if all.is_empty() {
        io.remark(&format!("There are no Events of {namespace}/{name}; the API server forgets them after a while"));
    }
    Ok(Exit::Ok)
}
