//! The platform's answer: read as an envelope, verified, complete, and about what was asked.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::parse::Call;
use super::refused::{Code, Refused, Spoken};
use crate::observe::Metrics;
use crate::protocol::envelope::{self, EnvelopeError, Received, Verified, VerifyError};
use crate::protocol::json::Object;
use crate::protocol::message::{self, Answer, AnswerError, Completeness};

/// Verifies the answer to a call that must be answered with an envelope and status 200.
pub(super) fn verify(
    response: &Response<Bytes>,
    call: &Call,
    completeness: Completeness,
    metrics: &Metrics,
) -> Result<Verified<Answer>, Refused> {
    if response.status() != StatusCode::OK {
        let detail = format!("expected status 200, got {}", response.status().as_u16());
        return Err(Refused::new(Code::PlatformError, detail));
    }
    verify_body(response.body(), call, completeness, metrics)
}

/// Verifies an envelope, whatever its status.
pub(super) fn verify_body(
    body: &[u8],
    call: &Call,
    completeness: Completeness,
    metrics: &Metrics,
) -> Result<Verified<Answer>, Refused> {
    let received = envelope::read(body, "resp")?;
    let message = received
        .verify(call.merchant().verifying_keys())
        .map_err(|error| unverified(&error, &received))?;
    let answer = message::read_answer(message, &call.json, &call.subject, completeness)?;
    count(&answer, metrics);
    Ok(answer)
}

/// Whether a body that may be a page means to be an envelope, right or wrong.
pub(super) fn is_envelope(body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    if start.starts_with(b"{") {
        return Object::parse(body)
            .is_ok_and(|o| o.raw("resp").is_some() || o.raw("sign").is_some());
    }
    start.starts_with(b"resp=")
        || start.starts_with(b"sign=")
        || (!body.contains(&b'<') && envelope::read(body, "resp").is_ok())
}

fn count(answer: &Verified<Answer>, metrics: &Metrics) {
    let lacks_respcode = answer.without_respcode.then_some("no-respcode");
    for kind in answer.oddities().names().chain(lacks_respcode) {
        metrics.oddities.with_label_values(&[kind]).inc();
    }
    if answer.key_index() > 0 {
        metrics.old_key_answers.inc();
    }
}

fn unverified(error: &VerifyError, received: &Received<'_>) -> Refused {
    match error {
        VerifyError::Unsigned => Refused {
            platform: spoken(received).map(Box::new),
            ..Refused::new(
                Code::UnsignedAnswer,
                "sign is empty: the platform does not know this merchant or its key",
            )
        },
        VerifyError::BadSignature => Refused::new(Code::BadSignature, error.to_string()),
        VerifyError::NotBase64 => Refused::new(Code::MalformedAnswer, error.to_string()).at("resp"),
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

impl From<EnvelopeError> for Refused {
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

impl From<AnswerError> for Refused {
    fn from(error: AnswerError) -> Self {
        let detail = error.to_string();
        match error {
            AnswerError::Foreign(member) => Self::new(Code::ForeignAnswer, detail).at(member),
            AnswerError::Incomplete(missing) => {
                Self::new(Code::MalformedAnswer, detail).at(missing.field)
            }
            AnswerError::Json(_) | AnswerError::PlayedBack => {
                Self::new(Code::MalformedAnswer, detail)
            }
        }
    }
}
