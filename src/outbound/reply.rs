//! Replies to calls, with what is counted, logged and noted of them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::call::Call;
use super::rejection::{CallRejection, Code};
use crate::http::client::error::Sent;
use crate::protocol::envelope::Verified;
use crate::protocol::key::Key;
use crate::protocol::response::PlatformResponse;
use crate::protocol::subject::Subject;
use crate::telemetry::outcome::CallOutcome;
use crate::web::reply::{JSON, data};

pub(super) const VERIFIED: HeaderName = HeaderName::from_static("countersign-verified");

const SENT: HeaderName = HeaderName::from_static("countersign-sent");

/// A reply, and what the log says of the call.
pub(super) struct CallReply {
    pub(super) response: Response<Bytes>,
    pub(super) outcome: CallOutcome,
    pub(super) sent: Sent,
    pub(super) subject: Subject,
    /// The fingerprint of the old key that the response was signed with.
    pub(super) old_key: Option<String>,
}

impl CallReply {
    /// Replies to a call that went well; its subject is added by the caller.
    pub(super) fn ok(response: Response<Bytes>, sent: Sent) -> Self {
        Self {
            response,
            outcome: CallOutcome::Ok,
            sent,
            subject: Subject::default(),
            old_key: None,
        }
    }

    /// Hands a verified response to the app. Nothing else becomes one.
    pub(super) fn verified(call: &Call, verified: Verified<PlatformResponse>) -> Self {
        let old_key = call.merchant.old_key(verified.key_index());
        Self {
            old_key: old_key.map(Key::fingerprint),
            ..Self::ok(plain(verified), Sent::Yes)
        }
    }

    /// Says beside the platform's own words that the order arrived: a signed rejection of a submit is one too.
    pub(super) fn says_sent(mut self) -> Self {
        let sent = HeaderValue::from_static(self.sent.name());
        self.response.headers_mut().insert(SENT, sent);
        self
    }

    /// Passes on the platform's page or redirect, or with `error` what a gateway sent in its place; that says whether the
    /// order may have arrived.
    pub(super) fn page(mut page: Response<Bytes>, error: Option<Sent>) -> Self {
        let sent = error.unwrap_or(Sent::Yes);
        // A page has no body of ours to say it in.
        page.headers_mut()
            .insert(SENT, HeaderValue::from_static(sent.name()));
        Self {
            outcome: error.map_or(CallOutcome::Ok, |_| {
                CallOutcome::Failed(Code::PlatformError)
            }),
            ..Self::ok(unverified(page), sent)
        }
    }

    pub(super) fn rejected(rejection: &CallRejection, id: &HeaderValue) -> Self {
        Self {
            response: unverified(rejection.response(id)),
            outcome: CallOutcome::Failed(rejection.code),
            sent: rejection.sent,
            subject: rejection.subject.clone(),
            old_key: None,
        }
    }

    pub(super) fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }
}

fn plain(verified: Verified<PlatformResponse>) -> Response<Bytes> {
    let mut response = data(StatusCode::OK, JSON, verified.into_inner().json);
    response.headers_mut().insert(VERIFIED, flag(true));
    response
}

fn unverified(mut response: Response<Bytes>) -> Response<Bytes> {
    // `insert` and not `append`: a field of this name that came with the platform's page must not reach the app.
    response.headers_mut().insert(VERIFIED, flag(false));
    response
}

pub(super) fn flag(verified: bool) -> HeaderValue {
    HeaderValue::from_static(if verified { "true" } else { "false" })
}
