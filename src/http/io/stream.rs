//! The stream that a connection runs over: the kernel's socket itself, or TLS as Pingora does it.

use std::io;
use std::net;
use std::os::fd::AsRawFd;
use std::os::unix;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Bytes that a session writes are gathered up to this number: a head and a small body leave in one packet.
const WRITE_BUFFER: usize = 4096;

/// An open stream of bytes, watched by the runtime that it was made in.
#[derive(Debug)]
pub enum IoStream {
    /// Plain TCP, nothing in between.
    Tcp(TcpStream),
    /// TLS, or a socket in the file system.
    Pingora(Stream),
}

/// A socket that was accepted and that no runtime watches yet.
pub enum Accepted {
    /// Plain TCP, and the other end's address.
    Tcp(net::TcpStream, net::SocketAddr),
    /// A socket in the file system.
    Unix(unix::net::UnixStream),
}

impl Accepted {
    /// Returns the other end's address; a socket in the file system has none.
    pub fn peer(&self) -> Option<net::IpAddr> {
        match self {
            Self::Tcp(_, peer) => Some(peer.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }

    /// Hands the socket to the current runtime.
    pub fn into_stream(self) -> io::Result<IoStream> {
        match self {
            Self::Tcp(stream, _) => {
                // accept(2) does not pass the flag on, and a blocking read would stop every connection of this thread.
                stream.set_nonblocking(true)?;
                // A response may leave in two writes; Nagle would hold the second one until the client acknowledges the
                // first, which it delays (RFC 1122 §4.2.3.2).
                stream.set_nodelay(true)?;
                TcpStream::from_std(stream).map(IoStream::Tcp)
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(true)?;
                let stream = UnixStream::from_std(stream)?;
                Ok(IoStream::Pingora(Box::new(L4Stream::from(stream))))
            }
        }
    }
}

impl IoStream {
    /// Returns plain TCP in the form that a TLS handshake of Pingora's takes, and a count of its bytes.
    pub fn into_buffered(stream: TcpStream) -> (BufferedStream, ReceivedBytes) {
        let stream = BufferedStream::new(stream);
        let received = stream.received.clone();
        (stream, received)
    }

    /// Returns the stream in the form that a session of Pingora's takes; [`IoStream::from`] takes it back.
    pub fn into_stream(self) -> Stream {
        match self {
            Self::Tcp(stream) => Box::new(BufferedStream::new(stream)),
            Self::Pingora(stream) => stream,
        }
    }
}

/// Takes a stream back from a session.
impl From<Stream> for IoStream {
    fn from(stream: Stream) -> Self {
        if !stream.as_any().is::<BufferedStream>() {
            return Self::Pingora(stream);
        }
        let buffered = stream.into_any().downcast::<BufferedStream>();
        let buffered = buffered.expect("its type was checked").stream;
        debug_assert!(buffered.buffer().is_empty(), "a session has flushed");
        // Drops what is in the write buffer: a stream is taken back only after a flush.
        Self::Tcp(buffered.into_inner())
    }
}

impl AsyncRead for IoStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Pingora(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for IoStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Pingora(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Pingora(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Pingora(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Plain TCP in the form that Pingora's sessions and handshakes take: it gathers what is written and knows its addresses.
/// Unlike Pingora's own stream it can be taken apart again.
#[derive(Debug)]
pub struct BufferedStream {
    stream: BufWriter<TcpStream>,
    digest: Arc<SocketDigest>,
    received: ReceivedBytes,
}

/// Number of bytes that a stream has received so far. Below TLS it shows how much a client has sent while TLS has nothing to
/// pass on yet.
#[derive(Debug, Clone, Default)]
pub struct ReceivedBytes(Arc<AtomicUsize>);

impl ReceivedBytes {
    /// Returns the number.
    pub fn total(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl BufferedStream {
    fn new(stream: TcpStream) -> Self {
        Self {
            digest: Arc::new(SocketDigest::from_raw_fd(stream.as_raw_fd())),
            stream: BufWriter::with_capacity(WRITE_BUFFER, stream),
            received: ReceivedBytes::default(),
        }
    }
}

impl AsyncRead for BufferedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut own.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        own.received.0.fetch_add(read, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for BufferedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for BufferedStream {
    async fn shutdown(&mut self) {
        // The other side may be gone already.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for BufferedStream {
    fn id(&self) -> UniqueIDType {
        self.stream.get_ref().as_raw_fd()
    }
}

impl GetSocketDigest for BufferedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

impl GetTimingDigest for BufferedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for BufferedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl Ssl for BufferedStream {}

impl Peek for BufferedStream {}
