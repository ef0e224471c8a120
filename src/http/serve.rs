//! One HTTP/1.1 exchange on a listener: read whole, handled, answered whole.
//!
//! Knows nothing of payments. Keeps the promise that a request has a bound in bytes, in time and in number,
//! that reaching one gets a defined answer, and that a panic is one request's 500.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response, StatusCode, header};
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream;
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::public::{Admitted, Public};
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

/// Why a request is not handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not HTTP, or HTTP whose framing could be read in two ways.
    Malformed,
    /// More bytes than [`Limits::max_body`].
    BodyTooLarge,
    /// The body did not come whole in time.
    BodyIncomplete,
    /// [`Limits::max_in_flight`] requests are being handled.
    Overloaded,
    /// The process is about to end.
    Draining,
    /// From an address that may not come in.
    NotAllowed,
    /// The process ends while the request is being handled: its fate is unknown.
    CutShort,
    /// The handler panicked.
    Panicked,
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
/// What is left of a refused body is read and thrown away this long, so that the refusal is read, not reset.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// A handler behind a listener, as Pingora wants it.
pub struct App<H> {
    handler: H,
    limits: Limits,
    in_flight: Semaphore,
    connections: Arc<Semaphore>,
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
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            lifetime,
            public: None,
        }
    }

    /// For a listener that faces the internet: `public` is asked before anything is read.
    pub fn public(mut self, public: Public) -> Self {
        self.public = Some(public);
        self
    }

    /// A new connection's place among those that may be open at once.
    fn admit(&self, session: &ServerSession) -> Option<Place> {
        Some(Place {
            _one: self.connections.clone().try_acquire_owned().ok()?,
            _from_there: match &self.public {
                Some(public) => Some(public.admit(session)?),
                None => None,
            },
        })
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
        let body = match self.read_body(session, &head).await {
            Ok(body) => body,
            Err(why) => {
                // Nobody knows where the next request would begin.
                session.set_keepalive(None);
                return refuse(&head, why);
            }
        };
        // Not before: a body that drips would hold a place that a call could have.
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return refuse(&head, Refusal::Overloaded);
        };
        let request = Request::from_parts(head, body);
        let head = request_head(&request);
        let handled = AssertUnwindSafe(self.handler.handle(request, started)).catch_unwind();
        tokio::select! {
            response = handled => response.unwrap_or_else(|_| refuse(&head, Refusal::Panicked)),
            () = self.lifetime.until_over() => refuse(&head, Refusal::CutShort),
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

/// Kept as long as its connection is open.
struct Place {
    _one: OwnedSemaphorePermit,
    _from_there: Option<Admitted>,
}

#[async_trait]
impl<H: Handler> HttpServerApp for App<H> {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // A connection's first session is told from the others by having no place yet.
        let place = match session.take_connection_user_context() {
            Some(place) => place,
            None => Box::new(self.admit(&session)?),
        };
        session.set_connection_user_context(Some(place));
        // Pingora marks every session but a connection's first as kept alive without a bound.
        let kept_alive = session.get_keepalive() == Some(0);
        let time = if kept_alive && self.public.is_none() {
            IDLE_TIME
        } else {
            HEADER_TIME
        };
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
        let mut kept = HttpPersistentSettings::for_session(&session);
        if let Some(place) = session.take_connection_user_context() {
            kept.set_user_context(place);
        }
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, kept))
    }
}

/// Serves a listener that Pingora does not manage, until the task is dropped.
pub async fn serve<H: Handler>(listener: TcpListener, app: Arc<App<H>>) {
    let (_end, shutdown) = watch::channel(false);
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Out of descriptors, most likely: some will be given back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Header and body are two writes: the second must not wait for the first one's acknowledgement.
        let _ = connection.set_nodelay(true);
        let (app, shutdown) = (app.clone(), shutdown.clone());
        tokio::spawn(async move {
            let stream = Stream::from(connection);
            app.process_new(Box::new(stream), &shutdown).await
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
    let (mut parts, body) = response.into_parts();
    if !bodiless(parts.status) {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, body.len().into());
    }
    let header = ResponseHeader::from(parts);
    session.write_response_header(Box::new(header)).await?;
    if !head_only && !body.is_empty() {
        session.write_response_body(body, true).await?;
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

fn bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn expects_continue(head: &Parts) -> bool {
    head.headers
        .get(header::EXPECT)
        .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The head again, for the answer to a panic: bodies are moved, heads are small.
fn request_head(request: &Request<Bytes>) -> Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    if let Some(id) = request.headers().get("x-request-id") {
        head.headers.insert("x-request-id", id.clone());
    }
    head
}
