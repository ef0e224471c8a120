//! Shadow mode, for apps that still sign: the app's form is passed on unchanged, and what our key makes of it is added to
//! the reply.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};

use super::call::Call;
use super::link;
use super::orders::SignedOrders;
use super::rejection::{CallRejection, Code};
use super::reply::{CallReply, VERIFIED, flag};
use super::route::Endpoint;
use super::submit::error_in_front;
use super::upstream::Upstream;
use crate::config::Snapshot;
use crate::http::client::error::Sent;
use crate::inbox::order::{Try, TryKind};
use crate::protocol::body::EncodedBody;
use crate::protocol::envelope;
use crate::protocol::envelope::Received;
use crate::protocol::explain;
use crate::protocol::explain::{Candidate, Explanation};
use crate::protocol::json::Object;
use crate::protocol::request;
use crate::protocol::subject::Subject;
use crate::relay;
use crate::telemetry::metrics::Metrics;

const SHADOW: HeaderName = HeaderName::from_static("countersign-shadow");

/// Longer texts are not searched for the cause of a mismatch; `countersign explain` does that.
const MAX_EXPLAINED: usize = 4096;

/// Returns true for a request whose body or URL carries an envelope rather than plain JSON.
pub(super) fn is_signed(request: &Request<Bytes>) -> bool {
    let body = request.body();
    if !may_be_signed(body) {
        return false;
    }
    let start = body.trim_ascii_start();
    let is_multipart = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().get(..10))
        .is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
    start.starts_with(b"req=")
        || start.starts_with(b"sign=")
        || is_multipart
        || (start.is_empty() && envelope::names_any(query(request)))
        // Last, because it reads the whole body.
        || envelope::read(body, "req").is_ok()
}

/// Returns true where a body with this beginning can be one.
pub(super) fn may_be_signed(body: &[u8]) -> bool {
    !body.trim_ascii_start().starts_with(b"{")
}

fn query(request: &Request<Bytes>) -> &[u8] {
    request.uri().query().unwrap_or_default().as_bytes()
}

/// Returns the path to forward the request to: with its query where the envelope is in it (document §2.3).
fn target(request: &Request<Bytes>) -> &str {
    match request.uri().path_and_query() {
        Some(whole) if envelope::names_any(query(request)) => whole.as_str(),
        _ => request.uri().path(),
    }
}

/// Passes a call on as the app made it. Nothing is rejected for its signature: in shadow mode the app's own signing is in
/// force.
pub(super) async fn shadow(
    upstream: &Upstream,
    orders: &SignedOrders,
    endpoint: Endpoint,
    shadow: ShadowCall,
    request: &Request<Bytes>,
) -> Result<CallReply, CallRejection> {
    let tried = match &shadow.call {
        Some(call) if endpoint.takes_orders() => record(orders, call).await,
        _ => None,
    };
    let result = match endpoint {
        Endpoint::Link => signed_link(upstream, &shadow, request),
        _ => pass_on(upstream, endpoint, &shadow, request).await,
    };
    if let (Endpoint::Submit, Some(tried)) = (endpoint, tried) {
        orders.settle(tried, &result).await;
    }
    let mut reply = result.map_err(|error| error.about(&shadow.subject))?;
    let verdict = HeaderValue::from_static(shadow.verdict.name());
    reply.response.headers_mut().insert(SHADOW, verdict);
    Ok(reply.about(shadow.subject))
}

/// Records the order, or logs why the ledger does not take it.
async fn record(orders: &SignedOrders, call: &Call) -> Option<Try> {
    match orders.record(call, TryKind::Shadow).await {
        Ok(tried) => tried,
        Err(conflict) => {
            tracing::warn!(
                merid = call.subject.shown_merid(),
                orderid = call.subject.shown_orderid(),
                detail = conflict.detail,
                "a shadow call's order differs from the ledger's; it is passed on"
            );
            None
        }
    }
}

fn signed_link(
    upstream: &Upstream,
    shadow: &ShadowCall,
    request: &Request<Bytes>,
) -> Result<CallReply, CallRejection> {
    let (text, sign) = shadow.envelope.as_ref().ok_or_else(|| {
        CallRejection::new(Code::InvalidField, "req: expected one req and one sign").at("req")
    })?;
    // A browser follows the link, so the envelope goes into its query, wherever it came in.
    let body = EncodedBody::of_request(request.body(), request.headers())
        .map_err(|error| CallRejection::new(Code::InvalidField, error.to_string()).at("req"))?;
    let form = match body.bytes().trim_ascii() {
        b"" => query(request),
        form => form,
    };
    let form = String::from_utf8_lossy(form);
    let response = link::response(upstream.url(), (text, sign, &form), request.headers());
    Ok(CallReply::ok(response, Sent::No))
}

async fn pass_on(
    upstream: &Upstream,
    endpoint: Endpoint,
    shadow: &ShadowCall,
    request: &Request<Bytes>,
) -> Result<CallReply, CallRejection> {
    let mut headers = relay::page_headers(request.headers());
    if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    let (target, body) = (target(request), request.body());
    let response = upstream.post(endpoint, target, &headers, body).await?;
    let is_verified = match &shadow.call {
        Some(call) => upstream.verify(endpoint, call, &response).await.is_ok(),
        None => false,
    };
    let error = match endpoint {
        Endpoint::Submit => error_in_front(upstream, &response),
        _ => None,
    };
    let mut reply = CallReply::page(relay::response(response), error);
    let headers = reply.response.headers_mut();
    headers.insert(VERIFIED, flag(is_verified));
    Ok(reply)
}

/// An app's own envelope, and what our key makes of it.
pub(super) struct ShadowCall {
    /// The text and the signature as the app made them, decoded from the form.
    envelope: Option<(String, String)>,
    verdict: ShadowVerdict,
    /// The merchant and order that the call names, where it can be read.
    subject: Subject,
    /// The call, where our key gives the same signature: the response is verified against it.
    call: Option<Call>,
}

/// The comparison of the app's signature with ours.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ShadowVerdict {
    /// Our key gives the same signature.
    Match,
    /// It does not, for this reason.
    Mismatch(String),
}

impl ShadowVerdict {
    /// The value of `countersign-shadow`.
    fn name(&self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Mismatch(_) => "mismatch",
        }
    }
}

impl ShadowCall {
    /// Compares the app's signature with ours, counts the verdict, and logs a mismatch.
    pub(super) fn read(request: &Request<Bytes>, snapshot: &Snapshot, metrics: &Metrics) -> Self {
        let mut subject = Subject::default();
        let mut compared = |received: Received<'_>| {
            let envelope = (received.text().to_owned(), received.sign().to_owned());
            (Some(envelope), compare(&received, snapshot, &mut subject))
        };
        let (envelope, compared) = match EncodedBody::of_request(request.body(), request.headers())
        {
            Ok(body) => match body.envelope_beside(query(request), "req") {
                Ok(received) => compared(received),
                Err(error) => (None, Err(error.to_string())),
            },
            Err(error) => (None, Err(error.to_string())),
        };
        let (verdict, call) = match compared {
            Ok(call) => (ShadowVerdict::Match, Some(call)),
            Err(why) => {
                tracing::warn!(
                    merid = subject.shown_merid(),
                    why,
                    "the app's signature is not ours"
                );
                (ShadowVerdict::Mismatch(why), None)
            }
        };
        metrics.shadow.with_label_values(&[verdict.name()]).inc();
        Self {
            envelope,
            verdict,
            subject,
            call,
        }
    }
}

/// Returns the call where our key gives the signature that the app sent, and otherwise the reason. `subject` is set as soon
/// as it is known.
fn compare(
    received: &Received<'_>,
    snapshot: &Snapshot,
    subject: &mut Subject,
) -> Result<Call, String> {
    let payload = received.unverified().ok_or("req is not base64")?;
    let object = Object::parse(&payload).map_err(|error| error.to_string())?;
    *subject = Subject::of(&object);
    let merid = subject.merid.as_deref();
    let merchant = merid
        .and_then(|merid| snapshot.merchant(merid))
        .ok_or("no key is configured for its merid")?;
    // Only keys that we may sign with: an old key would be a mismatch after the move. Which of two the app has by now is
    // its own affair.
    if received.verify(merchant.signing_keys()).is_err() {
        let candidate = Candidate {
            merid: &merchant.merid,
            key: &merchant.key,
            old: false,
        };
        return Err(in_words(&match received.text().len() {
            // The search hashes the text some hundred times, and other calls wait.
            0..=MAX_EXPLAINED => explain::explain(received.text(), received.sign(), &[candidate]),
            _ => Explanation::Unknown,
        }));
    }
    let order = request::read_order(&object).ok();
    let json = Bytes::from(payload.clone());
    Ok(Call::signed_by_app(
        merchant.clone(),
        json,
        subject.clone(),
        order,
    ))
}

fn in_words(explanation: &Explanation) -> String {
    match explanation {
        Explanation::Empty => "sign is empty".to_owned(),
        Explanation::NotASign => "sign is not 32 hex digits".to_owned(),
        Explanation::Fits { causes, .. } => causes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
        Explanation::Unknown => "the app signs with another key".to_owned(),
    }
}
