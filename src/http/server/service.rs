//! A handler behind the limits of its listener.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use pingora::listeners::tls::Acceptor;

use super::admission::Admission;
use super::handler::{Handler, Rejection};
use super::limits::Limits;
use super::permits::Permits;
use crate::process::drain::{Drain, Subscription};

/// A handler with everything that the connections of its listener share.
pub struct Service<H> {
    pub(super) handler: H,
    pub(super) limits: Limits,
    pub(super) connections: Permits,
    pub(super) drain: Arc<Drain>,
    pub(super) admission: Option<Admission>,
    pub(super) tls: Option<Acceptor>,
    in_flight: Permits,
}

impl<H: Handler> Service<H> {
    /// Puts `handler` behind `limits`, in plain HTTP.
    pub fn new(handler: H, limits: Limits, drain: Arc<Drain>) -> Self {
        Self {
            handler,
            limits,
            in_flight: Permits::new(limits.max_in_flight),
            connections: Permits::new(limits.max_connections),
            drain,
            admission: None,
            tls: None,
        }
    }

    /// Counts connections by address, for a listener that faces the internet.
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = Some(admission);
        self
    }

    /// Serves HTTPS instead of HTTP.
    pub fn tls(mut self, tls: Acceptor) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Decides the response to a whole request.
    pub(super) async fn respond(
        &self,
        mut request: Request<Bytes>,
        started: Instant,
        subscription: &mut Subscription<'_>,
    ) -> Response<Bytes> {
        let reject = |request: Request<Bytes>, why| {
            let (head, _) = request.into_parts();
            self.handler.reject(&head, why, started)
        };
        if self.drain.is_over() {
            return reject(request, Rejection::Draining);
        }
        // Not before the body is there: one that drips would hold a permit that a call could have.
        let Some(_permit) = self.in_flight.take() else {
            return reject(request, Rejection::Overloaded);
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
        handled.unwrap_or_else(|why| reject(request, why))
    }
}
