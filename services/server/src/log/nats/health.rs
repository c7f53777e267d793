//! Whether the streams answer, and whether our shards are ours still, asked also while nobody posts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::Core;
use super::trouble::Cause;

/// How often, while all is well.
const EVERY: Duration = Duration::from_secs(5);
/// How often, while it is not.
const SOON: Duration = Duration::from_millis(250);
/// So many questions to a stream may wait for their answers.
const ASKED: u32 = 8;

/// Asks the streams until the log is closed, each by itself: one that does not answer keeps no other one waiting.
pub(super) async fn watch(core: Arc<Core>) {
    let watching = join_all((0..core.link.names.streams()).map(|stream| watch_stream(&core, stream)));
    core.closing.run_until_cancelled(watching).await;
}

async fn watch_stream(core: &Core, stream: u16) {
    let mut bytes = 0_u64;
    loop {
        let now = until_answered(core, stream).await;
        // A sum that wraps is right again once all parts are in.
        core.bytes.fetch_add(now.wrapping_sub(bytes), Ordering::Relaxed);
        bytes = now;
        core.trouble.forget_full(stream);
        core.look_at_fences(stream).await;
        let next = Instant::now() + EVERY;
        while Instant::now() < next && core.trouble.of_stream(stream).is_none() {
            tokio::time::sleep(SOON).await;
        }
    }
}

/// Asks a stream until it answers, how many bytes it has.
async fn until_answered(core: &Core, stream: u16) -> u64 {
    let mut asked = FuturesUnordered::new();
    // So that the oldest is over by the time that there are as many as may be, and another one is asked in its place.
    let soon = SOON.max(core.link.timeout / ASKED);
    let mut is_due = true;
    loop {
        let is_wanted = asked.is_empty() || (core.trouble.of_stream(stream).is_some() && asked.len() < ASKED as usize);
        // Without a connection it would only be kept, and all that was asked during an outage be sent at its end.
        let is_connected = core.link.is_connected();
        if std::mem::take(&mut is_due) && is_wanted && is_connected {
            asked.push(core.link.bytes(stream));
        }
        let pause = if is_connected { soon } else { SOON };
        tokio::select! {
            Some(answer) = asked.next() => match answer {
                Ok(bytes) => {
                    core.trouble.set(Cause::Stream(stream), None);
                    return bytes;
                }
                Err(error) => {
                    let reason = format!("stream {}: {error}", core.link.names.stream(stream));
                    core.trouble.set(Cause::Stream(stream), Some(reason));
                }
            },
            // A stream whose leader is gone leaves what it was asked unanswered, so one question is not waited for before the next.
            () = tokio::time::sleep(pause) => is_due = true,
        }
    }
}
