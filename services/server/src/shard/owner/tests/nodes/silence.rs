//! A node that reaches nobody.

use super::*;

fn is_unavailable(answer: &Result<u64, Refusal>) -> bool {
    matches!(answer, Err(Refusal::Unavailable { .. }))
}

fn is_unknown(answer: &Result<u64, Refusal>) -> bool {
    matches!(answer, Err(Refusal::Unanswered { .. }))
}

/// Waits until the task of the shard has taken what was sent to it.
async fn taken(world: &World) {
    assert!(world.shards.users(world.group.clone(), None, 10).await.unwrap().is_some());
}

#[tokio::test]
async fn what_only_another_node_can_answer_is_refused_at_once() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    let mut there = pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    pair.air.held.store(true, Ordering::Relaxed);
    pair.air.frames.lock().unwrap().clear();
    pair.two.send_posts(&bob, &["b"]).await;
    while pair.asked("post") == 0 {
        tokio::task::yield_now().await;
    }
    pair.two.send_posts(&bob, &["c"]).await;
    pair.cut[1].send_replace(true);
    let answers = answers(&bob, 2).await;
    assert!(is_unknown(&answers[0]), "it was sent: {answers:?}");
    assert!(is_unavailable(&answers[1]), "it was not sent: {answers:?}");
    assert!(is_unavailable(&pair.two.post(&bob, &["d"]).await[0]));
    assert!(matches!(pair.two.join(&session(3, "cyd")).await, Err(Refusal::Unavailable { .. })));

    pair.air.held.store(false, Ordering::Relaxed);
    pair.cut[1].send_replace(false);
    assert_eq!(pair.two.post(&bob, &["b", "c", "d", "a"]).await, [Ok(2), Ok(3), Ok(4), Ok(1)]);
    assert_eq!(delivered(&mut there, 4).await, [1, 2, 3, 4], "the membership is what it was");
}

#[tokio::test]
async fn who_waits_for_an_append_is_told_that_its_end_is_not_known() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    let mut here = pair.one.join(&ada).await.unwrap();
    pair.one.mood(SLOW);
    pair.one.send_posts(&ada, &["a"]).await;
    pair.one.send_posts(&ada, &["b"]).await;
    taken(&pair.one).await;
    pair.cut[0].send_replace(true);
    let told = answers(&ada, 2).await;
    assert!(told.iter().all(is_unknown), "{told:?}");
    assert!(is_unavailable(&pair.one.post(&ada, &["c"]).await[0]));
    assert!(here.subscription.try_recv().is_err(), "nothing is delivered that is not in the log");

    // They had come through, all the same.
    pair.one.log.0.gate.add_permits(2);
    pair.cut[0].send_replace(false);
    assert_eq!(delivered(&mut here, 2).await, [1, 2]);
    pair.one.mood(WELL);
    assert_eq!(pair.one.post(&ada, &["a", "b", "c"]).await, [Ok(1), Ok(2), Ok(3)]);
}

#[tokio::test(start_paused = true)]
async fn what_takes_the_log_to_answer_is_refused_by_an_owner_that_does_not_reach_it() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    pair.one.mood(SLOW);
    pair.one.send_posts(&ada, &["a"]).await;
    taken(&pair.one).await;
    pair.cut[0].send_replace(true);
    assert!(is_unknown(&answers(&ada, 1).await[0]));
    pair.one.mood(MUTE);
    let elsewhere = GroupName::new("elsewhere").unwrap();
    let asked = async {
        let users = pair.one.shards.users(elsewhere.clone(), None, 10).await;
        assert!(matches!(&users, Err(Refusal::Unavailable { group, .. }) if *group == elsewhere), "{users:?}");
        let look = |reply| Admin::Look { group: elsewhere.clone(), reply };
        let looked = pair.one.shards.ask(0, look).await.unwrap();
        assert!(matches!(looked, Err(Refusal::Unavailable { .. })), "{looked:?}");
        assert!(matches!(pair.one.delete(None).await, Err(Refusal::Unavailable { .. })));
        let here = |reply| Admin::Here { group: pair.one.group.clone(), after: None, limit: 10, reply };
        assert_eq!(pair.one.shards.ask(0, here).await.unwrap().len(), 1, "this it knows by itself");
    };
    tokio::time::timeout(Duration::from_secs(1), asked).await.expect("they are kept waiting");
    pair.one.log.0.gate.add_permits(1);
    pair.one.mood(WELL);
    pair.cut[0].send_replace(false);
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
}

#[tokio::test]
async fn what_another_node_has_taken_meanwhile_is_not_sent_there_for_who_was_told() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.one.mood(SLOW);
    pair.one.send_posts(&ada, &["b"]).await;
    taken(&pair.one).await;
    pair.cut[0].send_replace(true);
    assert!(is_unknown(&answers(&ada, 1).await[0]));
    // The second node takes the shard, and somebody posts there, so that the append is refused when it comes.
    pair.two.mood(WELL);
    pair.own(&pair.two, pair.reign + 1, Vec::new()).await;
    assert_eq!(pair.two.post(&bob, &["x"]).await, [Ok(2)]);
    pair.one.log.0.gate.add_permits(1);
    pair.cut[0].send_replace(false);
    while pair.one.shards.is_owned(0) {
        tokio::task::yield_now().await;
    }
    pair.one.mood(WELL);
    assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(3)], "as if it had come only now");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_given_although_the_group_was_closed_meanwhile() {
    // The next owner is another node, or that of the poster.
    for is_far in [true, false] {
        let pair = Pair::new().await;
        let bob = session(2, "bob");
        pair.two.join(&bob).await.unwrap();
        pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
        pair.two.send_posts(&bob, &["a"]).await;
        stored(&pair.one, 1).await;
        // The shard is given away and taken, with a group that was closed meanwhile.
        let (done, released) = tokio::sync::oneshot::channel();
        pair.one.shards.order(0, Order::Release { done }).await;
        released.await.unwrap();
        let closed = Hold::new(Some(pair.two.group.clone()), None, Duration::from_secs(60));
        pair.own(if is_far { &pair.one } else { &pair.two }, 8, vec![closed]).await;
        pair.air.lose_answers.store(0, Ordering::Relaxed);
        let answered = async || loop {
            // That it is no member any more it may be told too.
            for event in poll_fn(|cx| bob.inbox.poll_take(cx)).await {
                if let Event::Posted(mut acks) = event {
                    return acks.remove(0).outcome.map(|stored| stored.seq);
                }
            }
        };
        let told = answered().await;
        assert_eq!(told, Ok(1));
        pair.two.send_posts(&bob, &["b"]).await;
        let told = answered().await;
        assert!(matches!(told, Err(Refusal::Closed { .. })), "{told:?}");
    }
}

/// More than one append takes, while the one before has no end.
#[tokio::test(start_paused = true)]
async fn what_was_only_placed_when_an_append_became_overdue_is_not_said_to_be_stored() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    pair.one.mood(SLOW);
    pair.one.send_posts(&ada, &["x"]).await;
    taken(&pair.one).await;
    tokio::time::sleep(PATIENCE / 2).await;
    pair.two.send_posts(&bob, &["a", "b", "c", "d", "e", "f"]).await;
    assert!(matches!(answers(&ada, 1).await[..], [Err(Refusal::Unanswered { .. })]));
    pair.one.mood(FAILING);
    pair.one.log.0.gate.add_permits(1);
    let told = answers(&bob, 6).await;
    assert!(told.iter().all(Result::is_err), "{told:?}");
    pair.one.mood(WELL);
    assert_eq!(pair.one.post(&ada, &["y"]).await, [Ok(1)], "nothing was stored");
}

#[tokio::test(start_paused = true)]
async fn all_who_have_seen_more_than_there_is_come_in() {
    let pair = Pair::within(Bounds { members_per_group: 100, ..BOUNDS }, FRAME_BYTES).await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    for id in 10..60 {
        let (group, from) = (pair.one.group.clone(), JoinFrom::After { seq: 3, epoch: None });
        let who = session(id, &format!("u{id}"));
        assert!(pair.one.shards.send(0, Request::Join { group, session: Arc::clone(&who), from }).await);
        let event = next_event(&who.inbox).await;
        assert!(matches!(&event, Event::Joined(joined) if joined.head == 1), "{event:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_moderator_is_not_told_that_nothing_was_done_by_a_frame_of_which_a_part_was() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let epoch = pair.one.join(&ada).await.unwrap().epoch;
    let other = GroupName::new("H").unwrap();
    pair.one.join_group(&other, &ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    // Somebody else extends the first group: the next append of the owner is fenced.
    pair.one.store_elsewhere(epoch, 2).await;
    let (reply, answer) = tokio::sync::oneshot::channel();
    let (how, hold) = (Removal::Deleted, Duration::ZERO.into());
    let end = Admin::End { group: other, how, reason: None, hold, epoch: None, in_doubt: false, reply };
    assert!(pair.two.shards.send(0, Request::Admin(Box::new(end))).await);
    pair.two.send_posts(&bob, &["p"]).await;
    let removed = next_event(&ada.inbox).await;
    assert!(matches!(removed, Event::Removed { removal: Removal::Deleted, .. }), "{removed:?}");
    pair.own(&pair.two, 8, Vec::new()).await;
    let told = answer.await.unwrap();
    assert!(matches!(told, Err(Refusal::Unanswered { .. })), "{told:?}");
}
