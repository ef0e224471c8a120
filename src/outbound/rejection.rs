//! The one table that turns failures into status, code and `sent`, and the body that carries them.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::http::client::error::{ClientError, Sent};
use crate::protocol::field::FieldError;
use crate::protocol::json::JsonError;
use crate::protocol::subject::Subject;
pub(super) use crate::telemetry::outcome::Code;
use crate::telemetry::outcome::Listed;
use crate::web::reply::data;

/// The status and the title of a code, and the certainty that the request reached the platform where the error itself
/// does not say it.
fn row(code: Code) -> (u16, &'static str, Sent) {
    use Sent::{No, Unknown, Yes};
    match code {
        Code::BadRequest => (400, "The request is not valid HTTP", No),
        Code::InvalidJson => (400, "The body is not one strict JSON object", No),
        Code::DuplicateMember => (400, "A JSON member stands twice", No),
        Code::NotFound => (404, "There is nothing at this path", No),
        Code::MethodNotAllowed => (405, "This path takes POST", No),
        Code::RequestTimeout => (408, "The body did not come whole in time", No),
        Code::OrderConflict => (
            409,
            "This order was signed before with another amount or action",
            No,
        ),
        Code::BodyTooLarge => (413, "The body is larger than this sidecar takes", No),
        Code::InvalidField => (422, "A field breaks the platform's rules", No),
        Code::UnknownMerchant => (422, "No key is configured for this merchant", No),
        Code::Internal => (500, "The sidecar failed inside this call", Unknown),
        Code::Overloaded => (503, "Too many calls are in flight", No),
        Code::Draining => (503, "The sidecar is shutting down", No),
        Code::PlatformUnreachable => (502, "No connection to the platform", No),
        Code::PlatformTimeout => (504, "The platform did not answer in time", Unknown),
        Code::PlatformCutOff => (502, "The connection ended inside the answer", Unknown),
        Code::BadSignature => (502, "The answer's sign does not fit its text", Yes),
        Code::UnsignedAnswer => (502, "The platform could not find the merchant's key", Yes),
        Code::PlatformError => (502, "The platform answered with an error status", Yes),
        Code::MalformedAnswer => (502, "The answer is no valid envelope", Yes),
        Code::ForeignAnswer => (502, "The answer speaks of another merchant or order", Yes),
    }
}

/// A refusal with all that is known about it. None of its texts quotes a body or a key.
#[derive(Debug, Clone)]
pub(super) struct CallRejection {
    pub(super) code: Code,
    pub(super) detail: Box<str>,
    pub(super) sent: Sent,
    pub(super) field: Option<&'static str>,
    pub(super) subject: Subject,
    pub(super) platform: Option<Box<Spoken>>,
}

/// What an unsigned answer says: passed on, believed by nobody.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Spoken {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) respcode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) respmsg: Option<String>,
}

/// The body, RFC 9457.
#[derive(Serialize)]
struct RejectionBody<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    sent: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    merid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orderid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a Spoken>,
}

impl CallRejection {
    pub(super) fn new(code: Code, detail: impl Into<Box<str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            sent: row(code).2,
            field: None,
            subject: Subject::default(),
            platform: None,
        }
    }

    pub(super) fn at(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    pub(super) fn about(mut self, subject: &Subject) -> Self {
        self.subject.clone_from(subject);
        self
    }

    /// The refusal as a response.
    pub(super) fn response(&self, request_id: &HeaderValue) -> Response<Bytes> {
        let (status, title, _) = row(self.code);
        let name = self.code.name();
        let body = RejectionBody {
            r#type: format!("urn:countersign:problem:{name}"),
            title,
            status,
            detail: &self.detail,
            code: name,
            sent: self.sent.name(),
            request_id: request_id.to_str().unwrap_or_default(),
            merid: self.subject.merid.as_deref(),
            orderid: self.subject.orderid.as_deref(),
            field: self.field,
            platform: self.platform.as_deref(),
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = data(status, "application/problem+json", body);
        let headers = response.headers_mut();
        let mut put = |name, value| headers.insert(name, HeaderValue::from_static(value));
        match self.code {
            Code::Overloaded | Code::Draining => put(header::RETRY_AFTER, "1"),
            Code::MethodNotAllowed => put(header::ALLOW, "POST"),
            _ => None,
        };
        response
    }
}

impl From<JsonError> for CallRejection {
    fn from(error: JsonError) -> Self {
        let code = match error {
            JsonError::DuplicateMember { .. } => Code::DuplicateMember,
            _ => Code::InvalidJson,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FieldError> for CallRejection {
    fn from(error: FieldError) -> Self {
        Self::new(Code::InvalidField, error.to_string()).at(error.field)
    }
}

impl From<ClientError> for CallRejection {
    fn from(fault: ClientError) -> Self {
        let code = match fault {
            ClientError::Unreachable { .. } => Code::PlatformUnreachable,
            ClientError::TimedOut { .. } | ClientError::CutShort => Code::PlatformTimeout,
            ClientError::CutOff(_) => Code::PlatformCutOff,
            ClientError::TooLong | ClientError::NotHttp(_) | ClientError::Stray => {
                Code::MalformedAnswer
            }
        };
        Self {
            sent: fault.sent(),
            ..Self::new(code, fault.to_string())
        }
    }
}
