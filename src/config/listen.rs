//! The address of a listener: an IP address with port, or a path in the file system.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path that fits `sun_path` with its closing zero (unix(7)).
const MAX_UNIX_PATH: usize = 107;

/// An address that the app can reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listen {
    /// `127.0.0.1:8080`
    Tcp(SocketAddr),
    /// `unix:PATH`
    Unix(PathBuf),
}

/// A text that is neither an address nor `unix:PATH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an ip address and port, as in \"127.0.0.1:8080\", or \"unix:PATH\"")]
pub struct ParseListenError;

impl FromStr for Listen {
    type Err = ParseListenError;

    fn from_str(text: &str) -> Result<Self, ParseListenError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(ParseListenError),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| ParseListenError),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Resolves a relative socket path against `folder`.
    pub(super) fn within(self, folder: &Path) -> Result<Self, String> {
        let Self::Unix(path) = self else {
            return Ok(self);
        };
        let path = folder.join(path);
        if path.as_os_str().len() > MAX_UNIX_PATH {
            return Err(format!("socket path is longer than {MAX_UNIX_PATH} bytes"));
        }
        Ok(Self::Unix(path))
    }

    /// Returns true for an address that two listeners cannot share. Port 0 is a new port each time.
    pub(super) fn exclusive(&self) -> bool {
        !matches!(self, Self::Tcp(address) if address.port() == 0)
    }

    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        for text in ["127.0.0.1:8080", "[::1]:80", "unix:/run/c.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_and_missing_ports_are_refused() {
        for text in ["", "unix:", "localhost:80", "127.0.0.1", "80"] {
            assert_eq!(text.parse::<Listen>(), Err(ParseListenError), "{text}");
        }
    }
}
