//! The stream of an outgoing connection: the kernel's socket itself, or TLS over it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// An open stream to a server. It is watched by the runtime that opened it.
#[derive(Debug)]
pub enum ClientStream {
    /// Plain TCP, nothing in between.
    Tcp(TcpStream),
    /// TLS whose certificate was verified; in a box, because its state is large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientStream {
    /// Returns true where nothing has come on an idle stream, neither its end nor a byte. Costs no system call
    /// where the runtime knows of nothing.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        // No task waits on an idle connection; the next exchange registers its own waker.
        let mut context = Context::from_waker(Waker::noop());
        let polled = pin!(self).poll_read(&mut context, &mut read);
        matches!(polled, Poll::Pending)
    }

    /// Does the same and asks the kernel too: the runtime learns of what has come only when it next waits.
    pub fn is_certainly_quiet(&mut self) -> bool {
        self.is_quiet() && {
            let mut byte = [0; 1];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let peeked = rustix::net::recv(self.socket(), &mut byte, flags);
            // 0 bytes are the end of the stream, and any other error is no better (recv(2)).
            matches!(peeked, Err(rustix::io::Errno::AGAIN))
        }
    }

    /// Returns true where stray bytes have come. The end of the stream is none.
    pub fn has_bytes(&mut self) -> bool {
        let mut byte = [0; 1];
        if let Self::Tcp(stream) = self {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let peeked = rustix::net::recv(stream, &mut byte, flags);
            return peeked.is_ok_and(|(_, length)| length > 0);
        }
        // Records without content, session tickets say, may come at any time.
        let mut read = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let polled = pin!(self).poll_read(&mut context, &mut read);
        matches!(polled, Poll::Ready(Ok(()))) && !read.filled().is_empty()
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
