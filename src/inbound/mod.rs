//! Platform → app: parse → verify → keep → acknowledge; deliver and watch in the background.
//!
//! Knows no socket and no SQL. Keeps the promises that `0000` is said only for what is on stable storage (I1), that
//! nothing unverified is kept or delivered (I2), and that a stranger learns nothing from a refusal.

mod back;

mod front;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use ipnet::IpNet;

use crate::config::LiveConfig;
use crate::config::settings::{Acknowledge, Settings};
use crate::delivery::Wake;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::request_id::{REQUEST_ID, random_request_id};
use crate::http::server::client_address::ClientAddress;
use crate::http::server::handler::{Handler, Rejection};
use crate::inbox::store::Store;
use crate::protocol::envelope;
use crate::protocol::envelope::{Verified, VerifyError};
use crate::protocol::json::Object;
use crate::protocol::key::Key;
use crate::protocol::result;
use crate::protocol::result::{PaymentResult, ReadError};
use crate::protocol::subject::Subject;
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::outcome::{CallbackKind, CallbackOutcome};
use crate::telemetry::trace::{Side, Span};
use crate::web::reply::text;

/// The platform's side of the sidecar: what comes in from the internet.
pub struct Inbound {
    watch: LiveConfig,
    store: Arc<dyn Store>,
    telemetry: Telemetry,
    apps: Arc<ClientsByOrigin>,
    wake: Arc<Wake>,
    acknowledge: Acknowledge,
    allow_from: Vec<IpNet>,
    /// What the public URL has before `/notify`; a proxy may take it off.
    prefix: String,
}

/// Our own fault or the app's: the platform is to try again. All else looks alike.
fn rejected(outcome: CallbackOutcome, kind: CallbackKind) -> Response<Bytes> {
    let (status, words) = match outcome {
        CallbackOutcome::NotStored
        | CallbackOutcome::NotDelivered
        | CallbackOutcome::Overloaded
        | CallbackOutcome::AppUnreachable => (StatusCode::SERVICE_UNAVAILABLE, "later\n"),
        _ => (StatusCode::BAD_REQUEST, "refused\n"),
    };
    let mut response = match kind {
        CallbackKind::Front => front::no_page(status),
        CallbackKind::Back | CallbackKind::None => text(status, words),
    };
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    }
    response
}

/// A callback that was answered, and what the log says of it.
struct CallbackReply {
    response: Response<Bytes>,
    outcome: CallbackOutcome,
    subject: Subject,
    old_key: Option<String>,
}

/// A callback that was not, and whom it claimed to be about.
struct CallbackRejection {
    reason: CallbackOutcome,
    subject: Subject,
}

impl From<CallbackOutcome> for CallbackRejection {
    fn from(reason: CallbackOutcome) -> Self {
        Self {
            reason,
            subject: Subject::default(),
        }
    }
}

impl Inbound {
    /// Puts the parts together as `settings` say.
    pub fn new(
        settings: &Settings,
        watch: LiveConfig,
        store: Arc<dyn Store>,
        apps: Arc<ClientsByOrigin>,
        wake: Arc<Wake>,
        telemetry: Telemetry,
    ) -> Self {
        let callbacks = settings.callbacks.as_ref();
        let public_url = callbacks.and_then(|callbacks| callbacks.public_url.as_ref());
        Self {
            watch,
            store,
            telemetry,
            apps,
            wake,
            acknowledge: settings.inbox.acknowledge,
            allow_from: callbacks.map_or_else(Vec::new, |callbacks| callbacks.allow_from.clone()),
            prefix: public_url.map_or_else(String::new, |url| {
                url.path().trim_end_matches('/').to_owned()
            }),
        }
    }

    async fn callback(
        &self,
        kind: CallbackKind,
        request: &Request<Bytes>,
    ) -> Result<CallbackReply, CallbackRejection> {
        let client = request.extensions().get::<ClientAddress>();
        // Customers' browsers bring `front` from anywhere.
        if kind == CallbackKind::Back && !client.is_some_and(|it| it.is_allowed(&self.allow_from)) {
            return Err(CallbackOutcome::NotAllowed.into());
        }
        match (kind, request.method()) {
            (CallbackKind::Back, &Method::GET | &Method::POST) => self.back(request).await,
            (CallbackKind::Front, &Method::GET) => self.front(request).await,
            (CallbackKind::None, _) => Err(CallbackOutcome::NotFound.into()),
            _ => Err(CallbackOutcome::BadRequest.into()),
        }
    }

    /// A callback's envelope, believed with the keys of the merchant that it names, and complete.
    /// With it the fingerprint of the old key, where one was needed.
    fn verify(
        &self,
        envelope: &[u8],
    ) -> Result<(Verified<PaymentResult>, Option<String>), CallbackRejection> {
        let received = envelope::read(envelope, "resp").map_err(|_| CallbackOutcome::Malformed)?;
        let claimed = received.unverified().ok_or(CallbackOutcome::Malformed)?;
        let object = Object::parse(&claimed).map_err(|_| CallbackOutcome::Malformed)?;
        let subject = Subject::of(&object);
        let refused = |reason| CallbackRejection {
            reason,
            subject: subject.clone(),
        };
        let snapshot = self.watch.snapshot();
        let merchant = subject
            .merid
            .as_deref()
            .and_then(|merid| snapshot.merchant(merid));
        let merchant = merchant.ok_or_else(|| refused(CallbackOutcome::UnknownMerchant))?;
        let message = received
            .verify(merchant.verifying_keys())
            .map_err(|error| {
                refused(match error {
                    VerifyError::Unsigned => CallbackOutcome::Unsigned,
                    VerifyError::BadSignature => CallbackOutcome::BadSignature,
                    VerifyError::NotBase64 => CallbackOutcome::Malformed,
                })
            })?;
        let outcome = result::read_result(&message).map_err(|error| {
            refused(match error {
                ReadError::Malformed(_) => CallbackOutcome::Malformed,
                _ => CallbackOutcome::Incomplete,
            })
        })?;
        self.telemetry.metrics.count_oddities(&outcome);
        let old_key = merchant.old_key(outcome.key_index());
        Ok((outcome, old_key.map(Key::fingerprint)))
    }

    fn kind(&self, path: &str) -> CallbackKind {
        let below = path.strip_prefix(self.prefix.as_str()).unwrap_or(path);
        match (below, path) {
            ("/notify/back", _) | (_, "/notify/back") => CallbackKind::Back,
            ("/notify/front", _) | (_, "/notify/front") => CallbackKind::Front,
            _ => CallbackKind::None,
        }
    }

    fn finish(
        &self,
        kind: CallbackKind,
        span: Span,
        started: Instant,
        result: Result<CallbackReply, CallbackRejection>,
    ) -> Response<Bytes> {
        // Never the stranger's own.
        let request_id = random_request_id();
        let done = result.unwrap_or_else(|CallbackRejection { reason, subject }| CallbackReply {
            response: rejected(reason, kind),
            outcome: reason,
            subject,
            old_key: None,
        });
        let mut response = done.response;
        let finished = Finished {
            work: Work::Callback {
                kind,
                outcome: done.outcome,
                status: response.status(),
            },
            subject: &done.subject,
            request_id: request_id.to_str().unwrap_or_default(),
            started,
            old_key: done.old_key,
        };
        self.telemetry.finish(finished, span);
        response.headers_mut().insert(REQUEST_ID, request_id);
        response
    }
}

impl Handler for Inbound {
    async fn handle(&self, request: &mut Request<Bytes>, started: Instant) -> Response<Bytes> {
        let span = self
            .telemetry
            .tracer
            .begin(Side::Server, request.headers_mut());
        let kind = self.kind(request.uri().path());
        let result = self.callback(kind, request).await;
        self.finish(kind, span, started, result)
    }

    fn reject(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes> {
        let reason = match why {
            Rejection::Malformed | Rejection::BodyTooLarge | Rejection::BodyIncomplete => {
                CallbackOutcome::BadRequest
            }
            Rejection::Overloaded | Rejection::Draining | Rejection::CutShort => {
                CallbackOutcome::Overloaded
            }
            Rejection::Panicked => CallbackOutcome::NotStored,
        };
        let kind = self.kind(head.uri.path());
        self.finish(kind, Span::default(), started, Err(reason.into()))
    }
}
