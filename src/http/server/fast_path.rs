//! The plain case of a request, read without a session: POST, HTTP/1.1, one `Host`, one `Content-Length`, nothing
//! unusual.
//!
//! Everything else is [`Incomplete::Unusual`] and goes to Pingora's session, bytes and all. So this reader may be stricter
//! than Pingora and must never be laxer; `differential` tries that. The reason for it is speed: a session costs more than
//! signing and verifying together.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::time::SystemTime;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use httparse::{ParserConfig, Status};
use memchr::memchr_iter;

use crate::http::io::length::content_length;

/// Bytes of a plain head.
const MAX_HEAD: usize = 8 * 1024;
/// Fields of a plain head.
const MAX_FIELDS: usize = 32;

/// Reasons why there is no plain request at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// The bytes may become a plain head.
    Head,
    /// A plain head is there, and its body is not. The request has this many bytes.
    Body(usize),
    /// It is not a plain request.
    Unusual,
}

/// Takes a plain request from the beginning of `buffer`, with the fields that `reads` returns true for. The second value is
/// true where another request may follow on the connection.
pub fn read(
    buffer: &mut BytesMut,
    max_body: usize,
    reads: impl Fn(&HeaderName, &[u8]) -> bool,
) -> Result<(Request<Bytes>, bool), Incomplete> {
    match RequestHead::parse(buffer, max_body, reads).ok_or(Incomplete::Unusual)? {
        Status::Partial if buffer.len() > MAX_HEAD => Err(Incomplete::Unusual),
        Status::Partial => Err(Incomplete::Head),
        Status::Complete(head) if buffer.len() - head.length < head.body => {
            Err(Incomplete::Body(head.length + head.body))
        }
        Status::Complete(head) => {
            buffer.advance(head.length);
            let body = buffer.split_to(head.body).freeze();
            Ok((head.request.map(|()| body), head.keep_alive))
        }
    }
}

struct RequestHead {
    request: Request<()>,
    /// Bytes of the head.
    length: usize,
    /// Bytes of the body.
    body: usize,
    keep_alive: bool,
}

impl RequestHead {
    /// Returns `None` for a head that is not plain.
    fn parse(
        bytes: &[u8],
        max_body: usize,
        reads: impl Fn(&HeaderName, &[u8]) -> bool,
    ) -> Option<Status<Self>> {
        let start = &bytes[..bytes.len().min(5)];
        if start != &b"POST "[..start.len()] {
            return None;
        }
        // Uninitialised: the parser fills as many as there are, and a call does not pay for the others.
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let parser = ParserConfig::default();
        let status = parser.parse_request_with_uninit_headers(&mut parsed, bytes, &mut fields);
        let Status::Complete(length) = status.ok()? else {
            return Some(Status::Partial);
        };
        if length > MAX_HEAD || has_bare_lf(&bytes[..length]) || parsed.version != Some(1) {
            return None;
        }
        let path = parsed.path.filter(|path| is_plain_path(path))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target(path)?;
        let headers = request.headers_mut();
        let (mut has_host, mut body, mut keep_alive) = (false, None, true);
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            // Nothing that two readers could understand differently is decided here: the framing sees the same bytes
            // next and rejects them (RFC 9112 §11.2).
            match name {
                header::HOST if has_host || !is_host(field.value) => return None,
                header::HOST => has_host = true,
                header::CONTENT_LENGTH if body.is_some() => return None,
                header::CONTENT_LENGTH => body = Some(content_length(field.value)?),
                header::CONNECTION if field.value.eq_ignore_ascii_case(b"close") => {
                    keep_alive = false;
                }
                header::CONNECTION if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
                header::CONNECTION
                | header::TRANSFER_ENCODING
                | header::TRAILER
                | header::TE
                | header::UPGRADE
                | header::EXPECT => return None,
                _ => {}
            }
            // A field that the handler does not read is neither copied nor hashed; most of an app's fields are such.
            if reads(&name, &bytes[length..]) {
                headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
            }
        }
        let body = body.filter(|body| *body <= max_body)?;
        has_host.then_some(Status::Complete(Self {
            request,
            length,
            body,
            keep_alive,
        }))
    }
}

/// Returns true for a head with a line that ends in LF alone, which the parser takes; `framing` has the reason against it.
fn has_bare_lf(head: &[u8]) -> bool {
    memchr_iter(b'\n', head).any(|at| head.get(at.wrapping_sub(1)) != Some(&b'\r'))
}

/// Returns true for a target in origin form (RFC 9112 §3.2.1), without a fragment.
fn is_plain_path(target: &str) -> bool {
    target.starts_with('/') && target.is_ascii() && !target.contains('#')
}

/// Parses a target. The last one is kept: apps call the same few again and again.
fn target(path: &str) -> Option<Uri> {
    thread_local! {
        static LAST: RefCell<Uri> = RefCell::default();
    }
    LAST.with_borrow_mut(|last| {
        if last.path_and_query().is_none_or(|known| known != path) {
            *last = Uri::try_from(path).ok()?;
        }
        Some(last.clone())
    })
}

/// Returns true for a name or an address, with a port or without. Anything else might hide a second host (RFC 9110 §4.2.4).
fn is_host(value: &[u8]) -> bool {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    !value.is_empty() && value.iter().all(is_usual)
}

/// Writes a whole response to a POST into one buffer. `length` is the announced one.
pub fn write(response: &Response<Bytes>, length: usize, keep_alive: bool) -> Vec<u8> {
    let (status, body) = (response.status(), response.body());
    let mut bytes = Vec::with_capacity(512 + body.len());
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(status.as_str().as_bytes());
    // The blank is needed even where the reason phrase is empty (RFC 9112 §4).
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in response.headers() {
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
    }
    if !is_bodiless(status) {
        bytes.extend_from_slice(b"\r\ncontent-length: ");
        bytes.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    }
    bytes.extend_from_slice(b"\r\ndate: ");
    push_date(&mut bytes);
    bytes.extend_from_slice(if keep_alive {
        b"\r\nconnection: keep-alive\r\n\r\n"
    } else {
        b"\r\nconnection: close\r\n\r\n"
    });
    bytes.extend_from_slice(body);
    bytes
}

/// Returns true for a status whose responses have neither a body nor a length (RFC 9110 §6.4.1).
pub fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Appends the date (RFC 9110 §6.6.1), formatted once a second.
fn push_date(bytes: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    LAST.with_borrow_mut(|last| {
        if last.0 != second {
            *last = (second, httpdate::fmt_http_date(now));
        }
        bytes.extend_from_slice(last.1.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX_BODY: usize = 64;

    fn found(text: &str) -> Result<(Request<Bytes>, bool), Incomplete> {
        read(&mut BytesMut::from(text), MAX_BODY, |_, _| true)
    }

    #[test]
    fn a_plain_request_is_taken_and_what_follows_stays() {
        let text = "POST /api/query?x=1 HTTP/1.1\r\nhost: a\r\nContent-Length: 2\r\nX-A: b\r\nX-A: c\r\n\r\n{}POST ";
        let mut buffer = BytesMut::from(text);
        let (request, keep_alive) = read(&mut buffer, MAX_BODY, |_, _| true).unwrap();
        assert!(keep_alive);
        assert_eq!(
            request.uri().path_and_query().unwrap().as_str(),
            "/api/query?x=1"
        );
        assert_eq!(request.body().as_ref(), b"{}");
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(buffer.as_ref(), b"POST ");
        let closing = text.replace("X-A: b", "Connection: Close");
        assert!(!found(&closing).unwrap().1);
    }

    #[test]
    fn what_may_still_become_plain_is_waited_for() {
        let text = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
        let head = text.len() - 2;
        for length in 0..text.len() {
            let expected = match length < head {
                true => Incomplete::Head,
                false => Incomplete::Body(text.len()),
            };
            assert_eq!(found(&text[..length]).unwrap_err(), expected, "{length}");
        }
    }

    #[test]
    fn whatever_is_unusual_is_left_to_the_session() {
        let head = |fields: &str| format!("POST /a HTTP/1.1\r\n{fields}\r\n\r\n{{}}");
        for fields in [
            "Host: a",
            "Content-Length: 2",
            "Host:\r\nContent-Length: 2",
            "Host: a\r\nHost: a\r\nContent-Length: 2",
            "Host: a@b\r\nContent-Length: 2",
            "Host: a/b\r\nContent-Length: 2",
            "Host: \u{e9}\r\nContent-Length: 2",
            "Host: a\r\nContent-Length: 2\r\nContent-Length: 2",
            "Host: a\r\nContent-Length: 2, 2",
            "Host: a\r\nContent-Length: +2",
            "Host: a\r\nContent-Length: 0x2",
            "Host: a\r\nContent-Length: 99999999999999999999",
            "Host: a\r\nContent-Length: 65",
            "Host: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
            "Host: a\r\nTransfer-Encoding: chunked",
            "Host: a\r\nContent-Length: 2\r\nExpect: 100-continue",
            "Host: a\r\nContent-Length: 2\r\nUpgrade: h2c",
            "Host: a\r\nContent-Length: 2\r\nConnection: close, x",
            "Host: a\r\nContent-Length : 2",
            "Host: a\r\nContent-Length: 2\r\n folded",
            "Host: a\nContent-Length: 2",
            "Host: a\r\nContent-Length: 2\r\nX: a\rb",
            "Host: a\r\nContent-Length: 2\r\nX: a\0b",
        ] {
            let found = found(&head(fields));
            assert_eq!(found.unwrap_err(), Incomplete::Unusual, "{fields:?}");
        }
        for line in [
            "GET /a HTTP/1.1",
            "post /a HTTP/1.1",
            "POST  /a HTTP/1.1",
            "POST /a HTTP/1.0",
            "POST http://b/a HTTP/1.1",
            "POST * HTTP/1.1",
            "POST /a#b HTTP/1.1",
            "POST /a b HTTP/1.1",
            "POST /\u{e9} HTTP/1.1",
            "\r\nPOST /a HTTP/1.1",
        ] {
            let text = format!("{line}\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}");
            assert_eq!(found(&text).unwrap_err(), Incomplete::Unusual, "{line:?}");
        }
        let many = "X: y\r\n".repeat(MAX_FIELDS);
        assert_eq!(
            found(&head(&format!("{many}Host: a\r\nContent-Length: 2"))).unwrap_err(),
            Incomplete::Unusual
        );
        let long = format!(
            "X: {}\r\nHost: a\r\nContent-Length: 2",
            "y".repeat(MAX_HEAD)
        );
        assert_eq!(found(&head(&long)).unwrap_err(), Incomplete::Unusual);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&mut BytesMut::from(bytes.as_slice()), MAX_BODY, |_, _| true);
            let _ = read(&mut BytesMut::from([b"POST /", bytes.as_slice()].concat().as_slice()), MAX_BODY, |_, _| true);
        }
    }
}
