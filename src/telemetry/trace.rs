//! Traces: a caller's `traceparent` (W3C Trace Context) is checked and passed on. Where the `OTEL_*` variables name a
//! collector, each request is a span of that trace, and spans are exported over OTLP.
//!
//! Without these variables a request costs one look at its headers. The export never blocks a request: spans that the
//! collector does not accept in time are dropped. A span has the attributes of the log line, and no others.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::sync::{mpsc, oneshot};
use url::{Position, Url};

use super::metrics::Uncounted;
use crate::config::proxy::ProxySetting;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::client::connect::Connector;
use crate::http::client::{RawResponse, Repeat};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Limit of bytes of a `tracestate` that are passed on (Trace Context §3.3.1.5).
const MAX_STATE: usize = 512;
/// Limit of batches that wait for the collector; the exporter sends them one after the other.
const BATCHES: usize = 1;
/// Time for the last batch when the process ends.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// Limit of traces that are kept for later requests; beyond it all are dropped.
const MAX_KEPT: usize = 4096;

/// A valid `traceparent`: version 00, or a later one with the same fields.
struct Parent<'a> {
    trace: &'a str,
    span: &'a str,
    flags: u8,
}

impl<'a> Parent<'a> {
    fn parse(value: &'a HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let (known, more) = text.split_at_checked(55)?;
        let mut parts = known.split('-');
        let [version, trace, span, flags] = [
            hex(parts.next()?, 2)?,
            hex(parts.next()?, 32)?,
            hex(parts.next()?, 16)?,
            hex(parts.next()?, 2)?,
        ];
        // A later version may have further fields, behind a dash (Trace Context, "Versioning of traceparent").
        let is_whole = more.is_empty() || (version != "00" && more.starts_with('-'));
        let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        // Version ff is forbidden, and an id of zeros means none (Trace Context §3.2.2).
        let valid = is_whole && version != "ff" && !is_zero(trace) && !is_zero(span);
        valid.then_some(Self {
            trace,
            span,
            flags: u8::from_str_radix(flags, 16).ok()?,
        })
    }

    fn context(&self) -> Option<SpanContext> {
        Some(SpanContext::new(
            TraceId::from_hex(self.trace).ok()?,
            SpanId::from_hex(self.span).ok()?,
            // The other bits are reserved and have to be 0 in what we send (Trace Context, "Other Flags").
            TraceFlags::new(self.flags) & TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        ))
    }
}

fn hex(text: &str, length: usize) -> Option<&str> {
    // Upper case is invalid (Trace Context §3.2.2, HEXDIGLC).
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == length && text.bytes().all(is_digit)).then_some(text)
}

/// Removes an invalid trace from headers and returns the parent of a valid one.
fn check(headers: &mut HeaderMap) -> Option<SpanContext> {
    // Most requests have none, and each lookup in the headers has a cost.
    if !is_named(headers) {
        headers.remove(TRACESTATE);
        return None;
    }
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let parent = match (parents.next(), parents.next()) {
        (Some(only), None) => Parent::parse(only).and_then(|parent| parent.context()),
        _ => None,
    };
    let states = headers.get_all(TRACESTATE).iter();
    let state: usize = states.map(HeaderValue::len).sum();
    if parent.is_none() {
        headers.remove(TRACEPARENT);
    }
    if parent.is_none() || state > MAX_STATE {
        headers.remove(TRACESTATE);
    }
    parent
}

/// Returns true for header fields that carry a trace.
pub fn reads(field: &HeaderName) -> bool {
    [TRACEPARENT, TRACESTATE].contains(field)
}

/// Returns true where headers have a trace to pass on.
pub fn is_named(headers: &HeaderMap) -> bool {
    headers.contains_key(TRACEPARENT)
}

/// Copies a request's trace, which [`Tracer::begin`] has checked, to the headers of another.
pub fn pass_on(from: &HeaderMap, to: &mut HeaderMap) {
    let Some(parent) = from.get(TRACEPARENT) else {
        return;
    };
    to.insert(TRACEPARENT, parent.clone());
    for state in from.get_all(TRACESTATE) {
        to.append(TRACESTATE, state.clone());
    }
}

/// The side of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We answer it.
    Server,
    /// We send it.
    Client,
}

/// Begins spans where a collector is configured.
pub struct Tracer(Option<(SdkTracerProvider, SdkTracer)>);

impl Tracer {
    /// Reads the environment; returns the exporter that must run beside the tracer.
    pub fn of_environment() -> (Self, Option<Export>) {
        if !is_asked_for() {
            return (Self(None), None);
        }
        match Export::of_environment() {
            Ok((exporter, export)) => {
                let provider = SdkTracerProvider::builder()
                    .with_batch_exporter(exporter)
                    .with_resource(resource())
                    .build();
                let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
                (Self(Some((provider, tracer))), Some(export))
            }
            Err(error) => {
                tracing::warn!(error, "no traces are exported");
                (Self(None), None)
            }
        }
    }

    /// Begins a span in the trace that the headers name, or in a new one. From then on they name the trace to pass on: ours,
    /// or without a collector the caller's.
    pub fn begin(&self, side: Side, headers: &mut HeaderMap) -> Span {
        let parent = check(headers);
        let Some((_, tracer)) = &self.0 else {
            return Span::default();
        };
        let context = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent)
        });
        let kind = match side {
            Side::Server => SpanKind::Server,
            Side::Client => SpanKind::Client,
        };
        // A span that a panic or the shutdown ends keeps this name.
        let builder = SpanBuilder::from_name("cut short").with_kind(kind);
        let span = tracer.build_with_context(builder, &context);
        let own = span.span_context();
        let value = format!(
            "00-{}-{}-{:02x}",
            own.trace_id(),
            own.span_id(),
            own.trace_flags()
        );
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(TRACEPARENT, value);
        }
        Span(Some(span))
    }

    /// Exports the remaining spans before the process ends. Blocks for a second at most.
    pub fn end(&self) {
        if let Some((provider, _)) = &self.0 {
            // An unreachable collector was logged before.
            let _ = provider.shutdown_with_timeout(FLUSH_TIME);
        }
    }
}

/// The span of one request; the default is not traced.
#[derive(Default)]
pub struct Span(Option<opentelemetry_sdk::trace::Span>);

impl Span {
    /// Ends the span under a name from a fixed list, with the attributes that are not empty.
    pub fn end(self, name: &[&'static str], failed: bool, attributes: &[(&'static str, &str)]) {
        let Some(mut span) = self.0 else {
            return;
        };
        span.update_name(name.join(" "));
        for (name, value) in attributes {
            if !matches!(*value, "" | "-") {
                span.set_attribute(KeyValue::new(*name, (*value).to_owned()));
            }
        }
        if failed {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// Traces of results that are delivered later. They end with the process.
#[derive(Default)]
pub struct Kept(Mutex<HashMap<String, HeaderValue>>);

impl Kept {
    /// Keeps the trace in `headers` for an event.
    pub fn keep(&self, event: &str, headers: &HeaderMap) {
        let Some(parent) = headers.get(TRACEPARENT) else {
            return;
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(event.to_owned(), parent.clone());
    }

    /// Puts an event's trace into `headers`.
    pub fn put(&self, event: &str, headers: &mut HeaderMap) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parent) = kept.get(event) {
            headers.insert(TRACEPARENT, parent.clone());
        }
    }

    /// Drops the trace of an event that needs no further request.
    pub fn forget(&self, event: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(event);
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_asked_for() -> bool {
    let named = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let off = variable("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let exporter = variable("OTEL_TRACES_EXPORTER");
    named.into_iter().any(|name| variable(name).is_some())
        && !off
        && exporter.is_none_or(|it| it == "otlp")
}

fn resource() -> Resource {
    let named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|it| it.contains("service.name="));
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if named {
        resource.build()
    } else {
        resource.with_service_name(env!("CARGO_PKG_NAME")).build()
    }
}

/// A batch on its way, and the channel for the collector's response.
type Post = (
    Request<Bytes>,
    oneshot::Sender<Result<Response<Bytes>, String>>,
);

/// The exporter's end of the channel to the collector. The exporter runs on a thread of its own, our connections do not.
#[derive(Debug)]
struct Collector(mpsc::Sender<Post>);

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (answer, answered) = oneshot::channel();
        self.0.send((request, answer)).await?;
        Ok(answered.await??)
    }
}

/// Posts batches to the collector.
pub struct Export {
    posts: tokio::sync::Mutex<mpsc::Receiver<Post>>,
    clients: ClientsByOrigin,
}

impl Export {
    fn of_environment() -> Result<(SpanExporter, Self), String> {
        let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if protocol.is_some_and(|it| it != "http/protobuf") {
            return Err("OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf".to_owned());
        }
        let (sender, posts) = mpsc::channel(BATCHES);
        // The error's own text would hold the URL, possibly with a password.
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector(sender))
            .build()
            .map_err(|_| "OTEL_EXPORTER_OTLP_ENDPOINT: expected an http or https address")?;
        let certificate = variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_CERTIFICATE"))
            .map(PathBuf::from);
        let transport = Connector::new(certificate.as_deref(), Arc::new(Uncounted))
            .map_err(|error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {error}"))?
            .through(ProxySetting::FromEnvironment);
        let export = Self {
            posts: posts.into(),
            clients: ClientsByOrigin::new(transport),
        };
        Ok((exporter, export))
    }

    /// Posts until the task is dropped.
    pub async fn run(&self) {
        let mut posts = self.posts.lock().await;
        let mut failing = false;
        while let Some((request, answer)) = posts.recv().await {
            let posted = self.post(request).await;
            let failed = match &posted {
                Ok(response) if response.status().is_success() => None,
                Ok(response) => Some(format!("status {}", response.status().as_u16())),
                Err(error) => Some(error.clone()),
            };
            if let Some(error) = failed.as_ref().filter(|_| !failing) {
                tracing::warn!(
                    error,
                    "the collector does not take traces; they are dropped"
                );
            }
            failing = failed.is_some();
            // The exporter may have timed out.
            let _ = answer.send(posted);
        }
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string()).map_err(|error| error.to_string())?;
        let client = self.clients.client(&url).ok_or("no address to export to")?;
        let mut headers = head.headers;
        // Set by the connection itself.
        for name in [header::HOST, header::CONTENT_LENGTH] {
            headers.remove(name);
        }
        let path = &url[Position::BeforePath..Position::AfterQuery];
        let posted = client.post(path, &headers, &body, Repeat::Never).await;
        if let Ok(response) = &posted
            && response.status().is_success()
        {
            response.keep_connection();
        }
        posted
            .map(RawResponse::into_response)
            .map_err(|fault| fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_passed_on_where_it_is_valid_and_alone() {
        for (values, stays) in [
            (vec![VALID], true),
            (
                vec!["01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more"],
                true,
            ),
            (vec![VALID, VALID], false),
            (vec![""], false),
            (
                vec!["00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
                false,
            ),
            (
                vec!["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
                false,
            ),
            (
                vec!["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
                false,
            ),
            (
                vec!["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
                false,
            ),
            (
                vec!["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"],
                false,
            ),
            (
                vec!["01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x"],
                false,
            ),
            (
                vec!["00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01"],
                false,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
            }
            headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            let parent = check(&mut headers);
            assert_eq!(parent.is_some(), stays, "{values:?}");
            assert_eq!(headers.len(), if stays { 2 } else { 0 }, "{values:?}");
        }
    }
}
