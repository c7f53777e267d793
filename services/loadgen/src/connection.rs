//! One connection: its socket, what is left of a read, and what waits to be written. An idle one holds no buffer.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

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
        /// The buffer was filled.
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
    stream: Option<TcpStream>,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Whether writing has something to wait for.
    blocked: bool,
}

impl Connection {
    /// Begins to connect.
    ///
    /// # Errors
    /// As the system's.
    pub(crate) fn connect(&mut self, route: Route, registry: &Registry, token: Token) -> Result<()> {
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
        *self = Self { stream: Some(stream), blocked: true, ..Self::default() };
        Ok(())
    }

    /// Whether the connection has come about; an error if it cannot.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn is_connected(&self) -> Result<bool> {
        let Some(stream) = &self.stream else { return Ok(false) };
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
        let Some(stream) = &mut self.stream else { return Got::Nothing };
        let held = self.partial.len();
        buffer[..held].copy_from_slice(&self.partial);
        match stream.read(&mut buffer[held..]) {
            Ok(0) => Got::End,
            Ok(count) => {
                self.partial.clear();
                Got::Bytes { end: held + count, full: held + count == buffer.len() }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Got::Nothing,
            Err(_) => Got::End,
        }
    }

    /// Keeps what was left of a read.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(rest);
        }
    }

    /// Where to append what is to be written.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The socket has room again.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while !self.blocked && self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // An end is seen by reading.
                Err(_) => self.blocked = true,
            }
        }
        if self.written == self.out.len() {
            self.written = 0;
            self.out.clear();
            if self.out.capacity() > KEPT {
                self.out = Vec::new();
            }
        }
    }
}

/// `EINPROGRESS`.
const IN_PROGRESS: i32 = if cfg!(target_os = "linux") { 115 } else { 36 };
/// The capacity that an empty buffer keeps.
const KEPT: usize = 256 * 1024;
