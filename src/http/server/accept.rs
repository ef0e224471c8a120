//! A listener: a service on its sockets, run as a service of Pingora's.
//!
//! Keeps two promises. Each connection stays with one thread, which polls it and serves it. At a shutdown, connections that
//! wait in the kernel's queue are accepted and answered first, because they would be reset when their socket is closed.

use std::io;
use std::io::ErrorKind;
use std::net;
use std::os::unix;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service as PingoraService;
use pingora_runtime::current_handle;
use tokio::net::{TcpListener, UnixListener};

use super::connection;
use super::handler::Handler;
use super::service::Service;
use crate::config::Listen;
use crate::http::io::stream::Accepted;
use crate::http::log_limit::LogLimit;
use crate::process::sockets::{MAX_WAITING, Sockets};

/// Pause after a failed `accept`. Most likely the process is out of descriptors, and connections that end give some back.
const PAUSE: Duration = Duration::from_millis(100);

/// One listener on all of its addresses.
pub struct Listener<H> {
    name: String,
    service: Arc<Service<H>>,
    sockets: Vec<Socket>,
    threads: Option<usize>,
}

enum Socket {
    Tcp(net::TcpListener),
    Unix(unix::net::UnixListener),
}

/// A socket that the current runtime polls.
enum PolledSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl<H: Handler> Listener<H> {
    /// Listens on `addresses`, which are all among the open sockets. `threads` defaults to the server's number of threads.
    pub fn new(
        name: &str,
        service: Service<H>,
        addresses: &[Listen],
        open: &Sockets,
        threads: Option<usize>,
    ) -> io::Result<Self> {
        let sockets = addresses.iter().map(|address| {
            let socket = open.socket(address)?;
            Ok(match address {
                Listen::Tcp(_) => Socket::Tcp(socket.into()),
                Listen::Unix(_) => Socket::Unix(socket.into()),
            })
        });
        Ok(Self {
            name: name.to_owned(),
            service: Arc::new(service),
            sockets: sockets.collect::<io::Result<_>>()?,
            threads,
        })
    }
}

#[async_trait]
impl<H: Handler> PingoraService for Listener<H> {
    /// Returns when no connection is accepted any longer.
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let (name, service) = (&self.name, &self.service);
        let sockets = self.sockets.drain(..);
        join_all(sockets.map(|socket| socket.accept_all(name, service, shutdown.clone()))).await;
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }
}

impl Socket {
    /// Accepts until the process shuts down and the kernel's queue is empty, then closes the socket.
    async fn accept_all<H: Handler>(
        self,
        name: &str,
        service: &Arc<Service<H>>,
        mut shutdown: ShutdownWatch,
    ) {
        let accept = async {
            let polled = self.poll()?;
            tokio::select! {
                // No connection is lost where the shutdown comes first: tokio's `accept` is cancel safe, and nothing is
                // awaited between it and the spawn.
                () = polled.accept_all(name, service) => {}
                _ = shutdown.wait_for(|begun| *begun) => {}
            }
            polled.into_socket()
        };
        match accept.await {
            Ok(socket) => socket.accept_waiting(service),
            Err(error) => {
                tracing::error!(listener = name, %error, "the listener accepts no more connections")
            }
        }
    }

    fn poll(self) -> io::Result<PolledSocket> {
        Ok(match self {
            Self::Tcp(listener) => PolledSocket::Tcp(TcpListener::from_std(listener)?),
            Self::Unix(listener) => PolledSocket::Unix(UnixListener::from_std(listener)?),
        })
    }

    /// Accepts what waits in the kernel's queue.
    fn accept_waiting<H: Handler>(&self, service: &Arc<Service<H>>) {
        let accept = || match self {
            Self::Tcp(listener) => {
                let accepted = listener.accept();
                accepted.map(|(stream, peer)| Accepted::Tcp(stream, peer))
            }
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Accepted::Unix(stream)),
        };
        // Bounded, because connections go on arriving for as long as the socket is open.
        for _ in 0..MAX_WAITING {
            match accept() {
                Ok(accepted) => spawn(service, accepted),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It may be of this one connection alone, such as ECONNABORTED: others wait behind it (accept(2)).
                Err(_) => {}
            }
        }
    }
}

impl PolledSocket {
    /// Accepts until the future is dropped.
    async fn accept_all<H: Handler>(&self, name: &str, service: &Arc<Service<H>>) {
        let log = LogLimit::default();
        loop {
            match self.accept().await {
                Ok(accepted) => spawn(service, accepted),
                Err(error) => {
                    if log.due().is_some() {
                        tracing::warn!(listener = name, %error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Accepts a connection. The current runtime does not keep it, because another one may serve it.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, peer))
            }
            Self::Unix(listener) => listener.accept().await?.0.into_std().map(Accepted::Unix),
        }
    }

    fn into_socket(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(listener) => Socket::Tcp(listener.into_std()?),
            Self::Unix(listener) => Socket::Unix(listener.into_std()?),
        })
    }
}

/// Serves a listener that Pingora does not manage, until the task is dropped.
pub async fn serve<H: Handler>(listener: TcpListener, service: Arc<Service<H>>) {
    PolledSocket::Tcp(listener)
        .accept_all("own", &service)
        .await;
}

/// Serves a connection on one of the threads.
fn spawn<H: Handler>(service: &Arc<Service<H>>, accepted: Accepted) {
    let service = service.clone();
    let peer = accepted.peer();
    let admitted = service.admission.admit(peer);
    let slot = admitted.as_ref().map(|it| it.slot.clone());
    // One of the pool's threads, picked at random; without work stealing the task stays there.
    let task = current_handle().spawn(async move {
        // Where this fails the other side is gone.
        let Ok(stream) = accepted.into_stream() else {
            return;
        };
        match admitted {
            Some(admitted) => connection::serve(&service, stream, peer, admitted).await,
            // In a box, so that the others are the smaller for it.
            None => Box::pin(connection::turn_away(&service, stream, peer)).await,
        }
    });
    if let Some(slot) = slot {
        // The task may have ended by now; aborting it then does nothing.
        slot.set_task(task.abort_handle());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::handler::Rejection;
    use crate::process::drain::Drain;
    use bytes::Bytes;
    use http::request::Parts;
    use http::{Request, Response};
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

    /// Responds `ok`, or never.
    struct Fixed {
        is_deaf: bool,
    }

    impl Handler for Fixed {
        async fn handle(
            &self,
            _request: &mut Request<Bytes>,
            _started: Instant,
        ) -> Response<Bytes> {
            if self.is_deaf {
                std::future::pending::<()>().await;
            }
            Response::new(Bytes::from_static(b"ok"))
        }

        fn reject(&self, _head: &Parts, why: Rejection, _started: Instant) -> Response<Bytes> {
            Response::new(Bytes::from(format!("{why:?}")))
        }
    }

    fn service(is_deaf: bool, drain: &Arc<Drain>) -> Arc<Service<Fixed>> {
        let mut service = Service::unmeasured("app", Fixed { is_deaf });
        service.drain = drain.clone();
        Arc::new(service)
    }

    async fn body(mut client: TcpStream) -> String {
        let mut answer = [0; 1024];
        let length = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        answer.rsplit_once("\r\n\r\n").unwrap().1.to_owned()
    }

    #[tokio::test]
    async fn connections_in_the_queue_at_a_shutdown_are_answered() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..32 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(REQUEST).await.unwrap();
            clients.push(client);
        }
        let (_over, shutdown) = watch::channel(true);
        let service = service(false, &Arc::default());
        let socket = Socket::Tcp(listener);
        socket.accept_all("app", &service, shutdown).await;
        for client in clients {
            assert_eq!(body(client).await, "ok");
        }
    }

    #[tokio::test]
    async fn a_handler_that_ignores_the_shutdown_is_answered_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Arc::<Drain>::default();
        let served = tokio::spawn(serve(listener, service(true, &drain)));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        while drain.in_flight() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let began = Instant::now();
        drain.drain(Duration::from_millis(600)).await;
        assert!(began.elapsed() < Duration::from_millis(800));
        assert_eq!(body(client).await, "CutShort");
        served.abort();
    }
}
