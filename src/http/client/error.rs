//! Why there is no answer. Every fault says whether the request may have arrived, because that decides whether the app may
//! try again.

use std::fmt;

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
    #[error("{step}{reason}")]
    Unreachable {
        /// What did not work: the look-up of the name, connecting, TLS.
        step: ExchangeStep,
        /// In the words of whoever failed.
        reason: String,
        /// `No`, but for a query that a dead connection may have carried before.
        sent: Sent,
    },
    /// The deadline passed.
    #[error("{detail}")]
    TimedOut {
        /// What was waited for, and for how long.
        detail: String,
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
    /// More than one response came on a connection that had carried other requests.
    #[error(
        "more than one response came on the connection; none of them is certainly this request's"
    )]
    Stray,
    /// What came back is not HTTP/1.1.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(&'static str),
}

impl ClientError {
    /// Whether the request may have arrived.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Unreachable { sent, .. } | Self::TimedOut { sent, .. } => *sent,
            Self::CutOff(_) | Self::CutShort | Self::Stray => Sent::Unknown,
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
            ExchangeError::Stray => Self::Stray,
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
            Self::Dns => "DNS lookup failed: ",
            // The report names each address.
            Self::Connect => "",
            Self::Tls => "TLS failed: ",
        })
    }
}
