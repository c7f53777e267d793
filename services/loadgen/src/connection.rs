//! One connection: its socket, what is left of a read, and what waits to be written. An idle one holds no buffer.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};
use tertulia_tls_client::{Security, explained};

/// The way to a server, from one of several addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// The server.
    pub(crate) target: SocketAddr,
    /// The address to come from, if not any.
    pub(crate) source: Option<IpAddr>,
    /// Bytes of the receive buffer, if not the system's choice.
    pub(crate) receive_buffer: Option<usize>,
}

impl Route {
    /// The source of the connection with that number, of `sources` addresses: 127.0.0.2 and so on.
    #[must_use]
    pub(crate) fn source(sources: u8, number: usize) -> Option<IpAddr> {
        let sources = usize::from(sources);
        (sources > 0).then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (number % sources) as u8)))
    }
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// So many bytes of the buffer are filled; if `full`, there may be more.
    Bytes {
        /// From the start of the buffer, what was left of the last read included.
        end: usize,
        /// The buffer was filled, or may not hold all that has come.
        full: bool,
    },
    /// There is nothing now.
    Nothing,
    /// The connection has ended.
    End,
}

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    wire: Option<Wire>,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Bytes that were written and are gone from the buffer.
    gone: u64,
    /// Posts that are not yet written whole: with how many bytes written each one is, and when it was due.
    posts: VecDeque<(u64, u64)>,
    /// Whether writing has something to wait for.
    blocked: bool,
    /// The peer has ended it: there will be no further event, so all is to be read that is there.
    ending: bool,
    /// Why it ended, if not just so.
    trouble: Option<Error>,
}

/// In the clear or within TLS.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.sock,
        }
    }

    fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.conn.is_handshaking())
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl Connection {
    /// Begins to connect, with TLS if there is something about it.
    ///
    /// # Errors
    /// As the system's.
    pub(crate) fn connect(
        &mut self,
        route: Route,
        security: Option<&Security>,
        registry: &Registry,
        token: Token,
    ) -> Result<()> {
        let socket = Socket::new(Domain::for_address(route.target), Type::STREAM, Some(Protocol::TCP))
            .context("open a socket")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(size) = route.receive_buffer {
            socket.set_recv_buffer_size(size).context("set the receive buffer")?;
        }
        if let Some(source) = route.source {
            socket.bind(&SocketAddr::new(source, 0).into()).with_context(|| format!("connect from {source}"))?;
        }
        match socket.connect(&route.target.into()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error).with_context(|| format!("connect to {}", route.target)),
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let wire = match security {
            None => Wire::Plain(stream),
            Some(Security { config, name }) => {
                let session = ClientConnection::new(Arc::clone(config), name.clone()).context("begin with TLS")?;
                Wire::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        *self = Self { wire: Some(wire), blocked: true, ..Self::default() };
        Ok(())
    }

    /// Whether the connection has come about; an error if it cannot.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn is_connected(&self) -> Result<bool> {
        let Some(stream) = self.wire.as_ref().map(Wire::stream) else { return Ok(false) };
        if let Some(error) = stream.take_error()? {
            return Err(error).context("connect");
        }
        Ok(stream.peer_addr().is_ok())
    }

    /// Ends it.
    pub(crate) fn close(&mut self) {
        *self = Self::default();
    }

    /// Reads behind what was left of the last read.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Got {
        let Some(wire) = &mut self.wire else { return Got::Nothing };
        let (is_secure, was_handshaking) = (matches!(wire, Wire::Tls(_)), wire.is_handshaking());
        let held = self.partial.len();
        buffer[..held].copy_from_slice(&self.partial);
        let read = wire.read(&mut buffer[held..]);
        if was_handshaking {
            // What waited to be written may have waited for what was read.
            self.blocked = false;
            self.flush();
        }
        match read {
            Ok(0) => Got::End,
            Ok(count) => {
                self.partial.clear();
                // Within TLS, what was decrypted says nothing of what is left.
                let full = is_secure || self.ending || held + count == buffer.len();
                Got::Bytes { end: held + count, full }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Got::Nothing,
            Err(error) => {
                self.trouble = Some(explained(error));
                Got::End
            }
        }
    }

    /// Why it ended, if not just so.
    pub(crate) fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// Keeps what was left of a read.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(rest);
        }
    }

    /// There is an end behind what is still to be read.
    pub(crate) fn read_to_the_end(&mut self) {
        self.ending = true;
    }

    /// Bytes that wait to be written.
    pub(crate) fn unsent(&self) -> usize {
        self.out.len() - self.written
    }

    /// Where to append what is to be written.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// What was appended last is a post, due then.
    pub(crate) fn add_post(&mut self, due: u64) {
        self.posts.push_back((self.gone + self.out.len() as u64, due));
    }

    /// Posts that the socket has not taken yet.
    pub(crate) fn waiting_posts(&self) -> usize {
        self.posts.len()
    }

    /// Counts off the next post that the socket has taken: when it was due.
    pub(crate) fn take_written(&mut self) -> Option<u64> {
        let written = self.gone + self.written as u64;
        self.posts.pop_front_if(|(end, _)| *end <= written).map(|(_, due)| due)
    }

    /// The socket has room again.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        while !self.blocked && self.written < self.out.len() {
            match wire.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // An end is seen by reading.
                Err(_) => self.blocked = true,
            }
        }
        if !self.blocked && wire.flush().is_err() {
            self.blocked = true;
        }
        if self.written == self.out.len() {
            self.gone += self.written as u64;
            self.written = 0;
            self.out.clear();
            if self.out.capacity() > KEPT {
                self.out = Vec::new();
            }
        } else if self.written > KEPT && self.written > self.out.len() / 2 {
            // What is written goes also while the socket never takes all.
            self.out.drain(..self.written);
            self.gone += self.written as u64;
            self.written = 0;
        }
    }
}

/// `EINPROGRESS`.
const IN_PROGRESS: i32 = if cfg!(target_os = "linux") { 115 } else { 36 };
/// The capacity that an empty buffer keeps.
const KEPT: usize = 256 * 1024;
