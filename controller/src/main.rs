//! The doorway: process-wide set-up, then `runtime::run`.

use clap::Parser as _;
use controller::{args::Args, runtime, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log_level, args.log_format);
    // kube and gix share one TLS provider; it must stand before the first client.
    let _already_there = rustls::crypto::aws_lc_rs::default_provider().install_default();
    runtime::run(args).await
}
