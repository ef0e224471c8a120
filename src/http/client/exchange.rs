//! One HTTP/1.1 exchange over an open stream: the request in one write, the response read whole.
//!
//! Knows no address, no pool and no clock. A response whose end could be found in two places is rejected
//! (RFC 9112 §6.3), and a stream may carry another exchange only where nothing can be left on it.

use std::io;
use std::io::ErrorKind;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::response::RawResponse;
use super::response_head::{BodyLength, MalformedHead, ResponseHead};
use super::tls::explain::explain_later;
use crate::http::io::buffer::read_more;
use crate::http::io::chunked::{ChunkError, Chunks};

/// Bytes of a response's body; the document's are well under one KiB, its payment pages some ten.
pub const MAX_BODY: usize = 1 << 20;
/// Interim responses (1xx) before the final one.
const MAX_INTERIM: usize = 8;

/// A whole response.
#[derive(Debug)]
pub struct Answered {
    /// The final response.
    pub response: RawResponse,
    /// The stream can carry another exchange.
    pub reusable: bool,
    /// Bytes came behind the response that belong to no request.
    pub has_more: bool,
}

/// The reason for a missing or broken response.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The connection ended before any byte of a response.
    #[error("nothing came: {0}")]
    Silent(String),
    /// The connection ended inside the response.
    #[error("the connection ended inside the response: {0}")]
    Ended(String),
    /// Bytes came that are not HTTP/1.1.
    #[error("the response is not HTTP: {0}")]
    NotHttp(&'static str),
    /// More than [`MAX_BODY`] bytes.
    #[error("the response is longer than {MAX_BODY} bytes")]
    TooLong,
    /// A response that may belong to another request.
    #[error(
        "more than one response came on the connection; none of them is certainly this request's"
    )]
    Stray,
}

const BAD_BODY: ExchangeError = ExchangeError::NotHttp("its body is malformed");

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

impl From<ChunkError> for ExchangeError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Malformed => BAD_BODY,
            ChunkError::TooLong => Self::TooLong,
        }
    }
}

impl From<MalformedHead> for ExchangeError {
    fn from(_: MalformedHead) -> Self {
        Self::NotHttp("its header is malformed")
    }
}

/// An exchange over a stream. It outlives the future that runs it, to say how far that came.
pub struct Exchange<'s, S> {
    stream: &'s mut S,
    buffer: BytesMut,
    received: usize,
}

impl<'s, S: AsyncRead + AsyncWrite + Unpin> Exchange<'s, S> {
    /// An exchange that has not begun yet.
    pub fn new(stream: &'s mut S) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            received: 0,
        }
    }

    /// Bytes that have come of the response.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Sends `request` and reads the response.
    pub async fn run(&mut self, request: &[u8]) -> Result<Answered, ExchangeError> {
        let written = async {
            self.stream.write_all(request).await?;
            self.stream.flush().await
        };
        // A server may respond and close before it has read everything: the response counts.
        let unwritten = written.await.err();
        let answered = self.read_response().await;
        match (answered, unwritten) {
            (answered, None) => answered,
            (Ok(answered), Some(_)) => Ok(Answered {
                reusable: false,
                ..answered
            }),
            (Err(ExchangeError::Silent(_)), Some(error)) => {
                Err(ExchangeError::Silent(error.to_string()))
            }
            (Err(ExchangeError::Ended(_)), Some(error)) => Err(ExchangeError::ended(error)),
            (Err(error), Some(_)) => Err(error),
        }
    }

    async fn read_response(&mut self) -> Result<Answered, ExchangeError> {
        // Until the first byte the connection may have been closed before the request came; after it the request has
        // arrived.
        self.fill().await.map_err(ExchangeError::silent)?;
        for _ in 0..=MAX_INTERIM {
            let head = loop {
                if let Some(head) = ResponseHead::parse(&mut self.buffer)? {
                    break head;
                }
                self.fill().await.map_err(ExchangeError::ended)?;
            };
            match head.status {
                // Another protocol follows, and none was offered.
                StatusCode::SWITCHING_PROTOCOLS => break,
                // 100 and 103 come before the final response and mean nothing here (RFC 9110 §15.2).
                status if status.is_informational() => {}
                _ => return self.read_body(head).await,
            }
        }
        Err(ExchangeError::NotHttp("no final status"))
    }

    async fn read_body(&mut self, head: ResponseHead) -> Result<Answered, ExchangeError> {
        if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            // A proxy closes without reading the request's body, and the reset may take its page along.
            return Ok(Answered {
                response: RawResponse::new(head.status, head.bytes, Bytes::new()),
                reusable: false,
                has_more: false,
            });
        }
        let body = match head.body {
            BodyLength::Known(length) if length > MAX_BODY => return Err(ExchangeError::TooLong),
            BodyLength::Known(length) => self.read_length(length).await?,
            BodyLength::Chunked => self.read_chunks().await?,
            BodyLength::UntilClose => self.read_to_end().await?,
        };
        let ends_by_itself = !matches!(head.body, BodyLength::UntilClose);
        let has_more = !self.buffer.is_empty();
        Ok(Answered {
            response: RawResponse::new(head.status, head.bytes, body),
            reusable: head.keep_alive && ends_by_itself && !has_more,
            has_more,
        })
    }

    /// Reads more, or fails where there is no more.
    async fn fill(&mut self) -> io::Result<()> {
        match self.read().await? {
            0 => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the connection was closed",
            )),
            _ => Ok(()),
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        let read = read_more(self.stream, &mut self.buffer).await?;
        self.received += read;
        Ok(read)
    }

    async fn read_length(&mut self, length: usize) -> Result<Bytes, ExchangeError> {
        while self.buffer.len() < length {
            self.fill().await.map_err(ExchangeError::ended)?;
        }
        // No copy, whatever its name: `BytesMut` splits its storage.
        Ok(self.buffer.copy_to_bytes(length))
    }

    async fn read_to_end(&mut self) -> Result<Bytes, ExchangeError> {
        loop {
            if self.buffer.len() > MAX_BODY {
                return Err(ExchangeError::TooLong);
            }
            // Over TLS a connection that was cut is an error and no end, because rustls insists on close_notify (RFC
            // 9112 §9.8).
            if self.read().await.map_err(ExchangeError::ended)? == 0 {
                return Ok(self.buffer.split().freeze());
            }
        }
    }

    /// Reads a chunked body. Extensions and trailers are dropped: nothing here needs one.
    async fn read_chunks(&mut self) -> Result<Bytes, ExchangeError> {
        let (mut chunks, mut body) = (Chunks::new(MAX_BODY), BytesMut::new());
        loop {
            let end = chunks.decode(&self.buffer, |data| body.extend_from_slice(data))?;
            self.buffer.advance(chunks.drop_seen());
            if end.is_some() {
                return Ok(body.freeze());
            }
            self.fill().await.map_err(ExchangeError::ended)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::client::response::MAX_FIELDS;
    use proptest::prelude::*;
    use tokio::io::duplex;

    const BAD_HEAD: ExchangeError = ExchangeError::NotHttp("its header is malformed");

    /// The answer to an exchange with a server that says `pieces` and then closes, or stays open.
    async fn answer_in(pieces: &[&[u8]], closes: bool) -> Result<Answered, ExchangeError> {
        let (mut ours, mut theirs) = duplex(1 << 16);
        for piece in pieces {
            theirs.write_all(piece).await.unwrap();
        }
        let kept = (!closes).then_some(theirs);
        let answered = Exchange::new(&mut ours)
            .run(b"GET / HTTP/1.1\r\n\r\n")
            .await;
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
            // Each of these is an end, or the same chunk, for some reader.
            "\r\n\r\n",
            "\n\n",
            ";\r\n\r\n",
            "3;x\nabc\r\n0\r\n\r\n",
            "4\r\n0000\r\n\r\n\r\n",
            "4\r\n0000\r\n0;\n\r\n\r\n",
            "4\r\n0000\r\n0\r\n folded: x\r\n\r\n",
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
            MAX_BODY + 1
        );
        assert_eq!(answer(&long).await.unwrap_err(), ExchangeError::TooLong);
        let chunk = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            MAX_BODY + 1
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
        let broken = Exchange::new(&mut ours).run(b"").await;
        assert_eq!(broken.unwrap_err(), BAD_HEAD);
        let (mut ours, mut theirs) = duplex(1 << 16);
        tokio::spawn(async move {
            theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while theirs.write_all(&[b'a'; 4096]).await.is_ok() {}
        });
        let broken = Exchange::new(&mut ours).run(b"").await;
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
