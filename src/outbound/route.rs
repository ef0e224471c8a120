//! Which of the app's paths means what.

use http::{Method, Uri};

use super::rejection::{CallRejection, Code};
use crate::http::client::Repeat;
use crate::protocol::response::Completeness;

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
    /// All of them, in their order.
    pub(super) const ALL: [Self; 4] = [Self::Query, Self::Submit, Self::Link, Self::Extra];

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

    /// The name in metrics and log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Submit => "submit",
            Self::Link => "link",
            Self::Extra => "extra",
        }
    }

    /// Its place in [`Endpoint::ALL`].
    pub(super) fn place(self) -> usize {
        self as usize
    }

    /// The name of a call that may have come to none.
    pub(super) fn name_of(endpoint: Option<Self>) -> &'static str {
        endpoint.map_or("none", Self::name)
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
        matches!(self, Self::Submit | Self::Link)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_stands_in_its_place() {
        for (place, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint.place(), place);
        }
    }
}
