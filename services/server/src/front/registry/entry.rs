//! One connection as others see it: who it is, what it did, why it ended, and what its task is ordered to do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tertulia_protocol::Dialect;
use tokio::sync::mpsc;

use super::lock;
use crate::shard::{ConnectionId, Inbox, Session, Target};

/// Why a connection ended; the label `reason` of `tertulia_connections_closed_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed it.
    Client,
    /// The socket failed.
    Socket,
    /// A moderator ended it.
    Admin,
    /// The server stops.
    Drain,
    /// The client took nothing for too long.
    WriteStall,
    /// No first line in time.
    HelloTimeout,
    /// A line was begun and did not end in time.
    LineTimeout,
    /// In no group, and silent for too long.
    Idle,
    /// No sign of life from an extended client.
    Heartbeat,
    /// A line over the limit.
    LineTooLong,
    /// Too many malformed lines.
    Malformed,
    /// `Hello` was refused, or that there was none.
    Hello,
    /// The token expired with which it was let in.
    Expired,
    /// The TLS handshake came to nothing.
    Tls,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Client,
        Self::Socket,
        Self::Admin,
        Self::Drain,
        Self::WriteStall,
        Self::HelloTimeout,
        Self::LineTimeout,
        Self::Idle,
        Self::Heartbeat,
        Self::LineTooLong,
        Self::Malformed,
        Self::Hello,
        Self::Expired,
        Self::Tls,
    ];

    /// The text of the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Socket => "socket_error",
            Self::Admin => "admin",
            Self::Drain => "drain",
            Self::WriteStall => "write_stall",
            Self::HelloTimeout => "hello_timeout",
            Self::LineTimeout => "line_timeout",
            Self::Idle => "idle",
            Self::Heartbeat => "heartbeat",
            Self::LineTooLong => "line_too_long",
            Self::Malformed => "malformed",
            Self::Hello => "hello_refused",
            Self::Expired => "token_expired",
            Self::Tls => "tls",
        }
    }
}

/// Held by all who are not done with their last call.
pub(super) type Unanswered = mpsc::Sender<std::convert::Infallible>;

/// What a connection's task and those who look at it share.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub id: ConnectionId,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Since when.
    pub since: SystemTime,
    /// Where answers go; also wakes the task for an order.
    pub inbox: Arc<Inbox>,
    session: OnceLock<(Arc<Session>, Dialect)>,
    orders: AtomicU8,
    going_away: Mutex<Option<(Arc<str>, Duration)>>,
    disconnect: OnceLock<Option<Arc<str>>>,
    /// Held from the last call until everything that came before it is answered.
    unanswered: Mutex<Option<Unanswered>>,
    closing: AtomicBool,
    opened: Instant,
    /// When the socket last took bytes, in milliseconds since `opened`; kept up only while bytes wait.
    wrote: AtomicU64,
    /// Groups it is a member of.
    pub groups: AtomicU32,
    /// Posts taken from it.
    pub posts: AtomicU64,
    /// Messages put into its outbound bytes.
    pub deliveries: AtomicU64,
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// Bytes that wait to be written.
    pub outbound: AtomicUsize,
    /// Requests that owners have not answered.
    pub in_flight: AtomicUsize,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not sent its first line.
    Handshake,
    /// It chats.
    Open,
    /// Bytes wait for it, and for a while it has taken none.
    Stalled,
    /// It is being closed.
    Closing,
}

/// So long must bytes wait for a connection to count as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// What a task is ordered to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::front) enum Order {
    /// Tell the client to go elsewhere.
    GoAway(Arc<str>, Duration),
    /// Carry out what has come, and then no more lines.
    LastCall,
    /// Write what waits and what is still to be delivered, then close.
    Finish,
    /// Close because a moderator wants it; [`Connection::disconnect_reason`] tells why.
    Disconnect,
}

const GO_AWAY: u8 = 1;
const LAST_CALL: u8 = 2;
const FINISH: u8 = 4;
const DISCONNECT: u8 = 8;

impl Connection {
    /// One that has just been made, and of which nothing is known yet.
    pub(super) fn new(id: ConnectionId, peer: SocketAddr) -> Self {
        Self {
            id,
            peer,
            since: SystemTime::now(),
            inbox: Arc::default(),
            session: OnceLock::new(),
            orders: AtomicU8::new(0),
            going_away: Mutex::default(),
            disconnect: OnceLock::new(),
            unanswered: Mutex::default(),
            closing: AtomicBool::new(false),
            opened: Instant::now(),
            wrote: AtomicU64::new(0),
            groups: AtomicU32::new(0),
            posts: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            outbound: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Who it is and how it speaks, once its first line has told.
    #[must_use]
    pub fn session(&self) -> Option<&(Arc<Session>, Dialect)> {
        self.session.get()
    }

    pub(in crate::front) fn set_session(&self, session: Arc<Session>, dialect: Dialect) {
        // The task sets it once, when it reads the first line.
        drop(self.session.set((session, dialect)));
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        if self.closing.load(Ordering::Relaxed) {
            return State::Closing;
        }
        if self.session().is_none() {
            return State::Handshake;
        }
        let wrote = Duration::from_millis(self.wrote.load(Ordering::Relaxed));
        let waits = self.outbound.load(Ordering::Relaxed) > 0;
        let stalled = waits && self.opened.elapsed().saturating_sub(wrote) >= STALLED_AFTER;
        if stalled { State::Stalled } else { State::Open }
    }

    /// Says that it takes no more lines and will end.
    pub(in crate::front) fn set_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Says that bytes wait, and when the socket last took some.
    pub(in crate::front) fn set_waiting(&self, wrote: Instant) {
        let since = u64::try_from(wrote.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.wrote.store(since, Ordering::Relaxed);
    }

    /// Ends the connection after telling the client why; answers whether that is the first time.
    pub fn disconnect(&self, reason: Option<Arc<str>>) -> bool {
        let is_first = self.disconnect.set(reason).is_ok();
        if is_first {
            self.set_closing();
            self.order(DISCONNECT);
        }
        is_first
    }

    /// What the moderator who ends it has said.
    pub(in crate::front) fn disconnect_reason(&self) -> Option<&str> {
        self.disconnect.get()?.as_deref()
    }

    pub(super) fn go_away(&self, reason: Arc<str>, reconnect_after: Duration) {
        *lock(&self.going_away) = Some((reason, reconnect_after));
        self.order(GO_AWAY);
    }

    pub(super) fn last_call(&self, unanswered: Unanswered) {
        *lock(&self.unanswered) = Some(unanswered);
        self.order(LAST_CALL);
    }

    /// All that came before the last call is answered.
    pub(in crate::front) fn answered(&self) {
        drop(lock(&self.unanswered).take());
    }

    /// What still has to be written is written, and then it ends.
    pub(super) fn finish(&self) {
        self.order(FINISH);
    }

    fn order(&self, order: u8) {
        self.orders.fetch_or(order, Ordering::AcqRel);
        self.inbox.wake();
    }

    /// Takes the orders that came.
    pub(in crate::front) fn take_orders(&self) -> impl Iterator<Item = Order> + use<> {
        let orders = match self.orders.load(Ordering::Acquire) {
            0 => 0,
            _ => self.orders.swap(0, Ordering::AcqRel),
        };
        let going_away = if orders & GO_AWAY != 0 { lock(&self.going_away).take() } else { None };
        let go_away = going_away.map(|(reason, after)| Order::GoAway(reason, after));
        let last_call = (orders & LAST_CALL != 0).then_some(Order::LastCall);
        let finish = (orders & FINISH != 0).then_some(Order::Finish);
        let disconnect = (orders & DISCONNECT != 0).then_some(Order::Disconnect);
        [go_away, disconnect, last_call, finish].into_iter().flatten()
    }

    pub(super) fn matches(&self, target: &Target) -> bool {
        match target {
            Target::Connection(id) => *id == self.id,
            Target::Address(address) => *address == self.peer.ip().to_canonical(),
            Target::User(_) => self.session().is_some_and(|(session, _)| target.matches(session)),
        }
    }
}
