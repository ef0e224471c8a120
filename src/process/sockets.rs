//! The sockets that are listened on: opened before anything is served, so that an address that is taken ends the start,
//! and kept beside their listeners, so that another process can take them over.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::ioctl_fionbio;

use crate::config::Listen;

/// Connections that wait to be accepted; the kernel has a bound of its own below this one. The standard library's is so
/// short that a crowd which comes while we start would have to knock twice.
pub const MAX_WAITING: i32 = 65_535;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {why}")]
pub struct ListenError {
    listen: Listen,
    why: String,
}

/// Open sockets by the address that the settings name.
pub struct Sockets(Mutex<Vec<(Listen, OwnedFd)>>);

impl Sockets {
    /// Opens every address, where it is not among the sockets that were inherited; of those, the others are closed.
    pub fn open<'a>(
        addresses: impl IntoIterator<Item = &'a Listen>,
        mut inherited: Vec<(Listen, OwnedFd)>,
    ) -> Result<Self, ListenError> {
        let mut open = Vec::new();
        for listen in addresses {
            let found = inherited
                .iter()
                .position(|(known, _)| *known == absolute(listen) && is_reachable(known));
            let socket = match found {
                Some(found) => inherited.swap_remove(found).1,
                None => bind(listen).map_err(|why| ListenError {
                    listen: listen.clone(),
                    why,
                })?,
            };
            open.push((listen.clone(), socket));
        }
        Ok(Self(Mutex::new(open)))
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A socket whose file was removed is open, and nobody can find it.
fn is_reachable(listen: &Listen) -> bool {
    match listen {
        Listen::Unix(path) => UnixStream::connect(path).is_ok(),
        Listen::Tcp(_) => true,
    }
}

fn bind(listen: &Listen) -> Result<OwnedFd, String> {
    let bound = match listen {
        Listen::Tcp(address) => TcpListener::bind(address).map(OwnedFd::from),
        Listen::Unix(path) => {
            make_way(path)?;
            UnixListener::bind(path).and_then(|socket| {
                // Whatever the mask says: who may connect is decided by the folder.
                fs::set_permissions(path, Permissions::from_mode(0o666))?;
                Ok(OwnedFd::from(socket))
            })
        }
    };
    let ready = bound.and_then(|socket| {
        ioctl_fionbio(&socket, true)?;
        rustix::net::listen(&socket, MAX_WAITING)?;
        Ok(socket)
    });
    ready.map_err(|error| error.to_string())
}

/// Removes what a process that ended hard left behind, and nothing else.
fn make_way(path: &Path) -> Result<(), String> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return Err("its folder does not exist".to_owned());
    }
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err("a file that is no socket is in the way".to_owned());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| error.to_string())
        }
        _ => Err("another process listens there".to_owned()),
    }
}
