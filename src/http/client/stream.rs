//! The stream of an outgoing connection: the kernel's socket itself, or TLS over it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Bytes of an idle stream that are read to see what they are: a status line up to its code.
const STATUS: usize = "HTTP/1.1 408".len();

/// The state of a stream that waits for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleState {
    /// Nothing has come.
    Quiet,
    /// The server has closed it, or says that it does.
    Ended,
    /// Bytes have come that belong to no request.
    Stray,
}

/// An open stream to a server. It is watched by the runtime that opened it.
#[derive(Debug)]
pub enum ClientStream {
    /// Plain TCP, nothing in between.
    Tcp(TcpStream),
    /// TLS whose certificate was verified; in a box, because its state is large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientStream {
    /// Reads the state of an idle stream. Costs no system call where the runtime knows of nothing.
    pub fn idle_state(&mut self) -> IdleState {
        let mut start = [0; STATUS];
        let mut read = ReadBuf::new(&mut start);
        // No task waits on an idle connection; the next exchange registers its own waker.
        let mut context = Context::from_waker(Waker::noop());
        match pin!(self).poll_read(&mut context, &mut read) {
            Poll::Pending => IdleState::Quiet,
            Poll::Ready(Err(_)) => IdleState::Ended,
            Poll::Ready(Ok(())) => match read.filled() {
                // With a 408 a server may close an idle connection (RFC 9110 §15.5.9).
                [] | b"HTTP/1.1 408" | b"HTTP/1.0 408" => IdleState::Ended,
                _ => IdleState::Stray,
            },
        }
    }

    /// Reads the state of an idle stream, and asks the kernel too: the runtime learns of what has come only when it next
    /// waits.
    pub fn certain_idle_state(&mut self) -> IdleState {
        match self.idle_state() {
            IdleState::Quiet => {}
            state => return state,
        }
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(self.socket(), &mut byte, flags) {
            Err(rustix::io::Errno::AGAIN) => IdleState::Quiet,
            // Of TLS, a record without content may be what has come.
            Ok((_, 1..)) if matches!(self, Self::Tcp(_)) => IdleState::Stray,
            // 0 bytes are the end of the stream, and any other error is no better (recv(2)).
            _ => IdleState::Ended,
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
