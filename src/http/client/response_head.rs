//! The head of a response, and where its body ends (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use httparse::{Header, ParserConfig, Status};

use super::response::MAX_FIELDS;
use crate::http::io::length::content_length;

/// Bytes of a response's head, or of a chunked body's trailers.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// The head of a response.
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    /// The head as it came, status line and all.
    pub(super) bytes: Bytes,
    pub(super) body: BodyLength,
    pub(super) keep_alive: bool,
}

/// The end of a body (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy)]
pub(super) enum BodyLength {
    Known(usize),
    Chunked,
    UntilClose,
}

/// A head that is no HTTP/1.1, or whose body could end in two places.
#[derive(Debug)]
pub(super) struct MalformedHead;

impl ResponseHead {
    /// Takes a whole head from the buffer; none where it is not whole yet.
    pub(super) fn parse(buffer: &mut BytesMut) -> Result<Option<Self>, MalformedHead> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = ParserConfig::default();
        let length =
            match parser.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
                Ok(Status::Complete(length)) if length <= MAX_HEAD => length,
                Ok(Status::Partial) if buffer.len() <= MAX_HEAD => return Ok(None),
                _ => return Err(MalformedHead),
            };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(MalformedHead)?;
        let is_1_1 = parsed.version == Some(1);
        let body = BodyLength::of(status, parsed.headers, is_1_1)?;
        let keep_alive = keeps_alive(parsed.headers, is_1_1);
        Ok(Some(Self {
            status,
            bytes: buffer.split_to(length).freeze(),
            body,
            keep_alive,
        }))
    }
}

impl BodyLength {
    fn of(status: StatusCode, fields: &[Header<'_>], is_1_1: bool) -> Result<Self, MalformedHead> {
        let length = announced_length(fields)?;
        let mut codings = values(fields, "transfer-encoding");
        let coding = codings.next();
        if let Some(coding) = coding {
            // Another coding, or chunked twice, or beside a length: the end could be found in two places.
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            if !chunked || codings.next().is_some() || !is_1_1 || length.is_some() {
                return Err(MalformedHead);
            }
        }
        Ok(match (status, coding, length) {
            (status, ..) if status.is_informational() => Self::Known(0),
            // Neither has a body, whatever its fields announce (RFC 9112 §6.3, rule 1).
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, ..) => Self::Known(0),
            (_, Some(_), _) => Self::Chunked,
            (_, None, Some(length)) => Self::Known(length),
            (_, None, None) => Self::UntilClose,
        })
    }
}

/// The values of the fields of one name, in their order.
fn values<'h>(fields: &'h [Header<'_>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    let named = fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value)
}

/// Reads `Content-Length`; one that is repeated has the same digits each time.
fn announced_length(fields: &[Header<'_>]) -> Result<Option<usize>, MalformedHead> {
    let mut lengths = values(fields, "content-length");
    let Some(digits) = lengths.next() else {
        return Ok(None);
    };
    // Proxies repeat the field. Unlike in a request, equal values do no harm here: no further hop reads them (RFC 9110
    // §8.6).
    if lengths.any(|other| other != digits) {
        return Err(MalformedHead);
    }
    content_length(digits).ok_or(MalformedHead).map(Some)
}

fn keeps_alive(fields: &[Header<'_>], is_1_1: bool) -> bool {
    // HTTP/1.1 stays open unless it says otherwise, HTTP/1.0 the other way round (RFC 9112 §9.3).
    let mut keeps = is_1_1;
    for value in values(fields, "connection") {
        for option in value.split(|byte| *byte == b',') {
            match option.trim_ascii() {
                close if close.eq_ignore_ascii_case(b"close") => return false,
                keep if keep.eq_ignore_ascii_case(b"keep-alive") => keeps = true,
                _ => {}
            }
        }
    }
    keeps
}
