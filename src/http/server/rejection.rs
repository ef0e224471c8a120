//! Why a request is not handled, in the words of every listener.

/// Why a request is not handled.
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
    /// From an address that may not come in.
    NotAllowed,
    /// The process ends while the request is being handled: its fate is unknown.
    CutShort,
    /// The handler panicked.
    Panicked,
}
