//! What was typed after `seal sync`. Decides nothing.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueHint};

use super::{Report, keys::Output};
use crate::{args::Connection, command, verdict::Goal};

pub const GROUP: &str = "\
Example:
  seal sync status shop/web

What each screen says, and the rights that these verbs need: docs/seal-sync.md and deploy/sync-operator.

Exit codes: 0 done, 1 not, 2 the command line makes no sense; more at each verb.";

/// The verbs of the group.
#[derive(Debug, Subcommand)]
pub enum Sync {
    /// Show the GitSyncs, those that are not well first
    #[command(after_help = LIST)]
    List(List),
    /// Show how one fares, what is wrong, and what to do about it
    #[command(after_help = STATUS)]
    Status(Status),
    /// Show what differs between Git, or a folder, and the cluster
    #[command(after_help = DIFF)]
    Diff(Diff),
    /// Show the plan that waits for leave
    #[command(after_help = PLAN)]
    Plan(Plan),
    /// Allow the plan that waits
    #[command(after_help = APPROVE)]
    Approve(Approve),
    /// Have Git looked at now, and wait until that is done
    #[command(after_help = NOW)]
    Now(Now),
    /// Wait until GitSyncs are as wanted
    #[command(after_help = WAIT)]
    Wait(Wait),
    /// Have nothing applied, healed or pruned for a while
    #[command(after_help = SUSPEND)]
    Suspend(Change),
    /// Go on with what was suspended
    #[command(after_help = RESUME)]
    Resume(Change),
    /// Go back to a revision of the history, and stay there until there is a newer commit
    #[command(after_help = ROLLBACK)]
    Rollback(Rollback),
    /// Show the revisions that were applied
    #[command(after_help = HISTORY)]
    History(Show),
    /// Show what is in the cluster because of one, and how it fares
    #[command(after_help = TREE)]
    Tree(Show),
    /// Show what happened
    #[command(after_help = EVENTS)]
    Events(Show),
    /// Show the manifests that a folder makes, without a cluster
    #[command(after_help = RENDER)]
    Render(Render),
}

/// Where GitSyncs are.
#[derive(Debug, Args)]
pub struct At {
    /// Namespace of the GitSync, instead of the context's
    #[arg(short, long)]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub connection: Connection,
}

/// One GitSync.
#[derive(Debug, Args)]
pub struct Which {
    /// The GitSync
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub name: String,
    #[command(flatten)]
    pub at: At,
}

/// Where it is seen whether anybody works.
#[derive(Debug, Args)]
pub struct Lookout {
    /// Namespace of the controller, whose Lease there shows whether it works
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub controller_namespace: String,
}

/// Some GitSyncs.
#[derive(Debug, Args)]
pub struct Several {
    #[command(flatten)]
    pub which: Names,
    #[command(flatten)]
    pub at: At,
}

/// Their names, or all.
#[derive(Debug, Args)]
pub struct Names {
    /// The GitSyncs
    #[arg(required_unless_present_any = ["all", "all_namespaces"], value_name = "[NAMESPACE/]NAME")]
    pub names: Vec<String>,
    /// Every one of the namespace
    #[arg(long, conflicts_with_all = ["names", "all_namespaces"])]
    pub all: bool,
    /// Every one of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["names", "namespace"])]
    pub all_namespaces: bool,
}

const LIST: &str = "\
Example:
  seal sync list -A

When nobody works, the first line says so, where you may read the controller's Lease.

Exit codes: 0 shown, well or not, 1 not shown.";

#[derive(Debug, Args)]
pub struct List {
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub lookout: Lookout,
    #[command(flatten)]
    pub at: At,
}

const STATUS: &str = "\
Example:
  seal sync status shop/web

The first line says whether it is well; then comes what is wrong and what to do next. When nobody works, that comes \
first, where you may read the controller's Lease.

Exit codes: 0 shown, well or not, 1 not shown. seal sync wait --timeout 0 tells a script whether it is well.";

#[derive(Debug, Args)]
pub struct Status {
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub lookout: Lookout,
    #[command(flatten)]
    pub which: Which,
}

const PLAN: &str = "\
Example:
  seal sync plan shop/web

Exit codes: 0 shown, or there is none, 1 not shown.";

#[derive(Debug, Args)]
pub struct Plan {
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub which: Which,
}

const APPROVE: &str = "\
Example:
  seal sync approve shop/web --yes

Shows the plan, asks, and allows that very plan: should Git change meanwhile, the new plan waits for leave again.

Exit codes: 0 allowed, 1 not, 4 refused: nobody said yes, or it is another plan than --plan says.";

#[derive(Debug, Args)]
pub struct Approve {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Allow only the plan with this digest, without asking
    #[arg(long, value_name = "DIGEST")]
    pub plan: Option<String>,
    #[command(flatten)]
    pub which: Which,
}

const NOW: &str = "\
Example:
  seal sync now shop/web

With --all or -A those that are suspended are left out. One that cannot be asked keeps none of the others from it.

Exit codes: 0 it is done and all is well, 1 one is not asked for, or there is none, or something is \
wrong, 5 not done in time.";

/// How long to wait for what comes of it, and how to hear of it.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Do not wait
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait: 30s, 2m, or seconds
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = command::duration)]
    pub timeout: Duration,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub lookout: Lookout,
}

#[derive(Debug, Args)]
pub struct Now {
    #[command(flatten)]
    pub waiting: Waiting,
    #[command(flatten)]
    pub which: Several,
}

const WAIT: &str = "\
Example:
  seal sync wait shop/web --for revision=3f2a91c --timeout 10m

What stalled, goes meanwhile or cannot be read is not waited for, but the others are.

Exit codes: 0 all are as wanted, 1 one will not be, or nobody can tell, or with --all or -A there is \
none, 5 one is not in time.";

#[derive(Debug, Args)]
pub struct Wait {
    /// For what: ready, healthy, deleted, or revision=COMMIT
    #[arg(long = "for", value_name = "WHAT", default_value = "ready", value_parser = goal)]
    pub goal: Goal,
    /// How long to wait: 30s, 2m, or seconds
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = command::duration)]
    pub timeout: Duration,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub lookout: Lookout,
    #[command(flatten)]
    pub which: Several,
}

const SUSPEND: &str = "\
Example:
  seal sync suspend shop/web
  seal sync suspend -A

Git is not looked at, nothing is applied, healed or pruned, and deleting the GitSync leaves its objects.

Exit codes: 0 suspended, 1 one of them is not.";

const RESUME: &str = "\
Example:
  seal sync resume shop/web

Exit codes: 0 resumed, 1 one of them is not.";

#[derive(Debug, Args)]
pub struct Change {
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub which: Several,
}

const ROLLBACK: &str = "\
Example:
  seal sync rollback shop/web 3f2a91c

Without a revision it is the last one before the present one. --off follows Git again, whatever is there.

Exit codes: 0 it is back there and all is well, 1 not asked for, or something is wrong, 5 not done in time.";

#[derive(Debug, Args)]
pub struct Rollback {
    /// The GitSync
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub name: String,
    /// A revision of the history, or the first letters of its commit
    #[arg(value_name = "REVISION", conflicts_with = "off")]
    pub revision: Option<String>,
    /// Follow Git again
    #[arg(long)]
    pub off: bool,
    #[command(flatten)]
    pub waiting: Waiting,
    #[command(flatten)]
    pub at: At,
}

const HISTORY: &str = "\
Example:
  seal sync history shop/web

Exit codes: 0 shown, 1 not.";

const TREE: &str = "\
Example:
  seal sync tree shop/web

What nothing is said of is there and can be nothing but healthy, such as a ConfigMap.

Exit codes: 0 shown, 1 not.";

const EVENTS: &str = "\
Example:
  seal sync events shop/web

Exit codes: 0 shown, 1 not. The API server forgets events after an hour, if it is not told otherwise.";

#[derive(Debug, Args)]
pub struct Show {
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub which: Which,
}

/// How a folder is rendered.
#[derive(Debug, Args)]
pub struct Tools {
    /// Program that builds kustomizations
    #[arg(long, value_name = "PROGRAM", default_value = "kustomize", value_hint = ValueHint::CommandName)]
    pub kustomize: PathBuf,
    /// Program that renders charts
    #[arg(long, value_name = "PROGRAM", default_value = "helm", value_hint = ValueHint::CommandName)]
    pub helm: PathBuf,
}

const DIFF: &str = "\
Example:
  seal sync diff shop/web --local deploy/production

Renders what the GitSync asks for, and has the API server try to apply it, which changes nothing. Without --local it is \
the revision that was applied last, fetched with your own git: what differs then was changed by others. With --local it \
is what a merge would bring, with the hooks that would be run. Variables have the values that they have in the cluster, \
read with your own rights; what needs one that you may not read cannot be compared. Values of Secrets are never shown, \
only that they differ.

Exit codes, as diff has them: 0 nothing differs, 1 something does, 2 trouble.";

#[derive(Debug, Args)]
pub struct Diff {
    /// Compare this folder, which stands for spec.path
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub local: Option<PathBuf>,
    /// Compare this commit
    #[arg(long, value_name = "COMMIT", conflicts_with = "local")]
    pub revision: Option<String>,
    /// How to report
    #[arg(short, long, value_enum, default_value_t = Report::Text)]
    pub output: Report,
    #[command(flatten)]
    pub tools: Tools,
    #[command(flatten)]
    pub which: Which,
}

const RENDER: &str = "\
Example:
  seal sync render deploy/production | seal verify -

Renders with your own kustomize and helm what the controller would, in the order in which it would be applied. With \
--file or --sync it is for that GitSync: its namespaces, labels, values.

Exit codes: 0 rendered, 1 not; stderr names every problem with its file and line.";

#[derive(Debug, Args)]
pub struct Render {
    /// The folder, which stands for spec.path
    #[arg(value_hint = ValueHint::DirPath)]
    pub path: PathBuf,
    /// Manifest of the GitSync to render for
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// GitSync of the cluster to render for
    #[arg(long, value_name = "[NAMESPACE/]NAME", conflicts_with = "file")]
    pub sync: Option<String>,
    /// Version of Kubernetes that charts are told, where no cluster is asked
    #[arg(long, value_name = "VERSION", conflicts_with = "sync")]
    pub kube_version: Option<String>,
    #[command(flatten)]
    pub tools: Tools,
    #[command(flatten)]
    pub at: At,
}

fn goal(text: &str) -> Result<Goal, String> {
    match (text, text.split_once('=')) {
        ("ready", _) => Ok(Goal::Ready),
        ("healthy", _) => Ok(Goal::Healthy),
        ("deleted", _) => Ok(Goal::Deleted),
        (_, Some(("revision", commit))) if !commit.is_empty() => Ok(Goal::Applied(commit.to_owned())),
        _ => Err("must be ready, healthy, deleted or revision=COMMIT".to_owned()),
    }
}
