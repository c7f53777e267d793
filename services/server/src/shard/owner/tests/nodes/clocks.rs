//! Posts that another node stored, whose clock is an hour behind: how long ago that was, their times do not tell.

use super::*;
use crate::log::Record;

const HOUR: u64 = 3_600_000;
const EPOCH: u64 = 5;

/// Ada's posts, each with its time and its id, if it has one, as the log has them from another node.
async fn store(log: &Shared, posts: impl IntoIterator<Item = (u64, &str)>) {
    let record = |(seq, (at, id)): (u64, (u64, &str))| Record {
        seq,
        at,
        sender: UserName::new("ada").unwrap(),
        id: (!id.is_empty()).then(|| PostId::new(id).unwrap()),
        message: "x".into(),
    };
    let records = (1..).zip(posts).map(record).collect();
    let batch = Batch { group: GroupName::new("G").unwrap(), epoch: EPOCH, records };
    log.append(0, vec![Arc::new(batch)]).await.unwrap();
}

#[tokio::test]
async fn a_post_without_an_id_has_no_older_id_forgotten() {
    for at_once in [true, false] {
        let pair = Pair::new().await;
        store(&pair.one.log, [(now_ms() - HOUR, "a")]).await;
        let ada = session(1, "ada");
        // By this node's clock.
        let told = match at_once {
            true => pair.one.post(&ada, &["", "a"]).await,
            false => [pair.one.post(&ada, &[""]).await, pair.one.post(&ada, &["a"]).await].concat(),
        };
        assert_eq!(told, [Ok(2), Ok(1)], "at once: {at_once}");
    }
}

#[tokio::test]
async fn an_id_is_known_after_the_shard_was_at_a_node_that_is_ahead() {
    let pair = Pair::new().await;
    store(&pair.one.log, [(now_ms(), "a"), (now_ms() + HOUR, ""), (now_ms() + HOUR, "b")]).await;
    let ada = session(1, "ada");
    assert_eq!(pair.one.post(&ada, &["b", "a", "c"]).await, [Ok(3), Ok(1), Ok(4)]);
}

#[tokio::test]
async fn of_a_group_with_a_post_now_and_then_little_is_read() {
    let pair = Pair::new().await;
    let posts = (0..3_000).rev().map(|ago| (now_ms() - ago * HOUR, ""));
    store(&pair.one.log, posts).await;
    let reads = pair.one.log.0.reads.load(Ordering::Relaxed);
    assert_eq!(pair.one.post(&session(1, "ada"), &["a"]).await, [Ok(3_001)]);
    assert_eq!(pair.one.log.0.reads.load(Ordering::Relaxed) - reads, 1);
}
