//! The end of a chunked body (RFC 9112 §7.1), of requests and of responses.
//!
//! Lenient readers, Pingora's and httparse's among them, take an empty size for 0, a bare LF for the end of a line and any
//! byte in an extension; each of these has been used to hide a message inside another one.

/// Digits of a chunk's size.
const MAX_DIGITS: usize = 8;
/// Bytes of the extensions of one chunk, which mean nothing here.
const MAX_EXTENSION: usize = 256;
/// Bytes of all trailer fields together, which mean nothing here.
const MAX_TRAILERS: usize = 4096;
/// Bytes of sizes, extensions and trailers beside a body as long as it may be.
const MAX_OVERHEAD: usize = 16 * 1024;

/// The reason for rejecting a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::http) enum ChunkError {
    /// It is malformed, or could be read in two ways.
    #[error("malformed chunk")]
    Malformed,
    /// It has more bytes than a body may have.
    #[error("body too long")]
    TooLong,
}

/// A chunked body that has been looked through up to a place.
#[derive(Debug)]
pub(in crate::http) struct Chunks {
    /// Bytes that have been looked at and not been dropped.
    at: usize,
    /// Bytes that were dropped.
    dropped: usize,
    part: ChunkPart,
    /// Bytes of the body when it is decoded.
    decoded: usize,
    max_body: usize,
}

/// The part of a chunked body that the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum ChunkPart {
    Size { size: usize, digits: usize },
    Extension { size: usize, length: usize },
    LineEnd { size: usize },
    Data { left: usize },
    DataCr,
    DataLf,
    Trailer { length: usize, line: TrailerLine },
    TrailerLf { length: usize, line: TrailerLine },
    End,
}

/// The part of a trailer's line that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrailerLine {
    Empty,
    Name,
    Value,
}

impl Chunks {
    /// A body of at most `max_body` bytes, decoded.
    pub(in crate::http) fn new(max_body: usize) -> Self {
        Self {
            at: 0,
            dropped: 0,
            part: ChunkPart::Size { size: 0, digits: 0 },
            decoded: 0,
            max_body,
        }
    }

    /// Returns the number of bytes up to the end of the body, or `None` while some are missing. `body` holds what was
    /// there at the last call, and more.
    pub(in crate::http) fn end(&mut self, body: &[u8]) -> Result<Option<usize>, ChunkError> {
        self.decode(body, |_| {})
    }

    /// Forgets what has been looked at, and returns how many bytes that is: the caller drops them from the body's front.
    pub(in crate::http) fn drop_seen(&mut self) -> usize {
        self.dropped += self.at;
        std::mem::take(&mut self.at)
    }

    /// Does the same as [`Chunks::end`], and passes on each piece of data that was not looked at before.
    pub(in crate::http) fn decode(
        &mut self,
        body: &[u8],
        mut data: impl FnMut(&[u8]),
    ) -> Result<Option<usize>, ChunkError> {
        while let Some(&byte) = body.get(self.at) {
            if let ChunkPart::Data { left } = self.part {
                let taken = left.min(body.len() - self.at);
                data(&body[self.at..self.at + taken]);
                self.at += taken;
                self.part = match left - taken {
                    0 => ChunkPart::DataCr,
                    left => ChunkPart::Data { left },
                };
                continue;
            }
            self.at += 1;
            self.part = self.part.next(byte).ok_or(ChunkError::Malformed)?;
            match self.part {
                ChunkPart::End => return Ok(Some(self.at)),
                ChunkPart::Data { left } => self.decoded += left,
                _ => {}
            }
            // A body in tiny chunks is mostly sizes: what is kept until the end has a bound of its own.
            if self.decoded > self.max_body
                || self.dropped + self.at > 2 * self.max_body + MAX_OVERHEAD
            {
                return Err(ChunkError::TooLong);
            }
        }
        Ok(None)
    }
}

impl ChunkPart {
    /// Returns the part that the byte behind this one belongs to; `None` rejects it.
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                // Leading zeros count as well: otherwise a size could be as long as the body.
                (digits < MAX_DIGITS).then_some(Self::Size {
                    size: size * 16 + usize::try_from(digit).ok()?,
                    digits: digits + 1,
                })?
            }
            (Self::Size { digits: 0, .. }, _) => return None,
            // Blanks before an extension are bad white space that a recipient has to take (RFC 9112 §7.1.1).
            (Self::Size { size, .. }, b';' | b' ' | b'\t') => Self::Extension { size, length: 1 },
            (Self::Size { size, .. }, b'\r') => Self::LineEnd { size },
            (Self::Extension { size, .. }, b'\r') => Self::LineEnd { size },
            (Self::Extension { size, length }, byte) if is_text(byte) => {
                (length < MAX_EXTENSION).then_some(Self::Extension {
                    size,
                    length: length + 1,
                })?
            }
            (Self::LineEnd { size: 0 }, b'\n') => Self::Trailer {
                length: 0,
                line: TrailerLine::Empty,
            },
            (Self::LineEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailer { length, line }, byte) => return Self::in_trailer(length, line, byte),
            (Self::TrailerLf { length, line }, b'\n') => match line {
                TrailerLine::Empty => Self::End,
                TrailerLine::Value => Self::Trailer {
                    length,
                    line: TrailerLine::Empty,
                },
                // A line without a colon is no field.
                TrailerLine::Name => return None,
            },
            _ => return None,
        })
    }

    fn in_trailer(length: usize, line: TrailerLine, byte: u8) -> Option<Self> {
        match (line, byte) {
            (_, b'\r') => return Some(Self::TrailerLf { length, line }),
            // A field does not begin with a blank: that would be a folded line. Nor is its name empty.
            (TrailerLine::Empty, b' ' | b'\t' | b':') => return None,
            _ if !is_text(byte) || length >= MAX_TRAILERS => return None,
            _ => {}
        }
        Some(Self::Trailer {
            length: length + 1,
            line: match (line, byte) {
                (TrailerLine::Value, _) | (_, b':') => TrailerLine::Value,
                _ => TrailerLine::Name,
            },
        })
    }
}

/// Returns true for a byte that an extension or a trailer may hold.
fn is_text(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(body: &str) -> Result<Option<usize>, ChunkError> {
        Chunks::new(64).end(body.as_bytes())
    }

    #[test]
    fn the_end_is_behind_the_last_chunk_however_it_comes() {
        for body in [
            "0\r\n\r\n",
            "2\r\nab\r\n0\r\n\r\n",
            "2;x=y\r\nab\r\n0;z\r\n\r\n",
            "2 ; x\r\nab\r\n00\r\n\r\n",
            "A\r\n0\r\n\r\n01234\r\n0\r\nTrailer: t\r\nU: v\r\n\r\n",
        ] {
            assert_eq!(end(&format!("{body}GET")), Ok(Some(body.len())), "{body:?}");
            let mut pieces = Chunks::new(64);
            for length in 0..body.len() {
                assert_eq!(pieces.end(&body.as_bytes()[..length]), Ok(None), "{body:?}");
            }
            assert_eq!(pieces.end(body.as_bytes()), Ok(Some(body.len())));
        }
    }

    #[test]
    fn a_chunk_that_could_be_read_in_two_ways_is_rejected() {
        for body in [
            "\r\n",
            "\n",
            ";x\r\nab",
            " 2\r\nab\r\n",
            "2\nab",
            "2\r\nabc\r\n",
            "2\r\nab\n0\r\n\r\n",
            "2\r\nab0\r\n\r\n",
            "2;x\ny\r\nab\r\n",
            "2;x\0\r\nab\r\n",
            "2;x\ry\r\nab\r\n",
            "0x2\r\nab\r\n",
            "+2\r\nab\r\n",
            "-2\r\nab\r\n",
            "g\r\n",
            "000000002\r\nab\r\n",
            "0\r\n Folded: t\r\n\r\n",
            "0\r\nTrailer: t\n\r\n",
            "0\r\nno trailer\r\n\r\n",
            "0\r\n: no name\r\n\r\n",
            "0\n\r\n",
        ] {
            assert_eq!(end(body), Err(ChunkError::Malformed), "{body:?}");
        }
        let long = format!("2;{}\r\nab\r\n", "x".repeat(MAX_EXTENSION + 1));
        assert_eq!(end(&long), Err(ChunkError::Malformed));
        let trailers = format!("0\r\n{}", "T: t\r\n".repeat(MAX_TRAILERS));
        assert_eq!(end(&trailers), Err(ChunkError::Malformed));
    }

    #[test]
    fn a_body_has_a_bound_decoded_and_as_it_comes() {
        assert_eq!(end("41\r\n"), Err(ChunkError::TooLong));
        assert_eq!(
            end(&"20\r\n0123456789abcdef0123456789abcdef\r\n".repeat(3)),
            Err(ChunkError::TooLong)
        );
        let extended = format!("1;{}\r\na\r\n", "x".repeat(MAX_EXTENSION - 1)).repeat(64);
        assert_eq!(end(&extended), Err(ChunkError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Chunks::new(64).end(&bytes);
        }
    }
}
