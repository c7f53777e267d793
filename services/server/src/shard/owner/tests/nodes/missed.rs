//! What an owner tells and a mirror does not hear, or hears of one that is owner no more.

use super::*;

/// Waits for what a session is told next, so many events.
async fn events<const COUNT: usize>(session: &Session) -> [Event; COUNT] {
    let told = async {
        let mut events = Vec::new();
        while events.len() < COUNT {
            events.extend(poll_fn(|cx| session.inbox.poll_take(cx)).await);
        }
        events
    };
    let events = tokio::time::timeout(PATIENCE, told).await.expect("it is told nothing more");
    events.try_into().expect("it is told more")
}

fn is_kicked(event: &Event) -> bool {
    matches!(event, Event::Removed { removal: Removal::Kicked, .. })
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_before_the_first_answer_is_missed() {
    let pair = Pair::new().await;
    let (ada, cat, bob) = (session(1, "ada"), session(3, "cat"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    // The first frame of the other node that is carried out is answered when a post that is in it is stored.
    pair.one.mood(SLOW);
    pair.two.send_posts(&cat, &["b"]).await;
    let (group, joining) = (pair.two.group.clone(), Arc::clone(&bob));
    assert!(pair.two.shards.send(0, Request::Join { group, session: joining, from: JoinFrom::Now }).await);
    until_members(&pair.one, 2, "bob is missing").await;
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.kick(&bob.user, Duration::ZERO).await, [bob.id]);
    pair.air.deaf.store(false, Ordering::Relaxed);
    // That something was told is heard before the answer comes.
    pair.told(|tell| tell["number"] == 1).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    pair.one.mood(WELL);
    pair.one.log.0.gate.add_permits(1);
    let [joined, kicked] = events(&bob).await;
    assert!(matches!(joined, Event::Joined(_)) && is_kicked(&kicked), "{joined:?}, {kicked:?}");
}

#[tokio::test(start_paused = true)]
async fn who_could_not_listen_at_first_is_delivered_what_is_posted() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    // The first frame brings the reign, and with the second bob joins.
    pair.air.unheard.store(2, Ordering::Relaxed);
    let mut there = pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    let delivered = tokio::time::timeout(PATIENCE, delivered(&mut there, 1)).await;
    assert_eq!(delivered.expect("bob is told what is posted"), [1]);
}

#[tokio::test(start_paused = true)]
async fn who_hears_nothing_any_more_listens_again() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    let mut there = pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    assert_eq!(delivered(&mut there, 1).await, [1]);
    *pair.air.live.lock().unwrap() = broadcast::Sender::new(64);
    assert_eq!(pair.one.post(&ada, &["b"]).await, [Ok(2)]);
    let delivered = tokio::time::timeout(PATIENCE, delivered(&mut there, 2)).await;
    // What it has already it skips.
    assert_eq!(delivered.expect("bob is told what is posted").last(), Some(&2));
}

#[tokio::test(start_paused = true)]
async fn who_is_kicked_by_an_owner_that_is_none_any_more_is_out_for_the_one_that_is() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    let removed = json!({"group": "G", "id": bob.id, "how": Removal::Kicked});
    let tell = json!({"version": 1, "needs": 1, "content": {
        "reign": pair.reign - 1, "number": 9, "removed": [removed]}});
    pair.air.live.lock().unwrap().send(serde_json::to_vec(&tell).unwrap().into()).unwrap();
    let [kicked] = events(&bob).await;
    assert!(is_kicked(&kicked), "{kicked:?}");
    until_members(&pair.one, 1, "it is not out").await;
}

/// More members than one frame has removals.
const MANY: u64 = 1_500;

#[tokio::test(start_paused = true)]
async fn many_who_are_removed_at_once_and_do_not_hear_it_are_all_told_again() {
    many_are_told_again(FRAME_BYTES).await;
}

/// Of all of them no answer could tell.
#[tokio::test(start_paused = true)]
async fn so_are_more_than_one_answer_has_room_for() {
    many_are_told_again(64 * 1024).await;
}

async fn many_are_told_again(frame_bytes: usize) {
    let pair = Pair::within(Bounds { members_per_group: 3_000, ..BOUNDS }, frame_bytes).await;
    let ada = session(MANY, "ada");
    pair.two.join(&ada).await.unwrap();
    assert_eq!(pair.two.post(&ada, &["a"]).await, [Ok(1)]);
    let mut sessions = Vec::new();
    for number in 0..MANY {
        let session = session(number, &format!("user-{number}"));
        pair.two.join(&session).await.unwrap();
        sessions.push(session);
    }
    pair.air.deaf.store(true, Ordering::Relaxed);
    let (group, target) = (Some(pair.one.group.clone()), Target::Address(ada.address));
    let ask = |reply| Admin::Kick { group, target, reason: None, hold: Duration::ZERO.into(), reply };
    assert_eq!(pair.one.shards.ask(0, ask).await.unwrap().unwrap().unwrap().len() as u64, MANY + 1);
    pair.air.deaf.store(false, Ordering::Relaxed);
    for session in sessions {
        let [kicked] = events(&session).await;
        assert!(is_kicked(&kicked), "{kicked:?}");
    }
    until_members(&pair.one, 0, "it is not out").await;
}

/// Those of all other nodes are told, and again to each that missed something.
#[tokio::test(start_paused = true)]
async fn who_missed_its_removal_is_not_told_those_of_others() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    let cut_off = watch::Sender::new(false);
    let three = start(&pair.air, &pair.one.log, BOUNDS, ("three", "three"), cut_off.subscribe());
    for (id, user) in [(3, "cat"), (4, "dan")] {
        three.join(&session(id, user)).await.unwrap();
    }
    pair.air.deaf.store(true, Ordering::Relaxed);
    let (group, target) = (Some(pair.one.group.clone()), Target::Address(bob.address));
    let ask = |reply| Admin::Kick { group, target, reason: None, hold: Duration::ZERO.into(), reply };
    assert_eq!(pair.one.shards.ask(0, ask).await.unwrap().unwrap().unwrap().len(), 3);
    // What its node asks when it learns that it missed something.
    let roll = json!({"begins": true, "heard": 0, "groups": [{
        "group": "G", "epoch": pair.one.shards.directory().get("G").unwrap().epoch(), "head": 0,
        "members": [{"id": bob.id, "user": "bob", "address": bob.address}]}]});
    let frame = json!({"version": 1, "needs": 1, "content": {
        "node": "two", "instance": "two", "number": 1_000, "reign": pair.reign, "roll": roll, "items": []}});
    let (answer, answered) = tokio::sync::oneshot::channel();
    let to: AnswerTo = Box::new(|bytes| drop(answer.send(bytes)));
    let owner = pair.air.owners.lock().unwrap().last().cloned().unwrap();
    owner.send(Asked { frame: serde_json::to_vec(&frame).unwrap().into(), answer: to }).unwrap();
    let told: Value = serde_json::from_slice(&answered.await.unwrap()).unwrap();
    let removed = told["content"]["roll"][0]["removed"].as_array().unwrap();
    let ids: Vec<&Value> = removed.iter().map(|removed| &removed["id"]).collect();
    assert_eq!(ids, [&json!(bob.id)], "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_the_owner_before_told_last_is_heard_by_the_next_one() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    // The other node takes the shard, and listens to nobody while it reads where the groups are.
    pair.one.mood(FAR);
    let kicking = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(pair.kick(&bob.user, Duration::ZERO).await, [bob.id]);
    };
    tokio::join!(pair.own(&pair.two, pair.reign + 1, Vec::new()), kicking);
    let [kicked] = events(&bob).await;
    assert!(is_kicked(&kicked), "{kicked:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_kicked_before_its_join_is_answered_is_no_member_of_the_next_owner_either() {
    let pair = Pair::new().await;
    let (ada, cat, bob) = (session(1, "ada"), session(3, "cat"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&cat).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    let (group, joining) = (pair.two.group.clone(), Arc::clone(&bob));
    assert!(pair.two.shards.send(0, Request::Join { group, session: joining, from: JoinFrom::Now }).await);
    until_members(&pair.one, 3, "bob is missing").await;
    assert_eq!(pair.kick(&bob.user, Duration::ZERO).await, [bob.id]);
    // Its node has heard it: it hears of the next kick, which comes after it.
    assert_eq!(pair.kick(&cat.user, Duration::ZERO).await, [cat.id]);
    let [kicked] = events(&cat).await;
    assert!(is_kicked(&kicked), "{kicked:?}");
    pair.hand_over().await;
    let [event] = events(&bob).await;
    assert!(matches!(event, Event::JoinRefused { refusal: Refusal::Unanswered { .. }, .. }), "{event:?}");
    pair.air.lose_answers.store(0, Ordering::Relaxed);
    pair.two.join(&bob).await.unwrap();
}
