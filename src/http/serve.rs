//! One HTTP/1.1 exchange on a listener: read whole, handled, answered whole.
//!
//! Knows nothing of payments. Keeps the promise that a request has a bound in bytes, in time and in number,
//! that reaching one gets a defined answer, and that a panic is one request's 500.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response, header};
use pingora::apps::ServerApp;
use pingora::http::ResponseHeader;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::deadline::Deadline;
pub use super::plain::CutOff;
use super::plain::{self, NotWhole};
use super::public::Public;
pub use super::refusal::Refusal;
use super::request_id::REQUEST_ID;
use crate::lifetime::Lifetime;

/// What turns requests into responses.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request whose body was read whole. `started` is when its header was there.
    fn handle(
        &self,
        request: Request<Bytes>,
        started: Instant,
    ) -> impl Future<Output = Response<Bytes>> + Send;

    /// Answers a request that is not going to be handled.
    fn refuse(&self, head: &Parts, why: Refusal, started: Instant) -> Response<Bytes>;
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
/// What is read at once; a common call fits.
const READ_SIZE: usize = 4096;
/// What is left of a refused body is read and thrown away this long, so that the refusal is read, not reset.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// A handler behind a listener.
pub struct App<H> {
    handler: H,
    limits: Limits,
    in_flight: Semaphore,
    connections: Semaphore,
    lifetime: Arc<Lifetime>,
    public: Option<Public>,
}

impl<H: Handler> App<H> {
    /// Puts `handler` behind `limits`.
    pub fn new(handler: H, limits: Limits, lifetime: Arc<Lifetime>) -> Self {
        Self {
            handler,
            limits,
            in_flight: Semaphore::new(limits.max_in_flight),
            connections: Semaphore::new(limits.max_connections),
            lifetime,
            public: None,
        }
    }

    /// For a listener that faces the internet: `public` is asked before anything is read.
    pub fn public(mut self, public: Public) -> Self {
        self.public = Some(public);
        self
    }

    /// Reads what belongs to the request and decides its response.
    async fn respond(&self, session: &mut ServerSession, started: Instant) -> Response<Bytes> {
        let head = session.req_header().as_owned_parts();
        let refuse = |head: &Parts, why| self.handler.refuse(head, why, started);
        if let Some(public) = &self.public
            && let Err(why) = public.check(session)
        {
            session.set_keepalive(None);
            return refuse(&head, why);
        }
        if self.lifetime.is_over() {
            return refuse(&head, Refusal::Draining);
        }
        session.set_read_timeout(Some(BODY_TIME));
        let read = tokio::select! {
            read = self.read_body(session, &head) => read,
            () = self.lifetime.until_over() => Err(Refusal::Draining),
        };
        let body = match read {
            Ok(body) => body,
            Err(why) => {
                // Nobody knows where the next request would begin.
                session.set_keepalive(None);
                return refuse(&head, why);
            }
        };
        self.handle(Request::from_parts(head, body), started).await
    }

    /// Decides the response to a whole request.
    async fn handle(&self, request: Request<Bytes>, started: Instant) -> Response<Bytes> {
        // The head again, for an answer without the handler: bodies are moved, heads are small.
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let id = request.headers().get(REQUEST_ID).cloned();
        let refuse = |why| {
            let mut head = Request::new(()).into_parts().0;
            (head.method, head.uri) = (method, uri);
            head.headers.extend(id.map(|id| (REQUEST_ID, id)));
            self.handler.refuse(&head, why, started)
        };
        if self.lifetime.is_over() {
            return refuse(Refusal::Draining);
        }
        // Not before the body is there: one that drips would hold a place that a call could have.
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return refuse(Refusal::Overloaded);
        };
        let handled = AssertUnwindSafe(self.handler.handle(request, started)).catch_unwind();
        tokio::select! {
            biased;
            response = handled => response.unwrap_or_else(|_| refuse(Refusal::Panicked)),
            () = self.lifetime.until_cut() => refuse(Refusal::CutShort),
        }
    }

    /// There is no request to speak of: the client is told so, and the connection ends.
    async fn respond_malformed(&self, session: &mut ServerSession) {
        let head = Request::new(()).into_parts().0;
        let response = self
            .handler
            .refuse(&head, Refusal::Malformed, Instant::now());
        let (mut parts, body) = response.into_parts();
        parts
            .headers
            .insert(header::CONTENT_LENGTH, body.len().into());
        let _ = session
            .write_error_response(ResponseHeader::from(parts), body)
            .await;
    }

    async fn read_body(&self, session: &mut ServerSession, head: &Parts) -> Result<Bytes, Refusal> {
        let announced = head
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > self.limits.max_body) {
            return Err(Refusal::BodyTooLarge);
        }
        if expects_continue(head) {
            // A client that waits for this would otherwise send its body a second later. To Pingora any response
            // before the body is one that ends the connection.
            session.set_close_on_response_before_downstream_finish(false);
            let written = session.write_continue_response().await;
            session.set_close_on_response_before_downstream_finish(true);
            written.map_err(|_| Refusal::BodyIncomplete)?;
        }
        let whole = async {
            let mut body = BytesMut::new();
            while let Some(part) = session
                .read_request_body()
                .await
                .map_err(|error| broken_body(&error))?
            {
                if body.len() + part.len() > self.limits.max_body {
                    return Err(Refusal::BodyTooLarge);
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
            .unwrap_or(Err(Refusal::BodyIncomplete))
    }
}

impl<H: Handler> App<H> {
    /// Serves a connection until it ends: plain requests at once, whatever else by a session.
    async fn serve(&self, mut stream: Stream) {
        let mut buffer = BytesMut::new();
        let mut deadline = Deadline::new(Instant::now() + HEADER_TIME);
        let mut kept_alive = false;
        loop {
            let time = if kept_alive && self.public.is_none() {
                IDLE_TIME
            } else {
                HEADER_TIME
            };
            deadline.set(Instant::now() + time);
            let next = if self.public.is_none() {
                self.plain(&mut stream, &mut buffer, &mut deadline).await
            } else {
                Next::Session
            };
            match next {
                Next::Request => {}
                // In a box: its state is large, and most requests need none.
                Next::Session => {
                    match Box::pin(self.session(stream, buffer, kept_alive, time)).await {
                        Some(kept) => (stream, buffer) = kept,
                        None => return,
                    }
                }
                Next::End => return,
            }
            kept_alive = true;
        }
    }

    /// Reads one request, and answers it where it is plain.
    async fn plain(
        &self,
        stream: &mut Stream,
        buffer: &mut BytesMut,
        deadline: &mut Deadline,
    ) -> Next {
        let mut has_head = false;
        let (request, keep_alive) = loop {
            let why = match plain::read(buffer, self.limits.max_body) {
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
            buffer.reserve(READ_SIZE);
            match deadline.limit(stream.read_buf(buffer)).await {
                Some(Ok(1..)) => {}
                Some(_) if begun => return Next::Session,
                None if has_head => return Next::Session,
                _ => return Next::End,
            }
        };
        let _busy = self.lifetime.enter();
        let response = self.handle(request, Instant::now()).await;
        let cut_off = response.extensions().get::<CutOff>().is_some();
        let keep_alive = keep_alive && !cut_off && !self.lifetime.is_draining();
        let bytes = plain::write(&response, keep_alive);
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        match timeout(WRITE_TIME, written).await {
            Ok(Ok(())) if keep_alive => Next::Request,
            Ok(Ok(())) if !cut_off => {
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
        kept_alive: bool,
        time: Duration,
    ) -> Option<(Stream, BytesMut)> {
        let mut session = ServerSession::new_http1(stream);
        // Without a bound, as Pingora does for all but a connection's first; the bound is `time`.
        session.set_keepalive(Some(if kept_alive { 0 } else { 60 }));
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
        let _busy = self.lifetime.enter();
        let response = self.respond(&mut session, Instant::now()).await;
        if self.lifetime.is_draining() {
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
    app: Arc<App<H>>,
    tls: Option<Acceptor>,
}

impl<H: Handler> Door<H> {
    /// A door in plain HTTP.
    pub fn plain(app: App<H>) -> Self {
        Self {
            app: Arc::new(app),
            tls: None,
        }
    }

    /// A door in HTTPS. Pingora's own listeners would give a handshake a minute, uncounted.
    pub fn tls(app: App<H>, tls: Acceptor) -> Self {
        Self {
            app: Arc::new(app),
            tls: Some(tls),
        }
    }
}

#[async_trait]
impl<H: Handler> ServerApp for Door<H> {
    /// Ready when the connection has ended.
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        _shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let _one = self.app.connections.try_acquire().ok()?;
        let _from_there = match &self.app.public {
            Some(public) => Some(public.admit(stream.as_ref())?),
            None => None,
        };
        let stream = match &self.tls {
            None => stream,
            Some(acceptor) => {
                let plain = stream.into_any().downcast::<L4Stream>().ok()?;
                let handshake = timeout(HEADER_TIME, acceptor.tls_handshake(*plain));
                Box::new(handshake.await.ok()?.ok()?)
            }
        };
        self.app.serve(stream).await;
        None
    }
}

/// Serves a listener that Pingora does not manage, until the task is dropped.
pub async fn serve<H: Handler>(listener: TcpListener, door: Arc<Door<H>>) {
    let (_end, shutdown) = watch::channel(false);
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Out of descriptors, most likely: some will be given back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Header and body are two writes: the second must not wait for the first one's acknowledgement.
        let _ = connection.set_nodelay(true);
        let (door, shutdown) = (door.clone(), shutdown.clone());
        tokio::spawn(async move {
            let stream = L4Stream::from(connection);
            door.process_new(Box::new(stream), &shutdown).await
        });
    }
}

/// Several may share one handler.
impl<H: Handler> Handler for Arc<H> {
    async fn handle(&self, request: Request<Bytes>, started: Instant) -> Response<Bytes> {
        H::handle(self, request, started).await
    }

    fn refuse(&self, head: &Parts, why: Refusal, started: Instant) -> Response<Bytes> {
        H::refuse(self, head, why, started)
    }
}

async fn write(session: &mut ServerSession, response: Response<Bytes>) -> pingora::Result<()> {
    let unread = !session.is_body_done();
    let waits = expects_continue(session.req_header());
    let head_only = session.req_header().method == http::Method::HEAD;
    let length = plain::announced_length(&response);
    let (mut parts, body) = response.into_parts();
    let cut_off = parts.extensions.remove::<CutOff>().is_some();
    if !plain::is_bodiless(parts.status) {
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

fn broken_body(error: &Error) -> Refusal {
    match error.etype() {
        ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => Refusal::Malformed,
        _ => Refusal::BodyIncomplete,
    }
}

fn expects_continue(head: &Parts) -> bool {
    head.headers
        .get(header::EXPECT)
        .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
