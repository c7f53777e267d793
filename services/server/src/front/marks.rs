//! Which of the bytes that wait for a socket end a traced delivery. Few connections ever have any.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::shard::ConnectionId;
use crate::telemetry::trace::FanOut;

/// Traced deliveries that the socket has not taken whole.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Bytes that the socket took since the first mark.
    taken: u64,
    /// Where each delivery ends, counted in the same way; growing.
    ends: VecDeque<(u64, ConnectionId, Arc<FanOut>)>,
}

impl Marks {
    /// The last of `waiting` bytes ends a delivery.
    pub(super) fn add(&mut self, waiting: usize, connection: ConnectionId, trace: Arc<FanOut>) {
        self.ends.push_back((self.taken + waiting as u64, connection, trace));
    }

    /// The socket took so many bytes; answers whether there is more to wait for.
    pub(super) fn advance(&mut self, written: usize) -> bool {
        self.taken += written as u64;
        while let Some((_, connection, trace)) = self.ends.pop_front_if(|(end, ..)| *end <= self.taken) {
            trace.written(connection.0);
        }
        !self.ends.is_empty()
    }
}
