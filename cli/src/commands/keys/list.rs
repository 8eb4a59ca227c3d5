//! `seal keys list`: the keys, their states, and what needs them.

use crds::{
    Fingerprint,
    key_life::{Key, State, Validity},
    key_needs::{Dependent, Needs, Unknown},
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Found, write};
use crate::{
    exit::{self, Error, Exit},
    io::Io,
    table::{self, DIM, GREEN, RED, YELLOW, span},
    verbs::keys::List,
};

/// All of it, for a program.
/// How far clocks may be apart, and how far ahead of its making a certificate may begin.
const CLOCKS: SignedDuration = SignedDuration::from_mins(1);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    keys: Vec<Row<'a>>,
    /// Secrets that are labelled as keys and hold none.
    malformed: Vec<Malformed<'a>>,
    /// SealedSecrets of which nobody knows what they need; absent if they may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<&'a [Unknown]>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    fingerprint: &'a Fingerprint,
    state: State,
    /// Whether the controller opens with it.
    opens: bool,
    secret: &'a str,
    born: Timestamp,
    made: Timestamp,
    not_before: Timestamp,
    not_after: Timestamp,
    validity: Validity,
    /// Absent if the SealedSecrets may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    needed_by: Option<&'a [Dependent]>,
}

#[derive(Debug, Serialize)]
struct Malformed<'a> {
    secret: &'a str,
    why: &'a str,
}

pub async fn run(command: List, io: &mut Io<'_>) -> Result<Exit, Error> {
    let List { output, home } = command;
    let found = Found::by(home).await?;
    let needs = match found.needs().await {
        Ok(needs) => Some(needs),
        Err(error) => {
            io.warning(&format!("nobody can tell what needs the keys: {}", exit::chain(&error)));
            None
        }
    };
    let (now, colour) = (io.now, io.colour_stdout);
    let report = report(&found, needs.as_ref(), now);
    write(&report, || text(&report, now, colour), output, io)?;
    Ok(Exit::Ok)
}

fn report<'a>(found: &'a Found, needs: Option<&'a Needs>, now: Timestamp) -> Report<'a> {
    let row = |(key, state): (&'a Key, State)| Row {
        fingerprint: &key.fingerprint,
        state,
        opens: key.mark.opens(),
        secret: &key.name,
        born: key.born,
        made: key.made,
        not_before: key.not_before,
        not_after: key.not_after,
        validity: key.validity(now).0,
        needed_by: needs.map(|needs| needs.dependents(&key.fingerprint)),
    };
    Report {
        keys: found.keys.iter().map(row).collect(),
        malformed: found.malformed.iter().map(|(secret, why)| Malformed { secret, why }).collect(),
        unknown: needs.map(|needs| needs.unknown.as_slice()),
    }
}

fn text(report: &Report<'_>, now: Timestamp, colour: bool) -> String {
    let mut rows = vec![["FINGERPRINT", "STATE", "AGE", "EXPIRES", "NEEDED BY", "SECRET"].map(str::to_owned).to_vec()];
    let mut colours = vec![None];
    for row in &report.keys {
        let state = match (row.state, row.opens) {
            (State::Compromised, true) => "compromised (opens)".to_owned(),
            (state, _) => state.to_string(),
        };
        let expires = match row.validity {
            Validity::Expired => "expired".to_owned(),
            _ if row.not_before.duration_since(now) > CLOCKS => {
                format!("begins in {}", span(now.duration_until(row.not_before)))
            }
            Validity::Good | Validity::Ending => format!("in {}", span(now.duration_until(row.not_after))),
        };
        let needed = row.needed_by.map_or_else(|| "?".to_owned(), |needed| needed.len().to_string());
        rows.push(vec![
            row.fingerprint.to_string(),
            state,
            span(row.made.duration_until(now)),
            expires,
            needed,
            row.secret.to_owned(),
        ]);
        colours.push(match (row.state, row.validity) {
            (State::Compromised, _) | (State::Sealing, Validity::Expired) => Some(RED),
            (State::Sealing, Validity::Ending) => Some(YELLOW),
            (State::Sealing, Validity::Good) => Some(GREEN),
            (State::Retired, _) => Some(DIM),
            (State::Superseded, _) => None,
        });
    }
    for Malformed { secret, .. } in &report.malformed {
        rows.push(["-", "malformed", "-", "-", "-", secret].map(str::to_owned).to_vec());
        colours.push(Some(RED));
    }
    let paint = |row: usize, column: usize| colours.get(row).copied().flatten().filter(|_| colour && column == 1);
    let table = table::render(&rows, paint);
    let Some(unknown) = report.unknown.filter(|unknown| !unknown.is_empty()) else { return table };
    format!(
        "{table}\nNot known of {} more SealedSecrets, which -o json names: they may need any of these.\n",
        unknown.len()
    )
}
