//! What is told overtakes answers, and what is asked again meets what it was asked for first.

use super::*;

/// Until the owner has so many members.
async fn members(pair: &Pair, count: usize) {
    while pair.one.shards.users(pair.one.group.clone(), None, 10).await.unwrap().is_none_or(|page| page.0.len() < count)
    {
        tokio::task::yield_now().await;
    }
}

/// At the other node somebody posts and somebody joins, so that the frame with the join is answered when the post is stored.
async fn post_and_join(pair: &Pair, poster: &Arc<Session>, session: &Arc<Session>) {
    pair.one.mood(SLOW);
    pair.two.send_posts(poster, &["b"]).await;
    let (group, session) = (pair.two.group.clone(), Arc::clone(session));
    assert!(pair.two.shards.send(0, Request::Join { group, session, from: JoinFrom::Now }).await);
}

#[tokio::test]
async fn who_is_kicked_while_its_join_is_being_answered_is_out() {
    let pair = Pair::new().await;
    let (cat, bob) = (session(3, "cat"), session(2, "bob"));
    pair.two.join(&cat).await.unwrap();
    assert_eq!(pair.two.post(&cat, &["a"]).await, [Ok(1)]);
    post_and_join(&pair, &cat, &bob).await;
    members(&pair, 2).await;
    assert_eq!(pair.kick(&bob.user, Duration::ZERO).await, [bob.id]);
    // The node of both has heard it: it hears of the next kick, which comes after it.
    assert_eq!(pair.kick(&cat.user, Duration::ZERO).await, [cat.id]);
    assert!(matches!(next_event(&cat.inbox).await, Event::Removed { removal: Removal::Kicked, .. }));

    pair.one.mood(WELL);
    pair.one.log.0.gate.add_permits(1);
    let mut seen = Vec::new();
    let told = async {
        while seen.len() < 2 {
            seen.extend(poll_fn(|cx| bob.inbox.poll_take(cx)).await);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("it does not learn that it is out");
    assert!(matches!(seen[..], [Event::Joined(_), Event::Removed { removal: Removal::Kicked, .. }]), "{seen:?}");

    // Who joins again after that is in.
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["c"]).await, [Ok(3)]);
}

/// Also who is a member already and joins once more.
#[tokio::test]
async fn who_is_kicked_while_it_joins_again_is_out() {
    let pair = Pair::new().await;
    let (cat, bob) = (session(3, "cat"), session(2, "bob"));
    pair.two.join(&cat).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&cat, &["a"]).await, [Ok(1)]);
    post_and_join(&pair, &cat, &bob).await;
    while pair.asked("join") < 3 {
        tokio::task::yield_now().await;
    }
    // The owner has carried it out.
    for _ in 0..10 {
        members(&pair, 2).await;
    }
    assert_eq!(pair.kick(&bob.user, Duration::ZERO).await, [bob.id]);
    assert!(matches!(next_event(&bob.inbox).await, Event::Removed { removal: Removal::Kicked, .. }));

    pair.one.mood(WELL);
    pair.one.log.0.gate.add_permits(1);
    assert_eq!(answers(&cat, 1).await, [Ok(2)]);
    let ask = |reply| Admin::Here { group: pair.two.group.clone(), after: None, limit: 10, reply };
    let here: Vec<ConnectionId> =
        pair.two.shards.ask(0, ask).await.unwrap().iter().map(|member| member.session.id).collect();
    assert_eq!(here, [cat.id], "who the owner does not have is no member here");
}

/// Who waits for an append, and has come back meanwhile and asked for it once more, is answered twice when another node takes the shard.
#[tokio::test]
async fn a_post_and_its_repeat_both_go_to_the_new_owner() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.one.mood(SLOW);
    pair.one.send_posts(&ada, &["b"]).await;
    let again = session(4, "ada");
    pair.one.send_posts(&again, &["b"]).await;
    tokio::task::yield_now().await;
    // The other node takes the shard, which the log then refuses to the first.
    pair.own(&pair.two, pair.reign + 1, Vec::new()).await;
    pair.one.mood(WELL);
    pair.two.store_elsewhere(pair.two.shards.group(&pair.two.group).await.unwrap().unwrap().epoch(), 2).await;
    pair.one.log.0.gate.add_permits(1);
    let (first, second) = (answers(&ada, 1).await, answers(&again, 1).await);
    assert!(first[0].is_ok() && first == second, "{first:?} {second:?}");
}

/// Posts without an id, which nobody recognises.
#[tokio::test]
async fn of_an_append_that_was_stored_in_part_only_the_rest_goes_to_the_new_owner() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let mut joined = pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.one.mood(OVERTAKEN);
    pair.one.send_posts(&ada, &["", ""]).await;
    // One more, which waits for the append before.
    pair.one.send_posts(&ada, &[""]).await;
    pair.one.log.0.gate.add_permits(1);
    assert_eq!(answers(&ada, 1).await, [Ok(2)], "it is stored");
    pair.one.mood(WELL);
    pair.own(&pair.two, pair.reign + 1, Vec::new()).await;
    assert_eq!(answers(&ada, 2).await, [Ok(3), Ok(4)]);
    assert_eq!(delivered(&mut joined, 4).await, [1, 2, 3, 4]);
    let limit = PageLimit { records: 10, bytes: usize::MAX };
    let page = pair.one.log.read(0, &pair.one.group, Range::After(0), limit).await.unwrap().unwrap();
    assert_eq!(page.records.len(), 4, "{:?}", page.records);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_what_may_be_stored_is_not_refused_as_if_it_were_not() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    assert_eq!(pair.two.post(&bob, &["m"]).await, [Ok(2)]);
    pair.one.mood(SLOW);
    pair.one.send_posts(&ada, &["b"]).await;
    assert!(matches!(answers(&ada, 1).await[..], [Err(Refusal::Unanswered { .. })]));
    let told = pair.one.post(&ada, &["b", "c", "a"]).await;
    assert!(matches!(told[..], [Err(Refusal::Unanswered { .. }), Err(Refusal::Unavailable { .. }), Ok(1)]), "{told:?}");
    // Another node is told at once as well what is stored and what is not.
    let begun = tokio::time::Instant::now();
    let told = pair.two.post(&bob, &["m", "n"]).await;
    assert!(matches!(told[..], [Ok(2), Err(Refusal::Unavailable { .. })]), "{told:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    // Nor is it by a node that cannot ask the owner any more, and has asked it before.
    pair.one.mood(WELL);
    pair.one.log.0.gate.add_permits(1);
    stored(&pair.one, 3).await;
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    pair.two.send_posts(&bob, &["x"]).await;
    stored(&pair.one, 4).await;
    pair.cut[1].send(true).unwrap();
    assert!(matches!(answers(&bob, 1).await[..], [Err(Refusal::Unanswered { .. })]));
    let told = pair.two.post(&bob, &["x", "y"]).await;
    assert!(matches!(told[..], [Err(Refusal::Unanswered { .. }), Err(Refusal::Unavailable { .. })]), "{told:?}");
    pair.air.lose_answers.store(0, Ordering::Relaxed);
    pair.cut[1].send(false).unwrap();
    assert_eq!(pair.two.post(&bob, &["x", "y"]).await, [Ok(4), Ok(5)]);
}

/// Somebody who makes room must not have the shard stand still until there is.
#[tokio::test(start_paused = true)]
async fn a_removal_that_is_not_answered_holds_the_shard_up_no_longer_than_anybody_waits() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.one.mood(STUCK);
    let begun = tokio::time::Instant::now();
    let told = pair.one.purge(None, 1).await;
    assert!(matches!(told, Err(Refusal::Unanswered { .. })), "{told:?}");
    assert_eq!(begun.elapsed(), PATIENCE);
    pair.one.mood(WELL);
    assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
}

/// A node that reaches nobody makes no new roll with each request that it refuses.
#[tokio::test(start_paused = true)]
async fn who_is_cut_off_tells_who_is_a_member_when_it_is_not_any_more() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    pair.air.held.store(true, Ordering::Relaxed);
    pair.cut[1].send(true).unwrap();
    pair.air.frames.lock().unwrap().clear();
    for _ in 0..50 {
        assert!(pair.two.join(&session(9, "eve")).await.is_err());
        let (group, session) = (pair.two.group.clone(), session(8, "dan"));
        let inbox = Arc::clone(&session.inbox);
        assert!(pair.two.shards.send(0, Request::Leave { group, session, answer: true }).await);
        assert!(matches!(next_event(&inbox).await, Event::Left { .. }));
    }
    let sent = pair.air.frames.lock().unwrap().len();
    assert!(sent <= 2, "{sent} frames");
}

#[tokio::test(start_paused = true)]
async fn who_has_seen_more_than_an_owner_that_was_overtaken_resumes_at_the_next_one() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    let epoch = pair.one.join(&ada).await.unwrap().epoch;
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    let resume = async |world: &World, seq: u64| {
        let (group, session) = (world.group.clone(), session(2, "bob"));
        let inbox = Arc::clone(&session.inbox);
        let from = JoinFrom::After { seq, epoch: Some(epoch) };
        assert!(world.shards.send(0, Request::Join { group, session, from }).await);
        next_event(&inbox).await
    };
    // Who says that it has seen what nobody stored is told where the group ends.
    assert!(matches!(resume(&pair.one, 2).await, Event::Joined(joined) if joined.head == 1));
    assert!(pair.one.shards.is_owned(0));
    // Whoever says so again and again has the log asked now and then.
    assert!(matches!(resume(&pair.one, 3).await, Event::JoinRefused { refusal: Refusal::Unavailable { .. }, .. }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Another node stores it, and the owner before hears nothing of that.
    pair.air.deaf.store(true, Ordering::Relaxed);
    pair.own(&pair.two, pair.reign + 1, Vec::new()).await;
    pair.two.store_elsewhere(epoch, 2).await;
    let event = resume(&pair.one, 2).await;
    assert!(matches!(event, Event::JoinRefused { refusal: Refusal::Unavailable { .. }, .. }), "{event:?}");
    let given_up = async {
        while pair.one.shards.is_owned(0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, given_up).await.expect("it takes itself for the owner still");
}
