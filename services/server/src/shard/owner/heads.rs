//! What the log has of groups: of many at a time, since each is a question of its own, and one after the other they would keep a shard for as many
//! times as long as the log is far.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tertulia_protocol::GroupName;

use super::turn::TAIL;
use crate::log::{Head, Log, Page, Range, ReadError};

/// Groups about which the log is asked at a time.
const AT_ONCE: usize = 128;

/// What the log has of a group: its head, and its newest messages if they are newer than what was known.
pub(super) struct Found {
    pub(super) name: GroupName,
    pub(super) outcome: Result<(Option<Head>, Option<Page>), ReadError>,
}

/// Asks about groups, each with the newest message that is known of it.
pub(super) async fn find(log: Arc<dyn Log>, shard: u16, sought: Vec<(GroupName, u64)>) -> Vec<Found> {
    let finding = sought.into_iter().map(|(name, known)| {
        let log = Arc::clone(&log);
        async move {
            let outcome = find_one(&*log, shard, &name, known).await;
            Found { name, outcome }
        }
    });
    stream::iter(finding.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await
}

async fn find_one(
    log: &dyn Log,
    shard: u16,
    name: &GroupName,
    known: u64,
) -> Result<(Option<Head>, Option<Page>), ReadError> {
    let head = log.head(shard, name).await?;
    let tail = match head {
        Some(head) if head.seq > known => log.read(shard, name, Range::Before(u64::MAX), TAIL).await?,
        Some(_) | None => None,
    };
    Ok((head, tail))
}
