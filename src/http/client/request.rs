//! One server as a URL names it, and a request to it in full.

use http::HeaderMap;
use url::Url;

/// What is sent behind a head.
pub trait Body: Sync {
    /// How many bytes [`Body::write`] appends; sent as `Content-Length`.
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

pub(super) struct Origin {
    pub(super) tls: bool,
    /// What the certificate must be for; never empty, because Pingora takes that for "do not verify".
    pub(super) server_name: String,
    /// The `Host` header.
    authority: String,
    /// Before every path; without a slash at its end.
    prefix: String,
}

impl Origin {
    /// A whole request, for one write. Names are written as old servers expect them.
    pub(super) fn request(
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
        debug_assert_eq!(request.len() - head, body_length, "what was announced");
        request
    }

    pub(super) fn of(url: &Url) -> Result<Self, String> {
        let host = url.host_str().ok_or("the URL has no host")?;
        // Brackets around an IPv6 address belong to the URL alone.
        let host = host.trim_matches(['[', ']']).to_owned();
        if url.scheme() == "https" && host.contains('_') {
            // Pingora would verify the name with a dash instead.
            return Err(
                "the host of an https URL has an underscore: no certificate can be verified for it"
                    .to_owned(),
            );
        }
        Ok(Self {
            tls: url.scheme() == "https",
            server_name: host,
            authority: url[url::Position::BeforeHost..url::Position::AfterPort].to_owned(),
            prefix: url.path().trim_end_matches('/').to_owned(),
        })
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
