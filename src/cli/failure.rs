//! Failures of commands, by exit code.

use std::fmt;

use crate::config::Problems;
use crate::server::StartError;

/// A command that did not end well.
pub(super) enum Failure {
    /// A negative result: an invalid signature, a failed probe. Exit code 1.
    No(String),
    /// The arguments or the input make no sense. Exit code 2.
    Usage(String),
    /// Something that another try may find mended: a store that is locked, an address in use. Exit code 75 (EX_TEMPFAIL).
    Later(String),
    /// A configuration that needs an edit or a decision. Exit code 78 (EX_CONFIG).
    Config(String),
    /// Files that are rejected, with every reason. Exit code 78.
    Rejected(Problems),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(message)
            | Self::Usage(message)
            | Self::Later(message)
            | Self::Config(message) => f.write_str(message),
            Self::Rejected(problems) => problems.fmt(f),
        }
    }
}

impl Failure {
    /// Returns the exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::No(_) => 1,
            Self::Usage(_) => 2,
            Self::Later(_) => 75,
            Self::Config(_) | Self::Rejected(_) => 78,
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Rejected(problems)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error.may_pass {
            true => Self::Later(error.to_string()),
            false => Self::Config(error.to_string()),
        }
    }
}
