//! The end of a request, found before anything else reads it, and only where it can be found in one place.
//!
//! Stricter than Pingora on purpose: bytes that two HTTP readers are known to understand differently are rejected
//! (RFC 9112 §6.3 and §11.2), on every listener alike.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use httparse::Status;
use memchr::memchr;

use super::handler::Rejection;
use super::limits::Limits;
use crate::http::io::chunked::{ChunkError, Chunks};
use crate::http::io::length::content_length;

/// Fields of a head that is rejected; more are left out of what its rejection knows.
const MAX_PARSED_FIELDS: usize = 128;

/// A whole head that can be read in one way, and the end of the body behind it.
#[derive(Debug)]
pub(in crate::http) struct Framing {
    /// Bytes of the head.
    pub(super) head: usize,
    /// End of the body.
    pub(super) body: BodyEnd,
    /// The client sends the body after a `100 Continue` (RFC 9110 §10.1.1).
    pub(super) expects_continue: bool,
}

/// End of a body, as the head announces it.
#[derive(Debug)]
pub(super) enum BodyEnd {
    /// So many bytes behind the head; 0 where none is announced.
    Length(usize),
    /// Behind the last chunk.
    Chunked(Chunks),
}

/// Header fields that decide about the framing, as they are met.
#[derive(Default)]
struct Found {
    fields: usize,
    hosts: usize,
    length: Option<usize>,
    is_chunked: bool,
    expects_continue: bool,
    is_compressed: bool,
}

impl From<ChunkError> for Rejection {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Malformed => Self::Malformed,
            ChunkError::TooLong => Self::BodyTooLarge,
        }
    }
}

impl Framing {
    /// Reads the head at the beginning of `bytes`. `None`: it is not whole.
    pub(in crate::http) fn of(bytes: &[u8], limits: &Limits) -> Result<Option<Self>, Rejection> {
        let mut lines = HeadLines { bytes, at: 0 };
        let Some(line) = lines.next_line()? else {
            // A handshake of TLS, for example, would otherwise be waited for as a line of HTTP.
            return match may_be_method(bytes) {
                true => unfinished(bytes, limits),
                false => Err(Rejection::Malformed),
            };
        };
        let line = RequestLine::parse(line).ok_or(Rejection::Malformed)?;
        let mut found = Found::default();
        loop {
            match lines.next_line()? {
                None => return unfinished(bytes, limits),
                Some([]) => break,
                Some(field) => found.add(field).ok_or(Rejection::Malformed)?,
            }
        }
        if lines.at > limits.max_head
            || line.target.len() > limits.max_target
            || found.fields > limits.max_fields
            || !found.is_sound(&line)
            || (limits.is_public && !found.is_expected(&line))
        {
            return Err(Rejection::Malformed);
        }
        let body = match found.length {
            Some(length) if length > limits.max_body => return Err(Rejection::BodyTooLarge),
            Some(length) => BodyEnd::Length(length),
            None if found.is_chunked => BodyEnd::Chunked(Chunks::new(limits.max_body)),
            None => BodyEnd::Length(0),
        };
        Ok(Some(Self {
            head: lines.at,
            body,
            // A client of HTTP/1.0 cannot know what 100 means.
            expects_continue: found.expects_continue && line.is_1_1,
        }))
    }

    /// Returns the number of bytes of the whole request, or `None` while some of it is missing. `bytes` begin with the
    /// head, and hold what was there at the last call.
    pub(in crate::http) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Rejection> {
        let body = &bytes[self.head..];
        let length = match &mut self.body {
            BodyEnd::Length(length) => (body.len() >= *length).then_some(*length),
            BodyEnd::Chunked(chunks) => chunks.end(body)?,
        };
        Ok(length.map(|length| self.head + length))
    }
}

fn unfinished(bytes: &[u8], limits: &Limits) -> Result<Option<Framing>, Rejection> {
    match bytes.len() < limits.max_head {
        true => Ok(None),
        false => Err(Rejection::Malformed),
    }
}

/// Returns true for bytes that begin like a request, or like the empty line in front of one.
fn may_be_method(bytes: &[u8]) -> bool {
    let end = memchr(b' ', bytes).unwrap_or(bytes.len());
    bytes.is_empty() || is_token(&bytes[..end]) || bytes == b"\r"
}

/// The lines of a head. Each ends in CR LF: a bare LF ends a line for some readers and not for others.
struct HeadLines<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> HeadLines<'b> {
    fn next_line(&mut self) -> Result<Option<&'b [u8]>, Rejection> {
        let rest = &self.bytes[self.at..];
        let Some(end) = memchr(b'\n', rest) else {
            return Ok(None);
        };
        self.at += end + 1;
        rest[..end]
            .strip_suffix(b"\r")
            .map(Some)
            .ok_or(Rejection::Malformed)
    }
}

struct RequestLine<'b> {
    method: &'b [u8],
    target: &'b [u8],
    is_1_1: bool,
}

impl<'b> RequestLine<'b> {
    fn parse(line: &'b [u8]) -> Option<Self> {
        // Two blanks and no more: readers that are lenient about them can see different targets (RFC 9112 §3).
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
        let is_1_1 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return None,
        };
        let is_sound = parts.next().is_none()
            && is_token(method)
            && !target.is_empty()
            && !target.iter().any(u8::is_ascii_control);
        is_sound.then_some(Self {
            method,
            target,
            is_1_1,
        })
    }
}

impl Found {
    /// Takes a field into account. `None`: it is not one, or could be read in two ways.
    fn add(&mut self, field: &[u8]) -> Option<()> {
        self.fields += 1;
        let colon = memchr(b':', field)?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        // No blanks around names and no folded lines (RFC 9112 §5.1 and §5.2), and no CR or NUL inside a value.
        let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if !is_token(name) || value.iter().any(is_control) {
            return None;
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.hosts += 1,
            6 if name.eq_ignore_ascii_case(b"expect") => {
                // Any other expectation is ignored: RFC 9110 §10.1.1 makes 417 a MAY.
                self.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // Not twice, even where both say the same: proxies differ in which one they pass on.
                let before = self.length.replace(content_length(value)?);
                return before.is_none().then_some(());
            }
            16 if name.eq_ignore_ascii_case(b"content-encoding") => {
                self.is_compressed |= value
                    .split(|byte| *byte == b',')
                    .any(|coding| is_compression(coding.trim_ascii()));
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                // `chunked` alone and once: with anything before or behind it readers differ about the end (RFC 9112
                // §6.1).
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return None;
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Some(())
    }

    fn is_sound(&self, line: &RequestLine<'_>) -> bool {
        // RFC 9112 §3.2 demands 400 for the others; a client of HTTP/1.0 need not know the field.
        let hosts = match line.is_1_1 {
            true => self.hosts == 1,
            false => self.hosts <= 1,
        };
        // A length beside `chunked` is how requests are smuggled, and behind an old proxy HTTP/1.0 with `chunked` is as
        // well (RFC 9112 §6.1).
        hosts && !(self.is_chunked && (self.length.is_some() || !line.is_1_1))
    }

    /// Checks what no caller of the public port needs and what scanners send.
    fn is_expected(&self, line: &RequestLine<'_>) -> bool {
        let has_body = self.is_chunked || self.length.is_some_and(|length| length > 0);
        match line.method {
            // A few bytes can unpack to gigabytes: strangers get no decoder.
            b"POST" => !self.is_compressed,
            // A body of GET means nothing, and some readers take it for the next request (RFC 9110 §9.3.1).
            b"GET" | b"HEAD" => !has_body && !self.is_compressed,
            _ => false,
        }
    }
}

/// A token (RFC 9110 §5.6.2): the form of methods and field names.
fn is_token(bytes: &[u8]) -> bool {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_usual)
}

/// Codings that change the body's bytes. Some clients put a charset into this field, which changes nothing.
fn is_compression(coding: &[u8]) -> bool {
    let known: [&[u8]; 7] = [
        b"gzip",
        b"x-gzip",
        b"deflate",
        b"compress",
        b"x-compress",
        b"br",
        b"zstd",
    ];
    known.iter().any(|name| coding.eq_ignore_ascii_case(name))
}

/// The head of a request that is rejected, as far as it can be read: what a rejection may say depends on the path and on
/// the request's id.
pub(super) fn readable_head(bytes: &[u8]) -> Parts {
    let mut fields = [httparse::EMPTY_HEADER; MAX_PARSED_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let mut head = Request::new(()).into_parts().0;
    let is_whole = matches!(parsed.parse(bytes), Ok(Status::Complete(_)));
    if let Some(method) = parsed.method {
        head.method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
    }
    if let Some(path) = parsed.path {
        head.uri = Uri::try_from(path).unwrap_or_default();
    }
    if is_whole {
        let fields = parsed.headers.iter().filter_map(|field| {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(field.value).ok()?))
        });
        head.headers.extend(fields);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, limits: &Limits) -> Result<Option<usize>, Rejection> {
        match Framing::of(text.as_bytes(), limits)? {
            Some(mut framing) => framing.end(text.as_bytes()),
            None => Ok(None),
        }
    }

    #[test]
    fn the_end_of_a_request_is_found() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost:a\r\nContent-Length: 2\r\n\r\nab",
            "POST / HTTP/1.1\r\nHost: a\r\nX:\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: UTF-8\r\nContent-Length: 0\r\n\r\n",
            "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            for limits in [Limits::ADMIN, Limits::CALLBACKS] {
                let followed = format!("{text}GET");
                assert_eq!(read(&followed, &limits), Ok(Some(text.len())), "{text:?}");
                for length in 0..text.len() {
                    assert_eq!(read(&text[..length], &limits), Ok(None), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_rejected() {
        let with = |fields: &str| format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
        let long = format!("Host: a\r\nX: {}", "y".repeat(16 * 1024));
        let many = format!("Host: a{}", "\r\nX: y".repeat(128));
        let fields = [
            "X: y",
            "Host: a\r\nHost: a",
            "Host: a\r\nhOST: b",
            "Host: a\nX: y",
            "Host: a\r\nX: b\n c",
            "Host: a\r\n folded",
            "Host : a",
            "Host: a\r\nX",
            "Host: a\r\n: y",
            "Host: a\r\nX\u{e9}: y",
            "Host: a\r\nContent-Length: 1\r\nContent-Length: 1",
            "Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            "Host: a\r\nContent-Length: 1, 1",
            "Host: a\r\nContent-Length: +1",
            "Host: a\r\nContent-Length:",
            "Host: a\r\nTransfer-Encoding: gzip, chunked",
            "Host: a\r\nTransfer-Encoding: chunked, chunked",
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Host: a\r\nTransfer-Encoding: xchunked",
            "Host: a\r\nX: \0",
            "Host: a\r\nX: y\rz",
            &long,
            &many,
        ];
        let lines = [
            "POST  / HTTP/1.1",
            "POST / HTTP/1.1 ",
            " POST / HTTP/1.1",
            "POST /a b HTTP/1.1",
            "POST / HTTP/2.0",
            "POST / http/1.1",
            "POST /",
            "POST /\0 HTTP/1.1",
            "PO\u{e9}T / HTTP/1.1",
            "",
        ];
        let lines = lines.map(|line| format!("{line}\r\nHost: a\r\n\r\n"));
        for text in fields.map(with).iter().chain(&lines) {
            let rejected = read(text, &Limits::ADMIN);
            assert_eq!(rejected, Err(Rejection::Malformed), "{text:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old, &Limits::ADMIN), Err(Rejection::Malformed));
        for junk in ["\x16\x03\x01", "\x16\x03 ", " ", "\0"] {
            assert_eq!(
                read(junk, &Limits::ADMIN),
                Err(Rejection::Malformed),
                "{junk:?}"
            );
        }
        assert_eq!(read("\r", &Limits::ADMIN), Ok(None));
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(16 * 1024));
        assert_eq!(read(&endless, &Limits::ADMIN), Err(Rejection::Malformed));
    }

    #[test]
    fn the_public_port_takes_less() {
        for text in [
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            "post / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: br, identity\r\n\r\n",
        ] {
            let rejected = read(text, &Limits::CALLBACKS);
            assert_eq!(rejected, Err(Rejection::Malformed), "{text:?}");
            assert_ne!(read(text, &Limits::ADMIN), rejected, "{text:?}");
        }
    }

    #[test]
    fn a_rejection_knows_the_path_and_the_fields_that_can_be_read() {
        let head = readable_head(b"POST /notify/back?x HTTP/1.1\r\nX-Request-Id: 7\r\n\r\n");
        assert_eq!(head.uri.path(), "/notify/back");
        assert_eq!(head.headers["x-request-id"], "7");
        for junk in ["", "\r\n", "\x16\x03\x01", "GET / HTTP/3.7\r\n\r\n"] {
            let head = readable_head(junk.as_bytes());
            assert!(head.headers.is_empty(), "{junk:?}");
        }
    }
}
