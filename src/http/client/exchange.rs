//! One HTTP/1.1 exchange over an open stream: the request in one write, the answer read whole.
//!
//! Knows no address, no pool and no clock. An answer whose end could be found in two places is refused
//! (RFC 9112 §6.3), and a stream is given back only where nothing can be left on it.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use httparse::{Header, ParserConfig, Status};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::response::{MAX_FIELDS, RawResponse};
use super::tls_error::explain_later;
use crate::http::io::buffer::read_more;
use crate::http::io::length::content_length;

/// An answer is read this far; the document's are well under one KiB, its payment pages some ten.
pub const MAX_ANSWER: usize = 1 << 20;
/// Bytes of an answer's head, or of a chunked body's trailers.
const MAX_HEAD: usize = 64 * 1024;
/// Bytes of the line before a chunk: its size and extensions that nobody uses.
const MAX_CHUNK_LINE: usize = 1024;
/// Interim answers (1xx) before the final one.
const MAX_INTERIM: usize = 8;

/// A whole answer.
#[derive(Debug)]
pub struct Answered {
    /// The final response.
    pub response: RawResponse,
    /// The stream can carry another exchange.
    pub reusable: bool,
    /// Bytes came behind the response that belong to no request.
    pub has_more: bool,
}

/// Why there is no whole answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The connection ended before any byte of an answer.
    #[error("nothing came: {0}")]
    Silent(String),
    /// The connection ended inside the answer.
    #[error("{0}")]
    Ended(String),
    /// What came is not HTTP/1.1.
    #[error("not HTTP: {0}")]
    NotHttp(&'static str),
    /// More than [`MAX_ANSWER`] bytes.
    #[error("longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// A response that may belong to another request.
    #[error("more than one response came")]
    Stray,
}

const BAD_HEAD: ExchangeError = ExchangeError::NotHttp("its header is malformed");
const BAD_BODY: ExchangeError = ExchangeError::NotHttp("its body is malformed");

/// Sends `request` and reads the answer.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
) -> Result<Answered, ExchangeError> {
    let written = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    // A server may answer and close before it has read everything: the answer counts.
    let unwritten = written.await.err();
    let mut buffer = BytesMut::new();
    let answer = read_answer(stream, &mut buffer).await;
    match (answer, unwritten) {
        (answer, None) => answer,
        (Ok(answered), Some(_)) => Ok(Answered {
            reusable: false,
            ..answered
        }),
        (Err(ExchangeError::Silent(_)), Some(error)) => {
            Err(ExchangeError::Silent(error.to_string()))
        }
        (Err(ExchangeError::Ended(_)), Some(error)) => Err(ExchangeError::Ended(error.to_string())),
        (Err(broken), Some(_)) => Err(broken),
    }
}

async fn read_answer<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> Result<Answered, ExchangeError> {
    fill(stream, buffer).await.map_err(ExchangeError::silent)?;
    for _ in 0..=MAX_INTERIM {
        let head = loop {
            if let Some(head) = ResponseHead::parse(buffer)? {
                break head;
            }
            fill(stream, buffer).await.map_err(ExchangeError::ended)?;
        };
        match head.status {
            // What follows is no answer, but another protocol's.
            StatusCode::SWITCHING_PROTOCOLS => break,
            status if status.is_informational() => {}
            _ => return head.with_body(stream, buffer).await,
        }
    }
    Err(ExchangeError::NotHttp("no final status"))
}

/// Reads more, or fails where there is no more.
async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> io::Result<()> {
    match read_more(stream, buffer).await? {
        0 => Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "the connection was closed",
        )),
        _ => Ok(()),
    }
}

impl ExchangeError {
    /// Returns true where a fresh connection may do better.
    pub fn is_of_the_connection(&self) -> bool {
        matches!(self, Self::Silent(_) | Self::Stray)
    }

    /// Only an end that says so is one: after anything else the request may be under way.
    fn silent(error: io::Error) -> Self {
        use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.kind() {
            UnexpectedEof | ConnectionReset | BrokenPipe => Self::Silent(error.to_string()),
            _ => Self::ended(error),
        }
    }

    fn ended(error: io::Error) -> Self {
        Self::Ended(explain_later(&error).unwrap_or_else(|| error.to_string()))
    }
}

/// The head of an answer, and where its body ends.
struct ResponseHead {
    status: StatusCode,
    bytes: Bytes,
    body: BodyLength,
    keep_alive: bool,
}

/// RFC 9112 §6.3.
#[derive(Clone, Copy)]
enum BodyLength {
    Known(usize),
    Chunked,
    UntilClose,
}

impl ResponseHead {
    /// Takes a whole head from the buffer.
    fn parse(buffer: &mut BytesMut) -> Result<Option<Self>, ExchangeError> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = ParserConfig::default();
        let length =
            match parser.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
                Ok(Status::Complete(length)) if length <= MAX_HEAD => length,
                Ok(Status::Partial) if buffer.len() <= MAX_HEAD => return Ok(None),
                _ => return Err(BAD_HEAD),
            };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(BAD_HEAD)?;
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

    async fn with_body<S: AsyncRead + Unpin>(
        self,
        stream: &mut S,
        buffer: &mut BytesMut,
    ) -> Result<Answered, ExchangeError> {
        let body = match self.body {
            BodyLength::Known(length) => read_length(stream, buffer, length).await?,
            BodyLength::Chunked => read_chunks(stream, buffer).await?,
            BodyLength::UntilClose => read_to_end(stream, buffer).await?,
        };
        let ends_by_itself = !matches!(self.body, BodyLength::UntilClose);
        Ok(Answered {
            response: RawResponse::new(self.status, self.bytes, body),
            reusable: self.keep_alive && ends_by_itself && buffer.is_empty(),
            has_more: !buffer.is_empty(),
        })
    }
}

impl BodyLength {
    fn of(status: StatusCode, fields: &[Header<'_>], is_1_1: bool) -> Result<Self, ExchangeError> {
        let length = announced_length(fields)?;
        let mut codings = values(fields, "transfer-encoding");
        let coding = codings.next();
        if let Some(coding) = coding {
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            if !chunked || codings.next().is_some() || !is_1_1 || length.is_some() {
                return Err(BAD_HEAD);
            }
        }
        Ok(match (status, coding, length) {
            (status, ..) if status.is_informational() => Self::Known(0),
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, ..) => Self::Known(0),
            (_, Some(_), _) => Self::Chunked,
            (_, None, Some(length)) if length > MAX_ANSWER => return Err(ExchangeError::TooLong),
            (_, None, Some(length)) => Self::Known(length),
            (_, None, None) => Self::UntilClose,
        })
    }
}

/// What the fields of one name say, in their order.
fn values<'h>(fields: &'h [Header<'_>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    let named = fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value)
}

/// Reads `Content-Length`; one that is repeated has the same digits each time.
fn announced_length(fields: &[Header<'_>]) -> Result<Option<usize>, ExchangeError> {
    let mut lengths = values(fields, "content-length");
    let Some(digits) = lengths.next() else {
        return Ok(None);
    };
    if lengths.any(|other| other != digits) {
        return Err(BAD_HEAD);
    }
    content_length(digits).ok_or(BAD_HEAD).map(Some)
}

fn keeps_alive(fields: &[Header<'_>], is_1_1: bool) -> bool {
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

async fn read_length<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    length: usize,
) -> Result<Bytes, ExchangeError> {
    while buffer.len() < length {
        fill(stream, buffer).await.map_err(ExchangeError::ended)?;
    }
    Ok(buffer.copy_to_bytes(length))
}

async fn read_to_end<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> Result<Bytes, ExchangeError> {
    loop {
        if buffer.len() > MAX_ANSWER {
            return Err(ExchangeError::TooLong);
        }
        let read = read_more(stream, buffer)
            .await
            .map_err(ExchangeError::ended)?;
        if read == 0 {
            return Ok(buffer.split().freeze());
        }
    }
}

async fn read_chunks<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> Result<Bytes, ExchangeError> {
    let mut body = BytesMut::new();
    loop {
        let size = read_chunk_size(stream, buffer).await?;
        if size == 0 {
            read_trailers(stream, buffer).await?;
            return Ok(body.freeze());
        }
        if size > MAX_ANSWER - body.len() {
            return Err(ExchangeError::TooLong);
        }
        while buffer.len() < size + 2 {
            fill(stream, buffer).await.map_err(ExchangeError::ended)?;
        }
        body.extend_from_slice(&buffer[..size]);
        if &buffer[size..size + 2] != b"\r\n" {
            return Err(BAD_BODY);
        }
        buffer.advance(size + 2);
    }
}

async fn read_chunk_size<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> Result<usize, ExchangeError> {
    loop {
        match httparse::parse_chunk_size(buffer) {
            Ok(Status::Complete((length, size))) if length <= MAX_CHUNK_LINE => {
                buffer.advance(length);
                return usize::try_from(size).map_err(|_| ExchangeError::TooLong);
            }
            Ok(Status::Partial) if buffer.len() <= MAX_CHUNK_LINE => {}
            _ => return Err(BAD_BODY),
        }
        fill(stream, buffer).await.map_err(ExchangeError::ended)?;
    }
}

/// Read and thrown away.
async fn read_trailers<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> Result<(), ExchangeError> {
    loop {
        if let Some(length) = trailers_length(buffer)? {
            buffer.advance(length);
            return Ok(());
        }
        fill(stream, buffer).await.map_err(ExchangeError::ended)?;
    }
}

/// Apart, so that the fields do not make every exchange larger.
fn trailers_length(buffer: &[u8]) -> Result<Option<usize>, ExchangeError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(buffer, &mut fields) {
        Ok(Status::Complete((length, _))) if length <= MAX_HEAD => Ok(Some(length)),
        Ok(Status::Partial) if buffer.len() <= MAX_HEAD => Ok(None),
        _ => Err(BAD_BODY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::duplex;

    /// The answer to an exchange with a server that says `pieces` and then closes, or stays open.
    async fn answer_in(pieces: &[&[u8]], closes: bool) -> Result<Answered, ExchangeError> {
        let (mut ours, mut theirs) = duplex(1 << 16);
        for piece in pieces {
            theirs.write_all(piece).await.unwrap();
        }
        let kept = (!closes).then_some(theirs);
        let answered = exchange(&mut ours, b"GET / HTTP/1.1\r\n\r\n").await;
        drop(kept);
        answered
    }

    async fn answer(text: &str) -> Result<Answered, ExchangeError> {
        answer_in(&[text.as_bytes()], false).await
    }

    #[tokio::test]
    async fn each_way_to_end_a_body_is_understood() {
        for (text, body, reusable) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
                "abc",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
                "abc",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: x, Close\r\n\r\nabc",
                "abc",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
                "abc",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc",
                "abc",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: t\r\n\r\n",
                "abc",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200",
                "abc",
                false,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                "",
                true,
            ),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "",
                true,
            ),
        ] {
            let answered = answer(text).await.unwrap();
            assert_eq!(
                (answered.response.body().as_ref(), answered.reusable),
                (body.as_bytes(), reusable),
                "{text}"
            );
        }
        let to_the_end = b"HTTP/1.1 200 OK\r\n\r\nabc";
        let answered = answer_in(&[to_the_end], true).await.unwrap();
        assert_eq!(
            (answered.response.body().as_ref(), answered.reusable),
            (b"abc".as_slice(), false)
        );
    }

    #[tokio::test]
    async fn framing_that_could_be_read_in_two_ways_is_refused() {
        for head in [
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: 3, 3",
            "Content-Length: +3",
            "Content-Length: 0x3",
            "Content-Length: -3",
            "Content-Length:",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding : chunked",
            " Folded: x",
            "No colon",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nabc");
            assert_eq!(answer(&text).await.unwrap_err(), BAD_HEAD, "{head}");
        }
        for line in [
            "HTTP/1.1 20 OK",
            "HTTP/2 200 OK",
            "ICY 200 OK",
            "HTTP/1.1  200 OK",
            "\0",
        ] {
            assert_eq!(
                answer(&format!("{line}\r\n\r\n")).await.unwrap_err(),
                BAD_HEAD,
                "{line}"
            );
        }
        for body in [
            "x\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "-1\r\n\r\n",
            "0\r\nno trailer\r\n\r\n",
            "3\nabc",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(
                answer_in(&[text.as_bytes()], true).await.unwrap_err(),
                BAD_BODY,
                "{body}"
            );
        }
        let switched = answer("HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
        assert_eq!(
            switched.unwrap_err(),
            ExchangeError::NotHttp("no final status")
        );
        let for_ever = answer(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_INTERIM + 1)).await;
        assert_eq!(
            for_ever.unwrap_err(),
            ExchangeError::NotHttp("no final status")
        );
    }

    #[tokio::test]
    async fn every_bound_is_kept() {
        let long = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            MAX_ANSWER + 1
        );
        assert_eq!(answer(&long).await.unwrap_err(), ExchangeError::TooLong);
        let chunk = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            MAX_ANSWER + 1
        );
        assert_eq!(answer(&chunk).await.unwrap_err(), ExchangeError::TooLong);
        let fields = "A: b\r\n".repeat(MAX_FIELDS + 1);
        let fields = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
        assert_eq!(answer(&fields).await.unwrap_err(), BAD_HEAD);
        let (mut ours, mut theirs) = duplex(1 << 16);
        tokio::spawn(async move {
            theirs.write_all(b"HTTP/1.1 200 OK\r\nA: ").await.unwrap();
            while theirs.write_all(&[b'a'; 4096]).await.is_ok() {}
        });
        let broken = exchange(&mut ours, b"").await;
        assert_eq!(broken.unwrap_err(), BAD_HEAD);
        let (mut ours, mut theirs) = duplex(1 << 16);
        tokio::spawn(async move {
            theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while theirs.write_all(&[b'a'; 4096]).await.is_ok() {}
        });
        let broken = exchange(&mut ours, b"").await;
        assert_eq!(broken.unwrap_err(), ExchangeError::TooLong);
    }

    #[tokio::test]
    async fn an_end_before_the_first_byte_is_told_from_one_after_it() {
        assert!(matches!(
            answer_in(&[], true).await,
            Err(ExchangeError::Silent(_))
        ));
        for cut in [
            "H",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ] {
            let answered = answer_in(&[cut.as_bytes()], true).await;
            assert!(
                matches!(answered, Err(ExchangeError::Ended(_))),
                "{cut}: {answered:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let text = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", bytes.as_slice()].concat();
            let _ = runtime.block_on(answer_in(&[&bytes], true));
            let _ = runtime.block_on(answer_in(&[&text], true));
        }
    }
}
