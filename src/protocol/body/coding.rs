//! Content codings (RFC 9110 §8.4.1): one layer of gzip or deflate, and names that encode nothing.

use std::borrow::Cow;
use std::io::{self, Read};

use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

use crate::protocol::oddity::{Oddities, Oddity};

/// Bytes of a decoded body at most: a thousand times the largest result, and a bound for what a few bytes can become.
pub const MAX_DECODED: usize = 1 << 20;

/// A content coding that cannot be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodingError {
    /// Neither gzip nor deflate, or more than one layer.
    #[error(
        "the Content-Encoding cannot be undone: expected none, or one layer of gzip or deflate"
    )]
    Unknown,
    /// A request may not be compressed.
    #[error("the body is compressed: expected no Content-Encoding")]
    NotAllowed,
    /// The bytes are not what the header claims, or something comes after them.
    #[error("the body is not the {0} that its Content-Encoding claims")]
    NotValid(&'static str),
    /// More than [`MAX_DECODED`] bytes come out.
    #[error("the body decodes to more than 1 MiB")]
    TooLong,
}

/// The coding that a header claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// No header at all.
    None,
    /// `identity`, or the name of a character set that a sender put into the wrong header.
    Nominal,
    Gzip,
    Deflate,
}

impl Coding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, CodingError> {
        let mut coding = Self::None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for name in value.as_bytes().split(|&byte| byte == b',') {
                let layer = Self::named(name.trim_ascii()).ok_or(CodingError::Unknown)?;
                coding = match (coding, layer) {
                    (Self::None | Self::Nominal, layer) => layer,
                    (coding, Self::Nominal) => coding,
                    _ => return Err(CodingError::Unknown),
                };
            }
        }
        Ok(coding)
    }

    fn named(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // `x-gzip` is the same (RFC 9110 §8.4.1.3).
        if is("gzip") || is("x-gzip") {
            Some(Self::Gzip)
        } else if is("deflate") {
            Some(Self::Deflate)
        } else {
            let is_charset = || encoding_rs::Encoding::for_label(name).is_some();
            (name.is_empty() || is("identity") || is_charset()).then_some(Self::Nominal)
        }
    }

    pub(super) fn is_compression(self) -> bool {
        matches!(self, Self::Gzip | Self::Deflate)
    }

    pub(super) fn oddities(self) -> Oddities {
        let mut oddities = Oddities::default();
        match self {
            Self::None => {}
            Self::Nominal => oddities.add(Oddity::ContentEncoding),
            Self::Gzip => oddities.add(Oddity::Gzip),
            Self::Deflate => oddities.add(Oddity::Deflate),
        }
        oddities
    }

    pub(super) fn undo(self, bytes: &[u8]) -> Result<Cow<'_, [u8]>, CodingError> {
        match self {
            Self::None | Self::Nominal => Ok(Cow::Borrowed(bytes)),
            Self::Gzip => {
                // One member only, unlike `MultiGzDecoder`. The decoders of `bufread` stop at the end of their stream,
                // so that what comes after it is in `into_inner`; those of `read` would have buffered it.
                let mut decoder = GzDecoder::new(bytes);
                let decoded = all(&mut decoder);
                whole(decoded, decoder.into_inner(), "gzip")
            }
            Self::Deflate => {
                // RFC 9110 §8.4.1.2 means the zlib format; some senders leave its header out, and browsers read both.
                let mut decoder = ZlibDecoder::new(bytes);
                let decoded = all(&mut decoder);
                whole(decoded, decoder.into_inner(), "deflate").or_else(|error| match error {
                    // It was zlib: a bomb is not decoded a second time.
                    CodingError::TooLong => Err(error),
                    _ => {
                        let mut decoder = DeflateDecoder::new(bytes);
                        let decoded = all(&mut decoder);
                        whole(decoded, decoder.into_inner(), "deflate")
                    }
                })
            }
        }
    }
}

/// Reads to the end, where the decoder checks its checksum, or to one byte past the limit.
fn all(decoder: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    decoder
        .take(MAX_DECODED as u64 + 1)
        .read_to_end(&mut decoded)?;
    Ok(decoded)
}

/// Holds the decoded bytes to the limit, and rejects what comes after: some readers would go on, some would not.
fn whole<'a>(
    decoded: io::Result<Vec<u8>>,
    rest: &[u8],
    name: &'static str,
) -> Result<Cow<'a, [u8]>, CodingError> {
    match decoded {
        Ok(decoded) if decoded.len() > MAX_DECODED => Err(CodingError::TooLong),
        Ok(decoded) if rest.is_empty() => Ok(Cow::Owned(decoded)),
        _ => Err(CodingError::NotValid(name)),
    }
}
