//! Routes: the endpoint of a request, and what follows from it.

use http::{Method, Uri};

use super::rejection::{CallRejection, Code};
use crate::http::client::Repeat;
use crate::protocol::response::Completeness;
use crate::telemetry::outcome::CallKind;

/// The flow that a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/api/query` (document §3.4).
    Query,
    /// `/api/icashier` (document §3.1).
    Submit,
    /// `/apis/icashier`: signed here, and sent by a browser.
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

    /// Returns the kind in metrics and log.
    pub(super) fn kind(self) -> CallKind {
        match self {
            Self::Query => CallKind::Query,
            Self::Submit => CallKind::Submit,
            Self::Link => CallKind::Link,
            Self::Extra => CallKind::Extra,
        }
    }

    /// Says whether a request may go out again on a fresh connection. A submit is never sent twice, and this is the one
    /// place that says so: two submits may be two payments. Only a query is known to change nothing.
    pub(super) fn repeat(self) -> Repeat {
        match self {
            Self::Query => Repeat::Once,
            Self::Submit | Self::Link | Self::Extra => Repeat::Never,
        }
    }

    /// Returns true where the message is an order (document §3.1.3).
    pub(super) fn takes_orders(self) -> bool {
        self.kind().takes_orders()
    }

    /// The fields that an enveloped response must have.
    pub(super) fn completeness(self) -> Completeness {
        match self {
            Self::Query => Completeness::Query,
            Self::Submit | Self::Link => Completeness::Submit,
            Self::Extra => Completeness::Any,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_query_goes_out_again() {
        use Endpoint::{Extra, Link, Query, Submit};
        for endpoint in [Query, Submit, Link, Extra] {
            let again = endpoint.repeat() == Repeat::Once;
            assert_eq!(again, endpoint == Endpoint::Query, "{endpoint:?}");
        }
    }
}
