//! Header fields that pass from the app's request to the platform's page, and from the page back.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Response};

use crate::http::client::{Body, RawResponse};
use crate::http::request_id::REQUEST_ID;
use crate::protocol::body;
use crate::protocol::envelope::Envelope;
use crate::telemetry::trace;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION")));

/// Fields that a payment page may depend on: the customer's browser, its language, its session.
const TO_PLATFORM: [HeaderName; 4] = [
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::COOKIE,
];
/// Fields of a page that are not relayed. Everything else goes on, because a page may depend on any field: its `Refresh`,
/// its policies, its coding, what it varies by.
const NOT_TO_APP: [HeaderName; 10] = [
    // They belong to the connection (RFC 9110 §7.6.1).
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    // Ours to say.
    REQUEST_ID,
];
/// Fields that speak for the whole origin that they come from. The customer's browser would take them for the shop's.
const OF_THE_ORIGIN: [HeaderName; 6] = [
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
];
/// Fields that show an app what was verified.
const OURS: &str = "countersign-";

/// Returns true for fields of a browser's request that pass to the platform.
pub fn reads(field: &HeaderName) -> bool {
    TO_PLATFORM.contains(field)
}

/// The headers of a form that the sidecar sends on its own behalf.
pub fn own_headers() -> &'static HeaderMap {
    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
        HeaderMap::from_iter([(header::CONTENT_TYPE, FORM), (header::USER_AGENT, AGENT)])
    });
    &HEADERS
}

/// The fields of our own queries, in the caller's trace.
pub fn traced_headers(asked: &HeaderMap) -> Cow<'static, HeaderMap> {
    let mut headers = Cow::Borrowed(own_headers());
    if trace::is_named(asked) {
        trace::pass_on(asked, headers.to_mut());
    }
    headers
}

/// The headers of a form that may be answered with a page.
pub fn page_headers(app: &HeaderMap) -> HeaderMap {
    let mut headers = own_headers().clone();
    for name in &TO_PLATFORM {
        headers.remove(name);
    }
    headers.extend(browser_headers(app));
    headers.entry(header::USER_AGENT).or_insert(AGENT);
    headers
}

/// Collects the fields of a browser's request that pass to the page's server.
pub fn browser_headers(browser: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in &TO_PLATFORM {
        for value in browser.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    trace::pass_on(browser, &mut headers);
    headers
}

/// A signed message on its way to the platform.
pub struct FormBody(pub Envelope);

impl Body for FormBody {
    fn length(&self) -> usize {
        self.0.form_length("req")
    }

    fn write(&self, to: &mut Vec<u8>) {
        self.0.write_form("req", to);
    }
}

/// Relays a page or a redirect with the fields that belong to it.
pub fn response(origin: RawResponse) -> Response<Bytes> {
    // A page or a redirect was expected, an error was not: behind a gateway's error, more may come.
    if origin.status().as_u16() < 400 {
        origin.keep_connection();
    }
    let headers = origin.headers();
    let mut response = Response::new(origin.body().clone());
    *response.status_mut() = origin.status();
    for (name, value) in headers
        .iter()
        .filter(|(name, _)| is_of_page(name, &headers))
    {
        // Appended, not inserted: a page sets each cookie in a field of its own (RFC 6265 §3).
        response.headers_mut().append(name, value.clone());
    }
    response
}

/// Returns true for fields that belong to the page, not to the connection, to the origin or to us.
fn is_of_page(name: &HeaderName, headers: &HeaderMap) -> bool {
    // A sender may name further fields of its connection.
    let named = headers.get_all(header::CONNECTION).iter();
    let mut named = named.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    !NOT_TO_APP.contains(name)
        && !OF_THE_ORIGIN.contains(name)
        // A page must not be able to claim that it was verified.
        && !name.as_str().starts_with(OURS)
        && !named.any(|named| {
            named
                .trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
}

/// Undoes the encodings of a response's body. Its fields are read only where it has a content coding.
pub fn decoded(response: &RawResponse) -> Result<body::EncodedBody<'_>, body::BodyError> {
    let headers = match response.has_field(&header::CONTENT_ENCODING) {
        true => response.headers(),
        false => HeaderMap::new(),
    };
    body::EncodedBody::of_response(response.body(), &headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_its_own_fields_and_loses_the_connection_s() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close, X-Hop"));
        let kept = |name: &'static str| is_of_page(&HeaderName::from_static(name), &headers);
        for name in [
            "refresh",
            "content-security-policy",
            "content-encoding",
            "x-frame-options",
            "vary",
            "set-cookie",
            "location",
            "x-anything",
        ] {
            assert!(kept(name), "{name}");
        }
        for name in [
            "connection",
            "x-hop",
            "transfer-encoding",
            "content-length",
            "strict-transport-security",
            "clear-site-data",
            "countersign-verified",
            "x-request-id",
        ] {
            assert!(!kept(name), "{name}");
        }
    }
}
