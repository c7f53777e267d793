//! A TCP connection as lines.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tertulia_protocol::LineBuffer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::screen::Screen;

/// No line of a server is longer: a page of history is the longest there is.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;
/// How long an attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a last write may take.
const CLOSE: Duration = Duration::from_secs(1);
/// Commands wait while so many bytes wait to be written.
const ENOUGH_PENDING: usize = 1024 * 1024;
/// Read at once.
const CHUNK: usize = 32 * 1024;

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
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    lines: LineBuffer,
    pending: BytesMut,
}

impl Connection {
    /// Connects to `HOST:PORT`.
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Self { read, write, lines: LineBuffer::new(), pending: BytesMut::new() })
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

    /// Whether everything was written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next line that came.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.lines.next_line(MAX_LINE).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes and reads what can be. While the screen is behind nothing is read, so that the server holds what comes
    /// instead of this process.
    ///
    /// Cancel safe: what was read is in the line buffer, and what was written is no longer pending.
    pub(crate) async fn transfer(&mut self, screen: &Screen) -> io::Result<Transfer> {
        let Self { read, write, lines, pending } = self;
        let reading = async {
            screen.room().await;
            read.read_buf(lines.spare(CHUNK)).await
        };
        tokio::select! {
            read = reading => Ok(if read? == 0 { Transfer::Ended } else { Transfer::Read }),
            written = write.write(pending.chunk()), if pending.has_remaining() => {
                pending.advance(written?);
                Ok(Transfer::Wrote)
            }
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
