//! Verification: one decode, one parse, one snapshot of the merchants for everything that follows.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};

use super::reply::CallbackRejection;
use crate::config::{Merchant, Snapshot};
use crate::protocol::body::EncodedBody;
use crate::protocol::envelope::{self, EnvelopeError, Payload, Received, Verified, VerifyError};
use crate::protocol::json::{JsonError, Object};
use crate::protocol::key::Key;
use crate::protocol::oddity::Oddities;
use crate::protocol::result;
use crate::protocol::result::{PaymentResult, ReadError};
use crate::protocol::subject::{Subject, merid_hint};
use crate::telemetry::outcome::CallbackOutcome;

/// A callback whose signature holds.
pub(super) struct VerifiedCallback<'p> {
    /// The merchant whose key signed, from the one snapshot that the callback uses.
    pub(super) merchant: Arc<Merchant>,
    pub(super) subject: Subject,
    /// The fingerprint of the old key, if it was one.
    pub(super) old_key: Option<String>,
    /// The decoded payload.
    pub(super) payload: &'p [u8],
    pub(super) oddities: Oddities,
    pub(super) reading: PayloadReading<'p>,
}

/// The meaning of a verified payload.
pub(super) enum PayloadReading<'p> {
    /// A result, and the members that it was read from.
    Result(Verified<PaymentResult>, Verified<Object<'p>>),
    /// A request, or a failed query's response: anybody who saw one can send it, so it needs no review.
    Reflected,
    /// No complete, readable result.
    Unreadable(ReadError),
}

impl PayloadReading<'_> {
    fn of_error(error: ReadError) -> Self {
        match error {
            ReadError::Reflected => Self::Reflected,
            error => Self::Unreadable(error),
        }
    }
}

/// Finds the envelope: in the query of a GET, in the body of a POST, or in its query where the body is empty (§2.3) or has
/// the same one.
pub(super) fn envelope_of<'r>(
    request: &'r Request<Bytes>,
    body: &'r EncodedBody<'r>,
) -> Result<Received<'r>, CallbackOutcome> {
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let received = match *request.method() {
        Method::GET => envelope::read(query, "resp"),
        _ => body.envelope_beside(query, "resp"),
    };
    received.map_err(|_: EnvelopeError| CallbackOutcome::Malformed)
}

/// Verifies a payload with the keys of the merchant that it names, and reads it.
pub(super) fn verify<'p>(
    payload: &'p Payload<'p>,
    snapshot: &Snapshot,
) -> Result<VerifiedCallback<'p>, CallbackRejection> {
    let claimed = match payload.claim() {
        Ok(claimed) => claimed,
        Err(error) => return verify_malformed(payload, error, snapshot),
    };
    let subject = Subject::of(claimed.object());
    let rejected = |outcome| CallbackRejection::about(outcome, &subject);
    let merchant = subject.merid.as_deref();
    let merchant = merchant.and_then(|merid| snapshot.merchant(merid));
    let merchant = merchant.ok_or_else(|| rejected(CallbackOutcome::UnknownMerchant))?;
    // Only the keys of the merchant that the payload names: one merchant's key must not vouch for another's orders.
    let object = claimed
        .verify(merchant.verifying_keys())
        .map_err(|error| rejected(outcome_of(&error)))?;
    let old_key = merchant.old_key(object.key_index()).map(Key::fingerprint);
    let (oddities, reading) = match result::read_result_of(&object) {
        Ok(result) => (result.oddities(), PayloadReading::Result(result, object)),
        Err(error) => (object.oddities(), PayloadReading::of_error(error)),
    };
    Ok(VerifiedCallback {
        merchant: merchant.clone(),
        subject,
        old_key,
        payload: payload.bytes(),
        oddities,
        reading,
    })
}

/// Verifies a payload that is no strict JSON object. Its merchant is the one whose number can be made out in it, or the only
/// one: trying everybody's keys would let a stranger choose how much work a callback is.
fn verify_malformed<'p>(
    payload: &'p Payload<'p>,
    error: JsonError,
    snapshot: &Snapshot,
) -> Result<VerifiedCallback<'p>, CallbackRejection> {
    let hint = merid_hint(payload.bytes());
    let merchant = match hint {
        Some(merid) => snapshot.merchant(merid),
        None => snapshot.sole(),
    };
    let subject = Subject {
        merid: hint.map(str::to_owned),
        ..Subject::default()
    };
    let rejected = || CallbackRejection::about(CallbackOutcome::Malformed, &subject);
    let merchant = merchant.ok_or_else(rejected)?;
    let verified = payload.verify(merchant.verifying_keys());
    let verified = verified.map_err(|_: VerifyError| rejected())?;
    let subject = Subject {
        // No longer the hint, which only chose the keys and may be missing where there is one merchant.
        merid: Some(merchant.merid.clone()),
        ..Subject::default()
    };
    Ok(VerifiedCallback {
        merchant: merchant.clone(),
        subject,
        old_key: merchant.old_key(verified.key_index()).map(Key::fingerprint),
        payload: payload.bytes(),
        oddities: verified.oddities(),
        reading: PayloadReading::of_error(result::broken(payload.bytes(), error)),
    })
}

fn outcome_of(error: &VerifyError) -> CallbackOutcome {
    match error {
        VerifyError::Unsigned => CallbackOutcome::Unsigned,
        VerifyError::BadSignature => CallbackOutcome::BadSignature,
        VerifyError::NotBase64 => CallbackOutcome::Malformed,
    }
}
