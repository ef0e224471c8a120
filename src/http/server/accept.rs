//! A door with its sockets, as a service of Pingora's.
//!
//! Keeps two promises: each connection stays with one thread, which watches it and serves it; and whoever was connected
//! before the end is answered, because connections in the kernel's queue would be reset with their socket.

use std::io;
use std::net;
use std::os::unix;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora_runtime::current_handle;
use tokio::net::{TcpListener, UnixListener};

use super::connection::{Door, Handler};
use crate::config::Listen;
use crate::http::io::stream::Accepted;
use crate::process::sockets::{MAX_WAITING, Sockets};

/// Out of descriptors, most likely: some will be given back.
const PAUSE: Duration = Duration::from_millis(100);
/// That it is so is said again after this.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// One listener on all of its addresses.
pub struct Listener<H> {
    name: String,
    door: Arc<Door<H>>,
    sockets: Vec<Socket>,
    threads: Option<usize>,
}

enum Socket {
    Tcp(net::TcpListener),
    Unix(unix::net::UnixListener),
}

/// A socket that this runtime watches.
enum Watched {
    Tcp(TcpListener),
    Unix(UnixListener),
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
        let sockets = addresses.iter().map(|address| {
            let socket = open.socket(address)?;
            Ok(match address {
                Listen::Tcp(_) => Socket::Tcp(socket.into()),
                Listen::Unix(_) => Socket::Unix(socket.into()),
            })
        });
        Ok(Self {
            name: name.to_owned(),
            door: Arc::new(door),
            sockets: sockets.collect::<io::Result<_>>()?,
            threads,
        })
    }
}

#[async_trait]
impl<H: Handler> Service for Listener<H> {
    /// Ready when nobody is let in any longer.
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let (name, door) = (&self.name, &self.door);
        let sockets = self.sockets.drain(..);
        join_all(sockets.map(|socket| socket.let_in(name, door, shutdown.clone()))).await;
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }
}

impl Socket {
    /// Until the end begins and nobody waits; then the socket is closed.
    async fn let_in<H: Handler>(
        self,
        name: &str,
        door: &Arc<Door<H>>,
        mut shutdown: ShutdownWatch,
    ) {
        let let_in = async {
            let watched = self.watch()?;
            tokio::select! {
                () = watched.let_in(name, door) => {}
                _ = shutdown.wait_for(|over| *over) => {}
            }
            watched.leave()
        };
        match let_in.await {
            Ok(socket) => socket.let_in_who_waits(door),
            Err(error) => tracing::error!(listener = name, %error, "nobody is let in any longer"),
        }
    }

    fn watch(self) -> io::Result<Watched> {
        Ok(match self {
            Self::Tcp(listener) => Watched::Tcp(TcpListener::from_std(listener)?),
            Self::Unix(listener) => Watched::Unix(UnixListener::from_std(listener)?),
        })
    }

    fn let_in_who_waits<H: Handler>(&self, door: &Arc<Door<H>>) {
        let accept = || match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Accepted::Tcp(stream)),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Accepted::Unix(stream)),
        };
        for _ in 0..MAX_WAITING {
            let Ok(accepted) = accept() else {
                return;
            };
            open(door, accepted);
        }
    }
}

impl Watched {
    /// For ever.
    async fn let_in<H: Handler>(&self, name: &str, door: &Arc<Door<H>>) {
        let mut said: Option<Instant> = None;
        loop {
            match self.accept().await {
                Ok(accepted) => open(door, accepted),
                Err(error) => {
                    if said.is_none_or(|said| said.elapsed() > SAID_AGAIN) {
                        said = Some(Instant::now());
                        tracing::warn!(listener = name, %error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A connection that this runtime does not watch: another may be going to serve it.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await?.0.into_std().map(Accepted::Tcp),
            Self::Unix(listener) => listener.accept().await?.0.into_std().map(Accepted::Unix),
        }
    }

    fn leave(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(listener) => Socket::Tcp(listener.into_std()?),
            Self::Unix(listener) => Socket::Unix(listener.into_std()?),
        })
    }
}

/// Serves a listener that Pingora does not manage, until the task is dropped.
pub async fn serve<H: Handler>(listener: TcpListener, door: Arc<Door<H>>) {
    Watched::Tcp(listener).let_in("own", &door).await;
}

/// Serves a connection on one of the threads.
fn open<H: Handler>(door: &Arc<Door<H>>, accepted: Accepted) {
    let door = door.clone();
    current_handle().spawn(async move {
        // Where this fails the other side is gone.
        if let Ok(wire) = accepted.into_wire() {
            door.serve(wire).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::connection::{Limits, Service};
    use crate::http::server::rejection::Rejection;
    use crate::process::drain::Drain;
    use bytes::Bytes;
    use http::request::Parts;
    use http::{Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

    /// Says `ok`, or nothing ever where it is deaf.
    struct Words {
        deaf: bool,
    }

    impl Handler for Words {
        async fn handle(
            &self,
            _request: &mut Request<Bytes>,
            _started: Instant,
        ) -> Response<Bytes> {
            if self.deaf {
                std::future::pending::<()>().await;
            }
            Response::new(Bytes::from_static(b"ok"))
        }

        fn refuse(&self, _head: &Parts, why: Rejection, _started: Instant) -> Response<Bytes> {
            Response::new(Bytes::from(format!("{why:?}")))
        }
    }

    fn door(deaf: bool, drain: &Arc<Drain>) -> Door<Words> {
        let limits = Limits {
            max_body: 1024,
            max_in_flight: 64,
            max_connections: 64,
        };
        Door::plain(Service::new(Words { deaf }, limits, drain.clone()))
    }

    async fn body(mut client: TcpStream) -> String {
        let mut answer = [0; 1024];
        let length = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        answer.rsplit_once("\r\n\r\n").unwrap().1.to_owned()
    }

    #[tokio::test]
    async fn who_waits_to_be_accepted_when_the_end_comes_is_answered() {
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
        let door = Arc::new(door(false, &Arc::default()));
        Socket::Tcp(listener).let_in("app", &door, shutdown).await;
        for client in clients {
            assert_eq!(body(client).await, "ok");
        }
    }

    #[tokio::test]
    async fn a_handler_that_is_deaf_to_the_end_is_answered_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Arc::<Drain>::default();
        let served = tokio::spawn(serve(listener, Arc::new(door(true, &drain))));
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
