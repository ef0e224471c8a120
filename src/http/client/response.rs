//! A final response as it came in.

use std::mem::{MaybeUninit, take};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use httparse::ParserConfig;

use super::pool::Lease;
use crate::http::io::buffer::give_back;

/// Header fields of a response.
pub(super) const MAX_FIELDS: usize = 128;

/// A final response. Its fields are parsed when they are needed: most responses' never are.
#[derive(Debug)]
pub struct RawResponse {
    status: StatusCode,
    /// The head as it came, status line and all.
    head: Bytes,
    body: Bytes,
    /// The connection that it came on, where that can carry another exchange.
    lease: Option<Lease>,
    is_expected: AtomicBool,
}

impl RawResponse {
    /// A response whose `head` was parsed once already.
    pub(super) fn new(status: StatusCode, head: Bytes, body: Bytes) -> Self {
        Self {
            status,
            head,
            body,
            lease: None,
            is_expected: AtomicBool::new(false),
        }
    }

    /// Attaches the connection that the response came on.
    pub(super) fn on(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Lets the connection carry another exchange: this response is the one that was expected. Without this call the
    /// connection is closed when the response is dropped, because what comes next on it may be anybody's.
    pub fn keep_connection(&self) {
        self.is_expected.store(true, Ordering::Relaxed);
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The whole body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns true if the head has this field: much cheaper than reading all of them.
    pub fn has_field(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        let mut rest = &*self.head;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            rest = &rest[at + 1..];
            let (found, after) = rest.split_at(name.len().min(rest.len()));
            if found.eq_ignore_ascii_case(name) && after.first() == Some(&b':') {
                return true;
            }
        }
        false
    }

    /// The header fields, parsed now.
    pub fn headers(&self) -> HeaderMap {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = ParserConfig::default();
        // These bytes were parsed before without an error.
        let _ = parser.parse_response_with_uninit_headers(&mut parsed, &self.head, &mut fields);
        // Every name and value that the parser takes is one to `http` too.
        let fields = parsed.headers.iter().filter_map(|field| {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(field.value).ok()?))
        });
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    /// Parses the header fields of the response.
    pub fn into_response(mut self) -> Response<Bytes> {
        let headers = self.headers();
        let mut response = Response::new(take(&mut self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

/// Gives back the buffer, which most responses are read in, and the connection.
impl Drop for RawResponse {
    fn drop(&mut self) {
        if *self.is_expected.get_mut()
            && let Some(lease) = self.lease.take()
        {
            lease.end();
        }
        // The head shares the body's storage, which can be had back only from its last owner.
        drop(take(&mut self.head));
        if let Ok(buffer) = take(&mut self.body).try_into_mut() {
            give_back(buffer);
        }
    }
}
