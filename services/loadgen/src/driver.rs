//! How to speak with each kind of server: what to send, and what its bytes mean.
//!
//! Each driver is a few small functions, written for speed and only as wide as this program needs. Messages are found by
//! the fixed places of their parts; what is rare may be read in slower ways.

mod mqtt;
mod nats;
mod redis;
mod tertulia;

use clap::ValueEnum;
use serde::Serialize;

/// The protocols that this program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// tertulia's classic dialect, which the chat server of *Programming Rust* speaks too.
    Classic,
    /// tertulia's extended dialect.
    Extended,
    /// Redis pub/sub, over RESP 3.
    Redis,
    /// NATS core publish and subscribe.
    Nats,
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
}

/// What came from a server, other than messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The connection may post.
    Ready,
    /// The connection is a member of its group; how many messages that has, and which life of it this is, if one is told.
    Joined(Option<Head>),
    /// It is a member of one more group, in which nobody posts.
    JoinedQuiet,
    /// It is no longer a member.
    Left,
    /// A post was acknowledged.
    Acked,
    /// It must answer with [`Protocol::pong`].
    Ping,
    /// The server says that so many messages are lost to this member, and which is the last of them, if it says that.
    Dropped {
        /// So many.
        count: u64,
        /// The `seq` of the last.
        last: Option<u64>,
    },
    /// The server refused something, or says that it goes away.
    Refused(String),
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its newest message.
    pub seq: u64,
    /// Its life.
    pub epoch: u64,
}

/// Takes what a server sent.
pub trait Sink {
    /// A message of the group, with its number where the protocol has one.
    fn message(&mut self, text: &[u8], seq: Option<u64>);
    /// Anything else.
    fn event(&mut self, event: Event);
}

/// The groups of one connection.
#[derive(Debug, Clone, Default)]
pub struct Groups<'a> {
    /// The one in which is posted, if the connection is to be a member.
    pub group: Option<&'a str>,
    /// Others, whose names contain [`QUIET`].
    pub quiet: Vec<String>,
}

impl Groups<'_> {
    /// All of them. The one that counts comes last: where they are joined in their order, the connection is in all of them then. In tertulia's
    /// classic dialect, which does not tell, the others may take a moment longer.
    fn all(&self) -> impl Iterator<Item = &str> {
        self.quiet.iter().map(String::as_str).chain(self.group)
    }
}

/// Who a connection is.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// A name that no other connection has.
    pub name: &'a str,
    /// What says who it is instead, the same of all connections; only in tertulia's extended dialect.
    pub token: Option<&'a str>,
}

/// In the name of a group in which nobody posts.
pub const QUIET: &str = "-quiet-";

fn is_quiet(name: &[u8]) -> bool {
    memchr::memmem::find(name, QUIET.as_bytes()).is_some()
}

/// From where a member wants a group's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// From the one after this.
    pub seq: u64,
    /// In this life of the group.
    pub epoch: u64,
}

/// Bytes that are not of the protocol.
pub type Nonsense = String;

impl Protocol {
    /// Whether the server tells when a connection has become a member.
    #[must_use]
    pub fn tells_joins(self) -> bool {
        self != Self::Classic
    }

    /// Whether a member can ask for messages of the past, and leave a group without an end of the connection.
    #[must_use]
    pub fn has_history(self) -> bool {
        self == Self::Extended
    }

    /// Whether each post is acknowledged.
    #[must_use]
    pub fn acks_posts(self) -> bool {
        matches!(self, Self::Extended | Self::Redis)
    }

    /// Whether it tells that of each group; if not, [`Event::Joined`] is of all of them.
    #[must_use]
    pub fn tells_each_join(self) -> bool {
        matches!(self, Self::Extended | Self::Redis)
    }

    /// What a connection sends first: who it is and, if it is to be a member, its joins.
    pub fn open(self, out: &mut Vec<u8>, who: Who<'_>, groups: &Groups<'_>, after: Option<After>) {
        match self {
            Self::Classic => groups.all().for_each(|group| tertulia::join(out, group, None)),
            Self::Extended => {
                tertulia::hello(out, who);
                groups.quiet.iter().for_each(|group| tertulia::join(out, group, None));
                groups.group.iter().for_each(|group| tertulia::join(out, group, after));
            }
            Self::Redis => redis::open(out, groups),
            Self::Nats => nats::open(out, who.name, groups),
            Self::Mqtt => mqtt::open(out, who.name, groups),
        }
    }

    /// Joins again, in the middle of a connection; only where [`Protocol::has_history`].
    pub fn join(self, out: &mut Vec<u8>, group: &str, after: Option<After>) {
        tertulia::join(out, group, after);
    }

    /// Leaves, in the middle of a connection; only where [`Protocol::has_history`].
    pub fn leave(self, out: &mut Vec<u8>, group: &str) {
        tertulia::leave(out, group);
    }

    /// Posts what `write` appends, `size` bytes that need no escaping.
    pub fn post(self, out: &mut Vec<u8>, group: &str, size: usize, write: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Self::Classic | Self::Extended => tertulia::post(out, group, write),
            Self::Redis => redis::publish(out, group, size, write),
            Self::Nats => nats::publish(out, group, size, write),
            Self::Mqtt => mqtt::publish(out, group, size, write),
        }
    }

    /// Answers [`Event::Ping`].
    pub fn pong(self, out: &mut Vec<u8>) {
        match self {
            Self::Extended => out.extend_from_slice(b"{\"Pong\":{}}\n"),
            Self::Nats => out.extend_from_slice(b"PONG\r\n"),
            Self::Classic | Self::Redis | Self::Mqtt => {}
        }
    }

    /// Hands everything whole in `bytes` to `sink`; answers how many bytes that was. Messages have `size` bytes.
    ///
    /// # Errors
    /// If the server does not speak the protocol.
    pub fn scan(self, bytes: &[u8], size: usize, sink: &mut impl Sink) -> Result<usize, Nonsense> {
        match self {
            Self::Classic => tertulia::scan(bytes, size, false, sink),
            Self::Extended => tertulia::scan(bytes, size, true, sink),
            Self::Redis => redis::scan(bytes, sink),
            Self::Nats => nats::scan(bytes, sink),
            Self::Mqtt => mqtt::scan(bytes, sink),
        }
    }
}

/// The beginning of what a server sent, for an error message.
fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 120;
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned()
}

/// Appends a number in decimal digits.
fn put_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Reads a number in decimal digits that fills `digits`.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0usize, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(usize::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
