//! The body of a message with its header fields, as a dialect has them.

use super::dialect::Dialect;
use super::fault::Sealed;

/// A body with its header fields.
pub(super) struct Framed {
    pub(super) body: Vec<u8>,
    pub(super) content_type: &'static str,
    pub(super) content_encoding: Option<&'static str>,
}

impl Framed {
    /// Writes an envelope as its dialects have it. `is_response` allows a content coding, and no multipart.
    pub(super) fn new(sealed: &Sealed, is_response: bool) -> Self {
        let Sealed {
            form,
            json,
            dialects,
        } = sealed;
        let has = |dialect| dialects.contains(&dialect);
        let (mut body, content_type) = if has(Dialect::JsonEnvelope) {
            (json.as_bytes().to_vec(), "application/json")
        } else if has(Dialect::Multipart) && !is_response {
            (multipart(form), MULTIPART)
        } else {
            let kind = "application/x-www-form-urlencoded; charset=utf-8";
            (form.as_bytes().to_vec(), kind)
        };
        for (dialect, before, after) in [
            (Dialect::Whitespace, "\r\n ", "\r\n"),
            (Dialect::Nul, "\0", "\0"),
            // The mark last, because it is one only as the very first character.
            (Dialect::ByteOrderMark, "\u{feff}", ""),
        ] {
            if has(dialect) {
                body = [before.as_bytes(), &body, after.as_bytes()].concat();
            }
        }
        let mut content_encoding = has(Dialect::ContentEncoding).then_some("UTF-8");
        if is_response && has(Dialect::Gzip) {
            (body, content_encoding) = (gzip(&body), Some("gzip"));
        } else if is_response && has(Dialect::Deflate) {
            (body, content_encoding) = (deflate(&body), Some("deflate"));
        }
        Self {
            body,
            content_type,
            content_encoding,
        }
    }
}

const MULTIPART: &str = "multipart/form-data; boundary=------------------------a1b2c3d4";

fn multipart(form: &str) -> Vec<u8> {
    let boundary = MULTIPART.rsplit('=').next().unwrap_or_default();
    let mut body = String::new();
    for pair in form.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        body += &format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
    }
    (body + &format!("--{boundary}--\r\n")).into_bytes()
}

/// Writing to memory does not fail; if it did, the body would be empty, which no reader takes for a result.
fn gzip(body: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::EncodedBody;
    use crate::protocol::key::Key;
    use crate::sandbox::fault::{SandboxFault, seal};
    use http::{HeaderMap, HeaderValue, header};

    #[test]
    fn a_dressed_envelope_reads_as_the_plain_one() {
        let key = Key::new("k").unwrap();
        for dialect in Dialect::ALL {
            for is_response in [true, false] {
                let sealed = seal("{}", &key, &[SandboxFault::Dialect(dialect)]);
                let framed = Framed::new(&sealed, is_response);
                let mut headers = HeaderMap::new();
                let kind = HeaderValue::from_static(framed.content_type);
                headers.insert(header::CONTENT_TYPE, kind);
                if let Some(coding) = framed.content_encoding {
                    let coding = HeaderValue::from_static(coding);
                    headers.insert(header::CONTENT_ENCODING, coding);
                }
                let body = match is_response {
                    true => EncodedBody::of_response(&framed.body, &headers).unwrap(),
                    false => EncodedBody::of_request(&framed.body, &headers).unwrap(),
                };
                let received = body.envelope("resp").unwrap();
                let verified = received.verify([&key]).unwrap();
                assert_eq!(verified.trim_ascii(), b"{}", "{dialect:?}");
            }
        }
    }
}
