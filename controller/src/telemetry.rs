//! Logs: text for people, JSON for machines. What happened is said where it happens; here is only the form.

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::{
    EnvFilter,
    fmt::{self, writer::MakeWriterExt as _},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::args::{LogArgs, LogFormat};

/// Call once, before anything logs. `RUST_LOG` refines the level for one who is debugging.
pub fn init(args: &LogArgs) {
    // Chatty libraries speak only when they warn.
    let quiet = ["gix=warn", "hyper=warn", "kube=warn", "reqwest=warn", "rustls=warn", "russh=warn", "tower=warn"];
    let directives = format!("{},{}", Level::from(args.log_level), quiet.join(","));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    let quietest_aside = if args.log_info_stdout { Level::WARN } else { Level::TRACE };
    let writer = std::io::stderr.with_max_level(quietest_aside).or_else(std::io::stdout);
    let lines = fmt::layer().with_writer(writer).with_target(false);
    let on_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    match args.log_format {
        LogFormat::Text => registry.with(lines.with_ansi(on_terminal)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}
