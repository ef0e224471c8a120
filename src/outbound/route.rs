//! Which of the app's paths means what.

use http::{Method, Uri};

use super::rejection::{CallRejection, Code};
use crate::http::client::Repeat;
use crate::protocol::response::Completeness;
use crate::telemetry::outcome::CallKind;

/// What the sidecar does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/api/query` (document §3.4).
    Query,
    /// `/api/icashier` (document §3.1).
    Submit,
    /// `/apis/icashier`: signed, and sent by a browser.
    Link,
    /// One of `platform.extra_paths`.
    Extra,
}

impl Endpoint {
    /// Finds the endpoint of a request.
    pub(super) fn of(
        method: &Method,
        uri: &Uri,
        extra_paths: &[String],
    ) -> Result<Self, CallRejection> {
        let endpoint = match uri.path() {
            "/api/query" => Self::Query,
            "/api/icashier" => Self::Submit,
            "/apis/icashier" => Self::Link,
            path if extra_paths.iter().any(|extra| extra == path) => Self::Extra,
            _ => {
                let known = "expected /api/query, /api/icashier, /apis/icashier or one of platform.extra_paths";
                return Err(CallRejection::new(Code::NotFound, known));
            }
        };
        if method != Method::POST {
            return Err(CallRejection::new(
                Code::MethodNotAllowed,
                "expected POST with a JSON body",
            ));
        }
        Ok(endpoint)
    }

    /// The endpoint in metrics, log and activity.
    pub(super) fn kind(self) -> CallKind {
        match self {
            Self::Query => CallKind::Query,
            Self::Submit => CallKind::Submit,
            Self::Link => CallKind::Link,
            Self::Extra => CallKind::Extra,
        }
    }

    /// Whether it may be sent a second time: only a query is known to change nothing.
    pub(super) fn repeat(self) -> Repeat {
        match self {
            Self::Query => Repeat::Once,
            Self::Submit | Self::Link | Self::Extra => Repeat::Never,
        }
    }

    /// Whether its message is an order (document §3.1.3).
    pub(super) fn takes_orders(self) -> bool {
        self.kind().takes_orders()
    }

    /// What an enveloped answer must say.
    pub(super) fn completeness(self) -> Completeness {
        match self {
            Self::Query => Completeness::Query,
            Self::Submit | Self::Link => Completeness::Submit,
            Self::Extra => Completeness::Any,
        }
    }
}
