//! The loop of a connection: a request is read whole, handled and answered, until the connection ends.
//!
//! Knows nothing of payments. Keeps the promise that a request has a bound in bytes, in time and in number, and that
//! reaching one gets a defined response.

use std::future::poll_fn;
use std::mem::take;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request};
use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::admission::admit::Admitted;
use super::admission::listener_metrics::{HandshakeFailure, ShedReason};
use super::caller::Caller;
use super::fast_path::{self, Incomplete};
use super::framing::{Framing, readable_head};
use super::handler::{Handler, Rejection};
use super::service::{Service, Tls};
use super::session::{self, WholeRequest};
use super::tls::{self, HandshakeError, TLS_STATE};
use crate::http::io::buffer::{discard, read_more};
use crate::http::io::deadline::{Deadline, within};
use crate::http::io::stream::{IoStream, ReceivedBytes};
use crate::process::drain::{Busy, Subscription};

/// Bytes that a session takes up until its response is written.
const RESPONSE_STATE: usize = 16 * 1024;
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
    /// None for a connection that is turned away.
    admitted: Option<Admitted>,
    /// Bytes below TLS, and how many of them there were when TLS last passed something on.
    tls: Option<(ReceivedBytes, usize)>,
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
    mut admitted: Admitted,
) {
    let (stream, tls) = if service.tls.is_none() {
        (stream, None)
    } else {
        // In a box: a handshake's state is large, and most connections need none.
        let hold = |bytes| {
            admitted.hold(bytes);
        };
        match Box::pin(handshake(service, stream, peer, hold)).await {
            Some((stream, received)) => (stream, received.map(|received| (received, 0))),
            None => return,
        }
    };
    let connection = Connection {
        admitted: Some(admitted),
        tls,
        ..Connection::new(service, stream, peer)
    };
    run(connection).await;
}

/// Answers a connection that is one too many, as far as there are permits for that.
pub(super) async fn turn_away<H: Handler>(
    service: &Service<H>,
    stream: IoStream,
    peer: Option<IpAddr>,
) {
    let (counter, caller) = (&service.admission.counter, Caller::of(peer));
    // Even a rejection takes a descriptor and a handshake: without a bound of its own, a flood would use up those.
    let Some(_permit) = service.turned_away.take() else {
        counter.shed(ShedReason::Closed, caller);
        return;
    };
    counter.shed(ShedReason::TurnedAway, caller);
    let Some((stream, _)) = handshake(service, stream, peer, |_| {}).await else {
        return;
    };
    let mut connection = Connection::new(service, stream, peer);
    let time = service.limits.linger_time;
    connection.deadline.bring_forward(Instant::now() + time);
    // The request, most likely, or enough of it to answer in its own terms.
    connection.wait().await;
    connection.reject(Rejection::Overloaded).await;
}

/// Does the handshake of a listener with TLS.
async fn handshake<H: Handler>(
    service: &Service<H>,
    stream: IoStream,
    peer: Option<IpAddr>,
    hold: impl FnMut(usize),
) -> Option<(IoStream, Option<ReceivedBytes>)> {
    let Some(Tls { acceptor, log }) = &service.tls else {
        return Some((stream, None));
    };
    match tls::handshake(acceptor, stream, service.limits.head_time, hold).await {
        Ok((stream, received)) => Some((stream, Some(received))),
        Err(HandshakeError { failure, detail }) => {
            let admission = &service.admission;
            admission.counter.handshake_failed(failure);
            // A load balancer's probe connects and leaves, every few seconds.
            if failure != HandshakeFailure::Closed
                && let Some(since_last_line) = log.due()
            {
                let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
                tracing::warn!(
                    listener = admission.listener,
                    peer,
                    reason = failure.name(),
                    detail,
                    since_last_line,
                    "a TLS handshake failed"
                );
            }
            None
        }
    }
}

async fn run<H: Handler>(mut connection: Connection<'_, H>) {
    let mut state = State::Head;
    loop {
        state = match state {
            State::Head => connection.read_head().await,
            State::Body(wanted) => connection.read_body(wanted).await,
            State::Plain(request, keep_alive) => {
                let next = connection.answer(request, keep_alive).await;
                connection.make_way().await;
                next
            }
            // In boxes: their states are large, and most requests need neither.
            State::Unusual(length) => match Box::pin(connection.exchange(length)).await {
                Some(next) => {
                    connection = next;
                    connection.make_way().await;
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
    fn new(service: &'s Service<H>, stream: IoStream, peer: Option<IpAddr>) -> Self {
        Self {
            service,
            stream,
            peer,
            admitted: None,
            tls: None,
            buffer: BytesMut::new(),
            deadline: Deadline::new(Instant::now() + service.limits.head_time),
            subscription: service.drain.subscribe(),
            busy: None,
        }
    }

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
            // The capacity, not the length: that much memory is taken, however little of it is filled.
            if !self.hold(self.buffer.capacity()) {
                return State::Ended;
            }
            // The first byte starts the time for the head and no later one extends it, so that dripping bytes gains
            // nothing.
            if !has_begun && !self.buffer.is_empty() {
                has_begun = true;
                let head_time = self.service.limits.head_time;
                self.deadline.bring_forward(Instant::now() + head_time);
            }
            match self.wait().await {
                Wait::Read => {}
                // The client may have closed its sending half alone and still read (shutdown(2)).
                Wait::Closed if has_begun => return State::Rejected(Rejection::Malformed),
                // An idle connection that runs out of time is daily business and not counted.
                Wait::Late if has_begun => {
                    let counter = &self.service.admission.counter;
                    counter.shed(ShedReason::Slow, Caller::of(self.peer));
                    return State::Ended;
                }
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
                Ok(None) if self.hold(self.buffer.capacity()) => {}
                Ok(None) => return State::Ended,
                Err(why) => return State::Rejected(why),
            }
            // Once for each body: a client that drips must not get the time anew with every byte.
            if take(&mut is_first) {
                self.busy = Some(drain.enter());
                self.deadline
                    .set(Instant::now() + self.service.limits.body_time);
                if let Wanted::Framed(framing) = &wanted
                    && framing.expects_continue
                    // Not where a part of the body has come: that client does not wait (RFC 9110 §10.1.1 lets us omit
                    // the 100).
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

    /// Waits for more of a request.
    async fn wait(&mut self) -> Wait {
        let own = self.buffer.capacity();
        let mut read = pin!(read_more(&mut self.stream, &mut self.buffer));
        let (admitted, tls) = (&mut self.admitted, &mut self.tls);
        let read = poll_fn(|context| {
            let polled = read.as_mut().poll(context);
            if let Some((received, passed_on)) = tls {
                // A client that sends a TLS record and never its end has TLS keep it.
                match (&polled, admitted.as_mut()) {
                    (Poll::Ready(_), _) => *passed_on = received.total(),
                    (Poll::Pending, Some(admitted)) => {
                        admitted.hold(TLS_STATE + own + received.total() - *passed_on);
                    }
                    _ => {}
                }
            }
            polled
        });
        match self.deadline.limit(pin!(read)).await {
            Some(Ok(1..)) => Wait::Read,
            Some(_) => Wait::Closed,
            None => Wait::Late,
        }
    }

    /// Lets other connections have their turn before a request that is there already: a client that sends thousands at once
    /// would make the platform wait for all of them.
    async fn make_way(&self) {
        if !self.buffer.is_empty() {
            yield_now().await;
        }
    }

    /// Sets the bytes that an unfinished request takes up. False where the connection has been cut.
    fn hold(&mut self, bytes: usize) -> bool {
        let tls = self.tls.as_ref().map_or(0, |_| TLS_STATE);
        self.admitted.as_mut().is_none_or(|it| it.hold(tls + bytes))
    }

    /// Marks the request as whole: what it takes up is no reason to cut it. False where the connection has been cut.
    fn release(&mut self) -> bool {
        self.admitted.as_mut().is_none_or(|it| it.hold(0))
    }

    /// Marks the beginning of a request. False where the connection has been cut.
    fn begin(&mut self) -> bool {
        self.release() && self.admitted.as_ref().is_none_or(Admitted::begin)
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
        if !self.begin() {
            return State::Ended;
        }
        let service = self.service;
        let _busy = self.busy.take().unwrap_or_else(|| service.drain.enter());
        let started = Instant::now();
        let response = service.respond(request, started, &mut self.subscription);
        let response = response.await;
        let cuts_off = service.handler.cuts_off(&response);
        // During a shutdown the response says `close`: without that word, the client may have sent its next request
        // already.
        let keep_alive = keep_alive && !cuts_off && !service.drain.is_draining();
        let announced = response.body().len() + usize::from(cuts_off);
        let bytes = fast_path::write(&response, announced, keep_alive);
        let written = self.write(&bytes).await;
        // Not before: a connection that waits may be cut, and the app would not learn what became of its call.
        self.idle();
        match written {
            Some(()) if keep_alive => State::Head,
            Some(()) if !cuts_off => {
                self.shut_down().await;
                State::Ended
            }
            _ => State::Ended,
        }
    }

    /// Ends our half of the connection in time. `None` where that fails: the other side may be gone already.
    async fn shut_down(&mut self) -> Option<()> {
        // Over TLS this writes close_notify, which a client that reads nothing would hold up without end.
        let ended = within(self.service.limits.write_time, pin!(self.stream.shutdown())).await;
        ended?.ok()
    }

    /// Has a session handle a request. Gives the connection back where it can carry another.
    async fn exchange(mut self, length: usize) -> Option<Self> {
        if !self.begin() {
            return None;
        }
        let service = self.service;
        let busy = self.busy.take().unwrap_or_else(|| service.drain.enter());
        let request = WholeRequest {
            stream: self.stream.into_stream(),
            bytes: self.buffer,
            length,
            peer: self.peer,
        };
        let admitted = &mut self.admitted;
        // The request is handled by then. A client that does not take its response holds it, and may be cut.
        let responded = || {
            let hold = |admitted: &mut Admitted| admitted.hold(RESPONSE_STATE);
            admitted.as_mut().is_none_or(hold)
        };
        let exchange = session::exchange(service, request, &mut self.subscription, responded);
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
        // Read first, because the bytes are dropped next: while the rest lingers they would count against the shared
        // memory.
        let head = readable_head(&self.buffer);
        self.buffer = BytesMut::new();
        self.release();
        let mut response = service.handler.reject(&head, why, Instant::now());
        // HEAD announces the length that GET would have had (RFC 9110 §9.3.2).
        let announced = response.body().len();
        if head.method == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        let bytes = fast_path::write(&response, announced, false);
        if self.write(&bytes).await.is_some() && self.shut_down().await.is_some() {
            let rest = discard(&mut self.stream);
            let _: Result<(), _> = timeout(service.limits.linger_time, rest).await;
        }
    }

    /// Marks the end of a request: the client has its time for another one.
    fn idle(&mut self) {
        let now = Instant::now();
        self.deadline.set(now + self.service.limits.idle_time);
        if let Some(admitted) = &self.admitted {
            admitted.wait(now);
        }
    }
}
