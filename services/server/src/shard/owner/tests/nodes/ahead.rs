//! Groups that are not in memory, where the log is far or silent, and another node asks.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_another_node_asks_in_many_groups_does_not_wait_for_one_after_the_other() {
    let pair = Pair::within(Bounds { groups: 100, ..BOUNDS }, FRAME_BYTES).await;
    super::super::ahead::store(&pair.one.log).await;
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
