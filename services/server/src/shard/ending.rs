//! How the tasks of shards end: what was sent to this node is finished first. Its owners serve other nodes until those ask for nothing
//! any more: where all stop at once, nobody else would answer them.

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How far the end has come; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    /// Nothing more is sent to this node's shards.
    pub(super) begun: CancellationToken,
    /// What other nodes do not answer is not waited for any more.
    pub(super) impatient: CancellationToken,
    /// Other nodes ask for nothing any more either.
    pub(super) over: CancellationToken,
    /// Each shard holds a token of it until all that was sent to it is answered.
    pub(super) unfinished: TaskTracker,
}

impl Ending {
    /// Begins the end; returns when all that was sent is answered, and whether other nodes had answered all of theirs by `until`.
    pub(super) async fn finish(&self, until: Instant) -> bool {
        self.begun.cancel();
        self.unfinished.close();
        let in_time = timeout_at(until, self.unfinished.wait()).await.is_ok();
        if !in_time {
            self.impatient.cancel();
            self.unfinished.wait().await;
        }
        in_time
    }
}
