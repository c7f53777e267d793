//! A shard that is given to the next writer with what was known of it.

use super::{Servers, config, open};
use crate::log::conformance::{batch, group};
use crate::log::{AppendError, Log, PageLimit, Range};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_given_a_shard_knows_it_at_once() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (one, other) = (open(&config).await, open(&config).await);
    let first = one.take_over(0).await.unwrap();
    one.append(0, vec![batch("Dogs", 7, 1, 5), batch("Cats", 7, 1, 1)]).await.unwrap();
    one.append(0, vec![batch("Dogs", 7, 6, 6)]).await.unwrap();
    one.purge(0, &group("Cats"), 1).await.unwrap();
    let left = one.release(0).await.unwrap();
    assert!(!one.holds(0) && one.release(0).await.is_none());

    // As it goes from node to node.
    let left = serde_json::from_slice(&serde_json::to_vec(&left).unwrap()).unwrap();
    let second = other.take_over_from(0, left).await.unwrap();
    assert!(second.fence > first.fence && second.groups == 2);
    let known = |name: &str| other.core.shard(0).state().groups.get(&group(name)).cloned().unwrap();
    let (dogs, cats) = (known("Dogs").head.unwrap(), known("Cats").head.unwrap());
    assert_eq!((dogs.first, dogs.seq, cats.first, cats.seq), (1, 6, 2, 1));
    assert_eq!(other.stats().groups, 2);
    other.append(0, vec![batch("Dogs", 7, 7, 8), batch("Cats", 7, 2, 2)]).await.unwrap();
    let limit = PageLimit { records: 100, bytes: 1 << 20 };
    let page = other.read(0, &group("Dogs"), Range::After(0), limit).await.unwrap().unwrap();
    assert_eq!(page.records.iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let error = one.append(0, vec![batch("Dogs", 7, 9, 9)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Fenced { .. }), "{error}");
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_by_who_lost_the_shard_unawares_is_not_believed() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (one, other) = (open(&config).await, open(&config).await);
    one.take_over(0).await.unwrap();
    one.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap();
    // The other one takes it, extends it, gives it up, and is then asked to take it from whoever still believes to have it.
    other.take_over(0).await.unwrap();
    other.append(0, vec![batch("Dogs", 7, 2, 3)]).await.unwrap();
    other.release(0).await.unwrap();
    let left = one.release(0).await.unwrap();

    other.take_over_from(0, left).await.unwrap();
    let error = other.append(0, vec![batch("Dogs", 7, 2, 2)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Fenced { .. }), "seq 2 is stored: {error}");
    assert_eq!(other.head(0, &group("Dogs")).await.unwrap().unwrap().seq, 3);
    other.append(0, vec![batch("Dogs", 7, 4, 4)]).await.unwrap();
    for log in [one, other] {
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_before_somebody_else_wrote_is_not_believed() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (one, other, third) = (open(&config).await, open(&config).await, open(&config).await);
    one.take_over(0).await.unwrap();
    one.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap();
    let left = one.release(0).await.unwrap();
    other.take_over(0).await.unwrap();
    other.append(0, vec![batch("Dogs", 7, 2, 3), batch("Cats", 7, 1, 1)]).await.unwrap();

    let taken = third.take_over_from(0, left).await.unwrap();
    assert_eq!(taken.groups, 2);
    assert_eq!(third.head(0, &group("Dogs")).await.unwrap().unwrap().seq, 3);
    third.append(0, vec![batch("Dogs", 7, 4, 4)]).await.unwrap();
    for log in [one, other, third] {
        log.close().await;
    }
}
