//! The sockets that are listened on: opened before anything is served, so that an address that is taken ends the start,
//! and kept beside their listeners, so that another process can take them over.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::ioctl_fionbio;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::holder::holder;
use crate::config::Listen;

/// Connections that wait to be accepted; the kernel has a bound of its own below this one. The standard library's is so
/// short that a crowd which comes while we start would have to knock twice.
pub const MAX_WAITING: i32 = 65_535;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {listen}: {why}")]
pub struct ListenError {
    setting: &'static str,
    listen: Listen,
    why: String,
    /// The address may be free or there later, without an edit.
    pub may_pass: bool,
}

/// An address with the setting that names it.
pub type NamedListen = (&'static str, Listen);

/// Open sockets by the address that the settings name.
pub struct Sockets(Mutex<Vec<(Listen, OwnedFd)>>);

impl Sockets {
    /// Opens every address that is not among the inherited sockets; inherited ones that no setting names are closed.
    pub fn open(
        addresses: &[NamedListen],
        mut inherited: Vec<(Listen, OwnedFd)>,
    ) -> Result<Self, ListenError> {
        let mut open = Vec::new();
        for (setting, listen) in addresses {
            let found = inherited
                .iter()
                .position(|(known, _)| *known == absolute(listen) && is_reachable(known));
            let socket = match found {
                Some(found) => inherited.swap_remove(found).1,
                None => bind(setting, listen, addresses)?,
            };
            open.push((listen.clone(), socket));
        }
        Ok(Self(Mutex::new(open)))
    }

    /// Opens and closes every address but those that the running sidecar of the same settings `held`; sockets in the file
    /// system are left alone.
    pub fn try_out(addresses: &[NamedListen], held: &[Listen]) -> Vec<ListenError> {
        let mut errors = Vec::new();
        // Kept until the end, so that two settings with one address are found out.
        let mut open = Vec::new();
        for (setting, listen) in addresses {
            let tried = match listen {
                _ if held.contains(&absolute(listen)) => continue,
                Listen::Tcp(_) => bind(setting, listen, addresses).map(|socket| open.push(socket)),
                Listen::Unix(path) => is_free(path).map_err(|why| why.at(setting, listen)),
            };
            errors.extend(tried.err());
        }
        errors
    }

    /// Another descriptor of the socket at one of the addresses.
    pub fn socket(&self, listen: &Listen) -> io::Result<OwnedFd> {
        let open = self.lock();
        let (_, socket) = open
            .iter()
            .find(|(known, _)| known == listen)
            .ok_or(ErrorKind::NotFound)?;
        socket.try_clone()
    }

    /// Shows the sockets to `look`, each under an address that holds in any working directory. None once they are closed.
    pub fn show<T>(&self, look: impl FnOnce(&[Listen], &[BorrowedFd<'_>]) -> T) -> T {
        let open = self.lock();
        let (addresses, sockets): (Vec<_>, Vec<_>) = open
            .iter()
            .map(|(listen, socket)| (absolute(listen), socket.as_fd()))
            .unzip();
        look(&addresses, &sockets)
    }

    /// Closes them: a socket is open until its listener has closed it too.
    pub fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Listen, OwnedFd)>> {
        self.0.lock()
    }
}

fn absolute(listen: &Listen) -> Listen {
    match listen {
        Listen::Unix(path) => {
            Listen::Unix(std::path::absolute(path).unwrap_or_else(|_| path.clone()))
        }
        Listen::Tcp(_) => listen.clone(),
    }
}

/// A socket whose file was removed is open, and no client can find it.
fn is_reachable(listen: &Listen) -> bool {
    match listen {
        Listen::Unix(path) => UnixStream::connect(path).is_ok(),
        Listen::Tcp(_) => true,
    }
}

/// A reason, and whether it may pass by waiting.
struct BindError {
    why: String,
    may_pass: bool,
}

impl BindError {
    fn at(self, setting: &'static str, listen: &Listen) -> ListenError {
        ListenError {
            setting,
            listen: listen.clone(),
            why: self.why,
            may_pass: self.may_pass,
        }
    }

    fn lasting(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            may_pass: false,
        }
    }

    fn passing(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            may_pass: true,
        }
    }
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        let may_pass = matches!(
            error.kind(),
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
        );
        Self {
            why: error.to_string(),
            may_pass,
        }
    }
}

impl From<rustix::io::Errno> for BindError {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

fn bind(
    setting: &'static str,
    listen: &Listen,
    all: &[NamedListen],
) -> Result<OwnedFd, ListenError> {
    let bound = match listen {
        Listen::Tcp(address) => bind_tcp(*address, all),
        Listen::Unix(path) => bind_unix(path),
    };
    let ready = bound.and_then(|socket| {
        // The flag belongs to the open socket and not to the descriptor (fcntl(2)): a process that inherits it has it
        // too.
        ioctl_fionbio(&socket, true)?;
        rustix::net::listen(&socket, MAX_WAITING)?;
        Ok(socket)
    });
    ready.map_err(|error| match listen {
        // A socket may be bound to what another one only listens on from the next step on.
        Listen::Tcp(address) if error.may_pass => {
            explained(error, setting, *address).at(setting, listen)
        }
        _ => error.at(setting, listen),
    })
}

fn bind_tcp(address: SocketAddr, all: &[NamedListen]) -> Result<OwnedFd, BindError> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A restart may bind beside connections in TIME_WAIT; a second listener stays out all the same (socket(7)).
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // `[::]` takes IPv4 too by default (ipv6(7)), unless a setting gives IPv4 on this port a socket of its own.
    let is_given_apart = |(_, other): &NamedListen| matches!(other, Listen::Tcp(SocketAddr::V4(v4)) if v4.port() == address.port());
    if address.is_ipv6() && all.iter().any(is_given_apart) {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Adds who holds an address and what to do.
fn explained(error: BindError, setting: &str, address: SocketAddr) -> BindError {
    let why = match holder(address) {
        Some(holder) => format!(
            "{}; {holder} listens there: stop it, or change {setting}",
            error.why
        ),
        None => error.why,
    };
    BindError { why, ..error }
}

fn bind_unix(path: &Path) -> Result<OwnedFd, BindError> {
    is_free(path)?;
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path)?;
    // Whatever the mask says: who may connect is decided by the folder.
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(socket.into())
}

/// Free, or taken by nothing but the socket of a process that ended hard.
fn is_free(path: &Path) -> Result<(), BindError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return Err(BindError::passing("its folder does not exist"));
    }
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::lasting("a file that is no socket is in the way"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        _ => Err(BindError::passing("another process listens there")),
    }
}
