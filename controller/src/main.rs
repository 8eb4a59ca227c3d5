//! The doorway: process-wide set-up, then `runtime::run`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use controller::{args::Args, context::chain, exit::Exit, runtime, telemetry, traces::Traces};
use crds::guard;

#[global_allocator]
static ALLOCATOR: guard::Allocator = guard::ALLOCATOR;

fn main() -> ExitCode {
    let private = guard::keep_memory_private();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", guard::told(panic))));
    let args = Args::from_command_line(std::env::args_os(), |variable| std::env::var_os(variable));
    let args = args.unwrap_or_else(|error| error.exit());
    // kube, gix and the traces share one TLS provider; it must stand before the first client.
    let _already_there = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let traces = telemetry::init(&args.log);
    if let Err(error) = private {
        tracing::warn!(%error, "cannot keep this process's memory out of core dumps and from others of the same user");
    }
    let ended = traces.map_err(anyhow::Error::from).and_then(|traces| {
        let ended = run(args);
        traces.into_iter().for_each(Traces::end);
        ended
    });
    match ended {
        Ok(()) => Exit::Told,
        Err(error) => {
            let exit = Exit::of(&error);
            tracing::error!(code = exit as u8, "{}", chain(error.as_ref()));
            exit
        }
    }
    .into()
}

fn run(args: Args) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Runtime::new().context("cannot start threads")?;
    let ended = tokio.block_on(runtime::run(args));
    // A thread that waits for a silent Git host is not waited for.
    tokio.shutdown_timeout(Duration::from_secs(1));
    ended
}
