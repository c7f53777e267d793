//! Whether the streams answer, asked also while nobody posts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Core;
use super::trouble::Cause;

/// How often, while all is well.
const EVERY: Duration = Duration::from_secs(5);
/// How often, while it is not.
const SOON: Duration = Duration::from_millis(250);

/// Asks every stream in turn until the log is closed.
pub(super) async fn watch(core: Arc<Core>) {
    loop {
        let asked = core.closing.run_until_cancelled(ask_all(&core)).await;
        if asked.is_none() {
            return;
        }
        let next = Instant::now() + EVERY;
        loop {
            if core.closing.run_until_cancelled(tokio::time::sleep(SOON)).await.is_none() {
                return;
            }
            if core.trouble.any().is_some() || Instant::now() >= next {
                break;
            }
        }
    }
}

async fn ask_all(core: &Core) {
    let asked = (0..core.link.names.streams()).map(async |stream| {
        let answer = core.link.bytes(stream).await;
        let reason = answer.as_ref().err().map(|error| format!("stream {}: {error}", core.link.names.stream(stream)));
        core.trouble.set(Cause::Stream(stream), reason);
        answer.unwrap_or(0)
    });
    let bytes = futures_util::future::join_all(asked).await;
    core.bytes.store(bytes.iter().sum(), Ordering::Relaxed);
}
