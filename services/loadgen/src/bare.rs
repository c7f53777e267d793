//! A classic-dialect server that does next to nothing.
//!
//! One thread; no queue, no log, no limits, hardly a look at what comes in: a `Post` becomes a `Message` by a change of its first
//! bytes, and once per turn of the loop each member gets what its group has got, in one write. What it costs is what the kernel's
//! sockets cost. It is there to measure against, and serves the tests.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);
const READ: usize = 128 * 1024;
const POST: &[u8] = br#"{"Post":{"group_name":""#;
const JOIN: &[u8] = br#"{"Join":{"group_name":""#;

/// How much a connection that does not read may have waiting; after that it is closed.
const WAITING: usize = 64 * 1024 * 1024;

struct Client {
    socket: TcpStream,
    partial: Vec<u8>,
    waiting: Vec<u8>,
    groups: Vec<usize>,
    /// How often messages are still written to it, if there is an end to that.
    writes: Option<u64>,
}

#[derive(Default)]
struct Group {
    members: Vec<usize>,
    lines: Vec<u8>,
    changed: bool,
}

/// The server.
pub struct Bare {
    poll: Poll,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    vacant: Vec<usize>,
    names: HashMap<Vec<u8>, usize>,
    groups: Vec<Group>,
    changed: Vec<usize>,
    buffer: Vec<u8>,
    /// Drops every n-th message, so that a test can see that this is noticed.
    lose_every: Option<u64>,
    /// How often it writes to a connection that comes after another one was closed, for the same purpose.
    returners_get: Option<u64>,
    /// After how many posts it ends, for the same purpose.
    ends_after: Option<u64>,
    /// After how many posts it does nothing for how long, for the same purpose.
    rest: Option<(u64, Duration)>,
    was_left: bool,
    posts: u64,
}

impl Bare {
    /// Listens.
    ///
    /// # Errors
    /// As the system's.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            clients: Vec::new(),
            vacant: Vec::new(),
            names: HashMap::new(),
            groups: Vec::new(),
            changed: Vec::new(),
            buffer: vec![0; READ],
            lose_every: None,
            returners_get: None,
            ends_after: None,
            rest: None,
            was_left: false,
            posts: 0,
        })
    }

    /// Loses every `n`-th post.
    #[must_use]
    pub fn lose_every(mut self, n: u64) -> Self {
        self.lose_every = Some(n);
        self
    }

    /// Writes messages to connections that come after another one was closed only `times` times.
    #[must_use]
    pub fn returners_get(mut self, times: u64) -> Self {
        self.returners_get = Some(times);
        self
    }

    /// Ends, with all connections, after `n` posts.
    #[must_use]
    pub fn end_after(mut self, n: u64) -> Self {
        self.ends_after = Some(n);
        self
    }

    /// Does nothing for some time, once, after `n` posts.
    #[must_use]
    pub fn rest_after(mut self, n: u64, time: Duration) -> Self {
        self.rest = Some((n, time));
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the system's.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves for ever, unless it is to end.
    ///
    /// # Errors
    /// As the system's.
    pub fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(index) => self.on_ready(index, event.is_readable(), event.is_read_closed()),
                }
            }
            self.deliver();
            if self.ends_after.is_some_and(|n| self.posts >= n) {
                return Ok(());
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((mut socket, _)) = self.listener.accept() {
            drop(socket.set_nodelay(true));
            let index = self.vacant.pop().unwrap_or(self.clients.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut socket, Token(index), interest).is_err() {
                self.vacant.push(index);
                continue;
            }
            let client = Client {
                socket,
                partial: Vec::new(),
                waiting: Vec::new(),
                groups: Vec::new(),
                writes: self.returners_get.filter(|_| self.was_left),
            };
            if index == self.clients.len() {
                self.clients.push(Some(client));
            } else {
                self.clients[index] = Some(client);
            }
        }
    }

    fn on_ready(&mut self, index: usize, readable: bool, ending: bool) {
        self.write(index, None);
        let mut buffer = std::mem::take(&mut self.buffer);
        while readable && let Some(Some(client)) = self.clients.get_mut(index) {
            let held = client.partial.len();
            buffer[..held].copy_from_slice(&client.partial);
            match client.socket.read(&mut buffer[held..]) {
                Ok(0) => self.close(index),
                Ok(count) => {
                    let end = held + count;
                    let taken = self.take_lines(index, &buffer[..end]);
                    if let Some((_, time)) = self.rest.take_if(|(n, _)| self.posts >= *n) {
                        std::thread::sleep(time);
                    }
                    if let Some(Some(client)) = self.clients.get_mut(index) {
                        client.partial.clear();
                        client.partial.extend_from_slice(&buffer[taken..end]);
                        if client.partial.len() == READ {
                            self.close(index);
                        }
                    }
                    if end < READ && !ending {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.close(index),
            }
        }
        self.buffer = buffer;
    }

    fn take_lines(&mut self, index: usize, bytes: &[u8]) -> usize {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = &bytes[start..=end];
            start = end + 1;
            if let Some(rest) = line.strip_prefix(POST) {
                let name = &rest[..memchr::memchr(b'"', rest).unwrap_or(0)];
                let Some(&group) = self.names.get(name) else { continue };
                self.posts += 1;
                if self.lose_every.is_some_and(|n| self.posts.is_multiple_of(n)) {
                    continue;
                }
                let group_index = group;
                let group = &mut self.groups[group];
                group.lines.extend_from_slice(br#"{"Message"#);
                group.lines.extend_from_slice(&line[br#"{"Post"#.len()..]);
                if !std::mem::replace(&mut group.changed, true) {
                    self.changed.push(group_index);
                }
            } else if let Some(rest) = line.strip_prefix(JOIN) {
                let name = &rest[..memchr::memchr(b'"', rest).unwrap_or(0)];
                let next = self.groups.len();
                let group = *self.names.entry(name.to_vec()).or_insert(next);
                if group == next {
                    self.groups.push(Group::default());
                }
                if let Some(Some(client)) = self.clients.get_mut(index)
                    && !client.groups.contains(&group)
                {
                    client.groups.push(group);
                    self.groups[group].members.push(index);
                }
            }
        }
        start
    }

    fn deliver(&mut self) {
        for group in std::mem::take(&mut self.changed) {
            self.groups[group].changed = false;
            let lines = std::mem::take(&mut self.groups[group].lines);
            let members = std::mem::take(&mut self.groups[group].members);
            for member in &members {
                self.write(*member, Some(&lines));
            }
            self.groups[group].members = members;
            self.groups[group].lines = lines;
            self.groups[group].lines.clear();
        }
    }

    /// Writes what waits and then `lines`; what the socket does not take waits.
    fn write(&mut self, index: usize, lines: Option<&[u8]>) {
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        let lines = lines.unwrap_or_default();
        if let Some(writes) = client.writes.as_mut().filter(|_| !lines.is_empty()) {
            let Some(left) = writes.checked_sub(1) else { return };
            *writes = left;
        }
        if client.waiting.is_empty() && lines.is_empty() {
            return;
        }
        let waits = !client.waiting.is_empty();
        if waits {
            client.waiting.extend_from_slice(lines);
        }
        let bytes = if waits { &client.waiting[..] } else { lines };
        let written = match client.socket.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            // The end of the connection is seen by reading.
            Err(_) => bytes.len(),
        };
        if waits {
            client.waiting.drain(..written);
        } else {
            client.waiting.extend_from_slice(&lines[written..]);
        }
        if client.waiting.is_empty() {
            client.waiting = Vec::new();
        } else if client.waiting.len() > WAITING {
            drop(client.socket.shutdown(std::net::Shutdown::Both));
        }
    }

    fn close(&mut self, index: usize) {
        let Some(mut client) = self.clients.get_mut(index).and_then(Option::take) else { return };
        self.was_left = true;
        drop(self.poll.registry().deregister(&mut client.socket));
        for group in client.groups {
            self.groups[group].members.retain(|member| *member != index);
        }
        self.vacant.push(index);
    }
}
