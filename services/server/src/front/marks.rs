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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tertulia_protocol::GroupName;

    use super::*;
    use crate::telemetry::trace::tests::tracer;
    use crate::telemetry::trace::{Appended, Tracer};

    fn fan_out(tracer: &Tracer, group: &GroupName) -> Arc<FanOut> {
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let now = Instant::now();
        let post = tracer.post(Some(caller), now, 1).unwrap();
        let appended = Appended { shard: 0, group, batch: 1, messages: 1, started: now, returned: now };
        Arc::new(FanOut::new([(post, 1)], &appended))
    }

    #[test]
    fn a_delivery_is_written_when_its_last_byte_is() {
        let (tracer, mut spans) = tracer(10, 100);
        let group = GroupName::new("Dogs").unwrap();
        let mut marks = Marks::default();
        marks.add(100, ConnectionId(1), fan_out(&tracer, &group));
        marks.add(150, ConnectionId(1), fan_out(&tracer, &group));
        let mut written = move || {
            let spans = std::iter::from_fn(|| spans.try_recv().ok());
            spans.filter(|span| span.name == "fan-out").map(|span| span.events.len()).collect::<Vec<_>>()
        };
        assert!(marks.advance(99));
        assert_eq!(written(), [0; 0]);
        assert!(marks.advance(1));
        assert_eq!(written(), [2]);
        // 50 wait, and 20 more come.
        marks.add(70, ConnectionId(1), fan_out(&tracer, &group));
        assert!(marks.advance(69));
        assert!(!marks.advance(1));
        assert_eq!(written(), [2, 2]);
    }
}
