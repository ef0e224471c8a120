//! The merchants' apps: one that counts and takes, or rejects on demand, and one that hangs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An app in the bench's own process.
#[derive(Clone)]
pub(super) struct App {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
    rejects: Arc<AtomicBool>,
}

impl App {
    /// An app that takes every result.
    pub(super) async fn start() -> Self {
        let (listener, address) = listen().await;
        let app = Self {
            address,
            taken: Arc::default(),
            rejects: Arc::default(),
        };
        let own = app.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(stream));
            }
        });
        app
    }

    /// An app that takes connections, and responds to nothing. Its URL.
    pub(super) async fn hanging() -> String {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        url(address)
    }

    /// The URL of an app that is not there.
    pub(super) async fn absent() -> String {
        let (_, address) = listen().await;
        url(address)
    }

    pub(super) fn url(&self) -> String {
        url(self.address)
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Rejects from now on, or takes.
    pub(super) fn reject(&self, rejects: bool) {
        self.rejects.store(rejects, Ordering::Relaxed);
    }

    async fn serve(self, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("an open socket");
        let mut request = Vec::with_capacity(4096);
        loop {
            request.clear();
            while !is_whole(&request) {
                match stream.read_buf(&mut request).await {
                    Ok(read) if read > 0 => {}
                    _ => return,
                }
            }
            let reply: &[u8] = match self.rejects.load(Ordering::Relaxed) {
                true => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno",
                false => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n0000",
            };
            if reply.ends_with(b"0000") {
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
            if stream.write_all(reply).await.is_err() {
                return;
            }
        }
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    (listener, address)
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// The header and as much of a body as it announces.
fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|it| it.parse().ok()).expect("a length");
    request.len() >= end + 4 + length
}
