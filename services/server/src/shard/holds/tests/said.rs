//! What the log of the server is told while holds of other nodes cannot be read.

use tracing::{Event, Level, Metadata, Subscriber, span};

use super::*;

/// The levels of what is said aloud, one after the other.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<Level>>>);

impl Subscriber for Said {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().contains("holds")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(*event.metadata().level());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn that_holds_of_other_nodes_cannot_be_read_is_said_once_and_that_they_can_again() {
    let said = Said::default();
    let _guard = tracing::subscriber::set_default(said.clone());
    let sheet = Sheet::default();
    let holds = Arc::new(Holds::new(Some(Arc::new(sheet.clone())), 100, true));
    let stop = CancellationToken::new();
    let following = holds.load().await.unwrap();
    let task = tokio::spawn(Arc::clone(&holds).follow(following, |_| true, stop.clone()));
    for outages in 1..=2 {
        sheet.0.fails.store(true, Ordering::Relaxed);
        sheet.tear();
        tokio::time::sleep(Duration::from_secs(120)).await;
        sheet.0.fails.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*said.0.lock().unwrap(), [Level::WARN, Level::INFO].repeat(outages));
    }
    stop.cancel();
    task.await.unwrap();
}
