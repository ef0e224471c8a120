//! How a call ended: the response, and what is counted, logged and noted of it.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::call::Call;
use super::rejection::CallRejection;
use crate::http::client::error::Sent;
use crate::protocol::envelope::Verified;
use crate::protocol::key::Key;
use crate::protocol::response::PlatformResponse;
use crate::protocol::subject::Subject;
use crate::telemetry::outcome::CallOutcome;
use crate::web::reply::{JSON, data};

pub(super) const VERIFIED: HeaderName = HeaderName::from_static("countersign-verified");

/// A response, and what the log says of it.
pub(super) struct CallReply {
    pub(super) response: Response<Bytes>,
    pub(super) outcome: CallOutcome,
    pub(super) sent: Sent,
    pub(super) subject: Subject,
    /// The fingerprint of the old key that the answer was signed with.
    pub(super) old_key: Option<String>,
}

impl CallReply {
    /// What went well; whose call it was is not known here.
    pub(super) fn ok(response: Response<Bytes>, sent: Sent) -> Self {
        Self {
            response,
            outcome: CallOutcome::Ok,
            sent,
            subject: Subject::default(),
            old_key: None,
        }
    }

    pub(super) fn answered(call: &Call, answer: Verified<PlatformResponse>) -> Self {
        let old_key = call.merchant.old_key(answer.key_index());
        Self {
            old_key: old_key.map(Key::fingerprint),
            ..Self::ok(plain(answer), Sent::Yes)
        }
    }

    pub(super) fn refused(refused: &CallRejection, id: &HeaderValue) -> Self {
        Self {
            response: unverified(refused.response(id)),
            outcome: CallOutcome::Failed(refused.code),
            sent: refused.sent,
            subject: refused.subject.clone(),
            old_key: None,
        }
    }
}

/// A verified answer as the app gets it. Nothing else becomes one.
fn plain(answer: Verified<PlatformResponse>) -> Response<Bytes> {
    let mut response = data(StatusCode::OK, JSON, answer.into_inner().json);
    response.headers_mut().insert(VERIFIED, flag(true));
    response
}

pub(super) fn unverified(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert(VERIFIED, flag(false));
    response
}

pub(super) fn flag(verified: bool) -> HeaderValue {
    HeaderValue::from_static(if verified { "true" } else { "false" })
}
