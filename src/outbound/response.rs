//! The platform's answer: read as an envelope, verified, complete, and about what was asked.

use http::StatusCode;

use super::call::Call;
use super::rejection::{CallRejection, Code, Spoken};
use crate::http::client::RawResponse;
use crate::protocol::envelope;
use crate::protocol::envelope::{EnvelopeError, Received, Verified, VerifyError};
use crate::protocol::json::Object;
use crate::protocol::response;
use crate::protocol::response::{Completeness, PlatformResponse, ResponseError};
use crate::protocol::result::ReadError;
use crate::telemetry::metrics::Metrics;

/// Verifies the answer to a call that must be answered with an envelope and status 200.
pub(super) fn verify(
    response: &RawResponse,
    call: &Call,
    completeness: Completeness,
    metrics: &Metrics,
) -> Result<Verified<PlatformResponse>, CallRejection> {
    if response.status() != StatusCode::OK {
        let detail = format!("expected status 200, got {}", response.status().as_u16());
        return Err(CallRejection::new(Code::PlatformError, detail));
    }
    let received = envelope::read(response.body(), "resp")?;
    let message = received
        .verify(call.merchant.verifying_keys())
        .map_err(|error| unverified(&error, &received))?;
    let answer = response::read_response(message, &call.json, &call.subject, completeness)?;
    metrics.count_oddities(&answer);
    Ok(answer)
}

/// Whether what may be a page is an envelope, or would be taken for one: an app that gets JSON believes it.
pub(super) fn must_be_envelope(response: &RawResponse) -> bool {
    let body = response.body();
    let start = body.trim_ascii_start();
    let is_json = start.starts_with(b"{") || start.starts_with(b"[");
    if is_json && !response.status().is_success() {
        // A gateway's own error, say: its status speaks for itself.
        return Object::parse(body)
            .is_ok_and(|o| o.raw("resp").is_some() || o.raw("sign").is_some());
    }
    is_json
        || start.starts_with(b"resp=")
        || start.starts_with(b"sign=")
        || (!body.contains(&b'<') && envelope::read(body, "resp").is_ok())
}

fn unverified(error: &VerifyError, received: &Received<'_>) -> CallRejection {
    match error {
        VerifyError::Unsigned => CallRejection {
            platform: spoken(received).map(Box::new),
            ..CallRejection::new(
                Code::UnsignedAnswer,
                "sign is empty: the platform does not know this merchant or its key",
            )
        },
        VerifyError::BadSignature => CallRejection::new(Code::BadSignature, error.to_string()),
        VerifyError::NotBase64 => {
            CallRejection::new(Code::MalformedAnswer, error.to_string()).at("resp")
        }
    }
}

fn spoken(received: &Received<'_>) -> Option<Spoken> {
    let message = received.unverified()?;
    let object = Object::parse(&message).ok()?;
    let member = |name| object.string(name)?.ok().map(|text| text.into_owned());
    Some(Spoken {
        respcode: member("respcode"),
        respmsg: member("respmsg"),
    })
}

impl From<EnvelopeError> for CallRejection {
    fn from(error: EnvelopeError) -> Self {
        let refused = Self::new(Code::MalformedAnswer, error.to_string());
        match error {
            EnvelopeError::Missing(_) => refused,
            EnvelopeError::Doubled(name)
            | EnvelopeError::NotAString(name)
            | EnvelopeError::BadEscape(name) => refused.at(name),
        }
    }
}

impl From<ResponseError> for CallRejection {
    fn from(error: ResponseError) -> Self {
        let detail = error.to_string();
        match error {
            ResponseError::Foreign(member) => Self::new(Code::ForeignAnswer, detail).at(member),
            ResponseError::Read(ReadError::Unreadable { field, .. }) => {
                Self::new(Code::MalformedAnswer, detail).at(field)
            }
            ResponseError::Read(_) => Self::new(Code::MalformedAnswer, detail),
        }
    }
}
