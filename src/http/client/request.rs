//! Requests to one server, written in full.

use http::HeaderMap;
use url::{Position, Url};
use zeroize::Zeroizing;

use super::proxy::Hop;

/// The body of a request, written straight into it.
pub trait Body: Sync {
    /// Returns the number of bytes that [`Body::write`] appends; sent as `Content-Length`.
    fn length(&self) -> usize;

    /// Appends exactly [`Body::length`] bytes.
    fn write(&self, to: &mut Vec<u8>);
}

impl<T: AsRef<[u8]> + Sync> Body for T {
    fn length(&self) -> usize {
        self.as_ref().len()
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_ref());
    }
}

/// Writes requests to one server.
pub(super) struct RequestWriter {
    /// The value of `Host`.
    authority: String,
    /// The beginning of every path, without a slash at its end.
    prefix: String,
    /// Header lines of every request, each with its line end before it.
    own_lines: Zeroizing<String>,
}

impl RequestWriter {
    /// Writes a whole request, to be sent at once. Field names are capitalised as old servers expect them.
    pub(super) fn write(
        &self,
        method: &str,
        path: &str,
        headers: &HeaderMap,
        body: Option<&dyn Body>,
    ) -> Vec<u8> {
        let body_length = body.map_or(0, Body::length);
        let mut request = Vec::with_capacity(512 + body_length);
        let line = [
            method,
            " ",
            &self.prefix,
            path,
            " HTTP/1.1\r\nHost: ",
            &self.authority,
            &self.own_lines,
        ];
        for part in line {
            request.extend_from_slice(part.as_bytes());
        }
        if body.is_some() {
            request.extend_from_slice(b"\r\nContent-Length: ");
            request.extend_from_slice(itoa::Buffer::new().format(body_length).as_bytes());
        }
        for (name, value) in headers {
            request.extend_from_slice(b"\r\n");
            push_title_case(&mut request, name.as_str());
            request.extend_from_slice(b": ");
            request.extend_from_slice(value.as_bytes());
        }
        request.extend_from_slice(b"\r\n\r\n");
        let head = request.len();
        if let Some(body) = body {
            body.write(&mut request);
        }
        debug_assert_eq!(
            request.len() - head,
            body_length,
            "Content-Length is what was written"
        );
        request
    }

    /// Writes requests to the server of `url`, below its path; in absolute form where they go to a proxy.
    pub(super) fn to(url: &Url, forwarded_by: Option<&Hop>) -> Self {
        // Without user and password, which never go into `Host` (RFC 9110 §4.2.4); `Url` leaves out the scheme's own
        // port.
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        let path = url.path().trim_end_matches('/');
        let (prefix, own_lines) = match forwarded_by {
            Some(hop) => (format!("http://{authority}{path}"), hop.request_lines()),
            None => (path.to_owned(), Zeroizing::default()),
        };
        Self {
            authority: authority.to_owned(),
            prefix,
            own_lines,
        }
    }
}

fn push_title_case(request: &mut Vec<u8>, name: &str) {
    let mut begins = true;
    request.extend(name.bytes().map(|byte| {
        let byte = if begins {
            byte.to_ascii_uppercase()
        } else {
            byte
        };
        begins = byte == b'-';
        byte
    }));
}
