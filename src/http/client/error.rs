//! Why there is no answer. Every fault says whether the request may have arrived, because that decides whether the app may
//! try again.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use pingora::{Error, ErrorType};

use super::exchange::{ExchangeError, MAX_ANSWER};

/// Whether a request that failed may have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing left this machine.
    No,
    /// An answer came.
    Yes,
    /// Something left, nothing whole came back.
    Unknown,
}

impl Sent {
    /// The word that the app and the log read.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("{step} failed: {reason}")]
    Unreachable {
        /// What did not work: the look-up of the name, connecting, TLS.
        step: ExchangeStep,
        /// In the words of whoever failed.
        reason: String,
        /// `No`, but for a query that a dead connection may have carried before.
        sent: Sent,
    },
    /// The deadline passed.
    #[error("no whole answer within {after:?}")]
    TimedOut {
        /// The time that was given.
        after: Duration,
        /// `No` while still connecting.
        sent: Sent,
    },
    /// The connection ended before the answer did.
    #[error("the connection ended inside the exchange: {0}")]
    CutOff(String),
    /// The process ends and waits no longer.
    #[error("the sidecar ends and waits no longer")]
    CutShort,
    /// The answer is longer than we read.
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// What came back is not HTTP/1.1.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(&'static str),
}

impl ClientError {
    /// Whether the request may have arrived.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Unreachable { sent, .. } | Self::TimedOut { sent, .. } => *sent,
            Self::CutOff(_) | Self::CutShort => Sent::Unknown,
            Self::TooLong | Self::NotHttp(_) => Sent::Yes,
        }
    }
}

impl ClientError {
    pub(super) fn of(broken: ExchangeError) -> Self {
        match broken {
            ExchangeError::Silent(reason) | ExchangeError::Ended(reason) => Self::CutOff(reason),
            ExchangeError::NotHttp(why) => Self::NotHttp(why),
            ExchangeError::TooLong => Self::TooLong,
        }
    }

    pub(super) fn but_sent(mut self, known: Sent) -> Self {
        if let Self::Unreachable { sent, .. } | Self::TimedOut { sent, .. } = &mut self {
            *sent = known;
        }
        self
    }
}

/// The steps to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeStep {
    /// The host's name to its addresses.
    Dns,
    /// The TCP connection.
    Connect,
    /// The handshake, and whether the certificate is believed.
    Tls,
}

impl fmt::Display for ExchangeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "DNS look-up",
            Self::Connect => "connecting",
            Self::Tls => "TLS",
        })
    }
}

/// Why a socket could not be connected.
pub(super) fn connect_fault(error: &io::Error) -> ClientError {
    let reason = match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route to host".to_owned(),
        _ => error.to_string(),
    };
    unreachable(ExchangeStep::Connect, reason)
}

/// Why there is no connection with TLS: at its TCP or at its handshake.
pub(super) fn tls_fault(error: &Error) -> ClientError {
    let step = match error.etype() {
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => ExchangeStep::Tls,
        _ => ExchangeStep::Connect,
    };
    unreachable(step, reason(error))
}

fn unreachable(step: ExchangeStep, reason: String) -> ClientError {
    ClientError::Unreachable {
        step,
        reason,
        sent: Sent::No,
    }
}

/// The innermost words: Pingora's outer ones repeat the peer's address and its options.
fn reason(error: &Error) -> String {
    if let Some(cause) = &error.cause {
        if let Some(inner) = cause.downcast_ref::<Box<Error>>() {
            return reason(inner);
        }
        if cause.is::<io::Error>() {
            return cause.to_string();
        }
    }
    match (error.etype(), &error.context) {
        (ErrorType::ConnectRefused, _) => "connection refused".to_owned(),
        (ErrorType::ConnectNoRoute, _) => "no route to host".to_owned(),
        (_, Some(context)) => context.as_str().to_owned(),
        (other, None) => other.as_str().to_owned(),
    }
}
