//! Logs: text for people, JSON for machines; and where traces go. What happened is said where it happens; here is only the
//! form.

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, LevelFilter, filter_fn},
    fmt::{self, writer::MakeWriterExt as _},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    args::{LogArgs, LogFormat},
    exit::StartError,
    traces::{self, Traces},
};

/// Call once, before anything logs. `RUST_LOG` refines the level for one who is debugging. Fails when traces are wanted and
/// cannot be sent.
pub fn init(args: &LogArgs) -> Result<Option<Traces>, StartError> {
    // Chatty libraries speak only when they warn.
    let quiet = ["gix=warn", "hyper=warn", "kube=warn", "reqwest=warn", "rustls=warn", "russh=warn", "tower=warn"];
    let directives = format!("{},{}", Level::from(args.log_level), quiet.join(","));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    let quietest_aside = if args.log_info_stdout { Level::WARN } else { Level::TRACE };
    let writer = std::io::stderr.with_max_level(quietest_aside).or_else(std::io::stdout);
    let lines = fmt::layer().with_writer(writer).with_target(false);
    let on_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let lines = match args.log_format {
        LogFormat::Text => lines.with_ansi(on_terminal).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // A line of the log stands for itself, and is the same whether it falls into a span or not.
    let spanless = filter_fn(|it| it.target() != traces::TARGET).with_max_level_hint(LevelFilter::TRACE);
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter.and(spanless)));
    let traces = args.otlp_endpoint.as_deref().map(Traces::new).transpose();
    match &traces {
        Ok(Some(traces)) => registry.with(traces.layer()).init(),
        _ => registry.init(),
    }
    traces
}
