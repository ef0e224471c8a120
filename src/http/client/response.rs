//! A final response as it came in.

use std::mem::{MaybeUninit, take};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use httparse::ParserConfig;

use crate::http::io::buffer::give_back;

/// Fields of a response's head.
pub(super) const MAX_FIELDS: usize = 128;

/// A final response. Its fields are understood by whoever reads them: most are read by nobody.
#[derive(Debug)]
pub struct RawResponse {
    status: StatusCode,
    /// The head as it came, status line and all.
    head: Bytes,
    body: Bytes,
}

impl RawResponse {
    /// `head` was parsed once already.
    pub(super) fn new(status: StatusCode, head: Bytes, body: Bytes) -> Self {
        Self { status, head, body }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The whole body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The fields, read now.
    pub fn headers(&self) -> HeaderMap {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = ParserConfig::default();
        // These bytes were accepted before.
        let _ = parser.parse_response_with_uninit_headers(&mut parsed, &self.head, &mut fields);
        // The parser's names and values are all of them names and values to `http` too.
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

    /// The same with its fields read.
    pub fn into_response(mut self) -> Response<Bytes> {
        let headers = self.headers();
        let mut response = Response::new(take(&mut self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

/// Most are read where they came in: the buffer can be used again.
impl Drop for RawResponse {
    fn drop(&mut self) {
        drop(take(&mut self.head));
        if let Ok(buffer) = take(&mut self.body).try_into_mut() {
            give_back(buffer);
        }
    }
}
