//! What posts weigh that the log has not taken yet, so that clients who send faster than it takes do not fill the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::session::Inbox;

/// What a post weighs beside its message: its name, its place in queues, and what its answer needs.
const OF_A_POST: usize = 128;

/// What posts of one connection weigh, until this is dropped: when the last of them is answered.
#[derive(Debug)]
pub struct Weight {
    inbox: Arc<Inbox>,
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Weight {
    /// What a post weighs whose message has so many bytes.
    #[must_use]
    pub fn of_post(message: usize) -> usize {
        message + OF_A_POST
    }

    /// Puts so many bytes on a connection, and on all of them together.
    #[must_use]
    pub fn new(inbox: &Arc<Inbox>, total: &Arc<AtomicUsize>, bytes: usize) -> Self {
        inbox.weight().fetch_add(bytes, Ordering::Relaxed);
        total.fetch_add(bytes, Ordering::Relaxed);
        Self { inbox: Arc::clone(inbox), total: Arc::clone(total), bytes }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.inbox.weight().fetch_sub(self.bytes, Ordering::Relaxed);
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
