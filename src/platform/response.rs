//! Opens a response of the platform: status, envelope, signature. What the payload states is read by `protocol`.

use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use crate::config::Merchant;
use crate::http::client::RawResponse;
use crate::protocol::body::BodyError;
use crate::protocol::envelope::{EnvelopeError, Received, Verified, VerifyError};
use crate::protocol::json::Object;
use crate::relay;

/// Characters of a header's value in a message.
const MAX_SHOWN: usize = 200;
/// Bytes of a body that are searched for the beginning of an HTML page.
const MAX_PREAMBLE: usize = 512;

/// A response without a verified payload. The platform, or something in front of it, is at fault.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another status than 200.
    #[error("expected status 200, got {0}")]
    Status(String),
    /// The body is no envelope.
    #[error("{error}; got {got}")]
    NoEnvelope {
        /// The rule that the body breaks.
        error: EnvelopeError,
        /// The body by type, coding, length and beginning.
        got: String,
    },
    /// The body's content coding cannot be undone.
    #[error("{error}; got {got}")]
    Coded {
        /// The rule that the coding breaks.
        error: BodyError,
        /// The body by type, coding, length and beginning.
        got: String,
    },
    /// The signature is empty: the platform found no key for the merchant (document §2.2).
    #[error("sign is empty: the platform does not know this merchant or its key")]
    Unsigned(Box<UnsignedWords>),
    /// The signature is invalid under each of the merchant's keys, or the signed text is not base64.
    #[error("{0}")]
    Invalid(VerifyError),
}

/// The platform's words in an unsigned response: shown, and believed by no one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnsignedWords {
    /// The code of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respcode: Option<String>,
    /// The reason in the platform's language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respmsg: Option<String>,
}

/// Returns the payload of a response that must be an envelope with status 200, signed with one of the merchant's keys.
pub fn open(response: &RawResponse, merchant: &Merchant) -> Result<Verified<Vec<u8>>, OpenError> {
    if response.status() != StatusCode::OK {
        return Err(OpenError::Status(status(response)));
    }
    let got = || describe(&response.headers(), response.body());
    let body = relay::decoded(response).map_err(|error| OpenError::Coded { error, got: got() })?;
    let received = body
        .envelope("resp")
        .map_err(|error| OpenError::NoEnvelope { error, got: got() })?;
    received
        .verify(merchant.verifying_keys())
        .map_err(|error| match error {
            VerifyError::Unsigned => OpenError::Unsigned(Box::new(UnsignedWords::of(&received))),
            error => OpenError::Invalid(error),
        })
}

impl UnsignedWords {
    fn of(received: &Received<'_>) -> Self {
        received
            .unverified()
            .map_or_else(Self::default, |payload| Self::read(&payload))
    }

    /// Reads the words of a payload; empty where it has none.
    pub fn read(payload: &[u8]) -> Self {
        let Ok(object) = Object::parse(payload) else {
            return Self::default();
        };
        let member = |name| match object.string(name)? {
            Ok(text) => Some(text.into_owned()),
            // A code that is written as a number.
            Err(_) => object.raw(name).map(str::to_owned),
        };
        Self {
            respcode: member("respcode"),
            respmsg: member("respmsg"),
        }
    }
}

/// The status, and where a redirect leads to.
fn status(response: &RawResponse) -> String {
    let status = response.status();
    let target = status
        .is_redirection()
        .then(|| redirect_target(&response.headers()));
    match target.flatten() {
        Some(target) => format!("{}, a redirect to {target}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// Returns the target of a redirect for a message. Its query may carry a session or a signature and is left out.
pub fn redirect_target(headers: &HeaderMap) -> Option<String> {
    let target = shown(headers.get(header::LOCATION)?.as_bytes());
    Some(match target.find(['?', '#']) {
        Some(at) => format!("{}…", &target[..=at]),
        None => target,
    })
}

/// Describes a body for a message: how it begins, content type, coding and length. Quotes nothing of the body itself.
///
/// `an HTML page (text/html; charset=gbk, 5120 bytes)`
pub fn describe(headers: &HeaderMap, body: &[u8]) -> String {
    let header = |name| headers.get(name).map(|value| shown(value.as_bytes()));
    let kind = header(header::CONTENT_TYPE).unwrap_or_else(|| "no content type".to_owned());
    let coding = header(header::CONTENT_ENCODING)
        .map(|coding| format!(", coded as {coding}"))
        .unwrap_or_default();
    format!("{} ({kind}{coding}, {} bytes)", beginning(body), body.len())
}

/// Names what a body is by its first bytes.
fn beginning(body: &[u8]) -> &'static str {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    let text = body.strip_prefix(BOM).unwrap_or(body).trim_ascii_start();
    match text {
        [] => "an empty body",
        // RFC 1952 §2.3.1; a zlib stream (RFC 1950 §2.2) opens with 0x78 at every usual level.
        [0x1f, 0x8b, ..] => "a gzip body",
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => "a deflate body",
        [b'<', ..] if is_page(text) => "an HTML page",
        [b'<', ..] => "an XML document",
        [b'{', ..] => "a JSON object",
        [b'[', ..] => "a JSON array",
        _ if std::str::from_utf8(text).is_ok() => "a text",
        _ => "bytes that are no text",
    }
}

fn is_page(text: &[u8]) -> bool {
    let start = text[..text.len().min(MAX_PREAMBLE)].to_ascii_lowercase();
    let has = |tag: &[u8]| start.windows(tag.len()).any(|window| window == tag);
    has(b"<!doctype html") || has(b"<html") || has(b"<head") || has(b"<body")
}

/// A header's value in printable characters, cut to a bound.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let printable = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    printable.take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_body_is_named_by_how_it_begins() {
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html")),
            (header::CONTENT_ENCODING, HeaderValue::from_static("gzip")),
        ]);
        let named = |body: &[u8]| describe(&headers, body);
        assert_eq!(
            named(b"\x1f\x8b\x08"),
            "a gzip body (text/html, coded as gzip, 3 bytes)"
        );
        for (body, kind) in [
            (&b""[..], "an empty body"),
            (b"\r\n", "an empty body"),
            (b"\xef\xbb\xbf<!DOCTYPE html>", "an HTML page"),
            (b"<div><body>x", "an HTML page"),
            (b"<?xml version=\"1.0\"?><a/>", "an XML document"),
            (b" {\"a\":1}", "a JSON object"),
            (b"[]", "a JSON array"),
            (b"busy", "a text"),
            (b"\xff\xfe", "bytes that are no text"),
        ] {
            assert!(named(body).starts_with(kind), "{}", named(body));
        }
        assert_eq!(
            describe(&HeaderMap::new(), b"x"),
            "a text (no content type, 1 bytes)"
        );
    }

    #[test]
    fn a_redirect_names_its_target_without_the_query() {
        for (location, shown) in [
            ("https://pay.example.com/x", "https://pay.example.com/x"),
            ("/x?token=secret", "/x?…"),
            ("/x#a?b", "/x#…"),
        ] {
            let value = HeaderValue::from_static(location);
            let headers = HeaderMap::from_iter([(header::LOCATION, value)]);
            assert_eq!(redirect_target(&headers).as_deref(), Some(shown));
        }
        assert_eq!(redirect_target(&HeaderMap::new()), None);
    }
}
