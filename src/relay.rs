//! What of the app's request goes on to the platform's page, and what of the page comes back.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Response};

use crate::http::client::{Body, RawResponse};
use crate::protocol::envelope::Envelope;
use crate::telemetry::trace;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION")));

/// What a payment page may depend on: the customer's browser, its language, its session.
const TO_PLATFORM: [HeaderName; 4] = [
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::COOKIE,
];
/// What makes a page or a redirect what it is; the rest belongs to the connection.
const TO_APP: [HeaderName; 8] = [
    header::LOCATION,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::SET_COOKIE,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
];

/// Whether a field of a browser's request goes on to the platform.
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

/// The same in the trace of whoever asked for it.
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

/// What of a browser's request goes on to whoever makes the page.
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

/// The platform's response as it came, without what belongs to its connection.
pub fn response(platform: RawResponse) -> Response<Bytes> {
    let headers = platform.headers();
    let mut response = Response::new(platform.body().clone());
    *response.status_mut() = platform.status();
    for name in &TO_APP {
        for value in headers.get_all(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}
