//! `seal sync status`: whether one is well, what is wrong, what to do, and then the rest.

use crds::GitSync;
use jiff::Timestamp;
use serde::Serialize;

use super::{Site, colour, painted};
use crate::{
    commands::keys::write,
    exit::{Error, Exit},
    idle::Idle,
    io::Io,
    table::{self, DIM, RED, span},
    verbs::sync::Status,
    verdict::{State, Verdict, short, waiting_plan},
};

#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    verdict: &'a Verdict,
    spec: &'a crds::git_sync::GitSyncSpec,
    /// Nobody works.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Idle>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Serialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

pub async fn run(command: Status, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Status { which, lookout, output } = command;
    let site = Site::at(which.at).await?;
    let sync = site.find(&which.name).await?;
    let verdict = Verdict::of(&sync);
    let idle = site.idle(&lookout, verdict.waits(), io).await;
    let conditions = sync.status.iter().flat_map(|status| &status.conditions).map(|it| Condition {
        kind: it.type_.clone(),
        status: it.status.clone(),
        reason: it.reason.clone(),
        message: it.message.clone(),
    });
    let report = Report { verdict: &verdict, spec: &sync.spec, idle, conditions: conditions.collect() };
    let (now, coloured) = (io.now, io.colour_stdout);
    let text = || warned(report.idle.as_ref(), now, coloured) + &text(&sync, &verdict, now, coloured);
    write(&report, text, output, io)?;
    Ok(Exit::Ok)
}

/// The whole screen.
fn text(sync: &GitSync, verdict: &Verdict, now: Timestamp, coloured: bool) -> String {
    format!("{}\n{}", told(verdict, now, coloured), facts(sync, verdict, now, coloured))
}

/// That nobody works comes before everything else: the rest is as it was left.
pub fn warned(idle: Option<&Idle>, now: Timestamp, coloured: bool) -> String {
    let Some(idle) = idle else { return String::new() };
    format!("{}\nNext: {}\n\n", painted(&idle.told(now), RED, coloured), idle.next())
}

/// Whether it is well, what is wrong, and what to do.
pub fn told(verdict: &Verdict, now: Timestamp, coloured: bool) -> String {
    let mut text = painted(&verdict.headline(), colour(verdict.state), coloured);
    if let Some(since) = verdict.since.filter(|_| verdict.state != State::Well || verdict.pending.is_empty()) {
        text += &[" (for ", &span(since.duration_until(now)), ")"].concat();
    }
    text.push('\n');
    verdict.pending.iter().for_each(|it| text += &["  ", &it.told(now), "\n"].concat());
    if verdict.state != State::Well {
        verdict.why.iter().for_each(|line| text += &["  ", line, "\n"].concat());
    }
    if let Some(next) = &verdict.next {
        text += &["Next: ", next, "\n"].concat();
    }
    text
}

/// Revision, when, counts, and what it is meant to follow.
fn facts(sync: &GitSync, verdict: &Verdict, now: Timestamp, coloured: bool) -> String {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
    let ago = |at: Timestamp| format!(", {} ago", span(at.duration_until(now)));
    let applied = verdict.applied.clone().unwrap_or_else(|| "nothing yet".to_owned());
    row("Applied", applied + &verdict.applied_at.map(ago).unwrap_or_default());
    if let Some(attempted) = verdict.attempted.as_ref().filter(|it| verdict.applied.as_ref() != Some(*it)) {
        row("Tried", attempted.clone());
    }
    if let Some(pinned) = &verdict.pinned {
        row("Held at", format!("{}, until there is a newer commit", short(pinned)));
    }
    row("Objects", verdict.objects.to_string());
    let spec = &sync.spec;
    let path = if spec.path.is_empty() { "all of it" } else { &spec.path };
    row("Follows", format!("{} ({path}), every {}", spec.source.url, spec.interval));
    if let Some((digest, steps)) = waiting_plan(sync) {
        row("Plan", format!("{digest} waits for leave, {} steps", steps.len()));
    }
    let needs: Vec<&str> = spec.depends_on.iter().map(|it| it.name.as_str()).collect();
    if !needs.is_empty() {
        row("After", needs.join(", "));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.to_vec()).collect();
    table::render(&rows, |_, column| (coloured && column == 0).then_some(DIM))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_says_first_whether_all_is_well_then_what_to_do() {
        let sync: GitSync = serde_json::from_value(json!({
            "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync",
            "metadata": {"name": "web", "namespace": "shop", "generation": 1},
            "spec": {"source": {"url": "https://git.example.com/shop.git"}, "path": "deploy", "dependsOn": [{"name": "db"}]},
            "status": {
                "lastAppliedRevision": "main@sha1:3f2a91c0", "lastAttemptedRevision": "main@sha1:77aa0000",
                "history": [{"revision": "main@sha1:3f2a91c0", "digest": "p", "appliedAt": "1970-01-01T00:00:00Z"}],
                "inventory": {"entries": [{"id": "shop_a__ConfigMap", "v": "v1"}]},
                "conditions": [{"type": "Ready", "status": "False", "reason": "BuildFailed", "observedGeneration": 1,
                    "message": "deploy/db.yaml:1: Secret shop/db is plain; deploy/web.yaml:3: kind is missing",
                    "lastTransitionTime": "1970-01-01T00:03:00Z"}],
            },
        }))
        .unwrap();
        let told = text(&sync, &Verdict::of(&sync), Timestamp::from_second(300).unwrap(), false);
        let expected = "\
shop/web is not well: BuildFailed (for 2m)
  deploy/db.yaml:1: Secret shop/db is plain
  deploy/web.yaml:3: kind is missing
Next: Correct these files and push. What was applied before stays, and is healed

Applied  main@sha1:3f2a91c0, 5m ago
Tried    main@sha1:77aa0000
Objects  1
Follows  https://git.example.com/shop.git (deploy), every 1m
After    db
";
        assert_eq!(told, expected);
    }
}
