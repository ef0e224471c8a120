//! Every bound and every time of every listener.

use std::time::Duration;

/// Bytes of a request's line and header fields. Nothing buffers more before the head is whole.
const MAX_HEAD: usize = 16 * 1024;
/// Bytes of a request's target.
const MAX_TARGET: usize = 8 * 1024;
/// Seconds from the first byte of a head, or from the start of a connection, to the end of the head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Seconds that a connection stays open between two requests. Longer than the pools of common HTTP clients keep one, so
/// that the client closes first and no request meets a closing connection.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// Seconds from the end of a head to the end of the body.
const BODY_TIME: Duration = Duration::from_secs(15);
/// Seconds in which the client takes a response.
const WRITE_TIME: Duration = Duration::from_secs(15);
/// Seconds in which the rest of a rejected request is read and dropped. A connection that is closed with unread bytes
/// is reset, and a reset can overtake the response (RFC 9112 §9.6).
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Bytes that connections of all listeners may hold together for requests that are not whole.
const MAX_UNFINISHED: usize = 24 * 1024 * 1024;
/// Bodies of apps at their largest that have room beside that.
const UNFINISHED_BODIES: usize = 16;
/// Connections of apps that are open and idle, beside those in flight.
const IDLE_CONNECTIONS: usize = 1024;

/// The bounds and times of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a request's line and header fields.
    pub max_head: usize,
    /// Number of header fields.
    pub max_fields: usize,
    /// Bytes of a request's target.
    pub max_target: usize,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Requests that are handled at once.
    pub max_in_flight: usize,
    /// Connections that are open at once; on a public listener, those of strangers.
    pub max_connections: usize,
    /// Connections of known callers that are open at once, beside the others. 0: known callers have no permits of their own.
    pub max_known: usize,
    /// Connections of one caller that is not known: an address, or an IPv6 /64.
    pub max_per_caller: usize,
    /// Connections at once that are too many and get the response for that.
    pub max_turned_away: usize,
    /// Time that a new connection is spared when others need its permit: its first request may be on its way.
    pub spared: Duration,
    /// Time from the first byte of a head, or from the start of a connection, to the end of the head. A TLS handshake
    /// has as long again.
    pub head_time: Duration,
    /// Time that a connection stays open between two requests.
    pub idle_time: Duration,
    /// Time from the end of a head to the end of the body.
    pub body_time: Duration,
    /// Time in which the client takes a response.
    pub write_time: Duration,
    /// Time in which the rest of a rejected request is read and dropped.
    pub linger_time: Duration,
    /// Plain requests take the fast path. Everything else goes through a session of Pingora's.
    pub fast_path: bool,
    /// The listener faces the internet: GET, HEAD and POST only, no body with GET, no compressed body.
    pub is_public: bool,
}

/// Returns the bytes of requests that are not whole on all listeners together, for a sidecar with this `app.max_body`.
pub const fn max_unfinished(max_body: usize) -> usize {
    MAX_UNFINISHED + UNFINISHED_BODIES * max_body
}

impl Limits {
    /// The app listener, as far as it is not for settings to say.
    const APP: Self = Self {
        max_head: MAX_HEAD,
        max_fields: 128,
        max_target: MAX_TARGET,
        max_body: 64 * 1024,
        max_in_flight: 1024,
        max_connections: 1024 + IDLE_CONNECTIONS,
        max_known: 0,
        max_per_caller: usize::MAX,
        max_turned_away: 64,
        spared: Duration::from_secs(1),
        head_time: HEAD_TIME,
        idle_time: IDLE_TIME,
        body_time: BODY_TIME,
        write_time: WRITE_TIME,
        linger_time: LINGER_TIME,
        fast_path: true,
        is_public: false,
    };

    /// The admin listener. A probe must always get in, whatever else is connected, so that no connection is spared.
    pub const ADMIN: Self = Self {
        // A form that names the 200 results of one decision.
        max_body: 8 * 1024,
        max_in_flight: 64,
        max_connections: 256,
        spared: Duration::ZERO,
        fast_path: false,
        ..Self::APP
    };

    /// The callback listener. Some hundred callbacks wait for one commit together. A kept-alive connection has no longer
    /// than a new one: on a port for everybody, idle connections are the cheapest way to use it up.
    pub const CALLBACKS: Self = Self {
        max_fields: 64,
        max_connections: 4096,
        max_known: 1024,
        max_per_caller: 64,
        max_turned_away: 256,
        idle_time: HEAD_TIME,
        fast_path: false,
        is_public: true,
        ..Self::APP
    };

    /// The sandbox and the demo's shop, for one developer.
    pub const SANDBOX: Self = Self {
        max_in_flight: 256,
        max_connections: 1024,
        ..Self::APP
    };

    /// The app listener with the settings `app.max_body` and `app.max_in_flight`.
    pub const fn app(max_body: usize, max_in_flight: usize) -> Self {
        Self {
            max_body,
            max_in_flight,
            max_connections: max_in_flight + IDLE_CONNECTIONS,
            ..Self::APP
        }
    }
}
