//! Nodes that stop, one alone and all at once.

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_serves_the_others_until_it_is_over() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    let finished = pair.one.shards.finish(Instant::now() + PATIENCE).await;
    assert!(finished, "nothing was sent there");
    assert!(!pair.one.shards.send(0, leave(&bob)).await, "nothing can be sent there any more");
    assert_eq!(pair.two.post(&bob, &["a", "b"]).await, [Ok(1), Ok(2)]);
    // All that was sent is answered before the node says that it has finished, also what nobody waits for.
    assert!(pair.two.shards.send(0, leave(&bob)).await);
    assert!(pair.two.shards.finish(Instant::now() + PATIENCE).await);
    assert_eq!(members(&pair.one), 0);
    tokio::join!(pair.one.shards.stop(), pair.two.shards.stop());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_goes_on_with_a_shard_that_comes_or_goes() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    assert!(pair.one.shards.finish(Instant::now() + PATIENCE).await);
    pair.hand_over().await;
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    let held = pair.release(&pair.two).await;
    pair.own(&pair.one, pair.reign + 2, held).await;
    assert_eq!(pair.two.post(&bob, &["b"]).await, [Ok(2)]);
    tokio::join!(pair.one.shards.stop(), pair.two.shards.stop());
}

#[tokio::test(start_paused = true)]
async fn who_waits_at_the_end_for_a_node_that_does_not_answer_is_told_so() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    pair.air.held.store(true, Ordering::Relaxed);
    let before = pair.air.frames.lock().unwrap().len();
    pair.two.send_posts(&bob, &["a"]).await;
    while pair.air.frames.lock().unwrap().len() == before {
        tokio::task::yield_now().await;
    }
    pair.two.send_posts(&bob, &["b"]).await;
    assert!(!pair.two.shards.finish(Instant::now() + Duration::from_secs(1)).await);
    let told = answers(&bob, 2).await;
    assert!(matches!(told[..], [Err(Refusal::Unanswered { .. }), Err(Refusal::Unavailable { .. })]), "{told:?}");
    pair.two.shards.stop().await;
}

/// NATS may leave an append without an answer for ever.
#[tokio::test(start_paused = true)]
async fn an_append_without_an_end_is_not_waited_for_at_the_end() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    pair.one.mood(SLOW);
    pair.one.send_posts(&ada, &["a"]).await;
    // More than one append takes wait behind it.
    pair.one.send_posts(&ada, &["b", "c", "d", "e", "f", "g"]).await;
    let (begun, soon) = (Instant::now(), Duration::from_secs(1));
    let (first, second) = tokio::join!(pair.one.shards.finish(begun + soon), pair.two.shards.finish(begun + soon));
    assert_eq!((first, second), (false, true));
    let told = answers(&ada, 7).await;
    assert!(told.iter().all(Result::is_err), "{told:?}");
    assert!(matches!(told[0], Err(Refusal::Unanswered { .. })), "{told:?}");
    tokio::join!(pair.one.shards.stop(), pair.two.shards.stop());
    assert!(begun.elapsed() < 2 * soon, "{:?}", begun.elapsed());
}

/// What a connection that has gone leaves to be done.
fn leave(session: &Arc<Session>) -> Request {
    Request::Leave { group: GroupName::new("G").unwrap(), session: Arc::clone(session), answer: false }
}
