//! `cargo demo`: Signet on a real API server, told as a story in a terminal. Every command that is shown was run, every
//! claim is checked, and the first one that does not hold ends the demo with an error.
//!
//! Start reading at [`steps`]; [`story`] is how they are told and [`shell`] how commands run.

mod shell;
mod steps;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::runtime::Runtime;

use crate::story::Story;

/// Shows Signet at work: starts a control plane, the controller and a Git server on this machine, seals a Secret into
/// Git, syncs it, opens it, heals what is changed by hand, refuses a plain Secret, and rotates the key. Touches no
/// other cluster, and leaves nothing behind.
#[derive(Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo")]
struct Flags {
    /// End after the last step instead of leaving everything running until Ctrl-C
    #[arg(long)]
    exit: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let story = Story::new();
    let Err(error) = run(&story, flags.exit) else { return ExitCode::SUCCESS };
    story.failed(&error);
    ExitCode::FAILURE
}

fn run(story: &Story, exit: bool) -> Result<()> {
    let runtime = Runtime::new()?;
    let told = runtime.block_on(async {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
            told = perform(story, exit) => told,
        }
    });
    // A build that is interrupted may end on its own.
    runtime.shutdown_background();
    told?;
    story.say("\nEverything is stopped and removed.")
}

async fn perform(story: &Story, exit: bool) -> Result<()> {
    let _stage = Box::pin(steps::perform(story)).await?;
    if exit {
        return Ok(());
    }
    story.say("\nCtrl-C ends and removes everything.")?;
    std::future::pending().await
}
