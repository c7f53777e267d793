//! The connections of this node: who they are, what they did, and how to end them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) use entry::Order;
pub use entry::{CloseReason, Connection, State};
pub use tertulia_protocol::Dialect;
use tokio::sync::mpsc;

use super::Limits;
use crate::origin;
use crate::shard::{ConnectionId, Target};

mod entry;

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
    #[error("Too many connections: this server takes {0}; try again later; the connection is closed")]
    Total(usize),
    /// As many connections from one address as allowed.
    #[error("Too many connections from your address: this server takes {0}; the connection is closed")]
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
            let count = addresses.entry(origin::of(peer.ip())).or_default();
            if *count >= self.max_per_address {
                self.open.fetch_sub(1, Ordering::AcqRel);
                return Err(NotAdmitted::Address(self.max_per_address));
            }
            *count += 1;
        }
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let connection = Arc::new(Connection::new(id, peer));
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
        meant
            .iter()
            .filter(|connection| connection.disconnect(reason.cloned()))
            .map(|connection| connection.id)
            .collect()
    }

    /// Tells extended clients to connect again elsewhere and at once, one after the other within that time. Until it is told, each is
    /// served as before.
    pub async fn send_away(&self, reason: &Arc<str>, within: Duration) {
        // Also those that have not said yet how they speak: an extended one is told when it has.
        let may_hear = |connection: &Connection| connection.session().is_none() || is_extended(connection);
        let all = self.list(None, usize::MAX, may_hear);
        let count = u32::try_from(all.len().max(1)).unwrap_or(u32::MAX);
        let begun = tokio::time::Instant::now();
        for (place, connection) in (0u32..).zip(&all) {
            tokio::time::sleep_until(begun + within.mul_f64(f64::from(place) / f64::from(count))).await;
            connection.go_away(Arc::clone(reason), Duration::ZERO);
        }
    }

    /// Tells every extended client to connect again, spread over `within`; none at once, for there may be nobody else yet.
    pub fn go_away(&self, reason: &Arc<str>, within: Duration) {
        let all = self.list(None, usize::MAX, |_| true);
        let count = u32::try_from(all.len().max(1)).unwrap_or(u32::MAX);
        for (place, connection) in (0u32..).zip(&all) {
            connection.go_away(Arc::clone(reason), within.mul_f64(f64::from(place + 1) / f64::from(count)));
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
            connection.finish();
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
            let origin = origin::of(self.connection.peer.ip());
            if let Some(count) = addresses.get_mut(&origin) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&origin);
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
    fn a_network_of_ipv6_has_places_as_an_address_of_ipv4_has_and_they_come_back() {
        let limits = Limits { connections: 10, connections_per_address: 2, ..Limits::default() };
        let registry = Arc::new(Registry::new(&limits, 1));
        let admit = |address: &str| registry.admit(SocketAddr::new(address.parse().unwrap(), 1000));
        for _ in 0..3 {
            let _both = (admit("2001:db8::1").unwrap(), admit("2001:db8::2:0:0:1").unwrap());
            assert!(matches!(admit("2001:db8::3"), Err(NotAdmitted::Address(2))));
            assert!(admit("2001:db8:0:1::1").is_ok());
        }
        assert!(lock(&registry.addresses).is_empty());
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
