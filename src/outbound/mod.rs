//! App → platform: parse → sign → send → verify → answer. Each flow is one function below.
//!
//! Knows no socket and no file. Keeps the promises that a submit goes out once (I3), that nothing unverified
//! becomes an answer (I2), and that every refusal says whether the request may have arrived.

mod rejection;

mod route;

mod call;

mod shadow;

mod response;

mod link;

mod reply;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, header};

use crate::config::LiveConfig;
use crate::config::settings::Settings;
use crate::http::client::error::{ClientError, Sent};
use crate::http::client::{Client, RawRequest, RawResponse, Repeat};
use crate::http::request_id::{REQUEST_ID, request_id};
use crate::http::server::handler::{Handler, Rejection};
use crate::inbox::order::{NewTry, RecordOutcome, Try, TryKind, TryState};
use crate::inbox::store::Store;
use crate::process::drain::Drain;
use crate::protocol::request::Order;
use crate::relay::{self, FormBody};
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::outcome::CallKind;
use crate::telemetry::trace;
use crate::telemetry::trace::{Side, Span};
use crate::time;
use crate::time::Millis;
use call::{Call, Notify};
use rejection::{CallRejection, Code};
use reply::{CallReply, VERIFIED, flag, unverified};
use route::Endpoint;
use shadow::{Shadow, ShadowVerdict};

const SHADOW: HeaderName = HeaderName::from_static("countersign-shadow");

/// An order that may not have arrived is asked about after this: it may still be on its way.
const ASK_SOON: Millis = 2_000;

/// The app's side of the sidecar.
pub struct Outbound {
    watch: LiveConfig,
    client: Arc<Client>,
    store: Arc<dyn Store>,
    telemetry: Telemetry,
    drain: Arc<Drain>,
    extra_paths: Vec<String>,
    /// The platform's URL, without a slash at its end.
    platform: String,
    notify: Option<Notify>,
}

impl Outbound {
    /// Puts the parts together as `settings` say.
    pub fn new(
        settings: &Settings,
        watch: LiveConfig,
        client: Arc<Client>,
        store: Arc<dyn Store>,
        telemetry: Telemetry,
        drain: Arc<Drain>,
    ) -> Self {
        let public_url = settings
            .callbacks
            .as_ref()
            .and_then(|callbacks| callbacks.public_url.as_ref());
        Self {
            watch,
            client,
            store,
            telemetry,
            drain,
            extra_paths: settings.platform.extra_paths.clone(),
            platform: settings
                .platform
                .url
                .as_str()
                .trim_end_matches('/')
                .to_owned(),
            notify: public_url.map(Notify::below),
        }
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        request: &Request<Bytes>,
    ) -> Result<CallReply, CallRejection> {
        if shadow::is_signed(request.body()) {
            // In a box, so that other calls are the smaller for it.
            return Box::pin(self.shadow(endpoint, request)).await;
        }
        let snapshot = self.watch.snapshot();
        let call = Call::parse(request.body(), endpoint, &snapshot, self.notify.as_ref())?;
        let result = match endpoint {
            Endpoint::Query | Endpoint::Extra => self.ask(endpoint, &call, request).await,
            Endpoint::Submit => self.submit(&call, request).await,
            Endpoint::Link => self.link(&call, request).await,
        };
        match result {
            Ok(done) => Ok(CallReply {
                subject: call.subject,
                ..done
            }),
            Err(refused) => Err(refused.about(&call.subject)),
        }
    }

    /// `/api/query` and `extra_paths`: an envelope out, an envelope back.
    async fn ask(
        &self,
        endpoint: Endpoint,
        call: &Call,
        request: &Request<Bytes>,
    ) -> Result<CallReply, CallRejection> {
        let headers = relay::traced_headers(request.headers());
        let path = request.uri().path();
        let request = self.client.request(path, &headers, &FormBody(call.seal()));
        let response = self.send(&request, endpoint.repeat()).await?;
        let answer = response::verify(
            &response,
            call,
            endpoint.completeness(),
            &self.telemetry.metrics,
        )?;
        Ok(CallReply::answered(call, answer))
    }

    /// `/api/icashier`: an order out, once; the platform's page or redirect back, or an envelope.
    async fn submit(
        &self,
        call: &Call,
        request: &Request<Bytes>,
    ) -> Result<CallReply, CallRejection> {
        let merid = call.subject.merid.as_deref();
        let recorded = self
            .record(merid, call.order.as_ref(), TryKind::Submit)
            .await?;
        let headers = relay::page_headers(request.headers());
        let form = FormBody(call.seal());
        let request = self.client.request("/api/icashier", &headers, &form);
        let sent = self.send(&request, Repeat::Never).await;
        let state = match sent.as_ref().map_err(ClientError::sent) {
            Ok(_) | Err(Sent::Yes) => TryState::Yes,
            Err(Sent::No) => TryState::No,
            Err(Sent::Unknown) => TryState::Unknown,
        };
        if let Some(recorded) = recorded {
            self.settle(&recorded, state).await;
        }
        if state == TryState::Unknown {
            self.ask_soon(call).await;
        }
        let response = sent?;
        if !response::must_be_envelope(&response) {
            let page = relay::response(response);
            return Ok(CallReply::ok(unverified(page), Sent::Yes));
        }
        // Only what is signed comes through: no status, cookie or redirect beside it.
        let completeness = Endpoint::Submit.completeness();
        let answer = response::verify(&response, call, completeness, &self.telemetry.metrics)?;
        Ok(CallReply::answered(call, answer))
    }

    /// `/apis/icashier`: an order signed, and sent by the customer's browser.
    async fn link(
        &self,
        call: &Call,
        request: &Request<Bytes>,
    ) -> Result<CallReply, CallRejection> {
        let merid = call.subject.merid.as_deref();
        self.record(merid, call.order.as_ref(), TryKind::Link)
            .await?;
        let envelope = call.seal();
        let (sign, form) = (envelope.sign().to_string(), envelope.form("req"));
        let response = link::response(
            &self.platform,
            envelope.text(),
            &sign,
            &form,
            request.headers(),
        );
        Ok(CallReply::ok(response, Sent::No))
    }

    /// The same paths for an app that still signs: passed on unchanged, compared on the side.
    async fn shadow(
        &self,
        endpoint: Endpoint,
        request: &Request<Bytes>,
    ) -> Result<CallReply, CallRejection> {
        let shadow = Shadow::of(request.body(), &self.watch.snapshot());
        self.telemetry
            .metrics
            .shadow
            .with_label_values(&[shadow.verdict.name()])
            .inc();
        if let ShadowVerdict::Mismatch(why) = &shadow.verdict {
            tracing::warn!(
                merid = shadow.subject.shown_merid(),
                why,
                "the app's sign is not ours"
            );
        }
        if endpoint.takes_orders()
            && let Err(refused) = self
                .record(
                    shadow.subject.merid.as_deref(),
                    shadow.order(),
                    TryKind::Shadow,
                )
                .await
        {
            tracing::warn!(
                merid = shadow.subject.shown_merid(),
                detail = refused.detail,
                "shadow order conflicts"
            );
        }
        let (mut response, sent) = match endpoint {
            Endpoint::Link => (self.shadow_link(&shadow, request)?, Sent::No),
            _ => (self.pass_on(endpoint, &shadow, request).await?, Sent::Yes),
        };
        let verdict = HeaderValue::from_static(shadow.verdict.name());
        response.headers_mut().insert(SHADOW, verdict);
        Ok(CallReply {
            subject: shadow.subject,
            ..CallReply::ok(response, sent)
        })
    }

    fn shadow_link(
        &self,
        shadow: &Shadow,
        request: &Request<Bytes>,
    ) -> Result<Response<Bytes>, CallRejection> {
        let (text, sign) = shadow.envelope.as_ref().ok_or_else(|| {
            CallRejection::new(Code::InvalidField, "req: expected one req and one sign").at("req")
        })?;
        let form = String::from_utf8_lossy(request.body().trim_ascii());
        Ok(link::response(
            &self.platform,
            text,
            sign,
            &form,
            request.headers(),
        ))
    }

    async fn pass_on(
        &self,
        endpoint: Endpoint,
        shadow: &Shadow,
        request: &Request<Bytes>,
    ) -> Result<Response<Bytes>, CallRejection> {
        let mut headers = relay::page_headers(request.headers());
        if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, kind.clone());
        }
        let path = request.uri().path();
        let request = self.client.request(path, &headers, request.body());
        let sent = self.send(&request, endpoint.repeat()).await;
        let response = sent.map_err(|fault| CallRejection::from(fault).about(&shadow.subject))?;
        let believed = shadow.call.as_ref().is_some_and(|call| {
            response::verify(
                &response,
                call,
                endpoint.completeness(),
                &self.telemetry.metrics,
            )
            .is_ok()
        });
        let mut response = relay::response(response);
        response.headers_mut().insert(VERIFIED, flag(believed));
        Ok(response)
    }

    /// Posts to the platform, and stops waiting shortly before the process ends.
    async fn send(&self, request: &RawRequest, repeat: Repeat) -> Result<RawResponse, ClientError> {
        let mut sent = pin!(self.client.send(request, repeat));
        // Whoever handles requests has them polled when it is over.
        poll_fn(|context| match sent.as_mut().poll(context) {
            Poll::Pending if self.drain.is_over() => Poll::Ready(Err(ClientError::CutShort)),
            polled => polled,
        })
        .await
    }

    /// Nobody knows whether this order arrived: the watch asks about it before others.
    async fn ask_soon(&self, call: &Call) {
        let (Some(merid), Some(order)) = (&call.subject.merid, &call.order) else {
            return;
        };
        let soon = time::now() + ASK_SOON;
        if let Err(error) = self.store.hasten(merid, &order.orderid, soon).await {
            tracing::warn!(merid, orderid = order.orderid, %error, "the watch could not be told of an unknown outcome");
        }
    }

    /// Writes down whether a try was sent. A ledger that fails stops no call.
    async fn settle(&self, which: &Try, state: TryState) {
        if let Err(error) = self.store.settle_try(which, state).await {
            tracing::warn!(merid = which.merid, orderid = which.orderid, %error, "a try could not be settled");
        }
    }

    /// Waits for the order's row. A ledger that fails stops no call.
    async fn record(
        &self,
        merid: Option<&str>,
        order: Option<&Order>,
        kind: TryKind,
    ) -> Result<Option<Try>, CallRejection> {
        let (Some(merid), Some(order)) = (merid, order) else {
            return Ok(None);
        };
        let new = NewTry {
            kind,
            backurl: None,
        };
        match self.store.record(merid, order, new, time::now()).await {
            Ok(RecordOutcome::Agrees(recorded)) => Ok(Some(recorded)),
            Ok(RecordOutcome::Conflicts) => {
                let detail =
                    "orderid: signed before with another amount or action; use a new orderid";
                Err(CallRejection::new(Code::OrderConflict, detail).at("orderid"))
            }
            Err(error) => {
                self.telemetry.metrics.ledger_failures.inc();
                tracing::error!(merid, orderid = order.orderid, %error, "the order is not in the ledger");
                Ok(None)
            }
        }
    }

    /// Records a call, and gives its response the request's id.
    fn finish(
        &self,
        endpoint: Option<Endpoint>,
        id: HeaderValue,
        done: CallReply,
        span: Span,
        started: Instant,
    ) -> Response<Bytes> {
        let mut response = done.response;
        let finished = Finished {
            work: Work::Call {
                kind: endpoint.map_or(CallKind::None, Endpoint::kind),
                outcome: done.outcome,
                sent: done.sent,
                status: response.status(),
            },
            subject: &done.subject,
            request_id: id.to_str().unwrap_or_default(),
            started,
            old_key: done.old_key,
        };
        self.telemetry.finish(finished, span);
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
}

impl Handler for Outbound {
    fn reads(&self, field: &HeaderName, body: &[u8]) -> bool {
        let says_how = *field == header::CONTENT_TYPE && shadow::may_be_signed(body);
        says_how || relay::reads(field) || trace::reads(field) || *field == REQUEST_ID
    }

    async fn handle(&self, request: &mut Request<Bytes>, started: Instant) -> Response<Bytes> {
        let span = self
            .telemetry
            .tracer
            .begin(Side::Server, request.headers_mut());
        let id = request_id(request.headers());
        let endpoint = Endpoint::of(request.method(), request.uri(), &self.extra_paths);
        let (endpoint, result) = match endpoint {
            Ok(endpoint) => (Some(endpoint), self.call(endpoint, request).await),
            Err(refused) => (None, Err(refused)),
        };
        let done = result.unwrap_or_else(|refused| CallReply::refused(&refused, &id));
        self.finish(endpoint, id, done, span, started)
    }

    fn reject(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes> {
        let id = request_id(&head.headers);
        let refused = match why {
            Rejection::Malformed => {
                CallRejection::new(Code::BadRequest, "expected an HTTP/1.1 request")
            }
            Rejection::BodyTooLarge => CallRejection::new(
                Code::BodyTooLarge,
                "expected a body of at most app.max_body",
            ),
            Rejection::BodyIncomplete => {
                CallRejection::new(Code::RequestTimeout, "the body did not come whole in time")
            }
            Rejection::Overloaded => CallRejection::new(
                Code::Overloaded,
                "app.max_in_flight calls are being handled",
            ),
            Rejection::Draining => {
                CallRejection::new(Code::Draining, "the sidecar is shutting down")
            }
            Rejection::CutShort => CallRejection::new(
                Code::PlatformTimeout,
                "the sidecar ends and waits no longer",
            ),
            Rejection::Panicked => {
                CallRejection::new(Code::Internal, "a defect in the sidecar; the log has more")
            }
        };
        let endpoint = Endpoint::of(&head.method, &head.uri, &self.extra_paths);
        let done = CallReply::refused(&refused, &id);
        self.finish(endpoint.ok(), id, done, Span::default(), started)
    }
}
