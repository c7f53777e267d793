//! A connection, with or without TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::acceptor::shown;
use super::counted::Counted;
use super::unverified::{expires, subject};

/// A connection of a client. An enum, so that one without TLS costs a comparison more than a socket, and no call through a table.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// In a box, so that one in the clear is not larger for it.
    Tls(Box<TlsStream<Counted>>),
}

impl Stream {
    /// Whether there is something to read, or an end; until then, no buffer is needed. The task is woken when there is.
    ///
    /// # Errors
    /// As the socket's, or those of TLS.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(stream) => Pin::new(stream).poll_fill_buf(cx).map_ok(|_| ()),
        }
    }

    /// Writes as much as there is room for.
    ///
    /// Without TLS it tries before it asks whether there is room, and does so whatever else its task has done in this turn: what was
    /// taken from groups leads to a write in the same turn.
    ///
    /// # Errors
    /// As the socket's, or those of TLS.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => try_until_ready(socket, cx, |socket| socket.try_write(bytes)),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// As [`Stream::poll_send`], of several pieces.
    ///
    /// # Errors
    /// As the socket's, or those of TLS.
    pub fn poll_send_vectored(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => try_until_ready(socket, cx, |socket| socket.try_write_vectored(slices)),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// Bytes that the socket below TLS has taken so far. `None` without TLS: it takes what [`Stream::poll_send`] says.
    #[must_use]
    pub fn taken_encrypted(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0.taken()),
        }
    }

    /// Whose certificate the client has shown.
    #[must_use]
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => shown(stream).map(subject),
        }
    }

    /// Until when the certificate is good that the client has shown, since 1970.
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => shown(stream).and_then(expires),
        }
    }
}

fn try_until_ready(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    write: impl Fn(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        match write(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
            result => return Poll::Ready(result),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
