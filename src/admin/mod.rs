//! The listener for ops: health, metrics, version, reload.
//!
//! Knows no call and no customer. The platform being down is not this process's unreadiness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;
use tokio::net::{TcpStream, UnixStream};

use crate::clock;
use crate::config::{Listen, ReloadOutcome, Watch};
use crate::http::serve::{Handler, Refusal};
use crate::inbox::store::Store;
use crate::lifetime::Lifetime;
use crate::observe::Metrics;

/// The ops' side of the sidecar.
pub struct Admin {
    /// The merchants in force.
    pub watch: Watch,
    /// Asked whether it can be written.
    pub store: Arc<dyn Store>,
    /// What is exposed.
    pub metrics: Arc<Metrics>,
    /// Whether the end has begun.
    pub lifetime: Arc<Lifetime>,
    /// The other listeners, which open on threads of their own.
    pub listeners: Listeners,
}

/// Where the others are listened for, and whether that was seen to work.
pub struct Listeners {
    addresses: Vec<Listen>,
    open: AtomicBool,
}

impl Listeners {
    /// Not yet known to be open.
    pub fn new(addresses: Vec<Listen>) -> Self {
        Self {
            addresses,
            open: AtomicBool::new(false),
        }
    }

    async fn are_open(&self) -> bool {
        if self.open.load(Ordering::Relaxed) {
            return true;
        }
        for address in &self.addresses {
            let connected = match address {
                Listen::Tcp(address) => TcpStream::connect(address).await.is_ok(),
                Listen::Unix(path) => UnixStream::connect(path).await.is_ok(),
            };
            if !connected {
                return false;
            }
        }
        self.open.store(true, Ordering::Relaxed);
        true
    }
}

impl Admin {
    async fn ready(&self) -> Response<Bytes> {
        if self.lifetime.is_draining() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        if !self.listeners.are_open().await {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "not every listener is open\n",
            );
        }
        match self.store.check().await {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(error) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the store cannot be written: {error}\n"),
            ),
        }
    }

    async fn metrics(&self) -> String {
        // A file that was refused and then put back as it was is no reload, but all is well again.
        let (_, last) = self.watch.last();
        let refused = matches!(last, ReloadOutcome::Refused(_));
        self.metrics.reload_ok.set(i64::from(!refused));
        let others = self.lifetime.in_flight().saturating_sub(1);
        let others = i64::try_from(others).unwrap_or(i64::MAX);
        self.metrics.requests_in_flight.set(others);
        let sound = self.store.check().await.is_ok();
        self.metrics.store_ok.set(i64::from(sound));
        match self.store.counts().await {
            Ok(counts) => self.metrics.set_counts(&counts, clock::now()),
            Err(error) => tracing::warn!(%error, "events cannot be counted"),
        }
        self.metrics.text()
    }

    async fn reload(&self) -> Response<Bytes> {
        let watch = self.watch.clone();
        // Reads and checks files: not on a thread that serves others.
        let Ok(outcome) = tokio::task::spawn_blocking(move || watch.reload()).await else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the reload failed inside; the log has more\n",
            );
        };
        match outcome {
            ReloadOutcome::Applied {
                merchants,
                digest,
                added,
                removed,
                changed,
                warnings,
                ..
            } => json_body(
                StatusCode::OK,
                &json!({
                    "result": "applied", "merchants": merchants, "digest": digest,
                    "added": added, "removed": removed, "changed": changed, "warnings": warnings,
                }),
            ),
            ReloadOutcome::Unchanged { merchants } => json_body(
                StatusCode::OK,
                &json!({ "result": "unchanged", "merchants": merchants }),
            ),
            ReloadOutcome::Refused(problems) => {
                let problems: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
                let body = json!({
                    "result": "refused", "merchants": self.watch.snapshot().len(), "problems": problems,
                });
                json_body(StatusCode::UNPROCESSABLE_ENTITY, &body)
            }
        }
    }
}

impl Handler for Admin {
    async fn handle(&self, request: Request<Bytes>, _started: Instant) -> Response<Bytes> {
        let (path, method) = (request.uri().path(), request.method());
        let allowed = match path {
            "/-/reload" => [Method::POST].contains(method),
            "/livez" | "/readyz" | "/metrics" | "/version" => {
                [Method::GET, Method::HEAD].contains(method)
            }
            _ => {
                return text(
                    StatusCode::NOT_FOUND,
                    "expected /livez, /readyz, /metrics, /version or POST /-/reload\n",
                );
            }
        };
        if !allowed {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            let allow = if path == "/-/reload" {
                "POST"
            } else {
                "GET, HEAD"
            };
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(allow));
            return response;
        }
        match path {
            "/livez" => text(StatusCode::OK, "live\n"),
            "/readyz" => self.ready().await,
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics().await);
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            "/version" => {
                let body =
                    json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
                json_body(StatusCode::OK, &body)
            }
            _ => self.reload().await,
        }
    }

    fn refuse(&self, _head: &Parts, why: Refusal, _started: Instant) -> Response<Bytes> {
        match why {
            Refusal::Malformed | Refusal::NotAllowed => {
                text(StatusCode::BAD_REQUEST, "expected an HTTP/1.1 request\n")
            }
            Refusal::BodyTooLarge => text(StatusCode::PAYLOAD_TOO_LARGE, "expected no body\n"),
            Refusal::BodyIncomplete => {
                text(StatusCode::REQUEST_TIMEOUT, "the body did not come whole\n")
            }
            Refusal::Overloaded => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests at once\n",
            ),
            Refusal::Draining | Refusal::CutShort => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            Refusal::Panicked => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a defect; the log has more\n",
            ),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    typed(status, "text/plain; charset=utf-8", body.into())
}

fn json_body(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    typed(status, "application/json", format!("{body}\n").into())
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
