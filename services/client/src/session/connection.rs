//! A connection as lines.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tertulia_protocol::LineBuffer;
use tertulia_tls_client::{Security, explained};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::dial::{CONNECT, Host};
use crate::screen::Screen;

/// No line of a server is longer, unless it allows longer messages: a page of history is the longest there is.
pub(crate) const LONGEST_LINE: usize = 16 * 1024 * 1024;
/// How long a last write may take.
const CLOSE: Duration = Duration::from_secs(1);
/// Commands wait while so many bytes wait to be written.
const ENOUGH_PENDING: usize = 1024 * 1024;
/// Read at once.
const CHUNK: usize = 32 * 1024;

/// The bytes of a connection, in the clear or within TLS.
type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// What a [`Connection::transfer`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Bytes came: take the lines.
    Read,
    /// Bytes went.
    Wrote,
    /// The server closed the connection.
    Ended,
}

/// Both directions of a connection, with what waits in them.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    read: ReadHalf<Wire>,
    write: WriteHalf<Wire>,
    lines: LineBuffer,
    longest_line: usize,
    pending: BytesMut,
    /// Whether something may be encrypted and not sent.
    unflushed: bool,
}

impl Connection {
    /// Connects to the host, with TLS if there is something about it.
    pub(crate) async fn open(host: &mut Host, security: Option<&Security>) -> io::Result<Self> {
        let (address, stream) = host.dial().await?;
        stream.set_nodelay(true)?;
        let wire = match security {
            None => Wire::Left(stream),
            Some(security) => match encrypt(stream, security).await {
                Ok(encrypted) => Wire::Right(Box::new(encrypted)),
                Err(error) => {
                    host.note(address, false);
                    return Err(error);
                }
            },
        };
        let (read, write) = split(wire);
        let (lines, pending) = (LineBuffer::new(), BytesMut::new());
        Ok(Self { address, read, write, lines, longest_line: LONGEST_LINE, pending, unflushed: false })
    }

    /// Which of the host's addresses it leads to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes lines of so many bytes from now on.
    pub(crate) fn set_longest_line(&mut self, bytes: usize) {
        self.longest_line = bytes;
    }

    /// Moves `bytes` to what is to be written.
    pub(crate) fn queue(&mut self, bytes: &mut Vec<u8>) {
        self.pending.extend_from_slice(bytes);
        bytes.clear();
    }

    /// Whether so much waits to be written that nothing should be added.
    pub(crate) fn is_congested(&self) -> bool {
        self.pending.len() >= ENOUGH_PENDING
    }

    /// How many bytes wait to be written.
    pub(crate) fn unsent(&self) -> usize {
        self.pending.len()
    }

    /// Whether everything was written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.pending.is_empty() && !self.unflushed
    }

    /// The next line that came.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.lines.next_line(self.longest_line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes and reads what can be. While the screen is behind nothing is read, so that the server holds what comes
    /// instead of this process.
    ///
    /// Cancel safe: what was read is in the line buffer, and what was written is no longer pending.
    pub(crate) async fn transfer(&mut self, screen: &Screen) -> io::Result<Transfer> {
        let Self { read, write, lines, pending, unflushed, .. } = self;
        let reading = async {
            screen.room().await;
            read.read_buf(lines.spare(CHUNK)).await
        };
        let has_to_write = pending.has_remaining() || *unflushed;
        let writing = async {
            if pending.has_remaining() {
                let written = write.write(pending.chunk()).await?;
                pending.advance(written);
                *unflushed = true;
            } else {
                write.flush().await?;
                *unflushed = false;
            }
            Ok(())
        };
        tokio::select! {
            read = reading => Ok(if read? == 0 { Transfer::Ended } else { Transfer::Read }),
            written = writing, if has_to_write => written.map(|()| Transfer::Wrote),
        }
    }

    /// Tells the server that nothing more will be written; it can still write.
    pub(crate) async fn shut_down(&mut self) -> io::Result<()> {
        self.write.shutdown().await
    }

    /// Writes what waits and closes, as far as that can be done in a second.
    pub(crate) async fn close(mut self) {
        let farewell = async {
            self.write.write_all(&self.pending).await?;
            self.write.shutdown().await
        };
        // The session is over: there is nobody left who could do something about an error.
        timeout(CLOSE, farewell).await.ok();
    }
}

async fn encrypt(stream: TcpStream, Security { config, name }: &Security) -> io::Result<TlsStream<TcpStream>> {
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
    match timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map_err(explained),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}
