//! Properties of the readers of HTTP that hold for any bytes, tried by property tests and by a fuzzer.
//!
//! A plain request and the end of any other one are held against Pingora's session, a response against itself in other
//! pieces.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{Method, Request};
use pingora::protocols::http::ServerSession;
use tokio::io::{self, AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use super::client::exchange::{Answered, Exchange, ExchangeError};
use super::server::fast_path;
use super::server::framing::Framing;
use super::server::limits::Limits;

/// Bytes of a body; few, so that this bound is met often.
const MAX_BODY: usize = 64;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread starts")
});

/// Panics where a plain request is taken that Pingora's session reads in another way or not at all, or where a part of
/// it is taken too.
pub fn plain(bytes: &[u8]) {
    let (mut left, mut also_left) = (BytesMut::from(bytes), BytesMut::from(bytes));
    let read = fast_path::read(&mut left, MAX_BODY, |_, _| true);
    let without_fields = fast_path::read(&mut also_left, MAX_BODY, |_, _| false);
    let Ok((request, keep_alive)) = read else {
        assert_eq!(
            without_fields.err(),
            read.err(),
            "without fields, with them"
        );
        return;
    };
    let (without_fields, also_keep_alive) = without_fields.expect("it is read without fields too");
    assert!(without_fields.headers().is_empty(), "nobody reads any");
    assert_eq!(
        without_fields.uri(),
        request.uri(),
        "without fields, with them"
    );
    assert_eq!(
        without_fields.body(),
        request.body(),
        "without fields, with them"
    );
    assert_eq!(
        (&also_left, also_keep_alive),
        (&left, keep_alive),
        "what is left"
    );
    for length in 0..bytes.len() - left.len() {
        let part = fast_path::read(&mut BytesMut::from(&bytes[..length]), MAX_BODY, |_, _| true);
        assert!(part.is_err(), "the first {length} bytes are a request too");
    }
    let session = RUNTIME.block_on(by_session(bytes));
    let (reading, rest) = session.expect("the session reads it too");
    assert_eq!(Reading::of(request), reading, "ours, the session's");
    if keep_alive {
        assert_eq!(Some(left), rest, "what is left, what the session leaves");
    }
}

/// Panics where a session finds another end of a request than the framing does. The session may reject what the framing
/// takes; what it takes has one end.
pub fn end(bytes: &[u8]) {
    let limits = Limits {
        max_body: MAX_BODY,
        ..Limits::ADMIN
    };
    let Ok(Some(mut framing)) = Framing::of(bytes, &limits) else {
        return;
    };
    let Ok(Some(length)) = framing.end(bytes) else {
        return;
    };
    if let Some((_, Some(rest))) = RUNTIME.block_on(by_session(bytes)) {
        assert_eq!(
            rest,
            bytes[length..],
            "behind the end, what the session leaves"
        );
    }
}

/// A request as a reader found it.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    method: Method,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Reading {
    fn of(request: Request<Bytes>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            method: head.method,
            target: head.uri.to_string(),
            fields: fields(&head.headers),
            body: body.to_vec(),
        }
    }
}

fn fields(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    let fields = headers.iter();
    fields
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

/// Reads a request with Pingora's session. With it, the bytes behind it where the connection goes on.
async fn by_session(bytes: &[u8]) -> Option<(Reading, Option<BytesMut>)> {
    let (ours, mut theirs) = io::duplex(1 << 16);
    theirs.write_all(bytes).await.ok()?;
    drop(theirs);
    let mut session = ServerSession::new_http1(Box::new(ours));
    session.set_pipelining_enabled(true);
    session.read_request().await.ok().filter(|read| *read)?;
    let head = session.req_header();
    let mut reading = Reading {
        method: head.method.clone(),
        target: String::from_utf8(head.raw_path().to_vec()).ok()?,
        fields: fields(&head.headers),
        body: Vec::new(),
    };
    while let Some(part) = session.read_request_body().await.ok()? {
        reading.body.extend_from_slice(&part);
    }
    let kept = session.finish().await.ok()?;
    let rest = kept.map(|kept| kept.into_parts().1.unwrap_or_default());
    Some((reading, rest))
}

/// Panics where a response is another one when it comes in pieces of these sizes than when it comes at once.
pub fn answer(bytes: &[u8], sizes: &[u8]) {
    let read = |sizes| RUNTIME.block_on(in_pieces(bytes, sizes));
    match (read(&[]), read(sizes)) {
        (Ok(at_once), Ok(pieces)) => {
            let parts = |answered: &Answered| {
                let response = &answered.response;
                let head = (response.status(), fields(&response.headers()));
                (head, response.body().clone())
            };
            assert_eq!(parts(&at_once), parts(&pieces), "at once, in pieces");
            // Bytes behind a response are seen with it, or later on the idle connection.
            assert!(pieces.reusable || !at_once.reusable, "reusable at once");
        }
        (at_once, pieces) => assert_eq!(at_once.err(), pieces.err(), "at once, in pieces"),
    }
}

async fn in_pieces(bytes: &[u8], sizes: &[u8]) -> Result<Answered, ExchangeError> {
    let pieces = Pieces {
        bytes,
        sizes: sizes.iter().cycle(),
    };
    let mut stream = io::join(pieces, io::sink());
    Exchange::new(&mut stream).run(b"").await
}

/// Bytes that come in pieces of these sizes, and then the end of the stream. Without sizes they come at once.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.sizes.next().map_or(usize::MAX, |size| (*size).into());
        // None would be the end.
        let size = size.clamp(1, buffer.remaining()).min(self.bytes.len());
        let (piece, rest) = self.bytes.split_at(size);
        buffer.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::{answer, end, plain};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// Requests that are nearly plain, out of pieces that readers are known to disagree about.
    fn nearly_plain() -> impl Strategy<Value = Vec<u8>> {
        let line = select(vec![
            "POST /a HTTP/1.1",
            "POST /a?b=c%20d HTTP/1.1",
            "POST /a HTTP/1.0",
            "GET /a HTTP/1.1",
            "POST //a HTTP/1.1",
            "POST /a  HTTP/1.1",
            "POST /a HTTP/1.1 ",
            "POST /\u{e9} HTTP/1.1",
        ]);
        let field = select(vec![
            "Host: a",
            "host: b:80",
            "Host:",
            "Host: a@b",
            "Host: a, b",
            "Content-Length: 2",
            "content-length: 2",
            "Content-Length: 02",
            "Content-Length:2 ",
            "Content-Length: 3",
            "Content-Length: 0",
            "Content-Length: 2,2",
            "Content-Length: ",
            "Content-Length: 1\u{b2}",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding:\tchunked",
            "X-A: b",
            "X-A:\t b \t",
            "X-A: ",
            "X-A",
            " X-A: b",
            "X A: b",
            "X-A: \u{7f}",
            "X-A: \u{e9}",
            "Connection: close",
            "Connection: keep-alive",
            "connection: Close",
            "Connection: keep-alive, close",
            "Connection: content-length",
            "Expect: 100-continue",
            "Upgrade: x",
            "TE: trailers",
            "Accept: */*",
            "X-A: a\nHost: c",
            "X-A: a\rb",
        ]);
        let end = select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r\n\r\n", "\r"]);
        let fields = vec((field, end), 1..6);
        let body = vec(any::<u8>(), 0..6);
        (line, fields, body).prop_map(|(line, fields, body)| {
            let mut bytes = format!("{line}\r\n").into_bytes();
            for (field, end) in fields {
                bytes.extend_from_slice(field.as_bytes());
                bytes.extend_from_slice(end.as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&body);
            bytes
        })
    }

    /// Requests with chunks that are nearly sound, and a request behind them.
    fn nearly_sound() -> impl Strategy<Value = Vec<u8>> {
        let fields = select(vec![
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding:CHUNKED\r\n",
            "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
            "Content-Length: 12\r\n",
            "Content-Length: 0\r\n",
            "",
        ]);
        let piece = select(vec![
            "5\r\nhello\r\n",
            "05;x=y\r\nhello\r\n",
            "5 ;x\r\nhello\r\n",
            "5\nhello\r\n",
            "\r\n",
            "5\r\nhello",
            "0\r\n\r\n",
            "000\r\n\r\n",
            "0;x\r\nTrailer: t\r\n\r\n",
            "0\r\nTrailer: t\r\n",
            "0\r\nno trailer\r\n\r\n",
            "a\r\n0123456789\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ]);
        let pieces = vec(piece, 0..5).prop_map(|pieces| pieces.concat());
        let line = select(vec![
            "POST /a HTTP/1.1",
            "GET /a HTTP/1.1",
            "POST /a HTTP/1.0",
        ]);
        (line, fields, pieces).prop_map(|(line, fields, pieces)| {
            format!("{line}\r\nHost: a\r\n{fields}\r\n{pieces}").into_bytes()
        })
    }

    /// Responses that are nearly right, as servers and the proxies in front of them may send them.
    fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
        let line = select(vec![
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.1 204 No Content\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
        ]);
        let fields = select(vec![
            "Content-Length: 5\r\n\r\n",
            "Content-Length: 0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            "Connection: close\r\n\r\n",
            "\r\n",
        ]);
        let body = select(vec![
            "hello",
            "5\r\nhello\r\n",
            "2;x=y\r\nhe\r\n3\r\nllo\r\n",
            "00005\r\nhello\r\n",
            "5\nhello\r\n",
            "5 \r\nhello\r\n",
            "0\r\n\r\n",
            "0\r\nTrailer: t\r\n\r\n",
            "0\r\nno trailer\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "\r\n",
            "x",
        ]);
        let bodies = vec(body, 0..4).prop_map(|bodies| bodies.concat());
        (line, fields, bodies)
            .prop_map(|(line, fields, body)| format!("{line}{fields}{body}").into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_taken_for_plain_is_what_the_session_reads(bytes in nearly_plain()) {
            plain(&bytes);
        }

        #[test]
        fn a_session_finds_the_end_that_the_framing_found(
            chunked in nearly_sound(), other in nearly_plain(),
        ) {
            end(&chunked);
            end(&other);
        }

        #[test]
        fn the_pieces_that_an_answer_comes_in_make_no_difference(
            bytes in nearly_right(), sizes in vec(1..40u8, 1..40),
        ) {
            answer(&bytes, &sizes);
        }
    }

    #[test]
    fn a_bound_is_met_alike_in_pieces() {
        let head = |length| {
            let field = "b".repeat(length);
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: {field}\r\n\r\n")
        };
        let chunked = |line: &str| {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{line}\r\na\r\n0\r\n\r\n")
        };
        for length in 65_450..65_550 {
            answer(head(length).as_bytes(), &[255]);
        }
        for length in 1000..1100 {
            answer(
                chunked(&format!("1;{}", "x".repeat(length))).as_bytes(),
                &[1],
            );
        }
    }
}
