//! The contract between a listener and the code that answers its requests.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Request, Response};

/// Turns requests into responses.
///
/// A listener calls [`Handler::handle`] for each request that came whole, and [`Handler::reject`] for each one that did
/// not or that it has no room for. Neither is called for bytes that are not a request at all before their end is known.
/// Implementations are shared by all connections. A panic in `handle` ends that request alone.
pub trait Handler: Send + Sync + 'static {
    /// Returns true for header fields that [`Handler::handle`] needs; requests are handled without the others. `body`
    /// holds the bytes that were read behind the head: a part of the body, or all of it and of what follows.
    fn reads(&self, _field: &HeaderName, _body: &[u8]) -> bool {
        true
    }

    /// Answers a request whose body was read whole. `started` is the time at which the request was there.
    ///
    /// The future is polled again when [`Drain::is_over`] becomes true. After a panic, or at the end of the process, the
    /// request is passed to [`Handler::reject`] as it then is.
    ///
    /// [`Drain::is_over`]: crate::process::drain::Drain::is_over
    fn handle(
        &self,
        request: &mut Request<Bytes>,
        started: Instant,
    ) -> impl Future<Output = Response<Bytes>> + Send;

    /// Answers a request that is not going to be handled.
    fn reject(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes>;

    /// Returns true for a response that is announced one byte longer than it is, and cut off at its end. Only a stand-in
    /// for a failing server overrides this.
    fn cuts_off(&self, _response: &Response<Bytes>) -> bool {
        false
    }
}

/// Reasons for not handling a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Not HTTP, or HTTP whose framing could be read in two ways.
    Malformed,
    /// More bytes than `Limits::max_body`.
    BodyTooLarge,
    /// The body did not come whole in time.
    BodyIncomplete,
    /// `Limits::max_in_flight` requests are being handled.
    Overloaded,
    /// The process is about to end.
    Draining,
    /// The process ends while the request is being handled: its fate is unknown.
    CutShort,
    /// The handler panicked.
    Panicked,
}

/// Several listeners may share one handler.
impl<H: Handler> Handler for Arc<H> {
    fn reads(&self, field: &HeaderName, body: &[u8]) -> bool {
        H::reads(self, field, body)
    }

    async fn handle(&self, request: &mut Request<Bytes>, started: Instant) -> Response<Bytes> {
        H::handle(self, request, started).await
    }

    fn reject(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes> {
        H::reject(self, head, why, started)
    }

    fn cuts_off(&self, response: &Response<Bytes>) -> bool {
        H::cuts_off(self, response)
    }
}
