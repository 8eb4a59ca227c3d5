//! `seal sync plan` and `seal sync approve`: what waits for leave, and the leave, which is for that very plan.

use crds::git_sync::APPROVE;
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::json;

use super::{Site, SyncError, painted};
use crate::{
    commands::keys::write,
    exit::{Error, Exit},
    io::Io,
    output,
    table::{GREEN, RED},
    verbs::sync::{Approve, Plan},
    verdict::{Verdict, waiting_plan},
};

/// A plan, if there is one.
#[derive(Debug, Serialize)]
struct Report {
    namespace: String,
    name: String,
    /// The revision that it brings.
    revision: Option<String>,
    digest: Option<String>,
    steps: Vec<String>,
}

impl Report {
    fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn text(&self, coloured: bool) -> String {
        let (key, Some(digest)) = (self.key(), &self.digest) else {
            return format!("No plan of {} waits for leave\n", self.key());
        };
        let revision = self.revision.as_deref().unwrap_or("its spec");
        let mut text = format!("{key} at {revision}: plan {digest}\n");
        for step in &self.steps {
            let colour = if step.starts_with("delete ") { RED } else { GREEN };
            text += &["  ", &painted(step, colour, coloured), "\n"].concat();
        }
        text
    }
}

pub async fn plan(command: Plan, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Plan { which, output } = command;
    let site = Site::at(which.at).await?;
    let report = report(&site, &which.name).await?;
    let coloured = io.colour_stdout;
    write(&report, || report.text(coloured), output, io)?;
    Ok(Exit::Ok)
}

pub async fn run(command: Approve, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Approve { which, yes, plan } = command;
    let site = Site::at(which.at).await?;
    let report = report(&site, &which.name).await?;
    let key = report.key();
    let Some(digest) = report.digest.clone() else { return Err(SyncError::NoPlan(key).into()) };
    output::write(report.text(io.colour_stdout).as_bytes(), None, io)?;
    match plan {
        Some(wanted) if wanted != digest => {
            return Err(SyncError::OtherPlan { key, waits: digest, wanted }.into());
        }
        None if !yes => {
            io.ask_line("Carry it out? [y/N] ");
            let answer = io.answer().map_err(SyncError::Answer)?.ok_or_else(|| SyncError::Unasked(key.clone()))?;
            if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
                return Err(SyncError::Declined(key).into());
            }
        }
        _ => {}
    }
    let patch = json!({"metadata": {"annotations": {APPROVE: digest}}});
    site.cluster.change_git_sync(&report.namespace, &report.name, &patch).await?;
    io.remark(&format!("allowed; seal sync wait {key} waits for it"));
    Ok(Exit::Ok)
}

async fn report(site: &Site, name: &str) -> Result<Report, Error> {
    let sync = site.find(name).await?;
    let verdict = Verdict::of(&sync);
    let (digest, steps) = waiting_plan(&sync).map_or((None, Vec::new()), |(digest, steps)| (Some(digest), steps));
    Ok(Report {
        namespace: sync.namespace().unwrap_or_default(),
        name: sync.name_any(),
        revision: verdict.attempted,
        digest,
        steps,
    })
}
