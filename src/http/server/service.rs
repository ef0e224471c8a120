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

use super::admission::admit::Admission;
use super::admission::listener_metrics::Unmeasured;
use super::admission::memory::MemoryBudget;
use super::handler::{Handler, Rejection};
use super::limits::{Limits, max_unfinished};
use super::permits::Permits;
use crate::http::log_limit::LogLimit;
use crate::process::drain::{Drain, Subscription};

/// A handler with everything that the connections of its listener share.
pub struct Service<H> {
    pub(super) handler: H,
    pub(super) limits: Limits,
    pub(super) drain: Arc<Drain>,
    pub(super) admission: Arc<Admission>,
    pub(super) turned_away: Permits,
    pub(super) tls: Option<Tls>,
    in_flight: Permits,
}

/// TLS in front of a service.
pub(super) struct Tls {
    pub(super) acceptor: Acceptor,
    /// Lines about failed handshakes.
    pub(super) log: LogLimit,
}

impl<H: Handler> Service<H> {
    /// Puts `handler` behind `limits`, in plain HTTP. `admission` has the same limits.
    pub fn new(handler: H, limits: Limits, admission: Admission, drain: Arc<Drain>) -> Self {
        Self {
            handler,
            limits,
            in_flight: Permits::new(limits.max_in_flight),
            drain,
            admission: Arc::new(admission),
            turned_away: Permits::new(limits.max_turned_away),
            tls: None,
        }
    }

    /// Builds a listener for one developer on this host, whose connections are in no metric.
    pub fn unmeasured(name: &'static str, handler: H) -> Self {
        let (limits, metrics) = (Limits::SANDBOX, Arc::new(Unmeasured));
        let memory = MemoryBudget::new(max_unfinished(limits.max_body));
        let (none, memory) = (Vec::new(), Arc::new(memory));
        let admission = Admission::new(name, limits, none.clone(), none, memory, metrics);
        Self::new(handler, limits, admission, Arc::default())
    }

    /// Serves HTTPS instead of HTTP.
    pub fn tls(mut self, tls: Acceptor) -> Self {
        self.tls = Some(Tls {
            acceptor: tls,
            log: LogLimit::default(),
        });
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
                // Before the handler is polled: a stage of the shutdown that begins in between would otherwise wake no
                // task.
                subscription.register(context);
                match handled.as_mut().poll(context) {
                    // A response that is ready counts, even at the last moment.
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
