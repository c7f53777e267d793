//! Finds groups in the log of which nothing is left, and has their owners forget them, so that they do not count for ever.

use std::sync::Weak;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shards;
use super::handle::Inner;
use super::request::Admin;

/// Groups that are looked at in one go.
const PAGE: usize = 500;
/// Between two goes, so that it takes no time from others.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks through all groups again and again, a rest between two rounds, until `stop`.
pub(super) async fn sweep(inner: Weak<Inner>, rest: Duration, stop: CancellationToken) {
    let mut after: Option<String> = None;
    let mut pause = rest;
    while stop.run_until_cancelled(tokio::time::sleep(pause.max(PAUSE))).await.is_some() {
        let Some(inner) = inner.upgrade() else { return };
        let shards = Shards::of(inner);
        after = match stop.run_until_cancelled(sweep_page(&shards, after.as_deref())).await {
            Some(next) => next,
            None => return,
        };
        pause = if after.is_some() { PAUSE } else { rest };
    }
}

/// Answers where to go on; `None` when all were looked at.
async fn sweep_page(shards: &Shards, after: Option<&str>) -> Option<String> {
    let (emptied, next) = match shards.emptied(after, PAGE).await {
        Ok(page) => page,
        Err(error) => {
            tracing::debug!(%error, "groups of which nothing is left stay for now");
            return None;
        }
    };
    for group in emptied {
        let shard = shards.shard_of(&group);
        if shards.is_owned(shard) {
            // The owner decides: what it answers is for tests.
            drop(shards.ask(shard, |reply| Admin::Forget { group, reply }).await);
        }
    }
    next
}
