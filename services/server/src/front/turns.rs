//! How the memberships of a connection that is in many groups share the reading of the log.
//!
//! A page that was read waits in memory until its member takes it, and the connection may have no room for it for long. So few read at
//! once, and the others in the order in which they came. One whose log does not answer soon lets others go on, up to a bound:
//! groups that cannot be read now must not keep those waiting that can.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// So many read at once.
const READING: u32 = 4;
/// What a turn weighs while the log is expected to answer; after that it weighs 1.
const WEIGHT: u32 = 16;
/// The log is expected to answer within this time.
const SOON: Duration = Duration::from_millis(250);

/// The turns of one connection.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new((READING * WEIGHT) as usize)))
    }

    /// Reads when it has a turn, which it keeps until what was read is taken.
    pub(super) fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> BoxFuture<'static, T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let turns = Arc::clone(&self.0);
        Box::pin(async move {
            // Nobody closes them.
            let mut turn = turns.acquire_many(WEIGHT).await.ok();
            let mut reading = read();
            if let Ok(read) = timeout(SOON, &mut reading).await {
                return read;
            }
            drop(turn.as_mut().and_then(|turn| turn.split(WEIGHT as usize - 1)));
            reading.await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::{join_all, pending};

    use super::*;

    const MOST: usize = (READING * WEIGHT) as usize;

    #[tokio::test(start_paused = true)]
    async fn who_is_not_answered_soon_lets_others_go_on_but_not_without_end() {
        let (turns, begun) = (Turns::new(), Arc::new(AtomicUsize::new(0)));
        let silent = || {
            let begun = Arc::clone(&begun);
            turns.read(move || {
                begun.fetch_add(1, Ordering::Relaxed);
                pending::<()>().boxed()
            })
        };
        let mut silent = join_all((0..2 * MOST).map(|_| silent()));
        assert!((&mut silent).now_or_never().is_none());
        assert_eq!(begun.load(Ordering::Relaxed), READING as usize);
        // There are others, and their turn comes.
        let other = turns.read(|| async { 7 }.boxed());
        assert!(timeout(SOON * 3 / 2, &mut silent).await.is_err());
        assert!(begun.load(Ordering::Relaxed) > READING as usize);
        assert!(timeout(SOON * 100, &mut silent).await.is_err());
        assert!(begun.load(Ordering::Relaxed) <= MOST);
        drop(silent);
        assert_eq!(other.await, 7);
        assert_eq!(turns.0.available_permits(), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_keeps_its_turn_until_it_is_taken() {
        let turns = Turns::new();
        let mut untaken: Vec<_> = (0..READING).map(|_| turns.read(|| tokio::spawn(async {}).boxed())).collect();
        for reading in &mut untaken {
            assert!(reading.now_or_never().is_none());
        }
        // Long since there, and nobody looks.
        tokio::time::sleep(SOON * 10).await;
        let mut next = turns.read(|| async {}.boxed());
        assert!((&mut next).now_or_never().is_none());
        untaken.pop().unwrap().await.unwrap();
        next.await;
    }
}
