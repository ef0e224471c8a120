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

use crate::config::LiveConfig;
use crate::config::settings::{Acknowledge, Settings};
use crate::delivery::Wake;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::request_id::{REQUEST_ID, new_request_id};
use crate::http::server::connection::{Handler, Rejection};
use crate::inbox::activity::{ActivityEntry, ActivityKind, Weight};
use crate::inbox::store::Store;
use crate::protocol::envelope;
use crate::protocol::envelope::{Verified, VerifyError};
use crate::protocol::json::Object;
use crate::protocol::key::Key;
use crate::protocol::result;
use crate::protocol::result::{PaymentResult, ReadError};
use crate::protocol::subject::Subject;
use crate::telemetry::Telemetry;
use crate::telemetry::activity::ActivityLog;
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Side, Span, Tracer};
use crate::time;
use crate::time::Millis;

/// The platform's side of the sidecar: what comes in from the internet.
pub struct Inbound {
    watch: LiveConfig,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    apps: Arc<ClientsByOrigin>,
    wake: Arc<Wake>,
    tracer: Arc<Tracer>,
    activity: Arc<ActivityLog>,
    acknowledge: Acknowledge,
    /// What the public URL has before `/notify`; a proxy may take it off.
    prefix: String,
}

/// The outcome of a callback that brought something new, or a customer.
const ACCEPTED: &str = "accepted";

/// Why a callback is refused: for log and metrics, never for whoever called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RejectionReason {
    NotFound,
    BadRequest,
    NotAllowed,
    Malformed,
    Unsigned,
    BadSignature,
    UnknownMerchant,
    Incomplete,
    ForeignOrder,
    Disputed,
    NoFront,
    AppUnreachable,
    NotStored,
    NotDelivered,
    Overloaded,
}

impl RejectionReason {
    fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::BadRequest => "bad-request",
            Self::NotAllowed => "not-allowed",
            Self::Malformed => "malformed",
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad-signature",
            Self::UnknownMerchant => "unknown-merchant",
            Self::Incomplete => "incomplete",
            Self::ForeignOrder => "foreign-order",
            Self::Disputed => "disputed",
            Self::NoFront => "no-front",
            Self::AppUnreachable => "app-unreachable",
            Self::NotStored => "not-stored",
            Self::NotDelivered => "not-delivered",
            Self::Overloaded => "overloaded",
        }
    }

    /// The callback was verified first: it is really the platform's and about whom it says.
    fn is_after_verification(self) -> bool {
        matches!(
            self,
            Self::Incomplete
                | Self::ForeignOrder
                | Self::Disputed
                | Self::NoFront
                | Self::AppUnreachable
                | Self::NotStored
                | Self::NotDelivered
        )
    }

    /// Our own fault or the app's: the platform is to try again. All else looks alike.
    fn response(self, kind: Kind) -> Response<Bytes> {
        let (status, words) = match self {
            Self::NotStored | Self::NotDelivered | Self::Overloaded | Self::AppUnreachable => {
                (StatusCode::SERVICE_UNAVAILABLE, "later\n")
            }
            _ => (StatusCode::BAD_REQUEST, "refused\n"),
        };
        let mut response = match kind {
            Kind::Front => front::no_page(status),
            Kind::Back | Kind::None => plain(status, words),
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}

/// Refusals of `back` that ops are told of at the first one. Their counters stand at nought from the start, because a
/// rate does not see a series that begins at 1.
const GRAVE: [RejectionReason; 5] = [
    RejectionReason::BadSignature,
    RejectionReason::UnknownMerchant,
    RejectionReason::NotStored,
    RejectionReason::NotDelivered,
    RejectionReason::Overloaded,
];

/// A callback that was answered, and what the log says of it.
struct CallbackReply {
    response: Response<Bytes>,
    outcome: &'static str,
    subject: Subject,
    old_key: Option<String>,
}

/// A callback that was not, and whom it claimed to be about.
struct CallbackRejection {
    reason: RejectionReason,
    subject: Subject,
}

impl From<RejectionReason> for CallbackRejection {
    fn from(reason: RejectionReason) -> Self {
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
        records: Telemetry,
    ) -> Self {
        let Telemetry {
            metrics,
            tracer,
            activity,
        } = records;
        let callbacks = settings.callbacks.as_ref();
        let public_url = callbacks.and_then(|callbacks| callbacks.public_url.as_ref());
        for reason in GRAVE {
            let labels = [Kind::Back.name(), reason.name()];
            metrics.callbacks.with_label_values(&labels);
        }
        Self {
            watch,
            store,
            metrics,
            apps,
            wake,
            tracer,
            activity,
            acknowledge: settings.inbox.acknowledge,
            prefix: public_url.map_or_else(String::new, |url| {
                url.path().trim_end_matches('/').to_owned()
            }),
        }
    }

    async fn callback(
        &self,
        kind: Kind,
        request: &Request<Bytes>,
    ) -> Result<CallbackReply, CallbackRejection> {
        match (kind, request.method()) {
            (Kind::Back, &Method::GET | &Method::POST) => self.back(request).await,
            (Kind::Front, &Method::GET) => self.front(request).await,
            (Kind::None, _) => Err(RejectionReason::NotFound.into()),
            _ => Err(RejectionReason::BadRequest.into()),
        }
    }

    /// A callback's envelope, believed with the keys of the merchant that it names, and complete.
    /// With it the fingerprint of the old key, where one was needed.
    fn verify(
        &self,
        envelope: &[u8],
    ) -> Result<(Verified<PaymentResult>, Option<String>), CallbackRejection> {
        let received = envelope::read(envelope, "resp").map_err(|_| RejectionReason::Malformed)?;
        let claimed = received.unverified().ok_or(RejectionReason::Malformed)?;
        let object = Object::parse(&claimed).map_err(|_| RejectionReason::Malformed)?;
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
        let merchant = merchant.ok_or_else(|| refused(RejectionReason::UnknownMerchant))?;
        let message = received
            .verify(merchant.verifying_keys())
            .map_err(|error| {
                refused(match error {
                    VerifyError::Unsigned => RejectionReason::Unsigned,
                    VerifyError::BadSignature => RejectionReason::BadSignature,
                    VerifyError::NotBase64 => RejectionReason::Malformed,
                })
            })?;
        let outcome = result::read_result(&message).map_err(|error| {
            refused(match error {
                ReadError::Malformed(_) => RejectionReason::Malformed,
                _ => RejectionReason::Incomplete,
            })
        })?;
        self.metrics.count_oddities(&outcome);
        let old_key = merchant.old_key(outcome.key_index());
        Ok((outcome, old_key.map(Key::fingerprint)))
    }

    fn kind(&self, path: &str) -> Kind {
        let below = path.strip_prefix(self.prefix.as_str()).unwrap_or(path);
        match (below, path) {
            ("/notify/back", _) | (_, "/notify/back") => Kind::Back,
            ("/notify/front", _) | (_, "/notify/front") => Kind::Front,
            _ => Kind::None,
        }
    }

    fn finish(
        &self,
        kind: Kind,
        span: Span,
        started: Instant,
        result: Result<CallbackReply, CallbackRejection>,
    ) -> Response<Bytes> {
        // Never the stranger's own.
        let request_id = new_request_id();
        let refusal = result.as_ref().err().map(|refused| refused.reason);
        let taken = result.unwrap_or_else(|CallbackRejection { reason, subject }| CallbackReply {
            response: reason.response(kind),
            outcome: reason.name(),
            subject,
            old_key: None,
        });
        let CallbackReply {
            mut response,
            outcome,
            subject,
            old_key,
        } = taken;
        self.metrics
            .callbacks
            .with_label_values(&[kind.name(), outcome])
            .inc();
        self.metrics
            .callback_seconds
            .with_label_values(&[kind.name()])
            .observe(started.elapsed().as_secs_f64());
        tracing::info!(
            request_id = request_id.to_str().unwrap_or_default(),
            kind = kind.name(),
            merid = subject.shown_merid(),
            orderid = subject.shown_orderid(),
            outcome,
            status = response.status().as_u16(),
            ms = log::millis(started.elapsed()),
            "callback"
        );
        let status = response.status();
        span.end(
            &["callback", kind.name()],
            status.is_server_error(),
            &[
                ("http.response.status_code", status.as_str()),
                (
                    "countersign.request_id",
                    request_id.to_str().unwrap_or_default(),
                ),
                ("countersign.merid", subject.shown_merid()),
                ("countersign.orderid", subject.shown_orderid()),
                ("countersign.outcome", outcome),
            ],
        );
        let stranger = refusal.is_some_and(|reason| !reason.is_after_verification());
        // A customer's browser holds envelopes, of our own request too, that it can bring again and again.
        let is_step = match refusal {
            None => (kind, outcome) == (Kind::Back, ACCEPTED),
            Some(_) if stranger => false,
            Some(_) => {
                let (merid, orderid) = (subject.shown_merid(), subject.shown_orderid());
                let what = format!("{} {outcome} {merid} {orderid}", kind.name());
                self.activity.is_news(&what)
            }
        };
        let weight = if is_step {
            Weight::Step
        } else {
            Weight::Common
        };
        let (merid, orderid) = (subject.merid.as_deref(), subject.orderid.as_deref());
        self.activity.note(weight, || {
            // Read before the time that has passed, so that the one less the other is not after the beginning.
            let note = ActivityEntry::about(ActivityKind::Callback, merid, orderid, time::now());
            ActivityEntry {
                took: Millis::try_from(started.elapsed().as_millis()).unwrap_or(Millis::MAX),
                way: kind.name().into(),
                request_id: request_id.to_str().unwrap_or_default().to_owned(),
                outcome: outcome.into(),
                old_key: old_key.unwrap_or_default(),
                refused: refusal.is_some(),
                stranger,
                ..note
            }
        });
        response.headers_mut().insert(REQUEST_ID, request_id);
        response
    }
}

/// Which of the two callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Back,
    Front,
    None,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Back => "back",
            Self::Front => "front",
            Self::None => "none",
        }
    }
}

impl Handler for Inbound {
    async fn handle(&self, request: &mut Request<Bytes>, started: Instant) -> Response<Bytes> {
        let span = self.tracer.begin(Side::Server, request.headers_mut());
        let kind = self.kind(request.uri().path());
        let result = self.callback(kind, request).await;
        self.finish(kind, span, started, result)
    }

    fn refuse(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes> {
        let reason = match why {
            Rejection::Malformed | Rejection::BodyTooLarge | Rejection::BodyIncomplete => {
                RejectionReason::BadRequest
            }
            Rejection::NotAllowed => RejectionReason::NotAllowed,
            Rejection::Overloaded | Rejection::Draining | Rejection::CutShort => {
                RejectionReason::Overloaded
            }
            Rejection::Panicked => RejectionReason::NotStored,
        };
        let kind = self.kind(head.uri.path());
        self.finish(kind, Span::default(), started, Err(reason.into()))
    }
}

fn plain(status: StatusCode, body: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
