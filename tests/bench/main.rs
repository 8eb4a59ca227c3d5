//! `cargo bench`: the figures that we promise, measured on a real API server and printed with what they are to reach;
//! beside them upstream's controller and CLI doing the same work on the same machine. Nothing here fails for being
//! slow: it measures, a person judges.
//!
//! Start reading at [`figures`]; [`load`] and [`follow`] are the work, [`subject`] who does it, [`usage`] what it costs.

mod figures;
mod follow;
mod load;
mod offline;
mod subject;
mod table;
mod timing;
mod usage;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use console::Term;
use harness::Cluster;

use crate::figures::Figure;

/// For one phase: a wait in it ends sooner, and says more.
const PATIENCE: Duration = Duration::from_mins(11);

/// Measures Signet, upstream's Sealed Secrets and the bare API server at the same work on this machine. Takes about
/// twelve minutes, most of them for upstream, on an otherwise idle machine with two cores.
#[derive(Parser)]
#[command(name = "cargo bench", bin_name = "cargo bench --")]
struct Flags {
    /// Measure these only
    figures: Vec<Figure>,
    /// SealedSecrets of the large figures; the others have a part of that
    #[arg(long, value_name = "COUNT", default_value_t = 2000)]
    objects: usize,
    /// Leave upstream out
    #[arg(long)]
    without_upstream: bool,
    /// Restart with ten times as many in place as well
    #[arg(long)]
    large: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let figures = if flags.figures.is_empty() { Figure::all() } else { flags.figures };
    let plan = figures::Plan { figures, objects: flags.objects, upstream: !flags.without_upstream, large: flags.large };
    let runtime = tokio::runtime::Runtime::new()?;
    let rows = runtime.block_on(figures::measure(&plan))?;
    table::print(&Term::stdout(), &rows)
}

/// Says what is being done, and does it within bounds: a server that died or hangs ends the run with an error.
fn phase<T>(
    cluster: &Cluster,
    what: impl std::fmt::Display,
    work: impl Future<Output = Result<T>>,
) -> impl Future<Output = Result<T>> {
    let (what, work) = (what.to_string(), Box::pin(work));
    async move {
        say(&what);
        cluster.phase(&what, PATIENCE, work).await
    }
}

/// Says on stderr what is being done: the table on stdout comes at the end.
fn say(line: impl std::fmt::Display) {
    // Nobody to tell is no reason to fail.
    let _ = Term::stderr().write_line(&format!("- {line}"));
}
