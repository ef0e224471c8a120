//! One HTTP/1.1 exchange on a listener: read whole, handled, answered whole.
//!
//! Knows nothing of payments. Keeps the promise that a request has a bound in bytes, in time and in number,
//! that reaching one gets a defined answer, and that a panic is one request's 500.

use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderName, Request, Response, header};
use pingora::http::ResponseHeader;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::admission::Public;
use super::fast_path;
pub use super::fast_path::CutOff;
use super::fast_path::NotWhole;
use super::permits::Permits;
pub use super::rejection::Rejection;
use crate::http::io::buffer::read_more;
use crate::http::io::deadline::{Deadline, within};
use crate::http::io::stream::{BufferedStream, IoStream};
use crate::process::drain::{Drain, Subscription};

/// What turns requests into responses.
pub trait Handler: Send + Sync + 'static {
    /// Whether [`Handler::handle`] looks at a field; requests are handled without the others. `body` is what was read
    /// behind the head: a part of the body, or all of it and of what follows.
    fn reads(&self, _field: &HeaderName, _body: &[u8]) -> bool {
        true
    }

    /// Answers a request whose body was read whole. `started` is when its header was there. Is polled again when
    /// [`Drain::is_over`] becomes true. After a panic, or at the end, the request is refused as it then is.
    fn handle(
        &self,
        request: &mut Request<Bytes>,
        started: Instant,
    ) -> impl Future<Output = Response<Bytes>> + Send;

    /// Answers a request that is not going to be handled.
    fn refuse(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes>;
}

/// The bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Requests being handled at once.
    pub max_in_flight: usize,
    /// Connections open at once; one more is closed.
    pub max_connections: usize,
}

/// A new connection sends its first header whole in this time (promises: 10 s).
const HEADER_TIME: Duration = Duration::from_secs(10);
/// A kept-alive connection sends its next header whole in this time, idling included: longer than the pools
/// of common HTTP clients keep a connection, so that the client closes first.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// A body comes whole in this time (promises: 15 s).
const BODY_TIME: Duration = Duration::from_secs(15);
/// A response is taken by the client in this time.
const WRITE_TIME: Duration = Duration::from_secs(15);
/// The whole body of a plain request is waited for this long before a session takes over: some clients send head and body
/// apart.
const BODY_PAUSE: Duration = Duration::from_millis(100);
/// What is left of a refused body is read and thrown away this long, so that the refusal is read, not reset.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// A handler behind a listener.
pub struct Service<H> {
    handler: H,
    limits: Limits,
    in_flight: Permits,
    connections: Permits,
    drain: Arc<Drain>,
    public: Option<Public>,
}

impl<H: Handler> Service<H> {
    /// Puts `handler` behind `limits`.
    pub fn new(handler: H, limits: Limits, drain: Arc<Drain>) -> Self {
        Self {
            handler,
            limits,
            in_flight: Permits::new(limits.max_in_flight),
            connections: Permits::new(limits.max_connections),
            drain,
            public: None,
        }
    }

    /// For a listener that faces the internet: `public` is asked before anything is read.
    pub fn public(mut self, public: Public) -> Self {
        self.public = Some(public);
        self
    }

    /// Reads what belongs to the request and decides its response.
    async fn respond(
        &self,
        session: &mut ServerSession,
        started: Instant,
        subscription: &mut Subscription<'_>,
    ) -> Response<Bytes> {
        let mut head = session.req_header().as_owned_parts();
        let refuse = |head: &Parts, why| self.handler.refuse(head, why, started);
        if let Some(public) = &self.public
            && let Err(why) = public.check(session)
        {
            session.set_keepalive(None);
            return refuse(&head, why);
        }
        if self.drain.is_over() {
            return refuse(&head, Rejection::Draining);
        }
        session.set_read_timeout(Some(BODY_TIME));
        let read = tokio::select! {
            read = self.read_body(session, &head) => read,
            () = self.drain.until_over() => Err(Rejection::Draining),
        };
        let body = match read {
            Ok(body) => body,
            Err(why) => {
                // Nobody knows where the next request would begin.
                session.set_keepalive(None);
                return refuse(&head, why);
            }
        };
        let fields = head.headers.keys();
        let unread = fields.filter(|field| !self.handler.reads(field, &body));
        for field in unread.cloned().collect::<Vec<_>>() {
            head.headers.remove(field);
        }
        let request = Request::from_parts(head, body);
        self.handle(request, started, subscription).await
    }

    /// Decides the response to a whole request.
    async fn handle(
        &self,
        mut request: Request<Bytes>,
        started: Instant,
        subscription: &mut Subscription<'_>,
    ) -> Response<Bytes> {
        let refuse = |request: Request<Bytes>, why| {
            let (head, _) = request.into_parts();
            self.handler.refuse(&head, why, started)
        };
        if self.drain.is_over() {
            return refuse(request, Rejection::Draining);
        }
        // Not before the body is there: one that drips would hold a place that a call could have.
        let Some(_place) = self.in_flight.take() else {
            return refuse(request, Rejection::Overloaded);
        };
        let handled = {
            let handled = AssertUnwindSafe(self.handler.handle(&mut request, started));
            let mut handled = pin!(handled.catch_unwind());
            poll_fn(|context| {
                subscription.register(context);
                match handled.as_mut().poll(context) {
                    Poll::Ready(handled) => Poll::Ready(handled.map_err(|_| Rejection::Panicked)),
                    Poll::Pending if self.drain.is_cut() => Poll::Ready(Err(Rejection::CutShort)),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        handled.unwrap_or_else(|why| refuse(request, why))
    }

    /// There is no request to speak of: the client is told so, and the connection ends.
    async fn respond_malformed(&self, session: &mut ServerSession) {
        let head = Request::new(()).into_parts().0;
        let response = self
            .handler
            .refuse(&head, Rejection::Malformed, Instant::now());
        let (mut parts, body) = response.into_parts();
        parts
            .headers
            .insert(header::CONTENT_LENGTH, body.len().into());
        let _ = session
            .write_error_response(ResponseHeader::from(parts), body)
            .await;
    }

    async fn read_body(
        &self,
        session: &mut ServerSession,
        head: &Parts,
    ) -> Result<Bytes, Rejection> {
        let announced = head
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > self.limits.max_body) {
            return Err(Rejection::BodyTooLarge);
        }
        if expects_continue(head) {
            // A client that waits for this would otherwise send its body a second later. To Pingora any response
            // before the body is one that ends the connection.
            session.set_close_on_response_before_downstream_finish(false);
            let written = session.write_continue_response().await;
            session.set_close_on_response_before_downstream_finish(true);
            written.map_err(|_| Rejection::BodyIncomplete)?;
        }
        let whole = async {
            let mut body = BytesMut::new();
            while let Some(part) = session
                .read_request_body()
                .await
                .map_err(|error| broken_body(&error))?
            {
                if body.len() + part.len() > self.limits.max_body {
                    return Err(Rejection::BodyTooLarge);
                }
                if body.is_empty() && Some(part.len()) == announced {
                    return Ok(part);
                }
                body.extend_from_slice(&part);
            }
            Ok(body.freeze())
        };
        timeout(BODY_TIME, whole)
            .await
            .unwrap_or(Err(Rejection::BodyIncomplete))
    }
}

impl<H: Handler> Service<H> {
    /// Serves a connection until it ends: plain requests at once, whatever else by a session.
    async fn serve(&self, mut wire: IoStream) {
        let mut buffer = BytesMut::new();
        let mut time = HEADER_TIME;
        let mut deadline = Deadline::new(Instant::now() + time);
        let mut subscription = self.drain.subscribe();
        loop {
            let next = self.plain(&mut wire, &mut buffer, &mut deadline, &mut subscription);
            match next.await {
                Next::Request => {}
                // In a box: its state is large, and most requests need none.
                Next::Session => {
                    let session = self.session(wire.into_stream(), buffer, time, &mut subscription);
                    match Box::pin(session).await {
                        Some((stream, rest)) => (wire, buffer) = (stream.into(), rest),
                        None => return,
                    }
                }
                Next::End => return,
            }
            time = IDLE_TIME;
            deadline.set(Instant::now() + time);
        }
    }

    /// Serves a connection until it ends, by sessions alone.
    async fn serve_by_sessions(&self, stream: Stream) {
        let mut next = Some((stream, BytesMut::new()));
        let mut subscription = self.drain.subscribe();
        while let Some((stream, buffer)) = next {
            let session = self.session(stream, buffer, HEADER_TIME, &mut subscription);
            next = session.await;
        }
    }

    /// Reads one request, and answers it where it is plain.
    async fn plain(
        &self,
        stream: &mut IoStream,
        buffer: &mut BytesMut,
        deadline: &mut Deadline,
        subscription: &mut Subscription<'_>,
    ) -> Next {
        let mut has_head = false;
        let (request, keep_alive) = loop {
            let reads = |field: &_, body: &_| self.handler.reads(field, body);
            let why = match fast_path::read(buffer, self.limits.max_body, reads) {
                Ok(request) => break request,
                Err(why) => why,
            };
            match why {
                NotWhole::Unusual => return Next::Session,
                NotWhole::Head if !has_head => {
                    has_head = true;
                    deadline.set(Instant::now() + BODY_PAUSE);
                }
                // However the rest of it comes: a pause that began anew with each byte would be without a bound.
                NotWhole::Head | NotWhole::Begun => {}
            }
            let begun = !buffer.is_empty();
            match deadline.limit(pin!(read_more(stream, buffer))).await {
                Some(Ok(1..)) => {}
                Some(_) if begun => return Next::Session,
                None if has_head => return Next::Session,
                _ => return Next::End,
            }
        };
        let _busy = self.drain.enter();
        let response = self.handle(request, Instant::now(), subscription).await;
        let cut_off = response.extensions().get::<CutOff>().is_some();
        let keep_alive = keep_alive && !cut_off && !self.drain.is_draining();
        let bytes = fast_path::write(&response, keep_alive);
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        match within(WRITE_TIME, pin!(written)).await {
            Some(Ok(())) if keep_alive => Next::Request,
            Some(Ok(())) if !cut_off => {
                // The other side may be gone already.
                let _: io::Result<()> = AsyncWriteExt::shutdown(stream).await;
                Next::End
            }
            _ => Next::End,
        }
    }

    /// One request by a session of Pingora's, `buffer` before the stream. Gives the stream back where it can carry another,
    /// with what was read of that.
    async fn session(
        &self,
        stream: Stream,
        buffer: BytesMut,
        time: Duration,
        subscription: &mut Subscription<'_>,
    ) -> Option<(Stream, BytesMut)> {
        let mut session = ServerSession::new_http1(stream);
        // Without a bound of its own: the bound is `time`.
        session.set_keepalive(Some(0));
        session.set_pipelined_prefix(buffer);
        // Calls that were sent before the last answer wait their turn instead of being dropped.
        session.set_pipelining_enabled(true);
        session.set_read_timeout(Some(time));
        session.set_total_drain_timeout(Some(LINGER_TIME));
        match timeout(time, session.read_request()).await {
            Ok(Ok(true)) => {}
            Ok(Err(_)) => {
                self.respond_malformed(&mut session).await;
                return None;
            }
            Ok(Ok(false)) | Err(_) => return None,
        }
        let _busy = self.drain.enter();
        let response = self
            .respond(&mut session, Instant::now(), subscription)
            .await;
        if self.drain.is_draining() {
            session.set_keepalive(None);
        }
        match timeout(WRITE_TIME, write(&mut session, response)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return None,
        }
        let (stream, rest) = session.finish().await.ok()??.into_parts();
        Some((stream, rest.unwrap_or_default()))
    }
}

/// What a connection does next.
enum Next {
    /// Waits for another request.
    Request,
    /// Has a session read what is not plain.
    Session,
    /// Ends.
    End,
}

/// The way into an app: connections are counted, and their TLS is done, before anything else is.
pub struct Door<H> {
    app: Service<H>,
    tls: Option<Acceptor>,
}

impl<H: Handler> Door<H> {
    /// A door in plain HTTP.
    pub fn plain(app: Service<H>) -> Self {
        Self { app, tls: None }
    }

    /// A door in HTTPS. Pingora's own listeners would give a handshake a minute, uncounted.
    pub fn tls(app: Service<H>, tls: Acceptor) -> Self {
        Self {
            app,
            tls: Some(tls),
        }
    }

    /// Serves a connection; ready when it has ended.
    pub async fn serve(&self, wire: IoStream) {
        let Some(_place) = self.app.connections.take() else {
            return;
        };
        if self.tls.is_none() && self.app.public.is_none() {
            self.app.serve(wire).await;
        } else {
            // In a box: its state is large, and the others need none of it.
            Box::pin(self.serve_guarded(wire)).await;
        }
    }

    /// `None` where a stranger is not let in.
    async fn serve_guarded(&self, wire: IoStream) -> Option<()> {
        let stream = wire.into_stream();
        let _from_there = match &self.app.public {
            Some(public) => Some(public.admit(stream.as_ref())?),
            None => None,
        };
        let stream = match &self.tls {
            None => stream,
            Some(acceptor) => {
                let plain = stream.into_any().downcast::<BufferedStream>().ok()?;
                let handshake = timeout(HEADER_TIME, acceptor.tls_handshake(*plain));
                Box::new(handshake.await.ok()?.ok()?)
            }
        };
        self.app.serve_by_sessions(stream).await;
        Some(())
    }
}

/// Several may share one handler.
impl<H: Handler> Handler for Arc<H> {
    fn reads(&self, field: &HeaderName, body: &[u8]) -> bool {
        H::reads(self, field, body)
    }

    async fn handle(&self, request: &mut Request<Bytes>, started: Instant) -> Response<Bytes> {
        H::handle(self, request, started).await
    }

    fn refuse(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes> {
        H::refuse(self, head, why, started)
    }
}

async fn write(session: &mut ServerSession, response: Response<Bytes>) -> pingora::Result<()> {
    let unread = !session.is_body_done();
    let waits = expects_continue(session.req_header());
    let head_only = session.req_header().method == http::Method::HEAD;
    let length = fast_path::announced_length(&response);
    let (mut parts, body) = response.into_parts();
    let cut_off = parts.extensions.remove::<CutOff>().is_some();
    if !fast_path::is_bodiless(parts.status) {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let header = ResponseHeader::from(parts);
    session.write_response_header(Box::new(header)).await?;
    if !head_only && !body.is_empty() {
        session.write_response_body(body, true).await?;
    }
    if cut_off {
        return Err(Error::new(ErrorType::InternalError));
    }
    if unread && !waits {
        let _ = timeout(LINGER_TIME, session.drain_request_body()).await;
    }
    Ok(())
}

fn broken_body(error: &Error) -> Rejection {
    match error.etype() {
        ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => Rejection::Malformed,
        _ => Rejection::BodyIncomplete,
    }
}

fn expects_continue(head: &Parts) -> bool {
    head.headers
        .get(header::EXPECT)
        .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
