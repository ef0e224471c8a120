//! Rejections of calls: status, code, title and `sent` of each, and the body that carries them.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::http::client::error::{ClientError, Sent};
use crate::platform::response::{OpenError, UnsignedWords};
use crate::protocol::envelope::{EnvelopeError, VerifyError};
use crate::protocol::field::FieldError;
use crate::protocol::json::JsonError;
use crate::protocol::response::ResponseError;
use crate::protocol::result::ReadError;
use crate::protocol::subject::Subject;
pub(super) use crate::telemetry::outcome::Code;
use crate::telemetry::outcome::Listed;
use crate::web::reply::data;

/// The title of the body (RFC 9457 §3.1.3).
fn title(code: Code) -> &'static str {
    match code {
        Code::BadRequest => "The request is not valid HTTP",
        Code::InvalidJson => "The body is not one strict JSON object",
        Code::DuplicateMember => "The body has a duplicate key",
        Code::BrowserRequest => "Web pages may not call the sidecar",
        Code::NotFound => "No interface has this path",
        Code::MethodNotAllowed => "This path takes POST",
        Code::RequestTimeout => "The body did not arrive in time",
        Code::OrderConflict => "This order was signed before with another amount or action",
        Code::BodyTooLarge => "The body is larger than app.max_body",
        Code::InvalidField => "A field breaks the platform's rules",
        Code::UnknownMerchant => "No key is configured for this merchant",
        Code::Internal => "The sidecar failed inside this call",
        Code::Overloaded => "Too many calls are in flight",
        Code::Draining => "The sidecar is shutting down",
        Code::PlatformUnreachable => "No connection to the platform",
        Code::PlatformTimeout => "The platform did not respond in time",
        Code::PlatformCutOff => "The connection ended inside the response",
        Code::BadSignature => "The response's signature is invalid",
        Code::UnsignedAnswer => "The platform could not find the merchant's key",
        Code::PlatformError => "The platform responded with an error status",
        Code::MalformedAnswer => "The response is no valid envelope",
        Code::ForeignAnswer => "The response is about another merchant or order",
    }
}

/// The status of the reply.
fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::InvalidJson | Code::DuplicateMember => StatusCode::BAD_REQUEST,
        Code::BrowserRequest => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::OrderConflict => StatusCode::CONFLICT,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::InvalidField | Code::UnknownMerchant => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Overloaded | Code::Draining => StatusCode::SERVICE_UNAVAILABLE,
        Code::PlatformTimeout => StatusCode::GATEWAY_TIMEOUT,
        Code::PlatformUnreachable
        | Code::PlatformCutOff
        | Code::BadSignature
        | Code::UnsignedAnswer
        | Code::PlatformError
        | Code::MalformedAnswer
        | Code::ForeignAnswer => StatusCode::BAD_GATEWAY,
    }
}

/// Says whether the request may have arrived, where the error itself does not know better.
fn sent(code: Code) -> Sent {
    match code {
        Code::Internal | Code::PlatformTimeout | Code::PlatformCutOff => Sent::Unknown,
        Code::BadSignature
        | Code::UnsignedAnswer
        | Code::PlatformError
        | Code::MalformedAnswer
        | Code::ForeignAnswer => Sent::Yes,
        Code::BadRequest
        | Code::InvalidJson
        | Code::DuplicateMember
        | Code::BrowserRequest
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::RequestTimeout
        | Code::OrderConflict
        | Code::BodyTooLarge
        | Code::InvalidField
        | Code::UnknownMerchant
        | Code::Overloaded
        | Code::Draining
        | Code::PlatformUnreachable => Sent::No,
    }
}

/// A rejection with its details. None of its texts quotes a body or a key.
#[derive(Debug, Clone)]
pub(super) struct CallRejection {
    pub(super) code: Code,
    pub(super) detail: Box<str>,
    pub(super) sent: Sent,
    pub(super) field: Option<&'static str>,
    pub(super) subject: Subject,
    pub(super) platform: Option<Box<UnsignedWords>>,
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
    platform: Option<&'a UnsignedWords>,
}

impl CallRejection {
    pub(super) fn new(code: Code, detail: impl Into<Box<str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            sent: sent(code),
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

    /// Renders the rejection as a reply.
    pub(super) fn response(&self, request_id: &HeaderValue) -> Response<Bytes> {
        let (name, status) = (self.code.name(), status(self.code));
        let body = RejectionBody {
            // A URI that names the problem and need not lead anywhere (RFC 9457 §3.1.1).
            r#type: format!("urn:countersign:problem:{name}"),
            title: title(self.code),
            status: status.as_u16(),
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
        let mut response = data(status, "application/problem+json", body);
        let headers = response.headers_mut();
        let mut put = |name, value| headers.insert(name, HeaderValue::from_static(value));
        match self.code {
            // RFC 9110 §10.2.3; in seconds.
            Code::Overloaded | Code::Draining => put(header::RETRY_AFTER, "1"),
            // Mandatory beside 405 (RFC 9110 §15.5.6).
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
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::Unreachable { .. } => Code::PlatformUnreachable,
            ClientError::TimedOut { .. } | ClientError::CutShort => Code::PlatformTimeout,
            ClientError::CutOff(_) => Code::PlatformCutOff,
            ClientError::BadResponse(_) => Code::MalformedAnswer,
        };
        Self {
            sent: error.sent(),
            ..Self::new(code, error.to_string())
        }
    }
}

impl From<OpenError> for CallRejection {
    fn from(error: OpenError) -> Self {
        let detail = error.to_string();
        match error {
            OpenError::Status(_) => Self::new(Code::PlatformError, detail),
            OpenError::Coded { .. } => Self::new(Code::MalformedAnswer, detail),
            OpenError::NoEnvelope { error, .. } => {
                let rejection = Self::new(Code::MalformedAnswer, detail);
                match error {
                    EnvelopeError::Missing(_) => rejection,
                    EnvelopeError::Doubled(name)
                    | EnvelopeError::NotAString(name)
                    | EnvelopeError::BadEscape(name)
                    | EnvelopeError::Contradictory(name) => rejection.at(name),
                }
            }
            OpenError::Unsigned(words) => Self {
                platform: Some(words),
                ..Self::new(Code::UnsignedAnswer, detail)
            },
            OpenError::Invalid(VerifyError::NotBase64) => {
                Self::new(Code::MalformedAnswer, detail).at("resp")
            }
            OpenError::Invalid(_) => Self::new(Code::BadSignature, detail),
        }
    }
}

impl From<ResponseError> for CallRejection {
    fn from(error: ResponseError) -> Self {
        let detail = error.to_string();
        match error {
            ResponseError::Foreign(field) => Self::new(Code::ForeignAnswer, detail).at(field),
            ResponseError::Read(ReadError::Unreadable { field, .. }) => {
                Self::new(Code::MalformedAnswer, detail).at(field)
            }
            ResponseError::Read(_) => Self::new(Code::MalformedAnswer, detail),
        }
    }
}
