//! The platform's response to a submit: an envelope, a page for the customer, or a gateway's error.

use http::StatusCode;
use url::Url;

use crate::http::client::RawResponse;
use crate::http::client::error::Sent;
use crate::protocol::body::resemblance;
use crate::relay;

/// Returns true where a submit's response is an envelope, or an app could take it for a result in spite of its type, its
/// padding or its coding: then it must be verified.
pub(super) fn must_be_envelope(response: &RawResponse) -> bool {
    match relay::decoded(response) {
        // A gateway describes its own error as it likes; its status speaks for itself.
        Ok(body) if !response.status().is_success() => {
            resemblance::error_could_be_result(body.bytes())
        }
        Ok(body) => resemblance::could_be_result(body.bytes()),
        // The app's library may undo a coding that we cannot.
        Err(_) => true,
    }
}

/// Returns whether the order may have arrived, where something in front of the platform responded to a submit with an error
/// of its own: a status of 400 or more, or a redirect to the path that was posted to, as from http to https.
pub(super) fn gateway_error(
    status: StatusCode,
    location: impl FnOnce() -> Option<String>,
    posted_to: &Url,
) -> Option<Sent> {
    match status.as_u16() {
        // 52x are Cloudflare's: the origin is down, cut off or slow.
        502..=504 | 520..=529 => Some(Sent::Unknown),
        400.. => Some(Sent::Yes),
        301 | 308 => {
            // Relative references are resolved against the request's own address (RFC 9110 §10.2.2).
            let target = posted_to.join(&location()?).ok()?;
            let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
            (path(&target) == path(posted_to)).then_some(Sent::Yes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(status: u16, location: &str) -> Option<Sent> {
        let status = StatusCode::from_u16(status).unwrap();
        let posted_to = Url::parse("http://pay.example.com/cashier/api/icashier").unwrap();
        gateway_error(status, || Some(location.to_owned()), &posted_to)
    }

    #[test]
    fn a_gateway_s_error_says_whether_the_order_may_have_arrived() {
        for status in [502, 503, 504, 520, 521, 524, 529] {
            assert_eq!(found(status, "/"), Some(Sent::Unknown), "{status}");
        }
        for status in [400, 403, 404, 429, 500, 501, 505, 519, 530] {
            assert_eq!(found(status, "/"), Some(Sent::Yes), "{status}");
        }
        for status in [200, 204, 302, 303, 307] {
            assert_eq!(found(status, "/cashier/api/icashier"), None, "{status}");
        }
    }

    #[test]
    fn a_permanent_redirect_to_the_same_path_is_a_gateway_s() {
        for status in [301, 308] {
            for location in [
                "https://pay.example.com/cashier/api/icashier",
                "https://www.pay.example.com/cashier/api/icashier?x=1",
                "//other.example.com/cashier/api/icashier",
                "/cashier/api/icashier/",
                "icashier",
            ] {
                assert_eq!(found(status, location), Some(Sent::Yes), "{location}");
            }
            for location in ["https://pay.example.com/cashier/pay", "/", "http://"] {
                assert_eq!(found(status, location), None, "{location}");
            }
        }
    }
}
