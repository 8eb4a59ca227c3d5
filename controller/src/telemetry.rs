//! Logs: text for people, JSON for machines. What happened is said where it happens; here is only the form.

use tracing::Level;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::args::{LogFormat, LogLevel};

/// Call once, before anything logs. `RUST_LOG` refines the level for one who is debugging.
pub fn init(level: LogLevel, format: LogFormat) {
    // Chatty libraries speak only when they warn.
    let quiet = ["gix=warn", "hyper=warn", "kube=warn", "reqwest=warn", "rustls=warn", "russh=warn", "tower=warn"];
    let directives = format!("{},{}", Level::from(level), quiet.join(","));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}
