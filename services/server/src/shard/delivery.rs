//! What is sent to the members of a group: one shared, immutable item per append.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use tertulia_protocol::Dialect;
use tokio::sync::broadcast;

use super::Batch;
use crate::telemetry::trace::FanOut;

/// The receiving end of a group's broadcast.
pub type Subscription = broadcast::Receiver<Arc<Delivery>>;

/// All that one append held for a group. The lines on the wire are made once per dialect, by the first connection that needs
/// them; this part does not know how.
#[derive(Debug)]
pub struct Delivery {
    /// The messages.
    pub batch: Arc<Batch>,
    /// When the oldest of them was read from its poster's socket.
    pub received: Instant,
    /// If one of them is traced: what becomes of the delivery.
    pub trace: Option<Arc<FanOut>>,
    classic: OnceLock<Bytes>,
    extended: OnceLock<Bytes>,
}

impl Delivery {
    /// A delivery whose lines nobody has needed yet.
    #[must_use]
    pub fn new(batch: Arc<Batch>, received: Instant, trace: Option<Arc<FanOut>>) -> Self {
        Self { batch, received, trace, classic: OnceLock::new(), extended: OnceLock::new() }
    }

    /// The lines in a dialect; `encode` makes them if nobody has yet.
    pub fn lines(&self, dialect: Dialect, encode: impl FnOnce(&Batch) -> Bytes) -> &Bytes {
        let cell = match dialect {
            Dialect::Classic => &self.classic,
            Dialect::Extended => &self.extended,
        };
        cell.get_or_init(|| encode(&self.batch))
    }
}
