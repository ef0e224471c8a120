//! A door with its sockets, as a service of Pingora's. Pingora listens on the sockets that it is given, and opens none.
//!
//! Keeps the promise that whoever was connected before the end is answered: Pingora stops listening with connections in
//! the kernel's queue, which would be reset.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::ListenerConfig;
use pingora::protocols::l4::stream::{L4BufferSettings, Stream as L4Stream};
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening;

use super::serve::{Door, Handler};
use crate::config::Listen;
use crate::sockets::{MAX_WAITING, Sockets};

/// A connection's read and write buffer: a call and its answer fit, and an idle connection costs little.
const CONNECTION_BUFFER: usize = 4096;

/// One listener on all of its addresses.
pub struct Listener<H> {
    service: listening::Service<Entrance<H>>,
    door: Arc<Door<H>>,
    /// By the names that Pingora looks them up with.
    given: Vec<(String, OwnedFd)>,
    kept: Vec<Kept>,
}

/// The same sockets, for what Pingora leaves.
enum Kept {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Pingora's own handle of the door.
struct Entrance<H>(Arc<Door<H>>);

#[async_trait]
impl<H: Handler> ServerApp for Entrance<H> {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.0.process_new(stream, shutdown).await
    }
}

impl<H: Handler> Listener<H> {
    /// Listens on `addresses`, which are all among the open sockets. `threads`: as many as the server has by default.
    pub fn new(
        name: &str,
        door: Door<H>,
        addresses: &[Listen],
        open: &Sockets,
        threads: Option<usize>,
    ) -> io::Result<Self> {
        let door = Arc::new(door);
        let mut service = listening::Service::new(name.to_owned(), Entrance(door.clone()));
        service.threads = threads;
        let (mut given, mut kept) = (Vec::new(), Vec::new());
        for address in addresses {
            let socket = open.socket(address)?;
            let (name, endpoint) = match address {
                Listen::Tcp(address) => {
                    kept.push(Kept::Tcp(socket.into()));
                    let name = address.to_string();
                    (name.clone(), ListenerConfig::tcp(name))
                }
                Listen::Unix(path) => {
                    kept.push(Kept::Unix(socket.into()));
                    let name = path.to_string_lossy().into_owned();
                    (name.clone(), ListenerConfig::uds(name))
                }
            };
            let buffer = L4BufferSettings::new(CONNECTION_BUFFER, CONNECTION_BUFFER);
            service.add_listener(endpoint.l4_buffer(buffer));
            given.push((name, open.socket(address)?));
        }
        Ok(Self {
            service,
            door,
            given,
            kept,
        })
    }
}

#[async_trait]
impl<H: Handler> Service for Listener<H> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        if let Some(fds) = &fds {
            let mut fds = fds.lock();
            for (name, socket) in self.given.drain(..) {
                fds.add(name, socket.into_raw_fd());
            }
        }
        let service = &mut self.service;
        Service::start_service(service, fds, shutdown.clone(), listeners_per_fd).await;
        for socket in self.kept.drain(..) {
            socket.let_in_who_waits(&self.door, &shutdown);
        }
    }

    fn name(&self) -> &str {
        Service::name(&self.service)
    }

    fn threads(&self) -> Option<usize> {
        Service::threads(&self.service)
    }
}

impl Kept {
    /// Until nobody waits; then the socket is closed.
    fn let_in_who_waits<H: Handler>(self, door: &Arc<Door<H>>, shutdown: &ShutdownWatch) {
        for _ in 0..MAX_WAITING {
            let Ok(mut stream) = self.accept() else {
                return;
            };
            // Where it comes from is asked later.
            stream.set_socket_digest(SocketDigest::from_raw_fd(stream.as_raw_fd()));
            let (door, shutdown) = (door.clone(), shutdown.clone());
            tokio::spawn(async move { door.process_new(Box::new(stream), &shutdown).await });
        }
    }

    fn accept(&self) -> io::Result<L4Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(tokio::net::TcpStream::from_std(stream)?.into())
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(tokio::net::UnixStream::from_std(stream)?.into())
            }
        }
    }
}
