//! Errors of the client. Each one says whether the request may have arrived, because that decides whether the app
//! may try again.

use std::fmt;

use super::exchange::ExchangeError;

/// The knowledge whether a request that failed has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing left this machine.
    No,
    /// A response came.
    Yes,
    /// Something left, nothing whole came back.
    Unknown,
}

impl Sent {
    /// Returns the word that the app and the log read.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
        }
    }
}

/// The reason for a missing response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("{step}{reason}")]
    Unreachable {
        /// The step that failed.
        step: ExchangeStep,
        /// The address concerned, and how it failed.
        reason: String,
        /// `No`, but for a query that a useless connection may have carried before.
        sent: Sent,
    },
    /// The deadline passed.
    #[error("{detail}")]
    TimedOut {
        /// The event that did not come, and the time that it was given.
        detail: String,
        /// `No` while still connecting.
        sent: Sent,
    },
    /// The connection ended before the response did.
    #[error("{0}")]
    CutOff(ExchangeError),
    /// The process ends and waits no longer.
    #[error("the sidecar ends and waits no longer")]
    CutShort,
    /// Bytes came that are no response, too many, or may be another request's.
    #[error("{0}")]
    BadResponse(ExchangeError),
}

impl ClientError {
    /// Says whether the request may have arrived.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Unreachable { sent, .. } | Self::TimedOut { sent, .. } => *sent,
            // A stray response may be an earlier request's, so it does not show that this one has arrived.
            Self::CutOff(_) | Self::CutShort | Self::BadResponse(ExchangeError::Stray) => {
                Sent::Unknown
            }
            Self::BadResponse(_) => Sent::Yes,
        }
    }

    pub(super) fn of(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Silent(_) | ExchangeError::Ended(_) => Self::CutOff(error),
            ExchangeError::NotHttp(_) | ExchangeError::TooLong | ExchangeError::Stray => {
                Self::BadResponse(error)
            }
        }
    }

    /// Adds what is known of an earlier attempt: its `known` replaces a `no` of this one.
    pub(super) fn but_sent(mut self, known: Sent) -> Self {
        if let Self::Unreachable { sent, .. } | Self::TimedOut { sent, .. } = &mut self
            && matches!(sent, Sent::No)
        {
            *sent = known;
        }
        self
    }
}

/// The steps to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeStep {
    /// The lookup of the host's name.
    Dns,
    /// The TCP connection.
    Connect,
    /// The connection to the egress proxy, or through it.
    Proxy,
    /// The handshake, and the verification of the certificate.
    Tls,
}

impl fmt::Display for ExchangeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "DNS lookup failed: ",
            // The report names each address.
            Self::Connect => "",
            Self::Proxy => "proxy ",
            Self::Tls => "TLS failed: ",
        })
    }
}
