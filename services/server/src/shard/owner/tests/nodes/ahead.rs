//! Groups that are not in memory, where the log is far or silent, and another node asks.

use super::super::ahead::{name, store};
use super::*;

#[tokio::test(start_paused = true)]
async fn what_another_node_asks_in_many_groups_does_not_wait_for_one_after_the_other() {
    let pair = Pair::within(Bounds { groups: 100, ..BOUNDS }, FRAME_BYTES).await;
    store(&pair.one.log).await;
    pair.one.mood(FAR);
    let (bob, begun) = (session(2, "bob"), tokio::time::Instant::now());
    assert!(pair.two.shards.send(0, super::super::ahead::posts(&bob)).await);
    let told = answers(&bob, 50).await;
    assert!(told.iter().all(|told| *told == Ok(2)), "{told:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_learns_it_after_one_head_that_is_not_told() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.one.mood(SILENT);
    let begun = tokio::time::Instant::now();
    let mut joining = Vec::new();
    for number in 0..20 {
        let (group, session) = (GroupName::new(&format!("H{number}")).unwrap(), session(10 + number, "bob"));
        let join = Request::Join { group, session: Arc::clone(&session), from: JoinFrom::Now };
        assert!(pair.one.shards.send(0, join).await);
        joining.push(session);
    }
    pair.one.send_posts(&ada, &["b"]).await;
    // While the first head is waited for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.cut[0].send(true).unwrap();
    for session in joining {
        assert!(matches!(next_event(&session.inbox).await, Event::JoinRefused { .. }));
    }
    let told = answers(&ada, 1).await;
    assert!(matches!(told[..], [Err(Refusal::Unavailable { .. })]), "{told:?}");
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nor_does_who_posts_behind_it_wait_for_longer() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    pair.one.mood(SILENT);
    let begun = tokio::time::Instant::now();
    let post = |group: &str| {
        let group = GroupName::new(group).unwrap();
        NewPost { group, message: "m".into(), id: None, trace: None, weight: None }
    };
    let posts = vec![post("H"), post("G")];
    let posts = Posts { session: Arc::clone(&ada), posts, received: Instant::now(), in_doubt: false };
    assert!(pair.one.shards.send(0, Request::Post(posts)).await);
    // While the head is waited for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.one.mood(SLOW);
    pair.cut[0].send(true).unwrap();
    let told = answers(&ada, 2).await;
    assert!(matches!(told[..], [Err(Refusal::Unavailable { .. }), Err(Refusal::Unanswered { .. })]), "{told:?}");
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_shard_of_many_groups_waits_once_for_a_silent_log() {
    let pair = Pair::within(Bounds { groups: 300, ..BOUNDS }, FRAME_BYTES).await;
    let bob = session(2, "bob");
    for number in 0..300 {
        pair.two.join_group(&GroupName::new(&format!("H{number}")).unwrap(), &bob).await.unwrap();
    }
    pair.one.mood(SILENT);
    pair.release(&pair.one).await;
    let begun = tokio::time::Instant::now();
    assert!(!pair.take(&pair.two, pair.reign + 1, Vec::new()).await);
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// The first node has some groups in memory, and not which posts they have under which ids.
async fn without_ids() -> (Pair, Arc<Session>) {
    let pair = Pair::within(Bounds { groups: 100, ..BOUNDS }, FRAME_BYTES).await;
    store(&pair.one.log).await;
    let ada = session(1, "ada");
    for number in 0..5 {
        pair.one.join_group(&name(number), &ada).await.unwrap();
    }
    (pair, ada)
}

/// Posts under an id to each of these groups, without waiting.
async fn post_to(pair: &Pair, session: &Arc<Session>, groups: std::ops::Range<u64>) {
    for number in groups {
        let id = PostId::new("a").ok();
        let posts = vec![NewPost { group: name(number), message: "m".into(), id, trace: None, weight: None }];
        let posts = Posts { session: Arc::clone(session), posts, received: Instant::now(), in_doubt: false };
        assert!(pair.one.shards.send(0, Request::Post(posts)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_ids_cannot_be_read_for_long_is_not_taken_for_a_silent_log() {
    let (pair, ada) = without_ids().await;
    pair.one.mood(STALLED);
    *pair.one.log.0.damaged.lock().unwrap() = Some(name(0));
    let begun = tokio::time::Instant::now();
    post_to(&pair, &ada, 0..2).await;
    let told = answers(&ada, 2).await;
    assert!(matches!(told[..], [Err(Refusal::Unavailable { .. }), Ok(2)]), "{told:?}");
    *pair.one.log.0.damaged.lock().unwrap() = Some(name(2));
    pair.one.join_group(&name(10), &ada).await.unwrap();
    // Who posts there again does not keep the others waiting at once.
    post_to(&pair, &ada, 0..1).await;
    let told = answers(&ada, 1).await;
    assert!(matches!(told[..], [Err(Refusal::Unavailable { .. })]), "{told:?}");
    assert!(begun.elapsed() <= Duration::from_millis(2_100), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    post_to(&pair, &ada, 0..1).await;
    assert_eq!(answers(&ada, 1).await, [Ok(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_tells_no_ids_is_not_waited_for_in_one_group_after_the_other() {
    let (pair, ada) = without_ids().await;
    pair.one.mood(STALLED);
    let begun = tokio::time::Instant::now();
    post_to(&pair, &ada, 0..5).await;
    let told = answers(&ada, 5).await;
    assert!(told.iter().all(|told| matches!(told, Err(Refusal::Unavailable { .. }))), "{told:?}");
    assert!(begun.elapsed() <= Duration::from_millis(4_100), "{:?}", begun.elapsed());
}
