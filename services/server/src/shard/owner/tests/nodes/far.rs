//! A log that is far away, and what is not to be found there.

use super::*;

const GROUPS: u64 = 300;

/// Each of so many groups is a question to the log, and the shard is served by nobody until all are answered.
#[tokio::test(start_paused = true)]
async fn a_shard_of_many_groups_is_taken_in_no_time_also_where_the_log_is_far() {
    let pair = Pair::within(Bounds { groups: 300, ..BOUNDS }, FRAME_BYTES).await;
    let bob = session(2, "bob");
    let group = |number: u64| GroupName::new(&format!("G{number}")).unwrap();
    for number in 0..GROUPS {
        pair.two.join_group(&group(number), &bob).await.unwrap();
    }
    pair.two.mood(FAR);
    let begun = tokio::time::Instant::now();
    pair.hand_over().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "taken after {:?}", begun.elapsed());

    // Nor does it take long to learn who is a member elsewhere.
    let held = pair.release(&pair.two).await;
    let begun = tokio::time::Instant::now();
    pair.own(&pair.one, pair.reign + 2, held).await;
    while pair.one.shards.groups_here() < GROUPS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "known after {:?}", begun.elapsed());
    let users = pair.one.shards.users(group(0), None, 10).await.unwrap().unwrap().0;
    assert_eq!(users, std::slice::from_ref(&bob.user));
}

/// What was told and not heard, and is gone from the log before it was looked for.
#[tokio::test(start_paused = true)]
async fn what_is_gone_is_not_looked_for_again_and_again() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    let mut there = pair.two.join(&bob).await.unwrap();
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.one.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
    assert_eq!(pair.one.purge(None, 2).await, Ok(Some(2)));
    pair.air.deaf.store(false, Ordering::Relaxed);
    // From the owner it learns that there were two.
    pair.two.shards.order(0, Order::Follow).await;
    tokio::time::sleep(PATIENCE).await;
    let reads = pair.one.log.0.reads.load(Ordering::Relaxed);
    assert!((1..5).contains(&reads), "read {reads} times in {PATIENCE:?}");

    // And what comes next is delivered.
    assert_eq!(pair.one.post(&ada, &["c"]).await, [Ok(3)]);
    assert_eq!(delivered(&mut there, 3).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_yet_is_looked_for_less_and_less_often() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    let mut there = pair.two.join(&bob).await.unwrap();
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.air.deaf.store(false, Ordering::Relaxed);
    pair.two.mood(BEHIND);
    pair.two.shards.order(0, Order::Follow).await;
    tokio::time::sleep(PATIENCE).await;
    let reads = pair.one.log.0.reads.load(Ordering::Relaxed);
    assert!((5..20).contains(&reads), "read {reads} times in {PATIENCE:?}");
    pair.two.mood(WELL);
    let begun = tokio::time::Instant::now();
    assert_eq!(delivered(&mut there, 1).await, [1]);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
