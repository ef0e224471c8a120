//! Counting of what happens to connections before there is a request to count.

use std::sync::Arc;

use crate::http::log_limit::LogLimit;
use crate::http::server::caller::Caller;

/// Counts connections that got no service, for the metrics.
pub trait ListenerMetrics: Send + Sync {
    /// A connection was closed by us before its client was done.
    fn shed(&self, listener: &'static str, reason: ShedReason);

    /// A TLS handshake came to nothing.
    fn handshake_failed(&self, reason: HandshakeFailure);
}

/// Reasons for closing a connection before its client is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// It waited longest, and another one needed its permit.
    Replaced,
    /// There were too many. It got the response for that.
    TurnedAway,
    /// There were too many, and too many were being turned away already. It was closed at once.
    Closed,
    /// It was the largest stranger's largest one when memory for unfinished requests ran out.
    Memory,
    /// The head of its request did not come whole in time.
    Slow,
}

impl ShedReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Replaced,
        Self::TurnedAway,
        Self::Closed,
        Self::Memory,
        Self::Slow,
    ];

    /// Returns the value of the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::TurnedAway => "turned-away",
            Self::Closed => "closed",
            Self::Memory => "memory",
            Self::Slow => "slow",
        }
    }
}

/// Reasons for a handshake that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client spoke HTTP without TLS.
    PlainHttp,
    /// The client spoke another protocol.
    NotTls,
    /// The client left: a probe of a load balancer, or one that does not trust the certificate and does not say so.
    Closed,
    /// It did not end in time.
    Late,
    /// Client and server did not agree, or the client rejected the certificate.
    Failed,
}

impl HandshakeFailure {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::PlainHttp,
        Self::NotTls,
        Self::Closed,
        Self::Late,
        Self::Failed,
    ];

    /// Returns the value of the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain-http",
            Self::NotTls => "not-tls",
            Self::Closed => "closed",
            Self::Late => "late",
            Self::Failed => "failed",
        }
    }
}

/// Counts and logs the connections that one listener closes before their client is done.
pub(in crate::http::server) struct ShedCounter {
    listener: &'static str,
    metrics: Arc<dyn ListenerMetrics>,
    log: LogLimit,
}

impl ShedCounter {
    /// Nothing is shed yet.
    pub(in crate::http::server) fn new(
        listener: &'static str,
        metrics: Arc<dyn ListenerMetrics>,
    ) -> Self {
        Self {
            listener,
            metrics,
            log: LogLimit::default(),
        }
    }

    /// Counts one, and says so where a log line is due.
    pub(in crate::http::server) fn shed(&self, reason: ShedReason, caller: Caller) {
        self.metrics.shed(self.listener, reason);
        // Slow clients and idle connections are daily business.
        let is_usual = matches!(reason, ShedReason::Slow | ShedReason::Replaced);
        if !is_usual && let Some(since_last_line) = self.log.due() {
            let caller = caller.to_string();
            tracing::warn!(
                listener = self.listener,
                reason = reason.name(),
                caller,
                since_last_line,
                "connections are shed: there are more than the listener's limits allow"
            );
        }
    }

    /// Counts a handshake that came to nothing.
    pub(in crate::http::server) fn handshake_failed(&self, reason: HandshakeFailure) {
        self.metrics.handshake_failed(reason);
    }
}

/// Counts nothing, for listeners of the demo and of tests.
pub struct Unmeasured;

impl ListenerMetrics for Unmeasured {
    fn shed(&self, _listener: &'static str, _reason: ShedReason) {}

    fn handshake_failed(&self, _reason: HandshakeFailure) {}
}
