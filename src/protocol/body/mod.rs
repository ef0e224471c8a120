//! HTTP bodies: what lies between the bytes of a connection and an envelope.
//!
//! A sender's library may compress a response, send a form as multipart, or put the envelope into the URL (document
//! §2.3). All of it is undone here, within bounds, once for every path that reads an envelope.

mod coding;

mod multipart;

pub mod resemblance;

use std::borrow::Cow;

use http::{HeaderMap, header};

use super::envelope;
use super::envelope::{EnvelopeError, Received};
use super::oddity::{Oddities, Oddity};
pub use coding::MAX_DECODED;
use coding::{Coding, CodingError};
use multipart::MultipartError;

/// A body that cannot be turned into an envelope's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The content coding is unknown, layered, not allowed here, or not what it claims to be.
    #[error(transparent)]
    Coding(#[from] CodingError),
    /// It claims to be multipart/form-data and is not.
    #[error(transparent)]
    Multipart(#[from] MultipartError),
}

/// A body with its encodings undone.
#[derive(Debug, Clone)]
pub struct EncodedBody<'a> {
    bytes: Cow<'a, [u8]>,
    oddities: Oddities,
}

impl<'a> EncodedBody<'a> {
    /// Undoes the encodings of a response: one layer of gzip or deflate, at most [`MAX_DECODED`] bytes.
    pub fn of_response(bytes: &'a [u8], headers: &HeaderMap) -> Result<Self, BodyError> {
        let mut oddities = Oddities::default();
        let coding = Coding::of(headers)?;
        oddities.extend(coding.oddities());
        let bytes = coding.undo(bytes)?;
        Ok(Self { bytes, oddities })
    }

    /// Undoes the encodings of a request: multipart/form-data. A compressed request is rejected, because a stranger who sends
    /// one to a public port can make a small body cost a large one.
    pub fn of_request(bytes: &'a [u8], headers: &HeaderMap) -> Result<Self, BodyError> {
        let mut oddities = Oddities::default();
        let coding = Coding::of(headers)?;
        if coding.is_compression() {
            return Err(CodingError::NotAllowed.into());
        }
        oddities.extend(coding.oddities());
        let kind = headers
            .get(header::CONTENT_TYPE)
            .map(|kind| kind.as_bytes());
        let bytes = match kind.and_then(multipart::boundary) {
            Some(boundary) => {
                oddities.add(Oddity::Multipart);
                let body = envelope::without_padding(bytes, &mut oddities);
                Cow::Owned(multipart::form(body, boundary)?)
            }
            None => Cow::Borrowed(bytes),
        };
        Ok(Self { bytes, oddities })
    }

    /// Returns the bytes with the encodings undone.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads the envelope in the body, as [`envelope::read`] does.
    pub fn envelope(&self, name: &'static str) -> Result<Received<'_>, EnvelopeError> {
        let mut received = envelope::read(&self.bytes, name)?;
        received.oddities.extend(self.oddities);
        Ok(received)
    }

    /// Reads the envelope of a POST: in the body, in the URL where the body is empty (§2.3), or in both and equal.
    ///
    /// A URL that names any of an envelope's parameters must carry the whole of it: another reader would look there.
    pub fn envelope_beside<'b>(
        &'b self,
        query: &'b [u8],
        name: &'static str,
    ) -> Result<Received<'b>, EnvelopeError> {
        if !envelope::names_any(query) {
            return self.envelope(name);
        }
        let mut in_url = envelope::read(query, name)?;
        if envelope::without_padding(&self.bytes, &mut Oddities::default()).is_empty() {
            in_url.oddities.add(Oddity::InUrl);
            in_url.oddities.extend(self.oddities);
            return Ok(in_url);
        }
        let mut in_body = self.envelope(name)?;
        if !in_body.agrees_with(&in_url) {
            // PHP's `$_REQUEST` merges both, and its `request_order` decides which one wins.
            return Err(EnvelopeError::Contradictory(name));
        }
        in_body.oddities.add(Oddity::InUrlAndBody);
        in_body.oddities.extend(in_url.oddities);
        Ok(in_body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::io::Write as _;

    const FORM: &str = "resp=QQ%3D%3D&sign=0";

    fn headers(fields: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        let fields = fields.iter().cloned();
        fields
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    fn encoded(coding: &'static str) -> HeaderMap {
        headers(&[(header::CONTENT_ENCODING, coding)])
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn names(body: &EncodedBody<'_>) -> Vec<&'static str> {
        let received = body.envelope("resp").unwrap();
        assert_eq!(received.text(), "QQ==");
        received.oddities.names().collect()
    }

    #[test]
    fn codings_of_a_response_are_undone_once() {
        let form = FORM.as_bytes();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(form).unwrap();
        let zlib = zlib.finish().unwrap();
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        raw.write_all(form).unwrap();
        let raw = raw.finish().unwrap();
        for (bytes, coding, oddity) in [
            (gzip(form), "gzip", "gzip"),
            (gzip(form), "X-GZip", "gzip"),
            (gzip(form), "identity, gzip", "gzip"),
            (zlib, "deflate", "deflate"),
            (raw, "deflate", "deflate"),
            (form.to_vec(), "identity", "content-encoding"),
            (form.to_vec(), "UTF-8", "content-encoding"),
            (form.to_vec(), "utf8", "content-encoding"),
            (form.to_vec(), "GBK", "content-encoding"),
            (form.to_vec(), "", "content-encoding"),
        ] {
            let body = EncodedBody::of_response(&bytes, &encoded(coding)).unwrap();
            assert_eq!(names(&body), [oddity], "{coding}");
        }
        for (bytes, coding) in [
            (gzip(&gzip(form)), "gzip, gzip"),
            (form.to_vec(), "gzip"),
            (gzip(form)[..20].to_vec(), "gzip"),
            ([gzip(form), gzip(form)].concat(), "gzip"),
            ([gzip(form), b"x".to_vec()].concat(), "gzip"),
            (form.to_vec(), "br"),
            (form.to_vec(), "deflate"),
            (gzip(&vec![b'x'; MAX_DECODED + 1]), "gzip"),
        ] {
            let read = EncodedBody::of_response(&bytes, &encoded(coding));
            assert!(matches!(read, Err(BodyError::Coding(_))), "{coding}");
        }
        let largest = gzip(&vec![b'x'; MAX_DECODED]);
        assert!(EncodedBody::of_response(&largest, &encoded("gzip")).is_ok());
    }

    #[test]
    fn a_request_is_never_decompressed() {
        let body = gzip(FORM.as_bytes());
        for coding in ["gzip", "deflate", "br", "gzip, identity"] {
            assert!(
                EncodedBody::of_request(&body, &encoded(coding)).is_err(),
                "{coding}"
            );
        }
        let body = EncodedBody::of_request(FORM.as_bytes(), &encoded("utf-8")).unwrap();
        assert_eq!(names(&body), ["content-encoding"]);
    }

    #[test]
    fn a_post_may_have_its_envelope_in_the_url() {
        let none = HeaderMap::new();
        let read = |body: &'static str, query: &'static str| {
            let body = EncodedBody::of_request(body.as_bytes(), &none).unwrap();
            let received = body.envelope_beside(query.as_bytes(), "resp")?;
            Ok::<_, EnvelopeError>(received.oddities.names().collect::<Vec<_>>())
        };
        assert_eq!(read(FORM, "store=7"), Ok(vec![]));
        assert_eq!(read("", FORM), Ok(vec!["in-url"]));
        assert_eq!(read(" \r\n", FORM), Ok(vec!["in-url"]));
        assert_eq!(read(FORM, FORM), Ok(vec!["in-url-and-body"]));
        assert_eq!(read("sign=0&resp=QQ==", FORM), Ok(vec!["in-url-and-body"]));
        for (body, query) in [
            (FORM, "resp=QQ%3D%3D&sign=1"),
            (FORM, "resp=Qg%3D%3D&sign=0"),
            (FORM, "sign=0"),
            (FORM, "req=QQ%3D%3D"),
            ("a=b", FORM),
            ("", "sign=0"),
            ("", "resp=QQ%3D%3D&resp=QQ%3D%3D&sign=0"),
        ] {
            assert!(read(body, query).is_err(), "{body} {query}");
        }
    }
}
