//! `seal sync list`: all of them, those that are not well first.

use jiff::Timestamp;
use serde::Serialize;

use super::{Site, colour};
use crate::{
    commands::keys::write,
    exit::{Error, Exit},
    io::Io,
    table::{self, span},
    verbs::sync::List,
    verdict::{State, Verdict, short},
};

/// Letters of a reason that a line has room for.
const ROOM: usize = 90;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    git_syncs: Vec<Verdict>,
}

pub async fn run(command: List, io: &mut Io<'_>) -> Result<Exit, Error> {
    let List { all_namespaces, output, at } = command;
    let site = Site::at(at).await?;
    let namespace = Some(site.namespace.as_str()).filter(|_| !all_namespaces);
    let found = site.cluster.git_syncs(namespace).await?;
    let mut git_syncs: Vec<Verdict> = found
        .into_iter()
        .map(|guarded| match guarded.0 {
            Ok(sync) => Verdict::of(&sync),
            Err(invalid) => {
                let (namespace, name) =
                    (invalid.metadata.namespace.unwrap_or_default(), invalid.metadata.name.unwrap_or_default());
                Verdict::unreadable(namespace, name, invalid.error)
            }
        })
        .collect();
    git_syncs.sort_by_key(|it| (it.state, it.namespace.clone(), it.name.clone()));
    let report = Report { git_syncs };
    let (now, coloured) = (io.now, io.colour_stdout);
    write(&report, || text(&report.git_syncs, all_namespaces, now, coloured), output, io)?;
    if report.git_syncs.is_empty() {
        let place = namespace.map_or("the cluster".to_owned(), |namespace| format!("the namespace {namespace}"));
        io.remark(&format!("There is no GitSync in {place}"));
    }
    Ok(Exit::Ok)
}

fn text(all: &[Verdict], with_namespace: bool, now: Timestamp, coloured: bool) -> String {
    if all.is_empty() {
        return String::new();
    }
    let skip = usize::from(!with_namespace);
    let row = |cells: [&str; 7]| cells.iter().skip(skip).map(|&cell| cell.to_owned()).collect::<Vec<_>>();
    let mut rows = vec![row(["NAMESPACE", "NAME", "STATE", "REVISION", "APPLIED", "OBJECTS", "WHY"])];
    for it in all {
        let applied = it.applied_at.map_or_else(|| "-".to_owned(), |at| span(at.duration_until(now)) + " ago");
        let revision = it.applied.as_deref().map_or_else(|| "-".to_owned(), short);
        let why = if it.state == State::Well { String::new() } else { why(it) };
        rows.push(row([
            &it.namespace,
            &it.name,
            &it.state.to_string(),
            &revision,
            &applied,
            &it.objects.to_string(),
            &why,
        ]));
    }
    let paint = |row: usize, column: usize| {
        let it = row.checked_sub(1).and_then(|row| all.get(row)).filter(|_| coloured && column == 2 - skip)?;
        Some(colour(it.state))
    };
    let table = table::render(&rows, paint);
    let fine = [State::Well, State::Suspended, State::Progressing, State::Deleting];
    let unwell = all.iter().filter(|it| !fine.contains(&it.state)).count();
    if unwell == 0 {
        return table;
    }
    format!("{table}\n{unwell} of {} not well: seal sync status NAME says what to do.\n", all.len())
}

fn why(it: &Verdict) -> String {
    let first = it.why.first().map(String::as_str).unwrap_or_default();
    let more = it.why.len().saturating_sub(1);
    let mut text: String = first.chars().take(ROOM).collect();
    if text.len() < first.len() {
        text.push('…');
    }
    match more {
        0 => text,
        more => format!("{text} (and {more} more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_stands_out_and_the_rest_is_one_line_each() {
        let mut failed = Verdict::unreadable("shop".to_owned(), "web".to_owned(), "x".repeat(100));
        failed.why.push("another".to_owned());
        let mut well = Verdict::unreadable("shop".to_owned(), "db".to_owned(), "fine".to_owned());
        (well.state, well.applied, well.objects) = (State::Well, Some("main@sha1:3f2a91c0000".to_owned()), 12);
        well.applied_at = Some(Timestamp::UNIX_EPOCH);
        let now = Timestamp::from_second(300).unwrap();
        let told = text(&[failed.clone(), well.clone()], true, now, false);
        let expected = format!(
            "NAMESPACE  NAME  STATE       REVISION      APPLIED  OBJECTS  WHY\n\
             shop       web   unreadable  -             -        0        {}… (and 1 more)\n\
             shop       db    well        main@3f2a91c  5m ago   12\n\
             \n1 of 2 not well: seal sync status NAME says what to do.\n",
            "x".repeat(ROOM)
        );
        assert_eq!(told, expected);
        let coloured = text(&[well], false, now, true);
        assert!(coloured.contains("db    \u{1b}[32mwell\u{1b}[0m"), "{coloured}");
    }
}
