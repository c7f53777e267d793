//! What is said of shards that other writers took: one line for all that are noticed at a time. A node that stood still for longer than its
//! lease loses all it had.

use std::time::Duration;

use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// For so long it is waited for more.
const TOGETHER: Duration = Duration::from_secs(1);
/// So many are named.
const NAMED: usize = 8;

/// Shards that were lost at a time.
#[derive(Debug, PartialEq, Eq)]
struct Losses {
    count: u64,
    /// The first of them.
    named: Vec<u16>,
}

/// Tells of them until the log is closed.
pub(super) async fn tell(mut lost: Receiver<u16>, closing: CancellationToken) {
    while let Some(Losses { count, named }) = next(&mut lost, &closing).await {
        tracing::warn!(shards = count, first = ?named, "other writers took shards from this node");
    }
}

/// Waits for some; `None` at the end.
async fn next(lost: &mut Receiver<u16>, closing: &CancellationToken) -> Option<Losses> {
    let mut losses = Losses { count: 0, named: Vec::new() };
    match closing.run_until_cancelled(lost.recv()).await? {
        Ok(shard) => losses.add(shard),
        Err(RecvError::Lagged(missed)) => losses.count += missed,
        Err(RecvError::Closed) => return None,
    }
    // What has been noticed is told also if the log is closed meanwhile.
    closing.run_until_cancelled(sleep(TOGETHER)).await;
    loop {
        match lost.try_recv() {
            Ok(shard) => losses.add(shard),
            Err(TryRecvError::Lagged(missed)) => losses.count += missed,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(losses),
        }
    }
}

impl Losses {
    fn add(&mut self, shard: u16) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_that_are_lost_at_a_time_are_one_line() {
        let (losing, closing) = (broadcast::Sender::new(512), CancellationToken::new());
        let mut lost = losing.subscribe();
        let lose = |shards: std::ops::Range<u16>| shards.for_each(|shard| drop(losing.send(shard)));
        let half = async {
            lose(0..150);
            sleep(TOGETHER / 2).await;
            lose(150..300);
        };
        let (told, ()) = tokio::join!(next(&mut lost, &closing), half);
        assert_eq!(told, Some(Losses { count: 300, named: (0..8).collect() }));
        lose(7..8);
        assert_eq!(next(&mut lost, &closing).await, Some(Losses { count: 1, named: vec![7] }));
        // Also those for which there was no room.
        lose(0..600);
        assert_eq!(next(&mut lost, &closing).await.map(|told| told.count), Some(600));

        let closed = async {
            lose(3..5);
            tokio::task::yield_now().await;
            closing.cancel();
        };
        let (told, ()) = tokio::join!(next(&mut lost, &closing), closed);
        assert_eq!(told, Some(Losses { count: 2, named: vec![3, 4] }));
        assert_eq!(next(&mut lost, &closing).await, None);
    }
}
