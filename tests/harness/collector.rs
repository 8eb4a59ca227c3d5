//! A collector of traces, as far as OTLP over HTTP asks of one: it decodes what it is sent and keeps it, or when told to
//! refuses it or says nothing. It must not know what spans mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    routing::post,
};
use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::status::StatusCode as Outcome,
};
use prost::Message as _;

use crate::background::listen;

/// What it does with traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Take,
    Refuse,
    Hang,
}

/// One span, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    /// Lines of the log that are part of it.
    pub events: usize,
    pub start: u64,
    pub end: u64,
    /// Who sent it.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// The value of an attribute; empty without it.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map(String::as_str).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Seen {
    mood: Mood,
    spans: Vec<Span>,
    bodies: Vec<Vec<u8>>,
    headers: HeaderMap,
    paths: BTreeSet<String>,
    refused: usize,
    hung: usize,
}

/// A collector on loopback.
#[derive(Clone, Debug)]
pub struct Collector {
    seen: Arc<Mutex<Seen>>,
    address: String,
}

impl Collector {
    pub fn start() -> Result<Self> {
        let (listener, port) = listen()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let collector = Self { seen: Arc::default(), address: format!("http://127.0.0.1:{port}") };
        let routes = Router::new().fallback(post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(collector)
    }

    /// What `--otlp-endpoint` takes.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn be(&self, mood: Mood) {
        self.with(|seen| seen.mood = mood);
    }

    /// All that was taken.
    pub fn spans(&self) -> Vec<Span> {
        self.with(|seen| seen.spans.clone())
    }

    /// The same, byte for byte.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.with(|seen| seen.bodies.clone())
    }

    /// Of the last request.
    pub fn headers(&self) -> HeaderMap {
        self.with(|seen| seen.headers.clone())
    }

    /// Where they were taken.
    pub fn paths(&self) -> BTreeSet<String> {
        self.with(|seen| seen.paths.clone())
    }

    /// How many requests were refused, and how many get no answer.
    pub fn unserved(&self) -> (usize, usize) {
        self.with(|seen| (seen.refused, seen.hung))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn take(State(collector): State<Collector>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mood = collector.with(|seen| seen.mood);
    match mood {
        Mood::Take => {}
        Mood::Refuse => {
            collector.with(|seen| seen.refused += 1);
            return StatusCode::NOT_FOUND;
        }
        Mood::Hang => {
            collector.with(|seen| seen.hung += 1);
            pending::<()>().await;
        }
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else { return StatusCode::BAD_REQUEST };
    let spans = request.resource_spans.into_iter().flat_map(|of_one| {
        let resource = attributes(of_one.resource.unwrap_or_default().attributes);
        of_one.scope_spans.into_iter().flat_map(|scope| scope.spans).map(move |span| Span {
            trace: HEXLOWER.encode(&span.trace_id),
            id: HEXLOWER.encode(&span.span_id),
            parent: HEXLOWER.encode(&span.parent_span_id),
            name: span.name,
            attributes: attributes(span.attributes),
            failed: span.status.is_some_and(|status| status.code == Outcome::Error as i32),
            events: span.events.len(),
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            resource: resource.clone(),
        })
    });
    let spans: Vec<_> = spans.collect();
    collector.with(|seen| {
        seen.spans.extend(spans);
        seen.bodies.push(body.to_vec());
        seen.headers = headers;
        seen.paths.insert(uri.path().to_owned());
    });
    StatusCode::OK
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}
