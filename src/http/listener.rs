//! A door with its sockets, as a service of Pingora's. Pingora listens on the sockets that it is given, and opens none.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

use async_trait::async_trait;
use pingora::listeners::ListenerConfig;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening;

use super::serve::{Door, Handler};
use crate::config::Listen;
use crate::sockets::Sockets;

/// A connection's read and write buffer: a call and its answer fit, and an idle connection costs little.
const CONNECTION_BUFFER: usize = 4096;

/// One listener on all of its addresses.
pub struct Listener<H> {
    service: listening::Service<Door<H>>,
    /// By the names that Pingora looks them up with.
    sockets: Vec<(String, OwnedFd)>,
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
        let mut service = listening::Service::new(name.to_owned(), door);
        service.threads = threads;
        let mut sockets = Vec::new();
        for address in addresses {
            let (name, endpoint) = match address {
                Listen::Tcp(address) => {
                    let name = address.to_string();
                    (name.clone(), ListenerConfig::tcp(name))
                }
                Listen::Unix(path) => {
                    let name = path.to_string_lossy().into_owned();
                    (name.clone(), ListenerConfig::uds(name))
                }
            };
            let buffer = L4BufferSettings::new(CONNECTION_BUFFER, CONNECTION_BUFFER);
            service.add_listener(endpoint.l4_buffer(buffer));
            sockets.push((name, open.socket(address)?));
        }
        Ok(Self { service, sockets })
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
            for (name, socket) in self.sockets.drain(..) {
                fds.add(name, socket.into_raw_fd());
            }
        }
        Service::start_service(&mut self.service, fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        Service::name(&self.service)
    }

    fn threads(&self) -> Option<usize> {
        Service::threads(&self.service)
    }
}
