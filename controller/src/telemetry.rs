//! Logs: text for people, JSON for machines; and where traces go. What happened is said where it happens; here is only the
//! form.

use std::io::IsTerminal as _;

use tracing::{Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, LevelFilter, filter_fn},
    fmt::{self, writer::MakeWriterExt as _},
    layer::{Filter, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::{
    args::{LogArgs, LogFormat},
    exit::StartError,
    traces::{self, Traces},
};

/// Where kube quotes an answer that it could not read, which may be a Secret. Its error, which whoever asked tells of, does
/// not.
const QUOTES: &str = "kube_client::client";

/// Call once, before anything logs. `RUST_LOG` refines the level for one who is debugging. Fails when traces are wanted and
/// cannot be sent.
pub fn init(args: &LogArgs) -> Result<Option<Traces>, StartError> {
    // Chatty libraries speak only when they warn; those whose failures we tell of ourselves, with what was being done, not
    // even then.
    let quiet = [
        "gix=warn",
        "hyper=warn",
        "kube=warn",
        "kube_client::client::builder=off",
        "kube_runtime::watcher=off",
        "reqwest=warn",
        "rustls=warn",
        "russh=warn",
        "tower=warn",
    ];
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
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter.and(spanless).and(discreet())));
    let traces = Traces::of(args);
    match &traces {
        Ok(Some(traces)) => registry.with(traces.layer()).init(),
        _ => registry.init(),
    }
    traces
}

/// Whatever `RUST_LOG` says.
fn discreet<S: Subscriber>() -> impl Filter<S> {
    filter_fn(|it| it.target() != QUOTES).with_max_level_hint(LevelFilter::TRACE)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        io,
        sync::{Arc, Mutex},
    };

    use k8s_openapi::api::core::v1::Secret;
    use kube::{Api, Client, client::Body};
    use tracing_subscriber::Registry;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of a Secret that cannot be read.
    async fn logged(filter: impl Filter<Registry> + Send + Sync + 'static) -> String {
        let log = Log::default();
        let writer = log.clone();
        let lines = fmt::layer().with_writer(move || writer.clone());
        let _logging = tracing_subscriber::registry().with(lines.with_filter(filter)).set_default();
        let answer = |_: http::Request<Body>| async {
            let secret = br#"{"metadata": {"name": "db"}, "data": {"password": "aHVudGVyMg==", "user": 5}}"#;
            Ok::<_, Infallible>(http::Response::new(Body::from(secret.to_vec())))
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let error = Api::<Secret>::default_namespaced(client).get("db").await.unwrap_err();
        tracing::error!("cannot read db: {}", crate::context::chain(&error));
        let log = log.0.lock().unwrap();
        String::from_utf8(log.clone()).unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_not_quoted() {
        let log = logged(discreet()).await;
        assert!(log.contains("cannot read db") && !log.contains("aHVudGVyMg"), "{log}");
        // What is guarded against is there.
        assert!(logged(LevelFilter::TRACE).await.contains("aHVudGVyMg"));
    }
}
