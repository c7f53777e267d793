//! The text of the metrics, made beside what serves clients: with a million groups it takes a while, and anybody may ask at any time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::Bytes;
use tokio::sync::Mutex;

/// Makes the text, once at a time; cheap to clone.
pub(super) struct Rendering<R>(Arc<Inner<R>>);

struct Inner<R> {
    render: R,
    /// How many times it was begun.
    begun: AtomicU64,
    /// What came of the last time, with its number. Locked as long as it is being made.
    last: Arc<Mutex<(u64, Bytes)>>,
}

impl<R> Clone for Rendering<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> fmt::Debug for Rendering<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendering").finish_non_exhaustive()
    }
}

impl<R: Fn() -> String + Send + Sync + 'static> Rendering<R> {
    pub(super) fn new(render: R) -> Self {
        Self(Arc::new(Inner { render, begun: AtomicU64::new(0), last: Arc::default() }))
    }

    /// The text as it is now. Those who ask while it is made for somebody else share what is made next, since what is made then may be
    /// older than their question. `None` if it cannot be made.
    pub(super) async fn text(&self) -> Option<Bytes> {
        let asked = self.0.begun.load(Ordering::Acquire);
        let mut last = Arc::clone(&self.0.last).lock_owned().await;
        if last.0 > asked {
            return Some(last.1.clone());
        }
        let number = self.0.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let inner = Arc::clone(&self.0);
        // It goes to its end though nobody may wait for it any more, and so does the lock.
        let rendered = tokio::task::spawn_blocking(move || {
            *last = (number, Bytes::from((inner.render)()));
            last.1.clone()
        });
        rendered.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_meanwhile_share_what_is_begun_after_they_asked() {
        let (go, gone) = mpsc::channel::<()>();
        let gone = std::sync::Mutex::new(gone);
        let count = AtomicU64::new(0);
        let rendering = Rendering::new(move || {
            gone.lock().unwrap().recv_timeout(Duration::from_secs(30)).unwrap();
            count.fetch_add(1, Ordering::Relaxed).to_string()
        });
        let mut first = Box::pin(rendering.text());
        assert!(futures_util::poll!(&mut first).is_pending(), "it is under way");
        let mut others: Vec<_> = (0..10).map(|_| Box::pin(rendering.text())).collect();
        for other in &mut others {
            assert!(futures_util::poll!(other).is_pending());
        }
        (0..2).for_each(|_| go.send(()).unwrap());
        assert_eq!(first.await.unwrap(), "0");
        for other in others {
            assert_eq!(other.await.unwrap(), "1");
        }
        go.send(()).unwrap();
        assert_eq!(rendering.text().await.unwrap(), "2");

        // Whoever has left does not leave what it asked for to go on beside the next.
        let mut left = Box::pin(rendering.text());
        assert!(futures_util::poll!(&mut left).is_pending());
        drop(left);
        let mut next = Box::pin(rendering.text());
        assert!(futures_util::poll!(&mut next).is_pending());
        (0..2).for_each(|_| go.send(()).unwrap());
        assert_eq!(next.await.unwrap(), "4");
    }
}
