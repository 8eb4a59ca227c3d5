//! `seal sync list`: all of them, those that are not well first.

use jiff::Timestamp;
use serde::Serialize;

use super::{Site, colour, none, status::warned};
use crate::{
    commands::keys::write,
    exit::{Error, Exit},
    idle::Idle,
    io::Io,
    table::{self, span},
    verbs::sync::List,
    verdict::{State, Verdict, short},
};

/// Letters of a reason, and as few of them on a narrow terminal.
const ROOM: usize = 90;
const LITTLE: usize = 20;

/// What it is shown on.
struct Page {
    with_namespace: bool,
    width: Option<usize>,
    now: Timestamp,
    coloured: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    git_syncs: Vec<Verdict>,
    /// Nobody works.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Idle>,
}

pub async fn run(command: List, io: &mut Io<'_>) -> Result<Exit, Error> {
    let List { all_namespaces, lookout, output, at } = command;
    let site = Site::at(at).await?;
    let namespace = Some(site.namespace.as_str()).filter(|_| !all_namespaces);
    let found = site.cluster.git_syncs(namespace).await?;
    let mut git_syncs: Vec<Verdict> = found.iter().map(Verdict::of_any).collect();
    git_syncs.sort_by_key(|it| (it.state, it.namespace.clone(), it.name.clone()));
    let idle = site.idle(&lookout, git_syncs.iter().any(Verdict::waits), io).await;
    let report = Report { git_syncs, idle };
    let (now, coloured) = (io.now, io.colour_stdout);
    let page = Page { with_namespace: all_namespaces, width: io.width, now, coloured };
    write(&report, || warned(report.idle.as_ref(), now, coloured) + &text(&report.git_syncs, &page), output, io)?;
    if report.git_syncs.is_empty() {
        io.warning(&none(namespace));
    }
    Ok(Exit::Ok)
}

fn text(all: &[Verdict], &Page { with_namespace, width, now, coloured }: &Page) -> String {
    if all.is_empty() {
        return String::new();
    }
    let skip = usize::from(!with_namespace);
    let row = |cells: [&str; 7]| cells.iter().skip(skip).map(|&cell| cell.to_owned()).collect::<Vec<_>>();
    let mut rows = vec![row(["NAMESPACE", "NAME", "STATE", "REVISION", "APPLIED", "OBJECTS", "WHY"])];
    for it in all {
        let applied = it.applied_at.map_or_else(|| "-".to_owned(), |at| span(at.duration_until(now)) + " ago");
        let revision = it.applied.as_deref().map_or_else(|| "-".to_owned(), short);
        rows.push(row([
            &it.namespace,
            &it.name,
            &it.state.to_string(),
            &revision,
            &applied,
            &it.objects.to_string(),
            "",
        ]));
    }
    let room = width.map(|width| width.saturating_sub(table::width(&rows)).max(LITTLE));
    for (row, it) in rows.iter_mut().skip(1).zip(all) {
        row.iter_mut().last().into_iter().for_each(|last| *last = why(it, now, room));
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

/// The first reason, on a terminal in as many letters as there is `room` for.
fn why(it: &Verdict, now: Timestamp, room: Option<usize>) -> String {
    let pending = it.pending.iter().map(|it| it.told(now));
    let reasons = it.why.iter().filter(|_| it.state != State::Well).cloned();
    let all: Vec<String> = pending.chain(reasons).collect();
    let Some((first, others)) = all.split_first() else { return String::new() };
    let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
    let room = room.map_or(ROOM, |room| room.saturating_sub(more.len() + 1));
    let mut text: String = first.chars().take(room).collect();
    if text.len() < first.len() {
        text.push('…');
    }
    text + &more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pending::Pending;

    #[test]
    fn the_worst_stands_out_and_the_rest_is_one_line_each() {
        let mut failed = Verdict::unreadable("shop".to_owned(), "web".to_owned(), "x".repeat(100));
        failed.why.push("another".to_owned());
        let mut well = Verdict::unreadable("shop".to_owned(), "db".to_owned(), "fine".to_owned());
        (well.state, well.applied, well.objects) = (State::Well, Some("main@sha1:3f2a91c0000".to_owned()), 12);
        well.applied_at = Some(Timestamp::UNIX_EPOCH);
        let now = Timestamp::from_second(300).unwrap();
        let page = |width| Page { with_namespace: true, width, now, coloured: false };
        let told = text(&[failed.clone(), well.clone()], &page(None));
        let expected = format!(
            "NAMESPACE  NAME  STATE       REVISION      APPLIED  OBJECTS  WHY\n\
             shop       web   unreadable  -             -        0        {}… (and 1 more)\n\
             shop       db    well        main@3f2a91c  5m ago   12\n\
             \n1 of 2 not well: seal sync status NAME says what to do.\n",
            "x".repeat(ROOM)
        );
        assert_eq!(told, expected);
        // On a terminal no line is wider than it, where that can be.
        let told = text(&[failed.clone(), well.clone()], &page(Some(100)));
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[1].chars().count(), 100, "{told}");
        assert!(lines[1].ends_with("x… (and 1 more)") && lines[2].starts_with("shop       db    well"), "{told}");
        failed.why.truncate(1);
        assert!(text(&[failed.clone()], &page(Some(10))).contains(&format!("0        {}…\n", "x".repeat(LITTLE - 1))));
        well.pending.push(Pending::Follow);
        let told = text(&[well.clone()], &page(None));
        assert!(told.contains("  12       the end of the rollback is not taken up yet\n"), "{told}");
        well.pending.clear();

        let coloured = text(&[well], &Page { with_namespace: false, width: None, now, coloured: true });
        assert!(coloured.contains("db    \u{1b}[32mwell\u{1b}[0m"), "{coloured}");
    }
}
