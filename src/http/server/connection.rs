//! The loop of a connection: a request is read whole, handled and answered, until the connection ends.
//!
//! Knows nothing of payments. Keeps the promise that a request has a bound in bytes, in time and in number, and that
//! reaching one gets a defined response.

use std::mem::take;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request};
use tokio::io::{self, AsyncRead, AsyncWriteExt};
use tokio::time::timeout;

use super::fast_path::{self, Incomplete};
use super::framing::{Framing, readable_head};
use super::handler::{Handler, Rejection};
use super::service::Service;
use super::session::{self, WholeRequest};
use super::tls;
use crate::http::io::buffer::read_more;
use crate::http::io::deadline::{Deadline, within};
use crate::http::io::stream::IoStream;
use crate::process::drain::{Busy, Subscription};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection, in one of these states at a time. `buffer` begins with the request that the state is about.
enum State {
    /// A part of the next request's head is there, or nothing yet.
    Head,
    /// A whole head is there. Some of the body may be missing.
    Body(Wanted),
    /// A plain request is there as a whole, and was taken from the buffer. Another may follow it.
    Plain(Request<Bytes>, bool),
    /// A whole request of this many bytes is there for a session.
    Unusual(usize),
    /// The request is answered without being handled, and the connection ends.
    Rejected(Rejection),
    /// The connection is closed.
    Ended,
}

/// End of the request whose head is there.
enum Wanted {
    /// A plain request of this many bytes.
    Plain(usize),
    /// Any other.
    Framed(Framing),
}

/// Outcome of waiting for bytes.
enum Wait {
    Read,
    Closed,
    Late,
}

struct Connection<'s, H> {
    service: &'s Service<H>,
    stream: IoStream,
    peer: Option<IpAddr>,
    buffer: BytesMut,
    deadline: Deadline,
    subscription: Subscription<'s>,
    /// The process waits for this connection's request before it ends.
    busy: Option<Busy<'s>>,
}

/// Serves a connection until it ends. `peer` is `None` for a socket in the file system.
pub(super) async fn serve<H: Handler>(
    service: &Service<H>,
    stream: IoStream,
    peer: Option<IpAddr>,
) {
    let Some(_permit) = service.connections.take() else {
        return;
    };
    let _admitted = match (&service.admission, peer) {
        (Some(admission), Some(peer)) => match admission.admit(peer) {
            Some(admitted) => Some(admitted),
            None => return,
        },
        _ => None,
    };
    let stream = match &service.tls {
        None => stream,
        // In a box: a handshake's state is large, and most connections need none.
        Some(acceptor) => {
            let handshake = tls::handshake(acceptor, stream, service.limits.head_time);
            match Box::pin(handshake).await {
                Some(stream) => stream,
                None => return,
            }
        }
    };
    run(Connection {
        service,
        stream,
        peer,
        buffer: BytesMut::new(),
        deadline: Deadline::new(Instant::now() + service.limits.head_time),
        subscription: service.drain.subscribe(),
        busy: None,
    })
    .await;
}

async fn run<H: Handler>(mut connection: Connection<'_, H>) {
    let mut state = State::Head;
    loop {
        state = match state {
            State::Head => connection.read_head().await,
            State::Body(wanted) => connection.read_body(wanted).await,
            State::Plain(request, keep_alive) => connection.answer(request, keep_alive).await,
            // In boxes: their states are large, and most requests need neither.
            State::Unusual(length) => match Box::pin(connection.exchange(length)).await {
                Some(next) => {
                    connection = next;
                    State::Head
                }
                None => return,
            },
            State::Rejected(why) => {
                Box::pin(connection.reject(why)).await;
                return;
            }
            State::Ended => return,
        };
    }
}

impl<'s, H: Handler> Connection<'s, H> {
    async fn read_head(&mut self) -> State {
        let mut has_begun = false;
        loop {
            // One empty line in front of a request is skipped (RFC 9112 §2.2): some old clients end a body with one.
            if !has_begun && self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
            }
            if let Some(next) = self.look() {
                return next;
            }
            if !has_begun && !self.buffer.is_empty() {
                has_begun = true;
                let head_time = self.service.limits.head_time;
                self.deadline.bring_forward(Instant::now() + head_time);
            }
            match self.wait().await {
                Wait::Read => {}
                Wait::Closed if has_begun => return State::Rejected(Rejection::Malformed),
                Wait::Closed | Wait::Late => return State::Ended,
            }
        }
    }

    /// Finds out what is in the buffer; `None` where it may become a head.
    fn look(&mut self) -> Option<State> {
        if self.buffer.is_empty() {
            return None;
        }
        let limits = &self.service.limits;
        if limits.fast_path {
            match self.read_plain() {
                Ok(plain) => return Some(plain),
                Err(Incomplete::Head) => return None,
                Err(Incomplete::Body(length)) => return Some(State::Body(Wanted::Plain(length))),
                Err(Incomplete::Unusual) => {}
            }
        }
        match Framing::of(&self.buffer, limits) {
            Ok(framing) => framing.map(|framing| State::Body(Wanted::Framed(framing))),
            Err(why) => Some(State::Rejected(why)),
        }
    }

    fn read_plain(&mut self) -> Result<State, Incomplete> {
        let Service {
            handler, limits, ..
        } = self.service;
        let reads = |field: &_, body: &_| handler.reads(field, body);
        let (request, keep_alive) = fast_path::read(&mut self.buffer, limits.max_body, reads)?;
        Ok(State::Plain(request, keep_alive))
    }

    async fn read_body(&mut self, mut wanted: Wanted) -> State {
        let drain = &*self.service.drain;
        let mut is_first = true;
        loop {
            let end = match &mut wanted {
                Wanted::Plain(length) => Ok((self.buffer.len() >= *length).then_some(*length)),
                Wanted::Framed(framing) => framing.end(&self.buffer),
            };
            match end {
                Ok(Some(length)) => {
                    return match wanted {
                        Wanted::Plain(_) => {
                            let plain = self.read_plain();
                            plain.unwrap_or(State::Unusual(length))
                        }
                        Wanted::Framed(_) => State::Unusual(length),
                    };
                }
                Ok(None) => {}
                Err(why) => return State::Rejected(why),
            }
            if take(&mut is_first) {
                self.busy = Some(drain.enter());
                self.deadline
                    .set(Instant::now() + self.service.limits.body_time);
                if let Wanted::Framed(framing) = &wanted
                    && framing.expects_continue
                    && self.buffer.len() == framing.head
                    && self.write(CONTINUE).await.is_none()
                {
                    return State::Ended;
                }
            }
            let waited = tokio::select! {
                waited = self.wait() => waited,
                () = drain.until_over() => return State::Rejected(Rejection::Draining),
            };
            if !matches!(waited, Wait::Read) {
                return State::Rejected(Rejection::BodyIncomplete);
            }
        }
    }

    async fn wait(&mut self) -> Wait {
        let read = pin!(read_more(&mut self.stream, &mut self.buffer));
        match self.deadline.limit(read).await {
            Some(Ok(1..)) => Wait::Read,
            Some(_) => Wait::Closed,
            None => Wait::Late,
        }
    }

    /// Writes all of it in time, or `None`.
    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let written = within(self.service.limits.write_time, pin!(written)).await;
        written?.ok()
    }

    /// Handles a plain request, and writes its response at once.
    async fn answer(&mut self, request: Request<Bytes>, keep_alive: bool) -> State {
        let service = self.service;
        let _busy = self.busy.take().unwrap_or_else(|| service.drain.enter());
        let started = Instant::now();
        let response = service.respond(request, started, &mut self.subscription);
        let response = response.await;
        let cuts_off = service.handler.cuts_off(&response);
        let keep_alive = keep_alive && !cuts_off && !service.drain.is_draining();
        let announced = response.body().len() + usize::from(cuts_off);
        let bytes = fast_path::write(&response, announced, keep_alive);
        match self.write(&bytes).await {
            Some(()) if keep_alive => {
                self.idle();
                State::Head
            }
            Some(()) if !cuts_off => {
                // The other side may be gone already.
                let _: io::Result<()> = self.stream.shutdown().await;
                State::Ended
            }
            _ => State::Ended,
        }
    }

    /// Has a session handle a request. Gives the connection back where it can carry another.
    async fn exchange(mut self, length: usize) -> Option<Self> {
        let service = self.service;
        let busy = self.busy.take().unwrap_or_else(|| service.drain.enter());
        let request = WholeRequest {
            stream: self.stream.into_stream(),
            bytes: self.buffer,
            length,
            peer: self.peer,
        };
        let exchange = session::exchange(service, request, &mut self.subscription);
        let (stream, buffer) = exchange.await?;
        drop(busy);
        let mut next = Self {
            stream: stream.into(),
            buffer,
            ..self
        };
        next.idle();
        Some(next)
    }

    /// Answers a request that is not handled. The rest of it is read for a moment, so that the response is not lost.
    async fn reject(mut self, why: Rejection) {
        let service = self.service;
        let _busy = self.busy.take().unwrap_or_else(|| service.drain.enter());
        let head = readable_head(&self.buffer);
        self.buffer = BytesMut::new();
        let mut response = service.handler.reject(&head, why, Instant::now());
        let announced = response.body().len();
        if head.method == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        let bytes = fast_path::write(&response, announced, false);
        if self.write(&bytes).await.is_some() && self.stream.shutdown().await.is_ok() {
            let rest = discard(&mut self.stream);
            let _: Result<(), _> = timeout(service.limits.linger_time, rest).await;
        }
    }

    fn idle(&mut self) {
        let idle_time = self.service.limits.idle_time;
        self.deadline.set(Instant::now() + idle_time);
    }
}

/// Reads to the end, and keeps nothing.
async fn discard<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut buffer = BytesMut::new();
    while let Ok(1..) = read_more(stream, &mut buffer).await {
        buffer.clear();
    }
}
