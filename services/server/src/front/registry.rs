//! The connections of this node: who they are, what they did, and how to end them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use tertulia_protocol::Dialect;
use tokio::sync::mpsc;

use super::Limits;
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
    /// `Hello` was refused.
    Hello,
    /// The TLS handshake came to nothing.
    Tls,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
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
            Self::Tls => "tls",
        }
    }
}

type Unanswered = mpsc::Sender<std::convert::Infallible>;

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
pub(super) enum Order {
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
    /// Who it is and how it speaks, once its first line has told.
    #[must_use]
    pub fn session(&self) -> Option<&(Arc<Session>, Dialect)> {
        self.session.get()
    }

    pub(super) fn set_session(&self, session: Arc<Session>, dialect: Dialect) {
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
    pub(super) fn set_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Says that bytes wait, and when the socket last took some.
    pub(super) fn set_waiting(&self, wrote: Instant) {
        let since = u64::try_from(wrote.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.wrote.store(since, Ordering::Relaxed);
    }

    /// Ends the connection after telling the client why.
    pub fn disconnect(&self, reason: Option<Arc<str>>) {
        self.set_closing();
        drop(self.disconnect.set(reason));
        self.order(DISCONNECT);
    }

    /// What the moderator who ends it has said.
    pub(super) fn disconnect_reason(&self) -> Option<&str> {
        self.disconnect.get()?.as_deref()
    }

    fn go_away(&self, reason: Arc<str>, reconnect_after: Duration) {
        *lock(&self.going_away) = Some((reason, reconnect_after));
        self.order(GO_AWAY);
    }

    fn last_call(&self, unanswered: Unanswered) {
        *lock(&self.unanswered) = Some(unanswered);
        self.order(LAST_CALL);
    }

    /// All that came before the last call is answered.
    pub(super) fn answered(&self) {
        drop(lock(&self.unanswered).take());
    }

    fn order(&self, order: u8) {
        self.orders.fetch_or(order, Ordering::AcqRel);
        self.inbox.wake();
    }

    /// Takes the orders that came.
    pub(super) fn take_orders(&self) -> impl Iterator<Item = Order> {
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

    fn matches(&self, target: &Target) -> bool {
        match target {
            Target::Connection(id) => *id == self.id,
            Target::Address(address) => *address == self.peer.ip().to_canonical(),
            Target::User(_) => self.session().is_some_and(|(session, _)| target.matches(session)),
        }
    }
}

/// All connections of this node.
#[derive(Debug)]
pub struct Registry {
    max: usize,
    max_per_address: usize,
    next_id: AtomicU64,
    open: AtomicUsize,
    connections: Mutex<BTreeMap<ConnectionId, Arc<Connection>>>,
    /// Only kept where there is a limit.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// How full connections are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// Bytes that wait to be written, over all connections.
    pub outbound: usize,
    /// Of the fullest.
    pub most_outbound: usize,
    /// Most requests of one connection that owners have not answered.
    pub most_in_flight: usize,
    /// Most groups of one connection.
    pub most_groups: u32,
    /// Most connections from one address; 0 where they are not limited, for then they are not counted.
    pub most_per_address: usize,
}

/// Why a connection was not let in; the text is for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// As many connections as allowed.
    #[error("Too many connections: this server takes {0}; try again later")]
    Total(usize),
    /// As many connections from one address as allowed.
    #[error("Too many connections from your address: this server takes {0}")]
    Address(usize),
}

impl Registry {
    /// An empty registry with the bounds of `limits`, whose connections are numbered from `first`.
    #[must_use]
    pub fn new(limits: &Limits, first: u64) -> Self {
        Self {
            max: limits.connections,
            max_per_address: limits.connections_per_address,
            next_id: AtomicU64::new(first),
            open: AtomicUsize::new(0),
            connections: Mutex::default(),
            addresses: Mutex::default(),
        }
    }

    /// Enters a connection, which stays until the guard goes.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<Admitted, NotAdmitted> {
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.max {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return Err(NotAdmitted::Total(self.max));
        }
        if self.max_per_address > 0 {
            let mut addresses = lock(&self.addresses);
            let count = addresses.entry(peer.ip().to_canonical()).or_default();
            if *count >= self.max_per_address {
                self.open.fetch_sub(1, Ordering::AcqRel);
                return Err(NotAdmitted::Address(self.max_per_address));
            }
            *count += 1;
        }
        let connection = Arc::new(Connection {
            id: ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed)),
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
        });
        lock(&self.connections).insert(connection.id, Arc::clone(&connection));
        Ok(Admitted { connection, registry: Arc::clone(self) })
    }

    /// Open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// How full connections are, in sum and at most.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let mut fill = Fill::default();
        for connection in lock(&self.connections).values() {
            let outbound = connection.outbound.load(Ordering::Relaxed);
            fill.outbound += outbound;
            fill.most_outbound = fill.most_outbound.max(outbound);
            fill.most_in_flight = fill.most_in_flight.max(connection.in_flight.load(Ordering::Relaxed));
            fill.most_groups = fill.most_groups.max(connection.groups.load(Ordering::Relaxed));
        }
        fill.most_per_address = lock(&self.addresses).values().copied().max().unwrap_or(0);
        fill
    }

    /// Connections from the first after `after`, for which `which` holds, in the order of their ids, at most `limit`.
    #[must_use]
    pub fn list(
        &self,
        after: Option<ConnectionId>,
        limit: usize,
        which: impl Fn(&Connection) -> bool,
    ) -> Vec<Arc<Connection>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let connections = lock(&self.connections);
        let all = connections.range((from, Bound::Unbounded)).map(|(_, connection)| connection);
        all.filter(|connection| which(connection)).take(limit).cloned().collect()
    }

    /// Whether any extended client is connected.
    #[must_use]
    pub fn any_extended(&self) -> bool {
        !self.list(None, 1, is_extended).is_empty()
    }

    /// One connection.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        lock(&self.connections).get(&id).cloned()
    }

    /// Ends the connections that are meant, and answers which they were.
    pub fn disconnect(&self, target: &Target, reason: Option<&Arc<str>>) -> Vec<ConnectionId> {
        let meant = self.list(None, usize::MAX, |connection| connection.matches(target));
        for connection in &meant {
            connection.disconnect(reason.cloned());
        }
        meant.iter().map(|connection| connection.id).collect()
    }

    /// Tells extended clients to connect again elsewhere and at once, one after the other within that time. Until it is told, each is
    /// served as before.
    pub async fn send_away(&self, reason: &Arc<str>, within: Duration) {
        let all = self.list(None, usize::MAX, is_extended);
        let count = u32::try_from(all.len().max(1)).unwrap_or(u32::MAX);
        let begun = tokio::time::Instant::now();
        for (place, connection) in (0u32..).zip(&all) {
            tokio::time::sleep_until(begun + within.mul_f64(f64::from(place) / f64::from(count))).await;
            connection.go_away(Arc::clone(reason), Duration::ZERO);
        }
    }

    /// Tells every extended client to connect again elsewhere, spread over `within`.
    pub fn go_away(&self, reason: &Arc<str>, within: Duration) {
        let all = self.list(None, usize::MAX, |_| true);
        let count = u32::try_from(all.len().max(1)).unwrap_or(u32::MAX);
        for (place, connection) in (0u32..).zip(&all) {
            connection.go_away(Arc::clone(reason), within.mul_f64(f64::from(place) / f64::from(count)));
        }
    }

    /// Orders every connection to take no more lines than have come, and returns when what came is answered.
    pub async fn last_call(&self) {
        // Nothing is sent: the channel closes when the last connection has let go of its end.
        let (unanswered, mut all_answered) = mpsc::channel(1);
        for connection in self.list(None, usize::MAX, |_| true) {
            connection.last_call(unanswered.clone());
        }
        drop(unanswered);
        all_answered.recv().await;
    }

    /// Orders every connection to write what waits and close.
    pub fn finish(&self) {
        for connection in self.list(None, usize::MAX, |_| true) {
            connection.order(FINISH);
        }
    }
}

fn is_extended(connection: &Connection) -> bool {
    connection.session().is_some_and(|(_, dialect)| *dialect == Dialect::Extended)
}

/// A connection that counts as open while this lives.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) connection: Arc<Connection>,
    registry: Arc<Registry>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let registry = &self.registry;
        lock(&registry.connections).remove(&self.connection.id);
        if registry.max_per_address > 0 {
            let mut addresses = lock(&registry.addresses);
            let address = self.connection.peer.ip().to_canonical();
            if let Some(count) = addresses.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&address);
                }
            }
        }
        registry.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Nothing is done under these locks that could leave the maps half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 1000))
    }

    #[test]
    fn limits_hold_and_places_come_back() {
        let limits = Limits { connections: 3, connections_per_address: 2, ..Limits::default() };
        let registry = Arc::new(Registry::new(&limits, 1));
        let first = registry.admit(peer(1)).unwrap();
        let second = registry.admit(peer(1)).unwrap();
        assert_eq!(registry.admit(peer(1)).unwrap_err(), NotAdmitted::Address(2));
        let third = registry.admit(peer(2)).unwrap();
        assert_eq!(registry.admit(peer(3)).unwrap_err(), NotAdmitted::Total(3));
        drop(first);
        drop(registry.admit(peer(1)).unwrap());
        drop((second, third));
        assert_eq!(registry.open(), 0);
        assert!(lock(&registry.connections).is_empty() && lock(&registry.addresses).is_empty());
    }

    #[test]
    fn orders_come_once_and_a_disconnect_before_finish() {
        let registry = Arc::new(Registry::new(&Limits::default(), 1));
        let admitted = registry.admit(peer(1)).unwrap();
        registry.finish();
        registry.go_away(&"stop".into(), Duration::ZERO);
        registry.disconnect(&Target::Address([127, 0, 0, 1].into()), None);
        let orders: Vec<Order> = admitted.connection.take_orders().collect();
        assert_eq!(orders, [Order::GoAway("stop".into(), Duration::ZERO), Order::Disconnect, Order::Finish]);
        assert_eq!(admitted.connection.take_orders().count(), 0);
    }
}
