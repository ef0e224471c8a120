//! Calls, app → platform: parsed, signed, sent, verified, answered. Each flow is one function in a file of its own.
//!
//! Knows no socket and no file. Keeps the promises that a submit goes out once (I3), that nothing unverified becomes a
//! response that an app believes (I2), and that every rejection says whether the request may have arrived.

mod rejection;

mod route;

mod browser;

mod call;

mod response;

mod reply;

mod upstream;

mod orders;

mod query;

mod submit;

mod link;

mod shadow;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, header};

use crate::config::LiveConfig;
use crate::config::settings::Settings;
use crate::http::client::Client;
use crate::http::request_id::{REQUEST_ID, request_id};
use crate::http::server::handler::{Handler, Rejection};
use crate::inbox::store::Store;
use crate::platform::KeyRotation;
use crate::process::drain::Drain;
use crate::relay;
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::outcome::CallKind;
use crate::telemetry::trace;
use crate::telemetry::trace::{Side, Span};
use crate::web::description;
use call::{Call, Notify};
use link::link;
use orders::SignedOrders;
use query::query;
use rejection::{CallRejection, Code};
use reply::CallReply;
use route::Endpoint;
use shadow::{ShadowCall, shadow};
use submit::submit;
use upstream::Upstream;

/// The app's side of the sidecar.
pub struct Outbound {
    merchants: LiveConfig,
    upstream: Upstream,
    orders: SignedOrders,
    telemetry: Telemetry,
    extra_paths: Vec<String>,
    allow_origins: Vec<String>,
    notify: Option<Notify>,
}

impl Outbound {
    /// Puts the parts together as `settings` say.
    pub fn new(
        settings: &Settings,
        merchants: LiveConfig,
        client: Arc<Client>,
        rotation: Arc<KeyRotation>,
        store: Arc<dyn Store>,
        telemetry: Telemetry,
        drain: Arc<Drain>,
    ) -> Self {
        let metrics = &telemetry.metrics;
        let callbacks = settings.callbacks.as_ref();
        let public_url = callbacks.and_then(|callbacks| callbacks.public_url.as_ref());
        let platform = &settings.platform;
        Self {
            merchants,
            upstream: Upstream::new(
                &platform.url,
                client,
                rotation,
                drain,
                metrics.clone(),
                store.clone(),
            ),
            orders: SignedOrders::new(store, metrics.clone()),
            telemetry,
            extra_paths: platform.extra_paths.clone(),
            allow_origins: settings.app.allow_origins.clone(),
            notify: public_url.map(Notify::below),
        }
    }

    /// Replies to a call: one of the four flows, or shadow mode.
    async fn call(
        &self,
        endpoint: Endpoint,
        request: &Request<Bytes>,
    ) -> Result<CallReply, CallRejection> {
        let (upstream, orders) = (&self.upstream, &self.orders);
        // One snapshot for the whole call: an edit in between changes nothing of it.
        let snapshot = self.merchants.snapshot();
        if shadow::is_signed(request) {
            let call = ShadowCall::read(request, &snapshot, &self.telemetry.metrics);
            // In a box, so that other calls are the smaller for it.
            return Box::pin(shadow(upstream, orders, endpoint, call, request)).await;
        }
        let call = Call::parse(request.body(), endpoint, &snapshot, self.notify.as_ref())?;
        let result = match endpoint {
            Endpoint::Query | Endpoint::Extra => query(upstream, endpoint, &call, request).await,
            Endpoint::Submit => submit(upstream, orders, &call, request).await,
            Endpoint::Link => link(upstream, orders, &call, request).await,
        };
        match result {
            Ok(reply) => Ok(reply.about(call.subject)),
            Err(rejection) => Err(rejection.about(&call.subject)),
        }
    }

    /// Records a call, and gives its reply the request's id.
    fn finish(
        &self,
        endpoint: Option<Endpoint>,
        id: HeaderValue,
        reply: CallReply,
        span: Span,
        started: Instant,
    ) -> Response<Bytes> {
        let mut response = reply.response;
        let finished = Finished {
            work: Work::Call {
                kind: endpoint.map_or(CallKind::None, Endpoint::kind),
                outcome: reply.outcome,
                sent: reply.sent,
                status: response.status(),
            },
            subject: &reply.subject,
            request_id: id.to_str().unwrap_or_default(),
            started,
            old_key: reply.old_key,
        };
        self.telemetry.finish(finished, span);
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
}

impl Handler for Outbound {
    fn reads(&self, field: &HeaderName, body: &[u8]) -> bool {
        // Only a body that may be a form is passed on with its type.
        let says_how = *field == header::CONTENT_TYPE && shadow::may_be_signed(body);
        says_how
            || relay::reads(field)
            || trace::reads(field)
            || browser::reads(field)
            || *field == REQUEST_ID
    }

    async fn handle(&self, request: &mut Request<Bytes>, started: Instant) -> Response<Bytes> {
        let tracer = &self.telemetry.tracer;
        let span = tracer.begin(Side::Server, request.headers_mut());
        let id = request_id(request.headers());
        let endpoint = Endpoint::of(request.method(), request.uri(), &self.extra_paths);
        // Before anything is parsed, signed or recorded, and on paths that are none of ours too.
        let from_app = browser::reject_pages(request.headers(), &self.allow_origins);
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        if reads && request.uri().path() == description::PATH && from_app.is_ok() {
            return description::description();
        }
        let (endpoint, result) = match (endpoint, from_app) {
            (Ok(endpoint), Ok(())) => (Some(endpoint), self.call(endpoint, request).await),
            (endpoint, Err(rejection)) => (endpoint.ok(), Err(rejection)),
            (Err(rejection), Ok(())) => (None, Err(rejection)),
        };
        let reply = result.unwrap_or_else(|rejection| CallReply::rejected(&rejection, &id));
        self.finish(endpoint, id, reply, span, started)
    }

    fn reject(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes> {
        let id = request_id(&head.headers);
        let reply = CallReply::rejected(&unhandled(why), &id);
        let endpoint = Endpoint::of(&head.method, &head.uri, &self.extra_paths);
        self.finish(endpoint.ok(), id, reply, Span::default(), started)
    }
}

/// The rejection of a request that the listener does not hand over.
fn unhandled(why: Rejection) -> CallRejection {
    let (code, detail) = match why {
        Rejection::Malformed => (Code::BadRequest, "expected an HTTP/1.1 request"),
        Rejection::BodyTooLarge => (
            Code::BodyTooLarge,
            "expected a body of at most app.max_body",
        ),
        Rejection::BodyIncomplete => (Code::RequestTimeout, "the body was not complete in time"),
        Rejection::Overloaded => (
            Code::Overloaded,
            "app.max_in_flight calls are being handled",
        ),
        Rejection::Draining => (Code::Draining, "the sidecar is shutting down"),
        Rejection::CutShort => (
            Code::PlatformTimeout,
            "the sidecar ends and waits no longer",
        ),
        Rejection::Panicked => (Code::Internal, "a defect in the sidecar; the log has more"),
    };
    CallRejection::new(code, detail)
}
